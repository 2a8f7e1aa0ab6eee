"""SVI on rows that are never loaded: its samples, its minibatches, its start, and its answer.

False-alarm budget: 1e-4 for this file; seeds are fixed.
"""

from __future__ import annotations

import tracemalloc
from collections import Counter
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import torch

import bayesmtl as bm
from bayesmtl.data import parquet
from bayesmtl.errors import DataError, SpecificationError
from bayesmtl.inference import choose
from bayesmtl.posteriors.linear import streamed as stream
from bayesmtl.posteriors.linear.outcomes import LaplaceMarginal
from bayesmtl.posteriors.linear.posterior import gram_and_cross
from bayesmtl.posteriors.linear.streamed import StreamedBatches
from tests.seeds import seeded

pytest.importorskip("pyarrow")

COLUMNS = {"task": "t", "target": "y", "features": ["a", "b"]}
CARRIED = {"offset": "known", "weights": "times"}
LIKELIHOODS = {
    "bernoulli": bm.Bernoulli(),
    "poisson": bm.Poisson(),
    "negative_binomial": bm.NegativeBinomial(),
    "student": bm.StudentT(),
}
SETTINGS = {"seed": seeded(0), "progress": False, "num_chains": 2, "num_draws": 200}


def rows_of(num_tasks: int, rows_per_task: int, seed: int = 0) -> pd.DataFrame:
    """Sorted by task, and by target inside: the worst order there is. Sizes differ, some targets miss."""
    rng = np.random.default_rng(seeded(seed))
    size = rng.integers(1, 2 * rows_per_task, size=num_tasks)
    t = np.repeat(np.arange(num_tasks), size)
    frame = pd.DataFrame({"t": t, "a": rng.normal(size=len(t)), "b": rng.normal(size=len(t))})
    W = np.array([-0.3, 0.8, -0.4]) + rng.normal(size=(num_tasks, 3)) * np.array([0.7, 0.5, 0.2])
    f = W[t, 0] + W[t, 1] * frame["a"] + W[t, 2] * frame["b"]
    frame["y"] = (rng.random(len(t)) < 1 / (1 + np.exp(-f))).astype(float)
    frame["known"], frame["times"] = 0.3 * rng.normal(size=len(t)), rng.integers(1, 4, size=len(t))
    frame.loc[rng.random(len(t)) < 0.05, "y"] = np.nan
    return frame.sort_values(["t", "y"]).reset_index(drop=True)


def write(frame: pd.DataFrame, folder) -> None:
    for i, part in enumerate(np.array_split(np.arange(len(frame)), 3)):
        frame.iloc[part].to_parquet(folder / f"{i}.parquet", row_group_size=20)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(parquet, "_CHUNK", 50)


def problems(frame, folder, likelihood, **carried):
    """The same problem from files and from memory."""
    write(frame, folder)
    model = bm.LinearModel(likelihood=likelihood)
    found = []
    for data in (
        bm.TaskData.from_parquet(folder, **COLUMNS, **carried),
        bm.TaskData.from_frame(frame, **COLUMNS, **carried),
    ):
        if isinstance(likelihood, bm.StudentT):  # sums know no quantiles, by which rows are standardised
            data = data.with_target_standardization("none")
        found.append(model._posterior(data))
    return found


def test_a_sample_has_every_row_of_a_task_as_often(tmp_path, small_chunks):
    """300 passes of 4 of 6 tasks and 5 rows each: shares of passes within 6 standard errors."""
    streamed, _ = problems(rows_of(6, 12), tmp_path, bm.Bernoulli(), **CARRIED)
    rows = list(streamed.stream.chunks())
    X, times = (np.concatenate([getattr(chunk, name) for chunk in rows]) for name in ("X", "weights"))
    task = np.concatenate([chunk.task for chunk in rows])
    place = {tuple(row): i for i, row in enumerate(X)}
    rng, drawn, N = np.random.default_rng(seeded(0)), np.zeros(len(X)), 300
    for _ in range(N):
        held = streamed.stream.sample(4, 5, rng)
        of_task = np.repeat(held.tasks, held.count)
        where = np.array([place[tuple(row)] for row in held.X], dtype=int)
        assert len(set(where)) == len(where) and (task[where] == of_task).all()
        n = streamed.stream.count[held.tasks]
        assert held.count.tolist() == np.minimum(n, 5).tolist()
        np.testing.assert_allclose(held.weights, times[where] * np.repeat(n / held.count, held.count))
        drawn[where] += 1
    expected = 4 / 6 * np.minimum(5 / streamed.stream.count[task], 1.0)
    assert np.all(np.abs(drawn / N - expected) < 6 * np.sqrt(expected * (1 - expected) / N) + 1e-9)


