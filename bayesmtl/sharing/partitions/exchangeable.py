"""Priors over partitions that look at the sizes of the clusters only.

All are of Gibbs type: a partition into k clusters of sizes n_1 .. n_k has a probability proportional to
prod_{i < k} open(i) prod_j join(1) .. join(n_j - 1), so that two functions say everything: the weight with
which a further task joins a cluster of a given size, and that with which it opens one of its own.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch

from bayesmtl.errors import SpecificationError
from bayesmtl.parameters import Values
from bayesmtl.priors import Fixed, Prior
from bayesmtl.sharing.base import Sharing
from bayesmtl.sharing.partitions.base import PartitionSharing


@dataclass(frozen=True, kw_only=True)
class ExchangeablePartition(PartitionSharing):
    """Tasks in clusters, all tasks alike before they are seen: the prior does not change with their names.

    Clusters are numbered in the order of their first task, without gaps.
    """

    @property
    def has_sticks(self) -> bool:
        """See `Sharing.has_sticks`: not where clusters are told apart by their number."""
        return not self.numbered

    @abstractmethod
    def log_join(self, size: torch.Tensor, values: Values) -> torch.Tensor:
        """Log weight with which a further task joins a cluster of that size (at least 1), shape (B, ...).

        Args:
            size: Sizes, shape (B, ...).
            values: Hyperparameter values, each of shape (B, ...).
        """

    @abstractmethod
    def log_open(self, num_clusters: torch.Tensor, values: Values) -> torch.Tensor:
        """Log weight with which a further task opens a cluster when there are so many, shape (B, ...)."""

    @abstractmethod
    def log_total(self, num_tasks: int, values: Values) -> torch.Tensor:
        """Log of the product of the total weights offered to each task in turn, shape (B,)."""

    @abstractmethod
    def sticks(self, values: Values, num_clusters: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The same prior by stick breaking: independent v_k ~ Beta(first_k, second_k), shape (B, S) each.

        A task is in cluster k with probability v_k prod_{l < k} (1 - v_l), as often as there are sticks, and
        in the last of the clusters there can be with what is left.

        Args:
            values: Hyperparameter values, each of shape (B, ...).
            num_clusters: S, sticks that are wanted; fewer where there can be no more clusters.
        """

    def num_slots(self, membership: torch.Tensor, num_new: int) -> int:
        """Those occupied, and one for every further task."""
        return (int(membership.max()) + 1 if membership.shape[1] else 0) + num_new

    def log_slots(
        self, size: torch.Tensor, values: Values, descriptors: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Log weights of the clusters and of the first empty slot for one further task, shape (B, S)."""
        joining = self.log_join(size.clamp(min=1), values)
        return slot_weights(size, joining, self.log_open((size > 0).sum(1, keepdim=True), values))

    def log_partition(
        self, membership: torch.Tensor, values: Values, descriptors: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Log probability of partitions (B, T) by the sizes of their clusters, shape (B,)."""
        B, T = membership.shape
        size = torch.nn.functional.one_hot(membership.long()).sum(1)
        occupied = (size > 0).sum(1)
        steps = torch.arange(T).expand(B, T)
        opened = _masked_sum(self.log_open(steps, values), steps < occupied[:, None])
        # a cluster of n tasks was joined at sizes 1 .. n - 1: count how often each size occurs on the way
        joined = (size[:, :, None] > steps[:, None, 1:]).sum(1)
        weights = self.log_join(steps[:, 1:], values)
        return opened + (joined * weights).sum(1) - self.log_total(T, values)


def check_concentration(name: str, prior: Prior) -> None:
    """Refuse a concentration that is known to be 0, or that could be."""
    if isinstance(prior, Fixed) and prior.value == 0:
        raise SpecificationError(
            name,
            expected="a number above 0, or a prior such as Gamma(1.0, 1.0)",
            found=repr(prior),
            remedy="Use Hierarchical() for a single cluster.",
        )


def slot_weights(size: torch.Tensor, log_join: torch.Tensor, log_open: torch.Tensor) -> torch.Tensor:
    """Log weights of all slots for clusters: occupied ones, the first empty one, and no other, shape (B, S).

    Args:
        size: Shape (B, S).
        log_join: Weights of the sizes, shape (B, S); whatever for empty ones.
        log_open: Weight of a new cluster, shape (B, 1).
    """
    empty = size == 0
    first_empty = empty & (empty.cumsum(1) == 1)
    weights = log_join.masked_fill(empty, -torch.inf)
    return torch.where(first_empty, log_open.expand_as(weights), weights)


def _masked_sum(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Sums along the rows of what the mask keeps; what it drops may be infinite."""
    return torch.where(mask, values, torch.zeros_like(values)).sum(1)


def exchangeable_of(sharing: Sharing) -> ExchangeablePartition:
    """The prior as one over partitions that looks at sizes only.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(sharing, ExchangeablePartition):
        raise TypeError(f"{type(sharing).__name__} is no exchangeable prior over partitions")
    return sharing
