"""Leave-one-out in closed form against refits without the row, at known hyperparameters and without."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from arviz_stats.utils import ELPDData
from scipy.special import logsumexp
from scipy.stats import norm

import bayesmtl as bm
from bayesmtl.errors import DataError, SpecificationError
from bayesmtl.inference.exact import exact
from bayesmtl.posteriors.linear.build import linear_posterior
from bayesmtl.posteriors.linear.rows import StandardRows
from bayesmtl.samplers.settings import Settings
from tests.seeds import seeded

KNOWN = bm.Fixed(0.7)
PRIORS = {
    "pooled": bm.Pooled(),
    "independent": bm.Independent(scale=KNOWN),
    "hierarchical": bm.Hierarchical(scale=KNOWN),
    "graph": bm.TaskGraph(
        pd.DataFrame(np.ones((3, 3)) - np.eye(3), index=list("abc"), columns=list("abc")),
        coupling=bm.Fixed(0.5),
        mean_scale=bm.Fixed(1.0),
        scale=KNOWN,
    ),
}


def data(seed: int = 0, *, weights: bool = False) -> bm.TaskData:
    rng = np.random.default_rng(seed)
    task = np.repeat(["a", "b", "c"], [1, 5, 7])
    X = rng.normal(size=(13, 2))
    y = 3.0 + X @ [1.0, -2.0] + 0.5 * rng.normal(size=13)
    y[4] = np.nan
    given = {"weights": np.where(np.arange(13) % 3 == 0, 2.0, 1.0)} if weights else {}
    made = bm.TaskData.from_arrays(X, y, task, offset=np.linspace(0, 1, 13), **given)
    return made.with_target_standardization("none")


def without(data: bm.TaskData, row: int) -> bm.TaskData:
    y = data.y.copy()
    y[row] = np.nan
    return replace(data, y=y)


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("weights", [False, True])
def test_known_hyperparameters(name, weights):
    """To rounding: the refit's weights are normal, and their exact moments stand for them."""
    whole = data(weights=weights)
    model = bm.LinearModel(PRIORS[name], bm.Gaussian(noise=0.5))
    run = {"method": "exact", "seed": seeded(0), "num_chains": 1, "num_draws": 4, "progress": False}
    fit = model.fit(whole, **run)
    found = fit.leave_one_out()
    assert isinstance(found, ELPDData) and found.kind == "loo" and found.scale == "log"
    rows = np.flatnonzero(whole.observed)
    table = found.to_frame()
    assert table.index.tolist() == rows.tolist() and table["pareto_k"].isna().all()
    for i in (0, 3, len(rows) - 1):
        part = without(whole, rows[i])
        refit = model.fit(part, **(run | {"num_draws": 4000}))
        # the same standardisation of features as with the row
        refit = replace(refit, standardization=fit.standardization, statistics=statistics(fit, part))
        moments = exact_moments(refit, whole, rows[i])
        np.testing.assert_allclose(
            [table["mean"].iloc[i], table["sd"].iloc[i]], moments, rtol=1e-6, atol=1e-9
        )
        density = norm.logpdf(whole.y[rows[i]], *moments)
        count = 1.0 if whole.weights is None else whole.weights[rows[i]]
        np.testing.assert_allclose(table["log_density"].iloc[i], count * density, rtol=1e-6)
    by_task = found.by_task()
    assert by_task.index.tolist() == ["a", "b", "c"] and by_task["rows"].tolist() == [1, 4, 7]
    np.testing.assert_allclose(by_task["elpd"].sum(), found.elpd)
    np.testing.assert_allclose(found.elpd, table["log_density"].sum())


def statistics(fit: bm.LinearFit, part: bm.TaskData):
    likelihood = fit.likelihood.of_tasks(fit.task_names, fit.standardization.target_scale)
    rows = StandardRows.of(part, part.task, fit.standardization, likelihood)
    return rows.statistics(part.num_tasks)


def exact_moments(fit: bm.LinearFit, data: bm.TaskData, row: int) -> tuple[float, float]:
    """Mean and sd of a row's target by dense algebra: the prior of all weights, conditioned on rows."""
    problem = fit.problem
    values = {name: value[:1] for name, value in fit.flat().items()}
    structure = problem.structure(values)
    T, D = problem.tasks.num_tasks, problem.num_weights
    V = np.zeros((T * D, T * D))
    if structure.loadings is not None:
        A = np.kron(structure.loadings.reshape(T, -1).numpy(), np.eye(D))
        V += A @ np.diag(structure.basis_scale[0].flatten().numpy() ** 2) @ A.T
    if structure.residual_scale is not None:
        own = np.broadcast_to(structure.residual_scale[0].numpy() ** 2, (T, D))
        V += np.diag(own.flatten())
    X = fit.standardization.standardize_features(data.X)
    design = np.zeros((data.num_rows, T * D))
    for i, t in enumerate(data.task):
        design[i, t * D : (t + 1) * D] = X[i]
    count = np.ones(data.num_rows) if data.weights is None else data.weights
    others = data.observed & (np.arange(data.num_rows) != row)
    variance = 0.5**2
    K = design[others] @ V @ design[others].T + np.diag(variance / count[others])
    gain = np.linalg.solve(K, design[others] @ V @ design[row])
    mean = gain @ (data.y - data.offset)[others]
    spread = design[row] @ V @ design[row] - gain @ design[others] @ V @ design[row]
    return float(mean + data.offset[row]), float(np.sqrt(spread + variance))


