"""Results stay numbers where targets are huge or a function does not vary in some draws."""

import numpy as np
import pytest

import bayesmtl as bm
from bayesmtl.results import TaskSimilarity

OPTIONS = {"method": "empirical_bayes", "seed": 0, "num_chains": 1, "num_draws": 100, "progress": False}


def rows(size: float, origin: float = 3.0) -> bm.TaskData:
    rng = np.random.default_rng(0)
    task, x = np.repeat(list("abc"), 8), rng.uniform(-2, 2, 24) + origin
    return bm.TaskData.from_arrays(x[:, None], size * (1 + x + 0.3 * rng.normal(size=24)), task)


@pytest.mark.parametrize("size", [1e-160, 1e160, 1e250])
def test_results_scale_with_the_target_whatever_its_size(size):
    fits = [bm.LinearModel().fit(rows(scale), **OPTIONS) for scale in (1.0, size)]
    for table in (lambda fit: fit.summary(), lambda fit: fit.coefficients()):
        usual, huge = (table(fit).select_dtypes(float) for fit in fits)
        np.testing.assert_allclose(huge / size, usual, rtol=1e-5, atol=1e-8)  # a mode at 0
    sds = [fit.predict(rows(1.0)).sd for fit in fits]
    np.testing.assert_allclose(sds[1] / size, sds[0], rtol=1e-5)


def similarity() -> TaskSimilarity:
    values = np.full((20, 2, 2), 1.0)
    values[:, 0, 1] = values[:, 1, 0] = np.linspace(-0.5, 0.45, 20)
    values[0] = np.nan  # in one draw a function does not vary
    return TaskSimilarity.of(values, ["a", "b"], "correlation")


def test_a_draw_without_a_correlation_does_not_count():
    found, known = similarity(), np.linspace(-0.5, 0.45, 20)[1:]
    assert found.mean.sel(task="a", task_other="b") == pytest.approx(known.mean())
    assert found.probability(">0").sel(task="a", task_other="b") == pytest.approx((known > 0).mean())
    lower, upper = (bound.sel(task="a", task_other="b") for bound in found.interval(0.9))
    assert [lower, upper] == pytest.approx(list(np.quantile(known, [0.05, 0.95])))
    assert "undefined in up to 5 % of the draws" in repr(found)


def test_a_function_that_never_varies_has_no_similarity():
    never = TaskSimilarity.of(np.full((9, 2, 2), np.nan), ["a", "b"], "correlation")
    assert never.to_frame()[["mean", "lower", "upper", "probability_positive"]].isna().all(axis=None)
