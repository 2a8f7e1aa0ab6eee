"""Summaries of a posterior over partitions, on draws small enough to check by hand or by a plain loop."""

import importlib
import itertools
import warnings
from dataclasses import replace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

import bayesmtl as bm
from bayesmtl.errors import ConvergenceWarning, SpecificationError
from bayesmtl.plots.style import ORANGE
from bayesmtl.results.partition import variation_of_information
from tests.conftest import TINY
from tests.equivalence.partitions import all_partitions


def partition_of(draws, names=None) -> bm.Partition:
    draws = np.asarray(draws)
    names = [f"lab_{t}" for t in range(draws.shape[1])] if names is None else names
    return bm.Partition(xr.DataArray(draws, {"task": names}, ("draw", "task"), attrs={"task_column": "lab"}))


@pytest.fixture
def doubtful() -> bm.Partition:
    """Labs 0 and 1 always together, 3 and 4 mostly, 2 now here, now there; labels mean nothing."""
    return partition_of([[0, 0, 0, 1, 1], [5, 5, 5, 2, 2], [1, 1, 0, 0, 0], [0, 0, 0, 1, 2]])


def plain_vi(first, second) -> float:
    """Joint and marginal entropies, written out."""

    def entropy(labels) -> float:
        share = np.unique(labels, return_counts=True, axis=0)[1] / len(first)
        return float(-(share * np.log2(share)).sum())

    return 2 * entropy(np.stack([first, second], axis=1)) - entropy(first) - entropy(second)


def test_variation_of_information_is_that_of_the_books():
    partitions = all_partitions(5).numpy()
    for partition in partitions[::7]:
        found = variation_of_information(partition, partitions)
        expected = [plain_vi(partition, other) for other in partitions]
        np.testing.assert_allclose(found, expected, atol=1e-12)
    # labels mean nothing
    assert variation_of_information(np.array([7, 7, 0]), np.array([[0, 0, 3]]))[0] == pytest.approx(0)


def test_co_clustering_by_name(doubtful):
    together = doubtful.co_clustering
    assert together.sel(task="lab_0", task_other="lab_1") == 1
    assert together.sel(task="lab_2", task_other="lab_0") == 0.75
    assert together.sel(task="lab_4", task_other="lab_3") == 0.75
    assert together.sel(task="lab_0", task_other="lab_3") == 0
    assert np.array_equal(together, together.T) and np.all(np.diag(together) == 1)


def test_number_of_clusters(doubtful):
    assert doubtful.num_clusters.to_dict() == {2: 0.75, 3: 0.25}


def test_point_minimises_the_expected_variation_of_information(doubtful):
    """Over all 52 partitions, by enumeration."""
    draws = doubtful.draws.to_numpy()
    expected = [np.mean([plain_vi(p, draw) for draw in draws]) for p in all_partitions(5).numpy()]
    best = all_partitions(5).numpy()[int(np.argmin(expected))]
    assert variation_of_information(doubtful.point.to_numpy(), best[None])[0] == pytest.approx(0)
    assert doubtful.point.to_dict() == {"lab_0": 1, "lab_1": 1, "lab_2": 1, "lab_3": 2, "lab_4": 2}
    assert doubtful.point.index.name == "lab"
    assert doubtful.members == {1: ("lab_0", "lab_1", "lab_2"), 2: ("lab_3", "lab_4")}


def test_the_point_need_not_be_a_draw():
    """Each draw errs about another lab; the point about none."""
    truth = np.repeat([0, 1], 6)
    draws = np.tile(truth, (12, 1))
    draws[np.arange(12), np.arange(12)] = 2
    point = partition_of(draws).point.to_numpy()
    assert variation_of_information(point, truth[None])[0] == pytest.approx(0)


