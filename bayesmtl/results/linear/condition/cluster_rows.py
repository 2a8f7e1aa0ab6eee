"""Which cluster a new task joins where no statistics stand for its rows: an estimate for every cluster.

Given Z and the hyperparameters of a draw, the density of the task's rows under a cluster is an integral over
its weights, of which candidates give an unbiased estimate (as in
`bayesmtl.posteriors.linear.task_weights`); so does one for a cluster of its own, whose mean's departure
and whose task's residual are one. Times the prior's weights
these are the probabilities of its clusters, and their sum is the task's share of the draw's
importance weight, whose mean is the exact one. The expansions that candidates come from are made for each
draw and cluster. New tasks come one after the other, so that two of them can open a cluster together.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from bayesmtl.algebra.conditional import WeightDraws, shared_part
from bayesmtl.algebra.structure import Structure
from bayesmtl.parameters import Values
from bayesmtl.posteriors.linear.outcomes import LaplaceMarginal, OutcomePosterior
from bayesmtl.posteriors.linear.task_weights import choose_candidates
from bayesmtl.results.linear.condition.clusters import alone, loadings_given_residual, mean_given_sum
from bayesmtl.sharing import PartitionSharing

NUM_CANDIDATES, FROM_PRIOR = 32, 4  # of a new task's weights; how many of them come from the prior
_ROWS_AT_ONCE = 400_000  # row values handled together


def place_new_tasks(
    tasks: list[OutcomePosterior], values: Values, basis: torch.Tensor, rng: np.random.Generator
) -> tuple[dict[str, torch.Tensor], WeightDraws, torch.Tensor]:
    """Let new tasks draw their clusters and weights, one after the other.

    Args:
        tasks: One problem for each, with its rows only.
        values: Hyperparameter draws, of known and new tasks, with `cluster` of the known ones.
        basis: Z, shape (S, R, D).
        rng: Source of randomness.

    Returns:
        Values with the clusters of all tasks; the new tasks' weights (S, tasks, D), with Z that has rows for
        the clusters they open; and the log of an unbiased estimate of the density of each task's rows, shape
        (S, tasks).
    """
    extended, known = dict(values), values["cluster"].shape[1]
    weights, factors, gains = [], [], []
    for position, task in enumerate(tasks):
        own = {
            p.name: p.of_some(extended[p.name], torch.tensor([known + position]))
            for p in task.space.parameters
            if p.task_axis is not None
        }
        cluster, drawn, gain = _place(task, extended | own, basis, rng)
        extended["cluster"] = torch.cat([extended["cluster"].long(), cluster[:, None]], dim=1)
        basis = drawn.basis
        weights.append(drawn.weights)
        factors.append(drawn.factors)
        gains.append(gain)
    drawn = WeightDraws(torch.cat(weights, dim=1), basis, torch.cat(factors, dim=1))
    return extended, drawn, torch.stack(gains, dim=1)


def _place(
    task: OutcomePosterior, values: Values, basis: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, WeightDraws, torch.Tensor]:
    """Clusters (S,), weights and Z, and log gains (S,) of one task."""
    assert isinstance(task.sharing, PartitionSharing)
    num_slots = task.sharing.num_slots(values["cluster"].long(), 1)
    num_rows = max(basis.shape[1], 1 + num_slots)  # mu, clusters, and one of its own
    basis = torch.nn.functional.pad(basis, (0, 0, 0, num_rows - basis.shape[1]))
    size = max(1, _ROWS_AT_ONCE // (task.rows.size * NUM_CANDIDATES))
    parts = [
        _place_some(task, {name: v[at : at + size] for name, v in values.items()}, basis[at : at + size], rng)
        for at in range(0, len(basis), size)
    ]
    clusters, drawn, gains = zip(*parts, strict=True)
    joined = (torch.cat([getattr(d, name) for d in drawn]) for name in ("weights", "basis", "factors"))
    return torch.cat(clusters), WeightDraws(*joined), torch.cat(gains)


def _place_some(
    task: OutcomePosterior, values: Values, basis: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, WeightDraws, torch.Tensor]:
    sharing = task.sharing
    assert isinstance(sharing, PartitionSharing)
    S, _, D = basis.shape
    size = sharing.sizes(values["cluster"].long(), 1)
    num_slots = size.shape[1]
    descriptors = None if task.descriptors is None else task.descriptors[0]
    prior = sharing.log_slots(size, values, descriptors).log_softmax(1)
    structure = sharing.structure(values, 1, D)
    tried, densities, own = [], [], None
    for slot in range(num_slots):
        there = structure.assigned(torch.full((S, 1), slot))
        if own is None or structure.residuals_by_cluster:
            own = _estimate(task, alone(there), values, basis[:, :1], rng)
        opened, own_density = own
        drawn, density = _estimate(task, there, values, basis, rng)
        is_own = size[:, slot] == 0
        tried.append(_where(is_own, opened, drawn))
        densities.append(torch.where(is_own, own_density, density))
    score = prior + torch.stack(densities, dim=1)
    gumbel = torch.from_numpy(-np.log(-np.log(rng.random((S, num_slots)))))
    cluster = (score + gumbel).argmax(1)
    rows = torch.arange(S)
    weights, factors = (
        torch.stack([getattr(drawn, name) for drawn in tried])[cluster, rows]
        for name in ("weights", "factors")
    )
    opens = size[rows, cluster] == 0
    structure = structure.assigned(cluster[:, None])
    departure = weights[:, 0] - basis[:, 0]
    mean = mean_given_sum(structure, departure, rng)
    basis = basis.clone()
    basis[rows[opens], 1 + cluster[opens]] = mean[opens]
    if structure.residual_factor is not None:
        left = loadings_given_residual(structure, departure - mean, rng)
        factors = torch.where(opens[:, None, None], left[:, None], factors)
    return cluster, WeightDraws(weights, basis, factors), torch.logsumexp(score, dim=1)


def _estimate(
    task: OutcomePosterior,
    structure: Structure,
    values: Values,
    basis: torch.Tensor,
    rng: np.random.Generator,
) -> tuple[WeightDraws, torch.Tensor]:
    """Weights of a task under one structure, and the log of an unbiased estimate of p(its rows), (S,)."""
    rows, S = task.rows, len(basis)
    assert rows is not None
    at = rows.predictor(shared_part(structure, basis, 1))
    own = structure.private
    if own.residual_scale is not None or own.residual_factor is not None:
        shifted = replace(task, rows=replace(rows, offset=rows.offset + at))
        at = at + LaplaceMarginal(shifted).expand(own, S, values).f
    expansion = LaplaceMarginal(task).expand_at(at, values)
    outcomes = task.outcomes(values)
    drawn, share, _ = choose_candidates(
        expansion, structure, outcomes, basis, NUM_CANDIDATES, FROM_PRIOR, rng
    )
    density = expansion.at
    constant = density.value - density.first * at - 0.5 * expansion.omega * at**2
    return drawn, (share + rows.sums(constant))[:, 0]


def _where(which: torch.Tensor, first: WeightDraws, second: WeightDraws) -> WeightDraws:
    """Weights and coordinates of the first where `which` (S,) says so; Z is not theirs to say."""
    weights, factors = (
        torch.where(which[:, None, None], getattr(first, name), getattr(second, name))
        for name in ("weights", "factors")
    )
    return WeightDraws(weights, second.basis, factors)
