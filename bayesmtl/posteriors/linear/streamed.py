"""Rows that are read again and again, a chunk at a time, and never held as a whole.

On paper                                                        In code
rows i of task t, n_t of them, in any order in the files        `RowStream.chunks`
S_t: at most M rows of task t, drawn without replacement        `RowStream.sample`: one pass
sum over t and i of l_ti, expected value of                     `StreamedBatches.draw`
    T/T_b sum over t in batch of n_t/|S_t| |S_t|/m sum of l_ti
L's mode given hyperparameters, G_t and b_t there               `sums_at`: a pass for each Newton step

A pass holds a sample of the rows: some tasks drawn at random (all, where they fit) and of each at most M
rows, every subset of that size as likely as any other. Which these are is drawn before the pass, from the
numbers of rows that the sums know, so the order of the rows in the files is irrelevant: files sorted by task
or by time do as well as shuffled ones. Minibatches are drawn from the sample until they have had as many rows
as it has, then a new pass replaces it: used more often, its noise would be learned as differences of tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from bayesmtl.algebra.moments import posterior_mean
from bayesmtl.algebra.statistics import TaskStatistics
from bayesmtl.data import Standardization, TaskSummaries
from bayesmtl.likelihoods import Given, Rowwise
from bayesmtl.parameters import Values
from bayesmtl.posteriors.linear.batches import Batch, HeldRows
from bayesmtl.posteriors.linear.rows import RowwisePosterior, StandardRows
from bayesmtl.posteriors.posterior import Trait

ROWS_HELD = 2**19
"""Rows held at once, at most, besides the chunk that is read: some 60 MB with ten features."""

LEAST_ROWS = 8  # of a task: with fewer, some of the tasks are left for other passes
_NEWTON_STEPS = 5  # to where pseudo-rows start; they are learned after that
_SETS_AT_ONCE, _KEYS = 256, 2**20  # subsets drawn together, by random keys where these are no more
_LEAST_PRECISION = 1e-10  # of a pseudo-row, as in `LaplaceMarginal`


@dataclass(frozen=True, eq=False)
class RowStream:
    """The observed rows behind sums per task, in standardised units.

    Args:
        data: Sums of the rows, and where they are.
        standardization: Centres and scales.
        likelihood: That of the tasks at these positions.
    """

    data: TaskSummaries
    standardization: Standardization
    likelihood: Rowwise

    @property
    def count(self) -> np.ndarray:
        """Number of observed rows of each task (T,)."""
        return self.data.observed_per_task

    def chunks(self) -> Iterator[StandardRows]:
        """All rows, in the order of the files."""
        for chunk in self.data.chunks():
            yield StandardRows.of(chunk, chunk.task, self.standardization, self.likelihood)

    def sample(self, num_tasks: int, most: int, rng: np.random.Generator) -> HeldRows:
        """Some tasks and at most `most` rows of each, each subset as likely as any other, by one pass.

        Args:
            num_tasks: Number of tasks, at most.
            most: Number of rows of each.
            rng: Source of randomness.
        """
        T, n = len(self.count), self.count
        tasks = np.arange(T) if num_tasks >= T else np.sort(rng.permutation(T)[:num_tasks])
        first, held = n.cumsum() - n, np.minimum(n[tasks], most)  # first row, were they sorted by task
        wanted = np.repeat(first[tasks], held) + subsets(n[tasks], most, rng)
        behind = np.append(wanted, -1)  # what stands where a row has no place
        X = np.empty((len(wanted), self.data.num_features))
        carried = np.zeros((4, len(wanted)))
        seen, where = np.zeros(T, dtype=np.int64), wanted

        def keep(task: np.ndarray) -> np.ndarray:
            nonlocal where
            # small numbers are sorted faster
            order = np.argsort(task.astype(np.uint16) if T <= 2**16 else task, kind="stable")
            own = np.bincount(task, minlength=T)
            row = np.arange(len(task)) + np.repeat(first + seen - (own.cumsum() - own), own)
            place = np.searchsorted(wanted, row)
            hit = behind[place] == row
            seen[:] += own
            where = place[hit]
            return np.asarray(order[hit])

        for chunk in self.data.chunks(keep=keep):
            rows = StandardRows.of(chunk, chunk.task, self.standardization, self.likelihood)
            X[where] = rows.X
            for j, values in enumerate((rows.y, rows.offset, rows.trials, rows.weights)):
                carried[j, where] = (0.0 if j == 1 else 1.0) if values is None else values
        carried[3] *= np.repeat(n[tasks] / np.maximum(held, 1), held)
        return HeldRows(tasks, held, X, *carried)


def subsets(n: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """For each of the numbers n_t (T,) at most `most` numbers below it, one set after the other, each sorted.

    All sets of a size are as likely.
    """
    most = min(most, int(n.max(initial=0)))
    chosen = np.tile(np.arange(most), (len(n), 1))
    large = np.flatnonzero(n > most)
    large = large[np.argsort(n[large], kind="stable")]
    for some in np.array_split(large, -(-len(large) // _SETS_AT_ONCE)) if len(large) else ():
        width = int(n[some].max())
        if width * len(some) <= _KEYS:
            keys = rng.random((len(some), width))
            keys[np.arange(width) >= n[some][:, None]] = 2.0  # there is no such number
            chosen[some] = np.sort(np.argpartition(keys, most - 1, axis=1)[:, :most], axis=1)
        else:
            for t in some:
                chosen[t] = np.sort(rng.choice(n[t], most, replace=False))
    return np.asarray(chosen[np.arange(most) < np.minimum(n, most)[:, None]])


class StreamedBatches:
    """Minibatches of rows that are read in passes.

    Args:
        stream: The rows.
        num_tasks: Tasks in each.
        num_rows: Rows of each task.
        most: Rows to hold at once.
    """

    def __init__(self, stream: RowStream, num_tasks: int, num_rows: int, most: int):
        self.stream, self.num_tasks, self.num_rows = stream, num_tasks, num_rows
        count = stream.count
        # few rows of all tasks before many of some: what tasks share is learned from how they differ
        self.tasks_held = min(len(count), max(1, most // min(LEAST_ROWS, int(count.max()))))
        self.rows_held = max(1, most // self.tasks_held)
        self.whole = self.tasks_held == len(count) and self.rows_held >= count.max()
        self.held: HeldRows | None = None
        self.left = 0  # rows of the sample, less those that minibatches have had

    def draw(self, rng: np.random.Generator) -> Batch:
        """One minibatch."""
        if self.held is None or (self.left <= 0 and not self.whole):
            self.held = None  # so that there is one sample at a time
            self.held = self.stream.sample(self.tasks_held, self.rows_held, rng)
            self.left = len(self.held.y)
        batch = self.held.draw(self.num_tasks, self.num_rows, rng)
        self.left -= int((batch.weight > 0).sum())
        return batch


@dataclass(frozen=True, eq=False, kw_only=True)
class StreamedPosterior(RowwisePosterior):
    """The posterior of outcomes whose rows are not in memory.

    Args:
        stream: The rows, to be read a chunk at a time.
    """

    stream: RowStream

    @property
    def traits(self) -> frozenset[Trait]:
        """See `Posterior.traits`."""
        return (super().traits - {Trait.ROWS}) | {Trait.STREAMED}

    def batches(self, num_tasks: int, num_rows: int) -> StreamedBatches:
        """See `LinearPosterior.batches`."""
        return StreamedBatches(self.stream, num_tasks, num_rows, ROWS_HELD)

    def sums_at(self, values: Values) -> tuple[torch.Tensor, torch.Tensor]:
        """G_t (T, D, D) and b_t (T, D) of the pseudo-data at the mode of the weights, for one value.

        Newton's method as in `LaplaceMarginal`, each step one pass over the rows: a few full steps, which
        suffice for a start.
        """
        T, D = self.tasks.num_tasks, self.tasks.num_features
        structure, one = self.structure(values), torch.ones(1, 1, dtype=torch.float64)
        weights, total = None, TaskStatistics.empty(T, D)
        for step in range(_NEWTON_STEPS):
            sums = TaskStatistics.empty(T, D)
            for rows in self.stream.chunks():
                sums = sums + _expanded(
                    self.rowwise, rows, T, values, weights, last=step == _NEWTON_STEPS - 1
                )
            if not np.isfinite(sums.gram).all() or not np.isfinite(sums.cross).all():
                break  # a step too far: what is there will do
            total = sums
            weights = posterior_mean(total.compress(), structure, one)[0].numpy()
        return torch.from_numpy(total.gram), torch.from_numpy(total.cross)


def _expanded(
    likelihood: Rowwise,
    rows: StandardRows,
    num_tasks: int,
    values: Values,
    weights: np.ndarray | None,
    *,
    last: bool,
) -> TaskStatistics:
    """Sums over pseudo-rows that stand for rows at the weights (T, D), or at the likelihood's own start."""
    y = torch.from_numpy(rows.y)
    trials = None if rows.trials is None else torch.from_numpy(rows.trials)
    given = Given(values, trials, torch.from_numpy(rows.task))
    known = np.zeros(len(y)) if rows.offset is None else rows.offset
    if weights is None:
        f = likelihood.start(y, given)[None]
    else:
        f = torch.from_numpy(known + np.einsum("nd,nd->n", rows.X, weights[rows.task]))[None]
    at = likelihood.derivatives(y, f, given)
    omega = -at.second
    if not likelihood.log_concave:
        omega = (likelihood.information if last else likelihood.step_precision)(y, f, given)
    precision = np.maximum(omega[0].numpy(), _LEAST_PRECISION)
    target = f[0].numpy() - known + at.first[0].numpy() / precision
    counts = precision if rows.weights is None else precision * rows.weights
    return TaskStatistics.from_rows(rows.X, target, rows.task, num_tasks, counts)
