"""Importance weights that take Laplace's approximation of the weights out of a set of draws.

Under Laplace's method hyperparameters phi and Z come from a density in which p(y_t | Z, phi) is replaced by
c_t, the same with the rows of task t replaced by their expansion at the mode. Given phi and Z tasks are
independent, and `task_weights` has an unbiased estimate of the true p(y_t | Z, phi), with weights w_t drawn
in its proportion. So a draw of phi and Z has the weight prod_t estimate_t / c_t, and resampling by it is
importance sampling of the true posterior.
"""

from __future__ import annotations

import numpy as np
import torch

from bayesmtl.algebra.conditional import WeightDraws, draw_posterior
from bayesmtl.inference.laplace.journal import Journal
from bayesmtl.parameters import Values
from bayesmtl.posteriors.draws import LinearDraws
from bayesmtl.posteriors.linear.outcomes import LaplaceMarginal
from bayesmtl.posteriors.linear.task_weights import choose_candidates
from bayesmtl.samplers.importance import RELIABLE, smooth, systematic

_MOST_CANDIDATES = 16
_LEAST_CANDIDATES = 4
LEAST_DRAWS = 400  # that a correction is judged by, and made of
LEAST_PER_CHAIN = 4  # draws that a fit is made of, when interrupted
# Row values and entries of tasks' precisions over all draws and candidates. More candidates hardly raise the
# effective number of draws where there are many rows.
_VALUES = 2_000_000
_AT_ONCE = 400_000  # row values handled together


def corrected_draws(
    marginal: LaplaceMarginal,
    points: torch.Tensor,
    shape: tuple[int, int],
    rng: np.random.Generator,
    journal: Journal,
) -> LinearDraws:
    """Draw Z and W for hyperparameter points, and resample all draws by their importance weights.

    Candidates come from Laplace's distribution; if a few draws would then carry all the weight (Pareto k
    above its limit) they are made anew, more of them and one from the prior, which bounds what a task can
    contribute. Where still few draws would, none is resampled: hyperparameters and Z are then those of
    Laplace's method, and only the weights of tasks given them are corrected, as far as their candidates go.
    The last `pareto_k_weights` and `importance_ess_weights` are in the sample statistics.

    Args:
        marginal: The density that the points were drawn from.
        points: Coordinates of the hyperparameters, at least as many as draws are wanted, shape (M, P).
        shape: Chains C and draws N of each.
        rng: Source of randomness.
        journal: Keeps what is drawn.

    Raises:
        KeyboardInterrupt: If interrupted with fewer than four draws for every chain; with more they are
            returned, marked incomplete.
    """
    problem, rows = marginal.problem, marginal.rows
    (M, P), (C, N) = points.shape, shape
    values = problem.space.constrain(points)
    size = rows.size + rows.num_tasks * rows.num_weights**2
    few = min(max(_VALUES // (M * size), _LEAST_CANDIDATES), _MOST_CANDIDATES)
    done, complete = journal.resume(rng), True
    for attempt, (K, from_prior) in enumerate(((few, 0), (_MOST_CANDIDATES, 1))):
        if attempt < done.attempt:
            continue
        if attempt > done.attempt:
            journal.start_again(attempt)
        size = max(1, _AT_ONCE // (K * rows.size))
        try:
            for start in range(done.number, M, size):
                B = min(size, M - start)
                # with nothing but weights to draw, all draws share one mode
                chosen = slice(0, 1) if P == 0 else slice(start, start + B)
                chunk = {name: value[chosen] for name, value in values.items()}
                journal.drawn(*_candidates(marginal, chunk, B, K, from_prior, rng), rng)
        except KeyboardInterrupt:
            if done.number < LEAST_PER_CHAIN * C:
                raise
            complete = False
        smoothed, k = smooth(torch.cat(done.log_weights).numpy())
        if k <= RELIABLE or not complete:
            break
    # points are in a random order, so that the first are as good a sample as all
    drawn, M = done.all_draws(), done.number
    N = min(N, M // C)
    weight = np.exp(smoothed - smoothed.max())
    weight /= weight.sum()
    keep = rng.permutation(M)[: C * N]
    if k <= RELIABLE:
        keep = rng.permutation(systematic(torch.from_numpy(weight), C * N, rng))

    def shaped(tensor: torch.Tensor) -> torch.Tensor:
        return tensor[keep].reshape(C, N, *tensor.shape[1:])

    told = {
        "pareto_k_weights": np.full((C, N), k),
        "importance_ess_weights": np.full((C, N), 1 / float((weight**2).sum())),
    }
    return LinearDraws(
        {name: shaped(value) for name, value in values.items()},
        shaped(drawn.basis),
        shaped(drawn.weights),
        shaped(drawn.factors),
        told,
        complete,
    )


def _candidates(
    marginal: LaplaceMarginal, values: Values, B: int, K: int, from_prior: int, rng: np.random.Generator
) -> tuple[WeightDraws, torch.Tensor]:
    """B draws, each task's weights chosen among K, and their log weights, shape (B,).

    Args:
        marginal: Laplace's density.
        values: Hyperparameters, one for each draw or one for all.
        B: Number of draws.
        K: Number of candidates.
        from_prior: How many of them come from the prior.
        rng: Source of randomness.
    """
    structure = marginal.problem.structure(values)
    num_values = max((len(value) for value in values.values()), default=1)
    noise = torch.ones(num_values, 1, dtype=torch.float64)
    expansion = marginal.expand(structure, num_values, values)
    drawn = draw_posterior(expansion.pseudo.compressed(), structure, noise, rng, B // num_values)
    outcomes = marginal.problem.outcomes(values)
    chosen, estimate, scale = choose_candidates(
        expansion, structure, outcomes, drawn.basis, K, from_prior, rng
    )
    return chosen, (estimate - scale).sum(1)
