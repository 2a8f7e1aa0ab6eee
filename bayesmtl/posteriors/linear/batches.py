"""Minibatches of tasks and of rows, for stochastic optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from bayesmtl.algebra.rows import TaskRows


@dataclass(frozen=True, eq=False)
class Batch:
    """Some tasks, and some rows of each.

    Args:
        tasks: Positions, shape (T_b,).
        X: Features, shape (T_b, m, D); zero for padding.
        y: Targets, shape (T_b, m).
        offset: Known part of their functions, shape (T_b, m).
        trials: Numbers of trials, shape (T_b, m).
        weight: How many rows of the data each stands for, shape (T_b, m); 0 for padding.
    """

    tasks: torch.Tensor
    X: torch.Tensor
    y: torch.Tensor
    offset: torch.Tensor
    trials: torch.Tensor
    weight: torch.Tensor


class Batches(Protocol):
    """What minibatches come from."""

    def draw(self, rng: np.random.Generator) -> Batch:
        """One minibatch, whose weighted sums over T / T_b times its rows have those of the data for means."""


@dataclass(frozen=True, eq=False)
class HeldRows:
    """Rows in memory, one task behind the other.

    Args:
        tasks: Positions of the tasks that may be drawn, shape (T_h,).
        count: How many rows of each are here, shape (T_h,).
        X: Features, shape (n, D).
        y: Targets, shape (n,).
        offset: Known part of their functions, shape (n,).
        trials: Numbers of trials, shape (n,).
        weights: How many rows of the data each stands for, shape (n,).
    """

    tasks: np.ndarray
    count: np.ndarray
    X: np.ndarray
    y: np.ndarray
    offset: np.ndarray
    trials: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, rows: TaskRows) -> HeldRows:
        """All rows of all tasks."""
        real, task = rows.real, rows.task[rows.real].numpy()
        X = torch.cat([block.X.flatten(0, 1) for block in rows.blocks])[real].numpy()
        order = np.argsort(task, kind="stable")
        carried = (rows.y, rows.offset, rows.trials, rows.weights)
        return cls(
            np.arange(rows.num_tasks),
            np.bincount(task, minlength=rows.num_tasks),
            X[order],
            *(part[real].numpy()[order] for part in carried),
        )

    def draw(self, num_tasks: int, num_rows: int, rng: np.random.Generator) -> Batch:
        """Tasks without replacement, and rows with it where a task has more than asked for.

        Args:
            num_tasks: Tasks, at most; all in their order where there are no more.
            num_rows: Rows of each, at most.
            rng: Source of randomness.
        """
        T = len(self.tasks)
        chosen = np.arange(T) if num_tasks >= T else rng.permutation(T)[:num_tasks]
        m = min(num_rows, int(self.count.max()))
        count = self.count[chosen][:, None]
        place = np.broadcast_to(np.arange(m), (len(chosen), m))
        if (count > m).any():
            place = np.where(count > m, (rng.random((len(chosen), m)) * count).astype(int), place)
        real = place < count
        where = np.where(real, (self.count.cumsum() - self.count)[chosen][:, None] + place, 0)
        weight = np.where(real, np.maximum(count / m, 1.0) * self.weights[where], 0.0)
        y, offset = np.where(real, self.y[where], 0.0), np.where(real, self.offset[where], 0.0)
        parts = (self.X[where] * real[..., None], y, offset, self.trials[where], weight)
        return Batch(torch.from_numpy(self.tasks[chosen]), *(torch.from_numpy(part) for part in parts))


class RowBatches:
    """Minibatches of rows that are in memory.

    Args:
        rows: All rows.
        num_tasks: Tasks in each.
        num_rows: Rows of each task.
    """

    def __init__(self, rows: TaskRows, num_tasks: int, num_rows: int):
        self.held, self.num_tasks, self.num_rows = HeldRows.of(rows), num_tasks, num_rows

    def draw(self, rng: np.random.Generator) -> Batch:
        """One minibatch."""
        return self.held.draw(self.num_tasks, self.num_rows, rng)


class TaskBatches:
    """Minibatches of tasks where sufficient statistics stand for their rows.

    Args:
        T: Number of tasks.
        num_tasks: Tasks in each.
    """

    def __init__(self, T: int, num_tasks: int):
        self.T, self.num_tasks = T, num_tasks

    def draw(self, rng: np.random.Generator) -> Batch:
        """One minibatch, without rows."""
        tasks = np.arange(self.T) if self.num_tasks >= self.T else rng.permutation(self.T)[: self.num_tasks]
        nothing = torch.zeros(len(tasks), 0, dtype=torch.float64)
        return Batch(torch.from_numpy(tasks), nothing[..., None], *(nothing for _ in range(4)))
