"""New tasks on Exam: fit 50 of 65 schools, predict the other 15 before and after their first pupils.

A school that was held out is predicted from the population, then `fit.condition` takes its first 1, 5 and 20
pupils into account, one school at a time and without refitting. Always the same pupils are predicted: those
after the first 20, in random order. Schools with fewer than 25 pupils are never held out.
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd

import bayesmtl as bm
from benchmarks.common import Options, main, table, verdict

MODEL = bm.LinearModel(sharing=bm.Hierarchical(), likelihood=bm.Gaussian())
NUM_SPLITS, NUM_HELD_OUT = 8, 15
STAGES = (0, 1, 5, 20)
FEWEST_PUPILS = 25


def split(exam: bm.datasets.DataSet, seed: int, num_held_out: int) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Rows of the schools to fit, and one frame per held-out school, its pupils in random order."""
    rng = np.random.default_rng(seed)
    sizes = exam.frame[exam.task].value_counts(sort=False)
    large = np.sort(sizes.index[sizes >= FEWEST_PUPILS].to_numpy(dtype=str))
    held_out = rng.choice(large, size=num_held_out, replace=False)
    known = exam.frame[~exam.frame[exam.task].isin(held_out)]
    schools = [exam.frame[exam.frame[exam.task] == name] for name in held_out]
    return known, [school.iloc[rng.permutation(len(school))] for school in schools]


def one_school(fit: bm.Fit, pupils: pd.DataFrame, target: str) -> list[dict[str, float]]:
    """Predictions of the pupils after the first 20 at every stage: one row per pupil and stage."""
    test = pupils.iloc[STAGES[-1] :]
    y = test[target].to_numpy()
    rows = []
    for stage in STAGES:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", bm.errors.ConvergenceWarning)
            updated = fit.condition(pupils.iloc[:stage]) if stage else fit
        prediction = updated.predict(test, new_tasks="population", num_draws=2000)
        latent = updated.predict(test, new_tasks="population", kind="latent", num_draws=2000)
        lower, upper = prediction.interval(0.9)
        for i in range(len(test)):
            rows.append(
                {
                    "pupils seen": stage,
                    "covered": float(lower[i] <= y[i] <= upper[i]),
                    "width": float(upper[i] - lower[i]),
                    "square": float((y[i] - prediction.mean[i]) ** 2),
                    "latent": float(latent.sd[i]) if i == 0 else float("nan"),
                    "few draws": float(bool(caught)) if i == 0 else float("nan"),
                }
            )
    return rows


def run(options: Options) -> str:
    exam = bm.datasets.load("exam")
    num_splits, num_held_out = (1, 3) if options.reduced else (NUM_SPLITS, NUM_HELD_OUT)
    length = {"num_draws": 50, "num_warmup": 40} if options.reduced else {}
    rows, spread = [], []
    for seed in range(num_splits):
        known, schools = split(exam, seed, num_held_out)
        data = bm.TaskData.from_frame(known, task=exam.task, target=exam.target, features=list(exam.features))
        fit = MODEL.fit(data, method="exact", seed=seed, progress=False, **length)
        spread.append(float(fit.posterior["residual_scale"].sel(feature="Intercept").mean()))
        for pupils in schools:
            rows += one_school(fit, pupils, exam.target)
    measured = pd.DataFrame(rows).groupby("pupils seen").mean()
    shown = pd.DataFrame(
        {
            "90 % intervals cover, %": (100 * measured["covered"]).map("{:.1f}".format),
            "their width": measured["width"].map("{:.3f}".format),
            "RMSE": np.sqrt(measured["square"]).map("{:.3f}".format),
            "sd of the school's function": measured["latent"].map("{:.3f}".format),
            "fits warned about, %": (100 * measured["few draws"]).map("{:.1f}".format),
        }
    ).rename_axis("pupils seen of the new school")
    covered = 100 * measured["covered"]
    before, between = float(measured["latent"].iloc[0]), float(np.mean(spread))
    lines = [
        table(shown),
        "",
        f"{num_splits} splits, {num_held_out} schools held out in each. A warning says that the new rows "
        "leave few posterior draws their weight.",
        "",
        verdict(
            "90 % intervals cover 85 to 95 % at every stage",
            ok=bool(covered.between(85, 95).all()),
            found=f"{covered.min():.1f} to {covered.max():.1f} %",
        ),
        verdict(
            "a school never seen has the population's spread",
            ok=before >= between,
            found=f"sd of its function {before:.3f}, schools' intercepts differ with sd {between:.3f}",
        ),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main("new_tasks", "Exam: tasks never seen", run)
