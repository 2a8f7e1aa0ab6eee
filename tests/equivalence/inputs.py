"""Named inputs for the equivalence tests: rows that are easy, odd or hard, and structures of every shape."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from bayesmtl.algebra.statistics import CompressedTasks, TaskStatistics
from bayesmtl.algebra.structure import Structure
from tests.equivalence.dense import Rows

NUM_FEATURES = 3
NUM_TASKS = 4


def make_rows(counts: list[int], seed: int, change: Callable[[np.ndarray], np.ndarray] | None = None) -> Rows:
    rng = np.random.default_rng(seed)
    task = np.repeat(np.arange(len(counts)), counts)
    X = rng.normal(size=(len(task), NUM_FEATURES))
    X[:, 0] = 1.0
    if change is not None:
        X = change(X)
    y = X @ np.full(NUM_FEATURES, 0.3) + rng.normal(size=len(task))
    return Rows(torch.from_numpy(X), torch.from_numpy(y), task.tolist(), len(counts))


def compress(rows: Rows) -> CompressedTasks:
    return statistics(rows).compress()


def statistics(rows: Rows) -> TaskStatistics:
    return TaskStatistics.from_rows(
        rows.X.numpy(), rows.y.numpy(), np.array(rows.task, dtype=int), rows.num_tasks
    )


def _rank_deficient(X: np.ndarray) -> np.ndarray:
    X = X.copy()
    X[:, 2] = 2 * X[:, 0] - 0.5 * X[:, 1]
    return X


def _duplicated(X: np.ndarray) -> np.ndarray:
    X = X.copy()
    X[:, 2] = X[:, 1]
    return X


def _near_duplicate(X: np.ndarray) -> np.ndarray:
    X = X.copy()
    X[:, 2] = X[:, 1] + 1e-5 * X[:, 2]
    return X


def _constant(X: np.ndarray) -> np.ndarray:
    X = X.copy()
    X[:, 1] = 0.0
    return X


def _scales(X: np.ndarray) -> np.ndarray:
    return X * np.array([1.0, 1e-2, 1e2])


ROWS: dict[str, Rows] = {
    "plain": make_rows([5, 6, 7, 8], seed=1),
    "a task without rows": make_rows([5, 0, 6, 4], seed=2),
    "tasks of one row": make_rows([1, 1, 6, 1], seed=3),
    "fewer rows than features": make_rows([2, 2, 1, 2], seed=4),
    "many rows": make_rows([40, 60, 50, 80], seed=5),
    "rank deficient": make_rows([6, 7, 5, 8], seed=6, change=_rank_deficient),
    "duplicated columns": make_rows([6, 7, 5, 8], seed=7, change=_duplicated),
    "near-duplicate columns": make_rows([6, 7, 5, 8], seed=8, change=_near_duplicate),
    "a feature of zeros": make_rows([6, 7, 5, 8], seed=9, change=_constant),
    "feature scales 1e-2 to 1e2": make_rows([6, 7, 5, 8], seed=10, change=_scales),
    "mixed sizes": make_rows([0, 1, 3, 30], seed=11),
}

LOADINGS = ("none", "ones", "general", "own")  # "own": by hyperparameter value
RESIDUALS = ("none", "shared", "task")
FACTORS = ("none", "some")
NOISES = ("shared", "task")


def make_structure(loadings: str, residual: str, factor: str, *, batch: int = 2, seed: int = 0) -> Structure:
    rng = np.random.default_rng(seed)
    T, D = NUM_TASKS, NUM_FEATURES

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, dtype=float))

    A = {
        "none": None,
        "ones": tensor(np.ones((T, 1))),
        "general": tensor(rng.normal(size=(T, 2))),
        "own": tensor(np.random.default_rng(seed + 1).normal(size=(batch, T, 2))),
    }[loadings]
    basis_scale = None if A is None else tensor(rng.uniform(0.5, 1.5, size=(batch, A.shape[-1], D)))
    # both signs: scales live on the signed line
    sign = rng.choice([-1.0, 1.0], size=(batch, T, D))
    scale = sign * rng.uniform(0.2, 1.5, size=(batch, T, D))
    residual_scale = {"none": None, "shared": tensor(scale[:, :1]), "task": tensor(scale)}[residual]
    residual_factor = None if factor == "none" else tensor(rng.normal(size=(batch, D, 2)))
    return Structure(A, basis_scale, residual_scale, residual_factor)


def make_noise(kind: str, *, batch: int = 2, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed + 100)
    return torch.from_numpy(rng.uniform(0.3, 1.2, size=(batch, 1 if kind == "shared" else NUM_TASKS)))


STRUCTURES = {
    f"A {loadings}, scale {residual}, factor {factor}": (loadings, residual, factor)
    for loadings in LOADINGS
    for residual in RESIDUALS
    for factor in FACTORS
}
