"""TaskData from frames, formulas and arrays, and one clear error for every bad input."""

import numpy as np
import pandas as pd
import pytest

from bayesmtl.data import TaskData
from bayesmtl.errors import BayesMTLError, DataError, SpecificationError, UnknownTaskError


@pytest.fixture
def frame():
    return pd.DataFrame(
        {
            "school": [10, 9, 10, 9, 2, 2],
            "score": [1.0, 2.0, np.nan, 4.0, 5.0, 6.5],
            "intake": [0.5, -1.0, 2.0, 0.0, 1.0, 3.0],
            "sex": ["F", "M", "F", "M", "M", "F"],
            "mixed": [True, False, True, True, False, False],
        },
        index=list("abcdef"),
    )


def build(frame, **changes):
    options = {"task": "school", "target": "score", "features": ["intake", "sex"]} | changes
    return TaskData.from_frame(frame, **options)


def test_from_frame(frame):
    data = build(frame, features=["intake", "sex", "mixed"])
    assert data.task_names == ("2", "9", "10")
    assert data.task.tolist() == [2, 1, 2, 1, 0, 0]
    assert data.feature_names == ("Intercept", "intake", "sex[T.M]", "mixed")
    assert (data.num_rows, data.num_tasks, data.num_features) == (6, 3, 4)
    assert data.has_intercept
    assert data.observed.tolist() == [True, True, False, True, True, True]
    assert data.rows_per_task.tolist() == [2, 2, 2]
    assert data.X[:, 1].tolist() == frame["intake"].tolist()
    assert (data.task_column, data.target_name, data.response) == ("school", "score", None)
    assert data.index.equals(frame.index)


def test_formula_and_columns_agree(frame):
    one = TaskData.from_formula("score ~ intake + sex", frame, task="school")
    two = build(frame)
    assert np.array_equal(one.X, two.X)
    assert np.array_equal(one.y, two.y, equal_nan=True)
    assert one.feature_names == two.feature_names
    assert one.task_names == two.task_names
    assert one.design.to_dict() == two.design.to_dict()


def test_declining_the_intercept(frame):
    for data in (
        build(frame, intercept=False),
        TaskData.from_formula("score ~ 0 + intake + sex", frame, task="school"),
        TaskData.from_formula("score ~ intake + sex - 1", frame, task="school"),
    ):
        assert not data.has_intercept
        assert data.feature_names == ("intake", "sex[F]", "sex[M]")


def test_a_transformed_response(frame):
    data = TaskData.from_formula("log(score) ~ intake", frame, task="school")
    assert data.target_name == "log(score)"
    assert np.allclose(data.y, np.log(frame["score"]), equal_nan=True)
    assert np.isnan(data.y).sum() == 1
    plus = TaskData.from_formula("{score + intake} ~ sex", frame, task="school")
    assert np.allclose(plus.y, frame["score"] + frame["intake"], equal_nan=True)


def test_a_response_that_is_undefined_is_not_missing(frame):
    frame.loc["b", "score"] = -1.0
    with pytest.raises(DataError, match=r"`log\(score\)`.*1 row \('b'\)"):
        TaskData.from_formula("log(score) ~ intake", frame, task="school")


def test_names_with_spaces(frame):
    renamed = frame.rename(columns={"score": "the score", "intake": "intake (z)", "school": "the school"})
    data = TaskData.from_formula("`the score` ~ center(`intake (z)`)", renamed, task="the school")
    assert data.target_name == "the score"
    assert data.feature_names == ("Intercept", "center(intake (z))")
    plain = build(renamed, task="the school", target="the score", features=["intake (z)"])
    assert plain.feature_names == ("Intercept", "intake (z)")
    logged = TaskData.from_formula("log(`the score`) ~ 1", renamed, task="the school")
    assert logged.target_name == "log(`the score`)"
    assert logged.schema.target_of(renamed).shape == (6,)


def test_columns_whose_names_are_numbers():
    data = TaskData.from_frame(
        pd.DataFrame({0: [1, 2], 1: [0.5, 0.7], 2: [3, 4]}), task=0, target=1, features=[2]
    )
    assert data.feature_names == ("Intercept", "2")


@pytest.mark.parametrize(
    "target",
    [
        [1, 2, 3],
        pd.array([1, None, 3], dtype="Int64"),
        pd.array([True, None, False], dtype="boolean"),
        np.array([1.5, None, 2], dtype=object),
        [True, False, True],
        pd.Categorical([1, 2, 2]),
    ],
)
def test_numeric_targets_of_every_type(target):
    frame = pd.DataFrame({"t": list("aab"), "y": target})
    data = TaskData.from_frame(frame, task="t", target="y", features=[])
    expected = [np.nan if pd.isna(value) else float(value) for value in frame["y"]]
    assert np.array_equal(data.y, expected, equal_nan=True)


