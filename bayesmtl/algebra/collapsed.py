"""The collapsed density log p(y | hyperparameters): weights W and shared basis Z integrated out exactly.

On paper                                        In code
S_t  covariance of e_t                          `residual_scale`, `residual_factor`
C_t = sigma_t^2 I + F_t S_t F_t' = L_t L_t'     `L`            (r x r, batched over chains and tasks)
H_t = L_t^-1 F_t                                `H`            so that Q_t = X_t' Cov(y_t)^-1 X_t = H_t'H_t
h_t = L_t^-1 c_t                                `h`            so that q_t = H_t'h_t
J_t = a_t' (x) H_t                              `J`            rows of the design of vec(Z)
Lambda = diag(basis_scale^-2) + sum_t J_t'J_t   `L_basis`      its Cholesky factor

The gradient uses Fisher's identity: the gradient of the collapsed density is the posterior expectation over
Z of the gradient given Z. With u_t = H_t'(h_t - J_t z), everything follows from N_t = E[u_t u_t'] - Q_t,
since d log p / d S_t = N_t / 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from bayesmtl.algebra.statistics import CompressedTasks, TaskGroup
from bayesmtl.algebra.structure import Structure


@dataclass(frozen=True, eq=False)
class WhitenedGroup:
    """The tasks of one group divided by the Cholesky factor of their covariance given Z.

    Args:
        L: Cholesky factors of C_t, shape (B, T_g, r, r).
        H: Whitened features, shape (B, T_g, r, D).
        h: Whitened targets, shape (B, T_g, r).
        J: Whitened design of vec(Z), shape (B, T_g r, R D); `None` without a shared basis.
    """

    L: torch.Tensor
    H: torch.Tensor
    h: torch.Tensor
    J: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class Whitened:
    """All tasks whitened, and the posterior of Z that they imply.

    Args:
        groups: One entry per group of tasks.
        L_basis: Cholesky factor of the posterior precision of vec(Z), shape (B, R D, R D); `None` without
            a shared basis.
        basis_mean: Posterior mean of vec(Z), shape (B, R D, 1).
    """

    groups: tuple[WhitenedGroup, ...]
    L_basis: torch.Tensor | None
    basis_mean: torch.Tensor | None

    def residual(self, group: WhitenedGroup) -> torch.Tensor:
        """h_t - J_t E[vec Z | y] of a group, shape (B, T_g, r)."""
        if group.J is None or self.basis_mean is None:
            return group.h
        return group.h - (group.J @ self.basis_mean).reshape(group.h.shape)


def residual_root(structure: Structure, group: TaskGroup) -> torch.Tensor | None:
    """F_t times a root of S_t: shape (B, T_g, r, K), or `None` when there is no private part."""
    parts = []
    if structure.residual_scale is not None:
        parts.append(group.F * group.pick(structure.residual_scale)[:, :, None, :])
    if structure.factor_by_task is not None:
        parts.append(group.F @ group.pick(structure.factor_by_task))
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def factor_tasks(group: TaskGroup, structure: Structure, noise: torch.Tensor) -> torch.Tensor:
    """Cholesky factors of C_t = sigma_t^2 I + F_t S_t F_t', shape (B, T_g, r, r)."""
    T, r, _ = group.rows.shape[-3:]
    root = residual_root(structure, group)
    if root is None:
        C = torch.zeros(noise.shape[0], T, r, r, dtype=noise.dtype)
    else:
        C = root @ root.transpose(-1, -2)
    C.diagonal(dim1=-2, dim2=-1).add_((group.pick(noise) ** 2)[..., None])
    return cholesky_or_nan(C)


def cholesky_or_nan(matrices: torch.Tensor) -> torch.Tensor:
    """Cholesky factors; NaN for the matrices that have none, so that one chain's overflow stops no other.

    A sampler meets such points while it still adapts its step size, and rejects them.
    """
    L, info = torch.linalg.cholesky_ex(matrices)
    return torch.where((info > 0)[..., None, None], torch.nan, L) if bool(info.any()) else L


def _basis_design(loadings: torch.Tensor, H: torch.Tensor) -> torch.Tensor:
    """J: rows a_t' (x) H_t for every task of a group, shape (B, T_g r, R D)."""
    B, T, r, D = H.shape
    if loadings.shape[-1] == 1 and bool((loadings == 1).all()):  # A = ones: no copy
        return H.reshape(B, T * r, D)
    return (loadings[..., None, :, None] * H[:, :, :, None, :]).reshape(B, T * r, -1)


