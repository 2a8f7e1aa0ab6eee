"""Gaussian-process algebra: the density of all tasks' targets with their functions integrated out.

Tasks' functions are f_t(x) = m_t + sum_r A[t,r] g_r(x) + e_t(x), where g_r and e_t share one kernel k and the
levels m_t are constants. With Omega = A A' + diag(v) (T x T) and Lambda = cov(m) (T x T), the covariance of
row i of task t and row j of task u is

    K_ij = Omega_tu k(x_i, x_j) + Lambda_tu + [i = j] sigma_t^2

B hyperparameter values are one batch dimension. Everything is dense Cholesky, O(B n^3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch

# Relative to the mean variance, tried in this order for the values whose Cholesky factorisation fails.
JITTERS = (1e-10, 1e-8, 1e-6)


class TaskStructure(NamedTuple):
    """How tasks' functions go together.

    Attributes:
        shape: Omega, the task covariance of the functions' shapes, shape (B, T, T).
        level: Lambda, the task covariance of their levels, shape (B, T, T).
    """

    shape: torch.Tensor
    level: torch.Tensor


class Conditional(NamedTuple):
    """The Gaussian of function values at new rows.

    Attributes:
        mean: Shape (B, m).
        covariance: Shape (B, m, m); (B, m) where only variances were asked for.
    """

    mean: torch.Tensor
    covariance: torch.Tensor


def function_covariance(
    tasks: TaskStructure, kernel: torch.Tensor, left: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    """Covariance of function values, without noise.

    Args:
        tasks: Omega and Lambda.
        kernel: k between the rows, shape (B, n, m).
        left: Task of each of the n rows.
        right: Task of each of the m columns.

    Returns:
        Shape (B, n, m).
    """
    shape = tasks.shape.index_select(1, left).index_select(2, right)
    level = tasks.level.index_select(1, left).index_select(2, right)
    return shape * kernel + level


def factorise(K: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cholesky factors (B, n, n) of K, and the jitter (B,) that was needed, 0 where none was.

    NaN where even the largest does not help.
    """
    L, failed = torch.linalg.cholesky_ex(K)
    jitter = K.new_zeros(len(K))
    for relative in JITTERS:
        bad = torch.nonzero(failed)[:, 0]
        if not len(bad):
            return L, jitter
        added = relative * K[bad].diagonal(dim1=-2, dim2=-1).mean(-1)
        again, failed_again = torch.linalg.cholesky_ex(
            K[bad] + torch.diag_embed(added[:, None].expand(-1, K.shape[-1]))
        )
        L, failed, jitter = L.clone(), failed.clone(), jitter.clone()
        L[bad], failed[bad], jitter[bad] = again, failed_again, added
    L[failed != 0] = torch.nan
    return L, jitter


def marginal_covariance(
    tasks: TaskStructure, kernel: torch.Tensor, noise: torch.Tensor, task: torch.Tensor
) -> torch.Tensor:
    """K, the covariance of observed targets: kernel (B, n, n), noise sd (B, T), task (n,) -> (B, n, n)."""
    variance = noise.square().index_select(1, task)
    return function_covariance(tasks, kernel, task, task) + torch.diag_embed(variance)


