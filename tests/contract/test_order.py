"""Reordering rows, tasks or requests reorders answers; what a task never seen draws hangs on its name."""

import numpy as np
import pandas as pd
import pytest

import bayesmtl as bm

RUN = {"seed": 0, "num_draws": 20, "num_warmup": 20, "progress": False}
NAMES = list("abc")
GRAPH = pd.DataFrame(np.ones((3, 3)) - np.eye(3), index=NAMES, columns=NAMES)
MODELS = {
    "hierarchical": (bm.LinearModel(), "empirical_bayes"),
    "noise by task": (bm.LinearModel(likelihood=bm.Gaussian(noise="task")), "empirical_bayes"),
    "low rank": (bm.LinearModel(bm.LowRank(1)), "empirical_bayes"),
    "covariance": (bm.LinearModel(bm.TaskCovariance()), "empirical_bayes"),
    "process": (bm.LinearModel(bm.DirichletProcess()), "gibbs"),
    "outcomes": (bm.LinearModel(likelihood=bm.Poisson()), "laplace"),
    "functions": (bm.MultitaskGP(), "empirical_bayes"),
    "functions, low rank": (bm.MultitaskGP(sharing=bm.LowRank(1)), "empirical_bayes"),
}


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({"g": np.repeat(NAMES, 6), "x": rng.normal(size=18), "y": rng.poisson(3, 18)})


@pytest.fixture(scope="module", params=MODELS)
def fit(request) -> bm.Fit:
    model, method = MODELS[request.param]
    data = bm.TaskData.from_frame(frame(), task="g", target="y", features=["x"])
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(data, method=method, **RUN)


def asked() -> pd.DataFrame:
    new = pd.DataFrame({"g": ["n2", "n1", "n1", "n3"], "x": [0.1, -0.4, 1.2, 0.1]})
    return pd.concat([frame().head(8)[["g", "x"]], new], ignore_index=True)


@pytest.mark.parametrize("kind", ["latent", "observation"])
def test_rows_in_another_order(fit, kind):
    rows = asked()
    order = np.random.default_rng(1).permutation(len(rows))
    first = fit.predict(rows, kind=kind, new_tasks="population", num_draws=30)
    second = fit.predict(rows.iloc[order], kind=kind, new_tasks="population", num_draws=30)
    np.testing.assert_array_equal(first.draws.to_numpy()[:, order], second.draws.to_numpy())
    np.testing.assert_allclose(first.mean[order], second.mean, rtol=1e-12)
    assert second.index.tolist() == order.tolist() and (second.new == first.new[order]).all()
    y = np.arange(len(rows)) % 4.0
    np.testing.assert_allclose(first.log_density(y)[order], second.log_density(y[order]))


def test_other_names_draw_other_numbers(fit):
    def drawn(names):
        rows = pd.DataFrame({"g": names, "x": [0.3] * len(names)})
        return fit.predict(rows, kind="latent", new_tasks="population", num_draws=30).draws.to_numpy()

    one, two = drawn(["n1"])[:, 0], drawn(["n2"])[:, 0]
    if not isinstance(fit.sharing, bm.Pooled):
        assert (one != two).any()
    np.testing.assert_array_equal(one, drawn(["n1"])[:, 0])
    if isinstance(fit, bm.LinearFit) and fit.sharing.dependence is bm.sharing.Dependence.GIVEN_Z:
        together = drawn(["n2", "n1"])
        np.testing.assert_array_equal(together, np.stack([two, one], axis=1))


def test_further_rows_in_another_order(fit):
    if fit.sharing.dependence is bm.sharing.Dependence.JOINT and not fit.likelihood.compresses:
        pytest.skip("conditioning is refused")
    rows = pd.DataFrame({"g": ["n2", "n1", "n1", "n2"], "x": [0.1, -0.4, 1.2, 0.5], "y": [2, 3, 4, 2]})
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, second = fit.condition(rows), fit.condition(rows.iloc[::-1])
    assert first.task_names == second.task_names == (*NAMES, "n1", "n2")
    one, two = (f.predict(rows, kind="latent", num_draws=20).mean for f in (first, second))
    np.testing.assert_allclose(one, two, rtol=1e-6)
