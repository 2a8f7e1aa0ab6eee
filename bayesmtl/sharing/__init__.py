"""Sharing priors: one file each, a choice of A, Z and E in W = A Z + E."""

from __future__ import annotations

from bayesmtl.sharing.base import Sharing
from bayesmtl.sharing.dependence import Dependence
from bayesmtl.sharing.hierarchical import Hierarchical
from bayesmtl.sharing.independent import Independent
from bayesmtl.sharing.low_rank import LowRank
from bayesmtl.sharing.partitions.base import PartitionSharing, partition_of
from bayesmtl.sharing.partitions.clusters import Clusters
from bayesmtl.sharing.partitions.dirichlet_process import DirichletProcess
from bayesmtl.sharing.partitions.exchangeable import ExchangeablePartition
from bayesmtl.sharing.partitions.gated import Gated
from bayesmtl.sharing.partitions.pitman_yor import PitmanYor
from bayesmtl.sharing.pooled import Pooled
from bayesmtl.sharing.relations.task_covariance import TaskCovariance
from bayesmtl.sharing.relations.task_graph import TaskGraph

REGISTRY: dict[str, type[Sharing]] = {
    "Independent": Independent,
    "Pooled": Pooled,
    "Hierarchical": Hierarchical,
    "LowRank": LowRank,
    "TaskCovariance": TaskCovariance,
    "TaskGraph": TaskGraph,
    "Clusters": Clusters,
    "DirichletProcess": DirichletProcess,
    "PitmanYor": PitmanYor,
    "Gated": Gated,
}
"""Every sharing prior by name. A new prior is added here and nowhere else."""

__all__ = [
    "REGISTRY",
    "Clusters",
    "Dependence",
    "DirichletProcess",
    "ExchangeablePartition",
    "Gated",
    "Hierarchical",
    "Independent",
    "LowRank",
    "PartitionSharing",
    "PitmanYor",
    "Pooled",
    "Sharing",
    "TaskCovariance",
    "TaskGraph",
    "partition_of",
]
