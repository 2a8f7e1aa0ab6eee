"""Collapsed equals joint: a Pyro program that has every weight, and quadrature, give the same posterior.

The program and the algebra below share nothing with the package but the priors that the documentation states.
Given scales and noise, population and weights are jointly normal: their density is taken off the program's to
compare what the package integrates out, point by point. What is left are three numbers, over which a grid
gives the posterior's moments to six digits.
"""

from __future__ import annotations

import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz_stats.base import array_stats

import bayesmtl as bm
from tests.seeds import seeded

NUM_TASKS = 3
NAMES = ("population", "residual_scale", "noise", "weights")
ERRORS = 5.0  # Monte Carlo standard errors
_NODES = 40  # per dimension: sixty give the same moments to five digits
_LARGEST = 6.0  # scales beyond have a prior mass of 2e-9
_NOISE = (0.15, 2.5)  # beyond the posterior has none: the residuals of 20 rows are known


def joint_program(X: torch.Tensor, y: torch.Tensor, task: torch.Tensor) -> None:
    D = X.shape[1]
    mean = pyro.sample("population", dist.Normal(torch.zeros(D).double(), 1.0).to_event(1))
    scale = pyro.sample("residual_scale", dist.HalfNormal(torch.ones(D).double()).to_event(1))
    noise = pyro.sample("noise", dist.HalfNormal(torch.tensor(1.0, dtype=torch.float64)))
    apart = dist.Normal(mean.expand(NUM_TASKS, D), scale.expand(NUM_TASKS, D))
    weights = pyro.sample("weights", apart.to_event(2))
    pyro.sample("y", dist.Normal((X * weights[task]).sum(-1), noise).to_event(1), obs=y)


def design() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features with an intercept (20, 2), targets and tasks."""
    rng = np.random.default_rng(0)  # the grid below is for these
    task = np.repeat(np.arange(NUM_TASKS), [4, 8, 8])
    x = rng.normal(size=len(task))
    x = (x - x.mean()) / x.std()
    W = np.array([0.4, -0.8]) + 0.7 * rng.normal(size=(NUM_TASKS, 2))
    y = W[task, 0] + W[task, 1] * x + 0.5 * rng.normal(size=len(task))
    return np.column_stack([np.ones_like(x), x]), y, task


def conditional(scale: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean and covariance of (population, weights), stacked, given the rest, and log p(y | scale, noise)."""
    X, y, task = design()
    D = X.shape[1]
    # weights = population + departures: a prior covariance of all, by blocks
    shared = np.tile(np.eye(D), (1 + NUM_TASKS, 1))
    prior = shared @ shared.T
    for t in range(NUM_TASKS):
        block = slice(D * (1 + t), D * (2 + t))
        prior[block, block] += np.diag(scale**2)
    F = np.zeros((len(y), D * (1 + NUM_TASKS)))
    for i, t in enumerate(task):
        F[i, D * (1 + t) : D * (2 + t)] = X[i]
    C = F @ prior @ F.T + noise**2 * np.eye(len(y))
    gain = np.linalg.solve(C, F @ prior).T
    log_marginal = -0.5 * (y @ np.linalg.solve(C, y) + np.linalg.slogdet(2 * np.pi * C)[1])
    return gain @ y, prior - gain @ F @ prior, float(log_marginal)


def test_the_collapsed_density_is_the_joint_one_less_the_weights():
    X, y, task = design()
    data = bm.TaskData.from_arrays(X[:, 1:], y, task).with_target_standardization("none")
    fit = bm.LinearModel().fit(data, method="empirical_bayes", seed=seeded(0), progress=False)
    rows = (torch.from_numpy(X), torch.from_numpy(y), torch.from_numpy(task))
    rng = np.random.default_rng(seeded(1))
    gaps = []
    for _ in range(10):
        scale, noise = np.abs(rng.normal(size=2)) + 0.1, abs(rng.normal()) + 0.2
        mean, covariance, _ = conditional(scale, noise)
        drawn = rng.multivariate_normal(mean, covariance)
        at = {
            "residual_scale": torch.from_numpy(scale),
            "noise": torch.tensor(noise, dtype=torch.float64),
            "population": torch.from_numpy(drawn[:2]),
            "weights": torch.from_numpy(drawn[2:].reshape(NUM_TASKS, 2)),
        }
        trace = pyro.poutine.trace(pyro.condition(joint_program, at)).get_trace(*rows)
        of_weights = dist.MultivariateNormal(torch.from_numpy(mean), torch.from_numpy(covariance))
        collapsed = trace.log_prob_sum() - of_weights.log_prob(torch.from_numpy(drawn))
        # scales on the signed line have half the density on each side; noise is on the logarithm
        point = torch.from_numpy(np.array([[*scale, np.log(noise)]]))
        ours = fit.problem.log_density(point) + 2 * np.log(2) - np.log(noise)
        gaps.append(float(ours - collapsed))
    np.testing.assert_allclose(gaps, 0.0, atol=1e-8)


