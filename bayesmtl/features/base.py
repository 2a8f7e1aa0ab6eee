"""What a trunk is: a map from inputs to features, for several members of an ensemble at once.

On paper                                   In code
phi(x), D features of an input             `Trunk.features`, of M members: (M, n, inputs) -> (M, n, D)
theta, the weights of the trunk            `Weights`, each (M, ...)
[1, x, phi((x - c) / s)]                   `FeatureMap`: what the heads are linear in
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch

from bayesmtl.errors import SpecificationError

Weights = Mapping[str, torch.Tensor]
"""Weights of a trunk by name; the first dimension is the members'."""


class Trunk(ABC):
    """A map from inputs to features with weights that all tasks share. A frozen dataclass of options."""

    name: ClassVar[str]

    @abstractmethod
    def width(self, num_inputs: int) -> int:
        """Number of features of so many inputs.

        Raises:
            SpecificationError: If the trunk takes another number of inputs.
        """

    @abstractmethod
    def initial(
        self, num_inputs: int, num_members: int, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Random weights of every member, each (M, ...), float32."""

    @abstractmethod
    def features(self, weights: Weights, X: torch.Tensor) -> torch.Tensor:
        """Features of every member: inputs (M, n, num_inputs) -> (M, n, D)."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain data, for files, with the trunk's name under "trunk"."""

    @classmethod
    @abstractmethod
    def from_fields(cls, content: Mapping[str, Any]) -> Self:
        """Undo `to_dict`."""


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """What the heads are linear in: a constant, the raw columns if they skip the trunk, and its features.

    Args:
        trunk: The trunk.
        weights: Its weights, each (M, ...).
        center: What is taken off the inputs, shape (inputs,), in their units.
        scale: What they are then divided by, shape (inputs,).
        skip: Whether the raw columns go to the heads too.
        intercept: Whether the first column of the data is the constant.
    """

    trunk: Trunk
    weights: Weights
    center: np.ndarray
    scale: np.ndarray
    skip: bool
    intercept: bool

    @property
    def num_members(self) -> int:
        """M."""
        return next((len(value) for value in self.weights.values()), 1)

    def columns(self, inputs: torch.Tensor, weights: Weights) -> torch.Tensor:
        """Columns of the heads from raw inputs: (M, n, inputs) -> (M, n, H)."""
        center, scale = (
            torch.as_tensor(part, dtype=inputs.dtype, device=inputs.device)
            for part in (self.center, self.scale)
        )
        parts = [self.trunk.features(weights, (inputs - center) / scale)]
        parts = [inputs, *parts] if self.skip else parts
        if self.intercept:
            parts = [torch.ones_like(inputs[..., :1]), *parts]
        return torch.cat(parts, dim=-1)

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """Columns of every member's heads from those of the data: (n, D) -> (M, n, H), in double precision.

        Raises:
            SpecificationError: If the trunk returns something that is not finite.
        """
        inputs = torch.from_numpy(np.array(X[:, 1:] if self.intercept else X, dtype=np.float64))
        doubled = {name: value.double() for name, value in self.weights.items()}
        with torch.no_grad():
            columns = self.columns(inputs.expand(self.num_members, *inputs.shape), doubled)
        if not bool(torch.isfinite(columns).all()):
            raise SpecificationError(
                "trunk",
                expected="finite features",
                found=f"{int((~torch.isfinite(columns)).sum())} that are not",
                remedy="Lower the learning rate, or bring the inputs to a common scale.",
            )
        return np.asarray(columns.numpy())
