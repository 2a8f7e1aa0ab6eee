"""What a likelihood is: how targets scatter around the function of their task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch

from bayesmtl.data import Standardization, TaskData, TaskSummaries
from bayesmtl.errors import DataError, listing
from bayesmtl.parameters import Parameter, Reported, Values


@dataclass(frozen=True, eq=False)
class Given:
    """What the distribution of n rows depends on besides their f of shape (B, n).

    Args:
        values: Hyperparameters by name, each (B, ...).
        trials: Number of trials of each row, shape (n,), or None where none are known.
        task: Task of each row, shape (n,), or None where it makes no difference.
        noise: Noise standard deviation of each row, shape (B, n), for Gaussian rows among others.
    """

    values: Values = field(default_factory=dict)
    trials: torch.Tensor | None = None
    task: torch.Tensor | None = None
    noise: torch.Tensor | None = None

    def column(self, name: str) -> torch.Tensor:
        """A hyperparameter that all tasks share, against rows: shape (B, 1)."""
        return self.values[name][:, None]

    def at(self, rows: np.ndarray) -> Given:
        """The same of some rows, by their positions (m,)."""
        chosen = torch.from_numpy(rows)
        trials, task, noise = (
            None if part is None else part[..., chosen] for part in (self.trials, self.task, self.noise)
        )
        return replace(self, trials=trials, task=task, noise=noise)


NOTHING = Given()


@dataclass(frozen=True)
class Likelihood(ABC):
    """y | f_t(x), dispersion_t. A likelihood is a frozen dataclass of options and priors."""

    compresses: ClassVar[bool] = False
    """Whether sufficient statistics stand for the rows: the likelihood is Gaussian in the weights."""

    unit: ClassVar[str] = "target"
    """What f_t(x) is measured in."""

    scales_target: ClassVar[bool] = True
    """Whether f_t(x) is in the target's units: the target is standardised, and an offset taken off it."""

    has_classes: ClassVar[bool] = False
    """Whether targets are labels, and a task has a weight vector for each class of them."""

    is_mixed: ClassVar[bool] = False
    """Whether tasks have likelihoods of several kinds."""

    is_robust: ClassVar[bool] = False
    """Whether outliers are to pull neither the function nor the scale of the target."""

    @property
    def has_quadratic_bound(self) -> bool:
        """Whether its rows have the quadratic bound of the logistic function."""
        return False

    @property
    def augments(self) -> bool:
        """Whether auxiliary variables make its rows Gaussian."""
        return False

    def prepared(self, data: TaskData) -> TaskData:
        """The data as this likelihood takes it.

        Raises:
            DataError: If targets are labels, and it wants numbers.
        """
        if data.classes:
            raise DataError(
                data.target_name,
                expected=f"numbers, for {type(self).__name__}",
                found=f"labels ({listing(data.classes)})",
                remedy="Use Categorical() for classes, or code the event as 1 and its absence as 0.",
            )
        return data

    def num_outputs(self, classes: tuple[str, ...]) -> int | None:
        """How many linear predictors a row has; `None` for one number, unless targets are classes."""
        return None

    def class_weights(self, weights: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
        """The weights to report: as they are, unless targets are classes."""
        return weights

    def of_tasks(self, task_names: Sequence[str], target_scale: np.ndarray) -> Likelihood:
        """What stands for the rows of these tasks, told apart by their positions: itself, as a rule.

        Args:
            task_names: Names of the T tasks.
            target_scale: What one standardised unit is in the target's units, shape (T,).
        """
        return self

    def scaled_rows(self, task: np.ndarray) -> np.ndarray:
        """Which rows, of tasks (n,), have their target standardised and an offset taken off it, bool (n,)."""
        return np.full(len(task), self.scales_target)

    @abstractmethod
    def check(self, task_names: Sequence[str], observed_per_task: np.ndarray) -> None:
        """Refuse data that cannot inform this likelihood.

        Raises:
            SpecificationError: Naming the tasks and what to do.
        """

    def check_target(  # noqa: B027 - most values are allowed
        self, y: np.ndarray, name: str, trials: np.ndarray | None = None
    ) -> None:
        """Refuse observed targets (n,), with their numbers of trials, that have no probability.

        Raises:
            DataError: Naming the target and the values.
        """

    def check_targets(
        self, y: np.ndarray, task: np.ndarray, name: str, trials: np.ndarray | None = None
    ) -> None:
        """`check_target` for rows of several tasks, at positions `task` (n,).

        Raises:
            DataError: Naming the target and the values.
        """
        self.check_target(y, name, trials)

    def extended(
        self, standardization: Standardization, task_names: Sequence[str], added: Sequence[str]
    ) -> Standardization:
        """The standardisation of the known tasks and of some that the data never showed, behind them.

        Raises:
            SpecificationError: If a new task would have no scale.
        """
        return standardization.with_tasks(len(added)) if added else standardization

    def standardization(self, data: TaskData | TaskSummaries) -> Standardization:
        """Centres and scales of the features, and of the target where this likelihood scales with it."""
        if self.is_robust and isinstance(data, TaskData):
            return data.standardization(robust=True)
        return data.standardization()

    @abstractmethod
    def parameters(self, num_tasks: int) -> tuple[Parameter, ...]:
        """The dispersion hyperparameters of T tasks."""

    @abstractmethod
    def noise_sd(
        self, values: Values, task_names: Sequence[str], target_scale: np.ndarray, num_draws: int
    ) -> torch.Tensor:
        """Noise standard deviations in standardised units, shape (B, T), or (B, 1) where shared.

        Args:
            values: Hyperparameter values, each of shape (B, ...).
            task_names: Names of the T tasks.
            target_scale: What one standardised unit is in the target's units, shape (T,).
            num_draws: B.
        """

    @abstractmethod
    def log_density(
        self, y: np.ndarray, f: np.ndarray, noise: np.ndarray, given: Given = NOTHING
    ) -> np.ndarray:
        """log p(y | f), elementwise; f and noise in the target's units."""

    def pyro_distribution(self) -> str:
        """The distribution of y as the text of a Pyro program, with fields for what it depends on.

        `{f}` is the linear predictor, `{sd}` the sd of the row's noise, `{trials}` the number of trials,
        and hyperparameters have their names. Of a likelihood of one's own that is to go through `to_pyro`.
        """
        raise TypeError(f"{type(self).__name__} has no form in Pyro")

    def pyro_rows(self, counts: bool) -> list[str]:
        """Lines of a Pyro program that observe the rows.

        Args:
            counts: Whether rows count several times, `counts` times.
        """
        names = {parameter.name: parameter.name for parameter in self.parameters(1)}
        text = self.pyro_distribution().format(f="f", sd="sigma[task]", trials="trials", **names)
        lines = []
        if "sigma" in text:
            lines = [
                "sigma = likelihood.noise_sd(values, task_names, target_scale, 1)[0].expand(num_tasks)",
            ]
        return [*lines, *pyro_plate("rows", "y", text, "counts" if counts else None)]

    def pyro_names(self, num_classes: int) -> dict[str, Any]:
        """What the text refers to besides."""
        return {}

    @abstractmethod
    def mean(self, f: np.ndarray, given: Given = NOTHING) -> np.ndarray:
        """E[y | f], elementwise: f itself, a probability, a rate."""

    @abstractmethod
    def draw(
        self, f: np.ndarray, noise: np.ndarray, rng: np.random.Generator, given: Given = NOTHING
    ) -> np.ndarray:
        """New observations y | f, elementwise."""

    @abstractmethod
    def report(self, values: Values) -> dict[str, Reported]:
        """What to show of the hyperparameters."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain data, for files."""

    @classmethod
    @abstractmethod
    def from_fields(cls, content: dict[str, Any]) -> Self:
        """The inverse of `to_dict` for one class."""


def pyro_plate(plate: str, site: str, text: str, counts: str | None) -> list[str]:
    """Lines that observe `site`, distributed as in a text, in a plate of its own."""
    observed = f'pyro.sample("{site}", {text}, obs={site})'
    if counts is None:
        return [f'with pyro.plate("{plate}", len({site})):', f"    {observed}"]
    return [
        f'with pyro.plate("{plate}", len({site})), pyro.poutine.scale(scale={counts}):',
        f"    {observed}",
    ]
