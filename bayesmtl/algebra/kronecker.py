"""Complete grids: the density of Gaussian processes when every task is observed at the same inputs.

With m inputs, Y (m x T) and rows ordered by input and task,

    K = k (x) Omega + 11' (x) Lambda + I (x) diag(sigma^2)

Without the levels two small eigendecompositions are enough: k = Q diag(lambda) Q' (m x m) and
diag(1/sigma) Omega diag(1/sigma) = U diag(omega) U' (T x T). With d_ij = lambda_i omega_j + 1 and
P = diag(1/sigma) U,

    C^-1 Y = Q ((Q' Y P) / d) P'        log det C = sum log d + m sum log sigma_t^2

Levels have rank T and come back by Woodbury's identity: with J = 1 (x) I, H = J' C^-1 J and
M = (I + Lambda H)^-1 Lambda, K^-1 = C^-1 - C^-1 J M J' C^-1. The cost is O(m^3 + T^3 + m^2 T) instead of
O(m^3 T^3), and eigenvalues of noise-whitened matrices need no jitter.

Source: Bonilla, Chai and Williams (2008) and Stegle, Lippert, Mooij, Lawrence and Borgwardt (2011) for the
decomposition; levels and gradients are derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bayesmtl.algebra.functions import TaskStructure


def complete_grid(X: np.ndarray, task: np.ndarray, num_tasks: int) -> np.ndarray | None:
    """Which row is input i of task t, shape (m, T), if every task has every input exactly once.

    Args:
        X: Inputs, shape (n, D).
        task: Task of each row, shape (n,).
        num_tasks: T.

    Returns:
        Positions of rows, or `None` where inputs differ between tasks or repeat.

    Example:
        >>> complete_grid(np.array([[0.0], [1.0], [1.0], [0.0]]), np.array([0, 0, 1, 1]), 2).tolist()
        [[0, 3], [1, 2]]
    """
    inputs, which = np.unique(X, axis=0, return_inverse=True)
    rows = np.full((len(inputs), num_tasks), -1)
    rows[which.ravel(), task] = np.arange(len(X))
    return rows if rows.size == len(X) and (rows >= 0).all() else None


class _GridMarginal(torch.autograd.Function):
    """log N(Y; 0, K) and its gradient by hand, because that of an eigendecomposition blows up at ties."""

    @staticmethod
    def forward(
        ctx: Any,
        shape: torch.Tensor,
        level: torch.Tensor,
        kernel: torch.Tensor,
        noise: torch.Tensor,
        Y: torch.Tensor,
    ) -> torch.Tensor:
        m, T = Y.shape
        eigenvalues, Q = torch.linalg.eigh(kernel)
        whitened = shape / (noise[:, :, None] * noise[:, None, :])
        omega, U = torch.linalg.eigh(whitened)
        lam, omega = eigenvalues.clamp(min=0.0), omega.clamp(min=0.0)
        P = U / noise[:, :, None]
        D = 1 / (lam[:, :, None] * omega[:, None, :] + 1)  # 1 / d, (B, m, T)
        q = Q.sum(1)  # Q'1
        h = (q.square()[:, :, None] * D).sum(1)
        H = (P * h[:, None, :]) @ P.transpose(-1, -2)
        inner = torch.eye(T, dtype=Y.dtype) + level @ H
        M = torch.linalg.solve(inner, level)
        projected = Q.transpose(-1, -2) @ (Y @ P) * D  # C^-1 Y = Q projected P'
        sums = (P @ (projected * q[:, :, None]).sum(1)[:, :, None])[:, :, 0]  # J' C^-1 Y
        taken = (M @ sums[:, :, None])[:, :, 0]
        alpha = projected - q[:, :, None] * (taken[:, None, :] @ P) * D
        alpha = Q @ alpha @ P.transpose(-1, -2)
        ctx.save_for_backward(shape, kernel, noise, lam, omega, Q, P, D, q, H, M, alpha)
        quadratic = (alpha * Y).sum((1, 2))
        logdet = -D.log().sum((1, 2)) + 2 * m * noise.log().sum(1) + torch.linalg.slogdet(inner)[1]
        density: torch.Tensor = -0.5 * (quadratic + logdet + m * T * math.log(2 * math.pi))
        return density

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        shape, kernel, noise, lam, omega, Q, P, D, q, H, M, alpha = ctx.saved_tensors
        transposed = P.transpose(-1, -2)
        rotated = transposed @ M @ P

        def over_inputs(weight: torch.Tensor) -> torch.Tensor:
            """sum_k weight_k of the blocks of K^-1 in the kernel's eigenvectors, (B, T, T)."""
            weighted = weight[:, :, None] * D
            mixed = (weighted * q.square()[:, :, None]).transpose(-1, -2) @ D
            block: torch.Tensor = P @ (torch.diag_embed(weighted.sum(1)) - rotated * mixed) @ transposed
            return block

        half = 0.5 * upstream[0][:, None, None]
        sums = alpha.sum(1)
        to_level = sums[:, :, None] * sums[:, None, :] - (H - H @ M @ H)
        to_shape = alpha.transpose(-1, -2) @ kernel @ alpha - over_inputs(lam)
        variance = alpha.square().sum(1) - over_inputs(torch.ones_like(lam)).diagonal(dim1=-2, dim2=-1)
        to_noise = upstream[0][:, None] * noise * variance
        strength = omega * rotated.diagonal(dim1=-2, dim2=-1)
        inner = torch.diag_embed((D * omega[:, None, :]).sum(-1))
        inner = inner - q[:, :, None] * q[:, None, :] * ((D * strength[:, None, :]) @ D.transpose(-1, -2))
        to_kernel = alpha @ shape @ alpha.transpose(-1, -2) - Q @ inner @ Q.transpose(-1, -2)
        return half * to_shape, half * to_level, half * to_kernel, to_noise, None


def log_marginal_of_grid(
    tasks: TaskStructure, kernel: torch.Tensor, noise: torch.Tensor, Y: torch.Tensor
) -> torch.Tensor:
    """log p(Y) with all functions integrated out, for a complete grid.

    Args:
        tasks: Omega and Lambda.
        kernel: k between the inputs, shape (B, m, m).
        noise: sigma_t, shape (B, T).
        Y: Targets, shape (m, T).

    Returns:
        Shape (B,); NaN where the matrices are not finite.
    """
    apply: Callable[..., torch.Tensor] = _GridMarginal.apply
    usable = torch.isfinite(kernel).flatten(1).all(1) & torch.isfinite(noise).all(1) & (noise > 0).all(1)
    usable &= torch.isfinite(tasks.shape / noise[:, :, None] / noise[:, None, :]).flatten(1).all(1)
    if usable.all():
        return apply(tasks.shape, tasks.level, kernel, noise, Y)
    parts = (tasks.shape[usable], tasks.level[usable], kernel[usable], noise[usable])
    found = apply(*parts, Y)
    nan = found.new_full((len(kernel),), torch.nan)
    return nan.masked_scatter(usable, found)
