"""What the pages share: the School and Landmine protocols, trivial baselines, a table beside the literature.

Protocol (Bakker and Heskes, 2003): random splits, 75 % of every school's pupils for training and 25 % for
testing, and the explained variance pooled over schools, 100 (1 - SSE / SST) around the grand mean of the test
pupils. Levels move by about a point with the draw of splits, so methods are compared on the same ones.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.stats import rankdata

import bayesmtl as bm

Predict = Callable[[bm.TaskData], np.ndarray]
Method = Callable[[bm.TaskData], Predict]
"""A method learns from training rows and returns what predicts the targets of others."""

NUM_SPLITS = 10
DRAWS_PER_CHAIN = 100  # enough for a posterior mean: its Monte Carlo error is a tenth of the posterior's sd


@dataclass(frozen=True)
class Quoted:
    """A number of the literature.

    Args:
        source: Who, when, which variant.
        value: The number as text, with its spread where given.
        provenance: "published" (read in a public text) or "recalled, not checked".
    """

    source: str
    value: str
    provenance: str


SCHOOL_LITERATURE = {
    "rmtl": Quoted("Evgeniou & Pontil 2004, C = .1, mu = .5", "34.30 +- .3", "published"),
    "rmtl_alone": Quoted("Evgeniou & Pontil 2004, C = .1, mu = 1000", "11.92 +- .5", "published"),
    "clustering": Quoted("Bakker & Heskes 2003, task clustering", "29.5 +- .4", "published"),
    "gp_alone": Quoted("Bonilla et al. 2007, no transfer", "21.1", "published"),
    "gp": Quoted("Bonilla et al. 2007, rank-2 task covariance", "29.2", "published"),
    "mtfl": Quoted("Argyriou et al. 2008, linear", "37.1 +- 1.5", "recalled, not checked"),
}


def reduced_asked(description: str | None) -> bool:
    """Whether the page was started with --reduced: little data, to see that it runs."""
    lines = (description or "").splitlines()
    parser = argparse.ArgumentParser(description=lines[0] if lines else None)
    parser.add_argument("--reduced", action="store_true", help="little data, to see that the page runs")
    return bool(parser.parse_args().reduced)


def load(name: str) -> bm.datasets.DataSet:
    """A data set, or the end of the page with the reason."""
    try:
        return bm.datasets.load(name)
    except (bm.errors.MissingDataSetError, bm.errors.MissingDependencyError) as error:
        sys.exit(f"This page needs the data set {name!r}. {error}")


def task_data(
    dataset: bm.datasets.DataSet,
    *,
    reduced: bool,
    features: Sequence[str] = (),
    descriptors: pd.DataFrame | None = None,
) -> bm.TaskData:
    """Its default features (or those named) as TaskData; reduced, its first six tasks and four features."""
    features = list(features or dataset.features)
    data = bm.TaskData.from_frame(
        dataset.frame,
        task=dataset.task,
        target=dataset.target,
        features=features[:4] if reduced else features,
        descriptors=descriptors,
    )
    return data.select_tasks(data.task_names[:6]) if reduced else data


def splits(
    data: bm.TaskData, *, reduced: bool, num_splits: int = NUM_SPLITS
) -> Iterator[tuple[bm.TaskData, bm.TaskData]]:
    """Random splits, 75 % of every task's rows for training; reduced, one."""
    for seed in range(1 if reduced else num_splits):
        yield data.split(test=0.25, seed=seed)


def explained_variance(y: np.ndarray, predicted: np.ndarray) -> float:
    """100 (1 - SSE / SST), pooled over tasks, in per cent."""
    return float(100 * (1 - np.sum((y - predicted) ** 2) / np.sum((y - y.mean()) ** 2)))


