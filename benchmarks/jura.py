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
MODELS = {
    "Independent": bm.MultitaskGP(sharing=bm.Independent(), likelihood=bm.Gaussian(noise="task")),
    "LowRank(1)": bm.MultitaskGP(sharing=bm.LowRank(rank=1), likelihood=bm.Gaussian(noise="task")),
    "LowRank(2)": bm.MultitaskGP(sharing=bm.LowRank(rank=2), likelihood=bm.Gaussian(noise="task")),
}
NUM_DRAWS = 4000
MAE_LIMIT = 0.420


def sites(reduced: bool) -> tuple[pd.DataFrame, np.ndarray]:
    """One row per site with log concentrations, and which sites are for validation."""
    frame = bm.datasets.load("jura").frame
    if reduced:
        frame = frame[frame["site"].astype(int) % 8 == 0]
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

    answers = {"log-OLS on Ni and Zn, no space": (*trivial(frame[~held_out], frame[held_out]), np.nan)}
    for name, model in MODELS.items():
        watch = Watch()
        with watch.running():
            fit = model.fit(data, method="empirical_bayes", seed=0, progress=False)
        prediction = fit.predict(target, num_draws=NUM_DRAWS, joint=False)
        answers[name] = (prediction.mean, prediction.sd, watch.cpu)
    errors = {name: np.abs(np.exp(mean) - np.exp(truth)) for name, (mean, _, _) in answers.items()}
    reference = errors["log-OLS on Ni and Zn, no space"]
    rows = {}
    for name, (mean, sd, seconds) in answers.items():
        gap = errors[name] - reference
        rows[name] = {
            "MAE, mg/kg": errors[name].mean(),
            "minus log-OLS": gap.mean(),
            "its standard error": gap.std(ddof=1) / np.sqrt(len(gap)),
            "negative log density per site": density(truth, mean, sd).mean(),
            "90 % coverage": float((np.abs(truth - mean) < 1.645 * sd).mean()),
            "fit, CPU s": seconds,
        }
    shown = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model, empirical Bayes")
    best = errors["LowRank(1)"].mean()
    lines = [
        verdict(f"LowRank(1): MAE at most {MAE_LIMIT}", ok=best <= MAE_LIMIT, found=f"{best:.3f}"),
        verdict(
            "LowRank(1) better than Independent",
            ok=best < errors["Independent"].mean(),
            found=f"{errors['Independent'].mean():.3f} alone",
        ),
    ]
    return "\n".join([table(shown, digits=3), "", *lines])


if __name__ == "__main__":
    main("jura", "Jura: cadmium from nickel and zinc", run)
