"""The promises, kept by Gaussian processes: names, missing targets, new tasks, seeds, files, bad input."""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import bayesmtl as bm
from bayesmtl.errors import (
    BayesMTLError,
    CheckpointError,
    ConvergenceWarning,
    DataError,
    FitFileError,
    SpecificationError,
    UnknownTaskError,
)

pytestmark = pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")

SITES = ["west", "south", "north"]
SHARINGS = {
    "independent": bm.Independent(),
    "pooled": bm.Pooled(),
    "hierarchical": bm.Hierarchical(),
    "low rank": bm.LowRank(rank=2),
    "covariance": bm.TaskCovariance(),
    "graph": bm.TaskGraph(pd.DataFrame([[0, 1, 0], [1, 0, 2], [0, 2, 0]], index=SITES, columns=SITES)),
}
QUICK = {"method": "empirical_bayes", "seed": 0, "progress": False, "num_draws": 20}


def frame(num_each: int = 9) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    task = np.repeat(["north", "south", "west"], num_each)
    x, z = rng.uniform(0, 1, task.size), rng.uniform(100, 1000, task.size)
    level = pd.Series(task).map({"north": 5.0, "south": 6.0, "west": 9.0}).to_numpy()
    y = level + np.sin(6 * x) + 0.1 * rng.normal(size=task.size)
    y[[1, num_each + 2]] = np.nan
    return pd.DataFrame({"site": task, "x": x, "z": z, "metal": y}, index=np.arange(task.size) + 100)


@pytest.fixture(scope="module")
def data() -> bm.TaskData:
    return bm.TaskData.from_frame(frame(), task="site", target="metal", features=["x", "z"])


@pytest.fixture(scope="module", params=SHARINGS)
def fit(request, data) -> bm.FunctionFit:
    return bm.MultitaskGP(sharing=SHARINGS[request.param]).fit(data, **QUICK)


@pytest.fixture(scope="module")
def sampled(data) -> bm.FunctionFit:
    return bm.MultitaskGP(likelihood=bm.Gaussian(noise="task")).fit(
        data, method="exact", seed=0, num_chains=2, num_draws=20, num_warmup=20, progress=False
    )


def refused(kind: type[BayesMTLError], parameter: str, *texts: str):
    ahead = "(.|\n)*".join(map(re.escape, texts))
    return pytest.raises(kind, match=rf"(?=(.|\n)*{ahead})^`{re.escape(parameter)}`: expected (.|\n)+found")


# names, order, units


def test_predictions_are_named_and_ordered(fit):
    new = frame().sample(frac=1.0, random_state=1)
    prediction = fit.predict(new, num_draws=50)
    table = prediction.to_frame()
    assert table.index.tolist() == new.index.tolist()
    assert table["task"].tolist() == new["site"].tolist()
    assert prediction.draws.dims == ("draw", "obs") and prediction.draws.sizes["draw"] == 50
    latent = fit.predict(new, kind="latent", num_draws=50)
    np.testing.assert_allclose(latent.mean, prediction.mean)
    assert (latent.sd < prediction.sd).mean() > 0.9
    if not isinstance(fit.sharing, bm.Pooled):  # which has one level for all
        assert np.nanmean(np.abs(prediction.mean - new["metal"])) < 0.4


def test_summary_posterior_and_representation(fit, data):
    summary = fit.summary()
    assert np.isfinite(summary["mean"]).all()
    held = summary.get("note", pd.Series("", summary.index)) != ""
    assert (np.isfinite(summary[["sd", "lower", "upper"]]).all(axis=1) != held).all()
    assert fit.feature_names == ("x", "z")
    assert fit.posterior["lengthscale"].dims == ("chain", "draw", "feature")
    # in the input's own units: z spreads over hundreds
    assert float(fit.posterior["lengthscale"].sel(feature="z").mean()) > 30
    assert "25 observed rows" in repr(fit) and "Cholesky" in fit.reason
    assert "<table" in fit._repr_html_()
    assert fit.check().ok


def test_units_of_the_target_do_not_matter(data):
    """Ten times the target and a thousand more: ten times the answers and a thousand more."""
    shifted = frame().assign(metal=lambda f: 10 * f["metal"] + 1000)
    other = bm.TaskData.from_frame(shifted, task="site", target="metal", features=["x", "z"])
    first, second = (bm.MultitaskGP().fit(d, **QUICK) for d in (data, other))
    new = frame().drop(columns="metal")
    np.testing.assert_allclose(second.predict(new).mean, 10 * first.predict(new).mean + 1000, rtol=1e-6)
    np.testing.assert_allclose(second.predict(new).sd, 10 * first.predict(new).sd, rtol=1e-4)


