"""What a TaskData says about itself, as text and as HTML."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

import numpy as np

from bayesmtl.data.robust import UNLIKE, outliers, ratio_of_sizes
from bayesmtl.data.row_columns import ARRAYS, as_columns
from bayesmtl.data.standardization import is_constant
from bayesmtl.data.table import TaskTable
from bayesmtl.errors import listing

_SHOWN = 4  # outliers
_STANDARDIZED = {
    "pooled": "standardised over all tasks",
    "task": "standardised task by task",
    "none": "not standardised",
}


def title(data: TaskTable) -> str:
    """One line: how many tasks, rows and features."""
    return (
        f"TaskData: {_count(data.num_tasks, 'task')}, {_count(data.num_rows, 'row')}, "
        f"{_count(data.num_features, 'feature')}"
    )


def lines(data: TaskTable) -> list[tuple[str, str]]:
    """The facts, each with its name."""
    counts = data.rows_per_task
    missing = data.num_rows - int(data.observed.sum())
    told = [
        ("tasks", f"{data.task_column}: {listing(data.task_names)}"),
        ("rows per task", _spread(counts)),
        ("target", f"{data.target_name}, {_scale(data)}"),
        ("missing targets", f"{missing} of {data.num_rows}{_unobserved_tasks(data)}"),
        ("features", listing(data.feature_names, limit=12)),
        ("constant features", _names([*data.constant_features, *_single_level(data)])),
        ("never vary inside any task", _names(data.features_constant_within_tasks)),
        ("duplicated features", _names(f"{first} = {second}" for first, second in data.duplicated_features)),
    ]
    if missing:
        told.insert(2, ("targets per task", _spread(data.observed_per_task)))
    ordered = [variable.column for variable in data.design.variables if variable.ordered]
    if ordered:
        told.append(("order of levels not used", _names(ordered)))
    if is_constant(data.y[data.observed]) and data.classes:
        told.append(("constant target", f"{data.target_labels[data.observed][0]} in every observed row"))
    elif is_constant(data.y[data.observed]):
        told.append(("constant target", f"{data.y[data.observed][0]:g} in every observed row"))
    far = "" if data.classes else _outliers(data)
    if far:
        told.append(("outliers", f"{far}: far from the median of their task; StudentT() bears them"))
    arrays = {name: getattr(data, name) for name in ARRAYS}
    for role, values in zip(data.row_columns, as_columns(arrays, data.row_columns).values(), strict=True):
        told.append((role, f"{data.row_columns[role]}, {values.min():g} to {values.max():g}"))
    if data.descriptors is not None:
        told.append(("task descriptors", _names(map(str, data.descriptors.columns))))
    return told


def as_text(data: TaskTable) -> str:
    """The facts in aligned lines."""
    told = lines(data)
    width = max(len(name) for name, _ in told)
    return "\n".join([title(data), *(f"  {name:<{width}}  {fact}" for name, fact in told)])


def as_html(data: TaskTable) -> str:
    """The facts as a small table for notebooks; names are escaped."""
    left = 'style="text-align: left"'
    rows = "".join(
        f"<tr><th {left}>{escape(name)}</th><td {left}>{escape(fact)}</td></tr>" for name, fact in lines(data)
    )
    return f"<div><strong>{escape(title(data))}</strong><table>{rows}</table></div>"


def _spread(counts: np.ndarray) -> str:
    return f"min {counts.min()}, median {np.median(counts):g}, max {counts.max()}"


def _scale(data: TaskTable) -> str:
    if data.classes:
        return f"classes {listing(data.classes)}"
    if data.target_standardization != "auto":
        return _STANDARDIZED[data.target_standardization]
    told, targets = _STANDARDIZED[data.standardization().target], _observed_by_task(data)
    ratio = ratio_of_sizes(targets, [None] * len(targets))
    if ratio <= UNLIKE:
        return told
    alone = [name for name, y in zip(data.task_names, targets, strict=True) if is_constant(y)]
    but = f", though the target does not vary in {listing(alone)}" if alone else ""
    return f"{told}{but}: sizes differ between tasks by a factor of {ratio:.0e}"


def _observed_by_task(data: TaskTable) -> list[np.ndarray]:
    y, task = data.y[data.observed], data.task[data.observed]
    ends = np.cumsum(np.bincount(task, minlength=data.num_tasks))[:-1]
    return np.split(y[np.argsort(task, kind="stable")], ends)


def _outliers(data: TaskTable) -> str:
    """Targets that lie far from the others of their task, the farthest first."""
    found: list[tuple[float, str]] = []
    for name, y in zip(data.task_names, _observed_by_task(data), strict=True):
        far = y[outliers(y)]
        found += [(float(abs(value / 2 - np.median(y) / 2)), f"{value:g} in {name}") for value in far]
    words = [told for _, told in sorted(found, reverse=True)]
    return ", ".join(words[:_SHOWN]) + (f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else "")


def _unobserved_tasks(data: TaskTable) -> str:
    seen = data.observed_per_task
    unseen = [name for name, count in zip(data.task_names, seen, strict=True) if count == 0]
    return f"; no target at all in {listing(unseen)}" if unseen else ""


def _single_level(data: TaskTable) -> list[str]:
    """Categories with one level: beside an intercept they give no feature, so they are named here."""
    return [
        f"{variable.column} (only {variable.levels[0]})"
        for variable in data.design.variables
        if variable.kind == "category" and len(variable.levels) == 1
    ]


def _names(names: Iterable[str]) -> str:
    return listing(list(names)) or "none"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
