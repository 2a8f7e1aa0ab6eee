"""Hyperparameters that hang on the partition, drawn given it: of its prior, and scales around cluster means.

With one cluster mu takes up its mean, and the spread tau follows its prior; with many it is known well. One
metric for Hamiltonian trajectories cannot fit both, so tau has moves of its own, which need no tuning:

- given Z, each tau_d with the departures b_kd held fixed, a density of one variable;
- given Z, with b_kd / tau_d held fixed: normal times the prior.

The first moves far where the data know b, the second where they do not (interweaving: Yu and Meng, 2011).
The same two move the scales within clusters, given Z and the departures e_t of the tasks: beside
trajectories, which are slow where many features have scales near 0. What belongs to the partition's prior
depends on nothing but the partition.
"""

from __future__ import annotations

import numpy as np
import torch

from bayesmtl.algebra.clusters import TaskTerms, cluster_sums, draw_basis, draw_clustered, task_terms
from bayesmtl.algebra.conditional import shared_part
from bayesmtl.algebra.random import standard_normal
from bayesmtl.algebra.structure import Structure
from bayesmtl.parameters import Parameter, ParameterSpace
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.posteriors.target import finite_or_least
from bayesmtl.priors import HalfNormal
from bayesmtl.samplers.slice import slice_sample
from bayesmtl.sharing.partitions.base import PartitionSharing, partition_of

# Of drawing Z and tau in turn, which costs little once clusters are summed up, and of moves of the
# partition's prior where it has few hyperparameters.
_REPEATS = 4
_LEAST = 1e-8  # of a spread: where its density may grow without bound the chain turns


def moved_given_partition(problem: LinearPosterior) -> torch.Tensor:
    """Which coordinates `move_scales` moves, bool (P,)."""
    sharing = partition_of(problem.sharing)
    names = {parameter.name for parameter in sharing.partition_parameters()} | {"cluster_scale"}
    flags = [np.full(parameter.size, parameter.name in names) for parameter in problem.space.parameters]
    return torch.from_numpy(np.concatenate([*flags, np.zeros(0, dtype=bool)]))


def move_scales(
    problem: LinearPosterior, points: torch.Tensor, membership: torch.Tensor, rng: np.random.Generator
) -> torch.Tensor:
    """Move the hyperparameters of the partition's prior, the spread of cluster means, and the scales within.

    Args:
        problem: A problem whose `tasks` are Gaussian data, the same for all chains or one set for each.
        points: Coordinates of the hyperparameters, shape (C, P).
        membership: Clusters, shape (C, T).
        rng: Source of randomness.

    Returns:
        Coordinates, shape (C, P).
    """
    sharing, space = partition_of(problem.sharing), problem.space
    points, of_partition = points.clone(), sharing.partition_parameters()
    if any(parameter.size for parameter in of_partition):
        start = space.place(of_partition[0].name)[1]
        own = ParameterSpace(of_partition)
        where = slice(start, start + own.size)
        points[:, where] = _of_partition(own, problem, points[:, where], membership, rng)
    moves = {"cluster_scale": _spread} | ({"residual_scale": _within} if _diagonal(sharing) else {})
    for name, move in moves.items():
        parameter, start = space.place(name)
        if parameter.size:
            with torch.no_grad():
                moved = move(problem, parameter, points, membership, rng)
            points[:, start : start + parameter.size] = moved
    return points


def _diagonal(sharing: PartitionSharing) -> bool:
    """Whether departures of tasks from their cluster are independent by feature and alike in all clusters."""
    return sharing.within == "diagonal" and not sharing.numbered


