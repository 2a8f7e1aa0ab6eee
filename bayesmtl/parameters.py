"""Hyperparameters as points of R^P: packing, transforming, and their log prior with its Jacobian.

Scales of weights live on the signed line: a half-normal scale is the absolute value of a normal one, and the
density of the data depends on its square only, so no transform is needed and nothing bends at zero. Noise
scales, which stay away from zero, use their logarithm; correlation matrices atanh of the partial correlations
p_ij in their Cholesky factor, L[i, j] = p_ij sqrt(1 - L[i, 1]^2 - .. - L[i, j-1]^2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch.distributions.transforms import CorrCholeskyTransform

from bayesmtl.priors import LKJ, Fixed, Prior

Space = Literal["signed", "log", "real", "correlation"]
Values = Mapping[str, torch.Tensor]

Unit = Literal["standardised", "coefficient", "correlation", "target", "feature", "none"]
"""What a reported quantity is measured in, so that results can give it in the user's units: standardised
units, the spread of coefficients (last dimension is features) or their correlation (last two), the target, a
feature (last dimension, without an intercept), or nothing."""


@dataclass(frozen=True, eq=False)
class Spread:
    """Covariance Sigma = diag(scale^2) + F F' of coefficients, which is never formed for their sds alone.

    Args:
        scale: Standard deviations of what is independent by coefficient, shape (..., D).
        factor: F, shape (..., D, K); `None` where there is no more.
    """

    scale: torch.Tensor
    factor: torch.Tensor | None = None

    def sd(self, M: torch.Tensor | None = None) -> torch.Tensor:
        """Standard deviations of M w, w ~ N(0, Sigma), M (D, D); of w itself without M. Shape (..., D)."""
        variance, F, unit = self.scale**2, self.factor, 1.0
        if M is not None:
            unit = float(M.abs().max())  # whose square may be no number
            M = M / unit
            variance = variance @ M.square().T
            F = None if F is None else M @ F
        return unit * (variance if F is None else variance + F.square().sum(-1)).sqrt()

    def correlation(self, M: torch.Tensor | None = None) -> torch.Tensor:
        """Correlations of M w, w ~ N(0, Sigma), shape (..., D, D); 0 where one of two does not vary."""
        root = torch.diag_embed(self.scale)
        if self.factor is not None:
            root = torch.cat([root, self.factor], dim=-1)
        root = root if M is None else (M / M.abs().max()) @ root
        size = root.square().sum(-1, keepdim=True).sqrt()
        root = torch.where(size > 0, root / size, 0.0)
        correlation = (root @ root.transpose(-1, -2)).clamp(-1.0, 1.0)
        correlation.diagonal(dim1=-2, dim2=-1).fill_(1.0)
        return correlation


class Reported(NamedTuple):
    """A hyperparameter as results show it: free of signs, rotations and labels.

    Attributes:
        dims: Names of the dimensions after the batch.
        values: Shape (B, ...).
        unit: What it is measured in.
        tasks: Positions of the tasks it speaks of, where those are not all: its dimension "task" is theirs.
        spread: The covariance that scales or correlations of coefficients belong to, (B, ...): other units
            have another origin, and mix coefficients. By default those are independent.
    """

    dims: tuple[str, ...]
    values: torch.Tensor
    unit: Unit
    tasks: tuple[int, ...] | None = None
    spread: Spread | None = None


_CORRELATION = CorrCholeskyTransform()


@dataclass(frozen=True)
class Parameter:
    """One named hyperparameter.

    Args:
        name: Its name in results.
        shape: Its shape; (D, D) for a correlation matrix.
        prior: Its prior.
        space: How it is unconstrained.
        dims: Names of the dimensions in results, as many as `shape` has entries.
        typical: For a space of "log" a value that starting points lie around.
    """

    name: str
    shape: tuple[int, ...]
    prior: Prior
    space: Space
    dims: tuple[str, ...] = ()
    typical: float = 1.0

    @property
    def size(self) -> int:
        """Number of unconstrained coordinates; 0 when the value is known."""
        if isinstance(self.prior, Fixed):
            return 0
        if self.space == "correlation":
            return self.shape[0] * (self.shape[0] - 1) // 2
        return math.prod(self.shape)

    @property
    def of_tasks_jointly(self) -> bool:
        """Whether this is a correlation matrix of the tasks."""
        return self.space == "correlation" and self.dims[:1] == ("task",)

    @property
    def task_axis(self) -> int | None:
        """Position of the tasks among the dimensions of values (B, *shape), if each has its own quantities.

        `None` for what all tasks have in common, for a correlation matrix of the tasks, and where the prior
        makes the entries of the tasks depend on each other.
        """
        if self.of_tasks_jointly or "task" not in self.dims:
            return None
        axis = self.dims.index("task")
        together = self.prior.groups_last and axis == len(self.shape) - 1
        return None if together else 1 + axis

    def for_tasks(self, num_tasks: int) -> Parameter:
        """The same parameter of so many tasks."""
        if self.task_axis is None:
            return self
        shape = list(self.shape)
        shape[self.task_axis - 1] = num_tasks
        return replace(self, shape=tuple(shape))

    def of_some(self, value: torch.Tensor, tasks: torch.Tensor) -> torch.Tensor:
        """The values of some tasks, at these positions; all of them where tasks have none of their own."""
        return value if self.task_axis is None else value.index_select(self.task_axis, tasks)

    def constrain(self, point: torch.Tensor) -> torch.Tensor:
        """From coordinates (B, size) to values (B, *shape)."""
        B = point.shape[0]
        if isinstance(self.prior, Fixed):
            return torch.full((B, *self.shape), float(self.prior.value), dtype=point.dtype)
        if self.space == "correlation":
            if self.shape[0] < 2:
                return torch.ones(B, *self.shape, dtype=point.dtype)
            L: torch.Tensor = _CORRELATION(point)
            return L
        value = point.reshape(B, *self.shape)
        return value.exp() if self.space == "log" else value

    def log_density(self, point: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Log prior density of the coordinates, Jacobian included, shape (B,)."""
        if self.size == 0:
            return point.new_zeros(point.shape[0])
        if self.space == "correlation":
            assert isinstance(self.prior, LKJ)
            return self.prior.log_prob_of_coordinates(point, self.shape[0])
        if self.space == "signed":
            return _row_sum(self.prior.log_prob(value.abs()) - math.log(2))
        density = _row_sum(self.prior.log_prob(value))
        return density + point.sum(1) if self.space == "log" else density

    def sample(self, rng: np.random.Generator, num_draws: int) -> torch.Tensor:
        """Values drawn from the prior, shape (num_draws, *shape)."""
        return torch.from_numpy(self.prior.sample(rng, (num_draws, *self.shape)))

    def initial(self, rng: np.random.Generator, num_chains: int) -> np.ndarray:
        """Dispersed but harmless starting coordinates, shape (num_chains, size)."""
        shape = (num_chains, self.size)
        if self.space == "signed":
            return rng.uniform(0.05, 0.25, shape)
        if self.space == "log":
            return math.log(self.typical) + rng.uniform(-1.0, 0.0, shape)
        return rng.normal(0.0, 0.5 if self.space == "real" else 0.1, shape)


