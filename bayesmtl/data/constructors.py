"""From what users have (frames, formulas, arrays, a column per task) to the parts of a TaskData."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bayesmtl.data.arrays import plain_array
from bayesmtl.data.classes import read_target
from bayesmtl.data.columns import named_columns, numbers, take_column
from bayesmtl.data.design import Design
from bayesmtl.data.expressions import parse_formula
from bayesmtl.data.labels import encode_labels, label_of
from bayesmtl.data.row_columns import read_row_columns
from bayesmtl.errors import DataError, SpecificationError, UnknownTaskError, listing
from bayesmtl.options import check_flag, names

Parts = dict[str, Any]


def parts_of_frame(
    frame: pd.DataFrame,
    task: str,
    target: str,
    features: Sequence[str],
    intercept: bool,
    descriptors: Any,
    further: Mapping[str, Any],
) -> Parts:
    """The parts of `TaskData.from_frame`."""
    frame = _filled(frame)
    check_flag("intercept", intercept)
    task, target = _column_name(task, "task", frame), _column_name(target, "target", frame)
    shown = features if isinstance(features, str) else "intake"
    features = names(
        "features", features, example=f'Write features=["{shown}"], or use TaskData.from_formula.'
    )
    _refuse_double_use(task, target, (target,), features)
    parts = _tasks_of(take_column(frame, task, "task"), task, descriptors)
    parts |= read_row_columns(frame, (task, target), further)
    y, classes = read_target(take_column(frame, target, "target"), target)
    design = Design.from_columns(features, frame, intercept=intercept)
    return parts | {
        "X": design.encode(frame),
        "y": y,
        "classes": classes,
        "design": design,
        "target_name": target,
        "index": frame.index,
    }


def parts_of_formula(
    formula: str, frame: pd.DataFrame, task: str, descriptors: Any, further: Mapping[str, Any]
) -> Parts:
    """The parts of `TaskData.from_formula`."""
    parsed = parse_formula(formula)
    if parsed.response is None:
        raise SpecificationError(
            "formula",
            expected="a response on the left of '~'",
            found=repr(formula),
            remedy='Write "score ~ ..." with the target column, or an expression such as log(score).',
        )
    frame, target = _filled(frame), parsed.response
    task = _column_name(task, "task", frame)
    response = None if parsed.response_is_column else Design.from_response(target, frame)
    target_columns = (target,) if response is None else response.columns
    _refuse_double_use(task, target, target_columns, [source.column for source in parsed.sources])
    parts = _tasks_of(take_column(frame, task, "task"), task, descriptors)
    parts |= read_row_columns(frame, (task, *target_columns), further)
    if response is None:
        y, classes = read_target(take_column(frame, target, "target"), target)
    else:
        y, classes = response.encode_target(frame), ()
    design = Design.from_formula(parsed, frame)
    parts |= {"X": design.encode(frame), "y": y, "classes": classes, "design": design}
    return parts | {"target_name": target, "response": response, "index": frame.index}


def parts_of_arrays(
    X: Any,
    y: Any,
    task: Any,
    feature_names: Sequence[str] | None,
    intercept: bool,
    descriptors: Any,
    task_column: str,
    target_name: str,
    further: Mapping[str, Any],
) -> Parts:
    """The parts of `TaskData.from_arrays`."""
    check_flag("intercept", intercept)
    table = _feature_table(X, feature_names)
    _refuse_other_order(X, y, "y")
    _refuse_other_order(X, task, "task")
    target, labels = _vector(y, "y", missing=True), _vector(task, "task")
    if not len(table) == len(target) == len(labels):
        raise DataError(
            "X",
            expected="X, y and task with the same number of rows",
            found=f"{len(table)}, {len(target)} and {len(labels)}",
            remedy="Give one target and one task label per row of X.",
        )
    _filled(table)
    parts = _tasks_of(labels, task_column, descriptors)
    parts |= read_row_columns(table, (task_column, target_name), further)
    design = Design.from_columns(list(table.columns), table, intercept=intercept)
    index = X.index if isinstance(X, pd.DataFrame) else None
    y, classes = read_target(target, target_name)
    parts |= {"X": design.encode(table), "y": y, "classes": classes, "design": design}
    return parts | {"target_name": target_name, "index": index}


def parts_of_wide(
    X: Any,
    Y: Any,
    tasks: Sequence[Any] | None,
    feature_names: Sequence[str] | None,
    intercept: bool,
    descriptors: Any,
    task_column: str,
    target_name: str,
    further: Mapping[str, Any],
) -> Parts:
    """The parts of `TaskData.from_wide`: every cell of Y becomes a row, in the order of Y's rows."""
    check_flag("intercept", intercept)
    table = _feature_table(X, feature_names)
    _refuse_other_order(X, Y, "Y")
    cells = Y if isinstance(Y, pd.DataFrame) else pd.DataFrame(_two_dimensional(Y, "Y", missing=True))
    if tasks is not None and (isinstance(tasks, (str, bytes)) or not np.iterable(tasks)):
        raise SpecificationError(
            "tasks",
            expected="a list of names, one for each column of Y",
            found=repr(tasks),
            remedy='Write tasks=["a", "b"].',
        )
    labels = [label_of(name) for name in (cells.columns if tasks is None else tasks)]
    num_rows, num_tasks = cells.shape
    if len(table) != num_rows or len(labels) != num_tasks or not num_tasks:
        raise DataError(
            "Y",
            expected="one row per row of X and one column per task",
            found=f"shape {cells.shape} with {len(table)} rows of X and {len(labels)} tasks",
            remedy="Put tasks in columns; np.nan marks what was not observed.",
        )
    _filled(table)
    ordered = pd.Categorical.from_codes(
        np.tile(np.arange(num_tasks), num_rows), categories=pd.Index(_distinct(labels))
    )
    parts = _tasks_of(pd.Series(ordered), task_column, descriptors)
    design = Design.from_columns(list(table.columns), table, intercept=intercept)
    columns = [
        numbers(cells.iloc[:, position], name, role="the targets of a task")
        for position, name in enumerate(labels)
    ]
    index = X.index.repeat(num_tasks) if isinstance(X, pd.DataFrame) else None
    of_cells = {
        role: None if value is None else _of_cells(value, role, X, cells) for role, value in further.items()
    }
    long = pd.DataFrame(index=pd.RangeIndex(num_rows * num_tasks) if index is None else index)
    parts |= read_row_columns(long, (task_column, target_name), of_cells)
    parts |= {"X": np.repeat(design.encode(table), num_tasks, axis=0), "y": np.stack(columns, axis=1).ravel()}
    return parts | {"design": design, "target_name": target_name, "index": index}


