"""Densities of rows given all others under the draws of a linear fit.

With sums for a likelihood, w_t | y, hyperparameters ~ N(m_t, C_t) with Z integrated out (given the drawn
means of clusters where tasks are partitioned). Let h_i = x_i' C_t x_i / sigma_i^2, where a row that counts
k times has the noise sigma_i^2 = sigma_t^2 / k. Without the row

    E f_i = y_i - (y_i - x_i' m_t) / (1 - h_i),   Var f_i = x_i' C_t x_i / (1 - h_i).

Source: Sundararajan and Keerthi (2001).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch

from bayesmtl.algebra.collapsed import whiten
from bayesmtl.algebra.conditional import shared_part
from bayesmtl.algebra.statistics import CompressedTasks
from bayesmtl.algebra.structure import Structure
from bayesmtl.data import TaskData, TaskSummaries
from bayesmtl.likelihoods import Given
from bayesmtl.posteriors.linear.rows import StandardRows
from bayesmtl.results.leave_one_out import Pointwise
from bayesmtl.results.linear.datatree import latent_draws, noise_draws
from bayesmtl.results.linear.state import LinearState
from bayesmtl.sharing import Dependence

_AT_ONCE = 5_000_000  # numbers that are handled together


def pointwise(fit: LinearState, num_draws: int) -> Pointwise:
    """See `Fit.leave_one_out`."""
    data = fit.data
    if isinstance(data, TaskSummaries):
        raise data.need_rows("Fit.leave_one_out")
    chosen = fit.chosen_draws(num_draws)
    return _gaussian(fit, data, chosen) if fit.likelihood.compresses else _of_rows(fit, data, chosen)


def _labels(data: TaskData) -> pd.Index:
    observed = np.flatnonzero(data.observed)
    return pd.Index(observed) if data.index is None else data.index[observed]


def _names(fit: LinearState, data: TaskData) -> np.ndarray:
    return np.asarray(np.array(fit.task_names, dtype=str)[data.task[data.observed]])


def _of_rows(fit: LinearState, data: TaskData, chosen: np.ndarray) -> Pointwise:
    """Densities given the drawn weights, whose ratio is what a row says against a draw."""
    seen = data.observed
    task = data.task[seen]
    latent = latent_draws(fit, data.X[seen], task)
    latent = latent.reshape(-1, *latent.shape[2:])[chosen]
    latent = latent if data.offset is None else latent + data.offset[seen]
    sd = noise_draws(fit).reshape(-1, len(fit.task_names))[chosen][:, task]
    trials = None if data.trials is None else torch.from_numpy(data.trials[seen])
    values = {name: value[chosen] for name, value in fit.flat().items()}
    likelihood = fit.likelihood.of_tasks(fit.task_names, fit.standardization.target_scale)
    density = likelihood.log_density(data.y[seen], latent, sd, Given(values, trials, torch.from_numpy(task)))
    density = density if data.weights is None else data.weights[seen] * density
    target = data.target_labels[seen]
    return Pointwise(density, -density, target, _names(fit, data), _labels(data), None, None, density)


def _gaussian(fit: LinearState, data: TaskData, chosen: np.ndarray) -> Pointwise:
    seen, problem = data.observed, fit.problem
    likelihood = fit.likelihood.of_tasks(fit.task_names, fit.standardization.target_scale)
    rows = StandardRows.of(data, data.task, fit.standardization, likelihood)
    X, y, task = torch.from_numpy(rows.X[seen]), torch.from_numpy(rows.y[seen]), data.task[seen]
    count = torch.ones(len(y), dtype=y.dtype)
    if rows.weights is not None:
        count = torch.from_numpy(np.asarray(rows.weights[seen], dtype=float))
    noise = problem.noise({name: value[chosen] for name, value in fit.flat().items()}, len(chosen))
    noise = noise.expand(-1, problem.tasks.num_tasks)[:, task]
    fitted, spread = (torch.empty(len(chosen), len(y), dtype=y.dtype) for _ in range(2))
    start = 0
    for mean, covariance in _weights_given_rows(fit, chosen):
        part = slice(start, start + len(mean))
        for t in np.unique(task):
            own = np.flatnonzero(task == t)
            fitted[part, own] = mean[:, t] @ X[own].T
            spread[part, own] = torch.einsum("nd,bde,ne->bn", X[own], covariance[:, t], X[own])
        start += len(mean)
    variance = noise.square()
    free = (1 - spread * count / variance).clamp(min=1e-10)
    mean, own_spread = y - (y - fitted) / free, spread / free
    log_density = count * _log_normal(y, mean, own_spread + variance)
    # of all its copies: of their mean, and of the departures from it, which are zero
    copies = _log_normal(y, mean, own_spread + variance / count)
    copies = copies - 0.5 * ((count - 1) * torch.log(2 * torch.pi * variance) + torch.log(count))
    scale = fit.standardization.target_scale[task]
    in_units = count.numpy() * np.log(scale)
    return Pointwise(
        log_density=log_density.numpy() - in_units,
        log_ratio=-copies.numpy(),
        target=data.y[seen],
        task=_names(fit, data),
        index=_labels(data),
        mean=_unstandardised(fit, mean, task) + (0.0 if data.offset is None else data.offset[seen]),
        variance=(own_spread + variance).numpy() * scale**2,
        fitted=(count * _log_normal(y, fitted, spread + variance)).numpy() - in_units,
    )


def _unstandardised(fit: LinearState, mean: torch.Tensor, task: np.ndarray) -> np.ndarray:
    return np.asarray(fit.standardization.unstandardize_target(mean.numpy(), task))


def _log_normal(y: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    return -0.5 * ((y - mean) ** 2 / variance + torch.log(2 * torch.pi * variance))


def _weights_given_rows(fit: LinearState, chosen: np.ndarray) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Means (B, T, D) and covariances (B, T, D, D) of the weights under some draws after others."""
    problem = fit.problem
    T, D = problem.tasks.num_tasks, problem.num_weights
    size = max(1, _AT_ONCE // (T * D * D + (T * D if fit.sharing.dependence is Dependence.JOINT else D) ** 2))
    for start in range(0, len(chosen), size):
        positions = chosen[start : start + size]
        values = {name: value[positions] for name, value in fit.flat().items()}
        structure = problem.structure(values)
        noise = problem.noise(values, len(positions))
        drawn = fit.chosen(fit.draws.basis, positions)
        partitioned = fit.sharing.dependence is Dependence.PARTITION
        yield _moments(problem.tasks, structure, noise, drawn if partitioned else None)


def _moments(
    tasks: CompressedTasks, structure: Structure, noise: torch.Tensor, basis: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Means (B, T, D) and covariances (B, T, D, D) of W given rows; Z is integrated out where not given.

    With e_t | Z, y ~ N(B (h - H A_t Z), S_t - B B'), B = S_t H', w_t has the covariance
    S_t - B B' + (I - B H) A_t Cov(Z) A_t' (I - B H)'.
    """
    B, T, D = len(noise), tasks.num_tasks, tasks.num_features
    white = whiten(tasks, structure.private if basis is not None else structure, noise)
    between = None
    if basis is None and structure.loadings is not None and white.L_basis is not None:
        assert white.basis_mean is not None
        R = structure.loadings.shape[-1]
        basis = white.basis_mean[..., 0].reshape(B, R, D)
        inverse = torch.cholesky_inverse(white.L_basis).reshape(B, R, D, R, D)
        A = structure.loadings.expand(B, T, R)
        between = torch.einsum("btr,brdse,bts->btde", A, inverse, A)
    if basis is None:
        basis = torch.zeros(B, 0, D, dtype=noise.dtype)
    shared = shared_part(structure, basis, T)
    mean, covariance = shared.clone(), torch.zeros(B, T, D, D, dtype=noise.dtype)
    own = torch.zeros(B, T, D, D, dtype=noise.dtype)
    if structure.residual_scale is not None:
        own = own + torch.diag_embed(structure.residual_scale.square()).expand(B, T, D, D)
    if structure.factor_by_task is not None:
        factor = structure.factor_by_task
        own = own + (factor @ factor.transpose(-1, -2)).expand(B, T, D, D)
    for group, part in zip(tasks.groups, white.groups, strict=True):
        at = group.index
        back = own[:, at] @ part.H.transpose(-1, -2)
        gap = part.h[..., None] - part.H @ shared[:, at, :, None]
        mean[:, at] += (back @ gap)[..., 0]
        covariance[:, at] = own[:, at] - back @ back.transpose(-1, -2)
        if between is not None:
            left = torch.eye(D, dtype=noise.dtype) - back @ part.H
            covariance[:, at] += left @ between[:, at] @ left.transpose(-1, -2)
    return mean, covariance
