"""The sharing priors read over functions: f_t(x) = m_t + sum_r A[t,r] g_r(x) + e_t(x).

A weight per feature becomes a function's level m_t and its shape, so `covariance="diagonal"` of
`Hierarchical` means one scale for levels and one for shapes. `mean_scale` stays the scale of the population's
level, `scale` the prior of what is private to a task. The size of the shared functions g_r has a prior of its
own, because it has no counterpart among weights: `amplitude`; under `LowRank` the loadings do its work, with
the scale `strength`.

One kernel serves all functions, or each shared function has its own. One more is that of the private
functions; `LowRank` without it has none, the semiparametric latent factor model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bayesmtl.algebra.functions import TaskStructure
from bayesmtl.algebra.inducing import Roots
from bayesmtl.algebra.random import standard_normal
from bayesmtl.errors import SpecificationError
from bayesmtl.parameters import Parameter, Reported, Values
from bayesmtl.priors import GroupStudentT, Prior
from bayesmtl.sharing.base import Sharing
from bayesmtl.sharing.dependence import Dependence
from bayesmtl.sharing.hierarchical import Hierarchical
from bayesmtl.sharing.independent import Independent
from bayesmtl.sharing.low_rank import LowRank
from bayesmtl.sharing.over_functions import (
    Default,
    FunctionSharing,
    amplitude_parameter,
    correlation,
    of_all,
    of_each,
    refuse_amplitude,
    report_mean_scale,
    root_of_all,
    root_of_each,
)
from bayesmtl.sharing.partitions.clusters import Clusters
from bayesmtl.sharing.partitions.dirichlet_process import DirichletProcess
from bayesmtl.sharing.partitions.over_functions import Clustered
from bayesmtl.sharing.partitions.pitman_yor import PitmanYor
from bayesmtl.sharing.pooled import Pooled
from bayesmtl.sharing.relations.correlated_over_functions import Correlated
from bayesmtl.sharing.relations.graph_over_functions import Connected
from bayesmtl.sharing.relations.task_covariance import TaskCovariance
from bayesmtl.sharing.relations.task_graph import TaskGraph

_DF = 3.0  # of the loadings' t distribution, as in `LowRank`


@dataclass(frozen=True)
class _Alone(FunctionSharing):
    """`Independent`: Omega = Lambda = diag(task_scale^2); kernel hyperparameters are shared.

    Source: Lawrence and Platt (2004) share the kernel's hyperparameters over otherwise independent tasks.
    """

    reads = ("scale",)
    sharing: Independent

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_amplitude(self.amplitude, "Independent(scale=...)")

    def parameters(self, num_tasks: int) -> tuple[Parameter, ...]:
        return self.sharing.parameters(num_tasks, 1)

    def structure(self, values: Values, num_tasks: int) -> TaskStructure:
        covariance = torch.diag_embed(values["task_scale"].square())
        return TaskStructure(covariance[:, None], covariance)

    def roots(self, values: Values, num_tasks: int) -> Roots:
        root = torch.diag(values["task_scale"][0])
        return Roots((root,), root)

    def report(self, values: Values) -> dict[str, Reported]:
        return {"task_scale": Reported(("task",), values["task_scale"], "target")}


@dataclass(frozen=True)
class _Together(FunctionSharing):
    """`Pooled`: one function for all, Omega = amplitude^2 11', Lambda = mean_scale^2 11'."""

    reads = ("mean_scale",)
    sharing: Pooled

    def parameters(self, num_tasks: int) -> tuple[Parameter, ...]:
        return (
            amplitude_parameter(self.amplitude),
            Parameter("mean_scale", (), self.sharing.mean_scale, "signed"),
        )

    def structure(self, values: Values, num_tasks: int) -> TaskStructure:
        shape = of_all(values["amplitude"], num_tasks)
        return TaskStructure(shape[:, None], of_all(values["mean_scale"], num_tasks))

    def roots(self, values: Values, num_tasks: int) -> Roots:
        return Roots(
            (root_of_all(values["amplitude"], num_tasks),), root_of_all(values["mean_scale"], num_tasks)
        )

    def report(self, values: Values) -> dict[str, Reported]:
        shown = {"amplitude": Reported((), values["amplitude"].abs(), "target")}
        return shown | report_mean_scale(self.sharing.mean_scale, values)


@dataclass(frozen=True)
class _Around(FunctionSharing):
    """`Hierarchical`: a shared function and one per task.

    Omega = amplitude^2 11' + private_scale^2 I, Lambda = mean_scale^2 11' + level_scale^2 I; one scale for
    both private parts with covariance "isotropic".
    """

    reads = ("scale", "mean_scale", "covariance")
    sharing: Hierarchical

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sharing.covariance == "full":
            raise SpecificationError(
                "covariance",
                expected='"diagonal" or "isotropic" for functions',
                found='"full"',
                remedy='"diagonal" gives levels and shapes a scale each.',
            )

    @property
    def takes(self) -> tuple[int, ...]:
        return (1, 2)

    @property
    def private_kernel(self) -> bool:
        return self.num_kernels == 2

    def parameters(self, num_tasks: int) -> tuple[Parameter, ...]:
        scale = self.sharing.scale
        private = [Parameter("private_scale", (), scale, "signed")]
        if self.sharing.covariance == "diagonal":
            private.append(Parameter("level_scale", (), scale, "signed"))
        mean = Parameter("mean_scale", (), self.sharing.mean_scale, "signed")
        return (amplitude_parameter(self.amplitude), mean, *private)

    def structure(self, values: Values, num_tasks: int) -> TaskStructure:
        private = values["private_scale"]
        level = values.get("level_scale", private)
        shapes = [of_all(values["amplitude"], num_tasks), of_each(private, num_tasks)]
        return TaskStructure(
            torch.stack(shapes, 1) if self.private_kernel else (shapes[0] + shapes[1])[:, None],
            of_all(values["mean_scale"], num_tasks) + of_each(level, num_tasks),
        )

    def roots(self, values: Values, num_tasks: int) -> Roots:
        private = values["private_scale"]
        level = values.get("level_scale", private)
        shapes = (root_of_all(values["amplitude"], num_tasks), root_of_each(private, num_tasks))
        levels = [root_of_all(values["mean_scale"], num_tasks), root_of_each(level, num_tasks)]
        return Roots(shapes if self.private_kernel else (torch.cat(shapes, 1),), torch.cat(levels, 1))

    def report(self, values: Values) -> dict[str, Reported]:
        names = [name for name in ("amplitude", "private_scale", "level_scale") if name in values]
        shown = {name: Reported((), values[name].abs(), "target") for name in names}
        return shown | report_mean_scale(self.sharing.mean_scale, values)


@dataclass(frozen=True)
class _Mixed(FunctionSharing):
    """`LowRank`: the intrinsic coregionalisation model, Omega = A A' + diag(private_scale^2).

    With a kernel for each latent function Omega_r = a_r a_r', the linear model of coregionalisation, and one
    more kernel has Omega = diag(private_scale^2). Without that there are no private functions: the
    semiparametric latent factor model.

    The loadings of each latent function are one vector of tasks, a_r ~ t_3(0, strength^2 I), a multivariate
    t: a function that is not needed shrinks as a whole, one that is stays alone; loadings have any sign.
    Lambda = mean_scale^2 11' + level_scale^2 I.

    Source: Bonilla, Chai and Williams (2008), who maximise Omega; here it has a prior and a posterior. Teh,
    Seeger and Jordan (2005) for the semiparametric model.
    """

    reads = ("rank", "strength", "scale", "mean_scale")
    sharing: LowRank

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_amplitude(self.amplitude, "LowRank(strength=...)")

    @property
    def strength(self) -> float:
        """Scale of the loadings."""
        return 1.0 if self.sharing.strength is None else self.sharing.strength

    @property
    def takes(self) -> tuple[int, ...]:
        rank = self.sharing.rank
        return tuple(dict.fromkeys((1, rank, rank + 1)))

    @property
    def _of_each(self) -> bool:
        """Whether each latent function has a kernel of its own."""
        return self.num_kernels > 1

    @property
    def private_kernel(self) -> bool:
        return self._of_each and self.num_kernels == self.sharing.rank + 1

    @property
    def _has_private(self) -> bool:
        return self.private_kernel or not self._of_each

    def parameters(self, num_tasks: int) -> tuple[Parameter, ...]:
        shape, scale = (self.sharing.rank, num_tasks), self.sharing.scale
        private = Parameter("private_scale", (num_tasks,), scale, "signed", ("task",))
        return (
            Parameter("loadings", shape, GroupStudentT(_DF, self.strength), "real", ("function", "task")),
            *([private] if self._has_private else []),
            Parameter("mean_scale", (), self.sharing.mean_scale, "signed"),
            Parameter("level_scale", (), scale, "signed"),
        )

    def structure(self, values: Values, num_tasks: int) -> TaskStructure:
        loadings = values["loadings"]
        if self._of_each:
            shape = loadings[:, :, :, None] * loadings[:, :, None, :]
        else:
            shape = (loadings.transpose(-1, -2) @ loadings)[:, None]
        if self._has_private:
            private = torch.diag_embed(values["private_scale"].square())[:, None]
            shape = torch.cat([shape, private], 1) if self._of_each else shape + private
        return TaskStructure(
            shape, of_all(values["mean_scale"], num_tasks) + of_each(values["level_scale"], num_tasks)
        )

    def roots(self, values: Values, num_tasks: int) -> Roots:
        shapes = [values["loadings"][0].T]
        if self._of_each:
            shapes = [column[:, None] for column in values["loadings"][0]]
        if self._has_private:
            private = torch.diag(values["private_scale"][0])
            shapes = [*shapes, private] if self._of_each else [torch.cat([shapes[0], private], 1)]
        levels = [
            root_of_all(values["mean_scale"], num_tasks),
            root_of_each(values["level_scale"], num_tasks),
        ]
        return Roots(tuple(shapes), torch.cat(levels, 1))

    def report(self, values: Values) -> dict[str, Reported]:
        omega = self.structure(values, values["loadings"].shape[-1]).shape.sum(1)
        shown = {
            "task_scale": Reported(("task",), omega.diagonal(dim1=-2, dim2=-1).sqrt(), "target"),
            "task_correlation": Reported(("task", "task_other"), correlation(omega), "correlation"),
            "level_scale": Reported((), values["level_scale"].abs(), "target"),
        }
        return shown | report_mean_scale(self.sharing.mean_scale, values)

    def turning(self, num_tasks: int) -> str | None:
        return "loadings" if not self._of_each and 1 < self.sharing.rank <= num_tasks else None

    def with_new_tasks(
        self, values: Values, num_new: int, rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        known = values["loadings"]
        return {**values, "loadings": torch.cat([known, self._fresh(known, num_new, rng)], dim=-1)}

    def with_unseen_redrawn(
        self, values: Values, unseen: np.ndarray, rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        loadings = values["loadings"].clone()
        seen = np.setdiff1d(np.arange(loadings.shape[-1]), unseen)
        loadings[..., unseen] = self._fresh(loadings[..., seen], len(unseen), rng)
        return {**values, "loadings": loadings}

    def _fresh(self, known: torch.Tensor, num_new: int, rng: np.random.Generator) -> torch.Tensor:
        """Further entries of vectors (B, R, T) that are multivariate t, given those: shape (B, R, num_new).

        The vector's random variance given its known entries is inverse gamma, new entries normal given it.
        """
        B, R, T = known.shape
        rate = torch.from_numpy(rng.chisquare(_DF + T, size=(B, R)))
        variance = (_DF * self.strength**2 + known.square().sum(-1)) / rate
        return variance.sqrt()[..., None] * standard_normal(rng, B, R, num_new)


READINGS: dict[type[Sharing], type[FunctionSharing]] = {
    Independent: _Alone,
    Pooled: _Together,
    Hierarchical: _Around,
    LowRank: _Mixed,
    TaskCovariance: Correlated,
    TaskGraph: Connected,
    Clusters: Clustered,
    DirichletProcess: Clustered,
    PitmanYor: Clustered,
}
"""Readings of their own; any other prior under which tasks are independent given Z has the default one."""


def over_functions(sharing: Sharing, amplitude: Prior, num_kernels: int = 1) -> FunctionSharing:
    """Read a sharing prior over functions.

    Args:
        sharing: The sharing prior.
        amplitude: Prior of the standard deviation with which a shared function enters the tasks.
        num_kernels: One for all functions, or one for each shared one, and perhaps one for the private.

    Raises:
        SpecificationError: If the prior has no such reading, or an option of it or so many kernels have none.
    """
    reading = READINGS.get(type(sharing))
    if reading is None and sharing.dependence is Dependence.GIVEN_Z:
        reading = Default
    if reading is None:
        raise SpecificationError(
            "sharing",
            expected="a prior under which tasks are independent given Z, or one of "
            + ", ".join(kind.__name__ for kind in READINGS),
            found=repr(sharing),
            remedy="Use LinearModel for this prior, or Hierarchical() for functions around a shared one.",
        )
    return reading(sharing, amplitude, num_kernels)