def test_certainty_is_expected_overlap(doubtful):
    # lab_2: the point gives it {0, 1, 2}; in three draws it has these, in one {2, 3, 4}: overlap 1 / 5
    assert doubtful.certainty["lab_2"] == pytest.approx((1 + 1 + 1 / 5 + 1) / 4)
    assert doubtful.certainty["lab_0"] == pytest.approx((1 + 1 + 2 / 3 + 1) / 4)
    assert partition_of([[0, 1, 1]] * 3).certainty.tolist() == [1, 1, 1]


def test_weights_of_clusters_by_draw(doubtful):
    """By hand: in the third draw labs 0 and 1 are two of five together, lab 2 is with 3 and 4."""
    weights = doubtful.weights
    assert weights.dims == ("draw", "cluster") and weights["cluster"].to_numpy().tolist() == [1, 2]
    np.testing.assert_allclose(weights.sel(cluster=1), [0.6, 0.6, (0.4 + 0.4 + 0.6) / 3, 0.6])
    np.testing.assert_allclose(weights.sel(cluster=2), [0.4, 0.4, 0.6, 0.2])
    summary = doubtful.summary()
    np.testing.assert_allclose(summary["weight"], weights.mean("draw"))
    assert (summary["weight_5%"] < summary["weight"]).all()
    assert (summary["weight"] < summary["weight_95%"]).all()
    certain = partition_of([[0, 1, 1]] * 3).summary()
    assert certain["weight"].tolist() == certain["share"].tolist()


def test_credible_ball(doubtful):
    draws, point = doubtful.draws.to_numpy(), doubtful.point.to_numpy()
    away = np.array([plain_vi(point, draw) for draw in draws])
    whole = doubtful.credible_ball(0.95)
    assert whole.radius == pytest.approx(away.max())
    assert whole.distances["furthest"] == pytest.approx(away.max())
    assert whole.distances["nearest"] == pytest.approx(away[away > 0].min())
    assert list(whole.partitions.columns) == ["point", "nearest", "furthest", "coarsest", "finest"]
    assert whole.partitions["finest"].nunique() == 3 and whole.partitions["coarsest"].nunique() == 2
    assert whole.partitions.index.name == "lab" and "95 %" in repr(whole) and "<table" in whole._repr_html_()
    # half of the draws are the point itself
    half = doubtful.credible_ball(0.5)
    assert half.radius == 0 and (half.partitions["nearest"] == half.partitions["point"]).all()
    with pytest.raises(SpecificationError, match="mass"):
        doubtful.credible_ball(1.5)


def test_frames_and_reprs(doubtful):
    frame = doubtful.to_frame()
    assert list(frame.columns) == ["cluster", "size", "certainty"] and frame.loc["lab_3", "size"] == 2
    summary = doubtful.summary()
    assert summary.loc[1, "members"] == "lab_0, lab_1, lab_2" and summary["share"].sum() == pytest.approx(1)
    assert (
        "2 clusters" in repr(doubtful) and "5 tasks" in repr(doubtful) and "<table" in doubtful._repr_html_()
    )
    escaped = partition_of([[0, 1]] * 2, ["<b>", "a"])._repr_html_()
    assert "&lt;b&gt;" in escaped and "<b>" not in escaped


def test_two_tasks_and_one():
    assert partition_of([[0, 0], [0, 1], [0, 0]]).point.tolist() == [1, 1]
    assert partition_of([[0], [0]]).point.tolist() == [1]
    assert partition_of([[0], [0]]).credible_ball().radius == 0


def test_plot_orders_and_outlines(doubtful):
    axes = bm.plots.partition(doubtful)
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert set(labels[:3]) == {"lab_0", "lab_1", "lab_2"} and set(labels[3:]) == {"lab_3", "lab_4"}
    frames = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [(p.get_x(), p.get_width()) for p in frames] == [(-0.5, 3), (2.5, 2)]
    assert {to_hex(p.get_edgecolor()).upper() for p in frames} == {ORANGE}
    shown = axes.images[0].get_array()
    order = [int(label[-1]) for label in labels]
    np.testing.assert_allclose(shown, doubtful.co_clustering.to_numpy()[np.ix_(order, order)])
    assert "2 clusters" in axes.get_title(loc="left") and "2 (0.75)" in axes.get_title(loc="left")
    own = plt.subplots()[1]
    assert bm.plots.partition(doubtful, own) is own
    many = np.tile(np.arange(90) % 4, (3, 1))
    assert not bm.plots.partition(partition_of(many)).texts
    plt.close("all")
    with pytest.raises(SpecificationError, match=r"Pass fit\.partition"):
        bm.plots.partition(doubtful.co_clustering)


