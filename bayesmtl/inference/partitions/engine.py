"""The Gibbs engine: partitions of the tasks, and hyperparameters given the partition."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch

from bayesmtl.algebra.clusters import draw_clustered
from bayesmtl.algebra.conditional import WeightDraws
from bayesmtl.inference.partitions.scales import move_scales, moved_given_partition
from bayesmtl.inference.partitions.steps import (
    WithPartitions,
    move_partition,
    neighbours,
    starting_partitions,
    starting_points,
)
from bayesmtl.posteriors.draws import LinearDraws
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.posteriors.target import Density
from bayesmtl.samplers.chains import sweep
from bayesmtl.samplers.checkpoint import Checkpoint
from bayesmtl.samplers.hmc import HMC, State, stacked
from bayesmtl.samplers.settings import Settings

NUM_DRAWS = 500  # by default, per chain
# Length of a trajectory: a little shorter than where nothing else moves.
TRAJECTORY = 2.0
_CHUNK = 2_000_000  # numbers of workspace handled at once when weights are drawn


def partition_gibbs(problem: LinearPosterior, settings: Settings) -> LinearDraws:
    """Sample partitions of the tasks, hyperparameters and weights of a Gaussian model.

    Approximates nothing. Every iteration draws mu exactly, lets every task draw its cluster anew with weights
    and cluster means integrated out, and proposes to split and to merge clusters. Then the concentration
    moves given the partition, and the spread of the cluster means given Z (`partition_scales`); the other
    hyperparameters by one Hamiltonian trajectory on their density given the partition with mu integrated out
    too. Z and W are drawn exactly for every kept draw. Chains start from different partitions: all tasks
    together, all apart, and k-means of the tasks' own estimates; hyperparameters start near their mode given
    the partition.

    An interrupt (Ctrl-C) after warm-up returns the draws made so far, marked incomplete; with a checkpoint,
    the same call goes on later.

    Raises:
        KeyboardInterrupt: If interrupted while nothing is drawn yet.
        CheckpointError: If the checkpoint is damaged or belongs to another run.
        SpecificationError: If there are fewer tasks than clusters are asked for.
    """
    rng = np.random.default_rng(settings.seed)
    (weights_rng,) = rng.spawn(1)
    sampler = WeightPartitionSampler(problem, settings.num_warmup)
    points, membership, sample_stats, complete = run_chains(sampler, settings, rng)
    return complete_given_partitions(
        problem, points, membership, sample_stats, weights_rng, complete=complete
    )


def run_chains(
    sampler: PartitionSampler, settings: Settings, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, dict[str, np.ndarray], bool]:
    """Points (C, N, P), partitions (C, N, T), statistics (C, N) each, and whether all draws are there."""
    num_draws = NUM_DRAWS if settings.num_draws is None else settings.num_draws
    checkpoint = None
    state = None
    if settings.checkpoint is not None:
        run = (settings.seed, settings.num_chains, settings.num_warmup)
        checkpoint = Checkpoint(settings.checkpoint, f"{sampler.problem.fingerprint()} gibbs {run}")
        state = checkpoint.load()
    if state is None:
        state = sampler.start(settings.num_chains, rng)
    complete = sweep(state, sampler.advance, num_draws, settings, checkpoint)
    points, sample_stats = stacked(state, num_draws)
    membership = state.further["kept"][:, : points.shape[1]]
    return points, membership, sample_stats, complete


class PartitionSampler(ABC):
    """A batch of chains over partitions and hyperparameters.

    Args:
        problem: The posterior.
        num_warmup: Iterations to adapt in, not kept.
    """

    def __init__(self, problem: WithPartitions, num_warmup: int):
        self.problem, self.num_warmup = problem, num_warmup
        self.given: Density
        signed = problem.space.signed()
        self.hmc = HMC(
            lambda points: self.given.value(points),
            self._value_and_gradient,
            num_warmup=num_warmup,
            signed=signed,
            trajectory=TRAJECTORY,
            held=self.moved_given_partition(),
        )
        # a surrogate learns one density, and this one changes with the partition
        self.hmc.may_use_surrogate = False

    def _value_and_gradient(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if points.shape[1] == 0:
            return self.given.value(points), points
        return self.given.value_and_gradient(points)

    def start(self, num_chains: int, rng: np.random.Generator) -> State:
        """The state before the first iteration, with chains at different partitions."""
        membership = self.starting(num_chains, rng)
        points, root = starting_points(self.problem, membership, rng)
        self.given = self.problem.given(membership)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        state = self.hmc.start(points, root, generator)
        state.further = {"membership": membership, "kept": membership[:, None][:, :0]}
        return state

    @abstractmethod
    def starting(self, num_chains: int, rng: np.random.Generator) -> torch.Tensor:
        """Partitions that chains start from, shape (C, T)."""

    def moved_given_partition(self) -> torch.Tensor | None:
        """Which coordinates `move` moves, bool (P,); `None` where trajectories move all of them."""
        return None

    @abstractmethod
    def move(self, state: State) -> tuple[torch.Tensor, torch.Tensor]:
        """One round of moves of partitions (C, T), and points (C, P) after those made given the partition."""

    def advance(self, state: State) -> None:
        """One iteration of all chains, in place."""
        membership, state.points = self.move(state)
        kept = state.further["kept"]
        if state.iteration >= self.num_warmup:
            kept = torch.cat([kept, membership[:, None]], dim=1)
        state.further = {"membership": membership, "kept": kept}
        self.given = self.problem.given(membership)
        state.value, state.gradient = self._value_and_gradient(state.points)
        if state.points.shape[1]:
            self.hmc.advance(state)
            return
        state.iteration += 1  # every hyperparameter is known
        if state.iteration > self.num_warmup:
            state.draws.append(state.points)
            ones = torch.ones_like(state.value)
            state.stats.append(torch.stack([ones, 0 * ones, 0 * ones, state.value, 0 * ones], dim=1))


class WeightPartitionSampler(PartitionSampler):
    """A batch of chains over partitions of tasks by their weights.

    Args:
        problem: The posterior.
        num_warmup: Iterations to adapt in, not kept.
    """

    def __init__(self, problem: LinearPosterior, num_warmup: int):
        self.posterior, self.near = problem, neighbours(problem.tasks)
        super().__init__(problem, num_warmup)

    def starting(self, num_chains: int, rng: np.random.Generator) -> torch.Tensor:
        """All together, all apart, and k-means of the tasks' own estimates."""
        return starting_partitions(self.posterior, self.posterior.tasks, num_chains, rng)

    def moved_given_partition(self) -> torch.Tensor | None:
        """Hyperparameters of the partition's prior, and the spread of cluster means."""
        return moved_given_partition(self.posterior)

    def move(self, state: State) -> tuple[torch.Tensor, torch.Tensor]:
        """Every task draws its cluster anew, clusters are split and merged, and scales move."""
        membership, points = state.further["membership"], state.points
        warming_up = state.iteration < self.num_warmup
        membership = move_partition(
            self.posterior, points, membership, state.generator, self.near, warming_up=warming_up
        )
        if points.shape[1]:
            rng = np.random.default_rng(int(torch.randint(2**62, (), generator=state.generator)))
            points = move_scales(self.posterior, points, membership, rng)
        return membership, points


