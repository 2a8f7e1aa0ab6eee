"""A posterior to explore: a sharing prior and a likelihood met with data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

import numpy as np
import torch

from bayesmtl.algebra.clusters import log_marginal_clusters
from bayesmtl.algebra.collapsed import log_marginal
from bayesmtl.algebra.rows import TaskRows
from bayesmtl.algebra.statistics import CompressedTasks
from bayesmtl.algebra.structure import Structure
from bayesmtl.inference.target import Target
from bayesmtl.likelihoods import Likelihood
from bayesmtl.parameters import ParameterSpace, Values
from bayesmtl.sharing import PartitionSharing, Sharing


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
    """

    sharing: Sharing
    likelihood: Likelihood
    tasks: CompressedTasks
    task_names: tuple[str, ...]
    target_scale: np.ndarray
    membership: torch.Tensor | None = None
    rows: TaskRows | None = None

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
        if isinstance(self.sharing, PartitionSharing):
            assert self.membership is not None
            values["cluster"] = self.membership
            log_prior = log_prior + self.sharing.log_partition(self.membership, values)
            return log_prior + log_marginal_clusters(self.tasks, self.structure(values), noise)
        return log_prior + log_marginal(self.tasks, self.structure(values), noise)

    def fingerprint(self) -> str:
        """Changes whenever the model or the data do; ties a checkpoint to its run."""
        digest = hashlib.sha256()
        digest.update(json.dumps([self.sharing.to_dict(), self.likelihood.to_dict()]).encode())
        digest.update(json.dumps(self.task_names).encode())
        digest.update(self.target_scale.tobytes())  # what known noise is measured in
        for array in (self.tasks.residual, self.tasks.count, *(g.rows for g in self.tasks.groups)):
            digest.update(array.numpy().tobytes())
        return digest.hexdigest()
