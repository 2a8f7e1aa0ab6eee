"""Likelihoods: how targets scatter around the function of their task, one file each."""

from __future__ import annotations

from bayesmtl.likelihoods.base import Likelihood
from bayesmtl.likelihoods.gaussian import Gaussian

REGISTRY: dict[str, type[Likelihood]] = {"Gaussian": Gaussian}
"""Every likelihood by name. A new likelihood is added here and nowhere else."""

__all__ = ["REGISTRY", "Gaussian", "Likelihood"]
