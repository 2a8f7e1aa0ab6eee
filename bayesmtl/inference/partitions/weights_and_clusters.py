"""Moves of weights and clusters that do not depend on auxiliary variables.

Given omega, which remembers the weights that it was drawn under, weights move slowly where events are rare,
and a task with many rows hardly ever changes its cluster. Here each task draws its weights, or its cluster
and its weights at once, from a second-order expansion of the likelihood at a fixed point, and Metropolis'
rule corrects.

The proposal of task t is p(c_t | other clusters) p(w_t | Z, c_t) exp(sum_i kappa_i f_i - omega_i f_i^2 / 2)
with the expansion's kappa and omega, and the target has the likelihood in place of the last factor. So a
state's importance is the likelihood of the task's rows over their pseudo-rows, whatever its cluster.
"""

from __future__ import annotations

import numpy as np
import torch

from bayesmtl.algebra.conditional import WeightDraws, draw_weights, log_likelihood_given_basis
from bayesmtl.algebra.structure import Structure
from bayesmtl.inference.partitions.prior_weights import PartitionWeights, occupied
from bayesmtl.likelihoods import Outcomes
from bayesmtl.posteriors.linear.outcomes import Expansion
from bayesmtl.posteriors.linear.task_weights import importance


def renew_with_clusters(
    current: WeightDraws,
    reference: Expansion,
    structure: Structure,
    outcomes: Outcomes,
    prior: PartitionWeights,
    rng: np.random.Generator,
) -> tuple[WeightDraws, torch.Tensor, torch.Tensor]:
    """Draw every task's cluster and weights | Z, hyperparameters, the clusters of the others.

    A task chooses between its cluster and another one, drawn uniformly from those there are; a task that is
    alone keeps its cluster. So no cluster appears or vanishes, and either choice is as likely to be offered
    from the one as from the other.

    Args:
        outcomes: The rows and their likelihood.
        reference: Expansion of the likelihood, of one batch entry.
        structure: Prior of W with the present clusters.
        prior: The prior of the partition.
        current: Present Z and W.
        rng: Source of randomness.

    Returns:
        Z and W, the clusters (C, T), and the share of tasks whose proposal was accepted, shape (C,).
    """
    assert structure.membership is not None
    member = structure.membership.numpy().copy()
    C, T = member.shape
    there_are = occupied(member)
    number = there_are.sum(1, keepdims=True)
    rank = np.take_along_axis(there_are.cumsum(1) - 1, member, 1)
    other = np.floor(rng.random((C, T)) * np.maximum(number - 1, 1)).astype(int)
    other = np.where(number > 1, other + (other >= rank), rank)
    other = np.take_along_axis(np.argsort(~there_are, axis=1, kind="stable"), other, 1)
    there = structure.assigned(torch.from_numpy(other))
    data, noise = reference.pseudo.compressed(), torch.ones(C, 1, dtype=torch.float64)
    here_value, there_value = (
        log_likelihood_given_basis(data, part, noise, current.basis) for part in (structure, there)
    )
    gain = (there_value - here_value).numpy()
    stay, move = (draw_weights(data, part, noise, current.basis, rng) for part in (structure, there))
    now, stays, moves = (
        importance(outcomes, reference, drawn.weights).numpy() for drawn in (current, stay, move)
    )
    size = (member[:, :, None] == np.arange(there_are.shape[1])).sum(1)
    chains = np.arange(C)
    odds, judged = rng.logistic(size=(T, C)), np.log(rng.random((T, C)))
    moved, accepted = np.zeros((C, T), dtype=bool), np.zeros((C, T), dtype=bool)
    for t in range(T):
        own, new = member[:, t], other[:, t]
        left = size[chains, own] - 1
        open_ = (left > 0) & (own != new)
        sizes = np.stack([size[chains, new], np.maximum(left, 1)], axis=1)
        weight = prior.joining(np.full(C, t), sizes, np.stack([new, own], axis=1))
        log_odds = weight[:, 0] - weight[:, 1]
        moving = open_ & (odds[t] < log_odds + gain[:, t])
        accepted[:, t] = judged[t] < np.where(moving, moves[:, t], stays[:, t]) - now[:, t]
        moved[:, t] = moving & accepted[:, t]
        going = np.flatnonzero(moved[:, t])
        size[going, own[going]] -= 1
        size[going, new[going]] += 1
        member[going, t] = new[going]
    drawn = _chosen(torch.from_numpy(accepted), stay, current)
    drawn = _chosen(torch.from_numpy(moved), move, drawn)
    return drawn, torch.from_numpy(member), torch.from_numpy(accepted.mean(1))


def _chosen(which: torch.Tensor, first: WeightDraws, second: WeightDraws) -> WeightDraws:
    """The first draws of some tasks (C, T), the second ones of the others; Z is common to both."""
    return WeightDraws(
        torch.where(which[..., None], first.weights, second.weights),
        second.basis,
        torch.where(which[..., None], first.factors, second.factors),
    )
