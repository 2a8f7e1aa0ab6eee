"""What a sharing prior's reading over functions is, and what readings have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import MISSING, dataclass, fields
from typing import ClassVar

import numpy as np
import torch

from bayesmtl.algebra.functions import TaskStructure, factorise
from bayesmtl.algebra.inducing import Roots
from bayesmtl.errors import SpecificationError, listing
from bayesmtl.parameters import Parameter, Reported, Values
from bayesmtl.priors import Fixed, HalfNormal, Prior
from bayesmtl.sharing.base import Sharing


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
