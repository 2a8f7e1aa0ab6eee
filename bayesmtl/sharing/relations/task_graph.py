"""Tasks that a known graph connects: neighbours are alike, and the data say how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch

from bayesmtl.algebra.structure import Structure
from bayesmtl.errors import SpecificationError
from bayesmtl.parameters import Parameter, Reported, Values
from bayesmtl.priors import Fixed, HalfNormal, LogNormal, Prior
from bayesmtl.sharing.base import Sharing
from bayesmtl.sharing.dependence import Dependence
from bayesmtl.sharing.pooled import check_mean_scale, population_scale
from bayesmtl.sharing.relations.adjacency import Adjacency


@dataclass(frozen=True)
class TaskGraph(Sharing):
    """W - 1 mu' is matrix normal with a covariance of tasks that a graph gives: neighbours agree.

        Cov(w_td, w_ue) = Omega_tu scale_d^2 if d = e, else 0,   Omega = (I + coupling L)^-1

    where L = diag(degree) - adjacency is the Laplacian of the graph, its weights divided by the mean degree.
    The log prior of a feature's weights v around the population is -(|v|^2 + coupling sum_(t<u) a_tu (v_t -
    v_u)^2) / (2 scale_d^2) and a constant: `coupling` is the strength with which an edge holds two tasks
    together. In the one equation A = [1, root of Omega], Z = [mu', rows N(0, diag(scale^2))] and E = 0.

    Without edges, or with a coupling of 0, it is `Hierarchical`; with all edges and a coupling that grows
    beyond bounds the tasks are one, as under `Pooled`. A task that was never seen has no edges: its weights
    are mu plus N(0, diag(scale^2)), the widest that the prior gives. To use edges of a task without rows, let
    the data and the graph both name it. One evaluation costs of the order of (T D)^3: eigenvectors of the
    Laplacian take tasks apart only where all have the same inputs.

    Args:
        adjacency: A DataFrame with the weights of edges, at least 0, and the names of the tasks along both
            sides, in any order; what is on its diagonal has no effect.
        coupling: Prior of the strength of edges. The default LogNormal(1, 1.5) has 90 % of its mass between
            .085 and 11.8: two tasks that are joined by one edge of mean weight, and to no others, have a
            correlation between .08 and .92. Fixed(0.0) makes the graph mean nothing.
        scale: Prior of the scales of the features for a task without edges; the default HalfNormal(1) puts
            90 % of its mass below 1.64 standardised units.
        mean_scale: Scale of mu ~ N(0, mean_scale^2 I); its default HalfNormal(1) puts 90 % of its mass below
            1.64. With Fixed(1e-6) there is no population, and tasks share what edges give them.

    Raises:
        SpecificationError: If the graph has unnamed tasks, or weights that are missing, negative or different
            in the two directions; on fitting, if its tasks are not those of the data.

    Source: the graph regulariser sum a_tu |w_t - w_u|^2 of Evgeniou, Micchelli and Pontil (2005), who choose
    its strength beforehand and give the Laplacian's pseudoinverse; the identity in Omega, which lets every
    task depart, and the prior of the coupling are ours.

    Example:
        >>> import pandas as pd
        >>> names = ["north", "middle", "south"]
        >>> path = pd.DataFrame([[0, 1, 0], [1, 0, 1], [0, 1, 0]], index=names, columns=names)
        >>> omega = TaskGraph(path).task_correlation({"coupling": torch.tensor([4.0]).double()}, 3)[0]
        >>> omega.numpy().round(2).tolist()
        [[1.0, 0.69, 0.47], [0.69, 1.0, 0.69], [0.47, 0.69, 1.0]]
    """

    dependence: ClassVar[Dependence] = Dependence.JOINT

    adjacency: Any
    coupling: Prior = field(default_factory=lambda: LogNormal(1.0, 1.5))
    scale: Prior = field(default_factory=HalfNormal)
    mean_scale: Prior = field(default_factory=HalfNormal)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "adjacency", Adjacency.of(self.adjacency))
        check_mean_scale(self.mean_scale)
        if isinstance(self.scale, Fixed) and self.scale.value == 0:
            raise SpecificationError(
                "scale",
                expected="a scale above 0",
                found=repr(self.scale),
                remedy="Use Pooled() for tasks that do not differ.",
            )

    @classmethod
    def from_descriptors(cls, descriptors: Any, *, num_neighbours: int = 3, **priors: Prior) -> Self:
        """The graph that joins each task to those whose descriptors are nearest, with edges of weight 1.

        Distances are Euclidean, each descriptor in units of its standard deviation over the tasks; two tasks
        are joined if either is among the nearest of the other. How much edges mean is inferred (`coupling`),
        so that descriptors which say nothing do little harm.

        Args:
            descriptors: A DataFrame with one row for each task, named by its index, and columns of numbers,
                such as `data.descriptors`.
            num_neighbours: How many tasks each is joined to at least; ties count as neighbours.
            priors: `coupling`, `scale` and `mean_scale`, as above.

        Raises:
            SpecificationError: If a descriptor is missing, no number or the same for all tasks, names repeat,
                or there are not so many neighbours; on fitting, if the tasks are not those of the data.

        Example:
            >>> import pandas as pd
            >>> sites = pd.DataFrame({"km": [0.0, 1.0, 2.5, 9.0]}, index=["a", "b", "c", "d"])
            >>> TaskGraph.from_descriptors(sites, num_neighbours=1).adjacency.weights[2]
            (0.0, 1.0, 0.0, 1.0)
        """
        return cls(Adjacency.of_neighbours(descriptors, num_neighbours), **priors)

    def of_tasks(self, task_names: Sequence[str]) -> Self:
        """The graph with its tasks in the order of the data."""
        return replace(self, adjacency=self.adjacency.ordered(task_names))

    def parameters(self, num_tasks: int, num_features: int) -> tuple[Parameter, ...]:
        """The population's scale, the scales of features, and the strength of edges."""
        return (
            Parameter("mean_scale", (), self.mean_scale, "signed"),
            Parameter("residual_scale", (num_features,), self.scale, "signed", ("feature",)),
            Parameter("coupling", (), self.coupling, "log"),
        )

    def root(self, values: Values, num_tasks: int) -> torch.Tensor:
        """R with R R' = Omega, shape (B, T, T); tasks beyond those of the graph come last, without edges."""
        eigenvalues, U = self.adjacency.spectrum
        coupling = values["coupling"]
        R: torch.Tensor = U / (1 + coupling[:, None, None] * eigenvalues).sqrt()
        further = num_tasks - len(U)
        if not further:
            return R
        B, T = len(R), len(U)
        beside = R.new_zeros(B, T, further)
        alone = torch.eye(further, dtype=R.dtype).expand(B, -1, -1)
        below = torch.cat([beside.transpose(1, 2), alone], dim=2)
        return torch.cat([torch.cat([R, beside], dim=2), below], dim=1)

    def structure(self, values: Values, num_tasks: int, num_features: int) -> Structure:
        """A = [1, root of Omega], Z = the population mean and a row for each task, E = 0."""
        R = self.root(values, num_tasks)
        ones = torch.ones(len(R), num_tasks, 1, dtype=R.dtype)
        mean_scale = population_scale(values["mean_scale"], num_features)
        each = values["residual_scale"][:, None].expand(-1, num_tasks, -1)
        return Structure(torch.cat([ones, R], dim=2), torch.cat([mean_scale, each], dim=1))

    def task_correlation(self, values: Values, num_tasks: int) -> torch.Tensor:
        """Omega with a unit diagonal."""
        R = self.root(values, num_tasks)
        R = R / R.square().sum(-1, keepdim=True).sqrt()
        correlation: torch.Tensor = (R @ R.transpose(-1, -2)).clamp(-1.0, 1.0)
        return correlation

    def report(self, values: Values) -> dict[str, Reported]:
        """The strength of edges, and scales."""
        shown = {"residual_scale": Reported(("feature",), values["residual_scale"].abs(), "coefficient")}
        if not isinstance(self.coupling, Fixed):
            shown["coupling"] = Reported((), values["coupling"], "none")
        if not isinstance(self.mean_scale, Fixed):
            shown["mean_scale"] = Reported((), values["mean_scale"].abs(), "standardised")
        return shown

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for files."""
        graph = {
            "names": list(self.adjacency.names),
            "weights": [list(row) for row in self.adjacency.weights],
        }
        return super().to_dict() | {"adjacency": graph}

    @classmethod
    def from_fields(cls, content: dict[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        graph = content["adjacency"]
        names, weights = tuple(graph["names"]), tuple(tuple(row) for row in graph["weights"])
        return super().from_fields(content | {"adjacency": Adjacency(names, weights)})
