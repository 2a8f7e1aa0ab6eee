"""Predictions: draws for named rows, with their means, spreads and intervals."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from scipy.special import logsumexp

from bayesmtl.errors import SpecificationError
from bayesmtl.likelihoods import Given
from bayesmtl.options import check_mass
from bayesmtl.parameters import Values
from bayesmtl.results.new_rows import AskedRows, Known
from bayesmtl.results.score import Score, checked_targets
from bayesmtl.results.summary import sd

Kind = Literal["observation", "latent"]


def interval(draws: xr.DataArray, mass: float) -> tuple[xr.DataArray, xr.DataArray]:
    """Central interval over the dimension `draw`, of the draws that are numbers."""
    check_mass(mass)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NaN in all draws stays NaN
        bounds = draws.quantile([(1 - mass) / 2, (1 + mass) / 2], dim="draw", skipna=True)
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
        log_density_of: log p(y | draw) of targets (obs,) under every draw of the function, (S, obs), where a
            fit made the prediction.
    """

    draws: xr.DataArray
    mean: np.ndarray
    kind: Kind
    new: np.ndarray
    target: str
    index: pd.Index
    log_density_of: Callable[[np.ndarray], np.ndarray] | None = field(default=None, repr=False)

    @property
    def sd(self) -> np.ndarray:
        """Posterior standard deviation of each row, shape (obs,)."""
        return sd(self.draws.to_numpy())

    def interval(self, mass: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Central interval: (lower, upper), each of shape (obs,).

        Raises:
            SpecificationError: If `mass` is not between 0 and 1.
        """
        check_mass(mass)
        lower, upper = np.quantile(self.draws.to_numpy(), [(1 - mass) / 2, (1 + mass) / 2], axis=0)
        return lower, upper

    def log_density(self, targets: Any) -> np.ndarray:
        """Log predictive density (or probability) of targets, each by itself, shape (obs,).

        Averaged over the draws of the function, not estimated from drawn targets.

        Args:
            targets: Numbers (obs,), in the target's units; of classes their positions.

        Raises:
            DataError: If there are not as many as rows, or one is no number.
        """
        density = self._densities(targets)
        return np.asarray(logsumexp(density, axis=0) - np.log(len(density)))

    def _densities(self, targets: Any) -> np.ndarray:
        """log p(y | draw), (S, obs)."""
        values = checked_targets(targets, len(self.mean), self.target)
        if self.log_density_of is None:
            raise SpecificationError(
                "prediction",
                expected="a prediction that a fit made, which knows the density of targets",
                found="one made of draws alone",
                remedy="Use Fit.predict.",
            )
        return self.log_density_of(values)

    def log_density_by_task(self, targets: Any) -> pd.Series:
        """Log predictive density of all rows of each task together, which share its function.

        Args:
            targets: As for `log_density`.
        """
        density = self._densities(targets)
        labels = self.draws["task"].to_numpy()
        names = list(dict.fromkeys(labels.tolist()))
        joint = [density[:, labels == name].sum(axis=1) for name in names]
        return pd.Series([float(logsumexp(d) - np.log(len(d))) for d in joint], index=names, name=self.target)

    def score(self, targets: Any) -> Score:
        """Score the prediction by what was observed.

        Args:
            targets: Numbers (obs,), in the target's units.

        Returns:
            By row: log density, continuous ranked probability score, error and probability integral
            transform; over all rows their means, root mean square error and coverage.

        Raises:
            DataError: If there are not as many targets as rows, or one is no number.
            SpecificationError: If latent functions were predicted, or classes.

        Example:
            >>> from bayesmtl import LinearModel, TaskData
            >>> x, y = np.arange(20.0), np.arange(20.0) + np.tile([0.5, -0.5], 10)
            >>> data = TaskData.from_arrays(x[:, None], y, ["a", "b"] * 10)
            >>> fit = LinearModel().fit(data, method="empirical_bayes", seed=0, progress=False)
            >>> fit.predict(data).score(data.y).coverage(0.9) >= 0.8
            True
        """
        if self.kind != "observation" or self.draws.ndim != 2:
            raise SpecificationError(
                "kind",
                expected='a prediction of kind "observation" of numbers',
                found=f'kind "{self.kind}"' if self.draws.ndim == 2 else "classes",
                remedy='Predict with kind="observation"; of classes, log_density has the logarithmic score.',
            )
        values = checked_targets(targets, len(self.mean), self.target)
        return Score.of(self.draws.to_numpy(), self.mean, values, self.log_density(values), self.index)

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


@dataclass(frozen=True, eq=False)
class Latent:
    """Draws of the latent function at rows, before units and noise.

    Args:
        draws: f_t(x), standardised, (S, n), or (S, C, n) where rows have several linear predictors.
        values: Hyperparameters under each draw, (S, ...).
        noise: sd of the noise of every task, new ones included, standardised, (S, T).
        mean: Mean of each row where it is known better than by averaging the draws, (n,); else None.
        num_draws: How many draws to show, spread evenly; all of them when there are no more.
    """

    draws: np.ndarray
    values: Values
    noise: np.ndarray
    mean: np.ndarray | None
    num_draws: int


def observe(known: Known, asked: AskedRows, latent: Latent, kind: Kind) -> Prediction:
    """What is seen at rows whose latent function is drawn.

    Args:
        known: The fit.
        asked: The rows.
        latent: Their functions.
        kind: "observation" or "latent".
    """
    rows, codes, names = asked.rows, asked.codes, known.schema.task_names
    standardization = known.likelihood.extended(known.standardization, names, asked.unknown)
    likelihood = known.likelihood.of_tasks((*names, *asked.unknown), standardization.target_scale)
    function = standardization.unstandardize_target(latent.draws, codes)
    function = function if rows.offset is None else function + rows.offset
    trials = None if rows.trials is None else torch.from_numpy(np.array(rows.trials))
    given = Given(latent.values, trials, torch.from_numpy(codes))
    draws = likelihood.mean(function, given)
    mean = draws.mean(axis=0)
    if latent.mean is not None:
        centre = standardization.unstandardize_target(latent.mean, codes)
        # the mean of a probability or a rate is not that at the mean
        mean = np.where(likelihood.scaled_rows(codes), centre, mean)
    classes = known.schema.classes
    if kind == "observation":
        sd = standardization.unstandardize_sd(latent.noise[:, codes], codes)
        draws = np.empty(draws.shape[:1] + draws.shape[-1:])
        for at in _by_task(asked):
            # a stream for each task: another row of another task changes nothing
            rng = known.generator(6, str(rows.task_labels[at[0]]))
            draws[:, at] = likelihood.draw(function[..., at], sd[:, at], rng, given.at(at))
        if classes:  # whether it was this class
            draws = (draws[:, None] == np.arange(len(classes))[:, None]).astype(float)
    if latent.num_draws < len(draws):
        draws = draws[np.linspace(0, len(draws) - 1, latent.num_draws).round().astype(int)]

    def log_density_of(targets: np.ndarray) -> np.ndarray:
        spread = standardization.unstandardize_sd(latent.noise[:, codes], codes)
        return np.asarray(likelihood.log_density(targets, function, spread, given))

    index = pd.RangeIndex(len(codes)) if rows.index is None else rows.index
    coords = {
        "draw": np.arange(len(draws)),
        "obs": np.arange(len(codes)),
        "task": ("obs", rows.task_labels.astype(str)),
    }
    new, name = codes >= len(names), known.schema.target_name
    if classes:
        coords["class"] = np.array(classes, dtype=str)
        array = xr.DataArray(draws.swapaxes(1, 2), coords=coords, dims=("draw", "obs", "class"), name=name)
        return ClassPrediction(array, mean.T, kind, new, name, index, log_density_of)
    array = xr.DataArray(draws, coords=coords, dims=("draw", "obs"), name=name)
    return Prediction(array, mean, kind, new, name, index, log_density_of)


def _by_task(asked: AskedRows) -> list[np.ndarray]:
    """Positions of each task's rows, in an order that does not depend on how they were given."""
    order = asked.order
    starts = np.flatnonzero(np.diff(asked.codes[order])) + 1
    return np.split(order, starts) if len(order) else []
