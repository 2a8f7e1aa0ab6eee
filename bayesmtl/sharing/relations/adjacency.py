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

    @classmethod
    def of_neighbours(cls, descriptors: Any, num_neighbours: int) -> Adjacency:
        """An edge of weight 1 between tasks one of which is among the nearest of the other.

        Distances are Euclidean, each descriptor in units of its standard deviation over the tasks. Of equally
        distant tasks all are neighbours, so that their order has no effect.

        Args:
            descriptors: A DataFrame with one row for each task and columns of numbers.
            num_neighbours: Neighbours of each task at least, from 1 to T - 1.

        Raises:
            SpecificationError: If the table has no named tasks or no columns, names repeat, a descriptor is
                missing, no number or the same for all tasks, or there are not so many neighbours.
        """
        values, names = _numbers(descriptors)
        if not isinstance(num_neighbours, int | np.integer) or not 1 <= num_neighbours < len(names):
            raise SpecificationError(
                "num_neighbours",
                expected=f"a whole number from 1 to {len(names) - 1}, for {len(names)} tasks",
                found=repr(num_neighbours),
                remedy="Give how many tasks each is joined to at least.",
            )
        apart = np.sqrt(((values[:, None] - values) ** 2).sum(-1))
        np.fill_diagonal(apart, np.inf)
        farthest = np.sort(apart, axis=1)[:, num_neighbours - 1]
        near = apart <= farthest[:, None] * (1 + _ROUNDING)
        A = (near | near.T).astype(float)
        return cls(names, tuple(tuple(float(weight) for weight in row) for row in A))

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


def _numbers(descriptors: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Descriptors (T, Q) in units of their standard deviations, and the tasks' names."""

    def refuse(expected: str, found: str, remedy: str) -> SpecificationError:
        return SpecificationError("descriptors", expected=expected, found=found, remedy=remedy)

    if not isinstance(descriptors, pd.DataFrame):
        raise refuse(
            "a DataFrame with the names of the tasks as its index",
            type(descriptors).__name__,
            "Write pd.DataFrame(values, index=names), or give data.descriptors.",
        )
    names = [str(name) for name in descriptors.index]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if len(names) < 2 or descriptors.shape[1] == 0 or repeated:
        raise refuse(
            "at least one column, and two rows of different names",
            f"{descriptors.shape[1]} columns, {len(names)} rows"
            + (f"; repeated: {listing(repeated)}" if repeated else ""),
            "Give every task one row.",
        )
    try:
        values = descriptors.to_numpy(dtype=float)
    except (TypeError, ValueError) as error:
        raise refuse("numbers", str(error), "Write categories as columns of 0 and 1.") from None
    if not np.isfinite(values).all():
        t, q = np.argwhere(~np.isfinite(values))[0]
        raise refuse(
            "finite numbers",
            f"{values[t, q]} in {descriptors.columns[q]!r} of {names[t]!r}",
            "Fill it in, or leave the column out.",
        )
    constant = [
        str(name) for name, column in zip(descriptors.columns, values.T, strict=True) if not np.ptp(column)
    ]
    if constant:
        raise refuse(
            "descriptors that differ between tasks",
            f"the same {listing(constant)} for all",
            "Leave it out: it cannot say who is close to whom.",
        )
    return (values - values.mean(0)) / values.std(0), tuple(names)


def _wrong(expected: str, found: str, remedy: str) -> SpecificationError:
    return SpecificationError("adjacency", expected=expected, found=found, remedy=remedy)
