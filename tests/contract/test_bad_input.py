"""Bad input: one clear error each, that names the parameter, what was expected, what was found, what to do.

What is refused while data are being built is tested in `tests/unit/data`.
"""

import re

import numpy as np
import pandas as pd
import pytest

import bayesmtl as bm
from bayesmtl.errors import BayesMTLError, DataError, SpecificationError, UnknownTaskError
from tests.conftest import TINY

FIT = {"method": "empirical_bayes", "seed": 0, **TINY}


def refused(kind: type[BayesMTLError], parameter: str, *texts: str):
    """Expect an error with its four slots filled, about this parameter, with these texts in this order."""
    pattern = rf"^`{re.escape(parameter)}`: expected .+, found .+\. .+"
    pattern = pattern.replace(".+", "(.|\n)+")
    ahead = "(.|\n)*".join(map(re.escape, texts))
    return pytest.raises(kind, match=rf"(?=(.|\n)*{ahead}){pattern}")


# the model


@pytest.mark.parametrize("method", ["mcmc", "Exact", "", None])
def test_unknown_method(method, lab_data):
    with refused(SpecificationError, "method", "'auto', 'exact', 'empirical_bayes'", repr(method), '"auto"'):
        bm.LinearModel().fit(lab_data, **FIT | {"method": method})


@pytest.mark.parametrize("sharing", [bm.Hierarchical, "hierarchical", None, bm.Gaussian()], ids=repr)
def test_sharing_that_is_no_sharing(sharing):
    with refused(SpecificationError, "sharing", "a Sharing object", repr(sharing), "Hierarchical()"):
        bm.LinearModel(sharing=sharing)


@pytest.mark.parametrize("likelihood", [bm.Gaussian, "gaussian", bm.Pooled()], ids=repr)
def test_likelihood_that_is_no_likelihood(likelihood):
    with refused(SpecificationError, "likelihood", "a Likelihood object", repr(likelihood), "Gaussian()"):
        bm.LinearModel(likelihood=likelihood)


@pytest.mark.parametrize("scale", [0, -1.0, np.nan, np.inf, "1", None, [1.0], 1j], ids=repr)
@pytest.mark.parametrize("prior", [bm.HalfNormal, bm.Normal, lambda scale: bm.HalfStudentT(3.0, scale)])
def test_bad_prior_scale(prior, scale):
    with refused(SpecificationError, "scale", "a finite number above 0", repr(scale), "positive scale"):
        prior(scale)


@pytest.mark.parametrize(
    "make, parameter",
    [
        (lambda: bm.HalfStudentT(df=0.0), "df"),
        (lambda: bm.LKJ(concentration=-1.0), "concentration"),
        (lambda: bm.Fixed(-0.1), "value"),
        (lambda: bm.Fixed(np.nan), "value"),
        (lambda: bm.Fixed("1"), "value"),
    ],
)
def test_bad_prior_parameters(make, parameter):
    with refused(SpecificationError, parameter, "a finite number"):
        make()


@pytest.mark.parametrize(
    "make, parameter",
    [
        (lambda value: bm.Hierarchical(scale=value), "scale"),
        (lambda value: bm.Hierarchical(mean_scale=value), "mean_scale"),
        (lambda value: bm.Independent(scale=value), "scale"),
        (lambda value: bm.Pooled(mean_scale=value), "mean_scale"),
        (lambda value: bm.LowRank(scale=value), "scale"),
        (lambda value: bm.Gaussian(scale=value), "scale"),
        (lambda value: bm.Gaussian(noise="task", spread=value), "spread"),
    ],
)
@pytest.mark.parametrize("value", [0.5, "HalfNormal", bm.HalfNormal, None], ids=repr)
def test_a_number_or_class_where_a_prior_belongs(make, parameter, value):
    with refused(SpecificationError, parameter, "a prior", repr(value), "Fixed(0.5)"):
        make(value)


@pytest.mark.parametrize("value", [0.5, bm.LKJ, None], ids=repr)
def test_a_number_or_class_where_a_prior_of_correlations_belongs(value):
    with refused(SpecificationError, "correlation", "LKJ(2.0)", repr(value)):
        bm.Hierarchical(covariance="full", correlation=value)


def test_a_prior_of_the_wrong_kind():
    with refused(SpecificationError, "correlation", "LKJ", "HalfNormal(scale=1.0)"):
        bm.Hierarchical(covariance="full", correlation=bm.HalfNormal())
    with refused(SpecificationError, "scale", "HalfNormal", "LKJ(concentration=2.0)"):
        bm.Hierarchical(scale=bm.LKJ())


