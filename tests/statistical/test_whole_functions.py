"""Whole functions drawn from a Gaussian-process posterior: the moments of exact formulas, call after call.

False alarms: each test compares a few hundred moments with their exact values at 6 standard errors, which
happens by chance about once in 10^6 changes of the code that change the draws; seeds are fixed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import bayesmtl as bm
from bayesmtl.algebra.functions import function_covariance
from bayesmtl.errors import SpecificationError, UnknownTaskError
from bayesmtl.posteriors.functions.posterior import FunctionPosterior, known_fields
from bayesmtl.results.functions import whole as gp_functions
from tests.seeds import seeded

NAMES = ("a", "b", "c")
ROWS = (np.array([[-1.5], [0.2], [0.9], [2.5], [0.2], [1.4]]), ["a", "a", "b", "b", "c", "c"])
NUM_DRAWS = 4000
MODELS = {
    "pooled": bm.MultitaskGP(bm.Matern(float("inf")), bm.Pooled()),
    "low rank": bm.MultitaskGP(sharing=bm.LowRank(rank=1), likelihood=bm.Gaussian(noise="task")),
    "latent factors": bm.MultitaskGP((bm.Matern(0.5), bm.Matern(1.5)), bm.LowRank(rank=2)),
}


def fitted(name: str) -> bm.FunctionFit:
    rng = np.random.default_rng(seeded(4))
    x = np.sort(rng.normal(size=7))
    Y = np.sin(2 * x)[:, None] * np.array([1.0, -1.0, 0.5]) + 0.2 * rng.normal(size=(7, 3))
    Y[2, 1] = np.nan  # a grid with a missing cell
    data = bm.TaskData.from_wide(x[:, None], Y, NAMES)
    return MODELS[name].fit(data, method="empirical_bayes", seed=seeded(0), progress=False)


@pytest.mark.parametrize("name", MODELS)
def test_moments_are_exact_with_few_waves(name, monkeypatch):
    """Of whole functions and of joint predictions, correlations between rows and tasks included."""
    monkeypatch.setattr(gp_functions, "NUM_WAVES", 24)
    fit = fitted(name)
    problem, codes = fit.problem, torch.tensor([NAMES.index(t) for t in ROWS[1]])
    X, values = fit.inputs(fit.schema.encode(ROWS).X), fit.chosen_values(1)
    structure, kernels = problem.structure(values), problem.kernels
    cross = function_covariance(structure, kernels.covariance(values, problem.X, X), problem.task, codes)
    prior = function_covariance(structure, kernels.covariance(values, X, X), codes, codes)
    given = FunctionPosterior(**known_fields(problem)).known_rows(values, structure, problem.noise(values, 1))
    mean, covariance = (part[0].numpy() for part in given.condition(cross, prior))
    scale = fit.standardization.target_scale[codes.numpy()]
    mean = fit.standardization.unstandardize_target(mean, codes.numpy())
    covariance = covariance * np.outer(scale, scale)

    sd = np.sqrt(np.diag(covariance))
    jointly = fit.predict(ROWS, kind="latent", num_draws=NUM_DRAWS)
    np.testing.assert_allclose(jointly.mean, mean, rtol=1e-6)
    for drawn in (fit.sample_functions(NUM_DRAWS)(ROWS).values, jointly.draws.values):
        assert (np.abs(drawn.mean(axis=0) - mean) < 6 * sd / NUM_DRAWS**0.5).all()
        products = (drawn - mean)[:, :, None] * (drawn - mean)[:, None, :]
        error = products.std(axis=0) / NUM_DRAWS**0.5
        assert (np.abs(products.mean(axis=0) - covariance) < 6 * error + 1e-9).all()
    observed = fit.predict(ROWS, num_draws=NUM_DRAWS)
    noise = problem.noise(values, 1)[0, codes].numpy() * scale
    # a standard deviation from 4000 draws is off by 1.1 % of itself
    np.testing.assert_allclose(observed.sd, np.hypot(sd, noise), rtol=6 * 0.0112)
    lower, upper = observed.interval(0.9)
    np.testing.assert_allclose(upper - lower, 2 * 1.645 * np.hypot(sd, noise), rtol=0.12)


def test_calls_agree_and_pass_through_what_is_known(monkeypatch):
    fit = fitted("low rank")
    drawn = fit.sample_functions(7)
    whole = drawn(ROWS)
    assert (
        whole.dims == ("draw", "obs") and whole.sizes["draw"] == 7 and list(whole["task"].values) == ROWS[1]
    )
    one = drawn((ROWS[0][3:4], ["b"]))
    np.testing.assert_allclose(one.values[:, 0], whole.values[:, 3], rtol=1e-9)
    monkeypatch.setattr(gp_functions, "_AT_ONCE", 1)  # row by row
    np.testing.assert_allclose(drawn(ROWS), whole, rtol=1e-9)
    np.testing.assert_array_equal(fit.sample_functions(7)(ROWS), drawn(ROWS))
    # hardly any noise, and functions free enough to go through every point
    given = fit.draws.hyperparameters
    changed = {"noise": 1e-2 * given["noise"], "private_scale": torch.ones_like(given["private_scale"])}
    sure = replace(fit, draws=replace(fit.draws, hyperparameters=given | changed))
    known = (fit.data.X[fit.data.observed], np.array(NAMES)[fit.data.task[fit.data.observed]])
    through = sure.sample_functions(3)(known)
    np.testing.assert_allclose(through, np.tile(fit.data.y[fit.data.observed], (3, 1)), atol=0.03)


def test_what_cannot_be_drawn_says_so():
    fit = fitted("pooled")
    with pytest.raises(UnknownTaskError, match="'d', not in the training data"):
        fit.sample_functions(2)(([[0.0]], ["d"]))
    kernels = pytest.importorskip("gpytorch").kernels
    data = bm.TaskData.from_arrays([[0.0], [0.5], [1.0], [2.0]], [1.0, 2.0, 0.0, 1.0], list("abab"))
    other = bm.MultitaskGP(kernels.RBFKernel()).fit(
        data, method="empirical_bayes", seed=seeded(0), progress=False
    )
    with pytest.raises(SpecificationError, match="spectral density"):
        other.sample_functions(2)
