"""The evidence of Gaussian-process models: importance sampling beside sums over lattices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import bayesmtl as bm
from bayesmtl.errors import SpecificationError
from tests.seeds import seeded

FIXED = bm.priors.Fixed


def rows(number: int = 12) -> bm.TaskData:
    rng = np.random.default_rng(seeded(3))
    x = rng.uniform(-2, 2, size=number)
    task = np.arange(number) % 2
    y = 10 + 3 * np.sin(1.5 * x) * np.where(task == 0, 1.0, -1.0) + 0.5 * rng.normal(size=number)
    return bm.TaskData.from_arrays(x[:, None], y, task, intercept=False)


def on_lattice(model: bm.MultitaskGP, data: bm.TaskData, *axes: torch.Tensor) -> float:
    """log of the integral of p(y, hyperparameters) over all coordinates, by the trapezoidal rule."""
    problem = model._posterior(data)
    points = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    assert points.shape[1] == problem.space.size
    value = torch.cat([problem.value(part) for part in points.split(4000)])
    cell = sum(float(torch.log(axis[1] - axis[0])) for axis in axes)
    scale = problem.target_scale[problem.task.numpy()]
    return float(torch.logsumexp(value, 0)) + cell - float(np.log(scale).sum())


def laplace(model: bm.MultitaskGP, data: bm.TaskData) -> bm.FunctionFit:
    return model.fit(data, method="laplace", seed=seeded(0), progress=False)


def line(low: float, high: float, number: int) -> torch.Tensor:
    return torch.linspace(low, high, number, dtype=torch.float64)


def test_a_length_scale_and_a_noise_level():
    """Two coordinates on the logarithm: within four standard errors, and these are small."""
    sharing = bm.Hierarchical(scale=FIXED(0.5), mean_scale=FIXED(1.0))
    model = bm.MultitaskGP(sharing=sharing, amplitude=FIXED(1.0))
    expected = on_lattice(model, rows(), line(-6, 6, 400), line(-8, 4, 400))
    found = laplace(model, rows()).log_evidence
    assert found.error < 0.05
    assert abs(found.value - expected) < 4 * found.error


def test_scales_count_with_both_signs():
    """Two scales on the signed line, of which proposals have one side only."""
    model = bm.MultitaskGP(
        kernel=bm.Matern(lengthscale=FIXED(1.0)),
        sharing=bm.Hierarchical(scale=FIXED(0.5), mean_scale=bm.priors.HalfNormal(1.0)),
        likelihood=bm.Gaussian(noise=0.5),
    )
    expected = on_lattice(model, rows(), line(-6, 6, 501), line(-6, 6, 501))
    found = laplace(model, rows()).log_evidence
    assert found.error < 0.05
    assert abs(found.value - expected) < 4 * found.error


def test_loadings_that_can_be_turned():
    """Two functions of two tasks, sampled up to a rotation: four loadings, integrated as they are."""
    model = bm.MultitaskGP(
        kernel=bm.Matern(lengthscale=FIXED(1.0)),
        sharing=bm.LowRank(2, scale=FIXED(0.3), mean_scale=FIXED(1.0)),
        likelihood=bm.Gaussian(noise=0.5),
    )
    problem = model._posterior(rows())
    assert problem.turning == "loadings" and problem.space.size == 4
    # half of one axis is enough: all loadings with their signs changed are as likely. Their t has long tails,
    # a twelfth of the evidence beyond 6, so the lattice is even in u, loadings sinh(u) up to 27
    u = line(-4.0, 4.0, 26)
    axis, width = u.sinh(), (u.cosh() * (u[1] - u[0])).log()
    points = torch.cartesian_prod(axis[u > 0], axis, axis, axis)
    cell = torch.cartesian_prod(width[u > 0], width, width, width).sum(1)
    value = torch.cat([problem.value(part) for part in points.split(20_000)]) + cell
    scale = problem.target_scale[problem.task.numpy()]
    expected = float(torch.logsumexp(value, 0)) + np.log(2) - np.log(scale).sum()
    found = laplace(model, rows()).log_evidence
    assert found.error < 0.05
    assert abs(found.value - expected) < 4 * found.error + 0.002  # the lattice is as exact


def test_ranks_are_compared_and_a_rank_too_many_costs_little():
    """Two functions of three tasks that mirror each other: one suffices, and rank 2 is not far behind."""
    rng = np.random.default_rng(seeded(0))
    x, task = rng.uniform(-2, 2, size=30), np.arange(30) % 3
    y = np.sin(2 * x) * np.array([1.0, -1.0, 0.7])[task] + 0.1 * rng.normal(size=30)
    data = bm.TaskData.from_arrays(x[:, None], y, task, intercept=False)
    evidence = {
        "alone": laplace(bm.MultitaskGP(sharing=bm.Independent()), data).log_evidence,
        "one": laplace(bm.MultitaskGP(sharing=bm.LowRank(1)), data).log_evidence,
        "two": laplace(bm.MultitaskGP(sharing=bm.LowRank(2)), data).log_evidence,
    }
    assert evidence["one"].value - evidence["alone"].value > 5
    assert -3 < evidence["two"].value - evidence["one"].value < 1


def test_it_is_saved_and_is_not_that_of_further_rows(tmp_path):
    fit = laplace(bm.MultitaskGP(sharing=bm.Pooled()), rows())
    fit.save(tmp_path / "fit.nc")
    assert bm.load(tmp_path / "fit.nc").log_evidence == fit.log_evidence
    further = fit.condition(rows(4))
    with pytest.raises(SpecificationError, match="before it was conditioned"):
        _ = further.log_evidence
    other = bm.MultitaskGP(sharing=bm.Pooled()).fit(rows(), method="empirical_bayes", seed=0, progress=False)
    with pytest.raises(SpecificationError, match='method="laplace"'):
        _ = other.log_evidence
