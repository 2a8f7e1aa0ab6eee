"""Rows in standardised units, and posteriors of outcomes, whose rows no sums stand for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from bayesmtl.algebra.class_rows import SeveralRows
from bayesmtl.algebra.rows import TaskRows
from bayesmtl.algebra.statistics import TaskStatistics
from bayesmtl.data import NewRows, RowChunk, Standardization, TaskData
from bayesmtl.likelihoods import Given, Likelihood, Rowwise
from bayesmtl.parameters import Values
from bayesmtl.posteriors.linear.batches import Batch
from bayesmtl.posteriors.linear.posterior import LinearPosterior


class StandardRows(NamedTuple):
    """Rows in standardised units, with what they carry besides.

    Attributes:
        X: Features (n, D).
        y: Targets (n,), NaN where not observed.
        task: Positions of the tasks (n,).
        weights: How often rows count (n,), or None for once.
        offset: Known parts of the functions (n,), or None where the target was reduced by them.
        trials: Numbers of trials (n,), or None.
        level: Known parts of the linear predictors of a row (C,), or None where it has one.
    """

    X: np.ndarray
    y: np.ndarray
    task: np.ndarray
    weights: np.ndarray | None
    offset: np.ndarray | None
    trials: np.ndarray | None
    level: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        source: TaskData | NewRows | RowChunk,
        task: np.ndarray,
        standardization: Standardization,
        likelihood: Likelihood,
    ) -> StandardRows:
        """Standardise rows: offset and centre are taken off the target, or kept with the row.

        Args:
            source: The rows in the user's units.
            task: Positions of their tasks (n,).
            standardization: Centres and scales.
            likelihood: Says whether the target is standardised; of the tasks at these positions.
        """
        known = np.zeros(len(task)) if source.offset is None else source.offset
        scaled = likelihood.scaled_rows(task)
        y = np.where(scaled, standardization.standardize_target(source.y - known, task), source.y)
        offset = None if scaled.all() else np.where(scaled, 0.0, known + standardization.target_center[task])
        X = standardization.standardize_features(source.X)
        level = standardization.level_by_predictor if likelihood.has_classes else None
        return cls(X, y, task, source.weights, offset, source.trials, level)

    def statistics(self, num_tasks: int) -> TaskStatistics:
        """Sufficient statistics of a Gaussian regression."""
        return TaskStatistics.from_rows(self.X, self.y, self.task, num_tasks, self.weights)

    def laid_out(self, num_tasks: int) -> TaskRows:
        """The rows themselves, in batches; with C linear predictors each where targets are classes."""
        further = {"weights": self.weights, "offset": self.offset, "trials": self.trials}
        rows = TaskRows.of(self.X, self.y, self.task, num_tasks, **further)
        return rows if self.level is None else SeveralRows.over(rows, torch.from_numpy(self.level.copy()))


@dataclass(frozen=True, eq=False)
class RowwisePosterior(LinearPosterior):
    """A posterior whose likelihood is one of single rows, in memory or read from files."""

    @cached_property
    def rowwise(self) -> Rowwise:
        """The likelihood that tells these tasks apart by their positions."""
        likelihood = self.likelihood.of_tasks(self.task_names, self.target_scale)
        if not isinstance(likelihood, Rowwise):
            raise TypeError(f"{type(likelihood).__name__} has no likelihood of single rows")
        return likelihood

    def log_likelihood_of(self, batch: Batch, values: Values, weights: torch.Tensor) -> torch.Tensor:
        """See `LinearPosterior.log_likelihood_of`: from some of their rows."""
        f = batch.offset + (batch.X @ weights[0, ..., None])[..., 0]
        task = batch.tasks[:, None].expand(f.shape).flatten()
        given = Given(values, batch.trials.flatten(), task)
        value = self.rowwise.value(batch.y.flatten(), f.reshape(1, -1), given)
        return (value.reshape(f.shape) * batch.weight).sum(1)
