"""Weights are repetitions, offsets known parts of the function: as slow twins have it."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import bayesmtl as bm
from bayesmtl.algebra.statistics import TaskStatistics
from bayesmtl.errors import ConvergenceWarning, DataError
from bayesmtl.likelihoods import Outcomes
from bayesmtl.posteriors.linear.outcomes import LaplaceMarginal
from tests.seeds import seeded

RUN = {"seed": seeded(0), "num_chains": 2, "num_draws": 20, "num_warmup": 20, "progress": False}


def data_of(draw, seed: int = 0, **further) -> bm.TaskData:
    rng = np.random.default_rng(seed)
    task = np.repeat(["a", "b", "c"], [3, 8, 6])
    x = rng.normal(size=len(task))
    return bm.TaskData.from_arrays(x[:, None], draw(rng, x), task, **further)


OUTCOMES = {
    "Gaussian": (bm.Gaussian(), lambda rng, x: x + rng.normal(size=len(x))),
    "Bernoulli": (bm.Bernoulli(), lambda rng, x: rng.binomial(1, 0.4, len(x))),
    "Poisson": (bm.Poisson(), lambda rng, x: rng.poisson(3.0, len(x))),
    "Binomial": (bm.Binomial(5), lambda rng, x: rng.binomial(5, 0.3, len(x))),
}


def repeated(data: bm.TaskData, times: np.ndarray) -> bm.TaskData:
    """Every row as often as `times` says."""
    rows = np.repeat(np.arange(data.num_rows), times)
    return data._rows(rows)


def density(model: bm.LinearModel, data: bm.TaskData):
    problem = model._posterior(data)
    return problem, (problem if model.likelihood.compresses else LaplaceMarginal(problem))


@pytest.mark.parametrize("name", OUTCOMES)
def test_a_weight_is_a_number_of_repetitions(name):
    """Of the density with its gradient, and of the standardisation."""
    likelihood, draw = OUTCOMES[name]
    data = data_of(draw)
    times = np.random.default_rng(seeded(1)).integers(1, 4, data.num_rows)
    weighted = replace(data, weights=times)
    model = bm.LinearModel(likelihood=likelihood)
    for kind in ("pooled", "task") if likelihood.compresses else ("none",):
        pair = [d.with_target_standardization(kind) for d in (weighted, repeated(data, times))]
        (problem, first), (_, second) = (density(model, d) for d in pair)
        points = problem.space.initial(np.random.default_rng(seeded(2)), 3)
        for one, other in zip(
            first.value_and_gradient(points), second.value_and_gradient(points), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


def test_weights_in_the_statistics():
    rng = np.random.default_rng(seeded(0))
    X, y, task = rng.normal(size=(9, 2)), rng.normal(size=9), np.array([2, 0, 1, 0, 2, 2, 0, 1, 1])
    y[3] = np.nan
    weights = rng.uniform(0.5, 2.0, 9)
    found = TaskStatistics.from_rows(X, y, task, 4, weights)
    for t in range(4):
        rows = (task == t) & ~np.isnan(y)
        V = np.diag(weights[rows])
        np.testing.assert_allclose(found.gram[t], X[rows].T @ V @ X[rows], atol=1e-12)
        np.testing.assert_allclose(found.cross[t], X[rows].T @ V @ y[rows], atol=1e-12)
        np.testing.assert_allclose(found.square[t], y[rows] @ V @ y[rows], atol=1e-12)
        np.testing.assert_allclose(found.count[t], weights[rows].sum())


def test_a_gaussian_offset_is_taken_off_the_target():
    """The fit is that of y - offset, and predictions have the offset of their rows."""
    likelihood, draw = OUTCOMES["Gaussian"]
    plain = data_of(draw)
    offset = np.random.default_rng(seeded(3)).normal(0.0, 20.0, plain.num_rows)
    shifted = replace(plain, y=plain.y + offset, offset=offset, row_columns={"offset": "known"})
    model = bm.LinearModel(likelihood=likelihood)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        first, second = (model.fit(d, method="exact", **RUN) for d in (plain, shifted))
        frame = shifted.to_frame().assign(y=np.nan)
        expected = first.predict(frame)
        np.testing.assert_allclose(second.predict(frame).draws, expected.draws + offset, atol=1e-6)
        tree = [fit.to_datatree()["log_likelihood"]["y"] for fit in (first, second)]
        np.testing.assert_allclose(tree[0], tree[1], atol=1e-6)
        rows = shifted.to_frame().head(4).assign(task="new")
        further = [
            fit.condition(part)
            for fit, part in (
                (first, rows.assign(y=rows["y"] - rows["known"]).drop(columns="known")),
                (second, rows),
            )
        ]
    assert further[1].task_names == ("a", "b", "c", "new")
    np.testing.assert_allclose(further[0].draws.weights, further[1].draws.weights, atol=1e-6)


def test_conditioning_needs_the_weights_again():
    likelihood, draw = OUTCOMES["Gaussian"]
    data = data_of(draw)
    data = replace(data, weights=np.ones(data.num_rows), row_columns={"weights": "times"})
    fit = bm.LinearModel(likelihood=likelihood).fit(data, method="empirical_bayes", **RUN)
    rows = data.to_frame().head(2)
    assert fit.predict(rows.drop(columns="times")).mean.shape == (2,)
    with pytest.raises(DataError, match="`times`: expected the weights of the new rows"):
        fit.condition(rows.drop(columns="times"))


@pytest.mark.parametrize("name", ["Bernoulli", "Poisson", "Binomial"])
def test_a_constant_offset_shifts_the_level(name):
    """With known weights: the density at g under an offset is that at offset + g without."""
    likelihood, draw = OUTCOMES[name]
    data = data_of(draw).with_target_standardization("none")
    offset = np.random.default_rng(seeded(4)).normal(size=data.num_rows)
    rows, bare = (
        density(bm.LinearModel(likelihood=likelihood), d)[0].rows
        for d in (replace(data, offset=offset), data)
    )
    g = torch.from_numpy(np.random.default_rng(seeded(5)).normal(size=(2, rows.size))) * rows.real
    found = Outcomes(likelihood, rows).derivatives(g)
    expected = Outcomes(likelihood, bare).derivatives(g + rows.offset)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("likelihood", [bm.Bernoulli(), bm.Binomial(5)], ids=repr)
def test_augmented_rows_with_weights_and_offsets(likelihood):
    """The mean over auxiliary variables of exp(kappa g - omega g^2 / 2), tilted from g0 to g, is the ratio of
    the rows' densities there. 60,000 draws, 5 standard errors, 17 rows: fails by chance once in 100,000."""
    data = data_of(OUTCOMES[type(likelihood).__name__][1])
    rng = np.random.default_rng(seeded(6))
    size = data.num_rows
    data = replace(data, weights=rng.uniform(0.3, 2.5, size), offset=rng.normal(size=size))
    rows = density(bm.LinearModel(likelihood=likelihood), data)[0].rows
    outcomes = Outcomes(likelihood, rows)
    g0, g = torch.full((60_000, rows.size), 0.3, dtype=torch.float64), 0.9
    omega, kappa = outcomes.augment(g0, rng)
    # omega | g0 has density proportional to exp(-omega f0^2 / 2) times the prior's, f0 = offset + g0
    log_ratio = kappa * (g - g0) - 0.5 * omega * (g**2 - g0**2)
    found = log_ratio.exp()
    at = [
        outcomes.derivatives(torch.full((1, rows.size), value, dtype=torch.float64)).value
        for value in (g, 0.3)
    ]
    expected = (at[0] - at[1]).exp()[0]
    error = found.std(0) / np.sqrt(60_000)
    assert bool(((found.mean(0) - expected).abs() <= 5 * error + 1e-12)[rows.real].all())


