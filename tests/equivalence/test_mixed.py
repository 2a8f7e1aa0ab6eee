"""Models with several likelihoods: what they become when there is one, and when tasks share nothing."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import bayesmtl as bm
from bayesmtl.errors import ConvergenceWarning
from bayesmtl.posteriors.linear.outcomes import OutcomePosterior
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.posteriors.target import Density
from tests.seeds import seeded

NAMES = ("a", "b", "c", "d")


def data_of(y: dict[str, np.ndarray]) -> bm.TaskData:
    """Every task has the same inputs, so that features have the same scale in any of them."""
    m = len(y["a"])
    X = np.tile(np.random.default_rng(seeded(0)).normal(size=(m, 2)), (len(y), 1))
    return bm.TaskData.from_arrays(X, np.concatenate(list(y.values())), np.repeat(list(y), m))


def targets(m: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seeded(1))
    return {
        "a": 50 + 10 * rng.normal(size=m),
        "b": np.floor(2 * rng.random(m)),
        "c": rng.poisson(2.0, m).astype(float),
        "d": 40 + 10 * rng.standard_t(4, size=m),
    }


def problem_of(model: bm.LinearModel, data: bm.TaskData) -> LinearPosterior:
    return model._posterior(data)


def density_of(problem: LinearPosterior) -> Density:
    return problem.density()


KINDS_OF_TARGETS = {"a": bm.Gaussian(), "b": bm.Bernoulli(), "c": bm.NegativeBinomial(), "d": bm.StudentT()}


@pytest.mark.parametrize(
    "likelihood",
    [
        bm.Gaussian(),
        bm.Gaussian(noise="task"),
        bm.Gaussian(noise=7.0),
        bm.Gaussian(noise={"a": 5.0, "b": 6.0, "c": 7.0, "d": 8.0}),
        bm.Bernoulli(),
        bm.NegativeBinomial(),
        bm.StudentT(),
    ],
    ids=repr,
)
def test_one_likelihood_for_all_is_that_likelihood(likelihood):
    """The same density and gradient of the hyperparameters; exactly so where it is Gaussian."""
    kind = "a" if likelihood.scales_target else "b" if isinstance(likelihood, bm.Bernoulli) else "c"
    rng = np.random.default_rng(seeded(2))
    data = data_of({name: rng.permutation(targets()[kind]) + 0.0 for name in NAMES})
    alone = problem_of(bm.LinearModel(bm.Hierarchical("full"), likelihood), data)
    mixed = problem_of(bm.LinearModel(bm.Hierarchical("full"), dict.fromkeys(NAMES, likelihood)), data)
    assert [p.name for p in mixed.space.parameters] == [p.name for p in alone.space.parameters]
    points = alone.space.initial(np.random.default_rng(seeded(3)), 4)
    expected, found = (density_of(p).value_and_gradient(points) for p in (alone, mixed))
    assert isinstance(mixed, OutcomePosterior)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("method", ["laplace", "gibbs"])
def test_one_likelihood_for_all_gives_the_same_draws(method):
    """Bit for bit but for rounding: the parts draw the same random numbers in the same order."""
    data = data_of({name: np.roll(targets()["b"], k) for k, name in enumerate(NAMES)})
    settings = {"seed": seeded(0), "num_chains": 2, "num_draws": 10, "num_warmup": 20, "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # short runs
        fits = [
            bm.LinearModel(bm.Pooled(), likelihood).fit(data, method=method, **settings)
            for likelihood in (bm.Bernoulli(), dict.fromkeys(NAMES, bm.Bernoulli()))
        ]
    weights, probability = (
        [fit.draws.weights for fit in fits],
        [fit.predict(data.to_frame()).draws.to_numpy() for fit in fits],
    )
    torch.testing.assert_close(*weights, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(*probability)


def test_tasks_that_share_nothing_are_models_of_their_own():
    """The density is the product of those of the parts, each met with its own tasks alone."""
    parts = KINDS_OF_TARGETS
    sharing, y = bm.Independent(scale=bm.Fixed(0.8)), targets()
    together = problem_of(bm.LinearModel(sharing, parts), data_of(y))
    points = together.space.initial(np.random.default_rng(seeded(3)), 4)
    value, gradient = together.density().value_and_gradient(points)
    total, slopes = torch.zeros_like(value), torch.zeros_like(gradient)
    names = [p.name for p in together.space.parameters if p.size]
    assert names == ["noise", "dispersion", "scale", "degrees"]
    for task, likelihood in parts.items():
        m = len(y[task])
        X = np.random.default_rng(seeded(0)).normal(size=(m, 2))
        own = problem_of(
            bm.LinearModel(sharing, likelihood), bm.TaskData.from_arrays(X, y[task], np.repeat(task, m))
        )
        columns = [names.index(p.name) for p in own.space.parameters if p.size]
        if columns:
            part, slopes[:, columns] = density_of(own).value_and_gradient(points[:, columns])
        else:
            part = density_of(own).value(points[:, columns])
        total = total + part
    torch.testing.assert_close(value, total, rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(gradient, slopes, rtol=1e-6, atol=1e-6)


def test_hardly_any_noise_leaves_a_density():
    """A search that tries a noise of e^-60 is sent back: that counts as the least noise, and rounding cannot
    eat the density; at e^-6 there are ten digits left."""
    problem = problem_of(bm.LinearModel(bm.Hierarchical(), KINDS_OF_TARGETS), data_of(targets()))
    assert [p.name for p in problem.space.parameters][-4:] == ["noise", "dispersion", "scale", "degrees"]
    points = problem.space.initial(np.random.default_rng(seeded(3)), 2)
    points[:, -4] = torch.tensor([-6.0, -60.0], dtype=torch.float64)
    value, gradient = problem.density().value_and_gradient(points)
    assert bool(torch.isfinite(value).all()) and value[1] < value[0] - 54  # the prior alone takes that
    assert bool(torch.isfinite(gradient).all()) and float(gradient[1, -4]) > 0


@pytest.fixture(scope="module")
def clinic() -> bm.TaskData:
    """A score, falls and visits of the same 40 people: what differs between outcomes is their units."""
    rng = np.random.default_rng(seeded(4))
    X = rng.normal(size=(40, 1))
    f = {name: 0.2 + (1.0 + 0.2 * rng.normal()) * X[:, 0] for name in ("score", "falls", "visits")}
    y = np.concatenate(
        [
            30 + 10 * (f["score"] + 0.5 * rng.normal(size=40)),
            rng.random(40) < 1 / (1 + np.exp(-f["falls"])),
            rng.poisson(np.exp(f["visits"])),
        ]
    )
    return bm.TaskData.from_arrays(np.tile(X, (3, 1)), y, np.repeat(list(f), 40))


KINDS = {"score": bm.Gaussian(), "falls": bm.Bernoulli(), "visits": bm.NegativeBinomial()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "method, number",
    [
        ("gibbs", {"num_chains": 8, "num_draws": 60, "num_warmup": 40}),
        ("nuts", {"num_chains": 1, "num_draws": 200, "num_warmup": 60}),
        ("svi", {"num_chains": 1, "num_draws": 400, "num_warmup": 80}),
    ],
)
def test_engines_agree(clinic, method, number):
    """Means within half a standard deviation of those of "laplace".

    A hundred effective draws have means to .1 sd, so Monte Carlo error is a fifth of the tolerance.
    """
    model = bm.LinearModel(bm.Pooled(), KINDS)
    settings = {"seed": seeded(0), "progress": False}
    reference = model.fit(clinic, method="laplace", num_draws=200, **settings)
    assert reference.check().ok
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # short runs
        fit = model.fit(clinic, method=method, **settings, **number)
    for name in ("summary", "coefficients"):
        first, second = getattr(fit, name)(), getattr(reference, name)()
        gap = (first["mean"] - second["mean"]).abs() / second["sd"]
        assert (gap < 0.5).all(), (name, gap.round(2).to_dict())
    expected, found = (f.predict(clinic.to_frame(), kind="latent") for f in (reference, fit))
    falls = clinic.to_frame()["task"].to_numpy() == "falls"
    assert np.all((found.mean[falls] > 0) & (found.mean[falls] < 1))
    assert np.all(np.abs(found.mean - expected.mean) < 0.5 * expected.sd)
