"""Files of linear fits: draws, sums and rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import torch

from bayesmtl.algebra.statistics import TaskStatistics
from bayesmtl.data import Part, Schema, TaskData, TaskMoments, TaskSummaries
from bayesmtl.posteriors.draws import LinearDraws
from bayesmtl.results.files import Contents, restore_data, rows_of
from bayesmtl.results.linear.state import LinearState

_STATISTICS = tuple(field.name for field in fields(TaskStatistics))
_DRAWS = ("basis", "weights", "factors")


def contents(fit: LinearState) -> Contents:
    """What a file holds of a linear fit besides what it holds of every fit."""
    groups: dict[str, Mapping[str, np.ndarray]] = {
        "draws": {name: getattr(fit.draws, name).numpy() for name in _DRAWS},
        "statistics": {name: getattr(fit.statistics, name) for name in _STATISTICS},
    }
    if isinstance(fit.data, TaskSummaries):
        groups["moments"] = fit.data.moments.to_arrays()
        parts = [asdict(part) for part in fit.data.parts]
        return Contents({"source": fit.data.source, "parts": parts}, groups)
    groups["rows"] = rows_of(fit.data)
    return Contents({}, groups)


def parts(content: Mapping[str, Any], arrays: Callable[[str], dict[str, np.ndarray]]) -> dict[str, Any]:
    """The fields of a linear fit that a file holds, besides those of every fit.

    Args:
        content: Its specification.
        arrays: Gives the arrays of a group by name.
    """
    hyperparameters = {name: torch.from_numpy(values) for name, values in arrays("hyperparameters").items()}
    stored = {name: torch.from_numpy(values) for name, values in arrays("draws").items()}
    training = Schema.from_dict(content["training_schema"])
    if len(content["schema"]["task_names"]) != stored["weights"].shape[2]:
        raise ValueError("its specification does not fit its draws")
    data: TaskData | TaskSummaries
    if "source" in content:
        data = _summaries(training, arrays("moments"), content)
    else:
        data = restore_data(training, arrays("rows"), content)
    return {
        "statistics": TaskStatistics(**arrays("statistics")),
        "draws": LinearDraws(
            hyperparameters, **stored, sample_stats=arrays("sample_stats"), complete=content["complete"]
        ),
        "data": data,
    }


def _summaries(
    training: Schema, moments: Mapping[str, np.ndarray], content: Mapping[str, Any]
) -> TaskSummaries:
    return TaskSummaries(
        moments=TaskMoments(training.task_names, **moments),
        design=training.design,
        task_column=training.task_column,
        target_name=training.target_name,
        source=content["source"],
        target_standardization=content["target_standardization"],
        row_columns=training.row_columns,
        parts=tuple(Part.restored(part) for part in content["parts"]),
    )