def test_similarity_is_named(fit):
    similarity = fit.task_similarity(kind="structure", tasks=["west", "north"], num_draws=10)
    assert similarity.draws["task"].to_numpy().tolist() == ["west", "north"]
    values = similarity.draws.to_numpy()
    assert (np.abs(values) <= 1).all()
    np.testing.assert_allclose(values[:, 0, 0], 1.0)
    expected = {"Independent": 0.0, "Pooled": 1.0}.get(type(fit.sharing).__name__)
    if expected is not None:
        np.testing.assert_allclose(values[:, 0, 1], expected)
    with refused(UnknownTaskError, "site", "'north', 'south', 'west'", "'nowhere'"):
        fit.task_similarity(tasks=["nowhere"])


def test_functions_themselves_are_compared(fit):
    similarity = fit.task_similarity(kind="function", tasks=["west", "north"], num_draws=40)
    values = similarity.draws.to_numpy()
    assert (
        values.shape == (40, 2, 2) and (np.abs(values) <= 1).all() and "over the inputs" in similarity.meaning
    )
    np.testing.assert_allclose(values[:, 0, 0], 1.0)
    # the same function of x at every site, whatever the prior says of it
    assert values[:, 0, 1].mean() > 0.7
    with refused(SpecificationError, "kind", "'function' or 'structure'", "'levels'"):
        fit.task_similarity(kind="levels")


def test_functions_are_compared_where_the_reference_is():
    """Alike on the left and opposite on the right."""
    x = np.tile(np.linspace(0, 2, 25), 2)
    y = np.sin(7 * x) * np.where((np.arange(50) >= 25) & (x > 1), -1.0, 1.0)
    data = bm.TaskData.from_arrays(x[:, None], y, np.repeat(["a", "b"], 25))
    fit = bm.MultitaskGP(bm.Matern(1.5), bm.Independent()).fit(data, **QUICK)

    def alike(low: float, high: float) -> float:
        reference = (np.linspace(low, high, 30)[:, None], ["a"] * 30)
        similarity = fit.task_similarity(kind="function", reference=reference, num_draws=60)
        assert "over the reference inputs" in similarity.meaning
        return float(similarity.mean[0, 1])

    assert alike(0.0, 0.9) > 0.9 and alike(1.1, 2.0) < -0.9
    with refused(SpecificationError, "reference", "inputs over which the functions vary", "the same input"):
        alike(0.5, 0.5)
    with refused(SpecificationError, "reference", 'None for kind="structure"', "tuple", 'kind="function"'):
        fit.task_similarity(kind="structure", reference=(x[:, None], ["a"] * 50))


def test_datatree_has_names(fit, data):
    tree = fit.to_datatree()
    assert set(tree.children) == {"posterior", "sample_stats", "observed_data", "constant_data"}
    assert tree["posterior"]["lengthscale"].dims == ("chain", "draw", "feature")
    assert (
        tree["observed_data"]["task"].to_numpy().tolist()
        == np.array(data.task_names)[data.task[data.observed]].tolist()
    )
    np.testing.assert_array_equal(tree["observed_data"]["metal"], data.y[data.observed])
    assert tree["constant_data"]["feature"].to_numpy().tolist() == ["x", "z"]


# what to measure next


def test_suggestions_equal_the_entropy_of_conditioned_fits(fit):
    """Each choice has the largest variance-to-noise ratio once the rows before it are known."""
    rng = np.random.default_rng(4)
    rows = pd.DataFrame(
        {"site": rng.choice(["north", "south"], 8), "x": rng.uniform(-1, 2, 8), "z": rng.uniform(0, 1500, 8)}
    ).set_index(np.arange(8) + 50)
    found = bm.suggest(fit, rows, 3)
    assert found.index.tolist() == rows.index[found["position"]].tolist()
    assert found["task"].tolist() == rows["site"].iloc[found["position"]].tolist()
    noise = float(fit.posterior["noise"].mean())
    known, left = fit, list(range(8))
    for choice, gain, sd in zip(found["position"], found["gain"], found["sd"], strict=True):
        # variances do not depend on the targets
        spread = known.predict(rows.iloc[left], kind="latent", joint=False, num_draws=20_000).sd
        # all candidates are about as good where their spreads agree within Monte Carlo error
        assert spread[left.index(choice)] > 0.96 * spread.max()
        np.testing.assert_allclose(sd, spread[left.index(choice)], rtol=0.03)
        np.testing.assert_allclose(gain, 0.5 * np.log1p((sd / noise) ** 2), rtol=1e-6)
        known = known.condition(rows.iloc[[choice]].assign(metal=6.0))
        left.remove(choice)


