"""Posterior means and covariances of the weights given hyperparameters, task by task."""

from __future__ import annotations

import torch

from bayesmtl.algebra.collapsed import Whitened, whiten
from bayesmtl.algebra.statistics import CompressedTasks, TaskGroup
from bayesmtl.algebra.structure import Structure


def posterior_mean(tasks: CompressedTasks, structure: Structure, noise: torch.Tensor) -> torch.Tensor:
    """E[W | y, hyperparameters], shape (B, T, D).

    With m_t = E[Z]'a_t it is m_t + S_t H_t'(h_t - H_t m_t), in the letters of `collapsed`.
    """
    return _mean(tasks, structure, whiten(tasks, structure, noise))


def _mean(tasks: CompressedTasks, structure: Structure, white: Whitened) -> torch.Tensor:
    B, T, D = len(white.groups[0].L), tasks.num_tasks, tasks.num_features
    mean = torch.zeros(B, T, D, dtype=white.groups[0].L.dtype)
    if white.basis_mean is not None and structure.loadings is not None:
        mean = structure.loadings @ white.basis_mean.reshape(B, -1, D)
    for group, part in zip(tasks.groups, white.groups, strict=True):
        gap = part.h - (part.H @ mean[:, group.index, :, None]).squeeze(-1)
        back = part.H.transpose(-1, -2) @ gap[..., None]
        mean[:, group.index] += (_times_residual(structure, group, back)).squeeze(-1)
    return mean


def posterior_moments(
    tasks: CompressedTasks, structure: Structure, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """E[W | y, hyperparameters], shape (B, T, D), and Cov(w_t | y, hyperparameters), shape (B, T, D, D).

    The covariance is S_t - S_t H_t'H_t S_t given Z, and U_t' Var(Z'a_t) U_t from Z, with U_t = I - H_t'H_t
    S_t.
    """
    white = whiten(tasks, structure, noise)
    mean = _mean(tasks, structure, white)
    B, T, D = mean.shape
    identity = torch.eye(D, dtype=mean.dtype)
    shared = None
    if white.L_basis is not None and structure.loadings is not None:
        size = torch.eye(white.L_basis.shape[-1], dtype=mean.dtype).expand_as(white.L_basis)
        shared = torch.cholesky_solve(size, white.L_basis).reshape(B, -1, D, white.L_basis.shape[-1] // D, D)
    covariance = torch.zeros(B, T, D, D, dtype=mean.dtype)
    for group, part in zip(tasks.groups, white.groups, strict=True):
        S = _times_residual(structure, group, identity.expand(B, len(group.index), D, D))
        U = identity - part.H.transpose(-1, -2) @ (part.H @ S)
        inside = S @ U
        if shared is not None and structure.loadings is not None:
            A = structure.loadings[..., group.index, :].expand(B, -1, -1)
            spread = torch.einsum("btr,brdse,bts->btde", A, shared, A)
            inside = inside + U.transpose(-1, -2) @ spread @ U
        covariance[:, group.index] = inside
    return mean, covariance


def _times_residual(structure: Structure, group: TaskGroup, columns: torch.Tensor) -> torch.Tensor:
    """S_t times columns (B, T_g, D, K)."""
    product = torch.zeros_like(columns)
    if structure.residual_scale is not None:
        product = product + group.pick(structure.residual_scale)[..., None] ** 2 * columns
    if structure.factor_by_task is not None:
        factor = group.pick(structure.factor_by_task)
        product = product + factor @ (factor.transpose(-1, -2) @ columns)
    return product
