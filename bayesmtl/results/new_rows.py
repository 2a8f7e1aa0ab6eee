"""Descriptors of the tasks of a fit, and of tasks that it does not know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import torch

from bayesmtl.data import descriptor_matrix, descriptors_of_new
from bayesmtl.errors import SpecificationError

if TYPE_CHECKING:
    from bayesmtl.results.linear.fit import Fit


class Described(NamedTuple):
    """Descriptors of tasks that are not known.

    Attributes:
        table: One row per task, or None where nothing looks at them.
        standardised: Shape (T, Q), or None.
    """

    table: pd.DataFrame | None
    standardised: torch.Tensor | None


def standardised(fit: Fit, table: pd.DataFrame | None) -> torch.Tensor | None:
    """Descriptors (T, Q) in units of the training tasks, where the sharing prior looks at any."""
    names, training = fit.sharing.descriptor_names, fit.schema.descriptors
    if not names or training is None:
        return None
    known = training.iloc[: len(training) - len(fit.added_tasks)]
    return torch.from_numpy(descriptor_matrix(table, names, known))


def describe_new(fit: Fit, new: Any, descriptors: Any, tasks: Sequence[str]) -> Described:
    """Descriptors of tasks that are not known, where the sharing prior looks at any.

    Args:
        fit: The fit.
        new: Rows that name the tasks, as `predict` takes them.
        descriptors: Their descriptors, as `predict` takes them.
        tasks: Their names.

    Raises:
        DataError: If the prior needs descriptors and there are none.
        SpecificationError: If there are descriptors and the prior looks at none.
    """
    if not fit.sharing.descriptor_names:
        if descriptors is not None:
            raise SpecificationError(
                "descriptors",
                expected=f"none: {type(fit.sharing).__name__} does not look at them",
                found=type(descriptors).__name__,
                remedy="Leave them out, or fit with Gated(num_clusters, descriptors=[...]).",
            )
        return Described(None, None)
    if not tasks:
        return Described(None, None)
    table = descriptors_of_new(new, descriptors, tasks, fit.schema)
    return Described(table, standardised(fit, table))
