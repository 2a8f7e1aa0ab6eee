"""Hamiltonian Monte Carlo with all chains as one batch, adapted together.

Every chain moves the same number of leapfrog steps, so one batched evaluation serves them all. Chains start
near the mode, with its curvature as the first metric. Warm-up has three parts, and learns from all chains
pooled:

1. exact gradients, short trajectories and dual averaging of one step size, until a metric (the covariance of
   the chains) can be taken;
2. the same in this metric, keeping every gradient, until a surrogate for gradients can be fitted;
3. trajectories on the surrogate, each ending with one exact gradient. The ends are spread over the whole
   posterior, rejected ones where the surrogate is poor among them, and it is fitted again with them. Where
   too few are accepted, exact gradients are followed for a while.

Each fit also learns from exact gradients at normal points around the chains, spread as the chains are.

If in the end trajectories on the surrogate are accepted often enough, kept draws use it and pay two exact
densities each; if not, draws follow exact gradients. Lengths are jittered so that no direction is caught in
its period, and now and then a step of a random walk is taken, which needs no surrogate. After
warm-up nothing adapts: the chain is a fixed Markov chain with the posterior as its stationary distribution.

Source: Neal (2011) for the algorithm; Hoffman and Gelman (2014) for dual averaging; Hoffman, Radul and
Sountsov (2021) for one trajectory length over many chains.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from bayesmtl.samplers.surrogate import MOST_COORDINATES, Surrogate

Value = Callable[[torch.Tensor], torch.Tensor]
ValueAndGradient = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

MAX_STEPS = 64
MAX_EARLY_STEPS = 10
# Length of a trajectory in units of the widest direction's standard deviation. A quarter period is 1.57, but
# scales that trade off against each other lie on arcs, along which a longer way pays: best of 1.6, 2.4 and
# 3.2 in effective draws per evaluation on a model with 24 hyperparameters.
TRAJECTORY = 2.8
# Shares of warm-up at which the metric is renewed; from the second on also the surrogate, from the third on
# if the one before has served. The last one settles it.
RENEWED_AT = (0.1, 0.15, 0.3, 0.5, 0.75)
# Mean acceptance below which exact gradients are the better bargain: a trajectory on them costs several times
# as much, and nearly all are accepted.
SURROGATE_ACCEPTANCE = 0.4
TRAJECTORIES_PER_DRAW = 2  # on the surrogate: a draw of all weights costs about as much as a trajectory
SURROGATE_STEP = 0.25  # in the metric's units; its steps cost nothing, so the path is followed closely
# Every so many moves on the surrogate are steps of a random walk, of this length over the root of the number
# of coordinates: where the surrogate is poor, as in a tail that warm-up hardly saw, a chain would reject its
# trajectories many times in a row.
WALK_EVERY, WALK = 6, 2.4
DIVERGENCE = 1000.0  # energy error beyond which a trajectory has left the level set, as in Stan
# What lies this and the number of coordinates below the chains' log density is of no use to the surrogate:
# the gradients at ends of trajectories that went astray would outweigh all others.
_TYPICAL = 10.0
# Weight of a point on an exact trajectory: its neighbours tell nearly the same.
_ALONG_THE_WAY = 0.3
# And of any point: its density to this power, up to so far (in logs) above the median. Where draws are rare
# the surrogate may be rough.
_DENSITY_POWER, _DENSITY_CAP = 0.3, 3.0
# Points on trajectories lie close together. Before each fit but the last, so many exact gradients per
# coefficient are taken at normal points around the chains, somewhat wider than the chains are.
_EXPLORED, _EXPLORED_WIDTH = 4, 1.3
_EXPLORED_AT_ONCE = 32  # few chains leave most of an evaluation's time to overheads
_METRIC_FROM = 0.3  # share of a window that is dropped before its covariance is taken


@dataclass
class StepSize:
    """Dual averaging of the log step size towards a target acceptance rate."""

    target: float
    step_size: float
    shrinkage_point: float = field(init=False)
    gap: float = 0.0
    log_average: float = 0.0
    count: int = 0

    def __post_init__(self) -> None:
        self.shrinkage_point = math.log(2 * self.step_size)

    def update(self, acceptance: float) -> None:
        """Take one mean acceptance rate into account."""
        self.count += 1
        weight = 1 / (self.count + 10)
        self.gap = (1 - weight) * self.gap + weight * (self.target - acceptance)
        log_step = self.shrinkage_point - math.sqrt(self.count) / 0.05 * self.gap
        decay = self.count**-0.75
        self.log_average = decay * log_step + (1 - decay) * self.log_average
        self.step_size = math.exp(log_step)

    def averaged(self) -> float:
        """The step size to keep."""
        return math.exp(self.log_average) if self.count else self.step_size


@dataclass
class State:
    """Everything that a run needs to go on: what a checkpoint holds.

    Args:
        points: Current points, shape (C, P).
        value: Log density there, shape (C,).
        gradient: Its gradient, shape (C, P).
        generator: The chains' source of randomness.
        step: Step-size adaptation.
        root: Root of the inverse metric, shape (P, P): momenta are standard normal after dividing by it.
        trajectory: Length of a trajectory in the metric; `None` before the first window has ended.
        window: Warm-up points since the last change of metric.
        history: Exact gradients since warm-up's first part: points (C, P), log densities (C,), gradients
            (C, P), and the weight (C,) that they have for the surrogate.
        surrogate: The field that trajectories follow; `None` for exact gradients.
        trial: Mean acceptance of each warm-up iteration on the present surrogate.
        draws: Kept points, each (C, P).
        stats: Per kept draw: acceptance, energy error, steps, log density, whether on the surrogate.
        iteration: Iterations done.
        trajectories: Trajectories done.
        further: What an engine built on the chains keeps besides, integers of shape (C, ...).
    """

    points: torch.Tensor
    value: torch.Tensor
    gradient: torch.Tensor
    generator: torch.Generator
    step: StepSize
    root: torch.Tensor
    trajectory: float | None = None
    window: list[torch.Tensor] = field(default_factory=list)
    history: list[tuple[torch.Tensor, ...]] = field(default_factory=list)
    surrogate: Surrogate | None = None
    trial: list[float] = field(default_factory=list)
    draws: list[torch.Tensor] = field(default_factory=list)
    stats: list[torch.Tensor] = field(default_factory=list)
    iteration: int = 0
    trajectories: int = 0
    further: dict[str, torch.Tensor] = field(default_factory=dict)


class HMC:
    """A batch of Hamiltonian Monte Carlo chains.

    Args:
        value: Log density of a batch of points, (C, P) -> (C,).
        value_and_gradient: The same with its gradient, (C, P) -> (C,), (C, P).
        num_warmup: Iterations to adapt in, not kept.
        signed: Coordinates in which x and -x mean the same, bool (P,); the metric measures their spread on
            one side.
        target_acceptance: Mean acceptance rate to adapt the step size to.
        trajectory: Length of trajectories in units of the widest direction's standard deviation.
        held: Coordinates that stay where they are, for others to move, bool (P,); none by default.
    """

    def __init__(
        self,
        value: Value,
        value_and_gradient: ValueAndGradient,
        *,
        num_warmup: int,
        signed: torch.Tensor,
        target_acceptance: float = 0.8,
        trajectory: float = TRAJECTORY,
        held: torch.Tensor | None = None,
    ):
        self.value, self.value_and_gradient = value, value_and_gradient
        self.num_warmup, self.signed = num_warmup, signed
        self.free = torch.ones_like(signed) if held is None else ~held
        self.target_acceptance, self.trajectory = target_acceptance, trajectory
        self.may_use_surrogate = len(signed) <= MOST_COORDINATES
        self.renewed_at = [round(num_warmup * share) for share in RENEWED_AT]

    def start(self, points: torch.Tensor, root: torch.Tensor, generator: torch.Generator) -> State:
        """The state before the first iteration.

        Args:
            points: Where the chains start, shape (C, P).
            root: Root of a guess at the covariance, shape (P, P).
            generator: The chains' source of randomness.
        """
        value, gradient = self.value_and_gradient(points)
        if not bool(self.free.all()):
            root = self._among_all(torch.linalg.cholesky((root @ root.T)[self.free][:, self.free]))
        return State(points, value, gradient, generator, StepSize(self.target_acceptance, 0.3), root)

    def _among_all(self, root: torch.Tensor) -> torch.Tensor:
        """A root of the free coordinates' metric as one of all, along which the others do not move."""
        whole = torch.zeros(2 * self.signed.shape, dtype=root.dtype)
        place = torch.where(self.free)[0]
        whole[place[:, None], place] = root
        return whole

    def advance(self, state: State) -> None:
        """One iteration of all chains, in place."""
        if state.iteration < self.num_warmup:
            stats = self._move(state)
            state.iteration += 1
            self._adapt(state, float(stats[:, 0].mean()))
            return
        for _ in range(1 if state.surrogate is None else TRAJECTORIES_PER_DRAW):
            stats = self._move(state)
        state.iteration += 1
        state.draws.append(state.points)
        state.stats.append(stats)

    def _move(self, state: State) -> torch.Tensor:
        stats = self._on_exact(state) if state.surrogate is None else self._on_surrogate(state)
        state.trajectories += 1
        return stats

    def _on_exact(self, state: State) -> torch.Tensor:
        """Follow exact gradients; returns statistics, shape (C, 5)."""
        early = 8 * (self.trajectory / TRAJECTORY)  # steps, before lengths have a scale
        length = early * state.step.step_size if state.trajectory is None else state.trajectory
        # an early metric is poor, and long ways through it are wasted
        most = MAX_STEPS if state.iteration >= self.renewed_at[1] else MAX_EARLY_STEPS
        num_steps = _num_steps(length * self._jitter(state), state.step.step_size, most)
        value = state.value

        def field(points: torch.Tensor) -> torch.Tensor:
            nonlocal value
            value, gradient = self._evaluate(state, points, _ALONG_THE_WAY)
            return gradient

        momentum = self._fresh_momentum(state)
        point, last, gradient = leapfrog(
            field, state.points, momentum, state.gradient, state.root, state.step.step_size, num_steps
        )
        accepted, stats = self._accept(state, point, value, _kinetic(momentum) - _kinetic(last), num_steps)
        state.gradient = torch.where(accepted[:, None], gradient, state.gradient)
        return stats

    def _on_surrogate(self, state: State) -> torch.Tensor:
        """Follow the surrogate and accept by the exact density; returns statistics, shape (C, 5)."""
        assert state.surrogate is not None and state.trajectory is not None
        momentum = self._fresh_momentum(state)
        if state.trajectories % WALK_EVERY == 0:
            num_steps, last = 0, momentum
            step = WALK / math.sqrt(momentum.shape[1]) * self._jitter(state)
            point = state.points + step * (momentum @ state.root.T)
        else:
            step = min(SURROGATE_STEP, state.step.step_size)
            num_steps = _num_steps(state.trajectory * self._jitter(state), step, MAX_STEPS)
            field, points = state.surrogate.gradient, state.points.numpy()
            with np.errstate(over="ignore", invalid="ignore"):  # where it runs away, the end is rejected
                ended = leapfrog(
                    field, points, momentum.numpy(), field(points), state.root.numpy(), step, num_steps
                )
            point, last = torch.from_numpy(ended[0]), torch.from_numpy(ended[1])
        if state.iteration < self.renewed_at[-1]:
            value, _ = self._evaluate(state, point, 1.0)
        else:
            value = self.value(point)
        _, stats = self._accept(state, point, value, _kinetic(momentum) - _kinetic(last), num_steps)
        return stats

    def _evaluate(
        self, state: State, points: torch.Tensor, weight: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        value, gradient = self.value_and_gradient(points)
        if self.may_use_surrogate and self.renewed_at[0] <= state.iteration < self.renewed_at[-1]:
            state.history.append((points, value, gradient, torch.full_like(value, weight)))
        return value, gradient

    def _jitter(self, state: State) -> float:
        return float(torch.rand(1, generator=state.generator, dtype=torch.float64)) + 0.5

    def _fresh_momentum(self, state: State) -> torch.Tensor:
        return torch.randn(state.points.shape, generator=state.generator, dtype=torch.float64)

    def _accept(
        self,
        state: State,
        point: torch.Tensor,
        value: torch.Tensor,
        kinetic_lost: torch.Tensor,
        num_steps: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Metropolis' test of every chain; returns who moved, and the iteration's statistics."""
        error = torch.nan_to_num(state.value - value - kinetic_lost, nan=torch.inf)
        acceptance = torch.exp(-error.clamp(min=0.0))
        accepted = torch.rand(len(error), generator=state.generator, dtype=torch.float64) < acceptance
        state.points = torch.where(accepted[:, None], point, state.points)
        state.value = torch.where(accepted, value, state.value)
        steps = torch.full_like(error, float(num_steps))
        on_surrogate = torch.full_like(error, float(state.surrogate is not None))
        return accepted, torch.stack([acceptance, error, steps, state.value, on_surrogate], dim=1)

    def _adapt(self, state: State, acceptance: float) -> None:
        state.window.append(state.points)
        if state.surrogate is None:
            state.step.update(acceptance)
        else:
            state.trial.append(acceptance)
        if state.iteration in self.renewed_at:
            self._renew(state)
        if state.iteration == self.num_warmup:
            state.window, state.history, state.trial = [], [], []
            if state.surrogate is None:
                state.step.step_size = state.step.averaged()

    def _renew(self, state: State) -> None:
        """Take a new metric and a new surrogate, or leave a surrogate that has not served."""
        last = state.iteration == self.renewed_at[-1]
        if state.surrogate is not None and not _serves(state):
            # its points say little about the posterior: chains have hardly moved
            state.surrogate, state.window, state.trial = None, [], []
            _, state.gradient = self.value_and_gradient(state.points)
        else:
            self._learn_metric(state)
            starting = self.may_use_surrogate and state.iteration > self.renewed_at[0] and not last
            if state.surrogate is not None or starting:
                self._learn_surrogate(state)
            if state.iteration <= self.renewed_at[1]:  # later points are all from the same distribution
                state.window = []
        if state.surrogate is None:
            state.step = StepSize(self.target_acceptance, 0.5)

    def _learn_surrogate(self, state: State) -> None:
        if state.iteration < self.renewed_at[-1]:  # the last one has their ends to learn from
            self._explore(state)
        points, values, gradients, weights = (torch.cat(part) for part in zip(*state.history, strict=True))
        above = values - values.nanmedian()  # where a trajectory ran away there is no density
        use = above > -_TYPICAL - points.shape[1]
        weights = weights * torch.exp(_DENSITY_POWER * above.clamp(max=_DENSITY_CAP))
        learned_from = (points[use], gradients[use], weights[use], self.signed)
        surrogate = Surrogate.fit(*(part.numpy() for part in learned_from))
        if surrogate is not None:
            # the first metric comes from exact trajectories, which say how far a step may go
            state.step.step_size = state.step.averaged() if state.surrogate is None else SURROGATE_STEP
            state.surrogate, state.trial = surrogate, []

    def _explore(self, state: State) -> None:
        """Pay for exact gradients at normal points around the chains, which trajectories do not spread to."""
        points = torch.stack(state.window[int(_METRIC_FROM * len(state.window)) :])
        center = torch.where(self.signed, points.abs(), points).mean(0)
        C, P = center.shape
        num_batches = math.ceil(_EXPLORED * Surrogate.size(P) / C)
        away = torch.cat([self._fresh_momentum(state) for _ in range(num_batches)]) @ state.root.T
        points = center.repeat(num_batches, 1) + _EXPLORED_WIDTH * away
        evaluated = [self.value_and_gradient(some) for some in points.split(_EXPLORED_AT_ONCE)]
        values, gradients = (torch.cat(part) for part in zip(*evaluated, strict=True))
        parts = (points.split(C), values.split(C), gradients.split(C))
        state.history += [(*part, torch.ones_like(part[1])) for part in zip(*parts, strict=True)]

    def _learn_metric(self, state: State) -> None:
        if not bool(self.free.any()):
            return
        points = torch.stack(state.window[int(_METRIC_FROM * len(state.window)) :])
        # x and -x are the same scale: a chain that changes sides has not moved far
        points = torch.where(self.signed, points.abs(), points)[..., self.free]
        # around each chain's own mean, so that chains which have not met do not look like spread
        deviations = (points - points.mean(0)).flatten(0, 1)
        n, P = deviations.shape
        covariance = deviations.T @ deviations / n
        variances = covariance.diagonal().clamp(min=1e-10)
        # with few draws per coordinate correlations are noise: shrink to the diagonal
        keep = n / (n + 2 * P)
        metric = keep * covariance + torch.diag((1 - keep) * variances + keep * (variances * 1e-6))
        root = torch.linalg.cholesky(metric)
        state.root = self._among_all(root)
        left = torch.linalg.solve_triangular(root, covariance, upper=False)
        left = torch.linalg.solve_triangular(root, left.T, upper=False)
        widest = float(torch.linalg.eigvalsh(left)[-1])
        # sampling noise widens the largest of P sample eigenvalues by about this factor
        widest /= (1 + math.sqrt(P / n)) ** 2
        state.trajectory = self.trajectory * math.sqrt(max(widest, 1.0))


def leapfrog(
    field: Callable[[Any], Any],
    point: Any,
    momentum: Any,
    gradient: Any,
    root: Any,
    step: float,
    num_steps: int,
) -> tuple[Any, Any, Any]:
    """Where a trajectory ends, its momentum and gradient there; with tensors or with arrays."""
    for _ in range(num_steps):
        momentum = momentum + 0.5 * step * (gradient @ root)
        point = point + step * (momentum @ root.T)
        gradient = field(point)
        momentum = momentum + 0.5 * step * (gradient @ root)
    return point, momentum, gradient


def _kinetic(momentum: torch.Tensor) -> torch.Tensor:
    return 0.5 * (momentum**2).sum(1)


def _num_steps(length: float, step: float, most: int) -> int:
    return min(max(round(length / step), 1), most)


def _serves(state: State) -> bool:
    """Whether trajectories on the present surrogate are accepted often enough."""
    return bool(state.trial) and sum(state.trial) / len(state.trial) >= SURROGATE_ACCEPTANCE


def stacked(state: State, num_draws: int) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """The first `num_draws` kept points (C, N, P) and their sample statistics, each (C, N)."""
    points = torch.stack(state.draws[:num_draws], dim=1)
    acceptance, error, steps, value, on_surrogate = torch.stack(state.stats[:num_draws], dim=1).unbind(-1)
    step_size = np.full(acceptance.shape, state.step.step_size)
    return points, {
        "acceptance_rate": acceptance.numpy(),
        # on a surrogate a large energy error is a poor proposal; on exact gradients it is the integrator's
        "diverging": ((error > DIVERGENCE) & (on_surrogate == 0)).numpy(),
        "on_surrogate": (on_surrogate > 0).numpy(),
        "n_steps": steps.numpy().astype(int),
        "lp": value.numpy(),
        "step_size": step_size,
    }
