"""Hamiltonian Monte Carlo with all chains as one batch, adapted together.

Every chain moves the same number of leapfrog steps, so one batched evaluation serves them all. Warm-up
learns, from all chains pooled, a metric (their covariance), the length of a trajectory, one step size (dual
averaging), and from the gradients seen on the way a surrogate for them. If trajectories on the surrogate are
accepted often enough, four of five kept draws use it and pay one exact density each; all others follow exact
gradients. Lengths are jittered so that no direction is caught in its period. After warm-up nothing adapts:
the chain is a fixed Markov chain with the posterior as its stationary distribution.

Source: Neal (2011) for the algorithm; Hoffman and Gelman (2014) for dual averaging; Hoffman, Radul and
Sountsov (2021) for one trajectory length over many chains.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from bayesmtl.inference.surrogate import Surrogate

Value = Callable[[torch.Tensor], torch.Tensor]
ValueAndGradient = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

MAX_STEPS = 64
MAX_EARLY_STEPS = 10
# Length of a trajectory in units of the widest direction's standard deviation. A quarter period is 1.57, but
# scales that trade off against each other lie on arcs, along which a longer way pays: best of 1.6, 2.4 and
# 3.2 in effective draws per evaluation on a model with 24 hyperparameters.
TRAJECTORY = 2.4
# Shares of warm-up at which the metric is renewed, and at which the surrogate is fitted and put to the test.
METRIC_AT, SURROGATE_AT = (0.15, 0.4, 0.7), 0.85
SURROGATE_STEP = 0.6  # of the exact step size: its steps cost nothing, so the path may be followed closely
# Every so many iterations follow exact gradients all the same: where the surrogate is poor, as in a tail that
# warm-up hardly saw, a chain would reject its proposals for long. A cycle of exact kernels is exact.
EXACT_EVERY = 5
SURROGATE_ACCEPTANCE = 0.5  # mean acceptance below which exact gradients are the better bargain
DIVERGENCE = 1000.0  # energy error beyond which a trajectory has left the level set, as in Stan
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
        history: Exact gradients of the later warm-up, pairs of (C, P): points and gradients there.
        surrogate: The field that trajectories follow; `None` for exact gradients.
        trial: Mean acceptance of each iteration of the surrogate's test.
        draws: Kept points, each (C, P).
        stats: Per kept draw: acceptance, energy error, steps, log density, whether on the surrogate.
        iteration: Iterations done.
    """

    points: torch.Tensor
    value: torch.Tensor
    gradient: torch.Tensor
    generator: torch.Generator
    step: StepSize
    root: torch.Tensor
    trajectory: float | None = None
    window: list[torch.Tensor] = field(default_factory=list)
    history: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    surrogate: Surrogate | None = None
    trial: list[float] = field(default_factory=list)
    draws: list[torch.Tensor] = field(default_factory=list)
    stats: list[torch.Tensor] = field(default_factory=list)
    iteration: int = 0


