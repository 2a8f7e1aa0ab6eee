"""Sums per task that stand for the rows of a Gaussian model, and that add up over parts of a table.

Sums are taken about a reference point near the mean of the rows, so that a large mean costs no precision, and
moved to a common one when parts meet (as Chan, Golub and LeVeque, 1983, merge variances). The order in which
parts are merged decides the last bits; whoever merges keeps it fixed.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from bayesmtl.data.labels import label_of, sort_order
from bayesmtl.data.robust import UNLIKE, ratio_of
from bayesmtl.data.standardization import Standardization, TargetKind, check_target_kind, is_constant
from bayesmtl.errors import DataError, listing

_PER_TASK = ("rows", "observed", "count", "first", "second", "carried")
_STRIP = 4096  # rows turned from columns at once: few enough to stay in the processor's cache


@dataclass(frozen=True, eq=False)
class TaskMoments:
    """Sums of v = (features without the intercept, target) over the observed rows of each task, p columns.

    A row counts as often as its weight says, and its target is less its offset.

    Attributes:
        names: Names of the T tasks.
        reference: Point r about which sums are taken (p,).
        rows: Number of rows of each task, with and without a target (T,).
        observed: Number of observed rows (T,).
        count: How often they count (T,), their number where they have no weights.
        first: Sums of v - r (T, p).
        second: Sums of (v - r)(v - r)' (T, p, p).
        low: Smallest observed value of each column (p,); infinity where there is none.
        high: Largest.
        carried: Sums of what rows carry: offset, exp(offset) and trials (T, 3).
    """

    names: tuple[str, ...]
    reference: np.ndarray
    rows: np.ndarray
    observed: np.ndarray
    count: np.ndarray
    first: np.ndarray
    second: np.ndarray
    low: np.ndarray
    high: np.ndarray
    carried: np.ndarray

    def about(self, reference: np.ndarray) -> TaskMoments:
        """The same sums about another point."""
        step = self.reference - reference
        if not step.any():
            return self
        cross = self.first[:, :, None] * step
        second = self.second + cross + np.swapaxes(cross, 1, 2)
        second += self.count[:, None, None] * np.outer(step, step)
        first = self.first + self.count[:, None] * step
        return replace(self, reference=reference, first=first, second=second)

    def merge(self, other: TaskMoments) -> TaskMoments:
        """The sums over the rows of both; tasks of `other` that are new here come behind the known ones."""
        mine, theirs = self.count.sum(), other.count.sum()
        share = theirs / max(mine + theirs, 1.0)
        reference = self.reference + share * (other.reference - self.reference)
        left, right = self.about(reference), other.about(reference)
        position = {name: index for index, name in enumerate(self.names)}
        added = [name for name in other.names if name not in position]
        position |= {name: len(self.names) + index for index, name in enumerate(added)}
        where = np.array([position[name] for name in other.names], dtype=int)
        sums: dict[str, Any] = {}
        for name in _PER_TASK:
            own = getattr(left, name)
            total = np.concatenate([own, np.zeros((len(added), *own.shape[1:]))])
            total[where] += getattr(right, name)
            sums[name] = total
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return TaskMoments((*self.names, *added), reference, low=low, high=high, **sums)

    def averages(self) -> dict[str, np.ndarray]:
        """Means over the observed rows of each task that has any, and how often these count, each (T',).

        "y" (with its offset), "offset", "log_exposure" (logarithm of the mean of exp(offset)), "trials" and
        "counts".
        """
        some = self.count > 0
        n = self.count[some]
        offset, exposure, trials = self.carried[some].T / n
        y = self.reference[-1] + self.first[some, -1] / n + offset
        with np.errstate(divide="ignore"):
            return {"y": y, "offset": offset, "log_exposure": np.log(exposure), "trials": trials, "counts": n}

    def in_order(self) -> TaskMoments:
        """Tasks sorted by name, as those of a frame are."""
        order = sort_order(self.names)
        sums = {name: getattr(self, name)[order] for name in _PER_TASK}
        return replace(self, names=tuple(self.names[t] for t in order), **sums)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All but the names, for files."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "names"}

    def standardization(self, *, intercept: bool, target: TargetKind) -> Standardization:
        """Centres and scales over the observed rows, as `Standardization.of` measures them on the rows.

        Raises:
            DataError: If `target` is "task" and some task has fewer than two distinct observed targets.
        """
        check_target_kind(target)
        n = self.count.sum()
        centers, scales = [0.0] * intercept, [1.0] * intercept
        for j in range(len(self.reference) - 1):
            center, scale = self._column(j, n, self.first[:, j].sum(), self.second[:, j, j].sum(), intercept)
            centers.append(center)
            scales.append(scale)
        T = len(self.names)
        if target == "auto":
            target = self._kind()
        if target == "none":
            pairs = np.tile([0.0, 1.0], (T, 1))
        elif target == "pooled":
            center, scale = self._column(
                -1, n, self.first[:, -1].sum(), self.second[:, -1, -1].sum(), intercept
            )
            flat = intercept and is_constant(np.array([self.low[-1], self.high[-1]]))
            pairs = np.tile([center, 1.0 if flat else scale], (T, 1))
        else:
            pairs = self._by_task(intercept)
        return Standardization(
            np.array(centers), np.array(scales), pairs[:, 0], pairs[:, 1], target, intercept
        )

    def feature_moments(self, standardization: Standardization) -> tuple[np.ndarray, np.ndarray]:
        """Moments of the standardised features about zero and about their mean, (D, D) each."""
        one = int(standardization.intercept)
        D, n = len(self.reference) - 1 + one, self.count.sum()
        center, scale = standardization.feature_center[one:], standardization.feature_scale[one:]
        off = self.first[:, :-1].sum(axis=0) / n
        mean, centred = np.ones(D), np.zeros((D, D))
        mean[one:] = (self.reference[:-1] + off - center) / scale
        centred[one:, one:] = self.second[:, :-1, :-1].sum(axis=0) / n - np.outer(off, off)
        centred[one:, one:] /= np.outer(scale, scale)
        return centred + np.outer(mean, mean), centred

    def _column(self, j: int, n: float, first: float, second: float, centred: bool) -> tuple[float, float]:
        """Centre and scale of a column from its sums."""
        low, high = float(self.low[j]), float(self.high[j])
        if is_constant(np.array([low, high])):
            return (low if centred else 0.0), max(abs(low), abs(high)) or 1.0
        mean, spread = first / n, second / n
        if centred:
            return float(self.reference[j] + mean), float(np.sqrt(spread - mean**2))
        return 0.0, float(np.sqrt(spread + 2 * self.reference[j] * mean + self.reference[j] ** 2))

    def _targets(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of each task: mean and mean square about the reference, variance, and whether it is flat."""
        count = np.maximum(self.count, 1.0)
        mean, spread = self.first[:, -1] / count, self.second[:, -1, -1] / count
        variance = spread - mean**2
        # the spread of equal targets is rounding error, relative to what was squared
        flat = (self.observed < 2) | (variance <= 1e-13 * np.maximum(spread, np.finfo(float).tiny))
        return mean, spread, variance, flat

    def _kind(self) -> TargetKind:
        """What "auto" means; sums know no quantiles, so that outliers count here."""
        _, _, variance, flat = self._targets()
        sizes = np.sqrt(np.maximum(variance, 0.0))
        return "task" if not flat.any() and ratio_of(sizes, self.observed) > UNLIKE else "pooled"

    def _by_task(self, centred: bool) -> np.ndarray:
        mean, spread, variance, flat = self._targets()
        if flat.any():
            raise DataError(
                "target_standardization",
                expected="at least two different observed targets in every task",
                found=f"fewer in {listing([self.names[t] for t in np.flatnonzero(flat)])}",
                remedy='Use "pooled", which gives all tasks one scale.',
            )
        reference = self.reference[-1]
        if centred:
            return np.stack([reference + mean, np.sqrt(variance)], axis=1)
        return np.stack([np.zeros_like(mean), np.sqrt(spread + 2 * reference * mean + reference**2)], axis=1)


class Accumulator:
    """Adds up chunks of rows of one part, about the mean of its first chunk.

    Args:
        num_columns: p, the features without the intercept and the target.
    """

    def __init__(self, num_columns: int):
        p = num_columns
        self.labels: dict[Hashable, int] = {}
        self.reference: np.ndarray | None = None
        self.low, self.high = np.full(p, np.inf), np.full(p, -np.inf)
        self.rows, self.observed = np.zeros(0), np.zeros(0)
        self.products = np.zeros((0, p + 1, p + 1))  # of (v - r, 1)
        self.carried = np.zeros((0, 3))
        self._room = np.empty((0, p + 1))

    def add(
        self,
        values: np.ndarray,
        codes: np.ndarray,
        labels: Sequence[Hashable],
        extremes: tuple[np.ndarray, np.ndarray],
        carried: Mapping[str, np.ndarray],
    ) -> None:
        """Add rows.

        Args:
            values: Features and target (less its offset) by column (p, n); the target NaN where not observed.
            codes: Task of each row (n,), indices into `labels`.
            labels: Tasks of this chunk.
            extremes: Smallest and largest value of each column (p,), missing targets apart.
            carried: Offset, weights and trials of the rows, each (n,), where they have them.
        """
        places = [self.labels.setdefault(label, len(self.labels)) for label in labels]
        known, merged = np.unique(np.array(places, dtype=int), return_inverse=True)
        codes = merged[codes]
        self._make_room()
        count = np.bincount(codes, minlength=len(known))
        self.rows[known] += count
        seen = ~np.isnan(values[-1])
        if not seen.all():
            values, codes = values[:, seen], codes[seen]
            carried = {name: column[seen] for name, column in carried.items()}
            extremes = values.min(axis=1, initial=np.inf), values.max(axis=1, initial=-np.inf)
            count = np.bincount(codes, minlength=len(known))
        p, n = values.shape
        if not n:
            return
        self.observed[known] += count
        self._add_carried(codes, known, carried)
        if self.reference is None:
            self.reference = values.mean(axis=1)
        np.minimum(self.low, extremes[0], out=self.low)
        np.maximum(self.high, extremes[1], out=self.high)
        if len(self._room) <= n:
            self._room = np.empty((n + 1, p + 1))
        padded = self._room[: n + 1]
        for start in range(0, n, _STRIP):
            strip = slice(start, min(n, start + _STRIP))
            padded[strip, :-1] = (values[:, strip] - self.reference[:, None]).T
        padded[:-1, -1] = 1.0
        if "weights" in carried:
            padded[:-1] *= np.sqrt(carried["weights"])[:, None]
        padded[-1] = 0.0  # stands for no row
        narrow = codes.astype(np.uint16) if len(known) <= 2**16 else codes  # sorted faster
        order = np.append(np.argsort(narrow, kind="stable"), n)
        starts = np.cumsum(count) - count
        # tasks of about the same size are one batch of products, padded with rows of zeros
        size_class = np.frexp(np.maximum(count - 1, 0).astype(float))[1]
        for size in np.unique(size_class[count > 0]):
            tasks = np.flatnonzero((size_class == size) & (count > 0))
            offset = np.arange(count[tasks].max())
            inside = offset < count[tasks][:, None]
            where = order[np.where(inside, starts[tasks][:, None] + offset, n)]
            block = padded.take(where, axis=0)  # three times as fast as indexing
            self.products[known[tasks]] += np.swapaxes(block, 1, 2) @ block

    def _add_carried(self, codes: np.ndarray, known: np.ndarray, carried: Mapping[str, np.ndarray]) -> None:
        if not carried:  # filled in at the end
            return
        nothing = np.ones(len(codes))
        weights, offset = carried.get("weights", nothing), carried.get("offset", 0.0 * nothing)
        with np.errstate(over="ignore"):  # of a large offset only counts need the exponential
            columns = (offset, np.exp(offset), carried.get("trials", nothing))
        for j, column in enumerate(columns):
            self.carried[known, j] += np.bincount(codes, weights * column, minlength=len(known))

    def _make_room(self) -> None:
        T, held = len(self.labels), len(self.rows)
        if held < T:
            more = max(T, 2 * held) - held
            for name in ("rows", "observed", "products", "carried"):
                own = getattr(self, name)
                setattr(self, name, np.concatenate([own, np.zeros((more, *own.shape[1:]))]))

    def finish(self) -> TaskMoments:
        """What was added up."""
        T = len(self.labels)
        reference = np.zeros(len(self.low)) if self.reference is None else self.reference
        total, carried = self.products[:T], self.carried[:T]
        if not carried.any():
            carried = total[:, -1, -1, None] * np.array([0.0, 1.0, 1.0])
        return TaskMoments(
            names=tuple(label_of(label) for label in self.labels),
            reference=reference,
            rows=self.rows[:T],
            observed=self.observed[:T],
            count=total[:, -1, -1],
            first=total[:, :-1, -1],
            second=total[:, :-1, :-1],
            low=self.low,
            high=self.high,
            carried=carried,
        )
