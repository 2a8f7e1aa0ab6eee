"""Separation is named where it is, and nowhere else."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import linprog

import bayesmtl as bm
from bayesmtl.diagnostics import class_separation_notes, separation_notes
from bayesmtl.diagnostics.separation import _separated


def by_loops(X, yes, no, task, T):
    """The slow twin: try every threshold of every feature, in both directions."""
    found = np.zeros((T, X.shape[1]), dtype=bool)
    for t in range(T):
        own = task == t
        for j in range(X.shape[1]):
            x, y, n = X[own, j], yes[own], no[own]
            if not own.any():
                continue
            if not (y.any() and n.any()):
                found[t, j] = True
            elif x.min() < x.max():
                up = any((x[y] >= cut).all() and (x[n] <= cut).all() for cut in x)
                down = any((x[y] <= cut).all() and (x[n] >= cut).all() for cut in x)
                found[t, j] = up or down
    return found


@pytest.mark.parametrize("seed", range(20))
def test_the_fast_way_is_the_slow_one(seed):
    rng = np.random.default_rng(seed)
    n, T = 40, 12
    X = np.column_stack([np.ones(n), rng.normal(size=n), rng.integers(3, size=n)])
    trials = rng.integers(1, 3, size=n)
    y, task = rng.binomial(trials, 0.4), rng.integers(T, size=n)
    arguments = X, y > 0, y < trials, task, T
    np.testing.assert_array_equal(_separated(*arguments), by_loops(*arguments))


def test_what_is_said():
    x = np.linspace(-1, 1, 12)
    X, task = np.column_stack([np.ones(12), x, x**2]), np.repeat([0, 1, 2], 4)
    names = ["a", "b", "c"], ["Intercept", "dose", "square"]

    def notes(y):
        return separation_notes(X, y > 0, y < 1, task, *names)

    assert notes((x > 0).astype(float))[0].startswith("'dose' separates yes from no over all rows")
    assert (
        notes(np.ones(12)) == [notes(np.zeros(12))[0]] and "All outcomes are alike" in notes(np.ones(12))[0]
    )
    mixed = np.array([0, 1, 0, 1, 1, 0, 0, 1, 1, 1, 1, 1.0])
    (note,) = notes(mixed)
    assert "In 2 of 3 tasks ('b', 'c')" in note  # in b the square of the dose tells


def endless(x, below, above) -> bool:
    """Whether an intercept and a weight exist that no row minds to grow without end: a linear programme.

    a + b x_i is to be at least 0 where `below`, at most 0 where `above`, and their sum as large as can be.
    """
    rows = np.column_stack([np.ones(len(x)), x])
    signs = np.concatenate([rows[below], -rows[above]])
    found = linprog(-signs.sum(0), A_ub=-signs, b_ub=np.zeros(len(signs)), bounds=[(-1, 1)] * 2)
    return bool(-found.fun > 1e-9)


@pytest.mark.parametrize(
    "likelihood", [bm.Bernoulli(), bm.Binomial(3), bm.Poisson(), bm.StudentT()], ids=repr
)
def test_one_feature_separates_where_the_likelihood_has_no_maximum(likelihood):
    """Sixty small tasks of each kind; among them are ones with and without."""
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(60):
        x = rng.integers(3, size=5).astype(float)
        x[-1] = 3.0  # which is the largest: a feature that is the same in all rows has no weight to speak of
        y = np.minimum(rng.poisson(0.7, size=5), 1 if likelihood == bm.Bernoulli() else 3).astype(float)
        below, above = likelihood.bounds(y, np.zeros(5, dtype=int), None)
        X = np.column_stack([np.ones(5), x])
        found = bool(_separated(X, below, above, np.zeros(5, dtype=int), 1).any())
        assert found == endless(x, below, above), (x, y)
        verdicts.append(found)
    assert 0 < sum(verdicts) < 60 if likelihood != bm.StudentT() else not any(verdicts)


def test_classes_each_against_the_others():
    x = np.array([0.0, 1, 2, 3, 4, 5, 0, 2, 1, 5, 3, 4])
    y = np.array([0, 0, 1, 2, 1, 2, 0, 1, 1, 2, 1, 1])
    X, task = np.column_stack([np.ones(12), x]), np.repeat([0, 1], 6)

    def notes(y, classes="pqrs"):
        return class_separation_notes(X, y, classes, task, ["a", "b"], ["Intercept", "dose"])

    absent, first, both = notes(y)
    assert absent.startswith("No row is in 's': how unlikely")
    assert first.startswith("'dose' separates 'p' from the other classes over all rows")
    assert both.startswith("In 2 of 2 tasks ('a', 'b') a class has no rows or one feature separates it")
    mixed = np.array([0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0])
    assert notes(mixed, "pq") == []
    assert notes(np.where(task == 0, mixed, 0), "pq")[0].startswith("In 1 of 2 tasks ('b')")
    assert notes(np.zeros(12), "pq")[0].startswith("All outcomes are alike")
    assert len(notes((x > 2).astype(int), "pq")) == 2  # not once for each of two classes


KINDS = {
    "none": bm.Bernoulli("probit"),
    "b": bm.Poisson(),
    "c": bm.Gaussian(),
}
REPORTS = {
    "probit": (bm.Bernoulli("probit"), "separates yes from no"),
    "binomial": (bm.Binomial(2), "separates yes from no"),
    "counts": (bm.Poisson(), "separates zeros from other counts"),
    "overdispersed counts": (bm.NegativeBinomial(), "separates zeros from other counts"),
    "each its own": (KINDS, "separates outcomes"),
    "classes": (bm.Categorical(), "a class has no rows"),
    "heavy tails": (bm.StudentT(), None),
}


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_the_check_reports_it(name):
    """Answers are finite, and the one task whose outcomes are all alike is named."""
    likelihood, words = REPORTS[name]
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=30), rng.integers(2, size=30).astype(float)
    y[:10] = 0.0
    y[5] = np.nan
    data = bm.TaskData.from_arrays(x[:, None], y, np.repeat(["none", "b", "c"], 10))
    model = bm.LinearModel(likelihood=likelihood)
    fit = model.fit(data, method="laplace", seed=0, num_draws=20, progress=False)
    assert np.isfinite(fit.posterior["weights"]).all()
    told = [note for note in fit.check().notes if "In 1 of 3 tasks ('none')" in note]
    assert len(told) == (words is not None) and all(words in note for note in told)


@pytest.mark.parametrize(
    "likelihood, trials", [(bm.Bernoulli(), None), (bm.Binomial(), "trials"), (bm.Poisson(), None)], ids=repr
)
def test_sums_of_files_tell_which_tasks_have_outcomes_that_are_all_alike(likelihood, trials, tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"lab": np.repeat(["zeros", "ones", "c"], 20), "x": rng.normal(size=60)})
    frame["trials"] = rng.integers(1, 3, size=60)
    frame["y"] = rng.integers(2, size=60).clip(max=frame["trials"])
    frame.loc[frame["lab"] == "zeros", "y"] = 0
    frame.loc[frame["lab"] == "ones", "y"] = frame["trials"] if trials else 1
    frame.to_parquet(tmp_path / "rows.parquet")
    columns = {"task": "lab", "target": "y", "features": ["x"], "trials": trials}
    data = bm.TaskData.from_parquet(tmp_path, **columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bm.errors.ConvergenceWarning)
        fit = bm.LinearModel(likelihood=likelihood).fit(data, seed=0, num_warmup=10, progress=False)
    assert np.isfinite(fit.posterior["weights"]).all()
    told = "In 1 of 3 tasks ('zeros')" if likelihood.is_rate else "In 2 of 3 tasks ('ones', 'zeros')"
    assert sum(told in note for note in fit.check().notes) == 1
