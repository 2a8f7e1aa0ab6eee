"""Likelihoods: densities are SciPy's, derivatives those of automatic differentiation, bad targets refused."""

import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

import bayesmtl as bm
from bayesmtl.errors import CheckpointError, ConvergenceWarning, DataError, SpecificationError
from bayesmtl.inference import choose, engines
from bayesmtl.inference.gibbs.engine import Gibbs
from bayesmtl.likelihoods import NOTHING, REGISTRY, Given, Rowwise
from bayesmtl.samplers import checkpoint

F = np.linspace(-6.0, 6.0, 25)


def nbinom(y: float, dispersion: float) -> np.ndarray:
    r = 1 / dispersion
    return stats.nbinom.logpmf(y, r, r / (r + np.exp(F)))


def with_values(**values: float) -> Given:
    return Given({name: torch.tensor([value], dtype=torch.float64) for name, value in values.items()})


SPREAD, TAILS = with_values(dispersion=0.6), with_values(scale=0.7, degrees=3.5)
CASES = {
    "logit": (
        bm.Bernoulli(),
        NOTHING,
        [0.0, 1.0],
        lambda y: stats.bernoulli.logpmf(y, stats.logistic.cdf(F)),
    ),
    "probit": (
        bm.Bernoulli("probit"),
        NOTHING,
        [0.0, 1.0],
        lambda y: stats.bernoulli.logpmf(y, stats.norm.cdf(F)),
    ),
    "binomial": (
        bm.Binomial(7),
        NOTHING,
        [0.0, 3.0, 7.0],
        lambda y: stats.binom.logpmf(y, 7, stats.logistic.cdf(F)),
    ),
    "binomial, trials of the data": (
        bm.Binomial(),
        Given(trials=torch.full((25,), 7.0, dtype=torch.float64)),
        [0.0, 3.0, 7.0],
        lambda y: stats.binom.logpmf(y, 7, stats.logistic.cdf(F)),
    ),
    "poisson": (bm.Poisson(), NOTHING, [0.0, 1.0, 40.0], lambda y: stats.poisson.logpmf(y, np.exp(F))),
    "negative binomial": (bm.NegativeBinomial(), SPREAD, [0.0, 1.0, 40.0], lambda y: nbinom(y, 0.6)),
    "student t": (bm.StudentT(), TAILS, [-2.0, 0.3], lambda y: stats.t.logpdf(y, 3.5, F, 0.7)),
}
NOISE = np.array([[0.7]])  # the scale of Student's t, which the others leave alone


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def test_log_density_is_scipys(case):
    likelihood, given, targets, expected = case
    for y in targets:
        found = likelihood.log_density(np.full(25, y), F[None], NOISE, given)[0]
        np.testing.assert_allclose(found, expected(y), atol=1e-9)
        target, f = torch.full((25,), y, dtype=torch.float64), torch.from_numpy(F)
        for value in (likelihood.value(target, f, given), likelihood.derivatives(target, f, given).value):
            np.testing.assert_allclose(value.numpy().ravel(), expected(y), atol=1e-9)


@pytest.mark.parametrize("dispersion", [0.5, 3e-5, 0.99e-4, 1.01e-4, 1e-9])
def test_counts_that_hardly_scatter_more_are_poisson(dispersion):
    """Also where Gamma functions of 1 / dispersion would cancel."""
    y = np.array([0.0, 1.0, 40.0])
    found = [
        bm.NegativeBinomial().log_density(
            np.full(25, count), F[None], NOISE, with_values(dispersion=dispersion)
        )
        for count in y
    ]
    # the log density is Poisson's plus dispersion ((y - m)^2 - y) / 2, to the first order
    first_order = [0.5 * dispersion * ((count - np.exp(F)) ** 2 - count) for count in y]
    expected = [
        stats.poisson.logpmf(count, np.exp(F)) + extra for count, extra in zip(y, first_order, strict=True)
    ]
    exact = [nbinom(count, dispersion) for count in y]
    reference = exact if dispersion > 1e-2 else expected
    atol = 1e-9 if dispersion > 1e-2 else 1e-8 + (dispersion * 450**1.5) ** 2
    np.testing.assert_allclose(np.concatenate(found), reference, atol=atol)


