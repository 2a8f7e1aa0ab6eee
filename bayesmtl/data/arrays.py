"""What users pass as arrays (lists, tensors, masked and sparse arrays, frames) as plain NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayesmtl.errors import DataError


def plain_array(values: Any, name: str, *, missing: bool = False) -> np.ndarray:
    """An array of any kind as a plain one.

    Args:
        values: What was passed.
        name: Its name, for messages.
        missing: Whether masked entries are allowed: they become NaN, not observed.

    Raises:
        DataError: If it is masked where nothing may be missing, sparse, or a list of unequal lists.

    Example:
        >>> plain_array(np.ma.masked_equal([1.0, -9999.0], -9999.0), "y", missing=True).tolist()
        [1.0, nan]
    """
    if isinstance(values, np.ma.MaskedArray):
        return _unmasked(values, name, missing=missing)
    if hasattr(values, "detach"):  # a tensor, which may want gradients or be on another device
        values = values.detach().cpu().numpy()
    if hasattr(values, "toarray") and hasattr(values, "nnz"):
        raise DataError(
            name,
            expected="a dense array",
            found=f"a sparse one ({type(values).__name__})",
            remedy=f"Pass {name}.toarray().",
        )
    try:
        return np.asarray(values)
    except (ValueError, TypeError) as error:
        raise DataError(
            name,
            expected="rows of equal length",
            found=f"something that is no array ({error})",
            remedy="Give every row the same number of values; np.nan marks what was not observed.",
        ) from error


def _unmasked(values: np.ma.MaskedArray[Any, Any], name: str, *, missing: bool) -> np.ndarray:
    mask = np.ma.getmaskarray(values)
    if not mask.any():
        return np.asarray(values.data)
    if not missing:
        raise DataError(
            name,
            expected="a value in every place; only the target may be missing",
            found=f"{int(mask.sum())} masked ones",
            remedy="Drop these rows, or fill them in with values.filled(...).",
        )
    if values.dtype == object or values.dtype.kind in "US":
        return np.asarray(np.ma.filled(values.astype(object), None))
    return np.asarray(np.ma.filled(values.astype(np.float64), np.nan))
