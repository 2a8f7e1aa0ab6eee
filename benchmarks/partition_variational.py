"""Partitions by the evidence bound (`method="svi"`) beside Gibbs: what it costs, and what it gets wrong.

- Five tasks, hyperparameters known: probabilities that two tasks are together, less those by enumeration of
  all partitions, where clusters overlap (few rows) and where there are more rows.
- School: number of clusters, and the tasks' weights in posterior standard deviations.
- 30 tasks in 4 clusters: adjusted Rand index of the point partition.
- 2,000 tasks of 10 features in 8 clusters: processor seconds of a whole fit, beside those of one iteration of
  Gibbs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score

import bayesmtl as bm
from bayesmtl.algebra.statistics import CompressedTasks, TaskGroup
from bayesmtl.inference import Settings, partition_variational
from benchmarks.common import Options, main, school, table, verdict
from benchmarks.partition_calibration import KNOWN, exact, pairs, simulate
from benchmarks.partitions import FEW, LONG, REDUCED, clustered_data, many_tasks, timed


def enumerated(num_sets: int, rows: int) -> dict[str, float]:
    """Probabilities that two of five tasks are together, by the bound and by enumeration."""
    simulated = simulate(KNOWN, num_sets, 5, rows, seed=0)
    right, problem, found = exact(simulated), simulated.problem, []
    settings = Settings(0, num_chains=1, num_draws=1000, progress=False)
    for b in range(num_sets):
        groups = tuple(TaskGroup(group.index, group.rows[b]) for group in problem.tasks.groups)
        data = CompressedTasks(groups, problem.tasks.residual[b], problem.tasks.count)
        draws = partition_variational(replace(problem, tasks=data), settings)
        found.append(pairs(draws.hyperparameters["cluster"][0].numpy()).mean(0))
    gap, truth = np.stack(found) - right, pairs(simulated.values["cluster"].numpy())
    return {
        "mean difference": float(gap.mean()),
        "mean absolute difference": float(np.abs(gap).mean()),
        "Brier score, bound": float(((np.stack(found) - truth) ** 2).mean()),
        "Brier score, enumeration": float(((right - truth) ** 2).mean()),
    }


def weights_apart(one: bm.Fit, other: bm.Fit) -> tuple[float, float]:
    """Mean difference of posterior means of the weights in the second's sd, and mean ratio of sds."""
    a, b = one.coefficients(), other.coefficients()
    return float(((a["mean"] - b["mean"]).abs() / b["sd"]).mean()), float((a["sd"] / b["sd"]).mean())


def run(options: Options) -> str:
    reduced = options.reduced
    model = bm.LinearModel(bm.Clusters(2) if reduced else bm.DirichletProcess())
    few = pd.DataFrame(
        {
            f"{rows} rows": enumerated(1 if reduced else 100, rows)
            for rows in ((4,) if reduced else (4, 15, 60))
        }
    )
    data = clustered_data(2, 0.3, 0, num_tasks=5)[0] if reduced else school("every level")
    length = REDUCED if reduced else LONG
    bound, bound_seconds = timed(model, data, {"method": "svi"})
    gibbs, gibbs_seconds = timed(model, data, length)
    apart, ratio = weights_apart(bound, gibbs)
    index = []
    for seed in range(1, 2 if reduced else 21):
        some, truth, known = clustered_data(4, 0.0, seed, num_tasks=5 if reduced else 30)
        row = {"oracle": adjusted_rand_score(truth, known)}
        for name, how in (("bound", {"method": "svi"}), ("gibbs", REDUCED if reduced else FEW)):
            point = timed(model, some, how)[0].partition().point.reindex(some.task_names)
            row[name] = adjusted_rand_score(truth, point)
        index.append(row)
    found = pd.DataFrame(index)
    many = data if reduced else many_tasks(2000)
    large, seconds = timed(model, many, {"method": "svi"})
    short = {"num_chains": 1, "num_warmup": 10, "num_draws": 10}
    iteration = timed(model, many, short)[1] / 20
    score = adjusted_rand_score(np.arange(many.num_tasks) % 8, large.partition(250).point)
    return "\n".join(
        [
            "Five tasks of an intercept and a feature, hyperparameters known: P(two are together), "
            "the bound's less that by enumeration, and Brier scores against the truth:",
            "",
            table(few.T.rename_axis(""), 3),
            "",
            f"School, {data.num_tasks} tasks of {data.num_features} columns: the bound has one cluster with "
            f"probability {(bound.posterior['num_clusters'] == 1).mean():.2f}, Gibbs with "
            f"{(gibbs.posterior['num_clusters'] == 1).mean():.2f}; posterior means of weights differ by "
            f"{apart:.2f} sd on average, sds are {ratio:.2f} times as large; {bound_seconds:.0f} and "
            f"{gibbs_seconds:.0f} processor seconds.",
            "",
            "Adjusted Rand index over data sets of 30 tasks in 4 clusters:",
            "",
            table(found.describe().loc[["mean", "min"]].rename_axis(""), 3),
            "",
            f"{many.num_tasks} tasks of {many.num_features} features: a fit takes {seconds:.0f} processor "
            f"seconds and finds {large.posterior['num_clusters'].mean():.1f} clusters (8 true; adjusted Rand "
            f"index {score:.3f}), an iteration of one chain of Gibbs {iteration:.2f}, start included.",
            "",
            verdict(
                "30 tasks in 4 clusters: mean adjusted Rand index within .02 of Gibbs",
                ok=bool(found["bound"].mean() > found["gibbs"].mean() - 0.02),
                found=f"{found['bound'].mean():.3f} and {found['gibbs'].mean():.3f}",
            ),
        ]
    )


if __name__ == "__main__":
    main("partition_variational", "Partitions by the evidence bound", run)
