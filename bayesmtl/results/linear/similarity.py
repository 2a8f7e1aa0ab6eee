"""How alike the tasks of a linear fit are."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayesmtl.data import TaskSummaries
from bayesmtl.errors import SpecificationError
from bayesmtl.results.linear.state import LinearState
from bayesmtl.results.similarity import function_similarity, refuse_large
from bayesmtl.sharing import Dependence


def task_similarity(
    fit: LinearState,
    kind: str,
    relative_to: str,
    codes: np.ndarray,
    reference: Any,
    num_draws: int,
) -> tuple[np.ndarray, str]:
    """See `Fit.task_similarity`."""
    chosen = fit.chosen_draws(num_draws)
    refuse_large(len(chosen), len(codes))
    if kind == "structure" and fit.sharing.dependence is Dependence.PARTITION:
        cluster = fit.flat()["cluster"][chosen][:, codes].numpy()
        return (cluster[:, :, None] == cluster[:, None, :]).astype(
            float
        ), "whether two tasks are in one cluster"
    if kind == "structure" and fit.sharing.dependence is Dependence.JOINT:
        given = {name: value[chosen] for name, value in fit.flat().items()}
        omega = fit.sharing.task_correlation(given, len(fit.task_names))
        values = omega[:, codes][:, :, codes].numpy()
        return values, "correlation of the tasks' weights around the population"
    if kind == "structure":
        loadings = _loadings(fit)[chosen][:, codes]
        values = function_similarity(loadings, np.eye(loadings.shape[-1]))
        return values, "cosine of the tasks' loadings on the shared directions"
    weights = fit.draws.weights.flatten(0, 1)[chosen][:, codes].numpy()
    return _function_similarity(fit, weights, chosen, relative_to, reference)


def _loadings(fit: LinearState) -> np.ndarray:
    if fit.draws.factors.shape[-1] == 0 or not fit.sharing.has_loadings:
        raise SpecificationError(
            "kind",
            expected='"function" for this sharing prior',
            found='"structure"',
            remedy=f"{type(fit.sharing).__name__} has no structure of its own between tasks.",
        )
    return fit.draws.factors.flatten(0, 1).numpy()


def _function_similarity(
    fit: LinearState,
    weights: np.ndarray,
    chosen: np.ndarray,
    relative_to: str,
    reference: Any,
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


def _per_output(fit: LinearState, moment: np.ndarray) -> np.ndarray:
    """Moments of the features for weights of several predictors, whose products add up."""
    return np.kron(np.eye(fit.problem.num_outputs), moment)


def _reference(fit: LinearState, reference: Any) -> tuple[np.ndarray, np.ndarray]:
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
