"""Partitions by the evidence bound, corrected (`method="svi"`) and not (`"mean_field"`), beside Gibbs.

- Five tasks, hyperparameters known: probabilities that two tasks are together, less those by enumeration of
  all partitions, where clusters overlap (few rows) and where there are more rows.
- School, too large to be corrected: number of clusters, and the tasks' weights in posterior standard
  deviations.
- 30 tasks in 4 clusters: adjusted Rand index of the point partition, and how often weights can be used.
- 2,000 tasks of 10 features in 8 clusters, too many to be corrected: processor seconds of a whole fit, beside
  those of one iteration of Gibbs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score

import bayesmtl as bm
from bayesmtl.algebra.statistics import CompressedTasks, TaskGroup
from bayesmtl.inference.partitions.variational import mean_field, partition_variational
from bayesmtl.samplers.settings import Settings
from benchmarks.common import Options, main, school, table, verdict
from benchmarks.partition_calibration import KNOWN, exact, pairs, simulate
from benchmarks.partitions import FEW, LONG, REDUCED, clustered_data, many_tasks, timed

ENGINES = {"mean field": mean_field, "corrected": partition_variational}
NUM_DRAWS = 1000


def enumerated(num_sets: int, rows: int) -> pd.DataFrame:
    """Probabilities that two of five tasks are together, beside enumeration: one row per engine."""
    simulated = simulate(KNOWN, num_sets, 5, rows, seed=0)
    right, problem = exact(simulated), simulated.problem
    truth = pairs(simulated.values["cluster"].numpy())
    settings = Settings(0, num_chains=1, num_draws=NUM_DRAWS, progress=False)
    told = {"rows": rows, "Brier score, enumeration": float(((right - truth) ** 2).mean())}
    table = []
    for name, engine in ENGINES.items():
        found, corrected = [], []
        for b in range(num_sets):
            groups = tuple(TaskGroup(group.index, group.rows[b]) for group in problem.tasks.groups)
            data = CompressedTasks(groups, problem.tasks.residual[b], problem.tasks.count)
            draws = engine(replace(problem, tasks=data), settings)
            found.append(pairs(draws.hyperparameters["cluster"][0].numpy()).mean(0))
            corrected.append(draws.sample_stats.get("corrected", np.zeros((1, 1)))[0, 0])
        gap = np.stack(found) - right
        # of independent draws; the rest is the engine's
        by_chance = np.sqrt((right * (1 - right)).mean() / NUM_DRAWS)
        table.append(
            {"engine": name}
            | told
            | {
                "Brier score": float(((np.stack(found) - truth) ** 2).mean()),
                "mean difference": float(gap.mean()),
                "mean absolute difference": float(np.abs(gap).mean()),
                "root mean square": float(np.sqrt((gap**2).mean())),
                "of independent draws": float(by_chance),
                "corrected": float(np.mean(corrected)),
            }
        )
    return pd.DataFrame(table).set_index(["engine", "rows"])


def weights_apart(one: bm.Fit, other: bm.Fit) -> tuple[float, float]:
    """Mean difference of posterior means of the weights in the second's sd, and mean ratio of sds."""
    a, b = one.coefficients(), other.coefficients()
    return float(((a["mean"] - b["mean"]).abs() / b["sd"]).mean()), float((a["sd"] / b["sd"]).mean())


def run(options: Options) -> str:
    reduced = options.reduced
    model = bm.LinearModel(bm.Clusters(2) if reduced else bm.DirichletProcess())
    few = pd.concat(
        [enumerated(1 if reduced else 100, rows) for rows in ((4,) if reduced else (4, 15, 60))]
    ).sort_index()
    data = clustered_data(2, 0.3, 0, num_tasks=5)[0] if reduced else school("every level")
    length = REDUCED if reduced else LONG
    bound, bound_seconds = timed(model, data, {"method": "svi"})
    gibbs, gibbs_seconds = timed(model, data, length)
    apart, ratio = weights_apart(bound, gibbs)
    index, usable = [], list[bool]()
    for seed in range(1, 2 if reduced else 21):
        some, truth, known = clustered_data(4, 0.0, seed, num_tasks=5 if reduced else 30)
        row = {"oracle": adjusted_rand_score(truth, known)}
        for name, how in (("svi", {"method": "svi"}), ("gibbs", REDUCED if reduced else FEW)):
            fit = timed(model, some, how)[0]
            row[name] = adjusted_rand_score(truth, fit.partition().point.reindex(some.task_names))
            if name == "svi":
                usable.append(bool(fit.draws.sample_stats["corrected"].all()))
        index.append(row)
    found = pd.DataFrame(index)
    many = data if reduced else many_tasks(2000)
    large, seconds = timed(model, many, {"method": "svi"})
    short = {"num_chains": 1, "num_warmup": 10, "num_draws": 10}
    iteration = timed(model, many, short)[1] / 20
    right = few.loc["corrected"]
    score = adjusted_rand_score(np.arange(many.num_tasks) % 8, large.partition(250).point)
    return "\n".join(
        [
            f"Five tasks of an intercept and a feature, hyperparameters known, {1 if reduced else 100} data "
            "sets: P(two are together) less that by enumeration, and Brier scores against the truth:",
            "",
            table(few.reset_index().set_index("engine"), 3),
            "",
            f"School, {data.num_tasks} tasks of {data.num_features} columns: svi has one cluster with "
            f"probability {(bound.posterior['num_clusters'] == 1).mean():.2f}, Gibbs with "
            f"{(gibbs.posterior['num_clusters'] == 1).mean():.2f}; posterior means of weights differ by "
            f"{apart:.2f} sd on average, sds are {ratio:.2f} times as large; {bound_seconds:.0f} and "
            f"{gibbs_seconds:.0f} processor seconds.",
            "",
            "Adjusted Rand index over data sets of 30 tasks in 4 clusters:",
            "",
            table(found.describe().loc[["mean", "min"]].rename_axis(""), 3),
            "",
            f"(svi corrected in {sum(usable)} of {len(usable)}.)",
            "",
            f"{many.num_tasks} tasks of {many.num_features} features: a fit takes {seconds:.0f} processor "
            f"seconds and finds {large.posterior['num_clusters'].mean():.1f} clusters (8 true; adjusted Rand "
            f"index {score:.3f}), an iteration of one chain of Gibbs {iteration:.2f}, start included.",
            "",
            verdict(
                "five tasks: corrected, at most twice as far from enumeration as independent draws are",
                ok=bool((right["root mean square"] < 2 * right["of independent draws"]).all()),
                found=f"{right['root mean square'].max():.3f} and {right['of independent draws'].max():.3f} "
                "at most",
            ),
            verdict(
                "30 tasks in 4 clusters: mean adjusted Rand index within .02 of Gibbs",
                ok=bool(found["svi"].mean() > found["gibbs"].mean() - 0.02),
                found=f"{found['svi'].mean():.3f} and {found['gibbs'].mean():.3f}",
            ),
        ]
    )


if __name__ == "__main__":
    main("partition_variational", "Partitions by the evidence bound", run)
