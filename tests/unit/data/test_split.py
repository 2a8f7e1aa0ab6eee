"""Splits: seeded, stratified, and nothing lost."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesmtl.data import TaskData
from bayesmtl.errors import DataError, SpecificationError


def data_with(counts, missing=(), descriptors=None):
    """Tasks with the given numbers of rows; x0 numbers the rows."""
    task = np.repeat([f"t{i}" for i in range(len(counts))], counts)
    shuffled = np.random.default_rng(0).permutation(len(task))
    y = np.arange(len(task), dtype=float)
    y[list(missing)] = np.nan
    rows = pd.DataFrame({"x0": np.arange(len(task))}, index=[f"r{i}" for i in range(len(task))])
    return TaskData.from_arrays(rows, y, task[shuffled], descriptors=descriptors)


def rows_of(part):
    return part.X[:, 1].astype(int).tolist()


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    test=st.sampled_from([0.05, 0.25, 0.5, 0.9]),
    seed=st.integers(0, 1000),
    missing=st.sets(st.integers(0, 5)),
)
def test_by_row(counts, test, seed, missing):
    counts = [*counts, 3]  # so that there is something to split
    data = data_with(counts, {row for row in missing if row < sum(counts) - 1})
    if np.bincount(data.task[data.observed]).max() < 2:
        return
    train, held = data.split(test, seed=seed)
    assert sorted(rows_of(train) + rows_of(held)) == list(range(sum(counts)))
    assert rows_of(train) == sorted(rows_of(train))
    assert rows_of(held) == sorted(rows_of(held))
    assert train.task_names == held.task_names == data.task_names
    assert held.observed.all()
    observed = np.bincount(data.task[data.observed], minlength=data.num_tasks)
    in_train = np.bincount(train.task[train.observed], minlength=data.num_tasks)
    in_test = held.rows_per_task
    assert np.all(in_train[observed >= 1] >= 1)
    assert np.all(in_test[observed >= 2] >= 1)
    assert np.all(in_test[observed < 2] == 0)
    # within one row of the exact share, except where a part would be empty
    inner = (test * observed >= 1) & (test * observed <= observed - 1)
    assert np.all(np.abs(in_test - test * observed)[inner] < 1)


def test_the_fraction_holds_over_many_small_tasks():
    # Each of 1000 tasks gives 2 or 3 of its 10 rows: sd of the total is 1000^.5 * .5 = 16; 4 sd are allowed.
    _, held = data_with([10] * 1000).split(0.25, seed=0)
    assert abs(held.num_rows - 2500) < 64


def test_same_seed_same_split_and_no_global_state():
    data = data_with([8, 8, 8])
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = data.split(seed=3), data.split(seed=3)
    assert rows_of(first[1]) == rows_of(second[1])
    assert rows_of(first[1]) != rows_of(data.split(seed=4)[1])
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_rows_keep_labels_targets_and_options():
    data = data_with([6, 6]).with_target_standardization("none")
    for part in data.split(seed=0):
        assert part.index.tolist() == [f"r{row}" for row in rows_of(part)]
        assert part.y.tolist() == rows_of(part)
        assert part.design is data.design
        assert part.target_standardization == "none"


@settings(max_examples=30, deadline=None)
@given(num_tasks=st.integers(2, 9), test=st.sampled_from([0.01, 0.25, 0.5, 0.99]), seed=st.integers(0, 99))
def test_by_task(num_tasks, test, seed):
    table = pd.DataFrame({"size": range(num_tasks)}, index=[f"t{i}" for i in range(num_tasks)])
    data = data_with([2] * num_tasks, descriptors=table)
    train, held = data.split(test, seed=seed, by="task")
    assert not set(train.task_names) & set(held.task_names)
    assert sorted(train.task_names + held.task_names) == sorted(data.task_names)
    assert held.num_tasks == min(max(round(test * num_tasks), 1), num_tasks - 1)
    assert sorted(rows_of(train) + rows_of(held)) == list(range(data.num_rows))
    for part in (train, held):
        assert part.descriptors.index.tolist() == list(part.task_names)
        assert part.rows_per_task.tolist() == [2] * part.num_tasks


@pytest.mark.parametrize("test", [0, 1, -0.5, 2, float("nan")])
def test_a_fraction_out_of_range(test):
    with pytest.raises(SpecificationError, match="`test`: expected a fraction between 0 and 1"):
        data_with([3]).split(test, seed=0)


def test_an_unknown_way():
    with pytest.raises(SpecificationError, match="`by`: .*found 'column'"):
        data_with([3]).split(seed=0, by="column")


def test_nothing_to_split():
    with pytest.raises(DataError, match="expected a task with at least two observed targets"):
        data_with([1, 1]).split(seed=0)
    with pytest.raises(DataError, match="expected at least two tasks"):
        data_with([5]).split(seed=0, by="task")
