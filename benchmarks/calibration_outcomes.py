"""Simulation-based calibration of the engines for outcomes; see `benchmarks.calibration` for how.

A pair of a model and an engine is one row of results/calibration_outcomes.csv, kept as soon as it is known; a
later run goes on from there (delete the file to start anew) and reports what is there after `--cap` seconds.

"gibbs" and "nuts" approximate nothing and have to pass. "laplace" is corrected by importance weights where
the rows let it, and "svi" is a normal approximation: with so few rows as here the table shows how far that
goes, and their docstrings and `Fit.check` say what is found.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pandas as pd

import bayesmtl as bm
from benchmarks.calibration import FALSE_ALARM, NUM_CHAINS, PATH, ROWS_PER_TASK, calibrate, row_of
from benchmarks.common import RESULTS, Options, main, table, verdict

MIXED = bm.Mixed(
    {
        "task_0": bm.Gaussian(),
        "task_1": bm.Bernoulli(),
        "task_2": bm.NegativeBinomial(),
        "task_3": bm.StudentT(),
    }
)
SHARINGS: dict[str, bm.sharing.Sharing] = {
    "Hierarchical diagonal": bm.Hierarchical("diagonal"),
    "Hierarchical full": bm.Hierarchical("full"),
    "LowRank(1)": bm.LowRank(1),
    "TaskCovariance": bm.TaskCovariance(),
    "TaskGraph": bm.TaskGraph(PATH),
    "Independent": bm.Independent(),
    "Pooled": bm.Pooled(mean_scale=bm.HalfNormal(1.0)),
}
LIKELIHOODS: dict[str, bm.likelihoods.Likelihood] = {
    "Gaussian": bm.Gaussian(),
    "Bernoulli": bm.Bernoulli(),
    "Bernoulli probit": bm.Bernoulli("probit"),
    "Binomial(4)": bm.Binomial(4),
    "Categorical": bm.Categorical(),
    "Poisson": bm.Poisson(),
    "NegativeBinomial": bm.NegativeBinomial(),
    "StudentT": bm.StudentT(),
    "a likelihood for each task": MIXED,
}
ENGINES: dict[str, tuple[list[str], list[str]]] = {
    "svi": (
        ["Hierarchical diagonal", "TaskCovariance", "TaskGraph"],
        ["Gaussian", "Poisson", "a likelihood for each task"],
    ),
    "nuts": (
        ["Hierarchical diagonal", "TaskCovariance"],
        ["Poisson", "StudentT", "Categorical", "a likelihood for each task"],
    ),
    "laplace": (
        list(SHARINGS),
        [name for name in LIKELIHOODS if name not in ("Gaussian", "Bernoulli")],
    ),
    "gibbs": (
        list(SHARINGS),
        ["Binomial(4)", "NegativeBinomial", "StudentT", "a likelihood for each task"],
    ),
}
"""By engine: sharing priors with yes/no outcomes, and likelihoods with `Hierarchical`."""

LENGTHS: dict[str, dict[str, int]] = {
    # chains start at draws from the Laplace approximation: a few dozen iterations bring each to the posterior
    "gibbs": {"num_warmup": 40, "num_draws": 10},
    "nuts": {"num_chains": 7, "num_warmup": 25, "num_draws": 4},
    "svi": {"num_warmup": 60, "num_draws": 4},
    "laplace": {},
}
RUNS: dict[str, tuple[str, str, str]] = {
    f"{sharing}, {likelihood}, {engine}": (sharing, likelihood, engine)
    for engine, (sharings, likelihoods) in ENGINES.items()
    for sharing, likelihood in (
        *((sharing, "Bernoulli") for sharing in sharings),
        *(("Hierarchical diagonal", likelihood) for likelihood in likelihoods),
    )
}
KEPT = RESULTS / "calibration_outcomes.csv"
SLOW = ("nuts", "svi")  # half of the simulations


def all_rows(kept: Path | None, num_simulations: int, names: list[str], cap: float) -> pd.DataFrame:
    """One row per run, from the file where it is there with as many simulations or more."""
    rows: dict[str, dict[str, object]] = {}
    if kept is not None and kept.exists():
        known = pd.read_csv(kept, index_col="run", dtype={"its mean rank": str, "its spread": str})
        rows = known.to_dict(orient="index")
    deadline = time.perf_counter() + cap
    for name in names:
        sharing, likelihood, engine = RUNS[name]
        number = num_simulations // 2 if engine in SLOW else num_simulations
        if int(str(rows.get(name, {}).get("simulations", 0))) >= number:
            continue
        if time.perf_counter() > deadline:
            break
        model = bm.LinearModel(SHARINGS[sharing], LIKELIHOODS[likelihood])
        ranks = calibrate(model, number, method=engine, **LENGTHS[engine])
        rows[name] = {"simulations": number} | row_of(ranks)
        print(name, rows[name], file=sys.stderr, flush=True)
        if kept is not None:
            pd.DataFrame.from_dict(rows, orient="index").to_csv(kept, index_label="run")
    order = [name for name in names if name in rows]
    return pd.DataFrame.from_dict({name: rows[name] for name in order}, orient="index").rename_axis("model")


def run(options: Options) -> str:
    """Calibrate every pair of a model and an engine; one row each."""
    if options.reduced:
        frame = all_rows(None, 3, ["Hierarchical diagonal, Binomial(4), laplace"], options.cap)
    else:
        frame = all_rows(KEPT, options.simulations, list(RUNS), options.cap)
    limit = FALSE_ALARM / len(RUNS)
    failed = frame.index[frame["p (all quantities)"] < limit].tolist()
    sizes = ", ".join(map(str, ROWS_PER_TASK))
    lines = [
        f"4 tasks with {sizes} rows; {NUM_CHAINS} independent draws per fit, of nuts "
        f"{LENGTHS['nuts']['num_chains']}. A pair fails below p = {limit:.1e} (false-alarm probability "
        f"{FALSE_ALARM:g} in all). Mean ranks are .5 and spreads 1 where posteriors are right; a spread "
        f"above 1 means intervals that are too narrow. {len(frame)} of {len(RUNS)} pairs so far.",
        "",
        table(frame.assign(**{"p (all quantities)": [f"{p:.2g}" for p in frame["p (all quantities)"]]})),
        "",
        *(
            verdict(
                f"{engine}: no pair departs from uniform ranks",
                ok=not any(name.endswith(engine) for name in failed),
                found=", ".join(name for name in failed if name.endswith(engine)) or "none does",
            )
            for engine in ENGINES
        ),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main("calibration_outcomes", "Simulation-based calibration: outcomes and counts", run)