def _whiten_group(group: TaskGroup, structure: Structure, noise: torch.Tensor) -> WhitenedGroup:
    T, r, _ = group.rows.shape[-3:]
    L = factor_tasks(group, structure, noise)
    # solved from the right, so that the result lies row by row in memory: products read it twice as fast
    columns = group.rows.transpose(-1, -2).expand(noise.shape[0], T, -1, r)
    solved = torch.linalg.solve_triangular(L.transpose(-1, -2), columns, upper=True, left=False)
    H, h = solved.transpose(-1, -2)[..., :-1], solved[..., -1, :]
    J = None if structure.loadings is None else _basis_design(structure.loadings[..., group.index, :], H)
    return WhitenedGroup(L, H, h, J)


def whiten(tasks: CompressedTasks, structure: Structure, noise: torch.Tensor) -> Whitened:
    """Whiten every task and find the posterior of Z.

    Args:
        tasks: Compressed data of T tasks.
        structure: Prior of W for B hyperparameter values.
        noise: Noise standard deviations sigma_t, shape (B, T) or (B, 1).
    """
    groups = tuple(_whiten_group(group, structure, noise) for group in tasks.groups)
    if structure.basis_scale is None:
        return Whitened(groups, None, None)
    precision = torch.diag_embed(structure.basis_scale.flatten(1) ** -2)
    linear = torch.zeros(*precision.shape[:2], 1, dtype=noise.dtype)
    for group in groups:
        assert group.J is not None
        precision += group.J.transpose(-1, -2) @ group.J
        linear += group.J.transpose(-1, -2) @ group.h.flatten(1)[..., None]
    L_basis = cholesky_or_nan(precision)
    return Whitened(groups, L_basis, torch.cholesky_solve(linear, L_basis))


def log_likelihood_of(
    tasks: CompressedTasks, structure: Structure, noise: torch.Tensor, white: Whitened
) -> torch.Tensor:
    """log p(y | hyperparameters) of whitened tasks, shape (B,)."""
    log_noise = noise.log().expand(-1, tasks.num_tasks)
    log_det = 2 * (tasks.count * log_noise).sum(-1)
    quadratic = (tasks.residual / noise**2).sum(-1)
    for group, part in zip(tasks.groups, white.groups, strict=True):
        log_det = log_det + 2 * part.L.diagonal(dim1=-2, dim2=-1).log().sum((-1, -2))
        # C_t counts r noise dimensions that n_t has counted already (or that are padding)
        log_det = log_det - 2 * part.h.shape[-1] * log_noise[:, group.index].sum(-1)
        # y'C^-1 y - mean' Lambda mean = h'(h - J mean)
        quadratic = quadratic + (part.h * white.residual(part)).sum((-1, -2))
    if white.L_basis is not None and structure.basis_scale is not None:
        log_det = log_det + 2 * white.L_basis.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_det = log_det + 2 * structure.basis_scale.abs().log().sum((-1, -2))
    return -0.5 * (tasks.count.sum() * math.log(2 * math.pi) + log_det + quadratic)


