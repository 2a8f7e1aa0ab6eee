"""The fit of a multi-task Gaussian process: hyperparameter draws and rows; functions are made on demand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr

from bayesmtl.algebra.functions import LEAST_NOISE, KnownRows, TaskStructure
from bayesmtl.algebra.random import key_of
from bayesmtl.data import Schema, Standardization, TaskData
from bayesmtl.diagnostics import Check, check_draws
from bayesmtl.errors import DataError, SpecificationError, UnknownTaskError, listing
from bayesmtl.kernels import Kernel
from bayesmtl.likelihoods import Likelihood
from bayesmtl.options import check_option, whole_number
from bayesmtl.parameters import Values
from bayesmtl.posteriors.functions.build import functions_posterior, parts
from bayesmtl.posteriors.functions.capacity import refuse_beyond
from bayesmtl.posteriors.functions.inducing import InducingFunctions
from bayesmtl.posteriors.functions.posterior import FunctionPosterior
from bayesmtl.priors import Prior
from bayesmtl.results.functions import condition as gp_update
from bayesmtl.results.functions import files as gp_files
from bayesmtl.results.functions import predict as gp_prediction
from bayesmtl.results.functions import views as gp_views
from bayesmtl.results.functions import whole as gp_functions
from bayesmtl.results.functions.evidence import Evidence, evidence_of
from bayesmtl.results.functions.given import FirstWeights, signature
from bayesmtl.results.held import held_reason
from bayesmtl.results.linear.posterior import in_user_units
from bayesmtl.results.partition import Partition, in_doubt, need_partition
from bayesmtl.results.prediction import Kind, Prediction
from bayesmtl.results.similarity import TaskSimilarity
from bayesmtl.results.summary import summarise
from bayesmtl.sharing import Dependence, Sharing

# Draws whose covariance matrices are looked at for jitter: at most so many, with so many numbers in all.
_MOST_INSPECTED = 20
_INSPECTED = 10_000_000
_LEFT_OPEN = 0.01  # share of the prior variance that inducing inputs may leave open without a word
_FARTHEST = 1e100  # whose square is a number


@dataclass(frozen=True, eq=False)
class GPFit:
    """A posterior over tasks' functions with everything needed to predict, compare, update and save.

    Made by `MultitaskGP.fit`; not constructed by hand. Functions are integrated out of the hyperparameters'
    posterior and given by exact formulas under every hyperparameter draw, each draw with a predictor of its
    own, made when it is asked for: nothing is cached, and there are no modes.

    Args:
        kernel: Covariance of one function; several where functions have kernels of their own.
        sharing: The sharing prior.
        likelihood: The likelihood.
        amplitude: Prior of the size of shared functions.
        schema: How new rows become features; names of tasks.
        standardization: Between the user's units and the standardised ones of the hyperparameters.
        hyperparameters: Draws by name, each (C, N, ...), standardised.
        sample_stats: What the engine recorded, by name, each (C, N).
        complete: Whether the run gave all draws that were asked for.
        method: The engine that made them.
        reason: Why this engine, and how covariance matrices are handled.
        seed: Seed of the fit; everything drawn later derives from it.
        data: The rows that the functions are conditioned on.
        added_tasks: Tasks that came in through `condition`.
        inducing: Inducing inputs (m, D), standardised, where functions are known through them; else `None`.
    """

    kernel: Kernel | tuple[Kernel, ...]
    sharing: Sharing
    likelihood: Likelihood
    amplitude: Prior
    schema: Schema
    standardization: Standardization
    hyperparameters: dict[str, torch.Tensor]
    sample_stats: dict[str, np.ndarray]
    complete: bool
    method: str
    reason: str
    seed: int
    data: TaskData
    added_tasks: tuple[str, ...] = ()
    inducing: torch.Tensor | None = None

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of every result."""
        return self.schema.task_names

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the inputs; an intercept is none."""
        return self.schema.design.feature_names[1 if self.standardization.intercept else 0 :]

    @cached_property
    def problem(self) -> FunctionPosterior:
        """The posterior in standardised units, as the engines see it."""
        kernels, sharing = parts(self.kernel, self.sharing, self.amplitude)
        problem = functions_posterior(self.data, self.standardization, kernels, sharing, self.likelihood)
        return problem if self.inducing is None else InducingFunctions.of(problem, self.inducing)

    @cached_property
    def first_weights(self) -> FirstWeights:
        """q(v) under the first hyperparameter draw, which all others share where the engine has one point."""
        problem = self.problem
        assert isinstance(problem, InducingFunctions)
        values = {name: value[:1] for name, value in self.flat().items()}
        return FirstWeights(signature(problem, values), problem.best(values))

    @cached_property
    def posterior(self) -> xr.Dataset:
        """Hyperparameter draws with names, in the user's units; dimensions (chain, draw, ...).

        Scales of functions are in the target's units, length-scales in their input's. Each array's attribute
        `unit` says what it is measured in.
        """
        C, N = self.num_chains_and_draws
        flat = self.flat()
        reports = {
            **self.problem.kernels.report(flat),
            **self.problem.sharing.report(flat),
            **self.problem.of_rows.report(flat),
        }
        tasks = np.array(self.task_names, dtype=str)
        names = {"task": tasks, "task_other": tasks, "feature": np.array(self.feature_names, dtype=str)}
        arrays = {}
        for name, reported in reports.items():
            values, unit = in_user_units(reported, self.standardization, self.likelihood.unit)
            shaped, dims = values.reshape(C, N, *values.shape[1:]), reported.dims
            if reported.tasks is not None and "task" in dims:  # some of them: a dimension of their own
                dims = (f"{name}_task",)
                names[dims[0]] = tasks[list(reported.tasks)]
            arrays[name] = xr.DataArray(shaped, dims=("chain", "draw", *dims), attrs={"unit": unit})
        used = {dim for array in arrays.values() for dim in array.dims[2:]}
        coords = {
            dim: names.get(str(dim), np.arange(max(a.sizes.get(dim, 0) for a in arrays.values())))
            for dim in used
        }
        return xr.Dataset(arrays, coords={"chain": np.arange(C), "draw": np.arange(N), **coords})

    @property
    def num_chains_and_draws(self) -> tuple[int, int]:
        """C and N."""
        first = next(iter(self.hyperparameters.values()))
        return first.shape[0], first.shape[1]

    @property
    def log_evidence(self) -> Evidence:
        """log p(data | model), functions and hyperparameters integrated out, to compare models of these rows.

        An estimate by the importance weights of method="laplace", so `check` judges it as well. Differences
        between models, say of several ranks, are log Bayes factors, in which priors count: the evidence of a
        model whose further functions are not needed falls slowly, because their loadings shrink together.
        Under likelihoods that are not Gaussian it is the evidence of the bound.

        Raises:
            SpecificationError: If the fit has no such weights, or was conditioned on further rows.
        """
        return evidence_of(self)

    def check(self) -> Check:
        """Say whether the draws can be trusted, and if not, which quantity of which task and what to do."""
        exactly = self.likelihood.compresses
        judged = self.posterior
        if self.sharing.dependence is Dependence.PARTITION:
            cluster = self.hyperparameters["cluster"]
            judged = judged.assign(in_doubt(cluster, self.sample_stats, self.task_names))
        verdict = check_draws(
            judged,
            self.sample_stats,
            method=self.method,
            complete=self.complete,
            fuller="exact" if exactly else "laplace",
        )
        if self.inducing is not None:
            return replace(verdict, notes=(*verdict.notes, *self._about_inducing()))
        jitter = self._largest_jitter()
        if jitter == 0:
            return verdict
        note = (
            f"Covariance matrices needed {jitter:.0e} (standardised) added to their diagonal: rows at the "
            "same inputs, or tasks that are the same, with hardly any noise between them."
        )
        return replace(verdict, notes=(*verdict.notes, note))

    def _about_inducing(self) -> list[str]:
        problem = self.problem
        assert isinstance(problem, InducingFunctions)
        notes = []
        values = {name: value[:1] for name, value in self.flat().items()}
        if not self.likelihood.compresses:
            notes.append("The functions' posterior given hyperparameters is approximated by a normal one.")
        elif float(problem.noise(values, 1).min()) < 1.01 * LEAST_NOISE:
            notes.append(f"Noise below {LEAST_NOISE:.0e} (standardised) was taken for that.")
        left = problem.left_open(values)
        if left > _LEFT_OPEN:
            notes.append(
                f"{len(problem.Z)} inducing inputs leave {100 * left:.0f} % of the functions' prior variance "
                "open at the rows: detail finer than between them is taken for noise; fit with a larger "
                "num_inducing if the noise comes out large."
            )
        return notes

    def _largest_jitter(self) -> float:
        values = self.chosen_values(max(1, min(_MOST_INSPECTED, _INSPECTED // len(self.problem.y) ** 2)))
        largest = 0.0
        for part in gp_prediction.in_chunks(values, len(self.problem.y) ** 2):
            largest = max(largest, float(self.known_rows(part).jitter.max()))
        return largest

    def summary(self, mass: float = 0.9) -> pd.DataFrame:
        """Hyperparameters: mean, sd and central interval, one row each, user's units.

        What the engine holds fixed has no sd and no interval; the column `note` says so.
        """
        shown = self.posterior
        if "task_correlation" in shown:  # `task_similarity` has it, pair by pair
            shown = shown.drop_vars("task_correlation")
        held = held_reason(self.method, self.sample_stats)
        return summarise(shown, mass, self.schema.target_name, held)

    def predict(
        self,
        new: pd.DataFrame | TaskData | tuple[Any, ...],
        *,
        kind: Kind = "observation",
        new_tasks: Literal["error", "population"] = "error",
        num_draws: int = 1000,
        joint: bool = True,
    ) -> Prediction:
        """Predict rows, in their order.

        The mean is the average of the exact conditional means over hyperparameter draws.

        Args:
            new: A frame with the training columns (the target may be absent) or a TaskData.
            kind: "observation" for a new target with its noise, "latent" for the task's function.
            new_tasks: What to do about a task that is not known: "error", or "population" for a fresh
                function from the population, with the population's spread.
            num_draws: Number of draws, spread over at most 200 hyperparameter draws.
            joint: Whether the rows of one draw belong to one function. `False` draws every row by itself,
                which is all that intervals need and costs far less for a map of many thousand rows.

        Raises:
            UnknownTaskError: If a task is not known and `new_tasks` is "error".
            DataError: If a column is missing or holds something unseen, or there are too many rows to draw
                jointly (8,000).
            SpecificationError: If an option is unknown.
        """
        check_option("kind", kind, ("observation", "latent"))
        check_option("new_tasks", new_tasks, ("error", "population"))
        num_draws = whole_number("num_draws", num_draws, 2)
        rows = self.schema.encode(new, targets=False)
        codes = self.schema.codes(rows.task_labels)
        unknown = list(dict.fromkeys(str(label) for label in rows.task_labels[codes < 0]))
        if unknown and new_tasks == "error":
            raise self.unknown(unknown, 'Pass new_tasks="population" to predict it from the population.')
        if joint:
            refuse_beyond(
                "new",
                len(codes),
                "rows that are drawn jointly",
                "Pass joint=False, all that intervals need, or use sample_functions, whose cost grows with "
                "the rows and not with their square.",
            )
        return gp_prediction.predict_rows(self, rows, unknown, kind, num_draws, joint=joint)

    def sample_functions(self, num_draws: int = 100) -> gp_functions.FunctionDraws:
        """Draw whole functions of all known tasks, which can be evaluated anywhere, as often as needed.

        Each call of the result gives the values of the same functions, which `predict` promises within one
        call only, at a cost that is linear in the number of rows: for searching a maximum, or large maps.

        Args:
            num_draws: How many, spread over at most 200 hyperparameter draws.

        Raises:
            SpecificationError: If the spectral density of a kernel is not known (it is of `Matern`).
        """
        return gp_functions.sample_functions(self, num_draws)

    def condition(self, new: pd.DataFrame | TaskData | tuple[Any, ...]) -> GPFit:
        """Take further rows into account, of new or known tasks, without refitting.

        Functions are conditioned on the new rows exactly, under the same hyperparameter draws: what the rows
        say about the hyperparameters themselves is left out. Only what belongs to a new task alone, such as
        its loadings or noise, is chosen among draws from the prior by the density of its rows. A fit through
        inducing inputs takes up to 100 more where the new rows are far from those it has.

        Args:
            new: Rows with targets, as for `predict`.

        Returns:
            A new fit, in which the new tasks are known (and listed in `added_tasks`).

        Raises:
            DataError: If no row has a target, or there are then more than covariance matrices can be made of.
            SpecificationError: If tasks are standardised one by one and a task is new.
        """
        return gp_update.condition(self, new)

    def task_similarity(
        self,
        *,
        kind: Literal["structure", "function"] = "structure",
        tasks: Sequence[str] | None = None,
        reference: pd.DataFrame | TaskData | tuple[Any, ...] | None = None,
        num_draws: int = 1000,
    ) -> TaskSimilarity:
        """Correlation of the tasks' functions, of any sign, with its uncertainty.

        It compares shapes, and ignores levels. Under "structure" it is that of Omega in each draw (of the sum
        of all Omega_q where there are several kernels: the correlation at the same input): `Hierarchical`
        gives all pairs one correlation, `Pooled` and `Independent` give 1 and 0; `LowRank` and
        `TaskCovariance` tell pairs apart. Under "function" it is that of the functions themselves over the
        reference inputs, as `Fit.task_similarity` has it, drawn jointly at up to 60 of them.

        Args:
            kind: "structure" or "function".
            tasks: Names of the tasks wanted, in this order; default all.
            reference: Rows whose inputs are the reference inputs of "function"; default the pooled rows of
                the data.
            num_draws: Posterior draws to use.

        Raises:
            UnknownTaskError: If a task is not known.
            SpecificationError: If the kind is another, reference inputs are given for "structure", or the
                functions do not vary over them.
        """
        check_option("kind", kind, ("structure", "function"))
        if kind == "structure" and reference is not None:
            raise SpecificationError(
                "reference",
                expected='None for kind="structure", which has no inputs',
                found=type(reference).__name__,
                remedy='Pass kind="function" as well.',
            )
        return gp_views.task_similarity(self, kind, tasks, reference, num_draws)

    def partition(self, num_draws: int = 1000) -> Partition:
        """Which tasks belong together: the posterior of the partition, its point summary and how sure it is.

        Args:
            num_draws: Posterior draws to use.

        Raises:
            SpecificationError: If the sharing prior has no partition.
        """
        need_partition(self.sharing)
        return Partition.of(self.flat()["cluster"][self.chosen_draws(num_draws)].numpy(), self.schema)

    def to_datatree(self) -> xr.DataTree:
        """The fit as ArviZ groups: posterior, sample_stats, observed_data and constant_data.

        There is no pointwise log likelihood: functions are integrated out, and rows are not independent given
        the hyperparameters. `leave_one_out` has the densities that model comparison needs.
        """
        return gp_views.to_datatree(self)

    def leave_one_out(self, *, num_draws: int = 200) -> pd.DataFrame:
        """Predict every observed row from all others, in closed form under each hyperparameter draw.

        Draws are weighted by what the row left out says against them (importance weights, Pareto smoothed),
        so that with method="exact" this is leave-one-out of the whole posterior.

        Args:
            num_draws: Hyperparameter draws to use.

        Raises:
            SpecificationError: If functions are known through inducing inputs.

        Returns:
            One row per observed row: task, target, mean and sd of the prediction, `log_density` of the
            target under it, and `pareto_k` of the weights (above 0.7 they are unreliable, infinite where
            hardly any draw explains the row; NaN where all draws are the same).
        """
        self.need_exact("leave_one_out")
        return gp_views.leave_one_out(self, num_draws)

    def known_codes(self, labels: Sequence[str] | np.ndarray, remedy: str) -> np.ndarray:
        """Positions of tasks.

        Raises:
            UnknownTaskError: If one is not known, with this remedy.
        """
        codes = self.schema.codes(labels)
        missing = [str(label) for label, code in zip(labels, codes, strict=True) if code < 0]
        if missing:
            raise self.unknown(list(dict.fromkeys(missing)), remedy)
        return codes

    def need_exact(self, verb: str) -> None:
        """Refuse what has its formula only where functions are integrated out exactly."""
        if self.inducing is not None:
            raise SpecificationError(
                "method",
                expected=f"functions that are integrated out exactly, for {verb}",
                found=f"inducing inputs (method={self.method!r}, {type(self.likelihood).__name__})",
                remedy='Fit a sample of the rows with method="empirical_bayes", or hold rows out.',
            )

    def unknown(self, unknown: Sequence[str], remedy: str) -> UnknownTaskError:
        """The error that says which tasks are not known."""
        return UnknownTaskError(
            self.schema.task_column,
            expected=f"tasks of the training data ({listing(self.task_names)})",
            found=f"{listing(unknown)}, not in the training data",
            remedy=remedy,
        )

    def flat(self) -> dict[str, torch.Tensor]:
        """Hyperparameters of all draws, chains behind each other."""
        return {name: value.flatten(0, 1) for name, value in self.hyperparameters.items()}

    def chosen_draws(self, num_draws: int) -> np.ndarray:
        """Positions of `num_draws` draws, spread evenly over all; all of them when there are no more."""
        C, N = self.num_chains_and_draws
        num_draws = min(whole_number("num_draws", num_draws, 1), C * N)
        return np.linspace(0, C * N - 1, num_draws).round().astype(int)

    def chosen_values(self, num_draws: int, *, fresh: bool = False) -> Values:
        """Hyperparameter draws spread evenly over the chains, at most 200; one where all are the same.

        Args:
            num_draws: How many are wanted.
            fresh: Whether tasks will be added whose own quantities differ from draw to draw.
        """
        chosen = self.chosen_draws(min(num_draws, gp_prediction.MOST_PREDICTORS))
        values = {name: value[chosen] for name, value in self.flat().items()}
        own = any("task" in p.dims and p.size for p in self.problem.space.parameters)
        if not (fresh and own) and all(bool((v == v[:1]).all()) for v in values.values()):
            return {name: value[:1] for name, value in values.items()}
        return values

    def inputs(self, X: np.ndarray) -> torch.Tensor:
        """Features (n, D) in the user's units as standardised inputs, without the intercept.

        Raises:
            DataError: If one is so far from the inputs of the data that distances cannot be computed.
        """
        first = 1 if self.standardization.intercept else 0
        with np.errstate(over="ignore"):
            inputs = self.standardization.standardize_features(X)[:, first:]
        row, column = np.nonzero(np.abs(inputs) > _FARTHEST)
        if len(row):
            raise DataError(
                self.feature_names[column[0]],
                expected=f"inputs within {_FARTHEST:.0e} standard deviations of those of the data",
                found=f"{X[row[0], first + column[0]]:g} in row {row[0]} of the new rows",
                remedy="Correct the value, or leave the row out.",
            )
        return torch.from_numpy(inputs)

    def known_rows(self, values: Values, structure: TaskStructure | None = None) -> KnownRows:
        """The rows that functions are conditioned on, under S hyperparameter values.

        Args:
            values: Hyperparameters, with entries for further tasks behind those of the known, if any.
            structure: Omega and Lambda for these values, the further tasks included.
        """
        T, problem = len(self.task_names), self.problem
        own = [p for p in problem.space.parameters if p.task_axis is not None]
        known = {**values, **{p.name: p.of_some(values[p.name], torch.arange(T)) for p in own}}
        noise = problem.noise(known, gp_prediction.length(values))
        omega, level = problem.structure(values) if structure is None else structure
        return problem.known_rows(values, TaskStructure(omega[:, :, :T, :T], level[:, :T, :T]), noise)

    def generator(self, purpose: int, *names: str) -> np.random.Generator:
        """Randomness derived from the fit's seed, one stream per purpose, and per name of a task if given."""
        return np.random.default_rng([self.seed, purpose, *map(key_of, names)])

    def save(self, path: str | Path) -> None:
        """Write everything to one NetCDF file of plain data.

        An existing file stays until the new one is whole.

        Raises:
            OSError: If the disk is full or the folder cannot be written.
            SpecificationError: If the kernel is not one that a file can describe.
        """
        gp_files.save(self, path)

    def __repr__(self) -> str:
        C, N = self.num_chains_and_draws
        kernel = " and ".join(dict.fromkeys(type(k).__name__ for k in self.problem.kernels.kernels))
        lines = [
            f"GPFit of {kernel} x {type(self.sharing).__name__} x "
            f"{type(self.likelihood).__name__} to {self.schema.target_name}: {len(self.task_names)} tasks, "
            f"{len(self.feature_names)} inputs, {len(self.problem.y)} observed rows",
            f"{C} chains x {N} draws by {self.method} ({self.reason})",
        ]
        if self.added_tasks:
            lines.append(f"conditioned on rows of {listing(self.added_tasks)}")
        if not self.complete:
            lines.append("INCOMPLETE: the run was interrupted")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        lines = "<br>".join(escape(repr(self)).splitlines())
        return f"<p>{lines}</p>{self.summary().round(3).to_html()}"
