"""What rows carry besides features, task and target: an offset, a weight, a number of trials."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from bayesmtl.data.arrays import plain_array
from bayesmtl.data.columns import numbers, take_column
from bayesmtl.data.labels import row_listing
from bayesmtl.errors import DataError, SpecificationError, listing

ARRAYS = ("offset", "weights", "trials")
"""The arrays of a TaskData that this module fills."""

REMEDY = {
    "offset": "Fill these values in: a row without its offset has no expectation.",
    "exposure": "An exposure is a time, an area or a population: a finite number above 0.",
    "weights": "A weight is a finite number above 0; drop the rows that are not to count.",
    "trials": "Give the number of trials of every row, a whole number of at least 1.",
}
EXPECTED = {
    "offset": "a finite offset in every row",
    "exposure": "an exposure above 0 in every row",
    "weights": "a weight above 0 in every row",
    "trials": "a whole number of trials, of at least 1, in every row",
}


def read_row_columns(frame: pd.DataFrame, taken: Collection[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """The offset, weights and trials of a frame's rows, and the columns they came from.

    Args:
        frame: One row per observation.
        taken: Columns with another role, the task's and the target's.
        given: By role ("offset", "exposure", "weights", "trials") the name of a column, or values (n,), or
            None. An exposure is an offset given as its exponential.

    Returns:
        Arrays by their name in `ARRAYS`, and "row_columns": the column's name by role.

    Raises:
        DataError: If a column is not there or has another role, or a value is missing or out of range.
        SpecificationError: If an offset and an exposure are given.
    """
    present = present_roles(given)
    parts: dict[str, Any] = {"row_columns": {}}
    for role, value in present.items():
        name = value if isinstance(value, str) else role
        check_free(name, role, taken)
        column = take_column(frame, name, role) if isinstance(value, str) else _as_column(value, role, frame)
        values = checked(numbers(column, name, role=role), role, name, frame.index)
        parts["offset" if role == "exposure" else role] = np.log(values) if role == "exposure" else values
        parts["row_columns"][role] = name
    return parts


def read_again(frame: pd.DataFrame, row_columns: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The same columns of new rows; weights may be absent, since no prediction needs them.

    Raises:
        DataError: If a column is not there, or a value is missing or out of range.
    """
    needed = {role: name for role, name in row_columns.items() if role != "weights" or name in frame.columns}
    parts = read_row_columns(frame, (), needed)
    return {name: values for name, values in parts.items() if name in ARRAYS}


def check_free(name: str, role: str, taken: Collection[str]) -> None:
    """Refuse a column that has a role already.

    Raises:
        DataError: If the column is the task or the target.
    """
    if name in taken:
        raise DataError(
            name,
            expected="a column with one role",
            found=f"it named as {role} and as the task or the target",
            remedy=f"Pass another column as `{role}`.",
        )


def present_roles(given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given of the roles "offset", "exposure", "weights" and "trials".

    Raises:
        SpecificationError: If an offset and an exposure are given.
    """
    present = {role: value for role, value in given.items() if value is not None}
    if "offset" in present and "exposure" in present:
        raise SpecificationError(
            "exposure",
            expected="an offset or an exposure",
            found="both",
            remedy="Add the logarithm of the exposure to the offset.",
        )
    return present


def out_of_range(values: np.ndarray, role: str) -> np.ndarray:
    """Which values (n,) are missing, infinite or outside the range of their role, bool (n,)."""
    wrong = ~np.isfinite(values)
    if role in ("exposure", "weights"):
        wrong |= ~(values > 0)
    if role == "trials":
        wrong |= ~(values >= 1) | (values != np.floor(values))
    return np.asarray(wrong)


def checked(values: np.ndarray, role: str, name: str, index: pd.Index | None) -> np.ndarray:
    """Values (n,) of a role, all finite and in its range.

    Raises:
        DataError: Naming the column and the rows.
    """
    wrong = out_of_range(values, role)
    if wrong.any():
        odd = listing([f"{value:g}" for value in values[wrong][:3]])
        raise DataError(
            name,
            expected=EXPECTED[role],
            found=f"{odd} in {row_listing(index, wrong)}",
            remedy=REMEDY[role],
        )
    return values


def as_columns(
    arrays: Mapping[str, np.ndarray | None], row_columns: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """The columns of a frame that `read_again` would read these arrays from."""
    columns = {}
    for role, name in row_columns.items():
        values = arrays["offset" if role == "exposure" else role]
        assert values is not None
        columns[name] = np.exp(values) if role == "exposure" else values
    return columns


def _as_column(values: Any, role: str, frame: pd.DataFrame) -> pd.Series[Any]:
    if isinstance(values, pd.Series) and not values.index.equals(frame.index):
        raise DataError(
            role,
            expected="the same row labels as the other columns, in the same order",
            found="other row labels",
            remedy=f"Align it first, or pass {role}.to_numpy().",
        )
    array = plain_array(values, role)
    if array.shape != (len(frame),):
        raise DataError(
            role,
            expected=f"one value for each of {len(frame)} rows",
            found=f"shape {array.shape}",
            remedy="Give one number per row.",
        )
    return pd.Series(array, index=frame.index)
