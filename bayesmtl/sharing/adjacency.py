"""A graph over named tasks: who is known to be close to whom, and how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse.csgraph import connected_components

from bayesmtl.errors import SpecificationError, listing

_ROUNDING = 1e-9  # of weights that should be equal, relative to the largest


@dataclass(frozen=True)
class Adjacency:
    """Weights of the edges between named tasks, symmetric and without loops.

    Args:
        names: Names of the T tasks.
        weights: How close each pair is, T rows of T numbers; 0 without an edge.

    Example:
        >>> table = pd.DataFrame([[0, 2], [2, 0]], index=["a", "b"], columns=["a", "b"])
        >>> Adjacency.of(table)
        Adjacency(names=('a', 'b'), weights=((0.0, 2.0), (2.0, 0.0)))
    """

    names: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, table: Any) -> Adjacency:
        """The graph of a DataFrame with one row and one column for each task.

        Raises:
            SpecificationError: If it is none, rows and columns are not the same names, or a weight is
                missing, infinite, negative or different in the two directions.
        """
        if isinstance(table, cls):
            return table
        if not isinstance(table, pd.DataFrame):
            raise _wrong(
                "a DataFrame with the names of the tasks along both sides",
                type(table).__name__,
                "Write pd.DataFrame(weights, index=names, columns=names), so that no order can be mistaken.",
            )
        rows, columns = ([str(name) for name in names] for names in (table.index, table.columns))
        if sorted(rows) != sorted(columns) or len(set(rows)) < len(rows) or not rows:
            alone = sorted(set(rows) ^ set(columns)) or sorted(
                {name for name in rows if rows.count(name) > 1}
            )
            raise _wrong(
                "the same names along rows and columns, each once, and at least one",
                f"{len(rows)} rows and {len(columns)} columns"
                + (f"; on one side only or repeated: {listing(alone)}" if alone else ""),
                "Use the names of the tasks on both sides: adjacency.loc[names, names].",
            )
        try:
            A = table.to_numpy(dtype=float)[:, [columns.index(name) for name in rows]]
        except (TypeError, ValueError) as error:
            raise _wrong(
                "numbers", str(error), "Give the weight of each edge, 0 where there is none."
            ) from None
        A = np.where(np.eye(len(A), dtype=bool), 0.0, A)

        def refuse(where: np.ndarray, expected: str, remedy: str) -> None:
            for t, u in np.argwhere(where)[:1]:
                there = f"{A[t, u]} from {rows[t]!r} to {rows[u]!r}, {A[u, t]} back"
                raise _wrong(expected, there, remedy)

        refuse(~np.isfinite(A), "finite weights", "Write 0 where there is no edge.")
        refuse(A < 0, "weights of at least 0", "TaskCovariance() learns which tasks oppose each other.")
        refuse(
            abs(A - A.T) > _ROUNDING * A.max(),
            "one weight for both directions of an edge",
            "Average the two: (adjacency + adjacency.T) / 2.",
        )
        A = (A + A.T) / 2
        return cls(tuple(rows), tuple(tuple(float(weight) for weight in row) for row in A))

    def ordered(self, task_names: Sequence[str]) -> Adjacency:
        """The same graph with the tasks in this order.

        Raises:
            SpecificationError: If a task has no place in the graph, or the graph knows others.
        """
        missing = [name for name in task_names if name not in self.names]
        further = [name for name in self.names if name not in task_names]
        if missing:
            raise _wrong(
                "a row for every task of the data",
                f"none for {listing(missing)}",
                "Add it, with zeros for a task that is close to no other.",
            )
        if further:
            raise _wrong(
                "tasks of the data only",
                f"{listing(further)} besides",
                "Use adjacency.loc[names, names] with the data's task_names, or give the others rows "
                "without targets.",
            )
        at = [self.names.index(name) for name in task_names]
        return Adjacency(tuple(task_names), tuple(tuple(self.weights[t][u] for u in at) for t in at))

    @cached_property
    def spectrum(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Eigenvalues (T,) and eigenvectors (T, T) of L = diag(degree) - weights, for a mean degree of 1."""
        A = torch.tensor(self.weights, dtype=torch.float64)
        degree = A.sum(1)
        L = torch.diag(degree) - A
        values, vectors = torch.linalg.eigh(L / degree.mean() if degree.any() else L)
        # as many zeros as parts that no edge joins: rounding must not grow with the coupling
        parts = connected_components(A.numpy(), directed=False, return_labels=False)
        values[:parts] = 0.0
        return values, vectors


def _wrong(expected: str, found: str, remedy: str) -> SpecificationError:
    return SpecificationError("adjacency", expected=expected, found=found, remedy=remedy)
