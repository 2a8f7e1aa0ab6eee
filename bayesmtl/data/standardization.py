"""The one place where scales are changed, and changed back.

Models work on standardised features and targets; everything that leaves them goes through here once more.
With feature centres c, feature scales s, target centre m_t and target scale q_t of task t,

    x~_j = (x_j - c_j) / s_j        y~ = (y - m_t) / q_t        f_t(x) = m_t + q_t * x~' w~_t = x' w_t
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from statistics import NormalDist
from typing import Any, Literal, get_args

import numpy as np

from bayesmtl.data.robust import UNLIKE, ratio_of_sizes, robust_center_and_scale
from bayesmtl.errors import DataError, SpecificationError, listing

TargetKind = Literal["auto", "pooled", "task", "none"]
"""How targets are standardised. "auto", of data only, is "task" where their sizes differ between tasks by
more than `robust.UNLIKE`, and "pooled" otherwise."""

_CONSTANT = 1e-13  # spread relative to the largest value, below which a column only varies by rounding


@dataclass(frozen=True, eq=False)
class Standardization:
    """Centres and scales of features and targets, and every conversion between the two kinds of units.

    With an intercept, features are centred at their mean and divided by their standard deviation; without
    one nothing is centred, and they are divided by their root mean square. A constant feature is divided by
    its own size. All methods take leading dimensions (draws, chains) as they come.

    Attributes:
        feature_center: Centres c (D,), in the features' units; 0 for the intercept.
        feature_scale: Scales s (D,), in the features' units, positive; 1 for the intercept.
        target_center: Centre m_t of each task's target (T,), in the target's units.
        target_scale: Scale q_t of each task's target (T,), positive.
        target: "pooled" (one centre and scale for all tasks), "task" (each its own) or "none" (0 and 1).
        intercept: Whether the first feature is the constant 1.
        level_by_predictor: Known part of each linear predictor of a row (C,), where it has several, as under
            classes; empty elsewhere.

    Example:
        >>> X = np.array([[1.0, 10.0], [1.0, 30.0]])
        >>> scales = Standardization.of(X, np.array([5.0, 9.0]), np.array([0, 0]), ("a",), intercept=True)
        >>> scales.standardize_features(X).tolist()
        [[1.0, -1.0], [1.0, 1.0]]
        >>> weights = np.array([[0.0, 1.0]])  # the target rises by one sd per sd of the feature
        >>> scales.weights_to_user(weights).tolist()
        [[3.0, 0.2]]
    """

    feature_center: np.ndarray
    feature_scale: np.ndarray
    target_center: np.ndarray
    target_scale: np.ndarray
    target: TargetKind
    intercept: bool
    level_by_predictor: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        for name in (
            "feature_center",
            "feature_scale",
            "target_center",
            "target_scale",
            "level_by_predictor",
        ):
            values = np.array(getattr(self, name), dtype=np.float64)
            values.setflags(write=False)
            object.__setattr__(self, name, values)

    @classmethod
    def of(
        cls,
        X: np.ndarray,
        y: np.ndarray,
        task: np.ndarray,
        task_names: Sequence[str],
        *,
        intercept: bool,
        target: TargetKind = "pooled",
        weights: np.ndarray | None = None,
        robust: bool = False,
    ) -> Standardization:
        """Measure centres and scales on the rows whose target was observed.

        Args:
            X: Features (n, D), in the user's units; the first column is ones when `intercept`.
            y: Targets (n,), NaN where not observed.
            task: Task of each row (n,), indices into `task_names`.
            task_names: Names of the T tasks.
            intercept: Whether the model has an intercept.
            target: How targets are standardised.
            weights: How often rows count (n,), positive; once each by default.
            robust: Whether targets have their median for a centre, and for a scale one that outliers do not
                move; as otherwise where most targets are the same.

        Raises:
            DataError: If `target` is "task" and some task has fewer than two distinct observed targets.
            SpecificationError: If `target` is none of these.
        """
        check_target_kind(target)
        seen = ~np.isnan(y)
        first = 1 if intercept else 0
        counts = None if weights is None else weights[seen]
        measured = [center_and_scale(column[seen], counts, centred=intercept) for column in X.T[first:]]
        constant = [(0.0, 1.0)] * first
        feature_center, feature_scale = np.array(constant + measured, dtype=np.float64).reshape(-1, 2).T
        num_tasks = len(task_names)
        targets = _by_task(y[seen], task[seen], num_tasks)
        shares = [None] * num_tasks if counts is None else _by_task(counts, task[seen], num_tasks)
        if target == "auto":
            target = kind_of(targets, shares)
        measure = _robustly if robust else center_and_scale
        if target == "task":
            _require_spread(targets, task_names)
            pairs = [
                measure(values, share, centred=intercept)
                for values, share in zip(targets, shares, strict=True)
            ]
        elif target == "pooled":
            center, scale = measure(y[seen], counts, centred=intercept)
            constant_target = intercept and is_constant(y[seen])
            pairs = [(center, 1.0 if constant_target else scale)] * num_tasks
        else:
            pairs = [(0.0, 1.0)] * num_tasks
        target_center, target_scale = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
        return cls(feature_center, feature_scale, target_center, target_scale, target, intercept)

    def standardize_features(self, X: np.ndarray) -> np.ndarray:
        """Features (..., D) in standard units."""
        return np.asarray((X - self.feature_center) / self.feature_scale)

    def standardize_target(self, y: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Targets (..., n) of tasks (n,) in standard units; NaN stays NaN."""
        return np.asarray((y - self.target_center[task]) / self.target_scale[task])

    def unstandardize_target(self, y: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Targets or function values (..., n), or (..., C, n), of tasks (n,) back in the target's units."""
        level = self.level_by_predictor[:, None] if len(self.level_by_predictor) else 0.0
        return np.asarray(self.target_center[task] + self.target_scale[task] * y + level)

    def unstandardize_sd(self, sd: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Standard deviations (..., n) of tasks (n,), such as the noise, back in the target's units."""
        return np.asarray(self.target_scale[task] * sd)

    def with_level(self, weights: np.ndarray) -> np.ndarray:
        """Weights (..., C D) in standard units with the levels of predictors in their intercepts."""
        if not len(self.level_by_predictor):
            return weights
        shifted = weights.reshape(*weights.shape[:-1], len(self.level_by_predictor), -1).copy()
        shifted[..., 0] += self.level_by_predictor
        return shifted.reshape(weights.shape)

    def weights_to_user(self, weights: np.ndarray) -> np.ndarray:
        """Weights that act on the user's features and give the user's target.

        Args:
            weights: Weights W~ (..., T, D) in standard units.

        Returns:
            W (..., T, D) with ``X @ W[t] == target_center[t] + target_scale[t] * (X~ @ W~[t])``.
        """
        return self._to_user(weights, self.target_center, self.target_scale[:, None])

    def weights_to_standard(self, weights: np.ndarray) -> np.ndarray:
        """Undo `weights_to_user`: weights (..., T, D) from the user's units to standard ones."""
        standard = weights * self.feature_scale / self.target_scale[:, None]
        if self.intercept:
            at_center = (weights * self.feature_center).sum(axis=-1) + weights[..., 0]
            standard[..., 0] = (at_center - self.target_center) / self.target_scale
        return np.asarray(standard)

    def population_to_user(self, mean: np.ndarray) -> np.ndarray:
        """Population weights (..., D), such as a prior mean shared by all tasks, in the user's units.

        Raises:
            SpecificationError: If every task has its own target scale: the population then has none.
        """
        center, scale = self._shared_target("The population's weights")
        return self._to_user(mean, center, scale)

    @property
    def departures_to_user(self) -> np.ndarray:
        """M (D, D): departures w~ of a task's weights from the population are M w~ in the user's units.

        Weights with covariance S have covariance M S M' there: the intercept then speaks of features at zero,
        not at their means.

        Raises:
            SpecificationError: If every task has its own target scale: the population then has none.

        Example:
            >>> one = np.ones(1)
            >>> scales = Standardization([0, 11], [1, 2], 20 * one, 6 * one, "pooled", True)
            >>> scales.departures_to_user.tolist()  # the target moves by 6 / 2 per unit of the feature
            [[6.0, -33.0], [0.0, 3.0]]
        """
        _, target_scale = self._shared_target("The spread of the weights over tasks")
        M = np.diag(target_scale / self.feature_scale)
        if self.intercept:
            M[0, 1:] = -self.feature_center[1:] * target_scale / self.feature_scale[1:]
        return M

    def with_tasks(self, num_new: int) -> Standardization:
        """The same standardisation for `num_new` further tasks, appended to the known ones.

        Raises:
            SpecificationError: If every task has its own target scale: a new task has none yet.
        """
        center, scale = self._shared_target("A task that was never seen")
        return replace(
            self,
            target_center=np.append(self.target_center, np.full(num_new, center)),
            target_scale=np.append(self.target_scale, np.full(num_new, scale)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold without loss."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Standardization:
        """Undo `to_dict`.

        Raises:
            SpecificationError: If the content is not a standardisation.
        """
        try:
            made = cls(**{entry.name: content[entry.name] for entry in fields(cls)})
            check_target_kind(made.target)
            pairs = (made.feature_center, made.feature_scale), (made.target_center, made.target_scale)
            scales = np.concatenate([made.feature_scale, made.target_scale])
            centers = np.concatenate([made.feature_center, made.target_center])
            sound = all(center.ndim == 1 and center.shape == scale.shape for center, scale in pairs)
            if not (sound and np.all(scales > 0) and np.isfinite([*scales, *centers]).all()):
                raise ValueError("centres and scales do not fit together")
        except (KeyError, TypeError, ValueError) as error:
            raise SpecificationError(
                "standardization",
                expected="the content that Standardization.to_dict writes",
                found=f"{type(error).__name__}: {error}",
                remedy="The content was damaged, or written by another program.",
            ) from error
        return made

    def _to_user(
        self, weights: np.ndarray, center: np.ndarray | float, scale: np.ndarray | float
    ) -> np.ndarray:
        user = weights * scale / self.feature_scale
        if self.intercept:
            slopes = user[..., 1:] * self.feature_center[1:]
            user[..., 0] += center - slopes.sum(axis=-1)
        return np.asarray(user)

    def _shared_target(self, what: str) -> tuple[float, float]:
        if self.target == "task":
            raise SpecificationError(
                "target_standardization",
                expected='"pooled" or "none"',
                found='"task"',
                remedy=f"{what} has no scale of its own when every task is standardised by itself; "
                'use data.with_target_standardization("pooled").',
            )
        return float(self.target_center[0]), float(self.target_scale[0])


def check_target_kind(kind: str) -> None:
    """Refuse an unknown kind of target standardisation."""
    if kind not in get_args(TargetKind):
        raise SpecificationError(
            "target_standardization",
            expected=listing(get_args(TargetKind)),
            found=repr(kind),
            remedy='"pooled" is the default and keeps differences between tasks.',
        )


def is_constant(values: np.ndarray) -> bool:
    """Whether values (n,) vary by no more than rounding."""
    if values.size == 0:
        return True
    low, high = float(values.min()), float(values.max())
    # halves, because the difference of two finite numbers may overflow
    return high / 2 - low / 2 <= _CONSTANT * max(abs(low), abs(high)) / 2


def center_and_scale(
    values: np.ndarray, weights: np.ndarray | None = None, *, centred: bool
) -> tuple[float, float]:
    """Mean and standard deviation (over n) of a column, or 0 and root mean square when not `centred`.

    With weights a value counts as often as they say. A constant column gets its own size, or 1, for a scale.
    Values are first brought near 1 by an exact power of two and centred in two passes, so that neither their
    size nor a large mean costs precision.

    Example:
        >>> center_and_scale(np.array([1e9, 1e9 + 2.0]), centred=True)
        (1000000001.0, 1.0)
        >>> center_and_scale(np.array([5.0, 5.0]), centred=True)
        (5.0, 5.0)
    """
    if values.size == 0:
        return 0.0, 1.0
    largest = float(np.abs(values).max())
    if is_constant(values):
        return (float(values[0]) if centred else 0.0), largest or 1.0
    exponent = int(np.frexp(largest)[1])
    near_one = np.ldexp(values, -exponent)
    center = 0.0
    if centred:
        center = float(np.average(near_one, weights=weights))
        center += float(np.average(near_one - center, weights=weights))
    scale = float(np.sqrt(np.average((near_one - center) ** 2, weights=weights)))
    return float(np.ldexp(center, exponent)), float(np.ldexp(scale, exponent))


def kind_of(targets: Sequence[np.ndarray], weights: Sequence[np.ndarray | None]) -> TargetKind:
    """What "auto" means for the observed targets of every task, each as often as its weight says."""
    unlike = ratio_of_sizes(targets, weights) > UNLIKE
    # a task without two different targets has no scale of its own
    return "task" if unlike and not any(is_constant(values) for values in targets) else "pooled"


def _robustly(values: np.ndarray, weights: np.ndarray | None = None, *, centred: bool) -> tuple[float, float]:
    """As `center_and_scale`, by quantiles."""
    usual = center_and_scale(values, weights, centred=centred)
    if values.size == 0:
        return usual
    apart = values if centred else np.abs(values)
    center, scale = robust_center_and_scale(apart, weights)
    if not centred:  # half of a distribution around 0
        center, scale = 0.0, center / NormalDist().inv_cdf(0.75)
    return (center, scale) if scale > 0 and not is_constant(values) else usual


def _by_task(y: np.ndarray, task: np.ndarray, num_tasks: int) -> list[np.ndarray]:
    order = np.argsort(task, kind="stable")
    starts = np.cumsum(np.bincount(task, minlength=num_tasks))[:-1]
    return np.split(y[order], starts)


def _require_spread(targets: Sequence[np.ndarray], task_names: Sequence[str]) -> None:
    flat = [name for name, values in zip(task_names, targets, strict=True) if np.unique(values).size < 2]
    if flat:
        raise DataError(
            "target_standardization",
            expected="at least two different observed targets in every task",
            found=f"fewer in {listing(flat)}",
            remedy='Use "pooled", which gives all tasks one scale, or leave these tasks out.',
        )
