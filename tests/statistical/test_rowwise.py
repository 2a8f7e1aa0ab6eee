"""Outcomes and counts: simulation-based calibration of the engines for rows; their agreement on real data.

False-alarm budget: 1e-4 for this whole file. Calibration has 10 tests of uniformity, each of which fails
below p = 1e-5 for all of its quantities together; the test of power says what that detects. The comparison on
real data is of two computations with fixed seeds, at tolerances that leave Monte Carlo error five standard
errors.
"""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest

import bayesmtl as bm
from bayesmtl.errors import ConvergenceWarning
from benchmarks.calibration import Ranks, calibrate
from tests.seeds import seeded

LIMIT = 1e-4 / 10
LONG = os.environ.get("BAYESMTL_LONG") == "1"
# Chains start at draws from the Laplace approximation, so that a few sweeps bring each to the posterior.
FEW = {"num_warmup": 30 if LONG else 20, "num_draws": 6 if LONG else 4}

MIXED = bm.Mixed(
    {
        "task_0": bm.Gaussian(),
        "task_1": bm.Bernoulli(),
        "task_2": bm.Binomial(4),
        "task_3": bm.Gaussian(),
    }
)

pytestmark = [pytest.mark.slow, pytest.mark.statistical]


def assert_calibrated(ranks: Ranks) -> None:
    table = ranks.p_values()
    assert ranks.p_value() > LIMIT, f"ranks are not uniform:\n{table.sort_values('p').round(4)}"


@pytest.mark.parametrize(
    "likelihood, method, rows_per_task, number",
    [
        (bm.Bernoulli(), "gibbs", (2, 4, 5, 8), 8),
        (bm.Binomial(4), "gibbs", (2, 4, 5, 8), 6),
        (bm.Bernoulli(), "laplace", (4, 8, 12, 20), 8),
        (bm.Poisson(), "laplace", (2, 4, 5, 8), 8),
        (bm.NegativeBinomial(), "laplace", (2, 4, 5, 8), 8),
        (bm.Categorical(), "laplace", (4, 8, 12, 20), 3),
        # slower: the machinery is that of Bernoulli, what is new is the step of their own hyperparameters
        (bm.NegativeBinomial(), "gibbs", (2, 4, 5, 8), 6),
        (bm.StudentT(), "gibbs", (2, 4, 5, 8), 6),
        (MIXED, "gibbs", (2, 4, 5, 8), 6),
        (bm.Mixed(MIXED.tasks | {"task_3": bm.Poisson()}), "laplace", (2, 4, 5, 8), 8),
    ],
    ids=lambda value: str(value),
)
def test_calibration(likelihood, method, rows_per_task, number):
    """Of the whole posterior, hyperparameters and weights."""
    model = bm.LinearModel(bm.Hierarchical(), likelihood)
    number = 200 if LONG else number
    ranks = calibrate(model, number, method=method, rows_per_task=rows_per_task, seed=seeded(7000), **FEW)
    assert_calibrated(ranks)


def test_power_against_a_wrong_link():
    """Simulated with the probit link, fitted with the logit: weights come out 1.7 times too large."""
    simulator = bm.LinearModel(bm.Pooled(), bm.Bernoulli("probit"))
    fitter = bm.LinearModel(bm.Pooled(), bm.Bernoulli("logit"))
    ranks = calibrate(
        simulator, 40, fitter=fitter, method="laplace", rows_per_task=(100, 100), seed=seeded(8000), **FEW
    )
    assert ranks.p_value() < LIMIT


@pytest.fixture(scope="module")
def women() -> bm.TaskData:
    """1,934 women in 60 districts."""
    if not bm.datasets.available().loc["contraception", "present"]:
        pytest.skip("the data set contraception is not on this machine")
    entry = bm.datasets.load("contraception")
    return bm.TaskData.from_frame(entry.frame, task=entry.task, target=entry.target, features=["urban"])


def test_laplace_agrees_with_gibbs_on_contraception(women):
    """Means differ by less than .35 posterior sd, sds by less than a fifth.

    Monte Carlo error is about .035 sd with 800 draws, five times which is .18; the rest, .17, is left to
    Laplace's method, which 2,000 draws of each put at about .1.
    """
    model = bm.LinearModel(bm.Hierarchical(), bm.Bernoulli())
    laplace = model.fit(women, method="laplace", seed=seeded(0), num_draws=200, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a short run
        gibbs = model.fit(women, method="gibbs", seed=seeded(0), num_draws=200, num_warmup=60, progress=False)
    assert laplace.check().ok and float(laplace.draws.sample_stats["pareto_k"].max()) < 0.5
    for name in ("summary", "coefficients"):
        first, second = getattr(laplace, name)(), getattr(gibbs, name)()
        assert np.all(np.abs(first["mean"] - second["mean"]) < 0.35 * second["sd"]), name
        assert np.all(np.abs(np.log(first["sd"] / second["sd"])) < 0.2), name
    chance = gibbs.predict(women, kind="latent")
    # the shares of the two kinds of places, which the data fix closely
    for urban in (0.0, 1.0):
        rows = women.X[:, 1] == urban
        assert abs(chance.mean[rows].mean() - women.y[rows].mean()) < 0.03
