"""Log likelihoods of rows whose function values are normal: expectations and their derivatives."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from bayesmtl.likelihoods import Likelihood
from bayesmtl.likelihoods.base import Given
from bayesmtl.likelihoods.rowwise import Rowwise
from bayesmtl.parameters import Values

_NUM_NODES = 20
_NODES, _SHARES = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(_NUM_NODES))
_SHARES = _SHARES / _SHARES.sum()


@dataclass(frozen=True, eq=False)
class ExpectedRows:
    """E[log p(y | f)] of rows with f ~ N(mean, variance): a formula for Gaussian noise, else quadrature.

    Gauss-Hermite with 20 nodes on the likelihood's own log density: exact for polynomials in f of degree 39.

    Args:
        likelihood: The likelihood.
        y: Targets, shape (n,).
        task: Task of each row, shape (n,).
        values: One hyperparameter value (B = 1).
        noise: sigma_t, shape (T,).
        level: Known part of every row's function beside f, shape (n,); `None` for 0.
    """

    likelihood: Likelihood
    y: torch.Tensor
    task: torch.Tensor
    values: Values
    noise: torch.Tensor
    level: torch.Tensor | None = None

    def value(self, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
        """E[log p(y | f)] of every row, shape (n,), with gradients."""
        if isinstance(self.likelihood, Rowwise):
            f = self._nodes(mean, variance)
            return _SHARES @ self.likelihood.derivatives(self.y, f, self._given(self.values)).value
        sigma = self.noise.index_select(0, self.task)
        square = (self.y - mean).square() + variance
        return -0.5 * square / sigma.square() - sigma.log() - 0.5 * math.log(2 * math.pi)

    def slopes(self, mean: torch.Tensor, variance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """E[d log p / df] and -E[d^2 log p / df^2] of every row, each (n,); no gradients."""
        if isinstance(self.likelihood, Rowwise):
            values = {name: value.detach() for name, value in self.values.items()}
            f = self._nodes(mean.detach(), variance.detach())
            at = self.likelihood.derivatives(self.y, f, self._given(values))
            return _SHARES @ at.first.expand_as(f), -(_SHARES @ at.second.expand_as(f))
        precision = self.noise.detach().index_select(0, self.task).square().reciprocal()
        return (self.y - mean.detach()) * precision, precision

    def start(self) -> torch.Tensor:
        """A harmless mean of every row, shape (n,)."""
        if isinstance(self.likelihood, Rowwise):
            start = self.likelihood.start(self.y, self._given(self.values)).detach()
            return start if self.level is None else start - self.level
        return self.y

    def _nodes(self, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
        mean = mean if self.level is None else self.level + mean
        # where nothing is left open the derivative of the root would be infinite
        return mean + _NODES[:, None] * variance.clamp(min=1e-12).sqrt()

    def _given(self, values: Values) -> Given:
        return Given(values, None, self.task)
