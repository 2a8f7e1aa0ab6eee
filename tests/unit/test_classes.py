"""Targets that are labels: how they come in, what refuses them, and by what names they come out."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pytest

import bayesmtl as bm
from bayesmtl.errors import DataError, SpecificationError
from bayesmtl.likelihoods import REGISTRY

matplotlib.use("Agg")

LABELS = ["no", "yes", None, "maybe", "no", "maybe", "yes", "no"]
ORDER = ["yes", "no", "maybe", "never"]
TASKS = list("aabbaabb")
RUN = {"seed": 0, "num_chains": 2, "num_draws": 50, "progress": False}


@pytest.fixture
def frame() -> pd.DataFrame:
    answers = pd.Categorical(LABELS, categories=ORDER)
    return pd.DataFrame({"town": TASKS, "age": np.arange(8.0) % 5, "answer": answers})


@pytest.fixture
def data(frame) -> bm.TaskData:
    return bm.TaskData.from_frame(frame, task="town", target="answer", features=["age"])


@pytest.fixture(scope="module")
def fit() -> bm.Fit:
    answers = pd.Categorical(LABELS, categories=ORDER)
    data = bm.TaskData.from_arrays(np.arange(8.0)[:, None] % 5, answers, TASKS, target_name="answer")
    return bm.LinearModel(bm.Hierarchical(), bm.Categorical()).fit(data, **RUN)


def test_classes_keep_their_order_and_those_that_nobody_is_in(data):
    assert data.classes == tuple(ORDER)
    np.testing.assert_array_equal(data.y, [1, 0, np.nan, 2, 1, 2, 0, 1])
    assert data.target_labels.tolist() == LABELS
    assert "classes 'yes', 'no', 'maybe', 'never'" in repr(data)
    assert data.num_missing == 1


def test_every_way_in(frame, data):
    by_formula = bm.TaskData.from_formula("answer ~ age", frame, task="town")
    by_arrays = bm.TaskData.from_arrays(frame[["age"]], frame["answer"], frame["town"])
    again = bm.TaskData.from_frame(data.to_frame(), task="town", target="answer", features=["age"])
    for other in (by_formula, by_arrays, again):
        assert other.classes == data.classes
        np.testing.assert_array_equal(other.y, data.y)
    train, test = data.split(0.3, seed=0)
    assert train.classes == test.classes == data.select_tasks(["b"]).classes == data.classes


def test_whole_numbers_are_names():
    """In their order; numbers that come as categories are numbers still."""
    y = [30, 7, np.nan, 30, 9]
    numbers = bm.TaskData.from_arrays(np.zeros((5, 0)), y, list("aabbb"))
    as_categories = bm.TaskData.from_arrays(np.zeros((5, 0)), pd.Categorical(y), list("aabbb"))
    assert numbers.classes == as_categories.classes == ()
    for data in (numbers, as_categories):
        fit = bm.LinearModel(bm.Pooled(), bm.Categorical()).fit(data, **RUN)
        assert fit.schema.classes == ("7", "9", "30")
        np.testing.assert_array_equal(fit.data.y, [2, 0, np.nan, 2, 1])
        new = pd.DataFrame({"task": ["a", "b"], "y": [7, 30]})
        assert fit.condition(new).data.y[-2:].tolist() == [0, 2]


@pytest.mark.parametrize("y, found", [([0.5, 1, 2, 0], "such as 0.5"), (np.arange(101), "101 different")])
def test_numbers_that_are_no_names(y, found):
    data = bm.TaskData.from_arrays(np.zeros((len(y), 0)), y, ["a"] * len(y))
    with pytest.raises(DataError, match=rf"`y`: expected labels.*{found}.*astype"):
        bm.LinearModel(likelihood=bm.Categorical()).fit(data, **RUN)


def test_strings_are_told_how_to_become_labels(frame):
    with pytest.raises(DataError, match=r'`answer`: expected numbers.*Categorical\(\).*astype\("category"\)'):
        bm.TaskData.from_frame(
            frame.assign(answer=frame["answer"].astype(object)),
            task="town",
            target="answer",
            features=["age"],
        )


def test_one_class():
    data = bm.TaskData.from_arrays(np.zeros((3, 0)), [4, 4, 4], list("aab"))
    with pytest.raises(SpecificationError, match="`likelihood`: expected at least two classes of 'y'.*'4'"):
        bm.LinearModel(likelihood=bm.Categorical()).fit(data, **RUN)


@pytest.mark.parametrize("role", ["offset", "trials"])
def test_what_rows_may_not_carry(frame, role):
    data = bm.TaskData.from_frame(frame, task="town", target="answer", features=["age"], **{role: np.ones(8)})
    with pytest.raises(SpecificationError, match=rf"`{role}`: expected none for Categorical\(\)"):
        bm.LinearModel(likelihood=bm.Categorical()).fit(data, **RUN)


@pytest.mark.parametrize("name", [name for name in REGISTRY if name not in ("Categorical", "Mixed")])
def test_other_likelihoods_refuse_labels(name, data):
    with pytest.raises(DataError, match=rf"`answer`: expected numbers, for {name}, found labels.*'yes'"):
        bm.LinearModel(likelihood=REGISTRY[name]()).fit(data, **RUN)


def test_what_takes_one_function_per_task_refuses_classes(data):
    with pytest.raises(DataError, match="`answer`: expected numbers, for Gaussian"):
        bm.MultitaskGP().fit(data, **RUN)
    with pytest.raises(SpecificationError, match="`likelihood`: expected .*one function per task"):
        bm.MultitaskGP(likelihood=bm.Categorical()).fit(data, **RUN)
    with pytest.raises(SpecificationError, match="`likelihood`: expected a mapping.*Categorical"):
        bm.Mixed({"a": bm.Categorical()})


@pytest.mark.parametrize("method", ["exact", "empirical_bayes", "gibbs", "svi"])
def test_engines_for_one_predictor_refuse(method, data):
    with pytest.raises(SpecificationError, match=r"`method`: expected .*'laplace'.*one linear predictor"):
        bm.LinearModel(likelihood=bm.Categorical()).fit(data, **(RUN | {"method": method}))


def test_partitions_refuse(data):
    with pytest.raises(SpecificationError, match="`likelihood`: expected .*DirichletProcess"):
        bm.LinearModel(bm.DirichletProcess(), bm.Categorical()).fit(data, **RUN)


def test_names_of_results(fit):
    frame = pd.DataFrame({"task": ["b", "a"], "x0": [1.0, 2.0]}, index=["first", "second"])
    prediction = fit.predict(frame)
    probabilities = prediction.probabilities()
    assert probabilities.columns.tolist() == ORDER and probabilities.index.tolist() == ["first", "second"]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    # of a new observation it is one class that comes
    assert np.all(prediction.draws.sum("class") == 1) and set(np.unique(prediction.draws)) == {0.0, 1.0}
    assert prediction.most_probable.tolist() == probabilities.idxmax(axis=1).tolist()
    table = prediction.to_frame()
    assert table["mean[no]"].tolist() == probabilities["no"].tolist()
    assert probabilities["never"].max() < probabilities["no"].min()  # nobody said so
    weights = fit.posterior["weights"]
    assert weights["class"].to_numpy().tolist() == ORDER
    np.testing.assert_allclose(weights.sum("class"), 0, atol=1e-12)
    tree = fit.to_datatree()
    assert tree["observed_data"]["answer"].attrs["classes"] == ORDER
    assert set(np.unique(tree["posterior_predictive"]["answer"])) <= {0.0, 1.0, 2.0, 3.0}


def test_new_rows_are_read_by_the_names_of_their_classes(fit):
    """Whatever the order of their categories; a class that is not known is an error that names it."""
    rows = {"task": ["a"] * 2, "x0": [1.0, 2.0]}
    other_order = pd.Categorical(["maybe", "yes"], categories=["maybe", "yes"])
    for answer in (other_order, ["maybe", "yes"]):
        assert fit.condition(pd.DataFrame(rows | {"answer": answer})).data.y[-2:].tolist() == [2, 0]
    new = bm.TaskData.from_arrays([[1.0], [2.0]], other_order, ["a", "a"], target_name="answer")
    assert fit.condition(new).data.y[-2:].tolist() == [2, 0]
    with pytest.raises(DataError, match="`answer`: expected classes .*'never'.*found 'perhaps'"):
        fit.condition(pd.DataFrame(rows | {"answer": ["perhaps", "yes"]}))


def test_similarity_adds_up_over_classes(fit):
    """By hand, from the weights of the classes: products of functions, summed over classes."""
    similarity = fit.task_similarity(num_draws=100)
    weights = fit.posterior["weights"].stack(sample=("chain", "draw")).transpose("sample", ...).to_numpy()
    x = fit.data.X
    functions = np.einsum("nd,stkd->stkn", x - x.mean(0), weights)
    products = np.einsum("stkn,sukn->stu", functions, functions)
    norm = np.sqrt(products[:, [0, 1], [0, 1]])
    expected = products[:, 0, 1] / norm.prod(axis=1)
    np.testing.assert_allclose(similarity.draws[:, 0, 1], expected, rtol=1e-8)


def test_plots_of_one_number_say_what_to_do(fit):
    with pytest.raises(SpecificationError, match="`data`: expected targets that are numbers.*probabilities"):
        bm.plots.predictions(fit.data, fit.predict(fit.data), "x0", task="a")
    table = fit.coefficients()
    with pytest.raises(SpecificationError, match='coefficients of one class.*xs\\("...", level="class"\\)'):
        bm.plots.shrinkage(table, table, table, "x0")
    of_class = table.xs("yes", level="class")
    assert len(bm.plots.shrinkage(of_class, of_class, of_class, "x0").get_xticklabels()) == 2