def test_from_arrays(frame):
    data = TaskData.from_arrays([[1, 2], [3, 4], [5, 6]], [1, np.nan, 3], ["b", "a", "b"])
    assert data.feature_names == ("Intercept", "x0", "x1")
    assert data.X.tolist() == [[1, 1, 2], [1, 3, 4], [1, 5, 6]]
    assert data.task_names == ("a", "b")
    assert (data.task_column, data.target_name, data.index) == ("task", "y", None)
    named = TaskData.from_arrays(
        frame[["intake"]], frame["score"], frame["school"], intercept=False, task_column="s", target_name="z"
    )
    assert named.feature_names == ("intake",)
    assert named.index.equals(frame.index)
    assert (named.task_column, named.target_name) == ("s", "z")


def test_from_wide():
    data = TaskData.from_wide(np.array([[1.0], [2.0]]), [[1, np.nan, 3], [4, 5, 6]], ["z", "a", 7])
    assert data.task_names == ("z", "a", "7")
    assert data.task.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.X[:, 1].tolist() == [1, 1, 1, 2, 2, 2]
    assert np.array_equal(data.y, [1, np.nan, 3, 4, 5, 6], equal_nan=True)
    assert data.observed.sum() == 5
    Y = pd.DataFrame({"b": [1.0, 2.0], "a": [3.0, 4.0]}, index=["r", "s"])
    X = pd.DataFrame({"dose": [0.1, 0.2]}, index=["r", "s"])
    named = TaskData.from_wide(X, Y)
    assert named.task_names == ("b", "a")
    assert named.index.tolist() == ["r", "r", "s", "s"]
    assert TaskData.from_wide(X.to_numpy(), Y.to_numpy()).task_names == ("0", "1")


def test_arrays_are_read_only_copies():
    X, y = np.ones((2, 1)), np.array([1.0, 2.0])
    data = TaskData.from_arrays(X, y, ["a", "b"], intercept=False)
    X[0, 0], y[0] = 9, 9
    assert data.X[0, 0] == 1
    assert data.y[0] == 1
    for array in (data.X, data.y, data.task):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 5


def test_the_frame_is_left_alone(frame):
    before = frame.copy(deep=True)
    build(frame)
    TaskData.from_formula("log(score) ~ center(intake)", frame, task="school")
    pd.testing.assert_frame_equal(frame, before)


def test_descriptors_follow_the_tasks(frame):
    table = pd.DataFrame({"size": [100, 200, 300, 400]}, index=[10, 2, 9, 77])
    data = build(frame, descriptors=table)
    assert data.descriptors.index.tolist() == ["2", "9", "10"]
    assert data.descriptors["size"].tolist() == [200, 300, 100]
    assert data.select_tasks(["10", "2"]).descriptors["size"].tolist() == [100, 200]
    table.loc[10, "size"] = 0
    assert data.descriptors["size"].tolist() == [200, 300, 100]


def test_select_tasks(frame):
    data = build(frame)
    part = data.select_tasks(["10", 2])
    assert part.task_names == ("10", "2")
    assert part.task.tolist() == [0, 0, 1, 1]
    assert part.index.tolist() == ["a", "c", "e", "f"]
    assert data.select_tasks("9").task_names == ("9",)
    with pytest.raises(
        UnknownTaskError, match=r"`names`: expected tasks of the data \('2', '9', '10'\), found '3'"
    ):
        data.select_tasks(["9", "3"])
    with pytest.raises(UnknownTaskError, match="found none"):
        data.select_tasks([])


def test_target_standardization(frame):
    frame.loc["c", "score"] = 3.0
    data = build(frame)
    assert data.standardization().target == "pooled"
    per_task = data.with_target_standardization("task")
    assert per_task.target_standardization == "task"
    assert per_task.standardization().target_center.tolist() == [5.75, 3.0, 2.0]
    assert data.target_standardization == "auto"
    with pytest.raises(SpecificationError, match="`target_standardization`.*found 'each'"):
        data.with_target_standardization("each")


def test_to_frame_can_be_read_again(frame):
    data = build(frame)
    table = data.to_frame()
    assert list(table.columns) == ["intake", "sex[T.M]", "school", "score"]
    again = TaskData.from_frame(table, task="school", target="score", features=["intake", "sex[T.M]"])
    assert np.array_equal(again.X, data.X)
    assert np.array_equal(again.y, data.y, equal_nan=True)
    assert again.task_names == data.task_names
    assert again.index.equals(frame.index)


# --- bad input: one clear error each -----------------------------------------------------------------


