"""Tasks in at most K clusters."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from bayesmtl.errors import SpecificationError
from bayesmtl.parameters import Parameter, Values
from bayesmtl.priors import Fixed, Prior
from bayesmtl.sharing.exchangeable import ExchangeablePartition, check_concentration


@dataclass(frozen=True)
class Clusters(ExchangeablePartition):
    """Tasks in at most `num_clusters` clusters: w_t = mu + b_{c_t} + e_t, c_t ~ weights ~ Dirichlet.

    The weights integrate out: a task joins a cluster of n others with probability proportional to
    n + concentration. Two tasks are together with probability (concentration + 1) / (K concentration + 1).
    Clusters may stay empty, so K is the most there can be.

    Args:
        num_clusters: K, at most the number of tasks.
        concentration: Of each cluster's weight, Dirichlet(concentration, .., concentration), known or with a
            prior; the default, 1, makes all weights equally likely. With 1 / K about as few clusters are used
            as a Dirichlet process of concentration 1 does.
        within, scale, correlation, spread, mean_scale: As in `PartitionSharing`; 90 % of the mass of the
            spread of the cluster means lies below 1.64 standardised units, of the scale within a cluster
            below 0.82.

    Source: task clustering (Bakker and Heskes, 2003) with one-hot loadings and the cluster weights integrated
    out; clustered multi-task learning (Jacob, Bach and Vert, 2008) is its relaxation to a point.

    Example:
        >>> [p.name for p in Clusters(3, within="none").parameters(num_tasks=5, num_features=2)]
        ['concentration', 'mean_scale', 'cluster_scale']
    """

    num_clusters: int
    concentration: Prior = field(default_factory=lambda: Fixed(1.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.num_clusters)
        check_concentration("concentration", self.concentration)

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


def _column(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A hyperparameter (B,) with as many dimensions as `like`."""
    return value.reshape(-1, *([1] * (like.dim() - 1)))


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
