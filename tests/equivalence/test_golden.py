"""What was recorded before code was moved still holds: log densities to 1e-10, and fits in old files.

Recorded by `tests/golden/make.py` on the code before the fits of all models had one base.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import bayesmtl as bm
from tests.golden import make

HERE = Path(__file__).parents[1] / "golden"
DENSITIES = json.loads((HERE / "densities.json").read_text())
PREDICTIONS = json.loads((HERE / "predictions.json").read_text())


@pytest.fixture(scope="module")
def found() -> dict[str, list[float]]:
    return make.densities()


@pytest.mark.parametrize("name", DENSITIES)
def test_log_densities(found, name):
    np.testing.assert_allclose(found[name], DENSITIES[name], rtol=1e-10)


def test_every_pair_was_recorded(found):
    assert set(found) == set(DENSITIES) and len(DENSITIES) == 25


@pytest.mark.parametrize("name", PREDICTIONS)
def test_fits_of_before_load_and_predict_the_same(name):
    fit = bm.load(HERE / f"{name}.nc")
    np.testing.assert_allclose(make.predicted(fit), PREDICTIONS[name], rtol=1e-8)
    fit.check()
    assert np.isfinite(fit.task_similarity(num_draws=10).mean).all()
