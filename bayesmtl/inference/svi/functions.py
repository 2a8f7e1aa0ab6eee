"""The SVI engine for functions: inducing inputs, minibatches of rows, natural gradients and Adam."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from bayesmtl.algebra.inducing import Weights
from bayesmtl.errors import SpecificationError
from bayesmtl.inference.svi.engine import rise_of
from bayesmtl.posteriors.draws import HyperparameterDraws
from bayesmtl.posteriors.functions.inducing import InducingFunctions, Sums, natural_step, sums_of
from bayesmtl.samplers.progress import iterations
from bayesmtl.samplers.settings import Settings, refuse_checkpoint

NUM_DRAWS = 250  # per chain; all are the same
NUM_RESTARTS = 2
STEPS_PER_WARMUP = 5  # steps of each restart for every warm-up iteration that is asked for
ROWS_AT_ONCE = 512
_RATES = (0.05, 0.002)  # of Adam's first and last step
_LAST = 1 / 3  # share of the steps whose ELBO is judged
_FALL = 0.6  # power of the step by which the rate of natural gradients falls
_SLOWEST = 0.05  # rate of natural gradients, below which they would lag behind the hyperparameters


@dataclass(frozen=True, eq=False)
class Run:
    """One restart.

    Args:
        point: Hyperparameters, shape (P,).
        elbo: The bound there with the best q, from all rows, log prior included.
        rise: By how much the minibatches' bounds rose in the last third of the steps.
        rise_error: Standard error of that.
    """

    point: torch.Tensor
    elbo: float
    rise: float
    rise_error: float


def function_svi(problem: InducingFunctions, settings: Settings) -> HyperparameterDraws:
    """Hyperparameters at the maximum of the evidence bound, all draws the same.

    Each step looks at 512 rows, drawn without replacement until all have had their turn. With the
    hyperparameters of the moment it moves q(v) along the natural gradient, whose rate falls from 1 to .05
    (1 throughout where the rows are no more than 512), and the hyperparameters along the bound's gradient by
    Adam, with their prior. Of two restarts the one with the higher bound over all rows is kept.

    Approximates: functions by their values at inducing inputs, the posterior of these by a normal
    distribution (exact for Gaussian noise), the hyperparameters by a point. The first takes detail for noise
    where inducing inputs are few.

    Source: Hensman, Fusi and Lawrence (2013) for the bound by minibatches.

    Raises:
        SpecificationError: If a checkpoint is asked for.
    """
    refuse_checkpoint(settings, "svi")
    rng = np.random.default_rng(settings.seed)
    num_steps = STEPS_PER_WARMUP * settings.num_warmup
    P = problem.space.size
    starts = problem.space.initial(rng, NUM_RESTARTS if P else 1)
    total = len(starts) * num_steps if P else 0
    progress = iterations(0, total, f"{len(starts)} restarts", show=settings.progress)
    runs = []
    for start in starts:
        climber = Climber(problem, start, num_steps, rng)
        for _ in range(num_steps if P else 0):
            next(progress)
            climber.step()
        runs.append(climber.ended())
    for _ in progress:  # closes the bar
        pass
    best = max(runs, key=lambda run: run.elbo)
    if not math.isfinite(best.elbo):
        raise SpecificationError(
            "kernel",
            expected="a kernel with finite covariances at the inputs",
            found="a bound of the evidence that is not finite at any hyperparameters tried",
            remedy="Look for outliers among inputs and targets, or give the length-scales a tighter prior.",
        )
    C, N = settings.num_chains, settings.num_draws or NUM_DRAWS
    points = best.point.expand(C * N, -1)
    if len(problem.unseen):
        points = problem.space.redraw_tasks(points, problem.unseen, rng)
    sample_stats = {
        "elbo": np.full((C, N), best.elbo),
        "elbo_rise": np.full((C, N), best.rise),
        "elbo_rise_error": np.full((C, N), best.rise_error),
        "start_disagreement": np.full((C, N), max(best.elbo - run.elbo for run in runs)),
    }
    return problem.complete(points.reshape(C, N, -1), sample_stats, rng, at_mode=True)


class Climber:
    """Steps of one restart.

    Args:
        problem: What is fitted.
        start: Hyperparameters to start from, shape (P,).
        num_steps: How many steps the rates are laid out for.
        rng: Source of randomness.
    """

    def __init__(
        self, problem: InducingFunctions, start: torch.Tensor, num_steps: int, rng: np.random.Generator
    ):
        self.problem = problem
        self.point = start[None].clone().requires_grad_()
        self.elbo: list[float] = []
        first, last = _RATES
        self._optimiser = torch.optim.Adam([self.point], lr=first)
        self._fall = torch.optim.lr_scheduler.ExponentialLR(
            self._optimiser, (last / first) ** (1 / max(num_steps, 1))
        )
        self._batches = _batches(len(problem.y), rng)
        self._state: Sums | None = None
        self._weights: Weights | None = None

    @torch.enable_grad()
    def step(self) -> None:
        """Move q(v) along its natural gradient, then the hyperparameters along the bound's gradient."""
        problem, rows = self.problem, next(self._batches)
        log_prior, values = problem.space.log_prior(self.point)
        L, roots = problem.factor(values), problem.roots(values)
        at = problem.features(values, roots, L, problem.X[rows], problem.task[rows])
        expected = problem.expected(values, rows)
        scale = len(problem.y) / len(rows)
        rate = max((len(self.elbo) + 1) ** -_FALL, _SLOWEST) if scale > 1 else 1.0
        with torch.no_grad():
            taken = natural_step(self._state, sums_of(at, expected, self._weights, scale), rate)
        if taken is not None:  # outliers can leave no precision; then q stays as it is
            self._state, self._weights = taken
        weights = self._weights or Weights.prior(at.C.shape[1])
        bound = scale * expected.value(*weights.moments(at)).sum() + log_prior[0]
        (gradient,) = torch.autograd.grad(-bound, self.point)
        if torch.isfinite(gradient).all():
            self.point.grad = gradient
            self._optimiser.step()
        self._fall.step()
        self.elbo.append(float(bound.detach() - weights.divergence()))

    def ended(self) -> Run:
        """Where the steps have led."""
        there = self.point.detach()
        tail = np.array(self.elbo[-max(int(_LAST * len(self.elbo)), 1) :])
        rise = rise_of(tail) if self.elbo else (0.0, 0.0)
        return Run(there[0], float(self.problem.value(there)[0]), *rise)


def _batches(num_rows: int, rng: np.random.Generator) -> Iterator[torch.Tensor]:
    """Positions of rows, all of them before any comes again."""
    size = min(ROWS_AT_ONCE, num_rows)
    while True:
        order = torch.from_numpy(rng.permutation(num_rows))
        for start in range(0, num_rows - size + 1, size):
            yield order[start : start + size]
