"""Arrays and number-keyed dictionaries as plain data that JSON holds without loss, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def to_plain(value: Any) -> Any:
    """Write nested dictionaries, lists, arrays and scalars as JSON-able data.

    Example:
        >>> to_plain({"center": np.float64(2.5), "alpha": {0: np.array([1.0])}})
        {'center': 2.5, 'alpha': {'items': [[0, {'array': [1.0]}]]}}
    """
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value) and set(value) not in ({"items"}, {"array"}):
            return {key: to_plain(item) for key, item in value.items()}
        return {"items": [[to_plain(key), to_plain(item)] for key, item in value.items()]}
    if isinstance(value, np.ndarray):
        return {"array": value.tolist()} if value.ndim else value.item()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{type(value).__name__} is not plain data")


def from_plain(value: Any) -> Any:
    """Undo `to_plain`.

    Example:
        >>> from_plain({"items": [[0, {"array": [1.0]}]]})
        {0: array([1.])}
    """
    if isinstance(value, Mapping):
        if set(value) == {"items"}:
            return {from_plain(key): from_plain(item) for key, item in value["items"]}
        if set(value) == {"array"}:
            return np.array(value["array"])
        return {key: from_plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{type(value).__name__} is not plain data")
