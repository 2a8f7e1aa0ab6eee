"""Hyperparameters by importance sampling around their modes, in coordinates in which these are round."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from bayesmtl.posteriors.functions.rotation_coordinates import Turned
from bayesmtl.posteriors.noise_coordinates import NoiseCoordinates
from bayesmtl.posteriors.target import Density, Target
from bayesmtl.samplers.importance import (
    ENOUGH,
    ENOUGH_POINTS,
    Mixture,
    Proposal,
    WeightedSample,
    pooled_sample,
    systematic,
)
from bayesmtl.samplers.modes import ROUGHLY, Mode, find_modes, highest, measured_root, rounded, spread_root
from bayesmtl.samplers.search import search

# Points of the first round: few where evaluations are expensive; where matrices have fewer rows than so many
# as many as may be enough at once, up to so many for each that is to be effective.
_FIRST, _PER_COORDINATE, _CHEAP, _AT_FIRST = 40, 3, 75, 1.3
# Degrees of freedom of proposals, or as many as coordinates: loadings and scales that few data know have
# tails, and rounds can afford them; but many coordinates put a t's mass further out the heavier its tails.
_TAIL = 7.0
# Every proposal has a wider one beside it, which adapts to the side on which the posterior has its tail.
_WIDER, _WIDE_SHARE = 2.0, 0.15
# Modes that get proposals of their own: how far below the highest, and how many standard deviations apart.
_BELOW, _APART, _LEAST_SHARE, _LEAST_HEIGHT = 12.0, 1.0, 0.1, -1e300
# Of matrices, for points evaluated together: more than the processor's cache holds makes each slower.
_ENTRIES_AT_ONCE, _MOST_AT_ONCE = 1_000_000, 128


@dataclass(frozen=True, eq=False)
class Weighted:
    """Weighted points of the hyperparameters.

    Args:
        sample: The points, in coordinates of their own.
        back: From these coordinates (M, P) to the target's.
        noise: Coordinates of the target in which chains can go on.
        modes: Where searches for the mode ended, in the target's coordinates.
        both_sides: Logarithm of how many reflections the proposals leave out.
    """

    sample: WeightedSample
    back: Callable[[torch.Tensor, np.random.Generator], torch.Tensor]
    noise: NoiseCoordinates
    modes: list[Mode]
    both_sides: float

    @property
    def mode(self) -> Mode:
        """The highest."""
        return highest(self.modes)

    @property
    def effective(self) -> float:
        """Effective number of points."""
        return 1 / float((self.sample.weights**2).sum())

    def is_sound(self, num_effective: int) -> bool:
        """Whether there are so many effective points and the weights' tail is light."""
        return self.sample.pareto_k < ENOUGH and self.effective >= num_effective

    def points(self, num_chains: int, num_draws: int, rng: np.random.Generator) -> torch.Tensor:
        """Equally weighted points (C, N, P) in a random order, in the target's coordinates."""
        drawn = systematic(self.sample.weights, num_chains * num_draws, rng)
        points = self.back(self.sample.points[rng.permutation(drawn)], rng)
        return points.reshape(num_chains, num_draws, -1)

    def stats(self, num_chains: int, num_draws: int) -> dict[str, np.ndarray]:
        """What there is to say about them, (C, N) each; the evidence in standardised units."""
        told = {
            "converged": self.mode.converged,
            "pareto_k": self.sample.pareto_k,
            "importance_ess": self.effective,
            "log_evidence": self.sample.log_total + self.both_sides,
            "log_evidence_error": self.sample.log_total_error,
        }
        return {name: np.full((num_chains, num_draws), value) for name, value in told.items()}


def first_round(target: Target, enough: float = 0.0) -> int:
    """Points of the first round, where so many effective ones are enough."""
    number = _FIRST + _PER_COORDINATE * target.space.size
    return max(number, int(min(number * (_CHEAP / target.evaluation_size) ** 2, _AT_FIRST * enough)))


