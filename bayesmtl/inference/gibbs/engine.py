"""The Gibbs engine: auxiliary variables make the rows Gaussian, so that the weights integrate out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from bayesmtl.algebra.clusters import draw_clustered
from bayesmtl.algebra.conditional import WeightDraws, draw_posterior
from bayesmtl.algebra.random import standard_normal
from bayesmtl.algebra.statistics import CompressedTasks
from bayesmtl.algebra.structure import Structure
from bayesmtl.inference.gibbs.state import GibbsCheckpoint, State, of_one_size
from bayesmtl.inference.partitions.prior_weights import weights_of
from bayesmtl.inference.partitions.scales import move_scales, moved_given_partition
from bayesmtl.inference.partitions.steps import move_partition, neighbours, starting_partitions
from bayesmtl.inference.partitions.weights_and_clusters import renew_with_clusters
from bayesmtl.parameters import ParameterSpace, Values
from bayesmtl.posteriors.draws import LinearDraws
from bayesmtl.posteriors.linear.outcomes import Expansion, OutcomePosterior
from bayesmtl.posteriors.linear.task_weights import renew
from bayesmtl.posteriors.target import Target, finite_or_least
from bayesmtl.samplers.chains import sweep
from bayesmtl.samplers.hmc import DIVERGENCE, StepSize, leapfrog
from bayesmtl.samplers.search import around_modes
from bayesmtl.samplers.settings import Settings
from bayesmtl.samplers.slice import slice_sample
from bayesmtl.sharing import Dependence, partition_of

NUM_DRAWS = 500  # by default, per chain
TRAJECTORY = 1.6  # length in units of the metric's standard deviations: about a quarter period
_MAX_STEPS = 16
_TARGET = 0.8  # mean acceptance
# Share of warm-up at which the chains' own spread replaces the curvature at the mode, and their mean the
# mode.
_LEARNED_AT = 0.5
# Of expanding the likelihood about weights and drawing them anew, where no mode is sought.
_STARTING_ROUNDS = 3
_KEPT = ("points_drawn", "draws", "stats", "renewed", "partitions", "density")  # one entry per kept draw


def augmented_gibbs(problem: OutcomePosterior, settings: Settings) -> LinearDraws:
    """Sample the full posterior of a model whose rows auxiliary variables make Gaussian.

    Approximates nothing. With one auxiliary variable omega per row (Polya-Gamma for a logit link and for
    `NegativeBinomial`, a precision for `StudentT`) the rows become Gaussian data, so that a sweep is: the
    likelihood's own hyperparameters, such as a dispersion, given W by slice sampling, without omega; omega
    given W, row by row; where tasks are partitioned, their clusters given omega by Gibbs and split-merge
    moves; the hyperparameters of the sharing prior given omega by Hamiltonian Monte Carlo with W and Z
    integrated out, but for those that hang on the partition, which have moves of their own; Z and W given all
    that, exactly and at once. Where events are rare, such draws of W move slowly. So the sweep ends with
    another draw of each task's weights given Z and the hyperparameters: proposed under a second-order
    expansion of the likelihood at a point that warm-up has found, and accepted or not by Metropolis'
    rule, task by task; with partitions, together with another draw of the task's cluster, which would
    otherwise be as slow where a task has many rows. Chains are one batch. They start around the mode of
    the Laplace approximation, whose curvature is the first metric; with partitions, at different ones, as
    the engine for Gaussian outcomes does.

    `Fit.check` says whether the run was long enough. A sweep costs time in proportion to the number of rows,
    and for `Binomial` to the number of trials.

    Source: Polson, Scott and Windle (2013) for Polya-Gamma augmentation; updating the hyperparameters with
    the weights integrated out is the `exact` engine's way, applied to the augmented data.

    An interrupt (Ctrl-C) after warm-up returns the draws made so far, marked incomplete; with a checkpoint,
    the same call goes on later.

    Raises:
        KeyboardInterrupt: If interrupted while nothing is drawn yet.
        CheckpointError: If the checkpoint is damaged or belongs to another run.
        SpecificationError: If there are fewer tasks than clusters.
    """
    num_draws = NUM_DRAWS if settings.num_draws is None else settings.num_draws
    rng = np.random.default_rng(settings.seed)
    sampler = Gibbs(problem, settings.num_warmup)
    checkpoint, state = None, None
    if settings.checkpoint is not None:
        run = (settings.seed, settings.num_chains, settings.num_warmup)
        fingerprint = f"{problem.fingerprint()} augmented {run}"
        checkpoint = GibbsCheckpoint(settings.checkpoint, fingerprint, rng)
        state = checkpoint.load(sampler.expansion)
    if state is None:
        state = sampler.start(settings.num_chains, rng)
    complete = sweep(state, lambda state: sampler.advance(state, rng), num_draws, settings, checkpoint, rng)
    return _collect(problem, state, complete, num_draws)


class Gibbs:
    """Sweeps of a batch of chains.

    Args:
        problem: A problem with rows that auxiliary variables make Gaussian.
        num_warmup: Sweeps in which step size and metric adapt.
    """

    def __init__(self, problem: OutcomePosterior, num_warmup: int):
        self.problem, self.num_warmup, self.rows = problem, num_warmup, problem.rows
        self.marginal = problem.density()
        T, D = problem.tasks.num_tasks, problem.tasks.num_features
        self.num_shared = ParameterSpace(problem.sharing.parameters(T, D)).size
        held = torch.zeros(self.num_shared, dtype=torch.bool)
        self.has_partition = problem.sharing.dependence is Dependence.PARTITION
        if self.has_partition:
            held = moved_given_partition(problem)[: self.num_shared]
        self.free = torch.where(~held)[0]  # what trajectories move
        self.near = neighbours(problem.tasks) if self.has_partition else None

    def start(self, num_chains: int, rng: np.random.Generator) -> State:
        """Where chains start: hyperparameters, partitions where there are any, and weights."""
        if self.has_partition:
            return self._start_partitions(num_chains, rng)
        P = self.problem.space.size
        points, root = torch.zeros(num_chains, 0, dtype=torch.float64), torch.zeros(0, 0, dtype=torch.float64)
        if P:  # around the mode of the Laplace approximation
            points, root = around_modes(self.marginal, self.problem, num_chains, rng)
        if P > self.num_shared:
            S = self.num_shared
            root = torch.linalg.cholesky((root @ root.T)[:S, :S])
        values = self.problem.space.constrain(points)
        structure = self.problem.structure(values)
        expansion = self.marginal.expand(structure, num_chains, values)
        current = draw_posterior(expansion.pseudo.compressed(), structure, self._noise(num_chains), rng)
        return self.state(points, root, current, expansion.f, torch.Generator())

    def _start_partitions(self, num_chains: int, rng: np.random.Generator) -> State:
        """Dispersed partitions, from what an expansion of the likelihood says about each task by itself."""
        points = self.problem.space.initial(rng, num_chains)
        values = self.problem.space.constrain(points)
        start = self.problem.outcomes(values).start()[None]
        expansion = self.expansion(start, points.mean(0, keepdim=True))
        membership = starting_partitions(self.problem, expansion.pseudo.compressed(), num_chains, rng)
        structure = self._structure(points, membership)
        for _ in range(_STARTING_ROUNDS):
            data = self.marginal.expand_at(expansion.f.expand(num_chains, -1), values).pseudo.compressed()
            current = self._draw(data, structure, rng)
            expansion = self.marginal.expand_at(self.rows.predictor(current.weights), values)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        root = self._among_shared(torch.eye(len(self.free), dtype=torch.float64))
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
        at = points.mean(0, keepdim=True)
        reference = self.expansion(f.mean(0, keepdim=True), at)
        nothing = (torch.zeros_like(current.weights[0]), 0)
        step = StepSize(_TARGET, 0.5)
        return State(points, current, step, root, reference, at, nothing, generator, membership)

    def advance(self, state: State, rng: np.random.Generator) -> None:
        """One sweep of all chains, in place."""
        self._move_own(state, rng)
        data = self.augment(state.current.weights, self.problem.space.constrain(state.points), rng)
        given: Target = (gaussian := self.problem.augmented(data))
        if state.membership is not None:
            state.membership = move_partition(
                gaussian,
                state.points,
                state.membership,
                state.generator,
                self.near,
                warming_up=state.iteration < self.num_warmup,
            )
            given = gaussian.given(state.membership)
            state.points = move_scales(gaussian, state.points, state.membership, rng)
        stats = self._move(state, given, rng) if self.num_shared else None
        structure = self._structure(state.points, state.membership)
        state.current = self._draw(data, structure, rng)
        renewed = self._renew(state, structure, rng)
        state.iteration += 1
        if state.iteration <= self.num_warmup:
            self._adapt(state, None if stats is None else float(stats[:, 0].mean()))
            return
        # computed first: an interrupt should not fall between what belongs together
        membership = state.membership
        density = None if membership is None else self._log_density(state, membership)
        state.draws.append(state.current)
        state.renewed.append(renewed)
        state.points_drawn.append(state.points)
        if stats is not None:
            state.stats.append(stats)
        if membership is not None and density is not None:
            state.partitions.append(membership)
            state.density.append(density)

    def _renew(self, state: State, structure: Structure, rng: np.random.Generator) -> torch.Tensor:
        """Weights, and clusters where there are any, without omega; the share of tasks accepted, (C,)."""
        values = self.problem.space.constrain(state.points)
        outcomes = self.problem.outcomes(values)
        if state.membership is None:
            state.current, renewed = renew(state.current, state.reference, structure, outcomes, rng)
            return renewed
        prior = weights_of(self.problem, values)
        state.current, state.membership, renewed = renew_with_clusters(
            state.current, state.reference, structure, outcomes, prior, rng
        )
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

    def _log_density(self, state: State, membership: torch.Tensor) -> torch.Tensor:
        """log p(y | W) + log p(hyperparameters, partition), which no relabelling changes, shape (C,)."""
        prior = partition_of(self.problem.sharing)
        log_prior, values = self.problem.space.log_prior(state.points)
        f = self.rows.predictor(state.current.weights)
        given = self.problem.outcomes(values).value(f).sum(1)
        return given + log_prior + prior.log_partition(membership, values, self.problem.descriptors)

    def augment(self, weights: torch.Tensor, values: Values, rng: np.random.Generator) -> CompressedTasks:
        """Draw omega | W, and return the Gaussian data that the rows are given omega."""
        omega, kappa = self.problem.outcomes(values).augment(self.rows.predictor(weights), rng)
        return self.rows.pseudo_data(omega, kappa).compressed()

    def expansion(self, f: torch.Tensor, point: torch.Tensor) -> Expansion:
        """The expansion at row values (1, N) and hyperparameter coordinates (1, P), for all chains."""
        return self.marginal.expand_at(f, self.problem.space.constrain(point))

    def _noise(self, num_chains: int) -> torch.Tensor:
        return torch.ones(num_chains, 1, dtype=torch.float64)

    def _move_own(self, state: State, rng: np.random.Generator) -> None:
        """The likelihood's own hyperparameters given W, one after the other."""
        f = self.rows.predictor(state.current.weights)
        for position in range(self.num_shared, state.points.shape[1]):

            def log_density(x: torch.Tensor, position: int = position) -> torch.Tensor:
                points = state.points.clone()
                points[:, position] = x
                log_prior, values = self.problem.space.log_prior(points)
                return finite_or_least(log_prior + self.problem.outcomes(values).value(f).sum(1))

            state.points = state.points.clone()
            state.points[:, position] = slice_sample(log_density, state.points[:, position], rng)

    def _move(self, state: State, given: Target, rng: np.random.Generator) -> torch.Tensor:
        """One trajectory of the sharing prior's hyperparameters given omega and the partition: (C, 3)."""
        S = self.num_shared
        present, own = state.points[:, :S], state.points[:, S:]
        start, gradient = given.value_and_gradient(state.points)
        gradient = gradient[:, :S]
        value = start

        def slope(points: torch.Tensor) -> torch.Tensor:
            nonlocal value
            value, gradient = given.value_and_gradient(torch.cat([points, own], dim=1))
            return gradient[:, :S]

        momentum = standard_normal(rng, *present.shape)
        length = TRAJECTORY * (0.5 + rng.random()) / state.step.step_size
        num_steps = min(max(round(length), 1), _MAX_STEPS)
        point, last, _ = leapfrog(
            slope, present, momentum, gradient, state.root, state.step.step_size, num_steps
        )
        error = start - value + 0.5 * (last**2).sum(1) - 0.5 * (momentum**2).sum(1)
        error = torch.nan_to_num(error, nan=torch.inf)
        acceptance = torch.exp(-error.clamp(min=0.0))
        accepted = torch.from_numpy(rng.random(len(error))) < acceptance
        state.points = torch.cat([torch.where(accepted[:, None], point, present), own], dim=1)
        return torch.stack([acceptance, error, torch.full_like(error, float(num_steps))], dim=1)

    def _adapt(self, state: State, acceptance: float | None) -> None:
        total, number = state.weights_seen
        state.weights_seen = (total + state.current.weights.mean(0), number + 1)
        if acceptance is not None:
            state.step.update(acceptance)
            state.window.append(state.points)
        if state.iteration == round(_LEARNED_AT * self.num_warmup):
            mean = (state.weights_seen[0] / state.weights_seen[1])[None]
            state.reference_point = state.points.mean(0, keepdim=True)
            state.reference = self.expansion(self.rows.predictor(mean), state.reference_point)
            if acceptance is not None:
                self._learn_metric(state)
        if state.iteration == self.num_warmup:
            state.step.step_size = state.step.averaged()
            state.window = []

    def _among_shared(self, root: torch.Tensor) -> torch.Tensor:
        """A root among the free coordinates as one among all of the sharing prior's, shape (S, S)."""
        whole = torch.zeros(self.num_shared, self.num_shared, dtype=root.dtype)
        whole[self.free[:, None], self.free] = root
        return whole

    def _learn_metric(self, state: State) -> None:
        """The spread of the chains, mixed with the present metric as far as they are short."""
        points = torch.stack(state.window[len(state.window) // 3 :])
        # x and -x are the same scale: a chain that changes sides has not moved far
        points = torch.where(self.problem.space.signed(), points.abs(), points)[..., : self.num_shared]
        deviations = (points - points.mean((0, 1))).flatten(0, 1)
        n, P = deviations.shape
        keep = n / (n + 10 * P)
        covariance = keep * deviations.T @ deviations / n + (1 - keep) * state.root @ state.root.T
        free = covariance[self.free][:, self.free]
        state.root = self._among_shared(torch.linalg.cholesky(free))
        state.step = StepSize(_TARGET, state.step.averaged())


def _collect(problem: OutcomePosterior, state: State, complete: bool, num_draws: int) -> LinearDraws:
    state = replace(state, **{name: getattr(state, name)[:num_draws] for name in _KEPT})
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
    basis = of_one_size([drawn.basis for drawn in state.draws])
    return LinearDraws(
        {name: value.reshape(C, N, *value.shape[1:]) for name, value in values.items()},
        torch.stack(basis, dim=1),
        torch.stack([drawn.weights for drawn in state.draws], dim=1),
        torch.stack([drawn.factors for drawn in state.draws], dim=1),
        sample_stats,
        complete,
    )
