"""The density of a complete grid with the kernel held: one eigendecomposition serves any number of values.

In the kernel's eigenvectors, Y~ = Q'Y and q = Q'1, all but the eigendecomposition of k costs O(T^3 + m T^2)
(`bayesmtl.algebra.kronecker`, whose letters these are). With A~ = Q'A the gradient is

    d/dOmega = (A~' diag(lambda) A~ - sum_k lambda_k B_k) / 2     d/dLambda = (A~'q q'A~ - H + H M H) / 2

and that for sigma_t is sigma_t (sum_k A~_kt^2 - sum_k B_k,tt), with B_k the blocks of K^-1. Without levels,
what the data are expected to say about coordinates i and j is

    sum_k tr(C_k^-1 dC_k/di C_k^-1 dC_k/dj) / 2     C_k = lambda_k Omega + diag(sigma^2) = P^-T diag(d_k) P^-1

so that with A_i = P' dOmega/di P and B_i = P' dSigma/di P three matrices S_p = sum_k lambda_k^p D_k D_k' are
enough, D_k = 1 / d_k: it is sum over tasks of (A_i A_j S_2 + A_i B_j S_1 + B_i A_j S_1 + B_i B_j S_0) / 2.

Source: the idea to hold the kernel while task covariance and noise are optimised is that of Stegle, Lippert,
Mooij, Lawrence and Borgwardt (2011); levels and gradients are derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from bayesmtl.algebra.functions import LEAST_NOISE, TaskStructure
from bayesmtl.algebra.kronecker import decompose_tasks, summed_blocks


class HeldGrid(NamedTuple):
    """A complete grid in the eigenvectors of its kernel.

    Attributes:
        lam: Eigenvalues, shape (1, m).
        q: Q'1, shape (1, m).
        Y: Q'Y, shape (1, m, T).
    """

    lam: torch.Tensor
    q: torch.Tensor
    Y: torch.Tensor

    @classmethod
    def of(cls, lam: torch.Tensor, Q: torch.Tensor, Y: torch.Tensor) -> HeldGrid:
        """Turn the targets (m, T), given the eigenvalues (1, m) and eigenvectors (1, m, m) of k."""
        return cls(lam, Q.sum(1), Q.mT @ Y)


class TaskSlopes(NamedTuple):
    """How Omega, Lambda and the noise variances change with R coordinates.

    Attributes:
        shape: Shape (R, T, T).
        level: Shape (R, T, T).
        variance: Shape (R, T).
    """

    shape: torch.Tensor
    level: torch.Tensor
    variance: torch.Tensor


class _HeldMarginal(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        shape: torch.Tensor,
        level: torch.Tensor,
        noise: torch.Tensor,
        lam: torch.Tensor,
        q: torch.Tensor,
        Y: torch.Tensor,
    ) -> torch.Tensor:
        factor = decompose_tasks(shape, level, noise, lam, q)
        P, D = factor.P, factor.inverse_d
        projected = (Y @ P) * D
        sums = q[:, None, :] @ projected
        A = (projected - q[:, :, None] * (sums @ factor.levels) * D) @ P.mT
        ctx.save_for_backward(noise, A, P, D, q, factor.levels, factor.left, lam)
        density: torch.Tensor = -0.5 * (
            (A * Y).sum((1, 2)) + factor.logdet + Y[0].numel() * math.log(2 * math.pi)
        )
        return density

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        noise, A, P, D, q, levels, left, lam = ctx.saved_tensors
        half = 0.5 * upstream[0][:, None, None]
        sums = q[:, None, :] @ A
        to_level = sums.mT @ sums - left
        by_kernel, every = summed_blocks(torch.cat([lam, torch.ones_like(lam)]), P, D, q, levels)
        to_shape = A.mT @ (lam[:, :, None] * A) - by_kernel
        variance = A.square().sum(1) - every.diagonal()
        return half * to_shape, half * to_level, upstream[0][:, None] * noise * variance, None, None, None


def log_marginal_held(tasks: TaskStructure, noise: torch.Tensor, grid: HeldGrid) -> torch.Tensor:
    """log p(Y) with all functions integrated out, shape (1,); NaN where matrices are not finite.

    Args:
        tasks: The one Omega, and Lambda, for one hyperparameter value.
        noise: sigma_t, shape (1, T).
        grid: The grid and its kernel.
    """
    shape, noise = tasks.shape[:, 0], noise.clamp(min=LEAST_NOISE)
    if not bool(torch.isfinite(shape / noise[:, :, None] / noise[:, None, :]).all()):
        return noise.new_full((1,), torch.nan)
    apply: Callable[..., torch.Tensor] = _HeldMarginal.apply
    return apply(shape, tasks.level, noise, *grid)


def expected_information(
    tasks: TaskStructure, noise: torch.Tensor, slopes: TaskSlopes, grid: HeldGrid
) -> torch.Tensor:
    """What the targets are expected to say about coordinates of Omega, Lambda and the noise, shape (R, R).

    As if levels were known for the first and last, and functions for Lambda: near enough for a search, and
    positive semidefinite.

    Args:
        tasks: The one Omega, and Lambda, for one hyperparameter value.
        noise: sigma_t, shape (1, T).
        slopes: How these change with the coordinates.
        grid: The grid and its kernel.
    """
    factor = decompose_tasks(tasks.shape[:, 0], tasks.level, noise, grid.lam, grid.q)
    P, D = factor.P[0], factor.inverse_d[0]
    lam, T = grid.lam[0, :, None], len(P)
    # matrices are symmetric: one triangle, entries off the diagonal twice
    i, j = torch.triu_indices(T, T)
    twice = torch.where(i == j, 1.0, 2.0)
    S0, S1, S2 = (((D * weight).mT @ D)[i, j] * twice for weight in (1.0, lam, lam.square()))
    # most coordinates are in one of the three only
    at_shape, at_level, at_noise = (torch.nonzero(part.flatten(1).any(1))[:, 0] for part in slopes)
    of_shape = (P.mT @ slopes.shape[at_shape] @ P)[:, i, j]
    of_noise = ((P.mT * slopes.variance[at_noise, None, :]) @ P)[:, i, j]
    of_level = factor.left[0] @ slopes.level[at_level]
    information = P.new_zeros(len(slopes.shape), len(slopes.shape))
    information[at_shape[:, None], at_shape] = (of_shape * S2) @ of_shape.mT
    crossed = (of_shape * S1) @ of_noise.mT
    information[at_shape[:, None], at_noise] += crossed
    information[at_noise[:, None], at_shape] += crossed.mT
    information[at_noise[:, None], at_noise] += (of_noise * S0) @ of_noise.mT
    information[at_level[:, None], at_level] += of_level.flatten(1) @ of_level.mT.flatten(1).mT
    return 0.5 * information
