"""Sizes of targets that outliers do not move, and whether those of the tasks go together."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

UNLIKE = 100.0
"""Ratio of the sizes of two tasks' targets from which they do not go together. By the default priors a noise
differs by more than a factor of 25 between two typical tasks with probability 1e-3, and one scale for all
leaves the smaller ones less room than a hundredth of what priors expect; tasks of one quantity differ by
less, those in other units (grams beside tonnes) by more."""

FAR = 10.0  # robust standard deviations from its task's median from which a target is an outlier
_ENOUGH = 5  # observed rows that tell a task's size: by chance alone 10,000 tasks differ less than `UNLIKE`
_TAIL, _MOST = 0.1, 0.25  # share of rows at either end that are left out, and that of few rows


def quantile(values: np.ndarray, share: float, weights: np.ndarray | None = None) -> float:
    """A quantile of values (n,), each as often as its weight says: the mean of the two that qualify.

    Example:
        >>> quantile(np.array([1.0, 2.0, 4.0]), 0.5), quantile(np.array([1.0, 2.0]), 0.5)
        (2.0, 1.5)
    """
    order = np.argsort(values, kind="stable")
    sums = np.cumsum(np.ones(len(values)) if weights is None else weights[order])
    wanted = share * sums[-1]
    slack = 1e-9 * sums[-1]
    last = len(values) - 1
    low = min(int(np.searchsorted(sums, wanted - slack)), last)
    high = min(int(np.searchsorted(sums, wanted + slack, side="right")), last)
    return float(values[order[low]] / 2 + values[order[high]] / 2)


def robust_center_and_scale(values: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, float]:
    """Median, and a standard deviation from the quantiles that leave out a tenth of the rows at either end.

    Of few rows more are left out: at least one at either end, at most a quarter. For a normal distribution
    the latter is its standard deviation. 0 where most values are the same.

    Example:
        >>> center, scale = robust_center_and_scale(np.array([-1.0, 0.0, 1.0, 2.0, 1e9]))
        >>> center, round(scale, 1)
        (1.0, 1.5)
    """
    total = len(values) if weights is None else float(weights.sum())
    share = min(max(_TAIL, 1.5 / total), _MOST)
    low, center, high = (quantile(values, at, weights) for at in (share, 0.5, 1 - share))
    return center, (high / 2 - low / 2) / NormalDist().inv_cdf(1 - share)


def ratio_of_sizes(targets: Sequence[np.ndarray], weights: Sequence[np.ndarray | None]) -> float:
    """Largest size of a task's observed targets over the smallest, by sds and by quantiles: the lesser ratio.

    An outlier makes sds unlike, and chance the quantiles of a few rows, but neither does both.
    """
    pairs = list(zip(targets, weights, strict=True))
    robust = np.array([robust_center_and_scale(y, v)[1] if len(y) >= _ENOUGH else 0.0 for y, v in pairs])
    sds = np.array([_sd(y) if len(y) >= _ENOUGH else 0.0 for y, _ in pairs])
    observed = np.array([len(y) for y in targets])
    return min(ratio_of(robust, observed), ratio_of(sds, observed))


def _sd(values: np.ndarray) -> float:
    exponent = int(np.frexp(np.abs(values).max())[1])  # squares of large values are no numbers
    return float(np.ldexp(np.ldexp(values, -exponent).std(), exponent))


def ratio_of(sizes: np.ndarray, observed: np.ndarray) -> float:
    """Largest size over smallest, of tasks with enough observed rows; 1 where there are not two."""
    known = sizes[(observed >= _ENOUGH) & (sizes > 0)]
    return float(known.max() / known.min()) if len(known) > 1 else 1.0


def outliers(values: np.ndarray) -> np.ndarray:
    """Which targets of one task (n,) lie far from its median, bool (n,).

    Example:
        >>> outliers(np.array([1.0, 2.0, 3.0, 2.5, 1.5, 1e6])).tolist()
        [False, False, False, False, False, True]
    """
    if len(values) < _ENOUGH:
        return np.zeros(len(values), dtype=bool)
    center, scale = robust_center_and_scale(values)
    return np.asarray((scale > 0) & (np.abs(values / 2 - center / 2) > FAR * (scale / 2)))
