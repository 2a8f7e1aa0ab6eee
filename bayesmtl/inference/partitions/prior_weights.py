"""What the prior of a partition says to the moves, tabulated for all chains: it is asked for every task."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from scipy.special import gammaln

from bayesmtl.parameters import Values
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.sharing import Clusters, ExchangeablePartition, Gated
from bayesmtl.sharing.partitions.base import in_order
from bayesmtl.sharing.partitions.exchangeable import exchangeable_of


class PartitionWeights(Protocol):
    """Log weights of the prior for C chains."""

    def numbered(self, membership: np.ndarray) -> np.ndarray:
        """The same partitions (C, T), their clusters numbered as the prior numbers them."""

    def num_slots(self, membership: np.ndarray) -> int:
        """Slots for clusters that a sweep starts with."""

    @property
    def grows(self) -> bool:
        """Whether there must always be an empty slot."""

    def slots(self, size: np.ndarray, task: int) -> np.ndarray:
        """Log weights of the slots, of sizes (C, S) without the task, for one task, shape (C, S)."""

    def joining(self, task: np.ndarray, size: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Log weights of clusters (C, S) of these sizes for one task of every chain (C,), shape (C, S)."""

    def second_label(
        self, membership: np.ndarray, together: np.ndarray, uniform: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Number of a cluster to open, and log of how many there are to choose from once two are one; (C,).

        Args:
            membership: Shape (C, T).
            together: Whether the two are one already, shape (C,).
            uniform: Uniform random numbers, shape (C,).
        """

    def gain(
        self, order: np.ndarray, number: np.ndarray, side: np.ndarray, label: np.ndarray, others: np.ndarray
    ) -> np.ndarray:
        """Log prior of two clusters over that of one with the tasks of both, shape (C,).

        Args:
            order: Tasks, those concerned first, shape (C, T).
            number: How many are concerned, shape (C,).
            side: Which of the two clusters they are in, shape (C, T).
            label: The clusters' numbers, the first being that of the one, shape (C, 2).
            others: How many clusters there are with the two as one, shape (C,).
        """


class Weights:
    """Of a prior that looks at sizes only.

    Args:
        prior: The prior of the partition.
        values: Hyperparameter values, each of shape (C, ...).
        num_tasks: T.
    """

    grows = True

    def __init__(self, prior: ExchangeablePartition, values: Values, num_tasks: int):
        C = next(iter(values.values())).shape[0]
        counts = torch.arange(num_tasks + 1).expand(C, -1)
        self.join = prior.log_join(counts.clamp(min=1), values).numpy()  # entry 0 is never used as it is
        self.open = prior.log_open(counts, values).numpy()
        self.grown = np.concatenate([np.zeros((C, 2)), self.join[:, 1:-1].cumsum(1)], axis=1)
        """log of join(1) .. join(n - 1) at position n."""
        self.rows = np.arange(C)

    def numbered(self, membership: np.ndarray) -> np.ndarray:
        """In the order of their first task."""
        return canonical(membership)

    def num_slots(self, membership: np.ndarray) -> int:
        """One more than there are clusters."""
        return int(membership.max()) + 2

    def slots(self, size: np.ndarray, task: int) -> np.ndarray:
        """Of the occupied slots and of one empty one."""
        occupied = size > 0
        weights = np.where(occupied, self.join[self.rows[:, None], size], -np.inf)
        first_empty = occupied.argmin(1)
        free = ~occupied[self.rows, first_empty]
        opening = self.open[self.rows, occupied.sum(1)]
        weights[self.rows[free], first_empty[free]] = opening[free]
        return weights

    def joining(self, task: np.ndarray, size: np.ndarray, label: np.ndarray) -> np.ndarray:
        """By size."""
        return np.asarray(self.join[self.rows[:, None], size])

    def second_label(
        self, membership: np.ndarray, together: np.ndarray, uniform: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Whatever is free: numbers have no meaning."""
        C = len(membership)
        return np.full(C, membership.max() + 1), np.zeros(C)

    def gain(
        self, order: np.ndarray, number: np.ndarray, side: np.ndarray, label: np.ndarray, others: np.ndarray
    ) -> np.ndarray:
        """By sizes and the number of clusters."""
        second = (side * (np.arange(side.shape[1]) < number[:, None])).sum(1)
        size = np.stack([number - second, second], axis=1)
        grown = self.grown[self.rows[:, None], size].sum(1) - self.grown[self.rows, number]
        return np.asarray(self.open[self.rows, others] + grown)


class _Numbered:
    """Of clusters that are numbered for good: a number stands for what the cluster has of its own.

    Args:
        num_clusters: K.
    """

    grows = False

    def __init__(self, num_clusters: int):
        self.num_clusters = num_clusters

    def numbered(self, membership: np.ndarray) -> np.ndarray:
        """As they are."""
        return membership.copy()

    def num_slots(self, membership: np.ndarray) -> int:
        """K."""
        return self.num_clusters

    def second_label(
        self, membership: np.ndarray, together: np.ndarray, uniform: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """One of the empty clusters, each as likely."""
        empty = ~(membership[:, :, None] == np.arange(self.num_clusters)).any(1)
        number = empty.sum(1)
        rank = np.minimum(np.floor(uniform * number), np.maximum(number - 1, 0))
        chosen = (empty.cumsum(1) > rank[:, None]).argmax(1)
        choices = number + ~together
        return chosen, np.where(choices > 0, np.log(np.maximum(choices, 1)), -np.inf)


class GateWeights(_Numbered):
    """Of a gate: every task has probabilities of its own, whatever the others do.

    Args:
        prior: The gate.
        values: Hyperparameter values, each of shape (C, ...).
        descriptors: Of the tasks, shape (T, Q).
    """

    def __init__(self, prior: Gated, values: Values, descriptors: torch.Tensor):
        super().__init__(prior.num_clusters)
        self.gate = prior.log_gate(values, descriptors).numpy()  # (C, T, K)
        self.rows = np.arange(len(self.gate))

    def slots(self, size: np.ndarray, task: int) -> np.ndarray:
        """Of all clusters."""
        return np.asarray(self.gate[:, task])

    def joining(self, task: np.ndarray, size: np.ndarray, label: np.ndarray) -> np.ndarray:
        """By number."""
        return np.asarray(self.gate[self.rows[:, None], task[:, None], label])

    def gain(
        self, order: np.ndarray, number: np.ndarray, side: np.ndarray, label: np.ndarray, others: np.ndarray
    ) -> np.ndarray:
        """By what the gate says of the tasks that are in the second."""
        chain = self.rows[:, None]
        moved = (side == 1) & (np.arange(side.shape[1]) < number[:, None])
        gain = self.gate[chain, order, label[:, 1:]] - self.gate[chain, order, label[:, :1]]
        return np.asarray((moved * gain).sum(1))


class ShareWeights(_Numbered):
    """Of shares ~ Dirichlet(concentration, .., concentration) that are integrated out.

    Args:
        prior: The prior of the partition.
        values: Hyperparameter values, each of shape (C, ...).
    """

    def __init__(self, prior: Clusters, values: Values):
        super().__init__(prior.num_clusters)
        self.concentration = values["concentration"].reshape(-1, 1).numpy()

    def slots(self, size: np.ndarray, task: int) -> np.ndarray:
        """By size, empty ones too."""
        return np.asarray(np.log(size + self.concentration))

    def joining(self, task: np.ndarray, size: np.ndarray, label: np.ndarray) -> np.ndarray:
        """By size."""
        return np.asarray(np.log(size + self.concentration))

    def gain(
        self, order: np.ndarray, number: np.ndarray, side: np.ndarray, label: np.ndarray, others: np.ndarray
    ) -> np.ndarray:
        """By sizes."""
        second = (side * (np.arange(side.shape[1]) < number[:, None])).sum(1)
        alpha = self.concentration[:, 0]
        apart = gammaln(number - second + alpha) + gammaln(second + alpha)
        return np.asarray(apart - gammaln(number + alpha) - gammaln(alpha))


def weights_of(problem: LinearPosterior, values: Values) -> PartitionWeights:
    """The prior of the partition for the hyperparameter values of C chains."""
    prior = problem.sharing
    if isinstance(prior, Gated):
        assert problem.descriptors is not None
        return GateWeights(prior, values, problem.descriptors)
    if isinstance(prior, Clusters) and prior.numbered:
        return ShareWeights(prior, values)
    return Weights(exchangeable_of(prior), values, problem.tasks.num_tasks)


def canonical(membership: np.ndarray) -> np.ndarray:
    """The same partitions (C, T) with clusters numbered in the order of their first task."""
    return np.asarray(in_order(torch.from_numpy(membership)).numpy())


def occupied(membership: np.ndarray) -> np.ndarray:
    """Which clusters have a task, bool (C, S), of partitions (C, T)."""
    return np.asarray((membership[:, :, None] == np.arange(int(membership.max()) + 1)).any(1))
