"""Linear predictors of rows under posterior draws, and tasks never seen drawn from the population."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from bayesmtl.algebra.conditional import draw_weights
from bayesmtl.algebra.statistics import TaskStatistics
from bayesmtl.results.linear.condition.jointly import draw_correlated_tasks
from bayesmtl.results.linear.state import LinearState
from bayesmtl.results.new_rows import AskedRows
from bayesmtl.results.prediction import Kind, Latent
from bayesmtl.sharing import Dependence, PartitionSharing


def linear_predictors(
    X: np.ndarray, weights: np.ndarray, task: np.ndarray, num_outputs: int | None = None
) -> np.ndarray:
    """f of rows under S draws: (S, n), or (S, C, n) where rows have several predictors.

    Args:
        X: Features (n, D).
        weights: Weights of the tasks, shape (S, T, D), or (S, T, C D).
        task: Positions of the rows' tasks (n,).
        num_outputs: C, or None for one number.
    """
    S, n = len(weights), len(X)
    latent = np.empty((S, n) if num_outputs is None else (S, num_outputs, n))
    for code in np.unique(task):
        where = task == code
        own = weights[:, code]
        latent[..., where] = (own if num_outputs is None else own.reshape(S, num_outputs, -1)) @ X[where].T
    return latent


def draw_new_tasks(
    fit: LinearState,
    names: Sequence[str],
    kind: Kind,
    chosen: np.ndarray,
    descriptors: torch.Tensor | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (draw, tasks, D) and noise (draw, tasks) of tasks never seen, from the population.

    Latent functions need no noise (it is 1 then), which may be unknown where it is given task by task. Tasks
    that are independent given Z have a stream of random numbers each, by their names; others are drawn
    together, in alphabetical order.
    """
    if fit.sharing.dependence is Dependence.GIVEN_Z:
        drawn = [_draw_together(fit, (name,), kind, chosen, None) for name in names]
        weights, noise = zip(*drawn, strict=True)
        return np.concatenate(weights, axis=1), np.concatenate(noise, axis=1)
    return _draw_together(fit, names, kind, chosen, descriptors)


def _draw_together(
    fit: LinearState,
    names: Sequence[str],
    kind: Kind,
    chosen: np.ndarray,
    descriptors: torch.Tensor | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The same from one stream of random numbers."""
    rng = fit.generator(2, *names)
    values = {name: value[chosen] for name, value in fit.flat().items()}
    scale = fit.likelihood.extended(fit.standardization, fit.task_names, names).target_scale
    basis = fit.draws.basis.flatten(0, 1)[chosen]
    if fit.sharing.dependence is Dependence.JOINT:
        weights, noise = draw_correlated_tasks(fit, values, basis, names, scale, rng)
        return weights.numpy(), noise.numpy()
    values = fit.problem.space.fresh_tasks(values, len(names), rng)
    scale = scale[-len(names) :]
    if isinstance(fit.sharing, PartitionSharing):
        values["cluster"], basis = fit.sharing.extend_with_means(values, basis, len(names), rng, descriptors)
    structure = fit.sharing.structure(values, len(names), len(fit.feature_names))
    structure = structure.of_outputs(fit.problem.num_outputs)
    noise = torch.ones(len(chosen), 1, dtype=torch.float64)
    if kind == "observation":
        noise = fit.likelihood.noise_sd(values, names, scale, len(chosen))
    tasks = TaskStatistics.empty(len(names), fit.problem.num_weights).compress()
    drawn = draw_weights(tasks, structure, noise, basis, rng)
    return drawn.weights.numpy(), noise.expand(-1, len(names)).numpy()


def latent(fit: LinearState, asked: AskedRows, kind: Kind, num_draws: int) -> Latent:
    """Draws of the functions at rows; unknown tasks are drawn from the population."""
    chosen = fit.chosen_draws(num_draws)
    weights = fit.draws.weights.flatten(0, 1)[chosen].numpy()
    values = {name: value[chosen] for name, value in fit.flat().items()}
    sigma = fit.likelihood.noise_sd(values, fit.task_names, fit.standardization.target_scale, len(chosen))
    noise = sigma.expand(-1, weights.shape[1]).numpy()
    if asked.unknown:
        new_weights, new_noise = draw_new_tasks(fit, asked.unknown, kind, chosen, asked.descriptors)
        weights = np.concatenate([weights, new_weights], axis=1)
        noise = np.concatenate([noise, new_noise], axis=1)
    X = fit.standardization.standardize_features(asked.rows.X)
    num_outputs = fit.likelihood.num_outputs(fit.schema.classes)
    draws = linear_predictors(X, weights, asked.codes, num_outputs)
    return Latent(draws, values, noise, None, len(chosen))
