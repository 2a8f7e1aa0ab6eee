"""Where linear predictors are centred: at what the likelihood says of all rows together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special, stats

import bayesmtl as bm
from bayesmtl.posteriors.functions.expected import ExpectedRows
from bayesmtl.posteriors.linear.rows import StandardRows

TRIALS = 5
OUTCOMES = {
    "logit": (bm.Bernoulli(), special.expit, 1, lambda rng, n: rng.binomial(1, 0.1, n)),
    "probit": (bm.Bernoulli("probit"), special.ndtr, 1, lambda rng, n: rng.binomial(1, 0.1, n)),
    "binomial": (bm.Binomial(TRIALS), special.expit, TRIALS, lambda rng, n: rng.binomial(TRIALS, 0.8, n)),
    "poisson": (bm.Poisson(), np.exp, 1, lambda rng, n: rng.poisson(300.0, n)),
    "negative binomial": (bm.NegativeBinomial(), np.exp, 1, lambda rng, n: rng.poisson(300.0, n)),
}
N = 40


@pytest.fixture(params=OUTCOMES)
def case(request):
    return OUTCOMES[request.param]


def data_of(draw) -> bm.TaskData:
    rng = np.random.default_rng(0)
    return bm.TaskData.from_arrays(rng.normal(size=(N, 1)), draw(rng, N), np.arange(N) % 3)


def center(model: bm.LinearModel, data: bm.TaskData) -> float:
    (value,) = set(model.likelihood.standardization(data).target_center.tolist())
    return value


def test_a_level_is_that_of_the_mean(case):
    """Half an event more among N rows moves it by little; weights count rows; missing targets say nothing."""
    likelihood, mean, most, draw = case
    model, data = bm.LinearModel(likelihood=likelihood), data_of(draw)
    share = (data.y.sum() + 0.5) / (N * most + (mean is not np.exp)) if mean is not np.exp else None
    expected = (data.y.sum() + 0.5) / N if share is None else share
    assert mean(center(model, data)) == pytest.approx(expected)
    times = np.random.default_rng(1).integers(1, 4, N)
    weighted = center(model, replace(data, weights=times.astype(float)))
    assert weighted == pytest.approx(center(model, data._rows(np.repeat(np.arange(N), times))))
    missing = replace(data, y=np.where(np.arange(N) < 10, np.nan, data.y))
    assert center(model, missing) == pytest.approx(center(model, data._rows(np.arange(10, N))))


def test_the_unit_of_exposure_changes_the_intercept_alone(case):
    """The same constant added to every offset: rows and priors of the standardised problem stay."""
    likelihood, _, _, draw = case
    model, data = bm.LinearModel(likelihood=likelihood), data_of(draw)
    offset = np.random.default_rng(2).normal(size=N)
    known = []
    for shift in (0.0, 7.0):
        shifted = replace(data, offset=offset + shift)
        scales = model.likelihood.standardization(shifted)
        rows = StandardRows.of(shifted, shifted.task, scales, likelihood)
        np.testing.assert_array_equal(rows.y, data.y)
        known.append((rows.offset, scales.target_center))
    np.testing.assert_allclose(known[0][0], known[1][0], atol=1e-12)
    np.testing.assert_allclose(known[0][1] - 7.0, known[1][1], atol=1e-12)


def test_the_prior_is_about_the_mean(case):
    """A priori the population lies about the level, and the intercept of a feature with a mean is moved too.

    400 draws of N(level, 1): median at 5 standard errors, five likelihoods: fails once in 300,000.
    """
    likelihood, _, _, draw = case
    model, data = bm.LinearModel(bm.Pooled(), likelihood), data_of(draw)
    prior = model.sample_prior(data, num_draws=400, seed=3)
    at_mean = (prior["weights"].to_numpy()[0, :, 0] @ data.X.mean(axis=0)).ravel()
    error = 5 * np.sqrt(np.pi / 2 / 400)
    assert abs(np.median(at_mean) - center(model, data)) < error
    left_alone = model.sample_prior(data.with_target_standardization("none"), num_draws=400, seed=3)
    np.testing.assert_allclose(
        prior["population"] - left_alone["population"],
        np.broadcast_to([center(model, data), 0.0], (1, 400, 2)),
        atol=1e-9,
    )


def test_extreme_targets_have_finite_levels(case):
    likelihood, _, most, draw = case
    data, model = data_of(draw), bm.LinearModel(likelihood=likelihood)
    for value in (0.0, float(most)):
        assert np.isfinite(center(model, replace(data, y=np.full(N, value))))
    assert likelihood.level_of(data, np.zeros(N, dtype=bool)) == 0.0
    bare = bm.TaskData.from_arrays(data.X[:, 1:], data.y, data.task, intercept=False)
    assert center(model, bare) == 0.0


def test_classes_have_the_level_of_their_shares():
    """Of three classes in shares of 1 : 4 : 15, half a row added: in prior draws and in the rows."""
    y = np.repeat(["few", "some", "many"], [2, 8, 30])
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(
        {"y": pd.Categorical(y), "x": rng.normal(3.0, 1.0, N), "task": rng.integers(0, 3, N)}
    )
    data = bm.TaskData.from_frame(frame, task="task", target="y", features=["x"])
    model = bm.LinearModel(bm.Pooled(bm.Fixed(1e-6)), bm.Categorical())
    counts = np.array([(y == name).sum() + 0.5 for name in data.classes])
    prior = model.sample_prior(data, num_draws=2, seed=0)
    log_odds = np.log(counts) - np.log(counts).mean()
    np.testing.assert_allclose(prior["population"][0, 0, :, 0], log_odds, atol=1e-4)
    np.testing.assert_allclose(prior["weights"][0, 0, 0, :, 0], log_odds, atol=1e-4)
    fit = model.fit(data, method="laplace", seed=0, num_draws=20, progress=False)
    chances = fit.predict(data.to_frame()).probabilities().to_numpy()
    np.testing.assert_allclose(chances, np.tile(counts / counts.sum(), (N, 1)), atol=1e-4)
    frame["weight"] = rng.integers(1, 4, N).astype(float)
    weighted = bm.TaskData.from_frame(frame, task="task", target="y", features=["x"], weights="weight")
    repeated = data._rows(np.repeat(np.arange(N), frame["weight"].astype(int)))
    levels = [model.likelihood.standardization(d).level_by_predictor for d in (weighted, repeated)]
    np.testing.assert_allclose(*levels)
    none = model.likelihood.standardization(data.with_target_standardization("none"))
    assert none.level_by_predictor.tolist() == [0.0, 0.0]


def test_functions_have_levels_too(case):
    """Rows at f under a level are rows at level + f without; predictions have the level."""
    likelihood, _, _, draw = case
    data = data_of(draw)
    values = {"dispersion": torch.tensor([0.5]).double()}
    problem = bm.MultitaskGP(sharing=bm.Pooled(), likelihood=likelihood)._posterior(data)
    level = problem.level[problem.task]
    assert set(level.tolist()) == {likelihood.level_of(data, data.observed)}
    rows = [likelihood, problem.y, problem.task, values, torch.ones(3).double()]
    mean = torch.from_numpy(np.random.default_rng(4).normal(size=N))
    with_level, without = ExpectedRows(*rows, level), ExpectedRows(*rows)
    for name in ("value", "slopes"):
        found, expected = (
            getattr(part, name)(at, mean**2) for part, at in ((with_level, mean), (without, level + mean))
        )
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(with_level.start() + level, without.start())


def test_functions_of_large_counts():
    """A flat function of counts about 3,000 under the default prior: its mean within 2 % of theirs."""
    x, y = np.linspace(0.0, 1.0, 8)[:, None], np.array([2950.0, 3050, 3020, 2980, 3040, 2960, 3010, 2990])
    data = bm.TaskData.from_arrays(x, y, np.array(["a", "b"])[np.arange(8) % 2])
    model = bm.MultitaskGP(sharing=bm.Pooled(), likelihood=bm.Poisson())
    fit = model.fit(data, method="empirical_bayes", seed=0, progress=False)
    found = fit.predict(data.to_frame(), kind="latent").mean
    np.testing.assert_allclose(found, 3000.0, rtol=0.02)


def test_large_counts_need_no_wider_prior():
    """Three tasks of two rows with counts about 3,000 under the default prior: the sum of a Gamma posterior.

    With levels measured from 1 the default N(0, 1) would say log 3000 = 8 is eight standard deviations away.
    """
    y = np.array([2900.0, 3100.0, 3000.0])
    data = bm.TaskData.from_arrays(np.zeros((3, 0)), y, ["a", "b", "c"])
    fit = bm.LinearModel(bm.Pooled(), bm.Poisson()).fit(
        data, method="laplace", seed=0, num_draws=500, progress=False
    )
    draws = fit.posterior["population"].to_numpy().ravel()
    gamma = stats.gamma(y.sum(), scale=1 / 3)
    assert np.log(gamma.ppf(0.2)) < np.median(draws) < np.log(gamma.ppf(0.8))
