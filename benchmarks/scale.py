"""A table that is never loaded: a million rows of ten thousand tasks from Parquet, and its posterior.

Every step runs in a process of its own, so that the largest resident memory is that step's. A plain scan
reads the same columns in chunks of the same size, puts them into a matrix and adds up X'X: no tasks, no
checks. Times are judged in processor seconds, which other programs disturb less. The posterior is
that of engine `laplace`, which for Gaussian noise approximates nothing: hyperparameters are drawn by
importance sampling, all weights exactly given them. `exact`, which samples the hyperparameters, is timed for
a few iterations of one chain. Yes/no outcomes of the same rows are fitted by `svi`, which reads the rows
again and again and holds about half a million of them.
`InstEval` (73,421 ratings of 1,128 lecturers), written to Parquet, is the real example.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

import bayesmtl as bm
from bayesmtl.algebra.statistics import TaskStatistics
from benchmarks.common import Options, main, table, verdict

NUM_FEATURES = 10
NUM_TASKS = 10_000
ROWS = (100_000, 1_000_000, 3_000_000)
FITTED = 1_000_000
CHUNK = 2**18
DRAWS_PER_CHAIN = 50
OUTCOMES = (1_000_000, 3_000_000)
FEW = {"num_chains": 1, "num_warmup": 10, "num_draws": 8}
LIMIT = 60.0
REPEATS = 4  # the quickest of so many scans and passes: other programs only ever slow them down
FEATURES = [f"x{j}" for j in range(NUM_FEATURES)]


def write(path: Path, num_rows: int, num_tasks: int) -> None:
    """Tasks around a population, in no order, a chunk at a time."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=NUM_FEATURES) + 0.3 * rng.normal(size=(num_tasks, NUM_FEATURES))
    level = rng.normal(size=num_tasks)
    writer = None
    for start in range(0, num_rows, CHUNK):
        n = min(CHUNK, num_rows - start)
        task, X = rng.integers(num_tasks, size=n), rng.normal(size=(n, NUM_FEATURES))
        f = level[task] + (X * weights[task]).sum(1)
        columns = {"task": task, "y": f + rng.normal(size=n), "yes": rng.random(n) < 1 / (1 + np.exp(-f / 2))}
        columns |= {name: X[:, j] for j, name in enumerate(FEATURES)}
        batch = pa.table(columns)
        writer = writer or pa.parquet.ParquetWriter(path, batch.schema)
        writer.write_table(batch, row_group_size=CHUNK)
    assert writer is not None
    writer.close()


def scan(path: str) -> float:
    """Processor seconds for the columns of a file and X'X of all rows."""
    start = time.process_time()
    total = np.zeros((NUM_FEATURES + 1, NUM_FEATURES + 1))
    file = pa.parquet.ParquetFile(path, pre_buffer=False)
    for batch in file.iter_batches(batch_size=CHUNK, columns=["task", *FEATURES, "y"]):
        X = np.stack([batch.column(name).to_numpy() for name in (*FEATURES, "y")], axis=1)
        total += X.T @ X
    assert np.isfinite(total).all()
    return time.process_time() - start


def summarise(path: str, target: str = "y") -> bm.TaskSummaries:
    return bm.TaskData.from_parquet(path, task="task", target=target, features=FEATURES)


def step(name: str, path: str) -> dict[str, float]:
    """One step, in this process."""
    found: dict[str, float] = {}
    if name == "pass":
        scans, passes = [], []
        for _ in range(REPEATS):  # in turn, so that both meet the same company
            scans.append(scan(path))
            start = time.process_time()
            summarise(path)
            passes.append(time.process_time() - start)
        found = {"scan": min(scans), "pass": min(passes)}
    elif name == "memory":
        summarise(path)
    elif name == "fit":
        found = posterior(summarise(path))
    elif name == "exact":
        sums, start = summarise(path), time.process_time()
        bm.LinearModel(bm.Hierarchical()).fit(sums, method="exact", seed=0, progress=False, **FEW)
        found = {"cpu": time.process_time() - start}
    elif name == "outcomes":
        found = outcomes(path)
    # Linux counts in KiB, macOS in bytes
    unit = 2**10 if sys.platform != "darwin" else 1
    return found | {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20}


