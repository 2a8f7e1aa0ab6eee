"""`condition` for outcomes and counts beside numerical integration: tasks of one weight each."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

import bayesmtl as bm
from tests.seeds import seeded

SCALE, MEAN_SCALE = 0.7, 0.8
ROWS = {"a": (4, 2), "b": (3, 0), "c": (8, 0), "new": (0, 4)}  # of each task: first and later ones
GRID = np.linspace(-6.0, 6.0, 1201)


def log_likelihood(likelihood: bm.likelihoods.Likelihood, y: np.ndarray) -> np.ndarray:
    """Of one task's rows, at every weight of the grid; scipy's, not ours."""
    if isinstance(likelihood, bm.Poisson):
        return stats.poisson.logpmf(y[:, None], np.exp(GRID)).sum(0)
    return stats.bernoulli.logpmf(y[:, None], special.expit(GRID)).sum(0)


def moments(probability: np.ndarray) -> tuple[float, float]:
    probability = probability / probability.sum()
    mean = probability @ GRID
    return mean, np.sqrt(probability @ (GRID - mean) ** 2)


@pytest.mark.parametrize("likelihood", [bm.Poisson(), bm.Bernoulli()], ids=repr)
def test_conditioned_draws_have_the_moments_of_a_grid(likelihood):
    """p(z) prod_t int p(w | z) p(y_t | w) dw, with known scales, on a grid of 1,201 points.

    A known task gets two rows more, a new one its first four. 4,000 draws leave the equivalent of at least
    1,500 independent ones (asserted), so that means are known to a fortieth of a standard deviation: 10
    quantities at 5 standard errors, for two likelihoods: fails by chance once in 100,000.
    """
    rng = np.random.default_rng(seeded(0))
    level = {"a": 0.9, "b": -0.1, "c": 0.5, "new": 1.4}
    first, later, exact = [], [], {}
    for task, (before, after) in ROWS.items():
        rate = np.exp(level[task])
        y = rng.poisson(rate, before + after).astype(float)
        y = y if isinstance(likelihood, bm.Poisson) else np.minimum(y, 1.0)
        exact[task] = np.exp(log_likelihood(likelihood, y))
        first += [(task, value) for value in y[:before]]
        later += [(task, value) for value in y[before:]]

    def data(rows: list[tuple[str, float]]) -> bm.TaskData:
        names, y = zip(*rows, strict=True)
        known = bm.TaskData.from_arrays(np.zeros((len(rows), 0)), np.array(y), np.array(names))
        return known.with_target_standardization("none")

    model = bm.LinearModel(
        bm.Hierarchical(scale=bm.Fixed(SCALE), mean_scale=bm.Fixed(MEAN_SCALE)), likelihood
    )
    fit = model.fit(data(first), method="laplace", seed=seeded(0), num_draws=1000, progress=False)
    posterior = fit.condition(data(later)).posterior

    kernel = stats.norm.pdf(GRID[None], GRID[:, None], SCALE)
    marginal = {task: kernel @ values for task, values in exact.items()}
    of_z = stats.norm.pdf(GRID, 0.0, MEAN_SCALE) * np.prod(list(marginal.values()), axis=0)
    expected = {"population": moments(of_z)}
    found = {"population": posterior["population"].to_numpy().ravel()}
    for task, values in exact.items():
        expected[task] = moments((of_z / marginal[task]) @ kernel * values)
        found[task] = posterior["weights"].sel(task=task).to_numpy().ravel()
    copies = np.unique(found["population"], return_counts=True)[1]
    effective = copies.sum() ** 2 / (copies**2).sum()
    assert effective > 1500
    for name, (mean, sd) in expected.items():
        assert abs(found[name].mean() - mean) < 5 * sd / np.sqrt(effective), name
        assert abs(found[name].std() / sd - 1) < 5 / np.sqrt(2 * effective), name
