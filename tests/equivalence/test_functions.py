"""The algebra of Gaussian processes against slow twins written with loops, other libraries and limits."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

import bayesmtl as bm
from bayesmtl.algebra import functions
from bayesmtl.algebra.functions import JITTERS, DenseRows, factorise
from bayesmtl.kernels import Kernels
from bayesmtl.posteriors.functions import grid as grids
from bayesmtl.posteriors.functions import posterior as inference
from bayesmtl.posteriors.functions.build import parts
from bayesmtl.posteriors.functions.grid import GridFunctions
from bayesmtl.posteriors.functions.posterior import FunctionPosterior, known_fields
from bayesmtl.samplers.search import search
from bayesmtl.sharing.functions import over_functions
from bayesmtl.sharing.over_functions import correlation
from tests.seeds import seeded

T, D, n = 3, 2, 14
NAMES = ("a", "b", "c")
SHARINGS = {
    "independent": bm.Independent(),
    "pooled": bm.Pooled(mean_scale=bm.HalfNormal(1.0)),
    "hierarchical": bm.Hierarchical(),
    "isotropic": bm.Hierarchical(covariance="isotropic"),
    "low rank": bm.LowRank(rank=2),
    "covariance": bm.TaskCovariance(),
}


def problem(sharing, kernel=None, noise="task", num_rows=n) -> FunctionPosterior:
    rng = np.random.default_rng(seeded(3))
    return FunctionPosterior(
        Kernels((bm.Matern() if kernel is None else kernel,)),
        over_functions(sharing, bm.HalfNormal()),
        bm.Gaussian(noise),
        torch.from_numpy(rng.normal(size=(num_rows, D))),
        torch.from_numpy(rng.normal(size=num_rows)),
        torch.from_numpy(rng.permutation(np.arange(num_rows) % T)),
        NAMES,
        np.ones(T),
    )


def points(problem, num_points=4) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seeded(5)).normal(0, 0.6, (num_points, problem.space.size)))


def matern(x, z, lengthscale) -> float:
    r = math.sqrt(5 * sum(((a - b) / s) ** 2 for a, b, s in zip(x, z, lengthscale, strict=True)))
    return (1 + r + r * r / 3) * math.exp(-r)


def omega_and_lambda(name, v) -> tuple[np.ndarray, np.ndarray]:
    """Omega and Lambda of one hyperparameter value, from the formulas of the docstrings, entry by entry."""
    omega, level = np.zeros((T, T)), np.zeros((T, T))
    for t in range(T):
        for u in range(T):
            own = float(t == u)
            if name == "independent":
                omega[t, u] = level[t, u] = own * v["task_scale"][t] ** 2
                continue
            if name == "covariance":
                L, size = v["task_correlation"], abs(v["shape_scale"]) * v["task_scale"]
                omega[t, u] = size[t] * size[u] * (L[t] @ L[u])
                level[t, u] = v["mean_scale"] ** 2 + own * v["level_scale"] ** 2
                continue
            if name == "low rank":
                shared = sum(v["loadings"][r, t] * v["loadings"][r, u] for r in range(2))
                private = v["private_scale"][t]
            else:
                shared, private = v["amplitude"] ** 2, v.get("private_scale", 0.0)
            omega[t, u] = shared + own * private**2
            private_level = v.get("level_scale", v.get("private_scale", 0.0))
            level[t, u] = v["mean_scale"] ** 2 + own * private_level**2
    return omega, level


@pytest.mark.parametrize("name", SHARINGS)
def test_density_equals_a_loop_over_entries(name):
    target = problem(SHARINGS[name])
    at = points(target)
    prior, values = target.space.log_prior(at)
    found = target.log_density(at) - prior
    X, y, task = target.X.numpy(), target.y.numpy(), target.task.numpy()
    for b in range(len(at)):
        v = {key: value[b].numpy() for key, value in values.items()}
        omega, level = omega_and_lambda(name, v)
        K = np.zeros((n, n))
        for i in range(n):
            for j in range(n):
                t, u = task[i], task[j]
                K[i, j] = omega[t, u] * matern(X[i], X[j], v["lengthscale"]) + level[t, u]
                if i == j:
                    K[i, j] += (v["noise"] * math.exp(v["noise_spread"] * v["noise_level"][t])) ** 2
        expected = -0.5 * (y @ np.linalg.solve(K, y) + np.linalg.slogdet(K)[1] + n * math.log(2 * math.pi))
        np.testing.assert_allclose(found[b], expected, rtol=1e-9)


@pytest.mark.parametrize("name", SHARINGS)
def test_gradient_equals_differences(name):
    target = problem(SHARINGS[name])
    at = points(target)
    _, gradient = target.value_and_gradient(at)
    h = 1e-5
    steps = h * torch.eye(at.shape[1], dtype=torch.float64)
    differences = torch.stack([(target.value(at + e) - target.value(at - e)) / (2 * h) for e in steps], dim=1)
    np.testing.assert_allclose(gradient, differences, rtol=1e-5, atol=1e-6)


KERNELS = {
    "two": (bm.Hierarchical(), (bm.Matern(), bm.Matern(0.5))),
    "one each": (bm.LowRank(rank=2), (bm.Matern(), bm.Matern(1.5))),
    "and private": (bm.LowRank(rank=2), (bm.Matern(), bm.Matern(1.5), bm.Matern(math.inf))),
    "one and private": (bm.LowRank(rank=1), (bm.Matern(), bm.Matern(0.5))),
}


def several(name, num_rows=n) -> FunctionPosterior:
    sharing, own = KERNELS[name]
    kernels, reading = parts(own, sharing, bm.HalfNormal())
    return replace(problem(sharing, num_rows=num_rows), kernels=kernels, sharing=reading)


@pytest.mark.parametrize("name", KERNELS)
def test_density_with_several_kernels_equals_a_loop_over_functions(name):
    """f_t = m_t + sum_r a_rt g_r + s_t e_t, every g_r with its own covariance, e_t with the last or none."""
    target = several(name)
    sharing, own = KERNELS[name]
    at = points(target)
    prior, values = target.space.log_prior(at)
    found = target.log_density(at) - prior
    task = target.task.numpy()
    same = (task[:, None] == task).astype(float)
    for b in range(len(at)):
        v = {key: value[b].numpy() for key, value in values.items()}
        K = v["mean_scale"] ** 2 + v.get("level_scale", 0.0) ** 2 * same
        num_shared = 1 if isinstance(sharing, bm.Hierarchical) else sharing.rank
        for r in range(num_shared):
            weight = v["loadings"][r][task] if "loadings" in v else np.full(n, v["amplitude"])
            length = {"lengthscale": torch.from_numpy(v[f"lengthscale_{r + 1}"])[None]}
            K = K + np.outer(weight, weight) * own[r].covariance(length, target.X, target.X)[0].numpy()
        if len(own) > num_shared:
            size = np.broadcast_to(v["private_scale"], T)[task]
            length = {"lengthscale": torch.from_numpy(v["private_lengthscale"])[None]}
            K = K + same * np.outer(size, size) * own[-1].covariance(length, target.X, target.X)[0].numpy()
        else:
            assert "private_scale" not in v
        noise = (v["noise"] * np.exp(v["noise_spread"] * v["noise_level"]))[task]
        expected = stats.multivariate_normal.logpdf(target.y.numpy(), np.zeros(n), K + np.diag(noise**2))
        np.testing.assert_allclose(found[b], expected, rtol=1e-9)
    _, gradient = target.value_and_gradient(at)
    h = 1e-5
    steps = h * torch.eye(at.shape[1], dtype=torch.float64)
    differences = torch.stack([(target.value(at + e) - target.value(at - e)) / (2 * h) for e in steps], dim=1)
    np.testing.assert_allclose(gradient, differences, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shared_inputs", [False, True])
@pytest.mark.parametrize("name", [*KERNELS, "low rank"])
def test_blocks_of_tasks_equal_single_entries(name, shared_inputs, monkeypatch):
    """Value and gradient, rows in any order, inputs repeated within a task, one task without rows."""
    target = several(name, 40) if name in KERNELS else problem(SHARINGS[name], num_rows=40)
    rng = np.random.default_rng(seeded(1))
    X, task = target.X, torch.where(target.task == 1, 0, target.task)
    inputs = which = None
    if shared_inputs:
        which = torch.from_numpy(rng.integers(12, size=40))
        inputs, X = X[:12], X[which]
    target = replace(target, X=X, task=task, inputs=inputs, which=which)
    at = points(target)
    by_entry = target.value_and_gradient(at)
    monkeypatch.setattr(functions, "LEAST_ROWS", 1)
    for found, expected in zip(target.value_and_gradient(at), by_entry, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-8)
    order = torch.from_numpy(rng.permutation(40))
    moved = replace(
        target,
        X=X[order],
        y=target.y[order],
        task=task[order],
        which=None if which is None else which[order],
    )
    for found, expected in zip(moved.value_and_gradient(at), by_entry, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-8)


def test_modes_by_way_of_a_part_of_the_data_are_modes(monkeypatch):
    """Found from a part of the rows first or directly: the same one."""
    rng = np.random.default_rng(seeded(0))
    x, task = rng.uniform(0, 3, 90), np.arange(90) % 3
    y = np.sin(2 * x) * np.array([1.0, -1.0, 0.5])[task] + 0.1 * rng.normal(size=90)
    data = bm.TaskData.from_arrays(x[:, None], y, np.array(NAMES)[task])
    target = bm.MultitaskGP(sharing=bm.LowRank(rank=1))._posterior(data)
    assert target.reduced(rng) is None
    (direct, *_) = search(target, target, np.random.default_rng(seeded(1)))
    monkeypatch.setattr(inference, "_EXPENSIVE_FROM", 50)
    monkeypatch.setattr(inference, "_REDUCED_TO", 45)
    part = target.reduced(rng)
    assert part.space == target.space and np.bincount(part.task).tolist() == [15, 15, 15]
    (found, *_) = search(target, target, np.random.default_rng(seeded(2)))
    assert found.converged and abs(found.value - direct.value) < 1e-3
    monkeypatch.setattr(grids, "_LARGE_GRID", 50)
    monkeypatch.setattr(grids, "_SMALL_GRID", 45)
    shared = bm.TaskData.from_wide(x[:60, None], rng.normal(size=(60, 3)), NAMES)
    grid = bm.MultitaskGP()._posterior(shared)
    part = grid.reduced(rng)
    assert (
        isinstance(part, GridFunctions)
        and part.grid.shape == (45, 3)
        and part.weight == pytest.approx(60 / 45)
    )


def test_several_kernels_are_reported_without_labels():
    """Functions that can change places are in the order of their length-scales, in every draw."""
    kernels, _ = parts((bm.Matern(),) * 3, bm.LowRank(rank=2), bm.HalfNormal())
    draws = torch.tensor([[[0.5, 0.5], [2.0, 1.0]], [[3.0, 3.0], [1.0, 9.0]]], dtype=torch.float64)
    values = {f"lengthscale_{q + 1}": draws[:, q] for q in range(2)}
    report = kernels.report(values | {"private_lengthscale": draws[:, 0]})
    assert report["lengthscale"].dims == ("function", "feature")
    np.testing.assert_array_equal(report["lengthscale"].values, [[[2, 1], [0.5, 0.5]], [[3, 3], [1, 9]]])
    np.testing.assert_array_equal(report["private_lengthscale"].values, draws[:, 0])
    different, _ = parts((bm.Matern(), bm.Matern(0.5)), bm.LowRank(rank=2), bm.HalfNormal())
    assert set(different.report(values)) == {"lengthscale_1", "lengthscale_2"}


def test_gradient_where_inputs_coincide():
    """The root in the kernel has no derivative at distance 0; the density has."""
    target = problem(bm.Hierarchical())
    target.X[3:6] = target.X[2]
    at = points(target)
    _, gradient = target.value_and_gradient(at)
    h = 1e-5
    e = torch.zeros_like(at)
    e[:, 0] = h  # the first length-scale
    differences = (target.value(at + e) - target.value(at - e)) / (2 * h)
    np.testing.assert_allclose(gradient[:, 0], differences, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothness, nu", [(0.5, 0.5), (1.5, 1.5), (2.5, 2.5), (math.inf, None)])
def test_kernels_equal_gpytorch(smoothness, nu):
    """The outside answer: GPyTorch's kernels at the same length-scales."""
    kernels = pytest.importorskip("gpytorch").kernels
    theirs = kernels.RBFKernel(ard_num_dims=D) if nu is None else kernels.MaternKernel(nu, ard_num_dims=D)
    ours, wrapped = bm.Matern(smoothness), bm.GPyTorchKernel(theirs)
    rng = np.random.default_rng(seeded(0))
    X, Z = (torch.from_numpy(rng.normal(size=(size, D))) for size in (7, 4))
    lengthscale = torch.from_numpy(rng.lognormal(size=(3, D)))
    found = ours.covariance({"lengthscale": lengthscale}, X, Z)
    expected = wrapped.covariance({"lengthscale": lengthscale[:, None]}, X, Z)
    assert found.shape == (3, 7, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(ours.variance({"lengthscale": lengthscale}, X), 1.0)
    np.testing.assert_allclose(wrapped.variance({"lengthscale": lengthscale[:, None]}, X), 1.0)


def test_a_composition_of_gpytorch_has_the_right_density_and_gradient():
    kernels = pytest.importorskip("gpytorch").kernels
    composed = kernels.ScaleKernel(kernels.RBFKernel(ard_num_dims=D)) + kernels.PeriodicKernel()
    target = problem(bm.Hierarchical(), bm.GPyTorchKernel(composed))
    at = points(target)
    values = target.space.constrain(at)
    X = target.X.numpy()
    found = target.kernels.covariance(values, target.X, target.X)[:, 0].numpy()
    for b in range(len(at)):
        v = {key: value[b].numpy().ravel() for key, value in values.items()}
        scale, length = v["kernels_0_outputscale"], v["kernels_0_base_kernel_lengthscale"]
        gap = X[:, None] - X[None]
        smooth = scale * np.exp(-0.5 * ((gap / length) ** 2).sum(-1))
        period, width = v["kernels_1_period_length"], v["kernels_1_lengthscale"]
        periodic = np.exp(-2 * (np.sin(np.pi * gap / period) ** 2 / width).sum(-1))
        np.testing.assert_allclose(found[b], smooth + periodic, rtol=1e-6)
    _, gradient = target.value_and_gradient(at)
    h = 1e-5
    steps = h * torch.eye(at.shape[1], dtype=torch.float64)
    differences = torch.stack([(target.value(at + e) - target.value(at - e)) / (2 * h) for e in steps], dim=1)
    np.testing.assert_allclose(gradient, differences, rtol=1e-4, atol=1e-5)


def test_low_rank_has_pooled_and_independent_as_limits():
    low, together, alone = (
        over_functions(s, bm.HalfNormal()) for s in (bm.LowRank(), bm.Pooled(), bm.Independent())
    )
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    values = {
        "loadings": torch.full((1, 1, T), 0.7, dtype=torch.float64),
        "private_scale": torch.zeros(1, T, dtype=torch.float64),
        "mean_scale": one,
        "level_scale": zero,
    }
    pooled = together.structure({"amplitude": 0.7 * one, "mean_scale": one}, T)
    for found, expected in zip(low.structure(values, T), pooled, strict=True):
        np.testing.assert_allclose(found, expected)
    scale = torch.tensor([[0.3, 0.9, 2.0]], dtype=torch.float64)
    values |= {"loadings": torch.zeros(1, 1, T, dtype=torch.float64), "private_scale": scale}
    np.testing.assert_allclose(
        low.structure(values, T).shape, alone.structure({"task_scale": scale}, T).shape
    )


def test_hierarchical_without_private_part_is_pooled():
    around, together = (over_functions(s, bm.HalfNormal()) for s in (bm.Hierarchical(), bm.Pooled()))
    one = torch.ones(1, dtype=torch.float64)
    values = {"amplitude": 0.4 * one, "mean_scale": one, "private_scale": 0 * one, "level_scale": 0 * one}
    for found, expected in zip(around.structure(values, T), together.structure(values, T), strict=True):
        np.testing.assert_allclose(found, expected)


def test_loadings_represent_negative_relations():
    low = over_functions(bm.LowRank(), bm.HalfNormal())
    values = {
        "loadings": torch.tensor([[[1.0, -1.0, 0.5]]], dtype=torch.float64),
        "private_scale": torch.zeros(1, T, dtype=torch.float64),
        "mean_scale": torch.ones(1, dtype=torch.float64),
        "level_scale": torch.ones(1, dtype=torch.float64),
    }
    signs = correlation(low.structure(values, T).shape)[0, 0]
    np.testing.assert_allclose(signs, [[1, -1, 1], [-1, 1, -1], [1, -1, 1]])


def test_one_task_equals_gpytorch_exact_gp():
    """The outside answer for T = 1: density and prediction of GPyTorch's own ExactGP."""
    gpytorch = pytest.importorskip("gpytorch")
    rng = np.random.default_rng(seeded(1))
    X, y, new = rng.normal(size=(20, D)), rng.normal(size=20), rng.normal(size=(5, D))
    data = bm.TaskData.from_arrays(X, y, ["only"] * 20, intercept=False).with_target_standardization("none")
    scale, noise, mean_scale = 0.8, 0.3, 0.5
    model = bm.MultitaskGP(
        bm.Matern(lengthscale=bm.Fixed(0.9)),
        bm.Pooled(mean_scale=bm.Fixed(mean_scale)),
        bm.Gaussian(noise),
        amplitude=bm.Fixed(scale),
    )
    fit = model.fit(data, method="empirical_bayes", seed=seeded(0), progress=False)
    prediction = fit.predict((new, ["only"] * 5), kind="latent", num_draws=20_000)
    inputs = torch.from_numpy(X / np.sqrt((X**2).mean(0)))

    class Theirs(gpytorch.models.ExactGP):
        def __init__(self, likelihood):
            super().__init__(inputs, torch.from_numpy(y), likelihood)
            self.mean_module = gpytorch.means.ZeroMean()
            smooth = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(2.5, ard_num_dims=D))
            self.covar_module = smooth + gpytorch.kernels.ConstantKernel()
            self.double()
            smooth.outputscale, smooth.base_kernel.lengthscale = scale**2, 0.9
            self.covar_module.kernels[1].constant = torch.tensor([mean_scale**2])

        def forward(self, x):
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    likelihood = gpytorch.likelihoods.GaussianLikelihood().double()
    likelihood.noise = noise**2
    theirs = Theirs(likelihood)
    theirs.train()
    density = likelihood(theirs(inputs)).log_prob(torch.from_numpy(y))
    ours = fit.problem.log_marginal(fit.chosen_values(1), 1)
    # the numbers that GPyTorch is given go through single precision there
    np.testing.assert_allclose(ours, [density.item()], rtol=1e-6)
    theirs.eval()
    answer = theirs(torch.from_numpy(new / np.sqrt((X**2).mean(0))))
    np.testing.assert_allclose(prediction.mean, answer.mean.detach(), rtol=1e-6, atol=1e-8)
    # the standard error of an sd from 20 000 draws is half a percent
    np.testing.assert_allclose(prediction.sd, answer.stddev.detach(), rtol=0.03)


