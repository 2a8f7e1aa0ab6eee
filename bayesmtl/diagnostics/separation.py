"""Outcomes that are all alike or separated by a feature: alone they have no finite estimate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bayesmtl.errors import listing

_ALIKE = "All outcomes are alike: their level is known from the prior alone."


def separation_notes(
    X: np.ndarray,
    below: np.ndarray,
    above: np.ndarray,
    task: np.ndarray,
    task_names: Sequence[str],
    feature_names: Sequence[str],
    separated: str = "yes from no",
) -> list[str]:
    """What to say where the likelihood alone would send a weight to infinity.

    A yes keeps the linear predictor from falling without end, a no from rising so, and a count above 0 from
    both. A feature separates rows where none that keeps it from falling has a smaller value than any that
    keeps it from rising, or none a larger one; where all outcomes are alike the intercept does. Separation by
    several features together is not looked for.

    Args:
        X: Features (n, D).
        below: Rows that keep the linear predictor from falling, such as those with an event, bool (n,).
        above: Rows that keep it from rising, such as those with a trial without one, bool (n,).
        task: Positions of the tasks (n,).
        task_names: Names of the T tasks.
        feature_names: Names of the D features.
        separated: What a feature tells apart, in words.

    Example:
        >>> X, y = np.array([[1.0, 0.1], [1.0, 0.4], [1.0, 0.2], [1.0, 0.3]]), np.array([0.0, 1.0, 1.0, 1.0])
        >>> separation_notes(X, y > 0, y < 1, np.array([0, 0, 1, 1]), ["a", "b"], ["level", "dose"])[0][:59]
        "'dose' separates yes from no over all rows: the prior alone"
    """
    if not (below.any() and above.any()):
        return [_ALIKE]
    notes = []
    whole = _separated(X, below, above, np.zeros(len(X), dtype=int), 1)[0]
    if whole.any():
        notes.append(_over_all_rows(whole, feature_names, separated))
    apart = np.asarray(_separated(X, below, above, task, len(task_names)).any(axis=1))
    if apart.any():
        notes.append(
            f"{_in_tasks(apart, task_names)} all outcomes are alike or one feature separates {separated}: "
            "how large their weights are is known from the prior and the other tasks."
        )
    return notes


def class_separation_notes(
    X: np.ndarray,
    y: np.ndarray,
    classes: Sequence[str],
    task: np.ndarray,
    task_names: Sequence[str],
    feature_names: Sequence[str],
) -> list[str]:
    """The same where targets are classes, each against all others.

    Args:
        X: Features (n, D).
        y: Class of each row (n,), positions in `classes`.
        classes: Names of the K classes.
        task: Positions of the tasks (n,).
        task_names: Names of the T tasks.
        feature_names: Names of the D features.

    Example:
        >>> X, y = np.array([[1.0, 0.1], [1.0, 0.4], [1.0, 0.2], [1.0, 0.3]]), np.array([0, 1, 2, 2])
        >>> class_separation_notes(X, y, "pqr", np.zeros(4, dtype=int), ["a"], ["level", "dose"])[0][:40]
        "'dose' separates 'p' from the other clas"
    """
    present = [k for k in range(len(classes)) if (y == k).any()]
    if len(present) < 2:
        return [_ALIKE]
    notes = []
    absent = [name for k, name in enumerate(classes) if k not in present]
    if absent:
        notes.append(f"No row is in {listing(absent)}: how unlikely that is is known from the prior alone.")
    apart = np.zeros(len(task_names), dtype=bool)
    one_task = np.zeros(len(X), dtype=int)
    for k in present[1:] if len(present) == 2 else present:  # of two, what separates one separates the other
        whole = _separated(X, y == k, y != k, one_task, 1)[0]
        if whole.any():
            notes.append(_over_all_rows(whole, feature_names, f"{classes[k]!r} from the other classes"))
        apart |= _separated(X, y == k, y != k, task, len(task_names)).any(axis=1)
    if apart.any():
        notes.append(
            f"{_in_tasks(apart, task_names)} a class has no rows or one feature separates it from the others"
            ": how large their weights are is known from the prior and the other tasks."
        )
    return notes


def _over_all_rows(whole: np.ndarray, feature_names: Sequence[str], separated: str) -> str:
    names = listing([feature_names[j] for j in np.flatnonzero(whole).tolist()])
    return f"{names} separates {separated} over all rows: the prior alone says how large its weight is."


def _in_tasks(apart: np.ndarray, task_names: Sequence[str]) -> str:
    names = listing([task_names[t] for t in np.flatnonzero(apart).tolist()], limit=4)
    return f"In {int(apart.sum())} of {len(task_names)} tasks ({names})"


def _separated(X: np.ndarray, below: np.ndarray, above: np.ndarray, task: np.ndarray, T: int) -> np.ndarray:
    """Which features separate the rows of each task that has any, bool (T, D)."""
    bounds = []
    for rows in (below, above):
        low, high = np.full((T, X.shape[1]), np.inf), np.full((T, X.shape[1]), -np.inf)
        np.minimum.at(low, task[rows], X[rows])
        np.maximum.at(high, task[rows], X[rows])
        bounds.append((low, high))
    (low_below, high_below), (low_above, high_above) = bounds
    some = (np.bincount(task, minlength=T) > 0)[:, None]
    # a constant column separates only where one kind is missing
    varies = np.minimum(low_below, low_above) < np.maximum(high_below, high_above)
    apart = ((low_below >= high_above) | (high_below <= low_above)) & varies
    alike = np.isinf(low_below) | np.isinf(low_above)
    return np.asarray(some & (apart | alike))
