"""Spread and correlation of tasks are those of their weights in the user's units, wherever the origin is."""

import numpy as np
import pandas as pd
import pytest
import torch

import bayesmtl as bm
from bayesmtl.parameters import Spread

TASKS = [f"t{i}" for i in range(200)]
CHAIN = pd.DataFrame(np.eye(200, k=1) + np.eye(200, k=-1), index=TASKS, columns=TASKS)
CORRELATED = {
    "full": bm.Hierarchical("full"),
    "low rank": bm.LowRank(rank=2),
    "clusters": bm.DirichletProcess(within="full"),
}
INDEPENDENT = {
    "diagonal": bm.Hierarchical("diagonal"),
    "covariance": bm.TaskCovariance(),
    "graph": bm.TaskGraph(CHAIN, coupling=bm.Fixed(0.0)),
    "clusters": bm.Clusters(3),
}


def data(origin: float, num_tasks: int = 200) -> bm.TaskData:
    rng = np.random.default_rng(0)
    task = np.repeat(TASKS[:num_tasks], 3)
    frame = pd.DataFrame(
        {"task": task, "age": rng.uniform(8, 14, len(task)), "dose": rng.normal(2, 3, len(task))}
    )
    frame["y"] = rng.normal(20, 3, len(task))
    frame["age"] -= origin
    return bm.TaskData.from_frame(frame, task="task", target="y", features=["age", "dose"])


def drawn(sharing, origin, num_tasks=200):
    prior = bm.LinearModel(sharing).sample_prior(data(origin, num_tasks), num_draws=50, seed=3)
    return {name: np.asarray(a).reshape(-1, *a.shape[2:]) for name, a in prior.items()}


def covariance(values):
    scale = values["residual_scale"]
    return scale[:, :, None] * values["residual_correlation"] * scale[:, None, :]


@pytest.mark.parametrize("name", CORRELATED)
def test_another_origin_moves_spread_and_correlation_as_algebra_says(name):
    at_zero, at_eleven = (drawn(CORRELATED[name], origin, 20) for origin in (0.0, 11.0))
    move = np.array([[1.0, 11.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # the level at 11 from that at 0
    assert np.allclose(covariance(at_eleven), move @ covariance(at_zero) @ move.T, rtol=1e-9)
    assert np.abs(at_eleven["residual_correlation"] - at_zero["residual_correlation"]).max() > 0.1
    assert np.array_equal(np.einsum("sdd->sd", at_zero["residual_correlation"]), np.ones((50, 3)))


@pytest.mark.parametrize("name", INDEPENDENT)
def test_another_origin_where_standardised_weights_are_independent(name):
    for quantity in ("residual_scale", "cluster_scale"):
        at_zero, at_eleven = (drawn(INDEPENDENT[name], origin, 200) for origin in (0.0, 11.0))
        if quantity not in at_zero:
            continue
        mean = data(0.0).X[:, 1].mean()
        moved = ((mean - 0.0) ** 2 - (mean - 11.0) ** 2) * at_zero[quantity][:, 1] ** 2
        assert np.allclose(at_zero[quantity][:, 0] ** 2, at_eleven[quantity][:, 0] ** 2 + moved, rtol=1e-9)
        assert np.allclose(at_zero[quantity][:, 1:], at_eleven[quantity][:, 1:], rtol=1e-12)


@pytest.mark.parametrize("name", ["full", "low rank", "diagonal", "graph"])
def test_the_weights_beside_them_have_that_spread(name):
    # 200 tasks around the population in each of 50 draws: the ratio of mean squares to variances has a
    # standard error of sqrt(2 / 10,000) = .014; six of them, a false alarm in 1e-8
    values = drawn((CORRELATED | INDEPENDENT)[name], 0.0)
    apart = (values["weights"] - values["population"][:, None]) / values["residual_scale"][:, None]
    assert np.allclose((apart**2).mean((0, 1)), 1.0, atol=0.085)
    if "residual_correlation" in values:
        products = (apart[..., :, None] * apart[..., None, :]).mean(1) - values["residual_correlation"]
        assert np.abs(products.mean(0)).max() < 0.085


@pytest.mark.parametrize(
    "sharing", [bm.Clusters(2, scales="cluster"), bm.Clusters(2, basis="low_rank", rank=1)]
)
def test_clusters_with_a_spread_of_their_own(sharing):
    at_zero, at_eleven = (drawn(sharing, origin, 20)["residual_scale"] for origin in (0.0, 11.0))
    assert at_zero.shape == (50, 20, 3)
    assert np.allclose(at_zero[..., 1:], at_eleven[..., 1:])
    assert (at_zero[..., 0] > at_zero[..., 1]).all() and not np.allclose(at_zero[..., 0], at_eleven[..., 0])


def test_a_summary_says_units_in_words_and_each_correlation_once():
    frame = pd.DataFrame({"who": list("aaabbbccc"), "age": [8.0, 10, 12] * 3, "distance": np.arange(9.0) % 4})
    orthodont = bm.TaskData.from_frame(frame, task="who", target="distance", features=["age"])
    fit = bm.LinearModel(bm.Hierarchical("full")).fit(
        orthodont, method="empirical_bayes", seed=0, progress=False
    )
    units = fit.summary()["unit"]
    assert units["population[age]"] == units["residual_scale[age]"] == "distance per age"
    assert units["residual_scale[Intercept]"] == units["noise"] == "distance"
    named = [row for row in units.index if row.startswith("residual_correlation")]
    assert named == ["residual_correlation[Intercept, age]"]


def test_spread_is_the_covariance_it_stands_for():
    rng = np.random.default_rng(1)
    scale, F, M = (torch.from_numpy(rng.normal(size=shape)) for shape in ((4, 3), (4, 3, 2), (3, 3)))
    Sigma = M @ (torch.diag_embed(scale**2) + F @ F.mT) @ M.T
    sd = Sigma.diagonal(dim1=-2, dim2=-1).sqrt()
    torch.testing.assert_close(Spread(scale, F).sd(M), sd)
    torch.testing.assert_close(Spread(scale, F).correlation(M), Sigma / (sd[:, :, None] * sd[:, None]))
    still = Spread(torch.zeros(1, 2)).correlation()
    assert torch.equal(still, torch.eye(2)[None])