def _of_partition(
    space: ParameterSpace,
    problem: LinearPosterior,
    points: torch.Tensor,
    membership: torch.Tensor,
    rng: np.random.Generator,
) -> torch.Tensor:
    """Coordinates (C, size) of the hyperparameters of the partition's prior, one after the other."""
    sharing, points = partition_of(problem.sharing), points.clone()
    for position in max(1, _REPEATS // space.size) * list(range(space.size)):

        def log_density(x: torch.Tensor, position: int = position) -> torch.Tensor:
            tried = points.clone()
            tried[:, position] = x
            log_prior, values = space.log_prior(tried)
            given = sharing.log_partition(membership, values, problem.descriptors)
            return finite_or_least(log_prior + given)

        points[:, position] = slice_sample(log_density, points[:, position], rng)
    return points


def _spread(
    problem: LinearPosterior,
    parameter: Parameter,
    points: torch.Tensor,
    membership: torch.Tensor,
    rng: np.random.Generator,
) -> torch.Tensor:
    """The scales of cluster means, with signs that mean nothing, shape (C, D)."""
    values = problem.space.constrain(points)
    structure = problem.structure(values | {"cluster": membership})
    terms = task_terms(problem.tasks, structure, problem.noise(values, len(points)))
    K, tau = int(membership.max()) + 1, values["cluster_scale"]
    occupied = cluster_sums(torch.ones(membership.shape, dtype=tau.dtype), membership, K) > 0
    # clusters as tasks, each with all that its tasks say
    P, q = cluster_sums(terms.precision, membership, K), cluster_sums(terms.linear, membership, K)
    clusters = TaskTerms(P, q, q[..., 0], terms.value)
    assert structure.basis_scale is not None
    own = torch.arange(K).expand(len(points), -1)
    for _ in range(_REPEATS):
        scales = torch.stack([structure.basis_scale[:, 0], tau], dim=1)
        basis = draw_basis(clusters, Structure(None, scales, membership=own), rng)
        mean, b = basis[:, 0], basis[:, 1:] * occupied[..., None]
        tau = _given_departures(parameter, tau, b, occupied.sum(1), rng)
    ratio = b / tau[:, None]
    q = q - (P @ mean[:, None, :, None]).squeeze(-1)
    linear = (ratio * q).sum(1)
    quadratic = torch.einsum("bki,bkij,bkj->bij", ratio, P, ratio)
    return _given_ratios(parameter, tau, linear, quadratic, rng)


def _within(
    problem: LinearPosterior,
    parameter: Parameter,
    points: torch.Tensor,
    membership: torch.Tensor,
    rng: np.random.Generator,
) -> torch.Tensor:
    """The scales within clusters, with signs that mean nothing, shape (C, D)."""
    values, C = problem.space.constrain(points), len(points)
    structure, noise = problem.structure(values | {"cluster": membership}), problem.noise(values, C)
    drawn = draw_clustered(problem.tasks, structure, noise, rng)
    shared = shared_part(structure, drawn.basis, membership.shape[1])
    e = drawn.weights - shared
    number = torch.full((C,), membership.shape[1])
    scale = _given_departures(parameter, values["residual_scale"], e, number, rng)
    ratio = e / scale[:, None]
    linear, quadratic = torch.zeros_like(scale), torch.zeros(C, *2 * scale.shape[1:], dtype=scale.dtype)
    for group in problem.tasks.groups:
        own, F = ratio[:, group.index], group.F / group.pick(noise)[..., None, None]
        gap = group.c / group.pick(noise)[..., None] - (F @ shared[:, group.index, :, None]).squeeze(-1)
        along = F * own[..., None, :]  # d f / d scale
        linear = linear + torch.einsum("btrd,btr->bd", along, gap)
        rows = along.flatten(1, 2)
        quadratic = quadratic + rows.transpose(-1, -2) @ rows
    return _given_ratios(parameter, scale, linear, quadratic, rng)


def _given_departures(
    parameter: Parameter,
    tau: torch.Tensor,
    b: torch.Tensor,
    occupied: torch.Tensor,
    rng: np.random.Generator,
) -> torch.Tensor:
    """tau | b, all features and chains at once, shape (C, D)."""
    square = (b**2).sum(1).flatten()
    number = occupied[:, None].expand(tau.shape).flatten()

    def log_density(u: torch.Tensor) -> torch.Tensor:
        scale = u.exp()
        given = parameter.prior.log_prob(scale) + (1 - number) * u - 0.5 * square / scale**2
        return finite_or_least(given.masked_fill(scale < _LEAST, -torch.inf))

    drawn = slice_sample(log_density, tau.abs().clamp(min=2 * _LEAST).log().flatten(), rng)
    return drawn.exp().reshape(tau.shape)


def _given_ratios(
    parameter: Parameter,
    tau: torch.Tensor,
    linear: torch.Tensor,
    quadratic: torch.Tensor,
    rng: np.random.Generator,
) -> torch.Tensor:
    """tau | b / tau, shape (C, D): at once where its prior is normal on the signed line."""
    if isinstance(parameter.prior, HalfNormal):
        identity = torch.eye(tau.shape[1], dtype=tau.dtype)
        L = torch.linalg.cholesky(quadratic + identity / parameter.prior.scale**2)
        fresh = standard_normal(rng, *tau.shape, 1)
        white = torch.linalg.solve_triangular(L, linear[..., None], upper=False) + fresh
        drawn: torch.Tensor = torch.linalg.solve_triangular(L.transpose(-1, -2), white, upper=True)[..., 0]
        return drawn
    tau = tau.clone()
    for d in range(tau.shape[1]):
        bend = quadratic[:, d, d]
        slope = linear[:, d] - (quadratic[:, d] * tau).sum(1) + bend * tau[:, d]

        def log_density(
            x: torch.Tensor, slope: torch.Tensor = slope, bend: torch.Tensor = bend
        ) -> torch.Tensor:
            return finite_or_least(slope * x - 0.5 * bend * x**2 + parameter.prior.log_prob(x.abs()))

        tau[:, d] = slice_sample(log_density, tau[:, d], rng)
    return tau
