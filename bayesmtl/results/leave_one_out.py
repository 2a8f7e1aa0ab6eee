"""How well every row is predicted from all others: log densities by row, and their sum by task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from arviz_stats.utils import ELPDData
from scipy.special import logsumexp

from bayesmtl.diagnostics.convergence import PARETO_LIMIT
from bayesmtl.samplers.importance import smooth


@dataclass(frozen=True, eq=False)
class Pointwise:
    """Densities of observed rows, each given all others, under S draws.

    Args:
        log_density: log p(y_i | y_-i, draw) in the target's units, (S, n). Where `given_row` is true it is
            log p(y_i | draw), the density of a row that the draw has seen through its weights.
        log_ratio: Log of what the row left out says against a draw, to be added to the draw's weight, (S, n).
        target: Targets, (n,).
        task: Names of the rows' tasks, (n,).
        index: Row labels, (n,).
        mean: Mean of each row's prediction under every draw, (S, n), where it is a number; else None.
        variance: Its variance, (S, n).
        fitted: log p(y_i | draw, all rows), (S, n), for the effective number of parameters.
    """

    log_density: np.ndarray
    log_ratio: np.ndarray
    target: np.ndarray
    task: np.ndarray
    index: pd.Index
    mean: np.ndarray | None
    variance: np.ndarray | None
    fitted: np.ndarray


@dataclass(repr=False)
class LeaveOneOut(ELPDData):
    """Leave-one-out log predictive density: ArviZ's `ELPDData`, which its `compare` and plots take.

    `elpd_i` and `pareto_k` have the dimension `obs` with coordinates `task` and `row`, the labels of the
    observed rows. Larger is better.

    Example:
        >>> import numpy as np
        >>> from bayesmtl import LinearModel, TaskData
        >>> x, task = np.tile(np.arange(10.0), 3), np.repeat(["a", "b", "c"], 10)
        >>> y = x + np.random.default_rng(0).normal(size=30)
        >>> data = TaskData.from_arrays(x[:, None], y, task, feature_names=["x"])
        >>> left_out = LinearModel().fit(data, seed=0, progress=False).leave_one_out()
        >>> left_out.by_task().index.tolist(), len(left_out.to_frame())
        (['a', 'b', 'c'], 30)
    """

    target: np.ndarray | None = None
    mean: np.ndarray | None = None
    sd: np.ndarray | None = None

    @classmethod
    def of(cls, rows: Pointwise, name: str) -> LeaveOneOut:
        """Weigh the draws of every row and average.

        Args:
            rows: Densities under every draw.
            name: Name of the target.
        """
        S, n = rows.log_density.shape
        log_weight, k = np.zeros((S, n)), np.full(n, np.nan)
        if S > 1 and np.ptp(rows.log_ratio, axis=0).max(initial=0.0) > 0:
            for i in range(n):
                log_weight[:, i], k[i] = smooth(rows.log_ratio[:, i])
        log_weight = log_weight - logsumexp(log_weight, axis=0)
        density = logsumexp(log_weight + rows.log_density, axis=0)
        mean = sd = None
        if rows.mean is not None and rows.variance is not None:
            weight = np.exp(log_weight)
            mean = (weight * rows.mean).sum(axis=0)
            sd = np.sqrt((weight * (rows.variance + (rows.mean - mean) ** 2)).sum(axis=0))
        coords = {"obs": np.arange(n), "task": ("obs", rows.task), "row": ("obs", np.asarray(rows.index))}

        def named(values: np.ndarray, label: str) -> xr.DataArray:
            return xr.DataArray(values, coords=coords, dims="obs", name=label)

        fitted = logsumexp(rows.fitted, axis=0) - np.log(S)
        return cls(
            kind="loo",
            elpd=float(density.sum()),
            se=float(np.sqrt(n) * density.std(ddof=1)) if n > 1 else float("nan"),
            p=float((fitted - density).sum()),
            n_samples=S,
            n_data_points=n,
            scale="log",
            warning=bool((k > PARETO_LIMIT).any()),
            good_k=PARETO_LIMIT,
            elpd_i=named(density, name),
            pareto_k=named(k, "pareto_k"),
            target=rows.target,
            mean=mean,
            sd=sd,
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per observed row, in order.

        Task, target, mean and sd of its prediction (where targets are numbers under a Gaussian likelihood),
        `log_density` and `pareto_k`.
        """
        columns = {"task": self.elpd_i["task"].to_numpy(), "target": self.target}
        columns |= {} if self.mean is None else {"mean": self.mean, "sd": self.sd}
        columns |= {"log_density": self.elpd_i.to_numpy(), "pareto_k": self.pareto_k.to_numpy()}
        return pd.DataFrame(columns, index=pd.Index(self.elpd_i["row"].to_numpy()))

    def by_task(self) -> pd.DataFrame:
        """One row per task with observed rows: sum of log densities, its standard error, rows, largest k."""
        grouped = self.to_frame().groupby("task", sort=False)
        density = grouped["log_density"]
        count = density.count()
        return pd.DataFrame(
            {
                "elpd": density.sum(),
                "se": np.sqrt(count) * density.std(ddof=1),
                "rows": count,
                "pareto_k": grouped["pareto_k"].max(),
            }
        )
