"""The promises, kept by functions known through inducing inputs: many rows, outcomes and counts."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import bayesmtl as bm
from bayesmtl.errors import BayesMTLError, ConvergenceWarning, DataError, SpecificationError
from bayesmtl.posteriors.functions import capacity

pytestmark = pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")

SVI = {"method": "svi", "seed": 0, "progress": False, "num_draws": 20, "num_warmup": 20}
OUTCOMES = {
    "bernoulli": (bm.Bernoulli(), lambda f, rng: (rng.random(f.shape) < 1 / (1 + np.exp(-3 * f))) * 1.0),
    "poisson": (bm.Poisson(), lambda f, rng: rng.poisson(np.exp(f)) * 1.0),
    "student": (bm.StudentT(), lambda f, rng: f + 0.1 * rng.standard_t(3, f.shape)),
}


def frame(num_each: int = 30, make=None) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    task = np.repeat(["north", "south", "west"], num_each)
    x = rng.uniform(0, 6, task.size)
    f = np.sin(x) + pd.Series(task).map({"north": 0.0, "south": 0.5, "west": -0.5}).to_numpy()
    y = f + 0.1 * rng.normal(size=task.size) if make is None else make(f, rng)
    y[[1, num_each + 2]] = np.nan
    return pd.DataFrame({"site": task, "x": x, "metal": y, "f": f}, index=np.arange(task.size) + 100)


def task_data(rows: pd.DataFrame) -> bm.TaskData:
    return bm.TaskData.from_frame(rows, task="site", target="metal", features=["x"])


@pytest.fixture(scope="module")
def fit() -> bm.FunctionFit:
    return bm.MultitaskGP(sharing=bm.LowRank(rank=1)).fit(task_data(frame()), num_inducing=12, **SVI)


@pytest.fixture(scope="module", params=OUTCOMES)
def outcomes(request) -> tuple[bm.FunctionFit, pd.DataFrame]:
    likelihood, make = OUTCOMES[request.param]
    rows = frame(num_each=20, make=make)
    model = bm.MultitaskGP(likelihood=likelihood)
    settings = {**SVI, "method": "empirical_bayes", "num_inducing": 10}
    return model.fit(task_data(rows), **settings), rows


def global_state() -> str:
    return repr((random.getstate(), np.random.get_state(), torch.get_rng_state()))  # noqa: NPY002


def refused(kind: type[BayesMTLError], text: str):
    return pytest.raises(kind, match=text)


# many rows


def test_fit_says_what_it_did(fit):
    assert fit.method == "svi" and "12 inducing inputs" in fit.reason and "12 inducing inputs" in repr(fit)
    assert len(fit.inducing) == 12
    table = fit.predict(frame(), kind="latent").to_frame()
    assert np.abs(table["mean"] - frame()["f"]).mean() < 0.15
    assert table["task"].tolist() == frame()["site"].tolist()
    similarity = fit.task_similarity(kind="function").mean
    assert similarity.to_numpy().min() > 0.7
    assert set(fit.to_datatree()["sample_stats"].data_vars) == {
        "elbo",
        "elbo_rise",
        "elbo_rise_error",
        "start_disagreement",
    }


def test_more_steps_end_at_the_dense_fit():
    """All inputs inducing: the maximum of the bound is that of the evidence."""
    data = task_data(frame(num_each=6))
    model = bm.MultitaskGP(sharing=bm.Pooled())
    svi = model.fit(data, **SVI | {"num_warmup": 80})
    exact = model.fit(data, **SVI | {"method": "empirical_bayes"})
    assert svi.check().ok and "bound of the evidence" in str(svi.check())
    for name in ("lengthscale", "noise", "amplitude"):
        ours, theirs = (float(f.posterior[name].mean()) for f in (svi, exact))
        assert ours == pytest.approx(theirs, rel=0.02)
    new = frame().head(5)
    np.testing.assert_allclose(svi.predict(new).mean, exact.predict(new).mean, atol=0.01)


def test_minibatches_end_near_full_batches(monkeypatch):
    """Within a nat or two of the bound over all rows, from 40 rows at a time."""
    data = task_data(frame(num_each=40))
    model = bm.MultitaskGP(sharing=bm.Pooled())
    elbo = {}
    for size in (40, 512):
        monkeypatch.setattr("bayesmtl.inference.svi.functions.ROWS_AT_ONCE", size)
        found = model.fit(data, num_inducing=12, **SVI | {"num_warmup": 40})
        elbo[size] = found.draws.sample_stats["elbo"][0, 0]
    assert elbo[40] == pytest.approx(elbo[512], abs=2.0)


def test_a_run_cut_short_says_so():
    with pytest.warns(ConvergenceWarning, match="evidence bound.*num_warmup"):
        bm.MultitaskGP(sharing=bm.TaskCovariance()).fit(task_data(frame()), num_inducing=8, **SVI)


def test_few_inducing_inputs_are_reported():
    fit = bm.MultitaskGP(bm.Matern(lengthscale=bm.Fixed(0.2))).fit(task_data(frame()), num_inducing=4, **SVI)
    assert "4 inducing inputs leave" in str(fit.check()) and "larger num_inducing" in str(fit.check())


def test_auto_takes_it_for_more_rows_than_matrices_hold(monkeypatch):
    monkeypatch.setattr(capacity, "MOST_ROWS", 80)
    data, model = task_data(frame()), bm.MultitaskGP(sharing=bm.Pooled())
    fit = model.fit(data, **SVI | {"method": "auto"}, num_inducing=8)
    assert fit.method == "svi"
    assert "88 observed rows are more than covariance matrices can be made of" in fit.reason
    with refused(DataError, 'at most 80 observed rows(.|\n)*88(.|\n)*method="svi"'):
        model.fit(data, **SVI | {"method": "empirical_bayes"})
    with refused(DataError, "at most 80 observed rows"):
        model.simulate(data, seed=0)
    clustered = bm.MultitaskGP(sharing=bm.DirichletProcess())  # which that engine cannot take
    with refused(DataError, r"at most 80 observed rows(.|\n)*88\. Partitions(.|\n)*sample of the rows"):
        clustered.fit(data, **SVI | {"method": "auto"})


def test_more_rows_than_matrices_hold_after_the_fit(monkeypatch):
    monkeypatch.setattr(capacity, "MOST_ROWS", 100)
    model, rows = bm.MultitaskGP(sharing=bm.Pooled()), frame()
    exact = model.fit(task_data(rows), **SVI | {"method": "empirical_bayes"})
    sparse = model.fit(task_data(rows), **SVI, num_inducing=8)
    many = pd.concat([rows] * 2, ignore_index=True)
    with refused(
        DataError, r'^`data`: expected at most 100 observed rows(.|\n)*found 176(.|\n)*method="svi"'
    ):
        exact.condition(many.iloc[: len(rows)])
    assert len(sparse.condition(many.iloc[: len(rows)]).problem.y) == 176
    for fit in (exact, sparse):
        with refused(
            DataError, r"^`new`: expected at most 100 rows that are drawn jointly(.|\n)*joint=False"
        ):
            fit.predict(many)
        assert fit.predict(many, joint=False, num_draws=5).draws.sizes["obs"] == len(many)
        with refused(DataError, "^`candidates`: expected at most 100 candidates(.|\n)*sample of them"):
            bm.suggest(fit, many, 3)
        assert len(bm.suggest(fit, rows, 3)) == 3
    assert exact.sample_functions(2)(many).sizes["obs"] == len(many)


def test_files_and_seeds(fit, tmp_path):
    before = global_state()
    again = bm.MultitaskGP(sharing=bm.LowRank(rank=1)).fit(task_data(frame()), num_inducing=12, **SVI)
    assert before == global_state()
    fit.save(tmp_path / "fit.nc")
    loaded = bm.load(tmp_path / "fit.nc")
    for other in (again, loaded):
        np.testing.assert_array_equal(other.predict(frame()).draws, fit.predict(frame()).draws)
    assert loaded.check().notes == fit.check().notes and torch.equal(loaded.inducing, fit.inducing)


def test_new_rows_and_new_tasks(fit):
    rows = pd.DataFrame({"site": ["east"] * 4, "x": [0.5, 1.5, 3.5, 5.0]})
    rows["metal"] = np.sin(rows["x"]) + 2.0
    wiser = fit.condition(rows)
    assert wiser.added_tasks == ("east",) and fit.task_names == ("north", "south", "west")
    before = fit.predict(rows, new_tasks="population", kind="latent")
    after = wiser.predict(rows, kind="latent")
    assert before.new.all() and not after.new.any()
    assert (after.sd < before.sd).all() and np.abs(after.mean - rows["metal"]).max() < 0.4
    assert torch.equal(wiser.draws.hyperparameters["lengthscale"], fit.draws.hyperparameters["lengthscale"])
    known = fit.condition(rows.assign(site="north"))
    assert len(known.problem.y) == len(fit.problem.y) + 4 and known.task_names == fit.task_names


def test_a_task_without_targets_follows_the_population():
    empty = frame().assign(metal=lambda f: f["metal"].where(f["site"] != "south"))
    for sharing in (bm.TaskCovariance(), bm.LowRank(rank=1)):
        fit = bm.MultitaskGP(sharing=sharing).fit(task_data(empty), num_inducing=8, **SVI | {"num_draws": 60})
        rows = pd.DataFrame({"site": ["south", "east"], "x": [3.0, 3.0]})
        prediction = fit.predict(rows, kind="latent", new_tasks="population", num_draws=4000)
        assert np.isfinite(prediction.draws).all()
        np.testing.assert_allclose(prediction.sd[0], prediction.sd[1], rtol=0.35)


def test_gpytorch_kernels_are_left_as_they_were():
    gpytorch = pytest.importorskip("gpytorch")
    kernel = gpytorch.kernels.RBFKernel() + gpytorch.kernels.LinearKernel()
    before = {name: value.clone() for name, value in kernel.state_dict().items()}
    settings = gpytorch.settings.cholesky_jitter.value(torch.float64)
    fit = bm.MultitaskGP((kernel, bm.Matern()), bm.Hierarchical()).fit(
        task_data(frame()), num_inducing=8, **SVI
    )
    assert all(torch.equal(value, before[name]) for name, value in kernel.state_dict().items())
    assert gpytorch.settings.cholesky_jitter.value(torch.float64) == settings
    assert np.isfinite(fit.predict(frame()).draws).all()


def test_what_inducing_inputs_cannot_do_is_refused(fit):
    with refused(SpecificationError, "integrated out exactly, for leave_one_out"):
        fit.leave_one_out()
    data = task_data(frame())
    with refused(SpecificationError, 'num_inducing(.|\n)*method="svi"'):
        bm.MultitaskGP().fit(data, num_inducing=5, **SVI | {"method": "empirical_bayes"})
    with refused(SpecificationError, "num_inducing(.|\n)*at least 1"):
        bm.MultitaskGP().fit(data, num_inducing=0, **SVI)
    with refused(SpecificationError, "checkpoint"):
        bm.MultitaskGP().fit(data, checkpoint="run.ckpt", **SVI)
    bernoulli = bm.MultitaskGP(likelihood=bm.Bernoulli())
    with refused(DataError, "0 and 1"):
        bernoulli.fit(data, **SVI)
    with refused(SpecificationError, "'laplace', 'empirical_bayes' or 'svi' for Bernoulli"):
        bernoulli.fit(task_data(frame(make=OUTCOMES["bernoulli"][1])), **SVI | {"method": "exact"})


# bad input


def test_repeated_inputs_with_hardly_any_noise_are_reported():
    x = np.repeat(np.linspace(0, 1, 5), 4)
    data = bm.TaskData.from_arrays(x[:, None], np.sin(3 * x), list("aabb") * 5)
    model = bm.MultitaskGP(sharing=bm.Pooled(), likelihood=bm.Gaussian(noise=1e-9))
    fit = model.fit(data, **SVI)
    assert "Noise below 1e-04" in str(fit.check())
    prediction = fit.predict(data, kind="latent")
    np.testing.assert_allclose(prediction.mean, np.sin(3 * x), atol=1e-2)
    assert np.isfinite(prediction.sd).all()


def test_wildly_different_scales_change_nothing():
    rows = frame(num_each=6).assign(z=lambda f: np.cos(3 * f["x"]))
    wild = rows.assign(x=lambda f: 1e-12 * f["x"], z=lambda f: 1e12 * f["z"] + 1e15)
    means = []
    for given in (rows, wild):
        data = bm.TaskData.from_frame(given, task="site", target="metal", features=["x", "z"])
        means.append(bm.MultitaskGP(sharing=bm.Pooled()).fit(data, num_inducing=8, **SVI).predict(given).mean)
    # the same optimiser steps but for rounding of the inputs
    np.testing.assert_allclose(means[0], means[1], rtol=0.02, atol=0.02)


def test_inputs_that_are_all_the_same_leave_levels():
    rows = frame(num_each=6).assign(x=3.0)
    fit = bm.MultitaskGP().fit(task_data(rows), **SVI)
    assert len(fit.inducing) == 1
    prediction = fit.predict(rows, kind="latent")
    assert np.isfinite(prediction.draws).all() and np.ptp(prediction.mean[:6]) < 1e-8


def test_no_target_at_all_and_values_without_meaning():
    with refused(DataError, "at least one observed target"):
        bm.MultitaskGP().fit(task_data(frame().assign(metal=np.nan)), **SVI)
    with refused(DataError, "metal"):
        task_data(frame().assign(metal=np.inf))
    with refused(DataError, "trials"):
        bm.MultitaskGP(likelihood=bm.Binomial()).fit(task_data(frame().assign(metal=1.0)), **SVI)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_outcomes_that_are_all_alike(value):
    """No scale of the functions explains them better than a larger one; the prior keeps it finite."""
    model = bm.MultitaskGP(likelihood=bm.Bernoulli(), sharing=bm.Pooled())
    data = task_data(frame(num_each=6).assign(metal=value))
    fit = model.fit(data, num_inducing=5, **SVI | {"method": "empirical_bayes"})
    assert np.abs(fit.predict(data, kind="latent").mean - value).max() < 0.2


# outcomes and counts


def test_outcomes_are_predicted_on_their_scale(outcomes):
    fit, rows = outcomes
    latent, observed = fit.predict(rows, kind="latent"), fit.predict(rows)
    assert fit.check().ok and "approximated by a normal one" in str(fit.check())
    link = {"Bernoulli": lambda f: 1 / (1 + np.exp(-3 * f)), "Poisson": np.exp, "StudentT": lambda f: f}
    truth = link[type(fit.likelihood).__name__](rows["f"])
    lower, upper = latent.interval(0.98)
    # wide margins of the interval: 60 rows of three functions are far from independent
    assert ((lower <= truth) & (truth <= upper)).mean() > 0.75
    assert np.corrcoef(latent.mean, truth)[0, 1] > 0.85
    assert (observed.sd > latent.sd).mean() > 0.9
    if isinstance(fit.likelihood, bm.Bernoulli):
        assert set(np.unique(observed.draws)) == {0.0, 1.0}
    if isinstance(fit.likelihood, bm.Poisson):
        assert (observed.draws >= 0).all() and (observed.draws == np.floor(observed.draws)).all()


def test_outcomes_of_a_new_task(outcomes):
    fit, rows = outcomes
    new = rows.iloc[[5, 10, 20]].assign(site="east")
    prediction = fit.predict(new, kind="latent", new_tasks="population")
    assert prediction.new.all()
    known = fit.condition(new)
    assert not known.predict(new).new.any()
    assert (known.predict(new, kind="latent").sd < 1.1 * prediction.sd).all()


def test_simulated_outcomes_come_from_the_prior():
    model = bm.MultitaskGP(likelihood=bm.Poisson(), sharing=bm.Pooled())
    data, truth = model.simulate(task_data(frame(make=OUTCOMES["poisson"][1])), seed=3)
    y = data.y[data.observed]
    assert (y == np.floor(y)).all() and (y >= 0).all() and "lengthscale" in truth


def test_auto_for_outcomes():
    rows = frame(num_each=5, make=OUTCOMES["bernoulli"][1])
    model = bm.MultitaskGP(likelihood=bm.Bernoulli(), sharing=bm.Pooled())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = model.fit(task_data(rows), **SVI | {"method": "auto"})
    assert fit.method == "laplace" and "few enough rows" in fit.reason
    assert fit.draws.sample_stats["importance_ess"][0, 0] > 20
    assert len(np.unique(fit.posterior["lengthscale"])) > 5
    with refused(SpecificationError, "Gaussian noise"):
        bm.suggest(fit, rows, 1)
