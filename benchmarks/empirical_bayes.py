"""Empirical Bayes on School: hyperparameters at their mode and the weights' draws given them, in seconds."""

from __future__ import annotations

import pandas as pd

import bayesmtl as bm
from bayesmtl.inference.empirical_bayes import empirical_bayes
from bayesmtl.samplers.settings import Settings
from benchmarks.common import Options, Watch, main, prepare, school, table, verdict

MODEL = bm.LinearModel(sharing=bm.Hierarchical(), likelihood=bm.Gaussian())
LIMIT = 1.0


def run(options: Options) -> str:
    rows, lines = {}, []
    for columns in ("every level", "reference levels"):
        data = school(columns)
        if options.reduced:
            data = data.select_tasks(data.task_names[:10])
        watches = {name: Watch() for name in ("pass over the data", "fit", "model.fit with its verdict")}
        with watches["pass over the data"].running():
            problem = prepare(MODEL, data)
        with watches["fit"].running():
            draws = empirical_bayes(problem, Settings(seed=0, progress=False))
        with watches["model.fit with its verdict"].running():
            MODEL.fit(data, method="empirical_bayes", seed=0, progress=False)
        C, N = draws.weights.shape[:2]
        rows[f"{columns}, {data.num_features} columns"] = {
            f"{name}, s": f"{watch.wall:.2f}" for name, watch in watches.items()
        } | {"draws": C * N}
        seconds = watches["pass over the data"].wall + watches["fit"].wall
        lines.append(
            verdict(
                f"{columns}: pass and fit under {LIMIT:.0f} s", ok=seconds < LIMIT, found=f"{seconds:.2f} s"
            )
        )
    shown = pd.DataFrame.from_dict(rows, orient="index").rename_axis("design")
    return "\n".join([table(shown), "", *lines])


if __name__ == "__main__":
    main("empirical_bayes", "School: empirical Bayes", run)
