"""Moves of a partition of the tasks with weights and cluster means integrated out, all chains as one batch.

Given the hyperparameters and mu, what the data of a cluster are worth depends on sum Q_t and sum q_t only, so
that moving a task costs D x D algebra. Two kinds of moves leave the posterior of the partition unchanged:

- Gibbs: every task in turn leaves its cluster and draws one anew (Neal, 2000, algorithm 3);
- split-merge: two tasks are drawn; if they are together, their cluster is split by letting its other tasks
  join one of the two in turn, each with the probability that the data so far give; if apart, their clusters
  are merged. The proposal is accepted by Metropolis and Hastings (sequential allocation: Dahl, 2005, after
  Jain and Neal, 2004). The order of the tasks is drawn independently of the state, so that it has the same
  density in the reverse move; with many tasks its second is every other time one whose data are like those
  of its first, since few pairs at random would be in two clusters that belong together. Where clusters have
  numbers that mean something (a gate), the one that opens draws its number from those that are free.

In NumPy, whose calls on arrays as small as these cost a fraction of a tensor's. Q_t and q_t lie in one
matrix, [[Q_t, q_t], [q_t', 0]], so that sums are single additions; with [[I, 0], [0, huge]] added, its
Cholesky factor holds the factor L of Lambda = I + sum Q_t and, as its last row, L^-1 sum q_t.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bayesmtl.inference.partitions.prior_weights import PartitionWeights, occupied

_HUGE = 1e300  # keeps the last pivot positive; nothing else depends on it


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the data say about the partition, for C chains.

    Args:
        terms: [[Q_t, q_t], [q_t', 0]] about mu, in units of the cluster means' prior scale, shape
            (C, T, D + 1, D + 1).
    """

    terms: np.ndarray

    @classmethod
    def of(cls, precision: torch.Tensor, linear: torch.Tensor) -> Evidence:
        """From Q_t (C, T, D, D) and q_t (C, T, D)."""
        C, T, D = linear.shape
        terms = np.zeros((C, T, D + 1, D + 1))
        terms[..., :D, :D] = precision.numpy()
        terms[..., :D, D] = terms[..., D, :D] = linear.numpy()
        return cls(terms)

    @property
    def empty(self) -> np.ndarray:
        """The matrix of a cluster without tasks, (D + 1, D + 1)."""
        base = np.eye(self.terms.shape[-1])
        base[-1, -1] = _HUGE
        return base

    def sums(self, membership: np.ndarray, num_slots: int) -> tuple[np.ndarray, np.ndarray]:
        """Matrices (C, S, D + 1, D + 1) and sizes (C, S) of all slots for clusters."""
        member = membership[:, None] == np.arange(num_slots)[:, None]
        C, T, E, _ = self.terms.shape
        flat = member.astype(float) @ self.terms.reshape(C, T, E * E)
        return flat.reshape(C, num_slots, E, E) + self.empty, member.sum(2)

    def log_density(self, membership: np.ndarray) -> np.ndarray:
        """log p(y | partition, mu, hyperparameters) up to a constant, shape (C,)."""
        worth = worth_of(self.sums(membership, int(membership.max()) + 1)[0]).sum(1)
        chain, task = np.ogrid[: len(membership), : membership.shape[1]]
        return np.asarray(worth + np.sum(self.bonus(chain, membership, task) + 0 * task, axis=1))

    def term(self, chain: np.ndarray, cluster: np.ndarray, task: np.ndarray | int) -> np.ndarray:
        """Matrices of tasks in clusters, indices that broadcast, shape (..., D + 1, D + 1)."""
        return np.asarray(self.terms[chain, task])

    def bonus(self, chain: np.ndarray, cluster: np.ndarray, task: np.ndarray | int) -> np.ndarray:
        """log p(y_t | cluster mean = mu) of tasks in clusters, up to what is the same in all clusters."""
        return np.zeros(())

    def alone(self) -> np.ndarray:
        """What every task is worth by itself, shape (C, 1 or K, T)."""
        return worth_of(self.terms + self.empty)[:, None]


