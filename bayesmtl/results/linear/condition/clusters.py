"""Updating a posterior over partitions by further rows: which cluster a new task joins, if any.

Given Z and the hyperparameters of a draw, the rows of a new task have an exact density under every cluster
that it can join, and under a cluster of its own with the mean integrated out. Times the prior's weights these
are the probabilities of its clusters, and their sum is the task's share of the draw's importance weight. New
tasks come one after the other, so that two of them can open a cluster together. Clusters of known tasks stay
those of the draw.
"""

from __future__ import annotations

import numpy as np
import torch

from bayesmtl.algebra.conditional import draw_weights, log_likelihood_given_basis
from bayesmtl.algebra.random import standard_normal
from bayesmtl.algebra.statistics import CompressedTasks, TaskStatistics
from bayesmtl.algebra.structure import Structure
from bayesmtl.data import Standardization
from bayesmtl.results.linear.state import LinearState
from bayesmtl.sharing import PartitionSharing

_NOISE_CANDIDATES = 32  # tries for a noise level of a new task's own


def weigh_clusters(
    fit: LinearState,
    before: TaskStatistics,
    after: TaskStatistics,
    touched: np.ndarray,
    added: tuple[str, ...],
    standardization: Standardization,
    rng: np.random.Generator,
    descriptors: torch.Tensor | None = None,
) -> tuple[dict[str, torch.Tensor], torch.Tensor, np.ndarray]:
    """Draws extended to the new tasks, and the log weight of every draw.

    Args:
        fit: The fit.
        before: Statistics of its rows, with the new tasks empty.
        after: The same with the new rows.
        touched: Positions of the tasks that have new rows.
        added: Names of the new tasks.
        standardization: Of all tasks.
        rng: Source of randomness.
        descriptors: Standardised descriptors of the new tasks (num_new, Q), where the prior looks at any.

    Returns:
        Hyperparameter values with the clusters of all tasks, Z with rows for new clusters, log weights
        (draws,).
    """
    sharing = fit.sharing
    assert isinstance(sharing, PartitionSharing)
    values = fit.flat()
    basis = fit.draws.basis.flatten(0, 1)
    known = len(fit.task_names)
    log_weight = np.zeros(len(basis))
    for t in touched[touched < known]:
        for sign, statistics in ((-1, before), (1, after)):
            log_weight += sign * _known_task(fit, statistics, int(t), values, basis).numpy()
    for position, name in enumerate(added):
        task = _one(after, known + position)
        scale = standardization.target_scale[known + position : known + position + 1]
        own = None if descriptors is None else descriptors[position]
        values, basis, gain = _new_task(fit, sharing, task, name, scale, values, basis, rng, own)
        log_weight += gain
    return values, basis, log_weight


def _one(statistics: TaskStatistics, t: int) -> CompressedTasks:
    """The data of one task."""
    at = slice(t, t + 1)
    return TaskStatistics(
        statistics.gram[at], statistics.cross[at], statistics.square[at], statistics.count[at]
    ).compress()


def _known_task(
    fit: LinearState, statistics: TaskStatistics, t: int, values: dict[str, torch.Tensor], basis: torch.Tensor
) -> torch.Tensor:
    """log p(rows of a known task | Z, its cluster, hyperparameters), shape (draws,)."""
    structure = fit.sharing.structure(values, 1, basis.shape[-1])
    assert structure.membership is not None
    own = structure.assigned(structure.membership[:, t : t + 1])
    noise = fit.problem.noise(values, len(basis)).expand(-1, len(fit.task_names))[:, t : t + 1]
    return log_likelihood_given_basis(_one(statistics, t), own, noise, basis)[:, 0]


def _new_task(
    fit: LinearState,
    sharing: PartitionSharing,
    task: CompressedTasks,
    name: str,
    target_scale: np.ndarray,
    values: dict[str, torch.Tensor],
    basis: torch.Tensor,
    rng: np.random.Generator,
    descriptors: torch.Tensor | None,
) -> tuple[dict[str, torch.Tensor], torch.Tensor, np.ndarray]:
    """Let one new task draw its cluster, and its own noise level where tasks have one."""
    S, _, D = basis.shape
    membership = values["cluster"].long()
    size = sharing.sizes(membership, 1)
    weights = sharing.log_slots(size, values, descriptors).log_softmax(1)
    own = [p.name for p in fit.problem.space.parameters if p.task_axis is not None]
    structure = sharing.structure(values, 1, D)
    scores, tries = [], []
    for _ in range(_NOISE_CANDIDATES if own else 1):
        fresh = fit.problem.space.fresh_tasks(values, 1, rng)
        noise = fit.likelihood.noise_sd(fresh, (name,), target_scale, S)
        tries.append((fresh, noise))
        scores.append(weights + _densities(task, structure, noise, basis, size > 0))
    score = torch.stack(scores, dim=1)  # (draws, tries, slots)
    gain = torch.logsumexp(score.flatten(1), dim=1) - np.log(len(tries))
    gumbel = torch.from_numpy(-np.log(-np.log(rng.random((S, score[0].numel())))))
    pick = (score.flatten(1) + gumbel).argmax(1)
    attempt, cluster = pick // size.shape[1], pick % size.shape[1]
    rows = torch.arange(S)
    noise = torch.stack([sd.expand(S, 1) for _, sd in tries])[attempt, rows]
    extended = values | {"cluster": torch.cat([membership, cluster[:, None]], dim=1)}
    for parameter in own:
        candidates = torch.stack([fresh[parameter] for fresh, _ in tries])
        extended[parameter] = torch.cat([values[parameter], candidates[attempt, rows]], dim=1)
    opened = _mean_of_new_cluster(task, structure.assigned(cluster[:, None]), noise, basis, rng)
    num_rows = max(basis.shape[1], 2 + int(cluster.max()))
    basis = torch.nn.functional.pad(basis, (0, 0, 0, num_rows - basis.shape[1])).clone()
    new = size[rows, cluster] == 0
    basis[rows[new], 1 + cluster[new]] = opened[new]
    return extended, basis, gain.numpy()


