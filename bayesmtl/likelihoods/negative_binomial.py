"""Counts that scatter more than a Poisson's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch

from bayesmtl.likelihoods.base import NOTHING, Given
from bayesmtl.likelihoods.poisson import LARGEST_RATE, log_rate, refuse_non_counts
from bayesmtl.likelihoods.rowwise import Derivatives, GaussianRows, PolyaGamma, Rowwise
from bayesmtl.parameters import Parameter, Reported, Values
from bayesmtl.priors import Fixed, HalfNormal, Prior, check_positive, check_priors

_STIRLING = 1e4  # sizes r beyond which Stirling's series is exact to rounding, and Gamma functions cancel


@dataclass(frozen=True)
class NegativeBinomial(Rowwise):
    """y ~ NegativeBinomial with mean m = exp(f_t(x)) and variance m + dispersion m^2.

    A Poisson rate that varies from row to row by a gamma factor of mean 1 and variance `dispersion`; with
    dispersion to 0 it is `Poisson`, and levels are measured from the mean count of all rows as there. One
    dispersion is shared by all tasks.

    Args:
        dispersion: Prior of the dispersion. The default HalfNormal(1) puts 90 % of its mass below 1.64: rows
            of equal features differ in their rates by a standard deviation of up to 1.3 times the mean.

    Raises:
        SpecificationError: If `dispersion` is no prior, or known and not above 0.

    Example:
        >>> [parameter.name for parameter in NegativeBinomial().parameters(num_tasks=3)]
        ['dispersion']
    """

    unit: ClassVar[str] = "log rate"
    is_rate: ClassVar[bool] = True
    separated: ClassVar[str] = "zeros from other counts"

    dispersion: Prior = field(default_factory=HalfNormal)

    def __post_init__(self) -> None:
        check_priors(self)
        if isinstance(self.dispersion, Fixed):
            check_positive("dispersion", self.dispersion.value)

    def check_target(self, y: np.ndarray, name: str, trials: np.ndarray | None = None) -> None:
        """Whole numbers from 0 on."""
        refuse_non_counts(y, name, "NegativeBinomial()")

    def parameters(self, num_tasks: int) -> tuple[Parameter, ...]:
        """The dispersion."""
        return (Parameter("dispersion", (), self.dispersion, "log"),)

    def report(self, values: Values) -> dict[str, Reported]:
        """The dispersion."""
        return {"dispersion": Reported((), values["dispersion"], "none")}

    def pyro_distribution(self) -> str:
        """See `Likelihood.pyro_distribution`."""
        return "dist.NegativeBinomial(1 / {dispersion}, logits={f} + {dispersion}.log())"

    def derivatives(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> Derivatives:
        """log p(y | f) and its first two derivatives in f, elementwise."""
        r = 1 / given.column("dispersion")
        g = f - r.log()
        value = _log_ways(y, r) - torch.lgamma(y + 1) + y * f - (y + r) * torch.nn.functional.softplus(g)
        p = torch.sigmoid(g)
        return Derivatives(value, y - (y + r) * p, (y + r) * p * (p - 1))

    def third_derivative(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """The third derivative of log p(y | f) in f, elementwise."""
        r = 1 / given.column("dispersion")
        p = torch.sigmoid(f - r.log())
        return (y + r) * p * (p - 1) * (1 - 2 * p)

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

    @property
    def augments(self) -> bool:
        """By Polya-Gamma variables."""
        return True

    def polya_gamma(self, y: np.ndarray, given: Given = NOTHING) -> PolyaGamma:
        """In f - log r, r = 1 / dispersion: shape y + r and kappa = (y - r) / 2."""
        r = 1 / given.column("dispersion").numpy()
        return PolyaGamma(y + r, 0.5 * (y - r))

    def augment(
        self,
        y: torch.Tensor,
        f: torch.Tensor,
        weights: torch.Tensor,
        rng: np.random.Generator,
        given: Given = NOTHING,
    ) -> GaussianRows:
        """Polya-Gamma variables belong to f - log r; see `Rowwise.augment`."""
        shift = -given.column("dispersion").log()
        drawn = super().augment(y, f - shift, weights, rng, given)
        return GaussianRows(drawn.omega, drawn.kappa + drawn.omega * shift)

    def mean(self, f: np.ndarray, given: Given = NOTHING) -> np.ndarray:
        """The rate."""
        return np.asarray(np.exp(f))

    def draw(
        self, f: np.ndarray, noise: np.ndarray, rng: np.random.Generator, given: Given = NOTHING
    ) -> np.ndarray:
        """Counts."""
        r = np.broadcast_to(1 / given.column("dispersion").numpy(), f.shape)
        rate = np.exp(f) * rng.standard_gamma(r) / r
        return np.asarray(rng.poisson(np.minimum(rate, LARGEST_RATE)), dtype=float)


def _log_ways(y: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """log Gamma(y + r) - log Gamma(r) - y log r, which goes to 0 as r grows; without cancellation."""
    small, large = r.clamp(max=_STIRLING), r.clamp(min=_STIRLING)
    exact = torch.lgamma(y + small) - torch.lgamma(small) - y * small.log()
    series = (large + y - 0.5) * torch.log1p(y / large) - y + (1 / (large + y) - 1 / large) / 12
    return torch.where(r < _STIRLING, exact, series)
