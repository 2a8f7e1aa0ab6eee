"""Task similarity: which tasks are alike, and how surely."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
import xarray as xr

from bayesmtl.errors import SpecificationError
from bayesmtl.results.held import is_still
from bayesmtl.results.prediction import interval

_MEMORY = 2e9  # bytes that a similarity may take


def function_similarity(weights: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Correlations w_t' M w_u / sqrt(w_t' M w_t w_u' M w_u) of every draw.

    Args:
        weights: Weights of the functions, shape (draw, T, D).
        moment: Moments of the features over the reference inputs, M, shape (D, D).

    Returns:
        Shape (draw, T, T); NaN where a function does not vary.
    """
    products = weights @ moment @ np.swapaxes(weights, 1, 2)
    norm = np.sqrt(np.einsum("stt->st", products))
    scale = norm[:, :, None] * norm[:, None, :]
    similarity = np.full_like(products, np.nan)
    np.divide(products, scale, out=similarity, where=scale > 0)
    return np.asarray(np.clip(similarity, -1.0, 1.0))


def refuse_large(num_draws: int, num_tasks: int) -> None:
    """Refuse similarities that would not fit into memory.

    Raises:
        SpecificationError: If they take more than two gigabytes.
    """
    if 8 * num_draws * num_tasks**2 > _MEMORY:
        raise SpecificationError(
            "tasks",
            expected="few enough tasks for an array of draws x tasks x tasks",
            found=f"{num_tasks} tasks and {num_draws} draws",
            remedy="Name the tasks of interest with tasks=[...], or lower num_draws.",
        )


@dataclass(frozen=True, eq=False)
class TaskSimilarity:
    """Draws of a named task x task array of similarities between -1 and 1.

    Args:
        draws: Dimensions (draw, task, task_other).
        meaning: What the number is, in words.
        held: Why similarities that are the same in all draws have no interval and no probability, where the
            engine holds what they hang on at a point; empty where such a similarity is known.
    """

    draws: xr.DataArray
    meaning: str
    held: str = ""

    @classmethod
    def of(cls, values: np.ndarray, names: Sequence[str], meaning: str, held: str = "") -> Self:
        """Similarities of named tasks.

        Args:
            values: Shape (draw, tasks, tasks).
            names: Names of the tasks.
            meaning: What the number is, in words.
            held: Why some have no interval, as in the attribute.
        """
        labels = np.array(names, dtype=str)
        coords = {"draw": np.arange(len(values)), "task": labels, "task_other": labels}
        draws = xr.DataArray(values, coords=coords, dims=("draw", "task", "task_other"), name="similarity")
        return cls(draws, meaning, held)

    @property
    def mean(self) -> xr.DataArray:
        """Posterior mean, dimensions (task, task_other), over the draws in which both functions vary."""
        return self.draws.mean("draw", skipna=True)

    @property
    def is_held(self) -> xr.DataArray:
        """Which pairs the engine holds at one value, for the reason `held`: (task, task_other)."""
        values = self.draws.to_numpy()
        other = self.draws["task"].to_numpy()[:, None] != self.draws["task_other"].to_numpy()
        found = other & is_still(values) if self.held else np.zeros(values.shape[1:], dtype=bool)
        return self.draws.isel(draw=0, drop=True).copy(data=found)

    def interval(self, mass: float = 0.9) -> tuple[xr.DataArray, xr.DataArray]:
        """Central interval: (lower, upper), each with dimensions (task, task_other); NaN where held fixed."""
        lower, upper = interval(self.draws, mass)  # over the draws in which both functions vary
        return lower.where(~self.is_held), upper.where(~self.is_held)

    def probability(self, condition: str = ">0") -> xr.DataArray:
        """Posterior probability of a comparison such as ">0", ">=0.5" or "<-0.2", for every pair.

        NaN where the engine holds a similarity fixed.

        Raises:
            SpecificationError: If the condition is not a comparison with a number.
        """
        match = re.fullmatch(r"\s*(>=|<=|>|<)\s*([-+]?[0-9]*\.?[0-9]+)\s*", condition)
        if match is None:
            raise SpecificationError(
                "condition",
                expected='a comparison with a number, such as ">0" or "<=-0.2"',
                found=repr(condition),
                remedy='Use ">0" for the probability of a positive similarity.',
            )
        sign, number = match[1], float(match[2])
        compare = {">": np.greater, ">=": np.greater_equal, "<": np.less, "<=": np.less_equal}[sign]
        # a similarity that is not defined is neither above nor below anything
        true = self.draws.copy(data=compare(self.draws.to_numpy(), number).astype(float))
        return true.where(self.draws.notnull()).mean("draw", skipna=True).where(~self.is_held)

    def to_frame(self, mass: float = 0.9) -> pd.DataFrame:
        """One row per pair of tasks, most similar first: mean, lower, upper and P(>0)."""
        lower, upper = self.interval(mass)
        names = self.draws["task"].to_numpy()
        first, second = np.triu_indices(len(names), k=1)

        def pairs(array: xr.DataArray) -> np.ndarray:
            return np.asarray(array.to_numpy()[first, second])

        frame = pd.DataFrame(
            {
                "task": names[first],
                "task_other": names[second],
                "mean": pairs(self.mean),
                "lower": pairs(lower),
                "upper": pairs(upper),
                "probability_positive": pairs(self.probability(">0")),
            }
        )
        return frame.sort_values("mean", ascending=False, kind="stable", ignore_index=True)

    def __repr__(self) -> str:
        held = f"; {self.held}" if self.is_held.any() else ""
        undefined = float(self.draws.isnull().mean("draw").max())
        if undefined:  # a function that does not vary has no correlation
            held += f"; undefined in up to {100 * undefined:.0f} % of the draws, which do not count"
        return f"TaskSimilarity of {self.draws.sizes['task']} tasks: {self.meaning}{held}"

    def _repr_html_(self) -> str:
        return f"<p>{self!r}; the most similar pairs:</p>{self.to_frame().head(10).round(3).to_html()}"
