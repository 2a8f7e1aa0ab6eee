"""Kernels: how alike a function's values at two inputs are. One file each, and an adapter for GPyTorch's."""

from __future__ import annotations

from bayesmtl.kernels.base import Kernel
from bayesmtl.kernels.from_gpytorch import GPyTorchKernel
from bayesmtl.kernels.matern import Matern
from bayesmtl.kernels.several import Kernels

REGISTRY: dict[str, type[Kernel]] = {"Matern": Matern, "GPyTorchKernel": GPyTorchKernel}
"""Every kernel by name, for files."""

__all__ = ["REGISTRY", "GPyTorchKernel", "Kernel", "Kernels", "Matern"]
