"""Functions through inducing inputs against dense formulas, direct maximisation and a sampler."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import bayesmtl as bm
from bayesmtl.algebra.functions import function_covariance
from bayesmtl.algebra.greedy import greedy_choice
from bayesmtl.algebra.inducing import Features, Weights
from bayesmtl.likelihoods.base import Given
from bayesmtl.posteriors.functions.expected import ExpectedRows
from bayesmtl.posteriors.functions.inducing import InducingFunctions, natural_step, sums_of
from bayesmtl.posteriors.functions.inducing_inputs import choose_inducing

QUICK = {"method": "empirical_bayes", "seed": 0, "progress": False, "num_draws": 20}
T, n = 3, 24
MODELS = {
    "independent": (bm.Matern(), bm.Independent()),
    "pooled": (bm.Matern(), bm.Pooled(mean_scale=bm.HalfNormal(1.0))),
    "hierarchical": (bm.Matern(), bm.Hierarchical()),
    "isotropic": (bm.Matern(), bm.Hierarchical(covariance="isotropic")),
    "two kernels": ((bm.Matern(), bm.Matern(1.5)), bm.Hierarchical()),
    "low rank": (bm.Matern(), bm.LowRank(rank=2)),
    "latent factors": ((bm.Matern(),) * 2, bm.LowRank(rank=2)),
    "coregionalisation": ((bm.Matern(),) * 3, bm.LowRank(rank=2)),
    "covariance": (bm.Matern(), bm.TaskCovariance()),
}
OUTCOMES = {
    "bernoulli": bm.Bernoulli(),
    "poisson": bm.Poisson(),
    "student": bm.StudentT(),
    "negative binomial": bm.NegativeBinomial(),
}


def rows(likelihood=None) -> bm.TaskData:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(n, 2))
    y = np.sin(2 * X[:, 0]) + 0.3 * rng.normal(size=n)
    if isinstance(likelihood, bm.Bernoulli):
        y = (y > 0).astype(float)
    elif isinstance(likelihood, (bm.Poisson, bm.NegativeBinomial)):
        y = rng.poisson(np.exp(y)).astype(float)
    elif isinstance(likelihood, bm.StudentT):
        y[3] += 8.0
    return bm.TaskData.from_arrays(X, y, np.arange(n) % T, intercept=False)


def dense(name="hierarchical", likelihood=None):
    kernel, sharing = MODELS[name]
    likelihood = bm.Gaussian(noise="task") if likelihood is None else likelihood
    return bm.MultitaskGP(kernel, sharing, likelihood)._posterior(rows(likelihood))


def points(problem, num_points=2) -> torch.Tensor:
    return problem.space.initial(np.random.default_rng(5), num_points)


def one(problem) -> dict[str, torch.Tensor]:
    return problem.space.constrain(points(problem, 1))


# Gaussian noise


@pytest.mark.parametrize("name", MODELS)
def test_with_all_inputs_inducing_the_bound_is_the_evidence(name):
    """To the nugget of 1e-8 on the covariance of inducing values."""
    problem = dense(name)
    sparse = InducingFunctions.of(problem, problem.X)
    at = points(problem)
    for ours, exact in zip(sparse.value_and_gradient(at), problem.value_and_gradient(at), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_roots_give_the_task_covariances(name):
    problem = dense(name)
    values = one(problem)
    for reading in (problem.sharing.roots, super(type(problem.sharing), problem.sharing).roots):
        roots, structure = reading(values, T), problem.structure(values)
        for q, root in enumerate(roots.shape):
            torch.testing.assert_close(root @ root.T, structure.shape[0, q], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(roots.level @ roots.level.T, structure.level[0], rtol=1e-6, atol=1e-6)


def covariances(problem, Z):
    """K, its part Q that inducing values explain, and noise variances, by loops over kernels and tasks."""
    values, task = one(problem), problem.task
    structure = problem.structure(values)
    kernel = problem.kernels.covariance(values, problem.X, problem.X)[0]
    cross = problem.kernels.covariance(values, problem.X, Z)[0]
    inner = problem.kernels.covariance(values, Z, Z)[0]
    K, Q = (structure.level[0][task][:, task].clone() for _ in range(2))
    for q in range(len(kernel)):
        omega = structure.shape[0, q][task][:, task]
        K += omega * kernel[q]
        Q += omega * (cross[q] @ torch.linalg.solve(inner[q], cross[q].T))
    return K, Q, problem.noise(values, 1)[0][task].square()


@pytest.mark.parametrize("name", ["hierarchical", "latent factors", "coregionalisation"])
def test_bound_equals_that_of_titsias(name):
    """log N(y; 0, Q + noise) - tr((K - Q) / noise) / 2."""
    problem = dense(name)
    Z = problem.X[:7]
    K, Q, noise = covariances(problem, Z)
    marginal = torch.distributions.MultivariateNormal(torch.zeros(n).double(), Q + torch.diag(noise))
    expected = marginal.log_prob(problem.y) - 0.5 * ((K - Q).diagonal() / noise).sum()
    found = InducingFunctions.of(problem, Z).log_marginal(one(problem), 1)[0]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-5)


def test_more_inducing_inputs_give_a_higher_bound_below_the_evidence():
    problem = dense()
    values = one(problem)
    bounds = [
        float(InducingFunctions.of(problem, problem.X[:m]).log_marginal(values, 1)[0])
        for m in (2, 5, 10, 20, n)
    ]
    assert (np.diff(bounds) > 0).all()
    assert bounds[-1] <= float(problem.log_marginal(values, 1)[0]) + 1e-6


@pytest.mark.parametrize("name", ["hierarchical", "low rank", "covariance", "latent factors"])
def test_fit_with_all_inputs_inducing_answers_as_the_dense_one(name):
    """Predictions, new tasks among them, correlations, suggestions, and all of these after conditioning."""
    kernel, sharing = MODELS[name]
    exact = bm.MultitaskGP(kernel, sharing).fit(rows(), **QUICK)
    sparse = replace(exact, inducing=exact.problem.X)
    rng = np.random.default_rng(1)
    new = (rng.normal(size=(6, 2)), np.array([0, 1, 2, 0, 7, 7]))
    known = (new[0][:4], new[1][:4])
    for pair in ((exact, sparse), _conditioned(exact, sparse)):
        first, second = (fit.predict(new, new_tasks="population", kind="latent") for fit in pair)
        np.testing.assert_allclose(first.mean, second.mean, atol=1e-4)
        np.testing.assert_allclose(first.sd, second.sd, rtol=1e-3, atol=1e-4)
        alone = pair[1].predict(known, kind="latent", joint=False, num_draws=4000)
        np.testing.assert_allclose(
            alone.sd, pair[1].predict(known, kind="latent", num_draws=4000).sd, rtol=0.12
        )
        first, second = (bm.suggest(fit, known, 3) for fit in pair)
        assert first["position"].tolist() == second["position"].tolist()
        np.testing.assert_allclose(first["gain"], second["gain"], rtol=1e-3)
        first, second = (fit.task_similarity(kind="function", num_draws=20).mean for fit in pair)
        np.testing.assert_allclose(first, second, atol=1e-3)


def _conditioned(*fits):
    rng = np.random.default_rng(2)
    data = bm.TaskData.from_arrays(
        rng.normal(size=(5, 2)), rng.normal(size=5), [0, 1, 1, 2, 2], intercept=False
    )
    fits = tuple(fit.condition(data) for fit in fits)
    # the new rows' inputs become inducing ones here, so that nothing is approximated
    return fits[0], replace(fits[1], inducing=fits[0].problem.X)


def test_new_tasks_own_quantities_are_weighted_as_by_the_dense_fit():
    """Loadings of a task that mirrors the others: mean and spread over draws, within Monte Carlo error."""
    exact = bm.MultitaskGP(sharing=bm.LowRank(rank=1)).fit(rows(), **QUICK | {"num_draws": 250})
    sparse = replace(exact, inducing=exact.problem.X)
    x = np.linspace(-1, 1, 6)
    data = bm.TaskData.from_arrays(np.stack([x, 0 * x], 1), -np.sin(2 * x), ["other"] * 6, intercept=False)
    wider = [fit.condition(data).draws.hyperparameters["loadings"] for fit in (exact, sparse)]
    found = [loadings[..., 0, -1].flatten() for loadings in wider]
    # 300 candidates for all draws there, 16 for each here
    assert abs(float(found[0].mean() - found[1].mean())) < 0.5 * float(found[0].std())


# other likelihoods


@pytest.mark.parametrize("name", OUTCOMES)
def test_gradient_equals_differences(name):
    problem = dense(likelihood=OUTCOMES[name])
    sparse = InducingFunctions.of(problem, problem.X[:10])
    at = points(problem, 1)
    _, gradient = sparse.value_and_gradient(at)
    h = 1e-4
    steps = h * torch.eye(at.shape[1], dtype=torch.float64)
    difference = (sparse.value(at + steps) - sparse.value(at - steps)) / (2 * h)
    torch.testing.assert_close(gradient[0], difference, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", OUTCOMES)
def test_natural_gradients_end_where_direct_maximisation_does(name):
    """The bound over mean and Cholesky factor of q(f) at the rows, by L-BFGS with quadrature of its own."""
    likelihood = OUTCOMES[name]
    problem = dense(likelihood=likelihood)
    values = one(problem)
    kernel = problem.kernels.covariance(values, problem.X, problem.X)
    K = function_covariance(problem.structure(values), kernel, problem.task, problem.task)[0]
    L = torch.linalg.cholesky(K)
    nodes, shares = (torch.from_numpy(part) for part in np.polynomial.hermite.hermgauss(30))
    given = Given(values, None, problem.task)
    mean = torch.zeros(n).double().requires_grad_()
    factor = torch.zeros(n, n).double().requires_grad_()

    def bound():
        root = factor.tril(-1) + torch.diag(factor.diagonal().exp())
        sd = (L @ root).square().sum(1).sqrt()
        f = L @ mean + math.sqrt(2) * nodes[:, None] * sd
        value = likelihood.derivatives(problem.y, f, given).value
        divergence = 0.5 * (root.square().sum() + mean.square().sum() - n) - factor.diagonal().sum()
        return (shares @ value).sum() / math.sqrt(math.pi) - divergence

    optimiser = torch.optim.LBFGS([mean, factor], max_iter=300, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = -bound()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
    sparse = InducingFunctions.of(problem, problem.X)
    torch.testing.assert_close(sparse.log_marginal(values, 1)[0], bound().detach(), rtol=1e-5, atol=1e-3)
    at = sparse.features(values, sparse.roots(values), sparse.factor(values), problem.X, problem.task)
    found, variance = sparse.best(values).moments(at)
    root = (factor.tril(-1) + torch.diag(factor.diagonal().exp())).detach()
    torch.testing.assert_close(found, (L @ mean).detach(), rtol=0.01, atol=0.01)
    torch.testing.assert_close(variance.sqrt(), (L @ root).square().sum(1).sqrt(), rtol=0.01, atol=0.01)


def test_student_t_with_many_degrees_of_freedom_is_gaussian():
    noise = bm.Fixed(0.4)
    student = bm.StudentT(scale=noise, degrees=bm.Fixed(1e7))
    normal = dense(likelihood=bm.Gaussian(scale=noise))
    pair = [replace(normal, likelihood=student), normal]
    values = one(pair[1])
    known = {"scale": values["noise"], "degrees": torch.tensor([1e7]).double()}
    found = InducingFunctions.of(pair[0], pair[0].X[:10]).log_marginal({**values, **known}, 1)
    torch.testing.assert_close(
        found, InducingFunctions.of(pair[1], pair[1].X[:10]).log_marginal(values, 1), rtol=1e-5, atol=1e-4
    )


def elliptical(log_likelihood, L, num_draws, rng):
    """Elliptical slice sampling (Murray, Adams and MacKay, 2010): N(0, LL') times a likelihood."""
    f = np.zeros(len(L))
    kept = []
    for _ in range(num_draws):
        other, level = L @ rng.standard_normal(len(L)), log_likelihood(f) + np.log(rng.random())
        angle = rng.uniform(0, 2 * np.pi)
        low, high = angle - 2 * np.pi, angle
        while log_likelihood(proposed := f * np.cos(angle) + other * np.sin(angle)) < level:
            low, high = (angle, high) if angle < 0 else (low, angle)
            angle = rng.uniform(low, high)
        f = proposed
        kept.append(f)
    return np.array(kept)


PLAIN = {
    "bernoulli": lambda y, f, v: (y * f - np.logaddexp(0, f)).sum(),
    "poisson": lambda y, f, v: (y * f - np.exp(f)).sum(),
    "student": lambda y, f, v: (
        -0.5 * (v["degrees"] + 1) * np.log1p(((y - f) / v["scale"]) ** 2 / v["degrees"])
    ).sum(),
}


@pytest.mark.parametrize("name", PLAIN)
def test_functions_agree_with_a_sampler(name):
    """Under known hyperparameters; the normal approximation's own error is within a fifth of an sd."""
    likelihood = OUTCOMES[name]
    problem = dense(likelihood=likelihood)
    values = one(problem)
    kernel = problem.kernels.covariance(values, problem.X, problem.X)
    K = function_covariance(problem.structure(values), kernel, problem.task, problem.task)[0]
    numbers = {key: value.numpy()[0] for key, value in values.items()}
    draws = elliptical(
        lambda f: PLAIN[name](problem.y.numpy(), f, numbers),
        np.linalg.cholesky(K.numpy()),
        12_000,
        np.random.default_rng(0),
    )[2_000:]
    sparse = InducingFunctions.of(problem, problem.X)
    at = sparse.features(values, sparse.roots(values), sparse.factor(values), problem.X, problem.task)
    mean, variance = (part.numpy() for part in sparse.best(values).moments(at))
    sd = draws.std(axis=0)
    # Monte Carlo error is about a tenth of an sd at the rows that mix worst
    assert np.abs(mean - draws.mean(axis=0)).max() < 0.35 * sd.max()
    assert np.abs(mean - draws.mean(axis=0)).mean() < 0.15 * sd.mean()
    np.testing.assert_allclose(np.sqrt(variance), sd, rtol=0.25)


# the parts


def test_batches_add_up_to_a_step_with_all_rows():
    problem = dense("latent factors")
    sparse = InducingFunctions.of(problem, problem.X[:6])
    values = one(problem)
    L, roots = sparse.factor(values), sparse.roots(values)

    def sums(part, weights, scale):
        at = sparse.features(values, roots, L, problem.X[part], problem.task[part])
        return sums_of(at, sparse.expected(values, part), weights, scale)

    halves = [sums(part, None, 2.0) for part in (slice(0, 12), slice(12, n))]
    average = type(halves[0])(*(0.5 * (a + b) for a, b in zip(*halves, strict=True)))
    found = natural_step(None, average, 1.0)[1]
    best = sparse.best(values)
    torch.testing.assert_close(found.mean, best.mean, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.cholesky, best.cholesky, rtol=1e-8, atol=1e-8)
    state, weights = None, None
    for _ in range(60):  # half steps get there, too
        state, weights = natural_step(state, sums(slice(0, n), weights, 1.0), 0.5)
    torch.testing.assert_close(weights.mean, best.mean, rtol=1e-8, atol=1e-8)


def test_moments_and_divergence_equal_plain_formulas():
    rng = np.random.default_rng(0)
    half = torch.from_numpy(rng.normal(size=(5, 5)))
    precision, linear = half @ half.T + torch.eye(5), torch.from_numpy(rng.normal(size=5))
    weights = Weights.of(precision, linear)
    S = torch.linalg.inv(precision)
    C, residual = torch.from_numpy(rng.normal(size=(4, 5))), torch.ones(4).double()
    with torch.enable_grad():
        held, plain = C.clone().requires_grad_(), C.clone().requires_grad_()
        mean, variance = weights.moments(Features(held, residual, C))
        direct = ((plain @ S) * plain).sum(1) + 1
        torch.testing.assert_close(variance, direct)
        torch.testing.assert_close(mean, plain @ S @ linear)
        variance.square().sum().backward()
        direct.square().sum().backward()
    torch.testing.assert_close(held.grad, plain.grad)
    normal = torch.distributions.MultivariateNormal
    expected = torch.distributions.kl_divergence(
        normal(S @ linear, S), normal(torch.zeros(5).double(), torch.eye(5).double())
    )
    torch.testing.assert_close(weights.divergence(), expected)


@pytest.mark.parametrize("name", OUTCOMES)
def test_expectations_are_those_of_many_draws(name):
    likelihood = OUTCOMES[name]
    problem = dense(likelihood=likelihood)
    values = one(problem)
    expected = ExpectedRows(likelihood, problem.y[:3], problem.task[:3], values, torch.ones(T).double())
    mean, variance = torch.tensor([-0.5, 0.2, 0.8]).double(), torch.tensor([0.1, 0.3, 0.6]).double()
    number = 200_000
    f = mean + variance.sqrt() * torch.from_numpy(np.random.default_rng(0).standard_normal((number, 3)))
    at = likelihood.derivatives(problem.y[:3], f, Given(values, None, problem.task[:3]))
    parts = (expected.value(mean, variance), *expected.slopes(mean, variance))
    for found, drawn in zip(parts, (at.value, at.first, -at.second), strict=True):
        error = drawn.std(0) / math.sqrt(number)
        assert bool(((found - drawn.mean(0)).abs() < 5 * error + 1e-9).all())


def test_inducing_inputs_are_chosen_where_they_say_most():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(0, 0.05, size=(200, 2)), rng.uniform(-3, 3, size=(100, 2))])
    data = bm.TaskData.from_arrays(X, rng.normal(size=300), np.arange(300) % 3, intercept=False)
    model = bm.MultitaskGP()
    problem = model._posterior(data)
    Z = choose_inducing(problem, 20, rng)
    assert Z.shape == (20, 2) and bool((Z[:, None] == problem.X).all(-1).any(1).all())
    crowded = (Z / problem.X.std(0)).norm(dim=1) < 0.2
    assert int(crowded.sum()) <= 3  # of two thirds of the rows
    assert len(choose_inducing(problem, 1000, rng)) == 300
    # at the same input a second measurement lowers the entropy by log(2) / 2 only, the noise's part
    K = torch.ones(1, 5, 5).double()
    chosen = greedy_choice(
        torch.ones(1, 5).double(), lambda i: K[:, :, i], 1e-2 * torch.ones(1, 5), 5, least=0.4
    )
    assert chosen.positions == [0]
