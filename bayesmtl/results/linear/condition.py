"""Exact updating of a fit by further rows, through sufficient statistics and importance weights."""

from __future__ import annotations

import warnings
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from bayesmtl.algebra.conditional import WeightDraws, draw_weights, log_likelihood_given_basis
from bayesmtl.algebra.statistics import TaskStatistics
from bayesmtl.data import NewRows, Standardization, TaskSummaries
from bayesmtl.diagnostics.convergence import PARETO_LIMIT
from bayesmtl.errors import ConvergenceWarning, DataError, SpecificationError, listing
from bayesmtl.parameters import Values
from bayesmtl.posteriors.draws import LinearDraws
from bayesmtl.posteriors.linear.rows import StandardRows
from bayesmtl.results.linear.condition_clusters import weigh_clusters
from bayesmtl.results.linear.condition_jointly import redraw_correlated, weigh_correlated
from bayesmtl.results.linear.condition_rows import RowUpdate
from bayesmtl.results.new_rows import describe_new
from bayesmtl.samplers.importance import smooth
from bayesmtl.sharing import Dependence, PartitionSharing

if TYPE_CHECKING:
    from bayesmtl.results.linear.fit import Fit

_CANDIDATES = 32  # tries for each quantity of a new task's own, such as its noise level


def condition(fit: Fit, new: Any, descriptors: Any = None) -> Fit:
    """See `Fit.condition`."""
    _refuse_joint(fit)
    rows = fit.schema.encode(new)
    observed = ~np.isnan(rows.y)
    if not observed.any():
        raise DataError(
            fit.schema.target_name,
            expected="at least one row with a target",
            found="none",
            remedy="Use predict for rows without targets.",
        )
    if "weights" in fit.schema.row_columns and rows.weights is None:
        raise DataError(
            fit.schema.row_columns["weights"],
            expected="the weights of the new rows, as the training rows have them",
            found="no such column",
            remedy="Give the column; 1 counts a row once.",
        )
    rows = _only(rows, observed)
    labels = rows.task_labels
    codes = fit.schema.codes(labels)
    added = list(dict.fromkeys(str(label) for label in labels[codes < 0]))
    described = describe_new(fit, new, descriptors, added)
    table = fit.schema.descriptors if fit.sharing.descriptor_names else None
    if described.table is not None:
        table = pd.concat([table, described.table])
    schema = replace(fit.schema, task_names=(*fit.task_names, *added), descriptors=table)
    standardization = fit.likelihood.extended(fit.standardization, fit.task_names, added)
    codes = schema.codes(labels)
    likelihood = fit.likelihood.of_tasks(schema.task_names, standardization.target_scale)
    likelihood.check_targets(rows.y, codes, fit.schema.target_name, rows.trials)
    standard = StandardRows.of(rows, codes, standardization, likelihood)
    fresh = standard.statistics(len(schema.task_names))
    before = fit.statistics.with_empty(len(added))
    touched = np.unique(codes)
    rng = fit.generator(3 + len(fit.added_tasks))
    basis, data = fit.draws.basis.flatten(0, 1), fit.data
    if not fit.likelihood.compresses:
        if isinstance(data, TaskSummaries):
            raise data.need_rows("Fit.condition")
        update = RowUpdate.of(
            fit, rows, codes, schema.task_names, standardization, before + fresh, described.standardised
        )
        values = fit.problem.space.extend_tasks(_flat(fit.draws.hyperparameters), len(added), rng)
        drawn = WeightDraws(fit.draws.weights.flatten(0, 1), basis, fit.draws.factors.flatten(0, 1))
        extended, drawn, log_weight = update.weigh(values, drawn, rng)
        keep = rng.permutation(_resample(log_weight, rng, touched, schema.task_names))
        values = {name: value[keep] for name, value in extended.items()}
        drawn = WeightDraws(*(getattr(drawn, f.name)[keep] for f in fields(drawn)))
        draws, data = _as_draws(fit, values, update.move(values, drawn, rng), keep), update.data
    else:
        if isinstance(fit.sharing, PartitionSharing):
            values, basis, log_weight = weigh_clusters(
                fit,
                before,
                before + fresh,
                touched,
                added,
                standardization,
                rng,
                described.standardised,
            )
        elif fit.sharing.dependence is Dependence.JOINT:
            values, log_weight = weigh_correlated(
                fit, before, before + fresh, touched, added, standardization, rng
            )
        else:
            values, log_weight = _weigh(fit, before, before + fresh, touched, added, standardization, rng)
        keep = _resample(log_weight, rng, touched, schema.task_names)
        draws = _redraw(fit, values, basis, keep, before + fresh, touched, standardization, rng, added)
    return replace(
        fit,
        schema=schema,
        standardization=standardization,
        statistics=before + fresh,
        draws=draws,
        data=data,
        added_tasks=(*fit.added_tasks, *added),
    )


def _refuse_joint(fit: Fit) -> None:
    """Refuse tasks that are correlated given Z where there are no statistics to weigh draws by."""
    if not fit.likelihood.compresses and fit.sharing.dependence is Dependence.JOINT:
        raise SpecificationError(
            "data",
            expected=f"a fit with a Gaussian likelihood, for {type(fit.sharing).__name__}",
            found=type(fit.likelihood).__name__,
            remedy="Fit the model to all rows together.",
        )


def _only(rows: NewRows, chosen: np.ndarray) -> NewRows:
    """The rows of a mask."""
    given = {field.name: getattr(rows, field.name) for field in fields(rows)}
    parts: dict[str, Any] = {name: None if part is None else part[chosen] for name, part in given.items()}
    return replace(rows, **parts)


