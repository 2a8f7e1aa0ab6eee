"""Sums per task read from Parquet files: the same as from the rows, wherever and in whatever pieces."""

from __future__ import annotations

import os
import signal
import tracemalloc
import warnings
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bayesmtl as bm
from bayesmtl.algebra.statistics import TaskStatistics
from bayesmtl.data import parquet
from bayesmtl.errors import DataError, SpecificationError

pa = pytest.importorskip("pyarrow")

COLUMNS = {"task": "lab", "target": "y", "features": ["dose", "age", "new"]}
SMALL = {"num_chains": 2, "num_draws": 20, "progress": False}


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Twelve labs of 1 to 60 rows, in no order; a large mean, a whole-number and a yes/no feature."""
    rng = np.random.default_rng(0)
    lab = rng.permutation(np.repeat(np.arange(1, 13), rng.integers(1, 60, size=12)))
    n = len(lab)
    frame = pd.DataFrame({"lab": lab, "dose": 1e6 + rng.normal(size=n), "age": rng.integers(20, 60, size=n)})
    frame["new"] = rng.random(n) < 0.4
    frame["y"] = 3 + 0.5 * (frame["dose"] - 1e6) + 0.1 * lab * frame["new"] + rng.normal(size=n)
    frame.loc[rng.random(n) < 0.1, "y"] = np.nan
    return frame


@pytest.fixture(scope="module")
def folder(frame, tmp_path_factory) -> Path:
    """The frame in four files, the last without any target."""
    folder = tmp_path_factory.mktemp("parts")
    cuts = np.linspace(0, len(frame), 4).astype(int)
    for i, (first, last) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
        frame.iloc[first:last].to_parquet(folder / f"part-{i}.parquet")
    frame.iloc[:3].assign(y=np.nan).to_parquet(folder / "part-9.parquet")
    return folder


@pytest.fixture(scope="module")
def rows(frame) -> bm.TaskData:
    whole = pd.concat([frame, frame.iloc[:3].assign(y=np.nan)])
    return bm.TaskData.from_frame(whole, **COLUMNS)


@pytest.fixture(scope="module")
def sums(folder) -> bm.TaskSummaries:
    return bm.TaskData.from_parquet(folder, **COLUMNS)


def in_memory(data: bm.TaskData) -> TaskStatistics:
    scales = data.standardization()
    return TaskStatistics.from_rows(
        scales.standardize_features(data.X),
        scales.standardize_target(data.y, data.task),
        data.task,
        data.num_tasks,
    )


def identical(first: bm.TaskSummaries, second: bm.TaskSummaries) -> bool:
    arrays = first.moments.to_arrays(), second.moments.to_arrays()
    return first.task_names == second.task_names and all(
        np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[0]
    )


def test_names_and_counts_are_those_of_the_rows(rows, sums):
    assert sums.task_names == rows.task_names and sums.feature_names == rows.feature_names
    assert sums.rows_per_task.tolist() == rows.rows_per_task.tolist()
    assert (sums.num_rows, sums.num_missing) == (rows.num_rows, int((~rows.observed).sum()))
    assert sums.num_missing == rows.num_missing > 0
    assert f"{sums.num_missing} of {sums.num_rows}" in repr(sums) and repr(sums)[:20] in sums._repr_html_()


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("kind", ["pooled", "task", "none"])
def test_standardised_statistics_are_those_of_the_rows(frame, folder, kind, intercept):
    # a mean of 1e6 standard deviations costs 6 of the 16 digits of the rows, the same in both
    enough = frame.groupby("lab")["y"].transform("count") > 1
    whole = pd.concat([frame[enough], frame[enough].iloc[:3].assign(y=np.nan)])
    data = bm.TaskData.from_frame(whole, **COLUMNS, intercept=intercept).with_target_standardization(kind)
    one = folder.parent / f"whole-{kind}-{intercept}.parquet"
    whole.to_parquet(one)
    read = bm.TaskData.from_parquet(one, **COLUMNS, intercept=intercept).with_target_standardization(kind)
    expected, found = data.standardization(), read.standardization()
    for name in ("feature_center", "feature_scale", "target_center", "target_scale"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-12, atol=1e-12)
    statistics, reference = TaskStatistics.from_moments(read.moments, found), in_memory(data)
    for name in ("gram", "cross", "square", "count"):
        whole_array = getattr(reference, name)
        np.testing.assert_allclose(
            getattr(statistics, name), whole_array, rtol=1e-8, atol=1e-8 * np.abs(whole_array).max()
        )


def test_sums_are_exact_where_means_are_large(tmp_path):
    """Against exact fractions: columns of mean 1e8 and spread 1, files whose own means drift by 1e3."""
    rng = np.random.default_rng(1)
    n = 400
    x = 1e8 + np.sort(rng.normal(size=n)) * 300
    frame = pd.DataFrame({"t": rng.integers(3, size=n), "x": x, "y": x - 1e8 + rng.normal(size=n)})
    for i in range(4):
        frame.iloc[i * 100 : (i + 1) * 100].to_parquet(tmp_path / f"{i}.parquet")
    read = bm.TaskData.from_parquet(tmp_path, task="t", target="y", features=["x"])
    exact = [Fraction(value) for value in x]
    mean = sum(exact) / n
    variance = sum((value - mean) ** 2 for value in exact) / n
    scales = read.standardization()
    assert scales.feature_center[1] == pytest.approx(float(mean), rel=1e-15)
    assert scales.feature_scale[1] ** 2 == pytest.approx(float(variance), rel=1e-12)
    about = read.moments.about(np.array([float(mean), 0.0]))
    for t in range(3):
        own = [value - Fraction(float(mean)) for value, u in zip(exact, frame["t"], strict=True) if u == t]
        assert about.second[t, 0, 0] == pytest.approx(float(sum(v * v for v in own)), rel=1e-12)


def test_pieces_do_not_matter(sums, folder, monkeypatch):
    """Chunks of 7 rows, and the files in another order: to rounding; the same files again: bit for bit."""
    assert identical(sums, bm.TaskData.from_parquet(str(folder / "*.parquet"), **COLUMNS))
    files = sorted(folder.glob("*.parquet"))
    backwards = bm.TaskData.from_parquet(files[::-1], **COLUMNS)
    monkeypatch.setattr(parquet, "_CHUNK", 7)
    for other in (backwards, bm.TaskData.from_parquet(folder, **COLUMNS)):
        assert other.task_names == sums.task_names
        moved = other.moments.about(sums.moments.reference)
        for name in ("rows", "count", "first", "second", "low", "high"):
            np.testing.assert_allclose(
                getattr(moved, name), getattr(sums.moments, name), rtol=1e-8, atol=1e-7, err_msg=name
            )


@pytest.mark.parametrize("sharing", [bm.Hierarchical(), bm.TaskCovariance()], ids=lambda s: type(s).__name__)
def test_a_fit_to_sums_is_the_fit_to_the_rows(frame, rows, sums, sharing, tmp_path):
    """Same seed, statistics equal to 1e-9: draws equal to a small share of their spread."""
    model = bm.LinearModel(sharing)
    fits = [model.fit(data, method="empirical_bayes", seed=0, **SMALL) for data in (rows, sums)]
    few = frame.head(5)

    def close(first, second):
        first, second = np.asarray(first), np.asarray(second)
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-4 * first.std())

    close(*(fit.predict(few).draws for fit in fits))
    close(*(fit.predict(few.assign(lab="x"), new_tasks="population").draws for fit in fits))
    close(*(fit.task_similarity(reference=few).draws for fit in fits))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bm.errors.ConvergenceWarning)
        close(*(fit.condition(few.assign(lab="x", y=1.0)).posterior["weights"] for fit in fits))
    fit = fits[1]
    assert f"{sums.num_missing} of {sums.num_rows} rows without a target" in repr(fit)
    with pytest.raises(DataError, match="looks at one by one"):
        fit.to_datatree()
    fit.save(tmp_path / "fit.nc")
    loaded = bm.load(tmp_path / "fit.nc")
    assert np.array_equal(loaded.predict(few).draws, fit.predict(few).draws)
    assert identical(loaded.data, sums) and repr(loaded.data) == repr(sums)
    assert loaded.task_similarity().draws.identical(fit.task_similarity().draws)


def test_reference_inputs_are_the_observed_rows(frame, rows, sums):
    observed = bm.TaskData.from_frame(frame.dropna(), **COLUMNS)
    for relative_to in ("nothing", "population"):
        similarities = [
            bm.LinearModel()
            .fit(data, method="empirical_bayes", seed=0, **SMALL)
            .task_similarity(relative_to=relative_to)
            .draws.to_numpy()
            for data in (observed, sums)
        ]
        np.testing.assert_allclose(*similarities, atol=1e-4)


@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_the_full_posterior_and_the_prior(sums):
    fit = bm.LinearModel(bm.Pooled()).fit(sums, method="exact", seed=0, num_warmup=20, **SMALL)
    assert fit.posterior["weights"].shape == (2, 20, sums.num_tasks, 4)
    prior = bm.LinearModel().sample_prior(sums, num_draws=5, seed=0)
    assert prior["weights"].shape == (1, 5, sums.num_tasks, 4)


def test_what_needs_rows_says_so(sums):
    with pytest.raises(DataError, match="the likelihood Categorical looks at one by one"):
        bm.LinearModel(likelihood=bm.Categorical()).fit(sums, seed=0)
    with pytest.raises(DataError, match="simulate looks at one by one"):
        bm.LinearModel().simulate(sums, seed=0)
    with pytest.raises(DataError, match="expected a TaskData"):
        bm.MultitaskGP().fit(sums, seed=0)


def test_memory_does_not_grow_with_rows(tmp_path, monkeypatch):
    """What NumPy allocates at its peak, for 20,000 and for 160,000 rows in chunks of 5,000."""
    monkeypatch.setattr(parquet, "_CHUNK", 5_000)
    peaks = []
    for n in (20_000, 160_000):
        rng = np.random.default_rng(0)
        frame = pd.DataFrame(
            {"t": rng.integers(50, size=n), "x": rng.normal(size=n), "y": rng.normal(size=n)}
        )
        frame.to_parquet(tmp_path / f"{n}.parquet", row_group_size=5_000)
        del frame
        tracemalloc.start()
        bm.TaskData.from_parquet(tmp_path / f"{n}.parquet", task="t", target="y", features=["x"])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0], peaks


BAD = {
    "no file": (None, "no file at"),
    "another schema": (lambda f: f.rename(columns={"dose": "dosis"}), "no such column"),
    "a task column of another type": (lambda f: f.assign(lab=f["lab"].astype(str)), "found type .*string"),
    "a feature of another type": (lambda f: f.assign(age=f["age"].astype(float)), "type int64 in every part"),
    "a feature of text": (lambda f: f.assign(dose="much"), "numbers or booleans"),
    "a missing feature": (lambda f: f.assign(dose=np.nan), "1[0-9]* values that are not"),
    "an infinite target": (lambda f: f.assign(y=np.inf), "finite targets, or missing ones"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_parts(frame, tmp_path, name):
    change, message = BAD[name]
    if change is not None:
        frame.head(20).to_parquet(tmp_path / "a.parquet")
        change(frame.head(15)).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=message) as caught:
        bm.TaskData.from_parquet(tmp_path, **COLUMNS)
    assert name == "no file" or "b.parquet" in str(caught.value)


def test_missing_labels(frame, tmp_path):
    for labels in (["x", None, "y"], [1.0, np.nan, 2.0]):
        frame.head(3).assign(lab=labels).to_parquet(tmp_path / "a.parquet")
        with pytest.raises(DataError, match="1 rows without one"):
            bm.TaskData.from_parquet(tmp_path, **COLUMNS)


def test_an_empty_part_and_a_part_without_targets_change_nothing(frame, tmp_path):
    frame.head(30).to_parquet(tmp_path / "a.parquet")
    alone = bm.TaskData.from_parquet(tmp_path, **COLUMNS)
    frame.head(0).to_parquet(tmp_path / "b.parquet")
    assert identical(alone, bm.TaskData.from_parquet(tmp_path, **COLUMNS))
    frame.head(0).to_parquet(tmp_path / "0.parquet")  # also where it comes first
    again = bm.TaskData.from_parquet(tmp_path, **COLUMNS)
    np.testing.assert_allclose(again.moments.second, alone.moments.second, rtol=1e-12)
    frame.head(5).assign(y=np.nan).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="at least one observed target"):
        bm.TaskData.from_parquet(tmp_path, **COLUMNS)


def test_categories_without_rows_are_no_tasks(frame, tmp_path):
    labels = pd.Categorical(["b", "a", "b"], categories=["c", "b", "a"])
    frame.head(3).assign(lab=labels).to_parquet(tmp_path / "a.parquet")
    assert bm.TaskData.from_parquet(tmp_path, **COLUMNS).task_names == ("a", "b")


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_part(folder, tmp_path, keep):
    for file in folder.glob("*.parquet"):
        content = file.read_bytes()
        cut = file.name == "part-1.parquet"
        (tmp_path / file.name).write_bytes(content[: int(keep * len(content))] if cut else content)
    with pytest.raises(DataError, match="part-1.parquet, which cannot be read"):
        bm.TaskData.from_parquet(tmp_path, **COLUMNS)


def test_damage_inside_a_part(frame, tmp_path):
    frame.to_parquet(tmp_path / "a.parquet", compression="gzip")
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[100:400] = b"\0" * 300
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(DataError, match="a.parquet, which cannot be read"):
        bm.TaskData.from_parquet(tmp_path, **COLUMNS)


def test_wrong_options(folder):
    with pytest.raises(SpecificationError, match=r'features=\["dose"\]'):
        bm.TaskData.from_parquet(folder, task="lab", target="y", features="dose")
    with pytest.raises(DataError, match="a column with one role"):
        bm.TaskData.from_parquet(folder, task="lab", target="y", features=["lab"])
    with pytest.raises(SpecificationError, match="dask.distributed.Client"):
        bm.TaskData.from_parquet(folder, **COLUMNS, client="localhost")


@contextmanager
def two_workers():
    """A client of two processes on this machine, and of those that replace killed ones.

    All are copies of a server process that has imported this package once: each would need seconds to do so.
    """
    distributed = pytest.importorskip("distributed")
    dask = pytest.importorskip("dask")
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        distributed.utils.get_mp_context().set_forkserver_preload(["distributed", "bayesmtl"])
        with (
            distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client


class LosingClient:
    """A client whose first worker to hold results is killed before they are fetched."""

    def __init__(self, client):
        self.client, self.killed = client, None
        self.submit = client.submit

    def map(self, *arguments, **options):
        from distributed import wait

        futures = self.client.map(*arguments, **options)
        wait(futures)
        address = next(workers[0] for workers in self.client.who_has(futures).values() if workers)
        self.killed = self.client.run(os.getpid, workers=[address])[address]
        os.kill(self.killed, signal.SIGKILL)
        return futures


@pytest.mark.slow
# a worker that is killed is reported, and so are ports and loops that close with it
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_gives_the_same_bits_and_a_killed_worker_loses_nothing(sums, folder, frame, tmp_path):
    with two_workers() as client:
        assert identical(sums, bm.TaskData.from_parquet(folder, **COLUMNS, client=client))
        losing = LosingClient(client)
        assert identical(sums, bm.TaskData.from_parquet(folder, **COLUMNS, client=losing))
        assert losing.killed is not None and losing.killed != os.getpid()
        frame.head(9).assign(dose=np.nan).to_parquet(tmp_path / "a.parquet")
        with pytest.raises(DataError, match="`dose`.*values that are not in .*a.parquet"):
            bm.TaskData.from_parquet(tmp_path, **COLUMNS, client=client)


def killer(name: str, diary: Path):
    """A plugin under which workers read chunks of 7 rows, and the first to read a second one of a part dies.

    Every chunk of the part is a line of the diary: the process that read it, and its number of rows. The
    class is made here so that workers get it as it is and need not import this file.
    """
    from distributed import WorkerPlugin

    class Killer(WorkerPlugin):
        def setup(self, worker):
            from bayesmtl.data import parquet

            parquet._CHUNK, following = 7, parquet._next

            def watched(batches, path):
                batch = following(batches, path)
                if path.endswith(name) and batch is not None:
                    first = diary.exists() and len(diary.read_text().splitlines()) == 1
                    with diary.open("a") as file:
                        file.write(f"{os.getpid()} {batch.num_rows}\n")
                    if first:
                        os.kill(os.getpid(), signal.SIGKILL)
                return batch

            parquet._next = watched

    return Killer()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # as above
def test_a_worker_killed_inside_a_part_loses_nothing(folder, tmp_path, monkeypatch):
    """What it had added up goes with it: another worker reads the part from its beginning, once."""
    monkeypatch.setattr(parquet, "_CHUNK", 7)
    alone, diary = bm.TaskData.from_parquet(folder, **COLUMNS), tmp_path / "diary"
    with two_workers() as client:
        client.register_plugin(killer("part-1.parquet", diary))  # for those that replace the dead one, too
        together = bm.TaskData.from_parquet(folder, **COLUMNS, client=client)
        alive = set(client.run(os.getpid).values())
    assert identical(together, alone)
    lines = [line.split() for line in diary.read_text().splitlines()]
    processes, lengths = zip(*((int(process), int(length)) for process, length in lines), strict=True)
    assert processes[0] == processes[1] and processes[0] not in alive | {os.getpid()}
    assert lengths[:2] == (7, 7) and len(set(processes[2:])) == 1 and processes[2] != processes[0]
    whole = pd.read_parquet(folder / "part-1.parquet")
    assert sum(lengths[2:]) == len(whole) and len(lengths) - 2 == -(-len(whole) // 7)