@pytest.mark.parametrize(
    "make, parameter",
    [
        (lambda value: bm.DirichletProcess(value), "concentration"),
        (lambda value: bm.PitmanYor(concentration=value), "concentration"),
        (lambda value: bm.Clusters(2, value), "concentration"),
        (lambda value: bm.Clusters(2, spread=value), "spread"),
        (lambda value: bm.Gated(2, ["size"], slopes=value), "slopes"),
        (lambda value: bm.Hierarchical(scale=value), "scale"),
        (lambda value: bm.TaskCovariance(task_scale=value), "task_scale"),
        (lambda value: bm.Gaussian(scale=value), "scale"),
        (lambda value: bm.NegativeBinomial(value), "dispersion"),
        (lambda value: bm.StudentT(degrees=value), "degrees"),
        (lambda value: bm.MultitaskGP(amplitude=value), "amplitude"),
    ],
)
def test_a_prior_with_mass_below_zero_where_nothing_is(make, parameter):
    """Its draws would be no scales and no concentrations, which no engine would notice."""
    with refused(SpecificationError, parameter, "above 0", "Normal(scale=2.0)", "HalfNormal(1.0)"):
        make(bm.Normal(2.0))


def test_a_length_scale_below_zero():
    with refused(SpecificationError, "lengthscale", "positive numbers", "Normal(scale=2.0)"):
        bm.Matern(lengthscale=bm.Normal(2.0))


def test_a_population_of_no_spread():
    """A scale of exactly zero for the population has no density: refused, not NaN."""
    for sharing in (bm.Pooled, bm.Hierarchical, bm.LowRank):
        with refused(SpecificationError, "mean_scale", "above 0", "0.0", "Independent()"):
            sharing(mean_scale=bm.Fixed(0.0))


def test_noise_of_no_spread():
    with refused(SpecificationError, "scale", "above 0", "0.0"):
        bm.Gaussian(scale=bm.Fixed(0.0))


@pytest.mark.parametrize("rank", [0, -1, 1.5, "2", None, True], ids=repr)
def test_bad_rank(rank):
    with refused(SpecificationError, "rank", "a whole number of at least 1", repr(rank), "Hierarchical()"):
        bm.LowRank(rank=rank)


@pytest.mark.parametrize("covariance", ["wishart", "Diagonal", None, 1], ids=repr)
def test_unknown_covariance(covariance):
    with refused(
        SpecificationError, "covariance", "'isotropic', 'diagonal', 'full'", repr(covariance), '"diagonal"'
    ):
        bm.Hierarchical(covariance=covariance)


@pytest.mark.parametrize(
    "noise",
    [-1.0, 0.0, np.nan, np.inf, "tasks", None, [0.5], {"a": -1.0}, {"a": np.nan}, {"a": np.inf}, {"a": None}]
    + [{"a": "loud"}, {"a": 0.0}],
    ids=repr,
)
def test_bad_noise(noise):
    with refused(SpecificationError, "noise", '"shared", "task", a positive number', "standard deviations"):
        bm.Gaussian(noise=noise)


@pytest.mark.parametrize(
    "name, value",
    [
        ("num_draws", 0),
        ("num_draws", 3),
        ("num_draws", 10.0),
        ("num_chains", 0),
        ("num_warmup", 5),
        ("seed", None),
        ("seed", -1),
        ("seed", 1.5),
        ("seed", True),
        ("seed", "0"),
    ],
)
@pytest.mark.parametrize("method", ["exact", "empirical_bayes"])
def test_bad_settings(method, name, value, lab_data):
    with refused(SpecificationError, name, "a whole number of at least", repr(value), "whole number"):
        bm.LinearModel().fit(lab_data, **FIT | {"method": method, name: value})


@pytest.mark.parametrize("seed", [None, -1, 0.5], ids=repr)
def test_bad_seed_of_the_prior(seed, lab_data):
    """Without a seed the answer would silently be another one each time."""
    with refused(SpecificationError, "seed", "a whole number of at least 0", repr(seed)):
        bm.LinearModel().sample_prior(lab_data, num_draws=3, seed=seed)
    with refused(SpecificationError, "seed", "a whole number of at least 0", repr(seed)):
        bm.LinearModel().simulate(lab_data, seed=seed)


# the model and the data


def test_one_row_task_under_noise_by_task(lab_frame):
    short = lab_frame.drop(lab_frame.index[lab_frame["lab"] == "lab_9"][1:])
    data = bm.TaskData.from_frame(short, task="lab", target="yield", features=["dose"])
    with refused(SpecificationError, "noise", "at least two observed rows", "'lab_9'", 'noise="shared"'):
        bm.LinearModel(likelihood=bm.Gaussian(noise="task")).fit(data, **FIT)


