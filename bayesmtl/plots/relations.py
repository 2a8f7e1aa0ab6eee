"""How tasks go together, pair by pair: means and intervals on one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayesmtl.errors import SpecificationError
from bayesmtl.plots.style import (
    BLUE,
    GREY,
    ORANGE,
    PALE,
    label_inches,
    label_positions,
    new_axes,
    percent,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmtl.results import TaskSimilarity


def relations(
    task_similarity: TaskSimilarity, ax: Axes | None = None, mass: float = 0.9, num_pairs: int = 30
) -> Axes:
    """Draw the similarity of pairs of tasks with its interval, from the most alike to the most opposed.

    Blue where the interval lies above 0, orange where it lies below, grey where it holds 0. Of more than
    `num_pairs` pairs those whose means are farthest from 0 are drawn, and the title says of how many.

    Args:
        task_similarity: From `fit.task_similarity()`; with `kind="structure"` correlations of tasks.
        ax: Where to draw; default a new figure.
        mass: Mass of the interval.
        num_pairs: Most pairs to draw, at least 1.

    Returns:
        The axes.

    Raises:
        SpecificationError: If this is no TaskSimilarity, `num_pairs` or `mass` make no sense, or there is no
            pair with a similarity.
        MissingDependencyError: If matplotlib is not installed.

    Example:
        >>> import matplotlib
        >>> matplotlib.use("Agg")
        >>> import xarray as xr
        >>> from bayesmtl.results import TaskSimilarity
        >>> values = np.broadcast_to([[1, 0.2, -0.8], [0.2, 1, 0.5], [-0.8, 0.5, 1]], (9, 3, 3))
        >>> coords = {"task": ["a", "b", "c"], "task_other": ["a", "b", "c"]}
        >>> draws = xr.DataArray(values, coords=coords, dims=("draw", "task", "task_other"))
        >>> axes = relations(TaskSimilarity(draws, "correlation of functions"))
        >>> [label.get_text() for label in axes.get_yticklabels()]
        ['b, c', 'a, b', 'a, c']
    """
    if not hasattr(task_similarity, "to_frame") or not hasattr(task_similarity, "meaning"):
        raise SpecificationError(
            "task_similarity",
            expected="a TaskSimilarity",
            found=type(task_similarity).__name__,
            remedy="Pass fit.task_similarity().",
        )
    if isinstance(num_pairs, bool) or not isinstance(num_pairs, int) or num_pairs < 1:
        raise SpecificationError(
            "num_pairs",
            expected="a whole number of at least 1",
            found=repr(num_pairs),
            remedy="Leave it out for the 30 pairs with the largest similarities.",
        )
    pairs = task_similarity.to_frame(mass).dropna(subset="mean")
    if pairs.empty:
        raise SpecificationError(
            "task_similarity",
            expected="at least one pair of tasks with a similarity",
            found="none",
            remedy="One task has none; neither have functions that do not vary.",
        )
    shown = pairs.loc[pairs["mean"].abs().nlargest(num_pairs).index.sort_values()]
    N = len(shown)
    names = shown[["task", "task_other"]].astype(str)
    labels = [f"{shorten(t)}, {shorten(u)}" for t, u in names.itertuples(index=False)]
    if ax is None:
        ax = new_axes(max(6.5, 4.5 + label_inches(labels)), float(np.clip(1.4 + 0.22 * N, 2.5, 12.0)))
    lower, upper = shown["lower"].to_numpy(), shown["upper"].to_numpy()
    colours = np.where(lower > 0, BLUE, np.where(upper < 0, ORANGE, GREY))
    ax.axvline(0.0, color=PALE, linewidth=2, zorder=0)
    ax.hlines(np.arange(N), lower, upper, colors=list(colours), linewidth=2)
    ax.scatter(shown["mean"], np.arange(N), c=list(colours), s=22, zorder=3)
    ax.set(xlim=(-1.05, 1.05), ylim=(N - 0.5, -0.5), xlabel=task_similarity.meaning)
    label_positions(ax, labels, "y")
    which = f"{N} of {len(pairs)} pairs, those farthest from 0" if N < len(pairs) else "All pairs of tasks"
    ax.set_title(f"{which}: mean and {percent(mass)} interval", loc="left", fontsize=10)
    return ax
