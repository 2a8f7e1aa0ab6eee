"""Further rows, of new or known tasks: heads are updated, the trunks stay."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd

from bayesmtl.data import TaskData
from bayesmtl.errors import ConvergenceWarning, DataError, SpecificationError
from bayesmtl.results.deep.state import DeepState


def condition(
    state: DeepState, new: pd.DataFrame | TaskData | tuple[Any, ...], descriptors: pd.DataFrame | None
) -> DeepState:
    """See `DeepFit.condition`."""
    if not state.heads[0].likelihood.compresses:
        raise SpecificationError(
            "likelihood",
            expected="Gaussian noise, to update heads by further rows",
            found=f"{type(state.heads[0].likelihood).__name__}, whose heads are at their mode",
            remedy="Fit again with all rows.",
        )
    rows = state.schema.encode(new)
    if np.isnan(rows.y).all():
        raise DataError(
            "new",
            expected="at least one row with a target",
            found="none",
            remedy=f"Put the column '{state.schema.target_name}' into the new rows.",
        )
    table = state.described(new, descriptors, state.unknown(rows))
    heads, said = [], []
    for head, own in zip(state.heads, state.of_members(rows), strict=True):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            heads.append(head.condition(own, descriptors=table))
        said += [str(entry.message) for entry in caught]
    for message in dict.fromkeys(said):
        warnings.warn(message, ConvergenceWarning, stacklevel=3)
    return state.with_heads(tuple(heads))