def test_trials_of_every_row_that_are_all_the_same():
    likelihood, draw = OUTCOMES["Binomial"]
    data = data_of(draw)
    each = replace(data, trials=np.full(data.num_rows, 5.0), row_columns={"trials": "runs"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for method in ("laplace", "gibbs"):
            one = bm.LinearModel(likelihood=likelihood).fit(data, method=method, **RUN)
            own = bm.LinearModel(likelihood=bm.Binomial()).fit(each, method=method, **RUN)
            np.testing.assert_allclose(one.draws.weights, own.draws.weights, atol=1e-9)
            frame = each.to_frame()
            assert np.array_equal(one.predict(frame).draws, own.predict(frame).draws)
            larger = own.predict(frame.assign(runs=50), kind="latent").mean
            np.testing.assert_allclose(larger, 10 * own.predict(frame, kind="latent").mean)


def test_trials_are_known_once_and_are_not_exceeded():
    data = data_of(OUTCOMES["Binomial"][1])
    with pytest.raises(DataError, match=r"`trials`: expected the number of trials of every row, found none"):
        bm.LinearModel(likelihood=bm.Binomial()).fit(data, seed=0, progress=False)
    known = replace(data, trials=np.full(data.num_rows, 5))
    with pytest.raises(DataError, match=r"`trials`.*found it twice, in the data and in Binomial\(5\)"):
        bm.LinearModel(likelihood=bm.Binomial(5)).fit(known, seed=0, progress=False)
    trials = np.maximum(data.y, 1)
    trials[4], y = 2, np.where(np.arange(data.num_rows) == 4, 3, data.y)
    few = replace(data, y=y, trials=trials)
    with pytest.raises(DataError, match=r"`y`: expected whole numbers.*trials of the row.*1 of 17.*'3'"):
        bm.LinearModel(likelihood=bm.Binomial()).fit(few, seed=0, progress=False)


@pytest.mark.parametrize("likelihood", [bm.Binomial(), bm.Gaussian()], ids=repr)
def test_files_keep_them(likelihood, tmp_path):
    data = data_of(OUTCOMES[type(likelihood).__name__][1])
    rng = np.random.default_rng(seeded(7))
    further = {"offset": rng.normal(size=17), "weights": rng.uniform(1, 2, 17), "trials": np.full(17, 5.0)}
    data = replace(data, **further, row_columns={role: role for role in further})
    fit = bm.LinearModel(likelihood=likelihood).fit(data, method="laplace", **RUN)
    fit.save(tmp_path / "fit.nc")
    loaded = bm.load(tmp_path / "fit.nc")
    for role in further:
        assert np.array_equal(getattr(loaded.data, role), getattr(data, role))
    assert np.array_equal(fit.predict(data.to_frame()).draws, loaded.predict(data).draws)
    assert fit.problem.fingerprint() == loaded.problem.fingerprint()
    for role in ("offset", "weights"):
        other = replace(data, **{role: getattr(data, role) + 0.5})
        problem, _ = density(bm.LinearModel(likelihood=likelihood), other)
        assert problem.fingerprint() != fit.problem.fingerprint(), role


def test_functions_refuse_them():
    data = replace(data_of(OUTCOMES["Gaussian"][1]), weights=np.ones(17))
    with pytest.raises(DataError, match="`weights`: expected none for functions"):
        bm.MultitaskGP().fit(data, seed=0, progress=False)
