"""The exact engine is trusted at the first try where chains were not."""

from __future__ import annotations

import numpy as np
import pytest

import bayesmtl as bm

MODEL = bm.LinearModel(bm.Independent(), bm.Gaussian(noise="task"))


@pytest.fixture(scope="module")
def three_tasks() -> bm.TaskData:
    """150 rows of each of three tasks with the same noise: without spread levels mean nothing."""
    rng = np.random.default_rng(0)
    task, X = np.repeat(np.arange(3), 150), rng.normal(size=(450, 4))
    weights = rng.normal(size=(3, 4))
    y = (X * weights[task]).sum(1) + 0.3 * rng.normal(size=450)
    return bm.TaskData.from_arrays(X, y, task.astype(str))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_noise_of_three_tasks_is_trusted_at_the_first_try(three_tasks, seed):
    """Chains in levels and spread had an R-hat of 1.4 and nine effective draws."""
    fit = MODEL.fit(three_tasks, seed=seed, progress=False)
    assert fit.check().ok, str(fit.check())
    assert "by importance sampling" in fit.reason
    assert fit.draws.sample_stats["importance_ess"].flat[0] >= 400
