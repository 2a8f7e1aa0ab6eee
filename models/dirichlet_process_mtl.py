"""Multi-task classification with Dirichlet process priors (Xue, Liao, Carin and Krishnapuram, 2007).

    W = 1 mu' + A B (+ E),   A one-hot, its partition a Chinese restaurant process,   E = none or N(0, Sigma)

Tasks of a cluster share one logistic regression; the number of clusters is left open. The paper
approximates the posterior by mean-field variational inference with truncated sticks and a bound of the
logistic function; here the partition is sampled with all weights integrated out given Polya-Gamma
variables, and nothing is truncated. `within="diagonal"` lets the tasks of a cluster differ, which the paper
does not. What is said of the paper is recalled, not checked.

The paper's numbers for these fields are in a figure only. Protocol as there, but all 29 fields: so many
cells of every field for training, at least one of each kind, the rest for testing; mean over fields of the
area under the ROC curve.

Source: Xue, Liao, Carin and Krishnapuram (2007). Multi-task learning for classification with Dirichlet
process priors. JMLR 8, 35-63.
Run: python models/dirichlet_process_mtl.py [--reduced]
"""

import pandas as pd
from _common import load, mean_area, reduced_asked, show_scores, some_cells

import bayesmtl as bm

CELLS = 40
NUM_SPLITS = 3
SIZE = bm.HalfNormal()  # of the population's coefficients: learned
METHODS = {
    "DP, tasks of a cluster differ (this page)": bm.DirichletProcess(mean_scale=SIZE),
    "DP, tasks of a cluster alike (this page)": bm.DirichletProcess(within="none", mean_scale=SIZE),
    "hierarchical": bm.Hierarchical(mean_scale=SIZE),
    "pooled": bm.Pooled(mean_scale=SIZE),
    "single-task": bm.Independent(),
}


def score(sharing: bm.sharing.Sharing, seed: int, frame: pd.DataFrame, *, reduced: bool) -> float:
    train, test = some_cells(frame, CELLS, seed)
    features = [name for name in frame.columns if name.startswith("feature_")]
    data = bm.TaskData.from_frame(train, task="field", target="mine", features=features)
    number = 10 if reduced else 100
    engine = {"method": "gibbs", "num_chains": 4, "num_warmup": number} if sharing.has_partition else {}
    fit = bm.LinearModel(sharing, bm.Bernoulli()).fit(
        data, **{"method": "laplace", **engine}, seed=seed, num_draws=number, progress=False
    )
    return mean_area(test, fit.predict(test, kind="latent").mean)


def main() -> None:
    reduced = reduced_asked(__doc__)
    frame = load("landmine").frame
    if reduced:
        frame = frame[frame["field"].isin(["1", "16"])]
    num_splits = 1 if reduced else NUM_SPLITS
    scores = {
        name: [score(sharing, seed, frame, reduced=reduced) for seed in range(num_splits)]
        for name, sharing in METHODS.items()
    }
    heading = (
        f"Landmine, {CELLS} cells per field, mean AUC over fields, mean and sd over {num_splits} split(s)"
    )
    show_scores(heading, scores, reduced=reduced)


if __name__ == "__main__":
    main()
