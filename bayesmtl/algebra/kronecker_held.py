"""The density of a complete grid with the kernel held: one eigendecomposition serves any number of values.

In the kernel's eigenvectors, Y~ = Q'Y and q = Q'1, all but the eigendecomposition of k costs O(T^3 + m T^2)
(`bayesmtl.algebra.kronecker`, whose letters these are). With A~ = Q'A the gradient is

    d/dOmega = (A~' diag(lambda) A~ - sum_k lambda_k B_k) / 2     d/dLambda = (A~'q q'A~ - H + H M H) / 2

and that for sigma_t is sigma_t (sum_k A~_kt^2 - sum_k B_k,tt), with B_k the blocks of K^-1.

Source: the idea to hold the kernel while task covariance and noise are optimised is that of Stegle, Lippert,
Mooij, Lawrence and Borgwardt (2011); levels and gradients are derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from bayesmtl.algebra.functions import TaskStructure
from bayesmtl.algebra.kronecker import decompose_inputs, decompose_tasks, over_inputs


class HeldGrid(NamedTuple):
    """A complete grid in the eigenvectors of its kernel.

    Attributes:
        lam: Eigenvalues, shape (1, m).
        Q: Eigenvectors, shape (1, m, m).
        Y: Q'Y, shape (1, m, T).
    """

    lam: torch.Tensor
    Q: torch.Tensor
    Y: torch.Tensor

    @classmethod
    def of(cls, kernel: torch.Tensor, Y: torch.Tensor) -> HeldGrid:
        """Decompose k (1, m, m), and turn the targets (m, T)."""
        lam, Q = decompose_inputs(kernel)
        return cls(lam, Q, Q.mT @ Y)


class _HeldMarginal(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        shape: torch.Tensor,
        level: torch.Tensor,
        noise: torch.Tensor,
        lam: torch.Tensor,
        Q: torch.Tensor,
        Y: torch.Tensor,
    ) -> torch.Tensor:
        factor = decompose_tasks(shape, level, noise, lam, Q)
        P, D, q, M = factor.P, factor.inverse_d, factor.q, factor.M
        projected = (Y @ P) * D
        taken = M @ (P @ (q[:, None, :] @ projected).mT)
        A = (projected - q[:, :, None] * (taken.mT @ P) * D) @ P.mT
        ctx.save_for_backward(noise, A, P, D, q, factor.H, M, lam)
        density: torch.Tensor = -0.5 * (
            (A * Y).sum((1, 2)) + factor.logdet + Y[0].numel() * math.log(2 * math.pi)
        )
        return density

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        noise, A, P, D, q, H, M, lam = ctx.saved_tensors
        half = 0.5 * upstream[0][:, None, None]
        sums = q[:, None, :] @ A
        to_level = sums.mT @ sums - (H - H @ M @ H)
        to_shape = A.mT @ (lam[:, :, None] * A) - over_inputs(lam, P, D, q, M)
        every = over_inputs(torch.ones_like(lam), P, D, q, M)
        variance = A.square().sum(1) - every.diagonal(dim1=-2, dim2=-1)
        return half * to_shape, half * to_level, upstream[0][:, None] * noise * variance, None, None, None


def log_marginal_held(tasks: TaskStructure, noise: torch.Tensor, grid: HeldGrid) -> torch.Tensor:
    """log p(Y) with all functions integrated out, shape (1,); NaN where matrices are not finite.

    Args:
        tasks: The one Omega, and Lambda, for one hyperparameter value.
        noise: sigma_t, shape (1, T).
        grid: The grid and its kernel.
    """
    shape = tasks.shape[:, 0]
    if not bool(torch.isfinite(shape / noise[:, :, None] / noise[:, None, :]).all() and (noise > 0).all()):
        return noise.new_full((1,), torch.nan)
    apply: Callable[..., torch.Tensor] = _HeldMarginal.apply
    return apply(shape, tasks.level, noise, *grid)
