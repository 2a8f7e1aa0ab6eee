"""Further rows for a Gaussian-process fit, without refitting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from bayesmtl.errors import SpecificationError
from bayesmtl.parameters import Values
from bayesmtl.posteriors.functions.capacity import refuse_too_many
from bayesmtl.posteriors.functions.inducing import InducingFunctions
from bayesmtl.posteriors.functions.inducing_inputs import further_inducing
from bayesmtl.results.evidence import without_evidence
from bayesmtl.results.functions.given import given_data
from bayesmtl.results.functions.predict import in_chunks, with_fresh_tasks
from bayesmtl.results.functions.state import FunctionState, length
from bayesmtl.results.new_rows import FurtherRows
from bayesmtl.sharing import Dependence

_POOLED = 300  # of them where all draws share theirs
_CANDIDATES = 16  # tries for what belongs to a new task alone, such as its loadings


def condition(fit: FunctionState, further: FurtherRows) -> FunctionState:
    """See `Fit.condition`."""
    data = further.behind(fit.data)
    wider = replace(
        fit,
        schema=further.schema,
        data=data,
        standardization=further.standardization,
        draws=replace(fit.draws, sample_stats=without_evidence(fit.draws.sample_stats)),
        added_tasks=(*fit.added_tasks, *further.added),
    )
    X = fit.inputs(further.rows.X)
    if isinstance(fit.problem, InducingFunctions):
        first = {name: value[:1] for name, value in fit.flat().items()}
        wider = replace(wider, inducing=further_inducing(fit.problem, first, X))
    else:
        refuse_too_many(wider.problem, 'Condition on fewer, or fit all rows together with method="svi".')
    fit.likelihood.check(data.task_names, data.observed_per_task)
    if not further.added:
        return wider
    own = replace(wider.draws, hyperparameters=_with_own(fit, wider, len(further.added)))
    return replace(wider, draws=own)


def _with_own(fit: FunctionState, wider: FunctionState, num_new: int) -> dict[str, torch.Tensor]:
    """Hyperparameter draws (C, N, ...) with entries for the new tasks."""
    if fit.inducing is not None:
        return _with_own_at_a_point(fit, wider, num_new)
    flat = fit.flat()
    rng = fit.generator(3, str(len(fit.added_tasks)), *wider.added_tasks[len(fit.added_tasks) :])
    own = fit.sharing.dependence is Dependence.PARTITION or any(
        "task" in p.dims and p.size for p in fit.problem.space.parameters
    )
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


def _with_own_at_a_point(fit: FunctionState, wider: FunctionState, num_new: int) -> dict[str, torch.Tensor]:
    """The same where functions are known through inducing inputs and all draws are one point.

    Candidates for all draws are then alike, and few hundred of them serve all.
    """
    C, N = fit.num_chains_and_draws
    flat = fit.flat()
    rng = fit.generator(3, str(len(fit.added_tasks)), *wider.added_tasks[len(fit.added_tasks) :])
    pick = torch.arange(C * N)
    values = with_fresh_tasks(fit, flat, num_new, rng)
    if any("task" in p.dims and p.size for p in fit.problem.space.parameters):
        same = all(bool((value == value[:1]).all()) for value in flat.values())
        if not (same and fit.likelihood.compresses):
            raise SpecificationError(
                "new",
                expected="rows of known tasks, for this fit through inducing inputs",
                found=f"new tasks, which have hyperparameters of their own under {fit.sharing!r}",
                remedy="Fit again with these rows, or use Hierarchical(), whose tasks have none.",
            )
        one = {name: value[:1].expand(_POOLED, *value.shape[1:]) for name, value in flat.items()}
        values = with_fresh_tasks(fit, one, num_new, rng)
        share = torch.softmax(_density_of_new(fit, wider, values), dim=0).numpy()
        pick = torch.from_numpy(rng.choice(_POOLED, C * N, p=share / share.sum()))
    return {name: value[pick].reshape(C, N, *value.shape[1:]) for name, value in values.items()}


def _density_of_new(fit: FunctionState, wider: FunctionState, values: Values) -> torch.Tensor:
    """log p(rows of new tasks | all rows before) under each of S hyperparameter values, shape (S,)."""
    problem = wider.problem
    new = problem.task >= len(fit.task_names)
    task, S = problem.task[new], length(values)
    structure = problem.structure(values)
    given = given_data(fit, values, structure, problem.X[new], task)
    noise = problem.noise(values, S).square()[:, task]
    spread = torch.distributions.MultivariateNormal(
        given.mean, given.covariance + torch.diag_embed(noise), validate_args=False
    )
    density: torch.Tensor = spread.log_prob(problem.y[new])
    return density


def _density(fit: FunctionState, values: Values) -> torch.Tensor:
    """log p(all rows) under each of S hyperparameter values, shape (S,)."""
    problem = fit.problem
    parts = in_chunks(values, len(problem.y) ** 2)
    return torch.cat([problem.log_marginal(part, length(part)) for part in parts])
