"""How much the data said, quantity by quantity."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import bayesmtl as bm
from bayesmtl.diagnostics.convergence import check_draws, contraction


def dataset(**columns) -> xr.Dataset:
    return xr.Dataset({name: (("chain", "draw"), values.reshape(2, -1)) for name, values in columns.items()})


def test_contraction_is_one_minus_a_ratio_of_widths():
    rng = np.random.default_rng(0)
    prior = dataset(a=rng.normal(size=4000), b=rng.normal(size=4000), c=np.ones(4000))
    posterior = dataset(a=0.2 * rng.normal(size=4000), b=rng.normal(size=4000), c=np.ones(4000))
    found, uninformed = contraction(posterior, prior)
    assert list(found.index) == ["a", "b"]  # c is known
    assert found["a"] == pytest.approx(0.8, abs=0.03) and found["b"] == pytest.approx(0.0, abs=0.1)
    assert uninformed == ["b"]
    # as wide as its prior and elsewhere: the data did say something
    moved = dataset(a=prior["a"].to_numpy() + 1.0, b=posterior["a"].to_numpy(), c=np.ones(4000))
    assert contraction(moved, prior)[1] == []


def test_a_correlation_is_named_once():
    rng = np.random.default_rng(1)
    r = rng.uniform(-1, 1, (2, 1000))
    one = np.ones_like(r)
    matrix = np.stack([np.stack([one, r], -1), np.stack([r, one], -1)], -1)
    names = {"feature": ["u", "v"], "feature_other": ["u", "v"]}
    array = xr.Dataset({"rho": (("chain", "draw", "feature", "feature_other"), matrix)}, coords=names)
    found, uninformed = contraction(array, array)
    assert list(found.index) == ["rho[u, v]"] == uninformed


def few() -> bm.TaskData:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 1))
    x -= x.mean()  # elsewhere the spread at zero mixes that of levels with that of slopes
    return bm.TaskData.from_arrays(x, rng.normal(size=4), list("aabb"))


def many() -> bm.TaskData:
    rng = np.random.default_rng(0)
    task = np.repeat(np.arange(40), 10)
    x = rng.normal(size=400)
    y = rng.normal(size=40)[task] + rng.normal(size=40)[task] * x + 0.3 * rng.normal(size=400)
    return bm.TaskData.from_arrays(x[:, None], y, task)


def test_a_fit_says_what_the_data_said_nothing_about():
    model, options = bm.LinearModel(bm.Hierarchical("full")), {"method": "laplace", "seed": 0}
    check = model.fit(few(), progress=False, **options).check()
    assert check.ok and "The data say nothing about residual_" in str(check)
    assert "residual_correlation[Intercept, x0]" in str(check)
    assert "the posterior is the prior" in check._repr_html_()
    informed = model.fit(many(), progress=False, **options).check()
    assert "say nothing" not in str(informed)
    assert informed.contraction["residual_scale[x0]"] > 0.7 and informed.contraction["noise"] > 0.9


def test_nothing_is_judged_where_nothing_is_unknown():
    model = bm.LinearModel(bm.Hierarchical(scale=bm.Fixed(0.5)), bm.Gaussian(noise=1.0))
    assert model.fit(few(), method="laplace", seed=0, progress=False).check().contraction.empty


def svi_stats(**changes: float) -> dict[str, np.ndarray]:
    stats = {"elbo": -10.0, "elbo_rise": 0.2, "elbo_rise_error": 0.3, "restart_disagreement": 0.1} | changes
    return {name: np.full((2, 10), value) for name, value in stats.items()}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, None),
        ({"elbo_rise": 5.0}, "rose by 5.0 (standard error 0.3)"),
        ({"elbo_rise": 5.0, "elbo_rise_error": 4.0}, None),
        ({"elbo_rise": np.nan}, "The evidence bound (ELBO) rose"),
        ({"restart_disagreement": 2.0}, "Restarts disagree by 2.0 standard deviations"),
    ],
)
def test_the_verdict_on_stochastic_optimisation(changes, told):
    posterior = dataset(a=np.random.default_rng(0).normal(size=20))
    check = check_draws(posterior, svi_stats(**changes), complete=True)
    assert check.ok == (told is None) and (told is None or told in check.messages[0])
    assert "too narrow" in check.notes[0] and len(check.notes) == 1
    correlated = check_draws(posterior.rename(a="coupling"), svi_stats(), complete=True)
    assert "With correlated tasks" in correlated.notes[1]
    assert isinstance(check.contraction, pd.Series) and check.contraction.empty
