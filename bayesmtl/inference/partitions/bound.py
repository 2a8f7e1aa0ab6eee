"""The evidence bound of a problem with partitions, and the updates that never lower it.

Outcomes with a logit link enter through pseudo-rows. With kappa_i and b_i of their Polya-Gamma form,
log p(y_i | f) = c_i + kappa_i f - b_i log 2 cosh(f / 2), whose last part is bounded, for any xi_i >= 0, by

    -b_i log 2 cosh(xi_i / 2) - omega_i (f^2 - xi_i^2) / 2,   omega_i = b_i tanh(xi_i / 2) / (2 xi_i),

Gaussian in f; at its best xi_i^2 = E[f_i^2].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from bayesmtl.algebra.clusters import TaskTerms, blocks_of, cluster_moments, task_terms
from bayesmtl.algebra.rows import TaskRows
from bayesmtl.algebra.soft_clusters import (
    entropy,
    expected_log_densities,
    expected_log_weights,
    log_sticks,
    soft_sums,
    worth_of_merging,
)
from bayesmtl.algebra.statistics import CompressedTasks
from bayesmtl.algebra.structure import Structure
from bayesmtl.likelihoods import Given
from bayesmtl.parameters import Values
from bayesmtl.posteriors.linear.outcomes import OutcomePosterior
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.posteriors.target import differentiate, finite_or_least
from bayesmtl.samplers.modes import find_modes, spread_root
from bayesmtl.sharing.partitions.base import in_order
from bayesmtl.sharing.partitions.exchangeable import exchangeable_of

How = Literal["roughly", "finely"]

_FIRST = {"maxiter": 100, "ftol": 1e-6, "gtol": 1e-2, "maxcor": 20}
# While shares still move hyperparameters follow by a few steps; then they go all the way.
_A_ROUND: Mapping[How, Mapping[str, float]] = {
    "roughly": {"maxiter": 8, "ftol": 1e-8, "gtol": 1e-3, "maxcor": 20},
    "finely": {"maxiter": 100, "ftol": 1e-9, "gtol": 1e-4, "maxcor": 50},
}
_SWEEPS = 50  # of updates of q(c) in a round
_SETTLED = 1e-5  # nats by which a sweep raises the bound
_OCCUPIED = 1e-2  # expected tasks


@dataclass(frozen=True, eq=False)
class Shares:
    """What an ascent updates.

    Args:
        point: Coordinates of the hyperparameters, shape (P,).
        share: r, shape (T, K).
        xi: Of every row, where there are rows, shape (N,).
    """

    point: torch.Tensor
    share: torch.Tensor
    xi: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class _At:
    """Everything at one hyperparameter value, so that updates of the shares cost no more than sums."""

    values: Values
    structure: Structure
    terms: TaskTerms
    sticks: tuple[torch.Tensor, torch.Tensor]
    constant: torch.Tensor

    @property
    def scales(self) -> torch.Tensor:
        """Prior scales of mu and of the departures, (B, 2, D)."""
        assert self.structure.basis_scale is not None
        return self.structure.basis_scale

    def bound(self, share: torch.Tensor) -> torch.Tensor:
        """The bound of log p(y, hyperparameters), shape (B,)."""
        worth = blocks_of(*soft_sums(self.terms, share), self.scales).log_worth
        return self.constant + self.terms.value + worth + self.prior(share) + entropy(share)

    def prior(self, share: torch.Tensor) -> torch.Tensor:
        """What the clusters are worth by their sizes."""
        return log_sticks(share.sum(0)[None], *self.sticks)

    def updated(self, share: torch.Tensor) -> torch.Tensor:
        """Every q(c_t) at its best given q(Z) and q(v), which are at theirs given the shares."""
        blocks = blocks_of(*soft_sums(self.terms, share), self.scales)
        score = expected_log_densities(self.terms, blocks, self.scales)[0]
        return (score + expected_log_weights(share.sum(0)[None], *self.sticks)).softmax(1)


@dataclass(frozen=True, eq=False)
class LogisticRows:
    """Outcomes with a logit link, in Polya-Gamma form.

    Args:
        rows: The rows.
        shape: b of every row, shape (N,).
        kappa: Of every row, shape (N,).
        constant: Sum of c_i.
    """

    rows: TaskRows
    shape: torch.Tensor
    kappa: torch.Tensor
    constant: float

    @classmethod
    def of(cls, posterior: OutcomePosterior) -> LogisticRows:
        """The rows of a posterior whose likelihood has such a form."""
        rows, likelihood = posterior.rows, posterior.rowwise
        given = Given({}, rows.trials, rows.task)
        form = likelihood.polya_gamma(rows.y.numpy(), given)
        if form is None:
            raise TypeError(f"{type(likelihood).__name__} has no Polya-Gamma form")
        shape, kappa = (torch.from_numpy(np.array(part)) * rows.weights for part in (form.shape, form.kappa))
        at_zero = likelihood.value(rows.y, torch.zeros_like(rows.y), given) * rows.weights
        return cls(rows, shape, kappa, float((at_zero + shape * np.log(2)).sum()))

    def omega(self, xi: torch.Tensor) -> torch.Tensor:
        """Precisions of the pseudo-rows (N,)."""
        small = xi < 1e-4
        safe = torch.where(small, 1.0, xi)
        return self.shape * torch.where(small, 0.25 - xi**2 / 48, torch.tanh(safe / 2) / (2 * safe))

    def data(self, xi: torch.Tensor) -> CompressedTasks:
        """The pseudo-rows."""
        omega = self.omega(xi)
        kappa = self.kappa - omega * self.rows.offset
        positive = torch.where(self.rows.real, omega, 1.0)
        return self.rows.pseudo_data(positive[None], kappa[None]).compressed()

    def constant_given(self, xi: torch.Tensor) -> float:
        """What the bound of the rows holds beside the pseudo-rows."""
        omega, offset = self.omega(xi), self.rows.offset
        log_two_cosh = xi / 2 + torch.log1p(torch.exp(-xi))
        parts = omega * (xi**2 - offset**2) / 2 - self.shape * log_two_cosh + self.kappa * offset
        return self.constant + float(parts.sum())

    def best_xi(self, mean: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Root of E[f_i^2] of every row, shape (N,), for moments of the weights."""
        offset = self.rows.offset
        f = self.rows.predictor(mean[None])[0]
        square = self.rows.variances(second[None])[0] + 2 * offset * f + offset**2
        return square.clamp(min=0.0).sqrt()


