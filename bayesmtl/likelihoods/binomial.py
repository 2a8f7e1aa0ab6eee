"""Successes out of a known number of trials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy import special

from bayesmtl.errors import DataError, SpecificationError
from bayesmtl.likelihoods.base import NOTHING, Given
from bayesmtl.likelihoods.rowwise import Derivatives, PolyaGamma, Rowwise, refuse_values


@dataclass(frozen=True)
class Binomial(Rowwise):
    """y ~ Binomial(n, p), p = 1 / (1 + exp(-f_t(x))), out of a known number n of trials.

    Weights are log odds per feature, and levels are measured from the share of successes among all trials,
    as under `Bernoulli`. Predictions are on the scale of y: trials times the probability.

    Args:
        trials: Trials of every row, or `None` where each row has its own, which the data then give:
            ``TaskData.from_frame(..., trials="column")``.

    Raises:
        SpecificationError: If `trials` is no whole number of at least 1.

    Example:
        >>> Binomial(trials=10).mean(np.array([0.0])).tolist()
        [5.0]
    """

    unit: ClassVar[str] = "linear predictor"
    separated: ClassVar[str] = "yes from no"

    trials: int | None = None

    def __post_init__(self) -> None:
        wrong = not isinstance(self.trials, int) or isinstance(self.trials, bool) or self.trials < 1
        if self.trials is not None and wrong:
            raise SpecificationError(
                "trials",
                expected="a whole number of at least 1, or None",
                found=repr(self.trials),
                remedy="Give the number of trials of every row, or None for those of the data.",
            )

    def check_target(self, y: np.ndarray, name: str, trials: np.ndarray | None = None) -> None:
        """Whole numbers from 0 to the number of trials, which is known once."""
        if (self.trials is None) == (trials is None):
            known = self.trials is None
            raise DataError(
                "trials",
                expected="the number of trials of every row",
                found="none" if known else f"it twice, in the data and in Binomial({self.trials})",
                remedy='Give the data a column of it, trials="column", or write Binomial(trials=10) for all.'
                if known
                else "Write Binomial() for the trials of the data.",
            )
        most = np.full(len(y), self.trials) if trials is None else trials
        size = "the trials of the row" if self.trials is None else str(self.trials)
        refuse_values(
            y,
            (y < 0) | (y > most) | (y != np.floor(y)),
            name,
            expected=f"whole numbers of successes from 0 to {size} for {self!r}",
            remedy="Give successes, not shares, and the number of trials of a row as `trials`.",
        )

    def _number(self, like: torch.Tensor, given: Given) -> torch.Tensor:
        """Trials, to be broadcast with rows."""
        if self.trials is not None:
            return torch.tensor(float(self.trials), dtype=like.dtype)
        assert given.trials is not None
        return given.trials

    def pyro_distribution(self) -> str:
        """See `Likelihood.pyro_distribution`."""
        return f"dist.Binomial({self.trials or '{trials}'}, logits={{f}})"

    def derivatives(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> Derivatives:
        """log p(y | f) and its first two derivatives in f, elementwise."""
        n, p = self._number(f, given), torch.sigmoid(f)
        ways = torch.lgamma(n + 1) - torch.lgamma(y + 1) - torch.lgamma(n - y + 1)
        value = ways + y * f + n * torch.nn.functional.logsigmoid(-f)
        return Derivatives(value, y - n * p, n * p * (p - 1))

    def third_derivative(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """The third derivative of log p(y | f) in f, elementwise."""
        p = torch.sigmoid(f)
        return self._number(f, given) * p * (p - 1) * (1 - 2 * p)

    def start(self, y: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """The log odds of a row's own share, half a success and half a failure added."""
        return torch.log((y + 0.5) / (self._number(y, given) - y + 0.5))

    def bounds(
        self, y: np.ndarray, task: np.ndarray, trials: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows with successes and rows with failures."""
        most = trials if self.trials is None else np.full(len(y), self.trials)
        assert most is not None
        return y > 0, y < most

    def level(
        self, y: np.ndarray, counts: np.ndarray, offset: np.ndarray, trials: np.ndarray | None
    ) -> float:
        """The log odds of the share of successes, half a success and half a failure added."""
        most = trials if self.trials is None else np.full(len(y), self.trials)
        assert most is not None
        yes, all_trials = counts @ y + 0.5, counts @ most + 1
        return float(special.logit(yes / all_trials) - np.average(offset, weights=counts))

    @property
    def has_quadratic_bound(self) -> bool:
        """See `Likelihood.has_quadratic_bound`: of a logit link (Jaakkola and Jordan, 2000)."""
        return self.augments

    @property
    def augments(self) -> bool:
        """By Polya-Gamma variables."""
        return True

    def num_auxiliary(self, trials: np.ndarray, task: np.ndarray) -> int:
        """One for every trial."""
        return int(trials.sum()) if self.trials is None else self.trials * len(trials)

    def polya_gamma(self, y: np.ndarray, given: Given = NOTHING) -> PolyaGamma:
        """Shape `trials` and kappa = y - trials / 2."""
        n = self._number(torch.from_numpy(y), given).numpy()
        return PolyaGamma(np.broadcast_to(n, y.shape), y - 0.5 * n)

    def mean(self, f: np.ndarray, given: Given = NOTHING) -> np.ndarray:
        """The expected number of successes."""
        return np.asarray(self._number(torch.empty(0), given).numpy() * special.expit(f))

    def draw(
        self, f: np.ndarray, noise: np.ndarray, rng: np.random.Generator, given: Given = NOTHING
    ) -> np.ndarray:
        """Numbers of successes."""
        n = self._number(torch.empty(0), given).numpy().astype(np.int64)
        return np.asarray(rng.binomial(n, special.expit(f)), dtype=float)
