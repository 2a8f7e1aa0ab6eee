"""Landmine, 29 fields, 9 features and a level that vary by field: prediction from few cells, and posterior.

Prediction follows `benchmarks.landmine_protocol`: every method sees the same training cells. It goes on draw
by draw until `--cap` seconds are over or ten are done, and says how many it did. The posterior is that of all
14,820 cells, by "gibbs" and "laplace" beside NumPyro's NUTS (every weight latent, non-centred), which gets
`--cap` seconds: smallest bulk effective sample sizes of the hyperparameters with the population, and of all
weights.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import pandas as pd

import bayesmtl as bm
from bayesmtl.inference import Draws
from benchmarks import peers
from benchmarks.common import Options, Watch, bulk_ess, main, rhat, table, verdict
from benchmarks.landmine_protocol import CELLS, NUM_DRAWS, landmine, scores, split, task_data

# mines are rare, so the level's scale is learned
METHODS = {
    "hierarchical": bm.Hierarchical(scale=bm.HalfNormal(0.5), mean_scale=bm.HalfNormal(2.0)),
    "pooled": bm.Pooled(mean_scale=bm.HalfNormal(2.0)),
    "independent": bm.Independent(),
}
AREAS = dict(zip(CELLS, (0.738, 0.746, 0.754, 0.770), strict=True))
LOSSES = dict(zip(CELLS, (0.220, 0.204, 0.197, 0.187), strict=True))
SMALLEST_ESS, LARGEST_RHAT = 400, 1.01


def predict(sharing: bm.sharing.Sharing, train: pd.DataFrame, test: pd.DataFrame) -> np.ndarray:
    """Probabilities of a mine, by the quick engine."""
    fit = bm.LinearModel(sharing, bm.Bernoulli()).fit(
        task_data(train), method="laplace", seed=0, num_draws=100, progress=False
    )
    return np.asarray(fit.predict(task_data(test), kind="latent").mean)


def prediction(options: Options) -> list[str]:
    """Mean scores by method and number of cells, beside the bars."""
    frame, cells, most = landmine(), CELLS, NUM_DRAWS
    if options.reduced:
        frame, cells, most = frame[frame["field"].isin(frame["field"].unique()[:4])], CELLS[:1], 1
    rows: list[dict[str, float | str]] = []
    deadline, done = time.perf_counter() + options.cap, 0
    while done < most and (done == 0 or time.perf_counter() < deadline):
        for number in cells:
            train, test = split(frame, number, done)
            for name, sharing in METHODS.items():
                probability = predict(sharing, train, test)
                area, loss = scores(probability, test)
                mine = test["mine"].to_numpy() == 1
                over_cells = -np.log(np.where(mine, probability, 1 - probability)).mean()
                rows.append(
                    {"method": name, "cells": number, "AUC": area, "loss": loss, "pooled": over_cells}
                )
        done += 1
        print(
            f"draw {done}",
            pd.DataFrame(rows).groupby(["method", "cells"]).mean(),
            file=sys.stderr,
            flush=True,
        )
    means = pd.DataFrame(rows).groupby(["method", "cells"]).mean()
    shown = pd.DataFrame(
        {
            f"{title}, {number}": [means.loc[(name, number), column] for name in METHODS]
            for column, title in (("AUC", "AUC"), ("loss", "log loss"), ("pooled", "log loss over all cells"))
            for number in cells
        },
        index=pd.Index(METHODS, name="method"),
    )
    lines = [f"Prediction, {done} draw(s) of training cells:", "", table(shown, digits=4), ""]
    for number in cells:
        area, loss = (float(means.loc[("hierarchical", number), name]) for name in ("AUC", "loss"))
        lines += [
            verdict(
                f"{number} cells: AUC at least {AREAS[number]}", ok=area >= AREAS[number], found=f"{area:.4f}"
            ),
            verdict(
                f"{number} cells: log loss at most {LOSSES[number]}",
                ok=loss <= LOSSES[number],
                found=f"{loss:.4f}",
            ),
        ]
    return lines


def parts(draws: Draws) -> dict[str, np.ndarray]:
    """Hyperparameters with the population, and all weights, each (C, N, K)."""
    C, N = draws.weights.shape[:2]
    hyper = [draws.basis[:, :, 0], draws.hyperparameters["residual_scale"].abs()]
    return {
        "hyperparameters": np.concatenate([part.numpy() for part in hyper], axis=-1),
        "weights": draws.weights.reshape(C, N, -1).numpy(),
    }


def row(quantities: dict[str, np.ndarray], watch: Watch) -> dict[str, float | str]:
    """Effective sample sizes of what an engine drew."""
    shape = next(iter(quantities.values())).shape
    found: dict[str, float | str] = {"CPU s": watch.cpu, "draws": f"{shape[0]} x {shape[1]}"}
    for name, values in quantities.items():
        smallest = float(bulk_ess(values).min())
        found |= {f"smallest ESS, {name}": smallest, f"ESS / CPU s, {name}": smallest / watch.cpu}
    return found | {"largest R-hat": max(float(rhat(values).max()) for values in quantities.values())}


def posterior(options: Options) -> list[str]:
    """Effective sample sizes of the full posterior."""
    frame = landmine()
    if options.reduced:
        frame = frame[frame["field"].isin(frame["field"].unique()[:3])].iloc[::4]
    data = task_data(frame)
    model = bm.LinearModel(bm.Hierarchical(), bm.Bernoulli())
    rows = {}
    for name in ("laplace", "gibbs"):
        settings = {"num_chains": 2, "num_draws": 20, "num_warmup": 20} if options.reduced else {}
        watch = Watch()
        with watch.running():
            fit = model.fit(data, method=name, seed=0, progress=False, **settings)
        rows[name] = row(parts(fit.draws), watch)
        print(name, rows[name], file=sys.stderr, flush=True)
    X = data.standardization().standardize_features(data.X)
    program = peers.logistic(peers.Rows(X, data.y, data.task, data.num_tasks))
    length = {"num_warmup": 20, "num_draws": 20} if options.reduced else {"num_warmup": 300, "num_draws": 500}
    peer = peers.sample(program, **length, num_chains=2, seed=0, cap=options.cap)
    lines = []
    if peer.values:
        mu, tau, z = (peer.values[name] for name in ("mu", "tau", "z"))
        weights = mu[:, :, None] + tau[:, :, None] * z
        drawn = {
            "hyperparameters": np.concatenate([mu, tau], axis=2),
            "weights": weights.reshape(*mu.shape[:2], -1),
        }
        rows["NumPyro NUTS"] = row(drawn, peer.watch)
        for part in drawn:
            ours, theirs = (float(rows[name][f"ESS / CPU s, {part}"]) for name in ("gibbs", "NumPyro NUTS"))
            lines.append(
                verdict(
                    f"gibbs, {part}: ESS per second no lower than NumPyro's",
                    ok=ours >= theirs,
                    found=f"{ours:.2f} and {theirs:.2f}",
                )
            )
    else:
        lines.append(f"NumPyro NUTS: nothing drawn within {options.cap:.0f} s")
    found = rows["gibbs"]
    smallest = min(float(found[f"smallest ESS, {part}"]) for part in ("hyperparameters", "weights"))
    lines += [
        verdict(f"gibbs: smallest ESS {SMALLEST_ESS}", ok=smallest >= SMALLEST_ESS, found=f"{smallest:.0f}"),
        verdict(
            f"gibbs: R-hat below {LARGEST_RHAT}",
            ok=float(found["largest R-hat"]) < LARGEST_RHAT,
            found=f"{found['largest R-hat']:.3f}",
        ),
    ]
    return [
        "Posterior of all cells:",
        "",
        table(pd.DataFrame.from_dict(rows, orient="index").rename_axis("engine")),
        "",
        *lines,
    ]


def run(options: Options) -> str:
    return "\n".join([*posterior(options), "", *prediction(options)])


if __name__ == "__main__":
    main("landmine", "Landmine: hierarchical logistic regression over 29 fields", run, packages=("numpyro",))
