"""The collapsed density and exact draws when tasks are partitioned: w_t = mu + b_{c_t} + e_t.

One-hot columns of A make the posterior of the cluster means block-diagonal given mu, so that nothing larger
than D x D is ever factored, and a task that changes its cluster moves two sums.

On paper                                             In code
mu ~ N(0, s_0^2 I), b_k ~ N(0, diag(tau^2))          `basis_scale`, rows 0 and 1
Q_t = H_t'H_t, q_t = H_t'h_t given E's covariance    `TaskTerms.precision`, `TaskTerms.linear`
P_k, q_k  sums of Q_t and q_t over a cluster         `cluster_sums`
Lambda_k = I + tau P_k tau = L_k L_k'                in units of tau, so that tau = 0 is no exception
A_k = L_k^-1 tau P_k, a_k = L_k^-1 tau q_k           mu sees sum_k P_k - A_k'A_k and sum_k q_k - A_k'a_k
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bayesmtl.algebra.collapsed import cholesky_or_nan, log_likelihood_of, whiten
from bayesmtl.algebra.conditional import WeightDraws, draw_weights
from bayesmtl.algebra.random import standard_normal
from bayesmtl.algebra.statistics import CompressedTasks
from bayesmtl.algebra.structure import Structure


@dataclass(frozen=True, eq=False)
class TaskTerms:
    """What the data say about z = mu + b of each task's cluster, E integrated out.

    Up to `value`, log p(y_t | z) = q_t'z - z'Q_t z / 2.

    Args:
        precision: Q_t, shape (B, T, D, D).
        linear: q_t, shape (B, T, D).
        square: h_t'h_t, shape (B, T).
        value: log p(y | Z = 0), all tasks together, shape (B,).
    """

    precision: torch.Tensor
    linear: torch.Tensor
    square: torch.Tensor
    value: torch.Tensor

    def about(self, mean: torch.Tensor, spread: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Q_t and q_t of b = z - mean in units of its prior scale.

        Args:
            mean: mu, shape (B, D).
            spread: tau, shape (B, D).
        """
        linear = self.linear - (self.precision @ mean[:, None, :, None]).squeeze(-1)
        scale = spread[:, None]
        return scale[..., None] * self.precision * scale[..., None, :], scale * linear


def task_terms(tasks: CompressedTasks, structure: Structure, noise: torch.Tensor) -> TaskTerms:
    """Q_t and q_t of every task for B hyperparameter values.

    Args:
        tasks: Compressed data of T tasks; tasks without rows say nothing.
        structure: Prior of W; only its private part counts here.
        noise: sigma_t, shape (B, T) or (B, 1).
    """
    white = whiten(tasks, structure.private, noise)
    H = [part.H for part in white.groups]
    h = [part.h for part in white.groups]
    precision = torch.cat([part.transpose(-1, -2) @ part for part in H], dim=1)
    linear = torch.cat(
        [(x.transpose(-1, -2) @ y[..., None]).squeeze(-1) for x, y in zip(H, h, strict=True)], 1
    )
    back = torch.argsort(torch.cat([group.index for group in tasks.groups]))
    value = log_likelihood_of(tasks, structure.private, noise, white)
    square = torch.cat([(part**2).sum(-1) for part in h], dim=1)
    return TaskTerms(precision[:, back], linear[:, back], square[:, back], value)


def cluster_sums(values: torch.Tensor, membership: torch.Tensor, num_clusters: int) -> torch.Tensor:
    """Sums over the tasks of each cluster.

    Args:
        values: Shape (B, T, ...).
        membership: Clusters, integers in 0 .. num_clusters - 1, shape (B, T).
        num_clusters: K.

    Returns:
        Shape (B, K, ...); zeros where a cluster is empty.
    """
    B, T = membership.shape
    where = (membership + num_clusters * torch.arange(B)[:, None]).flatten()
    empty = values.new_zeros(B * num_clusters, *values.shape[2:])
    sums: torch.Tensor = empty.index_add(0, where, values.flatten(0, 1)).unflatten(0, (B, num_clusters))
    return sums


