"""Likelihoods that need every row, and what the engines ask of them."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch

from bayesmtl.data import Standardization, TaskData, TaskSummaries
from bayesmtl.errors import DataError, SpecificationError, listing
from bayesmtl.likelihoods.base import NOTHING, Given, Likelihood
from bayesmtl.likelihoods.polya_gamma import polya_gamma
from bayesmtl.parameters import Parameter, Reported, Values
from bayesmtl.priors import Prior


class Derivatives(NamedTuple):
    """log p(y | f) and its first two derivatives in f, each of the shape of y and f broadcast."""

    value: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor


class PolyaGamma(NamedTuple):
    """p(y | f) proportional to exp(kappa f) E[exp(-omega f^2 / 2)] with omega ~ PG(shape, 0).

    Attributes:
        shape: Numbers above 0, shape (n,) or (B, n).
        kappa: Of the same shape.
    """

    shape: np.ndarray
    kappa: np.ndarray


class GaussianRows(NamedTuple):
    """Rows as exp(kappa f - omega f^2 / 2): what auxiliary variables make of them.

    Attributes:
        omega: Precisions, shape (B, n).
        kappa: Linear terms, shape (B, n).
    """

    omega: torch.Tensor
    kappa: torch.Tensor


@dataclass(frozen=True)
class Rowwise(Likelihood):
    """A likelihood that sufficient statistics cannot stand for.

    Where `scales_target` is not set the target keeps its units, and f_t(x) is the linear predictor itself. It
    is centred at `level`, as a Gaussian target is at its mean: priors of levels are about departures from
    there, so that rare events and large counts need no wider ones. Hyperparameters of its own (`parameters`)
    and a row's number of trials come in through `Given`. Engines meet it as `Outcomes`, which knows the rows.
    """

    scales_target: ClassVar[bool] = False

    is_rate: ClassVar[bool] = False
    """Whether levels are logarithms of rates per unit of exposure, so that exp(offset) is what adds up."""

    separated: ClassVar[str] = "outcomes"
    """What a feature tells apart where the likelihood alone would send its weight to infinity, in words."""

    @property
    def log_concave(self) -> bool:
        """Whether log p(y | f) is concave in f: the weights then have one mode given the hyperparameters."""
        return True

    @property
    def small_step(self) -> float:
        """Relative size of a step after which the search for the mode ends.

        Newton's method converges quadratically: the next step would be about its square.
        """
        return 1e-4

    def num_auxiliary(self, trials: np.ndarray, task: np.ndarray) -> int:
        """Auxiliary variables that rows (n,) need, given their numbers of trials and their tasks."""
        return len(trials)

    @abstractmethod
    def derivatives(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> Derivatives:
        """log p(y | f) and its first two derivatives in f, elementwise."""

    def value(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """log p(y | f) alone, elementwise; to be overridden where that is cheaper than its derivatives."""
        return self.derivatives(y, f, given).value

    @abstractmethod
    def third_derivative(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """The third derivative of log p(y | f) in f, elementwise."""

    def information(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """The precision of the Gaussian that Laplace's method puts in the place of a row, above 0.

        Minus the second derivative; what is expected of it where the density is not log-concave.
        """
        return -self.derivatives(y, f, given).second

    def information_slope(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """The derivative of `information` in f, elementwise."""
        return -self.third_derivative(y, f, given)

    def information_change(
        self,
        y: torch.Tensor,
        f: torch.Tensor,
        variances: torch.Tensor,
        weights: torch.Tensor,
        informative: torch.Tensor,
        given: Given = NOTHING,
    ) -> torch.Tensor:
        """The derivative in f of sum_i v_i omega_i, counted as rows are, with v fixed.

        Args:
            y: Targets (n,).
            f: Linear predictors (B, n).
            variances: v (B, n).
            weights: How often rows count (n,).
            informative: Which precisions are not so low that they are held up, bool (B, n).
            given: What else the distribution depends on.
        """
        slope = self.information_slope(y, f, given) * weights
        return variances * torch.where(informative, slope, 0.0)

    def step_precision(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """The precision that steps towards the mode are made with: Newton's, or another one above 0."""
        return -self.derivatives(y, f, given).second

    def start(self, y: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """A harmless f for each y, from which Newton's method sets out."""
        return torch.zeros_like(y)

    def polya_gamma(self, y: np.ndarray, given: Given = NOTHING) -> PolyaGamma | None:
        """The Polya-Gamma representation of the rows' likelihood, or `None` where there is none."""
        return None

    def augment(
        self,
        y: torch.Tensor,
        f: torch.Tensor,
        weights: torch.Tensor,
        rng: np.random.Generator,
        given: Given = NOTHING,
    ) -> GaussianRows:
        """Draw the auxiliary variables of rows (n,) given f, shape (B, n).

        A row that counts v times (`weights`, shape (n,)) has v times the shape and v times kappa.
        """
        form = self.polya_gamma(y.numpy(), given)
        assert form is not None
        count = weights.numpy()
        omega = torch.from_numpy(polya_gamma(form.shape * count, f.numpy(), rng))
        return GaussianRows(omega, torch.as_tensor(form.kappa * count))

    def bounds(
        self, y: np.ndarray, task: np.ndarray, trials: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which rows keep f from falling without end, and which from rising so, bool (n,): all, as a rule.

        Args:
            y: Targets (n,).
            task: Positions of their tasks (n,).
            trials: Numbers of trials (n,), or `None`.
        """
        return np.ones(len(y), dtype=bool), np.ones(len(y), dtype=bool)

    def check(self, task_names: Sequence[str], observed_per_task: np.ndarray) -> None:
        """Any number of rows will do."""

    def level(
        self, y: np.ndarray, counts: np.ndarray, offset: np.ndarray, trials: np.ndarray | None
    ) -> float:
        """The linear predictor, offsets left out, where targets are about as large as those observed.

        Args:
            y: Observed targets (n,), n at least 1.
            counts: How often rows count (n,).
            offset: Known parts of the linear predictor (n,).
            trials: Numbers of trials (n,), where the data give them.
        """
        return 0.0

    def level_of(self, data: TaskData, rows: np.ndarray) -> float:
        """`level` of observed rows, a mask (n,); 0 without any, or without an intercept to take it up."""
        y = data.y[rows]
        if not (data.has_intercept and len(y)):
            return 0.0
        counts = np.ones(len(y)) if data.weights is None else data.weights[rows]
        offset = np.zeros(len(y)) if data.offset is None else data.offset[rows]
        return self.level(y, counts, offset, None if data.trials is None else data.trials[rows])

    def level_of_sums(self, data: TaskSummaries) -> float:
        """`level` of all observed rows from sums over them, which say the same.

        Of a task's rows it needs how often they count, and means: a row for each task has these.
        """
        if not data.has_intercept:
            return 0.0
        mean = data.moments.averages()
        offset = mean["log_exposure" if self.is_rate else "offset"]
        return self.level(mean["y"], mean["counts"], offset, mean["trials"])

    def standardization(self, data: TaskData | TaskSummaries) -> Standardization:
        """Features are standardised; the linear predictor is centred unless targets are to be left alone.

        Raises:
            DataError: If a target has no probability.
            SpecificationError: If tasks are to be standardised one by one.
        """
        if isinstance(data, TaskSummaries):
            for chunk in data.chunks(features=False):
                self.check_target(chunk.y, data.target_name, chunk.trials)
        if self.scales_target:
            return super().standardization(data)
        if data.target_standardization == "task":
            raise SpecificationError(
                "target_standardization",
                expected=f'"pooled" or "none" under {type(self).__name__}',
                found='"task"',
                remedy='Its target keeps its units; use data.with_target_standardization("pooled").',
            )
        as_it_is = data.with_target_standardization("none").standardization()
        if data.target_standardization == "none":
            return as_it_is
        if isinstance(data, TaskSummaries):
            level = self.level_of_sums(data)
        else:
            trials = None if data.trials is None else data.trials[data.observed]
            self.check_target(data.y[data.observed], data.target_name, trials)
            level = self.level_of(data, data.observed)
        center = np.full(data.num_tasks, level)
        return dataclasses.replace(as_it_is, target_center=center, target="pooled")

    def parameters(self, num_tasks: int) -> tuple[Parameter, ...]:
        """None: the mean says it all."""
        return ()

    def noise_sd(
        self, values: Values, task_names: Sequence[str], target_scale: np.ndarray, num_draws: int
    ) -> torch.Tensor:
        """1 where there is no noise level, shape (B, 1)."""
        return torch.ones(num_draws, 1, dtype=torch.float64)

    def log_density(
        self, y: np.ndarray, f: np.ndarray, noise: np.ndarray, given: Given = NOTHING
    ) -> np.ndarray:
        """log p(y | f), elementwise."""
        y, f = np.broadcast_arrays(y, f)
        target, latent = torch.tensor(y, dtype=torch.float64), torch.tensor(f, dtype=torch.float64)
        return np.asarray(self.derivatives(target, latent, given).value.numpy())

    def report(self, values: Values) -> dict[str, Reported]:
        """Nothing beside the sharing prior's."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for files."""
        content: dict[str, Any] = {"likelihood": type(self).__name__}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            content[field.name] = value.to_dict() if isinstance(value, Prior) else value
        return content

    @classmethod
    def from_fields(cls, content: dict[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        fields = {
            key: Prior.from_dict(value) if isinstance(value, dict) and "prior" in value else value
            for key, value in content.items()
            if key != "likelihood"
        }
        return cls(**fields)


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