def _of_cells(values: Any, role: str, X: Any, Y: pd.DataFrame) -> np.ndarray:
    """One value for every cell of Y, row by row, from those or from one for every row."""
    _refuse_other_order(X, values, role)
    other = isinstance(values, pd.DataFrame) and list(values.columns) != list(Y.columns)
    array = plain_array(values, role)
    if other or array.shape not in ((len(Y),), Y.shape):
        raise DataError(
            role,
            expected=f"one value for each of {len(Y)} rows, or a table like Y, {Y.shape}",
            found="other columns" if other else f"shape {array.shape}",
            remedy="A column is said of all tasks, a table task by task, in the order of Y's columns.",
        )
    return np.repeat(array, Y.shape[1]) if array.ndim == 1 else array.ravel()


def table_of_descriptors(descriptors: Any, task_names: Sequence[str], task_column: str) -> pd.DataFrame:
    """Descriptors with one row per task, in the order of the tasks; rows of other tasks are left out.

    Raises:
        DataError: If it is no frame, a task occurs twice, or a value is missing.
        UnknownTaskError: If a task of the data has no row.
    """
    if not isinstance(descriptors, pd.DataFrame):
        raise DataError(
            "descriptors",
            expected="a DataFrame with one row per task, indexed by the task labels",
            found=type(descriptors).__name__,
            remedy=f'Write descriptors=table.set_index("{task_column}").',
        )
    codes, names = encode_labels(descriptors.index.to_series().reset_index(drop=True), "descriptors")
    table = named_columns(descriptors).set_axis(pd.Index(np.array(names, dtype=object)[codes]), axis=0)
    repeated = list(dict.fromkeys(table.index[table.index.duplicated()]))
    absent = [name for name in task_names if name not in names]
    if repeated:
        raise DataError(
            "descriptors",
            expected="one row per task",
            found=f"several rows for {listing(repeated)}",
            remedy=f"Index the table by the labels of '{task_column}' and keep one row for each.",
        )
    if absent:
        raise UnknownTaskError(
            "descriptors",
            expected="a row for every task",
            found=f"none for {listing(absent)}",
            remedy=f"Index the table by the labels of '{task_column}' and add these rows.",
        )
    table = table.loc[list(task_names)].rename_axis(index=task_column)
    holes = table.isna()
    for column in table.columns[holes.any()]:
        raise DataError(
            str(column),
            expected="a descriptor for every task",
            found=f"none for {listing(list(table.index[holes[column]]))}",
            remedy="Fill these values in, or leave the descriptor out.",
        )
    return table


