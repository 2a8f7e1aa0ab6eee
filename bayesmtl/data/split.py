"""Which rows or tasks go to the test part of a split."""

from __future__ import annotations

import numpy as np


def draw_rows(task: np.ndarray, observed: np.ndarray, test: float, seed: int) -> np.ndarray:
    """Draw test rows task by task.

    A task with k observed rows gives ``test * k`` of them, rounded up or down at random so that the whole
    keeps its fraction, but at least one and at most k - 1; with k = 1 it gives none. Rows without a target
    are never drawn: nothing can be tested on them.

    Args:
        task: Task of each row (n,).
        observed: Which rows have a target (n,).
        test: Fraction between 0 and 1.
        seed: Seed of the draw.

    Returns:
        Mask (n,) of the test rows.
    """
    generator = np.random.default_rng(seed)
    rows = generator.permutation(np.flatnonzero(observed))
    rows = rows[np.argsort(task[rows], kind="stable")]
    counts = np.bincount(task[rows], minlength=int(task.max()) + 1)
    share = np.floor(test * counts + generator.random(len(counts))).astype(np.int64)
    share = np.where(counts >= 2, np.clip(share, 1, np.maximum(counts - 1, 1)), 0)
    starts = np.cumsum(counts) - counts
    position = np.arange(len(rows)) - starts[task[rows]]
    drawn = np.zeros(len(task), dtype=bool)
    drawn[rows[position < share[task[rows]]]] = True
    return drawn


def draw_tasks(num_tasks: int, test: float, seed: int) -> np.ndarray:
    """Draw a fraction of the tasks, at least one and not all; mask (T,)."""
    count = min(max(round(test * num_tasks), 1), num_tasks - 1)
    drawn = np.zeros(num_tasks, dtype=bool)
    drawn[np.random.default_rng(seed).choice(num_tasks, size=count, replace=False)] = True
    return drawn


def fold_of_rows(task: np.ndarray, observed: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Fold of each row, 0 to k - 1, spread evenly over the rows of every task; -1 for rows without a target.

    Args:
        task: Task of each row (n,).
        observed: Which rows have a target (n,).
        k: Number of folds.
        seed: Seed of the draw.
    """
    generator = np.random.default_rng(seed)
    rows = generator.permutation(np.flatnonzero(observed))
    rows = rows[np.argsort(task[rows], kind="stable")]
    counts = np.bincount(task[rows], minlength=int(task.max()) + 1)
    starts = np.cumsum(counts) - counts
    position = np.arange(len(rows)) - starts[task[rows]]
    # tasks begin at different folds, so that small ones do not all fill the first
    fold = np.full(len(task), -1)
    fold[rows] = (position + generator.integers(k, size=len(counts))[task[rows]]) % k
    return fold


def fold_of_tasks(num_tasks: int, k: int, seed: int) -> np.ndarray:
    """Fold of each task, 0 to k - 1, of about equal size."""
    fold = np.empty(num_tasks, dtype=int)
    fold[np.random.default_rng(seed).permutation(num_tasks)] = np.arange(num_tasks) % k
    return fold