def test_a_task_with_one_observed_row_counts_as_one(lab_frame):
    """Rows without a target say nothing about a task's noise."""
    target = lab_frame["yield"].copy()
    target[lab_frame.index[lab_frame["lab"] == "lab_10"][1:]] = np.nan
    data = bm.TaskData.from_frame(
        lab_frame.assign(**{"yield": target}), task="lab", target="yield", features=["dose"]
    )
    with refused(SpecificationError, "noise", "at least two observed rows", "'lab_10'"):
        bm.LinearModel(likelihood=bm.Gaussian(noise="task")).fit(data, **FIT)


def test_known_noise_missing_for_a_task(lab_data):
    noise = {name: 0.5 for name in lab_data.task_names if name not in ("lab_3", "lab_10")}
    with refused(SpecificationError, "noise", "for every task", "'lab_10', 'lab_3'", "Add these tasks"):
        bm.LinearModel(likelihood=bm.Gaussian(noise=noise)).fit(lab_data, **FIT)


def test_known_noise_is_found_by_label():
    """Labels are strings everywhere: 1, 1.0 and "1" are the same task."""
    data = bm.TaskData.from_arrays(np.arange(6.0)[:, None], np.arange(6.0), [1.0, 1.0, 2.0, 2.0, 3.0, 3.0])
    for keys in ((1, 2, 3), (1.0, 2.0, 3.0), ("1", "2", "3")):
        model = bm.LinearModel(likelihood=bm.Gaussian(noise=dict.fromkeys(keys, 0.5)))
        assert model.fit(data, **FIT).task_names == ("1", "2", "3")


@pytest.mark.parametrize("seed", [np.int64(3), np.uint8(3)], ids=lambda seed: type(seed).__name__)
def test_numpy_integers_are_whole_numbers(seed, lab_data, tmp_path):
    fit = bm.LinearModel().fit(lab_data, **FIT | {"seed": seed, "num_draws": np.int32(20)})
    assert fit.posterior.equals(
        bm.LinearModel().fit(lab_data, **FIT | {"seed": 3, "num_draws": 20}).posterior
    )
    fit.save(tmp_path / "fit.nc")
    assert bm.load(tmp_path / "fit.nc").seed == 3


def test_known_noise_missing_for_a_new_task(lab_data, lab_frame):
    noise = dict.fromkeys(lab_data.task_names, 0.5)
    fit = bm.LinearModel(likelihood=bm.Gaussian(noise=noise)).fit(lab_data, **FIT)
    new = lab_frame.head(2).assign(lab="lab_11")
    with refused(SpecificationError, "noise", "'lab_11'"):
        fit.predict(new, new_tasks="population")
    with refused(SpecificationError, "noise", "'lab_11'"):
        fit.condition(new)


@pytest.mark.parametrize(
    "data", [None, "data.csv", pd.DataFrame({"x": [1.0]})], ids=lambda d: type(d).__name__
)
def test_data_that_are_no_task_data(data):
    with refused(DataError, "data", "a TaskData", type(data).__name__, "TaskData.from_frame"):
        bm.LinearModel().fit(data, **FIT)


# new data


@pytest.fixture(scope="module")
def sites() -> pd.DataFrame:
    rng = np.random.default_rng(8)
    frame = pd.DataFrame({"lab": np.repeat(["a", "b", "c"], 6), "dose": rng.normal(size=18)})
    frame["site"] = np.tile(["north", "south", "west"], 6)
    return frame.assign(result=frame["dose"] + rng.normal(size=18))


@pytest.fixture(scope="module")
def site_fit(sites) -> bm.Fit:
    data = bm.TaskData.from_frame(sites, task="lab", target="result", features=["dose", "site"])
    return bm.LinearModel().fit(data, **FIT)


VERBS = {
    "predict": lambda fit, new: fit.predict(new),
    "condition": lambda fit, new: fit.condition(new),
    "task_similarity": lambda fit, new: fit.task_similarity(reference=new),
}


def test_columns_in_another_order_are_read_by_name(site_fit, sites):
    expected = site_fit.predict(sites).draws
    assert np.array_equal(site_fit.predict(sites[["result", "site", "dose", "lab"]]).draws, expected)
    assert np.array_equal(
        site_fit.predict(sites.assign(more=1)[["site", "more", "dose", "lab"]]).draws, expected
    )


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("column", ["dose", "site", "lab"])
def test_new_data_without_a_column(column, verb, site_fit, sites):
    with refused(DataError, column):
        VERBS[verb](site_fit, sites.drop(columns=column))


@pytest.mark.parametrize("verb", VERBS)
def test_new_data_with_an_unseen_category(verb, site_fit, sites):
    new = sites.assign(site=sites["site"].replace("west", "east"))
    with refused(DataError, "site", "'north', 'south', 'west'", "'east'", "refit"):
        VERBS[verb](site_fit, new)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_new_data_with_a_hole(value, verb, site_fit, sites):
    new = sites.assign(dose=sites["dose"].where(sites.index != 4, value))
    with refused(DataError, "dose", "'4'"):
        VERBS[verb](site_fit, new)