def test_plots_of_numbers_and_members(doubtful):
    axes = bm.plots.num_clusters(doubtful)
    expected = doubtful.num_clusters
    assert {round(bar.get_x() + 0.35): bar.get_height() for bar in axes.patches} == expected.to_dict()
    orange = [to_hex(bar.get_facecolor()).upper() == ORANGE for bar in axes.patches]
    assert orange == [k == doubtful.point.max() for k in expected.index]
    axes = bm.plots.members(doubtful)
    names = [label.get_text() for label in axes.get_yticklabels()]
    bars = axes.containers[1]
    np.testing.assert_allclose([bar.get_width() for bar in bars], doubtful.certainty[names])
    assert doubtful.point[names].tolist() == [1, 1, 1, 2, 2]
    for first, second in ((0, 1), (1, 2), (3, 4)):
        assert doubtful.certainty[names[first]] >= doubtful.certainty[names[second]]
    assert [text.get_text() for text in axes.texts] == ["cluster 1: 60 %", "cluster 2: 40 %"]
    for plot in (bm.plots.num_clusters, bm.plots.members):
        own = plt.subplots()[1]
        assert plot(doubtful, own) is own
        with pytest.raises(SpecificationError, match=r"Pass fit\.partition"):
            plot(doubtful.co_clustering)
    plt.close("all")


# --- what a fit offers, and refuses ---


@pytest.fixture(scope="module")
def fit(lab_data) -> bm.Fit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return bm.LinearModel(bm.DirichletProcess()).fit(lab_data, seed=0, **TINY)


def test_auto_chooses_gibbs_and_says_why(fit):
    assert fit.method == "gibbs" and "partition" in fit.reason


def test_partition_of_a_fit(fit):
    found = fit.partition()
    assert found.task_names == fit.task_names and found.draws.sizes["draw"] == 80
    assert fit.partition(num_draws=10).draws.sizes["draw"] == 10
    number = fit.posterior["num_clusters"].to_numpy().ravel()
    assert found.num_clusters.to_dict() == pytest.approx(
        pd.Series(number).value_counts(normalize=True).sort_index().to_dict()
    )
    similarity = fit.task_similarity(kind="structure")
    assert "one cluster" in similarity.meaning
    np.testing.assert_allclose(similarity.mean, found.co_clustering)
    some = fit.task_similarity(kind="structure", tasks=["lab_9", "lab_1"])
    assert some.mean.sel(task="lab_9", task_other="lab_1") == found.co_clustering.sel(
        task="lab_9", task_other="lab_1"
    )


def test_the_verdict_is_on_what_labels_cannot_change(fit):
    quantities = list(fit.check().table.index)
    assert "log_density" in quantities and "num_clusters" in quantities
    assert any(name.startswith("together[lab_") for name in quantities)
    assert not any(name.startswith("cluster[") for name in quantities)


def test_chains_that_never_meet_are_told(fit):
    """Two tasks together in all draws of one chain and in none of the other: R-hat is infinite."""
    stuck = fit.draws.hyperparameters["cluster"].clone()
    stuck[0], stuck[1] = 0, 0
    stuck[1, :, 5] = 1
    draws = type(fit.draws)(
        **{**vars(fit.draws), "hyperparameters": fit.draws.hyperparameters | {"cluster": stuck}}
    )
    check = type(fit)(**{**{f: getattr(fit, f) for f in fit.__dataclass_fields__}, "draws": draws}).check()
    pair = f"together[{fit.task_names[0]} and {fit.task_names[5]}]"
    assert not check.ok and check.table.loc[pair, "r_hat"] == np.inf


