"""A Gaussian-process fit seen in other forms: ArviZ groups, how alike tasks are, and rows left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from bayesmtl.errors import SpecificationError
from bayesmtl.options import whole_number
from bayesmtl.results.functions.predict import Rows, function_values, in_chunks, length
from bayesmtl.results.held import held_reason
from bayesmtl.results.similarity import TaskSimilarity
from bayesmtl.samplers.importance import smooth
from bayesmtl.sharing.over_functions import correlation

if TYPE_CHECKING:
    from bayesmtl.results.functions.fit import GPFit

_REFERENCE = 60  # inputs at which functions are compared
_MOST_INPUTS = 500  # at which kernels' variances are averaged


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


def task_similarity(
    fit: GPFit, kind: str, tasks: Sequence[str] | None, reference: Any, num_draws: int
) -> TaskSimilarity:
    """See `GPFit.task_similarity`."""
    names = fit.task_names if tasks is None else tuple(str(name) for name in tasks)
    codes = fit.known_codes(names, "Leave it out, or add its rows with fit.condition.")
    if kind == "structure":
        chosen = fit.chosen_draws(num_draws)
        draws_of = {name: value[chosen] for name, value in fit.flat().items()}
        X = fit.problem.X[:: -(-len(fit.problem.X) // _MOST_INPUTS)]
        size = fit.problem.kernels.variance(draws_of, X).mean(-1)
        omega = (fit.problem.structure(draws_of).shape * size[:, :, None, None]).sum(1)
        values = correlation(omega)[:, codes][:, :, codes].numpy()
        meaning = "correlation of the tasks' functions under the prior given the draw"
        held = held_reason(fit.method, fit.sample_stats)
    else:
        number, held = whole_number("num_draws", num_draws, 2), ""
        values = function_correlations(fit, codes, reference, number)
        given = "the inputs of the data" if reference is None else "the reference inputs"
        meaning = f"correlation of the tasks' functions over {given}"
    labels = np.array(names, dtype=str)
    coords = {"draw": np.arange(len(values)), "task": labels, "task_other": labels}
    draws = xr.DataArray(values, coords=coords, dims=("draw", "task", "task_other"), name="similarity")
    return TaskSimilarity(draws, meaning, held)


def function_correlations(fit: GPFit, codes: np.ndarray, reference: Any, num_draws: int) -> np.ndarray:
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


def leave_one_out(fit: GPFit, num_draws: int) -> pd.DataFrame:
    """See `GPFit.leave_one_out`."""
    problem = fit.problem
    means, variances = [], []
    for part in in_chunks(fit.chosen_values(num_draws), len(problem.y) ** 2):
        mean, variance = fit.known_rows(part).leave_one_out(problem.y)
        means.append(mean)
        variances.append(variance)
    centres, spreads = torch.cat(means).numpy(), torch.cat(variances).numpy()
    y = problem.y.numpy()
    density = -0.5 * ((y - centres) ** 2 / spreads + np.log(2 * np.pi * spreads))
    k = np.full(len(y), np.nan)
    log_weight = np.zeros_like(density)
    if len(density) > 1:
        for i in range(len(y)):
            log_weight[:, i], k[i] = smooth(-density[:, i])
    weights = np.exp(log_weight - log_weight.max(axis=0))
    weights /= weights.sum(axis=0)
    centre = (weights * centres).sum(axis=0)
    sd = np.sqrt((weights * (spreads + (centres - centre) ** 2)).sum(axis=0))
    task = problem.task.numpy()
    scale = fit.standardization.target_scale[task]
    score = np.log((weights * np.exp(density - density.max(axis=0))).sum(axis=0)) + density.max(axis=0)
    observed = fit.data.observed
    index = np.flatnonzero(observed) if fit.data.index is None else fit.data.index[observed]
    return pd.DataFrame(
        {
            "task": np.array(fit.task_names)[task],
            "target": fit.data.y[observed],
            "mean": fit.standardization.unstandardize_target(centre, task),
            "sd": scale * sd,
            "log_density": score - np.log(scale),
            "pareto_k": k,
        },
        index=index,
    )
