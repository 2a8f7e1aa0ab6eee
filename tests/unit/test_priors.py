"""Priors: densities against scipy, draws against intervals, and every number that a docstring states."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import bayesmtl as bm
from bayesmtl.priors import LKJ, Fixed, Gamma, HalfNormal, HalfStudentT, LogNormal, Normal, Prior

# False-alarm probability of one test of a distribution; with about 30 of them, one run in 30 000 fails by
# chance.
ALPHA = 1e-6

SCALAR = {
    "half-normal": (HalfNormal(0.4), stats.halfnorm(scale=0.4)),
    "normal": (Normal(2.0), stats.norm(scale=2.0)),
    "log-normal": (LogNormal(2.0, 0.7), stats.lognorm(0.7, scale=2.0)),
    "gamma": (Gamma(3.0, 6.0), stats.gamma(3.0, scale=1 / 6)),
    "half-t": (HalfStudentT(3.0, 0.7), None),  # scipy has no folded t
    "half-Cauchy": (HalfStudentT(1.0, 2.0), stats.halfcauchy(scale=2.0)),
}


def cdf(prior):
    if isinstance(prior, HalfStudentT):
        return lambda x: 2 * stats.t(prior.df, scale=prior.scale).cdf(x) - 1
    return next(known for given, known in SCALAR.values() if given is prior).cdf


@pytest.mark.parametrize("name", SCALAR)
def test_density(name):
    prior, _ = SCALAR[name]
    x = np.array([1e-8, 0.1, 0.5, 1.0, 3.0, 20.0])
    if isinstance(prior, HalfStudentT):
        expected = math.log(2) + stats.t(prior.df, scale=prior.scale).logpdf(x)
    else:
        expected = SCALAR[name][1].logpdf(x)
    np.testing.assert_allclose(prior.log_prob(torch.from_numpy(x)), expected, rtol=1e-12)


@pytest.mark.parametrize("name", SCALAR)
def test_draws_and_intervals(name):
    prior, _ = SCALAR[name]
    drawn = prior.sample(np.random.default_rng(0), (50, 40))
    assert drawn.shape == (50, 40) and drawn.dtype == float
    assert stats.kstest(drawn.ravel(), cdf(prior)).pvalue > ALPHA
    for mass in (0.5, 0.9):
        low, high = prior.interval(mass)
        np.testing.assert_allclose(cdf(prior)([low, high]), [(1 - mass) / 2, (1 + mass) / 2], rtol=1e-9)
    again = prior.sample(np.random.default_rng(0), (50, 40))
    assert np.array_equal(drawn, again)
    assert prior.sample(np.random.default_rng(0), ()).shape == ()


def test_known_values():
    assert Fixed(0.3).interval() == (0.3, 0.3)
    assert Fixed(0.3).sample(np.random.default_rng(0), (2, 3)).tolist() == [[0.3] * 3] * 2
    assert Fixed(0.0).value == 0.0
    with pytest.raises(TypeError, match="Fixed has no density"):
        Fixed(0.3).log_prob(torch.ones(1))
    with pytest.raises(TypeError, match="LKJ has no scipy form"):
        LKJ().frozen()


@pytest.mark.parametrize("concentration", [0.6, 1.0, 2.0])
@pytest.mark.parametrize("D", [2, 3, 5])
def test_marginals_of_correlations(D, concentration):
    """Each correlation is 2 Beta(b, b) - 1 with b = concentration - 1 + D / 2 (tested at ALPHA / 10)."""
    L = LKJ(concentration).sample(np.random.default_rng(1), (3000, D, D))
    omega = L @ np.swapaxes(L, 1, 2)
    np.testing.assert_allclose(np.diagonal(omega, axis1=1, axis2=2), 1.0, rtol=1e-12)
    assert np.array_equal(L, np.tril(L)) and (np.diagonal(L, axis1=1, axis2=2) > 0).all()
    b = concentration - 1 + D / 2
    for i, j in zip(*np.tril_indices(D, -1), strict=True):
        assert stats.kstest((omega[:, i, j] + 1) / 2, stats.beta(b, b).cdf).pvalue > ALPHA / 10


@pytest.mark.parametrize("concentration", [0.6, 1.0, 2.0])
def test_density_of_correlations(concentration):
    """det(Omega)^(concentration - 1) in the entries of Omega, whatever the entries of its Cholesky factor."""
    prior = LKJ(concentration)

    def of_two(r):
        return torch.tensor([[[1.0, 0.0], [r, math.sqrt(1 - r * r)]]], dtype=torch.float64)

    # for two tasks the entry of the factor is the correlation itself
    total, _ = integrate.quad(lambda r: math.exp(prior.log_prob(of_two(r)).item()), -1, 1)
    assert total == pytest.approx(1.0, abs=1e-4)
    b = concentration
    expected = stats.beta(b, b, loc=-1, scale=2).logpdf([-0.5, 0.1, 0.9])
    found = [prior.log_prob(of_two(r)).item() for r in (-0.5, 0.1, 0.9)]
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    # for four: log p(L) - (concentration - 1) log det Omega - log |d Omega / d L| is a constant
    L = torch.from_numpy(LKJ(1.0).sample(np.random.default_rng(2), (6, 4, 4)))
    diagonal = L.diagonal(dim1=-2, dim2=-1).log()
    jacobian = (diagonal * torch.tensor([3.0, 2.0, 1.0, 0.0])).sum(
        -1
    )  # row i has D - 1 - j entries below column j
    constant = prior.log_prob(L) - (concentration - 1) * 2 * diagonal.sum(-1) - jacobian
    torch.testing.assert_close(constant, constant[:1].expand(6))


@pytest.mark.parametrize("known", [0, 1, 3])
def test_rows_drawn_one_after_the_other_make_the_whole(known):
    """A corner of LKJ(c) of five is LKJ(c + missing / 2); with the missing rows it is LKJ(c) again."""
    T, prior, rng = 5, LKJ(0.8), np.random.default_rng(6)
    L = LKJ(0.8 + (T - known) / 2).sample(rng, (3000, known, known))
    for j in range(known, T):
        before = L
        L = prior.next_row(L, rng, further=T - 1 - j)
        assert np.array_equal(L[:, :j, :j], before)
    omega = L @ np.swapaxes(L, 1, 2)
    np.testing.assert_allclose(np.diagonal(omega, axis1=1, axis2=2), 1.0, rtol=1e-12)
    b = 0.8 - 1 + T / 2
    for i, j in zip(*np.tril_indices(T, -1), strict=True):
        assert stats.kstest((omega[:, i, j] + 1) / 2, stats.beta(b, b).cdf).pvalue > ALPHA / 10
    # and jointly: the determinant has the law that `sample` gives it
    whole = prior.sample(rng, (3000, T, T))
    assert (
        stats.ks_2samp(np.linalg.det(omega), np.linalg.det(whole @ np.swapaxes(whole, 1, 2))).pvalue > ALPHA
    )


def test_one_task_has_one_correlation_matrix():
    assert LKJ().sample(np.random.default_rng(0), (3, 1, 1)).tolist() == [[[1.0]]] * 3
    assert LKJ().log_prob(torch.ones(3, 1, 1, dtype=torch.float64)).tolist() == [0.0] * 3


@pytest.mark.parametrize(
    "prior", [HalfNormal(0.4), HalfStudentT(4.0, 0.1), Normal(3.0), Fixed(0.0), LKJ(1.5)], ids=repr
)
def test_through_a_file(prior):
    content = json.loads(json.dumps(prior.to_dict()))
    assert content["prior"] == type(prior).__name__
    assert Prior.from_dict(content) == prior and hash(Prior.from_dict(content)) == hash(prior)
    with pytest.raises(dataclasses.FrozenInstanceError):
        prior.scale = 2.0


def test_an_unknown_prior_in_a_file():
    with pytest.raises(KeyError, match="Magic"):
        Prior.from_dict({"prior": "Magic"})


def upper(prior, mass=0.9):
    """Below it lies `mass` of a prior of positive values; within it, of a symmetric one."""
    return prior.interval(2 * mass - 1)[1] if not isinstance(prior, Normal) else prior.interval(mass)[1]


def correlation_within(concentration, D, mass=0.9):
    b = concentration - 1 + D / 2
    return 2 * stats.beta(b, b).ppf((1 + mass) / 2) - 1


def ratio_of_noise_levels():
    """90 % point of exp |log sigma_t - log sigma_u| = exp(spread sqrt(2) |z|) under the default spread."""
    grid = (np.arange(2000) + 0.5) / 2000
    spread = stats.halfnorm(scale=bm.Gaussian().spread.scale).ppf(grid)
    gap = math.sqrt(2) * np.outer(spread, stats.halfnorm.ppf(grid))
    return math.exp(np.quantile(gap, 0.9))


# Class, its words, the number in them, what it is, and how far rounding (or "about") lets it be.
STATED = [
    (HalfNormal, "90 % of the mass lies below 1.64 scale", 1.64, lambda: upper(HalfNormal()), 0.005),
    (
        HalfStudentT,
        "With df = 3, 90 % of the mass lies below 2.35",
        2.35,
        lambda: upper(HalfStudentT()),
        0.005,
    ),
    (HalfStudentT, "with df = 1, below 6.31", 6.31, lambda: upper(HalfStudentT(1.0)), 0.005),
    (Normal, "90 % of the mass within 1.64 scale of 0", 1.64, lambda: upper(Normal()), 0.005),
    (bm.Gaussian, "90 % of its mass below 1.64", 1.64, lambda: upper(bm.Gaussian().scale), 0.005),
    (bm.Gaussian, "90 % of its mass below 0.82", 0.82, lambda: upper(bm.Gaussian().spread), 0.005),
    (bm.Gaussian, "a factor of up to about three", 3.0, ratio_of_noise_levels, 0.5),
    (bm.Hierarchical, "90 % of its mass below 1.64", 1.64, lambda: upper(bm.Hierarchical().scale), 0.005),
    (bm.Hierarchical, "within about .75 of zero", 0.75, lambda: correlation_within(2.0, 2), 0.03),
    (bm.Hierarchical, "coefficient within 1.64", 1.64, lambda: 1.0 * upper(Normal()), 0.005),
    (bm.Independent, "90 % of its mass below 1.64", 1.64, lambda: upper(bm.Independent().scale), 0.005),
    (
        bm.Pooled,
        "coefficient within 1.64",
        1.64,
        lambda: bm.Pooled().mean_scale.value * upper(Normal()),
        0.005,
    ),
    (bm.LowRank, "90 % of its mass below 0.82", 0.82, lambda: upper(bm.LowRank().scale), 0.005),
]


@pytest.mark.parametrize(
    "cls, words, number, value, rounding", STATED, ids=lambda value: getattr(value, "__name__", None)
)
def test_what_docstrings_state(cls, words, number, value, rounding):
    assert words in " ".join(cls.__doc__.split()), "the docstring says something else now: correct this table"
    assert value() == pytest.approx(number, abs=rounding)


def test_correlations_shrink_with_many_features():
    """As `Hierarchical` says."""
    assert bm.Hierarchical().correlation == LKJ(2.0)
    assert correlation_within(2.0, 20) < correlation_within(2.0, 3) < correlation_within(2.0, 2)


@pytest.mark.parametrize("concentration, mass", [(0.5, (0.333, 0.156, 0.059)), (2.0, (0.156, 0.085, 0.034))])
def test_prior_mass_of_negative_correlations_is_what_the_docstring_of_task_covariance_says(
    concentration, mass
):
    """P(correlation < -.5) for 2, 5 and 10 tasks, of 20,000 matrices; standard errors are below .0034."""
    rng = np.random.default_rng(0)
    for T, expected in zip((2, 5, 10), mass, strict=True):
        L = LKJ(concentration).sample(rng, (20_000, T, T))
        first = (L[:, 0] * L[:, -1]).sum(-1)
        assert abs((first < -0.5).mean() - expected) < 0.015
