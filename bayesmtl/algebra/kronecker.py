"""Grids: the density of Gaussian processes when every task is observed at the same inputs, or nearly so.

With m inputs, Y (m x T) and rows ordered by input and task,

    K = k (x) Omega + 11' (x) Lambda + I (x) diag(sigma^2)

Without the levels two small eigendecompositions are enough: k = Q diag(lambda) Q' (m x m) and
diag(1/sigma) Omega diag(1/sigma) = U diag(omega) U' (T x T). With d_ij = lambda_i omega_j + 1 and
P = diag(1/sigma) U,

    C^-1 Y = Q ((Q' Y P) / d) P'        log det C = sum log d + m sum log sigma_t^2

Levels have rank T and come back by Woodbury's identity: with J = 1 (x) I, H = J' C^-1 J = P diag(h) P' and
M = (I + Lambda H)^-1 Lambda, K^-1 = C^-1 - C^-1 J M J' C^-1. Where noise is small and tasks are all but the
same, entries of h differ by as much as 1 / sigma^2 and M drowns in rounding; what it does to the eigenvectors
does not: with G = P diag(h)^1/2 and S = (I + G' Lambda G)^-1,

    P' M P = diag(h)^-1/2 S G' Lambda G diag(h)^-1/2    H - H M H = G S G'    det(I + Lambda H) = 1 / det S

The cost is O(m^3 + T^3 + m^2 T) instead of O(m^3 T^3), and eigenvalues of noise-whitened matrices need no
jitter unless there is hardly any noise.

Where h cells have no target, with E their columns of the identity, K^-1 E = W and E'W = L L', the block of
the observed cells has the inverse K^-1 - V V' with V = W L^-T, zeros where a target is missing, and log det
K + 2 sum log diag L: exact, at O(h m^2 T + h^2 m T) more. Its gradient is that of h further residuals V.

Source: Bonilla, Chai and Williams (2008) and Stegle, Lippert, Mooij, Lawrence and Borgwardt (2011) for the
decomposition; levels, missing cells (by the inverse of a partitioned matrix) and gradients are derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from bayesmtl.algebra.functions import LEAST_NOISE, Conditional, TaskStructure

# Missing cells up to which this is cheaper than factorising the rows: this share of all, less with few tasks.
_MOST_HOLES, _PER_TASK = 0.25, 0.05
_MOST_COLUMNS = 2_000  # missing cells: V holds as many grids


def grid_positions(X: np.ndarray, task: np.ndarray, num_tasks: int) -> np.ndarray | None:
    """Which row is input i of task t, shape (m, T), if nearly every task has every input, and none twice.

    Args:
        X: Inputs, shape (n, D).
        task: Task of each row, shape (n,).
        num_tasks: T.

    Returns:
        Positions of rows, -1 for a missing cell, or `None` where inputs repeat or too many cells are missing
        (a quarter, or 5 % per task if that is less).

    Example:
        >>> grid_positions(np.array([[0.0], [1.0], [1.0], [0.0]]), np.array([0, 0, 1, 1]), 2).tolist()
        [[0, 3], [1, 2]]
    """
    inputs, which = np.unique(X, axis=0, return_inverse=True)
    rows = np.full((len(inputs), num_tasks), -1)
    rows[which.ravel(), task] = np.arange(len(X))
    missing = int((rows < 0).sum())
    few = missing <= min(_MOST_HOLES, _PER_TASK * num_tasks) * rows.size and missing <= _MOST_COLUMNS
    return rows if few and rows.size - missing == len(X) else None


class TaskFactor(NamedTuple):
    """What there is of K^-1 of a complete grid beside the eigenvectors of k, in the letters of the module.

    Attributes:
        P: Shape (B, T, T).
        inverse_d: 1 / d, shape (B, m, T).
        q: Q'1, shape (B, m).
        levels: P' M P, shape (B, T, T).
        left: H - H M H, shape (B, T, T).
        lam: Eigenvalues of k, shape (B, m).
        omega: Eigenvalues of the whitened Omega, shape (B, T).
        logdet: log det K, shape (B,).
        jitter: What noise below `LEAST_NOISE` was raised by, as a variance, shape (B,).
    """

    P: torch.Tensor
    inverse_d: torch.Tensor
    q: torch.Tensor
    levels: torch.Tensor
    left: torch.Tensor
    lam: torch.Tensor
    omega: torch.Tensor
    logdet: torch.Tensor
    jitter: torch.Tensor


class GridFactor(NamedTuple):
    """K^-1 of a grid, in the letters of the module.

    Attributes:
        Q: Eigenvectors of k, shape (B, m, m).
        tasks: The rest, as if no cell were missing.
        logdet: log det K, of the observed cells only, shape (B,).
        V: For the h missing cells, shape (B, h, m, T).
    """

    Q: torch.Tensor
    tasks: TaskFactor
    logdet: torch.Tensor
    V: torch.Tensor


def decompose(
    tasks: TaskStructure, kernel: torch.Tensor, noise: torch.Tensor, observed: torch.Tensor
) -> GridFactor:
    """Decompose the covariance of a grid.

    Args:
        tasks: The one Omega, and Lambda.
        kernel: k between the inputs, shape (B, m, m).
        noise: sigma_t, shape (B, T).
        observed: Which cells have a target, shape (m, T).
    """
    return _decompose(tasks.shape[:, 0], tasks.level, noise, observed, *decompose_inputs(kernel))


def _decompose(
    shape: torch.Tensor,
    level: torch.Tensor,
    noise: torch.Tensor,
    observed: torch.Tensor,
    lam: torch.Tensor,
    Q: torch.Tensor,
) -> GridFactor:
    m, T = lam.shape[-1], noise.shape[-1]
    tasks = decompose_tasks(shape, level, noise, lam, Q.sum(1))
    P = tasks.P
    whole = GridFactor(Q, tasks, tasks.logdet, lam.new_zeros(len(lam), 0, m, T))
    i, t = torch.nonzero(~observed, as_tuple=True)
    if not len(i):
        return whole
    # Q'E P for one-hot E, of which each is a product of a row of Q and one of P
    W = _solve_projected(whole, Q[:, i, :, None] * P[:, t, None, :])
    L, _ = torch.linalg.cholesky_ex(W[:, :, i, t].transpose(-1, -2))
    V = torch.linalg.solve_triangular(L, W.flatten(2), upper=False).unflatten(2, (m, T))
    return whole._replace(V=V, logdet=whole.logdet + 2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1))


def decompose_inputs(kernel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """lambda (B, m) and Q (B, m, m) of k (B, m, m): the part that costs O(m^3)."""
    lam, Q = torch.linalg.eigh(kernel)
    return lam.clamp(min=0.0), Q


def decompose_tasks(
    shape: torch.Tensor, level: torch.Tensor, noise: torch.Tensor, lam: torch.Tensor, q: torch.Tensor
) -> TaskFactor:
    """The rest of the factor of a complete grid, in O(T^3 + m T^2), given `decompose_inputs` and q = Q'1."""
    m, T = lam.shape[-1], noise.shape[-1]
    jitter = (LEAST_NOISE**2 - noise.square()).clamp(min=0.0).amax(1)
    noise = noise.clamp(min=LEAST_NOISE)
    omega, U = torch.linalg.eigh(shape / (noise[:, :, None] * noise[:, None, :]))
    omega = omega.clamp(min=0.0)
    P = U / noise[:, :, None]
    inverse_d = 1 / torch.baddbmm(lam.new_ones(1, 1, 1), lam[:, :, None], omega[:, None, :])
    root = (q.square()[:, None, :] @ inverse_d).sqrt()  # of h, shape (B, 1, T)
    G = P * root
    inside = G.mT @ level @ G
    L, failed = torch.linalg.cholesky_ex(inside + torch.eye(T, dtype=lam.dtype))
    L = torch.where(failed[:, None, None] != 0, torch.nan, L)
    levels = torch.cholesky_solve(inside, L) / (root.mT * root)
    levels = 0.5 * (levels + levels.mT)
    half = torch.linalg.solve_triangular(L, G.mT, upper=False)
    logdet = 2 * m * noise.log().sum(1) - inverse_d.log().sum((1, 2))
    logdet = logdet + 2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return TaskFactor(P, inverse_d, q, levels, half.mT @ half, lam, omega, logdet, jitter)