@pytest.mark.parametrize("role", ["task", "target"])
def test_unknown_column(role, frame):
    with pytest.raises(DataError, match=rf"`scool`: expected a column of the frame \({role}\).*Did you mean"):
        build(frame, **{role: "scool"})


def test_unknown_feature(frame):
    with pytest.raises(DataError, match=r"`intak`: .*\(feature\).*Did you mean 'intake'\?"):
        build(frame, features=["intak"])
    with pytest.raises(DataError, match="`intak`"):
        TaskData.from_formula("score ~ log(intak)", frame, task="school")
    with pytest.raises(DataError, match=r"`skore`.*Did you mean 'score'\?"):
        TaskData.from_formula("skore ~ intake", frame, task="school")
    with pytest.raises(DataError, match="`skore`"):
        TaskData.from_formula("log(skore) ~ intake", frame, task="school")


def test_missing_task_label(frame):
    frame["school"] = [10, None, 10, 9, np.nan, 2]
    with pytest.raises(
        DataError, match=r"`school`: expected a label in every row, found none in 2 rows \('b', 'e'\)"
    ):
        build(frame)


def test_non_numeric_target(frame):
    frame["score"] = ["1", "2", "absent", None, "5", "6"]
    message = r"`score`: expected numbers \(the target\), found 5 of 6 values.*'1', '2', 'absent'.*to_numeric"
    with pytest.raises(DataError, match=message):
        build(frame)
    with pytest.raises(DataError, match="`score`: expected numbers"):
        TaskData.from_formula("score ~ intake", frame, task="school")
    with pytest.raises(DataError, match="`score`: expected numbers"):
        TaskData.from_formula("log(score) ~ intake", frame, task="school")
    with pytest.raises(DataError, match="`when`: expected numbers"):
        build(frame.assign(when=pd.Timestamp("2024-01-01")), target="when")


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_infinite_target(bad, frame):
    frame.loc["b", "score"] = bad
    with pytest.raises(DataError, match=r"`score`: expected finite targets.*1 row \('b'\)"):
        build(frame)


@pytest.mark.parametrize("missing", [np.nan, None])
def test_all_targets_missing(missing, frame):
    frame["score"] = missing
    with pytest.raises(DataError, match="`score`: .*all 6 targets missing"):
        build(frame)
    with pytest.raises(DataError, match="all 6 targets missing"):
        TaskData.from_formula("log(score) ~ intake", frame, task="school")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_feature_that_is_not_finite(bad, frame):
    frame.loc[["b", "d"], "intake"] = bad
    message = r"`intake`: expected a finite value in every row, .* 2 rows \('b', 'd'\)"
    with pytest.raises(DataError, match=message):
        build(frame)
    with pytest.raises(DataError, match=message):
        TaskData.from_formula("score ~ center(intake)", frame, task="school")
    with pytest.raises(DataError, match=message):
        TaskData.from_arrays(frame[["intake"]], frame["score"], frame["school"])
    with pytest.raises(DataError, match=r"`x0`: .*2 rows \('1', '3'\)"):
        TaskData.from_wide(frame[["intake"]].to_numpy(), frame[["score"]].to_numpy())


def test_empty_frame(frame):
    with pytest.raises(DataError, match="`frame`: expected at least one row"):
        build(frame.iloc[:0])
    with pytest.raises(DataError, match="at least one row"):
        TaskData.from_formula("score ~ intake", frame.iloc[:0], task="school")
    with pytest.raises(DataError, match="at least one row"):
        TaskData.from_arrays(np.zeros((0, 2)), [], [])
    with pytest.raises(DataError, match="at least one row"):
        TaskData.from_wide(np.zeros((0, 2)), np.zeros((0, 3)))


def test_not_a_frame():
    with pytest.raises(DataError, match="`frame`: expected a pandas DataFrame, found dict"):
        build({"school": [1]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": ["intake", "school"]}, "`school`.*the task and a feature"),
        ({"features": ["intake", "score"]}, "`score`.*the target and a feature"),
        ({"target": "school"}, "`school`.*the task and the target"),
    ],
)
def test_one_column_in_two_roles(changes, message, frame):
    with pytest.raises(DataError, match=message):
        build(frame, **changes)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("score ~ intake + C(school)", "`school`.*the task and a feature"),
        ("log(score) ~ score", "`score`.*the target and a feature"),
        ("log(school) ~ intake", "`school`.*the task and the target"),
    ],
)
def test_one_column_in_two_roles_of_a_formula(formula, message, frame):
    with pytest.raises(DataError, match=message):
        TaskData.from_formula(formula, frame, task="school")