def test_bad_suggestions(fit):
    rows = frame().head(3)
    with refused(SpecificationError, "n", "at most 3", "4"):
        bm.suggest(fit, rows, 4)
    with refused(UnknownTaskError, "site", "'north', 'south', 'west'", "'east'"):
        bm.suggest(fit, rows.assign(site="east"), 1)
    with refused(SpecificationError, "fit", "a fit of MultitaskGP", "str"):
        bm.suggest("fit", rows, 1)


# new tasks and new rows


def test_unknown_tasks_are_an_error_unless_asked_for(fit):
    new = pd.DataFrame({"site": ["east", "north"], "x": [0.5, 0.5], "z": [500.0, 500.0]})
    with refused(UnknownTaskError, "site", "'north', 'south', 'west'", "'east'", 'new_tasks="population"'):
        fit.predict(new)
    prediction = fit.predict(new, new_tasks="population")
    assert prediction.new.tolist() == [True, False]
    if not isinstance(fit.sharing, bm.Pooled):
        assert prediction.sd[0] > prediction.sd[1]


def test_conditioning_uses_new_rows_and_keeps_hyperparameters(fit):
    rows = pd.DataFrame(
        {"site": ["east"] * 3, "x": [0.2, 0.5, 0.8], "z": [500.0] * 3, "metal": [7.0, 6.0, 5.5]}
    )
    wiser = fit.condition(rows)
    assert wiser.task_names == ("north", "south", "west", "east") and wiser.added_tasks == ("east",)
    assert fit.task_names == ("north", "south", "west")
    before = fit.predict(rows, new_tasks="population", kind="latent")
    after = wiser.predict(rows, kind="latent")
    assert not after.new.any()
    if not isinstance(fit.sharing, bm.Pooled):
        assert (after.sd < before.sd).all()
        assert np.abs(after.mean - rows["metal"]).max() < 1.0
    for name in ("lengthscale", "noise"):
        assert torch.equal(wiser.draws.hyperparameters[name], fit.draws.hyperparameters[name])
    known = fit.condition(rows.assign(site="north"))
    assert known.task_names == fit.task_names
    assert len(known.problem.y) == len(fit.problem.y) + 3


METALS = {"Cd": 1.0, "Ni": -2.0, "Zn": 0.5}


@pytest.mark.parametrize("sharing", [bm.LowRank(rank=1), bm.TaskCovariance(), bm.Independent()], ids=repr)
@pytest.mark.parametrize("through_inducing", [False, True])
def test_other_tasks_measured_at_a_new_site_tell_of_one_that_was_not(sharing, through_inducing):
    """Cd at a site in a gap of all maps, before and after Ni and Zn are known there; the first fit stays.

    Through inducing inputs too, none of which is near the site.
    """
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.uniform(0, 2, 20), rng.uniform(4, 6, 20)])
    rows = pd.DataFrame({"metal": np.repeat(list(METALS), 40), "x": np.tile(x, 3)})
    rows["y"] = rows["metal"].map(METALS) * np.sin(2 * rows["x"]) + 0.02 * rng.normal(size=120)
    data = bm.TaskData.from_frame(rows, task="metal", target="y", features=["x"])
    fit = bm.MultitaskGP(sharing=sharing).fit(data.with_target_standardization("task"), **QUICK)
    if through_inducing:
        fit = replace(fit, inducing=torch.unique(fit.problem.X, dim=0))
    site = pd.DataFrame({"metal": list(METALS), "x": 3.0})
    site["y"] = site["metal"].map(METALS) * np.sin(6.0)
    before = fit.predict(site, kind="latent")
    known = fit.condition(site[site["metal"] != "Cd"])
    after = known.predict(site, kind="latent")
    if through_inducing:
        assert len(known.inducing) == len(fit.inducing) + 1
        assert len(known.condition(site[:1]).inducing) == len(known.inducing)  # which has one there now
    if isinstance(sharing, bm.Independent):
        np.testing.assert_allclose(after.mean[0], before.mean[0], atol=1e-3)
        np.testing.assert_allclose(after.sd[0], before.sd[0], rtol=1e-2)
    else:
        assert after.sd[0] < 0.4 * before.sd[0]
        assert abs(after.mean[0] - site["y"][0]) < 0.1
    assert (after.sd[1:] < 0.2 * before.sd[1:]).all()
    np.testing.assert_array_equal(fit.predict(site, kind="latent").draws, before.draws)


