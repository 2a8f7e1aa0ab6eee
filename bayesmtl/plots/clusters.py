"""How many clusters there are, and who is in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayesmtl.plots.partition import check_partition
from bayesmtl.plots.style import BLUE, GREY, ORANGE, PALE, label_tasks, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmtl.results import Partition

_COLOURS = (BLUE, ORANGE)


def num_clusters(task_partition: Partition, ax: Axes | None = None) -> Axes:
    """Draw the posterior probability of each number of clusters.

    The number that the point partition has is marked: it summarises the co-clustering probabilities, and need
    not be the likeliest number.

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
        >>> axes = num_clusters(Partition(xr.DataArray(values, names, ("draw", "task"))))
        >>> [round(float(bar.get_height()), 2) for bar in axes.patches]
        [0.67, 0.33]
    """
    check_partition(task_partition)
    share, point = task_partition.num_clusters, int(task_partition.point.max())
    ax = new_axes(5.0, 3.2) if ax is None else ax
    number = share.index.to_numpy()
    colours = [ORANGE if k == point else BLUE for k in number]
    ax.bar(number, share.to_numpy(), width=0.7, color=colours)
    ax.set_xticks(np.arange(number.min(), number.max() + 1, max(1, round(np.ptp(number) / 12))))
    ax.set_xlabel("number of clusters")
    ax.set_ylabel("posterior probability")
    ax.set_title(f"How many clusters: the point partition has {point} (orange)", loc="left", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def members(task_partition: Partition, ax: Axes | None = None) -> Axes:
    """Draw the tasks of every cluster of the point partition, with how sure their companions are.

    A bar is a task's certainty: the expected overlap of its cluster with that of the point partition, 1 where
    all draws agree. Clusters lie one above the other, the largest first, the surest tasks on top; what is
    written beside a cluster is the share of all tasks that it has.

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
        >>> axes = members(Partition(xr.DataArray(values, names, ("draw", "task"))))
        >>> [label.get_text() for label in axes.get_yticklabels()], [text.get_text() for text in axes.texts]
        (['a', 'c', 'b'], ['cluster 1: 67 %', 'cluster 2: 33 %'])
    """
    check_partition(task_partition)
    frame = task_partition.to_frame()
    order = np.lexsort((-frame["certainty"].to_numpy(), frame["cluster"].to_numpy()))
    cluster, certainty = frame["cluster"].to_numpy()[order], frame["certainty"].to_numpy()[order]
    T = len(frame)
    height = float(np.clip(1.2 + 0.19 * T, 2.5, 14.0))
    ax = new_axes(6.0, height) if ax is None else ax
    position = np.arange(T)
    ax.barh(position, 1.0, height=0.8, color=PALE)
    ax.barh(position, certainty, height=0.8, color=[_COLOURS[(k - 1) % 2] for k in cluster])
    for k in np.unique(cluster):
        rows = position[cluster == k]
        if rows[0] > 0:
            ax.axhline(rows[0] - 0.5, color=GREY, linewidth=0.8)
        share = f"cluster {k}: {100 * len(rows) / T:.0f} %"
        ax.text(1.02, rows.mean(), share, va="center", fontsize=8, color=GREY)
    ax.set_xlim(0, 1)
    ax.set_ylim(T - 0.5, -0.5)
    label_tasks(ax, [task_partition.task_names[i] for i in order], "y")
    ax.set_xlabel("certainty of a task's companions")
    ax.set_title("Who belongs together, and how surely", loc="left", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
