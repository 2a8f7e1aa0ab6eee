"""The joint density of hyperparameters, Z and W, nothing integrated out, on coordinates that suit a sampler.

On paper                                      In code
phi                                           the hyperparameters' unconstrained coordinates
Z = basis_scale z, or Z itself                `basis`: z, or Z where the data say more about it than its prior
e_t = scale_t x_t + factor u_t, w_t = a_t'Z + e_t    `free`: (x_t, u_t), standard normal: non-centred
w_t ~ N(a_t'Z, S_t)                           `bound`: w_t itself: centred

Which of the two a task gets is decided by its information G_t = X_t' Omega X_t: the eigenvalues of (I + S_t
G_t)^-1 are the shares of prior variance that its rows leave. Where most is left, w_t follows a_t'Z and the
scales, and x_t does not; where little is left, w_t is fixed by its rows and it is x_t that would follow.

Source: Papaspiliopoulos, Roberts and Skoeld (2007), who show that a half is where the two are equally good
for a Gibbs sampler of one normal level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from bayesmtl.algebra.collapsed import cholesky_or_nan
from bayesmtl.algebra.conditional import shared_part
from bayesmtl.algebra.random import standard_normal
from bayesmtl.algebra.statistics import CompressedTasks
from bayesmtl.algebra.structure import Structure
from bayesmtl.posteriors.linear.posterior import LinearPosterior

HALF = 0.5  # share of prior variance left below which a quantity is its own coordinate
_LEAST_SHARE = 1e-6  # of S_t's largest eigenvalue: what is more singular than that has no density to speak of


class State(NamedTuple):
    """What coordinates mean, for a batch of B of them.

    Attributes:
        values: Hyperparameters, each (B, ...).
        basis: Z, shape (B, R, D).
        weights: W, shape (B, T, D).
        free: Non-centred coordinates of the tasks that have them, shape (B, T_f, D + K).
        log_prior: log p(coordinates), shape (B,).
    """

    values: dict[str, torch.Tensor]
    basis: torch.Tensor
    weights: torch.Tensor
    free: torch.Tensor
    log_prior: torch.Tensor


@dataclass(frozen=True, eq=False)
class Joint:
    """log p(y, W, Z, hyperparameters) of a problem without partitions.

    Args:
        problem: The posterior.
        centred: Which tasks are centred, bool (T,).
        basis_centred: Whether Z is.
    """

    problem: LinearPosterior
    centred: torch.Tensor
    basis_centred: bool

    @cached_property
    def layout(self) -> Layout:
        """Sizes of the parts of a point."""
        problem = self.problem
        T, D = problem.tasks.num_tasks, problem.num_weights
        structure = problem.structure(
            problem.space.constrain(torch.zeros(1, problem.space.size).double() + 0.5)
        )
        R = 0 if structure.basis_scale is None else structure.basis_scale.shape[1]
        own = 0 if structure.residual_scale is None else D
        K = 0 if structure.residual_factor is None else structure.residual_factor.shape[-1]
        bound = int(self.centred.sum()) if own or K else 0
        return Layout(problem.space.size, R, D, T - bound, own, K, bound)

    def state(self, x: torch.Tensor) -> State:
        """What points (B, n) mean."""
        layout, problem = self.layout, self.problem
        phi, z, free, bound = layout.parts(x)
        log_prior, values = problem.space.log_prior(phi)
        structure = problem.structure(values)
        basis = z
        if structure.basis_scale is not None:
            if self.basis_centred:
                log_prior = log_prior + _normal(z / structure.basis_scale)
                log_prior = log_prior - structure.basis_scale.abs().log().sum((-1, -2))
            else:
                basis = structure.basis_scale * z
                log_prior = log_prior + _normal(z)
        means = shared_part(structure, basis, problem.tasks.num_tasks)
        if not (layout.own or layout.factors):
            return State(values, basis, means, free, log_prior)
        log_prior = log_prior + _normal(free)
        if not layout.bound:
            return State(values, basis, means + self._residual(structure, free, None), free, log_prior)
        # index_select, whose gradient costs a fraction of that of an index in brackets
        log_prior = log_prior + self._log_residual(structure, bound - means.index_select(1, self._bound))
        weights = means.index_select(1, self._free) + self._residual(structure, free, self._free)
        weights = torch.cat([weights, bound], dim=1).index_select(1, self._order)
        return State(values, basis, weights, free, log_prior)

    def log_density(self, x: torch.Tensor) -> torch.Tensor:
        """The log density of points (B, n), shape (B,); NaN where it cannot be evaluated."""
        state = self.state(x)
        return state.log_prior + self.problem.log_likelihood(state.values, state.weights)

    def coordinates(
        self, points: torch.Tensor, basis: torch.Tensor, weights: torch.Tensor, factors: torch.Tensor
    ) -> torch.Tensor:
        """The inverse of `state`: (B, P), (B, R, D), (B, T, D), (B, T, K) -> (B, n).

        Where a scale is zero, what it multiplies is left at zero.
        """
        layout, B = self.layout, len(points)
        structure = self.problem.structure(self.problem.space.constrain(points))
        z = basis
        if structure.basis_scale is not None and not self.basis_centred:
            z = basis / structure.basis_scale
        apart = weights - shared_part(structure, basis, weights.shape[1])
        parts = []
        if structure.residual_scale is not None:
            own = apart
            if structure.residual_factor is not None:
                own = apart - factors @ structure.residual_factor.transpose(-1, -2)
            scale = structure.residual_scale.expand_as(own)
            parts.append(torch.where(scale.abs() > 0, own / scale, 0.0))
        if structure.residual_factor is not None:
            parts.append(factors)
        free = torch.cat(parts, dim=2)[:, ~self.centred] if parts else apart[:, :0]
        bound = weights[:, self.centred] if layout.bound else weights[:, :0]
        return torch.cat([points, *(part.reshape(B, -1) for part in (z, free, bound))], dim=1)

    def factors(self, state: State, rng: np.random.Generator) -> torch.Tensor:
        """Coordinates of every e_t along the shared factor, (B, T, K): as they are, or drawn given e_t.

        By Matheron's rule: u* + F'S^-1 (e - e*) for a draw (u*, e*) from the prior.
        """
        layout, (B, T, D) = self.layout, state.weights.shape
        drawn = torch.zeros(B, T, layout.factors, dtype=state.weights.dtype)
        if not layout.factors:
            return drawn
        drawn[:, ~self.centred] = state.free[..., layout.own :]
        if layout.bound:
            structure = self.problem.structure(state.values)
            assert structure.residual_factor is not None
            apart = (state.weights - shared_part(structure, state.basis, T))[:, self.centred]
            fresh = standard_normal(rng, B, layout.bound, layout.own + layout.factors)
            L = cholesky_or_nan(self._covariance(structure))
            gap = apart - self._residual(structure, fresh, self._bound)
            back = torch.cholesky_solve(gap[..., None], L.expand(B, layout.bound, D, D))[..., 0]
            drawn[:, self.centred] = fresh[..., layout.own :] + back @ structure.residual_factor
        return drawn

    @cached_property
    def _free(self) -> torch.Tensor:
        """Positions of the non-centred tasks."""
        return torch.nonzero(~self.centred)[:, 0]

    @cached_property
    def _bound(self) -> torch.Tensor:
        """Positions of the centred tasks."""
        return torch.nonzero(self.centred)[:, 0]

    @cached_property
    def _order(self) -> torch.Tensor:
        """Where each task is when the centred ones come last."""
        return torch.argsort(torch.argsort(self.centred.to(torch.int8), stable=True))

    def _residual(self, structure: Structure, free: torch.Tensor, tasks: torch.Tensor | None) -> torch.Tensor:
        """e_t of some tasks, or of all, from their standard normal coordinates (B, T', D + K)."""
        own, parts = self.layout.own, []
        if structure.residual_scale is not None:
            parts.append(_pick(structure.residual_scale, tasks) * free[..., :own])
        if structure.residual_factor is not None:
            parts.append(free[..., own:] @ structure.residual_factor.transpose(-1, -2))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def _log_residual(self, structure: Structure, apart: torch.Tensor) -> torch.Tensor:
        """log N(e_t; 0, S_t) of the centred tasks (B, T_b, D) together, shape (B,)."""
        if structure.residual_factor is None:
            scale = structure.residual_scale
            assert scale is not None
            scale = _pick(scale, self._bound).expand_as(apart)
            return _normal(apart / scale) - scale.abs().log().sum((-1, -2))
        L = cholesky_or_nan(self._covariance(structure)).expand(-1, apart.shape[1], -1, -1)
        white = torch.linalg.solve_triangular(L, apart[..., None], upper=False)[..., 0]
        return _normal(white) - L.diagonal(dim1=-2, dim2=-1).log().sum((-1, -2))

    def _covariance(self, structure: Structure) -> torch.Tensor:
        """S_t of the centred tasks, shape (B, T_b, D, D), or (B, 1, D, D) where shared."""
        return residual_covariance(structure, self._bound)


class Layout(NamedTuple):
    """Sizes of the parts of a point, end to end: phi, Z, non-centred tasks, centred tasks.

    Attributes:
        hyperparameters: P.
        rows: R.
        features: D.
        free: Number of non-centred tasks.
        own: Coordinates of each along `residual_scale`.
        factors: Coordinates of each along `residual_factor`.
        bound: Number of centred tasks.
    """

    hyperparameters: int
    rows: int
    features: int
    free: int
    own: int
    factors: int
    bound: int

    @property
    def shared(self) -> int:
        """Number of coordinates that belong to no task."""
        return self.hyperparameters + self.rows * self.features

    @property
    def size(self) -> int:
        """n, the number of all coordinates."""
        return self.shared + self.free * (self.own + self.factors) + self.bound * self.features

    def parts(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """phi (B, P), Z's (B, R, D), free (B, T_f, own + factors), bound (B, T_b, D)."""
        B, q = len(x), self.own + self.factors
        sizes = [self.hyperparameters, self.rows * self.features, self.free * q, self.bound * self.features]
        phi, z, free, bound = x.split(sizes, dim=1)
        return (
            phi,
            z.reshape(B, self.rows, self.features),
            free.reshape(B, self.free, q),
            bound.reshape(B, self.bound, self.features),
        )


def residual_covariance(structure: Structure, tasks: torch.Tensor | None = None) -> torch.Tensor:
    """S_t of some tasks, or of all, shape (B, T', D, D), or (B, 1, D, D) where all have the same."""
    total = None
    if structure.residual_scale is not None:
        total = torch.diag_embed(_pick(structure.residual_scale, tasks) ** 2)
    if structure.residual_factor is not None:
        product = (structure.residual_factor @ structure.residual_factor.transpose(-1, -2))[:, None]
        total = product if total is None else total + product
    assert total is not None
    return total


def informed(data: CompressedTasks, structure: Structure, noise: torch.Tensor) -> torch.Tensor:
    """Which tasks' rows leave less than half of the prior variance of e_t, bool (T,).

    Args:
        data: Gaussian data, or the pseudo-data that stand for rows.
        structure: Of one hyperparameter value.
        noise: sigma_t, shape (1, T) or (1, 1).
    """
    found = torch.zeros(data.num_tasks, dtype=torch.bool)
    if structure.residual_scale is None and structure.residual_factor is None:
        return found
    S = residual_covariance(structure)[0].expand(data.num_tasks, -1, -1)
    eigenvalues = torch.linalg.eigvalsh(S)
    regular = eigenvalues[:, 0] > _LEAST_SHARE * eigenvalues[:, -1]
    D = S.shape[-1]
    for group in data.groups:
        F = group.F.reshape(-1, *group.F.shape[-2:]) / group.pick(noise)[0, :, None, None]
        left = torch.linalg.inv(torch.eye(D, dtype=S.dtype) + S[group.index] @ F.transpose(-1, -2) @ F)
        found[group.index] = left.diagonal(dim1=-2, dim2=-1).sum(-1) < HALF * D
    both: torch.Tensor = found & regular
    return both


def _pick(values: torch.Tensor, tasks: torch.Tensor | None) -> torch.Tensor:
    """The entries of some tasks along dimension 1; a dimension of 1 is shared by all tasks."""
    return values if tasks is None or values.shape[1] == 1 else values.index_select(1, tasks)


def _normal(x: torch.Tensor) -> torch.Tensor:
    """log N(x; 0, 1), summed over all but the first dimension, shape (B,)."""
    flat = x.reshape(len(x), -1)
    return -0.5 * (flat**2).sum(1) - 0.5 * math.log(2 * math.pi) * flat.shape[1]