def test_a_fit_without_partition_refuses(lab_fit):
    with pytest.raises(
        SpecificationError, match=r"partitions of the tasks, found Hierarchical.*DirichletProcess"
    ):
        lab_fit.partition()


@pytest.mark.parametrize(
    "sharing, method",
    list(
        itertools.product(
            [bm.Clusters(2), bm.DirichletProcess(), bm.PitmanYor()], ["exact", "empirical_bayes", "laplace"]
        )
    ),
    ids=str,
)
def test_other_engines_refuse_partitions(lab_data, sharing, method):
    engines, name = "'auto' or 'gibbs' or 'svi' or 'mean_field'", type(sharing).__name__
    wanted = rf"`method`: expected {engines} for {name} with Gaussian, found '{method}'"
    with pytest.raises(SpecificationError, match=wanted):
        bm.LinearModel(sharing).fit(lab_data, method=method, seed=0)


def test_the_bound_refuses_clusters_that_differ_in_more_than_their_mean(lab_data):
    wanted = r"`method`: expected 'auto' or 'gibbs' for Clusters with Gaussian, found 'svi'"
    with pytest.raises(SpecificationError, match=wanted):
        bm.LinearModel(bm.Clusters(2, scales="cluster")).fit(lab_data, method="svi", seed=0)


@pytest.mark.parametrize("method", ["svi", "mean_field"])
def test_the_bound_writes_no_checkpoint(lab_data, tmp_path, method):
    with pytest.raises(SpecificationError, match=f'`checkpoint`: expected none under method="{method}"'):
        bm.LinearModel(bm.Clusters(2)).fit(lab_data, method=method, seed=0, checkpoint=tmp_path / "run")


def test_gibbs_refuses_other_priors(lab_data):
    with pytest.raises(
        SpecificationError, match=r"for Hierarchical with Gaussian, found 'gibbs'.*a partition"
    ):
        bm.LinearModel().fit(lab_data, method="gibbs", seed=0)


def test_partitions_need_rows_that_are_or_can_be_made_gaussian(lab_data):
    counts = replace(lab_data, y=np.floor(np.abs(lab_data.y)))
    with pytest.raises(SpecificationError, match=r"`likelihood`: .* for DirichletProcess, found Poisson"):
        bm.LinearModel(bm.DirichletProcess(), bm.Poisson()).fit(counts, seed=0)


