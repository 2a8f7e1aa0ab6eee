"""Targets in other units are standardised by task in any form; outliers move no robust scale."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import bayesmtl as bm
from bayesmtl.data.robust import UNLIKE, quantile, robust_center_and_scale
from bayesmtl.errors import DataError

OPTIONS = {"method": "empirical_bayes", "seed": 0, "num_chains": 1, "num_draws": 200, "progress": False}


def wide(sizes=(1.0, 1e4, 1e-4)):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 1))
    Y = (x + 0.3 * rng.normal(size=(30, len(sizes)))) * sizes
    return x, pd.DataFrame(Y, columns=[f"y{k}" for k in range(len(sizes))])


def long(x, Y):
    frame = Y.assign(x0=x[:, 0]).melt("x0", var_name="task", value_name="target")
    return bm.TaskData.from_frame(frame, task="task", target="target", features=["x0"])


@pytest.mark.parametrize("model", [bm.LinearModel(), bm.MultitaskGP()], ids=["weights", "functions"])
def test_outputs_of_different_size_have_intervals_of_their_own_size(model):
    x, Y = wide()
    new = (np.zeros((3, 1)), ["y0", "y1", "y2"])
    widths = []
    for data in (bm.TaskData.from_wide(x, Y), long(x, Y)):
        assert data.standardization().target == "task"
        lower, upper = model.fit(data, **OPTIONS).predict(new).interval()
        widths.append((upper - lower) / Y.std().to_numpy())
    # about 2 * 1.64 * .3 / 1.04 = .95 of a target's sd; 6e7 for the smallest before
    assert (np.concatenate(widths) < 2).all() and (np.concatenate(widths) > 0.3).all()
    np.testing.assert_allclose(*widths, rtol=0.3)  # other orders of rows draw other numbers


def test_wide_and_long_forms_have_the_same_scales():
    for sizes in ((1.0, 1e4, 1e-4), (1.0, 2.0, 3.0)):
        x, Y = wide(sizes)
        first, second = bm.TaskData.from_wide(x, Y).standardization(), long(x, Y).standardization()
        assert first.target == second.target == ("task" if max(sizes) > UNLIKE else "pooled")
        np.testing.assert_allclose(first.target_scale, second.target_scale, rtol=1e-12)


def test_the_report_says_why():
    x, Y = wide()
    assert "standardised task by task: sizes differ between tasks by a factor of 9e+07" in repr(long(x, Y))
    assert "standardised over all tasks" in repr(long(x, Y).with_target_standardization("pooled"))
    one = Y.assign(y3=7.0)
    told = "standardised over all tasks, though the target does not vary in 'y3': sizes differ"
    assert told in repr(bm.TaskData.from_wide(x, one))


def test_what_is_asked_for_is_done():
    x, Y = wide()
    for kind in ("pooled", "none", "task"):
        assert long(x, Y).with_target_standardization(kind).standardization().target == kind
    assert long(*wide((1.0, 0.9 * UNLIKE / 2))).standardization().target == "pooled"
    with pytest.raises(DataError, match="two different observed"):
        bm.TaskData.from_wide(x, Y.assign(y3=7.0)).with_target_standardization("task").standardization()


def test_few_rows_do_not_make_scales_unlike():
    # 2,000 tasks of 5 rows with one size: none is taken for another unit
    rng = np.random.default_rng(1)
    task = np.repeat(np.arange(2000), 5)
    data = bm.TaskData.from_arrays(rng.normal(size=(10_000, 1)), rng.normal(size=10_000), task)
    assert data.standardization().target == "pooled"


def test_sums_of_rows_decide_alike(tmp_path):
    pytest.importorskip("pyarrow")
    x, Y = wide((1.0, 3e3))
    frame = Y.assign(x0=x[:, 0]).melt("x0", var_name="task", value_name="target")
    frame.to_parquet(tmp_path / "rows.parquet")
    columns = {"task": "task", "target": "target", "features": ["x0"]}
    assert bm.TaskData.from_parquet(tmp_path / "rows.parquet", **columns).standardization().target == "task"


def outlying(num_outliers=1):
    rng = np.random.default_rng(2)
    task = np.repeat(list("abcdef"), 8)
    x = rng.normal(size=48)
    y = 1 + 2 * x + 0.5 * rng.normal(size=48)
    y[:num_outliers] = 1e6
    return bm.TaskData.from_arrays(x[:, None], y, task)


def test_quantiles_by_weight_are_those_of_repeated_rows():
    rng = np.random.default_rng(3)
    values, times = rng.normal(size=9), rng.integers(1, 5, 9)
    for share in (0.1, 0.25, 0.5, 0.9):
        again = quantile(np.repeat(values, times), share)
        assert quantile(values, share, times.astype(float)) == again
    repeated = robust_center_and_scale(np.repeat(values, times))
    assert robust_center_and_scale(values, times.astype(float)) == pytest.approx(repeated)
    assert quantile(values, 0.5) == np.median(values)


def test_the_robust_scale_is_the_standard_deviation_of_a_normal_distribution():
    # of 200,000 draws a quantile's standard error is .004 sd: 5 of them, a false alarm in 1e-6
    values = np.random.default_rng(4).normal(3.0, 2.0, 200_000)
    center, scale = robust_center_and_scale(values)
    assert abs(center - 3.0) < 0.04 and abs(scale - 2.0) < 0.04


def test_one_gross_outlier_leaves_heavy_tails_their_answer():
    clean = replace(outlying(0), y=np.where(np.arange(48) == 0, np.nan, outlying(0).y))
    fits = [
        bm.LinearModel(likelihood=bm.StudentT()).fit(data, method="laplace", seed=0, progress=False)
        for data in (outlying(), clean)
    ]
    assert all(fit.check().ok for fit in fits), str(fits[0].check())
    means = [fit.coefficients()["mean"].to_numpy() for fit in fits]
    assert np.abs(means[0] - means[1]).max() < 0.25  # half the noise; thousands before
    scale = bm.StudentT().standardization(outlying()).target_scale[0]
    assert 1 < scale < 5 and bm.Gaussian().standardization(outlying()).target_scale[0] > 1e4


def test_the_report_names_outliers():
    assert "outliers" in repr(outlying()) and "1e+06 in a" in repr(outlying())
    assert "outliers" not in repr(outlying(0))


def test_an_outlier_is_no_other_unit():
    assert outlying().standardization().target == "pooled"


def test_most_targets_alike_have_the_usual_scale():
    y = np.r_[np.zeros(20), 1.0, 2.0]
    data = bm.TaskData.from_arrays(np.arange(22.0)[:, None], y, ["a"] * 22)
    assert data.standardization(robust=True).target_scale == data.standardization().target_scale
