"""Every page of `models/` runs as its docstring says, and the baselines they share are right."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bayesmtl as bm
from models._common import explained_variance, random_intercept

ROOT = Path(__file__).resolve().parents[2]
DATA_OF = {
    "single_task": "school",
    "pooled": "school",
    "regularised_mtl": "school",
    "learning_to_learn": "school",
    "hierarchical_full": "exam",
    "task_clustering": "school",
    "clustered_mtl": "school",
    "shared_hypotheses": "school",
    "with_whom_to_share": "school",
    "transfer_matrix_clustering": "school",
    "dirichlet_process_mtl": "landmine",
    "hierarchical_logistic": "landmine",
    "multi_task_relationship_learning": "school",
    "graph_regularised_mtl": "school",
    "distributed_relationship_learning": "school",
    "semiparametric_latent_factors": "jura",
    "multitask_gp": "school",
    "informative_vector_machine": "jura",
    "task_uncertainty_weighting": "jura",
    "hard_sharing": "sarcos",
    "soft_sharing": "sarcos",
    "multi_task_bayesian_network": "school",
}
BASELINES = {
    "hard_sharing": ("pooled", "single-task", "separate networks"),
    "soft_sharing": ("pooled", "single-task", "hard sharing"),
    "task_uncertainty_weighting": ("pooled", "single-task", "equal weights", "maximised"),
    "dirichlet_process_mtl": ("pooled", "single-task", "hierarchical"),
    "hierarchical_logistic": ("pooled", "single-task", "base rate"),
    "semiparametric_latent_factors": ("single-task", "log-OLS"),
    "multitask_gp": ("pooled", "single-task", "random intercept", "no transfer", "likelihood alone"),
    "informative_vector_machine": ("at random", "all rows", "mean of each metal"),
}


def skip_without(*names: str) -> None:
    present = bm.datasets.available()["present"]
    absent = [name for name in names if not present[name]]
    if absent:
        pytest.skip(f"the data set {absent[0]} is not on this machine")


def test_every_page_is_listed_here():
    assert {page.stem for page in (ROOT / "models").glob("[!_]*.py")} == set(DATA_OF)


def test_page_runs_in_a_process_of_its_own():
    skip_without(DATA_OF["single_task"])
    done = subprocess.run(
        [sys.executable, "models/single_task.py", "--reduced"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "this page" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", DATA_OF)
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_page_runs(name, monkeypatch, capsys):
    skip_without(DATA_OF[name])
    # in this process: importing torch takes as long as most pages
    monkeypatch.syspath_prepend(ROOT / "models")
    monkeypatch.setattr(sys, "argv", [f"models/{name}.py", "--reduced"])
    runpy.run_path(str(ROOT / "models" / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "this page" in printed
    for baseline in BASELINES.get(name, ("pooled", "single-task", "random intercept")):
        assert baseline in printed


@pytest.mark.parametrize("name", DATA_OF)
def test_page_states_equation_source_and_command(name):
    source = (ROOT / "models" / f"{name}.py").read_text(encoding="utf-8")
    docstring = source.split('"""')[1]
    assert "W = " in docstring and "Source: " in docstring
    assert f"python models/{name}.py" in docstring
    assert any(f"bm.{prior}(" in source for prior in bm.sharing.REGISTRY)


def test_explained_variance_is_pooled():
    y = np.array([1.0, 2.0, 3.0, 6.0])
    assert explained_variance(y, y) == 100
    assert explained_variance(y, np.full(4, 3.0)) == 0


def test_transfer_matrix_is_the_predictive_density_under_another_task(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "models")
    transfer_matrix = runpy.run_path(str(ROOT / "models" / "transfer_matrix_clustering.py"))[
        "transfer_matrix"
    ]
    rng = np.random.default_rng(1)
    task = np.repeat(["a", "b", "c"], [30, 20, 400])
    x = rng.normal(3.0, 2.0, size=len(task))
    slope = {"a": 1.0, "b": 1.0, "c": -2.0}
    y = 5 + np.array([slope[name] for name in task]) * x + 0.5 * rng.normal(size=len(task))
    train, test = bm.TaskData.from_arrays(x[:, None], y, task).split(test=0.25, seed=0)
    matrix = transfer_matrix(train, test)
    # row by row, through the public verb: rows of `a` handed to every task
    fit = bm.LinearModel(bm.Independent(), bm.Gaussian()).fit(
        train, method="empirical_bayes", seed=0, num_draws=100, progress=False
    )
    rows = test.task == 0
    sd = fit.posterior["noise"].to_numpy().reshape(-1, 1)
    x_a = test.X[rows, 1]  # behind the intercept
    for u, name in enumerate("abc"):
        latent = fit.predict((x_a[:, None], np.full(rows.sum(), name)), kind="latent").draws.to_numpy()
        density = np.exp(-0.5 * ((test.y[rows] - latent) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))
        np.testing.assert_allclose(matrix[0, u], np.log(density.mean(0)).mean(), rtol=1e-8)
    # who has the same slope predicts, who has the opposite one does not
    assert matrix[0, 1] > matrix[0, 2] + 5


def test_random_intercept_agrees_with_statsmodels():
    mixed = pytest.importorskip("statsmodels.regression.mixed_linear_model")
    rng = np.random.default_rng(0)
    task = np.repeat(np.arange(30), rng.integers(5, 30, size=30))
    x = rng.normal(size=len(task))
    y = 1 + 0.5 * x + rng.normal(size=30)[task] + rng.normal(size=len(task))
    # a column that says nothing new must not matter
    data = bm.TaskData.from_arrays(np.column_stack([x, 1 - 2 * x]), y, task)
    result = mixed.MixedLM(y, data.X[:, :2], groups=task).fit(reml=True)
    levels = np.array([result.random_effects[t].iloc[0] for t in range(30)])
    expected = data.X[:, :2] @ result.fe_params + levels[task]
    # MixedLM stops at a gradient of 1e-5; ours searches the variance ratio to 1e-5 of its logarithm
    np.testing.assert_allclose(random_intercept(data)(data), expected, atol=1e-3)