def posterior(sums: bm.TaskSummaries) -> dict[str, float]:
    """The full posterior of a hierarchical model: time, and how good the draws are."""
    wall, cpu = time.perf_counter(), time.process_time()
    fit = bm.LinearModel(bm.Hierarchical()).fit(
        sums, method="laplace", seed=0, num_draws=DRAWS_PER_CHAIN, progress=False
    )
    stats = fit.draws.sample_stats
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "draws": float(fit.draws.weights.shape[0] * fit.draws.weights.shape[1]),
        "ess": float(stats["importance_ess"].flat[0]),
        "k": float(stats["pareto_k"].flat[0]),
        "ok": float(fit.check().ok),
    }


def outcomes(path: str) -> dict[str, float]:
    """The posterior of a hierarchical logistic model of rows that are never all loaded."""
    data, start = summarise(path, "yes"), time.process_time()
    whole = data.num_rows == OUTCOMES[0]  # elsewhere a few steps, which take as much memory
    length = {"num_draws": 25, "num_warmup": 200 if whole else 10}
    fit = bm.LinearModel(bm.Hierarchical(), bm.Bernoulli()).fit(data, seed=0, progress=False, **length)
    stats = fit.draws.sample_stats
    assert fit.method == "svi"
    return {
        "cpu": time.process_time() - start,
        "disagreement": float(stats["restart_disagreement"].flat[0]) if whole else np.nan,
        "ok": float(fit.check().ok),
    }


