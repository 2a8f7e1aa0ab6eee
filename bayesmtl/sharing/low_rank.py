"""Tasks vary along a few shared directions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from bayesmtl.algebra.structure import Structure
from bayesmtl.errors import SpecificationError
from bayesmtl.parameters import Parameter, Reported, Spread, Values
from bayesmtl.priors import Fixed, GroupStudentT, HalfNormal, Prior, check_positive
from bayesmtl.sharing.base import Sharing, ones, reported_spread
from bayesmtl.sharing.pooled import check_mean_scale, population_scale

_STRENGTH = 0.3  # by default


@dataclass(frozen=True)
class LowRank(Sharing):
    """W = 1 mu' + A Z + E: dense loadings a_t ~ N(0, I) on `rank` shared directions, shrunk one by one.

    Each direction z_r has a strength of its own that is integrated out: z_r ~ t_3(0, strength^2 I), a
    multivariate t, which pulls a direction that the data do not need to zero as a whole and leaves one that
    they do need alone. E is diagonal, e_t ~ N(0, diag(scale^2)). Given Z, the loadings of all tasks integrate
    out too: A Z + E has rows N(0, Z'Z + diag(scale^2)), so the number of sampled quantities does not grow
    with the number of tasks.

    Directions can be rotated and reflected without changing the model, and with few features their share
    and the private scales trade off, so neither is reported; the spread and the correlation of the tasks'
    weights, the weights and the similarity of loadings are free of that and are.

    Args:
        rank: R, number of shared directions.
        strength: Scale of the directions' t distribution in standardised units; 90 % of each entry's mass
            lies within 2.35 times it. `None` for 0.3, and for 1 where tasks are functions (`MultitaskGP`),
            whose loadings it is the scale of.
        scale: Prior of the private scales; HalfNormal(0.5) puts 90 % of its mass below 0.82 units.
        mean_scale: As in `Hierarchical`.

    Source: the Bayesian counterpart of trace-norm multi-task feature learning (Argyriou, Evgeniou and
    Pontil, 2008), and the factor-analytic form of Ando and Zhang (2005).

    Example:
        >>> sum(p.size for p in LowRank(rank=2).parameters(num_tasks=100, num_features=5))
        15
    """

    has_loadings: ClassVar[bool] = True

    rank: int = 1
    strength: float | None = None
    scale: Prior = field(default_factory=lambda: HalfNormal(0.5))
    mean_scale: Prior = field(default_factory=lambda: Fixed(1.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_mean_scale(self.mean_scale)
        if not isinstance(self.rank, int) or isinstance(self.rank, bool) or self.rank < 1:
            raise SpecificationError(
                "rank",
                expected="a whole number of at least 1",
                found=repr(self.rank),
                remedy="Use Hierarchical() for no shared directions.",
            )
        if self.strength is not None:
            check_positive("strength", self.strength)

    def parameters(self, num_tasks: int, num_features: int) -> tuple[Parameter, ...]:
        """The directions and the private scales."""
        shape = (self.rank, num_features)
        directions = Parameter(
            "directions",
            shape,
            GroupStudentT(3.0, self.strength or _STRENGTH),
            "real",
            ("direction", "feature"),
        )
        return (
            Parameter("mean_scale", (), self.mean_scale, "signed"),
            Parameter("residual_scale", (num_features,), self.scale, "signed", ("feature",)),
            directions,
        )

    def structure(self, values: Values, num_tasks: int, num_features: int) -> Structure:
        """A = ones for the population mean; loadings and residuals together form the private covariance."""
        return Structure(
            ones(num_tasks),
            population_scale(values["mean_scale"], num_features),
            residual_scale=values["residual_scale"][:, None, :],
            residual_factor=values["directions"].transpose(-1, -2),
        )

    def report(self, values: Values) -> dict[str, Reported]:
        """Spread and correlation of the tasks' weights around the population: of Z'Z + diag(scale^2)."""
        shown = reported_spread(Spread(values["residual_scale"], values["directions"].transpose(-1, -2)))
        if not isinstance(self.mean_scale, Fixed):
            shown["mean_scale"] = Reported((), values["mean_scale"].abs(), "standardised")
        return shown
