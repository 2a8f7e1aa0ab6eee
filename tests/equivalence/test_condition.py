"""`condition` equals refitting: the closed form where hyperparameters are known, else a full refit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats
from scipy import stats

import bayesmtl as bm
from bayesmtl.algebra.statistics import TaskStatistics
from tests.equivalence import dense
from tests.equivalence.test_draws import FALSE_ALARM
from tests.equivalence.test_limits import structure_of
from tests.seeds import seeded

NOISE = 0.7
BLOCK = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])


def balanced(num_blocks: list[int], seed: int = 0) -> bm.TaskData:
    """Tasks of whole 2 x 2 factorial blocks: any set of blocks has features of mean 0 and sd 1.

    So rows that come later do not change the standard units, and the priors of all fits are the same.
    """
    rng = np.random.default_rng(seed)
    T = len(num_blocks)
    task = np.repeat(np.arange(T), 4 * np.array(num_blocks))
    X = np.tile(BLOCK, (sum(num_blocks), 1))
    W = np.array([0.5, 0.8, -0.4]) + 0.6 * rng.normal(size=(T, 3))
    y = W[task, 0] + (X * W[task, 1:]).sum(axis=1) + NOISE * rng.normal(size=len(task))
    data = bm.TaskData.from_arrays(X, y, [f"task_{t}" for t in task])
    return data.with_target_standardization("none")


def split(data: bm.TaskData) -> tuple[bm.TaskData, bm.TaskData]:
    """All but the last task's rows and the first block of the first task; and those."""
    later = data.task == data.num_tasks - 1
    later[:4] = True
    frame = data.to_frame()
    parts = [
        bm.TaskData.from_frame(frame[rows], task="task", target="y", features=["x0", "x1"])
        for rows in (~later, later)
    ]
    first, second = (part.with_target_standardization("none") for part in parts)
    return first, second


def test_known_hyperparameters_give_the_closed_form_of_all_rows():
    first, later = split(balanced([2, 1, 2, 1, 2]))
    model = bm.LinearModel(
        bm.Hierarchical(scale=bm.Fixed(0.6), mean_scale=bm.Fixed(0.8)), bm.Gaussian(noise=NOISE)
    )
    S = 12_000
    fit = model.fit(first, method="exact", seed=seeded(0), num_chains=4, num_draws=S // 4, progress=False)
    updated = fit.condition(later)
    assert updated.task_names == (*first.task_names, "task_4")

    # the closed form for all rows, in the units of the first fit
    codes = updated.schema.codes(np.array(later.task_names)[later.task])
    scales = fit.standardization
    X = np.concatenate([scales.standardize_features(first.X), scales.standardize_features(later.X)])
    y, task = np.concatenate([first.y, later.y]), np.concatenate([first.task, codes])
    rows = dense.Rows(torch.from_numpy(X), torch.from_numpy(y), task.tolist(), 5)
    structure, noise = structure_of(updated)
    mean, covariance = dense.posterior_of_weights(structure, noise, 0, rows)

    # importance weights leave fewer effective draws: S / (1 + var of the weights), here about a tenth of S
    weights = updated.draws.weights.flatten(0, 1).flatten(1)
    effective = len(np.unique(updated.draws.basis.flatten(0, 1)[:, 0, 0].numpy()))
    assert effective > S / 20
    limit = float(stats.norm.isf(FALSE_ALARM / 30))
    sd = covariance.diagonal().sqrt()
    gap = (weights.mean(0) - mean).abs() / sd
    assert gap.max() < limit * np.sqrt(2 / effective)
    assert (weights.std(0) / sd - 1).abs().max() < limit * np.sqrt(1 / effective)


def test_no_evidence_is_lost_or_counted_twice():
    data = balanced([2, 1, 2, 1, 2])
    first, later = split(data)
    model = bm.LinearModel(bm.Hierarchical(scale=bm.Fixed(0.6)), bm.Gaussian(noise=NOISE))
    fit = model.fit(first, method="exact", seed=seeded(0), num_draws=500, progress=False)
    updated = fit.condition(later)
    X, y = fit.standardization.standardize_features(data.X), data.y
    whole = TaskStatistics.from_rows(X, y, data.task, 5)
    for name in ("gram", "cross", "square", "count"):
        ours, expected = getattr(updated.statistics, name), getattr(whole, name)
        np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-10)


# chains this short may be told to run longer; their Monte Carlo error is measured and allowed for below
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("sharing", [bm.Hierarchical(), bm.LowRank(1)], ids=["Hierarchical", "LowRank"])
def test_estimated_hyperparameters_agree_with_a_full_refit(sharing):
    # means over draws differ by Monte Carlo error only: 5 standard errors for about 40 quantities is a
    # false alarm of 2e-5. Importance resampling repeats draws: its effective number is about that of distinct
    # ones.
    data = balanced([2] * 10)
    first, later = split(data)
    model = bm.LinearModel(sharing, bm.Gaussian())
    run = {"method": "exact", "num_chains": 8, "num_draws": 250, "progress": False}
    updated = model.fit(first, seed=seeded(1), **run).condition(later)
    refit = model.fit(data, seed=seeded(2), **run)
    distinct = len(np.unique(updated.draws.basis.flatten(0, 1)[:, 0, 0].numpy()))
    assert distinct > 500
    for name in ("population", "residual_scale", "noise", "weights"):
        ours, theirs = updated.posterior[name], refit.posterior[name]
        if name == "weights":
            ours = ours.sel(task=list(data.task_names))
        ours, theirs = (array.to_numpy().reshape(8, 250, -1) for array in (ours, theirs))
        error = array_stats.mcse(theirs, chain_axis=0, draw_axis=1, method="mean")
        # resampled draws are in no order, so their own error cannot be measured: the first fit's chains mix
        # as the refit's do, and keep `distinct` of their 2,000 draws
        own_error = error * np.sqrt(2 * 2000 / distinct)
        gap = np.abs(ours.mean((0, 1)) - theirs.mean((0, 1)))
        assert (gap < 5 * np.hypot(error, own_error)).all(), name
