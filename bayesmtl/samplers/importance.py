"""Importance sampling of hyperparameters: proposals, Pareto-smoothed weights, resampling."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from arviz_stats.base.array import array_stats
from scipy.special import stdtr, stdtrit

from bayesmtl.posteriors.target import Valued

RELIABLE = 0.7  # Pareto k up to which weights can be used (Vehtari, Simpson, Gelman, Yao and Gabry, 2024)
ENOUGH = 0.5  # Pareto k below which the proposal needs no further adaptation
_UNDERFLOW = 700.0  # below the largest log weight: weights that are zero beside it
_ROUNDS = 4  # of adapting the proposal
_DEGREES = 5.0  # of freedom of the proposal, to which the number of coordinates is added
_AT_ONCE = 8  # points evaluated together
ENOUGH_POINTS = 1000  # effective ones, for 90 % intervals to cover as much
_GROWTH = 0.3  # of all points so far, in the next round: small, so that most come from a proposal that fits
# Share of points that are effective below which further rounds cannot help, once there are so many points.
_HOPELESS, _HOPELESS_AFTER = 0.01, 3000
_EQUAL = 8  # decimals of log weights that differ by more than rounding
_AGAIN = 5  # times that a largest weight comes up where there is no larger one
_SMALLEST = 1e-300  # probability of a side, below which its logarithm is cut
_LEAST_SHARE = 0.05  # of a mixture's part: one that was underrated must come up to be seen


class Proposes(Protocol):
    """A distribution that points are drawn from, and that learns from weighted ones."""

    @property
    def num_coordinates(self) -> int:
        """P."""

    def draw(self, number: int, rng: np.random.Generator) -> torch.Tensor:
        """Points, shape (number, P)."""

    def log_density(self, points: torch.Tensor) -> torch.Tensor:
        """Log density at points (M, P), shape (M,)."""

    def adapted(self, points: torch.Tensor, weights: torch.Tensor) -> Proposes:
        """The distribution after points (M, P) with weights (M,) that sum to 1."""


@dataclass(frozen=True, eq=False)
class Proposal:
    """A multivariate t, cut to the side of zero on which a point lies, for coordinates that have a sign.

    Coordinates are drawn one after the other, each from its t given those before it, cut at zero. So no point
    is thrown away, however many scales are near zero, and the density is a product of known ones.

    Args:
        center: Shape (P,).
        root: Root of its scale matrix, shape (P, P).
        signed: Coordinates in which x and -x mean the same, bool (P,).
        side: A point on the wanted side, shape (P,).
        tail: Degrees of freedom; by default 5 more than coordinates.
    """

    center: torch.Tensor
    root: torch.Tensor
    signed: torch.Tensor
    side: torch.Tensor
    tail: float | None = None

    @property
    def num_coordinates(self) -> int:
        """P."""
        return len(self.center)

    @property
    def degrees(self) -> float:
        """Degrees of freedom; more coordinates put a t's mass further out, and need lighter tails."""
        return _DEGREES + len(self.center) if self.tail is None else self.tail

    @cached_property
    def _lower(self) -> torch.Tensor:
        """The lower triangular root of the scale matrix."""
        lower: torch.Tensor = torch.linalg.cholesky(self.root @ self.root.T)
        return lower

    def draw(self, number: int, rng: np.random.Generator) -> torch.Tensor:
        """Points on the wanted side, shape (number, P)."""
        P = len(self.center)
        white = np.zeros((number, P))
        for i in range(P):
            scale, sign, edge = self._edge(white, i)
            fresh = rng.standard_t(self.degrees + i, number)
            if self.signed[i]:
                wrong = fresh * sign < edge
                # quantiles of the upper tail, whose probabilities do not round to 1
                upper = stdtr(self.degrees + i, -edge[wrong]) * rng.random(int(wrong.sum()))
                fresh[wrong] = -sign * stdtrit(self.degrees + i, upper)
            white[:, i] = scale * fresh
        points = self.center + torch.from_numpy(white) @ self._lower.T
        # on the edge rounding may put a point across it
        side = torch.where(self.side < 0, -1.0, 1.0).to(points.dtype)
        return torch.where(self.signed, side * (side * points).clamp(min=0.0), points)

    def _edge(self, white: np.ndarray, i: int) -> tuple[np.ndarray, float, np.ndarray]:
        """Of coordinate i given whitened ones before it: its scale, its side, and where that side begins.

        A multivariate t given its first i coordinates is a t with i more degrees of freedom.

        Args:
            white: Whitened coordinates, shape (M, P); those from i on do not matter.
            i: Position of the coordinate.

        Returns:
            The scale (M,) of the whitened coordinate, 1 or -1, and the edge (M,) in units of that scale, on
            the side's own axis.
        """
        before = white[:, :i]
        scale = np.sqrt((self.degrees + (before**2).sum(1)) / (self.degrees + i))
        sign = -1.0 if self.side[i] < 0 else 1.0
        lower = self._lower[i].numpy()
        edge = -sign * (float(self.center[i]) + before @ lower[:i]) / (lower[i] * scale)
        return scale, sign, edge

    def log_density(self, points: torch.Tensor) -> torch.Tensor:
        """Log density of points on the wanted side (M, P), shape (M,)."""
        half, P = 0.5 * self.degrees, len(self.center)
        white = torch.linalg.solve_triangular(self._lower, (points - self.center).T, upper=False)
        constant = math.lgamma(half + 0.5 * P) - math.lgamma(half) - 0.5 * P * math.log(2 * half * math.pi)
        constant -= float(self._lower.diagonal().log().sum())
        uncut = constant - (half + 0.5 * P) * torch.log1p((white**2).sum(0) / self.degrees)
        share = np.zeros(len(points))  # of every coordinate's distribution on its side, in logarithms
        rows = white.T.numpy()
        for i in np.flatnonzero(self.signed.numpy()):
            _, _, edge = self._edge(rows, int(i))
            share += np.log(np.maximum(stdtr(self.degrees + i, -edge), _SMALLEST))
        return uncut - torch.from_numpy(share)

    def adapted(self, points: torch.Tensor, weights: torch.Tensor) -> Proposal:
        """The proposal with the centre and spread of weighted points; as it is where these have no spread."""
        center = weights @ points
        apart = points - center
        covariance = (apart * weights[:, None]).T @ apart
        # a few heavy points have the spread of a line: keep a share of the old one
        share = 1 / (1 + len(center) * float((weights**2).sum()))
        covariance = share * covariance + (1 - share) * self.root @ self.root.T
        root, failed = torch.linalg.cholesky_ex(covariance)
        return self if failed else replace(self, center=center, root=root)


