"""Is the posterior of tasks' functions calibrated? Task correlations covered, hyperparameters ranked."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import torch
from scipy import stats

import bayesmtl as bm
from benchmarks.common import Options, main, table, verdict

TASKS, EACH = 3, 8
MASS = 0.9
COVERED = (0.85, 0.95)
LEAST_P = 1e-3
"""Of a test that ranks are uniform: thirty quantities of four models, a false alarm in thirty."""
DEFAULT = Options.simulations
USUAL, ASKED = 400, 100
"""Data sets, and the number asked for: the standard error of a share over 100 of them is over 2 %, so that
the limits would be missed by chance one time in thirty."""
NAMES = [str(t) for t in range(TASKS)]
PATH = pd.DataFrame(np.eye(TASKS, k=1) + np.eye(TASKS, k=-1), index=NAMES, columns=NAMES)
MODELS = {
    "TaskCovariance": bm.MultitaskGP(sharing=bm.TaskCovariance()),
    "Hierarchical": bm.MultitaskGP(sharing=bm.Hierarchical()),
    "LowRank": bm.MultitaskGP(sharing=bm.LowRank(2)),
    "TaskGraph": bm.MultitaskGP(sharing=bm.TaskGraph(PATH)),
}


def design() -> bm.TaskData:
    rng = np.random.default_rng(0)
    task = np.repeat(np.arange(TASKS), EACH)
    x, y = rng.uniform(-2, 2, len(task)), rng.normal(size=len(task))
    return bm.TaskData.from_arrays(x[:, None], y, task, intercept=False).with_target_standardization("none")


def quantities(
    model: bm.MultitaskGP, data: bm.TaskData, values: dict[str, torch.Tensor]
) -> dict[str, np.ndarray]:
    """What is reported, free of signs and rotations, one array (B,) each."""
    problem = model._posterior(data)
    reports = (
        problem.kernels.report(values) | problem.sharing.report(values) | model.likelihood.report(values)
    )
    found = {}
    for name, reported in reports.items():
        flat = reported.values.reshape(len(reported.values), -1).numpy()
        if name == "task_correlation":
            first, second = np.triu_indices(TASKS, k=1)
            flat = flat[:, first * TASKS + second]
        found |= {f"{name} {i}" if flat.shape[1] > 1 else name: flat[:, i] for i in range(flat.shape[1])}
    return found


def simulated(model: bm.MultitaskGP, number: int) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Ranks between 0 and 1, whether intervals cover, and how many fits said not to trust them."""
    ranks, covers, doubted = [], [], 0
    rng = np.random.default_rng(1)
    for seed in range(number):
        data, truth = model.simulate(design(), seed=seed)
        fit = model.fit(data, method="laplace", seed=seed, num_draws=100, progress=False)
        doubted += not fit.check().ok
        drawn = quantities(model, data, fit.flat())
        true = quantities(model, data, {name: value[None] for name, value in truth.items()})
        low, high = (1 - MASS) / 2, (1 + MASS) / 2
        rank, cover = {}, {}
        for name, draws in drawn.items():
            below = (draws < true[name]).sum() + rng.random()
            rank[name] = below / (len(draws) + 1)
            lower, upper = np.quantile(draws, [low, high])
            cover[name] = float(lower <= true[name][0] <= upper)
        ranks.append(rank)
        covers.append(cover)
    return pd.DataFrame(ranks), pd.DataFrame(covers), doubted


def run(options: Options) -> str:
    number = 2 if options.reduced else (USUAL if options.simulations == DEFAULT else options.simulations)
    rows, lines = {}, []
    start = time.process_time()
    for label, model in MODELS.items():
        ranks, covers, doubted = simulated(model, number)
        p_values = {name: stats.kstest(ranks[name], "uniform").pvalue for name in ranks}
        for name in ranks:
            rows[f"{label}: {name}"] = {
                "covered, %": 100 * covers[name].mean(),
                "mean rank": ranks[name].mean(),
                "p of uniform ranks": p_values[name],
            }
        pairs = [name for name in covers if name.startswith("task_correlation")]
        if pairs:
            each = covers[pairs].mean(axis=1)  # pairs of one data set do not count as independent
            share, first = float(each.mean()), float(each[:ASKED].mean())
            error = float(each.std(ddof=1)) / len(each) ** 0.5
            lines += [
                verdict(
                    f"{label}: 90 % intervals of task correlations cover 85 to 95 %",
                    ok=COVERED[0] <= share <= COVERED[1],
                    found=f"{100 * share:.1f} % of {number} x {len(pairs)}, standard error {100 * error:.1f}",
                ),
                f"- Of the first {ASKED} data sets alone {100 * first:.1f} %.",
            ]
        lines += [
            verdict(
                f"{label}: ranks of the truth are uniform",
                ok=min(p_values.values()) > LEAST_P,
                found=f"smallest p {min(p_values.values()):.3f}",
            ),
            f"- {doubted} of {number} fits said that they are not to be trusted; they count like the others.",
        ]
    seconds = time.process_time() - start
    shown = pd.DataFrame.from_dict(rows, orient="index").rename_axis(
        f"{number} data sets from the prior, {TASKS} tasks with {EACH} rows"
    )
    return "\n".join(
        [table(shown, digits=3), "", f"`laplace`, {seconds:.0f} CPU seconds in all.", "", *lines]
    )


if __name__ == "__main__":
    main("functions_calibration", "Calibration of multi-task Gaussian processes", run)
