"""Landmine with the two kinds of ground known: how much there is to gain from groups of fields.

The protocol, and its draws of training cells, are those of `landmine_protocol`. Foliated and bare fields are
fitted apart from each other: "known kinds" pools the fields of a kind, "known kinds, fields differ" has a
hierarchical model within each. They are marks for models that have to find the two groups, on the same cells.
`--simulations` says how many draws are wanted.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

import bayesmtl as bm
from benchmarks.common import Options, main
from benchmarks.landmine_clusters import BARS, FOLIATED, SIZE, WITHIN
from benchmarks.landmine_protocol import (
    NUM_DRAWS,
    SCORES,
    landmine,
    means,
    scores,
    split,
    task_data,
    verdicts,
)

CELLS = (20, 160)
POOLED = bm.LinearModel(bm.Pooled(mean_scale=SIZE), bm.Bernoulli())
HIERARCHICAL = bm.LinearModel(bm.Hierarchical(scale=WITHIN, mean_scale=SIZE), bm.Bernoulli())
LENGTH = {"num_chains": 4, "num_warmup": 50, "num_draws": 100}


def all_fields(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> np.ndarray:
    """Probability of a mine in each test cell, from all training cells."""
    fit = POOLED.fit(task_data(train), method="laplace", seed=seed, progress=False)
    return np.asarray(fit.predict(test, kind="latent").mean)


def fields_differ(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> np.ndarray:
    """The same from a hierarchical model of the fields."""
    fit = HIERARCHICAL.fit(task_data(train), method="gibbs", seed=seed, progress=False, **LENGTH)
    return np.asarray(fit.predict(test, kind="latent").mean)


def by_kind(method, train: pd.DataFrame, test: pd.DataFrame, seed: int) -> np.ndarray:
    """What a method says of each test cell from the training cells of the same kind of ground."""
    probability = np.empty(len(test))
    foliated = [rows["field"].astype(int).to_numpy() <= FOLIATED for rows in (train, test)]
    for kind in (True, False):
        own, wanted = (mask == kind for mask in foliated)
        probability[wanted] = method(train[own], test[wanted], seed)
    return probability


METHODS = {
    "Pooled": all_fields,
    "Known kinds": lambda *given: by_kind(all_fields, *given),
    "Known kinds, fields differ": lambda *given: by_kind(fields_differ, *given),
}


def run(options: Options) -> str:
    frame = landmine()
    num_draws, sizes = min(NUM_DRAWS, options.simulations), CELLS
    if options.reduced:
        frame, num_draws, sizes = frame[frame["field"].isin(["1", "2", "16", "17"])], 1, CELLS[:1]
    rows = []
    for cells in sizes:
        for draw in range(num_draws):
            train, test = split(frame, cells, draw)
            for name, method in METHODS.items():
                probability = method(train, test, draw)
                rows.append([name, cells, draw, *scores(probability, test)])
    found = pd.DataFrame(rows, columns=["method", "cells", "draw", *SCORES])
    asked = {cells: BARS[cells] for cells in sizes}
    lines = [
        *means(found),
        f"{num_draws} draws. The requirements are those of models that have to find the kinds:",
        "",
    ]
    return "\n".join([*lines, *verdicts(found, "Known kinds, fields differ", asked)])


if __name__ == "__main__":
    main("landmine_known_groups", "Landmine: the groups of fields known", run)