def test_derivatives_are_those_of_automatic_differentiation(case):
    likelihood, given, targets, _ = case
    for y in targets:
        target = torch.full((25,), y, dtype=torch.float64)
        f = torch.from_numpy(F)[None].requires_grad_()
        expected = [likelihood.derivatives(target, f, given).value]
        for _ in range(3):
            (slope,) = torch.autograd.grad(expected[-1].sum(), f, create_graph=True)
            expected.append(slope)
        found = [*likelihood.derivatives(target, f, given), likelihood.third_derivative(target, f, given)]
        for order, (first, second) in enumerate(zip(found, expected, strict=True)):
            torch.testing.assert_close(first, second, rtol=1e-7, atol=1e-9, msg=f"derivative {order}")


def test_the_information_of_a_row(case):
    """It is above 0 everywhere, and minus the second derivative where the density is log-concave."""
    likelihood, given, targets, _ = case
    f = torch.tensor([[-35.0, -20.0, 0.2, 20.0, 35.0]], dtype=torch.float64)
    given = replace(given, trials=None if given.trials is None else given.trials[:5])
    for y in targets:
        target = torch.full((5,), y, dtype=torch.float64)
        at = likelihood.derivatives(target, f, given)
        information = likelihood.information(target, f, given)
        assert all(bool(torch.isfinite(part).all()) for part in at)
        assert bool((information >= 0).all() and (likelihood.step_precision(target, f, given) >= 0).all())
        if likelihood.log_concave:
            assert torch.equal(information, -at.second)
            assert torch.equal(
                likelihood.information_slope(target, f, given), -likelihood.third_derivative(target, f, given)
            )


def test_students_information_is_what_is_expected_of_the_second_derivative():
    likelihood, f = bm.StudentT(), torch.zeros(1, 1, dtype=torch.float64)
    y = torch.from_numpy(0.7 * stats.t.ppf((np.arange(200_000) + 0.5) / 200_000, 3.5))
    second = likelihood.derivatives(y, f, TAILS).second.mean()
    torch.testing.assert_close(likelihood.information(y, f, TAILS)[0, 0], -second, rtol=1e-4, atol=0.0)


def test_draws_have_the_mean(case):
    """5 standard errors of 20,000 draws, 5 values of f, 7 likelihoods: fails by chance once in 50,000."""
    likelihood, given = case[:2]
    f = np.repeat([[-2.0, -0.5, 0.0, 1.0, 2.5]], 20_000, axis=0)
    given = replace(given, trials=None if given.trials is None else given.trials[:5])
    draws = likelihood.draw(f, NOISE, np.random.default_rng(0), given)
    trials = None if given.trials is None else np.full(draws.size, 7.0)
    likelihood.check_target(draws.ravel(), "y", trials)  # what it draws it also allows
    gap = np.abs(draws.mean(axis=0) - likelihood.mean(f, given)[0])
    assert np.all(gap < 5 * draws.std(axis=0) / np.sqrt(20_000))


@pytest.mark.parametrize("name", ["negative binomial", "student t"])
def test_draws_have_the_distribution(name):
    """Kolmogorov-Smirnov at 1e-5; counts are made continuous by uniform noise."""
    likelihood, given = CASES[name][:2]
    rng = np.random.default_rng(1)
    draws = likelihood.draw(np.full((20_000, 1), 1.1), NOISE, rng, given)[:, 0]
    if name == "student t":
        u = stats.t.cdf(draws, 3.5, 1.1, 0.7)
    else:
        r = 1 / 0.6
        known = stats.nbinom(r, r / (r + np.exp(1.1)))
        u = known.cdf(draws - 1) + rng.random(20_000) * known.pmf(draws)
    assert stats.kstest(u, "uniform").pvalue > 1e-5


def test_the_starting_point_explains_the_target(case):
    """Newton's method sets out from where a row's own target is no surprise."""
    likelihood, given, targets, _ = case
    given = replace(given, trials=None if given.trials is None else given.trials[:1])
    for y in map(lambda y: torch.tensor([y], dtype=torch.float64), targets):
        start = likelihood.start(y, given)
        assert bool(torch.isfinite(start).all())
        assert float(likelihood.derivatives(y, start[None], given).value) > -5.0


