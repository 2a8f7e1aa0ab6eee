"""The density of a Gaussian process's hyperparameters on a complete grid while the kernel's are held."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bayesmtl.algebra.functions import TaskStructure
from bayesmtl.algebra.kronecker import decompose_inputs, log_marginal_of_grid
from bayesmtl.algebra.kronecker_fixed_kernel import (
    HeldGrid,
    TaskSlopes,
    expected_information,
    log_marginal_held,
)
from bayesmtl.parameters import ParameterSpace
from bayesmtl.posteriors.target import HeldDensity, differentiate, finite_or_least

if TYPE_CHECKING:
    from bayesmtl.posteriors.functions.posterior import FunctionProblem

_STEP = 1e-4  # of differences; Omega, Lambda and the noise variances are smooth, and a search needs no more


class HeldFunctions(HeldDensity):
    """See `Target.held`.

    Args:
        problem: A problem on a complete grid.
        first: Coordinates of the kernel, shape (H,).
    """

    def __init__(self, problem: FunctionProblem, first: torch.Tensor):
        self.problem, self.first = problem, first.detach().requires_grad_()
        kernels = ParameterSpace(problem.kernels.parameters(problem.X.shape[1]))
        self.space = ParameterSpace(problem.space.parameters[len(kernels.parameters) :])
        with torch.enable_grad():
            self.log_prior, values = kernels.log_prior(self.first[None])
            self.kernel = problem.over_inputs(values)[:, 0]
        self.inputs: tuple[torch.Tensor, torch.Tensor] | None = None
        if bool(torch.isfinite(self.kernel).all()):
            self.inputs = decompose_inputs(self.kernel.detach())
            self.grid = HeldGrid.of(*self.inputs, problem.cells[0])

    def log_density(self, rest: torch.Tensor) -> torch.Tensor:
        """As `FunctionProblem.log_density` at one point (1, R), the held coordinates in front."""
        if self.inputs is None:
            return rest.sum(1) * torch.nan
        log_prior, tasks, noise = self._at(rest)
        marginal = log_marginal_held(tasks, noise, self.grid)
        return self.log_prior.detach() + log_prior + self.problem.weight * marginal

    def value(self, points: torch.Tensor) -> torch.Tensor:
        """See `Density.value`."""
        with torch.no_grad():
            return torch.cat([finite_or_least(self.log_density(point[None])) for point in points])

    def value_and_gradient(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Density.value_and_gradient`."""
        parts = [differentiate(self.log_density, point[None]) for point in points]
        values, gradients = zip(*parts, strict=True)
        return torch.cat(values), torch.cat(gradients)

    def whole(self, rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `HeldDensity.whole`."""
        if self.inputs is None:
            return rest.new_full((1,), -torch.inf), rest.new_zeros(1, len(self.first) + len(rest))
        rest = rest.detach().requires_grad_()
        with torch.enable_grad():
            log_prior, tasks, noise = self._at(rest[None])
            marginal = log_marginal_of_grid(tasks, self.kernel, noise, *self.problem.cells, self.inputs)
            value = self.log_prior + log_prior + self.problem.weight * marginal
            # the kernel's own graph serves further values of the rest
            gradient = torch.cat(torch.autograd.grad(value.sum(), (self.first, rest), retain_graph=True))
        usable = torch.isfinite(value) & torch.isfinite(gradient).all()
        return (
            torch.where(usable, value.detach(), -torch.inf),
            torch.where(usable[:, None], gradient[None], 0.0),
        )

    def information(self, rest: torch.Tensor) -> torch.Tensor:
        """See `HeldDensity.information`."""
        R = len(rest)
        if self.inputs is None:
            return rest.new_zeros(R, R)
        points = torch.cat([rest + _STEP * torch.eye(R, dtype=rest.dtype), rest[None]])
        _, tasks, noise = self._at(points)

        def slope(values: torch.Tensor) -> torch.Tensor:
            return (values[:R] - values[R:]) / _STEP

        slopes = TaskSlopes(slope(tasks.shape[:, 0]), slope(tasks.level), slope(noise.square()))
        here = TaskStructure(tasks.shape[-1:], tasks.level[-1:])
        return self.problem.weight * expected_information(here, noise[-1:], slopes, self.grid)

    def _at(self, rest: torch.Tensor) -> tuple[torch.Tensor, TaskStructure, torch.Tensor]:
        """Log prior, Omega and Lambda, and the noise, at points (B, R)."""
        log_prior, values = self.space.log_prior(rest)
        tasks, noise = self.problem.structure(values), self.problem.noise(values, len(rest))
        return log_prior, tasks, noise
