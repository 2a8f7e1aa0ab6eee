"""What `laplace` and `svi` cost by size, from which `method="auto"` chooses between them.

Yes/no outcomes of T tasks with an intercept and two features, all of which vary between tasks. Laplace's
method looks at all rows for every proposal of the hyperparameters and for every draw of the weights, svi at a
minibatch in every step, so that its cost does not grow with the rows. It is approximate, and "auto" takes it
only where Laplace's method takes many minutes.

What is timed is a few proposals, draws and steps; a fit with the usual settings takes 1,000 proposals (400
where there are very many tasks) and 1,000 draws, in svi 2 restarts of 1,000 steps, and has them multiplied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

import bayesmtl as bm
from bayesmtl.inference import choose
from bayesmtl.inference.laplace.correction import _candidates
from bayesmtl.inference.nuts.engine import private_randomness
from bayesmtl.inference.svi.engine import _optimise, _start
from bayesmtl.posteriors.linear.outcomes import LaplaceMarginal, OutcomePosterior
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from benchmarks.common import Options, Watch, main, table, verdict

SIZES = ((50, 20), (500, 20), (500, 200), (5000, 20), (5000, 100))
"""Tasks, and rows of each."""

PROPOSALS, DRAWS, STEPS = 1000, 1000, 2000  # of a fit
_TIMED, _STEPS_TIMED = 4, 40


def outcomes(num_tasks: int, rows_per_task: int, seed: int = 0) -> bm.TaskData:
    """Rows from a hierarchical logistic regression."""
    rng = np.random.default_rng(seed)
    task = np.repeat(np.arange(num_tasks), rows_per_task)
    X = np.column_stack([np.ones(len(task)), rng.normal(size=(len(task), 2))])
    weights = np.array([-0.5, 0.8, -0.4]) + rng.normal(size=(num_tasks, 3)) * np.array([0.7, 0.5, 0.2])
    f = (X * weights[task]).sum(1)
    y = rng.random(len(task)) < 1 / (1 + np.exp(-f))
    return bm.TaskData.from_arrays(X[:, 1:], y.astype(float), [f"task_{t}" for t in task])


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds that something takes."""
    watch = Watch()
    with watch.running():
        work()
    return watch.cpu


def of_laplace(problem: OutcomePosterior) -> tuple[float, float]:
    """Seconds of the proposals and of the draws of a fit."""
    rng = np.random.default_rng(0)
    marginal = LaplaceMarginal(replace(problem, rows=problem.rows.merged()))
    points = problem.space.initial(rng, _TIMED)
    marginal.value(points[:1])  # a search has found where the mode is about
    proposals = seconds(lambda: marginal.value(points))
    values = problem.space.constrain(points)
    draws = seconds(lambda: _candidates(marginal, values, _TIMED, 4, 0, rng))
    return PROPOSALS * proposals / _TIMED, DRAWS * draws / _TIMED


def of_svi(problem: LinearPosterior) -> float:
    """Seconds of the steps of a fit."""
    rng = np.random.default_rng(0)
    guide, counted = _start(problem, rng), iter(range(2 * _STEPS_TIMED))
    with private_randomness(0):
        _optimise(guide, _STEPS_TIMED, counted, rng)  # the first steps import parts of Pyro
        return STEPS * seconds(lambda: _optimise(guide, _STEPS_TIMED, counted, rng)) / _STEPS_TIMED


def run(options: Options) -> str:
    """Time both engines at every size; one row each."""
    rows, costs = {}, []
    model = bm.LinearModel(likelihood=bm.Bernoulli())
    for T, n in ((10, 8), (20, 8)) if options.reduced else SIZES:
        data = outcomes(T, n)
        problem = model._posterior(data)
        proposals, draws = of_laplace(problem)
        svi = of_svi(problem)
        costs.append((proposals + draws, svi))
        rows[f"{T} tasks of {n} rows"] = {
            "rows": str(T * n),
            "laplace: proposals": proposals,
            "laplace: draws": draws,
            "svi: steps": svi,
            "auto": choose(problem, "auto")[0].name,
        }
    text = "CPU seconds of a fit with the usual settings, from a few proposals, draws and steps.\n\n"
    text += table(pd.DataFrame.from_dict(rows, orient="index").rename_axis("size"), digits=1)
    (_, first), (largest, last) = costs[0], costs[-1]
    return f"{text}\n\n" + verdict(
        "at the largest size svi costs less than laplace",
        ok=last < largest,
        found=f"{last:.0f} s beside {largest:.0f} s; {first:.0f} s at the smallest",
    )


if __name__ == "__main__":
    main("engines", "Engines for outcomes: cost by size", run)