@pytest.mark.parametrize("name", ["negative binomial", "student t", "logit"])
def test_auxiliary_variables_make_the_rows_gaussian(name):
    """The mean over them of exp(kappa f - omega f^2 / 2), tilted from f0 to f, is the ratio of the densities.

    200,000 draws, 5 standard errors, 3 targets: fails by chance once in 500,000.
    """
    likelihood, given = CASES[name][:2]
    y = torch.tensor(CASES[name][2] + [1.0], dtype=torch.float64)
    rng = np.random.default_rng(2)
    f0, f = torch.full((200_000, len(y)), 0.3, dtype=torch.float64), 0.8
    omega, kappa = likelihood.augment(y, f0, torch.ones(len(y), dtype=torch.float64), rng, given)
    ratio = (kappa * (f - f0) - 0.5 * omega * (f**2 - f0**2)).exp()
    at = [likelihood.derivatives(y, torch.full((1, len(y)), value), given).value[0] for value in (f, 0.3)]
    error = ratio.std(0) / np.sqrt(200_000)
    assert bool(((ratio.mean(0) - (at[0] - at[1]).exp()).abs() < 5 * error).all())


@pytest.mark.parametrize("likelihood", [bm.Bernoulli(), bm.Binomial(3)])
def test_polya_gamma_representation(likelihood):
    """p(y | f) over p(y | 0) is exp(kappa f) / cosh(f / 2)^shape, the transform of PG(shape, 0)."""
    y = np.array([0.0, 1.0])
    shape, kappa = likelihood.polya_gamma(y)
    for f in (-3.0, 0.7):
        expected = likelihood.log_density(y, np.full(2, f), 1.0) - likelihood.log_density(y, np.zeros(2), 1.0)
        np.testing.assert_allclose(kappa * f - shape * np.log(np.cosh(f / 2)), expected, rtol=1e-12)


def test_no_polya_gamma_elsewhere():
    assert bm.Poisson().polya_gamma(np.zeros(2)) is None
    assert bm.Bernoulli("probit").polya_gamma(np.zeros(2)) is None


def test_plain_data_and_back(case):
    likelihood = case[0]
    content = likelihood.to_dict()
    assert REGISTRY[content["likelihood"]].from_fields(content) == likelihood


@pytest.mark.parametrize(
    "make, parameter",
    [
        (lambda: bm.Bernoulli(link="cloglog"), "link"),
        (lambda: bm.Binomial(trials=0), "trials"),
        (lambda: bm.Binomial(trials=2.5), "trials"),
        (lambda: bm.Binomial(trials=True), "trials"),
        (lambda: bm.NegativeBinomial(dispersion=1.0), "dispersion"),
        (lambda: bm.NegativeBinomial(bm.Fixed(0.0)), "dispersion"),
        (lambda: bm.StudentT(degrees=4.0), "degrees"),
        (lambda: bm.StudentT(scale=bm.Fixed(0.0)), "scale"),
    ],
)
def test_bad_options(make, parameter):
    with pytest.raises(SpecificationError, match=f"`{parameter}`: expected"):
        make()


