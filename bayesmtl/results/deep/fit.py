"""The result of fitting a network: trunks of an ensemble, and exact or modal heads on each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import xarray as xr

from bayesmtl.data import TaskData
from bayesmtl.diagnostics import Check
from bayesmtl.likelihoods import Likelihood
from bayesmtl.options import check_option
from bayesmtl.results.deep import check as judge
from bayesmtl.results.deep import condition as update
from bayesmtl.results.deep import files, predict
from bayesmtl.results.deep.state import DeepState
from bayesmtl.results.prediction import Kind, Prediction
from bayesmtl.results.similarity import TaskSimilarity
from bayesmtl.sharing import Sharing


@dataclass(frozen=True, eq=False)
class DeepFit(DeepState):
    """Trunks of an ensemble with the posterior of the tasks' heads on each, ready to predict and to update.

    Made by `DeepModel.fit`; not constructed by hand. `heads` holds one fit over weights per member. The
    weights of different members are in different coordinates and are never averaged; what members say of
    functions is.
    """

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of every result."""
        return self.schema.task_names

    @property
    def sharing(self) -> Sharing:
        """The sharing prior of the heads."""
        return self.heads[0].sharing

    @property
    def likelihood(self) -> Likelihood:
        """The likelihood."""
        return self.heads[0].likelihood

    @property
    def complete(self) -> bool:
        """Whether every member gave all draws that were asked for."""
        return all(head.complete for head in self.heads)

    def check(self) -> Check:
        """Say whether trunks are trained to the end, heads can be trusted and members agree."""
        return self._verdict

    @cached_property
    def _verdict(self) -> Check:
        return judge.check(self)

    def summary(self, mass: float = 0.9) -> pd.DataFrame:
        """Population and hyperparameters of the heads, as for linear models, by member."""
        return pd.concat({m: head.summary(mass) for m, head in enumerate(self.heads)}, names=["member"])

    def coefficients(self, mass: float = 0.9) -> pd.DataFrame:
        """Weights of the heads, by member, task and feature; features differ from member to member."""
        return pd.concat({m: head.coefficients(mass) for m, head in enumerate(self.heads)}, names=["member"])

    def predict(
        self,
        new: pd.DataFrame | TaskData | tuple[Any, ...],
        *,
        kind: Kind = "observation",
        new_tasks: Literal["error", "population"] = "error",
        descriptors: pd.DataFrame | None = None,
        num_draws: int = 1000,
    ) -> Prediction:
        """Predict rows, in their order: draws of all members, in equal parts.

        Args:
            new: A frame with the training columns (the target may be absent) or a TaskData.
            kind: "observation" for a new target with its noise, "latent" for the task's function.
            new_tasks: What to do about a task that is not known: "error", or "population" for heads drawn
                from the population.
            descriptors: What describes new tasks, where the sharing prior looks at that.
            num_draws: Posterior draws to use, of all members together.

        Returns:
            Draws, means and intervals on the target's scale. Where heads are at their mode (`method` is
            "mode") latent draws differ between members only.

        Raises:
            UnknownTaskError: If a task is not known and `new_tasks` is "error".
            DataError: If a column is missing or holds something unseen.
            SpecificationError: If an option is unknown.
        """
        check_option("kind", kind, ("observation", "latent"))
        check_option("new_tasks", new_tasks, ("error", "population"))
        return predict.predict(self, new, kind, new_tasks, descriptors, num_draws)

    def condition(
        self, new: pd.DataFrame | TaskData | tuple[Any, ...], *, descriptors: pd.DataFrame | None = None
    ) -> DeepFit:
        """Take further rows into account, of new or known tasks: heads are updated, trunks stay.

        Args:
            new: Rows with targets, as for `predict`.
            descriptors: Of the new tasks, as for `predict`.

        Returns:
            A new fit, in which the new tasks are known (and listed in `added_tasks`).

        Raises:
            DataError: If no row has a target.
            SpecificationError: If the likelihood is not Gaussian, or as for linear models.
        """
        state = update.condition(self, new, descriptors)
        return DeepFit(**{field.name: getattr(state, field.name) for field in fields(DeepState)})

    def task_similarity(
        self,
        *,
        relative_to: Literal["nothing", "population"] = "nothing",
        tasks: Sequence[str] | None = None,
        reference: pd.DataFrame | TaskData | None = None,
        kind: Literal["function", "structure"] = "function",
        num_draws: int = 1000,
    ) -> TaskSimilarity:
        """How alike the functions of any two tasks are, over the draws of all members.

        Args:
            relative_to: What is removed first, as for linear models.
            tasks: Names of the tasks wanted, in this order; default all.
            reference: Rows at whose inputs functions are compared; default the training rows.
            kind: "function", or "structure" for the similarity in the sharing prior's own terms.
            num_draws: Posterior draws to use, of all members together.

        Raises:
            UnknownTaskError: If a task is not known.
            SpecificationError: If the sharing prior has no population or structure to speak of.
        """
        return predict.task_similarity(self, relative_to, tasks, reference, kind, num_draws)

    def to_datatree(self) -> xr.DataTree:
        """ArviZ groups of every member's heads, one branch `member_0`, `member_1` and so on for each."""
        return xr.DataTree.from_dict(
            {
                f"member_{m}/{group}": node.to_dataset()
                for m, head in enumerate(self.heads)
                for group, node in head.to_datatree().children.items()
            }
        )

    def save(self, path: str | Path) -> None:
        """Write everything to one NetCDF file of plain data: trunks' weights, heads, training rows.

        A module of the user's own is not in the file: `load(path, trunk=module)` asks for it.

        Raises:
            OSError: If the disk is full or the folder cannot be written.
        """
        files.save(self, path)

    def __repr__(self) -> str:
        trunk = type(self.features.trunk).__name__
        return "\n".join(
            [
                f"DeepFit of {trunk} x {type(self.sharing).__name__} x {type(self.likelihood).__name__} to "
                f"{self.schema.target_name}: {len(self.task_names)} tasks, {len(self.heads)} members",
                f"trunks after {self.trained.steps} of {self.trained.planned} steps, heads by {self.method} "
                f"({self.reason})",
            ]
        )

    def _repr_html_(self) -> str:
        return f"<p>{'<br>'.join(escape(repr(self)).splitlines())}</p>{self.summary().round(3).to_html()}"