def weigh(
    target: Target,
    most: int,
    rng: np.random.Generator,
    *,
    searched: Target | None = None,
    record: Callable[[Density], Density] | None = None,
    enough: int = ENOUGH_POINTS,
) -> Weighted:
    """Search for modes and draw weighted points around them.

    Args:
        target: What is to be explored.
        most: Points of all rounds together.
        rng: Source of randomness.
        searched: The target as the search sees it, where evaluations are recorded.
        record: What records evaluations of the points.
        enough: Effective points that are enough.
    """
    seen = target if searched is None else searched
    modes = search(seen, seen, rng)
    top = highest(modes)
    noise = NoiseCoordinates.around(target, top.point)
    signed, turned = noise.signed, None
    if target.turning is not None:
        turned = Turned.around(noise, *target.space.place(target.turning), noise.there(top.point[None])[0])
        signed = turned.signed(signed)
    density: Density = turned or noise
    density = density if record is None else record(density)

    def there(mode: Mode) -> torch.Tensor:
        point = noise.there(mode.point[None])
        return (point if turned is None else turned.there(point))[0]

    def back(points: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        return noise.back(points if turned is None else turned.back(points, rng))

    others = [there(mode) for mode in modes if mode is not top and mode.value > top.value - _BELOW]
    proposal = _proposal(density, there(top), others, signed, rng)
    size = target.evaluation_size
    at_once = min(max(int(_ENTRIES_AT_ONCE / size**2), 1), _MOST_AT_ONCE)
    sample = pooled_sample(density, proposal, first_round(target, enough), most, rng, at_once, enough)
    # of scales, whose sign means nothing, the proposals have one side only
    return Weighted(sample, back, noise, modes, math.log(2) * int(target.space.signed().sum()))


def _proposal(
    density: Density,
    top: torch.Tensor,
    others: list[torch.Tensor],
    signed: torch.Tensor,
    rng: np.random.Generator,
) -> Mixture:
    """Proposals for the highest mode (P,) and for each other that is one on its side, and wider ones."""
    center, root = _spread(density, top, rng)
    parts = [Proposal(center, root, signed, center, max(_TAIL, float(len(center))))]
    for point in others:
        if _distance(_beside(point, parts), parts) < _APART:
            continue
        # on the other side correlations may have other signs: climb again
        again = find_modes(density, _beside(point, parts)[None], ROUGHLY)[0]
        if _distance(_beside(again.point, parts), parts) >= _APART:
            center, root = _spread(density, _beside(again.point, parts), rng)
            parts.append(replace(parts[0], center=center, root=root))
    heights = [density.value(part.center[None])[0] + torch.linalg.slogdet(part.root)[1] for part in parts]
    # a centre may lie on an edge without density
    shares = torch.softmax(torch.stack(heights).clamp(min=_LEAST_HEIGHT), dim=0).clamp(min=_LEAST_SHARE)
    shares = shares / shares.sum()
    wide = (replace(part, root=_WIDER * part.root) for part in parts)
    return Mixture((*parts, *wide), torch.cat([(1 - _WIDE_SHARE) * shares, _WIDE_SHARE * shares]))


def _spread(
    density: Density, point: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A mode (P,) and a root (P, P) of the covariance around it, to a few digits."""
    point, root = rounded(point, spread_root(density, point, rng))
    return point, rounded(point, measured_root(density, point, root))[1]


def _beside(point: torch.Tensor, parts: list[Proposal]) -> torch.Tensor:
    """The point (P,) with the signs of the first part where signs mean nothing."""
    return torch.where(parts[0].signed, torch.copysign(point, parts[0].side), point)


def _distance(point: torch.Tensor, parts: list[Proposal]) -> float:
    """Standard deviations to the nearest part's centre."""
    return min(float(torch.linalg.solve(part.root, point - part.center).norm()) for part in parts)
