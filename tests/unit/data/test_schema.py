"""New rows: re-ordered by name, checked, and encoded as the training rows were, without the training rows."""

import json

import numpy as np
import pandas as pd
import pytest

from bayesmtl.data import Schema, TaskData
from bayesmtl.errors import DataError, SpecificationError


@pytest.fixture
def frame():
    return pd.DataFrame(
        {
            "school": ["a", "a", "b", "c"],
            "score": [1.0, 2.0, 3.0, np.nan],
            "intake": [0.5, -1.0, 2.0, 0.0],
            "sex": ["F", "M", "F", "M"],
        },
        index=[10, 11, 12, 13],
    )


@pytest.fixture
def data(frame):
    return TaskData.from_frame(frame, task="school", target="score", features=["intake", "sex"])


def through_json(schema):
    return Schema.from_dict(json.loads(json.dumps(schema.to_dict())))


def test_the_training_frame_is_read_as_before(data, frame):
    for schema in (data.schema, through_json(data.schema)):
        rows = schema.encode(frame)
        assert np.array_equal(rows.X, data.X)
        assert np.array_equal(rows.y, data.y, equal_nan=True)
        assert rows.task_labels.tolist() == ["a", "a", "b", "c"]
        assert rows.index.equals(frame.index)


def test_order_of_columns_and_rows(data, frame):
    new = frame.iloc[[2, 0]][["sex", "score", "intake", "school"]].assign(other=[object(), None])
    rows = data.schema.encode(new)
    assert np.array_equal(rows.X, data.X[[2, 0]])
    assert rows.index.tolist() == [12, 10]
    assert rows.task_labels.tolist() == ["b", "a"]


def test_the_target_may_be_absent(data, frame):
    rows = data.schema.encode(frame.drop(columns="score"))
    assert np.isnan(rows.y).all()
    assert np.isnan(data.schema.encode(frame.assign(score=None)).y).all()


def test_tasks_need_not_be_known(data, frame):
    rows = data.schema.encode(frame.assign(school=["a", "z", "b", 7]))
    assert rows.task_labels.tolist() == ["a", "z", "b", "7"]
    codes = data.schema.codes(rows.task_labels)
    assert codes.dtype == np.int64
    assert codes.tolist() == [0, -1, 1, -1]
    assert data.schema.codes([]).tolist() == []
    assert data.schema.codes(["c", "a"]).tolist() == [2, 0]


def test_labels_match_whatever_their_type():
    train = pd.DataFrame({"t": [1, 2], "y": [0.0, 1.0]})
    schema = TaskData.from_frame(train, task="t", target="y", features=[]).schema
    for labels in ([2, 1], [2.0, 1.0], ["2", "1"], pd.Categorical([2, 1])):
        assert schema.codes(schema.encode(pd.DataFrame({"t": labels})).task_labels).tolist() == [1, 0]


def test_task_data_with_features_in_another_order(data, frame):
    other = TaskData.from_formula("score ~ sex + intake", frame, task="school")
    assert other.feature_names != data.feature_names
    rows = data.schema.encode(other)
    assert np.array_equal(rows.X, data.X)
    assert rows.task_labels.tolist() == ["a", "a", "b", "c"]
    assert rows.index.equals(frame.index)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (["intake"], r"`new`: expected the training features .*, found no 'sex\[T.M\]'"),
        (["intake", "sex", "extra"], "found further features 'extra'"),
        (["sex", "extra"], "found no 'intake' and further features 'extra'"),
    ],
)
def test_task_data_with_other_features(features, message, data, frame):
    other = TaskData.from_frame(frame.assign(extra=1.0), task="school", target="score", features=features)
    with pytest.raises(DataError, match=message):
        data.schema.encode(other)


def test_task_data_without_the_intercept(data, frame):
    other = TaskData.from_frame(frame, task="school", target="score", features=["intake"], intercept=False)
    with pytest.raises(DataError, match="no 'Intercept'"):
        data.schema.encode(other)


