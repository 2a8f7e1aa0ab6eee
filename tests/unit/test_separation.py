"""Separation is named where it is, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

import bayesmtl as bm
from bayesmtl.diagnostics import separation_notes
from bayesmtl.diagnostics.separation import _separated


def by_loops(X, yes, no, task, T):
    """The slow twin: try every threshold of every feature, in both directions."""
    found = np.zeros((T, X.shape[1]), dtype=bool)
    for t in range(T):
        own = task == t
        for j in range(X.shape[1]):
            x, y, n = X[own, j], yes[own], no[own]
            if not own.any():
                continue
            if not (y.any() and n.any()):
                found[t, j] = True
            elif x.min() < x.max():
                up = any((x[y] >= cut).all() and (x[n] <= cut).all() for cut in x)
                down = any((x[y] <= cut).all() and (x[n] >= cut).all() for cut in x)
                found[t, j] = up or down
    return found


@pytest.mark.parametrize("seed", range(20))
def test_the_fast_way_is_the_slow_one(seed):
    rng = np.random.default_rng(seed)
    n, T = 40, 12
    X = np.column_stack([np.ones(n), rng.normal(size=n), rng.integers(3, size=n)])
    trials = rng.integers(1, 3, size=n)
    y, task = rng.binomial(trials, 0.4), rng.integers(T, size=n)
    arguments = X, y > 0, y < trials, task, T
    np.testing.assert_array_equal(_separated(*arguments), by_loops(*arguments))


def test_what_is_said():
    x = np.linspace(-1, 1, 12)
    X, task = np.column_stack([np.ones(12), x, x**2]), np.repeat([0, 1, 2], 4)
    names = ["a", "b", "c"], ["Intercept", "dose", "square"]

    def notes(y):
        return separation_notes(X, y > 0, y < 1, task, *names)

    assert notes((x > 0).astype(float))[0].startswith("'dose' separates yes from no over all rows")
    assert (
        notes(np.ones(12)) == [notes(np.zeros(12))[0]] and "All outcomes are alike" in notes(np.ones(12))[0]
    )
    mixed = np.array([0, 1, 0, 1, 1, 0, 0, 1, 1, 1, 1, 1.0])
    (note,) = notes(mixed)
    assert "In 2 of 3 tasks ('b', 'c')" in note  # in b the square of the dose tells


@pytest.mark.parametrize("likelihood", [bm.Bernoulli("probit"), bm.Binomial(2), bm.Poisson()], ids=repr)
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_the_check_reports_it(likelihood):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=30), rng.integers(2, size=30).astype(float)
    y[:10] = 0.0
    y[5] = np.nan
    data = bm.TaskData.from_arrays(x[:, None], y, np.repeat(["none", "b", "c"], 10))
    model = bm.LinearModel(likelihood=likelihood)
    fit = model.fit(data, method="laplace", seed=0, num_draws=20, progress=False)
    told = [note for note in fit.check().notes if "In 1 of 3 tasks ('none')" in note]
    assert len(told) == (0 if isinstance(likelihood, bm.Poisson) else 1)
