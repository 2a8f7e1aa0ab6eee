"""Tasks that are correlated with each other, positively or negatively, pair by pair."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from bayesmtl.algebra.structure import Structure
from bayesmtl.errors import SpecificationError
from bayesmtl.parameters import Parameter, Reported, Values
from bayesmtl.priors import LKJ, Fixed, HalfNormal, LogNormal, Prior
from bayesmtl.sharing.base import Sharing
from bayesmtl.sharing.dependence import Dependence
from bayesmtl.sharing.pooled import check_mean_scale, population_scale


@dataclass(frozen=True)
class TaskCovariance(Sharing):
    """W - 1 mu' is matrix normal: which tasks go together, which go against each other, and how surely.

        Cov(w_td, w_ue) = task_scale_t Omega_tu task_scale_u scale_d^2 if d = e, else 0,   Omega ~ LKJ

    Omega is the correlation of the tasks' weights around the population, of either sign. In the one equation
    A = [1, diag(task_scale) chol(Omega)], Z = [mu', rows N(0, diag(scale^2))] and E = 0. With Omega = I and
    equal task scales it is `Hierarchical`. The features are independent given the scales, so a correlation is
    learned from D weights per task: with few features its interval stays wide, and says so.

    Omega has T (T - 1) / 2 entries and one evaluation costs of the order of (T D)^3: meant for up to some
    tens of tasks. A task that was never seen has a row of Omega drawn from the prior given the others', so
    that it has the population's spread; rows of it (`Fit.condition`) tell whom it resembles.

    Args:
        correlation: Prior of Omega. Each correlation is marginally 2 Beta(b, b) - 1 with b = concentration -
            1 + T / 2. The default for weights is LKJ(2): with 4 tasks 90 % of its mass lies within .62 of
            zero, with 10 tasks within .46; it lies below -.5 with probability .156, .085 and .034 for 2, 5
            and 10 tasks. The default for functions, where a task may have few rows, is LKJ(.5): below -.5
            with .333, .156 and .059.
        scale: Prior of the scales of the features; the default HalfNormal(1) puts 90 % of its mass below 1.64
            standardised units.
        task_scale: Prior of how widely each task departs, in units of the others; the default LogNormal(1,
            .5) has 90 % of its mass between .44 and 2.3. Fixed(1.0) for tasks that depart alike.
        mean_scale: Scale of mu ~ N(0, mean_scale^2 I). The default HalfNormal(1) lets the data do without a
            population: a mean that all tasks share would hide that some of them oppose each other. With
            Fixed(1e-6) there is none, and Omega is the correlation of the weights themselves.

    Source: multi-task relationship learning (Zhang and Yeung, 2010) has the same matrix-normal prior and
    maximises over Omega; here Omega has a proper prior (Lewandowski, Kurowicka and Joe, 2009) and a
    posterior.

    Example:
        >>> [p.name for p in TaskCovariance().parameters(num_tasks=4, num_features=2)]
        ['mean_scale', 'residual_scale', 'task_scale', 'task_correlation']
    """

    dependence: ClassVar[Dependence] = Dependence.JOINT

    correlation: LKJ | None = None
    scale: Prior = field(default_factory=HalfNormal)
    task_scale: Prior = field(default_factory=lambda: LogNormal(1.0, 0.5))
    mean_scale: Prior = field(default_factory=HalfNormal)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.correlation is None or isinstance(self.correlation, LKJ)):
            raise SpecificationError(
                "correlation",
                expected="a prior such as LKJ(2.0)",
                found=repr(self.correlation),
                remedy="A prior of correlation matrices belongs here.",
            )
        check_mean_scale(self.mean_scale)
        for name in ("scale", "task_scale"):
            prior = getattr(self, name)
            if isinstance(prior, Fixed) and prior.value == 0:
                raise SpecificationError(
                    name,
                    expected="a scale above 0",
                    found=repr(prior),
                    remedy="Use Pooled() for tasks that do not differ.",
                )

    def parameters(self, num_tasks: int, num_features: int) -> tuple[Parameter, ...]:
        """The population's scale, the scales of features and of tasks, and the correlation of tasks."""
        T, correlation = num_tasks, self.correlation or LKJ()
        return (
            Parameter("mean_scale", (), self.mean_scale, "signed"),
            Parameter("residual_scale", (num_features,), self.scale, "signed", ("feature",)),
            Parameter("task_scale", (T,), self.task_scale, "log", ("task",)),
            Parameter("task_correlation", (T, T), correlation, "correlation", ("task", "task_other")),
        )

    def structure(self, values: Values, num_tasks: int, num_features: int) -> Structure:
        """A = [1, diag(task_scale) chol(Omega)], Z = the population mean and a row for each task, E = 0."""
        scale, L = values["residual_scale"], values["task_correlation"]
        B, T, _ = L.shape
        ones = torch.ones(B, T, 1, dtype=L.dtype)
        mean_scale = population_scale(values["mean_scale"], num_features)
        return Structure(
            torch.cat([ones, values["task_scale"][:, :, None] * L], dim=2),
            torch.cat([mean_scale, scale[:, None].expand(-1, T, -1)], dim=1),
        )

    def task_correlation(self, values: Values, num_tasks: int) -> torch.Tensor:
        """Omega."""
        L = values["task_correlation"]
        return (L @ L.transpose(-1, -2)).clamp(-1.0, 1.0)

    def report(self, values: Values) -> dict[str, Reported]:
        """The correlation of the tasks, and scales.

        Only products of a task's and a feature's scale are identified: features' scales are those of a
        typical task, and tasks' scales relative to it (a geometric mean).
        """
        task_scale = values["task_scale"]
        typical = task_scale.log().mean(-1, keepdim=True).exp()
        omega = self.task_correlation(values, task_scale.shape[-1])
        scale = values["residual_scale"].abs() * typical
        shown = {
            "residual_scale": Reported(("feature",), scale, "coefficient"),
            "task_correlation": Reported(("task", "task_other"), omega, "correlation"),
        }
        if not isinstance(self.task_scale, Fixed):
            shown["task_scale"] = Reported(("task",), task_scale / typical, "none")
        if not isinstance(self.mean_scale, Fixed):
            shown["mean_scale"] = Reported((), values["mean_scale"].abs(), "standardised")
        return shown
