"""`TaskCovariance` against the matrix-normal distribution written out, its limits, and what it can tell.

The twin is one dense normal density of all rows, from Cov(w_td, w_ue) alone: nothing of A, Z and E is in it.
Sampled answers are compared with thresholds that are stated where they stand; seeds are fixed.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import MultivariateNormal

import bayesmtl as bm
from bayesmtl.algebra.collapsed import log_likelihood_of, log_marginal, whiten
from bayesmtl.algebra.moments import posterior_moments
from bayesmtl.errors import ConvergenceWarning
from bayesmtl.results.linear.condition.jointly import _new_density, _tasks
from tests.equivalence.dense import Rows
from tests.equivalence.inputs import ROWS, compress, make_noise, statistics
from tests.seeds import seeded

T, D, B = 4, 3, 3
SHARING = bm.TaskCovariance()


def drawn(seed: int = 0, sharing: bm.TaskCovariance = SHARING) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return {p.name: p.sample(rng, B) for p in sharing.parameters(T, D)}


def covariance_of_rows(values: dict[str, torch.Tensor], b: int, rows: Rows) -> torch.Tensor:
    L, tau = values["task_correlation"][b], values["task_scale"][b]
    omega, s = L @ L.T, values["residual_scale"][b]
    C = torch.zeros(len(rows.task), len(rows.task), dtype=torch.float64)
    for i, (x, t) in enumerate(zip(rows.X, rows.task, strict=True)):
        for j, (z, u) in enumerate(zip(rows.X, rows.task, strict=True)):
            shared = values["mean_scale"][b] ** 2 * (x @ z)
            C[i, j] = shared + tau[t] * tau[u] * omega[t, u] * (x * s**2 * z).sum()
    return C


@pytest.mark.parametrize("name", ["mixed sizes", "fewer rows than features", "a task without rows"])
def test_the_density_is_that_of_a_matrix_normal(name):
    rows, values, noise = ROWS[name], drawn(), make_noise("task", batch=B)
    found = log_marginal(compress(rows), SHARING.structure(values, T, D), noise)
    for b in range(B):
        C = covariance_of_rows(values, b, rows) + torch.diag(noise[b][rows.task] ** 2)
        expected = MultivariateNormal(torch.zeros_like(rows.y), C).log_prob(rows.y)
        torch.testing.assert_close(found[b], expected, rtol=1e-9, atol=0)


def test_without_correlations_it_is_hierarchical():
    tasks, noise, values = compress(ROWS["mixed sizes"]), make_noise("task", batch=B), drawn(1)
    values["task_correlation"] = torch.eye(T, dtype=torch.float64).expand(B, T, T)
    values["task_scale"] = torch.ones(B, T, dtype=torch.float64)
    densities = [log_marginal(tasks, s.structure(values, T, D), noise) for s in (SHARING, bm.Hierarchical())]
    torch.testing.assert_close(*densities, rtol=1e-11, atol=0)


def test_without_correlations_or_population_tasks_are_independent():
    tasks, noise, values = compress(ROWS["mixed sizes"]), make_noise("task", batch=B), drawn(2)
    values["task_correlation"] = torch.eye(T, dtype=torch.float64).expand(B, T, T)
    values["residual_scale"] = torch.ones(B, D, dtype=torch.float64)
    values["mean_scale"] = torch.full((B,), 1e-6, dtype=torch.float64)  # its square counts
    densities = [log_marginal(tasks, s.structure(values, T, D), noise) for s in (SHARING, bm.Independent())]
    torch.testing.assert_close(*densities, rtol=1e-9, atol=1e-9)


def test_tasks_that_are_all_one_are_pooled():
    # correlation 1: one departure for all, which adds to the population
    tasks, noise = compress(ROWS["mixed sizes"]), make_noise("task", batch=1)
    for gap, tolerance in ((1e-4, 1e-2), (1e-10, 1e-7)):
        omega = torch.full((1, T, T), 1 - gap, dtype=torch.float64)
        omega.diagonal(dim1=-2, dim2=-1).fill_(1.0)
        values = {
            "mean_scale": torch.tensor([0.8], dtype=torch.float64),
            "residual_scale": torch.full((1, D), 0.6, dtype=torch.float64),
            "task_scale": torch.ones(1, T, dtype=torch.float64),
            "task_correlation": torch.linalg.cholesky(omega),
        }
        almost = log_marginal(tasks, SHARING.structure(values, T, D), noise)
        pooled = bm.Pooled().structure({"mean_scale": torch.tensor([1.0], dtype=torch.float64)}, T, D)
        assert abs(almost - log_marginal(tasks, pooled, noise)).item() < tolerance


def test_one_task_is_one_regression():
    # a population and its only task add up: w ~ N(0, mean_scale^2 + task_scale^2 scale^2)
    rng = np.random.default_rng(seeded(0))
    X, y = rng.normal(size=(9, 2)), rng.normal(size=9)
    data = bm.TaskData.from_arrays(X, y, ["only"] * 9).with_target_standardization("none")
    sharing = bm.TaskCovariance(scale=bm.Fixed(0.6), task_scale=bm.Fixed(1.5), mean_scale=bm.Fixed(1.0))
    fit = bm.LinearModel(sharing, bm.Gaussian(noise=0.7)).fit(
        data, method="exact", seed=seeded(0), num_draws=5000, progress=False
    )
    Z = fit.standardization.standardize_features(data.X)
    covariance = np.linalg.inv(Z.T @ Z / 0.49 + np.eye(3) / (1 + 0.81))
    weights = fit.draws.weights.reshape(-1, 3).numpy()
    # 20,000 independent draws: means within 5 standard errors, variances within 5 %
    error = np.abs(weights.mean(0) - covariance @ Z.T @ y / 0.49) / np.sqrt(np.diag(covariance) / 20_000)
    assert error.max() < 5
    np.testing.assert_allclose(weights.var(0), np.diag(covariance), rtol=0.05)


def test_the_prior_of_a_correlation_is_the_known_beta():
    """False-alarm probability 1e-5; the same through simulation from the model."""
    data = bm.TaskData.from_arrays(np.zeros((5, 0)), np.arange(5.0), list("abcde"))
    prior = bm.LinearModel(bm.TaskCovariance(bm.LKJ(1.3))).sample_prior(data, num_draws=2000, seed=seeded(0))
    omega = prior["task_correlation"].sel(task="b", task_other="e").to_numpy().ravel()
    b = 1.3 - 1 + 5 / 2
    assert stats.kstest((omega + 1) / 2, stats.beta(b, b).cdf).pvalue > 1e-5


def test_the_density_of_a_new_tasks_rows_is_a_difference_of_collapsed_densities():
    rows, noise = ROWS["mixed sizes"], make_noise("task", batch=B)
    whole = statistics(rows)
    fit = _fit_of(3, seed=0)  # gives the sharing prior only
    values = drawn(3)
    known = {
        "mean_scale": values["mean_scale"],
        "residual_scale": values["residual_scale"],
        "task_scale": values["task_scale"][:, :2],
        "task_correlation": values["task_correlation"][:, :2, :2],
    }
    first, rest = _tasks(whole, 0, 2), _tasks(whole, 2, 4)
    structure = SHARING.structure(known, 2, D)
    white = whiten(first, structure, noise[:, :2])
    found = _new_density(fit, rest, values, noise[:, 2:], white.L_basis, white.basis_mean)
    before = log_likelihood_of(first, structure, noise[:, :2], white)
    after = log_marginal(whole.compress(), SHARING.structure(values, T, D), noise)
    torch.testing.assert_close(found, after - before, rtol=1e-9, atol=1e-9)


def _data_of(signs: dict[str, float], seed: int, num_features: int = 9, rows: int = 20) -> bm.TaskData:
    """Tasks whose weights are +-1 times those of one common vector, with a little of their own."""
    rng = np.random.default_rng(seeded(seed))
    common = rng.normal(size=num_features)
    task, X, y = [], [], []
    for name, sign in signs.items():
        weights = sign * common + 0.4 * rng.normal(size=num_features)
        X.append(rng.normal(size=(rows, num_features)))
        y.append(X[-1] @ weights + 0.5 * rng.normal(size=rows))
        task += [name] * rows
    return bm.TaskData.from_arrays(np.concatenate(X), np.concatenate(y), task)


def _fit_of(number: int, seed: int, **options: object) -> bm.Fit:
    signs = {"up": 1.0, "down": -1.0, "up too": 1.0, "down too": -1.0}
    data = _data_of(dict(list(signs.items())[:number]), seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        settings = {"method": "empirical_bayes", "num_draws": 50, "progress": False} | options
        return bm.LinearModel(bm.TaskCovariance()).fit(data, seed=seeded(0), **settings)


@pytest.fixture(scope="module")
def opposed() -> bm.Fit:
    return _fit_of(3, 1, method="exact", num_chains=2, num_draws=60, num_warmup=40)


def test_a_negative_correlation_is_found(opposed):
    """Tasks with opposite effects: of ten weights each, correlated by .86 in truth, with either sign."""
    similarity = opposed.task_similarity(kind="structure")
    assert similarity.meaning == "correlation of the tasks' weights around the population"
    probability = similarity.probability("<0")
    assert probability.sel(task="up", task_other="down") > 0.95
    assert probability.sel(task="up", task_other="up too") < 0.05
    lower, upper = similarity.interval(0.8)
    assert upper.sel(task="up", task_other="down") < 0 < lower.sel(task="up", task_other="up too")
    frame = similarity.to_frame()
    assert frame["mean"].iloc[0] > 0.5 and frame["mean"].iloc[-1] < -0.3
    posterior = opposed.posterior["task_correlation"]
    assert posterior.dims == ("chain", "draw", "task", "task_other")
    np.testing.assert_allclose(posterior.sel(task="up", task_other="up"), 1.0, atol=1e-12)


def test_a_new_task_finds_whom_it_resembles(opposed):
    """A task whose rows contradict "up" is negatively correlated with it after `condition`."""
    new = _data_of({"up": 1.0, "down": -1.0, "up too": 1.0, "newcomer": -1.0}, 1).select_tasks(["newcomer"])
    before = opposed.predict(new, new_tasks="population", kind="latent")
    with warnings.catch_warnings():
        # 32 candidates for its correlations: few of them fit
        warnings.simplefilter("ignore", ConvergenceWarning)
        updated = opposed.condition(new)
    assert updated.task_names == ("down", "up", "up too", "newcomer")
    similarity = updated.task_similarity(kind="structure", tasks=["up", "down", "newcomer"])
    assert similarity.mean.sel(task="newcomer", task_other="up") < -0.2
    assert similarity.mean.sel(task="newcomer", task_other="down") > 0.2
    after = updated.predict(new, kind="latent")
    assert np.mean((after.mean - new.y) ** 2) < 0.2 * np.mean((before.mean - new.y) ** 2)


def test_rows_of_a_known_task_change_its_relatives(opposed):
    """Conditioning is exact: all hyperparameters known, the means are those of one fit to all rows."""
    data = _data_of({"a": 1.0, "b": -1.0, "c": 1.0}, 2, num_features=3, rows=8)
    rng = np.random.default_rng(seeded(0))
    late = np.flatnonzero(rng.random(data.num_rows) < 0.4)
    frame = data.to_frame()
    first = bm.TaskData.from_frame(
        frame.drop(frame.index[late]), task="task", target="y", features=["x0", "x1", "x2"]
    ).with_target_standardization("none")
    model = bm.LinearModel(bm.TaskCovariance(), bm.Gaussian(noise=0.6))
    fit = model.fit(first, method="empirical_bayes", seed=seeded(0), num_draws=5000, progress=False)
    updated = fit.condition(frame.iloc[late])
    values = {name: value.flatten(0, 1)[:1] for name, value in fit.draws.hyperparameters.items()}
    structure = fit.sharing.structure(values, 3, 4)
    mean, covariance = posterior_moments(
        updated.statistics.compress(), structure, fit.problem.noise(values, 1)
    )
    weights = updated.draws.weights.flatten(0, 1)
    error = covariance[0].diagonal(dim1=-2, dim2=-1).div(len(weights)).sqrt()
    # 12 means of 20,000 independent draws within 5 standard errors
    assert ((weights.mean(0) - mean[0]).abs() / error).max() < 5
    moved = (updated.draws.weights.mean((0, 1)) - fit.draws.weights.mean((0, 1))).abs()
    assert moved.max() > 0.05  # the new rows matter at all


def test_a_new_task_has_the_populations_spread():
    """Under the prior w_new ~ N(0, mean_scale^2 + task_scale^2 scale^2): variances within 5 % (20,000)."""
    data = _data_of({"a": 1.0, "b": -1.0, "c": 1.0}, 3, num_features=1, rows=4)
    nothing = bm.TaskData.from_frame(
        data.to_frame().assign(y=[1e-9, -1e-9] + [np.nan] * (data.num_rows - 2)),
        task="task",
        target="y",
        features=["x0"],
    ).with_target_standardization("none")
    sharing = bm.TaskCovariance(scale=bm.Fixed(0.5), task_scale=bm.Fixed(1.4), mean_scale=bm.Fixed(1.0))
    # so much noise that the two observed rows say nothing
    model = bm.LinearModel(sharing, bm.Gaussian(noise=1e3))
    fit = model.fit(nothing, method="laplace", seed=seeded(0), num_draws=5000, progress=False)
    grid = nothing.to_frame().iloc[[0]].assign(task="never seen")
    latent = fit.predict(grid, new_tasks="population", kind="latent", num_draws=20_000).draws.to_numpy()[:, 0]
    x = fit.standardization.standardize_features(nothing.X[:1])[0]
    assert latent.var() == pytest.approx((x @ x) * (1 + 0.49), rel=0.05)


@pytest.mark.parametrize("option", [{"scale": bm.Fixed(0.0)}, {"task_scale": bm.Fixed(0.0)}])
def test_scales_of_zero_are_refused(option):
    with pytest.raises(bm.errors.SpecificationError, match="Use Pooled"):
        bm.TaskCovariance(**option)


def test_many_correlations_are_sampled_only_when_asked_for():
    data = _data_of({f"task {t}": 1.0 for t in range(9)}, 0, num_features=1, rows=3)
    fit = bm.LinearModel(bm.TaskCovariance()).fit(data, seed=seeded(0), num_draws=50, progress=False)
    assert fit.method == "empirical_bayes"
    assert fit.reason.startswith("9 tasks whose weights are correlated") and 'method="exact"' in fit.reason


def test_no_structure_where_there_is_none(lab_fit):
    with pytest.raises(bm.errors.SpecificationError, match="no structure of its own"):
        lab_fit.task_similarity(kind="structure")
