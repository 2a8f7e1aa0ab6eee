"""Offsets, exposures, weights and trials: read once, kept with their rows, asked for again."""

import numpy as np
import pandas as pd
import pytest

import bayesmtl as bm
from bayesmtl.data import Schema
from bayesmtl.errors import DataError, SpecificationError

FRAME = pd.DataFrame(
    {
        "lab": ["a", "a", "b", "b", "b", "a"],
        "count": [1.0, 2.0, 0.0, 4.0, 3.0, None],
        "dose": [0.1, 0.4, 0.2, 0.9, 0.5, 0.3],
        "days": [10.0, 20.0, 5.0, 8.0, 2.0, 1.0],
        "shift": [0.5, -1.0, 0.0, 2.0, 1.0, 0.2],
        "times": [1.0, 2.0, 1.0, 0.5, 3.0, 1.0],
        "runs": [4, 5, 6, 7, 8, 9],
    },
    index=list("uvwxyz"),
)
COLUMNS = {"offset": "shift", "weights": "times", "trials": "runs"}


def read(frame: pd.DataFrame = FRAME, **columns) -> bm.TaskData:
    return bm.TaskData.from_frame(frame, task="lab", target="count", features=["dose"], **columns)


def test_columns_and_values_are_the_same():
    named = read(**COLUMNS)
    given = read(**{role: FRAME[name].to_numpy() for role, name in COLUMNS.items()})
    for role, name in COLUMNS.items():
        assert np.array_equal(getattr(named, role), FRAME[name])
        assert np.array_equal(getattr(named, role), getattr(given, role))
        assert not getattr(named, role).flags.writeable
    assert named.row_columns == COLUMNS and given.row_columns == {role: role for role in COLUMNS}


@pytest.mark.parametrize("make", ["formula", "arrays"])
def test_other_constructors(make):
    if make == "formula":
        data = bm.TaskData.from_formula("count ~ dose", FRAME, task="lab", **COLUMNS)
    else:
        values = {role: FRAME[name].to_numpy() for role, name in COLUMNS.items()}
        data = bm.TaskData.from_arrays(FRAME[["dose"]], FRAME["count"], FRAME["lab"], **values)
    for role in COLUMNS:
        assert np.array_equal(getattr(data, role), getattr(read(**COLUMNS), role))


WIDE_X = pd.DataFrame({"dose": [0.1, 0.2, 0.3]}, index=list("uvw"))
WIDE_Y = pd.DataFrame({"b": [1.0, None, 3.0], "a": [4.0, 5.0, 6.0]}, index=list("uvw"))


def test_a_wide_table_takes_them_by_row_or_by_cell():
    trials = pd.DataFrame({"b": [4, 5, 6], "a": [7, 8, 9]}, index=list("uvw"))
    data = bm.TaskData.from_wide(WIDE_X, WIDE_Y, weights=[1.0, 2.0, 3.0], trials=trials, exposure=[1, 1, 2])
    rows = data.to_frame()
    assert rows["task"].tolist() == ["b", "a"] * 3 and data.task.tolist() == [0, 1] * 3
    assert data.weights.tolist() == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
    assert data.trials.tolist() == [4.0, 7.0, 5.0, 8.0, 6.0, 9.0]
    np.testing.assert_allclose(data.offset, np.log([1, 1, 1, 1, 2, 2]))
    assert data.row_columns == {"exposure": "exposure", "weights": "weights", "trials": "trials"}
    # the same rows, one under the other
    long = bm.TaskData.from_frame(
        rows,
        task="task",
        target="y",
        features=["dose"],
        trials="trials",
        weights="weights",
        exposure="exposure",
    )
    for name in ("X", "y", "offset", "weights", "trials"):
        assert np.array_equal(getattr(long, name), getattr(data, name), equal_nan=True), name


@pytest.mark.parametrize(
    "given, message",
    [
        ({"trials": [4, 5]}, r"`trials`: expected one value for each of 3 rows, or a table like Y, \(3, 2\)"),
        ({"offset": np.zeros((2, 3))}, r"`offset`: .*found shape \(2, 3\)"),
        ({"offset": "dose"}, r"`offset`: .*found shape \(\)"),
        ({"weights": WIDE_Y[["a", "b"]]}, "`weights`: .*found other columns"),
        (
            {"weights": pd.Series([1.0, 2.0, 3.0], index=list("wvu"))},
            "`weights`: expected the same row labels",
        ),
        ({"weights": [1.0, 0.0, 2.0]}, "`weights`: expected a weight above 0.*'v'"),
        ({"offset": [0.0] * 3, "exposure": [1.0] * 3}, "`exposure`: expected an offset or an exposure"),
    ],
)
def test_bad_values_of_a_wide_table(given, message):
    with pytest.raises((DataError, SpecificationError), match=message):
        bm.TaskData.from_wide(WIDE_X, WIDE_Y, **given)


