"""Data of all tasks without their rows: sums, and where to read the rows again a chunk at a time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from html import escape

import numpy as np

from bayesmtl.data.design import Design
from bayesmtl.data.labels import label_of
from bayesmtl.data.moments import TaskMoments
from bayesmtl.data.parquet import Part, chunks
from bayesmtl.data.schema import Schema
from bayesmtl.data.standardization import Standardization, TargetKind, check_target_kind
from bayesmtl.errors import DataError, listing


@dataclass(frozen=True, eq=False)
class RowChunk:
    """Observed rows that were read together; the arrays are those of a `TaskData`.

    Attributes:
        X: Features (n, D), the intercept included.
        y: Targets (n,).
        task: Positions of their tasks (n,).
        offset: Known parts of the functions (n,), or None.
        weights: How often rows count (n,), or None.
        trials: Numbers of trials (n,), or None.
    """

    X: np.ndarray
    y: np.ndarray
    task: np.ndarray
    offset: np.ndarray | None
    weights: np.ndarray | None
    trials: np.ndarray | None


@dataclass(frozen=True, eq=False, repr=False)
class TaskSummaries:
    """Sums per task that stand for the rows, in the user's units; made by `TaskData.from_parquet`.

    `LinearModel.fit` takes them in place of a TaskData. Where the likelihood is Gaussian the sums are all
    that is needed, and what follows works as usual: predictions, similarities (over the observed rows' inputs
    by default), new tasks, further rows by `condition`, files. For outcomes and counts "svi" reads the rows
    again from the files, a chunk at a time, and never holds more than some of them. What looks at single
    rows, such as `Fit.to_datatree` with its pointwise log likelihood, says that it cannot.

    Attributes:
        moments: The sums.
        design: How a frame becomes features.
        task_column: Name of the task column.
        target_name: Name of the target.
        source: Where the rows are.
        target_standardization: "auto", "pooled", "task" or "none"; see `with_target_standardization`.
        row_columns: Columns with an offset or exposure, weights and trials, by role.
        parts: The files, and what they must look like.
    """

    moments: TaskMoments
    design: Design
    task_column: str
    target_name: str
    source: str
    target_standardization: TargetKind = "auto"
    row_columns: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()

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
        return self.moments.observed.astype(np.int64)

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
        return Schema(
            self.design, self.task_column, self.target_name, self.task_names, row_columns=self.row_columns
        )

    def standardization(self) -> Standardization:
        """Centres and scales of these features and targets, over the observed rows.

        Raises:
            DataError: If targets are standardised per task and some task has fewer than two different ones.
        """
        return self.moments.standardization(intercept=self.has_intercept, target=self.target_standardization)

    def with_target_standardization(self, kind: TargetKind) -> TaskSummaries:
        """The same data, whose targets models standardise "pooled", per "task", or not at all ("none").

        By default ("auto") that is per task where targets of tasks differ in size as if their units did.
        """
        return replace(self, target_standardization=kind)

    def chunks(
        self, *, features: bool = True, keep: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> Iterator[RowChunk]:
        """The observed rows, in the order of the files, read anew.

        Args:
            features: Whether to read them; without, X has no columns.
            keep: Which rows of a chunk to give, and in which order, from the tasks of all of them (n,):
                positions among these; all by default.

        Raises:
            DataError: If a file cannot be read, or does not hold the rows any more that were summed up.
        """
        position = {name: t for t, name in enumerate(self.task_names)}
        read, codes = np.zeros(self.num_tasks, dtype=np.int64), dict[Hashable, int]()
        one = int(features and self.has_intercept)
        for part in self.parts:
            for chunk in chunks(part if features else part.without_features()):
                for label in chunk.labels:
                    if label not in codes:
                        codes[label] = position.get(label_of(label), -1)
                where = np.flatnonzero(~np.isnan(chunk.values[-1]))
                task = np.array([codes[label] for label in chunk.labels], dtype=np.int64)[chunk.codes[where]]
                if (task < 0).any():
                    raise self._changed()
                read += np.bincount(task, minlength=self.num_tasks)
                if keep is not None:
                    kept = keep(task)
                    where, task = where[kept], task[kept]
                X = np.empty((len(where), len(chunk.values) - 1 + one))
                X[:, :one], X[:, one:] = 1.0, chunk.values[:-1, where].T
                further = {name: values[where] for name, values in chunk.carried.items()}
                yield RowChunk(
                    X,
                    chunk.values[-1, where],
                    task,
                    *(further.get(name) for name in ("offset", "weights", "trials")),
                )
        if (read != self.observed_per_task).any():
            raise self._changed()

    def _changed(self) -> DataError:
        return DataError(
            "path",
            expected=f"the rows that TaskData.from_parquet summed up ({int(self.observed_per_task.sum())})",
            found=f"other ones in {self.source}",
            remedy="The files were changed since; call TaskData.from_parquet again.",
        )

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