def alone(name: str, path: str) -> dict[str, float]:
    """One step in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", "--step", name, path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    content: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return content


def inst_eval(folder: Path) -> Iterator[str]:
    """Ratings by lecturer, features as numbers, through Parquet and through a frame."""
    if not bm.datasets.available().loc["inst_eval", "present"]:
        yield "InstEval is not on this machine."
        return
    dataset = bm.datasets.load("inst_eval")
    encoded = bm.TaskData.from_frame(
        dataset.frame, task=dataset.task, target=dataset.target, features=list(dataset.features)
    )
    frame = encoded.to_frame()
    frame.to_parquet(folder / "inst_eval.parquet")
    features = list(encoded.feature_names[1:])
    start = time.perf_counter()
    sums = bm.TaskData.from_parquet(
        folder / "inst_eval.parquet", task=dataset.task, target=dataset.target, features=features
    )
    passed, start = time.perf_counter() - start, time.perf_counter()
    fit = bm.LinearModel().fit(sums, method="empirical_bayes", seed=0, progress=False)
    fitted = time.perf_counter() - start
    assert fit.check().ok
    scales = encoded.standardization()
    whole = TaskStatistics.from_rows(
        scales.standardize_features(encoded.X),
        scales.standardize_target(encoded.y, encoded.task),
        encoded.task,
        encoded.num_tasks,
    )
    pairs = [(getattr(fit.statistics, name), getattr(whole, name)) for name in ("gram", "cross", "square")]
    gap = max(float(np.abs(found - rows).max() / np.abs(rows).max()) for found, rows in pairs)
    rows = pd.DataFrame(
        {
            "rows": [f"{sums.num_rows:,}"],
            "tasks": [f"{sums.num_tasks:,}"],
            "columns": [sums.num_features],
            "pass, s": [passed],
            "empirical Bayes, s": [fitted],
            "largest relative difference of a sum to the rows in memory": [f"{gap:.1e}"],
        },
        index=pd.Index(["InstEval by lecturer"], name="data"),
    )
    yield table(rows)


def run(options: Options) -> str:
    sizes, fitted, num_tasks = ROWS, FITTED, NUM_TASKS
    if options.reduced:
        sizes, fitted, num_tasks = (20_000,), 20_000, 50
    # the reduced run only shows that every step works: one process of its own is enough for that
    measured = step if options.reduced else alone
    rows, yes, at = {}, {}, 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nothing = measured("nothing", str(folder))["memory"]
        for size in sizes:
            path = folder / f"{size}.parquet"
            write(path, size, num_tasks)
            memory = alone("memory", str(path))["memory"]
            found = measured("pass", str(path)) if size <= fitted else {"scan": np.nan, "pass": np.nan}
            rows[f"{size:,}"] = {
                "tasks": f"{num_tasks:,}",
                "plain scan, processor s": found["scan"],
                "sums per task, processor s": found["pass"],
                "share of the scan's speed": found["scan"] / found["pass"],
                "largest memory, MB": f"{memory:.0f}",
                "above that of the imports, MB": f"{memory - nothing:.0f}",
            }
            if size == fitted:
                at = found["scan"] / found["pass"]
                fit, exact = measured("fit", str(path)), measured("exact", str(path))
            if size in OUTCOMES or options.reduced:
                yes[f"svi, {size:,} rows"] = measured("outcomes", str(path))
                print(yes, file=sys.stderr, flush=True)
            path.unlink()
        real = list(inst_eval(folder)) if not options.reduced else []
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("rows")
    used = [float(value) for value in frame["above that of the imports, MB"]]
    shown = pd.DataFrame(
        {
            "draws": [f"{fit['draws']:.0f}"],
            "wall, s": [fit["wall"]],
            "processor, s": [fit["cpu"]],
            "effective draws of the hyperparameters": [f"{fit['ess']:.0f}"],
            "Pareto k": [f"{fit['k']:.2f}"],
            "largest memory, MB": [f"{fit['memory']:.0f}"],
        },
        index=pd.Index([f"laplace, {fitted:,} rows"], name="fit"),
    )
    asked = pd.DataFrame.from_dict(yes, orient="index")
    streamed = pd.DataFrame(
        {
            "processor, s": asked["cpu"].where(asked["disagreement"].notna()),
            "restarts apart, sd": asked["disagreement"],
            "its own check": np.where(asked["ok"] == 1, "passed", "asks for more steps"),
            "largest memory, MB": [f"{value:.0f}" for value in asked["memory"]],
        }
    ).rename_axis("yes/no outcomes")
    iterations = FEW["num_warmup"] + FEW["num_draws"]
    lines = [
        f"{num_tasks:,} tasks, {NUM_FEATURES} features and an intercept, one Parquet file. A plain scan "
        "reads the same columns and adds up X'X; each time is the quickest of several.",
        "",
        table(frame),
        "",
        table(shown),
        "",
        f"`exact` takes {exact['cpu']:.0f} processor seconds for {iterations} iterations of one chain there, "
        "the search for the mode included.",
        "",
        table(streamed),
        "",
        "A run of outcomes without a time is one of a few steps, for its memory.",
        "",
        *real,
        "",
        verdict("half the speed of a plain scan", ok=at >= 0.5, found=f"{at:.2f} of it"),
        verdict(
            f"full posterior in under {LIMIT:.0f} processor seconds",
            ok=fit["cpu"] < LIMIT,
            found=f"{fit['cpu']:.1f} s",
        ),
        verdict("the fit's own check", ok=fit["ok"] == 1, found=f"Pareto k {fit['k']:.2f}"),
        verdict(
            "memory does not grow with rows, beyond the first full chunk",
            ok=used[-1] <= 1.2 * used[1 if len(used) > 2 else 0] + 20,
            found=" MB, ".join(f"{value:.0f}" for value in used) + " MB",
        ),
        verdict(
            "nor does that of svi on outcomes",
            ok=asked["memory"].iloc[-1] <= 1.1 * asked["memory"].iloc[0],
            found=" MB, ".join(f"{value:.0f}" for value in asked["memory"]) + " MB",
        ),
        verdict(
            "restarts of svi agree within .5 sd",
            ok=bool(asked["disagreement"].iloc[0] <= 0.5),
            found=f"{asked['disagreement'].iloc[0]:.2f}",
        ),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        print(json.dumps(step(sys.argv[2], sys.argv[3])))
    else:
        main("scale", "Scale: from Parquet to the full posterior", run, ("pyarrow",))
