"""Predictions of an ensemble: the draws of its members, one behind the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from bayesmtl.data import TaskData
from bayesmtl.options import whole_number
from bayesmtl.results.deep.state import DeepState
from bayesmtl.results.prediction import Kind, Prediction
from bayesmtl.results.similarity import TaskSimilarity


def predict(
    state: DeepState,
    new: pd.DataFrame | TaskData | tuple[Any, ...],
    kind: Kind,
    new_tasks: Literal["error", "population"],
    descriptors: pd.DataFrame | None,
    num_draws: int,
) -> Prediction:
    """See `DeepFit.predict`."""
    rows = state.schema.encode(new, targets=False)
    unknown = state.unknown(rows)
    if unknown and new_tasks == "error":
        raise state.refuse(unknown, 'Pass new_tasks="population" to predict it from the population.')
    table, number = state.described(new, descriptors, unknown), _per_member(state, num_draws)
    predictions = [
        head.predict(own, kind=kind, new_tasks=new_tasks, descriptors=table, num_draws=number)
        for head, own in zip(state.heads, state.of_members(rows), strict=True)
    ]
    mean = np.mean([prediction.mean for prediction in predictions], axis=0)
    draws = _behind([prediction.draws for prediction in predictions])
    index = pd.RangeIndex(len(mean)) if rows.index is None else rows.index
    return replace(predictions[0], draws=draws, mean=mean, index=index)


def task_similarity(
    state: DeepState,
    relative_to: Literal["nothing", "population"],
    tasks: Sequence[str] | None,
    reference: pd.DataFrame | TaskData | None,
    kind: Literal["function", "structure"],
    num_draws: int,
) -> TaskSimilarity:
    """See `DeepFit.task_similarity`."""
    if reference is None:
        references: Sequence[TaskData | None] = [None] * len(state.heads)
    else:
        references = state.of_members(state.schema.encode(reference, targets=False))
    number = _per_member(state, num_draws)
    parts = [
        head.task_similarity(relative_to=relative_to, tasks=tasks, reference=own, kind=kind, num_draws=number)
        for head, own in zip(state.heads, references, strict=True)
    ]
    return replace(parts[0], draws=_behind([part.draws for part in parts]))


def _per_member(state: DeepState, num_draws: int) -> int:
    return max(1, round(whole_number("num_draws", num_draws, 1) / len(state.heads)))


def _behind(draws: Sequence[xr.DataArray]) -> xr.DataArray:
    """Draws of all members, numbered anew."""
    whole = xr.concat(list(draws), dim="draw")
    return whole.assign_coords(draw=np.arange(whole.sizes["draw"]))