def _column_name(value: Any, role: str, frame: pd.DataFrame) -> str:
    """The name of a column, which was meant to be one.

    Raises:
        SpecificationError: If it holds the values, or names a level of the index.
    """
    if isinstance(value, (pd.Series, pd.Index, np.ndarray, list, tuple)):
        raise SpecificationError(
            role,
            expected="the name of a column of the frame",
            found=f"values ({type(value).__name__})",
            remedy=f"Put them in the frame, frame.assign({role}=...), and pass {role}='{role}'.",
        )
    if value is not None and value not in frame.columns and value in frame.index.names:
        raise SpecificationError(
            role,
            expected="the name of a column of the frame",
            found=f"'{value}', which is a level of its index",
            remedy="Pass frame.reset_index().",
        )
    return str(value)


def _filled(frame: pd.DataFrame) -> pd.DataFrame:
    frame = named_columns(frame)
    if len(frame) == 0:
        raise DataError(
            "frame",
            expected="at least one row",
            found="none",
            remedy="Check the filter or the file that the data came from.",
        )
    return frame


def _tasks_of(labels: pd.Series[Any], column: str, descriptors: Any) -> Parts:
    codes, names = encode_labels(labels, column)
    table = None if descriptors is None else table_of_descriptors(descriptors, names, column)
    return {"task": codes, "task_names": names, "task_column": column, "descriptors": table}


def _refuse_double_use(
    task: str, target: str, target_columns: Sequence[str], features: Sequence[str]
) -> None:
    if task == target or task in target_columns:
        roles = "the task and the target"
        name = task
    elif task in features:
        roles, name = "the task and a feature", task
    elif set(target_columns) & set(features):
        roles, name = "the target and a feature", next(c for c in target_columns if c in features)
    else:
        return
    raise DataError(
        name,
        expected="a column with one role",
        found=f"it named as {roles}",
        remedy="Leave it out of the features; a task's own level is what its intercept is for.",
    )


def _feature_table(X: Any, feature_names: Sequence[str] | None) -> pd.DataFrame:
    values = X if isinstance(X, pd.DataFrame) else pd.DataFrame(_two_dimensional(X, "X"))
    if feature_names is not None:
        labels = names("feature_names", feature_names, example='Write feature_names=["x0", "x1"].')
    elif isinstance(X, pd.DataFrame):
        labels = [str(name) for name in X.columns]
    else:
        labels = [f"x{position}" for position in range(values.shape[1])]
    if len(labels) != values.shape[1]:
        raise DataError(
            "feature_names",
            expected=f"one name for each of {values.shape[1]} columns of X",
            found=f"{len(labels)} names",
            remedy="Do not name the intercept; it is added by intercept=True.",
        )
    return values.set_axis(_distinct(labels, "feature_names"), axis=1)


def _refuse_other_order(X: Any, other: Any, name: str) -> None:
    """Rows are matched by position; two frames whose row labels disagree were meant to be joined first."""
    labelled = isinstance(X, pd.DataFrame) and isinstance(other, (pd.DataFrame, pd.Series))
    if labelled and len(X) == len(other) and not X.index.equals(other.index):
        raise DataError(
            name,
            expected="the same row labels as X, in the same order",
            found="other row labels",
            remedy=f"Align it first, for example with {name}.reindex(X.index), or pass {name}.to_numpy().",
        )


def _distinct(names: list[str], parameter: str = "tasks") -> list[str]:
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if repeated:
        raise DataError(
            parameter,
            expected="different names",
            found=f"{listing(repeated)} more than once",
            remedy="Give every column its own name.",
        )
    return names


def _two_dimensional(values: Any, name: str, *, missing: bool = False) -> np.ndarray:
    array = plain_array(values, name, missing=missing)
    if array.ndim != 2:
        raise DataError(
            name,
            expected="an array with two dimensions",
            found=f"shape {array.shape}",
            remedy="Put rows first and columns second; one column has shape (n, 1).",
        )
    return array


def _vector(values: Any, name: str, *, missing: bool = False) -> pd.Series[Any]:
    if isinstance(values, (pd.Series, pd.Categorical, pd.Index)):
        return pd.Series(values).reset_index(drop=True)
    # a list of mixed labels must not become an array of strings, in which 1 and "1" are the same
    if isinstance(values, (list, tuple)):
        array = np.empty(len(values), dtype=object)
        array[:] = values if all(np.ndim(value) == 0 for value in values) else [None] * len(values)
        shape = np.shape(plain_array(values, name))
    else:
        array = plain_array(values, name, missing=missing)
        shape = array.shape
    if len(shape) != 1:
        tables = "Use TaskData.from_wide for targets with a column per task."
        raise DataError(
            name,
            expected="one value per row",
            found=f"shape {shape}",
            remedy=tables if name == "y" else "Give one label per row; several columns can be joined.",
        )
    return pd.Series(array)
