"""Whole functions drawn from the posterior of a Gaussian process, to be evaluated anywhere and again.

A draw of the prior, f, becomes one of the posterior by what it misses of the targets (Matheron's rule),

    f_t(x) + k_t(x)' K^-1 (y - f(rows) - noise)

Shapes of f are sums of F random waves, f_t(x) = sum_j a_tj cos(w_j'x) + b_tj sin(w_j'x) with frequencies w_j
from the kernel's spectral density and weights N(0, Omega_tu / F) across tasks, and every draw has waves of
its own. K is the exact one, so that means and covariances of the draws are exact however few waves there
are; with few, draws are not quite normal.

Source: Rahimi and Recht (2007) for the waves; Wilson, Borovitskiy, Terenin, Mostowsky and Deisenroth (2020)
for the rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr

from bayesmtl.algebra.functions import function_covariance
from bayesmtl.algebra.random import standard_normal
from bayesmtl.options import whole_number
from bayesmtl.parameters import Values
from bayesmtl.results.functions.state import FunctionState, length

NUM_WAVES = 512
_AT_ONCE = 10_000_000  # numbers that are handled together


@dataclass(frozen=True, eq=False)
class FunctionDraws:
    """Functions of all tasks, drawn jointly; called with rows they give their values there.

    Made by `FunctionFit.sample_functions`. Calls agree with each other: the same row has the same values in
    every call, beside whichever others. The cost is linear in the number of rows.

    Args:
        fit: Where they come from.
        values: S hyperparameter values; each has E draws.
        frequencies: w of every kernel, shape (S, E, Q, F, D).
        cosine: a, shape (S, E, Q, T, F).
        sine: b, shape (S, E, Q, T, F).
        level: Levels of the prior draw, shape (S, E, T).
        alpha: K^-1 (y - f - noise), shape (S, E, n).
        num_draws: How many of the S E functions to show.
    """

    fit: FunctionState
    values: Values
    frequencies: torch.Tensor
    cosine: torch.Tensor
    sine: torch.Tensor
    level: torch.Tensor
    alpha: torch.Tensor
    num_draws: int

    def __call__(self, rows: Any) -> xr.DataArray:
        """Values of the functions, without noise.

        Args:
            rows: As for `FunctionFit.predict`, of known tasks.

        Returns:
            Dimensions (draw, obs), in the target's units, with the rows' tasks.

        Raises:
            UnknownTaskError: If a task is not known.
        """
        fit = self.fit
        new = fit.schema.encode(rows, targets=False)
        codes = fit.known_codes(new.task_labels, "Add its rows with fit.condition, or use predict.")
        X, task = fit.inputs(new.X), torch.from_numpy(codes)
        S, E, Q, F, _ = self.frequencies.shape
        n = self.alpha.shape[-1]
        size = max(1, _AT_ONCE // (S * (E * F + Q * n)))
        parts = [self._at(X[i : i + size], task[i : i + size]) for i in range(0, len(X), size)]
        drawn = torch.cat(parts, dim=-1).flatten(0, 1).numpy()[: self.num_draws]
        return xr.DataArray(
            fit.standardization.unstandardize_target(drawn, codes),
            coords={
                "draw": np.arange(len(drawn)),
                "obs": np.arange(len(codes)),
                "task": ("obs", new.task_labels.astype(str)),
            },
            dims=("draw", "obs"),
            name=fit.schema.target_name,
        )

    def _at(self, X: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        """Standardised values at rows (m, D), shape (S, E, m)."""
        problem = self.fit.problem
        structure, kernels = problem.structure(self.values), problem.kernels
        cross = function_covariance(
            structure, kernels.covariance(self.values, problem.X, X), problem.task, task
        )
        prior = _prior(self.frequencies, self.cosine, self.sine, self.level, X, task)
        return prior + self.alpha @ cross


def sample_functions(fit: FunctionState, num_draws: int) -> FunctionDraws:
    """See `FunctionFit.sample_functions`."""
    num_draws = whole_number("num_draws", num_draws, 1)
    rng, problem = fit.generator(5), fit.problem
    values = fit.chosen_values(num_draws)
    S, T = length(values), problem.num_tasks
    E, Q = -(-num_draws // S), problem.kernels.num_kernels
    structure = problem.structure(values)

    def normal(*shape: int) -> torch.Tensor:
        return standard_normal(rng, *shape)

    frequencies = problem.kernels.frequencies(values, problem.X.shape[1], E * NUM_WAVES, rng)
    frequencies = frequencies.unflatten(2, (E, NUM_WAVES)).transpose(1, 2)
    root = _root(structure.shape)[:, None] / NUM_WAVES**0.5
    cosine, sine = (root @ normal(S, E, Q, T, NUM_WAVES) for _ in range(2))
    level = (_root(structure.level)[:, None] @ normal(S, E, T, 1))[..., 0]
    noise = problem.noise(values, S)
    rows = _prior(frequencies, cosine, sine, level, problem.X, problem.task)
    missed = problem.y - rows - noise[:, None, problem.task] * normal(S, E, len(problem.y))
    alpha = fit.known_rows(values, structure).solve(missed)
    return FunctionDraws(fit, values, frequencies, cosine, sine, level, alpha, num_draws)


def _prior(
    frequencies: torch.Tensor,
    cosine: torch.Tensor,
    sine: torch.Tensor,
    level: torch.Tensor,
    X: torch.Tensor,
    task: torch.Tensor,
) -> torch.Tensor:
    """The prior draws at rows, shape (S, E, m)."""
    found = level[:, :, task]
    for t in torch.unique(task).tolist():
        own = torch.nonzero(task == t)[:, 0]
        for q in range(frequencies.shape[2]):
            phase = X[own] @ frequencies[:, :, q].mT  # (S, E, m_t, F)
            waves = phase.cos() @ cosine[:, :, q, t, :, None] + phase.sin() @ sine[:, :, q, t, :, None]
            found[:, :, own] += waves[..., 0]
    return found


def _root(covariance: torch.Tensor) -> torch.Tensor:
    """R with R R' = covariance (..., T, T), which may be singular."""
    variance, directions = torch.linalg.eigh(covariance)
    root: torch.Tensor = directions * variance.clamp(min=0.0).sqrt()[..., None, :]
    return root
