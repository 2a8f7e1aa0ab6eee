"""Weighted rows: the pseudo-data that stand for them equal dense algebra on the rows themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bayesmtl.algebra.collapsed import log_marginal
from bayesmtl.algebra.moments import posterior_mean, posterior_moments
from bayesmtl.algebra.rows import TaskRows
from bayesmtl.algebra.structure import Structure
from bayesmtl.likelihoods import Binomial, Outcomes
from bayesmtl.likelihoods.base import Given
from tests.equivalence import dense
from tests.equivalence.inputs import ROWS, STRUCTURES, make_structure
from tests.seeds import seeded

BATCH = 2


def laid_out(rows: dense.Rows) -> TaskRows:
    return TaskRows.of(rows.X.numpy(), rows.y.numpy(), np.array(rows.task, dtype=int), rows.num_tasks)


def features(laid: TaskRows) -> tuple[torch.Tensor, list[int]]:
    """The features and the task of every real row, in the order of row vectors."""
    X = torch.cat([block.X.flatten(0, 1) for block in laid.blocks])
    task = torch.cat([block.index.repeat_interleave(block.X.shape[1]) for block in laid.blocks])
    return X[laid.real], task[laid.real].tolist()


def pseudo(laid: TaskRows, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Precisions and linear terms of every entry, shape (BATCH, N); precisions differ by factors of 100."""
    rng = np.random.default_rng(seed)
    omega = torch.from_numpy(10 ** rng.uniform(-1.5, 0.5, (BATCH, laid.size)))
    return omega, torch.from_numpy(rng.normal(size=(BATCH, laid.size)))


def weighted(laid: TaskRows, omega: torch.Tensor, kappa: torch.Tensor, b: int) -> dense.Rows:
    """The same information as rows of noise 1: sqrt(omega) x and kappa / sqrt(omega)."""
    X, task = features(laid)
    root = omega[b, laid.real].sqrt()
    return dense.Rows(X * root[:, None], kappa[b, laid.real] / root, task, laid.num_tasks)


ONE = torch.ones(BATCH, 1, dtype=torch.float64)


@pytest.mark.parametrize("name", ROWS)
def test_layout_keeps_every_row(name):
    laid, rows = laid_out(ROWS[name]), ROWS[name]
    X, task = features(laid)
    expected = sorted(zip(rows.task, rows.X.tolist(), rows.y.tolist(), strict=True))
    assert sorted(zip(task, X.tolist(), laid.y[laid.real].tolist(), strict=True)) == expected
    assert sorted(torch.cat([block.index for block in laid.blocks]).tolist()) == list(range(rows.num_tasks))
    for block in laid.blocks:
        torch.testing.assert_close(block.Q @ block.R, block.X, rtol=1e-8, atol=1e-8)
    weights = torch.from_numpy(np.random.default_rng(seeded(1)).normal(size=(BATCH, rows.num_tasks, 3)))
    expected = torch.einsum("nd,bnd->bn", X, weights[:, task])
    torch.testing.assert_close(laid.predictor(weights)[:, laid.real], expected)
    assert not laid.predictor(weights)[:, ~laid.real].any()


def test_order_of_rows_is_irrelevant():
    rows = ROWS["mixed sizes"]
    order = np.random.default_rng(seeded(0)).permutation(len(rows.task))
    moved = dense.Rows(rows.X[order], rows.y[order], [rows.task[i] for i in order], rows.num_tasks)
    first, second = laid_out(rows), laid_out(moved)
    assert torch.equal(first.y, second.y)
    assert torch.equal(features(first)[0], features(second)[0])