def test_conditioning_equals_having_known_the_rows(data):
    """With the hyperparameters known, conditioning is refitting."""
    model = bm.MultitaskGP(
        bm.Matern(lengthscale=bm.Fixed(1.0)),
        bm.Hierarchical(scale=bm.Fixed(0.5)),
        bm.Gaussian(noise=0.2),
        amplitude=bm.Fixed(1.0),
    )
    whole = data.with_target_standardization("none")
    rows = whole.observed & (whole.task == 0)
    first, rest = whole._rows(~rows), whole._rows(rows)
    fit = model.fit(first, **QUICK)
    # the same standardisation of inputs for both
    direct = model.fit(whole, **QUICK)
    direct = type(direct)(**{**vars_of(direct), "standardization": fit.standardization})
    new = frame().drop(columns="metal")
    np.testing.assert_allclose(fit.condition(rest).predict(new).mean, direct.predict(new).mean, rtol=1e-9)


def vars_of(fit: bm.FunctionFit) -> dict:
    return {name: getattr(fit, name) for name in type(fit).__dataclass_fields__}


def test_leave_one_out_is_closer_to_refitting_than_to_fitting(data):
    """With the hyperparameters known it is exactly what a fit without the row predicts."""
    model = bm.MultitaskGP(
        bm.Matern(lengthscale=bm.Fixed(1.0)),
        bm.Hierarchical(scale=bm.Fixed(0.5)),
        bm.Gaussian(noise=0.2),
        amplitude=bm.Fixed(1.0),
    )
    whole = data.with_target_standardization("none")
    fit = model.fit(whole, **QUICK)
    table = fit.leave_one_out().to_frame()
    assert len(table) == int(data.observed.sum()) and table.index.isin(frame().index).all()
    left_out = int(np.flatnonzero(whole.observed)[5])
    y = whole.y.copy()
    y[left_out] = np.nan
    without = type(fit)(**{**vars_of(fit), "data": type(whole)(**{**data_vars(whole), "y": y})})
    row = without.predict(frame().iloc[[left_out]], kind="observation", num_draws=20_000)
    found = table.iloc[5]
    np.testing.assert_allclose(found["mean"], row.mean[0], rtol=1e-9)
    np.testing.assert_allclose(found["sd"], row.sd[0], rtol=0.03)
    gap = (found["target"] - found["mean"]) / found["sd"]
    density = -0.5 * gap**2 - math.log(found["sd"]) - 0.5 * math.log(2 * math.pi)
    np.testing.assert_allclose(found["log_density"], density, rtol=1e-9)


def data_vars(data: bm.TaskData) -> dict:
    return {name: getattr(data, name) for name in type(data).__dataclass_fields__}


def test_leave_one_out_of_a_posterior_is_weighted(sampled):
    table = sampled.leave_one_out().to_frame()
    assert table["pareto_k"].notna().all()
    assert np.corrcoef(table["target"], table["mean"])[0, 1] > 0.9


# seeds, global state, files


def test_same_seed_same_answer_and_global_state_is_left_alone(data, sampled):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    again = bm.MultitaskGP(likelihood=bm.Gaussian(noise="task")).fit(
        data, method="exact", seed=0, num_chains=2, num_draws=20, num_warmup=20, progress=False
    )
    for name, values in sampled.draws.hyperparameters.items():
        assert torch.equal(values, again.draws.hyperparameters[name])
    assert np.array_equal(again.predict(data).draws, sampled.predict(data).draws)
    after = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0]) and (before[1] == after[1]).all() and before[2] == after[2]
    assert torch.get_default_dtype() == torch.float32


def test_a_run_goes_on_from_its_checkpoint(data, tmp_path):
    model = bm.MultitaskGP(likelihood=bm.Gaussian(noise="task"))
    options = {"method": "exact", "seed": 0, "num_chains": 2, "num_warmup": 20, "progress": False}
    options["num_effective"] = 10**6  # so many only chains could give
    sampled = model.fit(data, num_draws=20, **options)
    path = tmp_path / "run.ckpt"
    model.fit(data, num_draws=8, checkpoint=path, **options)
    longer = model.fit(data, num_draws=20, checkpoint=path, **options)
    for name, values in sampled.draws.hyperparameters.items():
        assert torch.equal(values, longer.draws.hyperparameters[name])
    with pytest.raises(CheckpointError):
        bm.MultitaskGP().fit(data, num_draws=8, checkpoint=path, **options)


def test_files_give_the_same_predictions(fit, data, tmp_path):
    fit.save(tmp_path / "fit.nc")
    loaded = bm.load(tmp_path / "fit.nc")
    assert isinstance(loaded, bm.FunctionFit)
    assert (loaded.kernel, loaded.sharing, loaded.likelihood) == (fit.kernel, fit.sharing, fit.likelihood)
    np.testing.assert_array_equal(loaded.predict(data).draws, fit.predict(data).draws)
    assert loaded.reason == fit.reason and loaded.check().ok
    wiser = fit.condition((np.array([[0.5, 500.0]]), [6.0], ["east"]))
    wiser.save(tmp_path / "wiser.nc")
    again = bm.load(tmp_path / "wiser.nc")
    np.testing.assert_array_equal(again.predict(data).draws, wiser.predict(data).draws)


