"""Reading one column of a frame: found by name, of a known kind, and complete."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from numbers import Number
from typing import Any, Literal

import numpy as np
import pandas as pd

from bayesmtl.data.labels import row_listing
from bayesmtl.errors import DataError, listing

Kind = Literal["number", "boolean", "category"]

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_FEW_LABELS = 3  # different values of a text column from which numbers among them are no labels


def named_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """The same frame with strings for column names (a shallow copy)."""
    if not isinstance(frame, pd.DataFrame):
        raise DataError(
            "frame",
            expected="a pandas DataFrame",
            found=f"{type(frame).__name__}",
            remedy="Wrap it in pd.DataFrame(...), or use TaskData.from_arrays.",
        )
    return frame.set_axis([str(name) for name in frame.columns], axis=1)


def take_column(frame: pd.DataFrame, name: str, role: str) -> pd.Series[Any]:
    """The column of that name.

    Args:
        frame: A frame with string column names.
        name: The column to take.
        role: What it is for ("task", "feature", "target"), for messages.

    Raises:
        DataError: If the column is absent (similar names are listed) or occurs more than once.
    """
    count = list(frame.columns).count(name)
    if count == 1:
        return frame[name]
    if count > 1:
        raise DataError(
            name,
            expected=f"one column of that name for the {role}",
            found=f"{count} columns named '{name}'",
            remedy="Rename or drop the repeated columns.",
        )
    known = [str(column) for column in frame.columns]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    raise DataError(
        name,
        expected=f"a column of the frame ({role})",
        found=f"no such column (columns: {listing(known)})" if known else "a frame without columns",
        remedy=f"Did you mean {' or '.join(map(repr, near))}?" if near else f"Add column '{name}'.",
    )


def kind_of(values: pd.Series[Any], name: str) -> Kind:
    """Say whether a feature column holds numbers, booleans or categories."""
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return "category"
    if pd.api.types.is_bool_dtype(dtype):
        return "boolean"
    if pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_complex_dtype(dtype):
        return "number"
    if pd.api.types.is_string_dtype(dtype) and dtype != object:
        return "category"
    if dtype == object:
        present = values.dropna()
        if all(isinstance(value, (bool, np.bool_)) for value in present):
            return "boolean"
        if _all_numbers(present):
            return "number"
        if all(isinstance(value, (str, int, float, np.generic)) for value in present):
            return "category"
    raise DataError(
        name,
        expected="numbers, booleans, strings or categories",
        found=f"values of type {dtype}",
        remedy="Turn the column into numbers (for a date: the days since a start) or into strings.",
    )


def refuse_numbers_in_text(values: pd.Series[Any], name: str) -> None:
    """Refuse a column of text most of which are numbers: one odd entry makes it so when a file is read.

    Raises:
        DataError: Naming what is no number, and both ways out.
    """
    distinct = [str(value) for value in pd.unique(values.dropna())]
    odd = [value for value in distinct if not _NUMBER.fullmatch(value.strip())]
    if len(distinct) < _FEW_LABELS or len(odd) > len(distinct) / 2:
        return
    found = f"text, {len(distinct) - len(odd)} of its {len(distinct)} different values numbers"
    raise DataError(
        name,
        expected="numbers, or labels",
        found=found + (f" but {listing(odd[:3])}" if odd else ""),
        remedy=f"Convert column '{name}' with pd.to_numeric(..., errors=\"coerce\"), or say that these are "
        'labels with .astype("category").',
    )


def numbers(values: pd.Series[Any], name: str, *, role: str) -> np.ndarray:
    """A column as float64, missing values as NaN.

    Raises:
        DataError: If it holds anything but numbers, booleans and missing values.
    """
    dtype = values.dtype
    plain = pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype)
    if plain and not pd.api.types.is_complex_dtype(dtype):
        return values.to_numpy(np.float64, na_value=np.nan)
    present = values.dropna().astype(object)
    if pd.api.types.is_datetime64_any_dtype(dtype) or pd.api.types.is_timedelta64_dtype(dtype):
        odd: list[Any] = list(present)
    else:
        odd = [value for value in present if not _is_number(value)]
    if odd:
        distinct = list(dict.fromkeys(map(str, odd)))
        labels = ""
        if role == "the target":
            labels = ' Labels, for Categorical(), with .astype("category").'
            if len(distinct) == 2:
                labels = (
                    f" For Bernoulli() say which is the event, as in df['{name}'] == '{distinct[0]}'."
                    + labels
                )
        raise DataError(
            name,
            expected=f"numbers ({role})",
            found=f"{len(odd)} of {len(values)} values that are not, such as {listing(distinct[:3])}",
            remedy=f"Convert column '{name}' with pd.to_numeric, or encode it before use.{labels}",
        )
    filled = values.astype(object).where(values.notna().to_numpy(), np.nan)
    return filled.to_numpy().astype(np.float64)


def finite_features(values: np.ndarray, names: Sequence[str], index: pd.Index | None) -> None:
    """Refuse feature columns (n, D) with NaN or infinity, naming the first such column."""
    good = np.isfinite(values)
    if good.all():
        return
    column = int(np.flatnonzero(~good.all(axis=0))[0])
    raise DataError(
        names[column],
        expected="a finite value in every row",
        found=f"values that are missing or infinite in {row_listing(index, ~good[:, column])}",
        remedy="Drop these rows or fill them in; only the target may be missing.",
    )


def finite_target(values: np.ndarray, name: str, index: pd.Index | None) -> None:
    """Refuse a target (n,) that is infinite anywhere or observed nowhere; NaN means not observed."""
    infinite = np.isinf(values)
    if infinite.any():
        raise DataError(
            name,
            expected="finite targets, or NaN where the target was not observed",
            found=f"infinity in {row_listing(index, infinite)}",
            remedy="Correct these rows, or set them to NaN.",
        )
    if np.isnan(values).all():
        raise DataError(
            name,
            expected="at least one observed target",
            found=f"all {len(values)} targets missing",
            remedy=f"Check that '{name}' is the right column and was read as numbers.",
        )


def _is_number(value: object) -> bool:
    return isinstance(value, (Number, np.bool_)) and not isinstance(value, (complex, np.complexfloating))


def _all_numbers(values: pd.Series[Any]) -> bool:
    return all(_is_number(value) for value in values)
