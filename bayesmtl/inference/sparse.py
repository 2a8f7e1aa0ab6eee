"""The SVI engine for functions: inducing inputs, minibatches of rows, natural gradients and Adam."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from bayesmtl.algebra.greedy import greedy_choice
from bayesmtl.algebra.inducing import Weights
from bayesmtl.errors import SpecificationError
from bayesmtl.inference.functions import FunctionProblem
from bayesmtl.inference.progress import iterations
from bayesmtl.inference.settings import Settings, refuse_checkpoint, whole_number
from bayesmtl.inference.svi import rise_of
from bayesmtl.inference.variational import SparseProblem, Sums, natural_step, sums_of

NUM_DRAWS = 250  # per chain; all are the same
NUM_RESTARTS = 2
STEPS_PER_WARMUP = 5  # steps of each restart for every warm-up iteration that is asked for
ROWS_AT_ONCE = 512
_RATES = (0.05, 0.002)  # of Adam's first and last step
_LAST = 1 / 3  # share of the steps whose ELBO is judged
_SLOWEST = 0.05  # rate of natural gradients, below which they would lag behind the hyperparameters
_MOST_WEIGHTS = 1_000  # entries of v by default: a step costs O(P^3)
_MOST_INDUCING = 200
_CANDIDATES = 3_000  # inputs among which inducing inputs are chosen
# Noise of the imagined measurements there, relative to the kernel's variance, and the gain that ends them.
_NOISE, _LEAST_GAIN = 1e-2, 1e-3


def choose_inducing(problem: FunctionProblem, number: int | None, rng: np.random.Generator) -> torch.Tensor:
    """Inducing inputs (m, D) among the inputs of the data: those that say most about the latent functions.

    Greedily, by the entropy of functions with the kernels of the problem at typical hyperparameters; fewer
    where further inputs would say next to nothing. All distinct inputs if there are no more than asked for.

    Args:
        problem: The rows and kernels.
        number: How many, or `None` for as many as give a thousand whitened values in all, at most 200.
        rng: Source of randomness.
    """
    values = problem.space.constrain(_typical(problem))
    if number is None:
        functions = problem.sharing.roots(values, problem.num_tasks).num_functions
        number = max(min(_MOST_WEIGHTS // functions, _MOST_INDUCING), 1)
    number = whole_number("num_inducing", number, 1)
    inputs = torch.unique(problem.X, dim=0) if problem.inputs is None else problem.inputs
    if len(inputs) <= number:
        return inputs
    if len(inputs) > _CANDIDATES:
        inputs = inputs[torch.from_numpy(rng.permutation(len(inputs))[:_CANDIDATES])]
    variance = problem.kernels.variance(values, inputs)[0]

    def column(i: int) -> torch.Tensor:
        return problem.kernels.covariance(values, inputs, inputs[i : i + 1])[0, :, :, 0]

    noise = _NOISE * variance.mean(1, keepdim=True).expand_as(variance)
    chosen = greedy_choice(variance, column, noise, number, least=_LEAST_GAIN)
    return inputs[chosen.positions]


def _typical(problem: FunctionProblem) -> torch.Tensor:
    """The mean of many starting points, shape (1, P)."""
    return problem.space.initial(np.random.default_rng(0), 200).mean(0, keepdim=True)


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


def fit_sparse(
    problem: SparseProblem, settings: Settings, rng: np.random.Generator
) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """Hyperparameters at the maximum of the evidence bound: points (C, N, P), all the same, and statistics.

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
    num_steps = STEPS_PER_WARMUP * settings.num_warmup
    P = problem.space.size
    starts = problem.space.initial(rng, NUM_RESTARTS if P else 1)
    progress = iterations(0, len(starts) * num_steps, f"{len(starts)} restarts", show=settings.progress)
    runs = [_climb(problem, start, num_steps if P else 0, progress, rng) for start in starts]
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
    return points.reshape(C, N, -1), sample_stats


def _climb(
    problem: SparseProblem,
    start: torch.Tensor,
    num_steps: int,
    progress: Iterator[int],
    rng: np.random.Generator,
) -> Run:
    point = start[None].clone().requires_grad_()
    first, last = _RATES
    optimiser = torch.optim.Adam([point], lr=first)
    fall = torch.optim.lr_scheduler.ExponentialLR(optimiser, (last / first) ** (1 / max(num_steps, 1)))
    state: Sums | None = None
    weights: Weights | None = None
    elbo = []
    for step, rows in zip(range(num_steps), _batches(len(problem.y), rng), strict=False):
        next(progress)
        whole = len(rows) == len(problem.y)
        rate = 1.0 if whole else max((step + 1) ** -0.6, _SLOWEST)
        with torch.enable_grad():
            log_prior, values = problem.space.log_prior(point)
            L = problem.factor(values)
            at = problem.features(values, problem.roots(values), L, problem.X[rows], problem.task[rows])
            expected = problem.expected(values, rows)
            scale = len(problem.y) / len(rows)
            taken = natural_step(state, sums_of(at, expected, weights, scale), rate)
            if taken is not None:  # outliers can leave no precision; then q stays as it is
                state, weights = taken
            elif weights is None:
                weights = Weights.prior(at.C.shape[1])
            bound = scale * expected.value(*weights.moments(at)).sum() + log_prior[0]
            (gradient,) = torch.autograd.grad(-bound, point)
        if torch.isfinite(gradient).all():
            point.grad = gradient
            optimiser.step()
        fall.step()
        elbo.append(float(bound.detach() - weights.divergence()))
    there = point.detach()
    found = float(problem.value(there)[0])
    tail = np.array(elbo[-max(int(_LAST * num_steps), 1) :])
    return Run(there[0], found, *(rise_of(tail) if num_steps else (0.0, 0.0)))


def _batches(num_rows: int, rng: np.random.Generator) -> Iterator[torch.Tensor]:
    """Positions of rows, all of them before any comes again."""
    size = min(ROWS_AT_ONCE, num_rows)
    while True:
        order = torch.from_numpy(rng.permutation(num_rows))
        for start in range(0, num_rows - size + 1, size):
            yield order[start : start + size]
