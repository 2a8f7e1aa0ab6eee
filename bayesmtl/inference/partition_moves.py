"""Moves of a partition of the tasks with weights and cluster means integrated out, all chains as one batch.

Given the hyperparameters and mu, the data of a cluster are worth `evidence(sum Q_t, sum q_t)`, so that moving a task
costs D x D algebra. Two kinds of moves leave the posterior of the partition unchanged:

- Gibbs: every task in turn leaves its cluster and draws one anew (Neal, 2000, algorithm 3);
- split-merge: two tasks are drawn; if they are together, their cluster is split by letting its other tasks join one
  of the two in turn, each with the probability that the data so far give; if apart, their clusters are merged. The
  proposal is accepted by Metropolis and Hastings (sequential allocation: Dahl, 2005, after Jain and Neal, 2004). The
  order of the tasks is drawn independently of all else and is the same in the reverse move.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bayesmtl.algebra.clusters import cluster_sums, evidence
from bayesmtl.parameters import Values
from bayesmtl.sharing.partition import PartitionSharing, in_order, num_clusters, slot_weights


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the data say about the partition, for C chains.

    Args:
        precision: Q_t in units of the cluster means' prior scale, shape (C, T, D, D).
        linear: q_t about mu in the same units, shape (C, T, D).
    """

    precision: torch.Tensor
    linear: torch.Tensor

    def log_density(self, membership: torch.Tensor) -> torch.Tensor:
        """log p(y | partition, mu, hyperparameters) up to a constant, shape (C,)."""
        P, q, _ = self.sums(membership, int(membership.max()) + 1)
        return evidence(P, q).sum(1)

    def sums(
        self, membership: torch.Tensor, num_slots: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """P, q and size of every slot, shapes (C, S, D, D), (C, S, D) and (C, S)."""
        size = cluster_sums(torch.ones_like(membership), membership, num_slots)
        return (
            cluster_sums(self.precision, membership, num_slots),
            cluster_sums(self.linear, membership, num_slots),
            size,
        )


class Weights:
    """The prior's weights, tabulated for C chains: they are looked up for every task of every sweep.

    Args:
        prior: The prior of the partition.
        values: Hyperparameter values, each of shape (C, ...).
        num_tasks: T.
    """

    def __init__(self, prior: PartitionSharing, values: Values, num_tasks: int):
        C = next(iter(values.values())).shape[0]
        counts = torch.arange(num_tasks + 1).expand(C, -1)
        self.join = prior.log_join(counts.clamp(min=1), values)
        self.open = prior.log_open(counts, values)

    def slots(self, size: torch.Tensor) -> torch.Tensor:
        """Log weights of all slots for one further task, shape (C, S)."""
        occupied = (size > 0).sum(1, keepdim=True)
        return slot_weights(size, self.join.gather(1, size), self.open.gather(1, occupied))


def gibbs_sweep(
    membership: torch.Tensor, data: Evidence, weights: Weights, generator: torch.Generator
) -> torch.Tensor:
    """Let every task draw its cluster anew given all others, in random order.

    Args:
        membership: Clusters, shape (C, T).
        data: What the data say.
        weights: What the prior says.
        generator: Source of randomness.

    Returns:
        Clusters numbered in the order of their first task, shape (C, T).
    """
    C, T = membership.shape
    membership = in_order(membership)
    rows = torch.arange(C)
    S = int(membership.max()) + 2
    P, q, size = data.sums(membership, S)
    worth = evidence(P, q)
    for t in torch.randperm(T, generator=generator).tolist():
        if int((size > 0).sum(1).max()) == S:  # keep a slot free
            S += 1
            P, q, size = (torch.cat([x, torch.zeros_like(x[:, :1])], dim=1) for x in (P, q, size))
            worth = torch.cat([worth, torch.zeros_like(worth[:, :1])], dim=1)
        own = membership[:, t]
        Q_t, q_t = data.precision[:, t], data.linear[:, t]
        size[rows, own] -= 1
        left = size[rows, own] > 0  # rounding must not leave anything in an empty slot
        P[rows, own] = (P[rows, own] - Q_t) * left[:, None, None]
        q[rows, own] = (q[rows, own] - q_t) * left[:, None]
        tried = evidence(
            torch.cat([P + Q_t[:, None], P[rows, own][:, None]], dim=1),
            torch.cat([q + q_t[:, None], q[rows, own][:, None]], dim=1),
        )
        worth[rows, own] = tried[:, S] * left
        uniform = torch.rand((C, S), generator=generator, dtype=torch.float64)
        score = weights.slots(size) + tried[:, :S] - worth - (-uniform.log()).log()
        chosen = score.argmax(1)
        P[rows, chosen] += Q_t
        q[rows, chosen] += q_t
        size[rows, chosen] += 1
        worth[rows, chosen] = tried[rows, chosen]
        membership[:, t] = chosen
    return in_order(membership)


def split_merge(
    membership: torch.Tensor, data: Evidence, weights: Weights, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Propose to split or to merge clusters, once in every chain.

    Args:
        membership: Clusters, shape (C, T) with T of at least 2.
        data: What the data say.
        weights: What the prior says.
        generator: Source of randomness.

    Returns:
        Clusters numbered in the order of their first task, shape (C, T), and which chains accepted, bool (C,).
    """
    C, T = membership.shape
    rows = torch.arange(C)
    order = torch.rand((C, T), generator=generator).argsort(1)
    first, second = order[:, 0], order[:, 1]
    own = membership.gather(1, order)
    together = own[:, 0] == own[:, 1]
    concerned = (own == own[:, :1]) | (own == own[:, 1:2])
    # the two come first, then the other tasks concerned in random order, then those not concerned
    order = order.gather(1, (~concerned).to(torch.uint8).argsort(dim=1, stable=True))
    number = concerned.sum(1)
    side_now = (membership.gather(1, order) != membership[rows, first][:, None]).long()
    side, log_split, worth, size = _allocate(order, number, side_now, together, data, weights, generator)
    joint = _merged(order, number, data)
    occupied = num_clusters(membership) - (~together).long()
    gain = _prior_of_split(occupied, size, weights) + worth.sum(1) - joint
    # a merge is the reverse of the split that leads to the present clusters
    log_ratio = torch.where(together, gain - log_split, log_split - gain)
    uniform = torch.rand(C, generator=generator, dtype=torch.float64)
    accepted = uniform.log() < log_ratio
    fresh = int(membership.max()) + 1
    to_split = torch.where(side == 1, fresh, membership[rows, first][:, None])
    to_merge = membership[rows, first][:, None].expand(C, T)
    proposed = torch.where(together[:, None], to_split, to_merge)
    current = membership.gather(1, order)
    changes = accepted[:, None] & (torch.arange(T) < number[:, None])
    moved = torch.where(changes, proposed, current)
    return in_order(torch.empty_like(membership).scatter_(1, order, moved)), accepted


def _allocate(
    order: torch.Tensor,
    number: torch.Tensor,
    side_now: torch.Tensor,
    draws: torch.Tensor,
    data: Evidence,
    weights: Weights,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Let tasks join one of two clusters in turn, the first two tasks of `order` being apart.

    Args:
        order: Tasks, those concerned first, shape (C, T).
        number: How many are concerned, shape (C,).
        side_now: Sides to follow where `draws` is false, shape (C, T).
        draws: Which chains draw their sides, bool (C,).
        data: What the data say.
        weights: What the prior says.
        generator: Source of randomness.

    Returns:
        Side of each task in `order` (C, T), log probability of the sides (C,), evidence (C, 2) and sizes (C, 2).
    """
    C, T = order.shape
    rows = torch.arange(C)
    starts = order[:, :2]
    P = data.precision[rows[:, None], starts].clone()
    q = data.linear[rows[:, None], starts].clone()
    worth = evidence(P, q)
    size = torch.ones(C, 2, dtype=torch.long)
    side = torch.zeros(C, T, dtype=torch.long)
    side[:, 1] = 1
    log_split = torch.zeros(C, dtype=torch.float64)
    for position in range(2, int(number.max())):
        t = order[:, position]
        active = position < number
        Q_t, q_t = data.precision[rows, t], data.linear[rows, t]
        tried = evidence(P + Q_t[:, None], q + q_t[:, None])
        log_weight = (weights.join.gather(1, size) + tried - worth).log_softmax(1)
        uniform = torch.rand(C, generator=generator, dtype=torch.float64)
        drawn = (uniform.log() < log_weight[:, 1]).long()
        chosen = torch.where(draws, drawn, side_now[:, position])
        log_split += active * log_weight[rows, chosen]
        side[:, position] = chosen
        P[rows, chosen] += active[:, None, None] * Q_t
        q[rows, chosen] += active[:, None] * q_t
        worth[rows, chosen] = torch.where(active, tried[rows, chosen], worth[rows, chosen])
        size[rows, chosen] += active
    return side, log_split, worth, size


def _merged(order: torch.Tensor, number: torch.Tensor, data: Evidence) -> torch.Tensor:
    """Evidence of all tasks concerned as one cluster, shape (C,)."""
    C, T = order.shape
    concerned = torch.zeros(C, T, dtype=torch.float64)
    concerned.scatter_(1, order, (torch.arange(T) < number[:, None]).double())
    P = torch.einsum("ct,ctde->cde", concerned, data.precision)
    q = torch.einsum("ct,ctd->cd", concerned, data.linear)
    return evidence(P, q)


def _prior_of_split(occupied: torch.Tensor, size: torch.Tensor, weights: Weights) -> torch.Tensor:
    """Log prior probability of two clusters of sizes (C, 2) over that of one cluster in their place, shape (C,).

    `occupied` counts the clusters with the two as one, shape (C,).
    """
    join = weights.join.clone()
    join[:, 0] = 0.0
    grown = join.cumsum(1)  # grown[n - 1] is the log of join(1) .. join(n - 1)
    split = grown.gather(1, size - 1).sum(1) - grown.gather(1, size.sum(1, keepdim=True) - 1)[:, 0]
    return weights.open.gather(1, occupied[:, None])[:, 0] + split
