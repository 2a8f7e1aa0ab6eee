"""A posterior to explore: a sharing prior and a likelihood met with compressed data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import torch

from bayesmtl.algebra.collapsed import log_marginal
from bayesmtl.algebra.statistics import CompressedTasks
from bayesmtl.algebra.structure import Structure
from bayesmtl.inference.target import Target
from bayesmtl.likelihoods import Likelihood
from bayesmtl.parameters import ParameterSpace, Values
from bayesmtl.sharing import Sharing


@dataclass(frozen=True, eq=False)
class Problem(Target):
    """Everything an engine needs, in standardised units.

    Args:
        sharing: Prior of the weights.
        likelihood: Scatter of the targets.
        tasks: Compressed data of T tasks.
        task_names: Names of the tasks, for messages and known noise.
        target_scale: What one standardised unit is in the target's units, shape (T,).
    """

    sharing: Sharing
    likelihood: Likelihood
    tasks: CompressedTasks
    task_names: tuple[str, ...]
    target_scale: np.ndarray

    @property
    def space(self) -> ParameterSpace:
        """The hyperparameters."""
        T, D = self.tasks.num_tasks, self.tasks.num_features
        return ParameterSpace((*self.sharing.parameters(T, D), *self.likelihood.parameters(T)))

    @property
    def unseen(self) -> np.ndarray:
        """Positions of the tasks without an observed row."""
        return np.flatnonzero(self.tasks.count.numpy() == 0)

    def structure(self, values: Values) -> Structure:
        """A, Z and E for these hyperparameter values."""
        return self.sharing.structure(values, self.tasks.num_tasks, self.tasks.num_features)

    def noise(self, values: Values, num_draws: int) -> torch.Tensor:
        """sigma_t, shape (B, T) or (B, 1)."""
        return self.likelihood.noise_sd(values, self.task_names, self.target_scale, num_draws)

    def log_density(self, points: torch.Tensor) -> torch.Tensor:
        """log p(y, hyperparameters) at points (B, P) with all weights integrated out, shape (B,)."""
        log_prior, values = self.space.log_prior(points)
        noise = self.noise(values, points.shape[0])
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
