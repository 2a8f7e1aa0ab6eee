"""Coordinates of the joint density in which its normal approximation is standard, block by block.

Laplace's method gives draws of hyperparameters and weights for little; their spread is a metric that a
sampler need not learn in warm-up, and the family of normal distributions that variational inference sets out
from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bayesmtl.posteriors.linear.joint import Joint, informed
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.samplers.search import NormalApproximation, normal_approximation

NUM_REFERENCE = 200  # draws of the normal approximation
_MOST_DENSE = 200  # coordinates of a block whose correlations are used
_DIGITS = 3


@dataclass(frozen=True, eq=False)
class Whitening:
    """x = center + root v, root block-diagonal: one block for what tasks share, one for each task.

    Args:
        joint: The density, on coordinates x.
        center: Shape (n,).
        shared: Root of the block of hyperparameters and Z, shape (m, m).
        free: Roots of the non-centred tasks, shape (T_f, q, q).
        bound: Roots of the centred tasks, shape (T_b, D, D).
        starts: Points where chains start, in v, shape (C, n).
        converged: Whether the mode of the hyperparameters is one.
    """

    joint: Joint
    center: torch.Tensor
    shared: torch.Tensor
    free: torch.Tensor
    bound: torch.Tensor
    starts: torch.Tensor
    converged: bool

    def to_x(self, v: torch.Tensor) -> torch.Tensor:
        """From whitened coordinates (B, n) to those of the joint density."""
        layout, B = self.joint.layout, len(v)
        shared = v[:, : layout.shared] @ self.shared.T
        parts, start = [shared], layout.shared
        for roots in (self.free, self.bound):
            stop = start + roots.shape[0] * roots.shape[1]
            block = v[:, start:stop].reshape(B, roots.shape[0], roots.shape[1])
            parts.append((roots @ block[..., None])[..., 0].reshape(B, -1))
            start = stop
        return self.center + torch.cat(parts, dim=1)

    def log_density(self, v: torch.Tensor) -> torch.Tensor:
        """The joint log density at whitened coordinates (B, n), up to a constant, shape (B,)."""
        return self.joint.log_density(self.to_x(v))


def whitening(problem: LinearPosterior, num_chains: int, rng: np.random.Generator) -> Whitening:
    """Find the mode of the hyperparameters, draw around it, and measure the draws.

    Args:
        problem: The posterior.
        num_chains: C.
        rng: Source of randomness.
    """
    P = problem.space.size
    density = problem.density()
    nowhere = torch.zeros(1, P, dtype=torch.float64)
    normal = NormalApproximation(nowhere, torch.zeros(P, P, dtype=torch.float64), 0, True)
    if P:
        normal = normal_approximation(density, problem, rng)
    top = normal.centers[normal.highest][None]
    values = problem.space.constrain(top)
    structure, noise = problem.structure(values), problem.noise(values, 1)
    tasks = problem.data_given(structure, 1, values)
    points = torch.cat([normal.draw(NUM_REFERENCE, rng, mode=normal.highest), normal.draw(num_chains, rng)])
    drawn = problem.complete(points[None], {}, rng)
    basis, weights, factors = drawn.basis[0], drawn.weights[0], drawn.factors[0]
    basis_centred = False
    if structure.basis_scale is not None:
        left = basis[:NUM_REFERENCE].var(0) / structure.basis_scale[0] ** 2
        basis_centred = float(left.mean()) < 0.5
    joint = Joint(problem, informed(tasks, structure, noise), basis_centred)
    x = joint.coordinates(points, basis, weights, factors)
    reference = x[:NUM_REFERENCE]
    center = reference.mean(0).round(decimals=_DIGITS)
    layout = joint.layout
    _, _, free, bound = layout.parts(reference)
    shared = _root(reference[:, None, : layout.shared])[0]
    whitened = Whitening(joint, center, shared, _root(free), _root(bound), x[:0], normal.converged)
    return Whitening(
        joint,
        center,
        whitened.shared,
        whitened.free,
        whitened.bound,
        _to_v(whitened, x[NUM_REFERENCE:]).round(decimals=_DIGITS),
        normal.converged,
    )


def _root(draws: torch.Tensor) -> torch.Tensor:
    """Cholesky factors of the covariances of blocks of draws (S, K, q), shape (K, q, q).

    Correlations are shrunk as far as few draws make them noise, and all is kept to a few digits: what the
    order of the rows changes by rounding would grow along chains.
    """
    S, K, q = draws.shape
    if K == 0 or q == 0:
        return torch.zeros(K, q, q, dtype=draws.dtype)
    apart = draws - draws.mean(0)
    sd = apart.std(0)
    sd = torch.where(sd > 0, sd, 1.0).to(torch.bfloat16).double()
    if q > _MOST_DENSE:
        return torch.diag_embed(sd)
    apart = apart / sd
    correlation = torch.einsum("skp,skq->kpq", apart, apart) / S
    keep = S / (S + 2 * q)
    identity = torch.eye(q, dtype=draws.dtype)
    root: torch.Tensor = torch.linalg.cholesky(keep * correlation + (1 - keep) * identity)
    return sd[..., None] * root.round(decimals=_DIGITS)


def _to_v(whitening: Whitening, x: torch.Tensor) -> torch.Tensor:
    layout, B = whitening.joint.layout, len(x)
    apart = x - whitening.center
    _, _, free, bound = layout.parts(apart)
    parts = []
    if layout.shared:
        parts.append(torch.linalg.solve(whitening.shared, apart[:, : layout.shared].T).T)
    for roots, block in ((whitening.free, free), (whitening.bound, bound)):
        if roots.numel():
            parts.append(torch.linalg.solve(roots, block[..., None])[..., 0].reshape(B, -1))
    return torch.cat([*parts, x[:, :0]], dim=1)
