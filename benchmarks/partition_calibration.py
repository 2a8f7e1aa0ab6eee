"""Calibration of partitions: `python -m benchmarks.partition_calibration`.

Hyperparameters, partitions, weights and targets are drawn from the prior of the model that is then fitted, so
that of the pairs of tasks which are together with posterior probability p a share of p is, and the rank of a
true value among posterior draws is uniform (Talts, Betancourt, Simpson, Vehtari and Gelman, 2018). All data
sets run as chains of one batch, which makes hundreds of them cheap.

- Exact: the posterior of a few tasks by enumeration of all partitions, hyperparameters known. Says whether
  simulation and density agree, and how far the sampler is from the truth, data set by data set.
- Reliability: pairs by their probability, with standard errors over data sets; pairs of one data set depend
  on each other, so that a bin of a thousand pairs may be worth a hundred.
- Ranks, hyperparameters unknown: number of clusters, whether two tasks are together, concentration, scales,
  noise and the log density.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

import bayesmtl as bm
from bayesmtl.algebra.conditional import draw_prior_basis, draw_weights
from bayesmtl.algebra.statistics import CompressedTasks, TaskGroup, TaskStatistics
from bayesmtl.inference.partitions.engine import WeightPartitionSampler
from bayesmtl.parameters import ParameterSpace, Values
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.samplers.hmc import State
from bayesmtl.sharing.partitions.base import PartitionSharing, in_order, num_clusters
from benchmarks.calibration import Ranks
from benchmarks.common import Options, Watch, main, table, verdict

KNOWN = bm.LinearModel(
    bm.DirichletProcess(bm.Fixed(1.0), scale=bm.Fixed(0.4), spread=bm.Fixed(0.8)), bm.Gaussian(noise=1.0)
)
UNKNOWN = {
    "DirichletProcess": bm.LinearModel(bm.DirichletProcess()),
    "DirichletProcess, within none": bm.LinearModel(bm.DirichletProcess(within="none")),
    "Clusters(3), within full": bm.LinearModel(bm.Clusters(3, bm.Gamma(2.0, 2.0), within="full")),
    "PitmanYor, noise task": bm.LinearModel(bm.PitmanYor(), bm.Gaussian("task")),
}
EDGES = np.linspace(0.0, 1.0, 6)
NUM_CHAINS = 15  # for each data set, of which ranks use the last state
FALSE_ALARM = 1e-4  # of the ranks of all models together


@dataclass(frozen=True)
class Simulated:
    """Data sets drawn from a model's prior, as one batch.

    Args:
        problem: Their posterior, one set of data for each chain.
        values: What they were drawn with, partitions as `cluster`, each of shape (B, ...).
    """

    problem: LinearPosterior
    values: Values

    @property
    def together(self) -> np.ndarray:
        """Whether the tasks of each pair are together, shape (B, pairs)."""
        return pairs(self.values["cluster"].numpy())

    def repeated(self, times: int) -> Simulated:
        """Every data set so many times in a row: that many chains for each."""
        tasks = self.problem.tasks
        groups = tuple(
            TaskGroup(group.index, group.rows.repeat_interleave(times, dim=0)) for group in tasks.groups
        )
        data = CompressedTasks(groups, tasks.residual.repeat_interleave(times, dim=0), tasks.count)
        values = {name: value.repeat_interleave(times, dim=0) for name, value in self.values.items()}
        return Simulated(replace(self.problem, tasks=data), values)

    @property
    def num_sets(self) -> int:
        """B."""
        return len(self.values["cluster"])


def pairs(membership: np.ndarray) -> np.ndarray:
    """Whether the tasks of each pair are together: (..., T) -> (..., T (T - 1) / 2)."""
    first, second = np.triu_indices(membership.shape[-1], 1)
    return np.asarray(membership[..., first] == membership[..., second])


def simulate(model: bm.LinearModel, num_sets: int, num_tasks: int, rows: int, seed: int) -> Simulated:
    """Draw data sets of tasks with so many rows, an intercept and one feature, from the prior."""
    rng = np.random.default_rng(seed)
    sharing, T, B = model.sharing, num_tasks, num_sets
    assert isinstance(sharing, PartitionSharing)
    task = np.repeat(np.arange(T), rows)
    X = np.stack([np.ones(len(task)), rng.normal(size=len(task))], axis=1)
    names = tuple(f"task_{t}" for t in range(T))
    empty = TaskStatistics.empty(T, 2).compress()
    problem = LinearPosterior(sharing, model.likelihood, empty, names, np.ones(T))
    values: dict[str, torch.Tensor] = problem.space.sample(rng, B)
    values["cluster"] = sharing.sample_partition(values, T, rng)
    structure, noise = problem.structure(values), problem.noise(values, B).expand(B, T)
    basis = draw_prior_basis(structure, B, 2, rng)
    W = draw_weights(empty, structure, noise, basis, rng).weights.numpy()
    f = (X * W[:, task]).sum(2)
    y = f + noise.numpy()[:, task] * rng.normal(size=f.shape)
    each = [TaskStatistics.from_rows(X, target, task, T).compress() for target in y]
    data = CompressedTasks(
        tuple(
            TaskGroup(group.index, torch.stack([tasks.groups[g].rows for tasks in each]))
            for g, group in enumerate(each[0].groups)
        ),
        torch.stack([tasks.residual for tasks in each]),
        each[0].count,
    )
    return Simulated(LinearPosterior(sharing, model.likelihood, data, names, np.ones(T)), values)


def starts(num_sets: int, num_tasks: int) -> torch.Tensor:
    """Partitions to start from: all tasks together, all apart, in halves."""
    tasks = torch.arange(num_tasks)
    kinds = torch.stack([torch.zeros_like(tasks), tasks, tasks % 2])
    return kinds[torch.arange(num_sets) % 3]


def started(
    sampler: WeightPartitionSampler, points: torch.Tensor, membership: torch.Tensor, seed: int
) -> State:
    """The state of chains at these hyperparameters (B, P) and partitions (B, T)."""
    sampler.given = sampler.problem.given(membership)
    root = 0.3 * torch.eye(points.shape[1], dtype=torch.float64)
    state = sampler.hmc.start(points, root, torch.Generator().manual_seed(seed))
    state.further = {"membership": membership, "kept": membership[:, None][:, :0]}
    return state


def advanced(simulated: Simulated, seed: int, steps: int) -> tuple[torch.Tensor, State]:
    """True hyperparameters (B, P), and the chains after transitions that start from the truth."""
    problem = simulated.problem
    points = coordinates(problem.space, simulated.values)
    sampler = WeightPartitionSampler(problem, num_warmup=0)
    state = started(sampler, points, simulated.values["cluster"], seed)
    for _ in range(steps):
        sampler.advance(state)
    return points, state


def sampled(
    simulated: Simulated, num_warmup: int, num_draws: int, seed: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """One chain per data set: partitions (B, N, T), and label-free quantities, each (B, N)."""
    problem, B = simulated.problem, simulated.num_sets
    sampler = WeightPartitionSampler(problem, num_warmup)
    points = problem.space.initial(np.random.default_rng(seed), B)
    state = started(sampler, points, in_order(starts(B, problem.tasks.num_tasks)), seed)
    for _ in range(num_warmup + num_draws):
        sampler.advance(state)
    kept, drawn = state.further["kept"], torch.stack(state.draws, dim=1)
    parts = [
        shown(problem.space, drawn[:, n], kept[:, n], problem.given(kept[:, n])) for n in range(num_draws)
    ]
    return kept.numpy(), {name: np.stack([part[name] for part in parts], axis=1) for name in parts[0]}


def shown(
    space: ParameterSpace, points: torch.Tensor, membership: torch.Tensor, problem: LinearPosterior
) -> dict[str, np.ndarray]:
    """Label-free functions of hyperparameters, partition and data, each (B,)."""
    values = space.constrain(points)
    found = {
        "number of clusters": num_clusters(membership).double(),
        "first two together": (membership[:, 0] == membership[:, 1]).double(),
        "pairs together": torch.from_numpy(pairs(membership.numpy()).mean(1)),
        "log density": problem.value(points),
    }
    for parameter in problem.space.parameters:
        if parameter.size and parameter.space == "correlation":
            sign = values["residual_scale"].prod(1).sign()  # of what two features have in common
            found[parameter.name] = values[parameter.name][:, 1, 0] * sign
        elif parameter.size:
            value = values[parameter.name]
            value = value.abs() if parameter.space == "signed" else value
            found[parameter.name] = value.reshape(len(value), -1)[:, 0]
    return {name: value.numpy() for name, value in found.items()}


def coordinates(space: ParameterSpace, values: Values) -> torch.Tensor:
    """The unconstrained point of values of two features, shape (B, P)."""
    parts = []
    for parameter in space.parameters:
        value = values[parameter.name]
        if not parameter.size:
            continue
        if parameter.space == "correlation":
            value = torch.atanh(value[:, 1, :1])
        parts.append((value.log() if parameter.space == "log" else value).reshape(len(value), -1))
    return torch.cat([*parts, torch.zeros(len(values["cluster"]), 0, dtype=torch.float64)], dim=1)


def ranks(simulated: Simulated, num_iterations: int, seed: int) -> Ranks:
    """Randomised ranks of true quantities among the last states of NUM_CHAINS chains for each data set."""
    watch, rng, number = Watch(), np.random.default_rng(seed), simulated.num_sets
    with watch.running():
        _, drawn = sampled(simulated.repeated(NUM_CHAINS), num_iterations - 1, 1, seed)
    problem, cluster = simulated.problem, simulated.values["cluster"]
    points = coordinates(problem.space, simulated.values)
    truth = shown(problem.space, points, cluster, problem.given(cluster))
    uniform = {}
    for name, column in drawn.items():
        values, true = column.reshape(number, NUM_CHAINS), truth[name][:, None]
        slack = 1e-9 * (1 + np.abs(true))
        below, tied = (values < true - slack).sum(1), (np.abs(values - true) <= slack).sum(1)
        uniform[name] = (below + rng.random(number) * (tied + 1)) / (NUM_CHAINS + 1)
    return Ranks(uniform, watch.cpu)


def exact(simulated: Simulated) -> np.ndarray:
    """P(together) of each pair by enumeration, hyperparameters known, shape (B, pairs)."""
    problem, T = simulated.problem, simulated.problem.tasks.num_tasks
    partitions = all_partitions(T)
    found = []
    for b in range(simulated.num_sets):
        groups = tuple(TaskGroup(g.index, g.rows[b]) for g in problem.tasks.groups)
        data = CompressedTasks(groups, problem.tasks.residual[b], problem.tasks.count)
        one = LinearPosterior(
            problem.sharing, problem.likelihood, data, problem.task_names, problem.target_scale
        )
        nothing = torch.zeros(len(partitions), 0, dtype=torch.float64)
        found.append(torch.softmax(one.given(partitions).value(nothing), 0).numpy())
    return np.stack(found) @ pairs(partitions.numpy())


def all_partitions(num_tasks: int) -> torch.Tensor:
    """Every partition once, clusters in the order of their first task, shape (Bell number, T)."""
    grown: list[tuple[int, ...]] = [()]
    for _ in range(num_tasks):
        grown = [(*part, k) for part in grown for k in range(max(part, default=-1) + 2)]
    return torch.tensor(grown)


def reliability(probability: np.ndarray, together: np.ndarray) -> pd.DataFrame:
    """By bins of probability: mean probability, share together, and the standard error of their difference.

    Args:
        probability: Of each pair, shape (B, pairs).
        together: Whether it is, shape (B, pairs).
    """
    rows, gap = {}, together - probability
    labels = pd.cut(probability.ravel(), EDGES, include_lowest=True).codes.reshape(probability.shape)
    for k in range(len(EDGES) - 1):
        inside = labels == k
        number = inside.sum()
        # a ratio of sums over data sets, which are independent
        mean = gap[inside].mean()
        departure = (gap * inside).sum(1) - mean * inside.sum(1)
        rows[f"{EDGES[k]:.1f} to {EDGES[k + 1]:.1f}"] = {
            "probability": probability[inside].mean(),
            "share together": together[inside].mean(),
            "gap": mean,
            "standard error": np.sqrt((departure**2).sum()) / number,
            "pairs": int(number),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("probability within")


def weights_of(gap: np.ndarray) -> tuple[float, float]:
    """Mean over data sets of their mean gaps, and its standard error."""
    means = gap.mean(1)
    return float(means.mean()), float(means.std(ddof=1) / np.sqrt(len(means)))


def run(options: Options) -> str:
    number = 12 if options.reduced else 3 * options.simulations
    length = (5, 10) if options.reduced else (20, 60)
    few = simulate(KNOWN, number, 6, 5, seed=1)
    right = exact(few)
    found = pairs(sampled(few, *length, 1)[0]).mean(1)
    mean, error = weights_of(found - right)
    many = simulate(KNOWN, number, 12, 5, seed=2)
    judged = reliability(pairs(sampled(many, *length, 2)[0]).mean(1), many.together)
    num_sets, num_iterations = (5, 10) if options.reduced else (max(options.simulations // 4, 20), 50)
    rows, p_values = {}, {}
    for name, model in UNKNOWN.items():
        own = ranks(simulate(model, num_sets, 8, 5, seed=3), num_iterations, 4)
        p_values[name] = own.p_value()
        for quantity, row in own.p_values().iterrows():
            rows[f"{name}: {quantity}"] = row
    least = min(1.0, min(p_values.values()) * len(p_values))
    in_doubt = judged[judged["standard error"] < 0.025]
    gap = float(in_doubt["gap"].abs().max()) if len(in_doubt) else float("nan")
    return "\n".join(
        [
            f"Enumeration, {number} data sets of 6 tasks:",
            "",
            table(reliability(right, few.together), 3),
            "",
            f"Sampled less enumerated probability: mean {mean:.4f} (standard error {error:.4f}), root mean "
            f"square {np.sqrt(((found - right) ** 2).mean()):.3f} with {length[1]} draws of one chain.",
            "",
            f"Sampled, {number} data sets of 12 tasks:",
            "",
            table(judged, 3),
            "",
            f"Ranks among the states of {NUM_CHAINS} chains after {num_iterations} iterations, {num_sets} "
            "data sets of 8 tasks for each model:",
            "",
            table(pd.DataFrame.from_dict(rows, orient="index").rename_axis("quantity"), 3),
            "",
            verdict(
                "co-clustering reliable within .05, wherever the standard error is below .025",
                ok=gap <= 0.05,
                found=f"largest gap {gap:.3f} in {len(in_doubt)} of {len(judged)} bins",
            ),
            verdict(
                "sampled probabilities are the enumerated ones, within 4 standard errors",
                ok=abs(mean) < 4 * error,
                found=f"{mean:.4f}, standard error {error:.4f}",
            ),
            verdict(
                f"ranks are uniform at {FALSE_ALARM:g}", ok=least > FALSE_ALARM, found=f"p = {least:.2g}"
            ),
        ]
    )


if __name__ == "__main__":
    main("partition_calibration", "Calibration of partitions", run)