@dataclass(frozen=True, eq=False)
class Blocks:
    """The posterior of Z in blocks: mu, and every b_k given mu, each in units of its prior scale.

    Args:
        L: Cholesky factors of Lambda_k, shape (B, K, D, D).
        A: Shape (B, K, D, D).
        a: Shape (B, K, D, 1).
        L_mean: Cholesky factor of the precision of mu, shape (B, D, D).
        a_mean: L_mean^-1 times the linear term of mu, shape (B, D, 1).
    """

    L: torch.Tensor
    A: torch.Tensor
    a: torch.Tensor
    L_mean: torch.Tensor
    a_mean: torch.Tensor

    @property
    def log_worth(self) -> torch.Tensor:
        """log of E[prod_k exp(q_k'z_k - z_k'P_k z_k / 2)] over the prior of Z, shape (B,)."""
        log_det = self.L.diagonal(dim1=-2, dim2=-1).log().sum((-1, -2))
        log_det = log_det + self.L_mean.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        quadratic = (self.a**2).sum((-1, -2, -3)) + (self.a_mean**2).sum((-1, -2))
        return 0.5 * quadratic - log_det


def _blocks(terms: TaskTerms, structure: Structure) -> Blocks:
    membership = structure.membership
    assert membership is not None and structure.basis_scale is not None
    K = int(membership.max()) + 1
    P = cluster_sums(terms.precision, membership, K)
    return blocks_of(P, cluster_sums(terms.linear, membership, K), structure.basis_scale)


def blocks_of(P: torch.Tensor, q: torch.Tensor, scales: torch.Tensor) -> Blocks:
    """The posterior of Z given what the tasks of every cluster say together.

    Args:
        P: Sums of Q_t over clusters, shape (B, K, D, D).
        q: Sums of q_t, shape (B, K, D).
        scales: Prior scales of mu and of the departures, shape (B, 2, D).
    """
    q = q[..., None]
    scale, spread = scales[:, 0], scales[:, 1][:, None, :, None]
    identity = torch.eye(P.shape[-1], dtype=P.dtype)
    L = cholesky_or_nan(identity + spread * P * spread.transpose(-1, -2))
    solved = torch.linalg.solve_triangular(L, spread * torch.cat([P, q], dim=-1), upper=False)
    A, a = solved[..., :-1], solved[..., -1:]
    rest = (P - A.transpose(-1, -2) @ A).sum(1)
    linear = scale[..., None] * (q - A.transpose(-1, -2) @ a).sum(1)
    L_mean = cholesky_or_nan(identity + scale[:, :, None] * rest * scale[:, None, :])
    return Blocks(L, A, a, L_mean, torch.linalg.solve_triangular(L_mean, linear, upper=False))


