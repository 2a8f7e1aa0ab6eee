"""What an engine holds fixed has no interval and no probability, and results say why."""

import numpy as np
import pytest

import bayesmtl as bm

SETTINGS = {"seed": 0, "num_chains": 2, "num_draws": 60, "progress": False}
KNOWN = 'held fixed by method="empirical_bayes"'


def rows(num_each: int = 7) -> bm.TaskData:
    rng = np.random.default_rng(0)
    task = np.repeat(["a", "b", "c"], num_each)
    x = rng.uniform(-2, 2, len(task))
    return bm.TaskData.from_arrays(x[:, None], np.sin(x) + 0.3 * rng.normal(size=len(task)), task)


@pytest.fixture(scope="module", params=["functions", "weights"])
def model(request):
    functions = request.param == "functions"
    return bm.MultitaskGP(sharing=bm.LowRank(rank=1)) if functions else bm.LinearModel(bm.TaskCovariance())


def test_similarity_at_a_point_has_no_interval(model):
    held = model.fit(rows(), method="empirical_bayes", **SETTINGS).task_similarity(kind="structure")
    pairs = held.to_frame()
    assert np.isfinite(pairs["mean"]).all()
    assert pairs[["lower", "upper", "probability_positive"]].isna().all(axis=None)
    assert np.isnan(held.probability("<0").sel(task="a", task_other="b"))
    assert KNOWN in repr(held) and KNOWN in held._repr_html_()
    assert held.probability(">0").sel(task="a", task_other="a") == 1  # with itself
    bm.plots.similarity(held)
    bm.plots.relations(held)


def test_similarity_of_drawn_functions_has_one(model):
    drawn = model.fit(rows(), method="empirical_bayes", **SETTINGS).task_similarity(kind="function")
    assert drawn.to_frame().notna().all(axis=None) and "held" not in repr(drawn)


def test_a_sign_that_all_draws_agree_on_is_not_held():
    # two lines of one feature: the correlation is the sign of the slopes' product, here 1 in every draw
    x, task = np.tile(np.arange(10.0), 2), np.repeat(["a", "b"], 10)
    data = bm.TaskData.from_arrays(x[:, None], 3 * x + np.sin(9 * x), task)
    fit = bm.LinearModel().fit(data, method="empirical_bayes", **SETTINGS)
    assert fit.task_similarity().probability(">0").sel(task="a", task_other="b") == 1


@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_a_posterior_has_intervals_of_everything(model):
    fit = model.fit(rows(), method="exact", **SETTINGS | {"num_warmup": 50})
    assert fit.summary().notna().all(axis=None) and "note" not in fit.summary()
    similarity = fit.task_similarity(kind="structure")
    assert similarity.to_frame().notna().all(axis=None)
    assert (similarity.to_frame()["upper"] > similarity.to_frame()["lower"]).all()


def test_summary_at_a_point_has_means_and_a_reason(model):
    fit = model.fit(rows(), method="empirical_bayes", **SETTINGS)
    summary = fit.summary()
    still = summary.drop(index=[row for row in summary.index if row.startswith("population")])
    assert len(still) and np.isfinite(summary["mean"]).all()
    assert still[["sd", "lower", "upper"]].isna().all(axis=None)
    assert still["note"].str.contains(KNOWN, regex=False).all()
    varying = summary.drop(index=still.index)  # what is drawn given them
    assert (varying["sd"] > 0).all() and (varying["note"] == "").all()


def test_hyperparameters_at_the_highest_bound():
    fit = bm.MultitaskGP(sharing=bm.Pooled()).fit(rows(), method="svi", **SETTINGS | {"num_warmup": 40})
    summary = fit.summary()
    assert summary[["sd", "lower", "upper"]].isna().all(axis=None)
    assert summary["note"].str.contains('method="svi"', regex=False).all()


@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_what_the_model_knows_is_certain():
    # all tasks share one function, so that any engine's correlation is 1
    fit = bm.MultitaskGP(sharing=bm.Pooled()).fit(rows(), method="exact", **SETTINGS | {"num_warmup": 50})
    assert (fit.task_similarity(kind="structure").probability(">0") == 1).all()
