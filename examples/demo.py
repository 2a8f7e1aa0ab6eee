"""Fit 65 London schools, say what was found, draw it, save it: `python examples/demo.py --out out`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd

import bayesmtl as bm

FORMULA = "normexam ~ standLRT + sex"
SEED = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for plots and the saved fit")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    source = bm.datasets.load("exam")
    data = bm.TaskData.from_formula(FORMULA, source.frame, task="school")
    heading("The data: exam scores of pupils (normexam), their intake test (standLRT) and sex")
    print(data)

    heading("The model: every school has its own coefficients, drawn around a population (W = 1 mu' + E)")
    model = bm.LinearModel(sharing=bm.Hierarchical(), likelihood=bm.Gaussian())
    started = time.perf_counter()
    fit = model.fit(data, method="exact", seed=SEED)
    print(fit)
    print(f"{time.perf_counter() - started:.1f} s")

    heading("The verdict")
    print(fit.check())

    heading("The population, with 90 % intervals: means over schools, and how much schools differ")
    print(fit.summary().round(3).to_string())

    heading("The schools: posterior means and 90 % intervals, lowest and highest five of 65 by intercept")
    print(school_table(fit))

    heading(
        "Which schools are alike: agreement of their departures from the population (1 same, -1 opposite)"
    )
    similarity = fit.task_similarity(relative_to="population")
    tell_similarity(similarity)

    heading("A school never seen: the average school's line, with the spread of schools around it")
    tell_new_school(fit)

    draw(out, source.frame, data, fit, similarity)
    path = out / "exam_fit.nc"
    fit.save(path)
    check_equal(fit, bm.load(path), data)
    heading("Written")
    for file in sorted(out.glob("*.png")):
        print(file)
    print(f"{path}, loaded again: the same summary and the same predictions")


def heading(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}")


def school_table(fit: bm.Fit) -> str:
    """Mean and interval of each coefficient, one row per school."""
    frame = fit.coefficients().round(2)
    cells = frame.apply(lambda r: f"{r['mean']:6.2f} [{r['lower']:5.2f}, {r['upper']:5.2f}]", axis=1)
    order = frame["mean"].unstack()["Intercept"].sort_values().index
    table = cells.unstack().loc[[*order[:5], *order[-5:]], list(fit.feature_names)]
    table.index.name, table.columns.name = None, "school"
    return table.to_string()


def tell_similarity(similarity: bm.TaskSimilarity) -> None:
    pairs = similarity.to_frame()
    shown = (
        pd.concat([pairs.head(5), pairs.tail(5)]).rename(columns={"probability_positive": "P(>0)"}).round(3)
    )
    print("Most alike and most opposite pairs of schools:")
    print(shown.to_string(index=False))
    sure = ((pairs["lower"] > 0) | (pairs["upper"] < 0)).mean()
    print(
        f"The 90 % interval excludes 0 for {100 * sure:.0f} % of the {len(pairs):,} pairs; for the rest the"
    )
    print("data do not say whether two schools depart from the population in the same way.")


def tell_new_school(fit: bm.Fit) -> None:
    pupils = pd.DataFrame({"school": "a new school", "standLRT": [-1.0, 0.0, 1.0], "sex": ["F", "F", "F"]})
    for kind, what in (("latent", "mean of such pupils there"), ("observation", "score of one such pupil")):
        told = fit.predict(pupils, kind=kind, new_tasks="population").to_frame()
        told.insert(0, "standLRT", pupils["standLRT"])
        print(f"{what}:")
        print(told[["standLRT", "mean", "sd", "lower", "upper"]].round(2).to_string(index=False))


def draw(
    out: Path, frame: pd.DataFrame, data: bm.TaskData, fit: bm.Fit, similarity: bm.TaskSimilarity
) -> None:
    """One PNG per plot; the fits that sharing is compared with take a second."""

    def save(axes: object, name: str) -> None:
        axes.figure.savefig(out / f"{name}.png", dpi=150)

    save(bm.plots.similarity(similarity), "similarity")

    baselines = {"separate": bm.Independent(), "pooled": bm.Pooled()}
    table = {
        name: bm.LinearModel(sharing=sharing)
        .fit(data, method="empirical_bayes", seed=SEED, progress=False)
        .coefficients()
        for name, sharing in baselines.items()
    }
    for feature, name in (("Intercept", "shrinkage_intercept"), ("standLRT", "shrinkage_standLRT")):
        save(bm.plots.shrinkage(table["separate"], fit.coefficients(), table["pooled"], feature), name)

    # one school's pupils, and a grid without scores for an even band
    school = "53"
    sexes = frame.loc[frame["school"] == school, "sex"].unique()
    steps = pd.DataFrame({"standLRT": np.linspace(-2.5, 3.0, 23), "school": school})
    grid = pd.concat([steps.assign(sex=sex) for sex in sexes])
    rows = pd.concat([frame, grid.astype({"sex": frame["sex"].dtype})], ignore_index=True)
    rows = bm.TaskData.from_formula(FORMULA, rows, task="school").select_tasks([school])
    save(
        bm.plots.predictions(rows, fit.predict(rows, num_draws=4000), "standLRT"),
        f"predictions_school_{school}",
    )


def check_equal(fit: bm.Fit, again: bm.Fit, data: bm.TaskData) -> None:
    pd.testing.assert_frame_equal(again.summary(), fit.summary())
    np.testing.assert_allclose(again.predict(data).mean, fit.predict(data).mean, rtol=1e-12)


if __name__ == "__main__":
    main()