def solve_grid(factor: GridFactor, Z: torch.Tensor) -> torch.Tensor:
    """K^-1 times vectors over the grid, shape (B, p, m, T) or (p, m, T) -> (B, p, m, T).

    Vectors are zero in missing cells, and so are the answers.
    """
    Q, P = factor.Q[:, None], factor.tasks.P[:, None]
    solution = _solve_projected(factor, Q.transpose(-1, -2) @ (Z @ P))
    if not factor.V.shape[1]:
        return solution
    V = factor.V.flatten(2)
    onto = Z.expand(len(V), -1, -1, -1).flatten(2) @ V.transpose(-1, -2)
    found: torch.Tensor = solution - (onto @ V).unflatten(2, Z.shape[-2:])
    return found


def _solve_projected(factor: GridFactor, projected: torch.Tensor) -> torch.Tensor:
    """The inverse for all cells times vectors Z, given Q'ZP, both (B, p, m, T)."""
    P, inverse_d, q = (part[:, None] for part in factor.tasks[:3])
    projected = projected * inverse_d  # C^-1 Z = Q projected P'
    sums = q[..., None, :] @ projected  # J' C^-1 Z = P sums'
    levels = q[..., None] * (sums @ factor.tasks.levels[:, None]) * inverse_d
    rotated = (projected - levels) @ P.transpose(-1, -2)
    # all vectors side by side: one product instead of one for each, which would read Q as often
    side = factor.Q @ rotated.transpose(1, 2).flatten(2)
    solution: torch.Tensor = side.unflatten(2, (-1, rotated.shape[-1])).transpose(1, 2)
    return solution