def complete_given_partitions(
    problem: LinearPosterior,
    points: torch.Tensor,
    membership: torch.Tensor,
    sample_stats: dict[str, np.ndarray],
    rng: np.random.Generator,
    *,
    complete: bool,
) -> LinearDraws:
    """Draw Z and W exactly for every kept point (C, N, P) and partition (C, N, T)."""
    C, N, P = points.shape
    T, D = problem.tasks.num_tasks, problem.tasks.num_features
    values = problem.space.constrain(points.reshape(C * N, P))
    values["cluster"] = membership.reshape(C * N, T)
    num_rows = 2 + int(membership.max())
    size = max(1, _CHUNK // (T * D * D))
    parts = []
    for start in range(0, C * N, size):
        chunk = {name: value[start : start + size] for name, value in values.items()}
        noise = problem.noise(chunk, len(chunk["cluster"]))
        parts.append(draw_clustered(problem.tasks, problem.structure(chunk), noise, rng))
    basis = [torch.nn.functional.pad(p.basis, (0, 0, 0, num_rows - p.basis.shape[1])) for p in parts]
    drawn = WeightDraws(
        torch.cat([part.weights for part in parts]),
        torch.cat(basis),
        torch.cat([part.factors for part in parts]),
    )
    return LinearDraws.shaped(C, N, values, drawn, sample_stats, complete=complete)
