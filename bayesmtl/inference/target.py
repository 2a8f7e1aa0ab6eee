"""What every engine explores: a density over hyperparameters, with its gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch

from bayesmtl.parameters import ParameterSpace


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

    def canonical(self, points: torch.Tensor) -> torch.Tensor:
        """Of points (B, P) that mean the same, such as reflections, always the same: where chains start."""
        return points

    def value(self, points: torch.Tensor) -> torch.Tensor:
        """`log_density` without its gradient; -inf where it cannot be evaluated."""
        with torch.no_grad():
            return torch.nan_to_num(self.log_density(points), nan=-torch.inf, posinf=-torch.inf)

    def value_and_gradient(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`log_density` and its gradient; -inf and zeros where it cannot be evaluated."""
        points = points.detach().requires_grad_()
        with torch.enable_grad():
            value = self.log_density(points)
            (gradient,) = torch.autograd.grad(value.sum(), points)
        value = value.detach()
        usable = torch.isfinite(value) & torch.isfinite(gradient).all(-1)
        return (
            torch.where(usable, value, -torch.inf),
            torch.where(usable[:, None], gradient, 0.0),
        )
