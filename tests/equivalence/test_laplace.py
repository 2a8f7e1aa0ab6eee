"""The Laplace marginal: exact for Gaussian rows, near quadrature otherwise, with the right gradient."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

import bayesmtl as bm
from bayesmtl.algebra.rows import TaskRows
from bayesmtl.algebra.statistics import TaskStatistics
from bayesmtl.errors import ConvergenceWarning
from bayesmtl.likelihoods import NOTHING, Derivatives, Rowwise
from bayesmtl.posteriors.linear.build import with_rows
from bayesmtl.posteriors.linear.outcomes import LaplaceMarginal
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.samplers.importance import Proposal, smooth, systematic, weighted_sample
from tests.seeds import seeded

NOISE = 0.7
SHARINGS = {
    "Independent": bm.Independent(),
    "Pooled": bm.Pooled(bm.HalfNormal(1.0)),
    "Hierarchical": bm.Hierarchical(),
    "Hierarchical full": bm.Hierarchical("full", mean_scale=bm.HalfNormal(1.0)),
    "LowRank": bm.LowRank(2),
}


@dataclass(frozen=True)
class _GaussianRows(Rowwise):
    """Gaussian noise, one row at a time: Laplace's method leaves nothing out."""

    unit: ClassVar[str] = "target"

    def derivatives(self, y, f, given=NOTHING):
        value = -0.5 * ((y - f) / NOISE) ** 2 - np.log(NOISE) - 0.5 * np.log(2 * np.pi)
        return Derivatives(value, (y - f) / NOISE**2, torch.full_like(y - f, -(NOISE**-2)))

    def third_derivative(self, y, f, given=NOTHING):
        return torch.zeros_like(y - f)

    def mean(self, f, given=NOTHING):
        return f

    def draw(self, f, noise, rng, given=NOTHING):
        return f + NOISE * rng.normal(size=f.shape)


def problem_of(
    sharing: bm.sharing.Sharing, likelihood: Rowwise, y: np.ndarray, X: np.ndarray, task
) -> LinearPosterior:
    T = int(task.max()) + 1
    tasks = TaskStatistics.from_rows(X, y, task, T).compress()
    names = tuple(f"t{t}" for t in range(T))
    rows = None if likelihood.compresses else TaskRows.of(X, y, task, T)
    return with_rows(LinearPosterior(sharing, likelihood, tasks, names, np.ones(T)), rows)