def test_damaged_files_are_refused(fit, tmp_path):
    fit.save(tmp_path / "fit.nc")
    whole = (tmp_path / "fit.nc").read_bytes()
    (tmp_path / "short.nc").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FitFileError):
        bm.load(tmp_path / "short.nc")


def test_several_kernels_in_files(data, tmp_path):
    model = bm.MultitaskGP((bm.Matern(), bm.Matern(0.5), bm.Matern(math.inf)), bm.LowRank(rank=2))
    fit = model.fit(data, **QUICK)
    fit.save(tmp_path / "fit.nc")
    loaded = bm.load(tmp_path / "fit.nc")
    assert loaded.kernel == model.kernel and "3 inputs" not in repr(loaded)
    np.testing.assert_array_equal(loaded.predict(data).draws, fit.predict(data).draws)
    assert {"lengthscale_1", "lengthscale_2", "private_lengthscale"} <= set(fit.posterior)
    wiser = fit.condition((np.array([[0.5, 500.0]]), [6.0], ["east"]))
    assert np.isfinite(wiser.predict(data).mean).all()


def test_importance_sampling_says_how_well_it_did(data):
    fit = bm.MultitaskGP(likelihood=bm.Gaussian(noise="task")).fit(
        data, method="laplace", seed=0, num_draws=50, progress=False
    )
    assert "functions integrated out" in fit.reason
    stats = fit.draws.sample_stats
    assert np.isfinite(stats["pareto_k"]).all() and (stats["importance_ess"] > 20).all()
    again = bm.MultitaskGP(likelihood=bm.Gaussian(noise="task")).fit(
        data, method="laplace", seed=0, num_draws=50, progress=False
    )
    same = again.draws.hyperparameters
    assert all(torch.equal(value, same[name]) for name, value in fit.draws.hyperparameters.items())


def test_gpytorch_kernels_in_files(data, tmp_path):
    gpytorch = pytest.importorskip("gpytorch")
    kernels = gpytorch.kernels
    given = kernels.RBFKernel(ard_num_dims=2, lengthscale_prior=gpytorch.priors.GammaPrior(3.0, 6.0))
    composed = given + kernels.ScaleKernel(kernels.MaternKernel(nu=1.5, active_dims=[0]))
    before = {name: value.clone() for name, value in composed.state_dict().items()}
    settings = gpytorch.settings.cholesky_jitter.value(torch.float64), composed.training
    fit = bm.MultitaskGP(kernel=composed).fit(data, **QUICK)
    assert all(torch.equal(value, before[name]) for name, value in composed.state_dict().items())
    assert settings == (gpytorch.settings.cholesky_jitter.value(torch.float64), composed.training)
    assert fit.kernel.parameters(2)[0].prior == bm.Gamma(3.0, 6.0)
    fit.save(tmp_path / "fit.nc")
    loaded = bm.load(tmp_path / "fit.nc")
    assert loaded.kernel.parameters(2) == fit.kernel.parameters(2)
    np.testing.assert_array_equal(loaded.predict(data).draws, fit.predict(data).draws)

    class Own(kernels.RBFKernel):
        pass

    with refused(SpecificationError, "kernel", "RBFKernel", "Own", "execute code"):
        bm.MultitaskGP(kernel=Own()).fit(data, **QUICK).save(tmp_path / "own.nc")
    content = fit.kernel.to_dict()
    content["composition"]["parts"][0]["class"] = "Kernel"
    with pytest.raises(ValueError, match="not a kernel that files may name"):
        bm.GPyTorchKernel.from_fields(json.loads(json.dumps(content)))


# bad input


def test_bad_specifications():
    with refused(SpecificationError, "sharing", "a Sharing object"):
        bm.MultitaskGP(sharing="hierarchical")
    with refused(SpecificationError, "covariance", '"diagonal" or "isotropic"', '"full"'):
        bm.MultitaskGP(sharing=bm.Hierarchical(covariance="full"))
    with refused(SpecificationError, "amplitude", "LowRank(strength=...)"):
        bm.MultitaskGP(sharing=bm.LowRank(), amplitude=bm.HalfNormal(2.0))
    with refused(SpecificationError, "amplitude", "a prior such as", "1.0"):
        bm.MultitaskGP(amplitude=1.0)
    with refused(SpecificationError, "kernel", "1 or 2 or 3 kernels", "4", "several are those"):
        bm.MultitaskGP((bm.Matern(),) * 4, bm.LowRank(rank=2))
    with refused(SpecificationError, "kernel", "1 kernels", "2"):
        bm.MultitaskGP((bm.Matern(),) * 2, bm.Pooled())
    with refused(SpecificationError, "amplitude", "TaskCovariance(scale=...)"):
        bm.MultitaskGP(sharing=bm.TaskCovariance(), amplitude=bm.HalfNormal(2.0))
    with refused(SpecificationError, "smoothness", "0.5, 1.5, 2.5", "2"):
        bm.Matern(smoothness=2)
    with refused(SpecificationError, "lengthscale", "a prior of positive numbers", "0.5"):
        bm.Matern(lengthscale=0.5)
    with refused(SpecificationError, "likelihood", "a likelihood, such as Gaussian()"):
        bm.MultitaskGP(likelihood="gaussian")


