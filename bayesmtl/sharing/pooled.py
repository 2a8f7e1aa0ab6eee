"""One model for all tasks: the second baseline."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from bayesmtl.algebra.structure import Structure
from bayesmtl.errors import SpecificationError
from bayesmtl.parameters import Parameter, Reported, Values
from bayesmtl.priors import Fixed, Prior
from bayesmtl.sharing.base import Sharing, ones


@dataclass(frozen=True)
class Pooled(Sharing):
    """All tasks share one weight vector: W = 1 z', z ~ N(0, mean_scale^2 I), no residual.

    Args:
        mean_scale: Scale of the shared weights, known or with a prior. The default, 1, puts 90 % of the mass
            of each standardised coefficient within 1.64.
    """

    mean_scale: Prior = field(default_factory=lambda: Fixed(1.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_mean_scale(self.mean_scale)

    def parameters(self, num_tasks: int, num_features: int) -> tuple[Parameter, ...]:
        """The scale of the shared weights, if it is not known."""
        return (Parameter("mean_scale", (), self.mean_scale, "signed"),)

    def structure(self, values: Values, num_tasks: int, num_features: int) -> Structure:
        """A = ones, Z = the shared weights, E = 0."""
        return Structure(ones(num_tasks), population_scale(values["mean_scale"], num_features))

    def report(self, values: Values) -> dict[str, Reported]:
        """The scale of the shared weights, if it is inferred."""
        if isinstance(self.mean_scale, Fixed):
            return {}
        return {"mean_scale": Reported((), values["mean_scale"].abs(), "standardised")}


def check_mean_scale(prior: Prior) -> None:
    """Refuse a population mean that is known to be zero: its prior would have no density."""
    if isinstance(prior, Fixed) and prior.value == 0:
        raise SpecificationError(
            "mean_scale",
            expected="a scale above 0",
            found=repr(prior),
            remedy="Use Independent() for tasks that share no mean.",
        )


def population_scale(scale: torch.Tensor, num_features: int) -> torch.Tensor:
    """The prior scale of a population mean, one row of Z: shape (B, 1, D)."""
    return scale.reshape(-1, 1, 1).expand(-1, 1, num_features)
