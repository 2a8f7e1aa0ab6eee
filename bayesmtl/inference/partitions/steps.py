"""What both Gibbs engines do with partitions: where chains start, and moves given Gaussian data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from bayesmtl.algebra.clusters import TaskTerms, draw_population, task_terms
from bayesmtl.algebra.conditional import log_likelihood_given_basis
from bayesmtl.algebra.random import standard_normal
from bayesmtl.algebra.statistics import CompressedTasks
from bayesmtl.algebra.structure import Structure
from bayesmtl.inference.partitions.moves import Evidence, EvidenceByCluster, gibbs_sweep, split_merge
from bayesmtl.inference.partitions.prior_weights import weights_of
from bayesmtl.inference.partitions.starts import k_means, k_subspaces
from bayesmtl.parameters import ParameterSpace
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.posteriors.target import Density
from bayesmtl.samplers.modes import ROUGHLY, find_modes, highest, rounded, spread_root
from bayesmtl.sharing.partitions.base import PartitionSharing, in_order, num_clusters, partition_of

_PROPOSALS = 3  # proposals to split or merge after every sweep
# With more tasks only one, and one more for so many: if clusters are large a proposal is as long as a sweep.
# While chains warm up and have small clusters, as where they start apart, as many as there are clusters.
_MANY_TASKS, _TASKS_PER_PROPOSAL = 50, 400
_NEAREST = 20  # tasks near each, of which proposals choose
_AT_ONCE = 500  # tasks whose distances from all are in memory
# Standard deviations from a mode that chains start: scales near 0 make the approximation there a poor one.
_NEAR = 0.1
_MOST_APART = 100  # tasks up to which a chain starts with every task apart: its first sweep costs T^2


class WithPartitions(Protocol):
    """A posterior of hyperparameters given the partition of the tasks."""

    @property
    def space(self) -> ParameterSpace:
        """The hyperparameters."""

    def given(self, membership: torch.Tensor) -> Density:
        """The same given partitions, shape (B, T)."""

    def fingerprint(self) -> str:
        """Changes whenever the model or the data do."""


def num_proposals(membership: torch.Tensor, *, warming_up: bool) -> int:
    """How often a round of moves of partitions (C, T) proposes to split or merge clusters.

    After warm-up it must not depend on where the chains are.
    """
    T = membership.shape[1]
    few = _PROPOSALS if T <= _MANY_TASKS else 1 + T // _TASKS_PER_PROPOSAL
    return max(few, int(num_clusters(membership).double().mean())) if warming_up else few


def move_partition(
    problem: LinearPosterior,
    points: torch.Tensor,
    membership: torch.Tensor,
    generator: torch.Generator,
    near: np.ndarray | None = None,
    *,
    warming_up: bool = False,
) -> torch.Tensor:
    """Move partitions given the hyperparameters and Gaussian data, weights and cluster means integrated out.

    mu is drawn exactly, then every task draws its cluster anew; mu again, then clusters are split and merged.

    Args:
        problem: A problem whose `tasks` are Gaussian data, the same for all chains or one set for each.
        points: Coordinates of the hyperparameters, shape (C, P).
        membership: Clusters, shape (C, T).
        generator: Source of randomness.
        near: As for `split_merge`; see `neighbours`.
        warming_up: Whether the number of proposals may depend on where the chains are.

    Returns:
        Clusters as the prior numbers them, shape (C, T).
    """
    with torch.no_grad():
        values = problem.space.constrain(points)
        noise = problem.noise(values, len(points))
        structure = problem.structure(values | {"cluster": membership})
        evidence: _Common | _ByCluster
        if structure.residuals_by_cluster:
            evidence = _ByCluster.of(problem.tasks, structure, noise)
        else:
            evidence = _Common(task_terms(problem.tasks, structure, noise), structure)
        weights = weights_of(problem, values)
        data = evidence.about_population(membership, generator)
        membership = torch.from_numpy(gibbs_sweep(membership.numpy(), data, weights, generator))
        if membership.shape[1] > 1:
            data = evidence.about_population(membership, generator)
            for _ in range(num_proposals(membership, warming_up=warming_up)):
                moved, _ = split_merge(membership.numpy(), data, weights, generator, near)
                membership = torch.from_numpy(moved)
    return membership


@dataclass(frozen=True, eq=False)
class _Common:
    """What tasks say where they say the same in all clusters."""

    terms: TaskTerms
    structure: Structure

    def about_population(self, membership: torch.Tensor, generator: torch.Generator) -> Evidence:
        """Draw mu, and say what the data say about the partition then."""
        structure = self.structure.assigned(membership)
        assert structure.basis_scale is not None
        mean = draw_population(self.terms, structure, generator)
        return Evidence.of(*self.terms.about(mean, structure.basis_scale[:, 1]))


@dataclass(frozen=True, eq=False)
class _ByCluster:
    """What tasks say in each cluster, with its residual."""

    tasks: CompressedTasks
    structure: Structure
    noise: torch.Tensor
    terms: list[TaskTerms]

    @classmethod
    def of(cls, tasks: CompressedTasks, structure: Structure, noise: torch.Tensor) -> _ByCluster:
        """With all tasks in one cluster after the other."""
        own = structure.cluster_factor if structure.cluster_scale is None else structure.cluster_scale
        assert own is not None
        terms = [task_terms(tasks, _all_in(structure, k), noise) for k in range(own.shape[1])]
        return cls(tasks, structure, noise, terms)

    def about_population(self, membership: torch.Tensor, generator: torch.Generator) -> EvidenceByCluster:
        """Draw mu, and say what the data say about the partition then."""
        structure = self.structure.assigned(membership)
        assert structure.basis_scale is not None
        chain, task = torch.arange(len(membership))[:, None], torch.arange(membership.shape[1])
        precision, linear, square = (
            torch.stack([getattr(terms, name) for terms in self.terms], dim=1)[chain, membership, task]
            for name in ("precision", "linear", "square")
        )
        now = TaskTerms(precision, linear, square, self.terms[0].value)
        mean = draw_population(now, structure, generator)
        K, spread = len(self.terms), structure.basis_scale[:, 1]
        about = [Evidence.of(*terms.about(mean, spread)).terms for terms in self.terms]
        at_mean = torch.nn.functional.pad(mean[:, None], (0, 0, 0, K))  # Z without departures
        density = [
            log_likelihood_given_basis(self.tasks, _all_in(structure, k), self.noise, at_mean)
            for k in range(K)
        ]
        return EvidenceByCluster(np.stack(about, axis=1), torch.stack(density, dim=1).numpy())


def _all_in(structure: Structure, cluster: int) -> Structure:
    """With all tasks in one cluster."""
    assert structure.membership is not None
    return structure.assigned(torch.full_like(structure.membership, cluster))


def starting_partitions(
    problem: LinearPosterior, tasks: CompressedTasks, num_chains: int, rng: np.random.Generator
) -> torch.Tensor:
    """Where chains start, shape (C, T): together, apart, and k-means with 2, 4 .. clusters.

    Args:
        problem: The posterior.
        tasks: Gaussian data, the same for all chains.
        num_chains: C.
        rng: Source of randomness.

    Raises:
        SpecificationError: If the prior does not allow so few tasks.
    """
    sharing = partition_of(problem.sharing)
    sharing.check_tasks(tasks.num_tasks)
    return dispersed_partitions(sharing, own_estimates(tasks), num_chains, rng)


def dispersed_partitions(
    sharing: PartitionSharing, estimates: np.ndarray, num_chains: int, rng: np.random.Generator
) -> torch.Tensor:
    """All tasks together, all apart, and k-means of estimates (T, D) with 2, 4 .. clusters: (C, T).

    Where clusters have subspaces, whose directions no chain finds while tasks are together, every fourth
    chain starts at tasks grouped by subspaces, the first one among them.
    """
    T = len(estimates)
    most = sharing.most_clusters(T)
    partitions = []
    for chain in range(num_chains):
        kind, again = chain % 4, chain // 4
        if sharing.num_directions:
            if kind == 0:
                partitions.append(k_subspaces(estimates, min(most, T), sharing.num_directions, rng))
                continue
            kind -= 1
        if kind == 0:
            number = 1
        elif kind == 1:
            number = min(T, most, _MOST_APART)
        else:
            number = min(2 ** (kind - 1 + again), most, T)
        partitions.append(k_means(estimates, number, rng))
    return in_order(torch.from_numpy(np.stack(partitions)))


@dataclass(frozen=True, eq=False)
class _Given:
    """The density of the hyperparameters given one partition (T,)."""

    problem: WithPartitions
    partition: torch.Tensor

    def value(self, points: torch.Tensor) -> torch.Tensor:
        return self.problem.given(self.partition.expand(len(points), -1)).value(points)

    def value_and_gradient(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.problem.given(self.partition.expand(len(points), -1)).value_and_gradient(points)


def starting_points(
    problem: WithPartitions, membership: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where hyperparameters start: near their mode given each chain's partition.

    From far outside trajectories take hundreds of iterations to the bulk of the posterior, and on the way
    partitions move under scales that mean nothing.

    Args:
        problem: A problem whose data are the same for all chains.
        membership: Clusters, shape (C, T).
        rng: Source of randomness.

    Returns:
        Coordinates (C, P), and a root of the covariance at the highest of the modes, shape (P, P).
    """
    starts = problem.space.initial(rng, len(membership))
    if not starts.shape[1]:
        return starts, torch.eye(0, dtype=starts.dtype)
    densities = [_Given(problem, partition) for partition in membership]
    modes = [
        find_modes(density, start[None], ROUGHLY)[0] for density, start in zip(densities, starts, strict=True)
    ]
    top = modes.index(highest(modes))
    point, root = rounded(modes[top].point, spread_root(densities[top], modes[top].point, rng))
    centers = torch.stack([rounded(mode.point, root)[0] for mode in modes])
    fresh = standard_normal(rng, *centers.shape)
    return centers + _NEAR * fresh @ root.T, root


def own_estimates(tasks: CompressedTasks) -> np.ndarray:
    """Ridge estimates of every task by itself with unit prior and noise scales, shape (T, D)."""
    T, D = tasks.num_tasks, tasks.num_features
    estimates = torch.zeros(T, D, dtype=torch.float64)
    identity = torch.eye(D, dtype=torch.float64)
    for group in tasks.groups:
        transposed = group.F.transpose(-1, -2)
        right = transposed @ group.c[..., None]
        solved = torch.linalg.solve(transposed @ group.F + identity, right)
        estimates[group.index] = solved.reshape(-1, D)
    return estimates.numpy()


def neighbours(tasks: CompressedTasks) -> np.ndarray | None:
    """The tasks whose own estimates are nearest to those of each, (T, 20); `None` where tasks are few."""
    if tasks.num_tasks <= _MANY_TASKS:
        return None
    estimates = torch.from_numpy(own_estimates(tasks))
    found = [
        torch.cdist(part, estimates).topk(_NEAREST + 1, largest=False).indices[:, 1:]
        for part in estimates.split(_AT_ONCE)
    ]
    return torch.cat(found).numpy()