@pytest.mark.parametrize("verb", VERBS)
def test_new_task_data_with_other_features(verb, site_fit, sites):
    missing = bm.TaskData.from_frame(sites, task="lab", target="result", features=["dose"])
    with refused(DataError, "new", "'dose'", "no 'site"):
        VERBS[verb](site_fit, missing)
    extra = bm.TaskData.from_frame(
        sites.assign(age=sites["dose"] ** 2), task="lab", target="result", features=["dose", "site", "age"]
    )
    with refused(DataError, "new", "further features 'age'"):
        VERBS[verb](site_fit, extra)


@pytest.mark.parametrize("new", [None, 3, [1.0, 2.0], {"dose": [1.0]}], ids=repr)
@pytest.mark.parametrize("verb", ["predict", "condition"])
def test_new_data_of_another_kind(verb, new, site_fit):
    with refused(DataError, "new", "a DataFrame", type(new).__name__, "'dose'"):
        VERBS[verb](site_fit, new)


def test_no_rows(site_fit, sites):
    """An empty frame is an empty prediction: a filter that matched nothing is no error."""
    prediction = site_fit.predict(sites.head(0))
    assert prediction.draws.sizes["obs"] == 0 and len(prediction.to_frame()) == 0


def test_unknown_task(site_fit, sites):
    with refused(
        UnknownTaskError, "lab", "'a', 'b', 'c'", "'lab_7', not in", 'new_tasks="population"'
    ) as caught:
        site_fit.predict(sites.assign(lab="lab_7"))
    assert isinstance(caught.value, KeyError)
    with refused(UnknownTaskError, "lab", "'a', 'b', 'c'", "'lab_7'", "fit.condition"):
        site_fit.task_similarity(tasks=["a", "lab_7"])


def test_unknown_options(site_fit, sites):
    with refused(SpecificationError, "kind", "'observation' or 'latent'", "'mean'"):
        site_fit.predict(sites, kind="mean")
    with refused(SpecificationError, "new_tasks", "'error' or 'population'", "'prior'"):
        site_fit.predict(sites, new_tasks="prior")
    with refused(SpecificationError, "num_draws", "a whole number of at least 1", "0"):
        site_fit.predict(sites, num_draws=0)
    with refused(SpecificationError, "kind", "'function' or 'structure'", "'shape'"):
        site_fit.task_similarity(kind="shape")
    with refused(SpecificationError, "relative_to", "'nothing' or 'population'", "'mean'"):
        site_fit.task_similarity(relative_to="mean")
    with refused(SpecificationError, "kind", '"function"', '"structure"', "Hierarchical"):
        site_fit.task_similarity(kind="structure")


@pytest.mark.parametrize("mass", [0.0, 1.0, 90, -0.5, np.nan])
def test_bad_mass(mass, site_fit, sites):
    prediction, similarity = site_fit.predict(sites), site_fit.task_similarity()
    for call in (
        prediction.interval,
        prediction.to_frame,
        similarity.interval,
        similarity.to_frame,
        site_fit.summary,
        site_fit.coefficients,
    ):
        with refused(SpecificationError, "mass", "between 0 and 1", repr(mass), "0.9 for 90 %"):
            call(mass)


@pytest.mark.parametrize("condition", ["0", "==1", ">", "> x", ">0; import os"])
def test_bad_condition(condition, site_fit):
    with refused(SpecificationError, "condition", '">0"', repr(condition)):
        site_fit.task_similarity().probability(condition)


def test_similarity_relative_to_a_population_that_is_not_there(lab_data):
    fit = bm.LinearModel(bm.Independent()).fit(lab_data, **FIT)
    with refused(SpecificationError, "relative_to", '"nothing"', '"population"', "Hierarchical()"):
        fit.task_similarity(relative_to="population")


def test_similarity_without_inputs_that_vary():
    data = bm.TaskData.from_arrays(np.zeros((6, 0)), np.arange(6.0), list("aabbcc"))
    fit = bm.LinearModel().fit(data, **FIT)
    with refused(SpecificationError, "reference", "constant features only", 'relative_to="population"'):
        fit.task_similarity()


def test_a_failed_call_leaves_the_fit_as_it_was(site_fit, sites):
    expected = site_fit.predict(sites).draws.copy()
    for verb in VERBS.values():
        with pytest.raises(BayesMTLError):
            verb(site_fit, sites.drop(columns="dose"))
    assert site_fit.predict(sites).draws.identical(expected)