def test_merged_rows_have_the_likelihood_of_the_rows_they_stand_for():
    """Its value and derivatives, task by task, against a sum over the rows as they were given."""
    rng = np.random.default_rng(seeded(3))
    n, T = 90, 4
    X = np.column_stack([np.ones(n), rng.integers(0, 2, n)])
    task, y = rng.integers(0, T, n), rng.integers(0, 3, n).astype(float)
    weights, offset = rng.choice([0.5, 1.0, 2.0], n), rng.choice([0.0, 0.3], n)
    trials = rng.choice([2.0, 3.0], n)
    y[::17] = np.nan
    kept = ~np.isnan(y)
    laid = TaskRows.of(X, y, task, T, weights=weights, offset=offset, trials=trials)
    merged = laid.merged()
    distinct = np.unique(np.column_stack([task, X, y, offset, trials])[kept], axis=0)
    assert int(merged.real.sum()) == len(distinct) < 0.9 * int(kept.sum()) == 0.9 * int(laid.real.sum())
    W = torch.from_numpy(rng.normal(size=(BATCH, T, 2)))
    found = Outcomes(Binomial(), merged).derivatives(merged.predictor(W))
    f = torch.einsum("nd,bnd->bn", torch.from_numpy(X), W[:, task]) + torch.from_numpy(offset)
    given = Given({}, torch.from_numpy(trials), torch.from_numpy(task))
    count = torch.from_numpy(np.where(kept, weights, 0.0))
    each = Binomial().derivatives(torch.from_numpy(np.where(kept, y, 0.0)), f, given)
    for part, expected in zip(found, each, strict=True):
        total = torch.zeros(BATCH, T, dtype=torch.float64)
        total.index_add_(1, torch.from_numpy(task), expected * count)
        torch.testing.assert_close(merged.sums(part), total)
    assert merged.merged() is merged


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", ROWS)
def test_integral_and_moments(name, structure):
    """log of the integral of exp(kappa'f - f'Omega f / 2), and the moments of W under it."""
    laid, prior = laid_out(ROWS[name]), make_structure(*STRUCTURES[structure], batch=BATCH)
    omega, kappa = pseudo(laid)
    data = laid.pseudo_data(omega, kappa).compressed()
    found = log_marginal(data, prior, ONE)
    mean, covariance = posterior_moments(data, prior, ONE)
    torch.testing.assert_close(posterior_mean(data, prior, ONE), mean)
    T, D = mean.shape[1:]
    for b in range(BATCH):
        rows = weighted(laid, omega, kappa, b)
        # N(y | f, I) is exp(kappa'f - f'Omega f / 2) times a constant
        constant = -0.5 * (len(rows.y) * np.log(2 * np.pi) + (rows.y**2).sum())
        expected = dense.log_marginal(prior, ONE, rows)[b] - constant
        torch.testing.assert_close(found[b], expected, rtol=1e-7, atol=1e-7)
        dense_mean, dense_covariance = dense.posterior_of_weights(prior, ONE, b, rows)
        torch.testing.assert_close(mean[b].flatten(), dense_mean, rtol=1e-6, atol=1e-6)
        blocks = dense_covariance.reshape(T, D, T, D)[range(T), :, range(T)]
        torch.testing.assert_close(covariance[b], blocks, rtol=1e-6, atol=1e-6)
        variances = laid.variances(covariance)[b, laid.real]
        X, task = features(laid)
        torch.testing.assert_close(
            variances, torch.einsum("nd,nde,ne->n", X, blocks[task], X), rtol=1e-5, atol=1e-6
        )


def test_another_linear_term_is_as_if_made_anew():
    laid, prior = laid_out(ROWS["mixed sizes"]), make_structure("ones", "shared", "some", batch=BATCH)
    omega, kappa = pseudo(laid)
    _, other = pseudo(laid, seed=seeded(1))
    values = [
        log_marginal(made.compressed(), prior, ONE)
        for made in (laid.pseudo_data(omega, kappa).with_linear(other), laid.pseudo_data(omega, other))
    ]
    torch.testing.assert_close(*values)


def test_linear_terms_shared_by_all():
    laid, prior = laid_out(ROWS["plain"]), make_structure("ones", "shared", "none", batch=BATCH)
    omega, kappa = pseudo(laid)
    one, both = kappa[:1], kappa[:1].expand(BATCH, -1)
    first, second = (log_marginal(laid.pseudo_data(omega, k).compressed(), prior, ONE) for k in (one, both))
    torch.testing.assert_close(first, second)


def test_gradients_flow_through_batched_rows():
    """The analytic gradient of the collapsed density holds where every hyperparameter value has its rows."""
    laid = laid_out(ROWS["mixed sizes"])
    data = laid.pseudo_data(*pseudo(laid)).compressed()
    prior = make_structure("ones", "task", "some", batch=BATCH)

    def value(basis: torch.Tensor, scale: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        return log_marginal(data, Structure(prior.loadings, basis, scale, factor), ONE)

    parts = [prior.basis_scale, prior.residual_scale, prior.residual_factor]
    assert torch.autograd.gradcheck(value, [part.requires_grad_() for part in parts], atol=1e-6)