@dataclass(frozen=True, eq=False)
class Ascent:
    """Coordinate ascent of the bound.

    Args:
        problem: The posterior.
        merges: Whether a round merges clusters where that raises the bound.
        rows: The rows in Polya-Gamma form, where there are rows.
    """

    problem: LinearPosterior
    merges: bool = True
    rows: LogisticRows | None = None

    @classmethod
    def of(cls, problem: LinearPosterior) -> Ascent:
        """With what the rows are in Polya-Gamma form, where there are rows."""
        rows = LogisticRows.of(problem) if isinstance(problem, OutcomePosterior) else None
        return cls(problem, rows=rows)

    def starting_xi(self) -> torch.Tensor | None:
        """xi of every row at first, where there are rows."""
        return None if self.rows is None else torch.ones_like(self.rows.shape)

    def starting_data(self) -> CompressedTasks:
        """Gaussian data that restarts look at."""
        return self._data(self.starting_xi())

    def data_given(self, shares: Shares) -> CompressedTasks:
        """Gaussian data that stand for the rows."""
        return self._data(shares.xi)

    def _data(self, xi: torch.Tensor | None) -> CompressedTasks:
        return self.problem.tasks if xi is None or self.rows is None else self.rows.data(xi)

    def _constant(self, xi: torch.Tensor | None) -> float:
        """What the bound of the rows holds beside the pseudo-data."""
        return 0.0 if xi is None or self.rows is None else self.rows.constant_given(xi)

    def first(self, point: torch.Tensor, share: torch.Tensor) -> Shares:
        """Where a restart begins: hyperparameters near their best for the given shares."""
        return self._climbed(Shares(point, share, self.starting_xi()), _FIRST)

    def elbo(self, shares: Shares) -> float:
        """The bound of log p(y, hyperparameters), Jacobian of the coordinates included."""
        with torch.no_grad():
            log_prior, at = self._at(shares.point[None], shares, self.data_given(shares))
            return float(log_prior + at.bound(shares.share))

    def round(self, shares: Shares, how: How) -> Iterator[Shares]:
        """One update after the other: of q(c), of the rows' bounds where there are any, of the point.

        Args:
            shares: Where it begins.
            how: "roughly" or "finely".
        """
        with torch.no_grad():
            shares = self._settled(shares)
        yield shares
        if self.rows is not None:
            with torch.no_grad():
                shares = replace(shares, xi=self.rows.best_xi(*self._moments(shares)))
            yield shares
        yield self._climbed(shares, _A_ROUND[how])

    def root(self, shares: Shares, rng: np.random.Generator) -> torch.Tensor:
        """A root of the covariance of q(hyperparameters): the curvature of the bound, shape (P, P)."""
        if not len(shares.point):
            return torch.eye(0, dtype=shares.point.dtype)
        density = _GivenShares(self, shares, self.data_given(shares))
        return spread_root(density, shares.point, rng)

    def numberings(self, shares: Shares) -> float:
        """What a partition is worth beyond one numbering of its clusters, of which q covers no other.

        Of the most probable clusters: log p(partition) - log E[prod_k pi_k^N_k], log K! without sticks.
        """
        cluster = shares.share.argmax(1)
        with torch.no_grad():
            _, at = self._at(shares.point[None], shares, self.data_given(shares))
            hard = torch.nn.functional.one_hot(cluster, shares.share.shape[1]).double()
            whole = exchangeable_of(self.problem.sharing).log_partition(in_order(cluster[None]), at.values)
            return float(whole - at.prior(hard))

    def _at(self, points: torch.Tensor, shares: Shares, data: CompressedTasks) -> tuple[torch.Tensor, _At]:
        """Log prior (B,) at points (B, P), and what the bound needs there."""
        sharing = exchangeable_of(self.problem.sharing)
        log_prior, values = self.problem.space.log_prior(points)
        T, K = shares.share.shape
        values["cluster"] = torch.zeros(len(points), T, dtype=torch.long)
        structure = self.problem.structure(values)
        terms = task_terms(data, structure, self.problem.noise(values, len(points)))
        constant = torch.tensor(self._constant(shares.xi), dtype=points.dtype)
        return log_prior, _At(values, structure, terms, sharing.sticks(values, K), constant)

    def _climbed(self, shares: Shares, options: Mapping[str, float]) -> Shares:
        """Hyperparameters nearer to their best given all else, never further from it."""
        if not len(shares.point):
            return shares
        density = _GivenShares(self, shares, self.data_given(shares))
        (mode,) = find_modes(density, shares.point[None], options)
        better = mode.value >= float(density.value(shares.point[None]))
        return replace(shares, point=mode.point) if better else shares

    def _settled(self, shares: Shares) -> Shares:
        """Shares that further updates and merging would hardly change."""
        _, at = self._at(shares.point[None], shares, self.data_given(shares))
        share = _in_order_of_size(at, shares.share)
        while True:
            bound = float(at.bound(share))
            for _ in range(_SWEEPS):
                share = _in_order_of_size(at, at.updated(share))
                before, bound = bound, float(at.bound(share))
                if bound - before < _SETTLED:
                    break
            merged = _merged(at, share) if self.merges else None
            if merged is None:
                return replace(shares, share=share)
            share = _in_order_of_size(at, merged)

    def mean_weights(self, shares: Shares) -> torch.Tensor:
        """Means of the tasks' weights, shape (T, D)."""
        with torch.no_grad():
            return self._moments(shares)[0]

    def _moments(self, shares: Shares) -> tuple[torch.Tensor, torch.Tensor]:
        """First and second moments of the tasks' weights, (T, D) and (T, D, D)."""
        _, at = self._at(shares.point[None], shares, self.data_given(shares))
        blocks = blocks_of(*soft_sums(at.terms, shares.share), at.scales)
        return weight_moments(at.structure, at.terms, *cluster_moments(blocks, at.scales), shares.share)


