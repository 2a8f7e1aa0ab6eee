"""Eight schools (Rubin, 1981): known noise per task, intercept only, beside an exact answer.

The reference shares no code with the package. Given tau, school effects theta and their mean mu are Gaussian,
so all moments are known; tau is one number, so the rest is a sum over a fine grid. That is what an infinitely
long run would give. Units are standardised, as the priors are: y less its mean, divided by its standard
deviation q; mu ~ N(0, 1), tau ~ HalfNormal(1), theta_t ~ N(mu, tau^2), y_t ~ N(theta_t, (se_t / q)^2).

False alarms: 72 comparisons within 5 Monte Carlo standard errors, about 4e-5 in all.
"""

from __future__ import annotations

import numpy as np
import pytest
from arviz_stats.base import array_stats

import bayesmtl as bm
from tests.seeds import seeded

LIMIT = 5.0


@pytest.fixture(scope="module", params=["chains", "importance"])
def fit(request) -> bm.Fit:
    frame = bm.datasets.load("eight_schools").frame
    data = bm.TaskData.from_frame(frame, task="school", target="effect", features=[])
    noise = dict(zip(frame["school"], frame["se"], strict=True))
    model = bm.LinearModel(bm.Hierarchical(), bm.Gaussian(noise=noise))
    # so many effective draws as only chains could give, or as weighted points can
    wanted = {"chains": 10**6, "importance": 4000}[request.param]
    run = {"num_chains": 16, "num_draws": 500, "num_effective": wanted, "progress": False}
    fit = model.fit(data, method="exact", seed=seeded(0), **run)
    assert request.param in fit.reason
    return fit


def standard_error(fit: bm.Fit, values: np.ndarray, method: str) -> np.ndarray:
    """Of the mean or sd of draws (C, N, ...); weighted points are fewer than their copies."""
    stats = fit.draws.sample_stats
    if "importance_ess" not in stats:
        return array_stats.mcse(values, chain_axis=0, draw_axis=1, method=method)
    centred = values - values.mean((0, 1))
    if method == "sd":
        centred = (centred**2 - (centred**2).mean((0, 1))) / (2 * values.std((0, 1)))
    return centred.std((0, 1)) / np.sqrt(stats["importance_ess"].flat[0])


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    """Posterior means and standard deviations of tau, mu and theta, user's units; and quantiles of tau."""
    frame = bm.datasets.load("eight_schools").frame
    center, q = frame["effect"].mean(), frame["effect"].std(ddof=0)
    y, se = ((frame["effect"] - center) / q).to_numpy(), (frame["se"] / q).to_numpy()
    grid = np.linspace(0, 8, 8001)
    log_weight, means, variances = [], [], []
    for tau in grid:
        # the unknowns (mu, theta_1 .. theta_8) and y given tau
        prior = np.ones((9, 9)) + np.diag([0.0] + [tau**2] * 8)
        C = prior[1:, 1:] + np.diag(se**2)
        gain = np.linalg.solve(C, prior[1:]).T
        means.append(gain @ y)
        variances.append(np.diag(prior - gain @ prior[1:]))
        log_det = np.linalg.slogdet(C)[1]
        log_weight.append(-0.5 * log_det - 0.5 * y @ np.linalg.solve(C, y) - 0.5 * tau**2)
    weight = np.exp(np.array(log_weight) - max(log_weight))
    weight[0] /= 2  # the trapezoidal rule
    weight /= weight.sum()
    means, variances = np.array(means), np.array(variances)
    mean = weight @ means
    sd = np.sqrt(weight @ (variances + (means - mean) ** 2))
    tau_mean = weight @ grid
    tau_sd = np.sqrt(weight @ (grid - tau_mean) ** 2)
    return {
        "mean": np.append(center + q * mean, q * tau_mean),
        "sd": q * np.append(sd, tau_sd),
        "tau distribution": np.stack([q * grid, weight.cumsum()]),
    }


def drawn(fit: bm.Fit) -> np.ndarray:
    """mu, theta_1 .. theta_8 and tau, shape (C, N, 10)."""
    posterior = fit.posterior
    parts = [posterior["population"], posterior["weights"][..., 0], posterior["residual_scale"]]
    return np.concatenate([part.to_numpy() for part in parts], axis=-1)


def test_data_and_fit_have_no_feature_but_the_intercept(fit):
    assert fit.feature_names == ("Intercept",)
    assert fit.task_names == tuple("ABCDEFGH")
    assert "noise" not in fit.posterior


def test_the_fit_converged(fit):
    assert fit.check().ok, str(fit.check())


def test_means(fit, reference):
    values = drawn(fit)
    error = standard_error(fit, values, "mean")
    assert (np.abs(values.mean((0, 1)) - reference["mean"]) < LIMIT * error).all()


def test_standard_deviations(fit, reference):
    values = drawn(fit)
    error = standard_error(fit, values, "sd")
    assert (np.abs(values.std((0, 1)) - reference["sd"]) < LIMIT * error).all()


def test_distribution_of_tau(fit, reference):
    # P(tau below t) at eight points: among them close to zero, where a log scale would have its funnel
    tau = fit.posterior["residual_scale"].to_numpy()[..., 0]
    points, distribution = reference["tau distribution"]
    for probability in (0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98):
        position = int(np.searchsorted(distribution, probability))
        below = (tau < points[position]).astype(float)
        error = float(standard_error(fit, below, "mean"))
        assert abs(below.mean() - distribution[position]) < LIMIT * error + 1e-3


def test_a_new_school(fit, reference):
    # theta_new | y has mean E[mu] and variance Var(mu) + E[tau^2]
    new = bm.datasets.load("eight_schools").frame[["school"]].iloc[:1].assign(school="I")
    predicted = fit.predict(new, kind="latent", new_tasks="population", num_draws=8000)
    expected = np.sqrt(reference["sd"][0] ** 2 + reference["sd"][9] ** 2 + reference["mean"][9] ** 2)
    # about 8000 draws of heavier than normal tails: 1 % standard error
    assert predicted.sd[0] == pytest.approx(expected, rel=0.05)
    assert predicted.mean[0] == pytest.approx(reference["mean"][0], abs=5 * expected / np.sqrt(8000))
    assert predicted.new.all()
