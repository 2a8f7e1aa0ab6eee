"""What the plots have in common: the import of matplotlib, colours, axes, and labels that stay legible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bayesmtl.errors import MissingDependencyError, SpecificationError, listing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmtl.data import TaskData

# Okabe and Ito (2008): distinguishable with any common form of colour blindness
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
GREY, PALE = "0.35", "0.9"

SMALLEST, LARGEST = 6.0, 10.0  # points; names of tasks are never set smaller
_LINE = 1.25  # height of a line of text over its font size
_CHARACTER = 0.62  # width of an average character over its font size
_LONGEST_NAME = 24  # characters


def new_axes(width: float, height: float) -> Axes:
    """Axes of a new figure of the given size in inches.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    pyplot = matplotlib_module("pyplot")
    ax: Axes = pyplot.subplots(figsize=(width, height), layout="constrained")[1]
    return ax


def matplotlib_module(name: str) -> Any:
    """Import one module of matplotlib, or say how to get it.

    Raises:
        MissingDependencyError: If matplotlib is not installed.

    Example:
        >>> matplotlib_module("collections").__name__
        'matplotlib.collections'
    """
    try:
        return import_module(f"matplotlib.{name}")
    except ImportError as error:
        raise MissingDependencyError(
            "matplotlib",
            expected="the optional package `matplotlib`, which draws the plots",
            found=str(error),
            remedy='Install it with `pip install "bayesmtl[plots]"`.',
        ) from error


def column_of(data: TaskData, feature: str, parameter: str = "feature") -> int:
    """Position of a feature of the data.

    Raises:
        SpecificationError: If the data have none of this name.
    """
    if feature not in data.feature_names:
        raise SpecificationError(
            parameter,
            expected=f"a feature of the data ({listing(data.feature_names, limit=12)})",
            found=repr(feature),
            remedy="Use the name that data.feature_names shows.",
        )
    return data.feature_names.index(feature)


def shorten(name: str) -> str:
    """The name, cut to a length that leaves room for the plot; its end stays, where names often differ.

    Example:
        >>> shorten("Comprehensive School of the Northern District 12")
        'Comprehensive…istrict 12'
    """
    if len(name) <= _LONGEST_NAME:
        return name
    end = _LONGEST_NAME // 2 - 2
    return name[: _LONGEST_NAME - 1 - end].rstrip() + "…" + name[-end:].lstrip()


def label_inches(labels: Sequence[str]) -> float:
    """Length of the longest of these labels in the largest letters.

    Example:
        >>> round(label_inches(["a", "north-east"]), 2)
        0.86
    """
    return max(map(len, labels), default=0) * _CHARACTER * LARGEST / 72


def characters(inches: float, size: float) -> int:
    """Characters of so many points that fit into a line of this length, at least one.

    Example:
        >>> characters(5.0, 9.0)
        64
    """
    return max(int(72 * inches / (_CHARACTER * size)), 1)


def label_tasks(
    ax: Axes, names: Sequence[str], along: Literal["x", "y"], inches: float | None = None
) -> None:
    """Put the names of tasks, shortened, at positions 0, 1, 2 ... of one axis, as many as can be read.

    Names get the font size that fits; below the smallest legible size only every second, third ... is shown.

    Args:
        ax: The axes.
        names: Names of the tasks in the order of their positions.
        along: The axis.
        inches: Length of the axis; default its present length.
    """
    label_positions(ax, [shorten(name) for name in names], along, inches)


def label_positions(
    ax: Axes, shown: Sequence[str], along: Literal["x", "y"], inches: float | None = None
) -> None:
    """As `label_tasks`, for labels as they are."""
    length = inches if inches is not None else axis_inches(ax, along)
    slot = 72 * length / max(len(shown), 1)  # points for one task
    size = float(np.clip(slot / _LINE, SMALLEST, LARGEST))
    widest = max((len(name) for name in shown), default=1) * _CHARACTER * LARGEST
    upright = along == "x" and widest > slot
    if along == "x" and not upright:
        size = LARGEST
    step = max(1, math.ceil(size * _LINE / slot)) if along == "y" or upright else 1
    positions = np.arange(0, len(shown), step)
    axis = ax.xaxis if along == "x" else ax.yaxis
    axis.set_ticks(positions, labels=[shown[int(i)] for i in positions])
    ax.tick_params(axis=along, labelsize=size, labelrotation=90 if upright else 0, length=2)


def axis_inches(ax: Axes, along: Literal["x", "y"]) -> float:
    """Present length of an axis in inches."""
    box = ax.get_window_extent()
    return float(box.width if along == "x" else box.height) / float(ax.get_figure(root=True).dpi)  # type: ignore[union-attr]


def percent(mass: float) -> str:
    """Say the mass of an interval.

    Example:
        >>> percent(0.9), percent(0.955)
        ('90 %', '95.5 %')
    """
    return f"{100 * mass:g} %"
