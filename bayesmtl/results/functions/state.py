"""What a fit of a multi-task Gaussian process holds: hyperparameter draws and rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import xarray as xr

from bayesmtl.algebra.functions import KnownRows, TaskStructure
from bayesmtl.data import TaskData
from bayesmtl.errors import DataError, SpecificationError
from bayesmtl.kernels import Kernel
from bayesmtl.parameters import Values
from bayesmtl.posteriors.draws import HyperparameterDraws
from bayesmtl.posteriors.functions.build import functions_posterior, parts
from bayesmtl.posteriors.functions.inducing import InducingFunctions
from bayesmtl.posteriors.functions.posterior import FunctionPosterior
from bayesmtl.priors import Prior
from bayesmtl.results.base import Fit
from bayesmtl.results.functions.first_weights import FirstWeights, signature
from bayesmtl.results.linear.posterior import in_user_units
from bayesmtl.sharing.over_functions import PARTS

# Hyperparameter draws that an answer averages over; each gives as many function draws as are asked for.
MOST_PREDICTORS = 200
_FARTHEST = 1e100  # whose square is a number


def length(values: Values) -> int:
    """S, the number of draws."""
    return len(next(iter(values.values())))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class FunctionState(Fit):
    """Draws of the hyperparameters of functions, which are integrated out.

    Functions are given by exact formulas under every hyperparameter draw, each draw with a predictor of its
    own, made when it is asked for: nothing is cached, and there are no modes.

    Args:
        kernel: Covariance of one function; several where functions have kernels of their own.
        amplitude: Prior of the size of shared functions.
        inducing: Inducing inputs (m, D), standardised, where functions are known through them; else `None`.
    """

    draws: HyperparameterDraws
    data: TaskData
    kernel: Kernel | tuple[Kernel, ...]
    amplitude: Prior
    inducing: torch.Tensor | None = None

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
        names |= {"part": np.array(PARTS), "part_other": np.array(PARTS)}
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

    def need_exact(self, verb: str) -> None:
        """Refuse what has its formula only where functions are integrated out exactly."""
        if self.inducing is not None:
            raise SpecificationError(
                "method",
                expected=f"functions that are integrated out exactly, for {verb}",
                found=f"inducing inputs (method={self.method!r}, {type(self.likelihood).__name__})",
                remedy='Fit a sample of the rows with method="empirical_bayes", or hold rows out.',
            )

    def chosen_values(self, num_draws: int, *, fresh: bool = False) -> Values:
        """Hyperparameter draws spread evenly over the chains, at most 200; one where all are the same.

        Args:
            num_draws: How many are wanted.
            fresh: Whether tasks will be added whose own quantities differ from draw to draw.
        """
        chosen = self.chosen_draws(min(num_draws, MOST_PREDICTORS))
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
        noise = problem.noise(known, length(values))
        omega, level = problem.structure(values) if structure is None else structure
        return problem.known_rows(values, TaskStructure(omega[:, :, :T, :T], level[:, :T, :T]), noise)