def inputs(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    task = np.repeat([0, 1, 2, 4, 5], [3, 8, 20, 1, 2])  # task 3 has no rows
    return np.c_[np.ones(len(task)), rng.normal(size=(len(task), 2))], task, rng


@pytest.mark.parametrize("name", SHARINGS)
def test_gaussian_rows_give_the_exact_answer(name):
    X, task, rng = inputs()
    y = rng.normal(size=len(task))
    approximate = problem_of(SHARINGS[name], _GaussianRows(), y, X, task)
    exact = problem_of(SHARINGS[name], bm.Gaussian(noise=NOISE), y, X, task)
    points = exact.space.initial(rng, 3)
    found, expected = (
        LaplaceMarginal(approximate).value_and_gradient(points),
        exact.value_and_gradient(points),
    )
    for first, second in zip(found, expected, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-8)


TARGETS = {
    "logit": (bm.Bernoulli(), lambda rng, n: rng.binomial(1, 0.4, n)),
    "probit": (bm.Bernoulli("probit"), lambda rng, n: rng.binomial(1, 0.4, n)),
    "binomial": (bm.Binomial(5), lambda rng, n: rng.binomial(5, 0.3, n)),
    "poisson": (bm.Poisson(), lambda rng, n: rng.poisson(3.0, n)),
    "poisson, large counts": (bm.Poisson(), lambda rng, n: rng.poisson(3000.0, n)),
    "separated": (bm.Bernoulli(), lambda rng, n: np.ones(n)),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", SHARINGS)
def test_gradient_is_that_of_finite_differences(name, target):
    check_gradient(SHARINGS[name], *TARGETS[target])


def check_gradient(sharing: bm.sharing.Sharing, likelihood: Rowwise, draw) -> None:
    X, task, rng = inputs()
    problem = problem_of(sharing, likelihood, draw(rng, len(task)).astype(float), X, task)
    density = LaplaceMarginal(problem)
    points = problem.space.initial(rng, 2)
    value, gradient = density.value_and_gradient(points)
    torch.testing.assert_close(value, density.value(points), rtol=1e-9, atol=1e-7)
    step = 1e-4
    for coordinate in torch.eye(points.shape[1], dtype=points.dtype):
        ahead, behind = density.value(points + step * coordinate), density.value(points - step * coordinate)
        expected = (ahead - behind) / (2 * step)
        scale = 1e-6 * (1 + float(value.abs().max()))
        torch.testing.assert_close(gradient @ coordinate, expected, rtol=1e-4, atol=scale)


OWN = {
    "negative binomial": (bm.NegativeBinomial(), lambda rng, n: rng.negative_binomial(2, 0.4, n)),
    "negative binomial, large counts": (
        bm.NegativeBinomial(),
        lambda rng, n: rng.negative_binomial(2, 0.0005, n),
    ),
    "student t": (bm.StudentT(), lambda rng, n: 0.5 * rng.standard_t(3, n)),
    "student t, outliers": (
        bm.StudentT(),
        lambda rng, n: 0.3 * rng.normal(size=n) + np.where(np.arange(n) % 7 == 0, 30.0, 0.0),
    ),
}


@pytest.mark.parametrize("target", OWN)
@pytest.mark.parametrize("name", ["Hierarchical full", "LowRank"])
def test_gradient_with_hyperparameters_of_the_likelihood(name, target):
    """Also where it acts through the mode and through the information of the rows."""
    likelihood, draw = OWN[target]
    check_gradient(SHARINGS[name], likelihood, draw)


def brute_force(likelihood: Rowwise, y: np.ndarray, x: np.ndarray, scale: float) -> float:
    """log of the integral over w of p(y | x w) N(w | 0, scale^2), by quadrature."""

    def integrand(w: float) -> float:
        log_density = likelihood.log_density(y, x * w, np.ones(1)).sum()
        return float(np.exp(log_density - offset) * stats.norm.pdf(w, scale=scale))

    offset = max(likelihood.log_density(y, x * w, np.ones(1)).sum() for w in np.linspace(-4, 4, 81))
    value, _ = integrate.quad(integrand, -8 * scale, 8 * scale, points=[0.0], limit=400)
    return float(np.log(value) + offset)


def next_order(likelihood: Rowwise, y: np.ndarray, x: np.ndarray, scale: float) -> float:
    """What Laplace's method leaves out, to the next order: l4 / (8 H^2) + 5 l3^2 / (24 H^3) at the mode."""
    given, features = torch.from_numpy(y), torch.from_numpy(x)

    def joint(w: float) -> float:
        return likelihood.log_density(y, x * w, np.ones(1)).sum() - 0.5 * (w / scale) ** 2

    w = optimize.minimize_scalar(lambda w: -joint(w), bounds=(-5, 5), method="bounded").x
    f = (features * w).requires_grad_()
    third = likelihood.third_derivative(given, f)
    (fourth,) = torch.autograd.grad(third.sum(), f)
    H = float((-likelihood.derivatives(given, f.detach()).second * features**2).sum()) + scale**-2
    l3, l4 = float((third.detach() * features**3).sum()), float((fourth.detach() * features**4).sum())
    return l4 / (8 * H**2) + 5 * l3**2 / (24 * H**3)


@pytest.mark.parametrize("num_rows", [6, 100])
@pytest.mark.parametrize(
    "likelihood", [bm.Bernoulli(), bm.Bernoulli("probit"), bm.Binomial(20), bm.Poisson()], ids=repr
)
def test_marginal_is_near_quadrature(likelihood, num_rows):
    """One task, one feature: the error is that of Laplace's method, of the order of 1 / n, and no other."""
    rng = np.random.default_rng(seeded(3))
    x, scale = rng.normal(size=num_rows), 0.8
    y = likelihood.draw(0.9 * x, np.ones(1), rng)
    sharing = bm.Independent(scale=bm.Fixed(scale))
    problem = problem_of(sharing, likelihood, y, x[:, None], np.zeros(num_rows, dtype=int))
    found = float(LaplaceMarginal(problem).value(torch.zeros(1, 0, dtype=torch.float64)))
    error = brute_force(likelihood, y, x, scale) - found
    assert abs(error) < 0.4 / num_rows + 0.005
    # what is left is of the order of 1 / n^2
    assert abs(error - next_order(likelihood, y, x, scale)) < 1 / num_rows**2


@pytest.mark.parametrize("far", [False, True])
def test_the_mode_does_not_depend_on_where_the_search_starts(far):
    X, task, rng = inputs()
    problem = problem_of(bm.Hierarchical(), bm.Poisson(), rng.poisson(4.0, len(task)).astype(float), X, task)
    density = LaplaceMarginal(problem)
    points = problem.space.initial(rng, 1)
    fresh = density.value(points)
    density.value(points + (2.0 if far else 0.1))  # a single point: the next search starts there
    torch.testing.assert_close(density.value(points), fresh, rtol=1e-9, atol=1e-7)


def test_values_do_not_depend_on_what_they_are_computed_with(monkeypatch):
    X, task, rng = inputs()
    problem = problem_of(bm.Hierarchical(), bm.Bernoulli(), rng.binomial(1, 0.4, len(task)) * 1.0, X, task)
    points = problem.space.initial(rng, 7)
    together = LaplaceMarginal(problem).value_and_gradient(points)
    monkeypatch.setattr("bayesmtl.posteriors.linear.outcomes._AT_ONCE", 1)
    for first, second in zip(together, LaplaceMarginal(problem).value_and_gradient(points), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-7, atol=1e-7)


def test_equal_rows_merged_give_the_same_density():
    """Two distinct inputs: marginal and gradient with every row kept, and with equal ones merged."""
    rng = np.random.default_rng(seeded(5))
    task, X = np.repeat(np.arange(4), 12), np.column_stack([np.ones(48), np.tile([0.0, 1.0], 24)])
    problem = problem_of(bm.Hierarchical(), bm.Poisson(), rng.poisson(1.5, 48).astype(float), X, task)
    merged = replace(problem, rows=problem.rows.merged())
    assert merged.rows.real.sum() < 0.8 * problem.rows.real.sum()
    points = torch.from_numpy(rng.normal(size=(5, problem.space.size)))
    for found, expected in zip(
        LaplaceMarginal(merged).value_and_gradient(points),
        LaplaceMarginal(problem).value_and_gradient(points),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["laplace", "gibbs"])
def test_separation_gives_finite_answers(method):
    """A feature that separates yes from no perfectly, and a task in which all is yes."""
    x = np.linspace(-2, 2, 24)
    y = np.where(np.arange(24) < 8, 1.0, x > 0)
    data = bm.TaskData.from_arrays(x[:, None], y, np.repeat(["a", "b", "c"], 8))
    model = bm.LinearModel(likelihood=bm.Bernoulli())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # chains are short
        fit = model.fit(data, method=method, seed=seeded(0), num_draws=150, num_warmup=50, progress=False)
    table = fit.coefficients()
    assert np.isfinite(table.to_numpy()).all() and (table["sd"] < 5).all()
    chance = fit.predict(data, kind="latent")
    assert np.all((chance.draws > 0) & (chance.draws < 1))
    assert chance.mean[:8].min() > 0.5
    assert any(
        "3 of 3 tasks ('a', 'b', 'c') all outcomes are alike or one" in note for note in fit.check().notes
    )


class _Normal:
    """A density whose moments are known: N(mean, diag(sd^2)), the first coordinate folded at zero."""

    mean, sd = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([1.0, 0.2, 3.0])

    def value(self, points):
        both = [points * torch.tensor([sign, 1.0, 1.0]) for sign in (1.0, -1.0)]
        return torch.logsumexp(
            torch.stack([-0.5 * (((p - self.mean) / self.sd) ** 2).sum(1) for p in both]), 0
        )


def test_importance_sampling_finds_known_moments():
    """From a proposal twice too narrow and off by one sd. 4,000 points of weights that are nearly equal; 5
    standard errors on 5 numbers: fails by chance once in 300,000."""
    rng = np.random.default_rng(seeded(0))
    double = torch.float64
    center, signed = (_Normal.mean + _Normal.sd).to(double), torch.tensor([True, False, False])
    proposal = Proposal(center, torch.diag(_Normal.sd / 2).to(double), signed, center)
    sample = weighted_sample(_Normal(), proposal, 4000, rng)
    assert sample.pareto_k < 0.5
    assert bool((sample.points[:, 0] >= 0).all())
    points = sample.points[systematic(sample.weights, 4000, rng)]
    folded = stats.foldnorm(0.3)
    error = 5 * _Normal.sd.numpy() / np.sqrt(2000)
    expected = np.array([folded.mean(), -1.0, 2.0])
    assert np.all(np.abs(points.mean(0).numpy() - expected) < error)
    spread = np.array([folded.std(), 0.2, 3.0])
    assert np.all(np.abs(points.std(0).numpy() / spread - 1) < 5 / np.sqrt(2 * 2000))


def test_a_tail_that_is_too_heavy_is_noticed():
    rng = np.random.default_rng(seeded(0))
    values = rng.normal(size=3000)
    _, k = smooth(stats.norm.logpdf(values, scale=4.0) - stats.norm.logpdf(values))  # far too narrow
    assert k > 0.7
    _, k = smooth(stats.norm.logpdf(values, scale=0.9) - stats.norm.logpdf(values))
    assert k < 0.5
    _, k = smooth(np.full(1000, -np.inf))
    assert k == np.inf
    smoothed, _ = smooth(np.where(np.arange(1000) < 5, -np.inf, rng.normal(size=1000)))
    assert np.exp(smoothed[:5] - smoothed.max()).max() < 1e-100