@dataclass(frozen=True, eq=False)
class Mixture:
    """A mixture of proposals on the same side, one for each mode.

    Args:
        parts: K proposals.
        shares: Their probabilities, shape (K,).
    """

    parts: tuple[Proposal, ...]
    shares: torch.Tensor

    @property
    def num_coordinates(self) -> int:
        """P."""
        return len(self.parts[0].center)

    def draw(self, number: int, rng: np.random.Generator) -> torch.Tensor:
        """Points on the wanted side, shape (number, P)."""
        counts = rng.multinomial(number, self.shares.numpy() / float(self.shares.sum()))
        return torch.cat([part.draw(int(n), rng) for part, n in zip(self.parts, counts, strict=True)])

    def log_density(self, points: torch.Tensor) -> torch.Tensor:
        """Log density of points on the wanted side (M, P), shape (M,)."""
        return torch.logsumexp(self._each(points), dim=0)

    def adapted(self, points: torch.Tensor, weights: torch.Tensor) -> Mixture:
        """The mixture after one step of expectation maximisation with weighted points."""
        mine = torch.softmax(self._each(points), dim=0) * weights
        shares = mine.sum(1)
        parts = tuple(
            part.adapted(points, own / total) if float(total) > 0 else part
            for part, own, total in zip(self.parts, mine, shares, strict=True)
        )
        shares = shares.clamp(min=_LEAST_SHARE)
        return Mixture(parts, shares / shares.sum())

    def _each(self, points: torch.Tensor) -> torch.Tensor:
        """Log densities of the parts with their shares, shape (K, M)."""
        each = torch.stack([part.log_density(points) for part in self.parts])
        return each + self.shares.log()[:, None]