def test_features_as_one_string(frame):
    with pytest.raises(SpecificationError, match=r'`features`: expected a list.*features=\["intake"\]'):
        build(frame, features="intake")


def test_formula_without_a_response(frame):
    with pytest.raises(SpecificationError, match="expected a response on the left of '~', found 'intake'"):
        TaskData.from_formula("intake", frame, task="school")


@pytest.mark.parametrize("formula", ["score + intake ~ sex", "score | intake ~ sex"])
def test_several_responses(formula, frame):
    with pytest.raises(SpecificationError, match="`formula`"):
        TaskData.from_formula(formula, frame, task="school")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1], [2]], [1, 2, 3], ["a", "b"]), "`X`: .*same number of rows, found 2, 3 and 2"),
        (([1, 2], [1, 2], ["a", "b"]), r"`X`: expected an array with two dimensions, found shape \(2,\)"),
        (([[1], [2]], [[1], [2]], ["a", "b"]), r"`y`: expected one value per row, found shape \(2, 1\)"),
        (([[1], [2]], [1, 2], ["a", None]), r"`task`: expected a label in every row"),
        (([[1], [2]], [1, 2], [1, "1"]), "`task`: .*different labels that are all written '1'"),
        (([[1], [2]], ["u", "v"], ["a", "b"]), "`y`: expected numbers"),
    ],
)
def test_bad_arrays(arguments, message):
    with pytest.raises(DataError, match=message):
        TaskData.from_arrays(*arguments)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"], "`feature_names`: expected one name for each of 2 columns"),
        (["a", "a"], "`feature_names`: expected different names, found 'a' more than once"),
        (["a", "Intercept"], "'Intercept' more than once"),
        (["task", "b"], "`feature_names`: .*'task' more than once"),
        (["y", "b"], "`feature_names`: .*'y' more than once"),
    ],
)
def test_bad_feature_names(names, message):
    with pytest.raises(DataError, match=message):
        TaskData.from_arrays(np.ones((2, 2)), [1, 2], ["a", "b"], feature_names=names)


@pytest.mark.parametrize(
    ("Y", "tasks", "message"),
    [
        ([[1.0, 2.0]], None, r"`Y`: .*shape \(1, 2\) with 2 rows of X"),
        ([[1.0, 2.0], [3.0, 4.0]], ["a"], "`Y`: .* and 1 tasks"),
        ([[1.0, 2.0], [3.0, 4.0]], [1, "1"], "`tasks`: expected different names, found '1'"),
        ([[np.nan, np.nan], [np.nan, np.nan]], None, "all 4 targets missing"),
        ([["u", 2.0], ["v", 4.0]], ["lab", "b"], "expected numbers"),
    ],
)
def test_bad_wide_tables(Y, tasks, message):
    with pytest.raises(DataError, match=message):
        TaskData.from_wide([[1.0], [2.0]], Y, tasks)


def test_row_labels_that_disagree_are_not_matched_by_position(frame):
    other = frame["score"].iloc[::-1]
    with pytest.raises(DataError, match=r"`y`: expected the same row labels as X.*y.reindex\(X.index\)"):
        TaskData.from_arrays(frame[["intake"]], other, frame["school"])
    with pytest.raises(DataError, match="`Y`: expected the same row labels"):
        TaskData.from_wide(frame[["intake"]], other.to_frame())


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ({"size": [1]}, DataError, "`descriptors`: expected a DataFrame.*found dict"),
        (pd.DataFrame({"size": [1, 2]}, index=[2, 9]), UnknownTaskError, "`descriptors`: .*none for '10'"),
        (pd.DataFrame({"size": [1, 2, 3]}, index=[2, 9, 9]), DataError, "several rows for '9'"),
        (pd.DataFrame({"size": [1, np.nan, 3]}, index=[2, 9, 10]), DataError, "`size`: .*none for '9'"),
        (
            pd.DataFrame({"size": [1, 2, 3]}, index=[2, None, 10]),
            DataError,
            "`descriptors`: expected a label",
        ),
    ],
)
def test_bad_descriptors(table, error, message, frame):
    with pytest.raises(error, match=message):
        build(frame, descriptors=table)


def test_errors_are_what_a_caller_would_catch(frame):
    for builtin in (ValueError, BayesMTLError):
        with pytest.raises(builtin):
            build(frame, features=["unknown"])


def test_parts_that_do_not_fit(frame):
    data = build(frame)
    with pytest.raises(DataError, match="`TaskData`: expected X"):
        TaskData(data.X[:3], data.y, data.task, data.task_names, data.design, "school", "score")
    with pytest.raises(DataError, match="with 1 task names"):
        TaskData(data.X, data.y, data.task, ("2",), data.design, "school", "score")
