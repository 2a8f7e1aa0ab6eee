"""School, prediction: ten random splits, every method on the same ones.

75 % of every school's pupils train, 25 % test; explained variance is 100 (1 - SSE / SST) pooled over
schools. Columns as in the literature: one per level (but vr_band 0), 27 and the intercept. The peer to beat
is a ridge regression on [x; x in the task's own block] whose two penalties are chosen by cross-validation on
the training rows, then refitted on all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

import bayesmtl as bm
from bayesmtl.algebra.statistics import TaskStatistics
from benchmarks.common import Options, main, school, table, verdict
from models._common import explained_variance, random_intercept

NUM_SPLITS = 10
NUM_FOLDS = 5
SHARED_PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
OWN_PENALTIES = (10.0, 30.0, 60.0, 100.0, 150.0, 200.0, 300.0, 500.0, 1000.0, 3000.0)

Learn = Callable[[bm.TaskData], Callable[[bm.TaskData], "Answer"]]


class Answer:
    """Predictions of test rows: means, and a 90 % interval where the method has one."""

    def __init__(self, mean: np.ndarray, interval: tuple[np.ndarray, np.ndarray] | None = None):
        self.mean, self.interval = mean, interval


def ours(sharing: bm.sharing.Sharing, method: str, reduced: bool) -> Learn:
    """A linear model of ours; 1,000 draws under empirical Bayes, 2,000 of the full posterior."""
    length = {"num_draws": 10, "num_warmup": 10} if reduced else {}
    if method == "empirical_bayes" and not reduced:
        length = {"num_draws": 250}

    def learn(train: bm.TaskData) -> Callable[[bm.TaskData], Answer]:
        model = bm.LinearModel(sharing=sharing, likelihood=bm.Gaussian())
        fit = model.fit(train, method=method, seed=0, progress=False, **length)

        def predict(test: bm.TaskData) -> Answer:
            prediction = fit.predict(test, num_draws=2000)
            return Answer(prediction.mean, prediction.interval(0.9))

        return predict

    return learn


def shared_plus_own(train: TaskStatistics, shared: float, own: float) -> np.ndarray:
    """Weights (T, D) that minimise sum ||y_t - X_t (w + v_t)||^2 + shared ||w||^2 + own sum ||v_t||^2.

    w's intercept is not penalised. The v_t are eliminated task by task.
    """
    D = train.gram.shape[1]
    penalty = np.full(D, shared)
    penalty[0] = 0.0
    G, b = train.gram, train.cross
    filtered = own * np.linalg.inv(G + own * np.eye(D))  # I - G (G + own I)^-1
    w = np.linalg.solve((filtered @ G).sum(0) + np.diag(penalty), np.einsum("tij,tj->i", filtered, b))
    v = np.linalg.solve(G + own * np.eye(D), (b - G @ w)[..., None])[..., 0]
    return w + v


def ridge(train: bm.TaskData) -> Callable[[bm.TaskData], Answer]:
    """The cross-validated shared-plus-own ridge."""
    standardization = train.standardization()
    X = standardization.standardize_features(train.X)
    y = standardization.standardize_target(train.y, train.task)
    fold = np.random.default_rng(0).integers(NUM_FOLDS, size=len(y))
    parts = [
        TaskStatistics.from_rows(X[fold == k], y[fold == k], train.task[fold == k], train.num_tasks)
        for k in range(NUM_FOLDS)
    ]
    errors = {}
    for shared in SHARED_PENALTIES:
        for own in OWN_PENALTIES:
            error = 0.0
            for k in range(NUM_FOLDS):
                rest = [part for j, part in enumerate(parts) if j != k]
                W = shared_plus_own(sum(rest[1:], rest[0]), shared, own)
                held = fold == k
                error += float(np.sum((y[held] - (X[held] * W[train.task[held]]).sum(1)) ** 2))
            errors[shared, own] = error
    W = shared_plus_own(sum(parts[1:], parts[0]), *min(errors, key=errors.__getitem__))

    def predict(test: bm.TaskData) -> Answer:
        mean = (standardization.standardize_features(test.X) * W[test.task]).sum(1)
        return Answer(standardization.unstandardize_target(mean, test.task))

    return predict


def intercepts(train: bm.TaskData) -> Callable[[bm.TaskData], Answer]:
    """Common slopes, a level per school."""
    predict = random_intercept(train)
    return lambda test: Answer(predict(test))


RIDGE, POOLED, LEVELS = "shared-plus-own ridge, cross-validated", "pooled", "random intercept (REML)"
HEADLINE = "hierarchical, diagonal, exact"


def methods(reduced: bool) -> dict[str, Learn]:
    """Every row of the table."""
    eb = "empirical_bayes"
    found = {
        HEADLINE: ours(bm.Hierarchical(), "exact", reduced),
        "hierarchical, diagonal, empirical Bayes": ours(bm.Hierarchical(), eb, reduced),
        "hierarchical, isotropic, empirical Bayes": ours(bm.Hierarchical("isotropic"), eb, reduced),
        "hierarchical, full, empirical Bayes": ours(bm.Hierarchical("full"), eb, reduced),
        "low rank (2), empirical Bayes": ours(bm.LowRank(2), eb, reduced),
        RIDGE: ridge,
        LEVELS: intercepts,
        POOLED: ours(bm.Pooled(), "exact", reduced),
        "single-task": ours(bm.Independent(), eb, reduced),
    }
    if reduced:
        for name in ("low rank (2), empirical Bayes", "hierarchical, full, empirical Bayes"):
            del found[name]
    return found


def mean_of_schools(y: np.ndarray, mean: np.ndarray, task: np.ndarray) -> float:
    """The explained variance of each school around its own mean, averaged over schools, in per cent."""
    frame = pd.DataFrame({"task": task, "error": (y - mean) ** 2, "y": y})
    groups = frame.groupby("task")
    total = groups["y"].var(ddof=0) * groups.size()
    return float(100 * (1 - groups["error"].sum() / total)[total > 0].mean())


def within_schools(y: np.ndarray, mean: np.ndarray, task: np.ndarray) -> float:
    """1 - mean squared error / mean within-school variance, in per cent."""
    within = pd.Series(y).groupby(task).var(ddof=0).mean()
    error = pd.Series((y - mean) ** 2).groupby(task).mean().mean()
    return float(100 * (1 - error / within))


def measure(data: bm.TaskData, options: Options) -> pd.DataFrame:
    """One row per split and method."""
    rows = []
    for seed in range(1 if options.reduced else NUM_SPLITS):
        train, test = data.split(test=0.25, seed=seed)
        for name, learn in methods(options.reduced).items():
            answer = learn(train)(test)
            covered = width = float("nan")
            if answer.interval is not None:
                lower, upper = answer.interval
                covered = 100 * float(np.mean((lower <= test.y) & (test.y <= upper)))
                width = float(np.mean(upper - lower))
            rows.append(
                {
                    "method": name,
                    "split": seed,
                    "pooled": explained_variance(test.y, answer.mean),
                    "mean of schools": mean_of_schools(test.y, answer.mean, test.task),
                    "within schools": within_schools(test.y, answer.mean, test.task),
                    "RMSE": float(np.sqrt(np.mean((test.y - answer.mean) ** 2))),
                    "coverage": covered,
                    "width": width,
                }
            )
    return pd.DataFrame(rows)


def summarise(measured: pd.DataFrame) -> str:
    """The table of methods, the paired differences and the requirements."""
    scores = measured.pivot(index="split", columns="method", values="pooled")
    order = list(dict.fromkeys(measured["method"]))
    means = measured.groupby("method").mean().loc[order]
    sd = scores.std(ddof=1)

    def paired(name: str, other: str) -> tuple[float, float]:
        difference = scores[name] - scores[other]
        return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))

    shown = pd.DataFrame(
        {
            "explained variance, %": [f"{means.loc[m, 'pooled']:.2f} +- {sd[m]:.2f}" for m in order],
            "minus ridge": ["{:+.2f} ({:.2f})".format(*paired(m, RIDGE)) for m in order],
            "minus random intercept": ["{:+.2f} ({:.2f})".format(*paired(m, LEVELS)) for m in order],
            "minus pooled": ["{:+.2f} ({:.2f})".format(*paired(m, POOLED)) for m in order],
            "mean of schools, %": means["mean of schools"].map("{:.2f}".format).to_list(),
            "within schools, %": means["within schools"].map("{:.2f}".format).to_list(),
            "RMSE": means["RMSE"].map("{:.3f}".format).to_list(),
            "90 % intervals cover, %": [f"{v:.1f}" if v == v else "-" for v in means["coverage"]],
            "their width": [f"{v:.1f}" if v == v else "-" for v in means["width"]],
        },
        index=pd.Index(order, name="method"),
    )
    lines = [
        table(shown),
        "",
        f"{len(scores)} splits; mean +- sd over them. Differences are paired, with their standard error in "
        "brackets. All methods have the same columns.",
        "",
    ]
    for bar, other in ((0.0, RIDGE), (0.3, LEVELS), (3.0, POOLED)):
        mean, error = paired(HEADLINE, other)
        lines.append(
            verdict(
                f"{HEADLINE}: at least {bar:+.1f} points against {other}",
                ok=mean >= bar,
                found=f"{mean:+.3f}, standard error {error:.3f}",
            )
        )
    cover = float(means.loc[HEADLINE, "coverage"])
    lines.append(
        verdict(f"{HEADLINE}: 90 % intervals cover 88 to 92 %", ok=88 <= cover <= 92, found=f"{cover:.2f} %")
    )
    return "\n".join(lines)


def run(options: Options) -> str:
    data = school("every level")
    if options.reduced:
        data = data.select_tasks(data.task_names[:10])
    return summarise(measure(data, options))


if __name__ == "__main__":
    main("school_prediction", "School: prediction", run)
