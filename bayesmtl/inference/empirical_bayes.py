"""Empirical Bayes: hyperparameters at their posterior mode, then the exact conditional posterior."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize

from bayesmtl.inference.draws import Draws, complete_draws
from bayesmtl.inference.problem import Problem
from bayesmtl.inference.settings import Settings

NUM_STARTS = 2
_MAX_ITERATIONS = 500


def empirical_bayes(problem: Problem, settings: Settings) -> Draws:
    """Maximise the hyperparameters (type-II MAP) and draw the weights exactly given them.

    Approximates the posterior of the hyperparameters by a point, so intervals leave out the uncertainty about
    how much tasks differ. With many tasks that is little; with few, scales can come out at zero and intervals
    too narrow. `Fit.check` says so. The mode is the best of two starts by L-BFGS; a noise scale is maximised
    on its logarithm, scales of weights as they are. What belongs to a task without rows follows its prior: a
    scale that nothing is known about would have its mode at zero.
    """
    rng = np.random.default_rng(settings.seed)
    starts = problem.space.initial(rng, NUM_STARTS).numpy()

    def negative(point: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = problem.value_and_gradient(torch.from_numpy(point)[None])
        # L-BFGS backs off from an infinite value; NaN would stop it
        return -float(value[0]), -gradient[0].numpy()

    if starts.shape[1]:
        options = {"maxiter": _MAX_ITERATIONS}
        results = [
            minimize(negative, start, jac=True, method="L-BFGS-B", options=options) for start in starts
        ]
        best = min(results, key=lambda result: float(result.fun))
        mode, converged = best.x, bool(best.success)
        agree = max(abs(float(result.fun) - float(best.fun)) for result in results)
    else:  # every hyperparameter is known
        mode, converged, agree = starts[0], True, 0.0
    C, N = settings.num_chains, settings.num_draws
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    points = torch.from_numpy(mode).expand(C * N, -1)
    unseen = np.flatnonzero(problem.tasks.count.numpy() == 0)
    if len(unseen):
        points = problem.space.redraw_tasks(points, unseen, rng)
    sample_stats = {
        "converged": np.full((C, N), converged),
        "start_disagreement": np.full((C, N), agree),
    }
    return complete_draws(problem, points.reshape(C, N, -1), sample_stats, generator)
