"""Rows that a fit is asked about, or told of: encoded, with the tasks it does not know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch

from bayesmtl.data import NewRows, Schema, Standardization, TaskData, descriptor_matrix, descriptors_of_new
from bayesmtl.errors import DataError, SpecificationError
from bayesmtl.likelihoods import Likelihood
from bayesmtl.sharing import Sharing


class Known(Protocol):
    """What of a fit decides how new rows are read."""

    @property
    def sharing(self) -> Sharing:
        """The sharing prior."""

    @property
    def likelihood(self) -> Likelihood:
        """The likelihood."""

    @property
    def schema(self) -> Schema:
        """How rows become features."""

    @property
    def standardization(self) -> Standardization:
        """Between the user's units and the standardised ones."""

    @property
    def added_tasks(self) -> tuple[str, ...]:
        """Tasks that came in through `condition`."""

    def generator(self, purpose: int, *names: str) -> np.random.Generator:
        """Randomness derived from the fit's seed, one stream per purpose and names."""


@dataclass(frozen=True, eq=False)
class AskedRows:
    """Rows to predict.

    Args:
        rows: The encoded rows.
        codes: Task of each row, (n,); known tasks first, then `unknown`.
        unknown: Names of the tasks that the fit does not know, in alphabetical order.
        descriptors: Their descriptors, standardised, (tasks, Q), where the sharing prior looks at any.
    """

    rows: NewRows
    codes: np.ndarray
    unknown: tuple[str, ...]
    descriptors: torch.Tensor | None

    @cached_property
    def order(self) -> np.ndarray:
        """An order of the rows that does not depend on how they were given, (n,).

        By task, then by the values of the row, then by its label; what is drawn in this order stays with its
        row when rows change places.
        """
        rows = self.rows
        label = None if rows.index is None else rows.index.astype(str).to_numpy(dtype=str)
        keys = [part for part in (label, rows.trials, rows.offset) if part is not None]
        return np.lexsort([*keys, *rows.X.T[::-1], self.codes])  # the last key counts first


@dataclass(frozen=True, eq=False)
class FurtherRows:
    """Rows with targets, to be taken into account.

    Args:
        rows: The encoded rows that have a target.
        codes: Task of each row, (n,), by the names of `schema`.
        added: Names of the tasks that the fit did not know, in alphabetical order.
        schema: The fit's, which knows them.
        standardization: The same.
        likelihood: The fit's, of these tasks.
        descriptors: Of the added tasks, standardised, (tasks, Q), where the sharing prior looks at any.
    """

    rows: NewRows
    codes: np.ndarray
    added: tuple[str, ...]
    schema: Schema
    standardization: Standardization
    likelihood: Likelihood
    descriptors: torch.Tensor | None

    def behind(self, data: TaskData) -> TaskData:
        """The rows of the fit, and these behind them."""
        further: dict[str, Any] = {
            name: None
            if (old := getattr(data, name)) is None
            else np.concatenate([old, getattr(self.rows, name)])
            for name in ("offset", "weights", "trials")
        }
        return replace(
            data,
            X=np.concatenate([data.X, self.rows.X]),
            y=np.concatenate([data.y, self.rows.y]),
            task=np.concatenate([data.task, self.codes]),
            task_names=self.schema.task_names,
            index=None,
            descriptors=None,
            **further,
        )


def asked_rows(known: Known, new: Any, descriptors: Any) -> AskedRows:
    """Read rows to predict; targets are not looked at.

    Args:
        known: The fit.
        new: The rows, as `predict` takes them.
        descriptors: Of tasks that are not known, as `predict` takes them.

    Raises:
        DataError: If a column is missing or holds something unseen, or descriptors are missing.
        SpecificationError: If there are descriptors and the prior looks at none.
    """
    rows = known.schema.encode(new, targets=False)
    codes, unknown = _coded(known.schema, rows.task_labels)
    described = _describe(known, new, descriptors, unknown)
    return AskedRows(rows, codes, unknown, standardised(known, described))


def further_rows(known: Known, new: Any, descriptors: Any) -> FurtherRows:
    """Read rows to take into account; those without a target do not count.

    Args:
        known: The fit.
        new: The rows, as `condition` takes them.
        descriptors: Of tasks that are not known, as `condition` takes them.

    Raises:
        DataError: If no row has a target, one has a target that the likelihood gives no probability, or
            they lack the weights that the training rows have.
        SpecificationError: If tasks are standardised one by one and a task is new.
    """
    schema = known.schema
    rows = schema.encode(new)
    observed = ~np.isnan(rows.y)
    if not observed.any():
        raise DataError(
            schema.target_name,
            expected="at least one row with a target",
            found="none",
            remedy="Use predict for rows without targets.",
        )
    if "weights" in schema.row_columns and rows.weights is None:
        raise DataError(
            schema.row_columns["weights"],
            expected="the weights of the new rows, as the training rows have them",
            found="no such column",
            remedy="Give the column; 1 counts a row once.",
        )
    rows = _only(rows, observed)
    codes, added = _coded(schema, rows.task_labels)
    described = _describe(known, new, descriptors, added)
    table = schema.descriptors if known.sharing.descriptor_names else None
    if described is not None:
        table = pd.concat([table, described])
    wider = replace(schema, task_names=(*schema.task_names, *added), descriptors=table)
    standardization = known.likelihood.extended(known.standardization, schema.task_names, added)
    likelihood = known.likelihood.of_tasks(wider.task_names, standardization.target_scale)
    likelihood.check_targets(rows.y, codes, schema.target_name, rows.trials)
    return FurtherRows(rows, codes, added, wider, standardization, likelihood, standardised(known, described))


def standardised(known: Known, table: pd.DataFrame | None) -> torch.Tensor | None:
    """Descriptors (T, Q) in units of the training tasks, where the sharing prior looks at any."""
    names, training = known.sharing.descriptor_names, known.schema.descriptors
    if not names or training is None or table is None:
        return None
    return torch.from_numpy(
        descriptor_matrix(table, names, training.iloc[: len(training) - len(known.added_tasks)])
    )


def _coded(schema: Schema, labels: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Positions of the rows' tasks, those that are not known behind the others, and their names."""
    codes = schema.codes(labels)
    # drawn in an order of their own: the same names get the same draws, whatever row comes first
    unknown = sorted({str(label) for label in labels[codes < 0]})
    position = {name: len(schema.task_names) + i for i, name in enumerate(unknown)}
    codes[codes < 0] = [position[str(label)] for label in labels[codes < 0]]
    return codes, tuple(unknown)


def _only(rows: NewRows, chosen: np.ndarray) -> NewRows:
    """The rows of a mask."""
    given = {field.name: getattr(rows, field.name) for field in fields(rows)}
    parts: dict[str, Any] = {name: None if part is None else part[chosen] for name, part in given.items()}
    return replace(rows, **parts)


def _describe(known: Known, new: Any, descriptors: Any, tasks: Sequence[str]) -> pd.DataFrame | None:
    """Descriptors of tasks that are not known, one row each, where the sharing prior looks at any."""
    if not known.sharing.descriptor_names:
        if descriptors is not None:
            raise SpecificationError(
                "descriptors",
                expected=f"none: {type(known.sharing).__name__} does not look at them",
                found=type(descriptors).__name__,
                remedy="Leave them out, or fit with Gated(num_clusters, descriptors=[...]).",
            )
        return None
    if not tasks:
        return None
    return descriptors_of_new(new, descriptors, tasks, known.schema)
