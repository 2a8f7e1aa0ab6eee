"""Outcomes that are all alike or separated by a feature: alone they have no finite estimate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bayesmtl.errors import listing


def separation_notes(
    X: np.ndarray,
    yes: np.ndarray,
    no: np.ndarray,
    task: np.ndarray,
    task_names: Sequence[str],
    feature_names: Sequence[str],
) -> list[str]:
    """What to say where the likelihood alone would send a weight to infinity.

    A feature separates rows where none with a yes has a smaller value than any with a no, or none a larger
    one; where all outcomes are alike the intercept does. Separation by several features together is not
    looked for.

    Args:
        X: Features (n, D).
        yes: Rows with an event among their trials, bool (n,).
        no: Rows with a trial without one, bool (n,).
        task: Positions of the tasks (n,).
        task_names: Names of the T tasks.
        feature_names: Names of the D features.

    Example:
        >>> X, y = np.array([[1.0, 0.1], [1.0, 0.4], [1.0, 0.2], [1.0, 0.3]]), np.array([0.0, 1.0, 1.0, 1.0])
        >>> separation_notes(X, y > 0, y < 1, np.array([0, 0, 1, 1]), ["a", "b"], ["level", "dose"])[0][:59]
        "'dose' separates yes from no over all rows: the prior alone"
    """
    if not (yes.any() and no.any()):
        return ["All outcomes are alike: how far from even the odds are is known from the prior alone."]
    notes = []
    whole = _separated(X, yes, no, np.zeros(len(X), dtype=int), 1)[0]
    if whole.any():
        names = listing([feature_names[j] for j in np.flatnonzero(whole).tolist()])
        notes.append(
            f"{names} separates yes from no over all rows: the prior alone says how large its weight is."
        )
    tasks = np.flatnonzero(_separated(X, yes, no, task, len(task_names)).any(axis=1))
    if len(tasks):
        names = listing([task_names[t] for t in tasks.tolist()], limit=4)
        notes.append(
            f"In {len(tasks)} of {len(task_names)} tasks ({names}) all outcomes are alike or one feature "
            "separates yes from no: how large their weights are is known from the prior and the other tasks."
        )
    return notes


def _separated(X: np.ndarray, yes: np.ndarray, no: np.ndarray, task: np.ndarray, T: int) -> np.ndarray:
    """Which features separate the rows of each task that has any, bool (T, D)."""
    bounds = []
    for rows in (yes, no):
        low, high = np.full((T, X.shape[1]), np.inf), np.full((T, X.shape[1]), -np.inf)
        np.minimum.at(low, task[rows], X[rows])
        np.maximum.at(high, task[rows], X[rows])
        bounds.append((low, high))
    (low_yes, high_yes), (low_no, high_no) = bounds
    some = (np.bincount(task, minlength=T) > 0)[:, None]
    # a constant column separates only where one kind is missing
    varies = np.minimum(low_yes, low_no) < np.maximum(high_yes, high_no)
    apart = ((low_yes >= high_no) | (high_yes <= low_no)) & varies
    alike = np.isinf(low_yes) | np.isinf(low_no)
    return np.asarray(some & (apart | alike))
