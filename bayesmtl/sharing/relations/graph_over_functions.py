"""`TaskGraph` read over functions: coregionalisation by a known graph."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bayesmtl.algebra.functions import TaskStructure
from bayesmtl.algebra.inducing import Roots
from bayesmtl.parameters import Parameter, Reported, Values
from bayesmtl.priors import Fixed
from bayesmtl.sharing.over_functions import (
    FunctionSharing,
    of_all,
    refuse_amplitude,
    report_mean_scale,
    root_of_all,
)
from bayesmtl.sharing.relations.task_graph import TaskGraph


@dataclass(frozen=True)
class Connected(FunctionSharing):
    """`TaskGraph`: Omega = shape_scale^2 G and Lambda = mean_scale^2 11' + level_scale^2 G, G of the graph.

    G = (I + coupling L)^-1: edges hold levels and shapes together alike.

    Source: Evgeniou, Micchelli and Pontil (2005), whose kernel for a graph is that of functions as well.
    """

    reads = ("adjacency", "coupling", "scale", "mean_scale")
    sharing: TaskGraph

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_amplitude(self.amplitude, "TaskGraph(scale=...)")

    def parameters(self, num_tasks: int) -> tuple[Parameter, ...]:
        """Scales of shapes and levels, and the strength of edges."""
        prior = self.sharing
        return (
            Parameter("shape_scale", (), prior.scale, "signed"),
            Parameter("coupling", (), prior.coupling, "log"),
            Parameter("mean_scale", (), prior.mean_scale, "signed"),
            Parameter("level_scale", (), prior.scale, "signed"),
        )

    def structure(self, values: Values, num_tasks: int) -> TaskStructure:
        """Omega and Lambda."""
        R = self.sharing.root(values, num_tasks)
        G = R @ R.transpose(-1, -2)
        shape, level = (values[name].square()[:, None, None] * G for name in ("shape_scale", "level_scale"))
        return TaskStructure(shape[:, None], of_all(values["mean_scale"], num_tasks) + level)

    def roots(self, values: Values, num_tasks: int) -> Roots:
        """A and A_0: the root of G, scaled."""
        R = self.sharing.root(values, num_tasks)[0]
        levels = [root_of_all(values["mean_scale"], num_tasks), values["level_scale"] * R]
        return Roots((values["shape_scale"] * R,), torch.cat(levels, 1))

    def report(self, values: Values) -> dict[str, Reported]:
        """Scales and the strength of edges."""
        shown = {name: Reported((), values[name].abs(), "target") for name in ("shape_scale", "level_scale")}
        if not isinstance(self.sharing.coupling, Fixed):
            shown["coupling"] = Reported((), values["coupling"], "none")
        return shown | report_mean_scale(self.sharing.mean_scale, values)
