"""Counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy import special

from bayesmtl.likelihoods.base import NOTHING, Given
from bayesmtl.likelihoods.rowwise import Derivatives, Rowwise, refuse_values

LARGEST_RATE = 1e15  # what NumPy can draw from, and far beyond any count


@dataclass(frozen=True)
class Poisson(Rowwise):
    """y ~ Poisson(exp(f_t(x))).

    Weights are differences of the log rate per feature; the features are standardised, and levels are
    measured from the mean count of all rows (per unit of exposure): the default N(0, 1) of the population's
    level puts 90 % of its mass on rates between a fifth and five times that mean.

    Example:
        >>> Poisson().mean(np.array([0.0])).tolist()
        [1.0]
    """

    unit: ClassVar[str] = "log rate"
    is_rate: ClassVar[bool] = True
    separated: ClassVar[str] = "zeros from other counts"

    def check_target(self, y: np.ndarray, name: str, trials: np.ndarray | None = None) -> None:
        """Whole numbers from 0 on."""
        refuse_non_counts(y, name, "Poisson()")

    def pyro_distribution(self) -> str:
        """See `Likelihood.pyro_distribution`."""
        return "dist.Poisson({f}.exp())"

    def derivatives(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> Derivatives:
        """log p(y | f) and its first two derivatives in f, elementwise."""
        rate = f.exp()
        return Derivatives(y * f - rate - torch.lgamma(y + 1), y - rate, -rate)

    def third_derivative(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """The third derivative of log p(y | f) in f, elementwise."""
        return -f.exp()

    def start(self, y: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """The logarithm of the count itself, half an event added."""
        return torch.log(y + 0.5)

    def bounds(
        self, y: np.ndarray, task: np.ndarray, trials: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Counts above 0, and all: zeros are as likely as can be at a rate of 0."""
        return y > 0, np.ones(len(y), dtype=bool)

    def level(
        self, y: np.ndarray, counts: np.ndarray, offset: np.ndarray, trials: np.ndarray | None
    ) -> float:
        """The logarithm of all events, half an event added, per unit of exposure."""
        return log_rate(y, counts, offset)

    def mean(self, f: np.ndarray, given: Given = NOTHING) -> np.ndarray:
        """The rate."""
        return np.asarray(np.exp(f))

    def draw(
        self, f: np.ndarray, noise: np.ndarray, rng: np.random.Generator, given: Given = NOTHING
    ) -> np.ndarray:
        """Counts."""
        return np.asarray(rng.poisson(np.minimum(np.exp(f), LARGEST_RATE)), dtype=float)


def log_rate(y: np.ndarray, counts: np.ndarray, offset: np.ndarray) -> float:
    """The logarithm of the events y (n,), half an event added, per unit of exposure exp(offset)."""
    return float(np.log(counts @ y + 0.5) - special.logsumexp(offset, b=counts))


def refuse_non_counts(y: np.ndarray, name: str, likelihood: str) -> None:
    """Refuse targets that are no counts, naming some."""
    refuse_values(
        y,
        (y < 0) | (y != np.floor(y)),
        name,
        expected=f"whole numbers of at least 0 for {likelihood}",
        remedy="Give counts, not rates; a target that can be negative or fractional goes with Gaussian().",
    )
