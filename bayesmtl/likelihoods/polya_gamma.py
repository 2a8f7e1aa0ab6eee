"""Draws from the Polya-Gamma distribution, many at once: exact for whole shapes, to rounding for others.

PG(1, c) is J*(1, c / 2) / 4, and J* is drawn by rejection from an exponential right of t and an inverse
Gaussian left of it, judged by an alternating series whose first terms nearly always decide. PG(n, c) is the
sum of n such draws. For any shape b it is the sum of g_k / (2 pi^2 ((k - 1/2)^2 + c^2 / (4 pi^2))) over
k = 1, 2, ... with g_k ~ Gamma(b, 1): there the first terms are drawn, and the rest, which hardly varies, is
drawn from the gamma distribution with its mean and variance, which are known.

Source: Polson, Scott and Windle (2013), after Devroye (2009). Theirs is a loop over draws; here all draws are
arrays, and those still undecided are tried again together.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

# Terms of the series that are drawn, to which the largest tilt is added: the error in the third cumulant is
# then 1e-9 of the whole at c = 0 and 1e-5 at c = 300.
_TERMS, _MOST_TERMS = 16, 400
_T = 0.64  # where the two bounds of the series meet best


def polya_gamma(shape: np.ndarray, c: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw from PG(shape, c), elementwise.

    Args:
        shape: Numbers above 0; broadcast to the shape of `c`. The cost is proportional to them where all are
            whole numbers, and the same for all others.
        c: Tilts, any shape; their sign is irrelevant.
        rng: Source of randomness.

    Returns:
        Draws of the shape of `c`, with mean shape tanh(c / 2) / (2 c).

    Example:
        >>> draws = polya_gamma(np.array(1), np.full(20_000, 2.0), np.random.default_rng(0))
        >>> bool(abs(draws.mean() - math.tanh(1.0) / 4) < 0.005)
        True
    """
    z = 0.5 * np.abs(np.asarray(c, dtype=float)).ravel()
    size = np.broadcast_to(shape, np.shape(c)).ravel()
    if np.all(size == 1):
        return np.asarray(0.25 * _jacobi(z, rng).reshape(np.shape(c)))
    number = size.astype(np.int64)
    if not np.array_equal(number, size):
        return np.asarray(_by_series(size, 2 * z, rng).reshape(np.shape(c)))
    single = 0.25 * _jacobi(np.repeat(z, number), rng)
    starts = np.concatenate([[0], np.cumsum(number)[:-1]])
    return np.asarray(np.add.reduceat(single, starts).reshape(np.shape(c)))


def _by_series(b: np.ndarray, c: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """PG(b, c) for any b > 0, shape (n,)."""
    mean, variance = _moments(c)
    total = np.zeros_like(c)
    for k in range(1, _TERMS + 1 + min(int(c.max(initial=0.0)), _MOST_TERMS)):
        term = 0.5 / (math.pi**2 * (k - 0.5) ** 2 + 0.25 * c**2)
        total += term * rng.standard_gamma(b)
        mean, variance = mean - term, variance - term**2
    return np.asarray(total + variance / mean * rng.standard_gamma(b * mean**2 / variance))


def _moments(c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of PG(1, c), c >= 0, shape (n,) each."""
    small = c < 0.1
    x = np.where(small, 1.0, c)
    # sinh(x) - x over cosh(x / 2)^2, which overflow one by one
    ratio = 2 * np.tanh(x / 2) - x / np.cosh(np.minimum(x / 2, 350.0)) ** 2
    # elsewhere by their series, where these cancel
    mean = np.where(small, (1 - c**2 / 12 + c**4 / 120) / 4, np.tanh(x / 2) / (2 * x))
    variance = np.where(small, (1 - c**2 / 5 + 17 * c**4 / 560) / 24, ratio / (4 * x**3))
    return mean, variance


def _jacobi(z: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """J*(1, z) for z >= 0, shape (n,)."""
    drawn = np.empty_like(z)
    left = np.arange(len(z))
    rate = math.pi**2 / 8 + 0.5 * z**2
    right = _share_right(z, rate)
    while len(left):
        x = np.empty(len(left))
        from_right = rng.random(len(left)) < right[left]
        chosen = left[from_right]
        x[from_right] = _T + rng.standard_exponential(len(chosen)) / rate[chosen]
        x[~from_right] = _truncated_inverse_gaussian(z[left[~from_right]], rng)
        accepted = _accept(x, rng)
        drawn[left[accepted]] = x[accepted]
        left = left[~accepted]
    return drawn


def _share_right(z: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """The exponential's share of the proposal; both parts times exp(z), which keeps them from vanishing."""
    exponent = z - 0.5 * _T * z**2
    exponential = math.pi / (2 * rate) * np.exp(exponent - math.pi**2 / 8 * _T)
    root = math.sqrt(_T)
    tail = 0.5 * special.erfcx((_T * z + 1) / (root * math.sqrt(2))) * np.exp(exponent - 0.5 / _T)
    inverse_gaussian = 2 * (special.ndtr((_T * z - 1) / root) + tail)
    return np.asarray(exponential / (exponential + inverse_gaussian))


def _truncated_inverse_gaussian(z: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Inverse Gaussian with mean 1 / z and shape 1, given that it is below t."""
    drawn = np.empty_like(z)
    narrow = z * _T < 1  # its mean lies beyond t
    for members, propose in ((np.flatnonzero(narrow), _from_tail), (np.flatnonzero(~narrow), _from_whole)):
        while len(members):
            x, accepted = propose(z[members], rng)
            drawn[members[accepted]] = x[accepted]
            members = members[~accepted]
    return drawn


def _from_tail(z: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One over a chi-square variable beyond 1 / t, tilted by exp(-z^2 x / 2)."""
    first, second, third = rng.standard_exponential((3, len(z)))
    x = _T / (1 + _T * first) ** 2
    return x, (first**2 <= 2 * second / _T) & (third >= 0.5 * z**2 * x)


def _from_whole(z: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The inverse Gaussian itself (Michael, Schucany and Haas, 1976), kept where it is below t."""
    mean = 1 / z
    chi = mean * rng.standard_normal(len(z)) ** 2
    # mean + mean chi / 2 - mean sqrt(4 chi + chi^2) / 2, without cancellation
    x = mean * 2 / (2 + chi + np.sqrt(4 * chi + chi**2))
    x = np.where(rng.random(len(z)) * (mean + x) > mean, mean**2 / x, x)
    return x, x < _T


def _accept(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Whether a uniform share of the first term lies below the alternating series, shape (n,)."""
    small = x < _T
    speed = np.where(small, 2 / x, 0.5 * math.pi**2 * x)
    # terms are relative to the first, which is all that counts: (2 n + 1) exp(-n (n + 1) speed)
    height = rng.random(len(x))
    accepted = np.asarray(height <= 1 - 3 * np.exp(-2 * speed))
    open_ = np.flatnonzero(~accepted)
    total = 1 - 3 * np.exp(-2 * speed[open_])
    n = 1
    while len(open_):
        n += 1
        term = (2 * n + 1) * np.exp(-n * (n + 1) * speed[open_])
        if n % 2:
            total = total - term
            settled = height[open_] <= total
            accepted[open_[settled]] = True
        else:
            total = total + term
            settled = height[open_] > total
        open_, total = open_[~settled], total[~settled]
    return accepted
