"""The fit of a network: trunks of an ensemble, and exact or modal heads on each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
import xarray as xr

from bayesmtl.diagnostics import Check
from bayesmtl.errors import SpecificationError
from bayesmtl.results import files
from bayesmtl.results.deep.check import check
from bayesmtl.results.deep.files import contents
from bayesmtl.results.deep.state import DeepState, EnsembleDraws
from bayesmtl.results.evidence import Evidence
from bayesmtl.results.leave_one_out import Pointwise
from bayesmtl.results.new_rows import AskedRows, FurtherRows
from bayesmtl.results.prediction import Kind, Latent


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class DeepFit(DeepState):
    """Trunks of an ensemble with the posterior of the tasks' heads on each. See `Fit` for what it answers.

    Made by `DeepModel.fit`; not constructed by hand. `heads` holds one linear fit per member. Draws of
    predictions and of similarities come from all members in equal parts. Where heads are at their mode
    (`method` is "mode") latent draws differ between members only. `condition` updates heads; trunks stay.
    """

    @cached_property
    def _verdict(self) -> Check:
        return check(self)

    def summary(self, mass: float = 0.9) -> pd.DataFrame:
        """Summarise population and hyperparameters of the heads, as for linear models, by member.

        Args:
            mass: Of the central interval.
        """
        return self.of_heads(lambda head: head.summary(mass))

    def coefficients(self, mass: float = 0.9) -> pd.DataFrame:
        """Weights of the heads, by member, task and feature; features differ from member to member.

        Args:
            mass: Of the central interval.
        """
        return self.of_heads(lambda head: head.coefficients(mass))

    def to_datatree(self) -> xr.DataTree:
        """ArviZ groups of every member's heads, one branch `member_0`, `member_1` and so on for each."""
        groups = {
            f"member_{m}/{group}": node.to_dataset()
            for m, head in enumerate(self.heads)
            for group, node in head.to_datatree().children.items()
        }
        tree = xr.DataTree.from_dict(groups)
        tree.attrs.update(method=self.method, reason=self.reason, seed=self.seed)
        return tree

    @property
    def log_evidence(self) -> Evidence:
        """See `Fit.log_evidence`.

        Raises:
            SpecificationError: If a trunk was trained: it has seen the rows, and no prior integrates it out.
        """
        self._refuse_trained("the evidence")
        return self.heads[0].log_evidence

    def _refuse_trained(self, what: str) -> None:
        if self.features.weights:
            raise SpecificationError(
                "trunk",
                expected=f"one without weights, for {what}",
                found=f"{type(self.features.trunk).__name__}, which was trained on all rows",
                remedy="Hold rows out: compare predictions of rows that the fit has not seen.",
            )

    def _latent(self, asked: AskedRows, kind: Kind, num_draws: int, joint: bool) -> Latent:
        number = self._per_member(num_draws)
        parts = [
            head._latent(own, kind, number, joint)
            for head, own in zip(self.heads, self.asked_of(asked), strict=True)
        ]
        values = {name: torch.cat([part.values[name] for part in parts]) for name in parts[0].values}
        known = [part.mean for part in parts if part.mean is not None]
        mean = np.mean(known, axis=0) if len(known) == len(parts) else None
        draws, noise = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("draws", "noise")
        )
        return Latent(draws, values, noise, mean, len(draws))

    def _per_member(self, num_draws: int) -> int:
        return max(1, round(num_draws / len(self.heads)))

    def _conditioned(self, further: FurtherRows) -> Self:
        if not self.likelihood.compresses:
            raise SpecificationError(
                "likelihood",
                expected="Gaussian noise, to update heads by further rows",
                found=f"{type(self.likelihood).__name__}, whose heads are at their mode",
                remedy="Fit again with all rows.",
            )
        heads = tuple(
            head._conditioned(own) for head, own in zip(self.heads, self.further_of(further), strict=True)
        )
        return replace(
            self,
            heads=heads,
            draws=EnsembleDraws.of(heads),
            schema=further.schema,
            standardization=heads[0].standardization,
            likelihood=heads[0].likelihood,
            added_tasks=heads[0].added_tasks,
        )

    def _similarity(
        self, kind: str, relative_to: str, codes: np.ndarray, reference: Any, num_draws: int
    ) -> tuple[np.ndarray, str]:
        number = self._per_member(num_draws)
        parts = [
            head._similarity(kind, relative_to, codes, own, number)
            for head, own in zip(self.heads, self.reference_of(reference), strict=True)
        ]
        return np.concatenate([values for values, _ in parts]), parts[0][1]

    def _pointwise(self, num_draws: int) -> Pointwise:
        self._refuse_trained("leave-one-out without refitting")
        return self.heads[0]._pointwise(num_draws)

    def _groups(self) -> dict[str, xr.Dataset]:
        return {}

    def _contents(self) -> files.Contents:
        return contents(self)

    def _head(self) -> str:
        trunk = type(self.features.trunk).__name__
        return (
            f"DeepFit of {trunk} x {type(self.sharing).__name__} x {type(self.likelihood).__name__} to "
            f"{self.schema.target_name}: {len(self.task_names)} tasks, {len(self.heads)} trunks after "
            f"{self.trained.steps} of {self.trained.planned} steps"
        )
