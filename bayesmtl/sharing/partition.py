"""What priors over partitions have in common: A one-hot, Z cluster means around a population, E within.

All are of Gibbs type: a partition into k clusters of sizes n_1 .. n_k has a probability proportional to
prod_{i < k} open(i) prod_j join(1) .. join(n_j - 1), so that two functions say everything: the weight with
which a further task joins a cluster of a given size, and that with which it opens one of its own.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import numpy as np
import torch

from bayesmtl.algebra.structure import Structure
from bayesmtl.errors import SpecificationError
from bayesmtl.parameters import Parameter, Reported, Values
from bayesmtl.priors import LKJ, Fixed, HalfNormal, Prior
from bayesmtl.sharing.base import Sharing, ones
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

    has_partition: ClassVar[bool] = True

    within: Within = "diagonal"
    scale: Prior = field(default_factory=lambda: HalfNormal(0.5))
    correlation: LKJ = field(default_factory=LKJ)
    spread: Prior = field(default_factory=HalfNormal)
    mean_scale: Prior = field(default_factory=lambda: Fixed(1.0))

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

    def check_tasks(self, num_tasks: int) -> None:
        """Refuse a number of tasks that makes no sense for this prior.

        Raises:
            SpecificationError: Saying what to do.
        """

    def log_partition(self, membership: torch.Tensor, values: Values) -> torch.Tensor:
        """Log probability of a partition, differentiable in the hyperparameters.

        Args:
            membership: Each task's cluster, whole numbers from 0 on, shape (B, T).
            values: Hyperparameter values, each of shape (B, ...).

        Returns:
            Shape (B,).
        """
        B, T = membership.shape
        size = torch.nn.functional.one_hot(membership.long()).sum(1)
        occupied = (size > 0).sum(1)
        steps = torch.arange(T).expand(B, T)
        opened = _masked_sum(self.log_open(steps, values), steps < occupied[:, None])
        # a cluster of n tasks was joined at sizes 1 .. n - 1: count how often each size occurs on the way
        joined = (size[:, :, None] > steps[:, None, 1:]).sum(1)
        weights = self.log_join(steps[:, 1:], values)
        return opened + (joined * weights).sum(1) - self.log_total(T, values)

    def draw_next(self, size: torch.Tensor, values: Values, rng: np.random.Generator) -> torch.Tensor:
        """Draw the cluster of one further task, shape (B,).

        Args:
            size: Sizes of clusters, the occupied ones before the empty ones, shape (B, S); an empty one must
                be left where another can be opened.
            values: Hyperparameter values, each of shape (B, ...).
            rng: Source of randomness.
        """
        gumbel = -np.log(-np.log(rng.random(tuple(size.shape))))
        return (self.log_slots(size, values) + torch.from_numpy(gumbel)).argmax(1)

    def log_slots(self, size: torch.Tensor, values: Values) -> torch.Tensor:
        """Log weights of the clusters and of the first empty slot for one further task, shape (B, S)."""
        joining = self.log_join(size.clamp(min=1), values)
        return slot_weights(size, joining, self.log_open((size > 0).sum(1, keepdim=True), values))

    def extend(
        self, membership: torch.Tensor, values: Values, num_new: int, rng: np.random.Generator
    ) -> torch.Tensor:
        """Draw the clusters of further tasks, one after the other, given those of the others.

        Args:
            membership: Clusters of T tasks, numbered without gaps, shape (B, T); T may be 0.
            values: Hyperparameter values, each of shape (B, ...).
            num_new: Number of further tasks.
            rng: Source of randomness.

        Returns:
            Clusters of all tasks, shape (B, T + num_new).
        """
        B, T = membership.shape
        num_slots = (int(membership.max()) + 1 if T else 0) + num_new
        size = torch.zeros(B, num_slots, dtype=torch.long)
        size.scatter_add_(1, membership, torch.ones_like(membership))
        rows, columns = torch.arange(B), [membership]
        for _ in range(num_new):
            chosen = self.draw_next(size, values, rng)
            size[rows, chosen] += 1
            columns.append(chosen[:, None])
        return torch.cat(columns, dim=1)

    def extend_with_means(
        self, values: Values, basis: torch.Tensor, num_new: int, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw the clusters of further tasks, and the means of those that they open.

        Args:
            values: Hyperparameter values with `cluster`, each of shape (B, ...).
            basis: Z, mu and the departures of the cluster means, shape (B, R, D).
            num_new: Number of further tasks.
            rng: Source of randomness.

        Returns:
            Clusters of the further tasks (B, num_new), and Z with rows for the new clusters.
        """
        membership = values["cluster"].long()
        extended = self.extend(membership, values, num_new, rng)
        B, R, D = basis.shape
        num_rows = max(R, 2 + int(extended.max()))
        fresh = torch.from_numpy(rng.normal(size=(B, num_rows, D))) * values["cluster_scale"][:, None]
        used = 1 + num_clusters(membership)[:, None] > torch.arange(num_rows)
        kept = torch.nn.functional.pad(basis, (0, 0, 0, num_rows - R))
        return extended[:, membership.shape[1] :], torch.where(used[..., None], kept, fresh)

    def sample_partition(self, values: Values, num_tasks: int, rng: np.random.Generator) -> torch.Tensor:
        """Draw partitions from the prior: clusters in the order of their first task, shape (B, T)."""
        B = next(iter(values.values())).shape[0]
        return self.extend(torch.zeros(B, 0, dtype=torch.long), values, num_tasks, rng)

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
        for parameter in self.partition_parameters():
            if parameter.size:
                shown[parameter.name] = Reported((), values[parameter.name], "none")
        shown["cluster_scale"] = Reported(("feature",), values["cluster_scale"].abs(), "coefficient")
        if self.within != "none":
            scale = values["residual_scale"]
            shown["residual_scale"] = Reported(("feature",), scale.abs(), "coefficient")
        if self.within == "full":
            signed = torch.sign(scale)[:, :, None] * values["residual_correlation"]
            correlation = signed @ signed.transpose(-1, -2)
            shown["residual_correlation"] = Reported(("feature", "feature_other"), correlation, "none")
        if not isinstance(self.mean_scale, Fixed):
            shown["mean_scale"] = Reported((), values["mean_scale"].abs(), "standardised")
        return shown


def check_concentration(name: str, prior: Prior) -> None:
    """Refuse a concentration that is known to be 0, or that could be."""
    if isinstance(prior, Fixed) and prior.value == 0:
        raise SpecificationError(
            name,
            expected="a number above 0, or a prior such as Gamma(1.0, 1.0)",
            found=repr(prior),
            remedy="Use Hierarchical() for a single cluster.",
        )


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
