"""Empirical Bayes: hyperparameters at their posterior mode, then the exact conditional posterior."""

from __future__ import annotations

import numpy as np
import torch

from bayesmtl.posteriors.draws import Draws
from bayesmtl.posteriors.posterior import Posterior
from bayesmtl.posteriors.target import Target
from bayesmtl.samplers.modes import highest
from bayesmtl.samplers.search import search
from bayesmtl.samplers.settings import Settings, refuse_checkpoint

NUM_DRAWS = 250  # by default, per chain; they are independent


def empirical_bayes(problem: Posterior, settings: Settings) -> Draws:
    """Maximise the hyperparameters (type-II MAP) and draw the weights exactly given them.

    Approximates the posterior of the hyperparameters by a point, so intervals leave out the uncertainty about
    how much tasks differ. With many tasks that is little; with few, scales can come out at zero and intervals
    too narrow. `Fit.check` says so. The mode is the best of two starts by L-BFGS; a noise scale is maximised
    on its logarithm, scales of weights as they are. What belongs to a task without rows follows its prior: a
    scale that nothing is known about would have its mode at zero.

    Raises:
        SpecificationError: If a checkpoint is asked for.
    """
    rng = np.random.default_rng(settings.seed)
    points, sample_stats = maximise_hyperparameters(problem, settings, rng)
    return problem.complete(points, sample_stats, rng, at_mode=True)


def maximise_hyperparameters(
    problem: Target, settings: Settings, rng: np.random.Generator
) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """The mode of the hyperparameters, repeated: points (C, N, P), and what the optimiser said.

    Raises:
        SpecificationError: If a checkpoint is asked for: a search for a mode has none.
    """
    refuse_checkpoint(settings, "empirical_bayes")
    if problem.space.size:
        modes = search(problem, problem, rng)
        best = highest(modes)
        point, converged = best.point, best.converged
        disagreement = max(abs(best.value - mode.value) for mode in modes)
    else:  # every hyperparameter is known
        point, converged, disagreement = torch.zeros(0, dtype=torch.float64), True, 0.0
    C, N = settings.num_chains, settings.num_draws or NUM_DRAWS
    points = point.expand(C * N, -1)
    if len(problem.unseen):
        points = problem.space.redraw_tasks(points, problem.unseen, rng)
    sample_stats = {
        "converged": np.full((C, N), converged),
        "start_disagreement": np.full((C, N), disagreement),
    }
    return points.reshape(C, N, -1), sample_stats
