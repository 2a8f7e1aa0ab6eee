"""What in the data, not in the run, makes draws hard to come by or says nothing about a quantity."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from bayesmtl.algebra.functions import LEAST_NOISE
from bayesmtl.algebra.statistics import RANK_TOLERANCE, TaskStatistics
from bayesmtl.errors import listing
from bayesmtl.results.linear.state import LinearState

_SPREADS = ("residual_scale", "task_scale", "cluster_scale")  # how priors call what tasks differ by


def causes(fit: LinearState, shown: Collection[str]) -> list[str]:
    """Sentences about the data of a fit, whose hyperparameters are called `shown`."""
    found = _without_noise(fit)
    spreads = [name for name in _SPREADS if name in shown]
    if not spreads:
        return found
    dispersion = [p.name for p in fit.likelihood.parameters(len(fit.task_names)) if p.name in shown]
    one_each = bool((fit.statistics.count <= 1).all())
    if one_each and dispersion:
        found.append(
            f"No task has more than one observed row: the data cannot tell {dispersion[0]} from the "
            f"spread of tasks ({listing(spreads)}); more rows per task would, or a noise that is known."
        )
    if not one_each:
        flat = _constant_within_tasks(fit)
        if flat:
            found.append(
                f"{listing(flat)} never varies inside any task: the data cannot tell how much its weight "
                "varies over tasks from how much their levels do."
            )
    return found


def _without_noise(fit: LinearState) -> list[str]:
    """Tasks whose targets leave no noise, where that is inferred and they decide."""
    T = len(fit.task_names)
    scaled = fit.likelihood.of_tasks(fit.task_names, fit.standardization.target_scale).scaled_rows(
        np.arange(T)
    )
    inferred = fit.likelihood.parameters(T)
    own = fit.likelihood.is_mixed or any(parameter.task_axis is not None for parameter in inferred)
    constant, linear = without_residual(fit.statistics, intercept=fit.standardization.intercept)
    exact = scaled & (constant | linear)
    others = (fit.statistics.count > 0) & ~exact
    if not inferred or not exact.any() or (others.any() and not own):
        return []
    told = [
        f"{what} in {listing([fit.task_names[t] for t in np.flatnonzero(scaled & where).tolist()], limit=4)}"
        for what, where in (("constant", constant), ("exactly linear in the features", linear & ~constant))
        if (scaled & where).any()
    ]
    return [
        f"Targets are {' and '.join(told)}: no noise is left there, and it is taken for {LEAST_NOISE:.0e} "
        "(standardised) at least; leave these tasks out, or give the noise that is known."
    ]


def without_residual(statistics: TaskStatistics, *, intercept: bool) -> tuple[np.ndarray, np.ndarray]:
    """Tasks whose targets are constant, and linear in their features, by more rows than that takes.

    Up to `LEAST_NOISE`, in standardised units; bool, (T,) each.

    Example:
        >>> X, y = np.ones((6, 1)), np.array([1.0, 1.0, 1.0, 2.0, 5.0, 7.0])
        >>> sums = TaskStatistics.from_rows(X, y, np.array([0, 0, 0, 1, 1, 2]), num_tasks=3)
        >>> without_residual(sums, intercept=True)[0].tolist()
        [True, False, False]
    """
    count = statistics.count
    eigenvalues = np.linalg.eigvalsh(statistics.gram)
    rank = (eigenvalues > RANK_TOLERANCE * eigenvalues[:, -1:]).sum(axis=1)
    small = count * LEAST_NOISE**2
    linear = (statistics.compress().residual.numpy() <= small) & (count > rank)
    if not intercept:
        return np.zeros(len(count), dtype=bool), linear
    of_mean = np.divide(statistics.cross[:, 0] ** 2, count, out=np.zeros_like(count), where=count > 0)
    return (statistics.square - of_mean <= small) & (count > 1), linear


def _constant_within_tasks(fit: LinearState) -> list[str]:
    """Features, of a model with an intercept, that vary over all rows but inside no task."""
    if not fit.standardization.intercept:
        return []
    gram, count = fit.statistics.gram, fit.statistics.count
    square = np.einsum("tdd->td", gram)
    within = square - gram[:, 0] ** 2 / np.maximum(count, 1e-300)[:, None]
    whole = square.sum(0) - gram[:, 0].sum(0) ** 2 / count.sum()
    flat = within.sum(0) <= RANK_TOLERANCE * square.sum(0)
    varies = whole > RANK_TOLERANCE * square.sum(0)
    return [fit.feature_names[d] for d in np.flatnonzero(flat & varies).tolist() if d]