BAD = {
    "scales of whom": (lambda: bm.Clusters(2, scales="task"), "`scales`: expected 'common' or 'cluster'"),
    "scales of nothing": (
        lambda: bm.Clusters(2, scales="cluster", within="none"),
        """`scales`: expected "common", or "cluster" with within="diagonal\"""",
    ),
    "what basis": (lambda: bm.Clusters(2, basis="subspace"), "`basis`: expected 'mean' or 'low_rank'"),
    "a subspace within a full covariance": (
        lambda: bm.Clusters(2, basis="low_rank", rank=1, within="full"),
        '`within`: expected "none" or "diagonal" beside subspaces',
    ),
    "a subspace without a rank": (
        lambda: bm.Clusters(2, basis="low_rank"),
        "`rank`: expected a whole number of at least 1, found None",
    ),
    "a rank of nothing": (lambda: bm.Clusters(2, rank=1), "`rank`: expected None, or basis="),
    "a strength of nothing": (lambda: bm.Clusters(2, strength=1.0), "`strength`: expected None, or basis="),
    "no clusters": (lambda: bm.Clusters(0), "`num_clusters`: expected a whole number of at least 1"),
    "half a cluster": (lambda: bm.Clusters(2.5), "`num_clusters`: expected a whole number"),
    "true": (lambda: bm.Clusters(True), "`num_clusters`: expected a whole number"),
    "concentration 0": (
        lambda: bm.DirichletProcess(bm.Fixed(0.0)),
        "`concentration`: expected a number above 0",
    ),
    "concentration 0 of K": (
        lambda: bm.Clusters(2, bm.Fixed(0)),
        "`concentration`: expected a number above 0",
    ),
    "concentration below 0": (
        lambda: bm.DirichletProcess(bm.Fixed(-1.0)),
        "`value`: expected a finite number",
    ),
    "a plain number": (lambda: bm.DirichletProcess(2.0), "`concentration`: expected a prior"),
    "gamma": (lambda: bm.Gamma(shape=-1.0), "`shape`: expected a finite number above 0"),
    "discount": (
        lambda: bm.PitmanYor(discount=1.0),
        "`discount`: expected a number of at least 0 and below 1",
    ),
    "within": (
        lambda: bm.DirichletProcess(within="some"),
        "`within`: expected one of 'none', 'diagonal', 'full'",
    ),
    "mean scale": (lambda: bm.DirichletProcess(mean_scale=bm.Fixed(0.0)), "`mean_scale`"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options(name):
    make, message = BAD[name]
    with pytest.raises(SpecificationError, match=message):
        make()


def test_more_clusters_than_tasks(lab_data):
    with pytest.raises(
        SpecificationError, match=r"`num_clusters`: expected at most the number of tasks \(6\), found 7"
    ):
        bm.LinearModel(bm.Clusters(7)).fit(lab_data, seed=0, progress=False)


def test_a_task_without_rows_follows_the_prior(lab_frame):
    """It is kept: it joins clusters in proportion to their sizes, and its predictions are finite."""
    frame = lab_frame.assign(**{"yield": lab_frame["yield"].where(lab_frame["lab"] != "lab_3")})
    data = bm.TaskData.from_frame(frame, task="lab", target="yield", features=["dose", "age"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = bm.LinearModel(bm.DirichletProcess(bm.Fixed(1.0))).fit(
            data, seed=0, **(TINY | {"num_chains": 10})
        )
    found = fit.partition()
    own = found.draws.sel(task="lab_3")
    alone = (found.draws == own).sum("task") == 1
    assert found.alone["lab_3"] == pytest.approx(float(alone.mean())) and found.alone.name == "alone"
    # P(alone) = alpha / (alpha + 5) = 1 / 6; 400 draws, taken for 100 independent ones: 4 standard errors
    assert abs(float(alone.mean()) - 1 / 6) < 4 * np.sqrt(1 / 6 * 5 / 6 / 100)
    assert np.isfinite(fit.predict(frame).draws).all()


def test_too_few_clusters_to_choose_from_are_told(lab_data, monkeypatch):
    """Truncation too small: the last of the clusters there can be holds tasks."""
    module = importlib.import_module("bayesmtl.inference.partitions.variational")
    for name in ("MOST", "MOST_AT_FIRST"):
        monkeypatch.setattr(module, name, 1)
    with pytest.warns(ConvergenceWarning, match="last of the clusters there can be holds 6.0 tasks"):
        fit = bm.LinearModel(bm.DirichletProcess()).fit(
            lab_data, method="mean_field", seed=0, num_draws=10, progress=False
        )
    assert not fit.check().ok and 'method="gibbs"' in str(fit.check())


def test_one_task(lab_frame):
    frame = lab_frame[lab_frame["lab"] == "lab_2"]
    data = bm.TaskData.from_frame(frame, task="lab", target="yield", features=["dose"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = bm.LinearModel(bm.DirichletProcess()).fit(data, seed=0, **TINY)
    assert fit.partition().num_clusters.to_dict() == {1: 1.0}


def test_everything_known(lab_data):
    """No hyperparameter left to sample: only partitions and weights are."""
    sharing = bm.DirichletProcess(bm.Fixed(1.0), spread=bm.Fixed(1.0), scale=bm.Fixed(0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = bm.LinearModel(sharing, bm.Gaussian(noise=0.7)).fit(lab_data, seed=0, **TINY)
    assert (
        fit.draws.hyperparameters["cluster"].shape == (2, 40, 6) and fit.posterior["num_clusters"].std() > 0
    )