def test_an_exposure_is_an_offset_on_the_log_scale():
    data = read(exposure="days")
    np.testing.assert_allclose(data.offset, np.log(FRAME["days"]))
    np.testing.assert_allclose(data.to_frame()["days"], FRAME["days"])
    np.testing.assert_allclose(data.schema.encode(FRAME).offset, data.offset)
    assert "days, 1 to 20" in repr(data)


def test_they_stay_with_their_rows():
    data = read(**COLUMNS)
    for part in (
        *data.split(0.3, seed=1),
        data.select_tasks(["b"]),
        data.with_target_standardization("none"),
    ):
        rows = FRAME.loc[part.index]
        assert len(part.index) == part.num_rows
        for role, name in COLUMNS.items():
            assert np.array_equal(getattr(part, role), rows[name]), role


def test_frame_and_schema_and_back():
    data = read(**COLUMNS)
    again = read(data.to_frame(), **COLUMNS)
    schema = Schema.from_dict(data.schema.to_dict())
    assert schema.row_columns == COLUMNS
    for source in (data.to_frame(), FRAME, data):
        rows = schema.encode(source)
        for role in COLUMNS:
            assert np.array_equal(getattr(rows, role), getattr(data, role))
            assert np.array_equal(getattr(again, role), getattr(data, role))


def test_what_a_prediction_needs():
    schema = read(**COLUMNS).schema
    for name in ("shift", "runs"):
        with pytest.raises(DataError, match=f"`{name}`: expected a column of the frame"):
            schema.encode(FRAME.drop(columns=name))
    assert schema.encode(FRAME.drop(columns="times")).weights is None
    with pytest.raises(DataError, match=r"`new`: expected a DataFrame or a TaskData, with 'shift', 'runs'"):
        schema.encode((FRAME[["dose"]], FRAME["lab"]))
    with pytest.raises(
        DataError, match=r"`new`: expected data with `offset`, as in training, found data without"
    ):
        schema.encode(read(trials="runs"))
    with pytest.raises(DataError, match=r"`new`: expected data without `offset`"):
        read().schema.encode(read(offset="shift"))


BAD = {
    "an offset missing in a row": ({"offset": "shift"}, "shift", np.nan, "finite offset.*'nan' in 1 row"),
    "an infinite offset": ({"offset": "shift"}, "shift", np.inf, "finite offset.*'inf' in 1 row"),
    "no exposure": ({"exposure": "days"}, "days", 0.0, "above 0.*'0' in 1 row"),
    "a negative weight": ({"weights": "times"}, "times", -1.0, "weight above 0.*'-1' in 1 row"),
    "a weight of 0": ({"weights": "times"}, "times", 0.0, "weight above 0.*drop the rows"),
    "a fraction of a trial": ({"trials": "runs"}, "runs", 2.5, "whole number of trials.*'2.5'"),
    "no trial": ({"trials": "runs"}, "runs", 0, "whole number of trials.*'0'"),
    "text": ({"offset": "shift"}, "shift", "much", r"numbers \(offset\).*'much'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_values_name_the_column_and_the_row(name):
    columns, column, value, message = BAD[name]
    values = FRAME[column].astype(object)
    values.loc["w"] = value
    frame = FRAME.assign(**{column: values})
    with pytest.raises(DataError, match=f"`{column}`: expected.*{message}"):
        read(frame, **columns)
    if column != "times":  # weights are not needed again
        schema = read(**columns).schema
        with pytest.raises(DataError, match=f"`{column}`: expected"):
            schema.encode(frame)


def test_bad_columns():
    with pytest.raises(DataError, match="`shifts`: expected a column.*Did you mean 'shift'"):
        read(offset="shifts")
    with pytest.raises(DataError, match="`count`: expected a column with one role"):
        read(offset="count")
    with pytest.raises(SpecificationError, match="`exposure`: expected an offset or an exposure, found both"):
        read(offset="shift", exposure="days")
    with pytest.raises(DataError, match="`weights`: expected one value for each of 6 rows"):
        read(weights=[1.0, 2.0])
    with pytest.raises(DataError, match="`weights`: expected the same row labels"):
        read(weights=FRAME["times"].iloc[::-1])
