"""The fit of a multi-task Gaussian process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import xarray as xr

from bayesmtl.algebra.functions import LEAST_NOISE
from bayesmtl.posteriors.functions.inducing import InducingFunctions
from bayesmtl.results import files
from bayesmtl.results.functions import predict, views
from bayesmtl.results.functions.condition import condition
from bayesmtl.results.functions.files import contents
from bayesmtl.results.functions.predict import in_chunks
from bayesmtl.results.functions.state import FunctionState
from bayesmtl.results.functions.whole import FunctionDraws, sample_functions
from bayesmtl.results.leave_one_out import Pointwise
from bayesmtl.results.new_rows import AskedRows, FurtherRows
from bayesmtl.results.prediction import Kind, Latent
from bayesmtl.sharing import Dependence

# Draws whose covariance matrices are looked at for jitter: at most so many, with so many numbers in all.
_MOST_INSPECTED = 20
_INSPECTED = 10_000_000
_LEFT_OPEN = 0.01  # share of the prior variance that inducing inputs may leave open without a word


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class FunctionFit(FunctionState):
    """A posterior over tasks' functions. See `Fit` for what it answers.

    Made by `MultitaskGP.fit`; not constructed by hand. Functions are integrated out of the hyperparameters'
    posterior and given by exact formulas under every hyperparameter draw.

    Example:
        >>> from bayesmtl import MultitaskGP, TaskData
        >>> x = np.linspace(0, 6, 20)
        >>> data = TaskData.from_arrays(x[:, None], np.sin(x), np.tile(["a", "b"], 10))
        >>> fit = MultitaskGP().fit(data, method="empirical_bayes", seed=0, progress=False)
        >>> fit.task_similarity(num_draws=50).mean.sel(task="a", task_other="b").item() > 0.9
        True
    """

    def sample_functions(self, num_draws: int = 100) -> FunctionDraws:
        """Draw whole functions of all known tasks, which can be evaluated anywhere, as often as needed.

        Each call of the result gives the values of the same functions, which `predict` promises within one
        call only, at a cost that is linear in the number of rows: for searching a maximum, or large maps.

        Args:
            num_draws: How many, spread over at most 200 hyperparameter draws.

        Raises:
            SpecificationError: If the spectral density of a kernel is not known (it is of `Matern`).
        """
        return sample_functions(self, num_draws)

    def _shown(self) -> xr.Dataset:
        # `task_similarity` has the correlations, pair by pair
        return self.posterior.drop_vars("task_correlation", errors="ignore")

    @property
    def _structure_is_given(self) -> bool:
        return self.sharing.dependence is not Dependence.PARTITION

    def _cautions(self) -> list[str]:
        if self.inducing is not None:
            return self._about_inducing()
        jitter = self._largest_jitter()
        if jitter == 0:
            return []
        return [
            f"Covariance matrices needed {jitter:.0e} (standardised) added to their diagonal: rows at the "
            "same inputs, or tasks that are the same, with hardly any noise between them."
        ]

    def _about_inducing(self) -> list[str]:
        problem = self.problem
        assert isinstance(problem, InducingFunctions)
        notes = []
        values = {name: value[:1] for name, value in self.flat().items()}
        if not self.likelihood.compresses:
            notes.append("The functions' posterior given hyperparameters is approximated by a normal one.")
        elif float(problem.noise(values, 1).min()) < 1.01 * LEAST_NOISE:
            notes.append(f"Noise below {LEAST_NOISE:.0e} (standardised) was taken for that.")
        left = problem.left_open(values)
        if left > _LEFT_OPEN:
            notes.append(
                f"{len(problem.Z)} inducing inputs leave {100 * left:.0f} % of the functions' prior variance "
                "open at the rows: detail finer than between them is taken for noise; fit with a larger "
                "num_inducing if the noise comes out large."
            )
        return notes

    def _largest_jitter(self) -> float:
        values = self.chosen_values(max(1, min(_MOST_INSPECTED, _INSPECTED // len(self.problem.y) ** 2)))
        largest = 0.0
        for part in in_chunks(values, len(self.problem.y) ** 2):
            largest = max(largest, float(self.known_rows(part).jitter.max()))
        return largest

    def _latent(self, asked: AskedRows, kind: Kind, num_draws: int, joint: bool) -> Latent:
        return predict.latent(self, asked, num_draws, joint=joint)

    def _conditioned(self, further: FurtherRows) -> Self:
        return cast(Self, condition(self, further))

    def _similarity(
        self, kind: str, relative_to: str, codes: np.ndarray, reference: Any, num_draws: int
    ) -> tuple[np.ndarray, str]:
        return views.task_similarity(self, kind, relative_to, codes, reference, num_draws)

    def _pointwise(self, num_draws: int) -> Pointwise:
        self.need_exact("leave_one_out")
        return views.pointwise(self, num_draws)

    def _groups(self) -> dict[str, xr.Dataset]:
        return views.groups(self)

    def _contents(self) -> files.Contents:
        return contents(self)

    def _head(self) -> str:
        kernel = " and ".join(dict.fromkeys(type(k).__name__ for k in self.problem.kernels.kernels))
        return (
            f"{type(self).__name__} of {kernel} x {type(self.sharing).__name__} x "
            f"{type(self.likelihood).__name__} to {self.schema.target_name}: {len(self.task_names)} tasks, "
            f"{len(self.feature_names)} inputs, {len(self.problem.y)} observed rows"
        )
