"""The posterior of a multi-task Gaussian process's hyperparameters, all functions integrated out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

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
from bayesmtl.kernels import Kernels
from bayesmtl.likelihoods import Likelihood
from bayesmtl.parameters import ParameterSpace, Reported, Values
from bayesmtl.posteriors.draws import HyperparameterDraws
from bayesmtl.posteriors.posterior import Posterior, Trait
from bayesmtl.sharing import Dependence
from bayesmtl.sharing.over_functions import FunctionSharing

# Distinct inputs, in rows, up to which kernels are evaluated between them and copied to the rows.
_SHARED = 0.7
# Rows from which modes are searched on a part of them first, and the part's size.
_EXPENSIVE_FROM, _REDUCED_TO = 500, 300


@dataclass(frozen=True, eq=False)
class FunctionPosterior(Posterior):
    """Everything an engine needs, in standardised units; rows are the observed ones, all held at once.

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
    weight: float = 1.0
    level: torch.Tensor | None = None

    @property
    def traits(self) -> frozenset[Trait]:
        """See `Posterior.traits`."""
        traits = {Trait.FUNCTIONS, Trait.ROWS, Trait.DENSITY}
        traits |= {Trait.EXACT} if self.likelihood.compresses else set()
        traits |= {Trait.CLASSES} if self.likelihood.has_classes else set()
        if self.sharing.sharing.dependence is Dependence.PARTITION:
            traits.add(Trait.PARTITION)
        return frozenset(traits)

    @property
    def largest_matrix(self) -> tuple[int, str]:
        """Rows of the largest matrix that exact engines factorise, and what they are."""
        return len(self.y), "observed rows"

    @property
    def integration(self) -> str:
        """How functions integrate out, in words."""
        return f"functions integrated out by Cholesky factorisation of {len(self.y)} rows"

    def prediction_workspace(self, num_rows: int, *, joint: bool) -> int:
        """How many numbers the prediction of so many rows takes, for one hyperparameter value."""
        return self.kernels.num_kernels * (len(self.y) + num_rows) ** 2

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

    def reported(self, values: Values) -> dict[str, Reported]:
        """See `Posterior.reported`."""
        return self.kernels.report(values) | self.sharing.report(values) | self.of_rows.report(values)

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
        if self.inputs is not None:
            return log_marginal(tasks, self.over_inputs(values), noise, self.task, self.y, self.which)
        X, task, y = self._by_task
        return log_marginal(tasks, self.kernels.covariance(values, X, X), noise, task, y)

    @cached_property
    def _by_task(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Inputs, tasks and targets task by task: then every pair of tasks is one piece of the kernels."""
        order = torch.argsort(self.task, stable=True)
        return self.X[order], self.task[order], self.y[order]

    @property
    def evaluation_size(self) -> float:
        """See `Target.evaluation_size`."""
        return len(self.y)

    @property
    def turning(self) -> str | None:
        """See `Target.turning`."""
        return self.sharing.turning(self.num_tasks)

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
        kernel = kernels_at_rows(self.over_inputs(values), self.which)
        return DenseRows.of(marginal_covariance(tasks, kernel, noise, self.task), self.y)

    def log_density(self, points: torch.Tensor) -> torch.Tensor:
        """log p(y, hyperparameters) at points (B, P), shape (B,)."""
        log_prior, values = self.space.log_prior(points)
        return log_prior + self.weight * self.log_marginal(values, len(points))

    def reduced(self, rng: np.random.Generator) -> FunctionPosterior | None:
        """A few hundred rows: all those of some inputs where tasks share inputs, else some of each task.

        They are weighted up to the number of all rows, so that their density is about as narrow as the whole.
        """
        keep = self._some_rows(len(self.y), _EXPENSIVE_FROM, _REDUCED_TO, rng)
        return None if keep is None else self.of_rows_at(keep)

    def of_rows_at(self, keep: torch.Tensor) -> FunctionPosterior:
        """The same with the rows at these positions alone, which stand for all."""
        X, y, task = self.X[keep], self.y[keep], self.task[keep]
        shared = shared_inputs(X.numpy(), task.numpy(), self.num_tasks)
        weight = self.weight * len(self.y) / len(y)
        return replace(self, X=X, y=y, task=task, inputs=shared.inputs, which=shared.which, weight=weight)

    def _some_rows(
        self, size: int, enough: int, reduced: int, rng: np.random.Generator
    ) -> torch.Tensor | None:
        """Positions of some rows of every task, `None` where there are few or a task would have none."""
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
        return rows if len(torch.unique(self.task[rows])) == len(torch.unique(self.task)) else None

    def complete(
        self,
        points: torch.Tensor,
        sample_stats: dict[str, np.ndarray],
        rng: np.random.Generator,
        *,
        complete: bool = True,
        at_mode: bool = False,
    ) -> HyperparameterDraws:
        """Hyperparameter values of every point; functions are drawn where they are asked for.

        What belongs to a task without rows is drawn from its prior where the points are a mode.
        """
        C, N, P = points.shape
        values = self.space.constrain(points.reshape(C * N, P))
        if at_mode and len(self.unseen):
            values = self.sharing.with_unseen_redrawn(values, self.unseen, rng)
        shaped = {name: value.reshape(C, N, *value.shape[1:]).clone() for name, value in values.items()}
        return HyperparameterDraws(shaped, sample_stats, complete)

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


def known_fields(posterior: FunctionPosterior) -> dict[str, Any]:
    """What every posterior of functions knows, by name: to make one of another kind of it."""
    return {field.name: getattr(posterior, field.name) for field in fields(FunctionPosterior)}


class SharedInputs(NamedTuple):
    """How rows share inputs.

    Attributes:
        inputs: The distinct inputs (m, D), those of the same tasks side by side; `None` where rows share few.
        which: Which of them each row has (n,).
        order: Their places among the inputs in sorted order (m,).
    """

    inputs: torch.Tensor | None = None
    which: torch.Tensor | None = None
    order: np.ndarray = np.zeros(0, dtype=np.int64)


def shared_inputs(X: np.ndarray, task: np.ndarray, num_tasks: int) -> SharedInputs:
    """Look at inputs (n, D) of tasks (n,)."""
    inputs, which = np.unique(X, axis=0, return_inverse=True)
    if len(inputs) > _SHARED * len(X):
        return SharedInputs()
    # inputs of the same tasks side by side: where tasks have parts of the inputs of others, theirs are
    # neighbours, and pieces of the kernels are read where they are
    has = np.zeros((num_tasks, len(inputs)), dtype=bool)
    has[task, which.ravel()] = True
    order = np.lexsort(~has[::-1])
    position = np.empty(len(inputs), dtype=np.int64)
    position[order] = np.arange(len(inputs))
    return SharedInputs(torch.from_numpy(inputs[order]), torch.from_numpy(position[which.ravel()]), order)
