"""Functions on a nearly complete grid of inputs and tasks: two small eigendecompositions are enough."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from bayesmtl.algebra.functions import KnownRows, TaskStructure
from bayesmtl.algebra.kronecker import (
    GridRows,
    decompose,
    decompose_inputs,
    grid_positions,
    log_marginal_of_grid,
    on_cells,
)
from bayesmtl.algebra.kronecker_fixed_kernel import (
    HeldGrid,
    TaskSlopes,
    expected_information,
    log_marginal_held,
)
from bayesmtl.parameters import ParameterSpace, Values
from bayesmtl.posteriors.functions.posterior import FunctionPosterior, known_fields, shared_inputs
from bayesmtl.posteriors.target import HeldDensity, differentiate, finite_or_least

_GRID_TASKS = 3  # with fewer, factorising all rows is cheaper than an eigendecomposition of the inputs
# Inputs from which modes are searched on a part of them first, and the part's size.
_LARGE_GRID, _SMALL_GRID = 250, 150
_STEP = 1e-4  # of differences; Omega, Lambda and the noise variances are smooth, and a search needs no more


@dataclass(frozen=True, eq=False, kw_only=True)
class GridFunctions(FunctionPosterior):
    """The posterior of functions with one kernel, where tasks have nearly all the same inputs.

    Args:
        grid: Rows by input and task, shape (m, T), in the order of `inputs`; -1 for a missing cell.
    """

    grid: torch.Tensor

    @property
    def largest_matrix(self) -> tuple[int, str]:
        """See `FunctionPosterior.largest_matrix`."""
        return len(self.grid), "inputs of a grid"

    @property
    def integration(self) -> str:
        """See `FunctionPosterior.integration`."""
        m, T = self.grid.shape
        what = (
            f"a grid, {self.num_holes} of its {m * T} cells missing," if self.num_holes else "a complete grid"
        )
        return f"functions integrated out by eigendecomposition: {what} of {m} inputs x {T} tasks"

    def prediction_workspace(self, num_rows: int, *, joint: bool) -> int:
        """See `FunctionPosterior.prediction_workspace`."""
        n = len(self.y)
        return num_rows * (n + num_rows) + self.num_holes * n

    @property
    def num_holes(self) -> int:
        """Cells of the grid without a target."""
        return int((self.grid < 0).sum())

    @cached_property
    def cells(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Targets of the grid, and where there are any, both (m, T)."""
        return on_cells(self.y, self.grid), self.grid >= 0

    def log_marginal(self, values: Values, num_draws: int) -> torch.Tensor:
        """log p(y | hyperparameters), shape (B,)."""
        tasks, noise = self.structure(values), self.noise(values, num_draws)
        return log_marginal_of_grid(tasks, self.over_inputs(values)[:, 0], noise, *self.cells)

    def known_rows(self, values: Values, tasks: TaskStructure, noise: torch.Tensor) -> KnownRows:
        """See `FunctionPosterior.known_rows`."""
        kernel = self.over_inputs(values)[:, 0]
        return GridRows.of(decompose(tasks, kernel, noise, self.grid >= 0), self.grid, self.y)

    @property
    def evaluation_size(self) -> float:
        """See `Target.evaluation_size`."""
        return max(self.grid.shape)

    @property
    def num_held(self) -> int:
        """The kernel's coordinates, where one eigendecomposition of it serves all values of the others."""
        if self.num_holes:
            return 0
        return sum(parameter.size for parameter in self.kernels.parameters(self.X.shape[1]))

    def held(self, first: torch.Tensor) -> HeldDensity:
        """See `Target.held`."""
        return HeldFunctions(self, first)

    def reduced(self, rng: np.random.Generator) -> FunctionPosterior | None:
        """All rows of some of the inputs, as `FunctionPosterior.reduced` has them."""
        assert self.inputs is not None
        keep = self._some_rows(len(self.inputs), _LARGE_GRID, _SMALL_GRID, rng)
        return None if keep is None else self.of_rows_at(keep)

    def of_rows_at(self, keep: torch.Tensor) -> FunctionPosterior:
        """The same with the rows at these positions alone, which stand for all."""
        weight = self.weight * len(self.y) / len(keep)
        own = {"X": self.X[keep], "y": self.y[keep], "task": self.task[keep], "weight": weight}
        return on_grid(FunctionPosterior(**{**known_fields(self), **own}))


def on_grid(posterior: FunctionPosterior) -> FunctionPosterior:
    """The posterior with its inputs arranged: on a grid where they are one, and there is one kernel."""
    X, task, T = posterior.X.numpy(), posterior.task.numpy(), posterior.num_tasks
    shared = shared_inputs(X, task, T)
    posterior = replace(posterior, inputs=shared.inputs, which=shared.which)
    if shared.inputs is None or T < _GRID_TASKS or posterior.kernels.num_kernels > 1:
        return posterior
    grid = grid_positions(X, task, T)
    if grid is None:
        return posterior
    return GridFunctions(**known_fields(posterior), grid=torch.from_numpy(grid[shared.order]))


class HeldFunctions(HeldDensity):
    """See `Target.held`.

    Args:
        problem: A problem on a complete grid.
        first: Coordinates of the kernel, shape (H,).
    """

    def __init__(self, problem: GridFunctions, first: torch.Tensor):
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
        """As `FunctionPosterior.log_density` at one point (1, R), the held coordinates in front."""
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
