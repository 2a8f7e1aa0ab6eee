"""The Laplace engine: hyperparameters by importance sampling, weights integrated out or nearly so."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from bayesmtl.inference.laplace.correction import LEAST_DRAWS, corrected_draws
from bayesmtl.inference.laplace.journal import Journal, Recorded, RecordedTarget, kept
from bayesmtl.posteriors.draws import Draws, LinearDraws
from bayesmtl.posteriors.functions.noise_coordinates import Centred
from bayesmtl.posteriors.functions.rotation_coordinates import Turned
from bayesmtl.posteriors.linear.outcomes import OutcomePosterior
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.posteriors.posterior import Posterior
from bayesmtl.posteriors.target import Density
from bayesmtl.samplers.importance import (
    Proposal,
    WeightedSample,
    pooled_sample,
    systematic,
    weighted_sample,
)
from bayesmtl.samplers.modes import highest, rounded, spread_root
from bayesmtl.samplers.search import search
from bayesmtl.samplers.settings import Settings

NUM_DRAWS = 250  # by default, per chain; they are independent but for repeats
PROPOSALS_PER_DRAW = 1
_LEAST_PROPOSALS = 1000
# Where an evaluation is slow (numbers handled in one) there are many tasks, and the posterior of what they
# share is all but normal: fewer proposals do, and the shape of the weights' tail says if not.
_SLOW, _FEW_PROPOSALS = 1_000_000, 400
# Points of the first round where all rounds count.
_FIRST, _PER_COORDINATE = 40, 3
# Points of all rounds, in first rounds: more where evaluations are cheap, until enough are effective. The
# last is for matrices of so many rows and less, between them as many as take the same time.
_LEAST_ROUNDS, _MOST_ROUNDS, _CHEAP = 8, 256, 75
# Degrees of freedom there: loadings and scales that few data know have tails, and rounds can afford them.
_TAIL = 7.0
# Of matrices, for points evaluated together: more than the processor's cache holds makes each slower.
_ENTRIES_AT_ONCE, _MOST_AT_ONCE = 1_000_000, 128


def laplace(problem: LinearPosterior, settings: Settings) -> LinearDraws:
    """Integrate the weights out by Laplace's method and draw the hyperparameters by importance sampling.

    The density of the hyperparameters is Laplace's, from the mode of all weights and the curvature there, and
    the weights given hyperparameters are drawn from the normal distribution at that mode. With a Gaussian
    likelihood both are exact. With others both are approximate, the more so the fewer rows tasks have
    (spreads between tasks come out too small, weights too symmetric), and importance weights correct them:
    each draw is weighted by the true density over Laplace's, with several candidates for the weights of
    every task, and resampled (`bayesmtl.inference.laplace.correction`). What is left is the error of a finite
    number of draws. The shape of these weights' tail and their effective number are `pareto_k_weights` and
    `importance_ess_weights` in `sample_stats`; where the tail is too heavy for a correction (Pareto k above
    .7) hyperparameters stay those of Laplace's method, and `Fit.check` says so.

    Hyperparameters are drawn from a multivariate t around their mode, adapted to its own weighted draws,
    weighted by Laplace's density, Pareto-smoothed and resampled: `pareto_k` and `importance_ess`, which
    `Fit.check` judges as well. Scales, whose sign is irrelevant, are proposed on the mode's side of zero
    only.

    With a checkpoint a killed run goes on, and gives the same draws. An interrupt (Ctrl-C) while weights
    are drawn returns the draws made so far, marked incomplete; before that there is nothing to return, since
    hyperparameters are drawn all at once after the last of them is weighted, and the interrupt says so.

    Raises:
        KeyboardInterrupt: If interrupted while nothing is drawn yet.
        CheckpointError: If the checkpoint is damaged or belongs to another run.
    """
    rng = np.random.default_rng(settings.seed)
    C, N = settings.num_chains, settings.num_draws or NUM_DRAWS
    density: Density = problem
    marginal = None
    if isinstance(problem, OutcomePosterior):
        density = marginal = replace(problem, rows=problem.rows.merged()).density()
    journal = Journal(problem, settings, marginal)
    # more than are wanted, where few are: a correction resamples them
    M = C * N if marginal is None else max(C * N, LEAST_DRAWS)
    points, sample_stats = torch.zeros(M, 0, dtype=torch.float64), {}
    slow = sum(group.rows.numel() for group in problem.tasks.groups) > _SLOW
    number = max(PROPOSALS_PER_DRAW * C * N, _FEW_PROPOSALS if slow else _LEAST_PROPOSALS)
    with kept(journal):
        if problem.space.size:
            density = Recorded(density, journal, number if marginal is None else marginal.at_once)
            mode = highest(search(density, problem, rng))
            center, root = rounded(mode.point, spread_root(density, mode.point, rng))
            proposal = Proposal(center, root, problem.space.signed(), center)
            sample = weighted_sample(density, proposal, number, rng)
            points, sample_stats = _resampled(sample, M, rng), _judged(sample, mode.converged, C, N)
        if marginal is None:
            return problem.complete(points.reshape(C, N, -1), sample_stats, rng)
        draws = corrected_draws(marginal, points, (C, N), rng, journal)
    told = {name: values[:, : draws.weights.shape[1]] for name, values in sample_stats.items()}
    return replace(draws, sample_stats=told | draws.sample_stats)


def function_laplace(problem: Posterior, settings: Settings) -> Draws:
    """Draw the hyperparameters of functions by importance sampling around their mode.

    Approximates nothing but by a finite number of draws under Gaussian noise; under other likelihoods the
    density is a bound. As `laplace`, with a few hundred evaluations, all of which count, and thousands where
    they are cheap and fewer than 1000 of the points are effective; the same checks are in the statistics.
    With an effective hundred, 90 % intervals of eleven hyperparameters covered 84 %
    (benchmarks.functions_calibration).

    The statistics have the evidence as well, log p(y) in standardised units.

    Raises:
        KeyboardInterrupt: If interrupted: hyperparameters are drawn all at once, at the end.
        CheckpointError: If the checkpoint is damaged or belongs to another run.
    """
    rng = np.random.default_rng(settings.seed)
    C, N = settings.num_chains, settings.num_draws or NUM_DRAWS
    if problem.space.size == 0:
        return problem.complete(torch.zeros(C, N, 0, dtype=torch.float64), {}, rng)
    number = _FIRST + _PER_COORDINATE * problem.space.size
    size = problem.evaluation_size
    rounds = min(max(_MOST_ROUNDS * (_CHEAP / size) ** 2, _LEAST_ROUNDS), _MOST_ROUNDS)
    at_once = min(max(int(_ENTRIES_AT_ONCE / size**2), 1), _MOST_AT_ONCE)
    journal = Journal(problem, settings)
    with kept(journal):
        target = RecordedTarget(problem, journal)
        mode = highest(search(target, target, rng))
        centred = Centred(problem)
        center, signed, turned = centred.there(mode.point[None]), centred.signed, None
        if problem.turning is not None:
            turned = Turned.around(centred, *problem.space.place(problem.turning), center[0])
            center, signed = turned.there(center), turned.signed(signed)
        density = Recorded(turned or centred, journal, number)
        center, root = rounded(center[0], spread_root(density, center[0], rng))
        proposal = Proposal(center, root, signed, center, _TAIL)
        sample = pooled_sample(density, proposal, number, int(rounds * number), rng, at_once)
    points = _resampled(sample, C * N, rng)
    points = centred.back(points if turned is None else turned.back(points, rng)).reshape(C, N, -1)
    # of scales, whose sign means nothing, the proposals have one side only
    both_sides = math.log(2) * int(problem.space.signed().sum())
    stats = _judged(sample, mode.converged, C, N)
    stats["log_evidence"] = np.full((C, N), sample.log_total + both_sides)
    stats["log_evidence_error"] = np.full((C, N), sample.log_total_error)
    return problem.complete(points, stats, rng)


def _resampled(sample: WeightedSample, number: int, rng: np.random.Generator) -> torch.Tensor:
    """Equally weighted points (number, P) in a random order."""
    return sample.points[rng.permutation(systematic(sample.weights, number, rng))]


def _judged(
    sample: WeightedSample, converged: bool, num_chains: int, num_draws: int
) -> dict[str, np.ndarray]:
    """What there is to say about a sample, as sample statistics (C, N)."""
    shape = (num_chains, num_draws)
    return {
        "converged": np.full(shape, converged),
        "pareto_k": np.full(shape, sample.pareto_k),
        "importance_ess": np.full(shape, 1 / float((sample.weights**2).sum())),
    }
