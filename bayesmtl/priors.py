"""Priors of hyperparameters: small immutable objects that are sampled, evaluated and written to files.

All scales are in standardised units (target and features divided by their standard deviations), so one
default serves any data. Every prior says with `interval` where 90 % of its mass lies.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, asdict, dataclass, fields
from numbers import Real
from typing import Any, ClassVar, TypeGuard

import numpy as np
import torch
from scipy import stats

from bayesmtl.errors import SpecificationError


def is_real(value: object) -> TypeGuard[float]:
    """Whether a value is one finite real number."""
    return isinstance(value, Real) and bool(np.isfinite(float(value)))


def check_priors(spec: Any) -> None:
    """Refuse options of a specification that should be priors, as their defaults are, and are not."""
    for field in fields(spec):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        value = getattr(spec, field.name)
        matrix = isinstance(default, LKJ)
        if isinstance(default, Prior) and not (isinstance(value, Prior) and isinstance(value, LKJ) == matrix):
            raise SpecificationError(
                field.name,
                expected=f"a prior such as {'LKJ(2.0)' if matrix else 'HalfNormal(1.0)'}",
                found=repr(value),
                remedy="A prior of correlation matrices belongs here."
                if matrix
                else "Write Fixed(0.5) for a value that is known.",
            )
        if isinstance(default, Prior) and value.signed and not default.signed:
            raise SpecificationError(
                field.name,
                expected="a prior of a quantity above 0, such as HalfNormal(1.0)",
                found=f"{value!r}, which has mass below 0",
                remedy="Write HalfNormal(1.0), or Gamma(1.0, 1.0).",
            )


def check_positive(name: str, value: float) -> None:
    """Refuse a scale that is not a finite number above 0."""
    if not (is_real(value) and value > 0):
        raise SpecificationError(
            name, expected="a finite number above 0", found=repr(value), remedy="Pass a positive scale."
        )


@dataclass(frozen=True)
class Prior:
    """Base class of the priors; a prior is a frozen dataclass of plain numbers.

    Attributes:
        signed: Whether it has mass below 0, where no scale and no concentration is.
        groups_last: Whether entries along the last dimension depend on each other.
    """

    registry: ClassVar[dict[str, type[Prior]]] = {}
    signed: ClassVar[bool] = False
    groups_last: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Prior.registry[cls.__name__] = cls

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log density, elementwise."""
        raise TypeError(f"{type(self).__name__} has no density")

    def frozen(self) -> Any:
        """The same distribution as a frozen `scipy.stats` object."""
        raise TypeError(f"{type(self).__name__} has no scipy form")

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Independent draws of the given shape."""
        return np.asarray(self.frozen().rvs(size=shape, random_state=rng), dtype=float).reshape(shape)

    def interval(self, mass: float = 0.9) -> tuple[float, float]:
        """Where the central `mass` of the prior lies."""
        low, high = self.frozen().ppf([(1 - mass) / 2, (1 + mass) / 2])
        return float(low), float(high)

    def in_pyro(self, shape: tuple[int, ...]) -> str:
        """The distribution of an array of this shape as the text of a Pyro program; `dist` is Pyro's.

        Args:
            shape: Shape of the quantity.
        """
        raise TypeError(f"{type(self).__name__} has no form in Pyro")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for files."""
        return {"prior": type(self).__name__, **asdict(self)}

    @staticmethod
    def from_dict(content: dict[str, Any]) -> Prior:
        """The inverse of `to_dict`."""
        fields = {key: value for key, value in content.items() if key != "prior"}
        return Prior.registry[content["prior"]](**fields)


def _filled(shape: tuple[int, ...], value: float) -> str:
    return f"torch.full({tuple(shape)}, {float(value)}, dtype=torch.float64)"


def _event(shape: tuple[int, ...]) -> str:
    return f".to_event({len(shape)})" if shape else ""


