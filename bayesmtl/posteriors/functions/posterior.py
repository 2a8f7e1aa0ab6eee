"""The posterior of a multi-task Gaussian process's hyperparameters, all functions integrated out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from bayesmtl.algebra.functions import (
    DenseRows,
    KnownRows,
    TaskStructure,
    kernels_at_rows,
    log_marginal,
    marginal_covariance,
)
from bayesmtl.algebra.kronecker import (
    GridRows,
    decompose,
    grid_positions,
    log_marginal_of_grid,
    on_cells,
)
from bayesmtl.data import Standardization, TaskData
from bayesmtl.kernels import Kernel, Kernels
from bayesmtl.likelihoods import Likelihood
from bayesmtl.parameters import ParameterSpace, Values
from bayesmtl.posteriors.functions.grid import HeldFunctions
from bayesmtl.posteriors.target import HeldDensity, Target
from bayesmtl.priors import Prior
from bayesmtl.sharing import Sharing
from bayesmtl.sharing.functions import over_functions
from bayesmtl.sharing.over_functions import FunctionSharing

_GRID_TASKS = 3
# Distinct inputs, in rows, up to which kernels are evaluated between them and copied to the rows.
_SHARED = 0.7
# Rows from which modes are searched on a part of them first, and the part's size; of a grid, inputs
_EXPENSIVE_FROM, _REDUCED_TO = 500, 300
_LARGE_GRID, _SMALL_GRID = 250, 150


@dataclass(frozen=True, eq=False)
class FunctionProblem(Target):
    """Everything an engine needs, in standardised units; rows are the observed ones.

    Args:
        kernels: Covariances of the functions.
        sharing: Which tasks share what.
        likelihood: Scatter of the targets.
        X: Inputs, shape (n, D).
        y: Targets, shape (n,).
        task: Task of each row, shape (n,).
        task_names: Names of the T tasks.
        target_scale: What one standardised unit is in the target's units, shape (T,).
        inputs: The distinct inputs, shape (m, D), where rows share them; `None` elsewhere.
        which: Which of them each row has, shape (n,); `None` together with `inputs`.
        grid: Rows by input and task, shape (m, T), in the order of `inputs`, where tasks have nearly
            all the same, -1 for a missing cell; `None` elsewhere.
        weight: How many times the rows count; above 1 where they stand for more rows of their kind.
        level: Known part of every task's function, shape (T,), 0 where targets are standardised; `None` where
            all are.
    """

    kernels: Kernels
    sharing: FunctionSharing
    likelihood: Likelihood
    X: torch.Tensor
    y: torch.Tensor
    task: torch.Tensor
    task_names: tuple[str, ...]
    target_scale: np.ndarray
    inputs: torch.Tensor | None = None
    which: torch.Tensor | None = None
    grid: torch.Tensor | None = None
    weight: float = 1.0
    level: torch.Tensor | None = None

    @property
    def num_tasks(self) -> int:
        """Number of tasks T."""
        return len(self.task_names)

    @cached_property
    def space(self) -> ParameterSpace:
        """The hyperparameters: of kernel, sharing and likelihood, in this order."""
        T, D = self.num_tasks, self.X.shape[1]
        return ParameterSpace(
            (*self.kernels.parameters(D), *self.sharing.parameters(T), *self.likelihood.parameters(T))
        )

    @cached_property
    def of_rows(self) -> Likelihood:
        """The likelihood that tells these tasks apart by their positions."""
        return self.likelihood.of_tasks(self.task_names, self.target_scale)

    @property
    def unseen(self) -> np.ndarray:
        """Positions of the tasks without an observed row."""
        return np.flatnonzero(np.bincount(self.task.numpy(), minlength=self.num_tasks) == 0)

    def canonical(self, points: torch.Tensor) -> torch.Tensor:
        """Loadings of every latent function with their largest entry positive: its sign means nothing."""
        start, parts = 0, []
        for parameter in self.space.parameters:
            part = points[:, start : start + parameter.size]
            start += parameter.size
            if parameter.name == "loadings" and parameter.size:
                loadings = part.reshape(-1, *parameter.shape)
                largest = loadings.gather(-1, loadings.abs().argmax(-1, keepdim=True))
                part = (loadings * largest.sign()).reshape(part.shape)
            parts.append(part)
        return torch.cat(parts, dim=1)

    def structure(self, values: Values) -> TaskStructure:
        """Omega and Lambda for these hyperparameter values."""
        return self.sharing.structure(values, self.num_tasks)

    def noise(self, values: Values, num_draws: int) -> torch.Tensor:
        """sigma_t, shape (B, T)."""
        sd = self.likelihood.noise_sd(values, self.task_names, self.target_scale, num_draws)
        return sd.expand(-1, self.num_tasks)

    def covariance(self, values: Values, num_draws: int) -> torch.Tensor:
        """K, the covariance of all observed targets, shape (B, n, n)."""
        kernel = self.kernels.covariance(values, self.X, self.X)
        return marginal_covariance(self.structure(values), kernel, self.noise(values, num_draws), self.task)

    def log_marginal(self, values: Values, num_draws: int) -> torch.Tensor:
        """log p(y | hyperparameters), shape (B,)."""
        tasks, noise = self.structure(values), self.noise(values, num_draws)
        if self.on_grid:
            return log_marginal_of_grid(tasks, self.over_inputs(values)[:, 0], noise, *self.cells)
        if self.inputs is not None:
            return log_marginal(tasks, self.over_inputs(values), noise, self.task, self.y, self.which)
        X, task, y = self._by_task
        return log_marginal(tasks, self.kernels.covariance(values, X, X), noise, task, y)

    @cached_property
    def cells(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Targets of the grid, and where there are any, both (m, T)."""
        assert self.grid is not None
        return on_cells(self.y, self.grid), self.grid >= 0

    @cached_property
    def _by_task(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Inputs, tasks and targets task by task: then every pair of tasks is one piece of the kernels."""
        order = torch.argsort(self.task, stable=True)
        return self.X[order], self.task[order], self.y[order]

    @property
    def on_grid(self) -> bool:
        """Whether two small eigendecompositions are enough: a grid, nearly complete, and one kernel."""
        return self.grid is not None and self.kernels.num_kernels == 1

    @property
    def num_held(self) -> int:
        """The kernel's coordinates, where one eigendecomposition of it serves all values of the others."""
        if not self.on_grid or self.num_holes:
            return 0
        return sum(parameter.size for parameter in self.kernels.parameters(self.X.shape[1]))

    def held(self, first: torch.Tensor) -> HeldDensity:
        """See `Target.held`."""
        return HeldFunctions(self, first)

    @property
    def evaluation_size(self) -> float:
        """See `Target.evaluation_size`."""
        if self.on_grid:
            assert self.grid is not None
            return max(self.grid.shape)
        return len(self.y)

    @property
    def turning(self) -> str | None:
        """See `Target.turning`."""
        return self.sharing.turning(self.num_tasks)

    @property
    def num_holes(self) -> int:
        """Cells of the grid without a target."""
        return 0 if self.grid is None else int((self.grid < 0).sum())

    def over_inputs(self, values: Values) -> torch.Tensor:
        """The kernels between distinct inputs, (B, Q, m, m), or between all rows where they share none."""
        inputs = self.X if self.inputs is None else self.inputs
        return self.kernels.covariance(values, inputs, inputs)

    def known_rows(self, values: Values, tasks: TaskStructure, noise: torch.Tensor) -> KnownRows:
        """The observed rows, ready to be conditioned on.

        Args:
            values: B hyperparameter values.
            tasks: Omega_q and Lambda of the T tasks.
            noise: sigma_t, shape (B, T).
        """
        kernel = self.over_inputs(values)
        if self.on_grid:
            assert self.grid is not None
            return GridRows.of(decompose(tasks, kernel[:, 0], noise, self.grid >= 0), self.grid, self.y)
        kernel = kernels_at_rows(kernel, self.which)
        return DenseRows.of(marginal_covariance(tasks, kernel, noise, self.task), self.y)

    def log_density(self, points: torch.Tensor) -> torch.Tensor:
        """log p(y, hyperparameters) at points (B, P), shape (B,)."""
        log_prior, values = self.space.log_prior(points)
        return log_prior + self.weight * self.log_marginal(values, len(points))

    def reduced(self, rng: np.random.Generator) -> FunctionProblem | None:
        """A few hundred rows: all those of some inputs where tasks share inputs, else some of each task.

        They are weighted up to the number of all rows, so that their density is about as narrow as the whole.
        """
        size, enough, reduced = len(self.y), _EXPENSIVE_FROM, _REDUCED_TO
        if self.on_grid and self.inputs is not None:
            size, enough, reduced = len(self.inputs), _LARGE_GRID, _SMALL_GRID
        if size < enough:
            return None
        share = reduced / size
        if self.inputs is not None and self.which is not None:
            number = max(round(share * len(self.inputs)), 1)
            chosen = rng.permutation(len(self.inputs))[:number]
            keep = np.isin(self.which.numpy(), chosen)
        else:
            rank = np.empty(len(self.y))  # of every row within its task, in a random order
            for t in range(self.num_tasks):
                own = np.flatnonzero(self.task.numpy() == t)
                rank[own] = (rng.permutation(len(own)) + 0.5) / max(len(own), 1)
            keep = rank < share
        rows = torch.from_numpy(np.flatnonzero(keep))
        task = self.task[rows]
        if len(torch.unique(task)) < len(torch.unique(self.task)):
            return None  # a task would be left without rows
        X, y = self.X[rows], self.y[rows]
        inputs, which, grid = Arrangement.of(X.numpy(), task.numpy(), self.num_tasks)
        weight = len(self.y) / len(y)
        return replace(
            self, X=X, y=y, task=task, inputs=inputs, which=which, grid=grid, weight=self.weight * weight
        )

    def fingerprint(self) -> str:
        """Changes whenever the model or the data do; ties a checkpoint to its run."""
        digest = hashlib.sha256()
        parts = [
            repr(self.kernels),
            repr(self.space),
            repr(self.sharing),
            self.likelihood.to_dict(),
            self.task_names,
        ]
        digest.update(json.dumps(parts).encode())
        level = np.zeros(0) if self.level is None else self.level.numpy()
        for array in (self.X.numpy(), self.y.numpy(), self.task.numpy(), self.target_scale, level):
            digest.update(array.tobytes())
        return digest.hexdigest()


def parts(
    kernel: Kernel | tuple[Kernel, ...], sharing: Sharing, amplitude: Prior
) -> tuple[Kernels, FunctionSharing]:
    """The kernels of a model, and its sharing prior read over functions."""
    kernels = kernel if isinstance(kernel, tuple) else (kernel,)
    reading = over_functions(sharing, amplitude, len(kernels))
    return Kernels(kernels, reading.private_kernel), reading


def problem_of(
    data: TaskData,
    standardization: Standardization,
    kernels: Kernels,
    sharing: FunctionSharing,
    likelihood: Likelihood,
) -> FunctionProblem:
    """The posterior that data give, from the rows whose target was observed; an intercept is no input."""
    rows = data.observed
    X = standardization.standardize_features(data.X[rows])[:, 1 if data.has_intercept else 0 :]
    task, level = data.task[rows], None
    scaled = likelihood.of_tasks(data.task_names, standardization.target_scale).scaled_rows(
        np.arange(data.num_tasks)
    )
    y = np.where(scaled[task], standardization.standardize_target(data.y[rows], task), data.y[rows])
    if not scaled.all():
        level = torch.from_numpy(np.where(scaled, 0.0, standardization.target_center))
    X = np.ascontiguousarray(X)
    return FunctionProblem(
        kernels,
        sharing,
        likelihood,
        torch.from_numpy(X),
        torch.from_numpy(y),
        torch.from_numpy(task),
        data.task_names,
        standardization.target_scale,
        *Arrangement.of(X, task, data.num_tasks),
        level=level,
    )


class Arrangement(NamedTuple):
    """How rows share inputs: fields of `FunctionProblem`."""

    inputs: torch.Tensor | None = None
    which: torch.Tensor | None = None
    grid: torch.Tensor | None = None

    @classmethod
    def of(cls, X: np.ndarray, task: np.ndarray, num_tasks: int) -> Arrangement:
        """Look at inputs (n, D) and tasks (n,)."""
        inputs, which = np.unique(X, axis=0, return_inverse=True)
        if len(inputs) > _SHARED * len(X):
            return cls()
        # inputs of the same tasks side by side: where tasks have parts of the inputs of others, theirs are
        # neighbours, and pieces of the kernels are read where they are
        has = np.zeros((num_tasks, len(inputs)), dtype=bool)
        has[task, which.ravel()] = True
        order = np.lexsort(~has[::-1])
        position = np.empty(len(inputs), dtype=np.int64)
        position[order] = np.arange(len(inputs))
        # with fewer tasks factorising all rows is cheaper than an eigendecomposition of the inputs
        grid = grid_positions(X, task, num_tasks) if num_tasks >= _GRID_TASKS else None
        return cls(
            torch.from_numpy(inputs[order]),
            torch.from_numpy(position[which.ravel()]),
            None if grid is None else torch.from_numpy(grid[order]),
        )
