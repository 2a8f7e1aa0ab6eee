"""Which tasks are alike: a heatmap that shows how sure each cell is."""

from __future__ import annotations

import textwrap
import warnings
from typing import TYPE_CHECKING

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from bayesmtl.errors import SpecificationError
from bayesmtl.plots.style import (
    PALE,
    axis_inches,
    characters,
    label_inches,
    label_tasks,
    matplotlib_module,
    new_axes,
    percent,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmtl.results import TaskSimilarity

_WITH_NUMBERS = 8  # up to so many tasks the numbers fit into the cells
_CELL, _CELL_OF_INTERVAL, _CELL_OF_MEAN = 1.05, 0.9, 0.4  # inches of a cell with numbers, and the least
_WITH_SQUARES = 80  # up to so many tasks the sizes of squares can be told apart
_UNSURE = 0.75  # largest side or opacity of a cell whose interval holds 0


def similarity(task_similarity: TaskSimilarity, ax: Axes | None = None, mass: float = 0.9) -> Axes:
    """Draw the similarity of all pairs of tasks, alike tasks side by side.

    Colour is the posterior mean. A cell is filled, with full colour, where the interval excludes 0; where it
    does not, it holds a square whose side is proportional to |2 P(>0) - 1|, nothing at all for a sign that is
    as likely as not. With more than 80 tasks the squares would be too small, and opacity takes their place.
    The diagonal says nothing and is left out, as are pairs without a similarity (a function that does not
    vary).

    Args:
        task_similarity: From `fit.task_similarity()`.
        ax: Where to draw; default a new figure.
        mass: Mass of the interval.

    Returns:
        The axes. The tasks along them are ordered by hierarchical clustering (average linkage of
        1 - mean, leaves in the order that puts the most similar next to each other).

    Raises:
        SpecificationError: If this is no TaskSimilarity, or `mass` is not between 0 and 1.
        MissingDependencyError: If matplotlib is not installed.

    Example:
        >>> import matplotlib
        >>> matplotlib.use("Agg")
        >>> import xarray as xr
        >>> from bayesmtl.results import TaskSimilarity
        >>> values = np.random.default_rng(0).uniform(-1, 1, size=(50, 3, 3))
        >>> coords = {"task": ["a", "b", "c"], "task_other": ["a", "b", "c"]}
        >>> draws = xr.DataArray(values, coords=coords, dims=("draw", "task", "task_other"))
        >>> axes = similarity(TaskSimilarity(draws, "correlation of functions"))
        >>> sorted(label.get_text() for label in axes.get_xticklabels())
        ['a', 'b', 'c']
    """
    for needed in ("draws", "interval", "probability", "meaning"):
        if not hasattr(task_similarity, needed):
            raise SpecificationError(
                "task_similarity",
                expected="a TaskSimilarity",
                found=type(task_similarity).__name__,
                remedy="Pass fit.task_similarity().",
            )
    mean = task_similarity.mean.to_numpy()
    with warnings.catch_warnings():
        # a pair without a similarity is left blank
        warnings.filterwarnings("ignore", "All-NaN slice encountered", RuntimeWarning)
        lower, upper = (bound.to_numpy() for bound in task_similarity.interval(mass))
    positive = task_similarity.probability(">0").to_numpy()
    names = [str(name) for name in task_similarity.draws["task"].to_numpy()]
    T = len(names)
    if (
        ax is None
    ):  # room for cells that hold their numbers, or a square; for names, title and colours besides
        inches = max(_CELL * T, 3.5) if T <= _WITH_NUMBERS else float(np.clip(1.5 + 0.13 * T, 4.0, 11.0))
        room = label_inches([shorten(name) for name in names])
        ax = new_axes(1.18 * inches + room + 1.0, inches + room + 1.0)
    else:
        inches = min(axis_inches(ax, "x"), axis_inches(ax, "y"))
    order = cluster_order(mean)
    mean, lower, upper, positive = (a[np.ix_(order, order)] for a in (mean, lower, upper, positive))
    size = np.where((lower > 0) | (upper < 0), 1.0, _UNSURE * np.abs(2 * positive - 1))
    size = np.where(np.isnan(positive), _UNSURE, size)  # held fixed: nothing says how sure it is
    size = np.where(np.isnan(mean) | np.eye(T, dtype=bool), 0.0, size)

    _draw_cells(ax, np.nan_to_num(mean), size)
    ordered = [names[i] for i in order]
    label_tasks(ax, ordered, "x", inches)
    label_tasks(ax, ordered, "y", inches)
    how = "Smaller square" if T <= _WITH_SQUARES else "Paler"
    size_of_title = 9 if T <= _WITH_NUMBERS else 11
    said = textwrap.fill(f"Similarity of tasks: {task_similarity.meaning}", characters(inches, size_of_title))
    ax.set_title(
        f"{said}\nFilled: {percent(mass)} interval excludes 0.\n{how}: the sign is less sure.",
        loc="left",
        fontsize=size_of_title,
    )
    if T <= _WITH_NUMBERS:
        _write_numbers(ax, mean, lower, upper, inches / T)
    return ax


def cluster_order(mean: np.ndarray) -> np.ndarray:
    """Positions of the tasks in the order of a hierarchical clustering with distance 1 - mean.

    Example:
        >>> cluster_order(np.array([[1, -0.9, 0.8], [-0.9, 1, -0.7], [0.8, -0.7, 1]])).tolist()
        [1, 2, 0]
    """
    if len(mean) < 3:
        return np.arange(len(mean))
    distance = 1 - np.nan_to_num((mean + mean.T) / 2)
    np.fill_diagonal(distance, 0.0)
    condensed = np.clip(squareform(distance, checks=False), 0.0, None)
    # putting the leaves in the best order takes a time that grows with the cube of their number
    tree = linkage(condensed, method="average", optimal_ordering=len(mean) <= 500)
    return np.asarray(leaves_list(tree))


def _draw_cells(ax: Axes, mean: np.ndarray, size: np.ndarray) -> None:
    T = len(mean)
    ax.set_facecolor(PALE)
    norm = matplotlib_module("colors").Normalize(-1, 1)
    colours = matplotlib_module("pyplot").get_cmap("RdBu_r")
    if T <= _WITH_SQUARES:
        row, column = np.nonzero(size > 0)
        half = 0.47 * size[row, column, None]
        corners = np.stack(
            [
                column[:, None] + half * np.array([-1, 1, 1, -1]),
                row[:, None] + half * np.array([-1, -1, 1, 1]),
            ],
            axis=-1,
        )
        cells = matplotlib_module("collections").PolyCollection(
            corners, array=mean[row, column], cmap=colours, norm=norm, edgecolors="none"
        )
        ax.add_collection(cells)
    else:
        ax.imshow(mean, cmap=colours, norm=norm, alpha=size, interpolation="nearest")
    ax.set(xlim=(-0.5, T - 0.5), ylim=(T - 0.5, -0.5), aspect="equal")
    scale = matplotlib_module("cm").ScalarMappable(norm=norm, cmap=colours)
    bar = ax.figure.colorbar(scale, ax=ax, shrink=0.7, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.set_label("posterior mean of the similarity")


def _write_numbers(ax: Axes, mean: np.ndarray, lower: np.ndarray, upper: np.ndarray, cell: float) -> None:
    """Mean and interval, the mean alone, or nothing, as there is room in cells of so many inches."""
    if cell < _CELL_OF_MEAN:
        return
    # a white ground keeps them legible on a square of any size and colour
    ground = {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "boxstyle": "round,pad=0.2"}
    for row, column in np.ndindex(*mean.shape):
        if row == column or np.isnan(mean[row, column]):
            continue
        text = f"{mean[row, column]:.2f}"
        if cell >= _CELL_OF_INTERVAL and not np.isnan(lower[row, column]):
            text += f"\n{lower[row, column]:.2f} to {upper[row, column]:.2f}"
        ax.text(column, row, text, ha="center", va="center", fontsize=8, bbox=ground)
