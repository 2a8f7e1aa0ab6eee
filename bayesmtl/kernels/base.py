"""What a kernel is: hyperparameters, and how they become the covariance of a function's values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Self

import torch

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
