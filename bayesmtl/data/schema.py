"""What prediction must know about the training data, without its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from bayesmtl.data.arrays import plain_array
from bayesmtl.data.classes import codes_in
from bayesmtl.data.columns import finite_target, named_columns, numbers, take_column
from bayesmtl.data.design import INTERCEPT, Design
from bayesmtl.data.labels import encode_labels
from bayesmtl.data.plain import from_plain, to_plain
from bayesmtl.data.row_columns import ARRAYS, read_again
from bayesmtl.data.table import TaskTable
from bayesmtl.errors import DataError, SpecificationError, listing


@dataclass(frozen=True, eq=False)
class NewRows:
    """New rows, encoded as the training rows were and in the order they came.

    Attributes:
        X: Features (m, D), in the user's units.
        y: Targets (m,), NaN where absent.
        task_labels: Task of each row (m,), strings; they need not be known.
        index: Row labels, or None.
        offset: Known part of every row's function (m,), or None.
        weights: How often every row counts (m,), or None for once or where no column says it.
        trials: Number of trials of every row (m,), or None.
    """

    X: np.ndarray
    y: np.ndarray
    task_labels: np.ndarray
    index: pd.Index | None
    offset: np.ndarray | None = None
    weights: np.ndarray | None = None
    trials: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Schema:
    """How rows of this data set look: features, task, target and the known tasks.

    Attributes:
        design: How a frame becomes X.
        task_column: Name of the task column.
        target_name: Name of the target, or the expression it is, such as "log(y)".
        task_names: Names of the T training tasks.
        response: How the target is computed from a frame, when it is an expression.
        descriptors: One row per training task, or None.
        row_columns: Columns with offset (or exposure), weights and trials, by role; those of the offset and
            the trials are needed to predict.
        classes: Names of the classes that targets are positions of; none where targets are numbers.

    Example:
        >>> from bayesmtl.data import TaskData
        >>> frame = pd.DataFrame({"school": [1, 1, 2], "score": [3.0, 4.0, 5.0], "intake": [0.0, 1.0, 2.0]})
        >>> schema = TaskData.from_frame(frame, task="school", target="score", features=["intake"]).schema
        >>> new = schema.encode(pd.DataFrame({"intake": [7.0], "school": [3]}))
        >>> new.X.tolist(), new.task_labels.tolist(), schema.codes(new.task_labels).tolist()
        ([[1.0, 7.0]], ['3'], [-1])
    """

    design: Design
    task_column: str
    target_name: str
    task_names: tuple[str, ...]
    response: Design | None = None
    descriptors: pd.DataFrame | None = None
    row_columns: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def encode(self, new: pd.DataFrame | TaskTable | tuple[Any, ...], *, targets: bool = True) -> NewRows:
        """Encode new rows; they keep their order and their labels.

        Args:
            new: A frame with the feature and task columns, in any order (the target may be absent, other
                columns are ignored); or a TaskData with the same features, in any order; or a tuple of
                arrays (X, task) or (X, y, task).
            targets: Whether targets are wanted; where they are not, nothing about them is refused.

        Raises:
            DataError: If a column or feature is missing (also that of an offset or of trials, which arrays
                cannot give), a TaskData has further features, a value is missing or not finite, or a category
                unseen.
        """
        if isinstance(new, pd.DataFrame):
            return self._encode_frame(new, targets=targets)
        if isinstance(new, tuple) and len(new) in (2, 3):
            return self._encode_arrays(new[0], new[1] if len(new) == 3 and targets else None, new[-1])
        if isinstance(getattr(new, "schema", None), Schema):
            return self._encode_data(new, targets=targets)  # type: ignore[arg-type]
        raise DataError(
            "new",
            expected="a DataFrame, a TaskData, or arrays (X, task) or (X, y, task)",
            found=type(new).__name__,
            remedy=f"Give a frame with the columns {listing([*self.design.columns, self.task_column])}.",
        )

    def codes(self, task_labels: Sequence[str] | np.ndarray) -> np.ndarray:
        """Positions (m,) of task labels in `task_names`, int64; -1 for an unknown task."""
        return np.asarray(pd.Index(self.task_names).get_indexer(pd.Index(task_labels)), dtype=np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold without loss."""
        table = self.descriptors
        return {
            "design": self.design.to_dict(),
            "task_column": self.task_column,
            "target_name": self.target_name,
            "task_names": list(self.task_names),
            "response": None if self.response is None else self.response.to_dict(),
            "descriptors": None
            if table is None
            else {"names": list(table.columns), "values": [to_plain(table[name].tolist()) for name in table]},
            "row_columns": dict(self.row_columns),
            "classes": list(self.classes),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Schema:
        """Undo `to_dict`; expressions are checked before anything could evaluate them.

        Raises:
            SpecificationError: If the content is not a schema, or holds an expression that is not allowed.
        """
        try:
            task_names = tuple(content["task_names"])
            classes = tuple(content.get("classes", ()))  # files of earlier versions have none
            names = (content["task_column"], content["target_name"], *task_names, *classes)
            if not all(isinstance(name, str) for name in names):
                raise TypeError("a name is not a string")
            design, response, table = content["design"], content["response"], content["descriptors"]
            row_columns = {str(role): str(name) for role, name in content.get("row_columns", {}).items()}
            descriptors = None
            if table is not None:
                columns = dict(zip(table["names"], from_plain(table["values"]), strict=True))
                descriptors = pd.DataFrame(columns, index=pd.Index(task_names, name=names[0]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SpecificationError(
                "schema",
                expected="the content that Schema.to_dict writes",
                found=f"{type(error).__name__}: {error}",
                remedy="The content was damaged, or written by another program.",
            ) from error
        return cls(
            Design.from_dict(design),
            names[0],
            names[1],
            task_names,
            None if response is None else Design.from_dict(response),
            descriptors,
            row_columns,
            classes,
        )

    def target_of(self, frame: pd.DataFrame) -> np.ndarray:
        """Targets (m,) of a frame, NaN where missing; all NaN if the frame has no target column."""
        needed = (self.target_name,) if self.response is None else self.response.columns
        if not set(needed) <= set(frame.columns):
            return np.full(len(frame), np.nan)
        if self.response is not None:
            return self.response.encode_target(frame)
        return self._numbers(take_column(frame, self.target_name, "target"))

    def _numbers(self, target: pd.Series[Any]) -> np.ndarray:
        """A target as numbers, or positions of the classes."""
        if self.classes:
            return codes_in(target, self.classes, self.target_name)
        return numbers(target, self.target_name, role="the target")

    def _encode_frame(self, new: pd.DataFrame, *, targets: bool) -> NewRows:
        frame = named_columns(new)
        labels = _labels(take_column(frame, self.task_column, "task"), self.task_column)
        X = self.design.encode(new)
        y = np.full(len(frame), np.nan)
        if targets:
            y = self._checked(self.target_of(frame), new.index)
        return NewRows(X, y, labels, new.index, **read_again(frame, self.row_columns))

    def _encode_arrays(self, X: Any, y: Any, task: Any) -> NewRows:
        needed = [name for role, name in self.row_columns.items() if role != "weights"]
        if needed:
            raise DataError(
                "new",
                expected=f"a DataFrame or a TaskData, with {listing(needed)}",
                found="arrays, which have no such column",
                remedy="Put X, the task and these columns in a DataFrame.",
            )
        encoded = self.design.encode(X if isinstance(X, pd.DataFrame) else plain_array(X, "X"))
        labels = _labels(pd.Series(plain_array(task, "task")), self.task_column)
        target = np.full(len(encoded), np.nan)
        if y is not None:
            target = self._numbers(pd.Series(plain_array(y, "y", missing=True)))
        if not len(encoded) == len(labels) == len(target):
            raise DataError(
                "new",
                expected="as many tasks (and targets) as rows of X",
                found=f"{len(encoded)} rows, {len(labels)} tasks and {len(target)} targets",
                remedy="Give one task label per row.",
            )
        return NewRows(encoded, self._checked(target, None), labels, None)

    def _encode_data(self, new: TaskTable, *, targets: bool) -> NewRows:
        mine, theirs = self.design.feature_names, new.feature_names
        missing = [name for name in mine if name not in theirs]
        extra = [name for name in theirs if name not in mine]
        if missing or extra:
            parts = [f"no {listing(missing)}"] if missing else []
            parts += [f"further features {listing(extra)}"] if extra else []
            raise DataError(
                "new",
                expected=f"the training features {listing(mine)}",
                found=" and ".join(parts),
                remedy=f"Encode the same columns as in training ('{INTERCEPT}' is the constant), or pass the "
                "DataFrame itself.",
            )
        X = new.X[:, [theirs.index(name) for name in mine]]
        further = {name: getattr(new, name) for name in ARRAYS}
        roles = {"offset" if role == "exposure" else role for role in self.row_columns}
        for name in ("offset", "trials"):
            if (further[name] is None) == (name in roles):
                raise DataError(
                    "new",
                    expected=f"data {'with' if name in roles else 'without'} `{name}`, as in training",
                    found=f"data {'with' if further[name] is not None else 'without'} it",
                    remedy=f"Build both alike; `{name}` is an argument of TaskData.from_frame.",
                )
        labels = np.array(new.task_names, dtype=object)[new.task]
        y = new.y if targets else np.full(len(X), np.nan)
        if self.classes and targets:  # by name: their order may differ
            y = codes_in(pd.Series(new.target_labels), self.classes, self.target_name)
        return NewRows(X, y, labels, new.index, **further)

    def _checked(self, y: np.ndarray, index: pd.Index | None) -> np.ndarray:
        if not np.isnan(y).all():
            finite_target(y, self.target_name, index)
        return y


def _labels(values: pd.Series[Any], column: str) -> np.ndarray:
    codes, names = encode_labels(values, column)
    return np.asarray(np.array(names, dtype=object)[codes])
