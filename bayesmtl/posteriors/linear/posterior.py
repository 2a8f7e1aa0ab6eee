"""A posterior to explore: a sharing prior and a likelihood met with data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from bayesmtl.algebra.class_rows import SeveralRows
from bayesmtl.algebra.clusters import log_marginal_clusters
from bayesmtl.algebra.collapsed import log_marginal
from bayesmtl.algebra.rows import TaskRows
from bayesmtl.algebra.statistics import CompressedTasks, TaskStatistics
from bayesmtl.algebra.structure import Structure
from bayesmtl.data import NewRows, RowChunk, Standardization, TaskData
from bayesmtl.likelihoods import Likelihood, Outcomes, Rowwise
from bayesmtl.parameters import ParameterSpace, Values
from bayesmtl.posteriors.target import Target
from bayesmtl.sharing import PartitionSharing, Sharing

if TYPE_CHECKING:
    from bayesmtl.posteriors.linear.streamed import RowStream

_AT_ONCE = 10_000_000  # numbers of workspace; no less than four points, the usual chains


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
class Problem(Target):
    """Everything an engine needs, in standardised units.

    Args:
        sharing: Prior of the weights.
        likelihood: Scatter of the targets.
        tasks: Compressed data of T tasks.
        task_names: Names of the tasks, for messages and known noise.
        target_scale: What one standardised unit is in the target's units, shape (T,).
        membership: Clusters of the tasks, one partition for each point that is evaluated, shape (B, T);
            needed where the sharing prior has partitions, whose density is given one.
        rows: The rows themselves, for likelihoods that do not compress; `None` for the others.
        descriptors: Standardised descriptors of the tasks that the sharing prior looks at, shape (T, Q);
            `None` where it looks at none.
        stream: The rows where they are not in memory, to be read a chunk at a time; then `rows` is `None`.
    """

    sharing: Sharing
    likelihood: Likelihood
    tasks: CompressedTasks
    task_names: tuple[str, ...]
    target_scale: np.ndarray
    membership: torch.Tensor | None = None
    rows: TaskRows | None = None
    descriptors: torch.Tensor | None = None
    stream: RowStream | None = None

    def given(self, membership: torch.Tensor) -> Problem:
        """The posterior of the hyperparameters given partitions of the tasks, shape (B, T)."""
        return replace(self, membership=membership)

    @property
    def space(self) -> ParameterSpace:
        """The hyperparameters."""
        T, D = self.tasks.num_tasks, self.tasks.num_features
        return ParameterSpace((*self.sharing.parameters(T, D), *self.likelihood.parameters(T)))

    @property
    def unseen(self) -> np.ndarray:
        """Positions of the tasks without an observed row."""
        return np.flatnonzero(self.tasks.count.numpy() == 0)

    @property
    def target_acceptance(self) -> float:
        """Higher for correlations of tasks: few features leave nearly singular ones likely, in a funnel."""
        return 0.95 if self.sharing.has_correlation else super().target_acceptance

    def structure(self, values: Values) -> Structure:
        """A, Z and E for these hyperparameter values."""
        structure = self.sharing.structure(values, self.tasks.num_tasks, self.tasks.num_features)
        return structure.of_outputs(self.num_outputs)

    @property
    def num_outputs(self) -> int:
        """Linear predictors of a row."""
        return 1 if self.rows is None else self.rows.num_weights // self.rows.num_features

    @property
    def num_weights(self) -> int:
        """Length of a task's weights: features times linear predictors."""
        return self.tasks.num_features * self.num_outputs

    def outcomes(self, values: Values) -> Outcomes:
        """The rows' likelihood with these hyperparameter values, for likelihoods that do not compress."""
        assert self.rows is not None
        return Outcomes(self.rowwise, self.rows, values)

    @cached_property
    def rowwise(self) -> Rowwise:
        """The likelihood that tells these tasks apart by their positions."""
        likelihood = self.likelihood.of_tasks(self.task_names, self.target_scale)
        assert isinstance(likelihood, Rowwise)
        return likelihood

    def noise(self, values: Values, num_draws: int) -> torch.Tensor:
        """sigma_t, shape (B, T) or (B, 1); 1 where Gaussian rows of precision omega stand for the rows."""
        if not self.likelihood.compresses:
            return torch.ones(num_draws, 1, dtype=torch.float64)
        return self.likelihood.noise_sd(values, self.task_names, self.target_scale, num_draws)

    def log_density(self, points: torch.Tensor) -> torch.Tensor:
        """log p(y, hyperparameters) at points (B, P) with all weights integrated out, shape (B,).

        For likelihoods that compress; `LaplaceMarginal` is its counterpart for the others.
        """
        log_prior, values = self.space.log_prior(points)
        noise = self.noise(values, points.shape[0])
        if isinstance(self.sharing, PartitionSharing):
            assert self.membership is not None
            values["cluster"] = self.membership
            log_prior = log_prior + self.sharing.log_partition(self.membership, values, self.descriptors)
            return log_prior + log_marginal_clusters(self.tasks, self.structure(values), noise)
        return log_prior + log_marginal(self.tasks, self.structure(values), noise)

    def value(self, points: torch.Tensor) -> torch.Tensor:
        """`log_density` without its gradient, of as many points at once as memory is meant for."""
        if self.membership is not None:  # one partition for each point
            return super().value(points)
        size = sum(group.rows.numel() for group in self.tasks.groups)
        return torch.cat(
            [super(Problem, self).value(part) for part in points.split(max(4, _AT_ONCE // size))]
        )

    def fingerprint(self) -> str:
        """Changes whenever the model or the data do; ties a checkpoint to its run."""
        digest = hashlib.sha256()
        digest.update(json.dumps([self.sharing.to_dict(), self.likelihood.to_dict()]).encode())
        digest.update(json.dumps(self.task_names).encode())
        digest.update(self.target_scale.tobytes())  # what known noise is measured in
        arrays = [self.tasks.residual, self.tasks.count, *(g.rows for g in self.tasks.groups)]
        if self.descriptors is not None:
            arrays.append(self.descriptors)
        if (rows := self.rows) is not None:
            digest.update(json.dumps(rows.shape).encode())
            arrays += [rows.y, rows.weights, rows.offset, rows.trials, *(block.X for block in rows.blocks)]
        for array in arrays:
            digest.update(array.numpy().tobytes())
        return digest.hexdigest()
