"""Jura: cadmium at 100 validation sites, given nickel and zinc at all 359, by Gaussian processes over space.

Concentrations are modelled on the logarithm, each metal standardised by itself; the answer is the median,
whose mean absolute error (mg/kg) is what the literature reports. Density and coverage are those of the
concentration. The trivial baseline regresses log Cd on log Ni and log Zn and knows nothing of space.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

import bayesmtl as bm
from benchmarks.common import Options, Watch, main, table, verdict

METALS = ("Cd", "Ni", "Zn")
TASK = bm.Gaussian(noise="task")
OWN = (bm.Matern(),) * 3
MODELS = {
    "Independent": bm.MultitaskGP(sharing=bm.Independent(), likelihood=TASK),
    "ICM, one function": bm.MultitaskGP(sharing=bm.LowRank(rank=1), likelihood=TASK),
    "LMC, two functions and private": bm.MultitaskGP(OWN, bm.LowRank(rank=2), TASK),
    "SLFM, three functions": bm.MultitaskGP(OWN, bm.LowRank(rank=3), TASK),
}
RUNS = (
    *((name, "empirical_bayes") for name in MODELS),
    ("ICM, one function", "laplace"),
    ("SLFM, three functions", "laplace"),
)
NUM_DRAWS = 4000  # of every prediction
TRIVIAL = "log-OLS on Ni and Zn, no space"
SECONDS = {
    ("ICM, one function", "empirical_bayes"): 2.5,
    ("LMC, two functions and private", "empirical_bayes"): 11.0,
    ("ICM, one function", "laplace"): 30.0,
    ("SLFM, three functions", "laplace"): 90.0,
}
"""Processor seconds that a fit may take."""
MAE_LIMIT, DENSITY_LIMIT = 0.402, 0.60


def sites(reduced: bool) -> tuple[pd.DataFrame, np.ndarray]:
    """One row per site with log concentrations, and which sites are for validation."""
    frame = bm.datasets.load("jura").frame
    if reduced:
        frame = frame[frame["site"].astype(int) % 16 == 0]
    wide = frame.pivot(index="site", columns="metal", values="concentration")[list(METALS)]
    of_site = frame.drop_duplicates("site").set_index("site").loc[wide.index]
    return pd.concat([of_site[["Xloc", "Yloc"]], np.log(wide)], axis=1), of_site[
        "split"
    ].to_numpy() != "prediction"


def density(log_y: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Negative log density of the concentrations under log-normals, one per site."""
    return 0.5 * ((log_y - mean) / sd) ** 2 + np.log(sd) + 0.5 * np.log(2 * np.pi) + log_y


def trivial(train: pd.DataFrame, test: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Least squares of log Cd on log Ni and log Zn: means and standard deviations at the test sites."""
    designs = [np.column_stack([np.ones(len(part)), part[["Ni", "Zn"]]]) for part in (train, test)]
    weights, (rss,), rank, _ = np.linalg.lstsq(designs[0], train["Cd"].to_numpy(), rcond=None)
    return designs[1] @ weights, np.full(len(test), np.sqrt(rss / (len(train) - rank)))


def run(options: Options) -> str:
    frame, held_out = sites(options.reduced)
    Y = frame[list(METALS)].to_numpy(copy=True)
    truth = Y[held_out, 0].copy()
    Y[held_out, 0] = np.nan
    data = bm.TaskData.from_wide(frame[["Xloc", "Yloc"]], Y, METALS, task_column="metal")
    data = data.with_target_standardization("task")
    target = (frame.loc[held_out, ["Xloc", "Yloc"]], ["Cd"] * int(held_out.sum()))

    answers = {(TRIVIAL, "-"): (*trivial(frame[~held_out], frame[held_out]), np.nan, np.nan)}
    for name, method in RUNS:
        watch = Watch()
        with watch.running():
            fit = MODELS[name].fit(data, method=method, seed=0, progress=False)
        prediction = fit.predict(target, num_draws=NUM_DRAWS, joint=False)
        stats = fit.draws.sample_stats
        k = float(stats["pareto_k"][0, 0]) if "pareto_k" in stats else np.nan
        answers[name, method] = (prediction.mean, prediction.sd, watch.cpu, k)
    errors = {run: np.abs(np.exp(mean) - np.exp(truth)) for run, (mean, *_) in answers.items()}
    rows = {}
    for run, (mean, sd, seconds, k) in answers.items():
        gap = errors[run] - errors[TRIVIAL, "-"]
        rows[f"{run[0]}; {run[1]}"] = {
            "MAE, mg/kg": errors[run].mean(),
            "minus log-OLS": gap.mean(),
            "its standard error": gap.std(ddof=1) / np.sqrt(len(gap)),
            "negative log density per site": density(truth, mean, sd).mean(),
            "90 % coverage": float((np.abs(truth - mean) < 1.645 * sd).mean()),
            "Pareto k": k,
            "fit, CPU s": seconds,
        }
    shown = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model; method")
    lines = [
        verdict(
            f"{'; '.join(run)}: at most {limit} s",
            ok=answers[run][2] <= limit,
            found=f"{answers[run][2]:.1f} s",
        )
        for run, limit in SECONDS.items()
    ]
    for method in ("empirical_bayes", "laplace"):
        found = rows[f"SLFM, three functions; {method}"]
        lines += [
            verdict(
                f"SLFM, three functions; {method}: {what} at most {limit}",
                ok=found[what] <= limit,
                found=f"{found[what]:.3f}",
            )
            for what, limit in (("MAE, mg/kg", MAE_LIMIT), ("negative log density per site", DENSITY_LIMIT))
        ]
        share = found["90 % coverage"]
        name = f"SLFM, three functions; {method}: coverage between 86 and 95 %"
        lines.append(verdict(name, ok=0.86 <= share <= 0.95, found=f"{100 * share:.0f} %"))
    return "\n".join([table(shown, digits=3), "", *lines])


if __name__ == "__main__":
    main("jura", "Jura: cadmium from nickel and zinc", run)
