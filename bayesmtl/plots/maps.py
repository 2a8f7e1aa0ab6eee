"""One task's function of two inputs as maps: its mean, and how uncertain it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayesmtl.errors import DataError, SpecificationError, listing
from bayesmtl.plots.style import column_of, matplotlib_module, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmtl.data import TaskData
    from bayesmtl.results import Prediction

_LEVELS = 14
_ONE_UNIT = 10.0  # ratio of the inputs' ranges up to which they are taken for lengths in one unit


def maps(
    grid: pd.DataFrame,
    prediction: Prediction,
    features: Sequence[str],
    task: str,
    data: TaskData | None = None,
) -> list[Axes]:
    """Draw mean and standard deviation of one task over two inputs, and where its rows are.

    Both axes have one scale, as a map of places should, unless one input's range is over ten times the
    other's.

    Args:
        grid: The rows that were predicted; inputs need not form a lattice.
        prediction: `fit.predict(grid, kind="latent")`, or of observations.
        features: The two columns of `grid` on the axes.
        task: Name of the task to draw.
        data: Rows to mark: dots where the task's target is known.

    Returns:
        The axes of the mean and of the standard deviation.

    Raises:
        DataError: If the prediction is not one of these rows, or those of the task are fewer than three or
            lie on one line.
        SpecificationError: If features are not two columns of the grid, or not features of the data.
        MissingDependencyError: If matplotlib is not installed.

    Example:
        >>> import matplotlib
        >>> matplotlib.use("Agg")
        >>> from bayesmtl import MultitaskGP, TaskData
        >>> X, y = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [0.0, 1.0, 1.2, 1.9]
        >>> data = TaskData.from_arrays(X, y, list("aaaa"))
        >>> fit = MultitaskGP().fit(data, method="empirical_bayes", seed=0, progress=False)
        >>> grid = pd.DataFrame(X, columns=["x0", "x1"]).assign(task="a")
        >>> [ax.get_title() for ax in maps(grid, fit.predict(grid, kind="latent"), ["x0", "x1"], "a", data)]
        ['a: mean', 'a: standard deviation']
    """
    tasks = prediction.draws["task"].to_numpy()
    if len(tasks) != len(grid):
        raise DataError(
            "prediction",
            expected=f"a prediction of the {len(grid)} rows of `grid`",
            found=f"one of {len(tasks)} rows",
            remedy="Pass fit.predict(grid).",
        )
    names = list(features)
    if len(names) != 2 or any(name not in grid.columns for name in names):
        raise SpecificationError(
            "features",
            expected=f"two columns of `grid` ({listing(list(grid.columns))})",
            found=repr(features),
            remedy="Name the two inputs.",
        )
    where = np.flatnonzero(tasks == str(task))
    if len(where) < 3:
        raise DataError(
            "task",
            expected="a task with at least three rows in `grid`",
            found=f"{task!r} with {len(where)}",
            remedy=f"Predict a grid of it, or pass one of {listing(list(dict.fromkeys(tasks)))}.",
        )
    columns = [] if data is None else [column_of(data, name, "features") for name in names]
    places = grid[names].to_numpy(dtype=float)[where]
    extent = np.ptp(places, axis=0)
    spread = (places - places.mean(axis=0)) / np.where(extent > 0, extent, 1.0)
    if np.linalg.matrix_rank(spread, tol=1e-9 * len(spread)) < 2:
        raise DataError(
            "grid",
            expected=f"rows of {str(task)!r} that spread over both {names[0]!r} and {names[1]!r}",
            found="rows on one line",
            remedy="Vary both inputs, or draw bm.plots.functions along the one that varies.",
        )
    figure = matplotlib_module("pyplot").figure(figsize=(10.0, 4.4), layout="constrained")
    panels = list(figure.subplots(1, 2, sharex=True, sharey=True))
    x, y = places.T
    shown = {"mean": ("viridis", prediction.mean), "standard deviation": ("magma_r", prediction.sd)}
    for ax, (what, (colours, values)) in zip(panels, shown.items(), strict=True):
        filled = ax.tricontourf(x, y, values[where], levels=_LEVELS, cmap=colours)
        figure.colorbar(filled, ax=ax, label=prediction.target)
        if data is not None and task in data.task_names:
            rows = (data.task == data.task_names.index(task)) & data.observed
            ax.plot(
                *data.X[rows][:, columns].T, "o", color="black", markersize=3, markeredgecolor="white",
                markeredgewidth=0.4,
            )  # fmt: skip
        ax.set_title(f"{shorten(str(task))}: {what}", fontsize=10)
        ax.set_xlabel(names[0])
        ax.set_aspect("equal" if extent.max() <= _ONE_UNIT * extent.min() else "auto", adjustable="box")
    panels[0].set_ylabel(names[1])
    return panels
