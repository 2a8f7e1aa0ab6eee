"""Which tasks belong together: co-clustering probabilities, and the point partition outlined."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayesmtl.errors import SpecificationError
from bayesmtl.plots.similarity import cluster_order
from bayesmtl.plots.style import ORANGE, label_tasks, matplotlib_module, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmtl.results import Partition

_WITH_NUMBERS = 12  # up to so many tasks the numbers fit into the cells


def partition(task_partition: Partition, ax: Axes | None = None) -> Axes:
    """Draw the probability that two tasks are together, for all pairs, with the point partition outlined.

    Tasks of a cluster of the point partition lie side by side, large clusters first, and within a cluster in
    the order of a hierarchical clustering. The darker a cell, the surer the two tasks are together; a dark
    cell outside the frames, or a pale one inside, is where the point partition hides doubt. Up to 12 tasks
    the probabilities are written into the cells.

    Args:
        task_partition: From `fit.partition()`.
        ax: Where to draw; default a new figure.

    Returns:
        The axes.

    Raises:
        SpecificationError: If this is no Partition.
        MissingDependencyError: If matplotlib is not installed.

    Example:
        >>> import matplotlib
        >>> matplotlib.use("Agg")
        >>> import xarray as xr
        >>> from bayesmtl.results import Partition
        >>> values, names = [[0, 1, 0], [0, 1, 0], [0, 1, 2]], {"task": ["a", "b", "c"]}
        >>> axes = partition(Partition(xr.DataArray(values, names, ("draw", "task"))))
        >>> [label.get_text() for label in axes.get_xticklabels()]
        ['c', 'a', 'b']
    """
    check_partition(task_partition)
    together = task_partition.co_clustering.to_numpy()
    point = task_partition.point.to_numpy()
    T = len(point)
    if ax is None:
        side = float(np.clip(2.5 + 0.13 * T, 4.5, 12.0))
        ax = new_axes(side + 1.2, side)
    # sorting keeps the order within clusters
    order = cluster_order(together)
    order = order[np.argsort(point[order], kind="stable")]
    together, point = together[np.ix_(order, order)], point[order]
    image = ax.imshow(together, cmap="Blues", vmin=0.0, vmax=1.0, interpolation="nearest")
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.7, ticks=[0, 0.25, 0.5, 0.75, 1])
    bar.set_label("probability of being together")
    _outline(ax, point)
    if T <= _WITH_NUMBERS:
        for row, column in np.ndindex(T, T):
            if row != column:
                colour = "white" if together[row, column] > 0.6 else "black"
                text = f"{together[row, column]:.2f}"
                ax.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    box = min(ax.get_window_extent().width, ax.get_window_extent().height)
    inches = float(box) / float(ax.get_figure(root=True).dpi)  # type: ignore[union-attr]
    names = [task_partition.task_names[i] for i in order]
    label_tasks(ax, names, "x", inches)
    label_tasks(ax, names, "y", inches)
    likely = task_partition.num_clusters
    shown = ", ".join(f"{k} ({p:.2f})" for k, p in likely.sort_values(ascending=False).head(3).items())
    ax.set_title(
        f"Which tasks belong together: {point.max()} clusters outlined\n"
        f"number of clusters (probability): {shown}",
        loc="left",
        fontsize=9 if T <= _WITH_NUMBERS else 11,
    )
    return ax


def check_partition(task_partition: object) -> None:
    """Refuse what is no Partition."""
    for needed in ("co_clustering", "point", "num_clusters"):
        if not hasattr(task_partition, needed):
            raise SpecificationError(
                "task_partition",
                expected="a Partition",
                found=type(task_partition).__name__,
                remedy="Pass fit.partition().",
            )


def _outline(ax: Axes, point: np.ndarray) -> None:
    """A frame around the block of every cluster; `point` is sorted."""
    patches = matplotlib_module("patches")
    for cluster in np.unique(point):
        first, size = int(np.argmax(point == cluster)), int((point == cluster).sum())
        corner = (first - 0.5, first - 0.5)
        ax.add_patch(patches.Rectangle(corner, size, size, fill=False, edgecolor=ORANGE, linewidth=2.0))
