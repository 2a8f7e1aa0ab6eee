"""The result of inference: owns all that prediction needs and never changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr

from bayesmtl.algebra.conditional import draw_prior_basis
from bayesmtl.algebra.random import key_of
from bayesmtl.algebra.rows import TaskRows
from bayesmtl.algebra.statistics import TaskStatistics
from bayesmtl.data import Schema, Standardization, TaskData, TaskSummaries
from bayesmtl.diagnostics import Check, check_draws
from bayesmtl.errors import UnknownTaskError, listing
from bayesmtl.likelihoods import Likelihood
from bayesmtl.options import check_mass, check_option, whole_number
from bayesmtl.posteriors.draws import LinearDraws
from bayesmtl.posteriors.linear.build import with_rows
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.posteriors.linear.rows import StandardRows
from bayesmtl.results import files, prediction
from bayesmtl.results.held import held_reason
from bayesmtl.results.linear import causes, datatree
from bayesmtl.results.linear import condition as update
from bayesmtl.results.linear import similarity as fit_views
from bayesmtl.results.linear.posterior import posterior_dataset
from bayesmtl.results.new_rows import describe_new, standardised
from bayesmtl.results.partition import Partition, in_doubt, need_partition
from bayesmtl.results.prediction import Kind, Prediction
from bayesmtl.results.similarity import TaskSimilarity
from bayesmtl.results.summary import summarise
from bayesmtl.sharing import Dependence, Sharing

_MOST_COMPARED = 2000  # hyperparameters that are compared with their prior
_NUM_PRIOR_DRAWS = 1000


@dataclass(frozen=True, eq=False)
class Fit:
    """A posterior over W = A Z + E with everything needed to predict, compare, update and save.

    Made by `model.fit`; not constructed by hand.

    Args:
        sharing: The sharing prior.
        likelihood: The likelihood.
        schema: How new rows become features; names of tasks.
        standardization: Between the user's units and the standardised ones of `draws` and `statistics`.
        statistics: Sufficient statistics per task, standardised.
        draws: Posterior draws, standardised.
        method: The engine that made them.
        reason: Why this engine.
        seed: Seed of the fit; everything drawn later derives from it.
        data: The training rows, or their sums.
        added_tasks: Tasks that came in through `condition`.
    """

    sharing: Sharing
    likelihood: Likelihood
    schema: Schema
    standardization: Standardization
    statistics: TaskStatistics
    draws: LinearDraws
    method: str
    reason: str
    seed: int
    data: TaskData | TaskSummaries
    added_tasks: tuple[str, ...] = ()

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of every result."""
        return self.schema.task_names

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features."""
        return self.schema.design.feature_names

    @property
    def complete(self) -> bool:
        """Whether the run gave all draws that were asked for."""
        return self.draws.complete

    @cached_property
    def problem(self) -> LinearPosterior:
        """The posterior in standardised units, as the engines see it."""
        sums = LinearPosterior(
            self.sharing,
            self.likelihood,
            self.statistics.compress(),
            self.task_names,
            self.standardization.target_scale,
            standardised(self, self.schema.descriptors),
        )
        return with_rows(sums, self._rows())

    def _rows(self) -> TaskRows | None:
        """The rows themselves, where sums do not stand for them and they are in memory."""
        if self.likelihood.compresses or isinstance(self.data, TaskSummaries):
            return None
        likelihood = self.likelihood.of_tasks(self.task_names, self.standardization.target_scale)
        rows = StandardRows.of(self.data, self.data.task, self.standardization, likelihood)
        return rows.laid_out(len(self.task_names))

    @cached_property
    def posterior(self) -> xr.Dataset:
        """All draws with names, in the user's units; dimensions (chain, draw, ...).

        `weights` (task, feature) act on the features as given; `population` (feature) is the mean over tasks
        where the prior has one; both have a dimension `class` before `feature` where targets are classes; the
        rest are the hyperparameters. Each array's attribute `unit` says what it
        is measured in.
        """
        return self._named(self.draws)

    def _named(self, draws: LinearDraws) -> xr.Dataset:
        features = np.array(self.feature_names, dtype=str)
        tasks = np.array(self.task_names, dtype=str)
        names = {"task": tasks, "task_other": tasks, "feature": features, "feature_other": features}
        names["class"] = np.array(self.schema.classes, dtype=str)
        names["descriptor"] = np.array(self.sharing.descriptor_names, dtype=str)
        return posterior_dataset(draws, self.sharing, self.likelihood, self.standardization, names)

    def check(self) -> Check:
        """Say whether the draws can be trusted, and if not, which quantity of which task and what to do."""
        return self._verdict

    @cached_property
    def _verdict(self) -> Check:
        judged = self.posterior
        stats = self.draws.sample_stats
        if self.sharing.dependence is Dependence.PARTITION and "lp" in stats:  # there are chains
            judged = judged.assign(in_doubt(self.draws.hyperparameters["cluster"], stats, self.task_names))
        return check_draws(
            judged,
            self.draws.sample_stats,
            method=self.method,
            complete=self.draws.complete,
            prior=self._prior_of_reported(),
            further=fit_views.separation(self),
            causes=causes.causes(self, [str(name) for name in judged.data_vars]),
        )

    def _prior_of_reported(self) -> xr.Dataset | None:
        """Prior draws of the hyperparameters and the population, where they are few and have no partition."""
        problem = self.problem
        if self.sharing.dependence is Dependence.PARTITION or not 0 < problem.space.size <= _MOST_COMPARED:
            return None
        rng = self.generator(2)
        values = problem.space.sample(rng, _NUM_PRIOR_DRAWS)
        structure = problem.structure(values)
        T, D = problem.tasks.num_tasks, problem.num_weights
        nothing = torch.zeros(_NUM_PRIOR_DRAWS, T, 0, dtype=torch.float64)
        drawn = LinearDraws(
            {name: value[None] for name, value in values.items()},
            draw_prior_basis(structure, _NUM_PRIOR_DRAWS, D, rng)[None],
            torch.zeros(1, _NUM_PRIOR_DRAWS, 0, D, dtype=torch.float64),
            nothing[None],
            {},
        )
        return self._named(drawn)

    def partition(self, num_draws: int = 1000) -> Partition:
        """Which tasks belong together: the posterior of the partition, its point summary and how sure it is.

        Args:
            num_draws: Posterior draws to use.

        Raises:
            SpecificationError: If the sharing prior has no partition.
        """
        need_partition(self.sharing)
        membership = self.draws.hyperparameters["cluster"].flatten(0, 1)[self.chosen_draws(num_draws)]
        return Partition.of(membership.numpy(), self.schema)

    def summary(self, mass: float = 0.9) -> pd.DataFrame:
        """Population and hyperparameters: mean, sd and central interval, one row each, user's units.

        The weights of the tasks are in `coefficients`. Spread and correlation of tasks are those of their
        weights in the user's units, as `coefficients` has them: an intercept's is where all features are 0.
        What the engine holds fixed has no sd and no interval; the column `note` says so.
        """
        shared = self.posterior.drop_vars("weights")
        if not shared.data_vars:
            shared = self.posterior
        held = held_reason(self.method, self.draws.sample_stats)
        return summarise(shared, mass, self.schema.target_name, held)

    def coefficients(self, mass: float = 0.9) -> pd.DataFrame:
        """Every task's weights: one row per task and feature with mean, sd and interval, user's units.

        Where targets are classes, per task, class and feature.
        """
        check_mass(mass)
        weights = self.posterior["weights"].stack(sample=("chain", "draw")).transpose(..., "sample")
        values = weights.to_numpy()
        lower, upper = np.quantile(values, [(1 - mass) / 2, (1 + mass) / 2], axis=-1)
        along = [str(dim) for dim in weights.dims[:-1]]
        index = pd.MultiIndex.from_product([weights[dim].to_numpy() for dim in along], names=along)
        columns = {"mean": values.mean(-1), "sd": values.std(-1, ddof=1), "lower": lower, "upper": upper}
        return pd.DataFrame({name: column.ravel() for name, column in columns.items()}, index=index)

    def predict(
        self,
        new: pd.DataFrame | TaskData | tuple[Any, ...],
        *,
        kind: Kind = "observation",
        new_tasks: Literal["error", "population"] = "error",
        descriptors: pd.DataFrame | None = None,
        num_draws: int = 1000,
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
            num_draws: Posterior draws to use, spread evenly over the chains, at most as many as there are.

        Returns:
            Draws, means and intervals on the target's scale.

        Raises:
            UnknownTaskError: If a task is not known and `new_tasks` is "error".
            DataError: If a column is missing or holds something unseen, or a new task has no descriptors
                where they are needed.
            SpecificationError: If an option is unknown.
        """
        check_option("kind", kind, ("observation", "latent"))
        check_option("new_tasks", new_tasks, ("error", "population"))
        rows = self.schema.encode(new, targets=False)
        codes = self.schema.codes(rows.task_labels)
        unknown = list(dict.fromkeys(str(label) for label in rows.task_labels[codes < 0]))
        if unknown and new_tasks == "error":
            raise self.unknown(unknown, 'Pass new_tasks="population" to predict it from the population.')
        described = describe_new(self, new, descriptors, unknown).standardised
        return prediction.predict_rows(self, rows, unknown, kind, num_draws, described)

    def unknown(self, unknown: Sequence[str], remedy: str) -> UnknownTaskError:
        """The error that says which tasks are not known."""
        return UnknownTaskError(
            self.schema.task_column,
            expected=f"tasks of the training data ({listing(self.task_names)})",
            found=f"{listing(unknown)}, not in the training data",
            remedy=remedy,
        )

    def condition(
        self, new: pd.DataFrame | TaskData | tuple[Any, ...], *, descriptors: pd.DataFrame | None = None
    ) -> Fit:
        """Take further rows into account, of new or known tasks, without refitting.

        Every posterior draw of the hyperparameters and of Z is weighted by the density of the new rows under
        it and resampled; the weights of the tasks concerned are drawn anew. For a Gaussian likelihood the
        rows enter through sufficient statistics, the density is exact and so are the draws. For others a
        draw's weight is the density of the new rows given its weights of known tasks, and an unbiased
        estimate of it for a new task; the weights then move by Metropolis' rule. With partitions a new task
        draws its cluster, or one of its own (`partition().alone`). Nothing is approximated but
        by the number of draws; when the new rows say so much that few draws keep their weight, a
        `ConvergenceWarning` says so.

        Args:
            new: Rows with targets, as for `predict`.
            descriptors: Of the new tasks, as for `predict`.

        Returns:
            A new Fit, in which the new tasks are known (and listed in `added_tasks`).

        Raises:
            DataError: If no row has a target, or one has a target that the likelihood gives no probability,
                or the likelihood is not Gaussian and the training rows were not loaded.
            SpecificationError: If tasks are standardised one by one and a task is new.
        """
        return update.condition(self, new, descriptors)

    def task_similarity(
        self,
        *,
        relative_to: Literal["nothing", "population"] = "nothing",
        tasks: Sequence[str] | None = None,
        reference: pd.DataFrame | TaskData | None = None,
        kind: Literal["function", "structure"] = "function",
        num_draws: int = 1000,
    ) -> TaskSimilarity:
        """How alike the functions of any two tasks are, with its uncertainty.

        Per posterior draw, the correlation of f_t(x) and f_u(x) over the reference inputs. With
        `relative_to="population"`, of their departures from the population function, taken about that
        function: departures in level count there, while a plain correlation ignores levels.

        Args:
            relative_to: What is removed first.
            tasks: Names of the tasks wanted, in this order; default all.
            reference: Rows whose features are the reference inputs; default the pooled training rows.
            kind: "function", or "structure" for the similarity in the prior's own terms, where it has one:
                for `LowRank`, the cosine of the tasks' loadings; for `TaskCovariance` and `TaskGraph`, the
                correlation of the tasks' weights around the population; for partitions, whether they
                are together.
            num_draws: Posterior draws to use.

        Raises:
            UnknownTaskError: If a task is not known.
            SpecificationError: If no function varies over the reference inputs, the sharing prior has no
                population or structure to speak of, or the result would not fit into memory.
        """
        check_option("kind", kind, ("function", "structure"))
        check_option("relative_to", relative_to, ("nothing", "population"))
        return fit_views.task_similarity(self, relative_to, tasks, reference, kind, num_draws)

    def chosen_draws(self, num_draws: int) -> np.ndarray:
        """Positions of `num_draws` draws, spread evenly over all; all of them when there are no more."""
        num_draws = whole_number("num_draws", num_draws, 1)
        total = self.draws.weights.shape[0] * self.draws.weights.shape[1]
        if num_draws >= total:
            return np.arange(total)
        return np.linspace(0, total - 1, num_draws).round().astype(int)

    def generator(self, purpose: int, *names: str) -> np.random.Generator:
        """Randomness derived from the fit's seed, one stream per purpose, and per name of a task if given."""
        return np.random.default_rng([self.seed, purpose, *map(key_of, names)])

    def to_datatree(self) -> xr.DataTree:
        """Everything as ArviZ groups, with names on every coordinate and in the user's units.

        posterior, sample_stats, log_likelihood, posterior_predictive, observed_data, constant_data.

        Raises:
            DataError: If the fit was made from sums per task: the log likelihood is one of each row.
        """
        return datatree.to_datatree(self)

    def save(self, path: str | Path) -> None:
        """Write everything to one NetCDF file of plain data.

        An existing file stays until the new one is whole.

        Raises:
            OSError: If the disk is full or the folder cannot be written.
        """
        files.save(self, path)

    def __repr__(self) -> str:
        C, N = self.draws.weights.shape[:2]
        parts = [
            f"Fit of {type(self.sharing).__name__} x {type(self.likelihood).__name__} to "
            f"{self.schema.target_name}: {len(self.task_names)} tasks, {len(self.feature_names)} features",
            f"{C} chains x {N} draws by {self.method} ({self.reason})",
        ]
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