def cluster_moments(blocks: Blocks, scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Posterior means (B, K, D) and covariances (B, K, D, D) of z_k = mu + b_k.

    Args:
        blocks: The posterior of Z.
        scales: Prior scales of mu and of the departures, shape (B, 2, D).
    """
    scale, spread = scales[:, 0, :, None], scales[:, 1][:, None, :, None]
    identity = torch.eye(scales.shape[-1], dtype=scales.dtype)
    mean = scale * _solve_upper(blocks.L_mean, blocks.a_mean)
    root = scale * _solve_upper(blocks.L_mean, identity.expand_as(blocks.L_mean))
    # b_k = shift - slope mu + own noise with root `inner`
    slope = spread * _solve_upper(blocks.L, blocks.A)
    inner = spread * _solve_upper(blocks.L, identity.expand_as(blocks.L))
    kept = identity - slope
    z_root = torch.cat([kept @ root[:, None], inner], dim=-1)
    m = kept @ mean[:, None] + spread * _solve_upper(blocks.L, blocks.a)
    return m.squeeze(-1), z_root @ z_root.transpose(-1, -2)


class _LogMarginalClusters(torch.autograd.Function):
    """The collapsed density with its analytic gradient, by Fisher's identity as in `collapsed`."""

    @staticmethod
    def forward(
        ctx: Any,
        tasks: CompressedTasks,
        membership: torch.Tensor,
        basis_scale: torch.Tensor,
        residual_scale: torch.Tensor | None,
        residual_factor: torch.Tensor | None,
        noise: torch.Tensor,
    ) -> torch.Tensor:
        structure = Structure(None, basis_scale, residual_scale, residual_factor, membership)
        terms = task_terms(tasks, structure, noise)
        blocks = _blocks(terms, structure)
        if any(ctx.needs_input_grad):
            ctx.gradients = _gradients(tasks, structure, noise, terms, blocks)
        return terms.value + blocks.log_worth

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (upstream,) = grad_outputs
        chained = [
            None if g is None else g * upstream.reshape(-1, *([1] * (g.dim() - 1))) for g in ctx.gradients
        ]
        return (None, None, *chained)


def _gradients(
    tasks: CompressedTasks, structure: Structure, noise: torch.Tensor, terms: TaskTerms, blocks: Blocks
) -> tuple[torch.Tensor | None, ...]:
    """Gradients with respect to basis_scale, residual_scale, residual_factor and noise.

    With z ~ N(m, V) the posterior of a task's mu + b and u = q_t - Q_t m, d log p / d S_t = N_t / 2 for
    N_t = u u' + Q_t V Q_t - Q_t.
    """
    scales, membership = structure.basis_scale, structure.membership
    assert scales is not None and membership is not None
    scale, spread = scales[:, 0, :, None], scales[:, 1][:, None, :, None]
    identity = torch.eye(scales.shape[-1], dtype=noise.dtype)
    mean = scale * _solve_upper(blocks.L_mean, blocks.a_mean)
    root = scale * _solve_upper(blocks.L_mean, identity.expand_as(blocks.L_mean))
    # b_k = shift - slope mu + own noise with root `inner`
    shift = spread * _solve_upper(blocks.L, blocks.a)
    slope = spread * _solve_upper(blocks.L, blocks.A)
    inner = spread * _solve_upper(blocks.L, identity.expand_as(blocks.L))
    b_mean = shift - slope @ mean[:, None]
    b_roots = torch.cat([slope @ root[:, None], inner], dim=-1)
    b_square = (b_mean.squeeze(-1) ** 2 + (b_roots**2).sum(-1)).mean(1)
    mean_square = mean.squeeze(-1) ** 2 + (root**2).sum(-1)
    K = blocks.L.shape[1]
    basis = torch.stack([mean_square, b_square], dim=1) / scales**3 - 1 / scales
    basis = basis * torch.tensor([1.0, float(K)], dtype=noise.dtype)[:, None]

    z_root = torch.cat([(identity - slope) @ root[:, None], inner], dim=-1)
    own = (torch.arange(len(membership))[:, None], membership)
    m = (mean[:, None] + b_mean)[own].squeeze(-1)
    V = (z_root @ z_root.transpose(-1, -2))[own]
    Q, q = terms.precision, terms.linear
    Qm = (Q @ m[..., None]).squeeze(-1)
    u, QV = q - Qm, Q @ V
    # |h - H m|^2 + tr(H V H') - tr(S N)
    share = terms.square + (m * (Qm - 2 * q)).sum(-1) + QV.diagonal(dim1=-2, dim2=-1).sum(-1)
    residual = factor = None
    if structure.residual_scale is not None:
        diagonal = u**2 + (QV * Q).sum(-1) - Q.diagonal(dim1=-2, dim2=-1)  # of N
        share = share - (structure.residual_scale**2 * diagonal).sum(-1)
        shared = structure.residual_scale.shape[1] == 1
        residual = structure.residual_scale * (diagonal.sum(1, keepdim=True) if shared else diagonal)
    if structure.residual_factor is not None and structure.factor_by_task is not None:
        N = u[..., None] * u[..., None, :] + QV @ Q - Q
        along = N @ structure.factor_by_task
        share = share - (along * structure.factor_by_task).sum((-1, -2))
        factor = along.sum(1) if structure.residual_factor.dim() == 3 else along
    per_task = (tasks.residual / noise**2 - tasks.count + share) / noise
    return basis, residual, factor, per_task.sum(-1, keepdim=True) if noise.shape[1] == 1 else per_task


def log_marginal_clusters(tasks: CompressedTasks, structure: Structure, noise: torch.Tensor) -> torch.Tensor:
    """log p(y | partition, hyperparameters) with all of W and Z integrated out, differentiable.

    Costs O(T (r^2 D + r D^2)) + O(K D^3) per hyperparameter value and nothing in n.

    Args:
        tasks: Compressed data of T tasks.
        structure: Prior of W with its `membership`, for B hyperparameter values.
        noise: sigma_t, shape (B, T) or (B, 1).

    Returns:
        Log densities, shape (B,).

    Example:
        >>> from bayesmtl.algebra.statistics import TaskStatistics
        >>> y = np.array([1.0, 2.0, 4.0])
        >>> tasks = TaskStatistics.from_rows(np.ones((3, 1)), y, np.array([0, 0, 1]), 2).compress()
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> apart = Structure(one.expand(2, 1), one.expand(1, 2, 1), membership=torch.tensor([[0, 1]]))
        >>> round(log_marginal_clusters(tasks, apart, one).item(), 4)
        -6.9624
    """
    return _LogMarginalClusters.apply(  # type: ignore[no-untyped-call, no-any-return]
        tasks,
        structure.membership,
        structure.basis_scale,
        structure.residual_scale,
        structure.residual_factor,
        noise,
    )


def draw_population(terms: TaskTerms, structure: Structure, generator: torch.Generator) -> torch.Tensor:
    """Draw mu | y, partition, hyperparameters with cluster means integrated out, shape (B, D)."""
    assert structure.basis_scale is not None
    blocks = _blocks(terms, structure)
    fresh = torch.randn(blocks.a_mean.shape, generator=generator, dtype=torch.float64)
    return structure.basis_scale[:, 0] * _solve_upper(blocks.L_mean, blocks.a_mean + fresh).squeeze(-1)


def _solve_upper(L: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(L')^-1 right."""
    solved: torch.Tensor = torch.linalg.solve_triangular(L.transpose(-1, -2), right, upper=True)
    return solved


def draw_basis(terms: TaskTerms, structure: Structure, rng: np.random.Generator) -> torch.Tensor:
    """Draw Z | y, partition, hyperparameters: mu and the departures of the cluster means from it.

    Args:
        terms: What the data say.
        structure: Prior of W with its `membership`, for B hyperparameter values.
        rng: Source of randomness.

    Returns:
        Shape (B, 1 + K, D), zero rows for clusters that are empty in a draw.
    """
    assert structure.basis_scale is not None and structure.membership is not None
    blocks = _blocks(terms, structure)
    B, K, D, _ = blocks.A.shape
    fresh = standard_normal(rng, B, 1 + K, D, 1)
    scale, spread = structure.basis_scale[:, :1], structure.basis_scale[:, 1:]
    mean = scale * _solve_upper(blocks.L_mean, blocks.a_mean + fresh[:, 0])[:, None, :, 0]
    inner = blocks.a - blocks.A @ mean[..., None] + fresh[:, 1:]
    departures = spread * _solve_upper(blocks.L, inner).squeeze(-1)
    size = cluster_sums(
        torch.ones(structure.membership.shape, dtype=departures.dtype), structure.membership, K
    )
    return torch.cat([mean, departures * (size > 0)[..., None]], dim=1)


def draw_clustered(
    tasks: CompressedTasks, structure: Structure, noise: torch.Tensor, rng: np.random.Generator
) -> WeightDraws:
    """Draw Z and W | y, partition, hyperparameters exactly.

    Args:
        tasks: Compressed data of T tasks; tasks without rows follow their cluster.
        structure: Prior of W with its `membership`, for B hyperparameter values.
        noise: sigma_t, shape (B, T) or (B, 1).
        rng: Source of randomness.

    Returns:
        One draw for each value, Z as `draw_basis` gives it.
    """
    basis = draw_basis(task_terms(tasks, structure, noise), structure, rng)
    return draw_weights(tasks, structure, noise, basis, rng)
