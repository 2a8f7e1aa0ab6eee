"""Targets that are labels: positions of named classes, NaN where not observed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bayesmtl.data.columns import numbers
from bayesmtl.data.labels import encode_labels, label_of
from bayesmtl.errors import DataError, listing

_MOST_CLASSES = 100  # different whole numbers that are taken for names without being asked to


def read_target(values: pd.Series[Any], name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The target (n,) as numbers; of a categorical column of labels, positions in them, and their names.

    Classes keep the order of the categories, those that no row has included.

    Raises:
        DataError: If it is neither, or two categories are written alike.

    Example:
        >>> y, classes = read_target(pd.Series(["b", None, "a"], dtype="category"), "kind")
        >>> y.tolist(), classes
        ([1.0, nan, 0.0], ('a', 'b'))
    """
    dtype = values.dtype
    if not isinstance(dtype, pd.CategoricalDtype) or pd.api.types.is_numeric_dtype(dtype.categories):
        return numbers(values, name, role="the target"), ()  # also those that came as categories
    categories = dtype.categories
    _, names = encode_labels(pd.Series(pd.Categorical(categories, categories=categories)), name)
    codes = values.cat.codes.to_numpy(np.float64)
    return np.where(codes < 0, np.nan, codes), names


def codes_in(values: pd.Series[Any], classes: tuple[str, ...], name: str) -> np.ndarray:
    """Positions (m,) of labels of any type among known classes, NaN where there is none.

    Raises:
        DataError: If a label is none of the classes.

    Example:
        >>> codes_in(pd.Series(["b", None]), ("a", "b"), "kind").tolist()
        [1.0, nan]
    """
    missing = values.isna().to_numpy()
    labels = [label_of(value) for value in values[~missing]]
    codes = pd.Index(classes).get_indexer(pd.Index(labels, dtype=object))
    if (codes < 0).any():
        odd = list(dict.fromkeys(label for label, code in zip(labels, codes, strict=True) if code < 0))
        raise DataError(
            name,
            expected=f"classes of the training data ({listing(classes)})",
            found=listing(odd),
            remedy="Leave these rows out, or fit again with all classes.",
        )
    y = np.full(len(values), np.nan)
    y[~missing] = codes
    return y


def classes_of(y: np.ndarray, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Whole numbers (n,) as positions of classes that are named by them, in their order.

    Raises:
        DataError: If a number is not whole, or they are so many that they are no names.

    Example:
        >>> codes, classes = classes_of(np.array([3.0, np.nan, 1.0]), "kind")
        >>> codes.tolist(), classes
        ([1.0, nan, 0.0], ('1', '3'))
    """
    known = ~np.isnan(y)
    distinct, codes = np.unique(y[known], return_inverse=True)
    odd = distinct[distinct != np.floor(distinct)]
    if len(odd) or len(distinct) > _MOST_CLASSES:
        found = f"{len(odd)} different numbers that are not, such as {odd[0]:g}" if len(odd) else ""
        raise DataError(
            name,
            expected="labels: a categorical column, or whole numbers",
            found=found or f"{len(distinct)} different numbers",
            remedy=f"Make column '{name}' categorical with .astype(\"category\").",
        )
    whole = np.full(len(y), np.nan)
    whole[known] = codes.ravel()
    return whole, tuple(label_of(value) for value in distinct)


def checked_classes(y: np.ndarray, classes: tuple[str, ...], name: str) -> None:
    """Refuse targets (n,) that are no positions of classes."""
    known = y[~np.isnan(y)]
    if classes and not np.isin(known, np.arange(len(classes))).all():
        raise DataError(
            name,
            expected=f"positions of {len(classes)} classes",
            found="other numbers",
            remedy="Build the data with from_frame, from_formula or from_arrays.",
        )
