"""What importance weights make of Laplace's approximation: the true posterior, as quadrature has it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import bayesmtl as bm
from bayesmtl.errors import ConvergenceWarning
from bayesmtl.inference.laplace import correction
from bayesmtl.likelihoods import Given
from tests.seeds import seeded

# Few rows that say little: posteriors with a long tail to the left.
COUNTS = {"a": [0.0, 0.0], "b": [1.0], "c": [0.0, 5.0, 1.0]}
SCALE, DISPERSION = 1.5, 0.8
RUN = {"method": "laplace", "num_chains": 4, "num_draws": 1000, "progress": False}


def data_of(counts: dict[str, list[float]]) -> bm.TaskData:
    """Only a level in every task: the column of ones is the one feature."""
    task = np.repeat(list(counts), [len(values) for values in counts.values()])
    y = np.concatenate(list(counts.values()))
    data = bm.TaskData.from_arrays(np.zeros((len(y), 0)), y, task)
    return data.with_target_standardization("none")


def moments(log_density) -> np.ndarray:
    """Mean, standard deviation, skewness and mode of a density on the line, by quadrature."""
    grid = np.linspace(-12.0, 8.0, 20_001)
    logs = log_density(grid)
    weight = np.exp(logs - logs.max())
    weight /= weight.sum()
    mean = weight @ grid
    sd = np.sqrt(weight @ (grid - mean) ** 2)
    return np.array([mean, sd, weight @ ((grid - mean) / sd) ** 3, grid[logs.argmax()]])


LIKELIHOODS = {
    "poisson": bm.Poisson(),
    "negative binomial": bm.NegativeBinomial(bm.Fixed(DISPERSION)),
}


def true_moments(likelihood, counts: dict[str, list[float]]) -> np.ndarray:
    """Of every task's level, shape (T, 4)."""
    given = Given({"dispersion": torch.full((1,), DISPERSION, dtype=torch.float64)})

    def density(y: list[float]):
        def log_density(w: np.ndarray) -> np.ndarray:
            rows = [likelihood.log_density(np.full(w.shape, count), w[None], 1.0, given)[0] for count in y]
            return np.sum(rows, axis=0) - 0.5 * (w / SCALE) ** 2

        return log_density

    return np.stack([moments(density(y)) for y in counts.values()])


def found_moments(fit: bm.Fit) -> np.ndarray:
    weights = fit.draws.weights.flatten(0, 1)[..., 0].numpy()
    mean, sd = weights.mean(0), weights.std(0)
    return np.stack([mean, sd, (((weights - mean) / sd) ** 3).mean(0)], axis=1)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_known_hyperparameters_give_the_true_posterior(name):
    """4,000 draws of effective size about 3,000; means at 5 standard errors (3 tasks: 2e-6), sds and skewness
    at tolerances beyond 5 of theirs. Uncorrected, the first mean is off by 7 standard errors or more."""
    likelihood = LIKELIHOODS[name]
    model = bm.LinearModel(bm.Independent(bm.Fixed(SCALE)), likelihood)
    expected = true_moments(likelihood, COUNTS)
    fit = model.fit(data_of(COUNTS), seed=seeded(0), **RUN)
    stats = fit.draws.sample_stats
    assert fit.check().ok and stats["importance_ess_weights"].flat[0] > 2000
    error = expected[:, 1] / np.sqrt(stats["importance_ess_weights"].flat[0])
    found = found_moments(fit)
    assert np.all(np.abs(found[:, 0] - expected[:, 0]) < 5 * error)
    assert np.all(np.abs(found[:, 1] / expected[:, 1] - 1) < 0.12)
    assert np.all(np.abs(found[:, 2] - expected[:, 2]) < 0.4)
    # Laplace's own mean is the mode, which would not pass
    assert np.abs((expected[:, 3] - expected[:, 0]) / error).max() > 7


def test_the_posterior_of_a_hyperparameter():
    """One task of one row and a scale with a prior: the scale's posterior by quadrature over both.

    5 standard errors of 4,000 draws.
    """
    prior = bm.LogNormal(1.0, 0.5)
    model = bm.LinearModel(bm.Independent(prior), bm.Poisson())
    data = data_of({"a": [0.0, 0.0]})
    fit = model.fit(data, seed=seeded(1), **RUN)

    w, log_scale = np.linspace(-30.0, 6.0, 3001)[:, None], np.linspace(-2.5, 2.5, 401)
    logs = -2 * np.exp(w) - 0.5 * (w / np.exp(log_scale)) ** 2 - log_scale - 0.5 * (log_scale / 0.5) ** 2
    weight = np.exp(logs - logs.max()).sum(axis=0)
    mean = np.average(log_scale, weights=weight)
    sd = np.sqrt(np.average((log_scale - mean) ** 2, weights=weight))
    draws = fit.posterior["task_scale"].to_numpy().ravel()
    effective = min(
        float(fit.draws.sample_stats[f"importance_ess{part}"].flat[0]) for part in ("", "_weights")
    )
    assert abs(np.log(draws).mean() - mean) < 5 * sd / np.sqrt(effective)
    assert abs(np.log(draws).std() / sd - 1) < 0.1


def test_what_cannot_be_corrected_stays_as_it_was(monkeypatch):
    """Above the limit of Pareto k draws are not resampled, and the verdict says so."""
    monkeypatch.setattr(correction, "smooth", lambda log_weight: (log_weight, 0.9))
    model = bm.LinearModel(bm.Independent(bm.Fixed(SCALE)), bm.Poisson())
    with pytest.warns(ConvergenceWarning, match="too rough to be corrected .Pareto k 0.90"):
        fit = model.fit(data_of(COUNTS), seed=seeded(0), **(RUN | {"num_draws": 100}))
    weights = fit.draws.weights.flatten(0, 1)[:, 0, 0]
    assert len(torch.unique(weights)) == 400


def test_rows_without_information():
    """They leave all weights equal: nothing is resampled twice."""
    data = bm.TaskData.from_arrays(np.zeros((2, 0)), [1.0, np.nan], ["a", "b"])
    model = bm.LinearModel(bm.Independent(bm.Fixed(0.01)), bm.Bernoulli())
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        fit = model.fit(data, seed=seeded(0), **(RUN | {"num_draws": 100}))
    assert fit.draws.sample_stats["importance_ess_weights"].flat[0] > 399
