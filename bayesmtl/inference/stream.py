"""Rows that are read again and again, a chunk at a time, and never held as a whole.

On paper                                                        In code
rows i of task t, n_t of them, in any order in the files        `RowStream.chunks`
S_t: at most M rows of task t, drawn without replacement        `RowStream.sample`: one pass
sum over t and i of l_ti, expected value of                     `StreamedBatches.draw`
    T/T_b sum over t in batch of n_t/|S_t| |S_t|/m sum of l_ti
L's mode given hyperparameters, G_t and b_t there               `mode_sums`: a pass for each Newton step

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
from bayesmtl.inference.batches import Batch, HeldRows
from bayesmtl.inference.problem import Problem, StandardRows
from bayesmtl.likelihoods import Given, Rowwise
from bayesmtl.parameters import Values

ROWS_HELD = 2**19
"""Rows held at once, at most, besides the chunk that is read: some 60 MB with ten features."""

LEAST_ROWS = 8  # of a task: with fewer, some of the tasks are left for other passes
_NEWTON_STEPS = 5  # to where pseudo-rows start; they are learned after that
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
        first = n.cumsum() - n  # of each task, were the rows sorted by task
        wanted = np.concatenate(
            [
                first[t]
                + (np.arange(n[t]) if n[t] <= most else np.sort(rng.choice(n[t], most, replace=False)))
                for t in tasks
            ]
        )
        behind = np.append(wanted, -1)  # what stands where a row has no place
        D, seen = self.data.num_features, np.zeros(T, dtype=np.int64)
        X, carried = np.empty((len(wanted), D)), np.zeros((4, len(wanted)))
        for chunk in self.data.chunks():
            order = np.argsort(chunk.task, kind="stable")
            own = np.bincount(chunk.task, minlength=T)
            task = chunk.task[order]
            number = first[task] + seen[task] + np.arange(len(task)) - (own.cumsum() - own)[task]
            place = np.searchsorted(wanted, number)
            hit = behind[place] == number
            some = chunk.take(order[hit])
            rows = StandardRows.of(some, some.task, self.standardization, self.likelihood)
            X[place[hit]] = rows.X
            for j, values in enumerate((rows.y, rows.offset, rows.trials, rows.weights)):
                carried[j, place[hit]] = (0.0 if j == 1 else 1.0) if values is None else values
            seen += own
        held = np.minimum(n[tasks], most)
        carried[3] *= np.repeat(n[tasks] / np.maximum(held, 1), held)
        return HeldRows(tasks, held, X, *carried)


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


def mode_sums(problem: Problem, values: Values) -> tuple[torch.Tensor, torch.Tensor]:
    """G_t (T, D, D) and b_t (T, D) of the pseudo-data at the mode of the weights, for one value.

    Newton's method as in `LaplaceMarginal`, each step one pass over the rows: a few full steps, which suffice
    for a start.
    """
    assert problem.stream is not None
    T, D = problem.tasks.num_tasks, problem.tasks.num_features
    structure, one = problem.structure(values), torch.ones(1, 1, dtype=torch.float64)
    weights, total = None, TaskStatistics.empty(T, D)
    for step in range(_NEWTON_STEPS):
        sums = TaskStatistics.empty(T, D)
        for rows in problem.stream.chunks():
            sums = sums + _expanded(problem.rowwise, rows, T, values, weights, last=step == _NEWTON_STEPS - 1)
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