def test_unknown_hyperparameters_against_refits():
    """Densities of rows beside those of posteriors without them, in the units of all rows.

    Each side's standard error is about .01 nats (over seeds), so that a tenth is never reached by chance;
    a row of large leverage changes by more when it is not left out.
    """
    rng = np.random.default_rng(seeded(3))
    task = np.repeat(list("abcdef"), 6)
    x = rng.normal(size=36)
    y = np.repeat(rng.normal(1.0, 0.6, 6), 6) * x + 0.5 * rng.normal(size=36)
    whole = bm.TaskData.from_arrays(x[:, None], y, task).with_target_standardization("none")
    fit = bm.LinearModel().fit(whole, method="exact", seed=seeded(0), num_draws=1000, progress=False)
    table = fit.leave_one_out(num_draws=4000).to_frame()
    assert (table["pareto_k"] < 0.7).all()
    settings = Settings(0, 4, 1000, progress=False)
    for row in (0, 7, 21):
        part = without(whole, row)
        posterior, sums = linear_posterior(fit.sharing, fit.likelihood, part, fit.standardization)
        refit = replace(fit, draws=exact(posterior, settings), statistics=sums, data=part)
        assert abs(table["log_density"].iloc[row] - log_density_of(refit, x[row], task[row], y[row])) < 0.1
    assert log_density_of(fit, x[0], task[0], y[0]) - table["log_density"].iloc[0] > 0.3


def log_density_of(fit: bm.LinearFit, x: float, task: str, y: float) -> float:
    noise = fit.posterior["noise"].to_numpy().ravel()
    latent = fit.predict(([[x]], [task]), kind="latent", num_draws=4000).draws.to_numpy()[:, 0]
    density = norm.logpdf(y, latent, noise)
    return float(logsumexp(density) - np.log(len(density)))


def test_outcomes_are_smoothed():
    rng = np.random.default_rng(seeded(0))
    x, task = rng.normal(size=60), np.repeat(list("abc"), 20)
    outcomes = bm.TaskData.from_arrays(x[:, None], (x + rng.logistic(size=60) > 0).astype(float), task)
    fit = bm.LinearModel(likelihood=bm.Bernoulli()).fit(outcomes, seed=seeded(0), progress=False)
    found = fit.leave_one_out()
    assert found.elpd < 0 and found.p > 0 and np.isfinite(found.se)
    table = found.to_frame()
    assert set(table["target"]) == {0.0, 1.0} and "mean" not in table
    # each row is predicted worse than by a fit that has seen it
    tree = fit.to_datatree()["log_likelihood"]["y"].stack(sample=("chain", "draw")).to_numpy()
    seen = logsumexp(tree, axis=1) - np.log(tree.shape[1])
    assert (table["log_density"].to_numpy() < seen + 1e-9).mean() > 0.95


@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_clusters():
    rng = np.random.default_rng(seeded(1))
    task = np.repeat([f"t{i}" for i in range(8)], 6)
    x = rng.normal(size=48)
    y = np.where(np.repeat(np.arange(8), 6) < 4, 2.0, -2.0) * x + 0.3 * rng.normal(size=48)
    whole = bm.TaskData.from_arrays(x[:, None], y, task)
    fit = bm.LinearModel(bm.DirichletProcess()).fit(
        whole, seed=seeded(0), num_chains=2, num_draws=100, num_warmup=100, progress=False
    )
    table = fit.leave_one_out().to_frame()
    assert np.corrcoef(table["mean"], table["target"])[0, 1] > 0.95
    pooled = bm.LinearModel(bm.Pooled()).fit(whole, seed=seeded(0), progress=False)
    assert fit.leave_one_out().elpd > pooled.leave_one_out().elpd + 20


def test_units_shift_densities():
    whole = data()
    run = {"method": "empirical_bayes", "seed": seeded(0), "progress": False}
    scaled = replace(whole, y=10 * whole.y, offset=10 * whole.offset).with_target_standardization("pooled")
    fits = [bm.LinearModel().fit(d, **run) for d in (whole.with_target_standardization("pooled"), scaled)]
    first, second = (fit.leave_one_out().elpd_i.to_numpy() for fit in fits)
    np.testing.assert_allclose(second, first - np.log(10), rtol=1e-4, atol=1e-4)


def test_sums_have_no_rows(tmp_path):
    whole = pd.DataFrame({"g": list("aabb"), "x": [0.0, 1.0, 2.0, 3.0], "y": [0.0, 1.1, 2.0, 2.9]})
    whole.to_parquet(tmp_path / "rows.parquet")
    sums = bm.TaskData.from_parquet(tmp_path / "rows.parquet", task="g", target="y", features=["x"])
    fit = bm.LinearModel().fit(sums, method="empirical_bayes", seed=seeded(0), progress=False)
    with pytest.raises(DataError, match="leave_one_out"):
        fit.leave_one_out()
    with pytest.raises(SpecificationError, match="num_draws"):
        fit.leave_one_out(num_draws=0)
