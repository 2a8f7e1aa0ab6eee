"""After one pass over the data, fitting does not cost more with more rows.

100 simulated tasks x 5 features and an intercept, the same number of rows for every task. The pass
standardises the rows and sums them up per task; sampling works on the sums.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

import bayesmtl as bm
from bayesmtl.inference.exact import exact
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.samplers.settings import Settings
from benchmarks.common import Options, Watch, main, prepare, table, verdict

MODEL = bm.LinearModel(sharing=bm.Hierarchical(), likelihood=bm.Gaussian())
NUM_TASKS, NUM_FEATURES = 100, 5
LIMIT = 1.5  # of times that should be equal, on a machine that does other things too
NUM_EVALUATIONS = 300


def simulate(num_rows: int, seed: int) -> bm.TaskData:
    """y = x'w_t + noise with w_t ~ N(mu, diag(tau^2)), noise sd 1."""
    rng = np.random.default_rng(seed)
    W = rng.normal(size=NUM_FEATURES + 1) + 0.5 * rng.normal(size=(NUM_TASKS, NUM_FEATURES + 1))
    X = rng.normal(size=(num_rows, NUM_FEATURES))
    task = np.repeat(np.arange(NUM_TASKS), num_rows // NUM_TASKS)
    y = W[task, 0] + (X * W[task, 1:]).sum(1) + rng.normal(size=num_rows)
    return bm.TaskData.from_arrays(X, y, task)


def evaluation_time(problem: LinearPosterior) -> float:
    """Median milliseconds of one evaluation for four chains: what sampling is made of."""
    points = problem.space.initial(np.random.default_rng(0), 4)
    times = []
    for _ in range(NUM_EVALUATIONS):
        started = time.perf_counter()
        problem.value_and_gradient(points)
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))


def run(options: Options) -> str:
    sizes = (1_000, 10_000) if options.reduced else (10_000, 100_000, 1_000_000)
    length = {"num_draws": 10, "num_warmup": 10} if options.reduced else {}
    rows = {}
    for size in sizes:
        build, gather, sample = Watch(), Watch(), Watch()
        with build.running():
            data = simulate(size, 0)
        with gather.running():
            problem = prepare(MODEL, data)
        with sample.running():
            draws = exact(problem, Settings(seed=0, progress=False, num_effective=10**6, **length))
        rows[f"{size:,}"] = {
            "simulate and check the rows, s": build.wall,
            "pass over the data, s": gather.wall,
            "sampling, s": sample.wall,
            "leapfrog steps per draw": float(draws.sample_stats["n_steps"].mean()),
            "density and gradient, 4 chains, ms": evaluation_time(problem),
        }
    shown = pd.DataFrame.from_dict(rows, orient="index").rename_axis("rows")
    times = shown["density and gradient, 4 chains, ms"]
    ratio = float(times.iloc[-1] / times.iloc[0])
    lines = [
        table(shown),
        "",
        "The number of steps depends on the shape of the posterior; the time of an evaluation (median of "
        f"{NUM_EVALUATIONS}) is what must not depend on the rows.",
        "",
        verdict(
            f"an evaluation takes the same for {sizes[0]:,} and {sizes[-1]:,} rows, within {LIMIT} times",
            ok=ratio < LIMIT,
            found=f"ratio {ratio:.2f}",
        ),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main("rows", "Fit time and the number of rows", run)
