"""Function values of Gaussian processes under posterior draws: each draw has a predictor of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from bayesmtl.algebra.functions import factorise
from bayesmtl.algebra.random import standard_normal
from bayesmtl.options import whole_number
from bayesmtl.parameters import Values
from bayesmtl.posteriors.functions.capacity import refuse_beyond
from bayesmtl.results.functions.given import given_data
from bayesmtl.results.functions.state import FunctionState, length
from bayesmtl.results.new_rows import AskedRows
from bayesmtl.results.prediction import Latent

_AT_ONCE = 10_000_000  # numbers in the covariance matrices that are handled together
# Relative to the prior variance; far above rounding, far below what anyone could see.
_ROUNDING = 1e-10


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows to predict, standardised.

    Args:
        X: Inputs, shape (m, D).
        task: Task of each row, shape (m,); known tasks first, then the new ones.
        new_names: Names of the tasks that the fit does not know.
    """

    X: torch.Tensor
    task: torch.Tensor
    new_names: tuple[str, ...]


def with_fresh_tasks(fit: FunctionState, values: Values, num_new: int, rng: np.random.Generator) -> Values:
    """Hyperparameter values (S, ...) with entries for new tasks, drawn from the prior, behind the known."""
    if not num_new:
        return values
    return fit.problem.space.extend_tasks(
        fit.problem.sharing.with_new_tasks(values, num_new, rng), num_new, rng
    )


def in_chunks(values: Values, num_numbers: int) -> Iterator[Values]:
    """Values in parts small enough for matrices of so many numbers per draw."""
    num_draws = len(next(iter(values.values())))
    size = max(1, _AT_ONCE // max(1, num_numbers))
    for start in range(0, num_draws, size):
        yield {name: value[start : start + size] for name, value in values.items()}


def function_values(
    fit: FunctionState, rows: Rows, values: Values, num_each: int, rng: np.random.Generator, *, joint: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Function values at rows, given all known targets.

    Args:
        fit: The fit.
        rows: Where.
        values: S hyperparameter values, with entries for new tasks.
        num_each: Draws per hyperparameter value.
        rng: Source of randomness.
        joint: Whether rows are drawn together, or each by itself.

    Returns:
        Their mean (m,) and draws (S num_each, m), standardised.
    """
    problem, m = fit.problem, len(rows.X)
    num_tasks = problem.num_tasks + len(rows.new_names)
    means, draws = [], []
    for part in in_chunks(values, problem.prediction_workspace(m, joint=joint)):
        S = length(part)
        structure = problem.sharing.structure(part, num_tasks)
        given = given_data(fit, part, structure, rows.X, rows.task, variance_only=not joint)
        normal = standard_normal(rng, S, num_each, m)
        if joint:
            shape = structure.shape.diagonal(dim1=-2, dim2=-1)[:, :, rows.task]
            level = structure.level.diagonal(dim1=-2, dim2=-1)[:, rows.task]
            variance = (shape * problem.kernels.variance(part, rows.X)).sum(1) + level
            spread = normal @ _root(given.covariance, variance).transpose(-1, -2)
        else:
            spread = normal * given.covariance.sqrt()[:, None, :]
        means.append(given.mean)
        draws.append((given.mean[:, None, :] + spread).reshape(S * num_each, m))
    return torch.cat(means).mean(0).numpy(), torch.cat(draws).numpy()


def _root(covariance: torch.Tensor, prior_variance: torch.Tensor) -> torch.Tensor:
    """A root of covariances (S, m, m), which are singular wherever data leave nothing open."""
    added = _ROUNDING * prior_variance.mean(-1, keepdim=True).expand(-1, covariance.shape[-1])
    root, _ = factorise(covariance + torch.diag_embed(added))
    failed = torch.isnan(root).flatten(1).any(1)
    if failed.any():
        precise, directions = torch.linalg.eigh(covariance[failed])
        root = root.clone()
        root[failed] = directions * precise.clamp(min=0.0).sqrt()[:, None, :]
    return root


def latent(fit: FunctionState, asked: AskedRows, num_draws: int, *, joint: bool) -> Latent:
    """Draws of the functions at rows; those of unknown tasks come from the population."""
    num_draws = whole_number("num_draws", num_draws, 2)
    if joint:
        refuse_beyond(
            "new",
            len(asked.codes),
            "rows that are drawn jointly",
            "Pass joint=False, all that intervals need, or use sample_functions, whose cost grows with "
            "the rows and not with their square.",
        )
    unknown = asked.unknown
    rng = fit.generator(2, *unknown)
    standardization = fit.likelihood.extended(fit.standardization, fit.task_names, unknown)
    names = (*fit.task_names, *unknown)
    values = with_fresh_tasks(fit, fit.chosen_values(num_draws, fresh=bool(unknown)), len(unknown), rng)
    S = length(values)
    num_each = -(-num_draws // S)
    order = asked.order
    rows = Rows(
        fit.inputs(asked.rows.X)[torch.from_numpy(order)], torch.from_numpy(asked.codes[order]), unknown
    )
    mean, draws = function_values(fit, rows, values, num_each, rng, joint=joint)
    back = np.argsort(order)
    mean, draws = mean[back], draws[:, back]
    repeated = {name: value.repeat_interleave(num_each, 0) for name, value in values.items()}
    noise = fit.likelihood.noise_sd(values, names, standardization.target_scale, S)
    noise = noise.expand(-1, len(names)).repeat_interleave(num_each, 0)
    # all draws of one predictor are neighbours: as many of each are shown as there is room for
    return Latent(draws, repeated, noise.numpy(), mean, num_draws)
