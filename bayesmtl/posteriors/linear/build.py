"""The posterior of weights that a model and data give."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import torch

from bayesmtl.algebra.rows import TaskRows
from bayesmtl.algebra.statistics import TaskStatistics
from bayesmtl.data import Standardization, TaskData, TaskSummaries
from bayesmtl.data.descriptors import descriptor_matrix
from bayesmtl.likelihoods import Likelihood
from bayesmtl.posteriors.linear.outcomes import OutcomePosterior
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.posteriors.linear.rows import RowwisePosterior, StandardRows
from bayesmtl.posteriors.linear.streamed import RowStream, StreamedPosterior
from bayesmtl.sharing import Sharing


def linear_posterior(
    sharing: Sharing,
    likelihood: Likelihood,
    data: TaskData | TaskSummaries,
    standardization: Standardization,
) -> tuple[LinearPosterior, TaskStatistics]:
    """The posterior of the kind that the likelihood and the data make it, and sums per task.

    Raises:
        DataError: If a target is none that the likelihood allows.
        SpecificationError: If the data cannot inform the likelihood.
    """
    if isinstance(data, TaskSummaries):
        likelihood.check(data.task_names, data.observed_per_task)
        statistics = TaskStatistics.from_moments(data.moments, standardization)
        posterior = _of_sums(sharing, likelihood, data, standardization, statistics)
        if not likelihood.compresses:
            rowwise = RowwisePosterior(**_known(posterior)).rowwise
            stream = RowStream(data, standardization, rowwise)
            posterior = StreamedPosterior(**_known(posterior), stream=stream)
        return posterior, statistics
    observed = np.bincount(data.task[data.observed], minlength=data.num_tasks)
    likelihood.check(data.task_names, observed)
    trials = None if data.trials is None else data.trials[data.observed]
    of_tasks = likelihood.of_tasks(data.task_names, standardization.target_scale)
    of_tasks.check_targets(data.y[data.observed], data.task[data.observed], data.target_name, trials)
    rows = StandardRows.of(data, data.task, standardization, of_tasks)
    statistics = rows.statistics(data.num_tasks)
    posterior = _of_sums(sharing, likelihood, data, standardization, statistics)
    if not likelihood.compresses:
        posterior = with_rows(posterior, rows.laid_out(data.num_tasks))
    return posterior, statistics


def _of_sums(
    sharing: Sharing,
    likelihood: Likelihood,
    data: TaskData | TaskSummaries,
    standardization: Standardization,
    statistics: TaskStatistics,
) -> LinearPosterior:
    names, descriptors = sharing.descriptor_names, None
    if names:
        table = getattr(data, "descriptors", None)  # sums of rows have none
        descriptors = torch.from_numpy(descriptor_matrix(table, names))
    return LinearPosterior(
        sharing.of_tasks(data.task_names),
        likelihood,
        statistics.compress(),
        data.task_names,
        standardization.target_scale,
        descriptors,
    )


def with_rows(posterior: LinearPosterior, rows: TaskRows | None) -> LinearPosterior:
    """The posterior of outcomes, where there are rows; else as it is."""
    return posterior if rows is None else OutcomePosterior(**_known(posterior), rows=rows)


def _known(posterior: LinearPosterior) -> dict[str, Any]:
    return {field.name: getattr(posterior, field.name) for field in fields(LinearPosterior)}
