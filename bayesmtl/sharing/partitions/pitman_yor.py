"""Tasks in clusters of very different sizes, their number left open."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from bayesmtl.errors import SpecificationError
from bayesmtl.parameters import Parameter, Values
from bayesmtl.priors import Gamma, Prior, is_real
from bayesmtl.sharing.partitions.exchangeable import ExchangeablePartition, check_concentration


@dataclass(frozen=True)
class PitmanYor(ExchangeablePartition):
    """A `DirichletProcess` with a discount: a few large clusters and many small ones.

    A task joins a cluster of n others with probability proportional to n - discount and opens one of its own
    with one proportional to concentration + discount k, where there are k. Two tasks are together with
    probability (1 - discount) / (1 + concentration).

    Args:
        discount: In [0, 1), known; 0 is `DirichletProcess`.
        concentration: Prior of the concentration; the default Gamma(1, 1) puts 90 % of its mass within 0.05
            and 3.0.
        within, scale, correlation, spread, mean_scale: As in `PartitionSharing`; 90 % of the mass of the
            spread of the cluster means lies below 1.64 standardised units, of the scale within a cluster
            below 0.82.

    Source: Pitman and Yor (1997).

    Example:
        >>> PitmanYor(discount=0.5).parameters(num_tasks=5, num_features=2)[0].name
        'concentration'
    """

    discount: float = 0.25
    concentration: Prior = field(default_factory=Gamma)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_concentration("concentration", self.concentration)
        if not (is_real(self.discount) and 0 <= self.discount < 1):
            raise SpecificationError(
                "discount",
                expected="a number of at least 0 and below 1",
                found=repr(self.discount),
                remedy="Use DirichletProcess() for a discount of 0.",
            )

    def partition_parameters(self) -> tuple[Parameter, ...]:
        """The concentration."""
        return (Parameter("concentration", (), self.concentration, "log"),)

    def log_join(self, size: torch.Tensor, values: Values) -> torch.Tensor:
        """log(n - discount)."""
        return (size.double() - float(self.discount)).log()

    def log_open(self, num_clusters: torch.Tensor, values: Values) -> torch.Tensor:
        """log(concentration + discount k)."""
        concentration = values["concentration"].reshape(-1, *([1] * (num_clusters.dim() - 1)))
        return (concentration + self.discount * num_clusters.double()).log()

    def log_total(self, num_tasks: int, values: Values) -> torch.Tensor:
        """log of concentration (concentration + 1) .. (concentration + T - 1)."""
        concentration = values["concentration"]
        return torch.lgamma(concentration + num_tasks) - torch.lgamma(concentration)

    def sticks(self, values: Values, num_clusters: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Beta(1 - discount, concentration + k discount), k = 1, 2, .."""
        concentration = values["concentration"].reshape(-1, 1)
        second = concentration + self.discount * torch.arange(1, num_clusters + 1)
        return torch.full_like(second, 1.0 - self.discount), second
