"""What a fit of a network holds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from bayesmtl.data import NewRows, Schema, TaskData
from bayesmtl.errors import UnknownTaskError, listing
from bayesmtl.features import FeatureMap
from bayesmtl.posteriors.deep import Trained
from bayesmtl.results.linear.fit import Fit
from bayesmtl.results.new_rows import describe_new


@dataclass(frozen=True, eq=False)
class DeepState:
    """Trunks of an ensemble, and a fit of the heads on the features of each.

    Args:
        schema: How new rows become inputs; names of tasks.
        data: The training rows, inputs as columns.
        trained: The trunks and how their training went.
        heads: One fit over weights for each member, on the columns of its trunk.
        method: The engine of the heads.
        reason: Why this engine.
        seed: Seed of the fit.
        added_tasks: Tasks that came in through `condition`.
    """

    schema: Schema
    data: TaskData
    trained: Trained
    heads: tuple[Fit, ...]
    method: str
    reason: str
    seed: int
    added_tasks: tuple[str, ...] = field(default=())

    @property
    def features(self) -> FeatureMap:
        """The map from inputs to the heads' columns."""
        return self.trained.features

    def unknown(self, rows: NewRows) -> list[str]:
        """Names of the tasks of rows that are not known, in the order they come."""
        codes = self.schema.codes(rows.task_labels)
        return list(dict.fromkeys(str(label) for label in rows.task_labels[codes < 0]))

    def refuse(self, unknown: list[str], remedy: str) -> UnknownTaskError:
        """The error that says which tasks are not known."""
        return UnknownTaskError(
            self.schema.task_column,
            expected=f"tasks of the training data ({listing(self.schema.task_names)})",
            found=f"{listing(unknown)}, not in the training data",
            remedy=remedy,
        )

    def described(self, new: Any, descriptors: Any, unknown: list[str]) -> pd.DataFrame | None:
        """Descriptors of tasks that are not known, where the sharing prior looks at any."""
        return describe_new(self.heads[0], new, descriptors, unknown).table

    def of_members(self, rows: NewRows) -> list[TaskData]:
        """The rows as every member's heads see them; targets that are missing everywhere are 0."""
        names = tuple(dict.fromkeys(str(label) for label in rows.task_labels))
        task = pd.Index(names).get_indexer(pd.Index(rows.task_labels))
        y = np.zeros(len(rows.y)) if np.isnan(rows.y).all() else rows.y
        schema = self.heads[0].schema
        parts: dict[str, Any] = {
            "y": y,
            "task": task,
            "task_names": names,
            "task_column": schema.task_column,
            "target_name": schema.target_name,
            "index": rows.index,
            "row_columns": schema.row_columns,
            "classes": schema.classes,
            "target_standardization": self.data.target_standardization,
            "offset": rows.offset,
            "weights": rows.weights,
            "trials": rows.trials,
        }
        columns = self.features(rows.X)
        return [
            TaskData(X=own, design=head.schema.design, **parts)
            for own, head in zip(columns, self.heads, strict=True)
        ]

    def with_heads(self, heads: tuple[Fit, ...]) -> DeepState:
        """The same with heads that know more tasks."""
        schema = replace(
            self.schema, task_names=heads[0].schema.task_names, descriptors=heads[0].schema.descriptors
        )
        return replace(self, heads=heads, schema=schema, added_tasks=heads[0].added_tasks)