def test_bad_kernels(data):
    gpytorch = pytest.importorskip("gpytorch")
    kernels, constraints = gpytorch.kernels, gpytorch.constraints
    with refused(SpecificationError, "kernel", "a kernel, such as", "'matern'"):
        bm.MultitaskGP(kernel="matern")
    with refused(SpecificationError, "kernel", "positive or free", "Interval"):
        bm.MultitaskGP(kernel=kernels.RBFKernel(lengthscale_constraint=constraints.Interval(0.1, 2.0)))
    with refused(SpecificationError, "kernel", "batch shape"):
        bm.MultitaskGP(kernel=kernels.RBFKernel(batch_shape=torch.Size([2])))
    with refused(SpecificationError, "kernel", "GammaPrior", "NormalPrior"):
        bm.MultitaskGP(kernel=kernels.RBFKernel(lengthscale_prior=gpytorch.priors.NormalPrior(0.0, 1.0)))
    with refused(SpecificationError, "kernel", "2 inputs", "ard_num_dims"):
        bm.MultitaskGP(kernel=kernels.RBFKernel(ard_num_dims=5)).fit(data, **QUICK)


def test_bad_data(data):
    with refused(
        SpecificationError, "method", "'exact', 'laplace', 'empirical_bayes'", "'nuts'", 'Use "exact"'
    ):
        bm.MultitaskGP().fit(data, **QUICK | {"method": "nuts"})
    with refused(DataError, "data", "a TaskData"):
        bm.MultitaskGP().fit(frame(), **QUICK)
    alone = bm.TaskData.from_frame(frame(), task="site", target="metal", features=[])
    with refused(DataError, "data", "at least one feature besides the intercept"):
        bm.MultitaskGP().fit(alone, **QUICK)
    many = bm.TaskData.from_arrays(np.zeros((8001, 1)), np.arange(8001.0), ["a"] * 8001)
    with refused(DataError, "data", "at most 8000 observed rows", "8001"):
        bm.MultitaskGP().fit(many, **QUICK)
    with pytest.raises(DataError, match="x0"):
        bm.TaskData.from_arrays([[0.0], [np.nan]], [1.0, 2.0], ["a", "b"])
    with pytest.raises(DataError):
        bm.TaskData.from_arrays([[0.0], [1.0]], [1.0, np.inf], ["a", "b"])


def test_one_input_given_as_a_vector():
    x, y = np.linspace(0, 1, 6), np.arange(6.0)
    with refused(DataError, "X", "two dimensions", "(6,)"):
        bm.TaskData.from_arrays(x, y, list("aaabbb"))
    with refused(DataError, "X", "two dimensions", "(6,)", "(n, 1)"):
        bm.TaskData.from_wide(x, np.ones((6, 2)))
    fit = bm.MultitaskGP().fit(bm.TaskData.from_arrays(x[:, None], y, list("aaabbb")), **QUICK)
    labels = list("aaabbb")
    for verb in (fit.predict, fit.sample_functions(2), lambda rows: bm.suggest(fit, rows, 1)):
        with refused(DataError, "X", "1 columns ('x0')", "(6,)"):
            verb((x, labels))
    with refused(DataError, "X", "1 columns ('x0')", "(6,)"):
        fit.condition((x, y, labels))
    with pytest.raises(BayesMTLError):
        fit.predict((np.zeros((2, 3)), ["a", "b"]))


def test_repeated_inputs_with_hardly_any_noise_are_reported():
    x = np.repeat(np.linspace(0, 1, 5), 4)
    data = bm.TaskData.from_arrays(x[:, None], np.sin(3 * x), list("aabb") * 5)
    model = bm.MultitaskGP(sharing=bm.Pooled(), likelihood=bm.Gaussian(noise=1e-9))
    fit = model.fit(data, **QUICK)
    assert "added to their diagonal" in str(fit.check())
    prediction = fit.predict(data, kind="latent")
    np.testing.assert_allclose(prediction.mean, np.sin(3 * x), atol=1e-2)
    assert np.isfinite(prediction.sd).all()


