"""Descriptors of tasks as numbers: those of the training tasks, and those of tasks never seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bayesmtl.data.columns import named_columns
from bayesmtl.data.constructors import table_of_descriptors
from bayesmtl.errors import DataError, listing

if TYPE_CHECKING:
    from bayesmtl.data.schema import Schema


def descriptor_matrix(
    table: pd.DataFrame | None, names: Sequence[str], training: pd.DataFrame | None = None
) -> np.ndarray:
    """Descriptors in units of their standard deviations over the training tasks, around their means there.

    Args:
        table: One row per task.
        names: The columns wanted.
        training: The same of the training tasks; default `table`.

    Returns:
        Shape (T, Q).

    Raises:
        DataError: If there are none, or one is missing, no finite number, or the same for all training tasks.

    Example:
        >>> descriptor_matrix(pd.DataFrame({"size": [1.0, 3.0]}, index=["a", "b"]), ["size"]).tolist()
        [[-1.0], [1.0]]
    """
    values = _numbers(table, names)
    reference = values if training is None else _numbers(training, names)
    centre, scale = reference.mean(axis=0), reference.std(axis=0)
    constant = [name for name, column in zip(names, reference.T, strict=True) if np.ptp(column) == 0]
    if constant:
        raise DataError(
            constant[0],
            expected="a descriptor that differs between the training tasks",
            found=f"{reference[0, list(names).index(constant[0])]:g} for all of them",
            remedy="Leave it out: it cannot say which task belongs to which cluster.",
        )
    return np.asarray((values - centre) / scale)


def descriptors_of_new(new: Any, descriptors: Any, tasks: Sequence[str], schema: Schema) -> pd.DataFrame:
    """Descriptors of tasks that are not among the training tasks, one row each.

    Args:
        new: The rows that name the tasks: a frame that may have the descriptors as columns, or a TaskData.
        descriptors: A table of its own, or None.
        tasks: Names of the tasks.
        schema: Of the training data, whose descriptors are the columns wanted.

    Raises:
        DataError: If there are none, or a task has several, or a value is missing.
        UnknownTaskError: If a task has no row in a table.
    """
    assert schema.descriptors is not None
    names = [str(name) for name in schema.descriptors.columns]
    if descriptors is None and isinstance(new, pd.DataFrame) and schema.task_column in new.columns:
        columns = [name for name in names if name in new.columns]
        if columns:
            descriptors = new[[schema.task_column, *columns]].drop_duplicates()
            descriptors = descriptors.set_index(schema.task_column)
    if descriptors is None:
        descriptors = getattr(new, "descriptors", None)
    if descriptors is None:
        raise DataError(
            "descriptors",
            expected=f"descriptors of {listing(tasks)}, which the training data do not have",
            found="none",
            remedy=f"Pass descriptors=table with the columns {listing(names)}, one row per new task, or give "
            "the rows these columns.",
        )
    return table_of_descriptors(descriptors, tasks, schema.task_column)


def _numbers(table: pd.DataFrame | None, names: Sequence[str]) -> np.ndarray:
    if table is None:
        raise DataError(
            "descriptors",
            expected=f"descriptors of the tasks: {listing(names)}",
            found="data without descriptors",
            remedy="Pass descriptors=table, one row per task, to TaskData.from_frame.",
        )
    table = named_columns(table)
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise DataError(
            "descriptors",
            expected=f"the columns {listing(names)}",
            found=f"no {listing(missing)}",
            remedy=f"The table has {listing([str(name) for name in table.columns])}.",
        )
    columns = []
    for name in names:
        numeric = pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=float)
        wrong = ~np.isfinite(numeric)
        if wrong.any():
            raise DataError(
                name,
                expected="a finite number for every task",
                found=f"{table[name].iloc[int(wrong.argmax())]!r} for {table.index[int(wrong.argmax())]}",
                remedy="Turn categories into columns of 0 and 1, one less than there are categories.",
            )
        columns.append(numeric)
    return np.stack(columns, axis=1)
