"""The Matern family with one length-scale per input."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from bayesmtl.algebra.random import standard_normal
from bayesmtl.errors import SpecificationError
from bayesmtl.kernels.base import Kernel
from bayesmtl.parameters import Parameter, Reported, Values
from bayesmtl.priors import LKJ, Fixed, LogNormal, Prior

# of a squared distance: keeps the derivative of its root finite where two inputs agree
_COINCIDENT = 1e-30
_ROUNDING = 1e-14  # what remains of the squared distance of equal inputs


class _Covariance(torch.autograd.Function):
    """k between inputs (B, n, D) and (B, m, D) over their length-scales, with the gradient by hand.

    k is a function of s = |x - z|^2, so that with W = gradient o dk/ds the gradient at x_i is
    2 sum_j W_ij (x_i - z_j): two products of matrices, where differentiating step by step passes over n x m
    numbers a dozen times.
    """

    @staticmethod
    def forward(ctx: Any, left: torch.Tensor, right: torch.Tensor, smoothness: float) -> torch.Tensor:
        square = torch.baddbmm(left.square().sum(-1)[:, :, None], left, right.transpose(1, 2), alpha=-2)
        square = square.add_(right.square().sum(-1)[:, None, :]).clamp_(min=_COINCIDENT)
        if smoothness == math.inf:
            k = square.mul_(-0.5).exp_()
            slope = -0.5 * k
        else:
            r = (2 * smoothness * square).sqrt_()
            decay = (-r).exp_()
            if smoothness == 0.5:
                k, slope = decay, (decay / r).mul_(-0.5)
                slope[square <= _ROUNDING] = 0.0  # where two inputs agree k has a kink
            elif smoothness == 1.5:
                k, slope = torch.addcmul(decay, r, decay), -1.5 * decay
            else:
                falling = r * decay
                slope = decay.add_(falling)
                k = torch.addcmul(slope, falling, r, value=1 / 3)
                slope = slope.mul_(-5 / 6)
        ctx.save_for_backward(left, right, slope)
        return k

    @staticmethod
    def backward(ctx: Any, *gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        left, right, slope = ctx.saved_tensors
        W = gradient[0] * slope
        to_left = W.sum(2)[:, :, None] * left - W @ right
        to_right = W.sum(1)[:, :, None] * right - W.transpose(1, 2) @ left
        return 2 * to_left, 2 * to_right, None


@dataclass(frozen=True)
class Matern(Kernel):
    """Functions of a given smoothness, with a length-scale of its own for every input (ARD).

    With r = sqrt(sum_d ((x_d - x'_d) / lengthscale_d)^2): exp(-r) for smoothness 1/2, (1 + sqrt(3) r)
    exp(-sqrt(3) r) for 3/2, (1 + sqrt(5) r + 5 r^2 / 3) exp(-sqrt(5) r) for 5/2, and exp(-r^2 / 2), the
    squared exponential, for infinity.

    Args:
        smoothness: 0.5, 1.5, 2.5 or infinity: functions have that many derivatives, rounded down.
        lengthscale: Prior of every length-scale, in standard deviations of its input. `None` for
            LogNormal(sqrt(D), 1): with one input 90 % of its mass lies between 0.19 and 5.2, from a dozen
            bends over the data to nearly a straight line; with D inputs typical distances grow with
            sqrt(D), and so does it.

    Raises:
        SpecificationError: If the smoothness is none of these.

    Example:
        >>> Matern(smoothness=1.5).parameters(num_features=2)[0].shape
        (2,)
    """

    smoothness: float = 2.5
    lengthscale: Prior | None = None

    def __post_init__(self) -> None:
        given = self.lengthscale
        positive = isinstance(given, Prior) and not (isinstance(given, LKJ) or given.signed)
        wrong = given is not None and not positive
        if wrong or given == Fixed(0.0):
            raise SpecificationError(
                "lengthscale",
                expected="a prior of positive numbers, such as LogNormal(1.0, 1.0)",
                found=repr(given),
                remedy="Write Fixed(0.5) for a length-scale that is known.",
            )
        if self.smoothness not in (0.5, 1.5, 2.5, math.inf):
            raise SpecificationError(
                "smoothness",
                expected="0.5, 1.5, 2.5 or float('inf')",
                found=repr(self.smoothness),
                remedy="Use 2.5 unless functions are known to be rougher or smoother.",
            )

    def check(self, num_features: int) -> None:
        """Takes any number of inputs."""

    def parameters(self, num_features: int) -> tuple[Parameter, ...]:
        """One length-scale per input."""
        prior = self.lengthscale or LogNormal(math.sqrt(num_features), 1.0)
        return (Parameter("lengthscale", (num_features,), prior, "log", ("feature",)),)

    def covariance(self, values: Values, X: torch.Tensor, Z: torch.Tensor) -> torch.Tensor:
        """k between rows, shape (B, n, m)."""
        lengthscale = values["lengthscale"][:, None, :]
        apply: Callable[..., torch.Tensor] = _Covariance.apply
        return apply(X / lengthscale, Z / lengthscale, self.smoothness)

    def variance(self, values: Values, X: torch.Tensor) -> torch.Tensor:
        """Ones, shape (B, n)."""
        return X.new_ones(len(values["lengthscale"]), len(X))

    def frequencies(
        self, values: Values, num_inputs: int, number: int, rng: np.random.Generator
    ) -> torch.Tensor:
        """Multivariate t with 2 smoothness degrees of freedom, over the length-scales, (B, number, D)."""
        lengthscale = values["lengthscale"][:, None, :]
        drawn = standard_normal(rng, len(lengthscale), number, num_inputs)
        if self.smoothness != math.inf:
            df = 2 * self.smoothness
            wide = torch.from_numpy(rng.chisquare(df, (len(lengthscale), number, 1)))
            drawn = drawn * (df / wide).sqrt()
        return drawn / lengthscale

    def report(self, values: Values) -> dict[str, Reported]:
        """The length-scales, in the units of the inputs."""
        return {"lengthscale": Reported(("feature",), values["lengthscale"], "feature")}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for files."""
        prior = None if self.lengthscale is None else self.lengthscale.to_dict()
        # JSON has no infinity
        return {"kernel": "Matern", "smoothness": str(self.smoothness), "lengthscale": prior}

    @classmethod
    def from_fields(cls, content: dict[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        prior = content["lengthscale"]
        return cls(float(content["smoothness"]), None if prior is None else Prior.from_dict(prior))
