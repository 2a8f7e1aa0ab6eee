"""Random intercept and slope: our posterior beside statsmodels' REML estimates of the same model.

REML maximises where we average, and knows no prior, so the two need not be equal; they have to agree within
posterior uncertainty. Limits, in posterior standard deviations: 0.5 for fixed effects and the noise,
which many rows inform; 1 for the standard deviations and the correlation of the random effects, whose
posteriors are skewed (18 subjects in `sleepstudy`: the posterior mean of a scale lies above its mode); 0.75
for the weights of any single task, and 0.25 for their root mean square.

Features are as given: both models speak of the spread of intercepts where the feature is zero.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

import bayesmtl as bm
from bayesmtl.errors import MissingDataSetError, MissingDependencyError
from tests.seeds import seeded

CASES = {"sleepstudy": "Days", "exam": "standLRT"}


@dataclass(frozen=True)
class Case:
    fit: bm.Fit
    reml: object
    blups: pd.DataFrame
    feature: str


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    mixed = pytest.importorskip("statsmodels.regression.mixed_linear_model")
    try:
        dataset = bm.datasets.load(request.param)
    except (MissingDataSetError, MissingDependencyError) as error:
        pytest.skip(str(error))
    feature = CASES[request.param]
    frame = dataset.frame[[dataset.task, dataset.target, feature]].copy()
    exog = np.column_stack([np.ones(len(frame)), frame[feature]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # statsmodels reports its optimiser's detours
        model = mixed.MixedLM(frame[dataset.target].to_numpy(), exog, frame[dataset.task], exog_re=exog)
        reml = model.fit(reml=True)
    assert reml.converged
    blups = pd.DataFrame({name: np.asarray(v) + reml.fe_params for name, v in reml.random_effects.items()}).T
    data = bm.TaskData.from_frame(frame, task=dataset.task, target=dataset.target, features=[feature])
    fit = bm.LinearModel(bm.Hierarchical(covariance="full")).fit(
        data, method="exact", seed=seeded(0), num_chains=8, num_draws=400, progress=False
    )
    return Case(fit, reml, blups, feature)


def distance(draws: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """|posterior mean - estimate| in posterior standard deviations; draws (..., K)."""
    draws = draws.reshape(-1, draws.shape[-1])
    return np.abs(draws.mean(0) - estimate) / draws.std(0, ddof=1)


def test_the_fit_converged(case):
    assert case.fit.check().ok, str(case.fit.check())


def test_fixed_effects(case):
    population = case.fit.posterior["population"]
    assert list(population["feature"].to_numpy()) == ["Intercept", case.feature]
    assert (distance(population.to_numpy(), case.reml.fe_params) < 0.5).all()


def test_uncertainty_of_fixed_effects(case):
    # posterior sd beside REML's standard error, which leaves out what is not known about the scales: larger,
    # by little
    sd = case.fit.posterior["population"].to_numpy().reshape(-1, 2).std(0, ddof=1)
    ratio = sd / np.sqrt(np.diag(case.reml.cov_params())[:2])
    assert ((ratio > 0.95) & (ratio < 1.25)).all()


def test_noise(case):
    assert (distance(case.fit.posterior["noise"].to_numpy()[..., None], np.sqrt(case.reml.scale)) < 0.5).all()


def test_standard_deviations_of_random_effects(case):
    expected = np.sqrt(np.diag(case.reml.cov_re))
    assert (distance(case.fit.posterior["residual_scale"].to_numpy(), expected) < 1.0).all()


def test_correlation_of_random_effects(case):
    covariance = np.asarray(case.reml.cov_re)
    expected = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    drawn = case.fit.posterior["residual_correlation"].to_numpy()[..., 0, 1]
    assert (distance(drawn[..., None], expected) < 1.0).all()


def test_best_linear_predictors(case):
    weights = case.fit.posterior["weights"]
    expected = case.blups.loc[list(weights["task"].to_numpy())].to_numpy()
    gap = distance(weights.to_numpy().reshape(*weights.shape[:2], -1), expected.ravel())
    assert gap.max() < 0.75
    assert np.sqrt((gap**2).mean()) < 0.25