def _flat(values: Values) -> dict[str, torch.Tensor]:
    return {name: value.flatten(0, 1) for name, value in values.items()}


def _task_densities(
    fit: Fit,
    statistics: TaskStatistics,
    values: Values,
    standardization: Standardization,
    names: tuple[str, ...],
) -> torch.Tensor:
    """log p(rows of each task | Z, hyperparameters), shape (draws, T)."""
    basis = fit.draws.basis.flatten(0, 1)
    structure = fit.sharing.structure(values, len(names), len(fit.feature_names))
    noise = fit.likelihood.noise_sd(values, names, standardization.target_scale, len(basis))
    return log_likelihood_given_basis(statistics.compress(), structure, noise, basis)


def _weigh(
    fit: Fit,
    before: TaskStatistics,
    after: TaskStatistics,
    touched: np.ndarray,
    added: list[str],
    standardization: Standardization,
    rng: np.random.Generator,
) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """Hyperparameter draws extended to the new tasks, and the log weight of every draw.

    A new task's own quantities are chosen among candidates from the prior in proportion to the density of the
    task's rows; the average density over the candidates is the task's share of the weight.
    """
    names = (*fit.task_names, *added)
    own = [(p.name, p.task_axis) for p in fit.problem.space.parameters if p.task_axis is not None]
    num_tries = _CANDIDATES if added and own else 1
    known = _flat(fit.draws.hyperparameters)
    tries = [fit.problem.space.extend_tasks(known, len(added), rng) for _ in range(num_tries)]
    stacked = torch.stack([_task_densities(fit, after, v, standardization, names) for v in tries])
    gain = torch.logsumexp(stacked, dim=0) - np.log(num_tries)
    gain = gain - _task_densities(fit, before, tries[0], standardization, names)
    values = dict(tries[0])
    if num_tries > 1:
        share = torch.softmax(stacked, dim=0).numpy()
        uniform = rng.random(share.shape[1:])
        pick = np.minimum((share.cumsum(axis=0) < uniform).sum(axis=0), num_tries - 1)
        for name, axis in own:
            candidates = torch.stack([v[name] for v in tries])  # (tries, S, ..., tasks, ...)
            by_task = candidates.movedim(1 + axis, 2)
            place = torch.from_numpy(pick).reshape(1, *pick.shape, *(1 for _ in by_task.shape[3:]))
            chosen = torch.take_along_dim(by_task, place, dim=0)[0]
            values[name] = chosen.movedim(1, axis)
    return values, gain[:, touched].sum(dim=1).numpy()


def _resample(
    log_weight: np.ndarray, rng: np.random.Generator, touched: np.ndarray, names: tuple[str, ...]
) -> np.ndarray:
    """Positions of the draws to keep: systematic resampling after Pareto smoothing of the weights."""
    smoothed, k = smooth(log_weight)
    if not k <= PARETO_LIMIT:
        warnings.warn(
            f"The rows of {listing([names[t] for t in touched])} change the population so much that few "
            f"posterior draws keep their weight (Pareto k {k:.2f}, above {PARETO_LIMIT}): fit the "
            "model again on all rows.",
            ConvergenceWarning,
            stacklevel=4,
        )
    S = len(log_weight)
    weight = np.exp(smoothed - smoothed.max())
    edges = np.cumsum(weight / weight.sum())
    return np.minimum(np.searchsorted(edges, (rng.random() + np.arange(S)) / S), S - 1)


def _redraw(
    fit: Fit,
    values: dict[str, torch.Tensor],
    basis: torch.Tensor,
    keep: np.ndarray,
    statistics: TaskStatistics,
    touched: np.ndarray,
    standardization: Standardization,
    rng: np.random.Generator,
    added: list[str],
) -> LinearDraws:
    """The kept draws, with the weights of the tasks concerned drawn from their exact conditional."""
    T, D = len(fit.task_names) + len(added), len(fit.feature_names)
    # chains lose their meaning under resampling: spread the survivors over them
    keep = rng.permutation(keep)
    values = {name: value[keep] for name, value in values.items()}
    basis = basis[keep]
    names = (*fit.task_names, *added)
    noise = fit.likelihood.noise_sd(values, names, standardization.target_scale, len(keep))
    if fit.sharing.dependence is Dependence.JOINT:  # every task hears of the new rows
        drawn = redraw_correlated(fit, statistics, values, noise, rng)
        return _as_draws(fit, values, drawn, keep)
    structure = fit.sharing.structure(values, T, D)
    drawn = draw_weights(statistics.compress(), structure, noise, basis, rng)
    old = len(fit.task_names)
    untouched = np.setdiff1d(np.arange(old), touched)
    weights, factors = drawn.weights, drawn.factors
    weights[:, untouched] = fit.draws.weights.flatten(0, 1)[keep][:, untouched]
    factors[:, untouched] = fit.draws.factors.flatten(0, 1)[keep][:, untouched]
    return _as_draws(fit, values, WeightDraws(weights, basis, factors), keep)


def _as_draws(fit: Fit, values: Values, drawn: WeightDraws, keep: np.ndarray) -> LinearDraws:
    """Kept draws in the shape of chains."""
    C, N = fit.draws.weights.shape[:2]

    def shaped(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.reshape(C, N, *tensor.shape[1:])

    return LinearDraws(
        {name: shaped(value) for name, value in values.items()},
        shaped(drawn.basis),
        shaped(drawn.weights),
        shaped(drawn.factors),
        {name: stat.ravel()[keep].reshape(C, N) for name, stat in fit.draws.sample_stats.items()},
        fit.draws.complete,
    )
