"""A posterior to explore: a sharing prior and a likelihood met with data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from bayesmtl.algebra.collapsed import log_marginal
from bayesmtl.algebra.rows import TaskRows
from bayesmtl.algebra.statistics import CompressedTasks
from bayesmtl.algebra.structure import Structure
from bayesmtl.likelihoods import Likelihood
from bayesmtl.parameters import ParameterSpace, Values
from bayesmtl.sharing import Sharing


@dataclass(frozen=True, eq=False)
class Problem:
    """Everything an engine needs, in standardised units.

    Args:
        sharing: Prior of the weights.
        likelihood: Scatter of the targets.
        tasks: Compressed data of T tasks.
        task_names: Names of the tasks, for messages and known noise.
        target_scale: What one standardised unit is in the target's units, shape (T,).
        rows: The rows themselves, for likelihoods that do not compress; `None` for the others.
    """

    sharing: Sharing
    likelihood: Likelihood
    tasks: CompressedTasks
    task_names: tuple[str, ...]
    target_scale: np.ndarray
    rows: TaskRows | None = None

    @property
    def space(self) -> ParameterSpace:
        """The hyperparameters."""
        T, D = self.tasks.num_tasks, self.tasks.num_features
        return ParameterSpace((*self.sharing.parameters(T, D), *self.likelihood.parameters(T)))

    def structure(self, values: Values) -> Structure:
        """A, Z and E for these hyperparameter values."""
        return self.sharing.structure(values, self.tasks.num_tasks, self.tasks.num_features)

    def noise(self, values: Values, num_draws: int) -> torch.Tensor:
        """sigma_t, shape (B, T) or (B, 1)."""
        return self.likelihood.noise_sd(values, self.task_names, self.target_scale, num_draws)

    def log_density(self, points: torch.Tensor) -> torch.Tensor:
        """log p(y, hyperparameters) at points (B, P) with all weights integrated out, shape (B,).

        For likelihoods that compress; `LaplaceMarginal` is its counterpart for the others.
        """
        log_prior, values = self.space.log_prior(points)
        noise = self.noise(values, points.shape[0])
        return log_prior + log_marginal(self.tasks, self.structure(values), noise)

    def value(self, points: torch.Tensor) -> torch.Tensor:
        """`log_density` without its gradient; -inf where it cannot be evaluated."""
        with torch.no_grad():
            return finite_or_least(self.log_density(points))

    def value_and_gradient(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`log_density` and its gradient; -inf and zeros where it cannot be evaluated."""
        return differentiate(self.log_density, points)

    def fingerprint(self) -> str:
        """Changes whenever the model or the data do; ties a checkpoint to its run."""
        digest = hashlib.sha256()
        digest.update(json.dumps([self.sharing.to_dict(), self.likelihood.to_dict()]).encode())
        digest.update(json.dumps(self.task_names).encode())
        digest.update(self.target_scale.tobytes())  # what known noise is measured in
        for array in (self.tasks.residual, self.tasks.count, *(g.rows for g in self.tasks.groups)):
            digest.update(array.numpy().tobytes())
        return digest.hexdigest()


class Density(Protocol):
    """A log density of the hyperparameters: what is searched for modes, and sampled."""

    def value(self, points: torch.Tensor) -> torch.Tensor:
        """Log density at points (B, P), shape (B,); -inf where it cannot be evaluated."""

    def value_and_gradient(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same with its gradient (B, P), zeros where it cannot be evaluated."""


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