class _LogMarginal(torch.autograd.Function):
    """log N(y; 0, K) with the gradient by hand: through G = d/dK = (alpha alpha' - K^-1) / 2.

    Then d/dk = Omega_tu G, d/dOmega = P'(G o k)P, d/dLambda = P'GP and d/dsigma_t^2 = sum of diag(G) over
    task t, with P (n x T) the one-hot tasks of the rows: a fraction of what differentiating a Cholesky factor
    and the gathering of n^2 entries costs.
    """

    @staticmethod
    def forward(
        ctx: Any,
        shape: torch.Tensor,
        level: torch.Tensor,
        kernel: torch.Tensor,
        noise: torch.Tensor,
        task: torch.Tensor,
        y: torch.Tensor,
    ) -> torch.Tensor:
        L, _ = factorise(marginal_covariance(TaskStructure(shape, level), kernel, noise, task))
        alpha = torch.cholesky_solve(y.expand(len(L), -1)[:, :, None], L)[:, :, 0]
        ctx.save_for_backward(shape, kernel, noise, task, L, alpha)
        half_logdet = L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * (alpha * y).sum(-1) - half_logdet - 0.5 * y.shape[-1] * math.log(2 * math.pi)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        shape, kernel, noise, task, L, alpha = ctx.saved_tensors
        # where K could not be factorised everything is NaN, which the caller takes for -inf
        failed = torch.isnan(alpha[:, 0])
        inverse = torch.cholesky_inverse(torch.where(failed[:, None, None], torch.ones_like(L), L))
        G = alpha[:, :, None] * alpha[:, None, :] - inverse
        G *= 0.5 * upstream[0][:, None, None]
        P = torch.nn.functional.one_hot(task, shape.shape[-1]).to(G.dtype)
        to_noise = 2 * noise * (G.diagonal(dim1=-2, dim2=-1) @ P)
        to_level = P.T @ (G @ P)
        to_shape = P.T @ ((G * kernel) @ P)
        to_kernel = G * shape.index_select(1, task).index_select(2, task)
        return to_shape, to_level, to_kernel, to_noise, None, None


def log_marginal(
    tasks: TaskStructure, kernel: torch.Tensor, noise: torch.Tensor, task: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    """log p(y) with all functions integrated out.

    Args:
        tasks: Omega and Lambda.
        kernel: k between the rows, shape (B, n, n).
        noise: sigma_t, shape (B, T).
        task: Task of each row, shape (n,).
        y: Targets, shape (n,).

    Returns:
        Shape (B,); NaN where the covariance has no Cholesky factor.
    """
    apply: Callable[..., torch.Tensor] = _LogMarginal.apply
    return apply(tasks.shape, tasks.level, kernel, noise, task, y)


class KnownRows(Protocol):
    """Rows whose targets are known, ready to be conditioned on."""

    @property
    def jitter(self) -> torch.Tensor:
        """What had to be added to the diagonal of K, shape (B,)."""

    def condition(
        self, cross: torch.Tensor, prior: torch.Tensor, *, variance_only: bool = False
    ) -> Conditional:
        """Function values at new rows given the known ones.

        Args:
            cross: Covariance of known and new function values, shape (B, n, m).
            prior: Prior covariance of the new ones, shape (B, m, m), or variance (B, m) with `variance_only`.
            variance_only: Whether variances are enough.
        """

    def leave_one_out(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of each target (n,) given all others, in closed form: two tensors (B, n).

        Source: Rasmussen and Williams (2006), section 5.4.2: y_i - alpha_i / K^-1_ii and 1 / K^-1_ii.
        """


class DenseRows(NamedTuple):
    """Known rows in any arrangement.

    Attributes:
        cholesky: L with L L' = K, shape (B, n, n).
        alpha: K^-1 y, shape (B, n).
        jitter: What was added to the diagonal, shape (B,).
    """

    cholesky: torch.Tensor
    alpha: torch.Tensor
    jitter: torch.Tensor

    @classmethod
    def of(cls, K: torch.Tensor, y: torch.Tensor) -> DenseRows:
        """Factorise the covariance of the known rows (B, n, n) and solve it for their targets (n,)."""
        L, jitter = factorise(K)
        return cls(L, torch.cholesky_solve(y.expand(len(K), -1)[:, :, None], L)[:, :, 0], jitter)

    def condition(
        self, cross: torch.Tensor, prior: torch.Tensor, *, variance_only: bool = False
    ) -> Conditional:
        """See `KnownRows.condition`."""
        mean = (cross * self.alpha[:, :, None]).sum(1)
        half = torch.linalg.solve_triangular(self.cholesky, cross, upper=False)
        if variance_only:
            return Conditional(mean, (prior - half.square().sum(1)).clamp(min=0.0))
        return Conditional(mean, prior - half.transpose(-1, -2) @ half)

    def leave_one_out(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `KnownRows.leave_one_out`."""
        identity = torch.eye(len(y), dtype=y.dtype)
        precision = torch.linalg.solve_triangular(self.cholesky, identity, upper=False).square().sum(-2)
        return y - self.alpha / precision, 1 / precision
