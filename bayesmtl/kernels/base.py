"""What a kernel is: hyperparameters, and how they become the covariance of a function's values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from bayesmtl.errors import SpecificationError
from bayesmtl.parameters import Parameter, Reported, Values


@dataclass(frozen=True)
class Kernel(ABC):
    """k(x, x'): the covariance of one function's values, on standardised inputs and in units of its size.

    How large functions are, and which tasks share them, is the business of the sharing prior.
    """

    @abstractmethod
    def check(self, num_features: int) -> None:
        """Refuse inputs that this kernel cannot take.

        Raises:
            SpecificationError: Saying what is wrong.
        """

    @abstractmethod
    def parameters(self, num_features: int) -> tuple[Parameter, ...]:
        """The hyperparameters for D inputs."""

    @abstractmethod
    def covariance(self, values: Values, X: torch.Tensor, Z: torch.Tensor) -> torch.Tensor:
        """k between the rows of X (n, D) and Z (m, D) for B hyperparameter values, shape (B, n, m)."""

    @abstractmethod
    def variance(self, values: Values, X: torch.Tensor) -> torch.Tensor:
        """k(x, x) of every row of X (n, D), shape (B, n)."""

    def frequencies(
        self, values: Values, num_inputs: int, number: int, rng: np.random.Generator
    ) -> torch.Tensor:
        """Draws w from the spectral density, k(x, x') = E cos(w'(x - x')), shape (B, number, D).

        Raises:
            SpecificationError: If this kernel's is not known.
        """
        raise SpecificationError(
            "kernel",
            expected="a Matern kernel, whose spectral density is known",
            found=type(self).__name__,
            remedy="Use predict, whose draws are joint over the rows of one call.",
        )

    @abstractmethod
    def report(self, values: Values) -> dict[str, Reported]:
        """What to show of the hyperparameters; a dimension "feature" runs over the D inputs."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain data, for files."""

    @classmethod
    @abstractmethod
    def from_fields(cls, content: dict[str, Any]) -> Self:
        """The inverse of `to_dict` for one class."""