@dataclass(frozen=True, eq=False)
class _GivenShares:
    """The bound as a density of the hyperparameters alone."""

    ascent: Ascent
    shares: Shares
    data: CompressedTasks

    def _log_density(self, points: torch.Tensor) -> torch.Tensor:
        log_prior, at = self.ascent._at(points, self.shares, self.data)
        return log_prior + at.bound(self.shares.share)

    def value(self, points: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return finite_or_least(self._log_density(points))

    def value_and_gradient(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return differentiate(self._log_density, points)


def _in_order_of_size(at: _At, share: torch.Tensor) -> torch.Tensor:
    """The same clusters with the largest first, where sticks make that more probable."""
    ordered = share[:, share.sum(0).argsort(descending=True, stable=True)]
    return ordered if bool(at.prior(ordered) > at.prior(share)) else share


def _merged(at: _At, share: torch.Tensor) -> torch.Tensor | None:
    """Shares with the two clusters as one that raise the bound most, or `None` where none does."""
    occupied = torch.where(share.sum(0) > _OCCUPIED)[0]
    first, second = (occupied[place] for place in torch.triu_indices(len(occupied), len(occupied), 1))
    if not len(first):
        return None
    P, q = soft_sums(at.terms, share)
    worth = worth_of_merging(P, q, at.scales, first, second)
    number = share.sum(0).expand(len(first), -1).clone()
    pair = torch.arange(len(first))
    number[pair, first] += number[pair, second]
    number[pair, second] = 0.0
    sticks = log_sticks(number, *(part.expand(len(first), -1) for part in at.sticks))
    column = torch.special.xlogy(share, share).sum(0)
    together = share[:, first] + share[:, second]
    spread = column[first] + column[second] - torch.special.xlogy(together, together).sum(0)
    gain = worth + sticks + spread
    best = int(gain.argmax())
    merged = share.clone()
    merged[:, first[best]] += share[:, second[best]]
    merged[:, second[best]] = 0.0
    return merged if float(at.bound(merged)) > float(at.bound(share)) + _SETTLED else None


def weight_moments(
    structure: Structure, terms: TaskTerms, m: torch.Tensor, V: torch.Tensor, share: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """E[w_t] (T, D) and E[w_t w_t'] (T, D, D) under q, for one hyperparameter value.

    Given z, w_t has the mean z + S_t (q_t - Q_t z) and the covariance S_t - S_t Q_t S_t.

    Args:
        structure: Prior of W.
        terms: What the tasks say.
        m: E[z_k], shape (1, K, D).
        V: Covariances of z_k, shape (1, K, D, D).
        share: r, shape (T, K).
    """
    T, D = terms.linear.shape[1:]
    S = torch.zeros(1, D, D, dtype=m.dtype)
    if structure.residual_scale is not None:
        S = S + torch.diag_embed(structure.residual_scale[0] ** 2)
    if structure.factor_by_task is not None:
        factor = structure.factor_by_task[0]
        S = S + factor @ factor.transpose(-1, -2)
    S = S.expand(T, D, D)
    Q, q = terms.precision[0], terms.linear[0]
    kept = torch.eye(D, dtype=m.dtype) - S @ Q
    shift = (S @ q[..., None]).squeeze(-1)
    z_mean = share @ m[0]
    z_square = torch.einsum("tk,kde->tde", share, V[0] + m[0, :, :, None] * m[0, :, None, :])
    mean = (kept @ z_mean[..., None]).squeeze(-1) + shift
    cross = (kept @ z_mean[..., None]) * shift[:, None]
    second = kept @ z_square @ kept.transpose(-1, -2) + cross + cross.transpose(-1, -2)
    second = second + shift[:, :, None] * shift[:, None] + S - S @ Q @ S
    return mean, second
