"""Likelihoods that need every row: log-concave in f_t(x), without a dispersion."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from bayesmtl.data import Standardization, TaskData
from bayesmtl.errors import DataError, SpecificationError, listing
from bayesmtl.likelihoods.base import Likelihood
from bayesmtl.parameters import Parameter, Reported, Values


class Derivatives(NamedTuple):
    """log p(y | f) and its first two derivatives in f, each of the shape of y and f broadcast."""

    value: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor


class PolyaGamma(NamedTuple):
    """p(y | f) proportional to exp(kappa f) E[exp(-omega f^2 / 2)] with omega ~ PG(shape, 0).

    Attributes:
        shape: Whole numbers, shape (n,).
        kappa: Shape (n,).
    """

    shape: np.ndarray
    kappa: np.ndarray


@dataclass(frozen=True)
class Rowwise(Likelihood):
    """A likelihood that sufficient statistics cannot stand for.

    The target keeps its units (it is neither centred nor divided by anything), so f_t(x) is the linear
    predictor itself. log p(y | f) is concave in f: the weights then have one mode given the hyperparameters.
    """

    @abstractmethod
    def derivatives(self, y: torch.Tensor, f: torch.Tensor) -> Derivatives:
        """log p(y | f) and its first two derivatives in f, elementwise."""

    @abstractmethod
    def third_derivative(self, y: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        """The third derivative of log p(y | f) in f, elementwise."""

    def start(self, y: torch.Tensor) -> torch.Tensor:
        """A harmless f for each y, from which Newton's method sets out."""
        return torch.zeros_like(y)

    def polya_gamma(self, y: np.ndarray) -> PolyaGamma | None:
        """The Polya-Gamma representation of the rows' likelihood, or `None` where there is none."""
        return None

    def check(self, task_names: Sequence[str], observed_per_task: np.ndarray) -> None:
        """Any number of rows will do."""

    def standardization(self, data: TaskData) -> Standardization:
        """Features are standardised, the target is not.

        Raises:
            SpecificationError: If tasks are to be standardised one by one.
        """
        if data.target_standardization == "task":
            raise SpecificationError(
                "target_standardization",
                expected=f'"pooled" or "none" under {type(self).__name__}',
                found='"task"',
                remedy='Its target keeps its units; use data.with_target_standardization("none").',
            )
        return data.with_target_standardization("none").standardization()

    def parameters(self, num_tasks: int) -> tuple[Parameter, ...]:
        """None: the mean says it all."""
        return ()

    def noise_sd(
        self, values: Values, task_names: Sequence[str], target_scale: np.ndarray, num_draws: int
    ) -> torch.Tensor:
        """1: that of the Gaussian pseudo-rows that stand for the rows, shape (B, 1)."""
        return torch.ones(num_draws, 1, dtype=torch.float64)

    def log_density(self, y: np.ndarray, f: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """log p(y | f), elementwise."""
        y, f = np.broadcast_arrays(y, f)
        given, latent = torch.tensor(y, dtype=torch.float64), torch.tensor(f, dtype=torch.float64)
        return np.asarray(self.derivatives(given, latent).value.numpy())

    def report(self, values: Values) -> dict[str, Reported]:
        """Nothing beside the sharing prior's."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for files."""
        return {"likelihood": type(self).__name__, **dataclasses.asdict(self)}

    @classmethod
    def from_fields(cls, content: dict[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(**{key: value for key, value in content.items() if key != "likelihood"})


def refuse_values(y: np.ndarray, wrong: np.ndarray, name: str, *, expected: str, remedy: str) -> None:
    """Raise a DataError that names the target and some of the values that are wrong, if any are."""
    if wrong.any():
        odd = listing([f"{value:g}" for value in np.unique(y[wrong])[:3]])
        raise DataError(
            name,
            expected=expected,
            found=f"{int(wrong.sum())} of {len(y)} values that are not, such as {odd}",
            remedy=remedy,
        )
