"""Functions of tasks with outcomes of several kinds: limits, units, files, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import bayesmtl as bm
from bayesmtl.errors import DataError, SpecificationError
from bayesmtl.posteriors.functions.inducing import InducingFunctions

pytestmark = pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")

MODE = {"method": "empirical_bayes", "seed": 0, "progress": False, "num_draws": 4}
KINDS = {"score": bm.Gaussian(), "fell": bm.Bernoulli(), "visits": bm.Poisson()}
NAMES = list(KINDS)


def data_of(make, number: int = 24) -> bm.TaskData:
    """Rows of three tasks in turn, with targets `make(task, f, rng)` of f = sin(2 x)."""
    rng = np.random.default_rng(0)
    x, task = rng.uniform(-2, 2, size=number), np.arange(number) % 3
    y = [make(NAMES[t], f, rng) for t, f in zip(task, np.sin(2 * x), strict=True)]
    return bm.TaskData.from_arrays(x[:, None], np.array(y, dtype=float), np.array(NAMES)[task])


def outcome(name: str, f: float, rng: np.random.Generator) -> float:
    if name == "score":
        return 200 + 50 * f + 5 * rng.normal()
    return float(rng.random() < 1 / (1 + np.exp(-3 * f))) if name == "fell" else rng.poisson(np.exp(1 + f))


@pytest.fixture(scope="module")
def fit() -> bm.FunctionFit:
    model = bm.MultitaskGP(sharing=bm.LowRank(1), likelihood=KINDS)
    return model.fit(data_of(outcome, 45), **{**MODE, "num_draws": 50})


@pytest.mark.parametrize(
    "likelihood, make",
    [
        (bm.Bernoulli(), lambda name, f, rng: float(rng.random() < 0.5 + 0.4 * f)),
        (bm.Poisson(), lambda name, f, rng: rng.poisson(np.exp(f))),
        (bm.StudentT(), lambda name, f, rng: 7 + 3 * f + rng.standard_t(4)),
    ],
    ids=lambda part: type(part).__name__,
)
def test_one_kind_for_all_is_that_likelihood(likelihood, make):
    data, new = data_of(make), ([[0.3]] * 3, NAMES)
    one = bm.MultitaskGP(likelihood=likelihood).fit(data, **MODE)
    many = bm.MultitaskGP(likelihood=dict.fromkeys(NAMES, likelihood)).fit(data, **MODE)
    for name, value in one.draws.hyperparameters.items():
        np.testing.assert_allclose(many.draws.hyperparameters[name], value, rtol=1e-6)
    for kind in ("latent", "observation"):
        ours, theirs = many.predict(new, kind=kind), one.predict(new, kind=kind)
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-6)


@pytest.mark.parametrize(
    "gaussian",
    [
        bm.Gaussian(),
        bm.Gaussian(noise="task"),
        bm.Gaussian(noise=2.0),
        bm.Gaussian(noise={"score": 1.0, "fell": 2.0, "visits": 3.0}),
    ],
    ids=repr,
)
def test_gaussian_parts_have_the_evidence_that_integrating_out_gives(gaussian):
    """The bound is tight: value and gradient are those of the exact density."""
    data = data_of(lambda name, f, rng: 7 + 3 * f + rng.normal())
    exact = bm.MultitaskGP(likelihood=gaussian)._posterior(data)
    mixed = bm.MultitaskGP(likelihood=dict.fromkeys(NAMES, gaussian))._posterior(data)
    bound = InducingFunctions.of(mixed, torch.unique(mixed.X, dim=0))
    points = exact.space.initial(np.random.default_rng(1), 2)
    assert [p.name for p in bound.space.parameters] == [p.name for p in exact.space.parameters]
    for ours, theirs in zip(bound.value_and_gradient(points), exact.value_and_gradient(points), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_predictions_are_in_the_units_of_each_task(fit):
    """At .8 all functions are near their top: a score of 250, a likely fall, e^2 visits."""
    mean = fit.predict(([[0.8]] * 3, NAMES), kind="latent").mean
    assert 235 < mean[0] < 265 and 0.5 < mean[1] < 1 and 4 < mean[2] < 13
    drawn = fit.predict(([[0.8]] * 3, NAMES)).draws.to_numpy()
    assert set(np.unique(drawn[:, 1])) <= {0.0, 1.0} and (drawn[:, 2] == drawn[:, 2].round()).all()
    assert 2 < drawn[:, 0].std() < 20
    assert fit.posterior["noise"].attrs["unit"] == "target" and 2 < fit.posterior["noise"].mean() < 12
    similarity = fit.task_similarity().mean
    assert np.asarray(similarity).min() > 0.5


def test_noise_of_each_gaussian_task_is_named_by_its_tasks():
    kinds = {**KINDS, "score": bm.Gaussian(noise="task")}
    fitted = bm.MultitaskGP(likelihood=kinds).fit(data_of(outcome), **MODE)
    assert fitted.posterior["task_noise"].dims[-1] == "task_noise_task"
    assert fitted.posterior["task_noise_task"].to_numpy().tolist() == ["score"]


def test_a_fit_comes_back_from_its_file(fit, tmp_path):
    fit.save(tmp_path / "fit.nc")
    new = ([[0.5]] * 3, NAMES)
    again = bm.load(tmp_path / "fit.nc")
    np.testing.assert_allclose(again.predict(new).draws, fit.predict(new).draws)
    assert again.likelihood == fit.likelihood


def test_further_rows_and_tasks(fit):
    """Rows of each kind sharpen their task; a task of no kind is refused, and one of a kind predicted."""
    further = fit.condition(data_of(outcome, 30))
    before, after = (f.predict(([[0.5]] * 3, NAMES), kind="latent").sd for f in (fit, further))
    assert (after < before * 1.2).all()
    with pytest.raises(SpecificationError, match="none for task 'new'"):
        fit.predict(([[0.5]], ["new"]), new_tasks="population")
    with pytest.raises(DataError, match="0 and 1|yes or no|0 or 1"):
        fit.condition(([[0.5]], [3.0], ["fell"]))
    open_ended = bm.MultitaskGP(likelihood=bm.Mixed(KINDS, other=bm.Bernoulli()))
    chance = open_ended.fit(data_of(outcome), **MODE).predict(([[0.5]], ["new"]), new_tasks="population")
    assert 0 < chance.mean[0] < 1 and chance.new.all()


def test_minibatches_and_simulations(fit):
    model = bm.MultitaskGP(likelihood=KINDS)
    data, _ = model.simulate(data_of(outcome), seed=1)
    assert set(np.unique(data.y[data.task == data.task_names.index("fell")])) <= {0.0, 1.0}
    run = model.fit(
        data_of(outcome), method="svi", seed=0, num_warmup=10, num_inducing=6, progress=False, num_draws=4
    )
    assert np.isfinite(run.predict(([[0.5]] * 3, NAMES)).mean).all()


@pytest.mark.parametrize(
    "kinds, text",
    [
        ({"score": bm.Gaussian(), "fell": bm.Bernoulli()}, "none for 'visits'"),
        ({**KINDS, "height": bm.Gaussian()}, "one for 'height', which the data do not have"),
        ({}, "a mapping from task names"),
        ({**KINDS, "visits": "poisson"}, "a mapping from task names"),
        ({**KINDS, "visits": bm.Categorical()}, "a mapping from task names"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(kinds, text):
    with pytest.raises(SpecificationError, match=text):
        bm.MultitaskGP(likelihood=kinds).fit(data_of(outcome), **MODE)


def test_a_target_that_its_task_cannot_have_is_refused():
    data = data_of(lambda name, f, rng: -1.5 if name == "visits" else outcome(name, f, rng))
    with pytest.raises(DataError, match="visits"):
        bm.MultitaskGP(likelihood=KINDS).fit(data, **MODE)