@pytest.mark.parametrize("keys", [2**21, 0])
def test_subsets_are_as_likely_as_any_other(keys, monkeypatch):
    """All 1, 10 and 20 sets of three out of 3, 5 and 6, 4,000 times: 5 standard errors."""
    monkeypatch.setattr(stream, "_KEYS", keys)
    rng, n, found = np.random.default_rng(seeded(0)), np.array([6, 2, 5, 3, 0]), Counter()
    for _ in range(4000):
        drawn = np.split(stream.subsets(n, 3, rng), [3, 5, 8, 11])
        assert drawn[1].tolist() == [0, 1] and drawn[4].size == 0
        found.update((size, *map(int, drawn[i])) for i, size in ((0, 6), (2, 5), (3, 3)))
    number = {3: 1, 5: 10, 6: 20}
    assert len(found) == 31 and all(len(set(one[1:])) == 3 for one in found)
    for (size, *_), times in found.items():
        p = 1 / number[size]
        assert abs(times / 4000 - p) <= 5 * np.sqrt(p * (1 - p) / 4000)


@pytest.mark.parametrize("most", [30, 10_000])
def test_minibatches_of_a_sorted_file_are_unbiased(tmp_path, small_chunks, most):
    """The likelihood's part of the bound at fixed weights, over 2,500 minibatches: 5 standard errors."""
    streamed, held = problems(rows_of(8, 10), tmp_path, bm.Bernoulli(), **CARRIED)
    rng, T = np.random.default_rng(seeded(0)), 8
    weights = torch.from_numpy(rng.normal(size=(1, T, 3)))
    exact = float(held.outcomes({}).value(held.rows.predictor(weights)).sum())
    batches = StreamedBatches(streamed.stream, 3, 4, most)
    assert batches.whole == (most > 1000)
    found, largest = [], 0
    for _ in range(2500 if batches.whole else 500):
        batch = batches.draw(rng)
        largest = max(largest, len(batches.held.y))
        value = streamed.log_likelihood_of(batch, {}, weights[:, batch.tasks]).sum()
        found.append(float(value) * T / len(batch.tasks))
    assert largest <= most and (batches.whole or largest < int(streamed.stream.count.sum()) * 0.6)
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - exact) < 5 * error and error < 0.05 * abs(exact)


def test_memory_does_not_grow_with_rows(tmp_path, monkeypatch):
    """What is allocated at the peak of a few minibatches, for 10,000 and for 80,000 rows, 2,000 held."""
    monkeypatch.setattr(parquet, "_CHUNK", 2_000)
    monkeypatch.setattr(stream, "_KEYS", 2_000)
    peaks = []
    for n in (10_000, 80_000):
        rng = np.random.default_rng(seeded(0))
        frame = pd.DataFrame(rng.normal(size=(n, 2)), columns=["a", "b"])
        frame["t"], frame["y"] = np.arange(n) % 20, rng.integers(2, size=n)
        frame.to_parquet(tmp_path / f"{n}.parquet", row_group_size=2_000)
        model = bm.LinearModel(likelihood=bm.Bernoulli())
        data = bm.TaskData.from_parquet(tmp_path / f"{n}.parquet", **COLUMNS)
        problem = model._posterior(data)
        del frame
        tracemalloc.start()
        batches = StreamedBatches(problem.stream, 20, 64, 2_000)
        for _ in range(3):
            batches.draw(rng)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(batches.held.y) == 2_000
    assert peaks[1] < 1.3 * peaks[0], peaks


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_pseudo_rows_start_at_the_mode(tmp_path, small_chunks, name):
    """G_t and b_t are those of Laplace's method on the rows in memory, to a thousandth after a few steps."""
    carried = CARRIED if name != "student" else {}
    streamed, held = problems(rows_of(10, 25), tmp_path, LIKELIHOODS[name], **carried)
    point = streamed.space.initial(np.random.default_rng(seeded(1)), 1)
    values = streamed.space.constrain(point)
    gram, linear = streamed.sums_at(values)
    expected = gram_and_cross(LaplaceMarginal(held).data(held.structure(values), 1, values))
    for found, exact in zip((gram, linear), expected, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-3 * float(exact.abs().max()))