@dataclass(frozen=True, eq=False)
class EvidenceByCluster(Evidence):
    """The same where clusters have residuals of their own, so that a task says other things in each.

    Args:
        terms: As above for every task in every cluster, shape (C, K, T, D + 1, D + 1).
        density: log p(y_t | cluster mean = mu) of every task in every cluster, shape (C, K, T).
    """

    density: np.ndarray

    def sums(self, membership: np.ndarray, num_slots: int) -> tuple[np.ndarray, np.ndarray]:
        """Matrices and sizes of all clusters."""
        member = membership[:, None] == np.arange(num_slots)[:, None]
        flat = np.einsum("ckt,cktde->ckde", member.astype(float), self.terms[:, :num_slots])
        return flat + self.empty, member.sum(2)

    def term(self, chain: np.ndarray, cluster: np.ndarray, task: np.ndarray | int) -> np.ndarray:
        """Each with the residual of its cluster."""
        return np.asarray(self.terms[chain, cluster, task])

    def bonus(self, chain: np.ndarray, cluster: np.ndarray, task: np.ndarray | int) -> np.ndarray:
        """Each with the residual of its cluster."""
        return np.asarray(self.density[chain, cluster, task])

    def alone(self) -> np.ndarray:
        """In every cluster."""
        return worth_of(self.terms + self.empty)


def worth_of(matrices: np.ndarray) -> np.ndarray:
    """log of E[exp(q'b - b'Q b / 2)] over b ~ N(0, I): what the data of clusters are worth.

    Args:
        matrices: [[I + Q, q], [q', huge]], shape (..., D + 1, D + 1).
    """
    L = np.linalg.cholesky(matrices)
    diagonal = np.diagonal(L, axis1=-2, axis2=-1)[..., :-1]
    return np.asarray(0.5 * (L[..., -1, :-1] ** 2).sum(-1) - np.log(diagonal).sum(-1))


def gibbs_sweep(
    membership: np.ndarray, data: Evidence, weights: PartitionWeights, generator: torch.Generator
) -> np.ndarray:
    """Let every task draw its cluster anew given all others, in random order.

    Args:
        membership: Clusters, shape (C, T).
        data: What the data say.
        weights: What the prior says.
        generator: Source of randomness.

    Returns:
        Clusters numbered as the prior numbers them, shape (C, T).
    """
    C, T = membership.shape
    membership = weights.numbered(membership)
    rows, empty = np.arange(C), data.empty
    S = weights.num_slots(membership)
    sums, size = data.sums(membership, S)
    worth = worth_of(sums)
    order = torch.randperm(T, generator=generator).numpy()
    uniform = torch.rand((T, C, 1), generator=generator, dtype=torch.float64).numpy()
    alone = data.alone()
    for t in order:
        if weights.grows and (size > 0).sum(1).max() == S:  # keep a slot free
            S += 1
            sums = np.concatenate([sums, np.broadcast_to(empty, (C, 1, *empty.shape))], axis=1)
            size, worth = (np.concatenate([x, np.zeros_like(x[:, :1])], axis=1) for x in (size, worth))
        own = membership[:, t]
        together = worth[rows, own]
        size[rows, own] -= 1
        # one factor for each occupied slot: with the task, or for its own one without it
        chain, slot = np.nonzero(size)
        mine = slot == own[chain]
        term = data.term(chain, slot, int(t))
        found = worth_of(sums[chain, slot] + np.where(mine, -1.0, 1.0)[:, None, None] * term)
        tried = np.broadcast_to(alone[:, :, t], (C, S)).copy()
        tried[chain, slot] = np.where(mine, together[chain], found)
        worth[rows, own] = 0.0
        worth[chain[mine], slot[mine]] = found[mine]
        score = weights.slots(size, int(t)) + tried - worth
        score = score + data.bonus(rows[:, None], np.arange(S), int(t))
        share = np.exp(score - score.max(1, keepdims=True)).cumsum(1)
        chosen = (share > uniform[t] * share[:, -1:]).argmax(1)
        worth[rows, chosen] = tried[rows, chosen]
        away = np.flatnonzero(chosen != own)
        if len(away):
            old, new = own[away], chosen[away]
            # rounding must not leave anything in an empty slot
            stays = (size[away, old] > 0)[:, None, None]
            sums[away, old] = np.where(stays, sums[away, old] - data.term(away, old, int(t)), empty)
            sums[away, new] += data.term(away, new, int(t))
        size[rows, chosen] += 1
        membership[:, t] = chosen
    return weights.numbered(membership)


