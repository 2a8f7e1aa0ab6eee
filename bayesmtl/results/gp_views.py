"""A Gaussian-process fit seen in other forms: as ArviZ groups, and as correlations of drawn functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from bayesmtl.errors import SpecificationError
from bayesmtl.results.gp_prediction import Rows, function_values, length

if TYPE_CHECKING:
    from bayesmtl.results.gp import GPFit

_REFERENCE = 60  # inputs at which functions are compared


def to_datatree(fit: GPFit) -> xr.DataTree:
    """See `GPFit.to_datatree`."""
    data, observed = fit.data, fit.data.observed
    names = np.array(fit.task_names, dtype=str)
    posterior = fit.posterior
    first = 1 if fit.standardization.intercept else 0
    coords = {
        "obs": np.flatnonzero(observed),
        "task": ("obs", names[data.task[observed]]),
    }
    features = xr.DataArray(
        data.X[observed][:, first:],
        dims=("obs", "feature"),
        coords={"feature": np.array(fit.feature_names, dtype=str)},
    )
    stats = {name: (("chain", "draw"), values) for name, values in fit.sample_stats.items()}
    chain_draw = {"chain": posterior["chain"], "draw": posterior["draw"]}
    target = fit.schema.target_name
    groups = {
        "posterior": posterior,
        "sample_stats": xr.Dataset(stats, coords=chain_draw),
        "observed_data": xr.Dataset({target: ("obs", data.y[observed])}, coords=coords),
        "constant_data": xr.Dataset({"features": features}, coords=coords),
    }
    tree = xr.DataTree.from_dict(groups)
    tree.attrs.update(method=fit.method, reason=fit.reason, seed=fit.seed)
    return tree


def function_correlations(fit: GPFit, codes: np.ndarray, reference: Any, num_draws: int) -> np.ndarray:
    """Correlations (draw, tasks, tasks) of drawn functions over reference inputs; see `task_similarity`."""
    rng = fit.generator(4)
    X = fit.problem.X if reference is None else fit.inputs(fit.schema.encode(reference).X)
    X = X[rng.permutation(len(X))[:_REFERENCE]]
    if not (X != X[:1]).any():
        raise SpecificationError(
            "reference",
            expected="inputs over which the functions vary",
            found="the same input in every row" if len(X) else "no rows",
            remedy='Pass rows that differ, or use kind="structure".',
        )
    m, T = len(X), len(codes)
    rows = Rows(X.repeat(T, 1), torch.from_numpy(np.repeat(codes, m)), ())
    values = fit.chosen_values(num_draws)
    num_each = -(-num_draws // length(values))
    _, draws = function_values(fit, rows, values, num_each, rng, joint=True)
    functions = draws[:num_draws].reshape(-1, T, m)
    functions = functions - functions.mean(axis=2, keepdims=True)
    norm = np.sqrt((functions**2).sum(axis=2))
    products = functions @ np.swapaxes(functions, 1, 2)
    scale = norm[:, :, None] * norm[:, None, :]
    found = np.full_like(products, np.nan)
    np.divide(products, scale, out=found, where=scale > 0)
    return np.asarray(np.clip(found, -1.0, 1.0))
