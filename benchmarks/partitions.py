"""Partitions of tasks: School, two thousand tasks, a plain Python loop, and truth that is known.

- School (139 tasks, 28 columns, 4 chains): the least effective sample size of label-free quantities (number
  of clusters, log density, concentration, and whether two tasks are together, for pairs in doubt), and what
  200 take.
- 2,000 tasks of 10 features in 8 clusters: seconds per draw, and how many iterations pass until all chains,
  which start with all tasks together and with 100 clusters, have as many clusters as there are.
- An iteration of a batch of chains (a sweep over all tasks and a trajectory of the hyperparameters), beside
  the same computations one chain, task and cluster at a time.
- Recovery: 30 tasks in 4 clusters with 15 rows each; adjusted Rand index of the point partition, beside an
  oracle that knows the cluster means and has to assign the tasks only. What is required is a mean of .95: of
  each data set it cannot be, since the oracle itself stays below on some.

Whether probabilities are calibrated is in `partition_calibration`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import adjusted_rand_score

import bayesmtl as bm
from bayesmtl.algebra.clusters import task_terms
from bayesmtl.inference.partitions.engine import WeightPartitionSampler
from bayesmtl.inference.partitions.moves import Evidence, gibbs_sweep
from bayesmtl.inference.partitions.prior_weights import Weights, canonical
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.results.partition import in_doubt
from bayesmtl.sharing.partitions.base import num_clusters
from benchmarks.common import Options, Watch, bulk_ess, main, prepare, school, table, verdict

LONG = {"num_chains": 4, "num_warmup": 80, "num_draws": 100}
FEW = {"num_chains": 3, "num_warmup": 60, "num_draws": 60}
MANY = {"num_chains": 2, "num_warmup": 30, "num_draws": 20}
REDUCED = {"num_chains": 2, "num_warmup": 10, "num_draws": 10}


def clustered_data(
    num_clusters: int, within: float, seed: int, *, num_tasks: int = 30, rows: int = 15
) -> tuple[bm.TaskData, np.ndarray, np.ndarray]:
    """Tasks with three weights each, in clusters of equal size.

    Returns:
        The data, the clusters, and those that maximum likelihood finds for one who knows the cluster means.
    """
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.arange(num_tasks) % num_clusters)
    means = rng.normal(size=(num_clusters, 3))
    W = means[truth] + within * rng.normal(size=(num_tasks, 3))
    task = np.repeat(np.arange(num_tasks), rows)
    x = rng.normal(size=(len(task), 2))
    y = W[task, 0] + (x * W[task, 1:]).sum(1) + 0.5 * rng.normal(size=len(task))
    known = (
        ((y[:, None] - x @ means[:, 1:].T - means[:, 0]) ** 2).reshape(num_tasks, rows, -1).sum(1).argmin(1)
    )
    return bm.TaskData.from_arrays(x, y, [f"task_{t:02d}" for t in task]), truth, known


def recovery(num_data_sets: int, length: dict[str, int]) -> pd.DataFrame:
    """Adjusted Rand index of the point partition and of the oracle, one row per data set."""
    rows = []
    for seed in range(1, num_data_sets + 1):
        data, truth, known = clustered_data(4, 0.0, seed)
        fit = bm.LinearModel(bm.DirichletProcess()).fit(data, seed=0, progress=False, **length)
        point = fit.partition().point.reindex(data.task_names)
        rows.append((adjusted_rand_score(truth, point), adjusted_rand_score(truth, known)))
    return pd.DataFrame(rows, columns=["point partition", "oracle"])


def plain_sweep(
    membership: np.ndarray, data: Evidence, weights: Weights, order: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """`gibbs_sweep` for one chain and a given order: a loop over tasks, and over clusters for each.

    What a cluster holds and what it is worth are kept, so that the two differ in the batching only.
    """
    member, terms = canonical(membership)[0], data.terms[0]
    sums, size, worth = {}, {}, {}
    for k in range(member.max() + 1):
        sums[k] = data.empty + terms[member == k].sum(0)
        size[k], worth[k] = int((member == k).sum()), plain_worth(sums[k])
    for t in order:
        own, new = member[t], max(sums) + 1
        sums[own], size[own] = sums[own] - terms[t], size[own] - 1
        worth[own] = plain_worth(sums[own])
        if size[own] == 0:
            del sums[own], size[own], worth[own]
        joined = {k: sums[k] + terms[t] for k in sums} | {new: data.empty + terms[t]}
        gained = {k: plain_worth(matrix) for k, matrix in joined.items()}
        score = [weights.join[0, size[k]] + gained[k] - worth[k] for k in sums]
        score.append(weights.open[0, len(sums)] + gained[new])
        share = np.exp(np.array(score) - np.max(score))
        k = [*sums, new][rng.choice(len(share), p=share / share.sum())]
        member[t], sums[k], size[k], worth[k] = k, joined[k], size.get(k, 0) + 1, gained[k]
    return canonical(member[None])


def plain_worth(matrix: np.ndarray) -> float:
    """log of E[exp(q'b - b'Q b / 2)] over b ~ N(0, I), from [[I + Q, q], [q', .]]."""
    L = np.linalg.cholesky(matrix)
    return float(0.5 * L[-1, :-1] @ L[-1, :-1] - np.log(np.diagonal(L)[:-1]).sum())


def plain_density(problem: LinearPosterior, values: dict[str, torch.Tensor], c: int) -> torch.Tensor:
    """log p(y | partition, hyperparameters) of one chain: a loop over tasks, then over clusters."""
    structure, noise = problem.structure(values), problem.noise(values, len(values["cluster"]))
    assert structure.basis_scale is not None and structure.residual_scale is not None
    assert structure.membership is not None
    member, sd = structure.membership[c], noise[c, 0]
    D = structure.basis_scale.shape[-1]
    identity = torch.eye(D, dtype=torch.float64)
    precision, linear, total = {}, {}, torch.zeros((), dtype=torch.float64)
    for group in problem.tasks.groups:
        for i, t in enumerate(group.index.tolist()):
            F, y, k = group.F[i], group.c[i], int(member[t])
            root = F * structure.residual_scale[c, 0]
            L = torch.linalg.cholesky(root @ root.T + sd**2 * torch.eye(len(F), dtype=torch.float64))
            H = torch.linalg.solve_triangular(L, torch.cat([F, y[:, None]], dim=1), upper=False)
            Q, q = H[:, :-1].T @ H[:, :-1], H[:, :-1].T @ H[:, -1]
            precision[k], linear[k] = precision.get(k, 0.0) + Q, linear.get(k, 0.0) + q
            count = problem.tasks.count[t]
            total = total - 0.5 * (H[:, -1] ** 2).sum() - L.diagonal().log().sum()
            total = total - (count - len(F)) * sd.log() - 0.5 * problem.tasks.residual[t] / sd**2
            total = total - 0.5 * count * math.log(2 * math.pi)
    scale, spread = structure.basis_scale[c]
    P, p = torch.zeros(D, D, dtype=torch.float64), torch.zeros(D, dtype=torch.float64)
    for k, Q in precision.items():
        L = torch.linalg.cholesky(identity + spread[:, None] * Q * spread)
        right = spread[:, None] * torch.cat([Q, linear[k][:, None]], dim=1)
        A = torch.linalg.solve_triangular(L, right, upper=False)
        P, p = P + Q - A[:, :-1].T @ A[:, :-1], p + linear[k] - A[:, :-1].T @ A[:, -1]
        total = total + 0.5 * (A[:, -1] ** 2).sum() - L.diagonal().log().sum()
    L = torch.linalg.cholesky(identity + scale[:, None] * P * scale)
    white = torch.linalg.solve_triangular(L, (scale * p)[:, None], upper=False)
    return total + 0.5 * (white**2).sum() - L.diagonal().log().sum()


@dataclass(frozen=True)
class Beside:
    """Processor seconds per chain, batched and in plain loops over chains and tasks."""

    sweep: tuple[float, float]
    gradient: tuple[float, float]

    def times(self, *, num_gradients: int) -> float:
        """How many times as fast a whole iteration is: a sweep and so many gradients."""
        batched, plain = (a + num_gradients * b for a, b in zip(self.sweep, self.gradient, strict=True))
        return plain / batched


def beside_loops(num_chains: int, num_tasks: int) -> Beside:
    """A sweep over all tasks, and a gradient of the hyperparameters' density given the partition."""
    model, data = bm.LinearModel(bm.DirichletProcess()), many_tasks(num_tasks)
    problem = prepare(model, data)
    membership = torch.arange(num_tasks).remainder(8).expand(num_chains, -1)
    points = problem.space.initial(np.random.default_rng(0), num_chains)
    values = problem.space.constrain(points) | {"cluster": membership}
    structure, noise = problem.structure(values), problem.noise(values, num_chains)
    terms = task_terms(problem.tasks, structure, noise)
    evidence = Evidence.of(*terms.about(torch.zeros_like(terms.linear[:, 0]), values["cluster_scale"]))
    weights = Weights(model.sharing, values, num_tasks)
    generator, watches = torch.Generator().manual_seed(0), [Watch() for _ in range(4)]
    given = problem.given(membership)
    given.value_and_gradient(points)
    with watches[0].running():
        for _ in range(3):
            gibbs_sweep(membership.numpy(), evidence, weights, generator)
    one, order = Evidence(evidence.terms[:1]), np.random.default_rng(0).permutation(num_tasks)
    with watches[1].running():
        plain_sweep(membership[:1].numpy(), one, weights, order, np.random.default_rng(1))
    with watches[2].running():
        for _ in range(3):
            given.value_and_gradient(points)
    with watches[3].running():
        free = points.detach().requires_grad_()
        space = problem.space.constrain(free) | {"cluster": membership}
        torch.autograd.grad(plain_density(problem, space, 0), free, allow_unused=True)
    share = [watch.cpu / n for watch, n in zip(watches, (3 * num_chains, 1) * 2, strict=True)]
    return Beside((share[0], share[1]), (share[2], share[3]))


def label_free_ess(fit: bm.Fit) -> dict[str, float]:
    """Least bulk effective sample size of every kind of label-free quantity; NaN where none varies."""
    shown = {
        "number of clusters": fit.posterior["num_clusters"].to_numpy()[..., None],
        "concentration": fit.posterior["concentration"].to_numpy()[..., None],
        **{
            name: array.to_numpy().reshape(*array.shape[:2], -1)
            for name, array in in_doubt(
                fit.draws.hyperparameters["cluster"], fit.draws.sample_stats, fit.task_names
            ).items()
        },
    }
    found = {}
    for name, values in shown.items():
        varies = np.ptp(values, axis=(0, 1)) > 0
        found[name] = float(bulk_ess(values[..., varies]).min()) if varies.any() else math.nan
    return found


def timed(model: bm.LinearModel, data: bm.TaskData, length: dict[str, int]) -> tuple[bm.Fit, float]:
    """A fit and its processor seconds."""
    watch = Watch()
    with watch.running():
        fit = model.fit(data, seed=0, progress=False, **length)
    return fit, watch.cpu


def many_tasks(num_tasks: int) -> bm.TaskData:
    """Tasks of ten features and 20 rows each, in eight clusters."""
    rng = np.random.default_rng(1)
    W = rng.normal(size=(8, 10))[np.arange(num_tasks) % 8] + 0.2 * rng.normal(size=(num_tasks, 10))
    task = np.repeat(np.arange(num_tasks), 20)
    x = rng.normal(size=(len(task), 9))
    y = W[task, 0] + (x * W[task, 1:]).sum(1) + 0.5 * rng.normal(size=len(task))
    return bm.TaskData.from_arrays(x, y, task)


@dataclass(frozen=True)
class Reached:
    """How chains from different starts came to the true number of clusters.

    Args:
        number: Clusters at the start and after every iteration, shape (1 + iterations, C).
        seconds: Processor seconds until then, the start included, shape (1 + iterations,).
        true: Clusters there are.
        score: Adjusted Rand index of every chain's last partition.
    """

    number: np.ndarray
    seconds: np.ndarray
    true: int
    score: list[float]

    def describe(self) -> str:
        """One sentence."""
        right = (self.number == self.true).all(1)
        at = int(right.argmax()) if right.any() else None
        reached = f"after {at} iterations ({self.seconds[at]:.0f} processor seconds)" if at else "never"
        last = (self.seconds[-1] - self.seconds[-11]) / 10 / self.number.shape[1]
        numbers = " and ".join(str(n) for n in self.number[0])
        scores = " and ".join(f"{score:.3f}" for score in self.score)
        return (
            f"chains from {numbers} clusters: both have {self.true} {reached}; after {len(self.number) - 1} "
            f"iterations ({self.seconds[-1]:.0f} processor seconds) their partitions have adjusted Rand "
            f"indices {scores}. At the end {1000 * last:.0f} ms per iteration of a chain."
        )


def reaching(data: bm.TaskData, true: int, length: dict[str, int]) -> Reached:
    """Run the sampler, and look at the number of clusters after every iteration."""
    sampler = WeightPartitionSampler(
        prepare(bm.LinearModel(bm.DirichletProcess()), data), length["num_warmup"]
    )
    watch = Watch()
    with watch.running():
        state = sampler.start(length["num_chains"], np.random.default_rng(0))
    number, seconds = [num_clusters(state.further["membership"]).numpy()], [watch.cpu]
    for _ in range(length["num_warmup"] + length["num_draws"]):
        with watch.running():
            sampler.advance(state)
        number.append(num_clusters(state.further["membership"]).numpy())
        seconds.append(watch.cpu)
    truth = np.arange(data.num_tasks) % true
    score = [adjusted_rand_score(truth, membership) for membership in state.further["membership"].numpy()]
    return Reached(np.stack(number), np.array(seconds), true, score)


def run(options: Options) -> str:
    reduced = options.reduced
    model = bm.LinearModel(bm.DirichletProcess())
    data = school("every level") if not reduced else clustered_data(3, 0.3, 0)[0]
    fit, seconds = timed(model, data, REDUCED if reduced else LONG)
    least = label_free_ess(fit)
    per_200 = 200 * seconds / np.nanmin(list(least.values()))
    share = fit.partition().num_clusters
    num_chains, num_tasks, num_gradients = (2, 40, 10) if reduced else (4, 400, 10)
    beside = beside_loops(num_chains, num_tasks)
    large = many_tasks(40 if reduced else 2000)
    many = reaching(large, 8, REDUCED if reduced else MANY)
    found = recovery(1 if reduced else 20, REDUCED if reduced else FEW)
    at_bar = (found >= 0.95).sum()
    lines = [
        f"School, {data.num_tasks} tasks of {data.num_features} columns, {seconds:.0f} processor seconds:",
        "",
        table(pd.DataFrame({"least bulk ESS": pd.Series(least)}).rename_axis("quantity"), 0),
        "",
        "(- where a quantity is the same in all draws.) Probabilities of numbers of clusters: "
        + ", ".join(f"{k}: {p:.2f}" for k, p in share.items())
        + f". Largest R-hat {fit.check().table['r_hat'].max():.3f}.",
        "",
        "Adjusted Rand index over data sets of 30 tasks in 4 clusters:",
        "",
        table(found.describe().loc[["mean", "min"]].rename_axis(""), 3),
        "",
        f"{large.num_tasks} tasks of {large.num_features} features in 8 clusters, {many.describe()}",
        "",
        verdict(
            "School: 200 effective draws of every label-free quantity within 60 s",
            ok=per_200 < 60,
            found=f"{per_200:.0f} processor seconds",
        ),
        verdict(
            "an iteration, batched, at least 20 times as fast as plain loops over chains and tasks",
            ok=beside.times(num_gradients=num_gradients) >= 20,
            found=f"{beside.times(num_gradients=num_gradients):.0f} times with {num_gradients} gradients of "
            f"the hyperparameters; its sweep alone {beside.times(num_gradients=0):.0f} times; {num_tasks} "
            f"tasks of 10 features, {num_chains} chains",
        ),
        verdict(
            "mean adjusted Rand index of at least .95",
            ok=bool(found["point partition"].mean() >= 0.95),
            found=f"{found['point partition'].mean():.3f}, oracle {found['oracle'].mean():.3f}; single data "
            f"sets at .95: {at_bar['point partition']} of {len(found)}, oracle {at_bar['oracle']}",
        ),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main("partitions", "Partitions of tasks", run)
