"""Sufficient statistics of a Gaussian multi-task regression: after this, nothing costs anything in n.

Per task t the rows enter the likelihood only through G_t = X_t'X_t, b_t = X_t'y_t, s_t = y_t'y_t and n_t.
They add up over rows, so they can be collected in chunks, on several machines, or later in time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bayesmtl.data import Standardization, TaskMoments

# Directions of X_t'X_t below this share of its largest eigenvalue are rounding error, not information.
RANK_TOLERANCE = 1e-12
# Ranks are rounded up to a multiple of this: few batches, little padding.
RANK_STEP = 4


@dataclass(frozen=True, eq=False)
class TaskStatistics:
    """Sums over the observed rows of each task.

    Args:
        gram: G_t = X_t'X_t, shape (T, D, D).
        cross: b_t = X_t'y_t, shape (T, D).
        square: s_t = y_t'y_t, shape (T,).
        count: n_t, number of observed rows, shape (T,).

    Example:
        >>> X, y, task = np.ones((3, 1)), np.array([1.0, 2.0, 4.0]), np.array([0, 0, 1])
        >>> first = TaskStatistics.from_rows(X, y, task, num_tasks=2)
        >>> (first + first).count
        array([4., 2.])
    """

    gram: np.ndarray
    cross: np.ndarray
    square: np.ndarray
    count: np.ndarray

    @classmethod
    def from_rows(cls, X: np.ndarray, y: np.ndarray, task: np.ndarray, num_tasks: int) -> TaskStatistics:
        """Accumulate the statistics of rows; rows whose target is NaN (not observed) do not count.

        Args:
            X: Features, shape (n, D).
            y: Targets, shape (n,), NaN where not observed.
            task: Task of each row, integers in 0 .. num_tasks - 1, shape (n,).
            num_tasks: T; tasks without rows get zeros.
        """
        observed = ~np.isnan(y)
        if not observed.all():
            X, y, task = X[observed], y[observed], task[observed]
        if np.any(task[1:] < task[:-1]):
            order = np.argsort(task, kind="stable")
            X, y, task = X[order], y[order], task[order]
        D = X.shape[1]
        gram, cross, square = np.zeros((num_tasks, D, D)), np.zeros((num_tasks, D)), np.zeros(num_tasks)
        count = np.bincount(task, minlength=num_tasks).astype(float)
        ends = np.cumsum(count).astype(int)
        for t in np.flatnonzero(count):
            rows = slice(ends[t] - int(count[t]), ends[t])
            X_t, y_t = X[rows], y[rows]
            gram[t], cross[t], square[t] = X_t.T @ X_t, X_t.T @ y_t, y_t @ y_t
        return cls(gram, cross, square, count)

    @classmethod
    def from_moments(cls, moments: TaskMoments, standardization: Standardization) -> TaskStatistics:
        """The statistics of standardised rows from sums over the rows in the user's units.

        Args:
            moments: Sums per task.
            standardization: Centres and scales.
        """
        first_feature = 1 if standardization.intercept else 0
        T = len(moments.count)
        p = len(moments.reference)
        center, scale = np.empty((T, p)), np.empty((T, p))
        center[:, :-1] = standardization.feature_center[first_feature:]
        scale[:, :-1] = standardization.feature_scale[first_feature:]
        center[:, -1], scale[:, -1] = standardization.target_center, standardization.target_scale
        step, n = moments.reference - center, moments.count
        first = (moments.first + n[:, None] * step) / scale
        cross = moments.first[:, :, None] * step[:, None, :]
        second = moments.second + cross + np.swapaxes(cross, 1, 2)
        second += n[:, None, None] * step[:, :, None] * step[:, None, :]
        second /= scale[:, :, None] * scale[:, None, :]
        if standardization.intercept:  # a column of ones in front
            whole = np.empty((T, p + 1, p + 1))
            whole[:, 0, 0], whole[:, 0, 1:], whole[:, 1:, 0], whole[:, 1:, 1:] = n, first, first, second
            second = whole
        gram, cross, square = second[:, :-1, :-1], second[:, :-1, -1], second[:, -1, -1]
        return cls(np.ascontiguousarray(gram), np.ascontiguousarray(cross), np.maximum(square, 0.0), n.copy())

    @classmethod
    def empty(cls, num_tasks: int, num_features: int) -> TaskStatistics:
        """Statistics of tasks without rows, whose weights follow the prior."""
        T, D = num_tasks, num_features
        return cls(np.zeros((T, D, D)), np.zeros((T, D)), np.zeros(T), np.zeros(T))

    def __add__(self, other: TaskStatistics) -> TaskStatistics:
        return TaskStatistics(
            self.gram + other.gram,
            self.cross + other.cross,
            self.square + other.square,
            self.count + other.count,
        )

    def with_empty(self, num_new: int) -> TaskStatistics:
        """The same statistics with `num_new` tasks without rows behind."""
        new = TaskStatistics.empty(num_new, self.gram.shape[1])
        return TaskStatistics(
            *(
                np.concatenate([getattr(self, name), getattr(new, name)])
                for name in ("gram", "cross", "square", "count")
            )
        )

    def compress(self) -> CompressedTasks:
        """Factor every Gram matrix at its own rank: G_t = F_t'F_t, b_t = F_t'c_t."""
        eigenvalues, vectors = np.linalg.eigh(self.gram)
        kept = eigenvalues > RANK_TOLERANCE * np.maximum(eigenvalues[:, -1:], np.finfo(float).tiny)
        root = np.sqrt(np.where(kept, eigenvalues, 0.0))
        inverse_root = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0)
        F = root[:, :, None] * np.swapaxes(vectors, 1, 2)
        c = inverse_root * np.einsum("tdr,td->tr", vectors, self.cross)
        residual = np.maximum(self.square - np.einsum("tr,tr->t", c, c), 0.0)
        rows = np.concatenate([F, c[:, :, None]], axis=2)
        padded = RANK_STEP * np.ceil(np.maximum(kept.sum(axis=1), 1) / RANK_STEP).astype(int)
        padded = np.minimum(padded, self.gram.shape[1])
        groups = []
        for rank in np.unique(padded):
            index = np.flatnonzero(padded == rank)
            # eigh sorts upwards, so the kept directions are the last ones of every task
            groups.append(TaskGroup(torch.from_numpy(index), torch.from_numpy(rows[index, -rank:].copy())))
        return CompressedTasks(tuple(groups), torch.from_numpy(residual), torch.from_numpy(self.count))


@dataclass(frozen=True, eq=False)
class TaskGroup:
    """Tasks of about the same rank, so that their small matrices can be factored as one batch.

    Args:
        index: Which tasks, shape (T_g,).
        rows: Rotated features and targets [F_t, c_t], shape (T_g, r, D + 1), or (B, T_g, r, D + 1) where
            they differ by hyperparameter value; tasks of rank below r are padded with zero rows, which carry
            no information.
    """

    index: torch.Tensor
    rows: torch.Tensor

    @property
    def F(self) -> torch.Tensor:
        """Rotated features, shape (T_g, r, D)."""
        return self.rows[..., :-1]

    @property
    def c(self) -> torch.Tensor:
        """Rotated targets, shape (T_g, r)."""
        return self.rows[..., -1]

    def pick(self, values: torch.Tensor) -> torch.Tensor:
        """The entries of this group's tasks along dimension 1; a dimension of 1 is shared by all tasks."""
        return values if values.shape[1] == 1 else values[:, self.index]


@dataclass(frozen=True, eq=False)
class CompressedTasks:
    """The data of every task as r rotated rows and one residual sum of squares.

    y_t | w_t has the likelihood of c_t ~ N(F_t w_t, sigma_t^2 I) times a residual term that is free of w_t.

    Args:
        groups: The rotated rows, tasks of about the same rank together.
        residual: Residual sum of squares of each task's own least-squares fit, shape (T,) or (B, T).
        count: n_t, shape (T,).
    """

    groups: tuple[TaskGroup, ...]
    residual: torch.Tensor
    count: torch.Tensor

    @property
    def num_tasks(self) -> int:
        """T."""
        return int(self.count.shape[0])

    @property
    def num_features(self) -> int:
        """D."""
        return int(self.groups[0].rows.shape[-1]) - 1
