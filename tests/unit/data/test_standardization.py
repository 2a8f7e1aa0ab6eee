"""Scales are changed in one place and changed back without loss."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesmtl.data import Standardization
from bayesmtl.data.standardization import center_and_scale, is_constant
from bayesmtl.errors import DataError, SpecificationError

SCALES = st.sampled_from([1e-12, 1e-3, 1.0, 1e5, 1e12])
SHIFTS = st.sampled_from([0.0, -1.0, 30.0])  # in units of the scale
KINDS = st.sampled_from(["pooled", "task", "none"])


def problem(seed, scales, shifts, target_scale, intercept, num_tasks=3, num_rows=40):
    """Data of `num_tasks` tasks whose columns have the given scales and shifts."""
    generator = np.random.default_rng(seed)
    X = (generator.normal(size=(num_rows, len(scales))) + shifts) * scales
    if intercept:
        X = np.column_stack([np.ones(num_rows), X])
    task = np.arange(num_rows) % num_tasks
    y = target_scale * (generator.normal(size=num_rows) + task)
    y[::7] = np.nan
    return X, y, task, tuple("abcdefgh"[:num_tasks])


def made(X, y, task, names, intercept, target):
    return Standardization.of(X, y, task, names, intercept=intercept, target=target)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    scales=st.lists(SCALES, min_size=1, max_size=4),
    shift=SHIFTS,
    target_scale=SCALES,
    intercept=st.booleans(),
    target=KINDS,
)
def test_weights_give_the_same_function_in_both_units(seed, scales, shift, target_scale, intercept, target):
    X, y, task, names = problem(seed, np.array(scales), shift, target_scale, intercept)
    scaling = made(X, y, task, names, intercept, target)
    standard = np.random.default_rng(seed + 1).normal(size=(2, 5, 3, X.shape[1]))
    user = scaling.weights_to_user(standard)
    assert user.shape == standard.shape
    inside = np.einsum("nd,...nd->...n", scaling.standardize_features(X), standard[..., task, :])
    outside = np.einsum("nd,...nd->...n", X, user[..., task, :])
    expected = scaling.unstandardize_target(inside, task)
    assert np.allclose(outside, expected, rtol=0, atol=1e-11 * np.abs(expected).max() * (1 + abs(shift)))
    back = scaling.weights_to_standard(user)
    assert np.allclose(back, standard, rtol=1e-10, atol=1e-10 * (1 + abs(shift)))


@settings(max_examples=30, deadline=None)
@given(scale=SCALES, target_scale=SCALES, intercept=st.booleans())
def test_units_do_not_change_what_a_model_sees(scale, target_scale, intercept):
    unit = problem(0, np.ones(2), 2.0, 1.0, intercept)
    other = problem(0, np.array([scale, 1.0]), 2.0, target_scale, intercept)
    first, second = made(*unit, intercept, "pooled"), made(*other, intercept, "pooled")
    assert np.allclose(
        first.standardize_features(unit[0]), second.standardize_features(other[0]), rtol=1e-12, atol=1e-12
    )
    assert np.allclose(
        first.standardize_target(unit[1], unit[2]),
        second.standardize_target(other[1], other[2]),
        rtol=1e-12,
        atol=1e-12,
        equal_nan=True,
    )


def test_standard_units_over_the_observed_rows():
    X, y, task, names = problem(1, np.array([3.0, 0.2]), 5.0, 7.0, intercept=True)
    scaling = made(X, y, task, names, True, "pooled")
    seen = ~np.isnan(y)
    inside = scaling.standardize_features(X)[seen]
    assert np.array_equal(inside[:, 0], np.ones(seen.sum()))
    assert np.allclose(inside[:, 1:].mean(axis=0), 0, atol=1e-13)
    assert np.allclose(inside[:, 1:].std(axis=0), 1)
    target = scaling.standardize_target(y, task)
    assert np.array_equal(np.isnan(target), ~seen)
    assert np.nanmean(target) == pytest.approx(0, abs=1e-13)
    assert np.nanstd(target) == pytest.approx(1)
    assert np.allclose(scaling.unstandardize_target(target, task), y, equal_nan=True)


def test_rows_without_a_target_have_no_say():
    X, y, task, names = problem(2, np.ones(2), 0.0, 1.0, intercept=True)
    wild = X.copy()
    wild[np.isnan(y), 1] = 1e6
    first, second = made(X, y, task, names, True, "pooled"), made(wild, y, task, names, True, "pooled")
    assert np.array_equal(first.feature_scale, second.feature_scale)


def test_without_an_intercept_nothing_is_centred():
    X, y, task, names = problem(3, np.array([2.0, 5.0]), 4.0, 3.0, intercept=False)
    for target in ("pooled", "task", "none"):
        scaling = made(X, y, task, names, False, target)
        assert not scaling.feature_center.any()
        assert not scaling.target_center.any()
    seen = ~np.isnan(y)
    scaling = made(X, y, task, names, False, "pooled")
    assert np.allclose(scaling.feature_scale, np.sqrt((X[seen] ** 2).mean(axis=0)))
    assert np.allclose(scaling.target_scale, np.sqrt((y[seen] ** 2).mean()))


def test_each_task_by_itself():
    X, y, task, names = problem(4, np.ones(1), 0.0, 2.0, intercept=True)
    scaling = made(X, y, task, names, True, "task")
    for t in range(3):
        own = y[(task == t) & ~np.isnan(y)]
        assert scaling.target_center[t] == pytest.approx(own.mean())
        assert scaling.target_scale[t] == pytest.approx(own.std())
    assert np.allclose(scaling.unstandardize_sd(np.ones(len(y)), task), scaling.target_scale[task])


def test_population_and_spread_in_user_units():
    X, y, task, names = problem(5, np.array([2.0, 1e-3]), 3.0, 10.0, intercept=True)
    scaling = made(X, y, task, names, True, "pooled")
    mean = np.random.default_rng(0).normal(size=(6, 3))
    same_for_all = np.repeat(mean[:, None, :], 3, axis=1)
    expected = scaling.weights_to_user(same_for_all)[:, 0]
    assert np.allclose(scaling.population_to_user(mean), expected)
    shifted = scaling.population_to_user(mean + 1.0) - scaling.population_to_user(mean)
    assert np.allclose(scaling.departures_to_user @ np.ones(3), shifted)


def test_new_tasks_take_the_shared_scale():
    X, y, task, names = problem(6, np.ones(1), 0.0, 2.0, intercept=True)
    for target in ("pooled", "none"):
        scaling = made(X, y, task, names, True, target)
        larger = scaling.with_tasks(2)
        assert larger.target_scale.tolist() == [scaling.target_scale[0]] * 5
        assert larger.target_center.tolist() == [scaling.target_center[0]] * 5
        assert len(scaling.target_scale) == 3


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda scaling: scaling.with_tasks(1), "A task that was never seen"),
        (lambda scaling: scaling.population_to_user(np.zeros(2)), "The population's weights"),
        (lambda scaling: scaling.departures_to_user, "The spread of the weights"),
    ],
)
def test_what_has_no_scale_when_every_task_has_its_own(call, what):
    scaling = made(*problem(7, np.ones(1), 0.0, 2.0, intercept=True), True, "task")
    with pytest.raises(SpecificationError, match=f'`target_standardization`.*"task".*{what}.*pooled'):
        call(scaling)


def test_tasks_without_spread_are_named():
    X = np.ones((5, 1))
    y = np.array([1.0, 1.0, 2.0, 3.0, np.nan])
    task = np.array([0, 0, 1, 1, 2])
    with pytest.raises(DataError, match="two different observed targets.*'flat', 'unseen'.*pooled"):
        made(X, y, task, ("flat", "fine", "unseen"), True, "task")


def test_an_unknown_kind():
    with pytest.raises(SpecificationError, match="'pooled', 'task', 'none'.*found 'both'"):
        made(np.ones((2, 1)), np.arange(2.0), np.zeros(2, int), ("a",), True, "both")


@pytest.mark.parametrize("value", [3.0, -3.0, 0.0, 1e-12, 1e12])
def test_a_constant_feature(value):
    X = np.column_stack([np.ones(4), np.full(4, value)])
    y, task = np.arange(4.0), np.zeros(4, int)
    inside = made(X, y, task, ("a",), True, "pooled").standardize_features(X)
    assert np.array_equal(inside, np.column_stack([np.ones(4), np.zeros(4)]))
    bare = made(X[:, 1:], y, task, ("a",), False, "pooled").standardize_features(X[:, 1:])
    assert np.array_equal(bare[:, 0], np.full(4, np.sign(value)))


def test_a_constant_target_keeps_its_unit():
    scaling = made(np.ones((3, 1)), np.full(3, 5.0), np.zeros(3, int), ("a",), True, "pooled")
    assert (scaling.target_center[0], scaling.target_scale[0]) == (5.0, 1.0)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e-12, 1.0, 1e12, 1e160, 1e300])
@pytest.mark.parametrize("centred", [True, False])
def test_scales_without_overflow(scale, centred):
    values = np.random.default_rng(0).normal(size=1000) + 0.5
    center, spread = center_and_scale(values * scale, centred=centred)
    expected = values.std() if centred else np.sqrt((values**2).mean())
    assert spread / scale == pytest.approx(expected, rel=1e-12)
    assert center / scale == pytest.approx(values.mean() if centred else 0, rel=1e-12)


def test_small_noise_on_a_large_mean_is_not_lost():
    noise = np.random.default_rng(0).integers(-1000, 1000, size=5000) / 1024  # exact next to 1e9
    center, spread = center_and_scale(1e9 + noise, centred=True)
    assert spread == pytest.approx(noise.std(), rel=1e-12)
    assert center - 1e9 == pytest.approx(noise.mean(), abs=1e-6)


@pytest.mark.parametrize(
    ("values", "constant"),
    [
        ([2.0, 2.0], True),
        ([0.1 + 0.2, 0.3], True),
        ([1e9, 1e9 + 1], False),
        ([0.0, 1e-300], False),
        ([-1e308, 1e308], False),
        ([1e-12, 1.001e-12], False),
        ([7.0], True),
        ([], True),
    ],
)
def test_constant_is_decided_relative_to_size(values, constant):
    assert is_constant(np.array(values)) == constant


@pytest.mark.parametrize("target", ["pooled", "task", "none"])
def test_a_trip_through_json_changes_nothing(target):
    scaling = made(*problem(8, np.array([1e-12, 1e12]), 1.0, 0.1, intercept=True), True, target)
    back = Standardization.from_dict(json.loads(json.dumps(scaling.to_dict())))
    for name in ("feature_center", "feature_scale", "target_center", "target_scale"):
        assert np.array_equal(getattr(back, name), getattr(scaling, name))
    assert (back.target, back.intercept) == (target, True)


@pytest.mark.parametrize(
    "change",
    [
        {"feature_scale": [0.0, 1.0]},
        {"feature_scale": [1.0]},
        {"feature_center": ["a", "b"]},
        {"target_scale": None},
        {"target_center": [float("nan")]},
        {"target": "both"},
    ],
)
def test_damaged_content_is_refused(change):
    X = np.column_stack([np.ones(3), np.arange(3.0)])
    content = made(X, np.arange(3.0), np.zeros(3, int), ("a",), True, "pooled").to_dict()
    with pytest.raises(SpecificationError):
        Standardization.from_dict(content | change)
    del content["target"]
    with pytest.raises(SpecificationError, match="`standardization`.*KeyError"):
        Standardization.from_dict(content)


def test_nothing_in_it_can_be_changed():
    scaling = made(*problem(9, np.ones(1), 0.0, 1.0, intercept=True), True, "pooled")
    with pytest.raises(ValueError, match="read-only"):
        scaling.feature_scale[0] = 2.0
