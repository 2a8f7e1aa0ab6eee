"""Rows of Parquet files read again chunk by chunk, and what they carry besides: the same as from a frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bayesmtl as bm
from bayesmtl.algebra.statistics import TaskStatistics
from bayesmtl.data import parquet
from bayesmtl.errors import DataError, SpecificationError
from bayesmtl.posteriors.linear.rows import StandardRows

pytest.importorskip("pyarrow")

COLUMNS = {"task": "lab", "target": "y", "features": ["dose", "new"]}
CARRIED = {"exposure": "hours", "weights": "times", "trials": "number"}


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Eight labs of 1 to 40 rows, sorted by lab; a tenth of the targets is missing."""
    rng = np.random.default_rng(0)
    lab = np.repeat(np.arange(1, 9), rng.integers(1, 40, size=8))
    n = len(lab)
    frame = pd.DataFrame({"lab": lab, "dose": 5 + rng.normal(size=n), "new": rng.random(n) < 0.4})
    frame["number"] = rng.integers(1, 6, size=n)
    frame["y"] = rng.binomial(frame["number"], 0.4).astype(float)
    frame["hours"], frame["times"] = rng.uniform(0.5, 8, size=n), rng.integers(1, 4, size=n)
    frame.loc[rng.random(n) < 0.1, "y"] = np.nan
    return frame


@pytest.fixture(scope="module")
def folder(frame, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    for i, part in enumerate(np.array_split(np.arange(len(frame)), 3)):
        frame.iloc[part].to_parquet(folder / f"part-{i}.parquet")
    return folder


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("carried", [{}, CARRIED])
def test_chunks_are_the_observed_rows(frame, folder, carried, intercept, monkeypatch):
    monkeypatch.setattr(parquet, "_CHUNK", 7)
    rows = bm.TaskData.from_frame(frame, **COLUMNS, **carried, intercept=intercept)
    sums = bm.TaskData.from_parquet(folder, **COLUMNS, **carried, intercept=intercept)
    chunks = list(sums.chunks())
    assert max(len(chunk.y) for chunk in chunks) <= 7
    seen = rows.observed
    for name in ("X", "y", "task", "offset", "weights", "trials"):
        expected, parts = getattr(rows, name), [getattr(chunk, name) for chunk in chunks]
        if expected is None:
            assert all(part is None for part in parts), name
        else:
            np.testing.assert_array_equal(np.concatenate(parts), expected[seen], err_msg=name)
    narrow = list(sums.chunks(features=False))
    assert all(chunk.X.shape == (len(chunk.y), 0) for chunk in narrow)
    np.testing.assert_array_equal(np.concatenate([chunk.y for chunk in narrow]), rows.y[seen])
    assert sums.observed_per_task.tolist() == np.bincount(rows.task[seen], minlength=8).tolist()


@pytest.mark.parametrize("kind", ["pooled", "task", "none"])
def test_sums_count_weights_and_take_offsets_off(frame, folder, kind):
    enough = frame.groupby("lab")["y"].transform("count") > 1
    rows = bm.TaskData.from_frame(frame[enough], **COLUMNS, **CARRIED).with_target_standardization(kind)
    frame[enough].to_parquet(folder.parent / f"{kind}.parquet")
    sums = bm.TaskData.from_parquet(folder.parent / f"{kind}.parquet", **COLUMNS, **CARRIED)
    sums = sums.with_target_standardization(kind)
    expected, found = rows.standardization(), sums.standardization()
    for name in ("feature_center", "feature_scale", "target_center", "target_scale"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-12)
    reference = StandardRows.of(rows, rows.task, expected, bm.Gaussian()).statistics(rows.num_tasks)
    statistics = TaskStatistics.from_moments(sums.moments, found)
    for name in ("gram", "cross", "square", "count"):
        np.testing.assert_allclose(getattr(statistics, name), getattr(reference, name), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "likelihood",
    [bm.Bernoulli(), bm.Bernoulli("probit"), bm.Binomial(), bm.Poisson(), bm.NegativeBinomial()],
    ids=repr,
)
@pytest.mark.parametrize("intercept", [True, False])
def test_levels_from_sums_are_those_of_the_rows(frame, folder, likelihood, intercept):
    carried = {key: CARRIED[key] for key in ("exposure", "weights")}
    if isinstance(likelihood, bm.Binomial):
        carried = CARRIED
    if isinstance(likelihood, bm.Bernoulli):
        frame = frame.assign(y=np.where(frame["y"].isna(), np.nan, frame["y"] > 1))
        frame.to_parquet(folder.parent / "yes.parquet")
        folder = folder.parent / "yes.parquet"
    rows = bm.TaskData.from_frame(frame, **COLUMNS, **carried, intercept=intercept)
    sums = bm.TaskData.from_parquet(folder, **COLUMNS, **carried, intercept=intercept)
    expected, found = likelihood.standardization(rows), likelihood.standardization(sums)
    assert (expected.target_center != 0).all() == intercept
    np.testing.assert_allclose(found.target_center, expected.target_center, rtol=1e-10)
    np.testing.assert_allclose(found.feature_scale, expected.feature_scale, rtol=1e-10)
    assert found.target == expected.target


def test_files_that_changed(frame, folder, tmp_path):
    for change in (frame.assign(lab=9), frame.head(20), frame.assign(y=1.0)):
        frame.to_parquet(tmp_path / "a.parquet")
        sums = bm.TaskData.from_parquet(tmp_path, **COLUMNS)
        change.to_parquet(tmp_path / "a.parquet")
        with pytest.raises(DataError, match="changed since"):
            list(sums.chunks())


BAD = {
    "an offset missing in some rows": (
        {"offset": "hours"},
        {"hours": [np.nan, 1.0, 2.0]},
        "1 values that are not",
    ),
    "an exposure of nothing": ({"exposure": "hours"}, {"hours": [0.0, 1.0, 0.0]}, "an exposure above 0"),
    "a negative weight": ({"weights": "times"}, {"times": [-1, 1, 1]}, "a weight above 0"),
    "half a trial": ({"trials": "number"}, {"number": [0.5, 1, 1]}, "a whole number of trials"),
    "no such column": ({"offset": "minutes"}, {}, "no such column"),
    "the target's column": ({"weights": "y"}, {}, "a column with one role"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_columns(frame, tmp_path, name):
    carried, change, message = BAD[name]
    frame.head(3).assign(**change).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        bm.TaskData.from_parquet(tmp_path, **COLUMNS, **carried)


def test_wrong_roles(folder):
    with pytest.raises(SpecificationError, match="an offset or an exposure"):
        bm.TaskData.from_parquet(folder, **COLUMNS, offset="hours", exposure="hours")
    with pytest.raises(SpecificationError, match="the name of a column"):
        bm.TaskData.from_parquet(folder, **COLUMNS, weights=np.ones(3))
