"""`TaskCovariance` read over functions: a free task covariance."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bayesmtl.algebra.functions import TaskStructure
from bayesmtl.algebra.inducing import Roots
from bayesmtl.parameters import Parameter, Reported, Values
from bayesmtl.priors import LKJ
from bayesmtl.sharing.over_functions import (
    FunctionSharing,
    of_all,
    of_each,
    refuse_amplitude,
    report_mean_scale,
    root_of_all,
    root_of_each,
)
from bayesmtl.sharing.relations.task_covariance import TaskCovariance

_CORRELATION = LKJ(0.5)  # by default


@dataclass(frozen=True)
class Correlated(FunctionSharing):
    """`TaskCovariance`: Omega = S C S with C ~ LKJ and S = shape_scale diag(task_scale).

    The intrinsic coregionalisation model with a free task covariance: functions have any correlations, and
    nothing is private. C ~ LKJ(.5) by default, which expects relations, of either sign: with LKJ(2) three
    rows of a function that mirrors another one do not convince it. Levels are independent given the
    population's, Lambda = mean_scale^2 11' + level_scale^2 I: one number per task says little about a
    correlation.

    Source: Bonilla, Chai and Williams (2008), who maximise a free Omega; here it has a prior and a posterior.
    """

    reads = ("correlation", "scale", "task_scale", "mean_scale")
    sharing: TaskCovariance

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_amplitude(self.amplitude, "TaskCovariance(scale=...)")

    def parameters(self, num_tasks: int) -> tuple[Parameter, ...]:
        """Scales of shapes and levels, and the correlation."""
        prior, T = self.sharing, num_tasks
        correlation = prior.correlation or _CORRELATION
        return (
            Parameter("shape_scale", (), prior.scale, "signed"),
            Parameter("task_scale", (T,), prior.task_scale, "log", ("task",)),
            Parameter("task_correlation", (T, T), correlation, "correlation", ("task", "task_other")),
            Parameter("mean_scale", (), prior.mean_scale, "signed"),
            Parameter("level_scale", (), prior.scale, "signed"),
        )

    def structure(self, values: Values, num_tasks: int) -> TaskStructure:
        """Omega and Lambda."""
        root = self._task_scale(values)[:, :, None] * values["task_correlation"]
        return TaskStructure(
            (root @ root.transpose(-1, -2))[:, None],
            of_all(values["mean_scale"], num_tasks) + of_each(values["level_scale"], num_tasks),
        )

    def roots(self, values: Values, num_tasks: int) -> Roots:
        """A and A_0: the Cholesky factor of the correlation, scaled."""
        levels = [
            root_of_all(values["mean_scale"], num_tasks),
            root_of_each(values["level_scale"], num_tasks),
        ]
        root = self._task_scale(values)[0][:, None] * values["task_correlation"][0]
        return Roots((root,), torch.cat(levels, 1))

    def _task_scale(self, values: Values) -> torch.Tensor:
        return values["shape_scale"].abs()[:, None] * values["task_scale"]

    def report(self, values: Values) -> dict[str, Reported]:
        """Scales and correlations."""
        L = values["task_correlation"]
        shown = {
            "task_scale": Reported(("task",), self._task_scale(values), "target"),
            "task_correlation": Reported(
                ("task", "task_other"), (L @ L.transpose(-1, -2)).clamp(-1.0, 1.0), "none"
            ),
            "level_scale": Reported((), values["level_scale"].abs(), "target"),
        }
        return shown | report_mean_scale(self.sharing.mean_scale, values)
