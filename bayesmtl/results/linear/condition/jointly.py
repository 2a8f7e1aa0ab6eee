"""New tasks and further rows where tasks are correlated.

The rows of any task say something about all others, so a draw is weighted by the density of the new rows with
all of Z integrated out, and all weights are drawn anew. A new task's row of the correlation matrix is chosen
among candidates from its prior given the known corner, in proportion to the density of the task's rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from bayesmtl.algebra.collapsed import cholesky_or_nan, log_likelihood_of, log_marginal, whiten
from bayesmtl.algebra.conditional import WeightDraws, draw_posterior, shared_part
from bayesmtl.algebra.random import standard_normal
from bayesmtl.algebra.statistics import CompressedTasks, TaskStatistics
from bayesmtl.data import Standardization
from bayesmtl.parameters import Values
from bayesmtl.results.linear.state import LinearState

_CANDIDATES = 32  # tries for a new task's row of the correlation matrix, its scale and its noise level
_AT_ONCE = 4_000_000  # numbers of workspace for the posterior precisions of Z


def draw_correlated_tasks(
    fit: LinearState,
    values: Values,
    basis: torch.Tensor,
    names: Sequence[str],
    scale: np.ndarray,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (draws, U, D) and noise sd (draws, U) of tasks drawn from the population, given the known ones.

    Args:
        fit: The fit.
        values: Hyperparameter draws, each (draws, ...).
        basis: Z, shape (draws, R, D).
        names: Names of the U new tasks.
        scale: Target scales of all tasks, shape (T + U,).
        rng: Source of randomness.
    """
    S, _, D = basis.shape
    U, T = len(names), len(fit.task_names)
    extended = fit.problem.space.extend_tasks(values, U, rng)
    structure = fit.sharing.structure(extended, T + U, len(fit.feature_names))
    structure = structure.of_outputs(fit.problem.num_outputs)
    assert structure.basis_scale is not None
    fresh = standard_normal(rng, S, U, D) * structure.basis_scale[:, -U:]
    weights = shared_part(structure, torch.cat([basis, fresh], dim=1), T + U)
    noise = fit.likelihood.noise_sd(extended, (*fit.task_names, *names), scale, S).expand(-1, T + U)
    return weights[:, -U:], noise[:, -U:]


def weigh_correlated(
    fit: LinearState,
    before: TaskStatistics,
    after: TaskStatistics,
    touched: np.ndarray,
    added: tuple[str, ...],
    standardization: Standardization,
    rng: np.random.Generator,
) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """Hyperparameter draws extended to the new tasks, and the log weight of every draw.

    Args:
        fit: The fit.
        before: Statistics of its rows, with the new tasks empty.
        after: The same with the new rows.
        touched: Positions of the tasks that have new rows.
        added: Names of the new tasks.
        standardization: Of all tasks.
        rng: Source of randomness.
    """
    T, D = len(fit.task_names), len(fit.feature_names)
    names = (*fit.task_names, *added)
    known = fit.flat()
    old, now = _tasks(before, 0, T), _tasks(after, 0, T)
    new = _tasks(after, T, len(names)) if added else None
    parts, weights = [], []
    for chunk in _chunks(known, (1 + T) * D):
        S = len(next(iter(chunk.values())))
        structure = fit.sharing.structure(chunk, T, D)
        noise = fit.likelihood.noise_sd(chunk, fit.task_names, standardization.target_scale[:T], S)
        white = whiten(now, structure, noise)
        log_weight = torch.zeros(S, dtype=noise.dtype)
        if (touched < T).any():
            log_weight = log_likelihood_of(now, structure, noise, white) - log_marginal(old, structure, noise)
        values = chunk
        if new is not None:
            assert white.L_basis is not None and white.basis_mean is not None
            tries, densities = [], []
            for _ in range(_CANDIDATES):
                extended = fit.problem.space.extend_tasks(chunk, len(added), rng)
                sd = fit.likelihood.noise_sd(extended, names, standardization.target_scale, S)
                density = _new_density(
                    fit, new, extended, sd.expand(-1, len(names))[:, T:], white.L_basis, white.basis_mean
                )
                tries.append(extended)
                densities.append(density)
            stacked = torch.stack(densities)
            log_weight = log_weight + torch.logsumexp(stacked, dim=0) - np.log(_CANDIDATES)
            gumbel = torch.from_numpy(-np.log(-np.log(rng.random(tuple(stacked.shape)))))
            pick = (stacked + gumbel).argmax(0)
            values = {name: torch.stack([t[name] for t in tries])[pick, torch.arange(S)] for name in extended}
        parts.append(values)
        weights.append(log_weight)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, torch.cat(weights).numpy()


