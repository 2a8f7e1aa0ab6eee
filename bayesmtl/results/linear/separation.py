"""Outcomes that have no finite estimate by themselves."""

from __future__ import annotations

import numpy as np

from bayesmtl.data import TaskData, TaskSummaries
from bayesmtl.diagnostics import class_separation_notes, separation_notes
from bayesmtl.likelihoods import Rowwise
from bayesmtl.results.linear.state import LinearState


def separation(fit: LinearState) -> list[str]:
    """What `Fit.check` says of outcomes that have no finite estimate by themselves."""
    data = fit.data
    likelihood = fit.likelihood.of_tasks(data.task_names, np.ones(data.num_tasks))  # scales play no part
    if not isinstance(likelihood, Rowwise):
        return []
    trials: np.ndarray | None
    if isinstance(data, TaskSummaries):  # means tell whether the outcomes of a task are all alike
        task = np.flatnonzero(data.moments.count > 0)
        means = data.moments.averages()
        y, trials, X = means["y"].round(9), means["trials"].round(9), np.ones((len(task), 1))
    else:
        seen = data.observed
        task, y, X = data.task[seen], data.y[seen], data.X[seen]
        trials = None if data.trials is None else data.trials[seen]
    if likelihood.has_classes and isinstance(data, TaskData):
        return class_separation_notes(X, y, data.classes, task, data.task_names, data.feature_names)
    bounds = likelihood.bounds(y, task, trials)
    return separation_notes(X, *bounds, task, data.task_names, data.feature_names, likelihood.separated)