@dataclass(frozen=True, eq=False)
class WeightedSample:
    """Points with weights that sum to 1.

    Args:
        points: Shape (M, P).
        weights: Pareto-smoothed, shape (M,).
        pareto_k: Shape of the weights' tail; infinite where it cannot be judged.
        log_total: Logarithm of the density's integral over the proposals' side, NaN where it was not asked
            for: the evidence, if the density is that of data and parameters.
        log_total_error: Its standard error.
    """

    points: torch.Tensor
    weights: torch.Tensor
    pareto_k: float
    log_total: float = math.nan
    log_total_error: float = math.nan


def weighted_sample(
    density: Valued, proposal: Proposal, number: int, rng: np.random.Generator
) -> WeightedSample:
    """Importance sampling, the proposal adapted while the tail of the weights asks for it; the best round."""
    best: WeightedSample | None = None
    for _ in range(_ROUNDS):
        points = proposal.draw(number, rng)
        log_weight = (density.value(points) - proposal.log_density(points)).numpy()
        log_weights, k = smooth(log_weight)
        weights = np.exp(log_weights - log_weights.max())
        sample = WeightedSample(points, torch.from_numpy(weights / weights.sum()), k)
        if best is None or k < best.pareto_k:
            best = sample
        if best.pareto_k < ENOUGH:
            break
        proposal = proposal.adapted(points, sample.weights)
    assert best is not None
    return best


def pooled_sample(
    density: Valued,
    proposal: Proposes,
    number: int,
    most: int,
    rng: np.random.Generator,
    at_once: int = _AT_ONCE,
    enough: int = ENOUGH_POINTS,
) -> WeightedSample:
    """Importance sampling for densities that are expensive: rounds are pooled, and none is thrown away.

    Each round's proposal has the centres and spreads of all weighted points before it, and three points for
    ten of all rounds before. A point counts as drawn from the mixture of all proposals, whichever it came
    from. Rounds end when enough points are effective and the weights' tail is light, or when so few are that
    further rounds cannot help.

    The integral is sum_m p(x_m) / sum_r n_r q_r(x_m), which has no bias; its standard error is that of
    weights as they are, without smoothing, so that Pareto k judges it as well.

    Source: Cornuet, Marin, Mira and Robert (2012), adaptive multiple importance sampling; Cappe, Douc,
    Guillin, Marin and Robert (2008) for mixtures.

    Args:
        density: What is sampled.
        proposal: The first proposal.
        number: Points of the first round.
        most: Points of all rounds together.
        rng: Source of randomness.
        at_once: Points evaluated together.
        enough: Effective points that are enough.
    """
    proposals: list[Proposes] = []
    counts: list[int] = []
    points = torch.zeros(0, proposal.num_coordinates, dtype=torch.float64)
    value, each = points.new_zeros(0), points.new_zeros(0, 0)
    weights, raw, k = value, value, np.inf
    while len(points) < most:
        fresh = proposal.draw(min(max(number, int(_GROWTH * len(points))), most - len(points)), rng)
        points = torch.cat([points, fresh])
        value = torch.cat([value, *(density.value(part) for part in fresh.split(at_once))])
        if proposals:
            each = torch.cat([each, torch.stack([p.log_density(fresh) for p in proposals])], dim=1)
        each = torch.cat([each.reshape(len(proposals), len(points)), proposal.log_density(points)[None]])
        proposals.append(proposal)
        counts.append(len(fresh))
        mixture = torch.logsumexp(each + torch.tensor(counts, dtype=value.dtype).log()[:, None], dim=0)
        raw = value - mixture
        log_weights, k = smooth(raw.numpy())
        if k == np.inf and recurs(raw.numpy()):
            k = -np.inf
        elif (shape := shape_of_ties(raw.numpy())) is not None:
            log_weights, k = raw.numpy(), shape
        weights = torch.from_numpy(np.exp(log_weights - log_weights.max()))
        weights = weights / weights.sum()
        effective = 1 / float((weights**2).sum())
        if effective >= enough and k < ENOUGH:
            break
        if len(points) >= _HOPELESS_AFTER and effective < _HOPELESS * len(points):
            break
        proposal = proposal.adapted(points, weights)
    shares = torch.softmax(raw, dim=0)
    error = math.sqrt(max(float((shares**2).sum()) - 1 / len(points), 0.0))
    return WeightedSample(points, weights, k, float(torch.logsumexp(raw, dim=0)), error)


