"""Hyperparameters by importance sampling around their mode, in coordinates in which that is round."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from bayesmtl.posteriors.functions.noise_coordinates import Centred
from bayesmtl.posteriors.functions.rotation_coordinates import Turned
from bayesmtl.posteriors.target import Density, Target
from bayesmtl.samplers.importance import (
    ENOUGH,
    ENOUGH_POINTS,
    Proposal,
    WeightedSample,
    pooled_sample,
    systematic,
)
from bayesmtl.samplers.modes import Mode, highest, rounded, spread_root
from bayesmtl.samplers.search import search

# Points of the first round.
_FIRST, _PER_COORDINATE = 40, 3
# Degrees of freedom of proposals: loadings and scales that few data know have tails, and rounds can afford
# them.
_TAIL = 7.0
# Of matrices, for points evaluated together: more than the processor's cache holds makes each slower.
_ENTRIES_AT_ONCE, _MOST_AT_ONCE = 1_000_000, 128


@dataclass(frozen=True, eq=False)
class Weighted:
    """Weighted points of the hyperparameters.

    Args:
        sample: The points, in coordinates of their own.
        back: From these coordinates (M, P) to the target's.
        mode: Where the search for the mode ended.
        both_sides: Logarithm of how many reflections the proposals leave out.
    """

    sample: WeightedSample
    back: Callable[[torch.Tensor, np.random.Generator], torch.Tensor]
    mode: Mode
    both_sides: float

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


def first_round(target: Target) -> int:
    """Points of the first round."""
    return _FIRST + _PER_COORDINATE * target.space.size


def weigh(
    target: Target,
    most: int,
    rng: np.random.Generator,
    *,
    searched: Target | None = None,
    record: Callable[[Density], Density] | None = None,
    enough: int = ENOUGH_POINTS,
) -> Weighted:
    """Search for the mode and draw weighted points around it.

    Args:
        target: What is to be explored.
        most: Points of all rounds together.
        rng: Source of randomness.
        searched: The target as the search sees it, where evaluations are recorded.
        record: What records evaluations of the points.
        enough: Effective points that are enough.
    """
    seen = target if searched is None else searched
    mode = highest(search(seen, seen, rng))
    centred = Centred(target)
    center, signed, turned = centred.there(mode.point[None]), centred.signed, None
    if target.turning is not None:
        turned = Turned.around(centred, *target.space.place(target.turning), center[0])
        center, signed = turned.there(center), turned.signed(signed)
    density: Density = turned or centred
    density = density if record is None else record(density)
    around, root = rounded(center[0], spread_root(density, center[0], rng))
    proposal = Proposal(around, root, signed, around, _TAIL)
    size = target.evaluation_size
    at_once = min(max(int(_ENTRIES_AT_ONCE / size**2), 1), _MOST_AT_ONCE)
    sample = pooled_sample(density, proposal, first_round(target), most, rng, at_once, enough)

    def back(points: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        return centred.back(points if turned is None else turned.back(points, rng))

    # of scales, whose sign means nothing, the proposals have one side only
    return Weighted(sample, back, mode, math.log(2) * int(target.space.signed().sum()))