def data_of(y) -> bm.TaskData:
    rng = np.random.default_rng(0)
    return bm.TaskData.from_arrays(
        rng.normal(size=(len(y), 1)), y, np.repeat(["a", "b"], len(y) // 2), target_name="cured"
    )


BAD = {
    "a third value": (bm.Bernoulli(), [0, 1, 2, 1], "0 and 1.*1 of 4 values that are not, such as '2'"),
    "probabilities": (bm.Bernoulli(), [0.2, 1, 0, 1], "such as '0.2'"),
    "minus one for no": (bm.Bernoulli(), [-1, 1, -1, 1], "2 of 4.*'-1'.*Code the event as 1"),
    "a negative count": (bm.Poisson(), [3, -1, 2, 0], "whole numbers of at least 0.*'-1'"),
    "a fraction": (bm.Poisson(), [3, 1.5, 2, 0], "'1.5'.*Gaussian"),
    "a negative count, overdispersed": (bm.NegativeBinomial(), [3, -1, 2, 0], "NegativeBinomial.*'-1'"),
    "more successes than trials": (bm.Binomial(3), [3, 4, 2, 0], "0 to 3.*'4'"),
    "a share of the trials": (bm.Binomial(3), [3, 0.5, 2, 0], "'0.5'.*Give successes, not shares"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_targets_are_refused(name):
    likelihood, y, message = BAD[name]
    model = bm.LinearModel(likelihood=likelihood)
    with pytest.raises(DataError, match=f"`cured`: expected.*{message}"):
        model.fit(data_of(y), seed=0, progress=False)


def test_strings_are_refused_where_data_come_in():
    with pytest.raises(DataError, match=r"`cured`: expected numbers.*'yes', 'no'"):
        data_of(["yes", "no", "yes", "no"])


def test_booleans_are_zeros_and_ones():
    bm.Bernoulli().check_target(data_of([True, False, True, True]).y, "cured")


def test_missing_targets_are_no_bad_targets():
    model = bm.LinearModel(likelihood=bm.Bernoulli())
    fit = model.fit(
        data_of([1, np.nan, 0, 1]), method="laplace", seed=0, num_chains=1, num_draws=4, progress=False
    )
    assert np.isfinite(fit.posterior["weights"]).all()


def test_targets_are_not_standardised_one_task_at_a_time():
    data = data_of([0, 1, 0, 1]).with_target_standardization("task")
    with pytest.raises(SpecificationError, match=r"`target_standardization`.*Bernoulli.*keeps its units"):
        bm.LinearModel(likelihood=bm.Bernoulli()).fit(data, seed=0, progress=False)


REFUSED = [
    (method, likelihood)
    for likelihood in (bm.Bernoulli(), bm.Binomial(2), bm.Poisson(), bm.NegativeBinomial(), bm.StudentT())
    for method in ("exact", "empirical_bayes")
] + [("gibbs", bm.Poisson()), ("gibbs", bm.Bernoulli("probit")), ("gibbs", bm.Gaussian())]


@pytest.mark.parametrize("method, likelihood", REFUSED)
def test_engines_refuse_what_they_cannot_do(method, likelihood):
    with pytest.raises(SpecificationError, match=rf"`method`: expected 'auto' or .* found '{method}'"):
        bm.LinearModel(likelihood=likelihood).fit(
            data_of([0, 1, 0, 1]), method=method, seed=0, progress=False
        )


@pytest.mark.parametrize(
    "likelihood, method, words",
    [
        (bm.Bernoulli(), "gibbs", "Polya-Gamma variables make it Gaussian"),
        (bm.Binomial(6000), "laplace", "24000 auxiliary variables make every sweep slow"),
        (bm.NegativeBinomial(), "gibbs", "NegativeBinomial: auxiliary variables make it Gaussian"),
        (bm.StudentT(), "gibbs", "StudentT: auxiliary variables make it Gaussian"),
        (bm.Bernoulli("probit"), "laplace", "no exact engine"),
        (bm.Poisson(), "laplace", "no exact engine"),
        (bm.Gaussian(), "exact", "Gaussian noise"),
    ],
)
def test_auto_chooses_and_says_why(likelihood, method, words):
    data = data_of([0, 1, 0, 1])
    problem = bm.LinearModel(likelihood=likelihood)._posterior(data)
    engine, reason = choose(problem, "auto")
    assert engine.name == method and words in reason


@pytest.mark.parametrize("likelihood", [bm.Bernoulli(), bm.Poisson()], ids=repr)
def test_auto_takes_minibatches_for_many_rows(likelihood, monkeypatch):
    """Four rows of two features are more than seven values; without Pyro there is no svi to take."""
    data = data_of([0, 1, 0, 1])
    problem = bm.LinearModel(likelihood=likelihood)._posterior(data)
    most = problem.rows.num_features * 4
    monkeypatch.setattr(engines, "_MANY_ROW_VALUES", most)
    assert choose(problem, "auto")[0].name != "svi"
    monkeypatch.setattr(engines, "_MANY_ROW_VALUES", most - 1)
    engine, reason = choose(problem, "auto")
    assert engine.name == "svi" and "4 rows make every step of the other engines slow" in reason
    monkeypatch.setattr(engines, "find_spec", lambda package: None)
    engine, reason = choose(problem, "auto")
    assert engine.name == "laplace" and "needs Pyro" in reason


def test_engines_without_checkpoints_say_so(tmp_path):
    with pytest.raises(SpecificationError, match="`checkpoint`: expected none"):
        bm.LinearModel().fit(
            data_of([0.0, 1.0, 0.5, 1.0]),
            method="empirical_bayes",
            seed=0,
            progress=False,
            checkpoint=tmp_path / "run.npz",
        )


@pytest.mark.parametrize(
    "likelihood, stop",
    [(bm.Bernoulli(), 7), (bm.NegativeBinomial(), 15), (bm.NegativeBinomial(), 26)],
    ids=["in warm-up", "after the reference is made", "among the draws"],
)
def test_a_killed_gibbs_run_goes_on_bit_for_bit(likelihood, stop, monkeypatch, tmp_path):
    """The power goes in place of a sweep; the same call then gives the draws of an undisturbed run."""
    model, data = bm.LinearModel(likelihood=likelihood), data_of([0, 1, 0, 1, 1, 0, 0, 1])
    run = {"method": "gibbs", "seed": 0, "num_chains": 2, "num_draws": 8, "num_warmup": 20, "progress": False}
    path, advance = tmp_path / "run.npz", Gibbs.advance

    def stopping(self, state, rng):
        if state.iteration == stop:
            raise RuntimeError("power cut")
        advance(self, state, rng)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        whole = model.fit(data, **run)
        monkeypatch.setattr(checkpoint, "_SECONDS_BETWEEN", -1.0)
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
            patch.setattr(Gibbs, "advance", stopping)
            model.fit(data, checkpoint=path, **run)
        again = model.fit(data, checkpoint=path, **run)
        assert np.array_equal(again.posterior["weights"], whole.posterior["weights"])
        assert again.posterior.identical(whole.posterior)
        for name, values in whole.draws.sample_stats.items():
            assert np.array_equal(values, again.draws.sample_stats[name]), name
        shorter = model.fit(data, checkpoint=path, **(run | {"num_draws": 5}))
        assert np.array_equal(shorter.posterior["weights"], whole.posterior["weights"][:, :5])
        with pytest.raises(CheckpointError, match="saved by a different run"):
            model.fit(data, checkpoint=path, **(run | {"seed": 1}))


def test_rowwise_likelihoods_are_marked():
    for cls in REGISTRY.values():
        assert cls.compresses != issubclass(cls, Rowwise)


def test_an_interrupted_gibbs_run_gives_what_was_drawn(monkeypatch):
    """Ctrl-C in place of a sweep: after four draws they are returned, marked; before, it is passed on."""
    model, data = bm.LinearModel(likelihood=bm.Bernoulli()), data_of([0, 1, 0, 1, 1, 0, 0, 1])
    run = {"method": "gibbs", "seed": 0, "num_chains": 2, "num_draws": 8, "num_warmup": 20, "progress": False}
    advance = Gibbs.advance

    def stopping(self, state, rng):
        if state.iteration == stop:
            raise KeyboardInterrupt
        advance(self, state, rng)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        whole = model.fit(data, **run)
        monkeypatch.setattr(Gibbs, "advance", stopping)
        stop = 20 + 5
        part = model.fit(data, **run)
        assert whole.complete and not part.complete and "INCOMPLETE" in repr(part)
        assert np.array_equal(part.posterior["weights"], whole.posterior["weights"][:, :5])
        stop = 20 + 3
        with pytest.raises(KeyboardInterrupt):
            model.fit(data, **run)


def test_known_hyperparameters():
    """With nothing to sample but weights: gibbs draws them, laplace has no importance weights to judge."""
    sharing = bm.Hierarchical(scale=bm.Fixed(0.5))
    model, data = bm.LinearModel(sharing, bm.Bernoulli()), data_of([0, 1, 0, 1, 1, 0, 0, 1])
    settings = {"seed": 0, "num_draws": 300, "num_warmup": 40, "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        laplace, gibbs = (model.fit(data, method=method, **settings) for method in ("laplace", "gibbs"))
    assert laplace.check().ok and "pareto_k" not in laplace.draws.sample_stats
    first, second = laplace.coefficients(), gibbs.coefficients()
    # 1,200 draws: five standard errors are .2 sd or less; Laplace's own error is a few hundredths
    assert np.all(np.abs(first["mean"] - second["mean"]) < 0.3 * second["sd"])
    assert np.all(np.abs(first["sd"] / second["sd"] - 1) < 0.15)


def test_a_poor_proposal_is_told():
    """`check` judges the importance weights of laplace."""
    data = data_of([0, 1, 0, 1, 1, 0, 0, 1])
    model = bm.LinearModel(likelihood=bm.Bernoulli())
    fit = model.fit(data, method="laplace", seed=0, progress=False)
    assert fit.check().ok and "was corrected by importance weights" in str(fit.check())
    for name, value, words in (
        ("pareto_k", 0.9, "Pareto k 0.90, above 0.7"),
        ("importance_ess", 20.0, "effective sample size 20, below 100"),
        ("converged", False, "stopped before it reached a mode"),
        ("pareto_k_weights", 0.9, "too rough to be corrected .Pareto k 0.90, above 0.7"),
        ("importance_ess_weights", 30.0, "after the correction.*effective sample size 30, below 100"),
    ):
        stats = fit.draws.sample_stats | {name: np.full((4, 250), value)}
        check = replace(fit, draws=replace(fit.draws, sample_stats=stats)).check()
        assert not check.ok and re.search(words, check.messages[0])
