"""Successes out of a known number of trials."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy import special

from bayesmtl.errors import SpecificationError
from bayesmtl.likelihoods.rowwise import Derivatives, PolyaGamma, Rowwise, refuse_values


@dataclass(frozen=True)
class Binomial(Rowwise):
    """y ~ Binomial(trials, p), p = 1 / (1 + exp(-f_t(x))), with the same number of trials in every row.

    Weights are log odds per feature. Predictions are on the scale of y: trials times the probability.

    Args:
        trials: Trials of each row, known.

    Raises:
        SpecificationError: If `trials` is no whole number of at least 1.

    Example:
        >>> Binomial(trials=10).mean(np.array([0.0])).tolist()
        [5.0]
    """

    unit: ClassVar[str] = "linear predictor"

    trials: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.trials, int) or isinstance(self.trials, bool) or self.trials < 1:
            raise SpecificationError(
                "trials",
                expected="a whole number of at least 1",
                found=repr(self.trials),
                remedy="Give the number of trials of every row.",
            )

    def check_target(self, y: np.ndarray, name: str) -> None:
        """Whole numbers from 0 to the number of trials."""
        refuse_values(
            y,
            (y < 0) | (y > self.trials) | (y != np.floor(y)),
            name,
            expected=f"whole numbers of successes from 0 to {self.trials} for Binomial({self.trials})",
            remedy="Give successes, not shares, and the number of trials of a row as `trials`.",
        )

    def derivatives(self, y: torch.Tensor, f: torch.Tensor) -> Derivatives:
        """log p(y | f) and its first two derivatives in f, elementwise."""
        n, p = self.trials, torch.sigmoid(f)
        ways = math.lgamma(n + 1) - torch.lgamma(y + 1) - torch.lgamma(n - y + 1)
        value = ways + y * f + n * torch.nn.functional.logsigmoid(-f)
        return Derivatives(value, y - n * p, n * p * (p - 1))

    def third_derivative(self, y: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        """The third derivative of log p(y | f) in f, elementwise."""
        p = torch.sigmoid(f)
        return self.trials * p * (p - 1) * (1 - 2 * p)

    def start(self, y: torch.Tensor) -> torch.Tensor:
        """The log odds of a row's own share, half a success and half a failure added."""
        return torch.log((y + 0.5) / (self.trials - y + 0.5))

    def polya_gamma(self, y: np.ndarray) -> PolyaGamma | None:
        """Shape `trials` and kappa = y - trials / 2."""
        return PolyaGamma(np.full(len(y), self.trials), y - 0.5 * self.trials)

    def mean(self, f: np.ndarray) -> np.ndarray:
        """The expected number of successes."""
        return np.asarray(self.trials * special.expit(f))

    def draw(self, f: np.ndarray, noise: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Numbers of successes."""
        return np.asarray(rng.binomial(self.trials, special.expit(f)), dtype=float)
