"""Searches for modes of the hyperparameters, from several starts and on a part of the data first."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from bayesmtl.algebra.random import standard_normal
from bayesmtl.posteriors.target import Density, Target
from bayesmtl.samplers.modes import ROUGHLY, Mode, climb, find_modes, highest, rounded, spread_root
from bayesmtl.samplers.nested import search_nested

NUM_STARTS = 2  # to notice that there is more than one mode
NUM_REDUCED_STARTS = 2  # on a part of the data, where they cost little
# Difference of log densities from which modes of a part of the data are different ones.
_DIFFERENT = 0.1
# Costly coordinates up to which others are searched for inside: over more of them a search takes so many
# steps that one over all coordinates together has fewer costly evaluations.
_MOST_HELD = 4
# Standard deviations of the normal approximation that chains start from a mode. The bulk of the posterior is
# easily reached from its mode, from far outside it is not.
_START_SPREAD = 1.0


def search(density: Density, target: Target, rng: np.random.Generator) -> list[Mode]:
    """Modes from several starts.

    Where evaluations are expensive the starts climb on a part of the data first; from the best two modes
    found there the search goes on with all data, in coordinates in which the part's curvature is a sphere.
    Where only some coordinates make them expensive, the others are searched for given these (`nested`).

    Args:
        density: What is searched: the target itself, or an approximation of it.
        target: What is to be explored.
        rng: Source of randomness.
    """
    reduced = target.reduced(rng) if density is target else None
    if reduced is not None and 0 < target.num_held <= _MOST_HELD:
        return search_nested(target, reduced, target.space.initial(rng, NUM_REDUCED_STARTS), _DIFFERENT)
    if reduced is None:
        return find_modes(density, target.space.initial(rng, NUM_STARTS))
    starts = target.space.initial(rng, NUM_REDUCED_STARTS)
    first = sorted(find_modes(reduced, starts, ROUGHLY), key=lambda mode: -mode.value)
    chosen = [first[0], *(mode for mode in first[1:] if mode.value < first[0].value - _DIFFERENT)][
        :NUM_STARTS
    ]
    modes = []
    for mode in chosen:
        root = spread_root(reduced, mode.point, rng)
        modes.append(climb(target, mode.point, root))
    return modes


@dataclass(frozen=True, eq=False)
class NormalApproximation:
    """Modes of the hyperparameters, and one normal approximation's spread around each of them.

    Args:
        centers: Modes in the order of the starts that led there, shape (S, P), to a few digits.
        root: Root of the covariance around the highest, shape (P, P), to a few digits.
        highest: Position of the highest mode.
        converged: Whether the density is flat there.
    """

    centers: torch.Tensor
    root: torch.Tensor
    highest: int
    converged: bool

    def draw(self, number: int, rng: np.random.Generator, *, mode: int | None = None) -> torch.Tensor:
        """Points (number, P) around one of the modes, or by default around each of them in turn."""
        places = [i % len(self.centers) if mode is None else mode for i in range(number)]
        centers = self.centers[places]
        fresh = standard_normal(rng, *centers.shape)
        return centers + _START_SPREAD * fresh @ self.root.T


def normal_approximation(density: Density, target: Target, rng: np.random.Generator) -> NormalApproximation:
    """Search for modes from several starts, and measure the curvature at the highest.

    Args:
        density: Where modes are searched: the target itself, or an approximation of it.
        target: What is to be sampled.
        rng: Source of randomness.
    """
    modes = search(density, target, rng)
    modes = [replace(mode, point=target.canonical(mode.point[None])[0]) for mode in modes]
    return approximation_at(modes, density, rng)


def approximation_at(modes: list[Mode], density: Density, rng: np.random.Generator) -> NormalApproximation:
    """Measure the curvature at the highest of modes that a search found."""
    top = highest(modes)
    _, root = rounded(top.point, spread_root(density, top.point, rng))
    centers = torch.stack([rounded(mode.point, root)[0] for mode in modes])
    return NormalApproximation(centers, root, modes.index(top), top.converged)


def around_modes(
    density: Density, target: Target, num_chains: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Points where chains start (C, P), taking turns among the modes found, and a root of their metric.

    Args:
        density: Where modes are searched: the target itself, or an approximation of it.
        target: What is to be sampled.
        num_chains: C.
        rng: Source of randomness.
    """
    normal = normal_approximation(density, target, rng)
    return normal.draw(num_chains, rng), normal.root
