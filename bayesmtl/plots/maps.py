"""One task's function of two inputs as maps: its mean, and how uncertain it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayesmtl.errors import DataError, SpecificationError, listing
from bayesmtl.plots.style import matplotlib_module, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayesmtl.data import TaskData
    from bayesmtl.results import Prediction

_LEVELS = 14


def maps(
    grid: pd.DataFrame,
    prediction: Prediction,
    features: Sequence[str],
    task: str,
    data: TaskData | None = None,
) -> list[Axes]:
    """Draw mean and standard deviation of one task over two inputs, and where its rows are.

    Args:
        grid: The rows that were predicted; inputs need not form a lattice.
        prediction: `fit.predict(grid, kind="latent")`, or of observations.
        features: The two columns of `grid` on the axes.
        task: Name of the task to draw.
        data: Rows to mark: dots where the task's target is known.

    Returns:
        The axes of the mean and of the standard deviation.

    Raises:
        DataError: If the prediction is not one of these rows, or has fewer than three of the task.
        SpecificationError: If features are not two columns of the grid.
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
    figure = matplotlib_module("pyplot").figure(figsize=(10.0, 4.4), layout="constrained")
    panels = list(figure.subplots(1, 2, sharex=True, sharey=True))
    x, y = (grid[name].to_numpy(dtype=float)[where] for name in names)
    shown = {"mean": ("viridis", prediction.mean), "standard deviation": ("magma_r", prediction.sd)}
    for ax, (what, (colours, values)) in zip(panels, shown.items(), strict=True):
        filled = ax.tricontourf(x, y, values[where], levels=_LEVELS, cmap=colours)
        figure.colorbar(filled, ax=ax, label=prediction.target)
        if data is not None and task in data.task_names:
            rows = (data.task == data.task_names.index(task)) & data.observed
            columns = [data.feature_names.index(name) for name in names]
            ax.plot(*data.X[rows][:, columns].T, ".", color="black", markersize=2.5, alpha=0.6)
        ax.set_title(f"{shorten(str(task))}: {what}", fontsize=10)
        ax.set_xlabel(names[0])
        ax.set_aspect("equal", adjustable="box")
    panels[0].set_ylabel(names[1])
    return panels
