"""Draws as a table: mean, spread and interval of every quantity."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from bayesmtl.options import check_mass


def summarise(dataset: xr.Dataset, mass: float) -> pd.DataFrame:
    """One row per entry of every array: mean, sd, central interval and unit.

    Args:
        dataset: Arrays with dimensions (chain, draw, ...) and an attribute `unit`.
        mass: Of the central interval.
    """
    check_mass(mass)
    rows = {}
    for name, array in dataset.data_vars.items():
        values = array.to_numpy().reshape(-1, *array.shape[2:])
        for position in np.ndindex(*values.shape[1:]):
            labels = [str(array[d].to_numpy()[i]) for d, i in zip(array.dims[2:], position, strict=True)]
            key = f"{name}[{', '.join(labels)}]" if labels else str(name)
            column = values[(slice(None), *position)]
            lower, upper = np.quantile(column, [(1 - mass) / 2, (1 + mass) / 2])
            rows[key] = [column.mean(), column.std(ddof=1), lower, upper, array.attrs["unit"]]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["mean", "sd", "lower", "upper", "unit"])
