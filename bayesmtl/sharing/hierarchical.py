"""Partial pooling: tasks vary around a population mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch

from bayesmtl.algebra.structure import Structure
from bayesmtl.errors import SpecificationError
from bayesmtl.parameters import Parameter, Reported, Spread, Values
from bayesmtl.priors import LKJ, Fixed, HalfNormal, Prior
from bayesmtl.sharing.base import Sharing, ones, reported_spread
from bayesmtl.sharing.pooled import check_mean_scale, population_scale

Covariance = Literal["isotropic", "diagonal", "full"]


@dataclass(frozen=True)
class Hierarchical(Sharing):
    """W = 1 mu' + E, e_t ~ N(0, Sigma): how much tasks differ, feature by feature, is learned from the data.

    Sigma = scale^2 I ("isotropic"), diag(scale_1^2 .. scale_D^2) ("diagonal"), or diag(scale) Omega
    diag(scale) with Omega ~ LKJ ("full").

    Args:
        covariance: Form of Sigma.
        scale: Prior of the scales. The default HalfNormal(1) puts 90 % of its mass below 1.64 standardised
            units: any two tasks may differ wildly, or not at all.
        correlation: Prior of Omega. With the default concentration of 2 and few features, 90 % of a
            correlation's mass lies within about .75 of zero; with many features, closer.
        mean_scale: Scale of mu ~ N(0, mean_scale^2 I), known or with a prior; the default, 1, puts 90 % of
            the mass of each standardised population coefficient within 1.64.

    Source: regularised multi-task learning (Evgeniou and Pontil, 2004) is the isotropic form with its scales
    fixed; empirical Bayes for learning to learn (Heskes, 2000) the full form with its scales maximised.

    Example:
        >>> [p.name for p in Hierarchical(covariance="full").parameters(num_tasks=5, num_features=2)]
        ['mean_scale', 'residual_scale', 'residual_correlation']
    """

    covariance: Covariance = "diagonal"
    scale: Prior = field(default_factory=HalfNormal)
    correlation: LKJ = field(default_factory=LKJ)
    mean_scale: Prior = field(default_factory=lambda: Fixed(1.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_mean_scale(self.mean_scale)
        if self.covariance not in get_args(Covariance):
            raise SpecificationError(
                "covariance",
                expected="one of " + ", ".join(map(repr, get_args(Covariance))),
                found=repr(self.covariance),
                remedy='Use "diagonal" unless features are few and tasks many.',
            )

    def parameters(self, num_tasks: int, num_features: int) -> tuple[Parameter, ...]:
        """The population's scale, the residual scales, and for "full" their correlation."""
        mean = Parameter("mean_scale", (), self.mean_scale, "signed")
        if self.covariance == "isotropic":
            return (mean, Parameter("residual_scale", (), self.scale, "signed"))
        scale = Parameter("residual_scale", (num_features,), self.scale, "signed", ("feature",))
        if self.covariance == "diagonal":
            return (mean, scale)
        shape = (num_features, num_features)
        dims = ("feature", "feature_other")
        return (mean, scale, Parameter("residual_correlation", shape, self.correlation, "correlation", dims))

    def structure(self, values: Values, num_tasks: int, num_features: int) -> Structure:
        """A = ones, Z = the population mean, E with covariance Sigma."""
        basis_scale = population_scale(values["mean_scale"], num_features)
        scale = values["residual_scale"]
        if self.covariance == "full":
            factor = scale[:, :, None] * values["residual_correlation"]
            return Structure(ones(num_tasks), basis_scale, residual_factor=factor)
        residual_scale = scale.reshape(scale.shape[0], 1, -1).expand(-1, 1, num_features)
        return Structure(ones(num_tasks), basis_scale, residual_scale=residual_scale)

    def report(self, values: Values) -> dict[str, Reported]:
        """Scales without their sign, and the correlation matrix of the residuals."""
        scale = values["residual_scale"]
        if self.covariance == "isotropic":
            shown = {"residual_scale": Reported((), scale.abs(), "standardised")}
        elif self.covariance == "diagonal":
            shown = {"residual_scale": Reported(("feature",), scale.abs(), "coefficient")}
        else:
            factor = scale[:, :, None] * values["residual_correlation"]
            shown = reported_spread(Spread(torch.zeros_like(scale), factor))
        if not isinstance(self.mean_scale, Fixed):
            shown["mean_scale"] = Reported((), values["mean_scale"].abs(), "standardised")
        return shown
