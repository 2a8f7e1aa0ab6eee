"""Draws as a table: mean, spread and interval of every quantity, with units in words."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from bayesmtl.data.design import INTERCEPT
from bayesmtl.options import check_mass
from bayesmtl.results.held import is_still


def summarise(dataset: xr.Dataset, mass: float, target: str, held: str) -> pd.DataFrame:
    """One row per entry of every array: mean, sd, central interval and unit; correlations once per pair.

    Where the engine holds quantities at a point, for the reason `held`, these have a mean alone and a note.
    """
    check_mass(mass)
    rows = {}
    for name, array in dataset.data_vars.items():
        values = array.to_numpy().reshape(-1, *array.shape[2:])
        unit = array.attrs["unit"]
        for position in np.ndindex(*values.shape[1:]):
            if unit == "correlation" and position[-2] >= position[-1]:
                continue
            places = zip(array.dims[2:], position, strict=True)
            labels = {str(d): str(array[d].to_numpy()[i]) for d, i in places}
            key = f"{name}[{', '.join(labels.values())}]" if labels else str(name)
            column = values[(slice(None), *position)]
            lower, upper = np.quantile(column, [(1 - mass) / 2, (1 + mass) / 2])
            spread, note = [float(sd(column)), lower, upper], ""
            if held and is_still(column):
                spread, note = [np.nan] * 3, held
            rows[key] = [column.mean(), *spread, in_words(unit, target, labels), note]
    columns = ["mean", "sd", "lower", "upper", "unit", "note"]
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return frame if held else frame.drop(columns="note")


def sd(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Standard deviations of draws along an axis, of any size: squares of 1e160 are no numbers.

    Example:
        >>> float(sd(np.array([1e160, 3e160])) / 1e160)
        1.4142135623730951
    """
    exponent = int(np.frexp(np.abs(values).max(initial=0.0))[1])
    return np.asarray(np.ldexp(np.ldexp(values, -exponent).std(axis=axis, ddof=1), exponent))


def in_words(unit: str, target: str, labels: Mapping[str, str]) -> str:
    """The unit of one entry of a quantity: of `target` per unit of the feature that its labels name.

    Example:
        >>> in_words("target per feature", "distance", {"feature": "age"})
        'distance per age'
    """
    measured, _, per = unit.partition(" per feature")
    measured = target if measured == "target" else measured
    if " per feature" in unit and labels.get("feature") == INTERCEPT:
        return measured
    if " per feature" in unit and "feature" in labels:
        return f"{measured} per {labels['feature']}"
    if unit == "feature" and "feature" in labels:
        return labels["feature"]
    return unit if " per feature" in unit else measured
