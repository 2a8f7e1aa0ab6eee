"""Gaussian-process algebra: the density of all tasks' targets with their functions integrated out.

Tasks' functions are f_t(x) = m_t + sum_r A[t,r] g_r(x) + e_t(x), where the levels m_t are constants. What has
the same kernel k_q is put together: with Omega_q (T x T) the task covariance of all g_r and e_t that have it
(A A' + diag(v), where all share one kernel) and Lambda = cov(m) (T x T), the covariance of row i of task t
and row j of task u is

    K_ij = sum_q Omega_q,tu k_q(x_i, x_j) + Lambda_tu + [i = j] sigma_t^2

B hyperparameter values are one batch dimension. Everything is dense Cholesky, O(B n^3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch

from bayesmtl.algebra.blocks import LEAST_ROWS, Blocks

# Relative to the mean variance, tried in this order for the values whose Cholesky factorisation fails.
JITTERS = (1e-10, 1e-8, 1e-6)
# Gaussian noise (an sd, standardised) that less is taken for, on grids and through inducing inputs: it would
# drown in the rounding of eigenvalues, or precisions of rows overflow. Its variance is within the jitters.
LEAST_NOISE = 1e-4


class TaskStructure(NamedTuple):
    """How tasks' functions go together.

    Attributes:
        shape: Omega_q, the task covariances of the functions' shapes, one for each kernel, (B, Q, T, T).
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
        tasks: Omega_q and Lambda.
        kernel: k_q between the rows, shape (B, Q, n, m).
        left: Task of each of the n rows.
        right: Task of each of the m columns.

    Returns:
        Shape (B, n, m).
    """
    total = at_tasks(tasks.level, left, right)
    for q in range(kernel.shape[1]):
        total.addcmul_(at_tasks(tasks.shape[:, q], left, right), kernel[:, q])
    return total


def at_tasks(matrix: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Entries (B, n, m) of task matrices (B, T, T) for the tasks of rows and columns."""
    # columns first: then what is copied n times lies in one piece
    return matrix.index_select(2, right).index_select(1, left)


