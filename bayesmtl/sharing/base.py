"""What a sharing prior is: hyperparameters, and how they become A, Z and E."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch

from bayesmtl.algebra.structure import Structure
from bayesmtl.parameters import Parameter, Reported, Spread, Values
from bayesmtl.priors import Prior, check_priors
from bayesmtl.sharing.dependence import Dependence


@dataclass(frozen=True)
class Sharing(ABC):
    """A prior on W = A Z + E: who shares (A), what is shared (Z), what stays private (E).

    A subclass is a frozen dataclass of options and priors. It names its hyperparameters (`parameters`), fills
    the equation with their values (`structure`), and says what to report (`report`). Registered in
    `bayesmtl.sharing.REGISTRY`, it goes through every contract test.
    """

    has_population: ClassVar[bool] = True
    """Whether Z's first row is a population mean that a task never seen is drawn around."""

    has_loadings: ClassVar[bool] = False
    """Whether the coordinates along `residual_factor` are loadings on shared directions."""

    dependence: ClassVar[Dependence] = Dependence.GIVEN_Z
    """How tasks depend on each other given the hyperparameters."""

    def __post_init__(self) -> None:
        check_priors(self)

    @property
    def has_sticks(self) -> bool:
        """Whether clusters are alike and come from independent sticks, so that a bound factorises."""
        return False

    @property
    def descriptor_names(self) -> tuple[str, ...]:
        """Names of the descriptors of tasks that this prior looks at."""
        return ()

    def of_tasks(self, task_names: Sequence[str]) -> Self:
        """This prior for tasks of these names, where it tells them apart by name."""
        return self

    @abstractmethod
    def parameters(self, num_tasks: int, num_features: int) -> tuple[Parameter, ...]:
        """The hyperparameters for T tasks and D features."""

    @abstractmethod
    def structure(self, values: Values, num_tasks: int, num_features: int) -> Structure:
        """A, Z and E for B hyperparameter values, each of shape (B, ...)."""

    def task_correlation(self, values: Values, num_tasks: int) -> torch.Tensor:
        """Correlation of the tasks' weights around the population, (B, T, T), where tasks depend jointly."""
        raise TypeError(f"{type(self).__name__} has no correlation of tasks")

    @abstractmethod
    def report(self, values: Values) -> dict[str, Reported]:
        """What to show of the hyperparameters.

        Only quantities that the data can identify belong here: no signs, no rotations, no labels.
        """

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for files."""
        content: dict[str, Any] = {"sharing": type(self).__name__}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            content[field.name] = value.to_dict() if isinstance(value, Prior) else value
        return content

    @classmethod
    def from_fields(cls, content: dict[str, Any]) -> Self:
        """The inverse of `to_dict` for one class."""
        fields = {
            key: Prior.from_dict(value) if isinstance(value, dict) and "prior" in value else value
            for key, value in content.items()
            if key != "sharing"
        }
        return cls(**fields)


def reported_spread(spread: Spread) -> dict[str, Reported]:
    """What to report of tasks' weights around the population: their scales, and their correlation."""
    dims = ("feature", "feature_other")
    return {
        "residual_scale": Reported(("feature",), spread.sd(), "coefficient", spread=spread),
        "residual_correlation": Reported(dims, spread.correlation(), "correlation", spread=spread),
    }


def ones(num_tasks: int) -> torch.Tensor:
    """A = ones: every task has the same share of the one shared row, shape (T, 1)."""
    return torch.ones(num_tasks, 1, dtype=torch.float64)
