"""The slow, readable twin of the collapsed algebra: every matrix written out in full.

All unknowns are stacked into one vector, v = (vec Z, e_1 .. e_T), with v ~ N(0, P). Row i of the data is

    y_i = h_i'v + noise_i,   h_i = (a_t (x) x_i  |  x_i in the place of e_t, zero elsewhere),   t = task of i

so y ~ N(0, H P H' + diag(sigma_t^2)), and v | y follows from the textbook formula for Gaussian vectors. One
hyperparameter value at a time, nothing clever; gradients come from automatic differentiation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.distributions import MultivariateNormal

from bayesmtl.algebra.structure import Structure


@dataclass(frozen=True)
class Rows:
    """Raw rows of T tasks: X (n, D), y (n,), task (n,)."""

    X: torch.Tensor
    y: torch.Tensor
    task: list[int]
    num_tasks: int


def residual_covariance(structure: Structure, b: int, t: int, D: int) -> torch.Tensor:
    """S_t of hyperparameter value b, shape (D, D)."""
    S = torch.zeros(D, D, dtype=torch.float64)
    if structure.residual_scale is not None:
        scale = structure.residual_scale[b]
        scale = scale[0] if len(scale) == 1 else scale[t]
        S = S + torch.diag(scale**2)
    if structure.residual_factor is not None:
        S = S + structure.residual_factor[b] @ structure.residual_factor[b].T
    return S


def prior_covariance(structure: Structure, b: int, num_tasks: int, D: int) -> torch.Tensor:
    """P, the covariance of (vec Z, e_1 .. e_T), shape (R D + T D, R D + T D)."""
    blocks = []
    if structure.basis_scale is not None:
        blocks.append(torch.diag(structure.basis_scale[b].reshape(-1) ** 2))
    for t in range(num_tasks):
        blocks.append(residual_covariance(structure, b, t, D))
    return torch.block_diag(*blocks)


def loadings_of(structure: Structure, b: int) -> torch.Tensor | None:
    """A of hyperparameter value b, shape (T, R)."""
    A = structure.loadings
    return A if A is None or A.dim() == 2 else A[b]


def design(structure: Structure, b: int, rows: Rows) -> torch.Tensor:
    """H, one row of data after the other, shape (n, R D + T D)."""
    D = rows.X.shape[1]
    lines = []
    for x, t in zip(rows.X, rows.task, strict=True):
        parts = []
        if structure.loadings is not None:
            for loading in loadings_of(structure, b)[t]:
                parts.append(loading * x)
        for u in range(rows.num_tasks):
            parts.append(x if u == t else torch.zeros(D, dtype=torch.float64))
        lines.append(torch.cat(parts))
    if not lines:
        R = 0 if structure.loadings is None else structure.loadings.shape[-1]
        return torch.zeros(0, (R + rows.num_tasks) * D, dtype=torch.float64)
    return torch.stack(lines)


def noise_covariance(noise: torch.Tensor, b: int, rows: Rows) -> torch.Tensor:
    """diag(sigma_t^2) over rows, shape (n, n)."""
    variances = [noise[b][0 if noise.shape[1] == 1 else t] ** 2 for t in rows.task]
    return torch.diag(torch.stack(variances))


def covariance_of_y(structure: Structure, noise: torch.Tensor, b: int, rows: Rows) -> torch.Tensor:
    """C = H P H' + diag(sigma_t^2), shape (n, n)."""
    H = design(structure, b, rows)
    P = prior_covariance(structure, b, rows.num_tasks, rows.X.shape[1])
    return H @ P @ H.T + noise_covariance(noise, b, rows)


def log_marginal(structure: Structure, noise: torch.Tensor, rows: Rows) -> torch.Tensor:
    """log p(y | hyperparameters) for each of the B hyperparameter values, shape (B,)."""
    values = []
    for b in range(noise.shape[0]):
        C = covariance_of_y(structure, noise, b, rows)
        values.append(MultivariateNormal(torch.zeros_like(rows.y), C).log_prob(rows.y))
    return torch.stack(values)


def posterior(
    structure: Structure, noise: torch.Tensor, b: int, rows: Rows
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of (vec Z, e_1 .. e_T) given y: P H'C^-1 y and P - P H'C^-1 H P."""
    H = design(structure, b, rows)
    P = prior_covariance(structure, b, rows.num_tasks, rows.X.shape[1])
    C = covariance_of_y(structure, noise, b, rows)
    gain = P @ H.T @ torch.linalg.inv(C)
    return gain @ rows.y, P - gain @ H @ P


def weights_map(structure: Structure, b: int, num_tasks: int, D: int) -> torch.Tensor:
    """The matrix that turns (vec Z, e_1 .. e_T) into (w_1 .. w_T) by w_t = Z'a_t + e_t."""
    identity = torch.eye(D, dtype=torch.float64)
    lines = []
    for t in range(num_tasks):
        parts = []
        if structure.loadings is not None:
            for loading in loadings_of(structure, b)[t]:
                parts.append(loading * identity)
        for u in range(num_tasks):
            parts.append(identity if u == t else torch.zeros_like(identity))
        lines.append(torch.cat(parts, dim=1))
    return torch.cat(lines)


def posterior_of_weights(
    structure: Structure, noise: torch.Tensor, b: int, rows: Rows
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (T D,) and covariance (T D, T D) of (w_1 .. w_T) given y."""
    mean, covariance = posterior(structure, noise, b, rows)
    M = weights_map(structure, b, rows.num_tasks, rows.X.shape[1])
    return M @ mean, M @ covariance @ M.T


def posterior_of_factors(
    structure: Structure, noise: torch.Tensor, b: int, rows: Rows
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of the coordinates (v_1 .. v_T) in e_t = ... + L v_t, given y; v_t ~ N(0, I).

    Row i sees v_t through L'x_i, so the formula of `posterior` holds with L'x_i in the place of x_i and P =
    I.
    """
    assert structure.residual_factor is not None
    L = structure.residual_factor[b]
    lines = []
    for x, t in zip(rows.X, rows.task, strict=True):
        seen = L.T @ x
        lines.append(torch.cat([seen if u == t else torch.zeros_like(seen) for u in range(rows.num_tasks)]))
    H = torch.stack(lines)
    gain = H.T @ torch.linalg.inv(covariance_of_y(structure, noise, b, rows))
    return gain @ rows.y, torch.eye(H.shape[1], dtype=torch.float64) - gain @ H


def log_likelihood_given_basis(
    structure: Structure, noise: torch.Tensor, basis: torch.Tensor, rows: Rows
) -> torch.Tensor:
    """log p(y_t | Z, hyperparameters) of every task, shape (B, T); 0 for a task without rows."""
    D = rows.X.shape[1]
    values = torch.zeros(noise.shape[0], rows.num_tasks, dtype=torch.float64)
    for b in range(noise.shape[0]):
        for t in range(rows.num_tasks):
            mine = [i for i, u in enumerate(rows.task) if u == t]
            if not mine:
                continue
            X, y = rows.X[mine], rows.y[mine]
            mean = torch.zeros(D, dtype=torch.float64)
            if structure.loadings is not None:
                for loading, z in zip(loadings_of(structure, b)[t], basis[b], strict=True):
                    mean = mean + loading * z
            sigma = noise[b][0 if noise.shape[1] == 1 else t]
            C = X @ residual_covariance(structure, b, t, D) @ X.T
            C = C + sigma**2 * torch.eye(len(mine), dtype=torch.float64)
            values[b, t] = MultivariateNormal(X @ mean, C).log_prob(y)
    return values
