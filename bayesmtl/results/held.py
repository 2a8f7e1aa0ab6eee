"""Quantities that an engine holds at one value: they have no interval, and no probability of their sign."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

_STILL = 1e-9  # range over the draws, relative to the largest, that rounding explains


def held_reason(method: str, sample_stats: Mapping[str, np.ndarray]) -> str:
    """Why quantities that never vary have no interval, for engines that search for a point; else "".

    Of other engines a quantity without variation is one that the model knows.

    Example:
        >>> held_reason("exact", {})
        ''
    """
    if "start_disagreement" not in sample_stats:
        return ""
    return f'held fixed by method="{method}", which does not say how unsure it is'


def is_still(draws: np.ndarray) -> np.ndarray:
    """Whether quantities are the same in all draws, along the first axis: (S, ...) -> (...).

    Example:
        >>> is_still(np.array([[1.0, 2.0], [1.0, 3.0]])).tolist()
        [True, False]
    """
    return np.asarray(np.ptp(draws, axis=0) <= _STILL * np.abs(draws).max(axis=0))