def alone(structure: Structure) -> Structure:
    """The prior of a task in a cluster of its own: its mean's departure and its residual are one."""
    assert structure.basis_scale is not None
    square = structure.basis_scale[:, 1:] ** 2
    if structure.residual_scale is not None:
        square = square + structure.residual_scale**2  # of one task
    ones = torch.ones(1, 1, dtype=torch.float64)
    return Structure(ones, structure.basis_scale[:, :1], square.sqrt(), structure.residual_factor)


def _densities(
    task: CompressedTasks,
    structure: Structure,
    noise: torch.Tensor,
    basis: torch.Tensor,
    occupied: torch.Tensor,
) -> torch.Tensor:
    """log p(rows of a task | Z) in every cluster there is, and alone in an empty slot, (draws, slots)."""
    S = len(basis)
    by_itself = None
    columns = []
    for slot in range(occupied.shape[1]):
        there = structure.assigned(torch.full((S, 1), slot))
        if by_itself is None or structure.residuals_by_cluster:
            by_itself = log_likelihood_given_basis(task, alone(there), noise, basis[:, :1])[:, 0]
        density = by_itself
        if 1 + slot < basis.shape[1]:
            density = log_likelihood_given_basis(task, there, noise, basis)[:, 0]
        columns.append(torch.where(occupied[:, slot], density, by_itself))
    return torch.stack(columns, dim=1)


def _mean_of_new_cluster(
    task: CompressedTasks,
    structure: Structure,
    noise: torch.Tensor,
    basis: torch.Tensor,
    rng: np.random.Generator,
) -> torch.Tensor:
    """Draw b of a task that is alone: b + e given the rows, then b given b + e; shape (draws, D)."""
    total = draw_weights(task, alone(structure), noise, basis[:, :1], rng).weights[:, 0] - basis[:, 0]
    return mean_given_sum(structure, total, rng)


def mean_given_sum(structure: Structure, total: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Draw b of a cluster that holds one task, given b + e of it; both of shape (draws, D)."""
    assert structure.basis_scale is not None
    spread = structure.basis_scale[:, 1]
    residual = torch.zeros(*spread.shape, spread.shape[1], dtype=torch.float64)
    if structure.residual_scale is not None:
        residual = residual + torch.diag_embed(structure.residual_scale[:, 0] ** 2)
    if structure.factor_by_task is not None:
        factor = structure.factor_by_task[:, 0]
        residual = residual + factor @ factor.transpose(-1, -2)
    # Matheron: a prior draw of b, corrected by the gap between the sum it makes and the sum that is known
    b = spread * standard_normal(rng, *spread.shape)
    values, vectors = torch.linalg.eigh(residual)
    root = vectors * values.clamp(min=0.0).sqrt()[:, None]
    e = (root @ standard_normal(rng, *spread.shape, 1)).squeeze(-1)
    whole = residual + torch.diag_embed(spread**2)
    # not torch's default driver, whose pivots start from memory that nobody has set: its last bits vary
    gain = torch.linalg.lstsq(whole, (total - b - e)[..., None], driver="gelsd").solution.squeeze(-1)
    drawn: torch.Tensor = b + spread**2 * gain
    return drawn


def loadings_given_residual(
    structure: Structure, residual: torch.Tensor, rng: np.random.Generator
) -> torch.Tensor:
    """Draw the coordinates of e along the factor of one task, (draws, R), given e (draws, D)."""
    assert structure.factor_by_task is not None
    F, e = structure.factor_by_task[:, 0], residual[..., None]
    if structure.residual_scale is None:
        # nothing else makes e: with F square they follow from it, with F thin so they do on its range
        given: torch.Tensor = torch.linalg.lstsq(F, e, driver="gelsd").solution.squeeze(-1)
        return given
    scale = structure.residual_scale[:, 0, :, None]
    a = standard_normal(rng, len(e), F.shape[-1], 1)
    gap = e - F @ a - scale * standard_normal(rng, *e.shape)
    S = F @ F.transpose(-1, -2) + torch.diag_embed(scale.squeeze(-1) ** 2)
    drawn: torch.Tensor = (a + F.transpose(-1, -2) @ torch.linalg.solve(S, gap)).squeeze(-1)
    return drawn
