"""Distributed multi-task relationship learning (Liu, Pan and Ho, 2017): workers keep their rows.

    W = 1 mu' + A Z,   A = diag(task_scale) chol(Omega),   Z rows ~ N(0, diag(scale^2)),   Omega ~ LKJ(2)

The paper's workers each hold tasks of their own and improve a bound on the joint objective, round by round,
while a server updates the tasks' covariance. With Gaussian noise no rounds are needed: what a worker knows of
a task is G_t = X_t'X_t, b_t = X_t'y_t, y_t'y_t and n_t, these add up, even where two workers share a task,
and the server's answer is the one that a single machine with all rows would give. This page deals the rows of
School out to workers, each with a file of its own, and compares: the files read one after the other, the
workers' sums merged by the server, and all rows in memory. On a Dask cluster,
`bm.TaskData.from_parquet(files, ..., client=client)` does the same.

Source: Liu, Pan and Ho (2017). Distributed multi-task relationship learning. KDD.
Run: python models/distributed_relationship_learning.py [--reduced]
"""

import tempfile
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
from _common import BASELINES, compare, empirical_bayes, load, reduced_asked, show, task_data

import bayesmtl as bm

SHARING = bm.TaskCovariance()
NUM_SCHOOLS, NUM_WORKERS = 12, 4


def deal_out(data: bm.TaskData, folder: Path) -> list[Path]:
    """One file for each worker, rows dealt at random, so that workers share tasks."""
    frame, worker = data.to_frame(), np.random.default_rng(0).integers(NUM_WORKERS, size=data.num_rows)
    files = [folder / f"worker-{number}.parquet" for number in range(NUM_WORKERS)]
    for number, file in enumerate(files):
        frame[worker == number].to_parquet(file)
    return files


def main() -> None:
    reduced = reduced_asked(__doc__)
    data = task_data(load("school"), reduced=reduced)
    data = data.select_tasks(data.task_names[: 4 if reduced else NUM_SCHOOLS])
    columns = {
        "task": data.task_column,
        "target": data.target_name,
        "features": list(data.feature_names[1:]),
    }
    with tempfile.TemporaryDirectory() as folder:
        files = deal_out(data, Path(folder))
        together = bm.TaskData.from_parquet(files, **columns)
        sums = [bm.TaskData.from_parquet(file, **columns).moments for file in files]
    server = replace(together, moments=reduce(lambda first, second: first.merge(second), sums).in_order())

    def coefficients(given: bm.TaskData | bm.TaskSummaries) -> np.ndarray:
        fit = bm.LinearModel(SHARING).fit(
            given, method="empirical_bayes", seed=0, num_draws=50, progress=False
        )
        return fit.posterior["weights"].to_numpy()

    found = {"server": coefficients(server), "one after the other": coefficients(together)}
    in_memory = coefficients(data)
    spread = in_memory.std(axis=(0, 1)).max()
    print(f"{data.num_rows} rows of {data.num_tasks} schools on {NUM_WORKERS} workers")
    print(f"  files and server, bit for bit the same: {np.array_equal(*found.values())}")
    gap = np.abs(found["server"] - in_memory).max() / spread
    print(f"  largest difference of a draw to all rows in memory: {gap:.0e} of the largest spread")
    methods = {"task relationships (this page)": empirical_bayes(SHARING)} | BASELINES
    what = f"School, its first {data.num_tasks} schools"
    show(compare(data, methods, reduced=reduced), what=what, reduced=reduced)


if __name__ == "__main__":
    main()
