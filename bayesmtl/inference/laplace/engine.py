"""The Laplace engine: hyperparameters by importance sampling, weights integrated out or nearly so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from bayesmtl.inference.laplace.correction import LEAST_DRAWS, corrected_draws
from bayesmtl.inference.laplace.journal import Journal, Recorded, RecordedTarget, kept
from bayesmtl.inference.weighted import first_round, weigh
from bayesmtl.posteriors.draws import Draws, LinearDraws
from bayesmtl.posteriors.linear.outcomes import OutcomePosterior
from bayesmtl.posteriors.posterior import Posterior
from bayesmtl.samplers.importance import (
    Proposal,
    WeightedSample,
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
# Points of all rounds, in first rounds: more where evaluations are cheap, until enough are effective. The
# last is for matrices of so many rows and less, between them as many as take the same time.
_LEAST_ROUNDS, _MOST_ROUNDS, _CHEAP = 8, 256, 75


def laplace(problem: OutcomePosterior, settings: Settings) -> LinearDraws:
    """Integrate the weights out by Laplace's method and draw the hyperparameters by importance sampling.

    The density of the hyperparameters is Laplace's, from the mode of all weights and the curvature there, and
    the weights given hyperparameters are drawn from the normal distribution at that mode. Both are
    approximate, the more so the fewer rows tasks have: spreads between tasks come out too small, weights too
    symmetric. Importance weights correct them: each draw is weighted by the true density over Laplace's,
    with several candidates for the weights of every task, and resampled
    (`bayesmtl.inference.laplace.correction`). What is left is the error of a finite number of draws. The
    shape of these weights' tail and their effective number are `pareto_k_weights` and
    `importance_ess_weights` in `sample_stats`. Where the tail is too heavy for a correction (Pareto k above
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
    marginal = replace(problem, rows=problem.rows.merged()).density()
    journal = Journal(problem, settings, marginal)
    M = max(C * N, LEAST_DRAWS)  # more than are wanted, where few are: the correction resamples them
    points, sample_stats = torch.zeros(M, 0, dtype=torch.float64), {}
    slow = sum(group.rows.numel() for group in problem.tasks.groups) > _SLOW
    number = max(PROPOSALS_PER_DRAW * C * N, _FEW_PROPOSALS if slow else _LEAST_PROPOSALS)
    with kept(journal):
        if problem.space.size:
            density = Recorded(marginal, journal, marginal.at_once)
            mode = highest(search(density, problem, rng))
            center, root = rounded(mode.point, spread_root(density, mode.point, rng))
            proposal = Proposal(center, root, problem.space.signed(), center)
            sample = weighted_sample(density, proposal, number, rng)
            points, sample_stats = _resampled(sample, M, rng), _judged(sample, mode.converged, C, N)
        draws = corrected_draws(marginal, points, (C, N), rng, journal)
    told = {name: values[:, : draws.weights.shape[1]] for name, values in sample_stats.items()}
    return replace(draws, sample_stats=told | draws.sample_stats)


def function_laplace(problem: Posterior, settings: Settings) -> Draws:
    """Draw the hyperparameters of functions by importance sampling around their mode.

    For likelihoods that are not Gaussian: approximates the density by a bound of the evidence. Under
    Gaussian noise the exact engine does the same. As `laplace`, with a few hundred evaluations, all of
    which count, and thousands where they are cheap and fewer than 1000 of the points are effective. The
    same checks are in the statistics. With an effective hundred, 90 % intervals of eleven hyperparameters
    covered 84 % (benchmarks.functions_calibration).

    The statistics have the evidence as well, log p(y) in standardised units.

    Raises:
        KeyboardInterrupt: If interrupted: hyperparameters are drawn all at once, at the end.
        CheckpointError: If the checkpoint is damaged or belongs to another run.
    """
    rng = np.random.default_rng(settings.seed)
    C, N = settings.num_chains, settings.num_draws or NUM_DRAWS
    if problem.space.size == 0:
        return problem.complete(torch.zeros(C, N, 0, dtype=torch.float64), {}, rng)
    number = first_round(problem)
    size = problem.evaluation_size
    rounds = min(max(_MOST_ROUNDS * (_CHEAP / size) ** 2, _LEAST_ROUNDS), _MOST_ROUNDS)
    journal = Journal(problem, settings)
    with kept(journal):
        found = weigh(
            problem,
            int(rounds * number),
            rng,
            searched=RecordedTarget(problem, journal),
            record=lambda density: Recorded(density, journal, number),
        )
    return problem.complete(found.points(C, N, rng), found.stats(C, N), rng)


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
