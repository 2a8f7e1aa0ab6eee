"""Weights of tasks given Z and hyperparameters phi, under a likelihood that is not Gaussian.

Given phi and Z tasks are independent. An expansion of the rows, exp(kappa f - omega f^2 / 2) up to a
constant, gives every task t a normal distribution p(w | Z, phi) exp(e_t(w)) / c_t, c_t its integral, that is
close to the true one, p(w | Z, phi) p(y_t | w) / p(y_t | Z, phi). It is the proposal of a Metropolis step,
and of importance sampling with K candidates for the weights of each task: most come from it, the others from
the prior p(w | Z, phi), and with alpha their share
    v_k = p(y_t | w_k) / ((1 - alpha) exp(e_t(w_k)) / c_t + alpha)
has the mean p(y_t | Z, phi), and is bounded wherever the likelihood is.

Source: mixing the prior in, with the weights of the whole mixture, is defensive importance sampling
(Hesterberg, 1995, as recalled).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from bayesmtl.algebra.conditional import WeightDraws, draw_weights, log_likelihood_given_basis
from bayesmtl.algebra.rows import TaskRows
from bayesmtl.algebra.statistics import TaskStatistics
from bayesmtl.algebra.structure import Structure
from bayesmtl.likelihoods import Outcomes
from bayesmtl.posteriors.linear.outcomes import Expansion


def importance(outcomes: Outcomes, reference: Expansion, weights: torch.Tensor) -> torch.Tensor:
    """log p(y_t | w_t) less the log of what the pseudo-rows make of w_t, shape (B, T)."""
    rows = outcomes.rows
    f = rows.predictor(weights)
    return rows.sums(outcomes.value(f) - _expanded(rows, reference.kappa, reference.omega, f))


def _expanded(rows: TaskRows, kappa: torch.Tensor, omega: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    """kappa'f - f'Omega f / 2 of every row, shape (B, N)."""
    return rows.inner(kappa, f) - 0.5 * rows.inner(f, rows.times(omega, f))


def renew(
    current: WeightDraws,
    reference: Expansion,
    structure: Structure,
    outcomes: Outcomes,
    rng: np.random.Generator,
) -> tuple[WeightDraws, torch.Tensor]:
    """Draw W | Z, phi by Metropolis' rule; and the share of tasks accepted, shape (B,).

    A task's importance is the likelihood of its rows over that of their pseudo-rows.

    Args:
        current: B draws.
        reference: The expansion that proposals come from, of one batch entry.
        structure: Prior of W for the B hyperparameter values.
        outcomes: The rows with these values.
        rng: Source of randomness.
    """
    noise = torch.ones(len(current.weights), 1, dtype=torch.float64)
    proposed = draw_weights(reference.pseudo.compressed(), structure, noise, current.basis, rng)

    ratio = importance(outcomes, reference, proposed.weights)
    ratio = ratio - importance(outcomes, reference, current.weights)
    accepted = torch.from_numpy(rng.random(tuple(ratio.shape))).log() < ratio
    moved = WeightDraws(
        torch.where(accepted[..., None], proposed.weights, current.weights),
        current.basis,
        torch.where(accepted[..., None], proposed.factors, current.factors),
    )
    return moved, accepted.to(ratio.dtype).mean(1)


def choose_candidates(
    expansion: Expansion,
    structure: Structure,
    outcomes: Outcomes,
    basis: torch.Tensor,
    K: int,
    from_prior: int,
    rng: np.random.Generator,
) -> tuple[WeightDraws, torch.Tensor, torch.Tensor]:
    """Choose each task's weights among K candidates.

    Args:
        expansion: Of V hyperparameter values, or of one for all.
        structure: Prior of W for V values.
        outcomes: The rows with these values.
        basis: Z, shape (B, R, D), B / V draws of it for each value.
        K: Number of candidates.
        from_prior: How many of them come from the prior, fewer than K.
        rng: Source of randomness.

    Returns:
        Draws of W, and of every task the log of the unbiased estimate of p(y_t | Z, phi) and log c_t, each
        (B, T), both without the constant of the expansion.
    """
    B, V = len(basis), max((len(value) for value in outcomes.values.values()), default=1)
    noise = torch.ones(V, 1, dtype=torch.float64)
    data = expansion.pseudo.compressed()
    empty = TaskStatistics.empty(outcomes.rows.num_tasks, basis.shape[-1]).compress()
    scale = log_likelihood_given_basis(data, structure, noise, basis)
    tried, shares = [], []
    for source, number in ((data, K - from_prior), (empty, from_prior))[: 2 if from_prior else 1]:
        candidates = draw_weights(source, structure, noise, basis.repeat_interleave(number, dim=0), rng)
        likelihood, expanded = (
            part.reshape(B, number, -1) for part in _log_likelihoods(expansion, outcomes, candidates.weights)
        )
        mixture = expanded - scale[:, None] + math.log(1 - from_prior / K)
        if from_prior:
            mixture = torch.logaddexp(mixture, torch.full_like(mixture, math.log(from_prior / K)))
        tried.append(candidates)
        shares.append(likelihood - mixture)
    share = torch.cat(shares, dim=1)
    pick = (share - torch.from_numpy(rng.standard_exponential(share.shape)).log()).argmax(1)

    def chosen(name: str) -> torch.Tensor:
        parts = [getattr(candidates, name) for candidates in tried]
        by_candidate = torch.cat([part.reshape(B, len(part) // B, *part.shape[1:]) for part in parts], dim=1)
        return torch.take_along_dim(by_candidate, pick[:, None, :, None], dim=1)[:, 0]

    drawn = WeightDraws(chosen("weights"), basis, chosen("factors"))
    return drawn, torch.logsumexp(share, dim=1) - math.log(K), scale


def _log_likelihoods(
    expansion: Expansion, outcomes: Outcomes, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """log p(y_t | w_t) and e_t(w_t) of every task for weights (M, T, D), each (M, T).

    Both are without what the expansion has for a constant, l - g f - omega f^2 / 2 at the mode.
    """
    M = len(weights)

    def repeated(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.repeat_interleave(M // len(tensor), dim=0)

    at, mode, omega, rows = expansion.at, expansion.f, expansion.omega, outcomes.rows
    f = rows.predictor(weights)
    values = {name: repeated(value) for name, value in outcomes.values.items()}
    value = replace(outcomes, values=values).value(f)
    constant = at.value + _expanded(rows, -at.first, omega, mode)
    expanded = _expanded(rows, repeated(expansion.kappa), repeated(omega), f)
    return rows.sums(value - repeated(constant)), rows.sums(expanded)
