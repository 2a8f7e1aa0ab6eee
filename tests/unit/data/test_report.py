"""What a TaskData says about itself."""

import numpy as np
import pandas as pd
import pytest

from bayesmtl.data import TaskData
from bayesmtl.data.constant_columns import constant_columns, constant_within_tasks, duplicated_columns


@pytest.fixture
def data():
    intake = np.array([0.5, -1.0, 2.0, 0.0, 1.0, 3.0])
    frame = pd.DataFrame(
        {
            "school": ["a", "a", "a", "b", "b", "<c>"],
            "score": [1.0, 2.0, np.nan, 4.0, 5.0, np.nan],
            "intake": intake,
            "copy": 100 - 3e-3 * intake,
            "flat": 7.0,
            "level": [1, 1, 1, 2, 2, 3],
            "only": "x",
        }
    )
    return TaskData.from_frame(
        frame,
        task="school",
        target="score",
        features=["intake", "copy", "flat", "level", "only"],
        descriptors=pd.DataFrame({"size": [1, 2, 3]}, index=["a", "b", "<c>"]),
    )


def test_facts(data):
    assert data.constant_features == ("flat",)
    assert data.features_constant_within_tasks == ("level",)
    assert data.duplicated_features == (("intake", "copy"),)
    assert data.feature_names == ("Intercept", "intake", "copy", "flat", "level")


@pytest.mark.parametrize(
    "fact",
    [
        "TaskData: 3 tasks, 6 rows, 5 features",
        "school: '<c>', 'a', 'b'",
        "min 1, median 2, max 3",
        "score, standardised over all tasks",
        "2 of 6; no target at all in '<c>'",
        "'Intercept', 'intake', 'copy', 'flat', 'level'",
        "'flat', 'only (only x)'",
        "never vary inside any task  'level'",
        "'intake = copy'",
        "task descriptors            'size'",
    ],
)
def test_text(fact, data):
    assert fact in repr(data)


def test_html_holds_the_same_facts_escaped(data):
    html = data._repr_html_()
    assert "&lt;c&gt;" in html
    assert "<c>" not in html
    for fact in ("3 tasks, 6 rows, 5 features", "min 1, median 2, max 3", "intake = copy"):
        assert fact in html
    assert html.count("<tr>") == html.count("</tr>") == len(repr(data).splitlines()) - 1


def test_nothing_to_say():
    text = repr(TaskData.from_arrays([[1.0], [2.0]], [1.0, 2.0], ["a", "a"]))
    assert "TaskData: 1 task, 2 rows, 2 features" in text
    assert text.count("none") == 3
    assert "missing targets             0 of 2" in text
    assert "descriptors" not in text


@pytest.mark.parametrize(
    ("kind", "words"), [("task", "standardised task by task"), ("none", "not standardised")]
)
def test_standardisation_is_said(kind, words, data):
    assert words in repr(data.with_target_standardization(kind))


def test_a_constant_target_is_said():
    data = TaskData.from_arrays(np.arange(3.0)[:, None], [4.0, 4.0, np.nan], list("aab"))
    assert "constant target" in repr(data)
    assert "4 in every observed row" in repr(data)


def test_only_an_intercept():
    data = TaskData.from_arrays(np.zeros((2, 0)), [1.0, 2.0], ["a", "b"])
    assert data.constant_features == data.features_constant_within_tasks == data.duplicated_features == ()
    assert "2 rows, 1 feature" in repr(data)


def test_many_tasks_stay_legible():
    labels = [f"school_{i}" for i in range(2000)]
    text = repr(TaskData.from_arrays(np.arange(2000.0)[:, None], np.arange(2000.0), labels))
    assert "(2000 in all)" in text
    assert max(map(len, text.splitlines())) < 150


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_columns_whatever_their_scale(scale, shift):
    generator = np.random.default_rng(0)
    task = np.arange(30) % 5
    base = generator.normal(size=30)
    X = (
        np.column_stack([base, -base, task * 1.0, generator.normal(size=30), np.ones(30)]) * scale
        + shift * scale
    )
    assert constant_columns(X).tolist() == [False, False, False, False, True]
    assert constant_within_tasks(X, task).tolist() == [False, False, True, False, False]
    assert duplicated_columns(X) == [(0, 1)]


def test_nearly_equal_is_not_equal():
    base = np.random.default_rng(0).normal(size=200)
    nearly = base + 1e-6 * np.random.default_rng(1).normal(size=200)
    assert duplicated_columns(np.column_stack([base, nearly])) == []


def test_one_row_per_task_never_varies():
    X = np.arange(4.0)[:, None]
    assert constant_within_tasks(X, np.array([3, 1, 0, 2])).tolist() == [True]
    assert constant_within_tasks(X, np.array([3, 1, 0, 0])).tolist() == [False]
