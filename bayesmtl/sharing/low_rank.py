"""Tasks vary along a few shared directions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from bayesmtl.algebra.structure import Structure
from bayesmtl.errors import SpecificationError
from bayesmtl.parameters import Parameter, Reported, Values
from bayesmtl.priors import Fixed, HalfNormal, Normal, Prior
from bayesmtl.sharing.base import Sharing, ones
from bayesmtl.sharing.pooled import population_scale


@dataclass(frozen=True)
class LowRank(Sharing):
    """W = 1 mu' + A Z + E: dense loadings a_t ~ N(0, I) on `rank` shared directions, shrunk one by one.

    z_rd = strength_r b_rd with b_rd ~ N(0, 1), and e_t ~ N(0, diag(scale^2)). Given Z, the loadings of all
    tasks integrate out: A Z + E has rows N(0, Z'Z + diag(scale^2)), so the number of sampled quantities does
    not grow with the number of tasks. A direction that the data do not need gets a strength near zero.

    Directions can be rotated and reflected without changing the model, so they are never reported; the
    weights, the covariance Z'Z and the similarity of loadings are free of that and are.

    Args:
        rank: R, number of shared directions.
        strength: Prior of the strength of each direction, for one direction; it is divided by sqrt(rank), so
            that the total does not grow with the rank. HalfNormal(1): for rank 1, 90 % below 1.64
            standardised units per feature.
        scale: Prior of the private scales; HalfNormal(0.5) puts 90 % of the mass below 0.82 units.
        mean_scale: As in `Hierarchical`.

    Source: the Bayesian counterpart of trace-norm multi-task feature learning (Argyriou, Evgeniou and
    Pontil, 2008), and the factor-analytic form of Ando and Zhang (2005).

    Example:
        >>> sum(p.size for p in LowRank(rank=2).parameters(num_tasks=100, num_features=5))
        17
    """

    has_loadings: ClassVar[bool] = True

    rank: int = 1
    strength: Prior = field(default_factory=HalfNormal)
    scale: Prior = field(default_factory=lambda: HalfNormal(0.5))
    mean_scale: Prior = field(default_factory=lambda: Fixed(1.0))

    def __post_init__(self) -> None:
        if not isinstance(self.rank, int) or self.rank < 1:
            raise SpecificationError(
                "rank",
                expected="a whole number of at least 1",
                found=repr(self.rank),
                remedy="Use Hierarchical() for no shared directions.",
            )

    def parameters(self, num_tasks: int, num_features: int) -> tuple[Parameter, ...]:
        """Strengths and shapes of the directions, and the private scales."""
        return (
            Parameter("mean_scale", (), self.mean_scale, "signed"),
            Parameter("residual_scale", (num_features,), self.scale, "signed", ("feature",)),
            Parameter("strength", (self.rank,), self.strength, "signed", ("direction",)),
            Parameter("direction", (self.rank, num_features), Normal(1.0), "real", ("direction", "feature")),
        )

    def structure(self, values: Values, num_tasks: int, num_features: int) -> Structure:
        """A = ones for the population mean; loadings and residuals together form the private covariance."""
        Z = (values["strength"] / math.sqrt(self.rank))[:, :, None] * values["direction"]
        return Structure(
            ones(num_tasks),
            population_scale(values["mean_scale"], num_features),
            residual_scale=values["residual_scale"][:, None, :],
            residual_factor=Z.transpose(-1, -2),
        )

    def report(self, values: Values) -> dict[str, Reported]:
        """Private scales and the covariance Z'Z that the directions give the weights."""
        Z = (values["strength"] / math.sqrt(self.rank))[:, :, None] * values["direction"]
        shown = {
            "residual_scale": Reported(("feature",), values["residual_scale"].abs(), "coefficient"),
            "shared_covariance": Reported(
                ("feature", "feature_other"), Z.transpose(-1, -2) @ Z, "covariance"
            ),
        }
        if not isinstance(self.mean_scale, Fixed):
            shown["mean_scale"] = Reported((), values["mean_scale"].abs(), "standardised")
        return shown
