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
from bayesmtl.likelihoods import Given
from bayesmtl.options import check_mass
from bayesmtl.results.linear.condition_jointly import draw_correlated_tasks
from bayesmtl.sharing import Dependence, PartitionSharing

if TYPE_CHECKING:
    from bayesmtl.results.linear.fit import Fit

Kind = Literal["observation", "latent"]


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


@dataclass(frozen=True, eq=False, repr=False)
class ClassPrediction(Prediction):
    """Draws for every row and class: 1 for the class of a new observation, or probabilities of the classes.

    As `Prediction`, with a dimension `class` behind `obs`: `mean` and `sd` are (obs, class). The mean is the
    probability of each class, averaged over the posterior.

    Example:
        >>> from bayesmtl import Categorical, LinearModel, Pooled, TaskData
        >>> travel = pd.DataFrame({"town": ["a", "b"] * 30, "km": [1.0, 4.0, 9.0] * 20})
        >>> travel["by"] = pd.Categorical(["foot", "bike", "bus"] * 20, categories=["foot", "bike", "bus"])
        >>> data = TaskData.from_frame(travel, task="town", target="by", features=["km"])
        >>> model = LinearModel(Pooled(), Categorical())
        >>> prediction = model.fit(data, seed=0, num_draws=100, progress=False).predict(travel.head(3))
        >>> prediction.probabilities().columns.tolist(), prediction.most_probable.tolist()
        (['foot', 'bike', 'bus'], ['foot', 'bike', 'bus'])
    """

    def probabilities(self) -> pd.DataFrame:
        """The probability of every class, one row per row asked for and one named column per class."""
        return pd.DataFrame(self.mean, index=self.index, columns=pd.Index(self._classes, name=self.target))

    @property
    def most_probable(self) -> np.ndarray:
        """Name of each row's most probable class, shape (obs,)."""
        return np.asarray(self._classes[self.mean.argmax(axis=1)])

    @property
    def _classes(self) -> np.ndarray:
        return np.asarray(self.draws["class"].to_numpy())

    def to_frame(self, mass: float = 0.9) -> pd.DataFrame:
        """One row per row asked for, in order.

        Task, most probable class, and mean, sd, lower and upper of every class, such as "mean[red]".
        """
        lower, upper = self.interval(mass)
        of_class = {"mean": self.mean, "sd": self.sd, "lower": lower, "upper": upper}
        columns = {"task": self.draws["task"].to_numpy(), "most_probable": self.most_probable}
        for k, name in enumerate(self._classes):
            columns |= {f"{what}[{name}]": values[:, k] for what, values in of_class.items()}
        return pd.DataFrame(columns | {"new_task": self.new}, index=self.index)


def linear_predictors(
    X: np.ndarray, weights: np.ndarray, task: np.ndarray, num_outputs: int | None = None
) -> np.ndarray:
    """f of rows under S draws: (S, n), or (S, C, n) where rows have several predictors.

    Args:
        X: Features (n, D).
        weights: Weights of the tasks, shape (S, T, D), or (S, T, C D).
        task: Positions of the rows' tasks (n,).
        num_outputs: C, or None for one number.
    """
    S, n = len(weights), len(X)
    latent = np.empty((S, n) if num_outputs is None else (S, num_outputs, n))
    for code in np.unique(task):
        where = task == code
        own = weights[:, code]
        latent[..., where] = (own if num_outputs is None else own.reshape(S, num_outputs, -1)) @ X[where].T
    return latent


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
    values = {name: value.flatten(0, 1)[chosen] for name, value in fit.draws.hyperparameters.items()}
    scale = fit.likelihood.extended(fit.standardization, fit.task_names, names).target_scale
    basis = fit.draws.basis.flatten(0, 1)[chosen]
    if fit.sharing.dependence is Dependence.JOINT:
        weights, noise = draw_correlated_tasks(fit, values, basis, names, scale, rng)
        return weights.numpy(), noise.numpy()
    values = fit.problem.space.fresh_tasks(values, len(names), rng)
    scale = scale[-len(names) :]
    if isinstance(fit.sharing, PartitionSharing):
        values["cluster"], basis = fit.sharing.extend_with_means(values, basis, len(names), rng, descriptors)
    structure = fit.sharing.structure(values, len(names), len(fit.feature_names))
    structure = structure.of_outputs(fit.problem.num_outputs)
    noise = torch.ones(len(chosen), 1, dtype=torch.float64)
    if kind == "observation":
        noise = fit.likelihood.noise_sd(values, names, scale, len(chosen))
    tasks = TaskStatistics.empty(len(names), fit.problem.num_weights).compress()
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
    classes = fit.schema.classes
    latent = linear_predictors(X, weights, codes, fit.likelihood.num_outputs(classes))
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
        if classes:  # whether it was this class
            draws = (draws[:, None] == np.arange(len(classes))[:, None]).astype(float)
    index = pd.RangeIndex(len(X)) if rows.index is None else rows.index
    coords = {
        "draw": np.arange(len(chosen)),
        "obs": np.arange(len(X)),
        "task": ("obs", rows.task_labels.astype(str)),
    }
    new, name = codes >= len(fit.task_names), fit.schema.target_name
    if classes:
        coords["class"] = np.array(classes, dtype=str)
        array = xr.DataArray(draws.swapaxes(1, 2), coords=coords, dims=("draw", "obs", "class"), name=name)
        return ClassPrediction(array, mean.T, kind, new, name, index)
    array = xr.DataArray(draws, coords=coords, dims=("draw", "obs"), name=name)
    return Prediction(array, mean, kind, new, name, index)
