"""What a linear fit holds: draws of the weights beside the sums of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import xarray as xr

from bayesmtl.algebra.rows import TaskRows
from bayesmtl.algebra.statistics import TaskStatistics
from bayesmtl.data import TaskSummaries
from bayesmtl.posteriors.draws import LinearDraws
from bayesmtl.posteriors.linear.build import with_rows
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.posteriors.linear.rows import StandardRows
from bayesmtl.results.base import Fit
from bayesmtl.results.linear.posterior import posterior_dataset
from bayesmtl.results.new_rows import standardised


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LinearState(Fit):
    """Draws of W = A Z + E and of its hyperparameters.

    Args:
        statistics: Sufficient statistics per task, standardised.
    """

    draws: LinearDraws
    statistics: TaskStatistics

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features."""
        return self.schema.design.feature_names

    @cached_property
    def problem(self) -> LinearPosterior:
        """The posterior in standardised units, as the engines see it."""
        sums = LinearPosterior(
            self.sharing,
            self.likelihood,
            self.statistics.compress(),
            self.task_names,
            self.standardization.target_scale,
            standardised(self, self.schema.descriptors),
        )
        return with_rows(sums, self._rows())

    def _rows(self) -> TaskRows | None:
        """The rows themselves, where sums do not stand for them and they are in memory."""
        if self.likelihood.compresses or isinstance(self.data, TaskSummaries):
            return None
        likelihood = self.likelihood.of_tasks(self.task_names, self.standardization.target_scale)
        rows = StandardRows.of(self.data, self.data.task, self.standardization, likelihood)
        return rows.laid_out(len(self.task_names))

    @cached_property
    def posterior(self) -> xr.Dataset:
        """All draws with names, in the user's units; dimensions (chain, draw, ...).

        `weights` (task, feature) act on the features as given; `population` (feature) is the mean over tasks
        where the prior has one; both have a dimension `class` before `feature` where targets are classes; the
        rest are the hyperparameters. Each array's attribute `unit` says what it
        is measured in.
        """
        return self.named(self.draws)

    def named(self, draws: LinearDraws) -> xr.Dataset:
        """Draws with names, in the user's units."""
        features = np.array(self.feature_names, dtype=str)
        tasks = np.array(self.task_names, dtype=str)
        names = {"task": tasks, "task_other": tasks, "feature": features, "feature_other": features}
        names["class"] = np.array(self.schema.classes, dtype=str)
        names["descriptor"] = np.array(self.sharing.descriptor_names, dtype=str)
        return posterior_dataset(draws, self.sharing, self.likelihood, self.standardization, names)

    def chosen(self, tensor: torch.Tensor, positions: np.ndarray) -> torch.Tensor:
        """Draws (C, N, ...) at positions (S,) of all chains behind each other: (S, ...)."""
        return tensor.flatten(0, 1)[positions]
