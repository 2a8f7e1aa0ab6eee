"""Promise 3, the limits: what a model becomes when one of its scales goes to an end of its range.

Hyperparameters are Fixed here, so every posterior is Gaussian and known in closed form; moments of the draws
of a fit are compared with it, or the collapsed densities of two models with each other.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import bayesmtl as bm
from bayesmtl.algebra.collapsed import log_marginal
from bayesmtl.algebra.structure import Structure
from tests.equivalence import dense
from tests.equivalence.inputs import ROWS, compress, make_noise, make_structure
from tests.equivalence.test_draws import assert_draws_follow
from tests.seeds import seeded

NOISE = 0.7


def task_data(counts: list[int], seed: int = 0) -> bm.TaskData:
    """The target is not standardised; weights are compared in standard units."""
    rng = np.random.default_rng(seed)
    task = np.repeat([f"task_{t}" for t in range(len(counts))], counts)
    X = rng.normal(size=(len(task), 2))
    y = 0.5 + X @ np.array([0.8, -0.4]) + np.repeat(rng.normal(size=len(counts)), counts)
    y = y + NOISE * rng.normal(size=len(task))
    return bm.TaskData.from_arrays(X, y, task).with_target_standardization("none")


def fitted(sharing: object, data: bm.TaskData, *, num_draws: int = 5000, seed: int = 1) -> bm.Fit:
    """The exact posterior: every hyperparameter is known, so draws are independent."""
    model = bm.LinearModel(sharing, bm.Gaussian(noise=NOISE))
    return model.fit(data, method="exact", seed=seed, num_chains=4, num_draws=num_draws, progress=False)


def standard_weights(fit: bm.Fit) -> torch.Tensor:
    return fit.draws.weights.flatten(0, 1)


def dense_rows(fit: bm.Fit, data: bm.TaskData) -> dense.Rows:
    X = fit.standardization.standardize_features(data.X)
    return dense.Rows(torch.from_numpy(X), torch.tensor(data.y), data.task.tolist(), data.num_tasks)


def structure_of(fit: bm.Fit) -> tuple[Structure, torch.Tensor]:
    values = {name: value.flatten(0, 1)[:1] for name, value in fit.draws.hyperparameters.items()}
    return fit.problem.structure(values), fit.problem.noise(values, 1)


SHARINGS = {
    "Independent": bm.Independent(scale=bm.Fixed(0.9)),
    "Pooled": bm.Pooled(mean_scale=bm.Fixed(1.3)),
    "Hierarchical isotropic": bm.Hierarchical("isotropic", scale=bm.Fixed(0.6)),
    "Hierarchical diagonal": bm.Hierarchical("diagonal", scale=bm.Fixed(0.6), mean_scale=bm.Fixed(1.5)),
}


@pytest.mark.parametrize("name", SHARINGS)
def test_fits_with_known_hyperparameters_follow_the_closed_form(name):
    data = task_data([4, 1, 7, 12])
    fit = fitted(SHARINGS[name], data)
    structure, noise = structure_of(fit)
    mean, covariance = dense.posterior_of_weights(structure, noise, 0, dense_rows(fit, data))
    assert_draws_follow(standard_weights(fit).flatten(1), mean, covariance)


def test_no_residual_is_pooled():
    # E -> 0: a residual scale of 1e-6 changes log p by the order of its square, 1e-12
    tasks, noise = compress(ROWS["mixed sizes"]), make_noise("task")
    pooled = make_structure("ones", "none", "none")
    for scale, tolerance in ((1e-3, 1e-3), (1e-6, 1e-9), (0.0, 1e-11)):
        E = torch.full((2, 1, 3), scale, dtype=torch.float64)
        almost = Structure(pooled.loadings, pooled.basis_scale, residual_scale=E)
        gap = log_marginal(tasks, almost, noise) - log_marginal(tasks, pooled, noise)
        assert gap.abs().max() < tolerance


def test_a_hierarchical_fit_without_residual_is_a_pooled_fit():
    data = task_data([4, 1, 7, 12])
    hierarchical = fitted(bm.Hierarchical(scale=bm.Fixed(0.0)), data)
    pooled = fitted(bm.Pooled(), data, seed=seeded(2))
    structure, noise = structure_of(pooled)
    mean, covariance = dense.posterior_of_weights(structure, noise, 0, dense_rows(pooled, data))
    for fit in (hierarchical, pooled):
        assert_draws_follow(standard_weights(fit).flatten(1), mean, covariance)
    weights = hierarchical.draws.weights
    assert bool((weights == weights[:, :, :1]).all())


def test_no_shared_variance_is_independent():
    # mean_scale -> 0 with scale fixed: tasks no longer tell each other anything
    tasks, noise = compress(ROWS["mixed sizes"]), make_noise("task")
    alone = make_structure("none", "task", "none")
    ones = torch.ones(4, 1, dtype=torch.float64)
    for scale, tolerance in ((1e-3, 1e-3), (1e-6, 1e-9)):
        Z = torch.full((2, 1, 3), scale, dtype=torch.float64)
        almost = Structure(ones, Z, residual_scale=alone.residual_scale)
        gap = log_marginal(tasks, almost, noise) - log_marginal(tasks, alone, noise)
        assert gap.abs().max() < tolerance


def test_a_hierarchical_fit_without_population_is_independent():
    data = task_data([4, 1, 7, 12])
    hierarchical = fitted(bm.Hierarchical("isotropic", scale=bm.Fixed(0.9), mean_scale=bm.Fixed(1e-8)), data)
    independent = fitted(bm.Independent(scale=bm.Fixed(0.9)), data, seed=seeded(2))
    structure, noise = structure_of(independent)
    mean, covariance = dense.posterior_of_weights(structure, noise, 0, dense_rows(independent, data))
    for fit in (hierarchical, independent):
        assert_draws_follow(standard_weights(fit).flatten(1), mean, covariance)


@pytest.mark.parametrize("name", SHARINGS)
def test_one_task_is_one_bayesian_regression(name):
    # y = X w + noise, w ~ N(0, v I): precision X'X / sigma^2 + I / v. A population and its only task add up.
    data = task_data([9])
    fit = fitted(SHARINGS[name], data)
    structure, _ = structure_of(fit)
    population = 0.0 if structure.basis_scale is None else float(structure.basis_scale[0, 0, 0]) ** 2
    private = 0.0 if structure.residual_scale is None else float(structure.residual_scale[0, 0, 0]) ** 2
    rows = dense_rows(fit, data)
    precision = rows.X.T @ rows.X / NOISE**2 + torch.eye(3, dtype=torch.float64) / (population + private)
    covariance = torch.linalg.inv(precision)
    mean = covariance @ rows.X.T @ rows.y / NOISE**2
    assert_draws_follow(standard_weights(fit)[:, 0], mean, covariance)


def test_low_rank_given_its_directions_is_hierarchical_with_a_full_covariance():
    # rows of A Z + E with a_t ~ N(0, I) are N(0, Z'Z + diag(scale^2)): exact, so up to rounding
    rng = np.random.default_rng(seeded(3))
    tasks, noise = compress(ROWS["mixed sizes"]), make_noise("task", batch=3)
    sharing = bm.LowRank(rank=2)
    space = {p.name: p.sample(rng, 3) for p in sharing.parameters(num_tasks=4, num_features=3)}
    low_rank = sharing.structure(space, 4, 3)
    Z, scale = low_rank.residual_factor.transpose(-1, -2), space["residual_scale"]
    Sigma = Z.transpose(-1, -2) @ Z + torch.diag_embed(scale**2)
    # the same Sigma written as the full covariance of Hierarchical: scales and correlations
    sd = Sigma.diagonal(dim1=-2, dim2=-1).sqrt()
    correlation = Sigma / (sd[:, :, None] * sd[:, None, :])
    reported = sharing.report(space)
    torch.testing.assert_close(reported["residual_scale"].values, sd)
    torch.testing.assert_close(reported["residual_correlation"].values, correlation)
    values = {
        "mean_scale": space["mean_scale"],
        "residual_scale": sd,
        "residual_correlation": torch.linalg.cholesky(correlation),
    }
    full = bm.Hierarchical("full").structure(values, 4, 3)
    torch.testing.assert_close(
        log_marginal(tasks, low_rank, noise), log_marginal(tasks, full, noise), rtol=1e-11, atol=0
    )


def test_low_rank_without_directions_is_hierarchical_diagonal():
    rng = np.random.default_rng(seeded(4))
    tasks, noise = compress(ROWS["mixed sizes"]), make_noise("task", batch=3)
    sharing = bm.LowRank(rank=2)
    values = {p.name: p.sample(rng, 3) for p in sharing.parameters(num_tasks=4, num_features=3)}
    values["directions"] = torch.zeros_like(values["directions"])
    diagonal = bm.Hierarchical("diagonal").structure(values, 4, 3)
    torch.testing.assert_close(
        log_marginal(tasks, sharing.structure(values, 4, 3), noise),
        log_marginal(tasks, diagonal, noise),
        rtol=1e-12,
        atol=0,
    )


def test_full_covariance_with_identity_correlation_is_diagonal():
    tasks, noise = compress(ROWS["mixed sizes"]), make_noise("shared")
    scale = torch.tensor([[0.3, -0.8, 1.2], [0.1, 0.0, 0.5]], dtype=torch.float64)
    mean = torch.ones(2, dtype=torch.float64)
    identity = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    values = {"mean_scale": mean, "residual_scale": scale, "residual_correlation": identity}
    densities = [
        log_marginal(tasks, bm.Hierarchical(kind).structure(values, 4, 3), noise)
        for kind in ("diagonal", "full")
    ]
    torch.testing.assert_close(*densities, rtol=1e-12, atol=0)


def test_relabelling_tasks_relabels_the_posterior():
    # same rows under other names and in another order: the closed-form posterior moves with the names
    data = task_data([4, 1, 7, 12])
    names = {"task_0": "d", "task_1": "a", "task_2": "c", "task_3": "b"}
    frame = data.to_frame()
    frame["task"] = frame["task"].map(names)
    frame = frame.sample(frac=1.0, random_state=0)
    renamed = bm.TaskData.from_frame(frame, task="task", target="y", features=["x0", "x1"])
    renamed = renamed.with_target_standardization("none")
    sharing = bm.Hierarchical(scale=bm.Fixed(0.6))
    fit, other = fitted(sharing, data), fitted(sharing, renamed, seed=seeded(2))
    structure, noise = structure_of(fit)
    mean, covariance = dense.posterior_of_weights(structure, noise, 0, dense_rows(fit, data))
    moved = other.posterior["weights"].sel(task=[names[name] for name in data.task_names])
    standard = torch.tensor(other.standardization.weights_to_standard(moved.to_numpy()))
    assert_draws_follow(standard.reshape(-1, 12), mean, covariance)
