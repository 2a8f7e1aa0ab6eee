"""Exact draws of Z and W given hyperparameters: the other half of the collapsed density.

Z is drawn from its Gaussian posterior. E given Z follows by conditioning a prior draw on a prior draw of the
data (Matheron's rule): with e* ~ N(0, S_t),
    e_t | y = e* + S_t F_t' C_t^-1 (c_t - F_t (Z'a_t + e*) - noise*),
which needs the whitened tasks only and holds for singular S_t and for F_t of any rank. Several draws under
one hyperparameter value share its factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bayesmtl.algebra.collapsed import Whitened, WhitenedGroup, factor_tasks, whiten
from bayesmtl.algebra.random import standard_normal
from bayesmtl.algebra.statistics import CompressedTasks, TaskGroup
from bayesmtl.algebra.structure import Structure


@dataclass(frozen=True, eq=False)
class WeightDraws:
    """Exact draws of the weights: S for each of B hyperparameter values, those of one value together.

    Args:
        weights: W = A Z + E, shape (B S, T, D).
        basis: Z, shape (B S, R, D); R = 0 where nothing is shared.
        factors: Coordinates of e_t along `residual_factor`, shape (B S, T, K); K = 0 without one.
    """

    weights: torch.Tensor
    basis: torch.Tensor
    factors: torch.Tensor


def draw_posterior(
    tasks: CompressedTasks,
    structure: Structure,
    noise: torch.Tensor,
    rng: np.random.Generator,
    num_draws: int = 1,
) -> WeightDraws:
    """Draw Z and W | y, hyperparameters.

    Args:
        tasks: Compressed data of T tasks; tasks without rows follow the prior.
        structure: Prior of W for B hyperparameter values.
        noise: sigma_t, shape (B, T) or (B, 1).
        rng: Source of randomness.
        num_draws: S, draws for each hyperparameter value.
    """
    white = whiten(tasks, structure, noise)
    basis = _draw_basis(structure, white, rng, num_draws, tasks.num_features)
    return _draw_weights(tasks, structure, noise, basis, rng, white)


def draw_prior_basis(
    structure: Structure, num_draws: int, num_features: int, rng: np.random.Generator
) -> torch.Tensor:
    """Draw Z from its prior, once for each of B hyperparameter values: shape (B, R, D)."""
    scale = structure.basis_scale
    if scale is None:
        return torch.zeros(num_draws, 0, num_features, dtype=torch.float64)
    if structure.membership is not None:  # mu, and one row for every cluster
        num_clusters = int(structure.membership.max()) + 1
        scale = torch.cat([scale[:, :1], scale[:, 1:].expand(-1, num_clusters, -1)], dim=1)
    return scale * torch.from_numpy(rng.normal(size=tuple(scale.shape)))


def draw_weights(
    tasks: CompressedTasks,
    structure: Structure,
    noise: torch.Tensor,
    basis: torch.Tensor,
    rng: np.random.Generator,
) -> WeightDraws:
    """Draw W | Z, y, hyperparameters: `draw_posterior` for a Z that is known already.

    Args:
        tasks: Compressed data of T tasks; tasks without rows follow the prior.
        structure: Prior of W for B hyperparameter values.
        noise: sigma_t, shape (B, T) or (B, 1).
        basis: Z, shape (B S, R, D); S draws of W are made for each hyperparameter value.
        rng: Source of randomness.
    """
    return _draw_weights(tasks, structure, noise, basis, rng, whiten(tasks, structure.private, noise))


def _draw_basis(
    structure: Structure, white: Whitened, rng: np.random.Generator, num_draws: int, num_features: int
) -> torch.Tensor:
    """Z, shape (B S, R, D), with R = 0 where nothing is shared."""
    B = white.groups[0].L.shape[0]
    if structure.basis_scale is None or white.L_basis is None or white.basis_mean is None:
        return torch.zeros(B * num_draws, 0, num_features, dtype=white.groups[0].L.dtype)
    fresh = standard_normal(rng, B, white.L_basis.shape[1], num_draws)
    spread = torch.linalg.solve_triangular(white.L_basis.transpose(-1, -2), fresh, upper=True)
    draw: torch.Tensor = white.basis_mean + spread
    return draw.transpose(-1, -2).reshape(B * num_draws, *structure.basis_scale.shape[1:])


def _draw_weights(
    tasks: CompressedTasks,
    structure: Structure,
    noise: torch.Tensor,
    basis: torch.Tensor,
    rng: np.random.Generator,
    white: Whitened,
) -> WeightDraws:
    B, T, D = noise.shape[0], tasks.num_tasks, tasks.num_features
    S = basis.shape[0] // B
    weights = shared_part(structure, basis, T)
    K = 0 if structure.residual_factor is None else structure.residual_factor.shape[-1]
    factors = torch.zeros(B * S, T, K, dtype=noise.dtype)
    if structure.residual_scale is None and K == 0:
        return WeightDraws(weights, basis, factors)
    for group, part in zip(tasks.groups, white.groups, strict=True):
        # the S draws of one hyperparameter value are columns: (B, T_g, D, S)
        shared = weights[:, group.index].reshape(B, S, -1, D).permute(0, 2, 3, 1)
        residual, along = _draw_residual(group, part, structure, noise, shared, rng)
        weights[:, group.index] = (shared + residual).permute(0, 3, 1, 2).flatten(0, 1)
        if along is not None:
            factors[:, group.index] = along.permute(0, 3, 1, 2).flatten(0, 1)
    return WeightDraws(weights, basis, factors)


def shared_part(structure: Structure, basis: torch.Tensor, num_tasks: int) -> torch.Tensor:
    """A Z, shape (B S, T, D), of S draws of Z for each of B hyperparameter values; zero where A is none."""
    A = structure.loadings
    if A is None:
        return torch.zeros(basis.shape[0], num_tasks, basis.shape[-1], dtype=basis.dtype)
    if structure.membership is None:
        return (A if A.ndim == 2 else A.repeat_interleave(len(basis) // len(A), dim=0)) @ basis
    member = structure.membership.repeat_interleave(len(basis) // len(structure.membership), dim=0)
    own = member[..., None].expand(-1, -1, basis.shape[-1])
    return basis[:, :1] + torch.take_along_dim(basis[:, 1:], own, dim=1)


def _draw_residual(
    group: TaskGroup,
    part: WhitenedGroup,
    structure: Structure,
    noise: torch.Tensor,
    shared: torch.Tensor,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """e_t, shape (B, T_g, D, S), given Z'a_t of that shape; and its coordinates along the factor, if any."""
    B, T, D, S = shared.shape

    def fresh(size: int) -> torch.Tensor:
        return standard_normal(rng, B, T, size, S)

    residual = torch.zeros_like(shared)
    scale = along = None
    if structure.residual_scale is not None:
        scale = group.pick(structure.residual_scale)[..., None]
        residual = fresh(D).mul_(scale)
    factor = structure.factor_by_task
    if factor is not None:
        factor = group.pick(factor)
        along = fresh(factor.shape[-1])
        residual.add_(factor @ along)
    noise_white = torch.linalg.solve_triangular(part.L, fresh(part.L.shape[-1]), upper=False)
    gap = noise_white.mul_(-group.pick(noise)[..., None, None]).add_(part.h[..., None])
    back = part.H.transpose(-1, -2) @ gap.sub_(part.H @ (shared + residual))
    if scale is not None:
        residual.addcmul_(scale**2, back)
    if factor is not None and along is not None:
        shift = factor.transpose(-1, -2) @ back
        along = along + shift
        residual.add_(factor @ shift)
    return residual, along