class _Gradients:
    """Gradients of the collapsed density, summed up group by group."""

    def __init__(
        self,
        tasks: CompressedTasks,
        structure: Structure,
        noise: torch.Tensor,
        white: Whitened,
        *,
        of_loadings: bool,
    ):
        self.structure, self.white = structure, white
        self.scale = self.factor = self.basis = self.loadings = None
        if of_loadings and structure.loadings is not None:
            T, R = structure.loadings.shape[-2:]
            self.loadings = torch.zeros(len(noise), T, R, dtype=noise.dtype)
        if structure.residual_scale is not None:
            self.scale = torch.zeros_like(structure.residual_scale)
        if structure.residual_factor is not None:
            D = structure.residual_factor.shape[1]
            self.factor = torch.zeros(noise.shape[0], D, D, dtype=noise.dtype)  # sum of N_t, at first
        if white.L_basis is not None:
            identity = torch.eye(white.L_basis.shape[-1], dtype=noise.dtype).expand_as(white.L_basis)
            # Var(vec Z) = inverse' inverse
            self.inverse = torch.linalg.solve_triangular(white.L_basis, identity, upper=False)
            self.basis = self._basis_gradient()
        fitted = tasks.residual / noise**2 - tasks.count
        for group, part in zip(tasks.groups, white.groups, strict=True):
            fitted[:, group.index] += self._add(group, part)
        if self.factor is not None and structure.residual_factor is not None:
            self.factor = self.factor @ structure.residual_factor
        per_task = fitted / noise
        self.noise = per_task.sum(-1, keepdim=True) if noise.shape[1] == 1 else per_task

    def _basis_gradient(self) -> torch.Tensor:
        s, mean = self.structure.basis_scale, self.white.basis_mean
        assert s is not None and mean is not None
        second_moment = (mean[..., 0] ** 2 + (self.inverse**2).sum(-2)).reshape(s.shape)
        gradient: torch.Tensor = second_moment / s**3 - 1 / s
        return gradient

    def _add(self, group: TaskGroup, part: WhitenedGroup) -> torch.Tensor:
        """Add a group to the gradients; returns its share of sigma_t d log p / d sigma_t, (B, T_g)."""
        B, T, r, D = part.H.shape
        residual = self.white.residual(part)
        if part.J is None:
            inner = torch.zeros(B, T, r, r, dtype=part.H.dtype)
        else:
            spread = (part.J @ self.inverse.transpose(-1, -2)).reshape(B, T, r, -1)
            inner = spread @ spread.transpose(-1, -2)  # H_t Var(Z'a_t) H_t'
        share = (residual**2).sum(-1) + inner.diagonal(dim1=-2, dim2=-1).sum(-1)
        u = (residual[..., None, :] @ part.H).squeeze(-2)
        if self.loadings is not None and part.J is not None and self.white.basis_mean is not None:
            # d log p / d a_t = E[Z u_t], with u_t linear in Z
            covariance = (part.J @ self.inverse.transpose(-1, -2) @ self.inverse).reshape(B, T, r, -1, D)
            mean = self.white.basis_mean.reshape(B, -1, D)
            self.loadings[:, group.index] = u @ mean.transpose(-1, -2)
            self.loadings[:, group.index] -= torch.einsum("btid,btird->btr", part.H, covariance)
        scale, factor = self.structure.residual_scale, self.structure.residual_factor
        if scale is None and factor is None:
            return share
        inner.diagonal(dim1=-2, dim2=-1).sub_(1.0)  # N_t = u u' + H_t' inner H_t
        PH = inner @ part.H
        if scale is not None and self.scale is not None:
            scale = group.pick(scale)
            diagonal = u**2 + (part.H * PH).sum(-2)
            share = share - (scale**2 * diagonal).sum(-1)  # tr(S_t N_t)
            if self.scale.shape[1] == 1:
                self.scale += scale * diagonal.sum(1, keepdim=True)
            else:
                self.scale[:, group.index] += scale * diagonal
        if factor is not None and self.factor is not None:
            H, PH = part.H.reshape(B, T * r, D), PH.reshape(B, T * r, D)
            self.factor += u.transpose(-1, -2) @ u + H.transpose(-1, -2) @ PH
            rooted = ((H @ factor) * (PH @ factor)).reshape(B, T, -1)
            share = share - ((u @ factor) ** 2).sum(-1) - rooted.sum(-1)
        return share


class _LogMarginal(torch.autograd.Function):
    """The collapsed density with its analytic gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        tasks: CompressedTasks,
        loadings: torch.Tensor | None,
        basis_scale: torch.Tensor | None,
        residual_scale: torch.Tensor | None,
        residual_factor: torch.Tensor | None,
        noise: torch.Tensor,
    ) -> torch.Tensor:
        structure = Structure(loadings, basis_scale, residual_scale, residual_factor)
        white = whiten(tasks, structure, noise)
        if any(ctx.needs_input_grad):
            gradients = _Gradients(tasks, structure, noise, white, of_loadings=ctx.needs_input_grad[1])
            ctx.gradients = (
                gradients.loadings,
                gradients.basis,
                gradients.scale,
                gradients.factor,
                gradients.noise,
            )
            ctx.shared_loadings = loadings is not None and loadings.dim() == 2
        return log_likelihood_of(tasks, structure, noise, white)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (upstream,) = grad_outputs
        chained = [
            None if g is None else g * upstream.reshape(-1, *([1] * (g.dim() - 1))) for g in ctx.gradients
        ]
        if ctx.shared_loadings and chained[0] is not None:
            chained[0] = chained[0].sum(0)
        return (None, *chained)


def log_marginal(tasks: CompressedTasks, structure: Structure, noise: torch.Tensor) -> torch.Tensor:
    """log p(y | hyperparameters) with all of W and Z integrated out, differentiable in the hyperparameters.

    Costs O(T r^2 D) + O(T r (R D)^2) + O((R D)^3) per hyperparameter value and nothing in n.

    Args:
        tasks: Compressed data of T tasks.
        structure: Prior of W for B hyperparameter values; gradients flow to all of it.
        noise: sigma_t, shape (B, T), or (B, 1) where shared.

    Returns:
        Log densities, shape (B,).

    Example:
        >>> import numpy as np
        >>> from bayesmtl.algebra.statistics import TaskStatistics
        >>> y = np.array([1.0, 2.0, 4.0])
        >>> tasks = TaskStatistics.from_rows(np.ones((3, 1)), y, np.array([0, 0, 1]), 2).compress()
        >>> one = torch.ones(1, 1, 1, dtype=torch.float64)
        >>> value = log_marginal(tasks, Structure(residual_scale=one), one[0])
        >>> round(value.item(), 4)  # N(y | 0, I + 1 1' inside a task)
        -8.6527
    """
    return _LogMarginal.apply(  # type: ignore[no-untyped-call, no-any-return]
        tasks,
        structure.loadings,
        structure.basis_scale,
        structure.residual_scale,
        structure.residual_factor,
        noise,
    )
