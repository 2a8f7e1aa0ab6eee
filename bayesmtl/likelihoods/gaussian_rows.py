"""Gaussian noise row by row, for Gaussian tasks beside others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from bayesmtl.likelihoods.base import NOTHING, Given
from bayesmtl.likelihoods.gaussian import Gaussian
from bayesmtl.likelihoods.rowwise import Derivatives, GaussianRows, Rowwise


@dataclass(frozen=True)
class _GaussianByRow(Rowwise):
    """y ~ N(f_t(x), noise^2) with the noise of every row in `Given.noise`, in standardised units.

    Sufficient statistics would do, but for neighbours that have none. Its second-order expansion is the
    density itself: what Laplace's method makes of these rows is exact.

    Args:
        gaussian: What it stands for.
    """

    scales_target: ClassVar[bool] = True

    gaussian: Gaussian

    @property
    def augments(self) -> bool:
        """It needs no auxiliary variables."""
        return True

    def derivatives(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> Derivatives:
        """log p(y | f) and its first two derivatives in f, elementwise."""
        assert given.noise is not None
        precision = given.noise**-2
        error = y - f
        value = -0.5 * precision * error**2 - given.noise.log() - 0.5 * math.log(2 * math.pi)
        return Derivatives(value, precision * error, -precision.expand_as(value))

    def third_derivative(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """0."""
        return torch.zeros_like(f)

    def start(self, y: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """The target itself: the first step is then least squares."""
        return y

    def augment(
        self,
        y: torch.Tensor,
        f: torch.Tensor,
        weights: torch.Tensor,
        rng: np.random.Generator,
        given: Given = NOTHING,
    ) -> GaussianRows:
        """The rows as they are; nothing is drawn."""
        assert given.noise is not None
        omega = (weights * given.noise**-2).expand_as(f)
        return GaussianRows(omega, omega * y)

    def num_auxiliary(self, trials: np.ndarray, task: np.ndarray) -> int:
        """None."""
        return 0

    def log_density(
        self, y: np.ndarray, f: np.ndarray, noise: np.ndarray, given: Given = NOTHING
    ) -> np.ndarray:
        """log N(y | f, noise^2), elementwise."""
        return self.gaussian.log_density(y, f, noise, given)

    def mean(self, f: np.ndarray, given: Given = NOTHING) -> np.ndarray:
        """The function itself."""
        return self.gaussian.mean(f, given)

    def draw(
        self, f: np.ndarray, noise: np.ndarray, rng: np.random.Generator, given: Given = NOTHING
    ) -> np.ndarray:
        """The function with its noise."""
        return self.gaussian.draw(f, noise, rng, given)

    def check(self, task_names: Sequence[str], observed_per_task: np.ndarray) -> None:
        """See `Gaussian.check`."""
        self.gaussian.check(task_names, observed_per_task)