def log_likelihood_given_basis(
    tasks: CompressedTasks, structure: Structure, noise: torch.Tensor, basis: torch.Tensor
) -> torch.Tensor:
    """log p(y_t | Z, hyperparameters) of every task with only E integrated out, shape (B, T).

    Given Z and the hyperparameters tasks are independent, so these terms add up over tasks; their ratio
    before and after new rows is the exact weight of a posterior draw in the light of those rows.
    """
    T = tasks.num_tasks
    shared = shared_part(structure, basis, T)
    log_noise = noise.log().expand(-1, T)
    constant = tasks.count * torch.log(torch.tensor(2 * torch.pi, dtype=noise.dtype))
    total = constant + 2 * tasks.count * log_noise + tasks.residual / noise**2
    total = total.expand(basis.shape[0], -1).clone()  # one hyperparameter value may go with many Z
    for group in tasks.groups:
        L = factor_tasks(group, structure, noise)
        gap = group.c - (group.F @ shared[:, group.index, :, None]).squeeze(-1)
        white = torch.linalg.solve_triangular(L, gap[..., None], upper=False).squeeze(-1)
        log_det = 2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        total[:, group.index] += log_det - 2 * gap.shape[-1] * log_noise[:, group.index] + (white**2).sum(-1)
    return -0.5 * total
