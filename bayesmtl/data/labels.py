"""Labels of tasks and categories: every label is a string, whatever the frame held.

A school read as ``1``, ``1.0`` or ``"1"`` is the same school, so that a fit saved today knows it in
tomorrow's file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from bayesmtl.errors import DataError, listing

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")


def label_of(value: object) -> str:
    """Write one label as a string; whole numbers lose their decimal point.

    Example:
        >>> [label_of(value) for value in (1, 1.0, 2.5, "1", True)]
        ['1', '1', '2.5', '1', 'True']
    """
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if isinstance(value, (float, np.floating)) and np.isfinite(value) and float(value).is_integer():
        return str(int(value))
    return str(value)


def row_listing(index: pd.Index | None, rows: np.ndarray) -> str:
    """Name the first few of some rows: ``"3 rows ('a', 'b' ...)"``.

    Args:
        index: Labels of all rows, or None to count them from 0.
        rows: Boolean mask (n,) of the rows to name.
    """
    positions = np.flatnonzero(rows)
    shown = [repr(str(position if index is None else index[position])) for position in positions[:3]]
    more = " ..." if len(positions) > 3 else ""
    return f"{len(positions)} row{'s' if len(positions) != 1 else ''} ({', '.join(shown)}{more})"


def encode_labels(values: pd.Series[Any], column: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Turn a column of labels into integer codes and the ordered names they stand for.

    Names follow the order of the categories for a categorical column (only those present); otherwise they
    are sorted, as numbers when every label is one.

    Args:
        values: One label per row (n,).
        column: Name of the column, for messages.

    Returns:
        The codes (n,), int64, and the names they index.

    Raises:
        DataError: If a label is missing, or two different labels are written alike (1 and "1").

    Example:
        >>> codes, names = encode_labels(pd.Series([10, 9, 10]), "school")
        >>> codes.tolist(), names
        ([1, 0, 1], ('9', '10'))
    """
    missing = values.isna().to_numpy()
    if missing.any():
        raise DataError(
            column,
            expected="a label in every row",
            found=f"none in {row_listing(values.index, missing)}",
            remedy=f"Drop these rows, or give them a label in column '{column}'.",
        )
    if isinstance(values.dtype, pd.CategoricalDtype):
        present = values.cat.remove_unused_categories()
        names = [label_of(category) for category in present.cat.categories]
        codes = present.cat.codes.to_numpy(np.int64)
        _require_distinct(names, column)
        return codes, tuple(names)
    # Python equality would merge True with 1, so booleans are written out before they are compared.
    if values.dtype == object:
        values = values.map(lambda value: label_of(value) if isinstance(value, (bool, np.bool_)) else value)
    codes, unique = pd.factorize(values)
    names = [label_of(value) for value in unique]
    _require_distinct(names, column)
    order = np.array(sort_order(names), dtype=np.int64)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[codes].astype(np.int64), tuple(names[position] for position in order)


def sort_order(names: Sequence[str]) -> list[int]:
    """Positions that sort labels: as numbers when all of them are, else as strings."""
    if all(_NUMBER.fullmatch(name) for name in names):
        return sorted(range(len(names)), key=lambda position: (float(names[position]), names[position]))
    return sorted(range(len(names)), key=lambda position: names[position])


def _require_distinct(names: Sequence[str], column: str) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(
            column,
            expected="labels that stay different when written as strings",
            found=f"different labels that are all written {listing(repeated)}",
            remedy=f"Give column '{column}' one type, for example with .astype(str).",
        )
