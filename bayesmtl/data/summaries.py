"""Data of all tasks without their rows: what a Gaussian model needs of a table that is too large to load."""

from __future__ import annotations

from dataclasses import dataclass, replace
from html import escape

import numpy as np

from bayesmtl.data.design import Design
from bayesmtl.data.moments import TaskMoments
from bayesmtl.data.schema import Schema
from bayesmtl.data.standardization import Standardization, TargetKind, check_target_kind
from bayesmtl.errors import DataError, listing


@dataclass(frozen=True, eq=False, repr=False)
class TaskSummaries:
    """Sums per task that stand for the rows, in the user's units; made by `TaskData.from_parquet`.

    `LinearModel.fit` takes them in place of a TaskData where the likelihood is Gaussian, and what follows
    works as usual: predictions, similarities, new tasks, further rows by `condition`, files. What looks at
    single rows, such as `Fit.to_datatree` with its pointwise log likelihood, says that it cannot.

    Attributes:
        moments: The sums.
        design: How a frame becomes features.
        task_column: Name of the task column.
        target_name: Name of the target.
        source: Where the rows are.
        target_standardization: "pooled", "task" or "none"; see `Standardization`.
    """

    moments: TaskMoments
    design: Design
    task_column: str
    target_name: str
    source: str
    target_standardization: TargetKind = "pooled"

    def __post_init__(self) -> None:
        check_target_kind(self.target_standardization)

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the T tasks."""
        return self.moments.names

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the D features, the intercept (if any) first."""
        return self.design.feature_names

    @property
    def num_tasks(self) -> int:
        """Number of tasks T."""
        return len(self.task_names)

    @property
    def num_features(self) -> int:
        """Number of features D, the intercept included."""
        return len(self.feature_names)

    @property
    def has_intercept(self) -> bool:
        """Whether the first feature is the constant 1."""
        return self.design.intercept

    @property
    def rows_per_task(self) -> np.ndarray:
        """Number of rows of each task (T,), with and without an observed target."""
        return self.moments.rows.astype(np.int64)

    @property
    def observed_per_task(self) -> np.ndarray:
        """Number of rows of each task with an observed target (T,)."""
        return self.moments.count.astype(np.int64)

    @property
    def num_rows(self) -> int:
        """Number of rows, with and without an observed target."""
        return int(self.rows_per_task.sum())

    @property
    def num_missing(self) -> int:
        """Number of rows without an observed target."""
        return self.num_rows - int(self.observed_per_task.sum())

    @property
    def schema(self) -> Schema:
        """What prediction must know of this data."""
        return Schema(self.design, self.task_column, self.target_name, self.task_names)

    def standardization(self) -> Standardization:
        """Centres and scales of these features and targets, over the observed rows.

        Raises:
            DataError: If targets are standardised per task and some task has fewer than two different ones.
        """
        return self.moments.standardization(intercept=self.has_intercept, target=self.target_standardization)

    def with_target_standardization(self, kind: TargetKind) -> TaskSummaries:
        """The same data, whose targets models standardise "pooled", per "task", or not at all ("none")."""
        return replace(self, target_standardization=kind)

    def need_rows(self, what: str) -> DataError:
        """The error for what cannot do without rows."""
        return DataError(
            "data",
            expected=f"rows, which {what} looks at one by one",
            found=f"sums per task of {self.source}",
            remedy="Load a sample of the rows and build it with TaskData.from_frame.",
        )

    def __repr__(self) -> str:
        lines = [
            f"TaskSummaries: {self.num_tasks} tasks, {self.num_rows} rows, {self.num_features} features",
            f"  tasks            {self.task_column}: {listing(self.task_names)}",
            f"  target           {self.target_name}",
            f"  missing targets  {self.num_missing} of {self.num_rows}",
            f"  features         {listing(self.feature_names, limit=12)}",
            f"  rows             not loaded, in {self.source}",
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"
