"""What a sharing prior's reading over functions is, and what readings have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import MISSING, dataclass, fields
from typing import ClassVar

import numpy as np
import torch

from bayesmtl.algebra.functions import TaskStructure, factorise
from bayesmtl.algebra.inducing import Roots
from bayesmtl.algebra.structure import Structure
from bayesmtl.errors import SpecificationError, listing
from bayesmtl.parameters import Parameter, Reported, Unit, Values
from bayesmtl.priors import Fixed, HalfNormal, Prior
from bayesmtl.sharing.base import Sharing

PARTS = ("level", "shape")
"""What a function has in the place of weights."""


@dataclass(frozen=True)
class FunctionSharing(ABC):
    """A sharing prior's reading over functions: its hyperparameters, Omega_q and Lambda.

    Args:
        sharing: The sharing prior.
        amplitude: Prior of the standard deviation with which a shared function enters the tasks.
        num_kernels: Q.
    """

    sharing: Sharing
    amplitude: Prior
    num_kernels: int = 1

    reads: ClassVar[tuple[str, ...]] = ()
    """The options of the sharing prior with a meaning for functions; the others stay at their defaults."""

    @property
    def takes(self) -> tuple[int, ...]:
        """The numbers of kernels that have a meaning."""
        return (1,)

    @property
    def private_kernel(self) -> bool:
        """Whether the last of several kernels is that of the private functions."""
        return False

    def __post_init__(self) -> None:
        if self.num_kernels not in self.takes:
            raise SpecificationError(
                "kernel",
                expected=f"{' or '.join(map(str, self.takes))} kernels for {self.sharing!r}",
                found=str(self.num_kernels),
                remedy="One kernel serves all functions; several are those of the shared functions, and one "
                "more that of the private ones.",
            )
        for entry in fields(self.sharing):
            if entry.name in self.reads:
                continue
            value = getattr(self.sharing, entry.name)
            made = entry.default_factory
            default = entry.default if made is MISSING else made()
            if value != default:
                raise SpecificationError(
                    entry.name,
                    expected=f"{default!r} for functions",
                    found=repr(value),
                    remedy=f"It speaks of weights. Of {type(self.sharing).__name__}, functions use "
                    f"{listing(self.reads)}; the size of shared functions is MultitaskGP(amplitude=...).",
                )

    @abstractmethod
    def parameters(self, num_tasks: int) -> tuple[Parameter, ...]:
        """The hyperparameters for T tasks."""

    @abstractmethod
    def structure(self, values: Values, num_tasks: int) -> TaskStructure:
        """Omega_q and Lambda for B hyperparameter values."""

    def roots(self, values: Values, num_tasks: int) -> Roots:
        """A_q and A_0 with A_q A_q' = Omega_q and A_0 A_0' = Lambda for one hyperparameter value (B = 1).

        A new task's columns come behind those of the known tasks. By Cholesky factorisation, which gives as
        many latent functions as tasks; a reading that needs fewer says so.
        """
        tasks = self.structure(values, num_tasks)
        return Roots(
            tuple(factorise(omega)[0][0] for omega in tasks.shape.unbind(1)), factorise(tasks.level)[0][0]
        )

    @abstractmethod
    def report(self, values: Values) -> dict[str, Reported]:
        """What to show of the hyperparameters: only what is free of signs and rotations."""

    def turning(self, num_tasks: int) -> str | None:
        """Name of a parameter (R, T) whose rotation, of its R rows, leaves `structure` as it is."""
        return None

    def with_new_tasks(
        self, values: Values, num_new: int, rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        """Values with new tasks' entries behind the known, where tasks are not independent given the rest."""
        return dict(values)

    def with_unseen_redrawn(
        self, values: Values, unseen: np.ndarray, rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        """Values at a mode with such entries of tasks without rows drawn given the others."""
        return dict(values)


def correlation(covariance: torch.Tensor) -> torch.Tensor:
    """Correlation matrices of covariance matrices (..., T, T); NaN where a variance is 0."""
    sd = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    return (covariance / (sd[..., :, None] * sd[..., None, :])).clamp(-1.0, 1.0)


def refuse_amplitude(prior: Prior, instead: str) -> None:
    """Refuse an amplitude where the sharing prior itself says how large functions are."""
    if prior != HalfNormal():
        raise SpecificationError(
            "amplitude",
            expected=f"its default, as {instead} says how large functions are",
            found=repr(prior),
            remedy=f"Use {instead}.",
        )


def amplitude_parameter(prior: Prior) -> Parameter:
    """The standard deviation of a shared function."""
    # on the logarithm, where it trades off against length-scales along a line
    return Parameter("amplitude", (), prior, "log")


def of_all(scale: torch.Tensor, num_tasks: int) -> torch.Tensor:
    """What all tasks have in common: scale^2 11', shape (B, T, T)."""
    return scale.square()[:, None, None].expand(-1, num_tasks, num_tasks)


def of_each(scale: torch.Tensor, num_tasks: int) -> torch.Tensor:
    """What each task has for itself: scale^2 I, shape (B, T, T)."""
    return scale.square()[:, None, None] * torch.eye(num_tasks, dtype=scale.dtype)


def root_of_all(scale: torch.Tensor, num_tasks: int) -> torch.Tensor:
    """A root of `of_all` for one value (1,): one column, shape (T, 1)."""
    return scale[:, None].expand(num_tasks, 1)


def root_of_each(scale: torch.Tensor, num_tasks: int) -> torch.Tensor:
    """A root of `of_each` for one value (1,): one column per task, shape (T, T)."""
    return scale * torch.eye(num_tasks, dtype=scale.dtype)


def report_mean_scale(prior: Prior, values: Values) -> dict[str, Reported]:
    """The scale of the population's level, unless it is known."""
    if isinstance(prior, Fixed):
        return {}
    return {"mean_scale": Reported((), values["mean_scale"].abs(), "target")}


@dataclass(frozen=True)
class Default(FunctionSharing):
    """Any prior under which tasks are independent given Z: the prior of two weights, a level and a shape.

    W = A Z + E with the columns "level" and "shape" gives

        Omega = A diag(z_shape^2) A' + diag(e_shape^2)        Lambda = A diag(z_level^2) A' + diag(e_level^2)

    with the standard deviations z of the rows of Z and e of E. Where the prior has a population, the shape of
    the population's function has the standard deviation `amplitude`.
    """

    def __post_init__(self) -> None:
        if self.num_kernels != 1:
            raise SpecificationError(
                "kernel",
                expected=f"one kernel for {self.sharing!r}",
                found=str(self.num_kernels),
                remedy="Its functions share one.",
            )

    def parameters(self, num_tasks: int) -> tuple[Parameter, ...]:
        """Those of two weights, and the size of the population's function."""
        own = self.sharing.parameters(num_tasks, len(PARTS))
        return (amplitude_parameter(self.amplitude), *own) if self.sharing.has_population else own

    def structure(self, values: Values, num_tasks: int) -> TaskStructure:
        """Omega and Lambda for B hyperparameter values."""
        prior = self.sharing.structure(values, num_tasks, len(PARTS))
        level, shape = (self._covariance(prior, values, num_tasks, part) for part in range(len(PARTS)))
        return TaskStructure(shape[:, None], level)

    def _covariance(self, prior: Structure, values: Values, num_tasks: int, part: int) -> torch.Tensor:
        B = len(next(iter(values.values())))
        variance = torch.zeros(B, num_tasks, dtype=torch.float64)
        if prior.residual_scale is not None:
            variance = variance + prior.residual_scale[..., part].square()
        if prior.factor_by_task is not None:
            variance = variance + prior.factor_by_task[..., part, :].square().sum(-1)
        covariance = torch.diag_embed(variance)
        if prior.loadings is None or prior.basis_scale is None:
            return covariance
        scale = prior.basis_scale[..., part]
        if part == 1 and self.sharing.has_population:
            scale = torch.cat([values["amplitude"][:, None], scale[:, 1:]], dim=1)
        root = prior.loadings * scale[:, None, :]
        return covariance + root @ root.transpose(-1, -2)

    def report(self, values: Values) -> dict[str, Reported]:
        """What the prior reports of two weights, and the size of the population's function."""
        shown = {}
        if self.sharing.has_population:
            shown["amplitude"] = Reported((), values["amplitude"].abs(), "target")
        renamed = {"feature": "part", "feature_other": "part_other"}
        for name, reported in self.sharing.report(values).items():
            dims = tuple(renamed.get(dim, dim) for dim in reported.dims)
            unit: Unit = "none" if reported.unit == "none" else "target"
            shown[name] = reported._replace(dims=dims, unit=unit)
        return shown
