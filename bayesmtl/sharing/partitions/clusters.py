"""Tasks in at most K clusters."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch

from bayesmtl.algebra.structure import Structure
from bayesmtl.errors import SpecificationError
from bayesmtl.parameters import Parameter, Reported, Spread, Values
from bayesmtl.priors import Fixed, GroupStudentT, Prior, check_positive
from bayesmtl.sharing.partitions.exchangeable import ExchangeablePartition, check_concentration

Scales = Literal["common", "cluster"]
Basis = Literal["mean", "low_rank"]
_STRENGTH = 0.3  # by default


@dataclass(frozen=True)
class Clusters(ExchangeablePartition):
    """Tasks in at most `num_clusters` clusters: w_t = mu + b_{c_t} + e_t, c_t ~ weights ~ Dirichlet.

    The weights integrate out: a task joins a cluster of n others with probability proportional to
    n + concentration. Two tasks are together with probability (concentration + 1) / (K concentration + 1).
    Clusters may stay empty, so K is the most there can be.

    With `scales="cluster"` every cluster has its own private scales, e_t ~ N(0, diag(scale_k^2)). With
    `basis="low_rank"` every cluster has a subspace of its own beside its mean, in which its tasks vary:
    e_t ~ N(0, F_k F_k' + diag(scale^2)), `rank` directions each, columns f_kr ~ t_3(0, strength^2 I) as in
    `LowRank`, with the loadings of tasks integrated out; `spread=Fixed(0.0)` leaves the subspaces alone to
    tell clusters apart. Clusters are numbered inside then, empty ones keep quantities of their own, which
    follow the prior, and results show every task what its cluster has: numbers and rotations mean nothing.
    Subspaces are found by local moves: where means do not tell the groups apart, compare chains that ran for
    long, as `fit.check()` does.

    Args:
        num_clusters: K, at most the number of tasks.
        concentration: Of each cluster's weight, Dirichlet(concentration, .., concentration), known or with a
            prior; the default, 1, makes all weights equally likely. With 1 / K about as few clusters are used
            as a Dirichlet process of concentration 1 does.
        scales: "common": scales within clusters are those of all. "cluster": each cluster has its own; needs
            `within="diagonal"`.
        basis: "mean": clusters share a mean. "low_rank": each has a subspace too; not with `within="full"`.
        rank: R, directions of each subspace; needed with `basis="low_rank"`, and only there.
        strength: Scale of the directions' t distribution in standardised units, as in `LowRank`; `None` for
            0.3.
        within, scale, correlation, spread, mean_scale: As in `PartitionSharing`; 90 % of the mass of the
            spread of the cluster means lies below 1.64 standardised units, of the scale within a cluster
            below 0.82.

    Raises:
        SpecificationError: If an option makes no sense, or goes with no other.

    Source: task clustering (Bakker and Heskes, 2003) with one-hot loadings and the cluster weights integrated
    out; clustered multi-task learning (Jacob, Bach and Vert, 2008) is its relaxation to a point.
    Subspaces for groups of tasks: Kang, Grauman and Sha (2011), who minimise a sum of squared trace norms
    over relaxed groups (recalled, not checked); here groups have a posterior.

    Example:
        >>> [p.name for p in Clusters(3, within="none").parameters(num_tasks=5, num_features=2)]
        ['concentration', 'mean_scale', 'cluster_scale']
        >>> groups = Clusters(2, basis="low_rank", rank=1)
        >>> [p.shape for p in groups.parameters(num_tasks=5, num_features=3) if p.name == "directions"]
        [(2, 1, 3)]
    """

    num_clusters: int
    concentration: Prior = field(default_factory=lambda: Fixed(1.0))
    scales: Scales = "common"
    basis: Basis = "mean"
    rank: int | None = None
    strength: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.num_clusters)
        check_concentration("concentration", self.concentration)
        _check_own(self)

    @property
    def numbered(self) -> bool:
        """Whether clusters have hyperparameters of their own, and so numbers that mean something."""
        return self.scales == "cluster" or self.basis == "low_rank"

    @property
    def num_directions(self) -> int:
        """See `PartitionSharing.num_directions`."""
        return self.rank or 0

    def most_clusters(self, num_tasks: int) -> int:
        """See `PartitionSharing.most_clusters`."""
        return min(self.num_clusters, num_tasks)

    def check_tasks(self, num_tasks: int) -> None:
        """Refuse more clusters than tasks."""
        check_at_most(self.num_clusters, num_tasks)

    def partition_parameters(self) -> tuple[Parameter, ...]:
        """The concentration."""
        return (Parameter("concentration", (), self.concentration, "log"),)

    def log_join(self, size: torch.Tensor, values: Values) -> torch.Tensor:
        """log(n + concentration)."""
        return (size + _column(values["concentration"], size)).log()

    def log_open(self, num_clusters: torch.Tensor, values: Values) -> torch.Tensor:
        """log(concentration (K - k)): all clusters still empty together."""
        left = (self.num_clusters - num_clusters).clamp(min=0)
        return left.double().log() + _column(values["concentration"].log(), num_clusters)

    def log_total(self, num_tasks: int, values: Values) -> torch.Tensor:
        """log (K concentration) (K concentration + 1) .. (K concentration + T - 1)."""
        total = self.num_clusters * values["concentration"]
        return torch.lgamma(total + num_tasks) - torch.lgamma(total)

    def sticks(self, values: Values, num_clusters: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Beta(concentration, (K - k) concentration), k = 1 .. K - 1: Dirichlet weights one by one."""
        concentration = values["concentration"].reshape(-1, 1)
        left = torch.arange(self.num_clusters - 1, 0, -1)[:num_clusters]
        return concentration.expand(-1, len(left)), concentration * left

    def log_partition(
        self, membership: torch.Tensor, values: Values, descriptors: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Log probability of partitions (B, T), or of numbered clusters where they are, shape (B,)."""
        if not self.numbered:
            return super().log_partition(membership, values, descriptors)
        size = self.sizes(membership.long(), 0)
        alpha = values["concentration"].reshape(-1, 1)
        grown = (torch.lgamma(size + alpha) - torch.lgamma(alpha)).sum(1)
        return grown - self.log_total(membership.shape[1], values)

    def num_slots(self, membership: torch.Tensor, num_new: int) -> int:
        """All clusters where they are numbered; otherwise those there can be."""
        return self.num_clusters if self.numbered else super().num_slots(membership, num_new)

    def log_slots(
        self, size: torch.Tensor, values: Values, descriptors: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Log weights for one further task, shape (B, S): of all slots where clusters are numbered."""
        if self.numbered:
            return self.log_join(size, values)
        return super().log_slots(size, values, descriptors)

    def parameters(self, num_tasks: int, num_features: int) -> tuple[Parameter, ...]:
        """As for other partitions, and what clusters have of their own."""
        K, D, found = self.num_clusters, num_features, super().parameters(num_tasks, num_features)
        if self.scales == "cluster":
            own = Parameter("residual_scale", (K, D), self.scale, "signed", ("cluster", "feature"))
            found = tuple(own if parameter.name == own.name else parameter for parameter in found)
        if self.basis == "low_rank":
            assert self.rank is not None
            prior, dims = GroupStudentT(3.0, self.strength or _STRENGTH), ("cluster", "direction", "feature")
            found = (*found, Parameter("directions", (K, self.rank, D), prior, "real", dims))
        return found

    def structure(self, values: Values, num_tasks: int, num_features: int) -> Structure:
        """As for other partitions, with what clusters have of their own."""
        found = super().structure(values, num_tasks, num_features)
        if not self.numbered:
            return found
        if self.scales == "cluster":
            found = replace(found, residual_scale=None, cluster_scale=values["residual_scale"])
        if self.basis == "low_rank":
            found = replace(found, cluster_factor=values["directions"].transpose(-1, -2))
        return found.assigned(values["cluster"].long())

    def report(self, values: Values) -> dict[str, Reported]:
        """As for other partitions; every task's scale of E takes the place of its cluster's residual."""
        shown = super().report(values)
        if not self.numbered:
            return shown
        D = values["cluster_scale"].shape[1]
        T = values["cluster"].shape[1]
        structure = self.structure(values, T, D)
        scale = torch.zeros(len(values["cluster"]), T, D, dtype=torch.float64)
        if structure.residual_scale is not None:
            scale = scale + structure.residual_scale
        spread = Spread(scale, structure.factor_by_task)
        own = Reported(("task", "feature"), spread.sd(), "coefficient", spread=spread)
        return shown | {"residual_scale": own}


def _column(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A hyperparameter (B,) with as many dimensions as `like`."""
    return value.reshape(-1, *([1] * (like.dim() - 1)))


def _check_own(prior: Clusters) -> None:
    """Refuse options about what clusters have of their own that do not go together."""
    for name, kinds in (("scales", Scales), ("basis", Basis)):
        if getattr(prior, name) not in get_args(kinds):
            raise SpecificationError(
                name,
                expected=" or ".join(map(repr, get_args(kinds))),
                found=repr(getattr(prior, name)),
                remedy="See the documentation of Clusters.",
            )
    if prior.scales == "cluster" and prior.within != "diagonal":
        raise SpecificationError(
            "scales",
            expected='"common", or "cluster" with within="diagonal"',
            found=f'scales="cluster" with within={prior.within!r}',
            remedy='Use within="diagonal".',
        )
    if prior.basis == "low_rank" and prior.within == "full":
        raise SpecificationError(
            "within",
            expected='"none" or "diagonal" beside subspaces of the clusters',
            found='"full"',
            remedy='Use within="diagonal".',
        )
    right = isinstance(prior.rank, int) and not isinstance(prior.rank, bool) and prior.rank >= 1
    if prior.basis == "low_rank" and not right:
        raise SpecificationError(
            "rank",
            expected="a whole number of at least 1",
            found=repr(prior.rank),
            remedy='Use basis="mean" for no subspaces.',
        )
    for name in ("rank", "strength"):
        if prior.basis == "mean" and getattr(prior, name) is not None:
            raise SpecificationError(
                name,
                expected='None, or basis="low_rank"',
                found=repr(getattr(prior, name)),
                remedy='Write Clusters(K, basis="low_rank", rank=R).',
            )
    if prior.strength is not None:
        check_positive("strength", prior.strength)


def check_number(num_clusters: object) -> None:
    """Refuse what is no number of clusters."""
    if not isinstance(num_clusters, int) or isinstance(num_clusters, bool) or num_clusters < 1:
        raise SpecificationError(
            "num_clusters",
            expected="a whole number of at least 1",
            found=repr(num_clusters),
            remedy="Use DirichletProcess() to leave the number open.",
        )


def check_at_most(num_clusters: int, num_tasks: int) -> None:
    """Refuse more clusters than tasks."""
    if num_clusters > num_tasks:
        raise SpecificationError(
            "num_clusters",
            expected=f"at most the number of tasks ({num_tasks})",
            found=str(num_clusters),
            remedy="Lower it, or use DirichletProcess() to leave the number open.",
        )
