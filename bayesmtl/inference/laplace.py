"""The Laplace engine: hyperparameters by importance sampling, weights integrated out or nearly so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from bayesmtl.inference.centred import Centred
from bayesmtl.inference.draws import Draws, complete_draws
from bayesmtl.inference.importance import (
    Proposal,
    WeightedSample,
    pooled_sample,
    systematic,
    weighted_sample,
)
from bayesmtl.inference.marginal import LaplaceMarginal
from bayesmtl.inference.mode import highest, rounded, search, spread_root
from bayesmtl.inference.problem import Problem
from bayesmtl.inference.settings import Settings, refuse_checkpoint
from bayesmtl.inference.target import Density, Target

NUM_DRAWS = 250  # by default, per chain; they are independent but for repeats
PROPOSALS_PER_DRAW = 1
_LEAST_PROPOSALS = 1000
# Of densities that cost much: in so many rounds, each adapted to all before it.
_ROUNDS, _PER_ROUND, _PER_COORDINATE = 5, 40, 3


def laplace(problem: Problem, settings: Settings) -> Draws:
    """Integrate the weights out by Laplace's method and draw the hyperparameters by importance sampling.

    Approximates twice for likelihoods other than Gaussian: the density of the hyperparameters is Laplace's,
    from the mode of all weights and the curvature there, and the weights given hyperparameters are drawn from
    the normal distribution at that mode. Both are close where tasks have many rows; with a few yes/no rows
    per task, spreads between tasks and intervals of the weights come out somewhat too small or too symmetric.
    Nothing that the engine reports can see this error: "gibbs" has none, where it applies. With a Gaussian
    likelihood both are exact.

    What is left is how hyperparameters are drawn: from a multivariate t around their mode, adapted to its own
    weighted draws, weighted by the density, Pareto-smoothed and resampled. The shape k of the weights' tail
    is in `sample_stats` as `pareto_k`, and `Fit.check` judges it. Scales, whose sign is irrelevant, are
    proposed on the mode's side of zero only.

    Raises:
        SpecificationError: If a checkpoint is asked for: the engine is too quick to need one.
    """
    refuse_checkpoint(settings, "laplace")
    rng = np.random.default_rng(settings.seed)
    C, N = settings.num_chains, settings.num_draws or NUM_DRAWS
    density: Density = problem
    data = None
    if not problem.likelihood.compresses:
        density = marginal = LaplaceMarginal(problem)
        data = marginal.data
    if problem.space.size == 0:
        points = torch.zeros(C, N, 0, dtype=torch.float64)
        return complete_draws(problem, points, {}, rng, data=data)
    modes = search(density, problem, rng)
    mode = highest(modes)
    center, root = rounded(mode.point, spread_root(density, mode.point, rng))
    proposal = Proposal(center, root, problem.space.signed(), center)
    number = max(PROPOSALS_PER_DRAW * C * N, _LEAST_PROPOSALS)
    sample = weighted_sample(density, proposal, number, rng)
    points, sample_stats = _resampled(sample, mode.converged, C, N, rng)
    return complete_draws(problem, points, sample_stats, rng, data=data)


def weigh_hyperparameters(
    problem: Target, settings: Settings, rng: np.random.Generator
) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """Points (C, N, P) from the hyperparameters' posterior by importance sampling, for costly densities.

    As `laplace`, with a few hundred evaluations, all of which count; the same checks are in the statistics.
    """
    refuse_checkpoint(settings, "laplace")
    C, N = settings.num_chains, settings.num_draws or NUM_DRAWS
    if problem.space.size == 0:
        return torch.zeros(C, N, 0, dtype=torch.float64), {}
    mode = highest(search(problem, problem, rng))
    density = Centred(problem)
    center = density.there(mode.point[None])[0]
    center, root = rounded(center, spread_root(density, center, rng))
    proposal = Proposal(center, root, density.signed, center)
    number = _PER_ROUND + _PER_COORDINATE * problem.space.size
    sample = pooled_sample(density, proposal, number, _ROUNDS, rng)
    sample = replace(sample, points=density.back(sample.points))
    return _resampled(sample, mode.converged, C, N, rng)


def _resampled(
    sample: WeightedSample, converged: bool, num_chains: int, num_draws: int, rng: np.random.Generator
) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """Equally weighted points (C, N, P) in a random order, and what there is to say about them."""
    C, N = num_chains, num_draws
    keep = rng.permutation(systematic(sample.weights, C * N, rng))
    return sample.points[keep].reshape(C, N, -1), {
        "converged": np.full((C, N), converged),
        "pareto_k": np.full((C, N), sample.pareto_k),
        "importance_ess": np.full((C, N), 1 / float((sample.weights**2).sum())),
    }
