"""What a fit of a network holds: trunks of an ensemble, and a linear fit of the heads on each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from bayesmtl.data import TaskData
from bayesmtl.features import FeatureMap
from bayesmtl.posteriors.deep import Trained
from bayesmtl.results.base import Fit, Frame
from bayesmtl.results.linear.fit import LinearFit
from bayesmtl.results.new_rows import AskedRows, FurtherRows


@dataclass(frozen=True, eq=False)
class EnsembleDraws:
    """Hyperparameters of the heads of all members, chains behind each other.

    Args:
        hyperparameters: By name, each (C, N, ...).
        sample_stats: By name, each (C, N).
        complete: Whether all draws that were asked for are there.
        shape: C, of all members together, and N.
    """

    hyperparameters: dict[str, torch.Tensor]
    sample_stats: dict[str, np.ndarray]
    complete: bool
    shape: tuple[int, int]

    @classmethod
    def of(cls, heads: Sequence[LinearFit]) -> EnsembleDraws:
        """Those of the members' heads."""
        first = heads[0].draws
        values = {
            name: torch.cat([head.draws.hyperparameters[name] for head in heads])
            for name in first.hyperparameters
        }
        shared = [
            name for name in first.sample_stats if all(name in head.draws.sample_stats for head in heads)
        ]
        stats = {name: np.concatenate([head.draws.sample_stats[name] for head in heads]) for name in shared}
        C, N = first.shape
        return cls(values, stats, all(head.complete for head in heads), (len(heads) * C, N))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class DeepState(Fit):
    """Trunks of an ensemble with the heads on each.

    Args:
        trained: The trunks and how their training went.
        heads: One linear fit for each member, on the columns of its trunk.
    """

    draws: EnsembleDraws
    data: TaskData
    trained: Trained
    heads: tuple[LinearFit, ...]

    @property
    def features(self) -> FeatureMap:
        """The map from inputs to the heads' columns."""
        return self.trained.features

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the heads' columns."""
        return self.heads[0].feature_names

    @cached_property
    def posterior(self) -> xr.Dataset:
        """All draws of the heads with names; `member` says along `chain` which trunk they belong to.

        Weights of different members are in different coordinates: averages over them mean nothing.
        """
        whole = xr.concat([head.posterior for head in self.heads], dim="chain", combine_attrs="override")
        member = np.repeat(np.arange(len(self.heads)), self.heads[0].num_chains_and_draws[0])
        return whole.assign_coords(chain=np.arange(len(member)), member=("chain", member))

    def asked_of(self, asked: AskedRows) -> list[AskedRows]:
        """Rows to predict as every member's heads see them."""
        return [replace(asked, rows=replace(asked.rows, X=own)) for own in self.features(asked.rows.X)]

    def further_of(self, further: FurtherRows) -> list[FurtherRows]:
        """Rows to take into account as every member's heads see them."""
        known, added = self.schema.task_names, further.added
        parts = []
        for own, head in zip(self.features(further.rows.X), self.heads, strict=True):
            schema = replace(
                head.schema, task_names=further.schema.task_names, descriptors=further.schema.descriptors
            )
            standardization = head.likelihood.extended(head.standardization, known, added)
            rows = replace(further.rows, X=own)
            parts.append(replace(further, rows=rows, schema=schema, standardization=standardization))
        return parts

    def reference_of(self, reference: Frame | None) -> Sequence[pd.DataFrame | None]:
        """Reference inputs as every member's heads read them."""
        if reference is None:
            return [None] * len(self.heads)
        rows = self.schema.encode(reference, targets=False)
        first = int(self.data.has_intercept)
        frames = []
        for own in self.features(rows.X):
            frame = pd.DataFrame(own[:, first:], columns=list(self.feature_names[first:]))
            further: dict[str, Any] = {self.schema.task_column: rows.task_labels}
            frames.append(frame.assign(**further, **dict.fromkeys(self.schema.row_columns.values(), 1.0)))
        return frames

    def of_heads(self, value: Callable[[LinearFit], pd.DataFrame]) -> pd.DataFrame:
        """A table of every member, one behind the other."""
        return pd.concat({m: value(head) for m, head in enumerate(self.heads)}, names=["member"])
