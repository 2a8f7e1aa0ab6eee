"""Yes or no."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from scipy import special

from bayesmtl.errors import SpecificationError
from bayesmtl.likelihoods.base import NOTHING, Given
from bayesmtl.likelihoods.rowwise import Derivatives, PolyaGamma, Rowwise, refuse_values

Link = Literal["logit", "probit"]


@dataclass(frozen=True)
class Bernoulli(Rowwise):
    """y ~ Bernoulli(p), p = 1 / (1 + exp(-f_t(x))) ("logit") or the normal distribution function ("probit").

    Targets are 0 and 1, as numbers or booleans. Weights are log odds (or probits) per feature; the features
    are standardised, and levels are measured from the share of ones among all rows: the default N(0, 1) of
    the population's level puts 90 % of its mass on odds between a fifth and five times that share's.

    Args:
        link: "logit" or "probit".

    Raises:
        SpecificationError: If the link is unknown.

    Example:
        >>> Bernoulli().mean(np.array([0.0, 2.0])).round(2).tolist()
        [0.5, 0.88]
    """

    unit: ClassVar[str] = "linear predictor"
    separated: ClassVar[str] = "yes from no"

    link: Link = "logit"

    def __post_init__(self) -> None:
        if self.link not in get_args(Link):
            raise SpecificationError(
                "link", expected="'logit' or 'probit'", found=repr(self.link), remedy='Use "logit".'
            )

    def check_target(self, y: np.ndarray, name: str, trials: np.ndarray | None = None) -> None:
        """Zeros and ones only."""
        refuse_values(
            y,
            (y != 0) & (y != 1),
            name,
            expected="0 and 1, or booleans, for Bernoulli()",
            remedy="Code the event as 1 and its absence as 0; counts of events go with Binomial() or "
            "Poisson().",
        )

    def pyro_distribution(self) -> str:
        """See `Likelihood.pyro_distribution`."""
        return (
            "dist.Bernoulli(logits={f})"
            if self.link == "logit"
            else "dist.Bernoulli(logits=torch.special.log_ndtr({f}) - torch.special.log_ndtr(-{f}))"
        )

    def derivatives(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> Derivatives:
        """log p(y | f) and its first two derivatives in f, elementwise."""
        if self.link == "probit":
            sign, x, ratio = self._probit(y, f)
            return Derivatives(torch.special.log_ndtr(x), sign * ratio, -ratio * (x + ratio))
        value = self.value(y, f)
        p = torch.sigmoid(f)
        return Derivatives(value, y - p, p * (p - 1))

    def value(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """log p(y | f), elementwise."""
        if self.link == "probit":
            probit: torch.Tensor = torch.special.log_ndtr((2 * y - 1) * f)
            return probit
        return torch.addcmul(torch.nn.functional.logsigmoid(-f), y, f)

    def third_derivative(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """The third derivative of log p(y | f) in f, elementwise."""
        if self.link == "probit":
            sign, x, ratio = self._probit(y, f)
            return sign * ratio * ((x + ratio) * (x + 2 * ratio) - 1)
        p = torch.sigmoid(f)
        return p * (p - 1) * (1 - 2 * p)

    def bounds(
        self, y: np.ndarray, task: np.ndarray, trials: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ones and zeros."""
        return y > 0, y < 1

    def level(
        self, y: np.ndarray, counts: np.ndarray, offset: np.ndarray, trials: np.ndarray | None
    ) -> float:
        """The log odds (or probit) of the share of ones, half of one more added to it."""
        share = (counts @ y + 0.5) / (counts.sum() + 1)
        middle = special.logit(share) if self.link == "logit" else special.ndtri(share)
        return float(middle - np.average(offset, weights=counts))

    @staticmethod
    def _probit(y: torch.Tensor, f: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The sign of y, f in its direction, and the normal density over the distribution function there."""
        sign = 2 * y - 1
        x = sign * f
        density = -0.5 * x**2 - 0.5 * math.log(2 * math.pi)
        return sign, x, torch.exp(density - torch.special.log_ndtr(x))

    @property
    def has_quadratic_bound(self) -> bool:
        """See `Likelihood.has_quadratic_bound`: of a logit link (Jaakkola and Jordan, 2000)."""
        return self.augments

    @property
    def augments(self) -> bool:
        """The logit link has Polya-Gamma variables."""
        return self.link == "logit"

    def polya_gamma(self, y: np.ndarray, given: Given = NOTHING) -> PolyaGamma | None:
        """Shape 1 and kappa = y - 1/2, for the logit link (Polson, Scott and Windle, 2013)."""
        return PolyaGamma(np.ones(len(y), dtype=int), y - 0.5) if self.link == "logit" else None

    def mean(self, f: np.ndarray, given: Given = NOTHING) -> np.ndarray:
        """The probability of a 1."""
        return np.asarray(special.expit(f) if self.link == "logit" else special.ndtr(f))

    def draw(
        self, f: np.ndarray, noise: np.ndarray, rng: np.random.Generator, given: Given = NOTHING
    ) -> np.ndarray:
        """Zeros and ones."""
        return np.asarray(rng.random(f.shape) < self.mean(f), dtype=float)
