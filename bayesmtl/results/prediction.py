"""Predictions: draws for named rows, with their means, spreads and intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr

from bayesmtl.algebra.conditional import draw_weights
from bayesmtl.algebra.statistics import TaskStatistics
from bayesmtl.data import NewRows
from bayesmtl.errors import SpecificationError
from bayesmtl.likelihoods import Given
from bayesmtl.results.update_correlated import draw_correlated_tasks
from bayesmtl.sharing import PartitionSharing

if TYPE_CHECKING:
    from bayesmtl.results.fit import Fit

Kind = Literal["observation", "latent"]


def check_mass(mass: float) -> None:
    """Refuse an interval mass outside (0, 1)."""
    if not 0 < mass < 1:
        raise SpecificationError(
            "mass", expected="a number between 0 and 1", found=repr(mass), remedy="Use 0.9 for 90 %."
        )


def interval(draws: xr.DataArray, mass: float) -> tuple[xr.DataArray, xr.DataArray]:
    """Central interval over the dimension `draw`."""
    check_mass(mass)
    bounds = draws.quantile([(1 - mass) / 2, (1 + mass) / 2], dim="draw", skipna=False)
    lower, upper = (bounds.isel(quantile=i, drop=True) for i in (0, 1))
    return lower, upper


@dataclass(frozen=True, eq=False)
class Prediction:
    """Draws of a new observation, or of the function, for every row asked for.

    Args:
        draws: Dimensions (draw, obs) on the target's scale; coordinate `task` along obs.
        mean: Posterior mean of each row, free of the noise's Monte Carlo error, shape (obs,).
        kind: "observation" or "latent".
        new: Which rows belong to a task without training rows, bool (obs,).
        target: Name of the target.
        index: Row labels of the frame that was given.
    """

    draws: xr.DataArray
    mean: np.ndarray
    kind: Kind
    new: np.ndarray
    target: str
    index: pd.Index

    @property
    def sd(self) -> np.ndarray:
        """Posterior standard deviation of each row, shape (obs,)."""
        return self.draws.std("draw", ddof=1).to_numpy()

    def interval(self, mass: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Central interval: (lower, upper), each of shape (obs,).

        Raises:
            SpecificationError: If `mass` is not between 0 and 1.
        """
        check_mass(mass)
        lower, upper = np.quantile(self.draws.to_numpy(), [(1 - mass) / 2, (1 + mass) / 2], axis=0)
        return lower, upper

    def to_frame(self, mass: float = 0.9) -> pd.DataFrame:
        """One row per row asked for, in order: task, mean, sd, lower, upper, and whether the task is new."""
        lower, upper = self.interval(mass)
        columns = {
            "task": self.draws["task"].to_numpy(),
            "mean": self.mean,
            "sd": self.sd,
            "lower": lower,
            "upper": upper,
            "new_task": self.new,
        }
        return pd.DataFrame(columns, index=self.index)

    def __repr__(self) -> str:
        new = f", {int(self.new.sum())} of tasks never seen" if self.new.any() else ""
        return f"Prediction of {self.target} ({self.kind}) for {len(self.mean)} rows{new}"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.to_frame().head(10).round(3).to_html()}"


def draw_new_tasks(
    fit: Fit,
    names: Sequence[str],
    kind: Kind,
    chosen: np.ndarray,
    rng: np.random.Generator,
    descriptors: torch.Tensor | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (draw, tasks, D) and noise (draw, tasks) of tasks never seen, from the population.

    Latent functions need no noise (it is 1 then), which may be unknown where it is given task by task.
    """
    D = len(fit.feature_names)
    values = {name: value.flatten(0, 1)[chosen] for name, value in fit.draws.hyperparameters.items()}
    scale = fit.likelihood.extended(fit.standardization, fit.task_names, names).target_scale
    basis = fit.draws.basis.flatten(0, 1)[chosen]
    if fit.sharing.has_correlation:
        weights, noise = draw_correlated_tasks(fit, values, basis, names, scale, rng)
        return weights.numpy(), noise.numpy()
    values = fit.problem.space.fresh_tasks(values, len(names), rng)
    scale = scale[-len(names) :]
    if isinstance(fit.sharing, PartitionSharing):
        values["cluster"], basis = fit.sharing.extend_with_means(values, basis, len(names), rng, descriptors)
    structure = fit.sharing.structure(values, len(names), D)
    noise = torch.ones(len(chosen), 1, dtype=torch.float64)
    if kind == "observation":
        noise = fit.likelihood.noise_sd(values, names, scale, len(chosen))
    tasks = TaskStatistics.empty(len(names), D).compress()
    drawn = draw_weights(tasks, structure, noise, basis, rng)
    return drawn.weights.numpy(), noise.expand(-1, len(names)).numpy()


def predict_rows(
    fit: Fit,
    rows: NewRows,
    unknown: list[str],
    kind: Kind,
    num_draws: int,
    descriptors: torch.Tensor | None = None,
) -> Prediction:
    """Draws for encoded rows; tasks in `unknown` are drawn from the population, by any descriptors (T, Q)."""
    rng = fit.generator(2)
    chosen = fit.chosen_draws(num_draws)
    weights = fit.draws.weights.flatten(0, 1)[chosen].numpy()
    values = {name: value.flatten(0, 1)[chosen] for name, value in fit.draws.hyperparameters.items()}
    standardization = fit.standardization
    sigma = fit.likelihood.noise_sd(values, fit.task_names, standardization.target_scale, len(chosen))
    noise = sigma.expand(-1, weights.shape[1]).numpy()
    codes = fit.schema.codes(rows.task_labels)
    if unknown:
        new_weights, new_noise = draw_new_tasks(fit, unknown, kind, chosen, rng, descriptors)
        weights = np.concatenate([weights, new_weights], axis=1)
        noise = np.concatenate([noise, new_noise], axis=1)
        standardization = fit.likelihood.extended(standardization, fit.task_names, unknown)
        position = {name: len(fit.task_names) + i for i, name in enumerate(unknown)}
        for row in np.flatnonzero(codes < 0):
            codes[row] = position[str(rows.task_labels[row])]
    X = standardization.standardize_features(rows.X)
    latent = np.empty((len(chosen), len(X)))
    for code in np.unique(codes):
        where = codes == code
        latent[:, where] = weights[:, code] @ X[where].T
    latent = standardization.unstandardize_target(latent, codes)
    latent = latent if rows.offset is None else latent + rows.offset
    trials = None if rows.trials is None else torch.from_numpy(np.array(rows.trials))
    given = Given(values, trials, torch.from_numpy(codes))
    likelihood = fit.likelihood.of_tasks((*fit.task_names, *unknown), standardization.target_scale)
    draws = likelihood.mean(latent, given)
    mean = draws.mean(axis=0)
    if kind == "observation":
        sd = standardization.unstandardize_sd(noise[:, codes], codes)
        draws = likelihood.draw(latent, sd, rng, given)
    index = pd.RangeIndex(len(X)) if rows.index is None else rows.index
    coords = {
        "draw": np.arange(len(chosen)),
        "obs": np.arange(len(X)),
        "task": ("obs", rows.task_labels.astype(str)),
    }
    array = xr.DataArray(draws, coords=coords, dims=("draw", "obs"), name=fit.schema.target_name)
    return Prediction(array, mean, kind, codes >= len(fit.task_names), fit.schema.target_name, index)
