"""Which tasks belong together, and how surely: a posterior over partitions, summarised without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape

import numpy as np
import pandas as pd
import torch
import xarray as xr
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from bayesmtl.data import Schema
from bayesmtl.errors import SpecificationError
from bayesmtl.options import check_mass
from bayesmtl.sharing import Dependence, Sharing

_MOST_CANDIDATES = 200  # sampled partitions tried as the point
_MOST_PAIRS = 2000  # pairs of tasks whose being together is checked
_DOUBT = 0.05  # a pair is in doubt whose probability of being together is this far from 0 and 1
_MOST_CUTS = 50  # cuts tried of each dendrogram


def variation_of_information(partition: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Variation of information between a partition and others, in bits: 0 for the same, at most log2 T.

    The mean over tasks of log2 |C_t| |D_t| / |C_t and D_t|^2, where C_t and D_t are the clusters that task t
    has in the two partitions (Meila, 2007).

    Args:
        partition: Clusters of T tasks, shape (T,).
        others: Clusters in S partitions, shape (S, T).

    Returns:
        Shape (S,).

    Example:
        >>> float(variation_of_information(np.array([0, 0, 1, 1]), np.array([[0, 0, 0, 0]]))[0])
        1.0
    """
    own = np.unique(partition, return_inverse=True)[1]
    both = own * (others.max() + 1) + others
    one = np.broadcast_to(own, others.shape)
    bits = np.log2(_sizes(one)) + np.log2(_sizes(others)) - 2 * np.log2(_sizes(both))
    return np.asarray(bits.mean(1))


def _sizes(partitions: np.ndarray) -> np.ndarray:
    """Size of the cluster of every task in every partition (S, T)."""
    S, width = len(partitions), int(partitions.max()) + 1
    flat = partitions + width * np.arange(S)[:, None]
    return np.asarray(np.bincount(flat.ravel(), minlength=S * width)[flat])


def need_partition(sharing: Sharing) -> None:
    """Refuse to answer for priors without a partition.

    Raises:
        SpecificationError: If the sharing prior has none.
    """
    if sharing.dependence is not Dependence.PARTITION:
        raise SpecificationError(
            "sharing",
            expected="a prior over partitions of the tasks",
            found=type(sharing).__name__,
            remedy="Fit with DirichletProcess() or Clusters(num_clusters).",
        )


def in_doubt(
    cluster: torch.Tensor, sample_stats: Mapping[str, np.ndarray], task_names: Sequence[str]
) -> dict[str, xr.DataArray]:
    """What tells whether chains over partitions mix, without labels: pairs in doubt, and the log density.

    Args:
        cluster: Clusters, shape (C, N, T).
        sample_stats: What the engine recorded, with the log density "lp".
        task_names: Names of the tasks.
    """
    membership = cluster.numpy()
    first, second = np.triu_indices(membership.shape[2], k=1)
    every = max(1, len(first) // _MOST_PAIRS)
    first, second = first[::every], second[::every]
    together = (membership[..., first] == membership[..., second]).astype(float)
    share = together.mean(axis=(0, 1))
    doubt = (share > _DOUBT) & (share < 1 - _DOUBT)
    labels = np.array(task_names, dtype=str)
    names = [f"{one} and {other}" for one, other in zip(labels[first], labels[second], strict=True)]
    pairs = xr.DataArray(
        together[..., doubt],
        dims=("chain", "draw", "pair"),
        coords={"pair": np.array(names, dtype=str)[doubt]},
    )
    density = xr.DataArray(sample_stats["lp"], dims=("chain", "draw"))
    return {"log_density": density} | ({"together": pairs} if doubt.any() else {})


@dataclass(frozen=True, eq=False)
class CredibleBall:
    """The partitions around the point that together hold a given posterior probability.

    Args:
        mass: That probability.
        radius: Variation of information from the point to the edge, in bits.
        partitions: One row per task; columns "point", and of the sampled partitions inside the ball "nearest"
            (the nearest that differs from the point; the point itself if none does), "furthest", "coarsest"
            (of those with fewest clusters the furthest) and "finest".
        distances: Their distance from the point, in bits.
    """

    mass: float
    radius: float
    partitions: pd.DataFrame
    distances: pd.Series

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name} {column.nunique()}" for name, column in self.partitions.items())
        size = f"{100 * self.mass:g} %: radius {self.radius:.2f} bits"
        return f"CredibleBall of {size}; number of clusters: {numbers}"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.partitions.to_html()}"