@dataclass(frozen=True)
class HalfNormal(Prior):
    """|N(0, scale^2)|: 90 % of the mass lies below 1.64 scale.

    Example:
        >>> HalfNormal(0.5).frozen().ppf(0.9).round(2)
        np.float64(0.82)
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log density at value >= 0."""
        return 0.5 * math.log(2 / math.pi) - math.log(self.scale) - 0.5 * (value / self.scale) ** 2

    def in_pyro(self, shape: tuple[int, ...]) -> str:
        """See `Prior.in_pyro`."""
        return f"dist.HalfNormal({_filled(shape, self.scale)}){_event(shape)}"

    def frozen(self) -> Any:
        """`scipy.stats.halfnorm`."""
        return stats.halfnorm(scale=self.scale)


@dataclass(frozen=True)
class HalfStudentT(Prior):
    """|t_df(0, scale)|, heavier tails than `HalfNormal`; df = 1 is the half-Cauchy.

    With df = 3, 90 % of the mass lies below 2.35 scale; with df = 1, below 6.31 scale.

    Example:
        >>> HalfStudentT(df=3.0, scale=1.0).interval(0.8)[1].__round__(2)
        2.35
    """

    df: float = 3.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_positive("df", self.df)
        check_positive("scale", self.scale)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log density at value >= 0."""
        df = self.df
        constant = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
        kernel = -(df + 1) / 2 * torch.log1p((value / self.scale) ** 2 / df)
        return math.log(2) + constant - math.log(self.scale) + kernel

    def in_pyro(self, shape: tuple[int, ...]) -> str:
        """See `Prior.in_pyro`."""
        whole = f"dist.StudentT({float(self.df)}, 0.0, {_filled(shape, self.scale)})"
        return f"dist.FoldedDistribution({whole}){_event(shape)}"

    def frozen(self) -> Any:
        """`scipy.stats.t`, folded by `sample` and `interval`."""
        return stats.t(self.df, scale=self.scale)

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Independent draws of the given shape."""
        return np.asarray(np.abs(super().sample(rng, shape)))

    def interval(self, mass: float = 0.9) -> tuple[float, float]:
        """Where the central `mass` of the prior lies."""
        low, high = self.frozen().ppf([0.5 + (1 - mass) / 4, 0.5 + (1 + mass) / 4])
        return float(low), float(high)


@dataclass(frozen=True)
class Normal(Prior):
    """N(0, scale^2), for quantities with a sign: 90 % of the mass within 1.64 scale of 0."""

    signed: ClassVar[bool] = True
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log density."""
        return -0.5 * math.log(2 * math.pi) - math.log(self.scale) - 0.5 * (value / self.scale) ** 2

    def in_pyro(self, shape: tuple[int, ...]) -> str:
        """See `Prior.in_pyro`."""
        return f"dist.Normal(0.0, {_filled(shape, self.scale)}){_event(shape)}"

    def frozen(self) -> Any:
        """`scipy.stats.norm`."""
        return stats.norm(scale=self.scale)


@dataclass(frozen=True)
class Gamma(Prior):
    """Gamma with mean shape / rate, for a quantity above 0; the default has 90 % of its mass in (0.05, 3.0).

    Example:
        >>> [round(bound, 2) for bound in Gamma(shape=2.0, rate=1.0).interval()]
        [0.36, 4.74]
    """

    shape: float = 1.0
    rate: float = 1.0

    def __post_init__(self) -> None:
        check_positive("shape", self.shape)
        check_positive("rate", self.rate)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log density at value > 0."""
        constant = self.shape * math.log(self.rate) - math.lgamma(self.shape)
        return constant + (self.shape - 1) * value.log() - self.rate * value

    def in_pyro(self, shape: tuple[int, ...]) -> str:
        """See `Prior.in_pyro`."""
        return f"dist.Gamma({_filled(shape, self.shape)}, {float(self.rate)}){_event(shape)}"

    def frozen(self) -> Any:
        """`scipy.stats.gamma`."""
        return stats.gamma(self.shape, scale=1 / self.rate)


