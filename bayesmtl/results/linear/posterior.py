"""Posterior draws with names and in the user's units."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr

from bayesmtl.data import Standardization
from bayesmtl.likelihoods import Likelihood
from bayesmtl.parameters import Reported, Spread
from bayesmtl.posteriors.draws import LinearDraws
from bayesmtl.sharing import Sharing


def in_user_units(reported: Reported, standardization: Standardization, unit: str) -> tuple[np.ndarray, str]:
    """A reported quantity in the user's units, and the words for them, `unit` being that of the functions.

    Where every task's target is standardised by itself the population has no units of its own: its
    quantities stay in standardised units and say so.
    """
    values = reported.values.numpy()
    own_scales = standardization.target == "task"
    if reported.unit == "target" and reported.tasks is not None:
        scales = standardization.target_scale[list(reported.tasks)]
        if "task" in reported.dims:
            return values * scales, "target"
        return (values * scales[0], "target") if len(set(scales)) == 1 else (values, "standardised")
    if reported.unit == "target" and (not own_scales or "task" in reported.dims):
        if "task" not in reported.dims:
            return values * standardization.target_scale[0], unit
        behind = len(reported.dims) - 1 - reported.dims.index("task")
        return values * standardization.target_scale.reshape(-1, *(1,) * behind), unit
    if reported.unit == "feature":
        return values * standardization.feature_scale[-values.shape[-1] :], "feature"
    if reported.unit == "correlation":
        if own_scales or reported.spread is None:
            return values, "correlation"
        M = torch.from_numpy(standardization.departures_to_user)
        return reported.spread.correlation(M).numpy(), "correlation"
    if reported.unit == "coefficient" and not own_scales:
        M = torch.from_numpy(standardization.departures_to_user)
        return (reported.spread or Spread(reported.values)).sd(M).numpy(), f"{unit} per feature"
    return values, "none" if reported.unit == "none" else "standardised"


def posterior_dataset(
    draws: LinearDraws,
    sharing: Sharing,
    likelihood: Likelihood,
    standardization: Standardization,
    coordinates: Mapping[str, np.ndarray],
) -> xr.Dataset:
    """All posterior quantities: dimensions (chain, draw, ...), names on every coordinate.

    Args:
        draws: Draws in standardised units; of no task's weights, where those are not wanted.
        sharing: The sharing prior they came from.
        likelihood: The likelihood they came from.
        standardization: How the data were standardised.
        coordinates: Names along "task", "class", "feature", "feature_other" and "descriptor".
    """
    C, N = draws.weights.shape[:2]
    flat = {name: value.flatten(0, 1) for name, value in draws.hyperparameters.items()}
    arrays: dict[str, xr.DataArray] = {}

    def add(name: str, dims: tuple[str, ...], values: np.ndarray, unit: str) -> None:
        shaped = values.reshape(C, N, *values.shape[1:])
        arrays[name] = xr.DataArray(shaped, dims=("chain", "draw", *dims), attrs={"unit": unit})

    per_feature = f"{likelihood.unit} per feature"
    weights = draws.weights.flatten(0, 1).numpy()
    classes = tuple(coordinates["class"].tolist())
    of_class = ("class",) if classes else ()
    if sharing.has_population:
        mean = standardization.with_level(draws.basis[:, :, 0].flatten(0, 1).numpy())
        mean = likelihood.class_weights(mean, classes)
        if standardization.target == "task":
            add("population", ("feature",), mean, "standardised")
        else:
            population = standardization.population_to_user(mean)
            add("population", (*of_class, "feature"), population, per_feature)
    tasks = coordinates["task"]
    of_tasks = likelihood.of_tasks(tasks.tolist(), standardization.target_scale)
    for name, reported in (sharing.report(flat) | of_tasks.report(flat)).items():
        values, unit = in_user_units(reported, standardization, likelihood.unit)
        dims = reported.dims
        if reported.tasks is not None and "task" in dims:  # some of them: a dimension of their own
            own = f"{name}_task"
            dims, coordinates = (own,), {**coordinates, own: tasks[list(reported.tasks)]}
        add(name, dims, values, unit)
    if weights.shape[1]:
        of_tasks_and_classes = likelihood.class_weights(standardization.with_level(weights), classes)
        if classes:  # tasks next to features, as their targets' scales may differ
            by_class = standardization.weights_to_user(of_tasks_and_classes.swapaxes(1, 2))
            in_units = by_class.swapaxes(1, 2)
        else:
            in_units = standardization.weights_to_user(of_tasks_and_classes)
        add("weights", ("task", *of_class, "feature"), in_units, per_feature)
    used = {dim for array in arrays.values() for dim in array.dims}
    named = {dim: names for dim, names in coordinates.items() if dim in used}
    return xr.Dataset(arrays, coords={"chain": np.arange(C), "draw": np.arange(N), **named})
