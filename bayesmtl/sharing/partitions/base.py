"""What priors over partitions have in common: A one-hot, Z cluster means around a population, E within.

What tells them apart is how likely a partition is, and with it where a further task goes: `exchangeable`
priors look at the sizes of the clusters only, a `gated` one at descriptors of the tasks.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import numpy as np
import torch

from bayesmtl.algebra.structure import Structure
from bayesmtl.errors import SpecificationError
from bayesmtl.parameters import Parameter, Reported, Spread, Values
from bayesmtl.priors import LKJ, Fixed, HalfNormal, Prior
from bayesmtl.sharing.base import Sharing, ones, reported_spread
from bayesmtl.sharing.dependence import Dependence
from bayesmtl.sharing.pooled import check_mean_scale

Within = Literal["none", "diagonal", "full"]


@dataclass(frozen=True, kw_only=True)
class PartitionSharing(Sharing):
    """W = 1 mu' + A B + E: tasks in clusters, w_t = mu + b_{c_t} + e_t, with a prior on the partition.

    Cluster means lie around a population mean mu ~ N(0, mean_scale^2 I), b_k ~ N(0, diag(spread^2)); tasks
    lie around the mean of their cluster, e_t ~ N(0, Sigma), or share it exactly.

    Args:
        within: "none": tasks of a cluster have the same weights. "diagonal": Sigma = diag(scale^2), learned
            by feature. "full": diag(scale) Omega diag(scale), Omega ~ LKJ.
        scale: Prior of the scales within clusters; HalfNormal(0.5) puts 90 % of its mass below 0.82
            standardised units.
        correlation: Prior of Omega, as in `Hierarchical`.
        spread: Prior of the scales of the cluster means around mu, one per feature; HalfNormal(1) puts 90 %
            of its mass below 1.64 units.
        mean_scale: As in `Hierarchical`.
    """

    dependence: ClassVar[Dependence] = Dependence.PARTITION

    within: Within = "diagonal"
    scale: Prior = field(default_factory=lambda: HalfNormal(0.5))
    correlation: LKJ = field(default_factory=LKJ)
    spread: Prior = field(default_factory=HalfNormal)
    mean_scale: Prior = field(default_factory=lambda: Fixed(1.0))

    @property
    def numbered(self) -> bool:
        """Whether clusters have hyperparameters of their own, and so numbers that mean something."""
        return False

    @property
    def num_directions(self) -> int:
        """Dimension of the subspace that each cluster has for itself; 0 without."""
        return 0

    def most_clusters(self, num_tasks: int) -> int:
        """How many clusters there can be of so many tasks."""
        return num_tasks

    def __post_init__(self) -> None:
        super().__post_init__()
        check_mean_scale(self.mean_scale)
        if self.within not in get_args(Within):
            raise SpecificationError(
                "within",
                expected="one of " + ", ".join(map(repr, get_args(Within))),
                found=repr(self.within),
                remedy='Use "diagonal" to let tasks differ within their cluster.',
            )

    @abstractmethod
    def partition_parameters(self) -> tuple[Parameter, ...]:
        """The hyperparameters of the prior of the partition."""

    @abstractmethod
    def log_partition(
        self, membership: torch.Tensor, values: Values, descriptors: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Log probability of a partition, differentiable in the hyperparameters.

        Args:
            membership: Each task's cluster, whole numbers from 0 on, shape (B, T).
            values: Hyperparameter values, each of shape (B, ...).
            descriptors: Standardised descriptors of the tasks (T, Q), where the prior has any.

        Returns:
            Shape (B,).
        """

    @abstractmethod
    def log_slots(
        self, size: torch.Tensor, values: Values, descriptors: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Log weights with which one further task goes to each slot for a cluster, shape (B, S).

        Args:
            size: Sizes of the clusters, 0 of empty slots, shape (B, S).
            values: Hyperparameter values, each of shape (B, ...).
            descriptors: Standardised descriptors of that task (Q,), where the prior has any.
        """

    @abstractmethod
    def num_slots(self, membership: torch.Tensor, num_new: int) -> int:
        """Slots for clusters that so many tasks beside those of `membership` (B, T) can need."""

    def check_tasks(self, num_tasks: int) -> None:
        """Refuse a number of tasks that makes no sense for this prior.

        Raises:
            SpecificationError: Saying what to do.
        """

    def sizes(self, membership: torch.Tensor, num_new: int) -> torch.Tensor:
        """Sizes of all slots for clusters, with room for further tasks, shape (B, S)."""
        B, T = membership.shape
        size = torch.zeros(B, self.num_slots(membership, num_new), dtype=torch.long)
        return size.scatter_add_(1, membership, torch.ones_like(membership))

    def extend(
        self,
        membership: torch.Tensor,
        values: Values,
        num_new: int,
        rng: np.random.Generator,
        descriptors: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Draw the clusters of further tasks, one after the other, given those of the others.

        Args:
            membership: Clusters of T tasks as the prior numbers them, shape (B, T); T may be 0.
            values: Hyperparameter values, each of shape (B, ...).
            num_new: Number of further tasks.
            rng: Source of randomness.
            descriptors: Standardised descriptors of the further tasks (num_new, Q), where there are any.

        Returns:
            Clusters of all tasks, shape (B, T + num_new).
        """
        size = self.sizes(membership, num_new)
        rows, columns = torch.arange(len(membership)), [membership]
        for new in range(num_new):
            own = None if descriptors is None else descriptors[new]
            gumbel = torch.from_numpy(-np.log(-np.log(rng.random(tuple(size.shape)))))
            chosen = (self.log_slots(size, values, own) + gumbel).argmax(1)
            size[rows, chosen] += 1
            columns.append(chosen[:, None])
        return torch.cat(columns, dim=1)

    def extend_with_means(
        self,
        values: Values,
        basis: torch.Tensor,
        num_new: int,
        rng: np.random.Generator,
        descriptors: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw the clusters of further tasks, and the means of those that they open.

        Args:
            values: Hyperparameter values with `cluster`, each of shape (B, ...).
            basis: Z, mu and the departures of the cluster means, shape (B, R, D).
            num_new: Number of further tasks.
            rng: Source of randomness.
            descriptors: As for `extend`.

        Returns:
            Clusters of the further tasks (B, num_new), and Z with rows for the new clusters.
        """
        membership = values["cluster"].long()
        extended = self.extend(membership, values, num_new, rng, descriptors)
        B, R, D = basis.shape
        num_rows = max(R, 2 + int(extended.max()))
        fresh = torch.from_numpy(rng.normal(size=(B, num_rows, D))) * values["cluster_scale"][:, None]
        occupied = (membership[:, :, None] == torch.arange(num_rows - 1)).any(1)
        used = torch.nn.functional.pad(occupied, (1, 0), value=True)  # mu comes first
        kept = torch.nn.functional.pad(basis, (0, 0, 0, num_rows - R))
        return extended[:, membership.shape[1] :], torch.where(used[..., None], kept, fresh)

    def sample_partition(
        self,
        values: Values,
        num_tasks: int,
        rng: np.random.Generator,
        descriptors: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Draw partitions from the prior, shape (B, T)."""
        B = next(iter(values.values())).shape[0]
        return self.extend(torch.zeros(B, 0, dtype=torch.long), values, num_tasks, rng, descriptors)

    def parameters(self, num_tasks: int, num_features: int) -> tuple[Parameter, ...]:
        """Of the partition, then the scales of the population, of cluster means and within clusters."""
        D = num_features
        shared = (
            *self.partition_parameters(),
            Parameter("mean_scale", (), self.mean_scale, "signed"),
            Parameter("cluster_scale", (D,), self.spread, "signed", ("feature",)),
        )
        scale = Parameter("residual_scale", (D,), self.scale, "signed", ("feature",))
        if self.within == "none":
            return shared
        if self.within == "diagonal":
            return (*shared, scale)
        dims = ("feature", "feature_other")
        correlation = Parameter("residual_correlation", (D, D), self.correlation, "correlation", dims)
        return (*shared, scale, correlation)

    def report_partition(self, values: Values) -> dict[str, Reported]:
        """What to show of the hyperparameters of the partition: those that no relabelling changes."""
        shown = [parameter for parameter in self.partition_parameters() if parameter.size]
        return {p.name: Reported(p.dims, values[p.name], "none") for p in shown}

    def structure(self, values: Values, num_tasks: int, num_features: int) -> Structure:
        """A = ones and the clusters of `values["cluster"]`, Z = mu and departures of cluster means, E."""
        mean = values["mean_scale"].reshape(-1, 1, 1).expand(-1, 1, num_features)
        basis_scale = torch.cat([mean, values["cluster_scale"][:, None]], dim=1)
        membership = values["cluster"].long()
        scale = factor = None
        if self.within == "diagonal":
            scale = values["residual_scale"][:, None]
        elif self.within == "full":
            factor = values["residual_scale"][:, :, None] * values["residual_correlation"]
        return Structure(ones(num_tasks), basis_scale, scale, factor, membership)

    def report(self, values: Values) -> dict[str, Reported]:
        """Number of clusters, hyperparameters of the partition, and all scales; never a label."""
        shown = {"num_clusters": Reported((), num_clusters(values["cluster"]).double(), "none")}
        shown |= self.report_partition(values)
        shown["cluster_scale"] = Reported(("feature",), values["cluster_scale"].abs(), "coefficient")
        if self.within == "diagonal":
            shown["residual_scale"] = Reported(("feature",), values["residual_scale"].abs(), "coefficient")
        elif self.within == "full":
            scale = values["residual_scale"]
            factor = scale[:, :, None] * values["residual_correlation"]
            shown |= reported_spread(Spread(torch.zeros_like(scale), factor))
        if not isinstance(self.mean_scale, Fixed):
            shown["mean_scale"] = Reported((), values["mean_scale"].abs(), "standardised")
        return shown


def num_clusters(membership: torch.Tensor) -> torch.Tensor:
    """Number of occupied clusters of partitions (..., T), shape (...)."""
    ordered = membership.sort(dim=-1).values
    return 1 + (ordered[..., 1:] != ordered[..., :-1]).sum(-1)


def in_order(membership: torch.Tensor) -> torch.Tensor:
    """The same partitions (B, T) with clusters numbered in the order of their first task.

    Example:
        >>> in_order(torch.tensor([[7, 7, 2, 7, 0]]))
        tensor([[0, 0, 1, 0, 2]])
    """
    T = membership.shape[1]
    same = membership[:, :, None] == membership[:, None, :]
    first = same.to(torch.uint8).argmax(2)  # position of the first task of each task's cluster
    is_first = first == torch.arange(T)
    return (is_first.cumsum(1) - 1).gather(1, first)


def partition_of(sharing: Sharing) -> PartitionSharing:
    """The prior as one over partitions.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(sharing, PartitionSharing):
        raise TypeError(f"{type(sharing).__name__} has no partition of the tasks")
    return sharing