@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_a_fit_that_holds_all_rows_is_that_of_the_rows_in_memory(tmp_path, small_chunks):
    """Batches are all rows here, so that only rounding and the start's last digits differ."""
    frame = rows_of(9, 12)
    write(frame, tmp_path)
    data = bm.TaskData.from_parquet(tmp_path, **COLUMNS, **CARRIED)
    rows = bm.TaskData.from_frame(frame, **COLUMNS, **CARRIED)
    model = bm.LinearModel(likelihood=bm.Bernoulli())
    fits = [
        model.fit(one, method=method, num_warmup=20, **SETTINGS)
        for one, method in ((data, "auto"), (rows, "svi"))
    ]
    assert fits[0].method == "svi" and "not loaded" in fits[0].reason
    for name in ("summary", "coefficients"):
        ours, theirs = (getattr(fit, name)() for fit in fits)
        assert np.all(np.abs(ours["mean"] - theirs["mean"]) < 0.1 * theirs["sd"]), name
        np.testing.assert_allclose(ours["sd"], theirs["sd"], rtol=0.05)
    new = frame.head(4)
    predictions = [fit.predict(new, kind="latent").mean for fit in fits]
    np.testing.assert_allclose(*predictions, atol=0.02)
    with pytest.raises(DataError, match="known"):
        fits[0].predict(new.drop(columns="known"))
    fits[0].save(tmp_path / "fit.nc")
    loaded = bm.load(tmp_path / "fit.nc")
    np.testing.assert_array_equal(loaded.predict(new).draws, fits[0].predict(new).draws)
    assert len(list(loaded.data.chunks())) == len(list(data.chunks()))
    assert str(loaded.check()) == str(fits[0].check())
    for ask in (loaded.to_datatree, lambda: loaded.condition(new.assign(y=1.0))):
        with pytest.raises(DataError, match="looks at one by one"):
            ask()


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_a_fit_that_holds_a_part_is_near_that_of_all(tmp_path, monkeypatch):
    """Half of the rows at a time: means within .7 sd of each other, spreads within a factor of 1.4.

    So short a run leaves noise of about .25 sd in the mean of each, and of a tenth in spreads.
    """
    monkeypatch.setattr(import_module("bayesmtl.posteriors.linear.streamed"), "ROWS_HELD", 400)
    frame = rows_of(20, 40, seed=3)
    frame.to_parquet(tmp_path / "all.parquet")
    data = bm.TaskData.from_parquet(tmp_path, **COLUMNS)
    model = bm.LinearModel(likelihood=bm.Bernoulli())
    ours = model.fit(data, num_warmup=150, **SETTINGS).summary()
    rows = bm.TaskData.from_frame(frame, **COLUMNS)
    theirs = model.fit(rows, method="svi", num_warmup=150, **SETTINGS).summary()
    assert np.all(np.abs(ours["mean"] - theirs["mean"]) < 0.7 * theirs["sd"])
    assert np.all(np.abs(np.log(ours["sd"] / theirs["sd"])) < np.log(1.4))


def test_what_cannot_stream_says_so(tmp_path):
    frame = rows_of(5, 6)
    write(frame, tmp_path)
    data = bm.TaskData.from_parquet(tmp_path, **COLUMNS)
    for method in ("laplace", "gibbs", "nuts", "exact"):
        with pytest.raises(SpecificationError, match="'auto' or 'svi' for Bernoulli and rows that are not"):
            bm.LinearModel(likelihood=bm.Bernoulli()).fit(data, method=method, seed=0)
    with pytest.raises(SpecificationError, match="without partitions"):
        bm.LinearModel(bm.DirichletProcess(), bm.Bernoulli()).fit(data, seed=0)
    mixed = dict.fromkeys(data.task_names, bm.Bernoulli())
    for likelihood in (bm.Categorical(), bm.Mixed(mixed)):
        with pytest.raises(DataError, match="looks at one by one"):
            bm.LinearModel(likelihood=likelihood).fit(data, seed=0)


@pytest.mark.parametrize(
    "likelihood, change, message",
    [
        (bm.Bernoulli(), {"y": 2.0}, "0 and 1, or booleans"),
        (bm.Poisson(), {"y": -1.0}, "whole numbers of at least 0"),
        (bm.Poisson(), {"y": 0.5}, "whole numbers of at least 0"),
        (bm.Binomial(), {}, "the number of trials of every row"),
        (bm.Binomial(3), {"y": 4.0}, "from 0 to 3"),
    ],
)
def test_targets_without_a_probability(tmp_path, likelihood, change, message):
    rows_of(5, 6).assign(**change).to_parquet(tmp_path / "a.parquet")
    data = bm.TaskData.from_parquet(tmp_path, **COLUMNS)
    with pytest.raises(DataError, match=message):
        bm.LinearModel(likelihood=likelihood).fit(data, seed=0)


def test_files_that_are_damaged_after_they_were_summed_up(tmp_path):
    frame = rows_of(5, 6)
    write(frame, tmp_path)
    data = bm.TaskData.from_parquet(tmp_path, **COLUMNS)
    model, settings = bm.LinearModel(likelihood=bm.Bernoulli()), {"seed": seeded(0), "progress": False}
    content = (tmp_path / "1.parquet").read_bytes()
    (tmp_path / "1.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="1.parquet, which cannot be read"):
        model.fit(data, **settings)
    (tmp_path / "1.parquet").unlink()
    with pytest.raises(DataError, match="1.parquet, which cannot be read"):
        model.fit(data, **settings)
    frame.head(5).assign(t="x").to_parquet(tmp_path / "1.parquet")
    with pytest.raises(DataError, match="type int64 in every part"):
        model.fit(data, **settings)


def test_the_choice_of_an_engine_names_its_reason(tmp_path):
    streamed, _ = problems(rows_of(5, 6), tmp_path, bm.Poisson())
    engine, reason = choose(streamed, "svi")
    assert engine.name == "svi" and reason == "asked for"
    assert choose(streamed, "auto")[1].startswith("the rows are not loaded")