GRID = np.linspace(0, 1, 8)
ALIKE = {
    "rows": bm.TaskData.from_arrays(
        np.repeat(GRID, 3)[:, None], np.sin(3 * np.repeat(GRID, 3)), list("aab") * 8
    ),
    "grid": bm.TaskData.from_wide(GRID[:, None], np.sin(3 * GRID)[:, None] * [1, 1, 1, 1], list("abcd")),
    "grid with a hole": bm.TaskData.from_wide(
        GRID[:, None],
        np.where(np.arange(32).reshape(8, 4) == 9, np.nan, np.sin(3 * GRID)[:, None]),
        list("abcd"),
    ),
}


@pytest.mark.parametrize("method", ["empirical_bayes", "laplace", "svi"])
@pytest.mark.parametrize("arrangement", ALIKE)
def test_the_same_inputs_without_noise(arrangement, method):
    """As good as none, and tasks that are the same: exact answers, and a word on what was added."""
    data = ALIKE[arrangement]
    model = bm.MultitaskGP(sharing=bm.Pooled(), likelihood=bm.Gaussian(noise=1e-9))
    fit = model.fit(data, **QUICK | {"method": method, "num_warmup": 20})
    assert re.search(
        r"added to their diagonal|Noise below \S+ \(standardised\) was taken for that", str(fit.check())
    )
    prediction = fit.predict(data, kind="latent")
    np.testing.assert_allclose(prediction.mean, np.sin(3 * data.X[:, 1]), atol=2e-3)
    assert np.isfinite(prediction.draws).all() and (prediction.sd < 2e-3).all()
    if method != "svi":
        assert np.isfinite(fit.leave_one_out().to_frame()[["mean", "sd", "log_density"]]).all().all()


@pytest.mark.parametrize("method", ["empirical_bayes", "laplace"])
@pytest.mark.parametrize("arrangement", ["rows", "grid"])
def test_targets_that_contradict_each_other_without_noise(arrangement, method):
    """No function passes through two targets at one input: finite answers, and they are not to be trusted."""
    data = ALIKE[arrangement]
    data = type(data)(**data_vars(data) | {"y": data.y + np.where(np.arange(len(data.y)) % 2, 0.3, 0.0)})
    model = bm.MultitaskGP(sharing=bm.Pooled(), likelihood=bm.Gaussian(noise=1e-9))
    with pytest.warns(ConvergenceWarning):
        fit = model.fit(data, **QUICK | {"method": method})
    assert not fit.check().ok
    assert np.isfinite(fit.predict(data, kind="latent").draws).all()
    assert np.isfinite(fit.leave_one_out().to_frame()[["mean", "sd", "log_density"]]).all().all()


def test_no_hyperparameters_at_all_explain_the_data(monkeypatch):
    def nowhere(problem, values, num_draws):
        return values["noise"] * np.nan

    monkeypatch.setattr("bayesmtl.posteriors.functions.posterior.FunctionPosterior.log_marginal", nowhere)
    data = bm.TaskData.from_frame(frame(), task="site", target="metal", features=["x"])
    for method in ("empirical_bayes", "laplace", "exact"):
        with refused(SpecificationError, "model", "a posterior density that is finite", "outliers"):
            bm.MultitaskGP().fit(data, **QUICK | {"method": method, "num_warmup": 10})


@pytest.mark.parametrize("name", SHARINGS)
def test_a_task_without_targets_follows_the_population(name):
    """All targets of one task missing: it is predicted like a task never seen, not with certainty."""
    empty = frame().assign(metal=lambda f: f["metal"].where(f["site"] != "west"))
    data = bm.TaskData.from_frame(empty, task="site", target="metal", features=["x", "z"])
    fit = bm.MultitaskGP(sharing=SHARINGS[name]).fit(data, **QUICK | {"num_draws": 100})
    rows = pd.DataFrame({"site": ["west", "east"], "x": [0.5, 0.5], "z": [500.0, 500.0]})
    prediction = fit.predict(rows, kind="latent", new_tasks="population", num_draws=4000)
    assert np.isfinite(prediction.draws).all()
    # within Monte Carlo error of 200 different hyperparameters
    np.testing.assert_allclose(prediction.sd[0], prediction.sd[1], rtol=0.35)


