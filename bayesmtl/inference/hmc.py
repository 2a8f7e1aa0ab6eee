"""Hamiltonian Monte Carlo with all chains as one batch, adapted together.

Every chain moves the same number of leapfrog steps, so one batched evaluation serves them all. Warm-up
learns, from all chains pooled, a metric (their covariance), the length of a trajectory (a quarter period of
the widest direction that is left after the metric), and one step size (dual averaging). Lengths are jittered
so that no direction is caught in its period. After warm-up nothing adapts, so the chain is a fixed Markov
chain with the posterior as its stationary distribution.

Source: Neal (2011) for the algorithm; Hoffman and Gelman (2014) for dual averaging; Hoffman, Radul and Sountsov
(2021) for adapting one trajectory length over many chains.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

ValueAndGradient = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

MAX_STEPS = 64
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
        self.shrinkage_point = math.log(10 * self.step_size)

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
        draws: Kept points, each (C, P).
        stats: Per kept draw: acceptance, energy error, number of steps, log density.
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
    draws: list[torch.Tensor] = field(default_factory=list)
    stats: list[torch.Tensor] = field(default_factory=list)
    iteration: int = 0


class HMC:
    """A batch of Hamiltonian Monte Carlo chains.

    Args:
        target: Log density and gradient of a batch of points, (C, P) -> (C,), (C, P).
        num_warmup: Iterations to adapt in, not kept.
        signed: Coordinates in which x and -x mean the same, bool (P,); the metric measures their spread on
            one side.
        target_acceptance: Mean acceptance rate to adapt the step size to.
    """

    def __init__(
        self,
        target: ValueAndGradient,
        *,
        num_warmup: int,
        signed: torch.Tensor,
        target_acceptance: float = 0.8,
    ):
        self.target, self.num_warmup, self.signed = target, num_warmup, signed
        self.target_acceptance = target_acceptance
        self.window_ends = {round(num_warmup * share) for share in (0.2, 0.5, 0.85)} - {0, num_warmup}

    def start(self, points: torch.Tensor, generator: torch.Generator) -> State:
        """The state before the first iteration."""
        value, gradient = self.target(points)
        root = torch.eye(points.shape[1], dtype=points.dtype)
        return State(points, value, gradient, generator, StepSize(self.target_acceptance, 0.05), root)

    def advance(self, state: State) -> None:
        """One iteration of all chains, in place."""
        stats = self._move(state)
        state.iteration += 1
        if state.iteration <= self.num_warmup:
            state.step.update(float(stats[:, 0].mean()))
            state.window.append(state.points)
            if state.iteration in self.window_ends:
                self._learn_metric(state)
            if state.iteration == self.num_warmup:
                state.step.step_size, state.window = state.step.averaged(), []
        else:
            state.draws.append(state.points)
            state.stats.append(stats)

    def _move(self, state: State) -> torch.Tensor:
        C, P = state.points.shape
        jitter = float(torch.rand(1, generator=state.generator, dtype=torch.float64)) + 0.5
        step = state.step.step_size
        length = 8 * step if state.trajectory is None else state.trajectory
        num_steps = min(max(round(length * jitter / step), 1), MAX_STEPS)
        momentum = torch.randn(C, P, generator=state.generator, dtype=torch.float64)
        energy = 0.5 * (momentum**2).sum(1) - state.value
        point, value, gradient = state.points, state.value, state.gradient
        for _ in range(num_steps):
            momentum = momentum + 0.5 * step * (gradient @ state.root)
            point = point + step * (momentum @ state.root.T)
            value, gradient = self.target(point)
            momentum = momentum + 0.5 * step * (gradient @ state.root)
        error = torch.nan_to_num(0.5 * (momentum**2).sum(1) - value - energy, nan=torch.inf)
        acceptance = torch.exp(-error.clamp(min=0.0))
        accepted = torch.rand(C, generator=state.generator, dtype=torch.float64) < acceptance
        state.points = torch.where(accepted[:, None], point, state.points)
        state.gradient = torch.where(accepted[:, None], gradient, state.gradient)
        state.value = torch.where(accepted, value, state.value)
        steps = torch.full((C,), float(num_steps), dtype=torch.float64)
        return torch.stack([acceptance, error, steps, state.value], dim=1)

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
        state.trajectory = 0.5 * math.pi * math.sqrt(max(widest, 1.0))
        state.step, state.window = StepSize(self.target_acceptance, 0.5), []


def stacked(state: State, num_draws: int) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """The first `num_draws` kept points (C, N, P) and their sample statistics, each (C, N)."""
    points = torch.stack(state.draws[:num_draws], dim=1)
    acceptance, error, steps, value = torch.stack(state.stats[:num_draws], dim=1).unbind(-1)
    step_size = np.full(acceptance.shape, state.step.step_size)
    return points, {
        "acceptance_rate": acceptance.numpy(),
        "diverging": (error > DIVERGENCE).numpy(),
        "n_steps": steps.numpy().astype(int),
        "lp": value.numpy(),
        "step_size": step_size,
    }