def test_conditional_equals_the_textbook():
    rng = np.random.default_rng(seeded(2))
    root = rng.normal(size=(9, 12))
    joint = root @ root.T
    K, cross, prior = joint[:6, :6] + 0.1 * np.eye(6), joint[:6, 6:], joint[6:, 6:]
    y = rng.normal(size=6)
    tensors = [torch.from_numpy(a)[None] for a in (K, cross, prior)]
    known = DenseRows.of(tensors[0], torch.from_numpy(y))
    found = known.condition(*tensors[1:])
    np.testing.assert_allclose(found.mean[0], cross.T @ np.linalg.solve(K, y), rtol=1e-10)
    expected = prior - cross.T @ np.linalg.solve(K, cross)
    np.testing.assert_allclose(found.covariance[0], expected, rtol=1e-8, atol=1e-10)
    alone = known.condition(tensors[1], tensors[2].diagonal(dim1=1, dim2=2), variance_only=True)
    np.testing.assert_allclose(alone.covariance[0], np.diag(expected), rtol=1e-8)


def test_leave_one_out_equals_leaving_each_row_out():
    target = problem(bm.LowRank())
    values = target.space.constrain(points(target, 2))
    K = target.covariance(values, 2)
    mean, variance = DenseRows.of(K, target.y).leave_one_out(target.y)
    for i in range(n):
        rest = np.delete(np.arange(n), i)
        for b in range(2):
            k = K[b].numpy()
            weights = np.linalg.solve(k[np.ix_(rest, rest)], k[rest, i])
            np.testing.assert_allclose(mean[b, i], weights @ target.y.numpy()[rest], rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(variance[b, i], k[i, i] - weights @ k[rest, i], rtol=1e-9)


def test_jitter_is_added_only_where_needed_and_reported():
    good = torch.eye(4, dtype=torch.float64)
    singular = torch.ones(4, 4, dtype=torch.float64) - 1e-13 * good
    L, jitter = factorise(torch.stack([good, singular]))
    assert jitter[0] == 0 and 0 < jitter[1] <= JITTERS[-1]
    np.testing.assert_allclose(
        L @ L.transpose(-1, -2), torch.stack([good, singular]), atol=2 * float(jitter[1])
    )
    hopeless, _ = factorise(-good[None])
    assert torch.isnan(hopeless).all()
    # a density that cannot be evaluated is -inf for the engines, and its gradient 0
    target = problem(bm.Hierarchical(), noise="shared")
    value, gradient = target.value_and_gradient(
        torch.full((1, target.space.size), 500.0, dtype=torch.float64)
    )
    assert value.item() == -math.inf and (gradient == 0).all()


def test_order_of_rows_and_names_of_tasks_change_nothing():
    target = problem(bm.LowRank())
    at = points(target)
    order = torch.from_numpy(np.random.default_rng(seeded(0)).permutation(n))
    shuffled = FunctionPosterior(
        target.kernels,
        target.sharing,
        target.likelihood,
        target.X[order],
        target.y[order],
        target.task[order],
        NAMES,
        np.ones(T),
    )
    np.testing.assert_allclose(shuffled.value(at), target.value(at), rtol=1e-10)
    assert shuffled.fingerprint() != target.fingerprint()


@pytest.mark.parametrize(
    "name, noise, num_holes",
    [
        *((name, noise, 0) for name in SHARINGS for noise in ("task", "shared")),
        *((name, "task", 3) for name in SHARINGS),
    ],
)
def test_kronecker_equals_dense(name, noise, num_holes):
    """Value and gradient of the eigendecomposition of a grid, rows in any order, cells missing or not."""
    m = 8
    rng = np.random.default_rng(seeded(7))
    order = rng.permutation(m * T)[num_holes:]
    X = np.repeat(rng.normal(size=(m, D)), T, axis=0)[order]
    y, task = rng.normal(size=len(order)), np.tile(np.arange(T), m)[order]
    data = bm.TaskData.from_arrays(X, y, np.array(NAMES)[task], intercept=False)
    data = data.with_target_standardization("none")
    fast = bm.MultitaskGP(sharing=SHARINGS[name], likelihood=bm.Gaussian(noise))._posterior(data)
    assert isinstance(fast, GridFunctions) and fast.grid.shape == (m, T) and fast.num_holes == num_holes
    dense = FunctionPosterior(**known_fields(fast))
    at = points(fast)
    for found, expected in zip(fast.value_and_gradient(at), dense.value_and_gradient(at), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)
    # a point that cannot be evaluated does not spoil the others
    mixed = torch.cat([at[:1], torch.full_like(at[:1], 800.0), at[1:2]])
    value, gradient = fast.value_and_gradient(mixed)
    assert value[1] == -math.inf and (gradient[1] == 0).all()
    np.testing.assert_allclose(value[[0, 2]], dense.value(at[:2]), rtol=1e-8)


def test_grids_are_recognised_when_nearly_complete():
    rng = np.random.default_rng(seeded(0))
    Y = rng.normal(size=(6, T))
    inputs = rng.normal(size=(6, 1))
    model = bm.MultitaskGP()
    whole = bm.TaskData.from_wide(inputs, Y, NAMES)
    assert isinstance(model._posterior(whole), GridFunctions)
    options = {"method": "empirical_bayes", "seed": seeded(0), "progress": False}
    fit = model.fit(whole, **options)
    assert "complete grid of 6 inputs x 3 tasks" in fit.reason
    Y[2, 1] = np.nan
    holed = bm.TaskData.from_wide(inputs, Y, NAMES)
    assert "a grid, 1 of its 18 cells missing, of 6 inputs x 3 tasks" in model.fit(holed, **options).reason
    Y[:, 0] = np.nan
    sparse = bm.TaskData.from_wide(inputs, Y, NAMES)
    assert not isinstance(model._posterior(sparse), GridFunctions)
    assert "Cholesky" in model.fit(sparse, **options).reason
    twice = np.vstack([inputs, inputs[:1]])
    repeated = bm.TaskData.from_wide(twice, rng.normal(size=(7, T)), NAMES)
    assert not isinstance(model._posterior(repeated), GridFunctions)


@pytest.mark.parametrize(
    "name, num_holes", [*((name, 0) for name in SHARINGS), ("low rank", 3), ("hierarchical", 3)]
)
def test_predictions_from_a_grid_equal_dense_ones(name, num_holes):
    rng = np.random.default_rng(seeded(2))
    inputs, Y = rng.normal(size=(7, D)), rng.normal(size=(7, T))
    Y.flat[4 : 4 + num_holes] = np.nan
    data = bm.TaskData.from_wide(inputs, Y, NAMES)
    model = bm.MultitaskGP(sharing=SHARINGS[name], likelihood=bm.Gaussian(noise="task"))
    fast = model.fit(data, method="empirical_bayes", seed=seeded(0), progress=False)
    dense = replace(fast)
    dense.__dict__["problem"] = FunctionPosterior(**known_fields(fast.problem))
    assert isinstance(fast.problem, GridFunctions) and fast.problem.num_holes == num_holes
    new = (rng.normal(size=(5, D)), ["a", "b", "c", "d", "d"])
    for joint in (True, False):
        first, second = (fit.predict(new, new_tasks="population", joint=joint) for fit in (fast, dense))
        np.testing.assert_allclose(first.mean, second.mean, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(first.sd, second.sd, rtol=1e-6)
    first, second = (fit.leave_one_out().to_frame() for fit in (fast, dense))
    np.testing.assert_allclose(first[["mean", "sd"]], second[["mean", "sd"]], rtol=1e-8)
    # a row beside the grid adds an input, of which all other tasks' cells are missing: few enough or not
    wiser = fast.condition((new[0][:1], [0.3], ["a"]))
    assert isinstance(wiser.problem, GridFunctions) == (num_holes == 0)
    by_rows = replace(wiser)
    by_rows.__dict__["problem"] = FunctionPosterior(**known_fields(wiser.problem))
    first, second = (fit.predict(new, new_tasks="population").mean for fit in (wiser, by_rows))
    np.testing.assert_allclose(first, second, rtol=1e-8, atol=1e-10)


def test_fresh_loadings_continue_their_vector():
    """Loadings drawn with a task held back, and then for it, are distributed as drawn together.

    False alarms: a two-sample Kolmogorov-Smirnov test at 1e-6.
    """
    rng = np.random.default_rng(seeded(0))
    low = over_functions(bm.LowRank(rank=1), bm.HalfNormal())
    joint = low.parameters(3)[0].sample(rng, 20_000)
    known = low.parameters(2)[0].sample(rng, 20_000)
    values = low.with_new_tasks({"loadings": known}, 1, rng)["loadings"]
    assert values.shape == joint.shape == (20_000, 1, 3) and torch.equal(values[..., :2], known)
    redrawn = low.with_unseen_redrawn({"loadings": joint}, np.array([0]), rng)["loadings"]
    for functional in (
        lambda a: a[..., 0] * a[..., 2],
        lambda a: a.norm(dim=-1),
        lambda a: a[..., 0] / a[..., 1],
    ):
        for found in (values.flip(-1), redrawn):
            p = stats.ks_2samp(functional(found).ravel(), functional(joint).ravel()).pvalue
            assert p > 1e-6