@pytest.mark.parametrize(
    "sharing, method",
    [(bm.LowRank(rank=1), "laplace"), (bm.TaskCovariance(), "exact"), (bm.DirichletProcess(), "gibbs")],
    ids=lambda part: part if isinstance(part, str) else type(part).__name__,
)
def test_a_task_without_targets_is_uncertain_under_every_engine(sharing, method):
    empty = frame().assign(metal=lambda f: f["metal"].where(f["site"] != "west"))
    data = bm.TaskData.from_frame(empty, task="site", target="metal", features=["x"])
    assert "no target at all in 'west'" in str(data)
    options = {"num_chains": 2, "num_draws": 20, "num_warmup": 20, "seed": 0, "progress": False}
    fit = bm.MultitaskGP(sharing=sharing).fit(data, method=method, **options)
    prediction = fit.predict(pd.DataFrame({"site": ["west", "north"], "x": [0.5, 0.5]}), kind="latent")
    assert np.isfinite(prediction.draws).all() and prediction.sd[0] > 2 * prediction.sd[1]
    assert fit.task_similarity().draws.notnull().all()


def test_a_task_without_rows_is_not_known():
    """A category that no row has: the same error as for any other name, and the same way to predict it."""
    sites = pd.Categorical(frame()["site"], categories=["east", "north", "south", "west"])
    data = bm.TaskData.from_frame(frame().assign(site=sites), task="site", target="metal", features=["x"])
    assert data.task_names == ("north", "south", "west")
    fit = bm.MultitaskGP().fit(data, **QUICK)
    rows = pd.DataFrame({"site": ["east", "north"], "x": [0.5, 0.5]})
    with refused(UnknownTaskError, "site", "'north', 'south', 'west'", "'east'", 'new_tasks="population"'):
        fit.predict(rows)
    sd = fit.predict(rows, kind="latent", new_tasks="population").sd
    assert np.isfinite(sd).all() and sd[0] > 2 * sd[1]


def test_a_grid_with_most_cells_missing_is_taken_row_by_row():
    rng = np.random.default_rng(0)
    inputs = rng.uniform(0, 1, (20, 1))
    Y = np.where(rng.uniform(size=(20, 4)) < 0.25, np.sin(5 * inputs), np.nan)
    Y[:2] = np.sin(5 * inputs[:2])
    data = bm.TaskData.from_wide(inputs, Y, list("abcd"))
    fit = bm.MultitaskGP().fit(data, **QUICK)
    assert f"Cholesky factorisation of {np.isfinite(Y).sum()} rows" in fit.reason
    assert np.isfinite(fit.predict(data, kind="latent").draws).all()


def test_wildly_different_scales_change_nothing(data):
    wild = frame().assign(x=lambda f: 1e-12 * f["x"], z=lambda f: 1e12 * f["z"] + 1e15)
    other = bm.TaskData.from_frame(wild, task="site", target="metal", features=["x", "z"])
    first, second = (bm.MultitaskGP().fit(d, **QUICK) for d in (data, other))
    np.testing.assert_allclose(second.predict(wild).mean, first.predict(frame()).mean, rtol=1e-4)


def test_new_inputs_beyond_all_bounds_are_refused(data):
    fit = bm.MultitaskGP().fit(data, **QUICK)
    far = frame().head(3)
    far["z"] = [500.0, -1e300, 1.7e308]
    verbs = (fit.predict, fit.condition, fit.sample_functions(2), lambda rows: bm.suggest(fit, rows, 1))
    for verb in verbs:
        with refused(DataError, "z", "standard deviations", "-1e+300 in row 1"):
            verb(far.assign(metal=5.0))
    distant = fit.predict(far.assign(z=[1e20, -1e20, 1e90]), kind="latent")  # only far
    assert np.isfinite(distant.draws).all() and (distant.sd > 0.1).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_new_inputs_that_are_no_numbers_are_refused(value, data):
    fit = bm.MultitaskGP().fit(data, **QUICK)
    rows = frame().head(3).assign(x=[0.5, value, 0.2])
    verbs = (fit.predict, fit.condition, fit.sample_functions(2), lambda rows: bm.suggest(fit, rows, 1))
    for verb in verbs:
        with refused(DataError, "x", "a finite value in every row", "'101'"):
            verb(rows.assign(metal=5.0))
    with refused(DataError, "metal", "finite targets", "infinity"):
        fit.condition(frame().head(3).assign(metal=np.inf))


def test_short_runs_say_that_they_are_short(data):
    with pytest.warns(ConvergenceWarning, match="effective sample size"):
        run = {"num_draws": 10, "num_warmup": 20, "num_effective": 10**6, "progress": False}
        bm.MultitaskGP().fit(data, method="exact", seed=0, **run)


def test_rows_by_themselves_have_the_same_mean_and_spread(fit):
    new = frame().drop(columns="metal")
    joint, alone = fit.predict(new, num_draws=4000), fit.predict(new, num_draws=4000, joint=False)
    np.testing.assert_allclose(joint.mean, alone.mean, rtol=1e-8)
    np.testing.assert_allclose(joint.sd, alone.sd, rtol=0.12)  # 5 standard errors of each
