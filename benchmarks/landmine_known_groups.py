"""Landmine with the two kinds of ground known: how much there is to gain from groups of fields.

The protocol, and its draws of training cells, are those of `landmine_protocol`. "Known kinds" is one pooled
model for the foliated fields and one for the bare ones: a mark for models that have to find the two groups
(not a bound: fields of one kind may differ too). `--simulations` says how many draws are wanted.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

import bayesmtl as bm
from benchmarks.common import Options, main, table, verdict
from benchmarks.landmine_clusters import BARS, FOLIATED, SIZE
from benchmarks.landmine_protocol import NUM_DRAWS, landmine, scores, split, task_data

CELLS = 20
MODEL = bm.LinearModel(bm.Pooled(mean_scale=SIZE), bm.Bernoulli())


def known_kinds(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> np.ndarray:
    """Probability of a mine in each test cell, from the training cells of the same kind of ground."""
    probability = np.empty(len(test))
    foliated = [rows["field"].astype(int).to_numpy() <= FOLIATED for rows in (train, test)]
    for kind in (True, False):
        own, wanted = (mask == kind for mask in foliated)
        probability[wanted] = pooled(train[own], test[wanted], seed)
    return probability


def pooled(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> np.ndarray:
    """Probability of a mine in each test cell, from all training cells."""
    fit = MODEL.fit(task_data(train), method="laplace", seed=seed, progress=False)
    return np.asarray(fit.predict(test, kind="latent").mean)


METHODS = {"Pooled": pooled, "Known kinds": known_kinds}


def run(options: Options) -> str:
    frame = landmine()
    num_draws = min(NUM_DRAWS, options.simulations)
    if options.reduced:
        frame, num_draws = frame[frame["field"].isin(["1", "2", "16", "17"])], 1
    rows = []
    for draw in range(num_draws):
        train, test = split(frame, CELLS, draw)
        for name, method in METHODS.items():
            rows.append([name, draw, *scores(method(train, test, draw), test)])
    kept = pd.DataFrame(rows, columns=["method", "draw", "auc", "log loss"])
    lines = []
    for score in ("auc", "log loss"):
        shown = kept.pivot_table(index="method", columns="draw", values=score, sort=False)
        shown["mean"] = shown.mean(axis=1)
        lines += [f"Mean {score} over fields, {CELLS} cells of each, by draw of training cells:", ""]
        lines += [table(shown, 4), ""]
    known = kept[kept["method"] == "Known kinds"]
    (area, loss), a, b = BARS[CELLS], known["auc"].mean(), known["log loss"].mean()
    name = f"known kinds, {CELLS} cells per field: AUC at least {area}, log loss at most {loss}"
    lines.append(verdict(name, ok=bool(a >= area and b <= loss), found=f"{a:.4f}, {b:.4f}"))
    return "\n".join(lines)


if __name__ == "__main__":
    main("landmine_known_groups", "Landmine: the groups of fields known", run)