def at_rows(kernel: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """Symmetric matrices (B, m, m) between distinct inputs as (B, n, n) between the rows that have them."""
    half = kernel.index_select(1, which).transpose(1, 2).contiguous()
    return half.index_select(1, which)


def kernels_at_rows(kernel: torch.Tensor, which: torch.Tensor | None) -> torch.Tensor:
    """`at_rows` of every kernel, (B, Q, m, m) -> (B, Q, n, n)."""
    if which is None:
        return kernel
    return torch.stack([at_rows(k, which) for k in kernel.unbind(1)], dim=1)


def _over_rows(gradient: torch.Tensor, which: torch.Tensor | None, num_inputs: int) -> torch.Tensor:
    """The transpose of `at_rows`: sums of a symmetric (B, n, n) over the rows with the same input."""
    if which is None:
        return gradient
    B, n, _ = gradient.shape
    half = gradient.new_zeros(B, num_inputs, n).index_add_(1, which, gradient).transpose(1, 2).contiguous()
    return gradient.new_zeros(B, num_inputs, num_inputs).index_add_(1, which, half)


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
    """K, the covariance of observed targets, (B, n, n): kernels (B, Q, n, n), noise sd (B, T), task (n,)."""
    K = function_covariance(tasks, kernel, task, task)
    K.diagonal(dim1=-2, dim2=-1).add_(noise.square().index_select(1, task))
    return K


class _LogMarginal(torch.autograd.Function):
    """log N(y; 0, K) with the gradient by hand: through G = d/dK = (alpha alpha' - K^-1) / 2.

    Then d/dk_q = Omega_q,tu G, d/dOmega_q = P'(G o k_q)P, d/dLambda = P'GP and d/dsigma_t^2 = sum of diag(G)
    over task t, with P (n x T) the one-hot tasks of the rows: a fraction of what differentiating a Cholesky
    factor and the gathering of n^2 entries costs.
    """

    @staticmethod
    def forward(
        ctx: Any,
        shape: torch.Tensor,
        level: torch.Tensor,
        kernel: torch.Tensor,
        noise: torch.Tensor,
        task: torch.Tensor,
        which: torch.Tensor | None,
        y: torch.Tensor,
    ) -> torch.Tensor:
        blocks, kernel_size = None, kernel.shape[-1]
        if len(task) >= LEAST_ROWS * shape.shape[-1]:
            blocks = Blocks.of(task, which, shape.shape[-1])
            task, y = task[blocks.order], y[blocks.order]
            K = blocks.covariance(shape, level, kernel)
        else:
            kernel = kernels_at_rows(kernel, which)
            K = function_covariance(TaskStructure(shape, level), kernel, task, task)
        K.diagonal(dim1=-2, dim2=-1).add_(noise.square().index_select(1, task))
        L, _ = factorise(K)
        alpha = torch.cholesky_solve(y.expand(len(L), -1)[:, :, None], L)[:, :, 0]
        ctx.save_for_backward(shape, kernel, noise, task, which, L, alpha)
        ctx.blocks, ctx.num_inputs = blocks, kernel_size
        half_logdet = L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * (alpha * y).sum(-1) - half_logdet - 0.5 * y.shape[-1] * math.log(2 * math.pi)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        shape, kernel, noise, task, which, L, alpha = ctx.saved_tensors
        # where K could not be factorised everything is NaN, which the caller takes for -inf
        failed = torch.isnan(alpha[:, 0])
        if failed.any():
            L = torch.where(failed[:, None, None], torch.ones_like(L), L)
        half = 0.5 * upstream[0]
        # G = half (alpha alpha' - K^-1) in one pass
        left = half[:, None, None] * alpha[:, :, None]
        G = torch.cholesky_inverse(L).mul_(-half[:, None, None]).baddbmm_(left, alpha[:, None, :])
        P = torch.nn.functional.one_hot(task, shape.shape[-1]).to(G.dtype)
        to_noise = 2 * noise * (G.diagonal(dim1=-2, dim2=-1) @ P)
        if ctx.blocks is not None:
            # G is symmetric, and its transpose lies in memory as the kernels do
            to_shape, to_level, to_kernel = ctx.blocks.pull_back(G.mT, shape, kernel)
            return to_shape, to_level, to_kernel, to_noise, None, None, None
        to_level = P.T @ (G @ P)
        shapes, kernels = [], []
        for q in range(kernel.shape[1]):
            shapes.append(P.T @ ((G * kernel[:, q]) @ P))
            weighted = at_tasks(shape[:, q], task, task).mul_(G)
            kernels.append(_over_rows(weighted, which, ctx.num_inputs))
        return torch.stack(shapes, 1), to_level, torch.stack(kernels, 1), to_noise, None, None, None


def log_marginal(
    tasks: TaskStructure,
    kernel: torch.Tensor,
    noise: torch.Tensor,
    task: torch.Tensor,
    y: torch.Tensor,
    which: torch.Tensor | None = None,
) -> torch.Tensor:
    """log p(y) with all functions integrated out.

    Args:
        tasks: Omega_q and Lambda.
        kernel: k_q between the rows, shape (B, Q, n, n), or between m distinct inputs, (B, Q, m, m).
        noise: sigma_t, shape (B, T).
        task: Task of each row, shape (n,).
        y: Targets, shape (n,).
        which: Where `kernel` is between distinct inputs, which of them each row has, shape (n,).

    Returns:
        Shape (B,); NaN where the covariance has no Cholesky factor.
    """
    apply: Callable[..., torch.Tensor] = _LogMarginal.apply
    return apply(tasks.shape, tasks.level, kernel, noise, task, which, y)


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

    def solve(self, vectors: torch.Tensor) -> torch.Tensor:
        """K^-1 times vectors over the rows, (B, p, n) -> (B, p, n)."""

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

    def solve(self, vectors: torch.Tensor) -> torch.Tensor:
        """See `KnownRows.solve`."""
        return torch.cholesky_solve(vectors.mT, self.cholesky).mT

    def leave_one_out(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `KnownRows.leave_one_out`."""
        identity = torch.eye(len(y), dtype=y.dtype)
        precision = torch.linalg.solve_triangular(self.cholesky, identity, upper=False).square().sum(-2)
        return y - self.alpha / precision, 1 / precision
