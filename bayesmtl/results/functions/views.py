"""A Gaussian-process fit seen in other forms: ArviZ groups, how alike tasks are, and rows left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from bayesmtl.errors import SpecificationError
from bayesmtl.options import whole_number
from bayesmtl.results.functions.predict import Rows, function_values, in_chunks
from bayesmtl.results.functions.state import FunctionState, length
from bayesmtl.results.leave_one_out import Pointwise
from bayesmtl.results.similarity import refuse_large
from bayesmtl.sharing.over_functions import correlation

_REFERENCE = 60  # inputs at which functions are compared
_MOST_INPUTS = 500  # at which kernels' variances are averaged


def groups(fit: FunctionState) -> dict[str, xr.Dataset]:
    """See `Fit.to_datatree`."""
    data, observed = fit.data, fit.data.observed
    names = np.array(fit.task_names, dtype=str)
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
    target = fit.schema.target_name
    return {
        "observed_data": xr.Dataset({target: ("obs", data.y[observed])}, coords=coords),
        "constant_data": xr.Dataset({"features": features}, coords=coords),
    }


def task_similarity(
    fit: FunctionState, kind: str, relative_to: str, codes: np.ndarray, reference: Any, num_draws: int
) -> tuple[np.ndarray, str]:
    """See `Fit.task_similarity`."""
    if relative_to == "population":
        raise SpecificationError(
            "relative_to",
            expected='"nothing" for functions',
            found=repr(relative_to),
            remedy="Departures from the population are compared for linear models.",
        )
    if kind == "structure":
        chosen = fit.chosen_draws(num_draws)
        refuse_large(len(chosen), len(codes))
        draws_of = {name: value[chosen] for name, value in fit.flat().items()}
        X = fit.problem.X[:: -(-len(fit.problem.X) // _MOST_INPUTS)]
        size = fit.problem.kernels.variance(draws_of, X).mean(-1)
        omega = (fit.problem.structure(draws_of).shape * size[:, :, None, None]).sum(1)
        values = correlation(omega)[:, codes][:, :, codes].numpy()
        return values, "correlation of the tasks' functions under the prior given the draw"
    number = whole_number("num_draws", num_draws, 2)
    refuse_large(number, len(codes))
    given = "the inputs of the data" if reference is None else "the reference inputs"
    values = function_correlations(fit, codes, reference, number)
    return values, f"correlation of the tasks' functions over {given}"


def function_correlations(
    fit: FunctionState, codes: np.ndarray, reference: Any, num_draws: int
) -> np.ndarray:
    """Correlations (draw, tasks, tasks) of drawn functions over reference inputs; see `task_similarity`."""
    rng = fit.generator(4)
    X = fit.problem.X if reference is None else fit.inputs(fit.schema.encode(reference, targets=False).X)
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


def pointwise(fit: FunctionState, num_draws: int) -> Pointwise:
    """See `Fit.leave_one_out`."""
    problem = fit.problem
    means, variances, fitted = [], [], []
    for part in in_chunks(fit.chosen_values(num_draws), len(problem.y) ** 2):
        mean, variance = fit.known_rows(part).leave_one_out(problem.y)
        noise = problem.noise(part, length(part)).square().expand(-1, problem.num_tasks)[:, problem.task]
        # the row itself, where the function without it has the variance that is left beside the noise
        left = (variance - noise).clamp(min=0.0)
        with_row = mean + left / variance * (problem.y - mean)
        means.append(mean)
        variances.append(variance)
        fitted.append(_log_normal(problem.y, with_row, left * noise / variance + noise))
    centres, spreads = torch.cat(means), torch.cat(variances)
    density = _log_normal(problem.y, centres, spreads).numpy()
    data, task = fit.data, problem.task.numpy()
    observed = data.observed
    scale = fit.standardization.target_scale[task]
    index = np.flatnonzero(observed) if data.index is None else data.index[observed]
    return Pointwise(
        log_density=density - np.log(scale),
        log_ratio=-density,
        target=data.y[observed],
        task=np.array(fit.task_names)[task],
        index=pd.Index(index),
        mean=fit.standardization.unstandardize_target(centres.numpy(), task),
        variance=spreads.numpy() * scale**2,
        fitted=torch.cat(fitted).numpy() - np.log(scale),
    )


def _log_normal(y: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    return -0.5 * ((y - mean) ** 2 / variance + torch.log(2 * torch.pi * variance))
