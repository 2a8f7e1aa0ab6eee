"""What every benchmark needs: arguments, timing, tables, and a line that says where it ran."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from arviz_stats.base import array_stats

import bayesmtl as bm
from bayesmtl.algebra.statistics import TaskStatistics
from bayesmtl.posteriors.linear.posterior import LinearPosterior

torch.set_num_threads(1)

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Options:
    """How a benchmark was asked to run.

    Args:
        reduced: Little data and few draws: whether it runs, not how well.
        cap: Seconds after which a slow peer is stopped.
        simulations: Simulated data sets per model, where there are any.
    """

    reduced: bool = False
    cap: float = 1200.0
    simulations: int = 200


@dataclass
class Watch:
    """Wall and processor seconds of a block; the second exceeds the first when more than one core is used."""

    wall: float = 0.0
    cpu: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.wall += time.perf_counter() - wall
            self.cpu += time.process_time() - cpu


def environment(packages: Sequence[str] = ()) -> str:
    """Versions, threads and cores, one line."""
    named = ("bayesmtl", "torch", "numpy", *packages)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in named)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ["OMP_NUM_THREADS"]
    return f"Python {platform.python_version()}, {versions}; {threads} thread of {cores} cores"


def _processor_ticks() -> np.ndarray | None:
    """Ticks of all processors by kind since the machine started, as Linux counts them; `None` elsewhere."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    return np.array(path.read_text(encoding="ascii").splitlines()[0].split()[1:], dtype=float)


def _stolen_since(before: np.ndarray | None) -> str:
    """How much of the time in which a processor was wanted a virtual machine's host gave to others."""
    after = _processor_ticks()
    if before is None or after is None:
        return ""
    spent = after - before
    idle, stolen = spent[3] + spent[4], spent[7]
    share = stolen / max(spent[:8].sum() - idle, 1.0)
    return f"; the host withheld {100 * share:.0f} % of the processor time that was asked for"


def table(frame: pd.DataFrame, digits: int = 2) -> str:
    """A frame as a Markdown table; its index is the first column."""

    def text(value: object) -> str:
        if isinstance(value, (float, np.floating)):
            return "-" if np.isnan(value) else f"{value:.{digits}f}"
        return str(value).replace("|", r"\|")

    head = [str(frame.index.name or ""), *map(str, frame.columns)]
    rows = [
        [text(label), *map(text, row)] for label, row in zip(frame.index, frame.to_numpy(object), strict=True)
    ]
    rule = ["---", *("---:" for _ in frame.columns)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def verdict(name: str, *, ok: bool, found: str) -> str:
    """One line that says whether a requirement is met."""
    return f"- {'PASS' if ok else 'FAIL'}: {name} ({found})"


def main(name: str, title: str, run: Callable[[Options], str], packages: Sequence[str] = ()) -> None:
    """Run a benchmark, print its report, and write it to results/NAME.md (not when reduced)."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=title)
    parser.add_argument("--reduced", action="store_true", help="little data, to see that it runs")
    parser.add_argument("--cap", type=float, default=Options.cap, help="seconds that a slow peer may take")
    parser.add_argument(
        "--simulations", type=int, default=Options.simulations, help="data sets per model of the calibration"
    )
    parser.add_argument("--out", type=Path, help="folder for the report (default benchmarks/results)")
    given = parser.parse_args()
    before = _processor_ticks()
    try:
        body = run(Options(given.reduced, given.cap, given.simulations))
    except (bm.errors.MissingDataSetError, bm.errors.MissingDependencyError) as error:
        sys.exit(f"Skipped: {error}")
    asked = " --reduced" if given.reduced else ""
    asked += f" --cap {given.cap:g}" if given.cap != Options.cap else ""
    asked += f" --simulations {given.simulations}" if given.simulations != Options.simulations else ""
    command = f"OMP_NUM_THREADS=1 python -m benchmarks.{name}{asked}"
    head = f"# {title}\n\n`{command}`  \n{environment(packages)}{_stolen_since(before)}\n\n"
    print(head + body)
    out = given.out or (None if given.reduced else RESULTS)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.md").write_text(head + body.rstrip() + "\n", encoding="utf-8")


def prepare(model: bm.LinearModel, data: bm.TaskData) -> LinearPosterior:
    """The pass over the data of `model.fit`: standardise, sum up per task, compress.

    Together with an engine this is `model.fit` without its verdict, so that the parts can be timed.
    """
    standardization = data.standardization()
    statistics = TaskStatistics.from_rows(
        standardization.standardize_features(data.X),
        standardization.standardize_target(data.y, data.task),
        data.task,
        data.num_tasks,
    )
    return LinearPosterior(
        model.sharing,
        model.likelihood,
        statistics.compress(),
        data.task_names,
        standardization.target_scale,
    )


def bulk_ess(draws: np.ndarray) -> np.ndarray:
    """Rank-normalised bulk effective sample size of quantities (C, N, K); constants get NaN."""
    return np.asarray(array_stats.ess(draws, chain_axis=0, draw_axis=1, method="bulk"))


def rhat(draws: np.ndarray) -> np.ndarray:
    """Rank-normalised split R-hat of quantities (C, N, K)."""
    return np.asarray(array_stats.rhat(draws, chain_axis=0, draw_axis=1, method="rank"))


def mcse_mean(draws: np.ndarray) -> np.ndarray:
    """Monte Carlo standard error of the means of quantities (C, N, K)."""
    ess = np.asarray(array_stats.ess(draws, chain_axis=0, draw_axis=1, method="mean"))
    return np.asarray(draws.std(axis=(0, 1), ddof=1) / np.sqrt(ess))


def school(columns: str) -> bm.TaskData:
    """School in one of two designs.

    Args:
        columns: "every level": one column per level (but vr_band 0), as in the literature, 27 and the
            intercept. "reference levels": full rank, 22 and the intercept.
    """
    dataset = bm.datasets.load("school")
    frame, features = dataset.frame, list(dataset.features)
    if columns == "reference levels":
        return bm.TaskData.from_frame(frame, task=dataset.task, target=dataset.target, features=features)
    X = pd.get_dummies(frame[features], dtype=float).drop(columns="vr_band_0")
    return bm.TaskData.from_arrays(
        X, frame[dataset.target], frame[dataset.task], task_column=dataset.task, target_name=dataset.target
    )


# a benchmark reports effective sample sizes itself
warnings.filterwarnings("ignore", category=bm.errors.ConvergenceWarning)