def redraw_correlated(
    fit: LinearState,
    statistics: TaskStatistics,
    values: Values,
    noise: torch.Tensor,
    rng: np.random.Generator,
) -> WeightDraws:
    """Z and all weights drawn anew, one draw for each hyperparameter value."""
    T, D = len(statistics.count), len(fit.feature_names)
    tasks = statistics.compress()
    parts, start = [], 0
    for chunk in _chunks(values, (1 + T) * D):
        size = len(next(iter(chunk.values())))
        structure = fit.sharing.structure(chunk, T, D)
        parts.append(draw_posterior(tasks, structure, noise[start : start + size], rng))
        start += size
    return WeightDraws(
        torch.cat([part.weights for part in parts]),
        torch.cat([part.basis for part in parts]),
        torch.cat([part.factors for part in parts]),
    )


def _new_density(
    fit: LinearState,
    new: CompressedTasks,
    extended: Values,
    noise: torch.Tensor,
    L_basis: torch.Tensor,
    basis_mean: torch.Tensor,
) -> torch.Tensor:
    """log p(rows of new tasks | rows of known tasks, hyperparameters), shape (S,).

    Z's known rows have the posterior with precision L_basis L_basis' and mean `basis_mean`, its new rows
    their prior; the rows of the new tasks, in units of their noise, are J z plus standard normal noise.
    """
    S, U = noise.shape
    D = new.num_features
    structure = fit.sharing.structure(extended, len(fit.task_names) + U, D)
    assert structure.loadings is not None and structure.basis_scale is not None
    A, scale = structure.loadings[:, -U:], structure.basis_scale[:, -U:].flatten(1)
    designs, targets = [], []
    for group in new.groups:
        sigma = noise[:, group.index, None]
        H = group.F / sigma[..., None]
        J = (A[:, group.index, None, :, None] * H[:, :, :, None, :]).reshape(S, -1, A.shape[-1] * D)
        designs.append(J)
        targets.append((group.c / sigma).flatten(1))
    J, h = torch.cat(designs, dim=1), torch.cat(targets, dim=1)
    J_known, J_new = J[..., : -U * D], J[..., -U * D :] * scale[:, None]
    V = torch.linalg.solve_triangular(L_basis, J_known.transpose(-1, -2), upper=False)
    C = V.transpose(-1, -2) @ V + J_new @ J_new.transpose(-1, -2)
    C.diagonal(dim1=-2, dim2=-1).add_(1.0)
    L = cholesky_or_nan(C)
    gap = h[..., None] - J_known @ basis_mean
    white = torch.linalg.solve_triangular(L, gap, upper=False)
    total = new.count.sum() * np.log(2 * np.pi) + 2 * (new.count * noise.log()).sum(-1)
    total = total + (new.residual / noise**2).sum(-1) + (white**2).sum((-1, -2))
    density: torch.Tensor = -0.5 * (total + 2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1))
    return density


def _tasks(statistics: TaskStatistics, start: int, stop: int) -> CompressedTasks:
    at = slice(start, stop)
    return TaskStatistics(
        statistics.gram[at], statistics.cross[at], statistics.square[at], statistics.count[at]
    ).compress()


def _chunks(values: Values, size: int) -> Iterator[dict[str, torch.Tensor]]:
    """The draws in parts whose precisions of Z, size x size each, fit into memory."""
    number = max(1, _AT_ONCE // size**2)
    total = len(next(iter(values.values())))
    for start in range(0, total, number):
        yield {name: value[start : start + number] for name, value in values.items()}
