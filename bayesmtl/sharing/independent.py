"""Independent tasks: single-task learning, the first baseline."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from bayesmtl.algebra.structure import Structure
from bayesmtl.parameters import Parameter, Reported, Values
from bayesmtl.priors import HalfNormal, Prior
from bayesmtl.sharing.base import Sharing


@dataclass(frozen=True)
class Independent(Sharing):
    """Every task on its own: W = E, e_t ~ N(0, scale_t^2 I), each task with a scale of its own.

    Nothing is learned across tasks (except a noise level, if the likelihood shares it). Each task's scale is
    inferred from its own rows, which makes this ridge regression per task with the penalty integrated out.

    Args:
        scale: Prior of every task's scale. The default HalfNormal(1) puts 90 % of its mass below 1.64: a
            feature's one-standard-deviation change moves the target by up to about two of its own.

    Example:
        >>> Independent().parameters(num_tasks=3, num_features=2)[0].shape
        (3,)
    """

    has_population: ClassVar[bool] = False

    scale: Prior = field(default_factory=HalfNormal)

    def parameters(self, num_tasks: int, num_features: int) -> tuple[Parameter, ...]:
        """One scale per task."""
        return (Parameter("task_scale", (num_tasks,), self.scale, "log", ("task",)),)

    def structure(self, values: Values, num_tasks: int, num_features: int) -> Structure:
        """No A, no Z; E with standard deviation scale_t for all features of task t."""
        scale = values["task_scale"][:, :, None].expand(-1, -1, num_features)
        return Structure(residual_scale=scale.contiguous())

    def report(self, values: Values) -> dict[str, Reported]:
        """The scales of the tasks."""
        return {"task_scale": Reported(("task",), values["task_scale"].abs(), "standardised")}
