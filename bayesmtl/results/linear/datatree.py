"""A fit as ArviZ groups, built from our own arrays."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from bayesmtl.data import TaskSummaries
from bayesmtl.likelihoods import Given
from bayesmtl.results.linear.predict import linear_predictors
from bayesmtl.results.linear.state import LinearState


def latent_draws(fit: LinearState, X: np.ndarray, task: np.ndarray) -> np.ndarray:
    """f_t(x) of rows under every draw, user's units, (C, N, n), or (C, N, K - 1, n) with K classes."""
    C, N = fit.draws.weights.shape[:2]
    standardized = fit.standardization.standardize_features(X)
    weights = fit.draws.weights.flatten(0, 1).numpy()
    latent = linear_predictors(standardized, weights, task, fit.likelihood.num_outputs(fit.schema.classes))
    return fit.standardization.unstandardize_target(latent.reshape(C, N, *latent.shape[1:]), task)


def noise_draws(fit: LinearState) -> np.ndarray:
    """sigma_t under every draw, user's units, shape (C, N, T)."""
    C, N, T = fit.draws.weights.shape[:3]
    values = fit.flat()
    scale = fit.standardization.target_scale
    noise = fit.likelihood.noise_sd(values, fit.task_names, scale, C * N).expand(-1, T).numpy()
    return np.asarray((noise * fit.standardization.target_scale).reshape(C, N, T))


def groups(fit: LinearState) -> dict[str, xr.Dataset]:
    """See `Fit.to_datatree`. Rows without a target are left out; weights multiply log densities."""
    data = fit.data
    if isinstance(data, TaskSummaries):
        raise data.need_rows("Fit.to_datatree")
    observed = data.observed
    task = data.task[observed]
    names = np.array(fit.task_names, dtype=str)
    posterior = fit.posterior
    chain_draw = {"chain": posterior["chain"], "draw": posterior["draw"]}
    obs = np.arange(data.num_rows)[observed]
    coords = {"obs": obs, "task": ("obs", names[task])}

    latent, sd = latent_draws(fit, data.X[observed], task), noise_draws(fit)[..., task]
    latent = latent if data.offset is None else latent + data.offset[observed]
    y, shape = data.y[observed], (*latent.shape[:2], latent.shape[-1])
    values = fit.flat()
    trials = None if data.trials is None else torch.from_numpy(data.trials[observed])
    given = Given(values, trials, torch.from_numpy(task))
    latent, sd = (part.reshape(-1, *part.shape[2:]) for part in (latent, sd))
    likelihood = fit.likelihood.of_tasks(fit.task_names, fit.standardization.target_scale)
    log_likelihood = likelihood.log_density(y, latent, sd, given).reshape(shape)
    if data.weights is not None:
        log_likelihood = data.weights[observed] * log_likelihood
    predicted = likelihood.draw(latent, sd, fit.generator(1), given).reshape(shape)

    def pointwise(values: np.ndarray) -> xr.Dataset:
        array = xr.DataArray(values, dims=("chain", "draw", "obs"))
        return xr.Dataset({fit.schema.target_name: array}, coords={**chain_draw, **coords})

    target = xr.DataArray(y, dims="obs")
    if data.classes:
        target.attrs["classes"] = list(data.classes)
    features = xr.DataArray(
        data.X[observed],
        dims=("obs", "feature"),
        coords={"feature": np.array(fit.feature_names, dtype=str)},
    )
    return {
        "log_likelihood": pointwise(log_likelihood),
        "posterior_predictive": pointwise(predicted),
        "observed_data": xr.Dataset({fit.schema.target_name: target}, coords=coords),
        "constant_data": xr.Dataset({"features": features}, coords=coords),
    }
