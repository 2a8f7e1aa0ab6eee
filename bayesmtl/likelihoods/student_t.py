"""Noise with heavy tails: outliers do not pull the function."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch

from bayesmtl.likelihoods.base import NOTHING, Given
from bayesmtl.likelihoods.least_noise import bounded_below
from bayesmtl.likelihoods.rowwise import Derivatives, GaussianRows, Rowwise
from bayesmtl.parameters import Parameter, Reported, Values
from bayesmtl.priors import Fixed, Gamma, HalfNormal, Prior, check_positive, check_priors

_DEGREES = 10.0  # where the search for their mode sets out
_LEAST = 0.1  # curvature of a row in a step, as a share of its expected precision


@dataclass(frozen=True)
class StudentT(Rowwise):
    """y ~ f_t(x) + scale t_degrees: Gaussian noise whose level varies from row to row.

    Scale and degrees of freedom are shared by all tasks; with many degrees of freedom it is `Gaussian()`. The
    target is standardised by its median and quantiles, which outliers do not move; from sums, which know no
    quantiles (`TaskSummaries`), by its mean and standard deviation, as there.

    Args:
        scale: Prior of the scale; HalfNormal(1) puts 90 % of its mass below 1.64 standard deviations of the
            target.
        degrees: Prior of the degrees of freedom; the default Gamma(2, 0.1) puts 90 % of its mass between 3.6
            and 47: from frequent outliers to hardly any.

    Raises:
        SpecificationError: If one is no prior, or known and not above 0.

    Source: the information that method="laplace" takes for that of a row, its expectation, is that of
    Hartmann and Vanhatalo (2019). As recalled, the scale mixture behind method="gibbs" is Geweke's (1993) and
    the prior of the degrees of freedom that of Juarez and Steel (2010).

    Example:
        >>> [round(bound, 1) for bound in StudentT().degrees.interval()]
        [3.6, 47.4]
    """

    scales_target: ClassVar[bool] = True
    is_robust: ClassVar[bool] = True

    scale: Prior = field(default_factory=HalfNormal)
    degrees: Prior = field(default_factory=lambda: Gamma(2.0, 0.1))

    @property
    def log_concave(self) -> bool:
        """It is not, where errors are large."""
        return False

    @property
    def small_step(self) -> float:
        """Smaller than usual: steps shrink by a factor only, not quadratically."""
        return 1e-5

    def __post_init__(self) -> None:
        check_priors(self)
        for name in ("scale", "degrees"):
            if isinstance(prior := getattr(self, name), Fixed):
                check_positive(name, prior.value)

    def parameters(self, num_tasks: int) -> tuple[Parameter, ...]:
        """Scale and degrees of freedom."""
        return (
            Parameter("scale", (), self.scale, "log"),
            Parameter("degrees", (), self.degrees, "log", typical=_DEGREES),
        )

    def report(self, values: Values) -> dict[str, Reported]:
        """Scale and degrees of freedom."""
        return {
            "scale": Reported((), bounded_below(values["scale"]), "target"),
            "degrees": Reported((), values["degrees"], "none"),
        }

    def noise_sd(
        self, values: Values, task_names: Sequence[str], target_scale: np.ndarray, num_draws: int
    ) -> torch.Tensor:
        """The scale in standardised units, shape (B, 1)."""
        return bounded_below(values["scale"][:, None])

    @staticmethod
    def _log_density(error: torch.Tensor, scale: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
        constant = (
            torch.lgamma((degrees + 1) / 2) - torch.lgamma(degrees / 2) - 0.5 * (degrees * math.pi).log()
        )
        return constant - scale.log() - (degrees + 1) / 2 * torch.log1p((error / scale) ** 2 / degrees)

    def derivatives(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> Derivatives:
        """log p(y | f) and its first two derivatives in f, elementwise."""
        error, scale, degrees = y - f, _scale(given), given.column("degrees")
        spread = degrees * scale**2
        whole = spread + error**2
        first = (degrees + 1) * error / whole
        second = (degrees + 1) * (error**2 - spread) / whole**2
        return Derivatives(self._log_density(error, scale, degrees), first, second)

    def third_derivative(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """The third derivative of log p(y | f) in f, elementwise."""
        error, degrees = y - f, given.column("degrees")
        spread = degrees * _scale(given) ** 2
        return 2 * (degrees + 1) * error * (error**2 - 3 * spread) / (spread + error**2) ** 3

    def information(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """Fisher's: (degrees + 1) / ((degrees + 3) scale^2), whatever f is."""
        degrees = given.column("degrees")
        return ((degrees + 1) / ((degrees + 3) * _scale(given) ** 2)).expand_as(f)

    def information_slope(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """0: Fisher's information does not depend on f."""
        return torch.zeros_like(f)

    def step_precision(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """Newton's where that is well above 0, else a share of the precision expected given the error."""
        expected = (given.column("degrees") + 1) / (
            given.column("degrees") * _scale(given) ** 2 + (y - f) ** 2
        )
        return torch.maximum(super().step_precision(y, f, given), _LEAST * expected)

    def start(self, y: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """The target itself: the first step is then least squares."""
        return y

    @property
    def augments(self) -> bool:
        """By a precision of every row."""
        return True

    def augment(
        self,
        y: torch.Tensor,
        f: torch.Tensor,
        weights: torch.Tensor,
        rng: np.random.Generator,
        given: Given = NOTHING,
    ) -> GaussianRows:
        """Draw the precision of every row given its error; then y ~ N(f, 1 / precision)."""
        degrees, scale = given.column("degrees"), _scale(given)
        shape = (0.5 * weights * (degrees + 1)).expand_as(f)
        rate = 0.5 * (degrees * scale**2 + (y - f) ** 2)
        omega = torch.from_numpy(rng.standard_gamma(shape.numpy())) / rate
        return GaussianRows(omega, omega * y)

    def pyro_distribution(self) -> str:
        """See `Likelihood.pyro_distribution`."""
        return "dist.StudentT({degrees}, {f}, {sd})"

    def log_density(
        self, y: np.ndarray, f: np.ndarray, noise: np.ndarray, given: Given = NOTHING
    ) -> np.ndarray:
        """log p(y | f), elementwise; `noise` is the scale in the target's units."""
        error, scale = torch.from_numpy(np.asarray(y - f)), torch.as_tensor(noise)
        return np.asarray(self._log_density(error, scale, given.column("degrees")).numpy())

    def mean(self, f: np.ndarray, given: Given = NOTHING) -> np.ndarray:
        """The function itself, the mean where there is one and the median always."""
        return f

    def draw(
        self, f: np.ndarray, noise: np.ndarray, rng: np.random.Generator, given: Given = NOTHING
    ) -> np.ndarray:
        """The function with its noise."""
        degrees = np.broadcast_to(given.column("degrees").numpy(), f.shape)
        return np.asarray(f + noise * rng.standard_t(degrees))


def _scale(given: Given) -> torch.Tensor:
    """The scale against rows, (B, 1): at least `LEAST_NOISE`, without which the density had no bound."""
    return bounded_below(given.column("scale"))