def inverse_diagonal(factor: GridFactor) -> torch.Tensor:
    """The diagonal of K^-1, shape (B, m, T)."""
    Q, (P, inverse_d, q, through) = factor.Q, factor.tasks[:4]
    without = Q.square() @ inverse_d @ P.square().transpose(-1, -2)
    a = Q @ (q[:, :, None] * inverse_d)  # (B, m, T): row (i, t) of C^-1 J is P_t diag(a_i) P'
    rows = P[:, None] * a[:, :, None, :]
    return without - ((rows @ through[:, None]) * rows).sum(-1) - factor.V.square().sum(1)


class GridRows(NamedTuple):
    """Known rows that form a grid.

    Attributes:
        factor: K^-1.
        rows: Which row is input i of task t, shape (m, T); -1 for a missing cell.
        alpha: K^-1 y in the order of the rows, shape (B, n).
    """

    factor: GridFactor
    rows: torch.Tensor
    alpha: torch.Tensor

    @classmethod
    def of(cls, factor: GridFactor, rows: torch.Tensor, y: torch.Tensor) -> GridRows:
        """Solve for targets (n,) in the order of the rows."""
        alpha = y.new_empty(len(factor.logdet), len(y))
        alpha[:, rows[rows >= 0]] = solve_grid(factor, on_cells(y, rows)[None])[:, 0, rows >= 0]
        return cls(factor, rows, alpha)

    @property
    def jitter(self) -> torch.Tensor:
        """What noise below `LEAST_NOISE` was raised by, as a variance, shape (B,)."""
        return self.factor.tasks.jitter

    def condition(
        self, cross: torch.Tensor, prior: torch.Tensor, *, variance_only: bool = False
    ) -> Conditional:
        """See `KnownRows.condition`."""
        mean = (cross * self.alpha[:, :, None]).sum(1)
        ordered = on_cells(cross.transpose(-1, -2), self.rows)  # (B, p, m, T)
        solved = solve_grid(self.factor, ordered).flatten(2)
        ordered = ordered.flatten(2)
        if variance_only:
            return Conditional(mean, (prior - (ordered * solved).sum(-1)).clamp(min=0.0))
        taken = ordered @ solved.transpose(-1, -2)
        return Conditional(mean, prior - 0.5 * (taken + taken.transpose(-1, -2)))

    def solve(self, vectors: torch.Tensor) -> torch.Tensor:
        """See `KnownRows.solve`."""
        solution = torch.empty_like(vectors)
        solved = solve_grid(self.factor, on_cells(vectors, self.rows))
        solution[..., self.rows[self.rows >= 0]] = solved[..., self.rows >= 0]
        return solution

    def leave_one_out(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `KnownRows.leave_one_out`."""
        precision = torch.empty_like(self.alpha)
        precision[:, self.rows[self.rows >= 0]] = inverse_diagonal(self.factor)[:, self.rows >= 0]
        return y - self.alpha / precision, 1 / precision


def on_cells(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Values of rows (..., n) as cells of a grid (..., m, T), zero where one is missing."""
    return torch.where(rows >= 0, values[..., rows.clamp(min=0)], 0.0)


def summed_blocks(
    weight: torch.Tensor, P: torch.Tensor, D: torch.Tensor, q: torch.Tensor, levels: torch.Tensor
) -> torch.Tensor:
    """sum_k weight_k of the blocks of K^-1 in the kernel's eigenvectors, (B, T, T).

    Args:
        weight: Shape (B, m).
        P: As in `TaskFactor`, like `q` and `levels`.
        D: `inverse_d`.
        q: Shape (B, m).
        levels: Shape (B, T, T).
    """
    weighted = weight[:, :, None] * D
    mixed = (weighted * q.square()[:, :, None]).transpose(-1, -2) @ D
    block: torch.Tensor = P @ (torch.diag_embed(weighted.sum(1)) - levels * mixed) @ P.transpose(-1, -2)
    return block


class _GridMarginal(torch.autograd.Function):
    """log N(Y; 0, K) and its gradient by hand, because that of an eigendecomposition blows up at ties.

    d/dK = (A A' - K^-1) / 2, where K^-1 is that of all cells and A are alpha and V.
    """

    @staticmethod
    def forward(
        ctx: Any,
        shape: torch.Tensor,
        level: torch.Tensor,
        kernel: torch.Tensor,
        noise: torch.Tensor,
        Y: torch.Tensor,
        observed: torch.Tensor,
        lam: torch.Tensor,
        Q: torch.Tensor,
    ) -> torch.Tensor:
        factor = _decompose(shape, level, noise, observed, lam, Q)
        alpha = solve_grid(factor, Y[None])
        ctx.save_for_backward(shape, kernel, noise, torch.cat([alpha, factor.V], 1), Q, *factor.tasks[:7])
        quadratic = (alpha[:, 0] * Y).sum((1, 2))
        num_rows = int(observed.sum())
        density: torch.Tensor = -0.5 * (quadratic + factor.logdet + num_rows * math.log(2 * math.pi))
        return density

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        shape, kernel, noise, A, Q, P, D, q, levels, left, lam, omega = ctx.saved_tensors
        half = 0.5 * upstream[0][:, None, None]
        sums = A.sum(2)
        to_level = sums.mT @ sums - left
        side = A.transpose(1, 2).flatten(2)  # (B, m, p T)
        smoothed = (kernel @ side).reshape(len(A), Q.shape[-1] * A.shape[1], A.shape[-1])
        to_shape = side.reshape(smoothed.shape).mT @ smoothed - summed_blocks(lam, P, D, q, levels)
        every = summed_blocks(torch.ones_like(lam), P, D, q, levels)
        variance = A.square().sum((1, 2)) - every.diagonal(dim1=-2, dim2=-1)
        to_noise = upstream[0][:, None] * noise * variance
        strength = omega * levels.diagonal(dim1=-2, dim2=-1)
        # Q (diag - sum_t strength_t (q D_t)(q D_t)') Q', of which all but the diagonal has rank T
        low = Q @ (q[:, :, None] * D)
        weighted = (A @ (half * shape)[:, None]).transpose(1, 2).flatten(2)
        diagonal = half * (D @ omega[:, :, None]).mT
        to_kernel = torch.baddbmm(weighted @ side.mT, low * (half * strength[:, None, :]), low.mT)
        to_kernel = to_kernel.baddbmm_(Q * diagonal, Q.mT, alpha=-1)
        return half * to_shape, half * to_level, to_kernel, to_noise, None, None, None, None


def log_marginal_of_grid(
    tasks: TaskStructure,
    kernel: torch.Tensor,
    noise: torch.Tensor,
    Y: torch.Tensor,
    observed: torch.Tensor,
    inputs: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """log p(Y) with all functions integrated out, for a grid.

    Args:
        tasks: The one Omega, and Lambda.
        kernel: k between the inputs, shape (B, m, m).
        noise: sigma_t, shape (B, T).
        Y: Targets, shape (m, T); zero where one is missing.
        observed: Which cells have a target, shape (m, T).
        inputs: `decompose_inputs` of the kernel, where it is known and everything is finite.

    Returns:
        Shape (B,); NaN where the matrices are not finite, or levels cannot be told from noise.
    """
    shape, level = tasks.shape[:, 0], tasks.level
    noise = noise.clamp(min=LEAST_NOISE)
    apply: Callable[..., torch.Tensor] = _GridMarginal.apply
    if inputs is not None:
        return apply(shape, level, kernel, noise, Y, observed, *inputs)
    usable = torch.isfinite(kernel.sum((1, 2))) & torch.isfinite(noise).all(1)
    usable &= torch.isfinite(shape / noise[:, :, None] / noise[:, None, :]).flatten(1).all(1)
    if usable.all():
        return apply(shape, level, kernel, noise, Y, observed, *decompose_inputs(kernel.detach()))
    parts = (shape[usable], level[usable], kernel[usable], noise[usable])
    found = apply(*parts, Y, observed, *decompose_inputs(parts[2].detach()))
    nan = found.new_full((len(kernel),), torch.nan)
    return nan.masked_scatter(usable, found)