def test_arrays():
    data = TaskData.from_arrays([[1.0, 2.0], [3.0, 5.0]], [1.0, 2.0], ["a", "b"])
    X = np.array([[7.0, 8.0], [9.0, 10.0]])
    schema = through_json(data.schema)
    rows = schema.encode((X, ["b", "z"]))
    assert rows.X.tolist() == [[1, 7, 8], [1, 9, 10]]
    assert rows.task_labels.tolist() == ["b", "z"]
    assert np.isnan(rows.y).all()
    assert schema.encode((X, [1.0, np.nan], ["b", "z"])).y[0] == 1.0
    numbered = pd.DataFrame(X).assign(task=["b", "z"])
    assert np.array_equal(schema.encode(numbered).X, rows.X)
    with pytest.raises(DataError, match="2 rows, 1 tasks and 2 targets"):
        schema.encode((X, ["b"]))


@pytest.mark.parametrize("new", [np.zeros((2, 2)), None, "file.csv", (1,), {"intake": [1]}])
def test_what_is_no_data(new, data):
    with pytest.raises(DataError, match="`new`: expected a DataFrame, a TaskData.*'intake', 'sex', 'school'"):
        data.schema.encode(new)


@pytest.mark.parametrize("column", ["intake", "sex", "school"])
def test_a_missing_column_is_named(column, data, frame):
    with pytest.raises(DataError, match=f"`{column}`: expected a column of the frame"):
        data.schema.encode(frame.drop(columns=column))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("sex", ["F", "X", "Y", "M"], "`sex`.*'F', 'M'.*found 'X', 'Y' in 2 rows"),
        ("intake", [1.0, np.nan, 2.0, 3.0], r"`intake`.*1 row \('11'\)"),
        ("intake", [1.0, np.inf, 2.0, 3.0], r"`intake`.*1 row \('11'\)"),
        ("school", ["a", None, "b", "c"], r"`school`.*1 row \('11'\)"),
        ("score", [1.0, np.inf, 2.0, 3.0], r"`score`.*infinity in 1 row \('11'\)"),
        ("score", ["u", "v", "w", "x"], "`score`: expected numbers"),
    ],
)
def test_bad_new_rows(column, values, message, data, frame):
    with pytest.raises(DataError, match=message):
        data.schema.encode(frame.assign(**{column: values}))


def test_a_transformed_response_after_a_file(frame):
    data = TaskData.from_formula("log(score) ~ center(intake)", frame, task="school")
    schema = through_json(data.schema)
    rows = schema.encode(frame.iloc[[1, 3]])
    assert np.allclose(rows.y, np.log([2.0, np.nan]), equal_nan=True)
    assert np.array_equal(rows.X, data.X[[1, 3]])
    assert np.isnan(schema.encode(frame.drop(columns="score")).y).all()
    with pytest.raises(DataError, match=r"`log\(score\)`"):
        schema.encode(frame.assign(score=-1.0))


def test_descriptors_survive_a_file(frame):
    table = pd.DataFrame(
        {"size": [1, 2, 3], "kind": ["x", "y", "x"], "rate": [0.1, 1 / 3, 1e-300]}, index=list("abc")
    )
    data = TaskData.from_frame(frame, task="school", target="score", features=["intake"], descriptors=table)
    back = through_json(data.schema)
    pd.testing.assert_frame_equal(back.descriptors, data.descriptors, check_index_type=False)
    assert back.task_names == data.task_names
    assert (back.task_column, back.target_name) == ("school", "score")


@pytest.mark.parametrize(
    "change",
    [
        {"task_names": [1]},
        {"task_column": None},
        {"design": None},
        {"descriptors": {"names": ["a"], "values": []}},
    ],
)
def test_damaged_content_is_refused(change, data):
    content = data.schema.to_dict()
    with pytest.raises(SpecificationError):
        Schema.from_dict(content | change)
    del content["task_names"]
    with pytest.raises(SpecificationError, match="`schema`"):
        Schema.from_dict(content)


def test_a_hostile_response_is_refused(frame, tmp_path):
    content = TaskData.from_formula("log(score) ~ intake", frame, task="school").schema.to_dict()
    marker = tmp_path / "executed"
    content["response"]["terms"] = [[f"__import__('pathlib').Path('{marker}').touch()"]]
    with pytest.raises(SpecificationError, match="`formula`"):
        Schema.from_dict(content).encode(frame)
    assert not marker.exists()
