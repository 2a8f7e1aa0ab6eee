"""Conditioning on further rows moves the population where refitting would."""

import warnings

import numpy as np
import pytest

import bayesmtl as bm
from bayesmtl.errors import ConvergenceWarning, DataError
from bayesmtl.results.linear.condition import update

NAMES = ("lab_1", "lab_2")


def test_draws_that_explain_the_new_rows_survive():
    """Systematic resampling keeps every draw in proportion to its weight, to within one copy."""
    log_weight = np.random.default_rng(0).normal(0.0, 0.4, 400)
    kept = update._resample(log_weight, np.random.default_rng(1), np.array([0]), NAMES)
    expected = 400 * np.exp(log_weight) / np.exp(log_weight).sum()
    # smoothing replaces the largest weights (a tail of 3 sqrt(400) = 60) by quantiles of their fit: 10 %
    assert np.all(np.abs(np.bincount(kept, minlength=400) - expected) < 1 + 0.1 * expected)


def test_rows_that_say_nothing_about_the_population_keep_every_draw():
    """Without a population the hyperparameters of the others learn nothing: all weights are equal."""
    log_weight = np.full(40, -3.0) + 1e-15 * np.arange(40)
    kept = update._resample(log_weight, np.random.default_rng(1), np.array([0]), NAMES)
    assert sorted(kept.tolist()) == list(range(40))


@pytest.mark.parametrize(
    "log_weight",
    [np.r_[np.zeros(200), np.full(200, 50.0)], np.r_[np.zeros(399), 100.0], np.linspace(0, 3, 20)],
    ids=["tied tail", "one draw", "few draws"],
)
def test_a_tail_that_cannot_be_judged_is_a_warning(log_weight):
    with pytest.warns(ConvergenceWarning, match="lab_2.*fit the model again"):
        update._resample(log_weight, np.random.default_rng(1), np.array([1]), NAMES)


def test_conditioning_agrees_with_refitting():
    """Weights known to matter: the population learned from two further tasks is that of a fit to all.

    Hyperparameters are known here, so the refit's posterior is Gaussian and exact, and conditioning differs
    from it by Monte Carlo only. 2000 draws, of which resampling keeps a third or more as effective ones, give
    means to sd / sqrt(600); at 5 standard errors the false-alarm probability of the 8 comparisons is 1e-5.
    """
    rng = np.random.default_rng(5)
    task = np.repeat(["a", "b", "c", "d", "e", "f"], 4)
    x = rng.normal(size=24)
    y = rng.normal(size=6).repeat(4) + x * (1 + rng.normal(size=6)).repeat(4) + rng.normal(size=24)
    data = bm.TaskData.from_arrays(x[:, None], y, task).with_target_standardization("none")
    model = bm.LinearModel(bm.Hierarchical(scale=bm.Fixed(1.0)), bm.Gaussian(noise=1.0))
    settings = {"seed": 0, "num_chains": 2, "num_draws": 1000, "progress": False}
    known, new = data.select_tasks(["a", "b", "c", "d"]), data.select_tasks(["e", "f"])
    # features are scaled by the rows of the fit, which changes what a known prior scale means: none here
    fit, whole = (_unscaled(model, rows, **settings) for rows in (known, data))
    conditioned = fit.condition(new)
    for name in ("population", "weights"):
        found, expected = (f.posterior[name].stack(s=("chain", "draw")) for f in (conditioned, whole))
        error = np.hypot(found.std("s"), expected.std("s")) / np.sqrt(600)
        assert np.all(np.abs(found.mean("s") - expected.mean("s")) < 5 * error), name
        assert np.all(np.abs(found.std("s") / expected.std("s") - 1) < 0.15), name
    # and it did learn: the population moved, by more than chance, from where it was before
    before = fit.posterior["population"].mean(("chain", "draw"))
    after = whole.posterior["population"].mean(("chain", "draw"))
    assert np.abs(before - after).max() > 0.1


def _unscaled(model: bm.LinearModel, data: bm.TaskData, **settings) -> bm.Fit:
    scales = bm.data.Standardization(
        np.zeros(2), np.ones(2), np.zeros(data.num_tasks), np.ones(data.num_tasks), "none", True
    )
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        patch.setattr(bm.TaskData, "standardization", lambda self: scales)
        return model.fit(data, method="exact", **settings)


def test_rows_without_targets_are_refused(lab_fit, lab_frame):
    with pytest.raises(DataError, match=r"`yield`: expected at least one row with a target, found none"):
        lab_fit.condition(lab_frame.drop(columns="yield"))


def test_known_tasks_learn_too(lab_fit, lab_frame):
    """Ten rows far above a task's function lift it, and leave the others nearly where they were."""
    rows = lab_frame[lab_frame["lab"] == "lab_2"].dropna().iloc[[0] * 10]
    rows = rows.assign(**{"yield": rows["yield"] + 3.0})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        after = lab_fit.condition(rows)
    assert after.task_names == lab_fit.task_names and after.added_tasks == ()
    moved = after.predict(rows, kind="latent").mean - lab_fit.predict(rows, kind="latent").mean
    assert np.all(moved > 0.5)
    others = lab_frame[lab_frame["lab"] != "lab_2"]
    gap = after.predict(others, kind="latent").mean - lab_fit.predict(others, kind="latent").mean
    assert np.abs(gap).max() < moved.min()
