"""The data of all tasks, checked once and never changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from bayesmtl.data import constant_columns as structure
from bayesmtl.data import constructors, parquet, report
from bayesmtl.data.classes import checked_classes, classes_of
from bayesmtl.data.columns import finite_features, finite_target
from bayesmtl.data.design import Design
from bayesmtl.data.labels import label_of
from bayesmtl.data.row_columns import ARRAYS, as_columns, checked
from bayesmtl.data.schema import Schema
from bayesmtl.data.split import draw_rows, draw_tasks, fold_of_rows, fold_of_tasks
from bayesmtl.data.standardization import Standardization, TargetKind, check_target_kind
from bayesmtl.data.summaries import TaskSummaries
from bayesmtl.errors import DataError, SpecificationError, UnknownTaskError, listing
from bayesmtl.options import check_option, whole_number


@dataclass(frozen=True, eq=False, repr=False)
class TaskData:
    """Rows of several tasks in long format, in the user's units.

    Build it with `from_frame`, `from_formula`, `from_arrays` or `from_wide`. Arrays are read-only copies.

    Attributes:
        X: Features (n, D), float64; the first column is ones when the design has an intercept.
        y: Targets (n,), float64; NaN where not observed.
        task: Task of each row (n,), int64, indices into `task_names`.
        task_names: Names of the T tasks.
        design: How a frame becomes X.
        task_column: Name of the task column.
        target_name: Name of the target, or the expression it is.
        index: Row labels of the source frame (n,), or None.
        descriptors: One row per task, indexed by `task_names` in that order, or None.
        target_standardization: "auto", "pooled", "task" or "none"; see `with_target_standardization`.
        response: How the target is computed from a frame, when it is an expression.
        offset: Known part of every row's function (n,), f = offset + x'w, or None.
        weights: How often every row counts (n,), positive, or None for once: a row of weight 2 is as if it
            stood there twice.
        trials: Number of trials of every row (n,), for `Binomial`, or None.
        row_columns: Columns of a frame that these three come from, by role: "offset", "exposure" (of which
            the offset is the logarithm), "weights", "trials".
        classes: Names of the K classes where the target was a categorical column, for `Categorical`; targets
            are then positions in them. None where targets are numbers.

    Raises:
        DataError: If the parts do not fit together, a feature is not finite, a target infinite, no target
            observed, or an offset, weight or number of trials missing or out of range.

    Example:
        >>> frame = pd.DataFrame({"school": ["a", "a", "b"], "score": [1.0, 2.0, None], "hours": [3, 4, 5]})
        >>> data = TaskData.from_frame(frame, task="school", target="score", features=["hours"])
        >>> data.task_names, data.feature_names, data.rows_per_task.tolist(), data.observed.tolist()
        (('a', 'b'), ('Intercept', 'hours'), [2, 1], [True, True, False])
    """

    X: np.ndarray
    y: np.ndarray
    task: np.ndarray
    task_names: tuple[str, ...]
    design: Design
    task_column: str
    target_name: str
    index: pd.Index | None = None
    descriptors: pd.DataFrame | None = None
    target_standardization: TargetKind = "auto"
    response: Design | None = None
    offset: np.ndarray | None = None
    weights: np.ndarray | None = None
    trials: np.ndarray | None = None
    row_columns: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        kinds = {"X": np.float64, "y": np.float64, "task": np.int64} | dict.fromkeys(ARRAYS, np.float64)
        for name, kind in kinds.items():
            if getattr(self, name) is not None:
                values = np.array(getattr(self, name), dtype=kind)
                values.setflags(write=False)
                object.__setattr__(self, name, values)
        check_target_kind(self.target_standardization)
        names = (*self.design.feature_names, self.task_column, self.target_name)
        repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if repeated:
            raise DataError(
                "feature_names",
                expected="different names for features, task and target",
                found=f"{listing(repeated)} more than once",
                remedy="Rename the feature, or pass another task_column or target_name.",
            )
        further = [values for name in ARRAYS if (values := getattr(self, name)) is not None]
        shapes = (self.X.shape, *(values.shape for values in (self.y, self.task, *further)))
        expected = (
            (self.num_rows, len(self.design.feature_names)),
            *[(self.num_rows,)] * (2 + len(further)),
        )
        in_range = self.num_rows > 0 and 0 <= self.task.min() <= self.task.max() < len(self.task_names)
        if shapes != expected or not in_range:
            raise DataError(
                "TaskData",
                expected="X (n, D), y (n,) and task (n,) with codes into task_names",
                found=f"shapes {shapes} with {len(self.task_names)} task names",
                remedy="Build it with from_frame, from_formula, from_arrays or from_wide.",
            )
        finite_features(self.X, self.feature_names, self.index)
        finite_target(self.y, self.target_name, self.index)
        checked_classes(self.y, self.classes, self.target_name)
        for name in ARRAYS:
            if (values := getattr(self, name)) is not None:
                checked(values, name, self.row_columns.get(name, name), self.index)

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        *,
        task: str,
        target: str,
        features: Sequence[str],
        intercept: bool = True,
        descriptors: pd.DataFrame | None = None,
        offset: Any = None,
        exposure: Any = None,
        weights: Any = None,
        trials: Any = None,
    ) -> TaskData:
        """Take columns of a frame.

        Args:
            frame: One row per observation.
            task: Column with the task of each row; labels become strings.
            target: Column with the target; missing means not observed. A categorical column holds the labels
                of classes, for `Categorical()`.
            features: Feature columns: numbers as they are, booleans as 0/1, strings and categories one-hot
                with their first level as the reference.
            intercept: Whether to put a column of ones first.
            descriptors: One row per task, indexed by its label; rows of other tasks are left out.
            offset: Column (or values) with the known part of each row's function, f = offset + x'w, on the
                scale of f: the target's own, log odds, a log rate. Needed again to predict.
            exposure: Column (or values) with a time, area or population that rates are per; the offset is its
                logarithm.
            weights: Column (or values) that says how often each row counts.
            trials: Column (or values) with the number of trials of each row, for `Binomial()`. Needed again
                to predict.

        Raises:
            DataError: If a column is unknown or used twice, a task label or feature missing, a feature not
                finite, the target not numeric or nowhere observed, an offset, weight or number of trials
                missing or out of range.
            SpecificationError: If both an offset and an exposure are given.

        Example:
            >>> frame = pd.DataFrame({"lab": [1, 1, 2], "y": [0.1, 0.4, 0.3], "dose": [1, 2, 1]})
            >>> TaskData.from_frame(frame, task="lab", target="y", features=["dose"]).X.tolist()
            [[1.0, 1.0], [1.0, 2.0], [1.0, 1.0]]
        """
        further = {"offset": offset, "exposure": exposure, "weights": weights, "trials": trials}
        return cls(
            **constructors.parts_of_frame(frame, task, target, features, intercept, descriptors, further)
        )

    @classmethod
    def from_parquet(
        cls,
        path: str | Path | Sequence[str | Path],
        *,
        task: str,
        target: str,
        features: Sequence[str],
        intercept: bool = True,
        client: Any = None,
        offset: str | None = None,
        exposure: str | None = None,
        weights: str | None = None,
        trials: str | None = None,
    ) -> TaskSummaries:
        """Sum up Parquet files per task without loading their rows.

        Files are read once, a quarter of a million rows at a time, so that memory does not grow with the
        number of rows. All sums, and with them every answer of a Gaussian model, are the same bit for bit
        wherever the files are read: each is summed up by itself, and the sums meet in the order of the files.
        Models of outcomes and counts read the rows again while they are fitted ("svi"), a chunk at a time.

        Args:
            path: A file, a folder of `*.parquet`, a pattern such as ``"data/part-*.parquet"``, or a list.
            task: Column with the task of each row; labels become strings.
            target: Column with the target; missing means not observed.
            features: Feature columns, numbers or booleans.
            intercept: Whether to put a column of ones first.
            client: A `dask.distributed.Client`, whose workers must see the files under the same names; each
                file is one piece of work. By default files are read here, one after the other.
            offset: Column with the known part of each row's function, as in `from_frame`.
            exposure: Column with an exposure, as in `from_frame`.
            weights: Column that says how often each row counts.
            trials: Column with the number of trials of each row.

        Returns:
            What `LinearModel.fit` takes in place of a TaskData; see `TaskSummaries`.

        Raises:
            DataError: If there is no file, a file is damaged or has another schema than the first, a task
                label or feature is missing, a value infinite, an offset, weight or number of trials missing
                or out of range, or no target observed.
            SpecificationError: If both an offset and an exposure are given.
            MissingDependencyError: If pyarrow is not installed (the extra `parquet`).

        Example:
            >>> import os, tempfile
            >>> frame = pd.DataFrame({"lab": [1, 1, 2], "y": [0.1, 0.4, 0.3], "dose": [1, 2, 1]})
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     frame.to_parquet(os.path.join(folder, "part-0.parquet"))
            ...     data = TaskData.from_parquet(folder, task="lab", target="y", features=["dose"])
            >>> data.task_names, data.rows_per_task.tolist()
            (('1', '2'), [2, 1])
        """
        further = {"offset": offset, "exposure": exposure, "weights": weights, "trials": trials}
        return TaskSummaries(**parquet.summarise(path, task, target, features, intercept, client, further))

    @classmethod
    def from_formula(
        cls,
        formula: str,
        frame: pd.DataFrame,
        *,
        task: str,
        descriptors: pd.DataFrame | None = None,
        offset: Any = None,
        exposure: Any = None,
        weights: Any = None,
        trials: Any = None,
    ) -> TaskData:
        """Read features and target from a formula.

        Args:
            formula: Such as ``"score ~ intake + C(sex)"``. The response is a column or an expression such as
                ``log(score)``; ``0 +`` or ``- 1`` declines the intercept; ``a:b`` and ``a*b`` are
                interactions; ``center``, ``scale``, ``poly``, ``bs`` and others remember the training data.
                Names with spaces go in back-ticks. The task is not part of the formula.
            frame: One row per observation.
            task: Column with the task of each row.
            descriptors: One row per task, indexed by its label.
            offset: As in `from_frame`, like `exposure`, `weights` and `trials`.
            exposure: As in `from_frame`.
            weights: As in `from_frame`.
            trials: As in `from_frame`.

        Raises:
            SpecificationError: If the formula cannot be read, or holds anything but known functions.
            DataError: As in `from_frame`.

        Example:
            >>> frame = pd.DataFrame({"lab": ["a", "b"], "y": [1.0, 10.0], "x": [1, 3], "sex": ["F", "M"]})
            >>> data = TaskData.from_formula("log10(y) ~ center(x) + sex", frame, task="lab")
            >>> data.target_name, data.y.tolist(), data.feature_names
            ('log10(y)', [0.0, 1.0], ('Intercept', 'center(x)', 'sex[T.M]'))
        """
        further = {"offset": offset, "exposure": exposure, "weights": weights, "trials": trials}
        return cls(**constructors.parts_of_formula(formula, frame, task, descriptors, further))

    @classmethod
    def from_arrays(
        cls,
        X: Any,
        y: Any,
        task: Any,
        *,
        feature_names: Sequence[str] | None = None,
        intercept: bool = True,
        descriptors: pd.DataFrame | None = None,
        task_column: str = "task",
        target_name: str = "y",
        offset: Any = None,
        exposure: Any = None,
        weights: Any = None,
        trials: Any = None,
    ) -> TaskData:
        """Take arrays with one row per observation.

        Args:
            X: Features (n, D) without the intercept.
            y: Targets (n,), NaN where not observed.
            task: Task label of each row (n,).
            feature_names: Names of the columns of X; by default those of a frame, else x0, x1 and so on.
            intercept: Whether to put a column of ones first.
            descriptors: One row per task, indexed by its label.
            task_column: Name for the task in messages and frames.
            target_name: Name for the target.
            offset: Values (n,) with the role they have in `from_frame`, like `exposure`, `weights` and
                `trials`; a frame to predict has a column of that name.
            exposure: As in `from_frame`.
            weights: As in `from_frame`.
            trials: As in `from_frame`.

        Raises:
            DataError: If the sizes differ, or as in `from_frame`.

        Example:
            >>> data = TaskData.from_arrays([[0.5], [0.7]], [1.0, 2.0], ["a", "b"])
            >>> data.feature_names
            ('Intercept', 'x0')
        """
        further = {"offset": offset, "exposure": exposure, "weights": weights, "trials": trials}
        return cls(
            **constructors.parts_of_arrays(
                X, y, task, feature_names, intercept, descriptors, task_column, target_name, further
            )
        )

    @classmethod
    def from_wide(
        cls,
        X: Any,
        Y: Any,
        tasks: Sequence[Any] | None = None,
        *,
        feature_names: Sequence[str] | None = None,
        intercept: bool = True,
        descriptors: pd.DataFrame | None = None,
        task_column: str = "task",
        target_name: str = "y",
        offset: Any = None,
        exposure: Any = None,
        weights: Any = None,
        trials: Any = None,
    ) -> TaskData:
        """Take a table with one column of targets per task, all on the same rows of features.

        Every cell becomes a row, first those of Y's first row; cells that are NaN stay, as missing targets.

        Args:
            X: Features (m, D) without the intercept.
            Y: Targets (m, T), NaN where not observed.
            tasks: Names of the columns of Y; by default those of a frame, else 0, 1 and so on.
            feature_names: Names of the columns of X.
            intercept: Whether to put a column of ones first.
            descriptors: One row per task, indexed by its label.
            task_column: Name for the task in messages and frames.
            target_name: Name for the target.
            offset: Values (m,) for all tasks or (m, T) with the role they have in `from_frame`, like
                `exposure`, `weights` and `trials`.
            exposure: As in `from_frame`.
            weights: As in `from_frame`.
            trials: As in `from_frame`.

        Raises:
            DataError: If the sizes differ, or as in `from_frame`.

        Example:
            >>> data = TaskData.from_wide([[0.5], [0.7]], [[1.0, 2.0], [np.nan, 4.0]], ["a", "b"])
            >>> data.task.tolist(), data.y.tolist()
            ([0, 1, 0, 1], [1.0, 2.0, nan, 4.0])
        """
        further = {"offset": offset, "exposure": exposure, "weights": weights, "trials": trials}
        return cls(
            **constructors.parts_of_wide(
                X, Y, tasks, feature_names, intercept, descriptors, task_column, target_name, further
            )
        )

    @property
    def num_rows(self) -> int:
        """Number of rows n, with and without an observed target."""
        return len(self.X)

    @property
    def num_tasks(self) -> int:
        """Number of tasks T."""
        return len(self.task_names)

    @property
    def num_features(self) -> int:
        """Number of features D, the intercept included."""
        return int(self.X.shape[1])

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the D features, the intercept (if any) first."""
        return self.design.feature_names

    @property
    def has_intercept(self) -> bool:
        """Whether the first feature is the constant 1."""
        return self.design.intercept

    @property
    def target_labels(self) -> np.ndarray:
        """Targets (n,) as they were given: numbers, or names of classes and None where not observed."""
        if not self.classes:
            return np.array(self.y)
        names = np.array([*self.classes, None], dtype=object)
        return np.asarray(names[np.where(self.observed, self.y, -1).astype(int)])

    @property
    def observed(self) -> np.ndarray:
        """Which rows have a target (n,)."""
        return np.asarray(~np.isnan(self.y))

    @property
    def num_missing(self) -> int:
        """Number of rows without an observed target."""
        return int(np.isnan(self.y).sum())

    @property
    def rows_per_task(self) -> np.ndarray:
        """Number of rows of each task (T,), with and without an observed target."""
        return np.bincount(self.task, minlength=self.num_tasks)

    @property
    def observed_per_task(self) -> np.ndarray:
        """Number of rows of each task with an observed target (T,)."""
        return np.bincount(self.task[self.observed], minlength=self.num_tasks)

    @property
    def constant_features(self) -> tuple[str, ...]:
        """Features, other than the intercept, that never vary over the observed rows."""
        constant = structure.constant_columns(self._observed_features())
        return tuple(name for name, flat in zip(self._varying_names(), constant, strict=True) if flat)

    @property
    def features_constant_within_tasks(self) -> tuple[str, ...]:
        """Features that vary over the observed rows, but inside no task, such as a property of the school."""
        flat = structure.constant_within_tasks(self._observed_features(), self.task[self.observed])
        return tuple(name for name, constant in zip(self._varying_names(), flat, strict=True) if constant)

    @property
    def duplicated_features(self) -> tuple[tuple[str, str], ...]:
        """Pairs of features that are the same over the observed rows, up to shift, scale and sign."""
        names = self._varying_names()
        pairs = structure.duplicated_columns(self._observed_features())
        return tuple((names[first], names[second]) for first, second in pairs)

    @property
    def schema(self) -> Schema:
        """What prediction must know of this data, without its rows."""
        return Schema(
            self.design,
            self.task_column,
            self.target_name,
            self.task_names,
            self.response,
            self.descriptors,
            self.row_columns,
            self.classes,
        )

    def standardization(self, *, robust: bool = False) -> Standardization:
        """Centres and scales of these features and targets, over the observed rows with their weights.

        An offset is no part of a target's size: what is measured is the target less the offset, unless
        targets are not standardised.

        Args:
            robust: Whether outliers are to leave the scale of targets as it is.

        Raises:
            DataError: If targets are standardised per task and some task has fewer than two different ones.
        """
        return Standardization.of(
            self.X,
            self.y if self.offset is None else self.y - self.offset,
            self.task,
            self.task_names,
            intercept=self.has_intercept,
            target=self.target_standardization,
            weights=self.weights,
            robust=robust,
        )

    def with_target_standardization(self, kind: TargetKind) -> TaskData:
        """The same data, whose targets models standardise "pooled", per "task", or not at all ("none").

        By default ("auto") that is per task where the sizes of two tasks' targets differ more than
        hundredfold, as those in other units do, and pooled otherwise: then tasks have a population in the
        target's units, and a task never seen can be predicted.
        """
        return replace(self, target_standardization=kind)

    def with_classes(self) -> TaskData:
        """The same data, whose whole numbers are taken as names of classes; as it is where it has classes.

        Raises:
            DataError: If a number is not whole, or they are too many for names.

        Example:
            >>> data = TaskData.from_arrays([[0.5], [0.7]], [3, 7], ["a", "b"]).with_classes()
            >>> data.classes, data.y.tolist()
            (('3', '7'), [0.0, 1.0])
        """
        if self.classes:
            return self
        y, classes = classes_of(self.y, self.target_name)
        return replace(self, y=y, classes=classes)

    def select_tasks(self, names: Sequence[object]) -> TaskData:
        """The rows of some tasks, in the order they have here; the tasks in the order of `names`.

        Raises:
            UnknownTaskError: If a name is not a task of this data.

        Example:
            >>> data = TaskData.from_arrays([[0.5], [0.7], [0.9]], [1.0, 2.0, 3.0], ["a", "b", "c"])
            >>> data.select_tasks(["c", "a"]).y.tolist()
            [1.0, 3.0]
        """
        wanted = list(dict.fromkeys(map(label_of, [names] if isinstance(names, str) else names)))
        codes = self.schema.codes(wanted)
        if not wanted or (codes < 0).any():
            unknown = [name for name, code in zip(wanted, codes, strict=True) if code < 0]
            raise UnknownTaskError(
                "names",
                expected=f"tasks of the data ({listing(self.task_names)})",
                found=listing(unknown) or "none",
                remedy="Name at least one task, as it stands in task_names.",
            )
        position = np.full(self.num_tasks, -1)
        position[codes] = np.arange(len(codes))
        rows = position[self.task] >= 0
        table = None if self.descriptors is None else self.descriptors.loc[wanted]
        return self._rows(rows, task_names=tuple(wanted), descriptors=table, task=position[self.task][rows])

    def split(
        self, test: float = 0.25, *, seed: int, by: Literal["row", "task"] = "row"
    ) -> tuple[TaskData, TaskData]:
        """Split into a training and a test part; rows keep their order.

        By rows, every task with at least two observed rows is in both parts, a task with one stays in
        training, rows without a target stay in training, and both parts keep the names of all tasks. By
        tasks, whole tasks go to the test part, and each part keeps its own tasks only.

        Args:
            test: Fraction of the observed rows (of each task) or of the tasks, between 0 and 1.
            seed: Seed of the draw.
            by: "row" or "task".

        Raises:
            SpecificationError: If `test` is not between 0 and 1, or `by` neither.
            DataError: If there is nothing to put in one of the parts.

        Example:
            >>> data = TaskData.from_arrays(np.arange(8.0)[:, None], np.arange(8.0), ["a", "b"] * 4)
            >>> train, test = data.split(0.25, seed=0)
            >>> train.rows_per_task.tolist(), test.rows_per_task.tolist()
            ([3, 3], [1, 1])
        """
        if not 0 < test < 1:
            raise SpecificationError(
                "test",
                expected="a fraction between 0 and 1",
                found=repr(test),
                remedy="Use 0.25 for a quarter.",
            )
        if by == "row":
            drawn = draw_rows(self.task, self.observed, test, seed)
            if not drawn.any():
                raise self._nothing_to_split("a task with at least two observed targets")
            return self._rows(~drawn), self._rows(drawn)
        if by == "task":
            if self.num_tasks < 2:
                raise self._nothing_to_split("at least two tasks")
            chosen = draw_tasks(self.num_tasks, test, seed)
            parts = (
                [name for name, t in zip(self.task_names, chosen, strict=True) if t == k] for k in (0, 1)
            )
            first, second = (self.select_tasks(names) for names in parts)
            return first, second
        raise SpecificationError(
            "by", expected='"row" or "task"', found=repr(by), remedy='"task" tests on tasks never seen.'
        )

    def folds(
        self, k: int = 5, *, seed: int, by: Literal["row", "task", "time"] = "row"
    ) -> list[tuple[TaskData, TaskData]]:
        """Split into k pairs of a training and a test part; rows keep their order.

        Test parts have observed rows only. By rows, each observed row is tested once, and the rows of every
        task are spread over the folds. By tasks, each task is tested once, as one never seen. By time, rows
        are taken to be in order: part j + 1 of k + 1 is tested after training on all rows before it.

        Args:
            k: Number of pairs, at least 2.
            seed: Seed of the draw; time needs none and ignores it.
            by: "row", "task" or "time".

        Raises:
            SpecificationError: If k is below 2, or `by` none of these.
            DataError: If there are fewer observed rows, or tasks, than folds.

        Example:
            >>> data = TaskData.from_arrays(np.arange(8.0)[:, None], np.arange(8.0), ["a", "b"] * 4)
            >>> [(train.num_rows, test.num_rows) for train, test in data.folds(2, seed=0)]
            [(4, 4), (4, 4)]
        """
        k, seed = whole_number("k", k, 2), whole_number("seed", seed, 0)
        check_option("by", by, ("row", "task", "time"))
        seen = np.flatnonzero(self.observed)
        if by == "task":
            if self.num_tasks < k:
                raise self._nothing_to_split(f"at least {k} tasks")
            fold = fold_of_tasks(self.num_tasks, k, seed)
            names = [[t for t, f in zip(self.task_names, fold, strict=True) if f == j] for j in range(k)]
            others = [[t for t in self.task_names if t not in set(tested)] for tested in names]
            seen_only = self._rows(self.observed)
            parts = zip(others, names, strict=True)
            return [(self.select_tasks(train), seen_only.select_tasks(test)) for train, test in parts]
        if len(seen) <= k:
            raise self._nothing_to_split(f"more than {k} observed targets")
        if by == "row":
            fold = fold_of_rows(self.task, self.observed, k, seed)
            return [(self._rows(fold != j), self._rows(fold == j)) for j in range(k)]
        part = np.searchsorted(seen, np.arange(self.num_rows), side="left") * (k + 1) // len(seen)
        part = np.minimum(part, k)
        return [(self._rows(part < j), self._rows((part == j) & self.observed)) for j in range(1, k + 1)]

    def to_frame(self) -> pd.DataFrame:
        """The encoded features (without the intercept), the task, the target and what rows carry besides."""
        frame = pd.DataFrame(self.X, columns=list(self.feature_names), index=self.index)
        frame = frame[list(self._varying_names())].copy()
        frame[self.task_column] = np.array(self.task_names, dtype=object)[self.task]
        frame[self.target_name] = self.y
        if self.classes:
            frame[self.target_name] = pd.Categorical(self.target_labels, categories=pd.Index(self.classes))
        for name, values in as_columns(
            {name: getattr(self, name) for name in ARRAYS}, self.row_columns
        ).items():
            frame[name] = values
        return frame

    def __repr__(self) -> str:
        return report.as_text(self)

    def _repr_html_(self) -> str:
        return report.as_html(self)

    def _rows(self, rows: np.ndarray, **changes: Any) -> TaskData:
        """The rows of a mask (n,)."""
        index = None if self.index is None else self.index[rows]
        named = ("X", "y", "task", *(name for name in ARRAYS if getattr(self, name) is not None))
        kept = {name: getattr(self, name)[rows] for name in named} | {"index": index}
        return replace(self, **(kept | changes))

    def _varying_names(self) -> tuple[str, ...]:
        return self.feature_names[1:] if self.has_intercept else self.feature_names

    def _observed_features(self) -> np.ndarray:
        features = self.X[self.observed][:, 1 if self.has_intercept else 0 :]
        return np.asfortranarray(features)  # columns are read one by one

    def _nothing_to_split(self, expected: str) -> DataError:
        return DataError(
            "data",
            expected=expected,
            found=f"{self.num_tasks} tasks with at most {self.rows_per_task.max()} rows",
            remedy="Nothing could be put in the test part.",
        )
