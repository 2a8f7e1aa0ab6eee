"""Task labels and categories: strings everywhere, in an order a reader expects."""

import numpy as np
import pandas as pd
import pytest

from bayesmtl.data.labels import encode_labels, label_of, row_listing
from bayesmtl.errors import DataError


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (1, "1"),
        (1.0, "1"),
        (np.float32(2.0), "2"),
        (0.5, "0.5"),
        (np.int64(7), "7"),
        ("lab_1", "lab_1"),
        (True, "True"),
        (np.bool_(False), "False"),
        (1e20, "100000000000000000000"),
        (pd.Timestamp("2024-01-02"), "2024-01-02 00:00:00"),
    ],
)
def test_one_spelling_per_label(value, label):
    assert label_of(value) == label


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([10, 9, 10, 1], ("1", "9", "10")),
        ([10.0, 9.0, 1.5], ("1.5", "9", "10")),
        (["10", "9", "1"], ("1", "9", "10")),
        (["b", "a", "10"], ("10", "a", "b")),
        ([True, False], ("False", "True")),
        (pd.Categorical(["lo", "hi"], categories=["lo", "mid", "hi"]), ("lo", "hi")),
        (pd.Categorical([3, 1], categories=[3, 2, 1], ordered=True), ("3", "1")),
        (pd.array([2, 1], dtype="Int64"), ("1", "2")),
    ],
)
def test_order_and_codes(values, names):
    series = pd.Series(values)
    codes, found = encode_labels(series, "school")
    assert found == names
    assert codes.dtype == np.int64
    assert [found[code] for code in codes] == [label_of(value) for value in series]


def test_codes_do_not_depend_on_the_order_of_rows():
    labels = pd.Series(["c", "a", "b", "a"])
    codes, names = encode_labels(labels, "school")
    again, names_again = encode_labels(labels[::-1], "school")
    assert names == names_again
    assert codes.tolist() == again[::-1].tolist()


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_a_missing_label_names_the_column_and_the_rows(missing):
    labels = pd.Series(["a", missing, "b", missing], index=["r1", "r2", "r3", "r4"], dtype=object)
    with pytest.raises(DataError, match=r"`school`.*2 rows \('r2', 'r4'\)"):
        encode_labels(labels, "school")


@pytest.mark.parametrize("values", [[1, "1"], ["2", 2.0, 3]])
def test_two_labels_written_alike_are_refused(values):
    with pytest.raises(DataError, match="different labels that are all written '[12]'"):
        encode_labels(pd.Series(values, dtype=object), "school")


def test_two_categories_written_alike_are_refused():
    with pytest.raises(DataError, match="`school`.*written '1'"):
        encode_labels(pd.Series(pd.Categorical([1, "1"], categories=[1, "1"])), "school")


def test_only_the_first_rows_are_named():
    assert row_listing(None, np.array([False, True])) == "1 row ('1')"
    assert row_listing(pd.RangeIndex(9), np.ones(9, dtype=bool)) == "9 rows ('0', '1', '2' ...)"