@dataclass(frozen=True, eq=False)
class Partition:
    """The posterior of the partition of the tasks; from `fit.partition()`.

    Args:
        draws: Each task's cluster in every draw, dimensions (draw, task). The numbers have a meaning within
            their draw only.
    """

    draws: xr.DataArray

    @classmethod
    def of(cls, membership: np.ndarray, schema: Schema) -> Partition:
        """From clusters of tasks (draw, T)."""
        coords = {"draw": np.arange(len(membership)), "task": np.array(schema.task_names, dtype=str)}
        attrs = {"task_column": schema.task_column}
        return cls(
            xr.DataArray(membership, coords=coords, dims=("draw", "task"), name="cluster", attrs=attrs)
        )

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of every result."""
        return tuple(str(name) for name in self.draws["task"].to_numpy())

    @cached_property
    def co_clustering(self) -> xr.DataArray:
        """Posterior probability that two tasks are together, dimensions (task, task_other)."""
        values = self.draws.to_numpy()
        counts = np.zeros((values.shape[1],) * 2)
        for draw in values:
            counts += draw[:, None] == draw
        names = np.array(self.task_names, dtype=str)
        coords = {"task": names, "task_other": names}
        return xr.DataArray(counts / len(values), coords=coords, dims=("task", "task_other"), name="together")

    @cached_property
    def alone(self) -> pd.Series:
        """Posterior probability of each task that no other is with it."""
        shared = _sizes(self._values) > 1
        index = pd.Index(self.task_names, name=str(self.draws.attrs.get("task_column", "task")))
        return pd.Series(1 - shared.mean(0), index=index, name="alone")

    @property
    def num_clusters(self) -> pd.Series:
        """Posterior probability of each number of occupied clusters."""
        number = np.array([len(np.unique(draw)) for draw in self.draws.to_numpy()])
        share = pd.Series(number).value_counts(normalize=True).sort_index()
        return share.rename("probability").rename_axis("num_clusters")

    @cached_property
    def point(self) -> pd.Series:
        """The partition of least expected variation of information: cluster of each task, 1 the largest.

        The least over up to 200 sampled partitions and over the cuts of the dendrograms that average and
        complete linkage make of the co-clustering probabilities (Wade and Ghahramani, 2018).
        """
        candidates = self._candidates()
        expected = [variation_of_information(candidate, self._values).mean() for candidate in candidates]
        return self._labelled(candidates[int(np.argmin(expected))])

    @property
    def _values(self) -> np.ndarray:
        return np.asarray(self.draws.to_numpy())

    def _candidates(self) -> list[np.ndarray]:
        unique, counts = np.unique(self._values, axis=0, return_counts=True)
        candidates = list(unique[np.argsort(-counts, kind="stable")[:_MOST_CANDIDATES]])
        T = len(self.task_names)
        if T > 2:
            distance = 1 - self.co_clustering.to_numpy()
            for method in ("average", "complete"):
                tree = linkage(squareform(distance, checks=False), method=method)
                cuts = [fcluster(tree, k, criterion="maxclust") - 1 for k in range(1, min(T, _MOST_CUTS) + 1)]
                candidates += [np.asarray(cut, dtype=int) for cut in cuts]
        return candidates

    def _labelled(self, partition: np.ndarray) -> pd.Series:
        """A partition with clusters 1, 2 .. from large to small, the first task deciding between equals."""
        _, first, own, sizes = np.unique(
            partition, return_index=True, return_inverse=True, return_counts=True
        )
        rank = np.empty(len(sizes), dtype=int)
        rank[np.lexsort((first, -sizes))] = np.arange(1, len(sizes) + 1)
        index = pd.Index(self.task_names, name=str(self.draws.attrs.get("task_column", "task")))
        return pd.Series(rank[own], index=index, name="cluster")

    @property
    def members(self) -> dict[int, tuple[str, ...]]:
        """Names of the tasks of every cluster of the point partition."""
        point = self.point
        return {int(k): tuple(map(str, point.index[point == k])) for k in range(1, int(point.max()) + 1)}

    @cached_property
    def certainty(self) -> pd.Series:
        """How sure the companions of each task are: expected overlap of its cluster with that of the point.

        The overlap is the number of tasks in both clusters over that in either (Jaccard): 1 where every draw
        gives the task exactly the companions of the point partition.
        """
        point = self.point.to_numpy()
        in_point = point[:, None] == point
        values, total = self._values, np.zeros(len(point))
        for draw in values:
            in_draw = draw[:, None] == draw
            total += (in_point & in_draw).sum(1) / (in_point | in_draw).sum(1)
        return pd.Series(total / len(values), index=self.point.index, name="certainty")

    @cached_property
    def weights(self) -> xr.DataArray:
        """Weight of every cluster of the point partition, dimensions (draw, cluster): a share of all tasks.

        In a draw, the mean over the cluster's members of the share of tasks that are with them there. So no
        cluster of a draw has to be called one of the point partition's, and where draws are the point it is
        the cluster's size over T.
        """
        share = _sizes(self._values) / len(self.task_names)
        point = self.point.to_numpy()
        clusters = np.arange(1, point.max() + 1)
        values = np.stack([share[:, point == k].mean(1) for k in clusters], axis=1)
        coords = {"draw": np.arange(len(values)), "cluster": clusters}
        return xr.DataArray(values, coords=coords, dims=("draw", "cluster"), name="weight")

    def credible_ball(self, mass: float = 0.95) -> CredibleBall:
        """The ball of partitions around the point that holds `mass` of the posterior, and its ends.

        Raises:
            SpecificationError: If `mass` is not between 0 and 1.

        Source: Wade and Ghahramani (2018).
        """
        check_mass(mass)
        distance = variation_of_information(self.point.to_numpy(), self._values)
        radius = float(np.quantile(distance, mass, method="inverted_cdf"))
        inside = np.flatnonzero(distance <= radius + 1e-12)
        number = np.array([len(np.unique(self._values[draw])) for draw in inside])
        away = distance[inside]
        differs = np.where(away > 1e-12, away, np.inf)
        chosen = {
            "nearest": int(np.argmin(differs)),
            "furthest": int(np.argmax(away)),
            "coarsest": int(np.lexsort((-away, number))[0]),
            "finest": int(np.lexsort((-away, -number))[0]),
        }
        columns = {name: self._labelled(self._values[inside[at]]) for name, at in chosen.items()}
        distances = {"point": 0.0} | {name: float(away[at]) for name, at in chosen.items()}
        frame = pd.DataFrame({"point": self.point, **columns})
        return CredibleBall(mass, radius, frame, pd.Series(distances, name="bits"))

    def to_frame(self) -> pd.DataFrame:
        """One row per task: its cluster in the point partition, that one's size, and how sure it is."""
        sizes = self.point.groupby(self.point).transform("size")
        return pd.DataFrame({"cluster": self.point, "size": sizes, "certainty": self.certainty})

    def summary(self) -> pd.DataFrame:
        """One row per cluster of the point partition: size, weight, mean certainty, members by name.

        The weight is the posterior mean of `weights`, with its 90 % interval.
        """
        frame = self.to_frame()
        weight = self.weights.to_numpy()
        low, high = np.quantile(weight, [0.05, 0.95], axis=0)
        rows = {
            cluster: {
                "size": len(tasks),
                "share": len(tasks) / len(frame),
                "weight": weight[:, cluster - 1].mean(),
                "weight_5%": low[cluster - 1],
                "weight_95%": high[cluster - 1],
                "certainty": frame.loc[list(tasks), "certainty"].mean(),
                "members": ", ".join(tasks),
            }
            for cluster, tasks in self.members.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("cluster")

    def __repr__(self) -> str:
        number = self.num_clusters
        likely = ", ".join(f"{k}: {p:.2f}" for k, p in number.sort_values(ascending=False).head(3).items())
        return (
            f"Partition of {len(self.task_names)} tasks: {self.point.nunique()} clusters in the point "
            f"partition; probability of the number of clusters {likely}"
        )

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.summary().round(3).to_html()}"
