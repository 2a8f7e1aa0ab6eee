"""The fit of a linear model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import torch
import xarray as xr

from bayesmtl.algebra.conditional import draw_prior_basis
from bayesmtl.posteriors.draws import LinearDraws
from bayesmtl.results import files
from bayesmtl.results.leave_one_out import Pointwise
from bayesmtl.results.linear import datatree, predict, similarity
from bayesmtl.results.linear.causes import causes
from bayesmtl.results.linear.condition import condition
from bayesmtl.results.linear.files import contents
from bayesmtl.results.linear.leave_one_out import pointwise
from bayesmtl.results.linear.separation import separation
from bayesmtl.results.linear.state import LinearState
from bayesmtl.results.new_rows import AskedRows, FurtherRows
from bayesmtl.results.prediction import Kind, Latent
from bayesmtl.sharing import Dependence

_MOST_COMPARED = 2000  # hyperparameters that are compared with their prior
_NUM_PRIOR_DRAWS = 1000


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LinearFit(LinearState):
    """A posterior over W = A Z + E. See `Fit` for what it answers.

    Made by `LinearModel.fit`; not constructed by hand.

    Example:
        >>> from bayesmtl import LinearModel, TaskData
        >>> x, task = np.tile(np.arange(4.0), 3), np.repeat(["a", "b", "c"], 4)
        >>> y = 2 * x + np.tile([0.1, -0.1], 6)
        >>> data = TaskData.from_arrays(x[:, None], y, task, feature_names=["x"])
        >>> fit = LinearModel().fit(data, method="empirical_bayes", seed=0, progress=False)
        >>> fit.coefficients().loc[("a", "x"), "mean"].round(1)
        np.float64(2.0)
    """

    def _shown(self) -> xr.Dataset:
        shared = self.posterior.drop_vars("weights")
        return shared if shared.data_vars else self.posterior

    def _prior_of_reported(self) -> xr.Dataset | None:
        """Prior draws of the hyperparameters and the population, where they are few and have no partition."""
        problem = self.problem
        if self.sharing.dependence is Dependence.PARTITION or not 0 < problem.space.size <= _MOST_COMPARED:
            return None
        rng = self.generator(2)
        values = problem.space.sample(rng, _NUM_PRIOR_DRAWS)
        structure = problem.structure(values)
        T, D = problem.tasks.num_tasks, problem.num_weights
        nothing = torch.zeros(_NUM_PRIOR_DRAWS, T, 0, dtype=torch.float64)
        drawn = LinearDraws(
            {name: value[None] for name, value in values.items()},
            draw_prior_basis(structure, _NUM_PRIOR_DRAWS, D, rng)[None],
            torch.zeros(1, _NUM_PRIOR_DRAWS, 0, D, dtype=torch.float64),
            nothing[None],
            {},
        )
        return self.named(drawn)

    def _cautions(self) -> list[str]:
        return separation(self)

    def _causes(self) -> list[str]:
        return causes(self, [str(name) for name in self.posterior.data_vars])

    def _latent(self, asked: AskedRows, kind: Kind, num_draws: int, joint: bool) -> Latent:
        return predict.latent(self, asked, kind, num_draws)

    def _conditioned(self, further: FurtherRows) -> Self:
        return cast(Self, condition(self, further))

    def _similarity(
        self, kind: str, relative_to: str, codes: np.ndarray, reference: Any, num_draws: int
    ) -> tuple[np.ndarray, str]:
        return similarity.task_similarity(self, kind, relative_to, codes, reference, num_draws)

    def _pointwise(self, num_draws: int) -> Pointwise:
        return pointwise(self, num_draws)

    def _groups(self) -> dict[str, xr.Dataset]:
        return datatree.groups(self)

    def _contents(self) -> files.Contents:
        return contents(self)