@dataclass(frozen=True)
class GroupStudentT(Prior):
    """Vectors with the multivariate t density: N(0, u I) with one random variance u for a whole vector.

    The last dimension is the vector. Every entry is marginally t_df(0, scale): with df = 3, 90 % of its mass
    lies within 2.35 scale of 0.
    """

    signed: ClassVar[bool] = True
    groups_last: ClassVar[bool] = True
    df: float = 3.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_positive("df", self.df)
        check_positive("scale", self.scale)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log density of each vector, shape (...) for values of shape (..., D)."""
        D, df = value.shape[-1], self.df
        constant = math.lgamma((df + D) / 2) - math.lgamma(df / 2)
        constant -= 0.5 * D * math.log(df * math.pi) + D * math.log(self.scale)
        return constant - (df + D) / 2 * torch.log1p((value / self.scale).square().sum(-1) / df)

    def in_pyro(self, shape: tuple[int, ...]) -> str:
        """See `Prior.in_pyro`."""
        root = f"{float(self.scale)} * torch.eye({shape[-1]}, dtype=torch.float64)"
        return (
            f"dist.MultivariateStudentT({float(self.df)}, {_filled(shape, 0.0)}, {root}){_event(shape[:-1])}"
        )

    def frozen(self) -> Any:
        """The marginal of one entry, `scipy.stats.t`."""
        return stats.t(self.df, scale=self.scale)

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Independent vectors; the last entry of `shape` is their length."""
        variance = self.df / rng.chisquare(self.df, size=(*shape[:-1], 1))
        return np.asarray(self.scale * np.sqrt(variance) * rng.normal(size=shape))


