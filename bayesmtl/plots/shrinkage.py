"""What sharing does to each task: its estimate alone, shared and pooled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayesmtl.errors import DataError, SpecificationError, UnknownTaskError, listing
from bayesmtl.plots.style import BLUE, GREY, ORANGE, label_tasks, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = ("mean", "lower", "upper")


def shrinkage(
    separate: pd.DataFrame,
    shared: pd.DataFrame,
    pooled: pd.DataFrame,
    feature: str,
    ax: Axes | None = None,
    *,
    tasks: Sequence[str] | None = None,
) -> Axes:
    """Draw the weight of one feature in every task: estimated separately, shared, and pooled.

    An open circle is the task's estimate from its own rows alone, the filled one the shared estimate on a
    bar that is its interval, the dashed line the pooled estimate; a thin line shows how far sharing moved the
    task.

    Args:
        separate: Coefficients of a fit without sharing, `fit.coefficients()` of `Independent`.
        shared: Coefficients of the fit of interest.
        pooled: Coefficients of one model for all tasks, `fit.coefficients()` of `Pooled`.
        feature: Name of the feature, "Intercept" for the level.
        ax: Where to draw; default a new figure.
        tasks: Names of the tasks wanted; default all of `shared`.

    Returns:
        The axes, tasks in the order of their shared estimates.

    Raises:
        DataError: If one of the frames is not a table of coefficients.
        SpecificationError: If the feature is unknown.
        UnknownTaskError: If a task is not in one of the frames.
        MissingDependencyError: If matplotlib is not installed.

    Example:
        >>> import matplotlib
        >>> matplotlib.use("Agg")
        >>> index = pd.MultiIndex.from_product([["a", "b"], ["dose"]], names=["task", "feature"])
        >>> alone = pd.DataFrame({"mean": [3.0, 0.0], "lower": [1.0, -2.0], "upper": [5.0, 2.0]}, index=index)
        >>> together = alone * 0.5 + 0.75
        >>> one = alone * 0 + 1.5
        >>> axes = shrinkage(alone, together, one, "dose")
        >>> [label.get_text() for label in axes.get_xticklabels()]
        ['b', 'a']
    """
    frames = {"separate": separate, "shared": shared, "pooled": pooled}
    by_task = {name: _of_feature(name, frame, feature) for name, frame in frames.items()}
    wanted = by_task["shared"].index if tasks is None else pd.Index([str(task) for task in tasks])
    for name, frame in by_task.items():
        absent = [str(task) for task in wanted if task not in frame.index]
        if absent:
            raise UnknownTaskError(
                name,
                expected=f"coefficients of every task drawn ({listing(list(wanted))})",
                found=f"none of {listing(absent)}",
                remedy="Fit all models to the same tasks, or name the common ones with tasks=[...].",
            )
    order = by_task["shared"].loc[wanted, "mean"].sort_values(kind="stable").index
    alone, together, one = (by_task[name].loc[order] for name in frames)
    T = len(order)
    if ax is None:
        ax = new_axes(float(np.clip(2.0 + 0.11 * T, 6.0, 16.0)), 4.8)
    _draw(ax, alone, together, one)
    ax.set_xlim(-0.7, T - 0.3)
    label_tasks(ax, [str(task) for task in order], "x")
    ax.set(xlabel=f"{order.name or 'task'}, by shared estimate", ylabel=f"weight of {feature}")
    # above the axes, where it hides nothing
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=9, frameon=False)
    return ax


def _of_feature(name: str, frame: pd.DataFrame, feature: str) -> pd.DataFrame:
    """The rows of one feature, indexed by task."""
    named = isinstance(frame, pd.DataFrame) and {"task", "feature"} <= set(frame.index.names)
    if not named or not set(_COLUMNS) <= set(frame.columns):
        raise DataError(
            name,
            expected="coefficients: columns mean, lower and upper, indexed by task and feature",
            found=type(frame).__name__,
            remedy="Pass fit.coefficients().",
        )
    features = frame.index.unique("feature")
    if feature not in features:
        raise SpecificationError(
            "feature",
            expected=f"a feature of `{name}` ({listing(list(features), limit=12)})",
            found=repr(feature),
            remedy="Use the name that data.feature_names shows.",
        )
    if "class" in frame.index.names:
        raise SpecificationError(
            name,
            expected="the coefficients of one class",
            found=f"those of {listing(list(frame.index.unique('class')))}",
            remedy='Choose one: fit.coefficients().xs("...", level="class").',
        )
    rows = frame[frame.index.get_level_values("feature") == feature]
    return rows[list(_COLUMNS)].droplevel("feature")


def _draw(ax: Axes, alone: pd.DataFrame, together: pd.DataFrame, one: pd.DataFrame) -> None:
    x = np.arange(len(together))
    many = len(x) > 40
    dot, bar = (3.5, 3.0) if many else (6.0, 7.0)
    ax.vlines(x, together["lower"], together["upper"], color=BLUE, linewidth=bar, alpha=0.25)
    ax.vlines(x, alone["mean"], together["mean"], color=ORANGE, linewidth=0.8)
    dashes, label = (0, (4, 2)), "pooled"
    ax.hlines(one["mean"], x - 0.5, x + 0.5, color=GREY, linestyles=dashes, linewidth=1.2, label=label)
    label = "separate"
    ax.plot(x, alone["mean"], "o", markersize=dot, color=ORANGE, markerfacecolor="white", label=label)
    ax.plot(x, together["mean"], "o", markersize=dot, color=BLUE, label="shared, with interval")
