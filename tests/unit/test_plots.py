"""Plots: the right things under the right names, names that stay legible, errors that say what to pass."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.patches import Rectangle
from matplotlib.text import Text

import bayesmtl as bm
from bayesmtl.errors import DataError, MissingDependencyError, SpecificationError, UnknownTaskError
from bayesmtl.plots import style
from bayesmtl.plots.similarity import cluster_order

LONG = "comprehensive school no. "


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def task_names(num_tasks: int, prefix: str = "school_") -> list[str]:
    return [f"{prefix}{i}" for i in range(num_tasks)]


def similarity_of(num_tasks: int, prefix: str = "school_", seed: int = 0) -> bm.TaskSimilarity:
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(num_tasks, 3)) + 0.5 * rng.normal(size=(60, num_tasks, 3))
    loadings /= np.linalg.norm(loadings, axis=-1, keepdims=True)
    values = loadings @ np.swapaxes(loadings, 1, 2)
    names = task_names(num_tasks, prefix)
    coords = {"draw": np.arange(60), "task": names, "task_other": names}
    draws = xr.DataArray(values, coords=coords, dims=("draw", "task", "task_other"))
    return bm.TaskSimilarity(draws, "correlation of functions")


def coefficients_of(num_tasks: int, shrink: float, prefix: str = "school_") -> pd.DataFrame:
    rng = np.random.default_rng(1)
    features = ["Intercept", "dose"]
    index = pd.MultiIndex.from_product([task_names(num_tasks, prefix), features], names=["task", "feature"])
    mean = 1 + shrink * rng.normal(size=len(index))
    return pd.DataFrame({"mean": mean, "sd": 0.5, "lower": mean - 0.8, "upper": mean + 0.8}, index=index)


def shrinkage_of(num_tasks: int, prefix: str = "school_", **options):
    frames = [coefficients_of(num_tasks, shrink, prefix) for shrink in (1.0, 0.5, 0.0)]
    return bm.plots.shrinkage(*frames, "dose", **options)


def shown(labels) -> list:
    return [label for label in labels if label.get_text()]


def assert_legible(axis, minimum: float = style.SMALLEST) -> None:
    """Labels are large enough and do not run into each other in the drawn figure."""
    figure = axis.get_figure()
    figure.canvas.draw()
    labels = shown(axis.get_ticklabels())
    assert all(label.get_fontsize() >= minimum for label in labels)
    boxes = [label.get_window_extent() for label in labels]
    sides = ("x0", "x1") if axis.axis_name == "x" else ("y0", "y1")
    extents = sorted((getattr(box, sides[0]), getattr(box, sides[1])) for box in boxes)
    # a box has some air above and below its glyphs: a pixel of overlap is none of the ink
    overlaps = [a[1] - b[0] for a, b in zip(extents, extents[1:], strict=False)]
    assert max(overlaps, default=0) <= 1.0


@pytest.mark.parametrize(
    ("num_tasks", "prefix"), [(1, "lab "), (3, ""), (3, LONG), (20, LONG), (65, LONG), (139, ""), (139, LONG)]
)
def test_task_names_are_legible_at_any_number_of_tasks(num_tasks, prefix):
    heatmap = bm.plots.similarity(similarity_of(num_tasks, prefix))
    assert_legible(heatmap.xaxis)
    assert_legible(heatmap.yaxis)
    assert_legible(shrinkage_of(num_tasks, prefix).xaxis)


@pytest.mark.parametrize("num_tasks", [3, 65])
def test_every_name_is_shown_while_there_is_room(num_tasks):
    heatmap = bm.plots.similarity(similarity_of(num_tasks))
    for labels in (heatmap.get_xticklabels(), heatmap.get_yticklabels()):
        assert sorted(label.get_text() for label in labels) == sorted(task_names(num_tasks))
    labels = shrinkage_of(num_tasks).get_xticklabels()
    assert sorted(label.get_text() for label in labels) == sorted(task_names(num_tasks))


def test_names_are_thinned_evenly_when_there_is_no_room():
    ticks = bm.plots.similarity(similarity_of(139)).get_yticks()
    assert 139 / 3 < len(ticks) < 139
    assert len(set(np.diff(ticks))) == 1


def test_names_are_thinned_to_the_axes_that_are_given():
    figure, ax = plt.subplots(figsize=(3, 3))
    assert bm.plots.similarity(similarity_of(65), ax=ax) is ax
    assert len(ax.get_yticks()) < 33
    assert_legible(ax.yaxis)
    assert figure.axes[0] is ax


def test_similarity_puts_alike_tasks_side_by_side():
    truth = np.array([1.0, -1.0, 1.0, -1.0])  # a and c are alike, b and d are
    values = np.outer(truth, truth) * np.linspace(0.7, 0.9, 40)[:, None, None]
    names = list("abcd")
    draws = xr.DataArray(
        values, coords={"task": names, "task_other": names}, dims=("draw", "task", "task_other")
    )
    ax = bm.plots.similarity(bm.TaskSimilarity(draws, "correlation"))
    order = "".join(label.get_text() for label in ax.get_xticklabels())
    assert {order[:2], order[2:]} <= {"ac", "ca", "bd", "db"}
    assert order == "".join(label.get_text() for label in ax.get_yticklabels())


def test_cluster_order_takes_missing_similarities():
    mean = np.array([[1.0, np.nan, 0.9], [np.nan, np.nan, np.nan], [0.9, np.nan, 1.0]])
    order = cluster_order(mean).tolist()
    assert sorted(order) == [0, 1, 2]
    assert abs(order.index(0) - order.index(2)) == 1


def three_tasks(pairs: dict[tuple[int, int], np.ndarray]) -> bm.TaskSimilarity:
    values = np.ones((len(next(iter(pairs.values()))), 3, 3))
    for (i, j), draws in pairs.items():
        values[:, i, j] = values[:, j, i] = draws
    names = list("abc")
    array = xr.DataArray(
        values, coords={"task": names, "task_other": names}, dims=("draw", "task", "task_other")
    )
    return bm.TaskSimilarity(array, "correlation")


def test_similarity_shows_how_sure_a_cell_is():
    sure = np.linspace(0.5, 0.9, 100)
    likely = np.linspace(-0.3, 0.7, 100)  # P(>0) = 0.7
    even = np.linspace(-0.5, 0.5, 100)
    ax = bm.plots.similarity(three_tasks({(0, 1): sure, (0, 2): likely, (1, 2): even}))
    cells = next(c for c in ax.collections if isinstance(c, PolyCollection))
    sides = {tuple(sorted(p.vertices.mean(axis=0))): np.ptp(p.vertices[:, 0]) for p in cells.get_paths()}
    measured = sorted(set(np.round(list(sides.values()), 6)))
    assert measured == pytest.approx([0.94 * 0.75 * 0.4, 0.94], abs=0.02)  # and no square for the even one
    written = {text.get_text() for text in ax.texts}
    assert "0.70\n0.52 to 0.88" in written
    assert len(ax.texts) == 6  # none on the diagonal


def test_mass_of_the_interval_is_used_and_named():
    pairs = {(0, 1): np.linspace(-0.1, 0.9, 200), (0, 2): np.full(200, 0.5), (1, 2): np.full(200, 0.5)}
    wide = bm.plots.similarity(three_tasks(pairs), mass=0.9)
    narrow = bm.plots.similarity(three_tasks(pairs), mass=0.5)
    assert "90 % interval" in wide.get_title(loc="left")
    assert "50 % interval" in narrow.get_title(loc="left")

    def filled(ax):
        cells = next(c for c in ax.collections if isinstance(c, PolyCollection))
        return sum(np.ptp(path.vertices[:, 0]) > 0.9 for path in cells.get_paths())

    assert (filled(wide), filled(narrow)) == (4, 6)


def test_similarity_shows_opacity_for_many_tasks():
    task_similarity = similarity_of(100)
    ax = bm.plots.similarity(task_similarity)
    opacity = ax.images[0].get_alpha()
    assert opacity.shape == (100, 100)
    assert (np.diag(opacity) == 0).all()
    assert opacity.min() >= 0 and opacity.max() == 1
    assert "Paler" in ax.get_title(loc="left")


def test_colours_have_a_labelled_bar_of_the_whole_range():
    ax = bm.plots.similarity(similarity_of(3))
    bar = next(other for other in ax.figure.axes if other is not ax)
    assert bar.get_ylabel() == "posterior mean of the similarity"
    assert bar.get_ylim() == (-1, 1)


def test_similarity_that_does_not_exist_is_left_blank():
    values = {(0, 1): np.full(20, np.nan), (0, 2): np.full(20, 0.5), (1, 2): np.full(20, np.nan)}
    ax = bm.plots.similarity(three_tasks(values))
    assert len(ax.texts) == 2


FUNCTIONS = "correlation of the tasks' functions under the prior given the draw"


@pytest.mark.parametrize(("num_tasks", "prefix"), [(3, "s"), (5, LONG), (8, "lab_"), (8, LONG)])
def test_numbers_stay_inside_their_cells_and_the_title_inside_the_figure(num_tasks, prefix):
    task_similarity = replace(similarity_of(num_tasks, prefix), meaning=FUNCTIONS)
    ax = bm.plots.similarity(task_similarity)
    ax.figure.canvas.draw()
    cell = ax.get_window_extent().width / num_tasks
    assert len(ax.texts) == num_tasks * (num_tasks - 1)
    assert max(text.get_window_extent().width for text in ax.texts) < cell
    assert all("to" in text.get_text() for text in ax.texts)
    title = next(c for c in ax.get_children() if isinstance(c, Text) and "Filled" in c.get_text())
    box, page = title.get_window_extent(), ax.figure.bbox
    assert box.x0 >= page.x0 and box.x1 <= page.x1 and box.y1 <= page.y1
    assert_legible(ax.xaxis)


@pytest.mark.parametrize(("side", "lines"), [(12.0, 2), (6.0, 1), (3.0, 0)])
def test_numbers_are_written_as_there_is_room(side, lines):
    _, ax = plt.subplots(figsize=(side, side))
    bm.plots.similarity(similarity_of(8), ax=ax)
    written = {1 + text.get_text().count("\n") for text in ax.texts}
    assert written == ({lines} if lines else set())


def test_shrinkage_draws_the_numbers_of_the_frames():
    separate, shared, pooled = (coefficients_of(5, shrink) for shrink in (1.0, 0.5, 0.0))
    ax = bm.plots.shrinkage(separate, shared, pooled, "dose")
    ours = shared.xs("dose", level="feature")["mean"].sort_values()
    assert [label.get_text() for label in ax.get_xticklabels()] == list(ours.index)
    drawn = {line.get_label(): line.get_ydata() for line in ax.lines}
    np.testing.assert_allclose(drawn["shared, with interval"], ours)
    alone = separate.xs("dose", level="feature")["mean"].loc[ours.index]
    np.testing.assert_allclose(drawn["separate"], alone)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "pooled",
        "separate",
        "shared, with interval",
    ]
    assert ax.get_ylabel() == "weight of dose"


def test_shrinkage_of_chosen_tasks():
    ax = shrinkage_of(10, tasks=["school_3", "school_7"])
    assert {label.get_text() for label in ax.get_xticklabels()} == {"school_3", "school_7"}


@pytest.mark.parametrize("num_tasks", [1, 3, 139])
def test_legends_and_titles_stay_inside_the_figure(num_tasks):
    shrinkage, heatmap = shrinkage_of(num_tasks), bm.plots.similarity(similarity_of(num_tasks))
    titles = [child for child in heatmap.get_children() if isinstance(child, Text)]
    title = next(child for child in titles if child.get_text() == heatmap.get_title(loc="left"))
    for ax, artist in ((shrinkage, shrinkage.get_legend()), (heatmap, title)):
        ax.figure.canvas.draw()
        box, page = artist.get_window_extent(), ax.figure.bbox
        assert box.x0 >= page.x0 and box.x1 <= page.x1
        assert box.y0 >= page.y0 and box.y1 <= page.y1


def test_shrinkage_names_what_is_wrong():
    good, other = coefficients_of(3, 0.5), coefficients_of(2, 1.0)
    with pytest.raises(
        SpecificationError, match=r"`feature`: expected a feature of `separate` \('Intercept', "
    ):
        bm.plots.shrinkage(good, good, good, "doze")
    with pytest.raises(UnknownTaskError, match="`separate`.*none of 'school_2'"):
        bm.plots.shrinkage(other, good, good, "dose")
    with pytest.raises(DataError, match=r"`pooled`.*Pass fit.coefficients\(\)"):
        bm.plots.shrinkage(good, good, {"dose": 1.0}, "dose")
    with pytest.raises(DataError, match="`shared`"):
        bm.plots.shrinkage(good, good.drop(columns="lower"), good, "dose")
    assert not plt.get_fignums()


@pytest.fixture(scope="module")
def labs() -> tuple[bm.TaskData, bm.Fit]:
    rng = np.random.default_rng(0)
    n = 60
    frame = pd.DataFrame(
        {
            "lab": np.repeat(["north", "south", "east"], n // 3),
            "dose": rng.uniform(0, 10, n),
            "treated": rng.random(n) < 0.5,
            "age": rng.normal(40, 5, n),
        }
    )
    frame["response"] = 2 + 0.7 * frame["dose"] + frame["treated"] + rng.normal(size=n)
    frame.loc[3, "response"] = np.nan
    data = bm.TaskData.from_frame(frame, task="lab", target="response", features=["dose", "treated"])
    return data, bm.LinearModel().fit(data, method="empirical_bayes", seed=0, num_draws=50, progress=False)


def test_predictions_draw_the_rows_of_one_task(labs):
    data, fit = labs
    ax = bm.plots.predictions(data, fit.predict(data), "dose", task="north")
    points = np.concatenate([line.get_xydata() for line in ax.lines if line.get_marker() == "o"])
    here = data.task == data.task_names.index("north")
    dose = data.X[here, data.feature_names.index("dose")]
    np.testing.assert_allclose(np.sort(points[:, 0]), np.sort(dose))
    assert np.isfinite(points[:, 1]).sum() == 19
    assert ax.get_title() == "lab north: 19 rows"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("dose", "response")
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend[-1] == "90 % interval of a new observation"
    assert len(legend) == 3 and all(text.startswith("mean, treated") for text in legend[:2])


@pytest.mark.parametrize(("feature", "num_drawn"), [("x0", 1), ("dose", 2), ("treated", 1)])
def test_the_legend_shows_intervals_as_they_are_drawn(labs, feature, num_drawn):
    """One band, two of different colours, and bars: in a colour that is nowhere they would be looked for."""
    data, fit = labs
    if feature == "x0":
        data = bm.TaskData.from_arrays([[0.0], [1.0], [2.0], [3.0]], [1.0, 2.2, 2.9, 4.1], list("aaaa"))
        fit = bm.LinearModel().fit(data, method="empirical_bayes", seed=0, num_draws=50, progress=False)
    ax = bm.plots.predictions(data, fit.predict(data), feature, task=data.task_names[0])
    drawn = [c for c in ax.collections if isinstance(c, (PolyCollection, LineCollection))]
    assert len(drawn) == num_drawn
    legend = ax.get_legend()
    shown = [patch.get_facecolor() for patch in legend.findobj(Rectangle)]
    if feature == "treated":
        line = legend.get_lines()[-1]
        shown = [to_rgba(line.get_color(), line.get_alpha())]
    looks = [c.get_color() if isinstance(c, LineCollection) else c.get_facecolor() for c in drawn]
    np.testing.assert_allclose(shown, np.concatenate(looks))


def test_predictions_of_the_function(labs):
    data, fit = labs
    ax = bm.plots.predictions(data, fit.predict(data, kind="latent"), "dose", task="south", mass=0.8)
    assert ax.get_legend().get_texts()[-1].get_text() == "80 % interval of the task's function"


def test_predictions_draw_a_bar_per_row_when_other_features_vary_freely(labs):
    data, fit = labs
    ax = bm.plots.predictions(data, fit.predict(data), "treated", task="east")
    means = next(line for line in ax.lines if line.get_label() == "mean")
    assert len(means.get_xdata()) == 20
    assert len(set(means.get_xdata())) == 20  # side by side, not on top of each other
    assert ax.get_xticks().tolist() == [0, 1]


def test_predictions_of_a_task_never_seen(labs):
    data, fit = labs
    frame = pd.DataFrame({"lab": "west", "dose": [0.0, 5.0, 9.0], "treated": False, "response": np.nan})
    frame.loc[0, "response"] = 2.5
    new = bm.TaskData.from_frame(frame, task="lab", target="response", features=["dose", "treated"])
    ax = bm.plots.predictions(new, fit.predict(frame, new_tasks="population"), "dose")
    assert ax.get_title() == "lab west: 1 row, never seen by the fit"


def test_predictions_name_what_is_wrong(labs):
    data, fit = labs
    prediction = fit.predict(data)
    with pytest.raises(SpecificationError, match="`feature`.*'doze'"):
        bm.plots.predictions(data, prediction, "doze", task="north")
    with pytest.raises(SpecificationError, match="`task`.*Pass task='east'"):
        bm.plots.predictions(data, prediction, "dose")
    with pytest.raises(UnknownTaskError, match="`task`.*'west'"):
        bm.plots.predictions(data, prediction, "dose", task="west")
    with pytest.raises(DataError, match=r"`prediction`.*Pass fit.predict\(data\)"):
        bm.plots.predictions(data, fit.predict(data.select_tasks(["north"])), "dose", task="north")
    with pytest.raises(SpecificationError, match="mass"):
        bm.plots.predictions(data, prediction, "dose", task="north", mass=90)
    with pytest.raises(SpecificationError, match=r"Pass fit.task_similarity\(\)"):
        bm.plots.similarity(fit)
    assert not plt.get_fignums()


def test_plots_draw_on_the_axes_given_and_make_no_figure(labs):
    data, fit = labs
    _, axes = plt.subplots(3)
    bm.plots.similarity(similarity_of(4), ax=axes[0])
    shrinkage_of(4, ax=axes[1])
    bm.plots.predictions(data, fit.predict(data), "dose", task="north", ax=axes[2])
    assert len(plt.get_fignums()) == 1


def test_colours_differ_in_lightness():
    lightness = [
        np.dot([0.2126, 0.7152, 0.0722], np.array(to_rgb(c)) ** 2.2) for c in (style.BLUE, style.PURPLE)
    ]
    assert abs(lightness[0] - lightness[1]) > 0.1


def test_the_package_can_be_imported_without_matplotlib():
    code = "import sys; sys.modules['matplotlib'] = None; import bayesmtl; bayesmtl.plots.similarity"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_matplotlib_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "bayesmtl\[plots\]"'):
        bm.plots.similarity(similarity_of(3))
    with pytest.raises(ImportError):
        shrinkage_of(3)


# functions


def functions_of(tasks: list[str], num_each: int = 5):
    rng = np.random.default_rng(0)
    names = np.repeat(tasks, num_each)
    grid = pd.DataFrame({"x0": np.tile(np.linspace(0, 1, num_each)[::-1], len(tasks)), "task": names})
    draws = rng.normal(size=(50, len(grid)))
    coords = {"draw": np.arange(50), "obs": np.arange(len(grid)), "task": ("obs", names)}
    array = xr.DataArray(draws, coords=coords, dims=("draw", "obs"))
    new = names == "unknown"
    return grid, bm.Prediction(array, draws.mean(0), "latent", new, "yield", grid.index)


def test_functions_have_a_panel_per_task_with_line_band_and_rows():
    grid, prediction = functions_of(["b", "a", "unknown"])
    data = bm.TaskData.from_arrays([[0.2], [0.4], [0.6]], [1.0, 2.0, 3.0], ["a", "a", "b"])
    axes = bm.plots.functions(grid, prediction, "x0", data)
    assert [ax.get_title() for ax in axes] == ["b", "a", "unknown (never seen)"]
    line, points = axes[1].lines
    np.testing.assert_allclose(line.get_xdata(), np.linspace(0, 1, 5))  # sorted along the input
    np.testing.assert_allclose(line.get_ydata(), prediction.mean[5:10][::-1])
    np.testing.assert_allclose(points.get_ydata(), [1.0, 2.0])
    assert len(axes[2].lines) == 1 and all(
        any(isinstance(c, PolyCollection) for c in ax.collections) for ax in axes
    )
    assert axes[0].get_ylabel() == "yield" and {ax.get_xlabel() for ax in axes} == {"x0"}
    assert axes[0].get_ylim() == axes[2].get_ylim()


def test_functions_refuse_what_they_cannot_draw():
    grid, prediction = functions_of(["a"])
    with pytest.raises(DataError, match="a prediction of the 4 rows"):
        bm.plots.functions(grid.iloc[1:], prediction, "x0")
    with pytest.raises(SpecificationError, match="a column of `grid`"):
        bm.plots.functions(grid, prediction, "dose")
    other = bm.TaskData.from_arrays([[0.2], [0.4]], [1.0, 2.0], ["a", "a"], feature_names=["depth"])
    with pytest.raises(SpecificationError, match="a feature of the data.*'depth'.*found 'x0'"):
        bm.plots.functions(grid, prediction, "x0", other)
    with pytest.raises(SpecificationError, match="mass"):
        bm.plots.functions(grid, prediction, "x0", mass=90)
    assert not plt.get_fignums()
    with pytest.raises(SpecificationError, match="at most 24 tasks"):
        bm.plots.functions(*functions_of(task_names(25)), "x0")


def test_maps_draw_mean_and_spread_of_one_task():
    rng = np.random.default_rng(0)
    X = rng.uniform(0, 1, (24, 2))
    data = bm.TaskData.from_arrays(X, X[:, 0] + 0.1 * rng.normal(size=24), np.repeat(["a", "b"], 12))
    fit = bm.MultitaskGP().fit(data, method="empirical_bayes", seed=0, progress=False)
    lattice = [(x, z) for x in np.linspace(0, 1, 6) for z in np.linspace(0, 1, 6)]
    grid = pd.DataFrame(lattice * 2, columns=["x0", "x1"]).assign(task=np.repeat(["a", "b"], 36))
    prediction = fit.predict(grid, kind="latent", joint=False)
    mean, spread = bm.plots.maps(grid, prediction, ["x0", "x1"], "b", data)
    assert (mean.get_title(), spread.get_title()) == ("b: mean", "b: standard deviation")
    assert (mean.get_xlabel(), mean.get_ylabel()) == ("x0", "x1")
    marked = mean.lines[0].get_xydata()
    np.testing.assert_array_equal(marked, X[12:])
    low, high = mean.collections[0].get_clim()
    wanted = prediction.mean[36:]
    assert low <= wanted.min() and high >= wanted.max()
    mean.figure.canvas.draw()  # layout is decided here
    with pytest.raises(bm.errors.SpecificationError, match="two columns"):
        bm.plots.maps(grid, prediction, ["x0"], "b")
    with pytest.raises(bm.errors.DataError, match="at least three rows"):
        bm.plots.maps(grid, prediction, ["x0", "x1"], "c")
    with pytest.raises(bm.errors.DataError, match="a prediction of the 5 rows"):
        bm.plots.maps(grid.head(5), prediction, ["x0", "x1"], "b")


def maps_of(x: np.ndarray, z: np.ndarray, data: bm.TaskData | None = None):
    """Maps of rows of task "a" at these places, with made-up draws."""
    grid = pd.DataFrame({"x": x, "z": z, "task": "a"})
    draws = np.random.default_rng(0).normal(size=(20, len(grid))) + x
    coords = {"draw": np.arange(20), "obs": np.arange(len(grid)), "task": ("obs", grid["task"])}
    array = xr.DataArray(draws, coords=coords, dims=("draw", "obs"))
    new = np.zeros(len(grid), dtype=bool)
    prediction = bm.Prediction(array, draws.mean(0), "latent", new, "yield", grid.index)
    return bm.plots.maps(grid, prediction, ["x", "z"], "a", data)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4])
def test_maps_fill_the_figure_whatever_the_units_of_the_inputs(scale):
    x, z = (part.ravel() for part in np.meshgrid(np.linspace(0, 5, 5), np.linspace(0, 5, 5)))
    for ax in maps_of(x, scale * z):
        ax.figure.canvas.draw()
        box = ax.get_window_extent()
        assert min(box.width, box.height) > 0.5 * ax.figure.bbox.height
        if scale == 1.0:  # lengths in one unit: circles are circles
            assert box.width == pytest.approx(box.height, rel=1e-3)


def test_maps_refuse_what_has_no_area_or_no_such_feature():
    line = np.linspace(0, 1, 6)
    with pytest.raises(DataError, match="spread over both 'x' and 'z'.*found rows on one line"):
        maps_of(line, 3.0 - 2.0 * line)
    with pytest.raises(DataError, match="found rows on one line"):
        maps_of(line, np.full(6, 1e6))
    data = bm.TaskData.from_arrays([[0.2, 1.0], [0.4, 2.0]], [1.0, 2.0], ["a", "a"], feature_names=["x", "w"])
    with pytest.raises(SpecificationError, match="`features`: expected a feature of the data.*'z'"):
        maps_of(line, line**2, data)
    assert not plt.get_fignums()


# relations


def test_relations_tell_pairs_with_long_names_apart():
    ax = bm.plots.relations(similarity_of(5, LONG))
    assert_legible(ax.yaxis)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    ends = {tuple(name[-1] for name in label.split(", ")) for label in labels}
    assert len(ends) == 10 and all("…" in label for label in labels)
    box, page = ax.get_tightbbox(), ax.figure.bbox
    assert box.x0 >= page.x0 and box.x1 <= page.x1
    assert ax.get_window_extent().width > 0.35 * page.width


def test_relations_draw_means_intervals_and_signs():
    rng = np.random.default_rng(0)
    names = ["a", "b", "c"]
    values = np.tile(np.eye(3), (400, 1, 1))
    for (t, u), mean in {(0, 1): 0.8, (0, 2): -0.7, (1, 2): 0.02}.items():
        values[:, t, u] = values[:, u, t] = mean + 0.05 * rng.normal(size=400)
    coords = {"task": names, "task_other": names}
    draws = xr.DataArray(values, coords=coords, dims=("draw", "task", "task_other"))
    ax = bm.plots.relations(bm.TaskSimilarity(draws, "correlation"), mass=0.8)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a, b", "b, c", "a, c"]
    lines, points = ax.collections
    found = np.array([segment[:, 0] for segment in lines.get_segments()])
    expected = np.quantile(values[:, [0, 1, 0], [1, 2, 2]], [0.1, 0.9], axis=0).T
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(points.get_offsets()[:, 0], values[:, [0, 1, 0], [1, 2, 2]].mean(0))
    colours = [to_rgb(colour) for colour in (style.BLUE, style.GREY, style.ORANGE)]
    assert [tuple(colour[:3]) for colour in lines.get_colors()] == colours
    assert "80 % interval" in ax.get_title(loc="left") and ax.get_xlabel() == "correlation"


def test_relations_of_many_tasks_are_the_largest():
    task_similarity = similarity_of(20)
    ax = bm.plots.relations(task_similarity, num_pairs=12)
    drawn = ax.collections[1].get_offsets()[:, 0]
    means = task_similarity.to_frame()["mean"].to_numpy()
    assert len(drawn) == 12 and np.abs(drawn).min() >= np.sort(np.abs(means))[-12]
    assert (np.diff(drawn) <= 0).all()
    assert ax.get_title(loc="left").startswith("12 of 190 pairs")


@pytest.mark.parametrize("number", [0, 2.5, True])
def test_relations_of_no_pairs(number):
    with pytest.raises(SpecificationError, match=r"^`num_pairs`: expected a whole number"):
        bm.plots.relations(similarity_of(3), num_pairs=number)


def test_relations_need_a_similarity():
    with pytest.raises(SpecificationError, match=r"^`task_similarity`: expected a TaskSimilarity"):
        bm.plots.relations(np.eye(3))
    with pytest.raises(SpecificationError, match=r"^`task_similarity`: expected at least one pair"):
        bm.plots.relations(similarity_of(1))