def smooth(log_weight: np.ndarray) -> tuple[np.ndarray, float]:
    """Pareto-smoothed log weights and the shape k of their tail; infinite where the tail cannot be judged."""
    possible = np.isfinite(log_weight)
    if not possible.any():
        return np.zeros_like(log_weight), np.inf
    log_weight = np.where(possible, log_weight, log_weight[possible].min() - 1e3)
    if np.ptp(log_weight) < 1e-8:  # the weights say nothing
        return log_weight, -np.inf
    tail = _tail(log_weight)[1:]
    if len(np.unique(tail.clip(log_weight.max() - _UNDERFLOW))) < 5:  # too few draws, or different weights
        return log_weight, np.inf
    with np.errstate(all="ignore"):
        smoothed, k = array_stats.psislw(-log_weight)  # takes log likelihoods, whose inverses are the weights
    if not (np.isfinite(k) and np.isfinite(smoothed).all()):  # so far apart that hardly any counts
        return log_weight, np.inf
    return smoothed, float(k)


def recurs(log_weight: np.ndarray) -> bool:
    """Whether independent draws met their largest weight again and again: there is no larger one.

    So it is where few states are possible, such as the partitions of three tasks, and `smooth` finds no tail
    to judge. Draws that were copied from each other say nothing of the kind.
    """
    largest = log_weight.round(_EQUAL) == log_weight.max().round(_EQUAL)
    return bool(largest.sum() >= _AGAIN)


def shape_of_ties(log_weight: np.ndarray) -> float | None:
    """Hill's estimate of the tail's shape k where most of the largest weights recur, `None` elsewhere.

    So it is where states are few, such as the partitions of five tasks, and a density fitted to the tail, as
    `smooth` does, makes much of the atoms. Of independent draws only.

    Source: Hill (1975): the mean of what the logarithms of the largest are above the next one.
    """
    tail = _tail(log_weight)
    if not np.isfinite(tail).all():
        return None
    _, times = np.unique(tail[1:], return_counts=True)
    if times[times > 1].sum() < len(tail) / 2:
        return None
    return float((tail[1:] - tail[0]).mean())


def _tail(log_weight: np.ndarray) -> np.ndarray:
    """The largest log weights that the shape is judged by, in increasing order, and the next one in front."""
    S = len(log_weight)
    number = math.floor(min(0.2 * S, 3 * math.sqrt(S)))
    return np.asarray(np.sort(log_weight)[max(S - number - 1, 0) :].round(_EQUAL))


def systematic(weights: torch.Tensor, number: int, rng: np.random.Generator) -> np.ndarray:
    """Positions of `number` draws in proportion to weights that sum to 1, to within one copy each."""
    edges = np.cumsum(weights.numpy())
    return np.minimum(np.searchsorted(edges, (rng.random() + np.arange(number)) / number), len(edges) - 1)