@dataclass(frozen=True)
class LogNormal(Prior):
    """exp(N(log median, sigma^2)), for positive quantities known up to a factor.

    With sigma = 1, 90 % of the mass lies between 0.19 and 5.2 times the median.

    Example:
        >>> [round(bound, 2) for bound in LogNormal(1.0, 1.0).interval()]
        [0.19, 5.18]
    """

    median: float = 1.0
    sigma: float = 1.0

    def __post_init__(self) -> None:
        check_positive("median", self.median)
        check_positive("sigma", self.sigma)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log density at value > 0."""
        gap = (value.log() - math.log(self.median)) / self.sigma
        return -0.5 * gap**2 - value.log() - math.log(self.sigma) - 0.5 * math.log(2 * math.pi)

    def in_pyro(self, shape: tuple[int, ...]) -> str:
        """See `Prior.in_pyro`."""
        center = _filled(shape, math.log(self.median))
        return f"dist.LogNormal({center}, {float(self.sigma)}){_event(shape)}"

    def frozen(self) -> Any:
        """`scipy.stats.lognorm`."""
        return stats.lognorm(self.sigma, scale=self.median)


@dataclass(frozen=True)
class Fixed(Prior):
    """A known value: the quantity is not inferred.

    Example:
        >>> Fixed(0.3).interval()
        (0.3, 0.3)
    """

    value: float

    def __post_init__(self) -> None:
        if not (is_real(self.value) and self.value >= 0):
            raise SpecificationError(
                "value",
                expected="a finite number of at least 0",
                found=repr(self.value),
                remedy="Pass the known scale, or a prior such as HalfNormal(1.0).",
            )

    def in_pyro(self, shape: tuple[int, ...]) -> str:
        """The value, repeated."""
        return _filled(shape, self.value)

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """The value, repeated."""
        return np.full(shape, float(self.value))

    def interval(self, mass: float = 0.9) -> tuple[float, float]:
        """The value, twice."""
        return float(self.value), float(self.value)


@dataclass(frozen=True)
class LKJ(Prior):
    """Correlation matrices with density proportional to det(Omega)^(concentration - 1).

    Each correlation of a D x D matrix is marginally 2 Beta(b, b) - 1 with b = concentration - 1 + D / 2. With
    concentration 1 all matrices are equally likely; larger values pull towards independence.

    Source: Lewandowski, Kurowicka and Joe (2009).
    """

    concentration: float = 2.0

    def __post_init__(self) -> None:
        check_positive("concentration", self.concentration)

    def in_pyro(self, shape: tuple[int, ...]) -> str:
        """Of the Cholesky factor."""
        if shape[0] < 2:
            return _filled(shape, 1.0)
        return f"dist.LKJCholesky({shape[0]}, {_filled((), self.concentration)})"

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log density of Cholesky factors, shape (..., D, D)."""
        D = value.shape[-1]
        if D < 2:
            return value.new_zeros(value.shape[:-2])
        concentration = value.new_tensor(self.concentration)
        density: torch.Tensor = torch.distributions.LKJCholesky(
            D, concentration, validate_args=False
        ).log_prob(value)
        return density

    def log_prob_of_coordinates(self, x: torch.Tensor, size: int) -> torch.Tensor:
        """Log density of x = atanh of the partial correlations in a Cholesky factor, (..., D (D - 1) / 2).

        The partial correlations p_ij of column j, row by row below the diagonal, are independent, 2 Beta(b_j,
        b_j) - 1 with b_j = concentration + (D - 1 - j) / 2 for j = 1 .. D - 1 (the C-vine of the source), so
        that x_ij has the log density b_j log(1 - p_ij^2) up to a constant.

        Args:
            x: Coordinates.
            size: D.
        """
        column = torch.from_numpy(np.tril_indices(size, -1)[1])
        b = self.concentration + 0.5 * (size - 2 - column).to(x.dtype)
        constant = (2 * b - 1) * math.log(2) + 2 * torch.lgamma(b) - torch.lgamma(2 * b)
        # log(1 - tanh(x)^2), also where tanh(x) rounds to 1
        log_rest = 2 * (math.log(2) - x.abs() - torch.log1p(torch.exp(-2 * x.abs())))
        return (b * log_rest - constant).sum(-1)

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Cholesky factors; the last two entries of `shape` are (D, D).

        Built from independent partial correlations (the C-vine of the source).
        """
        *batch, D, _ = shape
        L = np.zeros(shape)
        remaining = np.ones((*batch, D))
        for j in range(D):
            L[..., j, j] = np.sqrt(remaining[..., j])
            b = self.concentration + (D - 2 - j) / 2
            partial = 2 * rng.beta(b, b, size=(*batch, D - j - 1)) - 1 if j < D - 1 else np.zeros((*batch, 0))
            L[..., j + 1 :, j] = partial * np.sqrt(remaining[..., j + 1 :])
            remaining[..., j + 1 :] -= L[..., j + 1 :, j] ** 2
        return L

    def next_row(self, L: np.ndarray, rng: np.random.Generator, *, further: int = 0) -> np.ndarray:
        """Draw one further row of Cholesky factors, given the rows before it.

        Rows l_j of a T x T factor are independent, l_j = (b, sqrt(1 - |b|^2)), with the direction of b
        uniform and |b|^2 ~ Beta((j - 1) / 2, concentration + (T - j) / 2) (the onion of the source).

        Args:
            L: Cholesky factors of j - 1 rows, shape (..., j - 1, j - 1).
            rng: Source of randomness.
            further: T - j, rows that are to come behind this one.

        Returns:
            Shape (..., j, j).
        """
        *batch, k, _ = L.shape
        grown = np.zeros((*batch, k + 1, k + 1))
        grown[..., :k, :k] = L
        square = (
            rng.beta(k / 2, self.concentration + further / 2, size=(*batch, 1))
            if k
            else np.zeros((*batch, 1))
        )
        direction = rng.standard_normal((*batch, k))
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True) if k else 1.0
        grown[..., k, :k] = np.sqrt(square) * direction
        grown[..., k, k] = np.sqrt(1 - square[..., 0])
        return grown
