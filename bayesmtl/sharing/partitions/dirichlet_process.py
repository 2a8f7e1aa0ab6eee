"""Tasks in clusters whose number is left open."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from bayesmtl.parameters import Parameter, Values
from bayesmtl.priors import Gamma, Prior
from bayesmtl.sharing.partitions.exchangeable import ExchangeablePartition, check_concentration


@dataclass(frozen=True)
class DirichletProcess(ExchangeablePartition):
    """Tasks in clusters, as many as the data ask for: a Chinese restaurant process over tasks, not truncated.

    w_t = mu + b_{c_t} + e_t; a task joins a cluster of n others with probability proportional to n and opens
    one of its own with one proportional to alpha. Two tasks are together with probability 1 / (1 + alpha);
    alpha to 0 is `Hierarchical`, alpha to infinity puts every task apart.

    Args:
        concentration: Prior of alpha. The default Gamma(1, 1) puts 90 % of its mass within 0.05 and 3.0: of
            30 tasks between 1 and 9 clusters.
        within, scale, correlation, spread, mean_scale: As in `PartitionSharing`; 90 % of the mass of the
            spread of the cluster means lies below 1.64 standardised units, of the scale within a cluster
            below 0.82.

    Source: Xue, Liao, Carin and Krishnapuram (2007), who take `within="none"` and variational inference;
    Escobar and West (1995) for the prior of the concentration.

    Example:
        >>> [p.name for p in DirichletProcess().parameters(num_tasks=5, num_features=2)]
        ['concentration', 'mean_scale', 'cluster_scale', 'residual_scale']
    """

    concentration: Prior = field(default_factory=Gamma)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_concentration("concentration", self.concentration)

    def partition_parameters(self) -> tuple[Parameter, ...]:
        """The concentration."""
        return (Parameter("concentration", (), self.concentration, "log"),)

    def log_join(self, size: torch.Tensor, values: Values) -> torch.Tensor:
        """Log n."""
        return size.double().log()

    def log_open(self, num_clusters: torch.Tensor, values: Values) -> torch.Tensor:
        """Log alpha."""
        alpha = values["concentration"]
        return alpha.log().reshape(-1, *([1] * (num_clusters.dim() - 1))).expand(num_clusters.shape)

    def log_total(self, num_tasks: int, values: Values) -> torch.Tensor:
        """log alpha (alpha + 1) .. (alpha + T - 1)."""
        alpha = values["concentration"]
        return torch.lgamma(alpha + num_tasks) - torch.lgamma(alpha)

    def sticks(self, values: Values, num_clusters: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Beta(1, alpha) (Sethuraman, 1994)."""
        alpha = values["concentration"].reshape(-1, 1).expand(-1, num_clusters)
        return torch.ones_like(alpha), alpha
