"""Exact updating of a fit by further rows, through sufficient statistics and importance weights."""

from __future__ import annotations

import warnings
from dataclasses import fields, replace

import numpy as np
import torch

from bayesmtl.algebra.conditional import WeightDraws, draw_weights, log_likelihood_given_basis
from bayesmtl.algebra.statistics import TaskStatistics
from bayesmtl.data import Standardization, TaskSummaries
from bayesmtl.diagnostics.convergence import PARETO_LIMIT
from bayesmtl.errors import ConvergenceWarning, SpecificationError, listing
from bayesmtl.parameters import Values
from bayesmtl.posteriors.draws import LinearDraws
from bayesmtl.posteriors.linear.rows import StandardRows
from bayesmtl.results.evidence import without_evidence
from bayesmtl.results.linear.condition.clusters import weigh_clusters
from bayesmtl.results.linear.condition.jointly import redraw_correlated, weigh_correlated
from bayesmtl.results.linear.condition.rows import RowUpdate
from bayesmtl.results.linear.state import LinearState
from bayesmtl.results.new_rows import FurtherRows
from bayesmtl.samplers.importance import smooth
from bayesmtl.sharing import Dependence, PartitionSharing

_CANDIDATES = 32  # tries for each quantity of a new task's own, such as its noise level


def condition(fit: LinearState, further: FurtherRows) -> LinearState:
    """See `Fit.condition`."""
    _refuse_joint(fit)
    added, names, touched = further.added, further.schema.task_names, np.unique(further.codes)
    standard = StandardRows.of(further.rows, further.codes, further.standardization, further.likelihood)
    before = fit.statistics.with_empty(len(added))
    after = before + standard.statistics(len(names))
    rng = fit.generator(3, str(len(fit.added_tasks)), *added)
    basis, data = fit.draws.basis.flatten(0, 1), fit.data
    if not fit.likelihood.compresses:
        if isinstance(data, TaskSummaries):
            raise data.need_rows("Fit.condition")
        data = further.behind(data)
        update = RowUpdate.of(fit, data, further, after)
        values = fit.problem.space.extend_tasks(fit.flat(), len(added), rng)
        drawn = WeightDraws(fit.draws.weights.flatten(0, 1), basis, fit.draws.factors.flatten(0, 1))
        extended, drawn, log_weight = update.weigh(values, drawn, rng)
        keep = rng.permutation(_resample(log_weight, rng, touched, names))
        values = {name: value[keep] for name, value in extended.items()}
        drawn = WeightDraws(*(getattr(drawn, f.name)[keep] for f in fields(drawn)))
        draws = _as_draws(fit, values, update.move(values, drawn, rng), keep)
    else:
        scale = further.standardization
        if isinstance(fit.sharing, PartitionSharing):
            values, basis, log_weight = weigh_clusters(
                fit, before, after, touched, added, scale, rng, further.descriptors
            )
        elif fit.sharing.dependence is Dependence.JOINT:
            values, log_weight = weigh_correlated(fit, before, after, touched, added, scale, rng)
        else:
            values, log_weight = _weigh(fit, before, after, touched, added, scale, rng)
        keep = _resample(log_weight, rng, touched, names)
        draws = _redraw(fit, values, basis, keep, after, touched, scale, rng, added)
    return replace(
        fit,
        schema=further.schema,
        standardization=further.standardization,
        statistics=after,
        draws=replace(draws, sample_stats=without_evidence(draws.sample_stats)),
        data=data,
        added_tasks=(*fit.added_tasks, *added),
    )


def _refuse_joint(fit: LinearState) -> None:
    """Refuse tasks that are correlated given Z where there are no statistics to weigh draws by."""
    if not fit.likelihood.compresses and fit.sharing.dependence is Dependence.JOINT:
        raise SpecificationError(
            "data",
            expected=f"a fit with a Gaussian likelihood, for {type(fit.sharing).__name__}",
            found=type(fit.likelihood).__name__,
            remedy="Fit the model to all rows together.",
        )


def _task_densities(
    fit: LinearState,
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
    fit: LinearState,
    before: TaskStatistics,
    after: TaskStatistics,
    touched: np.ndarray,
    added: tuple[str, ...],
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
    known = fit.flat()
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
            stacklevel=5,
        )
    S = len(log_weight)
    weight = np.exp(smoothed - smoothed.max())
    edges = np.cumsum(weight / weight.sum())
    return np.minimum(np.searchsorted(edges, (rng.random() + np.arange(S)) / S), S - 1)


def _redraw(
    fit: LinearState,
    values: dict[str, torch.Tensor],
    basis: torch.Tensor,
    keep: np.ndarray,
    statistics: TaskStatistics,
    touched: np.ndarray,
    standardization: Standardization,
    rng: np.random.Generator,
    added: tuple[str, ...],
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


def _as_draws(fit: LinearState, values: Values, drawn: WeightDraws, keep: np.ndarray) -> LinearDraws:
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