def split_merge(
    membership: np.ndarray,
    data: Evidence,
    weights: PartitionWeights,
    generator: torch.Generator,
    near: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Propose to split or to merge clusters, once in every chain.

    Args:
        membership: Clusters, shape (C, T) with T of at least 2.
        data: What the data say.
        weights: What the prior says.
        generator: Source of randomness.
        near: Some other tasks for every task, shape (T, M), whatever the state: every other time the second
            of the two tasks is one of them.

    Returns:
        Clusters numbered as the prior numbers them, shape (C, T), and which chains accepted, bool (C,).
    """
    C, T = membership.shape
    rows = np.arange(C)
    order = torch.rand((C, T), generator=generator).argsort(1).numpy()
    uniform = torch.rand((T, C), generator=generator, dtype=torch.float64).numpy()
    if near is not None:
        order = _with_neighbour(order, near, torch.rand((2, C), generator=generator).numpy())
    own = np.take_along_axis(membership, order, 1)
    together = own[:, 0] == own[:, 1]
    concerned = (own == own[:, :1]) | (own == own[:, 1:2])
    # the two come first, then the other tasks concerned in random order, then those not concerned
    order = np.take_along_axis(order, np.argsort(~concerned, axis=1, kind="stable"), 1)
    number = concerned.sum(1)
    current = np.take_along_axis(membership, order, 1)
    first = current[:, :1]
    opened, log_choices = weights.second_label(membership, together, uniform[1])
    label = np.concatenate([first, np.where(together, opened, current[:, 1])[:, None]], axis=1)
    side, log_split, worth = _allocate(
        order, number, current != first, together, label, data, weights, uniform
    )
    concerned = np.arange(T) < number[:, None]
    split, chain = np.where(side == 1, label[:, 1:], first), rows[:, None]
    pooled = concerned[:, :, None, None] * data.term(chain, first, order)
    others = occupied(membership).sum(1) - ~together  # with the two as one
    gain = weights.gain(order, number, side, label, others)
    gain = gain + worth.sum(1) - worth_of(pooled.sum(1) + data.empty)
    gain = gain + (concerned * (data.bonus(chain, split, order) - data.bonus(chain, first, order))).sum(1)
    log_split = log_split - log_choices
    # a merge is the reverse of the split that leads to the present clusters
    log_ratio = np.where(together, gain - log_split, log_split - gain)
    accepted = np.log(uniform[0]) < log_ratio
    proposed = np.where(together[:, None], split, first)
    moved = np.where(accepted[:, None] & concerned, proposed, current)
    result = np.empty_like(membership)
    np.put_along_axis(result, order, moved, 1)
    return weights.numbered(result), accepted


def _with_neighbour(order: np.ndarray, near: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Orders (C, T) whose second task is, every other time, one of those near the first."""
    rows, order = np.arange(len(order)), order.copy()
    neighbour = near[order[:, 0], (uniform[0] * near.shape[1]).astype(int)]
    second = np.where(uniform[1] < 0.5, neighbour, order[:, 1])
    order[rows, (order == second[:, None]).argmax(1)] = order[:, 1]
    order[:, 1] = second
    return order


def _allocate(
    order: np.ndarray,
    number: np.ndarray,
    side_now: np.ndarray,
    draws: np.ndarray,
    label: np.ndarray,
    data: Evidence,
    weights: PartitionWeights,
    uniform: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Let tasks join one of two clusters in turn, the first two tasks of `order` being apart.

    Args:
        order: Tasks, those concerned first, shape (C, T).
        number: How many are concerned, shape (C,).
        side_now: Sides to follow where `draws` is false, shape (C, T).
        draws: Which chains draw their sides, bool (C,).
        label: Numbers of the two clusters, shape (C, 2).
        data: What the data say.
        weights: What the prior says.
        uniform: Uniform random numbers, shape (T, C), of which those from position 2 on are used.

    Returns:
        Side of each task in `order` (C, T), log probability of the sides (C,) and worth (C, 2).
    """
    C, T = order.shape
    rows = np.arange(C)
    chain = rows[:, None]
    sums = data.term(chain, label, order[:, :2]) + data.empty
    worth, size = worth_of(sums), np.ones((C, 2), dtype=int)
    side = np.zeros((C, T), dtype=int)
    side[:, 1] = 1
    log_split = np.zeros(C)
    for position in range(2, int(number.max())):
        active = position < number
        task = order[:, position, None]
        term = np.broadcast_to(data.term(chain, label, task) * active[:, None, None, None], sums.shape)
        tried = worth_of(sums + term)
        log_weight = weights.joining(order[:, position], size, label) + tried - worth
        log_weight = log_weight + data.bonus(chain, label, task)
        log_weight -= np.logaddexp(log_weight[:, :1], log_weight[:, 1:])
        drawn = np.log(uniform[position]) < log_weight[:, 1]
        chosen = np.where(draws, drawn, side_now[:, position]).astype(int)
        log_split += active * log_weight[rows, chosen]
        side[:, position] = chosen
        sums[rows, chosen] += term[rows, chosen]
        worth[rows, chosen] = tried[rows, chosen]
        size[rows, chosen] += active
    return side, log_split, worth
