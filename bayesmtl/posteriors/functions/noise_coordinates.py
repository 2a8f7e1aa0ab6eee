"""Coordinates in which the noise of single tasks is known by itself, for proposals.

Tasks' noise levels are sigma_t = sigma exp(spread * level_t), with level_t ~ N(0, 1): good for small steps,
but the data say much about sigma_t and little about its parts, so that spread and levels lie on a curve.
With log spread and log sigma_t in their place it is nearly straight, and a normal distribution near.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bayesmtl.posteriors.target import Density, Target, differentiate

_SMALL = 0.2  # spread of log noise


@dataclass(frozen=True, eq=False)
class Centred(Density):
    """A target in these coordinates; its own coordinates where noise is not per task.

    Args:
        target: What is to be explored.
    """

    target: Target

    @property
    def signed(self) -> torch.Tensor:
        """Which coordinates live on the signed line, bool (P,)."""
        signed = self.target.space.signed()
        where = self._where
        if where is not None:
            signed[where[1]] = False
        return signed

    @property
    def _where(self) -> tuple[int, int, slice] | None:
        """Positions of log sigma, spread and levels."""
        start, found = 0, {}
        for parameter in self.target.space.parameters:
            if parameter.size:
                found[parameter.name] = slice(start, start + parameter.size)
            start += parameter.size
        if {"noise", "noise_spread", "noise_level"} <= set(found):
            return found["noise"].start, found["noise_spread"].start, found["noise_level"]
        return None

    def there(self, points: torch.Tensor) -> torch.Tensor:
        """From the target's coordinates (B, P); a spread near zero becomes a small one."""
        where = self._where
        if where is None:
            return points
        mean, spread, levels = where
        moved = points.clone()
        moved[:, levels] = points[:, mean, None] + points[:, spread, None] * points[:, levels]
        moved[:, spread] = points[:, spread].abs().clamp(min=_SMALL).log()
        return moved

    def back(self, points: torch.Tensor) -> torch.Tensor:
        """To the target's coordinates (B, P), with a positive spread."""
        where = self._where
        if where is None:
            return points
        mean, spread, levels = where
        scale = points[:, spread].exp()
        own = (points[:, levels] - points[:, mean, None]) / scale[:, None]
        parts = [points[:, :spread], scale[:, None], points[:, spread + 1 : levels.start], own]
        return torch.cat([*parts, points[:, levels.stop :]], dim=1)

    def _log_jacobian(self, points: torch.Tensor) -> torch.Tensor:
        where = self._where
        if where is None:
            return points.new_zeros(len(points))
        _, spread, levels = where
        log_jacobian: torch.Tensor = (1 - (levels.stop - levels.start)) * points[:, spread]
        return log_jacobian

    def value(self, points: torch.Tensor) -> torch.Tensor:
        """See `Density.value`."""
        return self.target.value(self.back(points)) + self._log_jacobian(points)

    def value_and_gradient(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Density.value_and_gradient`."""
        return differentiate(lambda u: self.target.log_density(self.back(u)) + self._log_jacobian(u), points)
