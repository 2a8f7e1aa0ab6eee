"""Tasks in clusters that descriptors of the tasks tell apart, more or less."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from bayesmtl.errors import SpecificationError
from bayesmtl.parameters import Parameter, Reported, Values
from bayesmtl.priors import Gamma, HalfNormal, Normal, Prior, is_real
from bayesmtl.sharing.partitions.base import PartitionSharing
from bayesmtl.sharing.partitions.clusters import check_at_most, check_number


@dataclass(frozen=True)
class Gated(PartitionSharing):
    """Tasks in at most `num_clusters` clusters, chosen by a gate on what describes the tasks.

        w_t = mu + b_{c_t} + e_t,   P(c_t = k | x_t) = g_k exp(v_k'x_t) / sum_l g_l exp(v_l'x_t)

    with x_t the standardised descriptors of task t, g_k ~ Gamma(concentration, 1) and v_kq ~ N(0, s_q^2). So
    a new task has probabilities of its clusters by its descriptors alone. Without slopes (s = 0) the weights
    g_k / sum g are Dirichlet(concentration, .., concentration): this is `Clusters` then. Each s_q is learned,
    so that descriptors that say nothing about the clusters do little harm.

    Args:
        num_clusters: K, at most the number of tasks.
        descriptors: Names of the columns of `TaskData.descriptors` that the gate looks at: numbers.
        concentration: Of the clusters' weights where descriptors are at their means, above 0.
        slopes: Prior of s, the scales of the gate's slopes, one per descriptor. With the default,
            HalfNormal(1), 90 % of its mass lies below 1.64: log odds per standard deviation of the
            descriptor.
        within, scale, correlation, spread, mean_scale: As in `PartitionSharing`; 90 % of the mass of the
            spread of the cluster means lies below 1.64 standardised units, of the scale within a cluster
            below 0.82.

    Raises:
        SpecificationError: If an option makes no sense.

    Source: task gating (Bakker and Heskes, 2003), who maximise over the gate; here its weights have a prior
    and are sampled. Zero slopes to be `Clusters` is our choice of the prior of g.

    Example:
        >>> gated = Gated(2, descriptors=["altitude"], within="none")
        >>> [p.name for p in gated.parameters(num_tasks=5, num_features=2)]
        ['gate_weight', 'gate_scale', 'gate_slope', 'mean_scale', 'cluster_scale']
        >>> one = {"gate_weight": torch.ones(1, 2), "gate_scale": torch.ones(1, 1)}
        >>> slope = {"gate_slope": torch.tensor([[[1.0], [-1.0]]])}
        >>> gated.log_gate(one | slope, torch.tensor([[0.0], [1.0]])).exp().numpy().round(2).tolist()
        [[[0.5, 0.5], [0.8799999952316284, 0.11999999731779099]]]
    """

    num_clusters: int
    descriptors: tuple[str, ...]
    concentration: float = 1.0
    slopes: Prior = field(default_factory=HalfNormal)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.num_clusters)
        names: Any = self.descriptors
        listed = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
        if not listed or not names or len(set(names)) < len(names):
            raise SpecificationError(
                "descriptors",
                expected="the names of descriptors, each once",
                found=repr(names),
                remedy='Write descriptors=["altitude", ...]; without descriptors use Clusters(K).',
            )
        object.__setattr__(self, "descriptors", tuple(names))
        if not is_real(self.concentration) or not 0 < self.concentration < float("inf"):
            raise SpecificationError(
                "concentration",
                expected="a number above 0",
                found=repr(self.concentration),
                remedy="1 makes all weights of the clusters equally likely.",
            )

    @property
    def descriptor_names(self) -> tuple[str, ...]:
        """The descriptors that the gate looks at."""
        return self.descriptors

    def most_clusters(self, num_tasks: int) -> int:
        """See `PartitionSharing.most_clusters`."""
        return min(self.num_clusters, num_tasks)

    def check_tasks(self, num_tasks: int) -> None:
        """Refuse more clusters than tasks."""
        check_at_most(self.num_clusters, num_tasks)

    def partition_parameters(self) -> tuple[Parameter, ...]:
        """g, s, and v in units of s."""
        K, Q = self.num_clusters, len(self.descriptors)
        weight = Gamma(self.concentration, 1.0)
        return (
            Parameter("gate_weight", (K,), weight, "log", ("cluster",)),
            Parameter("gate_scale", (Q,), self.slopes, "signed", ("descriptor",)),
            Parameter("gate_slope", (K, Q), Normal(1.0), "real", ("cluster", "descriptor")),
        )

    def report_partition(self, values: Values) -> dict[str, Reported]:
        """How much each descriptor says; which cluster is which has no meaning from draw to draw."""
        return {"gate_scale": Reported(("descriptor",), values["gate_scale"].abs(), "none")}

    def log_gate(self, values: Values, descriptors: torch.Tensor) -> torch.Tensor:
        """Log probabilities of the clusters by the descriptors alone, shape (B, T, K).

        Args:
            values: Hyperparameter values, each of shape (B, ...).
            descriptors: Standardised descriptors, shape (T, Q).
        """
        slope = values["gate_slope"] * values["gate_scale"][:, None]
        logit = values["gate_weight"].log()[:, None] + descriptors @ slope.transpose(-1, -2)
        return logit.log_softmax(-1)

    def log_partition(
        self, membership: torch.Tensor, values: Values, descriptors: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Log probability of clusters (B, T), which are numbered as the gate numbers them, shape (B,)."""
        assert descriptors is not None
        gate = self.log_gate(values, descriptors)
        return gate.gather(2, membership.long()[..., None]).sum((1, 2))

    def num_slots(self, membership: torch.Tensor, num_new: int) -> int:
        """All clusters, empty ones too."""
        return self.num_clusters

    def log_slots(
        self, size: torch.Tensor, values: Values, descriptors: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Log probabilities of all clusters for one further task, shape (B, K)."""
        assert descriptors is not None
        return self.log_gate(values, descriptors[None])[:, 0]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for files."""
        return super().to_dict() | {"descriptors": list(self.descriptors)}