@dataclass(frozen=True)
class ParameterSpace:
    """All hyperparameters of a model, laid end to end."""

    parameters: tuple[Parameter, ...]

    @property
    def size(self) -> int:
        """P, the number of unconstrained coordinates."""
        return sum(parameter.size for parameter in self.parameters)

    def _slices(self) -> Sequence[tuple[Parameter, slice]]:
        start, slices = 0, []
        for parameter in self.parameters:
            slices.append((parameter, slice(start, start + parameter.size)))
            start += parameter.size
        return slices

    def place(self, name: str) -> tuple[Parameter, int]:
        """A parameter and the position of its first coordinate."""
        return next((parameter, at.start) for parameter, at in self._slices() if parameter.name == name)

    def constrain(self, points: torch.Tensor) -> dict[str, torch.Tensor]:
        """From coordinates (B, P) to named values, each (B, *shape)."""
        return {p.name: p.constrain(points[:, where]) for p, where in self._slices()}

    def log_prior(self, points: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Log prior density of the coordinates (B,), and the values that were needed for it."""
        values, total = {}, points.new_zeros(points.shape[0])
        for parameter, where in self._slices():
            point = points[:, where]
            values[parameter.name] = parameter.constrain(point)
            total = total + parameter.log_density(point, values[parameter.name])
        return total, values

    def sample(self, rng: np.random.Generator, num_draws: int) -> dict[str, torch.Tensor]:
        """Values drawn from the prior."""
        return {parameter.name: parameter.sample(rng, num_draws) for parameter in self.parameters}

    def fresh_tasks(self, values: Values, num_new: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """The values for tasks that the data never showed: their own quantities anew, the rest as it is.

        Quantities along tasks (`Parameter.task_axis`) are independent over tasks given the others, so a new
        task's come from the prior; for correlation matrices of tasks see `extend_tasks`.
        """
        fresh = dict(values)
        for parameter in self.parameters:
            if parameter.task_axis is not None:
                B = values[parameter.name].shape[0]
                fresh[parameter.name] = parameter.for_tasks(num_new).sample(rng, B)
        return fresh

    def extend_tasks(self, values: Values, num_new: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """The values for the known tasks and `num_new` others behind them, (B, T + num_new, ...).

        As `fresh_tasks`, and correlation matrices of tasks grow by rows that are drawn given the known ones.
        """
        extended = dict(values)
        fresh = self.fresh_tasks(values, num_new, rng)
        for parameter in self.parameters:
            if parameter.of_tasks_jointly:
                assert isinstance(parameter.prior, LKJ)
                L = values[parameter.name].numpy()
                for _ in range(num_new):
                    L = parameter.prior.next_row(L, rng)
                extended[parameter.name] = torch.from_numpy(L)
            elif parameter.task_axis is not None:
                known = values[parameter.name]
                both = [known, fresh[parameter.name]]
                extended[parameter.name] = torch.cat(both, dim=parameter.task_axis)
        return extended

    def redraw_tasks(self, points: torch.Tensor, tasks: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        """Points (B, P) whose coordinates of these tasks' own quantities are drawn from the prior.

        Args:
            points: Coordinates, shape (B, P).
            tasks: Positions of the tasks.
            rng: Source of randomness.
        """
        points = points.clone()
        for parameter, where in self._slices():
            if not parameter.size:
                continue
            if parameter.of_tasks_jointly:
                points[:, where] = _redraw_correlation(parameter, points[:, where], tasks, rng)
            if parameter.task_axis is None:
                continue
            fresh = parameter.sample(rng, len(points))
            own = points[:, where].reshape(fresh.shape)
            fresh = fresh.log() if parameter.space == "log" else fresh
            chosen = torch.from_numpy(np.asarray(tasks))
            own.index_copy_(parameter.task_axis, chosen, fresh.index_select(parameter.task_axis, chosen))
            points[:, where] = own.reshape(len(points), -1)
        return points

    def initial(self, rng: np.random.Generator, num_chains: int) -> torch.Tensor:
        """Starting coordinates of several chains, shape (num_chains, P)."""
        parts = [parameter.initial(rng, num_chains) for parameter in self.parameters]
        return torch.from_numpy(np.concatenate([*parts, np.zeros((num_chains, 0))], axis=1))

    def signed(self) -> torch.Tensor:
        """Which coordinates live on the signed line, where x and -x mean the same; bool, shape (P,)."""
        flags = [np.full(parameter.size, parameter.space == "signed") for parameter in self.parameters]
        return torch.from_numpy(np.concatenate([*flags, np.zeros(0, dtype=bool)]))


def _row_sum(values: torch.Tensor) -> torch.Tensor:
    return values.reshape(values.shape[0], -1).sum(1)


def _redraw_correlation(
    parameter: Parameter, points: torch.Tensor, tasks: np.ndarray, rng: np.random.Generator
) -> torch.Tensor:
    """Coordinates (B, size) of a correlation matrix whose rows of some tasks are drawn given the others."""
    assert isinstance(parameter.prior, LKJ)
    T = parameter.shape[0]
    L = parameter.constrain(points).numpy()
    omega = L @ np.swapaxes(L, 1, 2)
    seen = np.setdiff1d(np.arange(T), tasks)
    L = np.linalg.cholesky(omega[:, seen][:, :, seen])
    for position in range(len(seen), T):
        L = parameter.prior.next_row(L, rng, further=T - 1 - position)
    back = np.argsort(np.concatenate([seen, tasks]))
    omega = (L @ np.swapaxes(L, 1, 2))[:, back][:, :, back]
    redrawn: torch.Tensor = _CORRELATION.inv(torch.from_numpy(np.linalg.cholesky(omega)))
    return redrawn
