"""Simulation-based calibration, the short version; the method is described in `benchmarks.calibration`.

False-alarm budget: 1e-4 for this whole file. It has 13 tests of uniformity (and seeds are fixed), so each
model fails below p = 8e-6 for all of its quantities together. The tests of power say what that still detects.
`BAYESMTL_LONG=1` runs more simulations of every sharing x noise pair, as `python -m benchmarks.calibration`
does.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

import bayesmtl as bm
from benchmarks.calibration import KNOWN, MODELS, Ranks, calibrate
from tests.seeds import seeded

FALSE_ALARM = 1e-4
LONG = os.environ.get("BAYESMTL_LONG") == "1"
# in the long version: isotropic scales, and other kinds of noise
SHORT = [name for name in MODELS if name.endswith("shared") and "isotropic" not in name]
SHORT += ["Independent, noise task", "Hierarchical diagonal, noise task"]
EXACT = list(MODELS) if LONG else SHORT
LIMIT = FALSE_ALARM / (len(EXACT) + len(KNOWN))
NUM_SIMULATIONS = 200 if LONG else 20
LENGTH = {"num_warmup": 150, "num_draws": 20} if LONG else {"num_warmup": 24, "num_draws": 8}

pytestmark = [pytest.mark.slow, pytest.mark.statistical]


def assert_calibrated(ranks: Ranks) -> None:
    table = ranks.p_values()
    assert ranks.p_value() > LIMIT, f"ranks are not uniform:\n{table.sort_values('p').round(4)}"


@pytest.mark.parametrize("name", EXACT)
def test_exact(name):
    # correlations of tasks take small steps: fewer simulations in the short version
    number = 8 if name.startswith(("TaskCovariance", "TaskGraph")) and not LONG else NUM_SIMULATIONS
    assert_calibrated(calibrate(MODELS[name], number, **LENGTH, seed=seeded(1000)))


@pytest.mark.parametrize("name", KNOWN)
def test_empirical_bayes_with_known_hyperparameters(name):
    assert_calibrated(calibrate(KNOWN[name], 60, method="empirical_bayes", seed=seeded(2000)))


def wrong(scale: float, noise: float) -> bm.LinearModel:
    sharing = bm.Hierarchical("isotropic", scale=bm.Fixed(scale))
    return bm.LinearModel(sharing, bm.Gaussian(noise=noise))


@pytest.mark.parametrize(("scale", "noise"), [(0.3, 0.7), (1.2, 0.7), (0.6, 0.4), (0.6, 1.2)])
def test_power_against_a_scale_that_is_wrong_by_half(scale, noise):
    # simulated with scale 0.6 and noise 0.7
    simulator = KNOWN["Hierarchical isotropic"]
    ranks = calibrate(simulator, 60, fitter=wrong(scale, noise), method="empirical_bayes", seed=seeded(3000))
    assert ranks.p_value() < LIMIT


def test_power_of_the_short_version_against_a_wrong_prior():
    # simulated with scales ~ HalfNormal(1), fitted with HalfNormal(0.2): too few differences between tasks
    simulator = MODELS["Hierarchical diagonal, noise shared"]
    fitter = bm.LinearModel(bm.Hierarchical(scale=bm.HalfNormal(0.2)), bm.Gaussian())
    ranks = calibrate(simulator, NUM_SIMULATIONS, fitter=fitter, **LENGTH, seed=seeded(4000))
    assert ranks.p_value() < LIMIT


def test_empirical_bayes_is_overconfident_and_says_so():
    """With learned hyperparameters the engine is not calibrated: too narrow, and `check` names the reason."""
    model = bm.LinearModel(bm.Hierarchical(), bm.Gaussian())
    ranks = calibrate(model, 60, method="empirical_bayes", seed=seeded(5000))
    weights = ranks.p_values().filter(like="population", axis=0)
    # spread of normal scores: 1 where calibrated, above 1 where intervals are too narrow
    assert weights["spread"].mean() > 1.1
    data, _ = model.simulate(small(), seed=seeded(1))
    fit = model.fit(data, method="empirical_bayes", seed=seeded(0), num_draws=50, progress=False)
    assert "intervals leave out the uncertainty" in str(fit.check())
    assert 'method="auto"' in str(fit.check())


def small() -> bm.TaskData:
    rng = np.random.default_rng(seeded(0))
    return bm.TaskData.from_arrays(rng.normal(size=(40, 1)), rng.normal(size=40), np.repeat(list("abcd"), 10))


def test_uniform_ranks_pass_and_others_do_not():
    """The test of the test: right, with the file's false alarms, shifted, too narrow and too wide."""
    rng = np.random.default_rng(seeded(0))
    u = rng.uniform(size=1000)
    assert Ranks({"right": u}).p_value() > LIMIT
    assert Ranks({"shifted": u**1.7}).p_value() < LIMIT
    narrow, wide = rng.beta(0.6, 0.6, size=1000), rng.beta(1.8, 1.8, size=1000)
    assert Ranks({"right": u, "too narrow": narrow}).p_value() < LIMIT
    assert Ranks({"right": u, "too wide": wide}).p_value() < LIMIT
