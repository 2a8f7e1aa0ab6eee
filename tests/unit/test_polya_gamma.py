"""Polya-Gamma draws have the distribution's moments and Laplace transform.

False alarms: each test compares at most three means of N draws with their expectation at 5.5 standard errors
(two-sided 4e-8); about 40 comparisons fail by chance once in 600,000 runs. Seeds are fixed.
"""

import math

import numpy as np
import pytest

from bayesmtl.likelihoods.polya_gamma import polya_gamma

NUM_DRAWS = 100_000
LIMIT = 5.5
TILTS = [0.0, 1e-8, 0.3, 1.5, 3.0, 3.2, 6.0, 25.0, 700.0]  # 3.125 is where the proposal changes


def assert_mean(values: np.ndarray, expected: float) -> None:
    assert abs(values.mean() - expected) < LIMIT * values.std() / math.sqrt(len(values))


def mean(c: float) -> float:
    return math.tanh(c / 2) / (2 * c) if c > 1e-6 else 0.25


def variance(c: float) -> float:
    if c < 1e-3:
        return 1 / 24
    # (sinh c - c) / (4 c^3 cosh(c / 2)^2), without overflow
    return (2 * math.tanh(c / 2) - c / math.cosh(min(c, 300) / 2) ** 2) / (4 * c**3)


def log_transform(c: float, s: float) -> float:
    """log E exp(-s omega) = log cosh(c / 2) - log cosh(sqrt((c^2 / 2 + s) / 2))."""

    def log_cosh(x: float) -> float:
        return x + math.log1p(math.exp(-2 * x)) - math.log(2)

    return log_cosh(c / 2) - log_cosh(math.sqrt((c**2 / 2 + s) / 2))


@pytest.mark.parametrize("c", TILTS)
def test_single_draws(c):
    draws = polya_gamma(np.array(1), np.full(NUM_DRAWS, c), np.random.default_rng(1))
    assert np.all(draws > 0)
    assert_mean(draws, mean(c))
    assert_mean((draws - mean(c)) ** 2, variance(c))
    s = 1 / mean(c)  # where the transform is neither 0 nor 1
    assert_mean(np.exp(-s * draws), math.exp(log_transform(c, s)))


@pytest.mark.parametrize("c", [0.0, 2.0, 9.0])
def test_sums(c):
    """PG(n, c) has n times the mean, and the transform to the n-th power."""
    number = np.tile([1, 2, 5], NUM_DRAWS // 3)
    draws = polya_gamma(number, np.full(len(number), c), np.random.default_rng(2))
    for n in (1, 2, 5):
        assert_mean(draws[number == n], n * mean(c))
        s = 1 / (n * mean(c))
        assert_mean(np.exp(-s * draws[number == n]), math.exp(n * log_transform(c, s)))


@pytest.mark.parametrize("c", [0.0, 0.05, 0.15, 2.0, 9.0, 60.0])
def test_shapes_that_are_no_whole_numbers(c):
    """PG(b, c) has b times the mean and the variance, and the transform to the power b."""
    shape = np.tile([0.1, 1.0, 2.5, 40.3], NUM_DRAWS // 4)
    draws = polya_gamma(shape, np.full(len(shape), c), np.random.default_rng(5))
    assert np.all(draws > 0)
    for b in (0.1, 1.0, 2.5, 40.3):
        assert_mean(draws[shape == b], b * mean(c))
        assert_mean((draws[shape == b] - b * mean(c)) ** 2, b * variance(c))
        s = 1 / (b * mean(c))
        assert_mean(np.exp(-s * draws[shape == b]), math.exp(b * log_transform(c, s)))


def test_the_sign_and_the_shape_of_the_tilt():
    c = np.linspace(-4, 4, 12).reshape(3, 4)
    first = polya_gamma(np.array(2), c, np.random.default_rng(3))
    second = polya_gamma(np.array(2), np.abs(c), np.random.default_rng(3))
    assert first.shape == (3, 4) and np.array_equal(first, second)


def test_draws_differ_by_tilt_in_one_call():
    """Each entry follows its own tilt, whatever its neighbours are."""
    c = np.tile([0.1, 4.0, 30.0], NUM_DRAWS // 3)
    draws = polya_gamma(np.array(1), c, np.random.default_rng(4))
    for tilt in (0.1, 4.0, 30.0):
        assert_mean(draws[c == tilt], mean(tilt))


def test_no_rows():
    assert polya_gamma(np.array(1), np.zeros((2, 0)), np.random.default_rng(0)).shape == (2, 0)