def some_cells(frame: pd.DataFrame, cells: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training cells and the others; the first of each kind of every field is among the former."""
    shuffled = frame.sample(frac=1.0, random_state=seed)
    first = ~shuffled.duplicated(["field", "mine"])
    order = shuffled.assign(first=first).sort_values("first", ascending=False, kind="stable")
    train = order.groupby("field").cumcount() < cells
    return order[train].drop(columns="first"), order[~train].drop(columns="first")


def area(yes: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve; NaN where all outcomes are alike."""
    number = int(yes.sum())
    if number in (0, len(yes)):
        return np.nan
    return float((rankdata(score)[yes].sum() - number * (number + 1) / 2) / (number * (len(yes) - number)))


def mean_area(test: pd.DataFrame, score: np.ndarray) -> float:
    """Mean over fields of the area under the ROC curve; fields whose cells are all alike have none."""
    yes = test["mine"].to_numpy() == 1
    fields = test.reset_index(drop=True).groupby("field").indices.values()
    return float(np.nanmean([area(yes[rows], score[rows]) for rows in fields]))


def empirical_bayes(sharing: bm.sharing.Sharing) -> Method:
    """A linear model under a sharing prior, its hyperparameters at their posterior mode (which is fast)."""

    def learn(train: bm.TaskData) -> Predict:
        model = bm.LinearModel(sharing=sharing, likelihood=bm.Gaussian())
        fit = model.fit(train, method="empirical_bayes", seed=0, num_draws=DRAWS_PER_CHAIN, progress=False)
        return lambda test: fit.predict(test).mean

    return learn


def gibbs(sharing: bm.sharing.Sharing, *, reduced: bool) -> Method:
    """A linear model under a prior with partitions of the tasks, sampled for long enough for predictions."""
    number = 10 if reduced else 80

    def learn(train: bm.TaskData) -> Predict:
        model = bm.LinearModel(sharing=sharing, likelihood=bm.Gaussian())
        fit = model.fit(
            train, method="gibbs", seed=0, num_chains=2, num_warmup=number, num_draws=number, progress=False
        )
        return lambda test: fit.predict(test).mean

    return learn


def random_intercept(train: bm.TaskData) -> Predict:
    """Common slopes and a shrunken level per task, y = X b + u_t + e, by REML in closed form.

    Given the ratio of Var(u) to Var(e) everything is least squares; the ratio is found by a search on a line.
    """
    X, y, task, T = train.X, train.y, train.task, train.num_tasks
    # one-hot columns of every level are dependent: work in an orthonormal basis of what X spans
    _, size, rotation = np.linalg.svd(X, full_matrices=False)
    kept = size > 1e-10 * size[0]
    to_basis = (rotation[kept] / size[kept, None]).T
    Z = X @ to_basis
    n, p = Z.shape
    count = np.bincount(task, minlength=T)
    sums = np.stack([np.bincount(task, weights=column, minlength=T) for column in Z.T], axis=1)
    y_sums = np.bincount(task, weights=y, minlength=T)

    def solve(log_ratio: float) -> tuple[float, np.ndarray, np.ndarray]:
        ratio = np.exp(log_ratio)
        shrink = ratio / (1 + count * ratio)
        gram = np.eye(p) - (sums * shrink[:, None]).T @ sums
        cross = Z.T @ y - sums.T @ (shrink * y_sums)
        b = np.linalg.solve(gram, cross)
        square = y @ y - np.sum(shrink * y_sums**2) - b @ cross
        log_det = np.log1p(count * ratio).sum() + np.linalg.slogdet(gram)[1]
        return (n - p) * np.log(square) + log_det, b, shrink * (y_sums - sums @ b)

    best = minimize_scalar(lambda x: solve(x)[0], bounds=(-15.0, 5.0), method="bounded")
    _, b, u = solve(float(best.x))
    return lambda test: test.X @ to_basis @ b + u[test.task]


BASELINES: dict[str, Method] = {
    "pooled": empirical_bayes(bm.Pooled()),
    "single-task": empirical_bayes(bm.Independent()),
    "random intercept": random_intercept,
}


def compare(
    data: bm.TaskData, methods: Mapping[str, Method], *, reduced: bool, num_splits: int = NUM_SPLITS
) -> pd.DataFrame:
    """Explained variance of every method on every split: one row per split."""
    rows = []
    for train, test in splits(data, reduced=reduced, num_splits=num_splits):
        rows.append({name: explained_variance(test.y, learn(train)(test)) for name, learn in methods.items()})
    return pd.DataFrame(rows)


def show(scores: pd.DataFrame, literature: Sequence[Quoted] = (), *, what: str, reduced: bool) -> None:
    """Print explained variances, ours above the literature's."""
    heading = f"Explained variance of {what}, %, mean and sd over {len(scores)} split(s)"
    show_scores(heading, scores, literature, decimals=1, reduced=reduced)


def show_scores(
    heading: str,
    scores: Mapping[str, Sequence[float]] | pd.DataFrame,
    literature: Sequence[Quoted] = (),
    *,
    decimals: int = 3,
    reduced: bool,
) -> None:
    """Print the mean of every method's scores and, of several, their sd; the literature's below."""
    print(f"\n{heading}")
    if reduced:
        print("(reduced data: these numbers only show that the page runs)")
    for name, values in scores.items():
        spread = f" +- {np.std(values, ddof=1):.{decimals}f}" if len(values) > 1 else ""
        print(f"  {name!s:<44} {np.mean(values):5.{decimals}f}{spread}")
    if literature:
        print("Literature, on splits of its own")
    for quoted in literature:
        print(f"  {quoted.source:<44} {quoted.value}  ({quoted.provenance})")


warnings.filterwarnings("ignore", category=bm.errors.ConvergenceWarning)  # pages print what matters
