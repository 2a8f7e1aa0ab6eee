"""Exact draws of Z and W given hyperparameters: the other half of the collapsed density.

Z is drawn from its Gaussian posterior. E given Z follows by conditioning a prior draw on a prior draw of the
data (Matheron's rule): with S_t = G_t G_t', e_t = G_t v_t, v_t ~ N(0, I),
    v_t | y = v* + G_t'F_t' C_t^-1 (c_t - F_t (Z'a_t + G_t v*) - noise*),
which needs the r x r factor of C_t only and holds for singular S_t and for F_t of any rank. Several draws
under one hyperparameter value share its factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bayesmtl.algebra.collapsed import factor_tasks, residual_root, whiten
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


def draw_basis(
    tasks: CompressedTasks,
    structure: Structure,
    noise: torch.Tensor,
    generator: torch.Generator,
    num_draws: int = 1,
) -> torch.Tensor:
    """Draw Z | y, hyperparameters.

    Args:
        tasks: Compressed data of T tasks.
        structure: Prior of W for B hyperparameter values.
        noise: sigma_t, shape (B, T) or (B, 1).
        generator: Source of randomness.
        num_draws: S, draws for each hyperparameter value.

    Returns:
        Shape (B S, R, D), with R = 0 where nothing is shared.
    """
    B, S, D = noise.shape[0], num_draws, tasks.num_features
    if structure.basis_scale is None:
        return torch.zeros(B * S, 0, D, dtype=noise.dtype)
    white = whiten(tasks, structure, noise)
    assert white.L_basis is not None and white.basis_mean is not None
    fresh = torch.randn(B, white.basis_mean.shape[1], S, generator=generator, dtype=noise.dtype)
    spread = torch.linalg.solve_triangular(white.L_basis.transpose(-1, -2), fresh, upper=True)
    draw: torch.Tensor = white.basis_mean + spread
    return draw.transpose(-1, -2).reshape(B * S, *structure.basis_scale.shape[1:])


def draw_weights(
    tasks: CompressedTasks,
    structure: Structure,
    noise: torch.Tensor,
    basis: torch.Tensor,
    generator: torch.Generator,
) -> WeightDraws:
    """Draw W | Z, y, hyperparameters.

    Args:
        tasks: Compressed data of T tasks; tasks without rows follow the prior.
        structure: Prior of W for B hyperparameter values.
        noise: sigma_t, shape (B, T) or (B, 1).
        basis: Z, shape (B S, R, D); S draws of W are made for each hyperparameter value.
        generator: Source of randomness.
    """
    B, T, D = noise.shape[0], tasks.num_tasks, tasks.num_features
    S = basis.shape[0] // B
    weights = shared_part(structure, basis, T)
    K = 0 if structure.residual_factor is None else structure.residual_factor.shape[-1]
    factors = torch.zeros(B * S, T, K, dtype=noise.dtype)
    if structure.residual_scale is None and K == 0:
        return WeightDraws(weights, basis, factors)
    for group in tasks.groups:
        shared = weights[:, group.index].reshape(B, S, -1, D)
        v = _residual_coordinates(group, structure, noise, shared, generator)
        residual = torch.zeros_like(shared)
        if structure.residual_scale is not None:
            residual = group.pick(structure.residual_scale)[:, None] * v[..., :D]
        if structure.residual_factor is not None:
            along = v[..., v.shape[-1] - K :]
            factors[:, group.index] = along.flatten(0, 1)
            residual = residual + along @ structure.residual_factor[:, None].transpose(-1, -2)
        weights[:, group.index] = (shared + residual).flatten(0, 1)
    return WeightDraws(weights, basis, factors)


def shared_part(structure: Structure, basis: torch.Tensor, num_tasks: int) -> torch.Tensor:
    """A Z, shape (B, T, D); zero where nothing is shared."""
    if structure.loadings is None:
        return torch.zeros(basis.shape[0], num_tasks, basis.shape[-1], dtype=basis.dtype)
    return structure.loadings @ basis


def _residual_coordinates(
    group: TaskGroup,
    structure: Structure,
    noise: torch.Tensor,
    shared: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """v_t of e_t = G_t v_t, shape (B, S, T_g, columns of G_t), given A Z of shape (B, S, T_g, D)."""
    (B, S), (T, r, _) = shared.shape[:2], group.rows.shape
    root = residual_root(structure, group)
    assert root is not None
    root = root.expand(B, -1, -1, -1)
    L = factor_tasks(group, structure, noise)
    # the S draws of one hyperparameter value are columns: (B, T_g, ., S)
    v = torch.randn(B, T, root.shape[-1], S, generator=generator, dtype=shared.dtype)
    fresh_noise = torch.randn(B, T, r, S, generator=generator, dtype=shared.dtype)
    fitted = group.F @ shared.permute(0, 2, 3, 1) + root @ v
    gap = group.c[..., None] - fitted - group.pick(noise)[..., None, None] * fresh_noise
    v = v + root.transpose(-1, -2) @ torch.cholesky_solve(gap, L)
    return v.permute(0, 3, 1, 2)


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
    for group in tasks.groups:
        L = factor_tasks(group, structure, noise)
        gap = group.c - (group.F @ shared[:, group.index, :, None]).squeeze(-1)
        white = torch.linalg.solve_triangular(L, gap[..., None], upper=False).squeeze(-1)
        log_det = 2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        total[:, group.index] += log_det - 2 * gap.shape[-1] * log_noise[:, group.index] + (white**2).sum(-1)
    return -0.5 * total
