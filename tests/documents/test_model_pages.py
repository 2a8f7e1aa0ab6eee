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
    "dirichlet_process_mtl": "landmine",
    "hierarchical_logistic": "landmine",
    "multi_task_relationship_learning": "school",
    "distributed_relationship_learning": "school",
    "semiparametric_latent_factors": "jura",
    "task_uncertainty_weighting": "jura",
}
BASELINES = {
    "task_uncertainty_weighting": ("pooled", "single-task", "equal weights", "maximised"),
    "dirichlet_process_mtl": ("pooled", "single-task", "hierarchical"),
    "hierarchical_logistic": ("pooled", "single-task", "base rate"),
    "semiparametric_latent_factors": ("single-task", "log-OLS"),
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
