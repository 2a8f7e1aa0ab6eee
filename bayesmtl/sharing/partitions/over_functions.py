"""Priors over partitions read over functions: tasks of a cluster share a function, or lie around one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bayesmtl.algebra.functions import TaskStructure
from bayesmtl.errors import SpecificationError
from bayesmtl.parameters import Parameter, Reported, Values
from bayesmtl.sharing.over_functions import (
    FunctionSharing,
    amplitude_parameter,
    of_each,
    report_mean_scale,
)
from bayesmtl.sharing.partitions.base import num_clusters
from bayesmtl.sharing.partitions.exchangeable import ExchangeablePartition


@dataclass(frozen=True)
class Clustered(FunctionSharing):
    """`Clusters`, `DirichletProcess`, `PitmanYor`: f_t = m_{c_t} + g_{c_t}(x) + e_t(x).

    Given the partition (`values["cluster"]`), with S_tu = 1 where tasks t and u are together,

        Omega = amplitude^2 S + private_scale^2 I        Lambda = mean_scale^2 S + level_scale^2 I

    and without the private parts under within="none". Clusters' levels lie around the mean of the target, so
    that clusters are independent given the hyperparameters.

    Source: for weights, Xue, Liao, Carin and Krishnapuram (2007); functions in the place of weights here.
    """

    reads = ("num_clusters", "concentration", "discount", "within", "scale", "mean_scale")
    sharing: ExchangeablePartition

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sharing.within == "full":
            raise SpecificationError(
                "within",
                expected='"none" or "diagonal" for functions',
                found='"full"',
                remedy='"diagonal" gives levels and shapes a scale each.',
            )

    @property
    def has_private(self) -> bool:
        """Whether tasks lie around the function of their cluster."""
        return self.sharing.within == "diagonal"

    def parameters(self, num_tasks: int) -> tuple[Parameter, ...]:
        """Of the partition, and the scales of clusters' functions and of tasks around them."""
        scale = self.sharing.scale
        private = [Parameter(name, (), scale, "signed") for name in ("private_scale", "level_scale")]
        return (
            *self.sharing.partition_parameters(),
            amplitude_parameter(self.amplitude),
            Parameter("mean_scale", (), self.sharing.mean_scale, "signed"),
            *(private if self.has_private else []),
        )

    def structure(self, values: Values, num_tasks: int) -> TaskStructure:
        """Omega and Lambda given `values["cluster"]`."""
        cluster = values["cluster"]
        together = (cluster[:, :, None] == cluster[:, None, :]).double()
        shape, level = (
            values[name].square()[:, None, None] * together for name in ("amplitude", "mean_scale")
        )
        if self.has_private:
            shape = shape + of_each(values["private_scale"], num_tasks)
            level = level + of_each(values["level_scale"], num_tasks)
        return TaskStructure(shape[:, None], level)

    def report(self, values: Values) -> dict[str, Reported]:
        """Number of clusters, hyperparameters of the partition, and all scales; never a label."""
        shown = {"num_clusters": Reported((), num_clusters(values["cluster"]).double(), "none")}
        for parameter in self.sharing.partition_parameters():
            if parameter.size:
                shown[parameter.name] = Reported((), values[parameter.name], "none")
        for name in ("amplitude", "private_scale", "level_scale"):
            if name in values:
                shown[name] = Reported((), values[name].abs(), "target")
        return shown | report_mean_scale(self.sharing.mean_scale, values)

    def with_new_tasks(
        self, values: Values, num_new: int, rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        """New tasks join clusters of the known ones, or open one."""
        return {**values, "cluster": self.sharing.extend(values["cluster"].long(), values, num_new, rng)}
