"""Further rows for a Gaussian-process fit, without refitting."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bayesmtl.errors import DataError
from bayesmtl.parameters import Values
from bayesmtl.results.gp_prediction import in_chunks, length, with_fresh_tasks

if TYPE_CHECKING:
    from bayesmtl.results.gp import GPFit

_CANDIDATES = 16  # tries for what belongs to a new task alone, such as its loadings


def condition(fit: GPFit, new: Any) -> GPFit:
    """See `GPFit.condition`."""
    rows = fit.schema.encode(new)
    observed = ~np.isnan(rows.y)
    if not observed.any():
        raise DataError(
            fit.schema.target_name,
            expected="at least one row with a target",
            found="none",
            remedy="Use predict for rows without targets.",
        )
    labels = rows.task_labels[observed]
    codes = fit.schema.codes(labels)
    added = list(dict.fromkeys(str(label) for label in labels[codes < 0]))
    schema = replace(fit.schema, task_names=(*fit.task_names, *added), descriptors=None)
    data = replace(
        fit.data,
        X=np.concatenate([fit.data.X, rows.X[observed]]),
        y=np.concatenate([fit.data.y, rows.y[observed]]),
        task=np.concatenate([fit.data.task, schema.codes(labels)]),
        task_names=schema.task_names,
        index=None,
        descriptors=None,
    )
    wider = replace(
        fit,
        schema=schema,
        data=data,
        standardization=fit.standardization.with_tasks(len(added)) if added else fit.standardization,
        added_tasks=(*fit.added_tasks, *added),
    )
    fit.likelihood.check(
        data.task_names, np.bincount(data.task[data.observed], minlength=len(data.task_names))
    )
    return replace(wider, hyperparameters=_with_own(fit, wider, len(added))) if added else wider


def _with_own(fit: GPFit, wider: GPFit, num_new: int) -> dict[str, torch.Tensor]:
    """Hyperparameter draws (C, N, ...) with entries for the new tasks."""
    flat = {name: value.flatten(0, 1) for name, value in fit.hyperparameters.items()}
    rng = fit.generator(3 + len(fit.added_tasks))
    own = any("task" in p.dims and p.size for p in fit.problem.space.parameters)
    tries = [with_fresh_tasks(fit, flat, num_new, rng) for _ in range(_CANDIDATES if own else 1)]
    values = tries[0]
    if own:
        density = torch.stack([_density(wider, values) for values in tries])
        share = torch.softmax(density, dim=0).numpy()
        uniform = rng.random(share.shape[1])
        pick = torch.from_numpy(np.minimum((share.cumsum(axis=0) < uniform).sum(axis=0), len(tries) - 1))
        every = torch.arange(len(pick))
        values = {name: torch.stack([v[name] for v in tries])[pick, every] for name in values}
    C, N = fit.num_chains_and_draws
    return {name: value.reshape(C, N, *value.shape[1:]) for name, value in values.items()}


def _density(fit: GPFit, values: Values) -> torch.Tensor:
    """log p(all rows) under each of S hyperparameter values, shape (S,)."""
    problem = fit.problem
    parts = in_chunks(values, len(problem.y) ** 2)
    return torch.cat([problem.log_marginal(part, length(part)) for part in parts])
