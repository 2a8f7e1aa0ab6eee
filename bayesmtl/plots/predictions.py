"""One task's rows and the predictions of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayesmtl.errors import DataError, SpecificationError, UnknownTaskError, listing
from bayesmtl.plots.style import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    column_of,
    matplotlib_module,
    new_axes,
    percent,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection, PolyCollection

    from bayesmtl.data import TaskData
    from bayesmtl.results import Prediction

_LINES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PURPLE, ":"))
_FEW_VALUES = 12  # values of a feature that count as categories


def predictions(
    data: TaskData,
    prediction: Prediction,
    feature: str,
    task: str | None = None,
    ax: Axes | None = None,
    mass: float = 0.9,
) -> Axes:
    """Draw one task's targets against one feature, with the prediction of the same rows.

    Rows that agree in all other features form a line with a band around it; where the other features take
    more than four combinations, every row gets a bar of its own. Rows without a target have a prediction and
    no point: append a grid of them for an even band.

    Args:
        data: The rows.
        prediction: Their prediction, `fit.predict(data)`, of observations or of the function.
        feature: Name of the feature on the x axis.
        task: Name of the task; may be left out if there is only one.
        ax: Where to draw; default a new figure.
        mass: Mass of the interval.

    Returns:
        The axes.

    Raises:
        DataError: If the prediction is not one of these rows.
        SpecificationError: If the feature is unknown, or the task is not named and there are several.
        UnknownTaskError: If the data have no such task.
        MissingDependencyError: If matplotlib is not installed.

    Example:
        >>> import matplotlib
        >>> matplotlib.use("Agg")
        >>> from bayesmtl import LinearModel, TaskData
        >>> data = TaskData.from_arrays([[0.0], [1.0], [2.0], [3.0]], [1.0, 2.2, 2.9, 4.1], list("aabb"))
        >>> fit = LinearModel().fit(data, method="empirical_bayes", seed=0, progress=False)
        >>> predictions(data, fit.predict(data), "x0", task="b").get_title()
        'task b: 2 rows'
    """
    column = column_of(data, feature)
    name = _task(data, task)
    _same_rows(data, prediction)
    if data.classes:
        raise SpecificationError(
            "data",
            expected="targets that are numbers",
            found=f"classes ({listing(data.classes)})",
            remedy="Draw prediction.probabilities(), one column per class.",
        )
    here = data.task == data.task_names.index(name)
    lower, upper = prediction.interval(mass)
    rows = pd.DataFrame(
        {
            "x": data.X[here, column],
            "y": data.y[here],
            "mean": prediction.mean[here],
            "lower": lower[here],
            "upper": upper[here],
        }
    )
    if ax is None:
        ax = new_axes(6.5, 4.5)
    groups = _groups(data, here, column)
    drawn = _draw_bands(ax, rows, groups) if len(groups) <= len(_LINES) else _draw_bars(ax, rows)
    what = "a new observation" if prediction.kind == "observation" else "the task's function"
    observed = int(rows["y"].notna().sum())
    counted = f"{observed} row{'s' * (observed != 1)}"
    unseen = ", never seen by the fit" if prediction.new[here].any() else ""
    ax.set_title(f"{data.task_column} {shorten(name)}: {counted}{unseen}", fontsize=10)
    ax.set(xlabel=feature, ylabel=data.target_name)
    # room above the rows for the legend, so that it hides none
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.18 * (high - low))
    handles, labels = ax.get_legend_handles_labels()
    # the intervals themselves, side by side where several are drawn: in the legend as in the plot
    beside = matplotlib_module("legend_handler").HandlerTuple(ndivide=None, pad=0.2)
    ax.legend(
        [*handles, drawn], [*labels, f"{percent(mass)} interval of {what}"], handler_map={tuple: beside},
        loc="upper left", ncols=2, fontsize=8, frameon=False,
    )  # fmt: skip
    return ax


def _groups(data: TaskData, here: np.ndarray, column: int) -> list[tuple[str, np.ndarray]]:
    """Rows that agree in all features but one: what they have in common, in words, and their positions."""
    others = [i for i in range(data.num_features) if i != column and np.ptp(data.X[here, i]) > 0]
    common, member = np.unique(data.X[here][:, others], axis=0, return_inverse=True)
    names = [data.feature_names[i] for i in others]
    return [
        (
            ", ".join(f"{n} = {v:g}" for n, v in zip(names, values, strict=True)),
            np.flatnonzero(member.ravel() == i),
        )
        for i, values in enumerate(common)
    ]


def _draw_bands(
    ax: Axes, rows: pd.DataFrame, groups: list[tuple[str, np.ndarray]]
) -> tuple[PolyCollection, ...]:
    """Draw every group, and return their bands."""
    bands = []
    for (said, positions), (colour, style) in zip(groups, _LINES, strict=False):
        group = rows.iloc[positions]
        # rows with the same features have the same prediction: one of them is enough
        line = group.drop_duplicates("x").sort_values("x")
        band = ax.fill_between(line["x"], line["lower"], line["upper"], color=colour, alpha=0.2, linewidth=0)
        bands.append(band)
        ax.plot(line["x"], line["mean"], style, color=colour, label=f"mean, {said}" if said else "mean")
        ax.plot(group["x"], group["y"], "o", color=colour, markersize=4, alpha=0.8)
    return tuple(bands)


def _draw_bars(ax: Axes, rows: pd.DataFrame) -> LineCollection:
    """Draw every row, and return the bars."""
    rows = rows.sort_values(["x", "mean"])
    values = rows["x"].unique()
    at = rows["x"]
    if 1 < len(values) <= _FEW_VALUES:
        # side by side where many rows share a value
        rank, size = rows.groupby("x").cumcount(), rows.groupby("x")["x"].transform("size")
        at = at + 0.8 * np.diff(values).min() * ((rank + 0.5) / size - 0.5)
        ax.set_xticks(values)
    bars = ax.vlines(at, rows["lower"], rows["upper"], color=BLUE, alpha=0.3, linewidth=1.2)
    ax.plot(at, rows["mean"], "_", color=BLUE, markersize=5, label="mean")
    ax.plot(at, rows["y"], "o", color=ORANGE, markersize=3, alpha=0.8, label="observed")
    return bars


def _task(data: TaskData, task: str | None) -> str:
    if task is None:
        if data.num_tasks > 1:
            raise SpecificationError(
                "task",
                expected=f"the name of one task ({listing(data.task_names)})",
                found="no name and several tasks",
                remedy=f"Pass task={data.task_names[0]!r}.",
            )
        return data.task_names[0]
    if str(task) not in data.task_names:
        raise UnknownTaskError(
            "task",
            expected=f"a task of the data ({listing(data.task_names)})",
            found=repr(str(task)),
            remedy="Use a name that data.task_names shows.",
        )
    return str(task)


def _same_rows(data: TaskData, prediction: Prediction) -> None:
    """A prediction carries no features, so it must be one of the rows of `data`, in their order."""
    tasks = prediction.draws["task"].to_numpy()
    if len(tasks) != data.num_rows or (tasks != np.array(data.task_names, dtype=str)[data.task]).any():
        raise DataError(
            "prediction",
            expected=f"a prediction of the {data.num_rows} rows of `data`, in their order",
            found=f"one of {len(tasks)} rows" + (" of other tasks" if len(tasks) == data.num_rows else ""),
            remedy="Pass fit.predict(data).",
        )
