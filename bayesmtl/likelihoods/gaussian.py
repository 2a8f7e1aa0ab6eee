"""Gaussian noise: shared by all tasks, one level per task, or known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch

from bayesmtl.data.labels import label_of
from bayesmtl.errors import SpecificationError, listing
from bayesmtl.likelihoods.base import NOTHING, Given, Likelihood
from bayesmtl.likelihoods.least_noise import bounded_below
from bayesmtl.parameters import Parameter, Reported, Values
from bayesmtl.priors import Fixed, HalfNormal, Normal, Prior, check_positive, check_priors, is_real


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """y ~ N(f_t(x), sigma_t^2).

    Args:
        noise: "shared": one sigma for all tasks. "task": log sigma_t ~ N(log sigma, spread^2), each task its
            own, drawn together as far as the data ask for it; every task then needs two observed rows. A
            number, or a mapping from task names to numbers: known noise standard deviations, in the target's
            units.
        scale: Prior of sigma; HalfNormal(1) puts 90 % of its mass below 1.64 standard deviations of the
            target.
        spread: Prior of the spread of log sigma_t, for "task"; HalfNormal(0.5) puts 90 % of its mass below
            0.82: noise levels of two typical tasks differ by a factor of up to about three.

    Raises:
        SpecificationError: If `noise` is none of these.

    Example:
        >>> Gaussian(noise={"lab_1": 2.0, "lab_2": 0.5}).parameters(num_tasks=2)
        ()
    """

    compresses: ClassVar[bool] = True

    noise: str | float | Mapping[str, float] = "shared"
    scale: Prior = field(default_factory=HalfNormal)
    spread: Prior = field(default_factory=lambda: HalfNormal(0.5))

    def __post_init__(self) -> None:
        check_priors(self)
        if isinstance(self.scale, Fixed):
            check_positive("scale", self.scale.value)
        if isinstance(self.noise, Mapping):
            valid = all(is_real(sd) and sd > 0 for sd in self.noise.values())
            if valid:
                known = {label_of(task): float(sd) for task, sd in self.noise.items()}
                object.__setattr__(self, "noise", known)
        elif isinstance(self.noise, str):
            valid = self.noise in ("shared", "task")
        else:
            valid = is_real(self.noise) and self.noise > 0
        if not valid:
            raise SpecificationError(
                "noise",
                expected='"shared", "task", a positive number, or a mapping from task names to those',
                found=repr(self.noise),
                remedy="Known noise is given as standard deviations in the target's units.",
            )

    def check(self, task_names: Sequence[str], observed_per_task: np.ndarray) -> None:
        """Every task needs two rows for a noise level of its own, and a value where noise is known."""
        if self.noise == "task":
            short = [name for name, n in zip(task_names, observed_per_task, strict=True) if n < 2]
            if short:
                raise SpecificationError(
                    "noise",
                    expected='at least two observed rows in every task under noise="task"',
                    found=f"fewer in task {listing(short)}",
                    remedy='Use noise="shared", or leave these tasks out with `data.select_tasks`.',
                )
        if isinstance(self.noise, Mapping):
            self._known(self.noise, task_names)

    @staticmethod
    def _known(noise: Mapping[str, float], task_names: Sequence[str]) -> np.ndarray:
        missing = [name for name in task_names if name not in noise]
        if missing:
            raise SpecificationError(
                "noise",
                expected="a known standard deviation for every task",
                found=f"none for task {listing(missing)}",
                remedy="Add these tasks to the mapping.",
            )
        return np.array([noise[name] for name in task_names])

    def parameters(self, num_tasks: int) -> tuple[Parameter, ...]:
        """sigma, and for "task" the spread and the standardised log levels; none where noise is known."""
        shared = Parameter("noise", (), self.scale, "log")
        if self.noise == "shared":
            return (shared,)
        if self.noise == "task":
            spread = Parameter("noise_spread", (), self.spread, "signed")
            return (shared, spread, Parameter("noise_level", (num_tasks,), Normal(1.0), "real", ("task",)))
        return ()

    def noise_sd(
        self, values: Values, task_names: Sequence[str], target_scale: np.ndarray, num_draws: int
    ) -> torch.Tensor:
        """sigma_t in standardised units, shape (B, T) or (B, 1)."""
        if isinstance(self.noise, str):
            return self._inferred(values)
        if isinstance(self.noise, Mapping):
            known = self._known(self.noise, task_names)
        else:
            known = np.full(len(task_names), self.noise)
        return torch.from_numpy(known / target_scale).expand(num_draws, -1)

    def _inferred(self, values: Values) -> torch.Tensor:
        """sigma_t where it is not known, at least `LEAST_NOISE`, shape (B, T) or (B, 1).

        Without that the density had no bound where weights meet all targets of a task.
        """
        sigma = values["noise"][:, None]
        if self.noise == "task":
            sigma = sigma * (values["noise_spread"][:, None] * values["noise_level"]).exp()
        return bounded_below(sigma)

    def pyro_distribution(self) -> str:
        """See `Likelihood.pyro_distribution`."""
        return "dist.Normal({f}, {sd})"

    def log_density(
        self, y: np.ndarray, f: np.ndarray, noise: np.ndarray, given: Given = NOTHING
    ) -> np.ndarray:
        """log N(y | f, noise^2), elementwise."""
        return np.asarray(-0.5 * ((y - f) / noise) ** 2 - np.log(noise) - 0.5 * math.log(2 * math.pi))

    def mean(self, f: np.ndarray, given: Given = NOTHING) -> np.ndarray:
        """The function itself."""
        return f

    def draw(
        self, f: np.ndarray, noise: np.ndarray, rng: np.random.Generator, given: Given = NOTHING
    ) -> np.ndarray:
        """The function with its noise."""
        return np.asarray(f + noise * rng.normal(size=f.shape))

    def report(self, values: Values) -> dict[str, Reported]:
        """sigma, and for "task" also the spread and every task's own level."""
        if self.noise == "shared":
            return {"noise": Reported((), self._inferred(values)[:, 0], "target")}
        if self.noise == "task":
            return {
                "noise": Reported((), bounded_below(values["noise"]), "target"),
                "noise_spread": Reported((), values["noise_spread"].abs(), "none"),
                "task_noise": Reported(("task",), self._inferred(values), "target"),
            }
        return {}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for files."""
        return {
            "likelihood": "Gaussian",
            "noise": dict(self.noise) if isinstance(self.noise, Mapping) else self.noise,
            "scale": self.scale.to_dict(),
            "spread": self.spread.to_dict(),
        }

    @classmethod
    def from_fields(cls, content: dict[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(content["noise"], Prior.from_dict(content["scale"]), Prior.from_dict(content["spread"]))
