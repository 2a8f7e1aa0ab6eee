"""What every engine explores: a density over hyperparameters, with its gradient."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from bayesmtl.parameters import ParameterSpace


class Valued(Protocol):
    """A log density of the hyperparameters, or an unbiased estimate of one: what points are weighted by."""

    def value(self, points: torch.Tensor) -> torch.Tensor:
        """Log density at points (B, P), shape (B,); -inf where it cannot be evaluated."""


class Density(Valued, Protocol):
    """A log density of the hyperparameters: what is searched for modes, and sampled."""

    def value_and_gradient(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same with its gradient (B, P), zeros where it cannot be evaluated."""


class HeldDensity(Density, Protocol):
    """The density of the coordinates that are cheap while others, in front of them, are held."""

    def information(self, rest: torch.Tensor) -> torch.Tensor:
        """What the data are expected to say about the coordinates at (R,), positive semidefinite, (R, R)."""

    def whole(self, rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The density at (R,), shape (1,), and its gradient in all coordinates, the held in front, (1, P)."""


class Target(ABC):
    """log p(y, hyperparameters) with everything else integrated out.

    A subclass says which hyperparameters there are (`space`), what their density is (`log_density`), which
    tasks have no data, and what ties a checkpoint to it.
    """

    @property
    @abstractmethod
    def space(self) -> ParameterSpace:
        """The hyperparameters."""

    @property
    @abstractmethod
    def unseen(self) -> np.ndarray:
        """Positions of the tasks without an observed row."""

    @abstractmethod
    def log_density(self, points: torch.Tensor) -> torch.Tensor:
        """The log density at points (B, P), Jacobian included, shape (B,)."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes whenever the model or the data do; ties a checkpoint to its run."""

    @property
    def target_acceptance(self) -> float:
        """Mean acceptance rate that step sizes adapt to: higher where the density has narrow corners."""
        return 0.8

    @property
    def evaluation_size(self) -> float:
        """Rows of a square matrix with the numbers that one evaluation handles; infinite where unknown."""
        return math.inf

    @property
    def turning(self) -> str | None:
        """Name of a parameter (R, T) that the data know up to a rotation of its R rows, if there is one."""
        return None

    @property
    def num_held(self) -> int:
        """How many of the first coordinates make evaluations costly, if the others are cheap given them."""
        return 0

    def held(self, first: torch.Tensor) -> HeldDensity:
        """The density of the other coordinates (B, P - H) with the first ones (H,) held, if H is above 0."""
        raise TypeError("no coordinates of this target can be held")

    def canonical(self, points: torch.Tensor) -> torch.Tensor:
        """Of points (B, P) that mean the same, such as reflections, always the same: where chains start."""
        return points

    def reduced(self, rng: np.random.Generator) -> Target | None:
        """The same hyperparameters met with a part of the data, whose modes lead to those of the whole.

        `None` where evaluations are cheap enough to search for modes directly.
        """
        return None

    def value(self, points: torch.Tensor) -> torch.Tensor:
        """`log_density` without its gradient; -inf where it cannot be evaluated."""
        with torch.no_grad():
            return finite_or_least(self.log_density(points))

    def value_and_gradient(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`log_density` and its gradient; -inf and zeros where it cannot be evaluated."""
        return differentiate(self.log_density, points)


def finite_or_least(value: torch.Tensor) -> torch.Tensor:
    """Log densities with -inf where they are not finite."""
    return torch.nan_to_num(value, nan=-torch.inf, posinf=-torch.inf)


def differentiate(
    log_density: Callable[[torch.Tensor], torch.Tensor], points: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A log density at points (B, P) and its gradient; -inf and zeros where they cannot be evaluated."""
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        value = log_density(points)
        (gradient,) = torch.autograd.grad(value.sum(), points)
    value = value.detach()
    usable = torch.isfinite(value) & torch.isfinite(gradient).all(-1)
    return torch.where(usable, value, -torch.inf), torch.where(usable[:, None], gradient, 0.0)
