"""Facts about feature columns that a user should know before fitting."""

from __future__ import annotations

import numpy as np

from bayesmtl.data.standardization import center_and_scale, is_constant

_SAME = 1e-10  # largest difference, in standard deviations, of two columns that are called copies


def constant_columns(X: np.ndarray) -> np.ndarray:
    """Which columns of X (n, D) never vary (D,)."""
    return np.array([is_constant(column) for column in X.T], dtype=bool)


def constant_within_tasks(X: np.ndarray, task: np.ndarray) -> np.ndarray:
    """Which columns of X (n, D) vary over all rows, but inside no task (D,)."""
    if len(X) == 0:
        return np.zeros(X.shape[1], dtype=bool)
    order = np.argsort(task, kind="stable")
    starts = np.flatnonzero(np.diff(task[order], prepend=-1))
    flat = np.empty(X.shape[1], dtype=bool)
    for position, column in enumerate(X.T):
        grouped = column[order]
        low, high = np.minimum.reduceat(grouped, starts), np.maximum.reduceat(grouped, starts)
        flat[position] = np.array_equal(low, high) and not is_constant(column)
    return flat


def duplicated_columns(X: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of columns of X (n, D) that are the same up to shift, scale and sign; constant ones apart."""
    varying = np.flatnonzero(~constant_columns(X))
    if len(varying) < 2:
        return []
    standard = np.empty((len(X), len(varying)))
    for position, column in enumerate(varying):
        center, scale = center_and_scale(X[:, column], centred=True)
        standard[:, position] = (X[:, column] - center) / scale
    correlation = standard.T @ standard / len(X)
    pairs = []
    # the correlation only nominates: it is 1 to rounding long before two columns are equal
    for i, j in zip(*np.nonzero(np.triu(np.abs(correlation) > 1 - 1e-9, k=1)), strict=True):
        difference = standard[:, i] - np.sign(correlation[i, j]) * standard[:, j]
        if np.abs(difference).max() <= _SAME * max(1.0, np.abs(standard[:, i]).max()):
            pairs.append((int(varying[i]), int(varying[j])))
    return pairs
