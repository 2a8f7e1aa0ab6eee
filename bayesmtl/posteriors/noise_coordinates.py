"""Coordinates in which the noise of single tasks depends on what they share as little as can be.

Tasks' noise levels are sigma_t = sigma exp(spread * level_t), with level_t ~ N(0, 1). Where the data say much
about sigma_t, sigma, spread and levels lie on a curve; where they say little, the levels of tasks that are
alike lie in a funnel. About log sigma_t the rows of a task say nearly what one normal observation l_t of
precision h_t would. Given those, and a flat prior of log sigma,

    level_t | sigma, spread   ~ N(spread h_t (l_t - log sigma) / c_t, 1 / c_t),   c_t = 1 + h_t spread^2
    log sigma | spread        ~ N(sum_t q_t l_t / Q, 1 / Q),   q_t = h_t / c_t, Q = sum_t q_t

so that levels and log sigma, standardised by these, are nearly normal and nearly independent of each other
and of spread, however much the data say. It is a change of variables: l_t and h_t need not be right.

Source: Papaspiliopoulos, Roberts and Skold (2007) for parametrisations between centred and non-centred.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from bayesmtl.posteriors.target import Density, Target, differentiate

_WIDE = 0.3  # spread at which rows are asked what they say of levels
_SHIFT = 0.05  # of log noise, for the curvature
_NEWTON = 5  # steps
_LEAST, _FURTHEST = 0.5, 3.0  # precision h_t, and how far l_t may be from where the search ended


@dataclass(frozen=True, eq=False)
class _Places:
    """Positions of log sigma, spread and levels among a target's coordinates."""

    mean: int
    spread: int
    levels: slice

    @classmethod
    def of(cls, target: Target) -> Self | None:
        """Those of a target; `None` where noise is not per task."""
        start, found = 0, {}
        for parameter in target.space.parameters:
            if parameter.size:
                found[parameter.name] = slice(start, start + parameter.size)
            start += parameter.size
        if {"noise", "noise_spread", "noise_level"} <= set(found):
            return cls(found["noise"].start, found["noise_spread"].start, found["noise_level"])
        return None


@dataclass(frozen=True, eq=False)
class NoiseCoordinates(Density):
    """A target in these coordinates; its own coordinates where noise is not per task.

    Args:
        target: What is to be explored.
        places: Where its noise is; `None` where it is not per task.
        observed: l_t, shape (T,).
        precision: h_t, shape (T,).
    """

    target: Target
    places: _Places | None
    observed: torch.Tensor
    precision: torch.Tensor

    @classmethod
    def around(cls, target: Target, point: torch.Tensor) -> NoiseCoordinates:
        """The coordinates for points near this one (P,), by Newton's method for every task on its own."""
        places = _Places.of(target)
        if places is None:
            return cls(target, None, point[:0], point[:0])
        start = point[places.mean] + point[places.spread] * point[places.levels]
        observed, precision = start, torch.ones_like(start)
        shifts = torch.tensor([[0.0], [_SHIFT], [-_SHIFT]], dtype=point.dtype)
        for _ in range(_NEWTON):
            points = point.repeat(3, 1)
            points[:, places.spread] = _WIDE
            levels = (observed + shifts - point[places.mean]) / _WIDE
            points[:, places.levels] = levels
            # without the prior of the levels: the slope of what the rows say
            slope = (target.value_and_gradient(points)[1][:, places.levels] + levels) / _WIDE
            precision = ((slope[2] - slope[1]) / (2 * _SHIFT)).clamp(min=_LEAST)
            observed = observed + (slope[0] / precision).clamp(-1.0, 1.0)
        observed = start + (observed - start).clamp(-_FURTHEST, _FURTHEST)
        return cls(target, places, observed.round(decimals=2), precision.round(decimals=1))

    @property
    def signed(self) -> torch.Tensor:
        """Which coordinates live on the signed line, bool (P,)."""
        return self.target.space.signed()

    def there(self, points: torch.Tensor) -> torch.Tensor:
        """From the target's coordinates (B, P)."""
        if self.places is None:
            return points
        places, moved = self.places, points.clone()
        mean, spread = points[:, places.mean], points[:, places.spread]
        center, scale = self._of_levels(mean, spread)
        moved[:, places.levels] = (points[:, places.levels] - center) / scale
        center, scale = self._of_mean(spread)
        moved[:, places.mean] = (mean - center) / scale
        return moved

    def back(self, points: torch.Tensor) -> torch.Tensor:
        """To the target's coordinates (B, P)."""
        if self.places is None:
            return points
        places, spread = self.places, points[:, self.places.spread]
        center, scale = self._of_mean(spread)
        mean = center + scale * points[:, places.mean]
        of_levels, each = self._of_levels(mean, spread)
        moved = points.index_copy(1, torch.tensor([places.mean]), mean[:, None])
        where = torch.arange(places.levels.start, places.levels.stop)
        return moved.index_copy(1, where, of_levels + each * points[:, places.levels])

    def _certainty(self, spread: torch.Tensor) -> torch.Tensor:
        """c_t, shape (B, T)."""
        return 1 + self.precision * spread[:, None] ** 2

    def _of_levels(self, mean: torch.Tensor, spread: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Centre and scale of the levels, (B, T) each."""
        c = self._certainty(spread)
        center = spread[:, None] * self.precision * (self.observed - mean[:, None]) / c
        return center, c.rsqrt()

    def _of_mean(self, spread: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Centre and scale of log sigma, (B,) each."""
        q = self.precision / self._certainty(spread)
        total = q.sum(1)
        return (q * self.observed).sum(1) / total, total.rsqrt()

    def _log_jacobian(self, points: torch.Tensor) -> torch.Tensor:
        if self.places is None:
            return points.new_zeros(len(points))
        spread = points[:, self.places.spread]
        _, scale = self._of_mean(spread)
        return scale.log() - 0.5 * self._certainty(spread).log().sum(1)

    def value(self, points: torch.Tensor) -> torch.Tensor:
        """See `Density.value`."""
        return self.target.value(self.back(points)) + self._log_jacobian(points)

    def value_and_gradient(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Density.value_and_gradient`."""
        if self.places is None:
            return self.target.value_and_gradient(points)
        return differentiate(lambda u: self.target.log_density(self.back(u)) + self._log_jacobian(u), points)
