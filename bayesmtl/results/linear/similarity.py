"""A linear fit seen in other forms: how alike its tasks are, and which outcomes have no finite estimate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from bayesmtl.data import TaskData, TaskSummaries
from bayesmtl.diagnostics import class_separation_notes, separation_notes
from bayesmtl.errors import SpecificationError
from bayesmtl.likelihoods import Rowwise
from bayesmtl.results.held import held_reason
from bayesmtl.results.similarity import TaskSimilarity, function_similarity
from bayesmtl.sharing import Dependence

if TYPE_CHECKING:
    from bayesmtl.results.linear.fit import Fit

_MEMORY = 2e9  # bytes that a similarity may take


def task_similarity(
    fit: Fit,
    relative_to: str,
    tasks: Sequence[str] | None,
    reference: pd.DataFrame | TaskData | None,
    kind: str,
    num_draws: int,
) -> TaskSimilarity:
    """See `Fit.task_similarity`."""
    names = fit.task_names if tasks is None else tuple(str(name) for name in tasks)
    codes = fit.schema.codes(names)
    if (codes < 0).any():
        missing = [name for name, code in zip(names, codes, strict=True) if code < 0]
        raise fit.unknown(missing, "Leave it out, or add its rows with fit.condition.")
    chosen = fit.chosen_draws(num_draws)
    if 8 * len(chosen) * len(names) ** 2 > _MEMORY:
        raise SpecificationError(
            "tasks",
            expected="few enough tasks for an array of draws x tasks x tasks",
            found=f"{len(names)} tasks and {len(chosen)} draws",
            remedy="Name the tasks of interest with tasks=[...], or lower num_draws.",
        )
    held = ""
    if kind == "structure" and fit.sharing.dependence is Dependence.PARTITION:
        cluster = fit.draws.hyperparameters["cluster"].flatten(0, 1)[chosen][:, codes].numpy()
        values = (cluster[:, :, None] == cluster[:, None, :]).astype(float)
        meaning = "whether two tasks are in one cluster"
    elif kind == "structure" and fit.sharing.dependence is Dependence.JOINT:
        given = {k: v.flatten(0, 1)[chosen] for k, v in fit.draws.hyperparameters.items()}
        omega = fit.sharing.task_correlation(given, len(fit.task_names))
        values = omega[:, codes][:, :, codes].numpy()
        meaning = "correlation of the tasks' weights around the population"
        held = held_reason(fit.method, fit.draws.sample_stats)
    elif kind == "structure":
        loadings = _loadings(fit)[chosen][:, codes]
        values = function_similarity(loadings, np.eye(loadings.shape[-1]))
        meaning = "cosine of the tasks' loadings on the shared directions"
    else:
        weights = fit.draws.weights.flatten(0, 1)[chosen][:, codes].numpy()
        values, meaning = _function_similarity(fit, weights, chosen, relative_to, reference)
    labels = np.array(names, dtype=str)
    coords = {"draw": np.arange(len(chosen)), "task": labels, "task_other": labels}
    draws = xr.DataArray(values, coords=coords, dims=("draw", "task", "task_other"), name="similarity")
    return TaskSimilarity(draws, meaning, held)


def _loadings(fit: Fit) -> np.ndarray:
    if fit.draws.factors.shape[-1] == 0 or not fit.sharing.has_loadings:
        raise SpecificationError(
            "kind",
            expected='"function" for this sharing prior',
            found='"structure"',
            remedy=f"{type(fit.sharing).__name__} has no structure of its own between tasks.",
        )
    return fit.draws.factors.flatten(0, 1).numpy()


def _function_similarity(
    fit: Fit,
    weights: np.ndarray,
    chosen: np.ndarray,
    relative_to: str,
    reference: pd.DataFrame | TaskData | None,
) -> tuple[np.ndarray, str]:
    moment, centred = _reference(fit, reference)
    if relative_to == "population":
        if not fit.sharing.has_population:
            raise SpecificationError(
                "relative_to",
                expected='"nothing" for a sharing prior without a population',
                found='"population"',
                remedy="Use Hierarchical() or LowRank() for tasks around a population.",
            )
        weights = weights - fit.draws.basis.flatten(0, 1)[chosen][:, :1].numpy()
        return function_similarity(
            weights, _per_output(fit, moment)
        ), "agreement of departures from the population"
    if not np.any(np.diag(centred) > 1e-20):
        raise SpecificationError(
            "reference",
            expected="inputs over which the functions vary",
            found="constant features only",
            remedy='Use relative_to="population" to compare levels.',
        )
    centred = _per_output(fit, centred)
    return function_similarity(weights, centred), "correlation of the tasks' functions over the inputs"


def _per_output(fit: Fit, moment: np.ndarray) -> np.ndarray:
    """Moments of the features for weights of several predictors, whose products add up."""
    return np.kron(np.eye(fit.problem.num_outputs), moment)


def _reference(fit: Fit, reference: pd.DataFrame | TaskData | None) -> tuple[np.ndarray, np.ndarray]:
    """Moments about zero and about the mean, (D, D) each, of the standardised reference inputs."""
    if reference is not None:
        X = fit.schema.encode(reference, targets=False).X
    elif isinstance(fit.data, TaskSummaries):
        return fit.data.moments.feature_moments(fit.standardization)
    else:
        X = fit.data.X
    X = fit.standardization.standardize_features(X)
    apart = X - X.mean(axis=0)
    return X.T @ X / len(X), apart.T @ apart / len(X)


def separation(fit: Fit) -> list[str]:
    """What `Fit.check` says of outcomes that have no finite estimate by themselves."""
    data = fit.data
    likelihood = fit.likelihood.of_tasks(data.task_names, np.ones(data.num_tasks))  # scales play no part
    if not isinstance(likelihood, Rowwise):
        return []
    trials: np.ndarray | None
    if isinstance(data, TaskSummaries):  # means tell whether the outcomes of a task are all alike
        task = np.flatnonzero(data.moments.count > 0)
        means = data.moments.averages()
        y, trials, X = means["y"].round(9), means["trials"].round(9), np.ones((len(task), 1))
    else:
        seen = data.observed
        task, y, X = data.task[seen], data.y[seen], data.X[seen]
        trials = None if data.trials is None else data.trials[seen]
    if likelihood.has_classes and isinstance(data, TaskData):
        return class_separation_notes(X, y, data.classes, task, data.task_names, data.feature_names)
    bounds = likelihood.bounds(y, task, trials)
    return separation_notes(X, *bounds, task, data.task_names, data.feature_names, likelihood.separated)
