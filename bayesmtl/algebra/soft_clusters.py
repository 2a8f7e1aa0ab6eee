"""The evidence bound of tasks in clusters: tasks shared out over clusters, each independently of the others.

With q(c, Z, v) = prod_t q(c_t) q(Z) q(v) and both q(Z) and q(v) at their best for given q(c), the bound of
log p(y | hyperparameters) is a function of the shares r_tk = q(c_t = k) alone.

On paper                                                 In code
N_k = sum_t r_tk                                         `share.sum(0)`
P_k, q_k  sums of r_tk Q_t and r_tk q_t                  `soft_sums`: what z_k = mu + b_k sees
log E[prod_k exp(q_k'z_k - z_k'P_k z_k / 2)]             `Blocks.log_worth`
log E[prod_k pi_k^N_k], pi_k = v_k prod_l<k (1 - v_l)    `log_sticks`
-sum r log r                                             `entropy`

A hard share has no entropy and gives log p(y | partition) and the sticks' log E[prod pi_k^N_k].
"""

from __future__ import annotations

import torch

from bayesmtl.algebra.clusters import Blocks, TaskTerms, cluster_moments
from bayesmtl.algebra.collapsed import cholesky_or_nan


def soft_sums(terms: TaskTerms, share: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """P_k (B, K, D, D) and q_k (B, K, D) of clusters that hold shares of the tasks.

    Args:
        terms: What the tasks say.
        share: r, shape (T, K).
    """
    q: torch.Tensor = share.T @ terms.linear
    P: torch.Tensor = (share.T @ terms.precision.flatten(2)).reshape(*q.shape, q.shape[-1])
    return P, q


def entropy(share: torch.Tensor) -> torch.Tensor:
    """Entropy of independent clusters of the tasks, (..., T, K) -> (...)."""
    found: torch.Tensor = -torch.special.xlogy(share, share).sum((-1, -2))
    return found


def log_sticks(number: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """log E[prod_k pi_k^N_k] over v_k ~ Beta(first_k, second_k), shape (B,).

    Args:
        number: N, tasks in every cluster, shape (B or 1, K).
        first: Shape (B, S), S = K, or K - 1 where the last cluster takes all that is left.
        second: Of the same shape.
    """
    own, after = _own_and_after(number, first.shape[1])

    def log_beta(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)

    return (log_beta(first + own, second + after) - log_beta(first, second)).sum(1)


def expected_log_weights(number: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """E[log pi_k] under v_k ~ Beta(first_k + N_k, second_k + sum_l>k N_l), shape (B, K).

    Args:
        number: N, shape (B or 1, K).
        first: Shape (B, S), as for `log_sticks`.
        second: Of the same shape.
    """
    K, S = number.shape[1], first.shape[1]
    own, after = _own_and_after(number, S)
    total = torch.digamma(first + second + own + after)
    taken = torch.digamma(first + own) - total
    left = (torch.digamma(second + after) - total).cumsum(1)
    before = torch.nn.functional.pad(left, (1, 0))[:, :K]
    return torch.nn.functional.pad(taken, (0, K - S)) + before


def _own_and_after(number: torch.Tensor, num_sticks: int) -> tuple[torch.Tensor, torch.Tensor]:
    later = number.flip(1).cumsum(1).flip(1) - number
    return number[:, :num_sticks], later[:, :num_sticks].clamp(min=0)


def expected_log_densities(terms: TaskTerms, blocks: Blocks, scales: torch.Tensor) -> torch.Tensor:
    """E[q_t'z_k - z_k'Q_t z_k / 2] under q(Z), shape (B, T, K).

    Args:
        terms: What the tasks say.
        blocks: q(Z).
        scales: Prior scales of mu and of the departures, shape (B, 2, D).
    """
    m, V = cluster_moments(blocks, scales)
    second = V + m[..., None] * m[..., None, :]
    square = terms.precision.flatten(2) @ second.flatten(2).transpose(1, 2)
    return terms.linear @ m.transpose(1, 2) - 0.5 * square


def worth_of_merging(
    P: torch.Tensor, q: torch.Tensor, scales: torch.Tensor, first: torch.Tensor, second: torch.Tensor
) -> torch.Tensor:
    """`log_worth` with two clusters as one, for many pairs at once, shape (M,).

    Only what the two say about mu changes, so that a pair costs two D x D factors whatever K.

    Args:
        P: Sums over clusters for one hyperparameter value, shape (1, K, D, D).
        q: Shape (1, K, D).
        scales: Prior scales of mu and of the departures, shape (1, 2, D).
        first: Clusters, shape (M,).
        second: Clusters, shape (M,).
    """
    spread, scale = scales[0, 1], scales[0, 0]
    own = alone(P[0], q[0], spread)
    merged = alone(P[0, first] + P[0, second], q[0, first] + q[0, second], spread)
    value, rest, linear = (
        all_.sum(0) - all_[first] - all_[second] + new for all_, new in zip(own, merged, strict=True)
    )
    return value + worth_of_population(rest, linear, scale)


def alone(
    P: torch.Tensor, q: torch.Tensor, spread: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of clusters (..., D, D) and (..., D): worth at mu = 0, and what they say about mu.

    Args:
        P: Sums of Q_t.
        q: Sums of q_t.
        spread: Prior scales of the departures, shape (..., D) or one that broadcasts to it.
    """
    identity = torch.eye(P.shape[-1], dtype=P.dtype)
    column = spread[..., None]
    L = cholesky_or_nan(identity + column * P * spread[..., None, :])
    solved = torch.linalg.solve_triangular(L, column * torch.cat([P, q[..., None]], -1), upper=False)
    A, a = solved[..., :-1], solved[..., -1:]
    value = 0.5 * (a**2).sum((-1, -2)) - L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return value, P - A.transpose(-1, -2) @ A, q - (A.transpose(-1, -2) @ a).squeeze(-1)


def worth_of_population(rest: torch.Tensor, linear: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """What is to be added to the worth of all clusters at mu = 0 once mu ~ N(0, diag(scale^2)), shape (...).

    Args:
        rest: Sum over clusters of what `alone` says about mu, shape (..., D, D).
        linear: The same of the linear terms, shape (..., D).
        scale: Shape (..., D) or one that broadcasts to it.
    """
    identity = torch.eye(rest.shape[-1], dtype=rest.dtype)
    L = cholesky_or_nan(identity + scale[..., None] * rest * scale[..., None, :])
    a = torch.linalg.solve_triangular(L, (scale * linear)[..., None], upper=False)
    found: torch.Tensor = 0.5 * (a**2).sum((-1, -2)) - L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return found
