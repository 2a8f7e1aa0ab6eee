"""What every fit answers: the verbs, written once for linear models, functions and networks."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch
import xarray as xr

from bayesmtl.algebra.random import key_of
from bayesmtl.data import Schema, Standardization, TaskData, TaskSummaries
from bayesmtl.diagnostics import Check, check_draws
from bayesmtl.errors import ConvergenceWarning, SpecificationError, UnknownTaskError, listing
from bayesmtl.likelihoods import Likelihood
from bayesmtl.options import check_flag, check_mass, check_option, whole_number
from bayesmtl.posteriors.draws import Draws
from bayesmtl.registry import check_registered
from bayesmtl.results import files
from bayesmtl.results.evidence import Evidence, evidence_of
from bayesmtl.results.held import held_reason
from bayesmtl.results.leave_one_out import LeaveOneOut, Pointwise
from bayesmtl.results.new_rows import AskedRows, FurtherRows, asked_rows, further_rows
from bayesmtl.results.partition import Partition, in_doubt, need_partition
from bayesmtl.results.prediction import Kind, Latent, Prediction, observe
from bayesmtl.results.similarity import TaskSimilarity
from bayesmtl.results.summary import sd, summarise
from bayesmtl.sharing import Dependence, Sharing

Frame = pd.DataFrame | TaskData | tuple[Any, ...]
"""Rows as users give them: a frame, a `TaskData`, or (X, tasks)."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Fit(ABC):
    """A posterior with everything needed to predict, compare, update and save.

    Made by `model.fit`; not constructed by hand. All fits answer the same verbs with the same arguments:
    `LinearFit` for weights, `FunctionFit` for functions.

    Args:
        sharing: The sharing prior.
        likelihood: The likelihood.
        schema: How new rows become features; names of tasks.
        standardization: Between the user's units and the standardised ones of `draws`.
        draws: Posterior draws, standardised.
        data: The training rows, or their sums.
        method: The engine that made the draws.
        reason: Why this engine.
        seed: Seed of the fit; everything drawn later derives from it.
        added_tasks: Tasks that came in through `condition`.
    """

    sharing: Sharing
    likelihood: Likelihood
    schema: Schema
    standardization: Standardization
    draws: Draws
    data: TaskData | TaskSummaries
    method: str
    reason: str
    seed: int
    added_tasks: tuple[str, ...] = ()

    # what a family of models gives, and nothing else

    @property
    @abstractmethod
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features, or of the inputs of functions."""

    @property
    @abstractmethod
    def posterior(self) -> xr.Dataset:
        """All draws with names, in the user's units; dimensions (chain, draw, ...)."""

    @abstractmethod
    def _latent(self, asked: AskedRows, kind: Kind, num_draws: int, joint: bool) -> Latent:
        """Draws of the latent function at rows."""

    @abstractmethod
    def _conditioned(self, further: FurtherRows) -> Self:
        """The fit that knows further rows as well."""

    @abstractmethod
    def _similarity(
        self, kind: str, relative_to: str, codes: np.ndarray, reference: Frame | None, num_draws: int
    ) -> tuple[np.ndarray, str]:
        """Similarities (draw, tasks, tasks) and what they mean, in words."""

    @abstractmethod
    def _pointwise(self, num_draws: int) -> Pointwise:
        """Predictive density of every observed row given all others."""

    @abstractmethod
    def _groups(self) -> dict[str, xr.Dataset]:
        """ArviZ groups besides posterior and sample_stats."""

    @abstractmethod
    def _contents(self) -> files.Contents:
        """What a file holds besides that which all fits have."""

    def _shown(self) -> xr.Dataset:
        """The quantities that `summary` lists."""
        return self.posterior

    def _prior_of_reported(self) -> xr.Dataset | None:
        """Prior draws of what `summary` lists, to be compared with the posterior, where that is cheap."""
        return None

    def _cautions(self) -> list[str]:
        """What `check` adds about this fit."""
        return []

    def _causes(self) -> list[str]:
        """What in the data may keep draws from being trusted."""
        return []

    @property
    def _structure_is_given(self) -> bool:
        """Whether the similarity of kind "structure" hangs on hyperparameters alone."""
        return self.sharing.dependence is Dependence.JOINT

    # what all fits have

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of every result."""
        return self.schema.task_names

    @property
    def complete(self) -> bool:
        """Whether the run gave all draws that were asked for."""
        return self.draws.complete

    @property
    def num_chains_and_draws(self) -> tuple[int, int]:
        """C and N."""
        C, N = self.draws.shape
        return C, N

    def flat(self) -> dict[str, torch.Tensor]:
        """Hyperparameters of all draws, chains behind each other."""
        return {name: value.flatten(0, 1) for name, value in self.draws.hyperparameters.items()}

    def chosen_draws(self, num_draws: int) -> np.ndarray:
        """Positions of `num_draws` draws, spread evenly over all; all of them when there are no more."""
        C, N = self.num_chains_and_draws
        num_draws = min(whole_number("num_draws", num_draws, 1), C * N)
        return np.linspace(0, C * N - 1, num_draws).round().astype(int)

    def generator(self, purpose: int, *names: str) -> np.random.Generator:
        """Randomness derived from the fit's seed, one stream per purpose, and per name of a task if given."""
        return np.random.default_rng([self.seed, purpose, *map(key_of, names)])

    def known_codes(self, labels: Sequence[str] | np.ndarray, remedy: str) -> np.ndarray:
        """Positions of tasks.

        Raises:
            UnknownTaskError: If one is not known, with this remedy.
        """
        codes = self.schema.codes(labels)
        missing = [str(label) for label, code in zip(labels, codes, strict=True) if code < 0]
        if missing:
            raise self.unknown(dict.fromkeys(missing), remedy)
        return codes

    def unknown(self, unknown: Iterable[str], remedy: str) -> UnknownTaskError:
        """The error that says which tasks are not known."""
        return UnknownTaskError(
            self.schema.task_column,
            expected=f"tasks of the training data ({listing(self.task_names)})",
            found=f"{listing(list(unknown))}, not in the training data",
            remedy=remedy,
        )

    # the verbs

    def check(self) -> Check:
        """Say whether the draws can be trusted, and if not, which quantity of which task and what to do."""
        return self._verdict

    @cached_property
    def _verdict(self) -> Check:
        judged, stats = self.posterior, self.draws.sample_stats
        if self.sharing.dependence is Dependence.PARTITION and "lp" in stats:  # there are chains
            judged = judged.assign(in_doubt(self.draws.hyperparameters["cluster"], stats, self.task_names))
        return check_draws(
            judged,
            stats,
            complete=self.complete,
            prior=self._prior_of_reported(),
            further=self._cautions(),
            causes=self._causes(),
        )

    def warn(self) -> Self:
        """The fit itself, after a `ConvergenceWarning` if its draws are not to be trusted."""
        verdict = self.check()
        if not verdict.ok:
            warnings.warn(" ".join(verdict.messages), ConvergenceWarning, stacklevel=3)
        return self

    def summary(self, mass: float = 0.9) -> pd.DataFrame:
        """Summarise population and hyperparameters: mean, sd and central interval, user's units.

        One row each. The weights of the tasks are in `coefficients`, similarities in `task_similarity`.
        Spread and correlation of tasks are those of their weights in the user's units: an intercept's is
        where all features are 0. What the engine holds fixed has no sd and no interval; the column `note`
        says so.

        Args:
            mass: Of the central interval.
        """
        held = held_reason(self.method, self.draws.sample_stats)
        return summarise(self._shown(), mass, self.schema.target_name, held)

    def coefficients(self, mass: float = 0.9) -> pd.DataFrame:
        """Every task's weights: one row per task and feature with mean, sd and interval, user's units.

        Where targets are classes, per task, class and feature.

        Args:
            mass: Of the central interval.

        Raises:
            SpecificationError: If tasks have functions instead of weights.
        """
        check_mass(mass)
        if "weights" not in self.posterior:
            raise SpecificationError(
                "fit",
                expected="a fit whose tasks have weights",
                found=type(self).__name__,
                remedy='Functions have values: use predict(rows, kind="latent").',
            )
        weights = self.posterior["weights"].stack(sample=("chain", "draw")).transpose(..., "sample")
        values = weights.to_numpy()
        lower, upper = np.quantile(values, [(1 - mass) / 2, (1 + mass) / 2], axis=-1)
        along = [str(dim) for dim in weights.dims[:-1]]
        index = pd.MultiIndex.from_product([weights[dim].to_numpy() for dim in along], names=along)
        columns = {"mean": values.mean(-1), "sd": sd(values, axis=-1), "lower": lower, "upper": upper}
        return pd.DataFrame({name: column.ravel() for name, column in columns.items()}, index=index)

    def predict(
        self,
        new: Frame,
        *,
        kind: Kind = "observation",
        new_tasks: Literal["error", "population"] = "error",
        descriptors: pd.DataFrame | None = None,
        num_draws: int = 1000,
        joint: bool = True,
    ) -> Prediction:
        """Predict rows, in their order.

        Args:
            new: A frame with the training columns (the target may be absent) or a TaskData.
            kind: "observation" for a new target with its noise, "latent" for the task's function on the
                scale of the target: its mean, a probability, a rate.
            new_tasks: What to do about a task that is not known: "error", or "population" for draws of a
                task from the population, with the population's spread.
            descriptors: What describes the tasks that are not known, where the sharing prior looks at that
                (`Gated`): one row per task, indexed by its label, as for `TaskData`. By default columns of
                `new` with their names, or the descriptors of a TaskData.
            num_draws: Posterior draws to use, spread evenly over the chains. A linear fit gives at most as
                many as there are; of functions, further ones are drawn.
            joint: Whether the rows of one draw belong to one function. `False` lets functions draw every row
                by itself, which is all that intervals need and costs far less for a map of many thousand
                rows; linear fits draw all rows jointly either way.

        Returns:
            Draws, means and intervals on the target's scale.

        Raises:
            UnknownTaskError: If a task is not known and `new_tasks` is "error".
            DataError: If a column is missing or holds something unseen, a new task has no descriptors
                where they are needed, or there are too many rows to draw jointly.
            SpecificationError: If an option is unknown.
        """
        check_option("kind", kind, ("observation", "latent"))
        check_option("new_tasks", new_tasks, ("error", "population"))
        num_draws = whole_number("num_draws", num_draws, 1)
        check_flag("joint", joint)
        asked = asked_rows(self, new, descriptors)
        if asked.unknown and new_tasks == "error":
            raise self.unknown(
                asked.unknown, 'Pass new_tasks="population" to predict it from the population.'
            )
        return observe(self, asked, self._latent(asked, kind, num_draws, joint), kind)

    def condition(self, new: Frame, *, descriptors: pd.DataFrame | None = None) -> Self:
        """Take further rows into account, of new or known tasks, without refitting.

        **Weights.** Every posterior draw of the hyperparameters and of Z is weighted by the density of the
        new rows under it and resampled; the weights of the tasks concerned are drawn anew. For a Gaussian
        likelihood the rows enter through sufficient statistics, the density is exact and so are the draws.
        For others a draw's weight is the density of the new rows given its weights of known tasks, and an
        unbiased estimate of it for a new task; the weights then move by Metropolis' rule. With partitions a
        new task draws its cluster, or one of its own (`partition().alone`). Nothing is approximated but by
        the number of draws; when the new rows say so much that few draws keep their weight, a
        `ConvergenceWarning` says so.

        **Functions.** They are conditioned on the new rows exactly, under the same hyperparameter draws: what
        the rows say about the hyperparameters themselves is left out. Only what belongs to a new task alone,
        such as its loadings or noise, is chosen among draws from the prior by the density of its rows. A fit
        through inducing inputs takes up to 100 more where the new rows are far from those it has.

        Args:
            new: Rows with targets, as for `predict`.
            descriptors: Of the new tasks, as for `predict`.

        Returns:
            A new fit, in which the new tasks are known (and listed in `added_tasks`).

        Raises:
            DataError: If no row has a target, one has a target that the likelihood gives no probability,
                rows that are needed were not loaded, or there are then more than covariance matrices can be
                made of.
            SpecificationError: If tasks are standardised one by one and a task is new.
        """
        return self._conditioned(further_rows(self, new, descriptors))

    def task_similarity(
        self,
        *,
        kind: Literal["function", "structure"] = "function",
        relative_to: Literal["nothing", "population"] = "nothing",
        tasks: Sequence[str] | None = None,
        reference: Frame | None = None,
        num_draws: int = 1000,
    ) -> TaskSimilarity:
        """How alike the functions of any two tasks are, with its uncertainty.

        Per posterior draw, the correlation of f_t(x) and f_u(x) over the reference inputs (of Gaussian
        processes, drawn jointly at up to 60 of them). With `relative_to="population"`, of their departures
        from the population function, taken about that function: departures in level count there, while a
        plain correlation ignores levels.

        Args:
            kind: "function", or "structure" for the similarity in the prior's own terms, where it has one.
                Of weights: for `LowRank`, the cosine of the tasks' loadings; for `TaskCovariance` and
                `TaskGraph`, the correlation of the tasks' weights around the population; for partitions,
                whether they are together. Of functions: their correlation under the prior given the draw,
                of Omega (of the sum of all Omega_q where there are several kernels: at the same input).
            relative_to: What is removed first, of kind "function".
            tasks: Names of the tasks wanted, in this order; default all.
            reference: Rows whose features are the reference inputs of kind "function"; default the pooled
                training rows.
            num_draws: Posterior draws to use.

        Raises:
            UnknownTaskError: If a task is not known.
            SpecificationError: If no function varies over the reference inputs, the sharing prior has no
                population or structure to speak of, an option has no meaning for this kind, or the result
                would not fit into memory.
        """
        check_option("kind", kind, ("function", "structure"))
        check_option("relative_to", relative_to, ("nothing", "population"))
        if kind == "structure":
            for name, value, nothing in (
                ("reference", reference, None),
                ("relative_to", relative_to, "nothing"),
            ):
                if value is not nothing and value != nothing:
                    raise SpecificationError(
                        name,
                        expected=f'{nothing!r} for kind="structure", which has no inputs',
                        found=repr(value) if isinstance(value, str) else type(value).__name__,
                        remedy='Use kind="function".',
                    )
        names = self.task_names if tasks is None else tuple(str(name) for name in tasks)
        codes = self.known_codes(names, "Leave it out, or add its rows with fit.condition.")
        values, meaning = self._similarity(kind, relative_to, codes, reference, num_draws)
        held = held_reason(self.method, self.draws.sample_stats)
        given = kind == "structure" and self._structure_is_given
        return TaskSimilarity.of(values, names, meaning, held if given else "")

    def partition(self, num_draws: int = 1000) -> Partition:
        """Which tasks belong together: the posterior of the partition, its point summary and how sure it is.

        Args:
            num_draws: Posterior draws to use.

        Raises:
            SpecificationError: If the sharing prior has no partition.
        """
        need_partition(self.sharing)
        return Partition.of(self.flat()["cluster"][self.chosen_draws(num_draws)].numpy(), self.schema)

    def leave_one_out(self, *, num_draws: int = 200) -> LeaveOneOut:
        """Predict every observed row from all others, without refitting.

        Under each draw the density of a row given all others is in closed form where weights or functions
        integrate out (Gaussian likelihoods), with the hyperparameters and Z of the draw; elsewhere it is the
        density of the row given the draw's weights. Draws are weighted by what the row left out says
        against them (importance weights, Pareto smoothed), so that of a full posterior this is leave-one-out
        of the whole posterior.

        Args:
            num_draws: Posterior draws to use.

        Returns:
            ArviZ's `ELPDData`, with `by_task()` and `to_frame()`: log density by row and by task, in the
            target's units, and Pareto k of the weights (above 0.7 they are unreliable).

        Raises:
            DataError: If the fit was made from sums per task.
            SpecificationError: If functions are known through inducing inputs.

        Source: Vehtari, Gelman and Gabry (2017) for the smoothed weights; Sundararajan and Keerthi (2001) for
        the closed form.
        """
        return LeaveOneOut.of(
            self._pointwise(whole_number("num_draws", num_draws, 1)), self.schema.target_name
        )

    @property
    def log_evidence(self) -> Evidence:
        """log p(data | model), weights or functions and hyperparameters integrated out.

        To compare models of the same rows. An estimate by the importance weights of method="laplace", so
        `check` judges it as well. Differences between models, say of several ranks, are log Bayes factors, in
        which priors count: the evidence of a model whose further functions are not needed falls slowly,
        because their loadings shrink together. Under likelihoods of functions that are not Gaussian it is the
        evidence of the bound.

        Raises:
            SpecificationError: If the fit has no such weights, or was conditioned on further rows.
        """
        return evidence_of(self.method, self.draws.sample_stats, self.standardization, self.data)

    def to_datatree(self) -> xr.DataTree:
        """Everything as ArviZ groups, with names on every coordinate and in the user's units.

        posterior, sample_stats, observed_data and constant_data; of weights also log_likelihood and
        posterior_predictive. Functions are integrated out, and rows are not independent given the
        hyperparameters: `leave_one_out` has the densities that model comparison needs.

        Raises:
            DataError: If the fit was made from sums per task: the log likelihood is one of each row.
        """
        further = self._groups()
        posterior = self.posterior
        stats = {name: (("chain", "draw"), values) for name, values in self.draws.sample_stats.items()}
        chain_draw = {"chain": posterior["chain"], "draw": posterior["draw"]}
        groups = {"posterior": posterior, "sample_stats": xr.Dataset(stats, coords=chain_draw), **further}
        tree = xr.DataTree.from_dict(groups)
        tree.attrs.update(method=self.method, reason=self.reason, seed=self.seed)
        return tree

    def save(self, path: str | Path) -> None:
        """Write everything to one NetCDF file of plain data.

        An existing file stays until the new one is whole.

        Raises:
            OSError: If the disk is full or the folder cannot be written.
            SpecificationError: If a part of the model is not one that a file can describe, such as a prior
                of one's own that is not registered (`bayesmtl.register`).
        """
        own = self._contents()
        check_registered(self.sharing, self.likelihood, *own.parts)
        specification = {
            "sharing": self.sharing.to_dict(),
            "likelihood": self.likelihood.to_dict(),
            "schema": self.schema.to_dict(),
            "training_schema": self.data.schema.to_dict(),
            "target_standardization": self.data.target_standardization,
            "standardization": self.standardization.to_dict(),
            "method": self.method,
            "reason": self.reason,
            "seed": self.seed,
            "complete": self.complete,
            "added_tasks": list(self.added_tasks),
            **own.specification,
        }
        groups: dict[str, Mapping[str, np.ndarray]] = {
            "hyperparameters": {name: value.numpy() for name, value in self.draws.hyperparameters.items()},
            "sample_stats": self.draws.sample_stats,
            **own.groups,
        }
        files.write(specification, groups, path)

    def _head(self) -> str:
        """The first line of the fit's text."""
        return (
            f"{type(self).__name__} of {type(self.sharing).__name__} x {type(self.likelihood).__name__} to "
            f"{self.schema.target_name}: {len(self.task_names)} tasks, {len(self.feature_names)} features"
        )

    def __repr__(self) -> str:
        C, N = self.num_chains_and_draws
        parts = [self._head(), f"{C} chains x {N} draws by {self.method} ({self.reason})"]
        missing = self.data.num_missing
        if missing:
            parts.append(f"{missing} of {self.data.num_rows} rows without a target, which do not count")
        if self.added_tasks:
            parts.append(f"conditioned on rows of {listing(self.added_tasks)}")
        if not self.complete:
            parts.append("INCOMPLETE: the run was interrupted")
        return "\n".join(parts)

    def _repr_html_(self) -> str:
        lines = "<br>".join(escape(repr(self)).splitlines())
        return f"<p>{lines}</p>{self.summary().round(3).to_html()}"

    def __dir__(self) -> list[str]:
        """What a user asks a fit for; the parts it is made of are documented, and not listed."""
        return sorted(name for name in object.__dir__(self) if name not in _INTERNALS)


_INTERNALS = frozenset(
    ["chosen_draws", "draws", "flat", "generator", "known_codes", "num_chains_and_draws", "schema"]
    + ["standardization", "statistics", "unknown", "warn", "problem", "first_weights", "chosen_values"]
    + ["inputs", "known_rows", "need_exact", "inducing"]
)
