"""What an engine returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from bayesmtl.algebra.conditional import WeightDraws, draw_posterior
from bayesmtl.algebra.statistics import CompressedTasks
from bayesmtl.algebra.structure import Structure
from bayesmtl.parameters import Values
from bayesmtl.posteriors.linear.posterior import Problem

_CHUNK = 1_000_000  # weights and their rows of workspace handled at once, in numbers
_ROWS_AT_ONCE = 200_000  # row values, where there are rows


@dataclass(frozen=True, eq=False)
class Draws:
    """Posterior draws in standardised units.

    Args:
        hyperparameters: By name, each (C, N, ...), as the sharing prior and the likelihood define them.
        basis: Z, shape (C, N, R, D).
        weights: W, shape (C, N, T, D).
        factors: Coordinates of E along a shared factor, shape (C, N, T, K).
        sample_stats: By name, each (C, N).
        complete: Whether all draws that were asked for are there.
    """

    hyperparameters: dict[str, torch.Tensor]
    basis: torch.Tensor
    weights: torch.Tensor
    factors: torch.Tensor
    sample_stats: dict[str, np.ndarray]
    complete: bool = True


def complete_draws(
    problem: Problem,
    points: torch.Tensor,
    sample_stats: dict[str, np.ndarray],
    rng: np.random.Generator,
    *,
    complete: bool = True,
    data: Callable[[Structure, int, Values], CompressedTasks] | None = None,
) -> Draws:
    """Draw Z and W for every kept hyperparameter point (C, N, P): exactly, given Gaussian data.

    Args:
        problem: The posterior.
        points: Coordinates of the hyperparameters.
        sample_stats: What the engine recorded, each (C, N).
        rng: Source of randomness.
        complete: Whether these are all draws that were asked for.
        data: The data for B hyperparameter values and their structure, where they are not those of the
            problem.
    """
    C, N, P = points.shape
    values = problem.space.constrain(points.reshape(C * N, P))
    T, D = problem.tasks.num_tasks, problem.num_weights
    flat = points.reshape(C * N, P)
    one_value = bool((flat == flat[0]).all())  # a mode: all draws share its factors
    rank = max(group.rows.shape[1] for group in problem.tasks.groups)
    workspace = T * (D + rank if one_value else D * rank)
    if problem.sharing.has_correlation and not one_value:
        workspace = (1 + T) * D * ((1 + T) * D + T * rank)  # one row of Z for every task
    size = max(1, _CHUNK // workspace)
    if problem.rows is not None and not one_value:
        size = max(1, min(size, _ROWS_AT_ONCE // problem.rows.size))
    parts = []
    for start in range(0, C * N, size):
        B = min(size, C * N - start)
        chunk = {name: value[:1] if one_value else value[start : start + B] for name, value in values.items()}
        values_at_once, num_draws = (1, B) if one_value else (B, 1)
        structure, noise = problem.structure(chunk), problem.noise(chunk, values_at_once)
        tasks = problem.tasks if data is None else data(structure, values_at_once, chunk)
        parts.append(draw_posterior(tasks, structure, noise, rng, num_draws))
    draws = WeightDraws(
        torch.cat([part.weights for part in parts]),
        torch.cat([part.basis for part in parts]),
        torch.cat([part.factors for part in parts]),
    )
    return Draws(
        {name: value.reshape(C, N, *value.shape[1:]) for name, value in values.items()},
        draws.basis.reshape(C, N, *draws.basis.shape[1:]),
        draws.weights.reshape(C, N, T, D),
        draws.factors.reshape(C, N, *draws.factors.shape[1:]),
        sample_stats,
        complete,
    )
