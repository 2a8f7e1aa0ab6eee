"""Importance weights that take Laplace's approximation of the weights out of a set of draws.

Under Laplace's method hyperparameters phi and Z come from a density in which the rows of each task t are
replaced by their expansion at the mode: p(y_t | w_t) by exp(e_t(w_t)), and so p(y_t | Z, phi) by
c_t = int exp(e_t(w)) p(w | Z, phi) dw, which is known. Given phi and Z tasks are independent. So each task
gets K candidates of its weights, most from Laplace's normal distribution p(w | Z, phi) exp(e_t(w)) / c_t, the
others from the prior p(w | Z, phi), and with alpha their share
    v_k = p(y_t | w_k) / ((1 - alpha) exp(e_t(w_k)) / c_t + alpha),
whose mean has the expectation p(y_t | Z, phi) and which are bounded wherever the likelihood is. One candidate
is chosen in proportion to v_k, and the draw of phi and Z has the weight prod_t mean_k v_k / c_t: unbiased for
the true density over Laplace's, so that resampling by it is importance sampling of the true posterior.

Source: mixing the prior in, with the weights of the whole mixture, is defensive importance sampling
(Hesterberg, 1995, as recalled).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from bayesmtl.algebra.conditional import (
    WeightDraws,
    draw_posterior,
    draw_weights,
    log_likelihood_given_basis,
)
from bayesmtl.algebra.statistics import TaskStatistics
from bayesmtl.inference.draws import Draws
from bayesmtl.inference.importance import RELIABLE, smooth, systematic
from bayesmtl.inference.marginal import Expansion, LaplaceMarginal
from bayesmtl.parameters import Values

_MOST_CANDIDATES = 16
_LEAST_CANDIDATES = 4
_DEFENSIVE = 4  # one candidate in so many comes from the prior
_ROW_VALUES = 8_000_000  # over all draws and candidates: well below a second
_AT_ONCE = 400_000  # row values handled together


def corrected_draws(
    marginal: LaplaceMarginal,
    points: torch.Tensor,
    sample_stats: dict[str, np.ndarray],
    rng: np.random.Generator,
) -> Draws:
    """Draw Z and W for hyperparameter points, and resample all draws by their importance weights.

    Where few draws would carry all the weight (Pareto k above its limit) none is resampled: hyperparameters
    and Z are then those of Laplace's method, and only the weights of tasks given them are corrected, as far
    as their candidates go; `pareto_k_weights` and `importance_ess_weights` in the sample statistics tell.

    Args:
        marginal: The density that the points were drawn from.
        points: Coordinates of the hyperparameters, shape (C, N, P).
        sample_stats: What the engine recorded, each (C, N).
        rng: Source of randomness.
    """
    problem, rows = marginal.problem, marginal.rows
    C, N, P = points.shape
    S = C * N
    K = min(max(_ROW_VALUES // (S * rows.size), _LEAST_CANDIDATES), _MOST_CANDIDATES)
    values = problem.space.constrain(points.reshape(S, P))
    size = max(1, _AT_ONCE // (K * rows.size))
    parts, log_weights = [], []
    for start in range(0, S, size):
        B = min(size, S - start)
        # with nothing but weights to draw, all draws share one mode
        chosen = slice(0, 1) if P == 0 else slice(start, start + B)
        chunk = {name: value[chosen] for name, value in values.items()}
        drawn, log_weight = _candidates(marginal, chunk, B, K, rng)
        parts.append(drawn)
        log_weights.append(log_weight)
    drawn = WeightDraws(
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("weights", "basis", "factors"))
    )
    smoothed, k = smooth(torch.cat(log_weights).numpy())
    weight = np.exp(smoothed - smoothed.max())
    weight /= weight.sum()
    keep = np.arange(S)
    if k <= RELIABLE:
        keep = rng.permutation(systematic(torch.from_numpy(weight), S, rng))

    def shaped(tensor: torch.Tensor) -> torch.Tensor:
        return tensor[keep].reshape(C, N, *tensor.shape[1:])

    told = {
        "pareto_k_weights": np.full((C, N), k),
        "importance_ess_weights": np.full((C, N), 1 / float((weight**2).sum())),
    }
    return Draws(
        {name: shaped(value) for name, value in values.items()},
        shaped(drawn.basis),
        shaped(drawn.weights),
        shaped(drawn.factors),
        sample_stats | told,
    )


def _candidates(
    marginal: LaplaceMarginal, values: Values, B: int, K: int, rng: np.random.Generator
) -> tuple[WeightDraws, torch.Tensor]:
    """B draws, each task's weights chosen among K, and their log weights, shape (B,).

    Args:
        marginal: Laplace's density.
        values: Hyperparameters, one for each draw or one for all.
        B: Number of draws.
        K: Number of candidates.
        rng: Source of randomness.
    """
    problem, rows = marginal.problem, marginal.rows
    structure = problem.structure(values)
    num_values = max((len(value) for value in values.values()), default=1)
    noise = torch.ones(num_values, 1, dtype=torch.float64)
    expansion = marginal.expand(structure, num_values, values)
    data = expansion.pseudo.compressed()
    drawn = draw_posterior(data, structure, noise, rng, B // num_values)
    from_prior = K // _DEFENSIVE
    empty = TaskStatistics.empty(rows.num_tasks, drawn.weights.shape[-1]).compress()
    tried = [
        draw_weights(source, structure, noise, drawn.basis.repeat_interleave(number, dim=0), rng)
        for source, number in ((data, K - from_prior), (empty, from_prior))
    ]
    scaled = log_likelihood_given_basis(data, structure, noise, drawn.basis)  # log c_t but for a constant
    shares = []
    for candidates in tried:
        number = len(candidates.weights) // B
        likelihood, expanded = _log_likelihoods(
            marginal, expansion, values, candidates.weights, B * number // num_values
        )
        # all relative to c_t
        laplace = expanded.reshape(B, number, -1) - scaled[:, None]
        mixture = torch.logaddexp(
            laplace + math.log(1 - from_prior / K), torch.full_like(laplace, math.log(from_prior / K))
        )
        shares.append(likelihood.reshape(B, number, -1) - scaled[:, None] - mixture)
    share = torch.cat(shares, dim=1)
    log_weight = (torch.logsumexp(share, dim=1) - math.log(K)).sum(1)
    pick = (share - torch.from_numpy(rng.standard_exponential(share.shape)).log()).argmax(1)

    def chosen(name: str) -> torch.Tensor:
        parts = [getattr(candidates, name) for candidates in tried]
        by_candidate = torch.cat([part.reshape(B, len(part) // B, *part.shape[1:]) for part in parts], dim=1)
        return torch.take_along_dim(by_candidate, pick[:, None, :, None], dim=1)[:, 0]

    return replace(drawn, weights=chosen("weights"), factors=chosen("factors")), log_weight


def _log_likelihoods(
    marginal: LaplaceMarginal, expansion: Expansion, values: Values, weights: torch.Tensor, times: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """log p(y_t | w_t), and e_t(w_t), of every task for weights (M, T, D), each (M, T).

    Both are without what the expansion has for a constant, l - g f - omega f^2 / 2 at the mode.
    """

    def repeated(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.repeat_interleave(times, dim=0)

    rows, at, mode = marginal.rows, expansion.at, expansion.f
    f = rows.predictor(weights)
    outcomes = marginal.problem.outcomes({name: repeated(value) for name, value in values.items()})
    constant = at.value - at.first * mode - 0.5 * expansion.omega * mode**2
    expanded = repeated(expansion.kappa) * f - 0.5 * repeated(expansion.omega) * f**2
    return rows.sums(outcomes.derivatives(f).value - repeated(constant)), rows.sums(expanded)
