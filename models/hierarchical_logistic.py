"""Hierarchical logistic regression: yes/no outcomes of many districts and many fields.

    W = 1 mu' + E,   e_t ~ N(0, Sigma),   y_i ~ Bernoulli(1 / (1 + exp(-x_i' w_t)))

Every task has a logistic regression of its own, drawn from a population whose mean mu and covariance Sigma
(diagonal or full) are learned. There is no closed form: the weights are integrated out by Laplace's method
given the hyperparameters, and the draws corrected by importance weights (`method="laplace"`).

Two data sets. Contraception: whether a woman of Bangladesh uses contraception, from where she lives, her age
and her children, by district; three quarters of every district's women train, the others are predicted; mean
negative log probability (natural logarithm, lower is better), beside the "base rate by district" (a
beta-binomial guess with a uniform prior). Landmine: 40 cells of every field train, protocol in `_common`.

Source: Wong and Mason (1985). The hierarchical logistic regression model for multilevel analysis. Journal of
the American Statistical Association 80, 513-524 (recalled, not checked).
Run: python models/hierarchical_logistic.py [--reduced]
"""

import numpy as np
import pandas as pd
from _common import Quoted, load, mean_area, reduced_asked, show_scores, some_cells, splits, task_data

import bayesmtl as bm

CELLS = 40
NUM_DRAWS = 100
SIZE = bm.HalfNormal()  # of the population's coefficients: learned
LITERATURE = (  # of more cells: their single-task level is that of 160 cells here
    Quoted("single-task", ".746", "published"),
    Quoted("relationship learning", ".761", "published"),
    Quoted("GO-MTL", ".767", "published"),
)
SHARINGS: dict[str, bm.sharing.Sharing] = {
    "hierarchical (this page)": bm.Hierarchical(mean_scale=SIZE),
    "hierarchical, full (this page)": bm.Hierarchical("full", mean_scale=SIZE),
    "pooled": bm.Pooled(mean_scale=SIZE),
    "single-task": bm.Independent(scale=bm.Fixed(2.0)),
}


def probability(
    sharing: bm.sharing.Sharing, train: bm.TaskData, test: bm.TaskData | pd.DataFrame, seed: int
) -> np.ndarray:
    """Chance of a yes for every row of the test, averaged over the posterior."""
    model = bm.LinearModel(sharing=sharing, likelihood=bm.Bernoulli())
    fit = model.fit(train, method="laplace", seed=seed, num_draws=NUM_DRAWS, progress=False)
    return fit.predict(test, kind="latent").mean


def log_loss(y: np.ndarray, p: np.ndarray) -> float:
    return float(-np.mean(np.log(np.where(y == 1, p, 1 - p))))


def base_rate(train: bm.TaskData, test: bm.TaskData) -> np.ndarray:
    """Share of yes in the task's training rows, with one yes and one no added."""
    yes = np.bincount(train.task, weights=train.y, minlength=train.num_tasks)
    return ((yes + 1) / (np.bincount(train.task, minlength=train.num_tasks) + 2))[test.task]


def contraception(*, reduced: bool) -> pd.DataFrame:
    """Log loss of every method on every split."""
    data = task_data(load("contraception"), reduced=reduced)
    rows = []
    for seed, (train, test) in enumerate(splits(data, reduced=reduced)):
        row = {"base rate by district": log_loss(test.y, base_rate(train, test))}
        for name, sharing in SHARINGS.items():
            p = probability(sharing, train, test, seed)
            row[name] = log_loss(test.y, p)
        rows.append(row)
    return pd.DataFrame(rows)


def landmine(*, reduced: bool) -> pd.DataFrame:
    """Mean area under the ROC curve of every method on every split."""
    frame, rows = load("landmine").frame, []
    if reduced:
        frame = frame[frame["field"].isin(["1", "16"])]
    features = [name for name in frame.columns if name.startswith("feature_")]
    for seed in range(1 if reduced else 3):
        train, test = some_cells(frame, CELLS, seed)
        data = bm.TaskData.from_frame(train, task="field", target="mine", features=features)
        rows.append(
            {
                name: mean_area(test, probability(sharing, data, test, seed))
                for name, sharing in SHARINGS.items()
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    reduced = reduced_asked(__doc__)
    losses = contraception(reduced=reduced)
    heading = f"Contraception, log loss, mean and sd over {len(losses)} split(s)"
    show_scores(heading, losses, reduced=reduced)
    areas = landmine(reduced=reduced)
    heading = f"Landmine, {CELLS} cells per field, mean AUC, mean and sd over {len(areas)} split(s)"
    show_scores(heading, areas, LITERATURE, reduced=reduced)


if __name__ == "__main__":
    main()
