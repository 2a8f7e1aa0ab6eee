"""The functions of several tasks side by side, each with its band and its rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayesmtl.errors import DataError, SpecificationError, listing
from bayesmtl.plots.style import BLUE, ORANGE, column_of, matplotlib_module, percent, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmtl.data import TaskData
    from bayesmtl.results import Prediction

_MOST_TASKS = 24  # panels that can still be read


def functions(
    grid: pd.DataFrame,
    prediction: Prediction,
    feature: str,
    data: TaskData | None = None,
    mass: float = 0.9,
) -> list[Axes]:
    """Draw every task's function along one input: mean and band, and its rows where data are given.

    Args:
        grid: The rows that were predicted; other inputs, if any, held fixed within a task.
        prediction: `fit.predict(grid, kind="latent")`, or of observations.
        feature: Column of `grid` on the x axis.
        data: Rows to draw as points.
        mass: Mass of the interval.

    Returns:
        The axes, one per task in the order of the grid, sharing their scales.

    Raises:
        DataError: If the prediction is not one of these rows.
        SpecificationError: If the feature is unknown, also to the data, or there are too many tasks to draw.
        MissingDependencyError: If matplotlib is not installed.

    Example:
        >>> import matplotlib
        >>> matplotlib.use("Agg")
        >>> from bayesmtl import MultitaskGP, TaskData
        >>> data = TaskData.from_arrays([[0.0], [1.0], [2.0], [3.0]], [1.0, 2.2, 2.9, 4.1], list("aabb"))
        >>> fit = MultitaskGP().fit(data, method="empirical_bayes", seed=0, progress=False)
        >>> grid = pd.DataFrame({"x0": [0.0, 3.0, 0.0, 3.0], "task": list("aabb")})
        >>> [ax.get_title() for ax in functions(grid, fit.predict(grid, kind="latent"), "x0", data)]
        ['a', 'b']
    """
    tasks = prediction.draws["task"].to_numpy()
    if len(tasks) != len(grid):
        raise DataError(
            "prediction",
            expected=f"a prediction of the {len(grid)} rows of `grid`",
            found=f"one of {len(tasks)} rows",
            remedy="Pass fit.predict(grid).",
        )
    if feature not in grid.columns:
        raise SpecificationError(
            "feature",
            expected=f"a column of `grid` ({listing(list(grid.columns))})",
            found=repr(feature),
            remedy="Name the input that varies.",
        )
    names = list(dict.fromkeys(tasks))
    if len(names) > _MOST_TASKS:
        raise SpecificationError(
            "grid",
            expected=f"at most {_MOST_TASKS} tasks",
            found=str(len(names)),
            remedy="Predict the tasks of interest only.",
        )
    column = None if data is None else column_of(data, feature)
    lower, upper = prediction.interval(mass)
    what = "a new observation" if prediction.kind == "observation" else "the task's function"
    num_columns = min(len(names), 4 if len(names) > 6 else 3)
    num_rows = math.ceil(len(names) / num_columns)
    figure = matplotlib_module("pyplot").figure(
        figsize=(max(3.2 * num_columns, 4.5), 2.6 * num_rows + 0.5), layout="constrained"
    )
    panels = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False).ravel()
    x = grid[feature].to_numpy(dtype=float)
    for ax, name in zip(panels, names, strict=False):
        where = np.flatnonzero(tasks == name)
        where = where[np.argsort(x[where], kind="stable")]
        ax.fill_between(
            x[where], lower[where], upper[where], color=BLUE, alpha=0.2, linewidth=0,
            label=f"{percent(mass)} interval of {what}",
        )  # fmt: skip
        ax.plot(x[where], prediction.mean[where], color=BLUE, label="mean")
        if data is not None and name in data.task_names:
            rows = data.task == data.task_names.index(name)
            ax.plot(data.X[rows, column], data.y[rows], "o", color=ORANGE, markersize=3.5, label="observed")
        unseen = " (never seen)" if prediction.new[where].any() else ""
        ax.set_title(shorten(str(name)) + unseen, fontsize=10)
    for ax in panels[len(names) :]:
        ax.remove()
    used = list(panels[: len(names)])
    for position, ax in enumerate(used):
        if position + num_columns >= len(used):  # the last of its column
            ax.set_xlabel(feature)
            ax.tick_params(labelbottom=True)
        if position % num_columns == 0:
            ax.set_ylabel(prediction.target)
    handles = {
        label: handle for ax in used for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=8, frameon=False
    )
    return used