class HMC:
    """A batch of Hamiltonian Monte Carlo chains.

    Args:
        value: Log density of a batch of points, (C, P) -> (C,).
        value_and_gradient: The same with its gradient, (C, P) -> (C,), (C, P).
        num_warmup: Iterations to adapt in, not kept.
        signed: Coordinates in which x and -x mean the same, bool (P,); the metric measures their spread on
            one side.
        target_acceptance: Mean acceptance rate to adapt the step size to.
    """

    def __init__(
        self,
        value: Value,
        value_and_gradient: ValueAndGradient,
        *,
        num_warmup: int,
        signed: torch.Tensor,
        target_acceptance: float = 0.8,
    ):
        self.value, self.value_and_gradient = value, value_and_gradient
        self.num_warmup, self.signed = num_warmup, signed
        self.target_acceptance = target_acceptance
        self.metric_at = [round(num_warmup * share) for share in METRIC_AT]
        self.surrogate_at = round(num_warmup * SURROGATE_AT)

    def start(self, points: torch.Tensor, generator: torch.Generator) -> State:
        """The state before the first iteration."""
        value, gradient = self.value_and_gradient(points)
        root = torch.eye(points.shape[1], dtype=points.dtype)
        return State(points, value, gradient, generator, StepSize(self.target_acceptance, 0.05), root)

    def advance(self, state: State) -> None:
        """One iteration of all chains, in place."""
        surrogate = state.surrogate if state.iteration % EXACT_EVERY else None
        stats = self._move(state, surrogate)
        state.iteration += 1
        if state.iteration <= self.num_warmup:
            self._adapt(state, float(stats[:, 0].mean()), on_surrogate=surrogate is not None)
        else:
            state.draws.append(state.points)
            state.stats.append(stats)

    def _adapt(self, state: State, acceptance: float, *, on_surrogate: bool) -> None:
        if on_surrogate:
            state.trial.append(acceptance)
        elif state.iteration <= self.surrogate_at:
            state.step.update(acceptance)
            state.window.append(state.points)
        if state.iteration in self.metric_at:
            self._learn_metric(state)
        if state.iteration == self.surrogate_at:
            state.step.step_size, state.window = state.step.averaged(), []
            points, gradients = (torch.cat(part) for part in zip(*state.history, strict=True))
            state.surrogate, state.history = Surrogate.fit(points, gradients, self.signed), []
        if state.iteration == self.num_warmup:
            # the first half of the test still comes from where exact trajectories had left the chains
            trial = state.trial[len(state.trial) // 2 :]
            if not trial or sum(trial) / len(trial) < SURROGATE_ACCEPTANCE:
                state.surrogate = None
                _, state.gradient = self.value_and_gradient(state.points)

    def _exact_gradient(self, state: State, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value, gradient = self.value_and_gradient(points)
        if self.metric_at[1] < state.iteration < self.surrogate_at:
            state.history.append((points, gradient))
        return value, gradient

    def _move(self, state: State, surrogate: Surrogate | None) -> torch.Tensor:
        C, P = state.points.shape
        jitter = float(torch.rand(1, generator=state.generator, dtype=torch.float64)) + 0.5
        step = state.step.step_size * (1.0 if surrogate is None else SURROGATE_STEP)
        length = 8 * step if state.trajectory is None else state.trajectory
        # an early metric is poor, and long ways through it are wasted
        most = MAX_STEPS if state.iteration >= self.metric_at[1] else MAX_EARLY_STEPS
        num_steps = min(max(round(length * jitter / step), 1), most)
        momentum = torch.randn(C, P, generator=state.generator, dtype=torch.float64)
        energy = 0.5 * (momentum**2).sum(1) - state.value
        point, value = state.points, state.value
        if surrogate is not None:
            gradient = surrogate.gradient(point)
        elif state.surrogate is not None:  # the moves before this one did not need the exact gradient
            _, gradient = self.value_and_gradient(point)
        else:
            gradient = state.gradient
        for _ in range(num_steps):
            momentum = momentum + 0.5 * step * (gradient @ state.root)
            point = point + step * (momentum @ state.root.T)
            if surrogate is None:
                value, gradient = self._exact_gradient(state, point)
            else:
                gradient = surrogate.gradient(point)
            momentum = momentum + 0.5 * step * (gradient @ state.root)
        if surrogate is not None:
            value = self.value(point)
        error = torch.nan_to_num(0.5 * (momentum**2).sum(1) - value - energy, nan=torch.inf)
        acceptance = torch.exp(-error.clamp(min=0.0))
        accepted = torch.rand(C, generator=state.generator, dtype=torch.float64) < acceptance
        state.points = torch.where(accepted[:, None], point, state.points)
        state.gradient = torch.where(accepted[:, None], gradient, state.gradient)
        state.value = torch.where(accepted, value, state.value)
        steps = torch.full((C,), float(num_steps), dtype=torch.float64)
        on_surrogate = torch.full_like(steps, float(surrogate is not None))
        return torch.stack([acceptance, error, steps, state.value, on_surrogate], dim=1)

    def _learn_metric(self, state: State) -> None:
        points = torch.stack(state.window[int(_METRIC_FROM * len(state.window)) :])
        # x and -x are the same scale: a chain that changes sides has not moved far
        points = torch.where(self.signed, points.abs(), points)
        # around each chain's own mean, so that chains which have not met do not look like spread
        deviations = (points - points.mean(0)).flatten(0, 1)
        n, P = deviations.shape
        covariance = deviations.T @ deviations / n
        variances = covariance.diagonal().clamp(min=1e-10)
        # with few draws per coordinate correlations are noise: shrink to the diagonal
        keep = n / (n + 2 * P)
        metric = keep * covariance + torch.diag((1 - keep) * variances + keep * (variances * 1e-6))
        state.root = torch.linalg.cholesky(metric)
        left = torch.linalg.solve_triangular(state.root, covariance, upper=False)
        left = torch.linalg.solve_triangular(state.root, left.T, upper=False)
        widest = float(torch.linalg.eigvalsh(left)[-1])
        # sampling noise widens the largest of P sample eigenvalues by about this factor
        widest /= (1 + math.sqrt(P / n)) ** 2
        state.trajectory = TRAJECTORY * math.sqrt(max(widest, 1.0))
        state.step, state.window = StepSize(self.target_acceptance, 0.5), []


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
