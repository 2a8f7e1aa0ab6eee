"""One weight vector per class: derivatives by autograd, the algebra against dense twins, and its limits."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special

import bayesmtl as bm
from bayesmtl.algebra.class_rows import SeveralRows
from bayesmtl.errors import ConvergenceWarning
from bayesmtl.inference.nuts.gradient import _by_tape, value_and_gradient
from bayesmtl.likelihoods.categorical import contrasts
from bayesmtl.posteriors.linear.joint import Joint
from bayesmtl.posteriors.linear.outcomes import LaplaceMarginal
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from tests.equivalence.test_sampled_jointly import random_whitening
from tests.seeds import seeded

T, D, N = 4, 3, 40
CENTRED = torch.tensor([False, True, True, False])
LIKELIHOOD = bm.Categorical()
NAMES = ("red", "green", "blue", "grey")
SHARINGS = {
    "independent": bm.Independent(),
    "hierarchical": bm.Hierarchical(mean_scale=bm.HalfNormal()),
    "full": bm.Hierarchical("full"),
    "low rank": bm.LowRank(2),
    "correlated": bm.TaskCovariance(),
}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def data_of(codes: np.ndarray, names: tuple[str, ...], seed: int = 0) -> bm.TaskData:
    """Rows of four tasks; one feature of one task repeats another, and rows count differently."""
    rng = np.random.default_rng(seed)
    X, task = rng.normal(size=(len(codes), D - 1)), rng.integers(0, T, len(codes))
    X[task == 1, 1] = X[task == 1, 0]
    weights = rng.integers(1, 3, len(codes)).astype(float)
    y = pd.Categorical.from_codes(codes, categories=list(names))
    return bm.TaskData.from_arrays(X, y, [f"task_{t}" for t in task], weights=weights)


def codes_of(K: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, K, N)


def yes_and_no() -> tuple[bm.TaskData, bm.TaskData]:
    """The same rows with labels of two classes, and with zeros and ones."""
    codes = codes_of(2)
    labelled = data_of(codes, ("no", "yes"))
    task = np.array(labelled.task_names)[labelled.task]
    X, y = labelled.X[:, 1:], codes.astype(float)
    return labelled, bm.TaskData.from_arrays(X, y, task, weights=labelled.weights)


def problem_of(model: bm.LinearModel, data: bm.TaskData) -> LinearPosterior:
    return model._posterior(data)


def rows_of(K: int) -> SeveralRows:
    rows = problem_of(bm.LinearModel(likelihood=LIKELIHOOD), data_of(codes_of(K), NAMES[:K])).rows
    assert isinstance(rows, SeveralRows)
    return rows


@pytest.mark.parametrize("K", [2, 3, 7])
def test_contrasts(K):
    """They treat all classes alike; the log odds of any two have the variance of one predictor."""
    H = contrasts(K)
    torch.testing.assert_close(H @ H.T, (torch.eye(K) - 1 / K).double() / 2)
    apart = H[:, None] - H[None]
    torch.testing.assert_close((apart**2).sum(-1), 1 - torch.eye(K).double())


def test_derivatives():
    """Against autograd, row by row."""
    f, y = random(2, 3, 5), torch.tensor([0.0, 1.0, 2.0, 3.0, 3.0]).double()
    jacobian = torch.autograd.functional.jacobian
    at = LIKELIHOOD.derivatives(y, f)
    torch.testing.assert_close(at.value, LIKELIHOOD.value(y, f))
    torch.testing.assert_close(at.first, jacobian(lambda f: LIKELIHOOD.value(y, f).sum(), f))
    second = jacobian(lambda f: LIKELIHOOD.derivatives(y, f).first, f)
    torch.testing.assert_close(at.second, torch.einsum("sansbn->sabn", second))
    third = jacobian(lambda f: LIKELIHOOD.derivatives(y, f).second, f)
    third = torch.einsum("sabnscn->sabcn", third)
    torch.testing.assert_close(LIKELIHOOD.third_derivative(y, f), third)
    V, weights = random(2, 3, 3, 5, seed=seeded(1)), 1 + random(5, seed=seeded(2)) ** 2
    V = V + V.transpose(1, 2)
    torch.testing.assert_close(
        LIKELIHOOD.information_change(y, f, V, weights, torch.tensor(True)),
        -torch.einsum("sabn,sabcn->scn", V, third) * weights,
    )


@pytest.mark.parametrize("y", [0.0, 1.0])
def test_extreme_predictors(y):
    """Certainty, right or wrong, has finite derivatives."""
    f = torch.tensor([[[800.0, -800.0]]]).double()
    at = LIKELIHOOD.derivatives(torch.full((2,), y).double(), f)
    assert all(torch.isfinite(part).all() for part in at)
    wrong = at.value[0, 0 if y == 0 else 1]
    assert wrong == -800 and at.value.max() == 0


@pytest.mark.parametrize("K", [2, 4])
def test_rows_against_dense_ones(K):
    """Predictors, sums and pseudo-data from an explicit (I_C (x) x') for every row."""
    rows, C = rows_of(K), K - 1
    assert rows.shape == (C, rows.size) and rows.num_weights == C * D
    X = torch.cat([block.X.flatten(0, 1) for block in rows.blocks])
    wide = torch.einsum("ce,nd->nced", torch.eye(C).double(), X).flatten(2)  # (N, C, C D)
    W, values = random(2, T, C * D), random(2, C, rows.size, seed=seeded(1))
    f = torch.einsum("ncp,snp->scn", wide, W[:, rows.task])
    torch.testing.assert_close(rows.predictor(W), f)

    def per_task(terms: torch.Tensor) -> torch.Tensor:  # (S, N, ...) -> (S, T, ...)
        counted = terms * rows.real.double().reshape(-1, *(1 for _ in terms.shape[2:]))
        return torch.zeros(2, T, *terms.shape[2:]).double().index_add(1, rows.task, counted)

    b = per_task(torch.einsum("ncp,scn->snp", wide, values))
    torch.testing.assert_close(rows.transposed(values * rows.real), b)
    root = random(2, rows.size, C, C, seed=seeded(2))
    omega = (root @ root.mT + 0.1 * torch.eye(C)).permute(0, 2, 3, 1)
    G = per_task(torch.einsum("nap,sabn,nbq->snpq", wide, omega, wide))
    pseudo = rows.pseudo_data(omega * rows.real, values * rows.real)
    for index, F, c in zip(pseudo.index, pseudo.F, pseudo.c, strict=True):
        torch.testing.assert_close(F.mT @ F, G[:, index])
        torch.testing.assert_close((F.mT @ c[..., None])[..., 0], b[:, index])
    V = random(2, T, C * D, C * D, seed=seeded(3))
    V = V @ V.mT
    expected = torch.einsum("nap,snpq,nbq->sabn", wide, V[:, rows.task], wide)
    torch.testing.assert_close(rows.variances(V), expected)
    torch.testing.assert_close(
        rows.inner(f, rows.times(omega, f)), torch.einsum("san,sabn,sbn->sn", f, omega, f)
    )


@pytest.mark.parametrize("name", SHARINGS)
def test_gradient(name):
    """Of Laplace's density, against differences of its values; step 1e-5, so 1e-10 relative and rounding."""
    marginal = LaplaceMarginal(
        problem_of(bm.LinearModel(SHARINGS[name], LIKELIHOOD), data_of(codes_of(3), NAMES[:3]))
    )
    P = marginal.problem.space.size
    point, steps = 0.5 * random(1, P, seed=seeded(3)), 1e-5 * torch.eye(P).double()
    _, gradient = marginal.value_and_gradient(point)
    difference = (marginal.value(point + steps) - marginal.value(point - steps)) / 2e-5
    torch.testing.assert_close(gradient[0], difference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SHARINGS)
def test_two_classes_are_bernoulli(name):
    """The same density and gradient of the hyperparameters; precisions are held above 0 in another way."""
    labelled, data = yes_and_no()
    ours = LaplaceMarginal(problem_of(bm.LinearModel(SHARINGS[name], LIKELIHOOD), labelled))
    theirs = LaplaceMarginal(problem_of(bm.LinearModel(SHARINGS[name], bm.Bernoulli()), data))
    points = random(3, ours.problem.space.size, seed=seeded(4))
    for found, expected in zip(
        ours.value_and_gradient(points), theirs.value_and_gradient(points), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", SHARINGS)
def test_relabelled_classes(name):
    """The order of the classes changes neither the density nor its gradient."""
    codes, order = codes_of(4), np.array([2, 0, 3, 1])
    renamed = tuple(NAMES[old] for old in np.argsort(order))
    model = bm.LinearModel(SHARINGS[name], LIKELIHOOD)
    first = LaplaceMarginal(problem_of(model, data_of(codes, NAMES)))
    second = LaplaceMarginal(problem_of(model, data_of(order[codes], renamed)))
    points = random(3, first.problem.space.size, seed=seeded(5))
    for found, expected in zip(
        first.value_and_gradient(points), second.value_and_gradient(points), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_two_classes_give_bernoullis_posterior():
    """With hyperparameters known, the weights' draws are Bernoulli's: the same random numbers, to rounding.

    The log odds of "yes" are the difference of the two classes' weights, which sum to zero.
    """
    sharing = bm.Hierarchical(scale=bm.Fixed(0.5))
    labelled, data = yes_and_no()
    frame = data.to_frame()
    options = {"method": "laplace", "seed": seeded(0), "num_draws": 100, "progress": False}
    ours = bm.LinearModel(sharing, LIKELIHOOD).fit(labelled, **options)
    theirs = bm.LinearModel(sharing, bm.Bernoulli()).fit(data, **options)
    weights = ours.posterior["weights"]
    np.testing.assert_allclose(weights.sum("class"), 0, atol=1e-12)
    log_odds = weights.sel({"class": "yes"}) - weights.sel({"class": "no"})
    np.testing.assert_allclose(log_odds, theirs.posterior["weights"], atol=1e-6)
    # and so they are in the light of further rows, of a new task and of a known one
    new = frame.head(12).assign(task=["task_1"] * 6 + ["task_new"] * 6)
    labels = np.array(labelled.classes)[new["y"].astype(int)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        more = ours.condition(new.assign(y=labels)).posterior["weights"]
        expected = theirs.condition(new).posterior["weights"]
    np.testing.assert_allclose(more.sel({"class": "yes"}) - more.sel({"class": "no"}), expected, atol=1e-6)
    probability = ours.predict(frame.drop(columns="y"), kind="latent").draws.sel({"class": "yes"})
    np.testing.assert_allclose(probability, theirs.predict(frame, kind="latent").draws, atol=1e-6)


def test_counts_of_one_task_by_quadrature():
    """No feature, three classes, counts 5, 1, 0: posterior means of the probabilities from a grid in f.

    4,000 draws at five standard errors each, three comparisons: a false alarm in 2e-6 of runs. The mode would
    not pass.
    """
    counts, scale = np.array([5, 1, 0]), 1.5
    y = pd.Categorical.from_codes(np.repeat(np.arange(3), counts), categories=["a", "b", "c"])
    data = bm.TaskData.from_arrays(np.zeros((6, 0)), y, ["one"] * 6)
    model = bm.LinearModel(bm.Independent(bm.Fixed(scale)), LIKELIHOOD)
    fit = model.fit(data, seed=seeded(0), num_draws=1000, progress=False)

    line = np.linspace(-10, 10, 801)
    # a reference class and correlated log odds, where the package has symmetric contrasts
    first, second = np.meshgrid(line, line, indexing="ij")
    eta = np.stack([np.zeros_like(first), first, second])
    log_p = eta - np.log(np.exp(eta).sum(0))
    covariance = scale**2 * np.array([[1.0, 0.5], [0.5, 1.0]])  # of eta_2 - eta_1 and eta_3 - eta_1
    level = np.log(counts[1:] + 0.5) - np.log(counts[0] + 0.5)  # which the prior is about
    apart = eta[1:] - level[:, None, None]
    square = np.einsum("ixy,ij,jxy->xy", apart, np.linalg.inv(covariance), apart)
    logs = np.tensordot(counts, log_p, axes=1) - 0.5 * square
    weight = np.exp(logs - logs.max())
    weight /= weight.sum()
    p = np.exp(log_p)
    mean = (weight * p).sum((1, 2))
    sd = np.sqrt((weight * p**2).sum((1, 2)) - mean**2)
    found = fit.predict(([[]], ["one"]), kind="latent", num_draws=4000).draws.to_numpy()[:, 0]
    effective = float(fit.draws.sample_stats["importance_ess_weights"].flat[0])
    assert effective > 2000 and fit.check().ok
    error = sd / np.sqrt(effective)
    assert np.all(np.abs(found.mean(0) - mean) < 5 * error)
    np.testing.assert_allclose(found.std(0) / sd, 1, atol=0.1)
    top = p[(slice(None), *np.unravel_index(logs.argmax(), logs.shape))]
    assert np.abs((top - mean) / error).max() > 5


def test_prior_is_that_of_bernoulli_for_any_two_classes():
    """Prior draws of the log odds of two classes have the scale of the prior, whichever they are."""
    data = data_of(codes_of(4), NAMES).with_target_standardization("none")
    model = bm.LinearModel(bm.Independent(bm.Fixed(0.7)), LIKELIHOOD)
    draws = model.sample_prior(data, num_draws=4000, seed=seeded(0))["weights"].isel(task=0)
    standard = draws.sel(feature="x0") * data.standardization().feature_scale[1]
    for first, second in (("red", "green"), ("red", "grey"), ("blue", "grey")):
        apart = standard.sel({"class": first}) - standard.sel({"class": second})
        assert abs(float(apart.std()) / 0.7 - 1) < 5 / np.sqrt(2 * 4000)


@pytest.mark.parametrize("basis_centred", [False, True], ids=["z", "Z"])
@pytest.mark.parametrize("name", SHARINGS)
def test_two_classes_are_bernoulli_jointly(name, basis_centred):
    """What "nuts" samples: the joint density of weights and hyperparameters, at the same coordinates."""
    ours, theirs = (
        Joint(problem_of(bm.LinearModel(SHARINGS[name], likelihood), data), CENTRED, basis_centred)
        for likelihood, data in zip((LIKELIHOOD, bm.Bernoulli()), yes_and_no(), strict=True)
    )
    assert ours.layout == theirs.layout
    x = 0.7 * random(3, ours.layout.size, seed=seeded(6))
    torch.testing.assert_close(ours.log_density(x), theirs.log_density(x))


@pytest.mark.parametrize("name", SHARINGS)
def test_joint_density_of_four_classes(name):
    """Its likelihood from the weights of the classes, its prior the sum over contrasts, both by hand; and the
    gradient by hand is that of the tape."""
    data = data_of(codes_of(4), NAMES)
    problem = problem_of(bm.LinearModel(SHARINGS[name], LIKELIHOOD), data)
    joint = Joint(problem, CENTRED, basis_centred=False)
    x = 0.7 * random(2, joint.layout.size, seed=seeded(7))
    state = joint.state(x)
    by_class = LIKELIHOOD.class_weights(state.weights.numpy(), data.classes)
    X = problem.likelihood.standardization(data).standardize_features(data.X)
    level = np.log(np.bincount(data.y.astype(int), weights=data.weights) + 0.5)
    eta = np.einsum("nd,snkd->snk", X, by_class[:, data.task]) + level
    log_p = special.log_softmax(eta, axis=-1)[:, np.arange(N), data.y.astype(int)]
    expected = state.log_prior + torch.from_numpy((data.weights * log_p).sum(1))
    torch.testing.assert_close(joint.log_density(x), expected)

    one = problem_of(bm.LinearModel(SHARINGS[name], bm.Bernoulli()), yes_and_no()[1])
    alone = Joint(one, CENTRED, basis_centred=False)
    phi, z, free, bound = joint.layout.parts(x)
    total = -2 * one.space.log_prior(phi)[0]  # which is in each of three terms
    ends = [z, *free.split([joint.layout.own, joint.layout.factors], dim=-1), bound]
    for c in range(3):
        z_c, own, factors, bound_c = (
            part.unflatten(-1, (3, -1))[..., c, :] if part.numel() else part for part in ends
        )
        parts = (z_c, torch.cat([own, factors], dim=-1), bound_c)
        point = torch.cat([phi, *(part.flatten(1) for part in parts)], dim=1)
        total = total + alone.state(point).log_prior
    torch.testing.assert_close(state.log_prior, total)

    white = random_whitening(joint)
    for v in random(2, joint.layout.size, seed=seeded(8)).numpy():
        value, gradient = value_and_gradient(white)(v)
        expected_value, slope = _by_tape(white)(v)
        np.testing.assert_allclose(value, expected_value, rtol=1e-10)
        np.testing.assert_allclose(gradient, slope, rtol=1e-7, atol=1e-7 * np.abs(slope).max())
