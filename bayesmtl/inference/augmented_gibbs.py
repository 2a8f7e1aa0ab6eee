"""The Gibbs engine for rows: Polya-Gamma augmentation, the rest updated while all weights are out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from bayesmtl.algebra.clusters import draw_clustered
from bayesmtl.algebra.conditional import WeightDraws, draw_posterior
from bayesmtl.algebra.statistics import CompressedTasks
from bayesmtl.algebra.structure import Structure
from bayesmtl.inference.draws import Draws
from bayesmtl.inference.hmc import DIVERGENCE, StepSize, leapfrog
from bayesmtl.inference.marginal import Expansion, LaplaceMarginal
from bayesmtl.inference.mode import around_modes
from bayesmtl.inference.partition_moves import Weights
from bayesmtl.inference.partition_step import move_partition, starting_partitions
from bayesmtl.inference.polya_gamma import polya_gamma
from bayesmtl.inference.problem import Problem
from bayesmtl.inference.progress import iterations
from bayesmtl.inference.renewal import renew, renew_with_clusters
from bayesmtl.inference.settings import Settings, refuse_checkpoint
from bayesmtl.likelihoods import PolyaGamma, Rowwise
from bayesmtl.sharing import PartitionSharing

NUM_DRAWS = 500  # by default, per chain
TRAJECTORY = 1.6  # length in units of the metric's standard deviations: about a quarter period
_MAX_STEPS = 16
_TARGET = 0.8  # mean acceptance
# Share of warm-up at which the chains' own spread replaces the curvature at the mode, and their mean the
# mode.
_LEARNED_AT = 0.5
_STARTING_ROUNDS = (
    3  # of expanding the likelihood about weights and drawing them anew, where no mode is sought
)


def augmented_gibbs(problem: Problem, settings: Settings) -> Draws:
    """Sample the full posterior of a model for yes/no outcomes or successes out of trials (logit link).

    Approximates nothing. With one Polya-Gamma variable omega per row the rows become Gaussian data, so
    that a sweep is: omega given W, row by row; where tasks are partitioned, their clusters given omega by
    Gibbs and split-merge moves, and the hyperparameters given omega by Hamiltonian Monte Carlo, both with
    W and Z integrated out; Z and W given all of these, exactly and at once. Where events are rare, such
    draws of W move slowly. So the sweep ends with another draw of each task's weights given Z and the
    hyperparameters: proposed under a second-order expansion of the likelihood at a point that warm-up has
    found, and accepted or not by Metropolis' rule, task by task; with partitions, together with another
    draw of the task's cluster, which would otherwise be as slow where a task has many rows. Chains are
    one batch. They start around the mode of the Laplace approximation, whose curvature is the first
    metric; with partitions, at different ones, as the engine for Gaussian outcomes does.

    `Fit.check` says whether the run was long enough. A sweep costs time in proportion to the number of rows,
    and for `Binomial` to the number of trials.

    Source: Polson, Scott and Windle (2013) for the augmentation; updating the hyperparameters with the
    weights integrated out is the `exact` engine's way, applied to the augmented data.

    An interrupt (Ctrl-C) after warm-up returns the draws made so far, marked incomplete.

    Raises:
        KeyboardInterrupt: If interrupted while nothing is drawn yet.
        SpecificationError: If a checkpoint is asked for, or there are fewer tasks than clusters.
    """
    refuse_checkpoint(settings, "gibbs")
    num_draws = NUM_DRAWS if settings.num_draws is None else settings.num_draws
    rng = np.random.default_rng(settings.seed)
    sampler = Gibbs(problem, settings.num_warmup)
    state = sampler.start(settings.num_chains, rng)
    total, complete = settings.num_warmup + num_draws, True
    try:
        for _ in iterations(0, total, f"{settings.num_chains} chains", show=settings.progress):
            sampler.advance(state, rng)
    except KeyboardInterrupt:
        if len(state.draws) < 4:
            raise
        complete = False
    return _collect(problem, state, complete)


@dataclass
class State:
    """Where the chains are, and what they have drawn.

    Args:
        points: Hyperparameter coordinates, shape (C, P).
        current: W, Z and the coordinates along shared factors.
        step: Step-size adaptation.
        root: Root of the inverse metric, shape (P, P).
        reference: Expansion of the likelihood (of one batch entry) that proposals of weights come from.
        generator: Source of randomness of the partitions' moves.
        membership: Clusters of the tasks, shape (C, T); `None` where they are not partitioned.
        weights_seen: Sum of the weights of warm-up's sweeps, shape (T, D), and the number of them.
        window: Warm-up points.
        points_drawn: Kept points, each (C, P).
        draws: Kept weights and basis.
        stats: Per kept draw: acceptance, energy error, steps, each (C, 3).
        renewed: Per kept draw, the share of tasks whose proposed weights were accepted, each (C,).
        partitions: Kept partitions, each (C, T).
        density: Per kept draw, log p(y | W) + log p(hyperparameters, partition), each (C,).
        iteration: Sweeps done.
    """

    points: torch.Tensor
    current: WeightDraws
    step: StepSize
    root: torch.Tensor
    reference: Expansion
    weights_seen: tuple[torch.Tensor, int]
    generator: torch.Generator
    membership: torch.Tensor | None = None
    window: list[torch.Tensor] = field(default_factory=list)
    points_drawn: list[torch.Tensor] = field(default_factory=list)
    draws: list[WeightDraws] = field(default_factory=list)
    stats: list[torch.Tensor] = field(default_factory=list)
    renewed: list[torch.Tensor] = field(default_factory=list)
    partitions: list[torch.Tensor] = field(default_factory=list)
    density: list[torch.Tensor] = field(default_factory=list)
    iteration: int = 0


class Gibbs:
    """Sweeps of a batch of chains.

    Args:
        problem: A problem with rows and a Polya-Gamma representation.
        num_warmup: Sweeps in which step size and metric adapt.
    """

    def __init__(self, problem: Problem, num_warmup: int):
        assert problem.rows is not None and isinstance(problem.likelihood, Rowwise)
        self.problem, self.num_warmup = problem, num_warmup
        self.rows, self.likelihood = problem.rows, problem.likelihood
        self.marginal = LaplaceMarginal(problem)
        real = self.rows.real
        augmentation = self.likelihood.polya_gamma(self.rows.y[real].numpy())
        assert augmentation is not None
        self.augmentation: PolyaGamma = augmentation
        self.kappa = torch.zeros(1, self.rows.size, dtype=torch.float64)
        self.kappa[0, real] = torch.from_numpy(augmentation.kappa)

    def start(self, num_chains: int, rng: np.random.Generator) -> State:
        """Where chains start: hyperparameters, partitions where there are any, and weights."""
        if self.problem.sharing.has_partition:
            return self._start_partitions(num_chains, rng)
        P = self.problem.space.size
        points, root = torch.zeros(num_chains, 0, dtype=torch.float64), torch.zeros(0, 0, dtype=torch.float64)
        if P:  # around the mode of the Laplace approximation
            points, root = around_modes(self.marginal, self.problem, num_chains, rng)
        structure = self.problem.structure(self.problem.space.constrain(points))
        expansion = self.marginal.expand(structure, num_chains)
        current = draw_posterior(expansion.pseudo.compressed(), structure, self._noise(num_chains), rng)
        return self.state(points, root, current, expansion.f, torch.Generator())

    def _start_partitions(self, num_chains: int, rng: np.random.Generator) -> State:
        """Dispersed partitions, from what an expansion of the likelihood says about each task by itself."""
        points = self.problem.space.initial(rng, num_chains)
        expansion = self.marginal.expand_at(self.marginal.outset)
        membership = starting_partitions(self.problem, expansion.pseudo.compressed(), num_chains, rng)
        structure = self._structure(points, membership)
        for _ in range(_STARTING_ROUNDS):
            f = expansion.f.expand(num_chains, -1)
            data = self.marginal.expand_at(f).pseudo.compressed()
            current = self._draw(data, structure, rng)
            expansion = self.marginal.expand_at(self.rows.predictor(current.weights))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        root = torch.eye(points.shape[1], dtype=torch.float64)
        return self.state(points, root, current, expansion.f, generator, membership)

    def state(
        self,
        points: torch.Tensor,
        root: torch.Tensor,
        current: WeightDraws,
        f: torch.Tensor,
        generator: torch.Generator,
        membership: torch.Tensor | None = None,
    ) -> State:
        """The state before the first sweep; weights are proposed by an expansion at the mean of f (C, N)."""
        reference = self.marginal.expand_at(f.mean(0, keepdim=True))
        nothing = (torch.zeros_like(current.weights[0]), 0)
        step = StepSize(_TARGET, 0.5)
        return State(points, current, step, root, reference, nothing, generator, membership)

    def advance(self, state: State, rng: np.random.Generator) -> None:
        """One sweep of all chains, in place."""
        data = self.augment(state.current.weights, rng)
        given = replace(self.problem, tasks=data, rows=None)  # Gaussian rows
        if state.membership is not None:
            state.membership = move_partition(given, state.points, state.membership, state.generator)
            given = given.given(state.membership)
        stats = self._move(state, given, rng) if state.points.shape[1] else None
        structure = self._structure(state.points, state.membership)
        state.current = self._draw(data, structure, rng)
        renewed = self._renew(state, structure, rng)
        state.iteration += 1
        if state.iteration <= self.num_warmup:
            self._adapt(state, None if stats is None else float(stats[:, 0].mean()))
            return
        # computed first: an interrupt should not fall between what belongs together
        density = None if state.membership is None else self._log_density(state)
        state.draws.append(state.current)
        state.renewed.append(renewed)
        state.points_drawn.append(state.points)
        if stats is not None:
            state.stats.append(stats)
        if state.membership is not None and density is not None:
            state.partitions.append(state.membership)
            state.density.append(density)

    def _renew(self, state: State, structure: Structure, rng: np.random.Generator) -> torch.Tensor:
        """Weights, and clusters where there are any, without omega; the share of tasks accepted, (C,)."""
        model = (self.rows, self.likelihood, state.reference, structure)
        if state.membership is None:
            state.current, renewed = renew(*model, state.current, rng)
            return renewed
        sharing = self.problem.sharing
        assert isinstance(sharing, PartitionSharing)
        values = self.problem.space.constrain(state.points)
        prior = Weights(sharing, values, self.rows.num_tasks)
        state.current, state.membership, renewed = renew_with_clusters(*model, prior, state.current, rng)
        return renewed

    def _structure(self, points: torch.Tensor, membership: torch.Tensor | None) -> Structure:
        values = self.problem.space.constrain(points)
        return self.problem.structure(values if membership is None else values | {"cluster": membership})

    def _draw(self, data: CompressedTasks, structure: Structure, rng: np.random.Generator) -> WeightDraws:
        """Draw W and Z given data of the chains."""
        noise = self._noise(data.residual.shape[0])
        if structure.membership is None:
            return draw_posterior(data, structure, noise, rng)
        return draw_clustered(data, structure, noise, rng)

    def _log_density(self, state: State) -> torch.Tensor:
        """log p(y | W) + log p(hyperparameters, partition), which no relabelling changes, shape (C,)."""
        sharing = self.problem.sharing
        assert isinstance(sharing, PartitionSharing) and state.membership is not None
        log_prior, values = self.problem.space.log_prior(state.points)
        f = self.rows.predictor(state.current.weights)
        given = (self.likelihood.derivatives(self.rows.y, f).value * self.rows.real).sum(1)
        return given + log_prior + sharing.log_partition(state.membership, values)

    def augment(self, weights: torch.Tensor, rng: np.random.Generator) -> CompressedTasks:
        """Draw omega | W, and return the Gaussian data that the rows are given omega."""
        real = self.rows.real
        f = self.rows.predictor(weights)
        omega = torch.ones_like(f)
        omega[:, real] = torch.from_numpy(polya_gamma(self.augmentation.shape, f[:, real].numpy(), rng))
        return self.rows.pseudo_data(omega, self.kappa).compressed()

    def _noise(self, num_chains: int) -> torch.Tensor:
        return torch.ones(num_chains, 1, dtype=torch.float64)

    def _move(self, state: State, given: Problem, rng: np.random.Generator) -> torch.Tensor:
        """One trajectory of the hyperparameters given omega and the partition; statistics (C, 3)."""
        start, gradient = given.value_and_gradient(state.points)
        value = start

        def slope(points: torch.Tensor) -> torch.Tensor:
            nonlocal value
            value, gradient = given.value_and_gradient(points)
            return gradient

        momentum = torch.from_numpy(rng.standard_normal(tuple(state.points.shape)))
        length = TRAJECTORY * (0.5 + rng.random()) / state.step.step_size
        num_steps = min(max(round(length), 1), _MAX_STEPS)
        point, last, _ = leapfrog(
            slope, state.points, momentum, gradient, state.root, state.step.step_size, num_steps
        )
        error = start - value + 0.5 * (last**2).sum(1) - 0.5 * (momentum**2).sum(1)
        error = torch.nan_to_num(error, nan=torch.inf)
        acceptance = torch.exp(-error.clamp(min=0.0))
        accepted = torch.from_numpy(rng.random(len(error))) < acceptance
        state.points = torch.where(accepted[:, None], point, state.points)
        return torch.stack([acceptance, error, torch.full_like(error, float(num_steps))], dim=1)

    def _adapt(self, state: State, acceptance: float | None) -> None:
        total, number = state.weights_seen
        state.weights_seen = (total + state.current.weights.mean(0), number + 1)
        if acceptance is not None:
            state.step.update(acceptance)
            state.window.append(state.points)
        if state.iteration == round(_LEARNED_AT * self.num_warmup):
            mean = (state.weights_seen[0] / state.weights_seen[1])[None]
            state.reference = self.marginal.expand_at(self.rows.predictor(mean))
            if acceptance is not None:
                self._learn_metric(state)
        if state.iteration == self.num_warmup:
            state.step.step_size = state.step.averaged()
            state.window = []

    def _learn_metric(self, state: State) -> None:
        """The spread of the chains, mixed with the present metric as far as they are short."""
        points = torch.stack(state.window[len(state.window) // 3 :])
        # x and -x are the same scale: a chain that changes sides has not moved far
        points = torch.where(self.problem.space.signed(), points.abs(), points)
        deviations = (points - points.mean((0, 1))).flatten(0, 1)
        n, P = deviations.shape
        keep = n / (n + 10 * P)
        covariance = keep * deviations.T @ deviations / n + (1 - keep) * state.root @ state.root.T
        state.root = torch.linalg.cholesky(covariance)
        state.step = StepSize(_TARGET, state.step.averaged())


def _collect(problem: Problem, state: State, complete: bool) -> Draws:
    points = torch.stack(state.points_drawn, dim=1)
    C, N, P = points.shape
    values = problem.space.constrain(points.reshape(C * N, P))
    sample_stats = {"tasks_renewed": torch.stack(state.renewed, dim=1).numpy()}
    if state.partitions:
        values["cluster"] = torch.stack(state.partitions, dim=1).flatten(0, 1)
        sample_stats["lp"] = torch.stack(state.density, dim=1).numpy()
    if state.stats:
        acceptance, error, steps = torch.stack(state.stats, dim=1).unbind(-1)
        sample_stats |= {
            "acceptance_rate": acceptance.numpy(),
            "diverging": (error > DIVERGENCE).numpy(),
            "n_steps": steps.numpy().astype(int),
            "step_size": np.full((C, N), state.step.step_size),
        }
    num_rows = max(drawn.basis.shape[1] for drawn in state.draws)  # clusters come and go
    basis = [torch.nn.functional.pad(d.basis, (0, 0, 0, num_rows - d.basis.shape[1])) for d in state.draws]
    return Draws(
        {name: value.reshape(C, N, *value.shape[1:]) for name, value in values.items()},
        torch.stack(basis, dim=1),
        torch.stack([drawn.weights for drawn in state.draws], dim=1),
        torch.stack([drawn.factors for drawn in state.draws], dim=1),
        sample_stats,
        complete,
    )
