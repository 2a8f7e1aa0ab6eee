"""Landmine, 29 fields, 9 features and a level that vary by field: prediction from few cells of each.

The protocol is `benchmarks.landmine_protocol`'s: every method sees the same training cells. Beside the
hierarchical model stand all fields as one, every field alone, and the share of mines among all training cells
("base rate"). Scores are kept in results/landmine.csv as soon as they are known, and a later run goes on from
there (delete the file to start anew); after `--cap` seconds a run reports what is there.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

import bayesmtl as bm
from benchmarks.common import RESULTS, Options, Watch, main
from benchmarks.landmine_protocol import (
    CELLS,
    NUM_DRAWS,
    SCORES,
    differences,
    landmine,
    means,
    scores,
    split,
    task_data,
    verdicts,
)

# How large the population's coefficients are is learned. Few cells say little about eleven scales: by
# importance sampling some 50 of 400 draws are effective, where a sampler of 150 sweeps takes a fraction of
# the time.
SIZE, APART = bm.HalfNormal(), bm.HalfNormal(0.5)
METHODS: dict[str, tuple[bm.sharing.Sharing, str] | None] = {
    "base rate": None,
    # fields differ along one direction, and a little in every coefficient
    "low rank": (bm.LowRank(1, scale=bm.HalfNormal(0.2), mean_scale=SIZE), "gibbs"),
    # features are correlated, and fields of two kinds of ground differ in many coefficients at once
    "hierarchical, full": (bm.Hierarchical("full", scale=APART, mean_scale=SIZE), "gibbs"),
    "hierarchical": (bm.Hierarchical(scale=APART, mean_scale=SIZE), "gibbs"),
    "pooled": (bm.Pooled(mean_scale=SIZE), "laplace"),
    "independent": (bm.Independent(), "laplace"),
}
LENGTH = {"gibbs": {"num_chains": 4, "num_warmup": 50, "num_draws": 100}, "laplace": {"num_draws": 100}}
# The method that the bars are for, chosen on draws 100 to 102 of training cells, of which no score here is.
BARRED = "low rank"
BARS = {20: (0.738, 0.220), 40: (0.746, 0.204), 80: (0.754, 0.197), 160: (0.770, 0.187)}
"""Least AUC and most log loss by number of cells."""
KEPT = RESULTS / "landmine.csv"
COLUMNS = ["method", "cells", "draw", *SCORES, "training mines", "CPU s"]


def predict(method: str, train: pd.DataFrame, test: pd.DataFrame) -> np.ndarray:
    """Probabilities of a mine; without a model the share of mines in training."""
    chosen = METHODS[method]
    if chosen is None:
        return np.full(len(test), train["mine"].mean())
    sharing, engine = chosen
    with warnings.catch_warnings():
        # a mean over draws needs fewer of them than intervals do
        warnings.simplefilter("ignore", bm.errors.ConvergenceWarning)
        fit = bm.LinearModel(sharing, bm.Bernoulli()).fit(
            task_data(train), method=engine, seed=0, progress=False, **LENGTH[engine]
        )
    return np.asarray(fit.predict(task_data(test), kind="latent").mean)


def scored(frame: pd.DataFrame, method: str, cells: int, draw: int) -> list[object]:
    """One row of COLUMNS."""
    train, test = split(frame, cells, draw)
    watch = Watch()
    with watch.running():
        probability = predict(method, train, test)
    return [method, cells, draw, *scores(probability, test), train["mine"].mean(), watch.cpu]


def all_scores(
    frame: pd.DataFrame, kept: Path | None, num_draws: int, cells: tuple[int, ...], cap: float
) -> pd.DataFrame:
    """Scores of every method, size and draw, from the file where they are there."""
    rows = pd.DataFrame(columns=COLUMNS)
    if kept is not None and kept.exists():
        rows = pd.read_csv(kept)
    known = set(zip(rows["method"], rows["cells"], rows["draw"], strict=True))
    wanted = [(method, number, draw) for draw in range(num_draws) for method in METHODS for number in cells]
    deadline = time.perf_counter() + cap
    for method, number, draw in wanted:
        if (method, number, draw) in known:
            continue
        if time.perf_counter() > deadline:
            break
        rows.loc[len(rows)] = scored(frame, method, number, draw)
        print(*rows.iloc[-1], file=sys.stderr, flush=True)
        if kept is not None:
            rows.to_csv(kept, index=False, float_format="%.5f")
    return rows


def run(options: Options) -> str:
    frame, cells, most, kept = landmine(), CELLS, NUM_DRAWS, KEPT
    if options.reduced:
        frame, cells, most = frame[frame["field"].isin(frame["field"].unique()[:2])], CELLS[:1], 1
    rows = all_scores(frame, None if options.reduced else kept, most, cells, options.cap)
    # the same draws for all
    rows = rows[rows["draw"].isin(rows.loc[rows["method"] == BARRED, "draw"])]
    draws = rows.groupby("method", sort=False)["draw"].nunique()
    return "\n".join(
        [
            *means(rows),
            f"Draws of training cells, of {most}: {', '.join(f'{n} {m}' for m, n in draws.items())}.",
            "",
            *differences(rows, BARRED, "pooled"),
            *verdicts(rows, BARRED, BARS),
        ]
    )


if __name__ == "__main__":
    main("landmine", "Landmine: prediction from few cells of 29 fields", run)
