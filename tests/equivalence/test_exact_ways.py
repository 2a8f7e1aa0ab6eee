"""The exact engine's two ways, importance sampling and chains, give the same posterior."""

from __future__ import annotations

import numpy as np
import pytest

import bayesmtl as bm

MODEL = bm.LinearModel(bm.Independent(), bm.Gaussian(noise="task"))
CHAINS = 10**6  # effective draws that importance sampling has not the budget for


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


@pytest.mark.slow
def test_both_ways_agree(three_tasks):
    """Means within five standard errors of both: a false alarm in 19 quantities has probability 1e-5.

    Importance sampling has at least 400 effective draws; chains count their own, at least 100 here.
    """
    weighted = MODEL.fit(three_tasks, seed=0, progress=False)
    chains = MODEL.fit(three_tasks, seed=1, num_effective=CHAINS, num_draws=250, progress=False)
    assert "by chains" in chains.reason and "by chains" not in weighted.reason
    effective = chains.check().table["ess_bulk"].min()
    assert effective > 100
    for name in ("noise", "noise_spread", "task_noise", "residual_scale", "weights"):
        if name not in chains.posterior:
            continue
        ours, theirs = weighted.posterior[name], chains.posterior[name]
        sd = theirs.std(("chain", "draw"))
        gap = np.abs(ours.mean(("chain", "draw")) - theirs.mean(("chain", "draw"))) / sd
        assert float(gap.max()) < 5 * np.sqrt(1 / 400 + 1 / effective), name
