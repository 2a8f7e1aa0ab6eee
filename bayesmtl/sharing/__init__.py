"""Sharing priors: one file each, a choice of A, Z and E in W = A Z + E."""

from __future__ import annotations

from bayesmtl.sharing.base import Sharing
from bayesmtl.sharing.hierarchical import Hierarchical
from bayesmtl.sharing.independent import Independent
from bayesmtl.sharing.low_rank import LowRank
from bayesmtl.sharing.pooled import Pooled

REGISTRY: dict[str, type[Sharing]] = {
    "Independent": Independent,
    "Pooled": Pooled,
    "Hierarchical": Hierarchical,
    "LowRank": LowRank,
}
"""Every sharing prior by name. A new prior is added here and nowhere else."""

__all__ = ["REGISTRY", "Hierarchical", "Independent", "LowRank", "Pooled", "Sharing"]