def quadrature() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Posterior mean and sd by name, from a Gauss-Legendre grid over both scales and the noise."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    # scales denser near zero, noise on the logarithm
    x, wx = _LARGEST * ((1 + nodes) / 2) ** 2, weights * (1 + nodes) / 2
    low, high = np.log(_NOISE)
    noise = np.exp(low + (high - low) * (1 + nodes) / 2)
    scales, noises = list(zip(x, wx, strict=True)), list(zip(noise, weights * noise, strict=True))
    log_weight, points, means, squares = [], [], [], []
    for (a, wa), (b, wb), (s, ws) in itertools.product(scales, scales, noises):
        mean, covariance, log_marginal = conditional(np.array([a, b]), s)
        log_weight.append(log_marginal - 0.5 * (a**2 + b**2 + s**2) + np.log(wa * wb * ws))
        points.append([a, b, s])
        means.append(mean)
        squares.append(mean**2 + np.diag(covariance))
    p = np.exp(np.array(log_weight) - np.max(log_weight))
    p /= p.sum()
    points, means, squares = (np.array(values) for values in (points, means, squares))
    first = np.concatenate([p @ points, p @ means])
    sd = np.sqrt(np.concatenate([p @ points**2, p @ squares]) - first**2)
    parts = {"residual_scale": slice(0, 2), "noise": slice(2, 3), "population": slice(3, 5)}
    parts["weights"] = slice(5, 11)
    return {name: (first[where], sd[where]) for name, where in parts.items()}


# The grid's moments, which `python tests/equivalence/test_joint.py` prints.
MEANS = {
    "residual_scale": [0.895546, 0.461969],
    "noise": [0.44518],
    "population": [0.382054, -0.486052],
    "weights": [0.281959, -0.299791, -0.105262, -0.539201, 1.276367, -0.733645],
}
SDS = {
    "residual_scale": [0.394926, 0.386131],
    "noise": [0.090992],
    "population": [0.476527, 0.349212],
    "weights": [0.289013, 0.46234, 0.162397, 0.153839, 0.170375, 0.138788],
}


def apart(model: bm.LinearModel, seed: int) -> float:
    """By how many Monte Carlo standard errors the worst mean or sd of a fit is off the grid's."""
    X, y, task = design()
    data = bm.TaskData.from_arrays(X[:, 1:], y, task).with_target_standardization("none")
    options = {"num_chains": 10, "num_draws": 600, "num_warmup": 150, "progress": False}
    options["num_effective"] = 10**6  # so many only chains could give
    fit = model.fit(data, method="exact", seed=seed, **options)
    worst = 0.0
    for name in NAMES:
        ours = fit.posterior[name].to_numpy()
        ours = ours.reshape(*ours.shape[:2], -1)
        for method, wanted in (("mean", MEANS), ("sd", SDS)):
            error = array_stats.mcse(ours, chain_axis=0, draw_axis=1, method=method)
            found = ours.mean((0, 1)) if method == "mean" else ours.std((0, 1))
            worst = max(worst, float((np.abs(found - np.array(wanted[name])) / error).max()))
    return worst


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.filterwarnings(
    "ignore::bayesmtl.errors.ConvergenceWarning"
)  # errors of short chains are allowed for
def test_collapsed_equals_joint():
    """22 moments within 5 Monte Carlo standard errors: a false alarm with a probability below 1e-4."""
    assert apart(bm.LinearModel(), seed=seeded(0)) < ERRORS


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_a_prior_that_is_wrong_by_a_third_is_noticed():
    wrong = bm.LinearModel(bm.Hierarchical(scale=bm.HalfNormal(4 / 3)))
    assert apart(wrong, seed=seeded(0)) > ERRORS


if __name__ == "__main__":
    moments = quadrature()
    print("MEANS =", {name: [round(float(v), 6) for v in mean] for name, (mean, _) in moments.items()})
    print("SDS =", {name: [round(float(v), 6) for v in sd] for name, (_, sd) in moments.items()})
