"""What lies in the data is named as the cause, and one odd task leaves the others alone."""

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats

import bayesmtl as bm
from bayesmtl.algebra.functions import LEAST_NOISE
from bayesmtl.diagnostics import check_draws
from bayesmtl.likelihoods import Given
from bayesmtl.posteriors.linear.build import linear_posterior

QUICK = {"seed": 0, "num_chains": 2, "num_draws": 200, "num_warmup": 100, "progress": False}
pytestmark = pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")


def rows(kind: str = "ordinary", num_tasks: int = 6, num_each: int = 10):
    rng = np.random.default_rng(0)
    task = np.repeat(np.arange(num_tasks), num_each)
    x, of_task = rng.normal(size=len(task)), rng.normal(size=num_tasks)[task]
    y = 1 + 2 * x + of_task + 0.5 * rng.normal(size=len(task))
    if kind == "linear":
        y[task == 0] = 1 + 2 * x[task == 0]
    elif kind == "constant":
        y[task == 0] = 3.0
    elif kind == "constant by task":
        y = of_task
    elif kind == "constant everywhere":
        y = np.full(len(y), 3.0)
    return bm.TaskData.from_arrays(x[:, None], y, [f"t{code}" for code in task])


@pytest.mark.parametrize("noise", ["shared", "task"])
def test_the_density_has_a_bound_where_noise_vanishes(noise):
    # at a noise far below the least it is that of a normal distribution with the least, as scipy has it
    data = rows("linear")
    likelihood = bm.Gaussian(noise=noise)
    posterior, _ = linear_posterior(bm.Hierarchical(), likelihood, data, data.standardization())
    values = {"noise": torch.tensor([1e-9, 1e-300]).double(), "noise_spread": torch.zeros(2).double()}
    values["noise_level"] = torch.zeros(2, 6).double()
    W = torch.from_numpy(data.standardization().weights_to_standard(np.tile([1.0, 2.0], (2, 6, 1))))
    found = posterior.log_likelihood(values, W, by_task=True)[:, 0]
    expected = 10 * stats.norm.logpdf(0, 0, LEAST_NOISE)
    assert np.allclose(found, expected, rtol=1e-5)


def test_the_density_of_heavy_tails_has_a_bound_too():
    y, f = torch.zeros(1, 3).double(), torch.tensor([[0.0, 1e-4, 1.0]]).double()
    given = Given({"scale": torch.tensor([1e-9]).double(), "degrees": torch.tensor([5.0]).double()})
    found = bm.StudentT().derivatives(y, f, given).value
    assert np.allclose(found, stats.t.logpdf(0, 5, f.numpy(), LEAST_NOISE))


@pytest.mark.parametrize("kind", ["linear", "constant"])
def test_one_task_without_noise_leaves_others_their_intervals(kind):
    asked = (np.zeros((5, 1)), [f"t{t}" for t in range(1, 6)])
    widths = []
    for data in (rows(kind), rows().select_tasks([f"t{t}" for t in range(1, 6)])):
        fit = bm.LinearModel(bm.Independent(), bm.Gaussian(noise="task")).fit(
            data, method="empirical_bayes", **QUICK
        )
        lower, upper = fit.predict(asked).interval()
        widths.append(upper - lower)
        if data.num_tasks == 6:
            how = "constant in 't0'" if kind == "constant" else "exactly linear in the features in 't0'"
            assert f"Targets are {how}:" in str(fit.check())
            assert fit.posterior["task_noise"].sel(task="t0").max() < 2e-3
    ratio = widths[0] / widths[1]
    assert (0.7 < ratio).all() and (ratio < 1.45).all(), ratio  # 3.9 before there was a least noise


@pytest.mark.parametrize("kind", ["constant everywhere", "constant by task"])
def test_constant_targets_are_named_whatever_comes_of_them(kind):
    fit = bm.LinearModel().fit(rows(kind), method="exact", **QUICK)
    check = fit.check()
    assert "Targets are constant in 't0', 't1', 't2'" in str(check)
    if not check.ok:
        assert check.messages[0].startswith("Targets are constant")
        assert "larger" not in str(check)
    assert np.isfinite(fit.summary()["mean"]).all()


def test_one_constant_task_is_no_matter_where_noise_is_shared_or_known():
    for likelihood in (bm.Gaussian(), bm.Gaussian(noise=0.5)):
        fit = bm.LinearModel(likelihood=likelihood).fit(rows("constant"), method="empirical_bayes", **QUICK)
        assert "constant" not in str(fit.check())


def test_tasks_with_no_more_rows_than_features_are_not_linear():
    fit = bm.LinearModel().fit(rows(num_each=2), method="empirical_bayes", **QUICK)
    assert "Targets" not in str(fit.check())


def test_one_row_per_task_cannot_tell_noise_from_spread():
    fit = bm.LinearModel().fit(rows(num_tasks=40, num_each=1), method="exact", **QUICK)
    told = "No task has more than one observed row: the data cannot tell noise from the spread of tasks"
    assert told in str(fit.check())
    pooled = bm.LinearModel(bm.Pooled()).fit(rows(num_tasks=40, num_each=1), method="exact", **QUICK)
    assert "No task" not in str(pooled.check())  # which knows no spread
    known = bm.LinearModel(likelihood=bm.Gaussian(noise=0.5)).fit(
        rows(num_tasks=40, num_each=1), method="exact", **QUICK
    )
    assert "No task" not in str(known.check())


def test_a_feature_of_tasks_cannot_vary_over_them():
    rng = np.random.default_rng(1)
    task = np.repeat(np.arange(8), 5)
    size, x = rng.normal(size=8)[task], rng.normal(size=40)
    data = bm.TaskData.from_arrays(
        np.stack([x, size], axis=1), x + size + rng.normal(size=40), task, feature_names=["x", "size"]
    )
    check = bm.LinearModel().fit(data, method="exact", **QUICK).check()
    assert "'size' never varies inside any task: the data cannot tell how much its weight varies" in str(
        check
    )


def test_causes_come_first_and_in_place_of_advice():
    rng = np.random.default_rng(2)
    bad = xr.Dataset({"noise": (("chain", "draw"), rng.normal(size=(2, 200)) + [[0], [9]], {"unit": "none"})})
    good = xr.Dataset({"noise": (("chain", "draw"), rng.normal(size=(2, 400)), {"unit": "none"})})
    options = {"complete": True, "causes": ["Because."]}
    failed = check_draws(bad, {"lp": np.zeros((2, 200))}, **options)
    assert not failed.ok and failed.messages[0] == "Because." and "larger" not in str(failed)
    fine = check_draws(good, {"lp": np.zeros((2, 400))}, **options)
    assert fine.ok and fine.notes[0] == "Because." and not fine.messages
