"""Every sharing prior x noise x engine keeps every promise of `checks`; nothing public escapes them."""

import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

import bayesmtl
import bayesmtl as bm
from bayesmtl import likelihoods, sharing
from bayesmtl.algebra.structure import Structure
from bayesmtl.inference import ENGINES, NAMES, handles
from bayesmtl.likelihoods import Likelihood
from bayesmtl.parameters import Parameter, Reported
from bayesmtl.posteriors.draws import Draws, HyperparameterDraws, LinearDraws
from bayesmtl.priors import HalfNormal, Prior
from bayesmtl.sharing import Sharing
from tests.contract.checks import (
    CHECKS,
    NEW_TASK,
    OTHER_NEW_TASK,
    Subject,
    check_condition,
    check_unknown_task,
)

LABS = [f"lab_{number}" for number in (1, 2, 3, 4, 9, 10)]
# Each laboratory beside the next.
PATH = pd.DataFrame(np.eye(6, k=1) + np.eye(6, k=-1), index=LABS, columns=LABS)

# Every registered class by its name, with the options that change what it does.
SHARINGS: dict[str, tuple[Sharing, ...]] = {
    "Independent": (bm.Independent(),),
    "Pooled": (bm.Pooled(), bm.Pooled(mean_scale=bm.HalfNormal(2.0))),
    "Hierarchical": (
        bm.Hierarchical(covariance="isotropic"),
        bm.Hierarchical(),
        bm.Hierarchical(covariance="full", mean_scale=bm.HalfStudentT()),
    ),
    "LowRank": (bm.LowRank(rank=1), bm.LowRank(rank=2)),
    "TaskCovariance": (bm.TaskCovariance(),),
    "TaskGraph": (bm.TaskGraph(PATH),),
    # residuals of clusters' own: tests/statistical/test_cluster_residuals.py
    "Clusters": (bm.Clusters(2, within="full"),),
    "DirichletProcess": (bm.DirichletProcess(),),
    # not within="none": there `condition` keeps so few draws that it warns, and two steps are not one
    "PitmanYor": (bm.PitmanYor(),),
    "Gated": (bm.Gated(2, ["size"]),),
}
KNOWN = {f"lab_{number}": 0.4 + 0.05 * number for number in (1, 2, 3, 4, 9, 10)}
LIKELIHOODS: dict[str, tuple[Likelihood, ...]] = {
    "Gaussian": (
        bm.Gaussian(),
        bm.Gaussian(noise="task"),
        bm.Gaussian(noise={**KNOWN, NEW_TASK: 0.7, OTHER_NEW_TASK: 0.7}),
    ),
    "Bernoulli": (bm.Bernoulli(), bm.Bernoulli(link="probit")),
    "Binomial": (bm.Binomial(trials=3),),
    "Categorical": (bm.Categorical(),),
    "Poisson": (bm.Poisson(),),
    "NegativeBinomial": (bm.NegativeBinomial(),),
    "StudentT": (bm.StudentT(),),
    # `lab_3`, which a check compares with a new task, has the likelihood of new tasks; with counts as these
    # "gibbs", which costs most, is none of its engines
    "Mixed": (
        bm.Mixed(
            {"lab_1": bm.Bernoulli(), "lab_2": bm.Poisson(), "lab_10": bm.Binomial(3)}, other=bm.Gaussian()
        ),
    ),
}


def _name(spec: Sharing | Likelihood) -> str:
    options = []
    for name in ("covariance", "rank", "num_clusters", "within", "mean_scale", "noise", "link", "trials"):
        value = getattr(spec, name, None)
        if isinstance(value, Prior):
            options += [] if isinstance(value, bm.Fixed) else [f"{name} inferred"]
        elif value is not None:
            options.append("known" if isinstance(value, dict) else str(value))
    return " ".join([type(spec).__name__, *options])


def _pairs() -> Iterator[tuple[Sharing, Likelihood]]:
    """Every sharing prior with the default noise, and every kind of noise with one of them."""
    gaussian, *others = LIKELIHOODS["Gaussian"]
    yield from ((prior, gaussian) for variants in SHARINGS.values() for prior in variants)
    yield from ((bm.Hierarchical(), noise) for noise in others)


# The options of a prior change its structure, not how an engine meets it: the first stands for all there, and
# one engine meets them all.
FIRST = [variants[0] for variants in SHARINGS.values()]
ENTRIES = {
    f"{_name(prior)}, {_name(noise)}, {engine}": (bm.LinearModel(prior, noise), engine)
    for prior, noise in _pairs()
    for engine in NAMES
    if engine not in ("laplace", "nuts", "svi", "mean_field") and handles(engine, prior, noise)
    if engine == "exact" or prior in FIRST or noise != bm.Gaussian()
}
# The engines for rows, where they differ: every prior with yes/no outcomes, every likelihood with one prior.
# Of the exchangeable partitions one: they differ by their prior, which the entries above see at work.
ENTRIES |= {
    f"{_name(prior)}, {_name(outcome)}, {engine}": (bm.LinearModel(prior, outcome), engine)
    for prior, outcome in (
        *(
            (variants[0], bm.Bernoulli())
            for name, variants in SHARINGS.items()
            if name not in ("Clusters", "PitmanYor")
        ),
        *((bm.Hierarchical(), outcome) for variants in LIKELIHOODS.values() for outcome in variants[:2]),
    )
    for engine in ("laplace", "gibbs")
    if handles(engine, prior, outcome)
}
# The engines by Pyro cost milliseconds a step, and know priors and likelihoods through `structure` and
# densities alone, which tests/equivalence/test_sampled_jointly.py compares for every prior: here one model
# stands for all.
STOOD_FOR = ("nuts", "svi", "mean_field")
ENTRIES |= {
    f"{_name(prior)}, {_name(outcome)}, {engine}": (bm.LinearModel(prior, outcome), engine)
    for prior, outcome, engine in (
        (bm.LowRank(1), bm.Bernoulli(), "nuts"),
        (bm.Hierarchical("isotropic"), bm.Poisson(), "svi"),
        # not by Pyro: partitions have a scheme of their own under that name
        (bm.Clusters(2), bm.Gaussian(), "svi"),
        (bm.Clusters(2), bm.Gaussian(), "mean_field"),
    )
}
# A scale and a noise level for each task, on the engine that takes no time.
ENTRIES |= {
    f"Independent, {_name(noise)}, empirical_bayes": (
        bm.LinearModel(bm.Independent(), noise),
        "empirical_bayes",
    )
    for noise in LIKELIHOODS["Gaussian"][1:]
}


# The two ways in which a new task of a partition may get its noise: for the promises on new tasks.
NEW_NOISE = {
    f"DirichletProcess, {_name(noise)}, gibbs": (bm.LinearModel(bm.DirichletProcess(), noise), "gibbs")
    for noise in LIKELIHOODS["Gaussian"][1:]
}


def outcomes(data: bm.TaskData, likelihood: Likelihood) -> bm.TaskData:
    """The labs, with targets that a likelihood allows."""
    y = data.y.copy()
    for position, task in enumerate(data.task_names):
        own = likelihood.tasks.get(task, likelihood.other) if isinstance(likelihood, bm.Mixed) else likelihood
        if not own.scales_target:
            largest = {"Bernoulli": 1, "Binomial": 3, "Categorical": 2}.get(type(own).__name__, np.inf)
            # yields around 10 become counts around 1
            rows = data.task == position
            y[rows] = np.clip(np.floor(y[rows] / 7), 0, largest)
    return replace(data, y=y, classes=("low", "middle", "high") if likelihood.has_classes else ())


def described(data: bm.TaskData) -> bm.TaskData:
    """The labs, with a number that describes each."""
    index = pd.Index(data.task_names, name=data.task_column)
    return replace(data, descriptors=pd.DataFrame({"size": [3.0, 1.0, 4.0, 1.5, 5.0, 2.0]}, index=index))


@pytest.fixture(scope="session")
def subject_of(lab_data: bm.TaskData) -> Callable[[str], Subject]:
    """One subject per entry, so that its checks share their fits."""
    subjects: dict[str, Subject] = {}

    def get(name: str) -> Subject:
        if name not in subjects:
            model, engine = (ENTRIES | NEW_NOISE)[name]
            data = described(lab_data) if model.sharing.descriptor_names else lab_data
            subjects[name] = Subject(model, outcomes(data, model.likelihood), engine)
        return subjects[name]

    return get


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", ENTRIES)
def test_promise(name, check, subject_of):
    check(subject_of(name))


@pytest.mark.parametrize("check", (check_unknown_task, check_condition), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", NEW_NOISE)
def test_promise_on_new_tasks(name, check, subject_of):
    check(subject_of(name))


# A prior of a user's own, in the form that the documentation of `Sharing` asks for.
@dataclass(frozen=True)
class Ridge(Sharing):
    """Weights shrink towards zero with one scale per feature: W = E, e_t ~ N(0, diag(scale^2))."""

    has_population: ClassVar[bool] = False

    scale: Prior = field(default_factory=HalfNormal)

    def parameters(self, num_tasks, num_features):
        return (Parameter("ridge_scale", (num_features,), self.scale, "signed", ("feature",)),)

    def structure(self, values, num_tasks, num_features):
        return Structure(residual_scale=values["ridge_scale"][:, None, :])

    def report(self, values):
        return {"ridge_scale": Reported(("feature",), values["ridge_scale"].abs(), "coefficient")}


@pytest.fixture(
    scope="module",
    params=[name for name in NAMES if name not in STOOD_FOR and handles(name, Ridge(), bm.Gaussian())],
)
def own_subject(request, lab_data):
    return Subject(bm.LinearModel(Ridge()), lab_data, request.param)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_users_own_prior(own_subject, check, monkeypatch):
    monkeypatch.setitem(sharing.REGISTRY, "Ridge", Ridge)  # to be loaded from a file
    check(own_subject)


class _Forgetful(Ridge):
    """A prior that breaks a promise: it forgets that features have names."""

    def report(self, values):
        return {"ridge_scale": Reported(("column",), values["ridge_scale"].abs(), "standardised")}


def test_a_broken_prior_is_caught(lab_data):
    names = next(check for check in CHECKS if check.__name__ == "check_names")
    with pytest.raises(AssertionError, match="no names along column"):
        names(Subject(bm.LinearModel(_Forgetful()), lab_data, "empirical_bayes"))


def _modules() -> list[str]:
    return [info.name for info in pkgutil.walk_packages(bayesmtl.__path__, "bayesmtl.")]


def escaped(base: type, catalogue: dict[str, tuple], registry: dict[str, type]) -> list[str]:
    """Concrete public classes of the package that no entry of the catalogue puts through the checks."""
    covered = {type(spec) for specs in catalogue.values() for spec in specs}
    found, queue = [], [base]
    while queue:
        cls = queue.pop()
        queue.extend(cls.__subclasses__())
        public = cls.__module__.split(".")[0] == "bayesmtl" and not cls.__name__.startswith("_")
        if public and not inspect.isabstract(cls):
            registered = registry.get(cls.__name__) is cls
            found += [] if registered and cls in covered else [cls.__name__]
    return found


@pytest.mark.parametrize(
    "base, catalogue, registry",
    [(Sharing, SHARINGS, sharing.REGISTRY), (Likelihood, LIKELIHOODS, likelihoods.REGISTRY)],
    ids=["Sharing", "Likelihood"],
)
def test_no_public_class_escapes(base, catalogue, registry):
    for name in _modules():
        importlib.import_module(name)
    assert escaped(base, catalogue, registry) == []
    assert set(catalogue) == set(registry)
    for name, specs in catalogue.items():
        assert {type(spec) for spec in specs} == {registry[name]}
        assert getattr(bm, name) is registry[name] and name in bm.__all__


def test_an_escaped_class_is_noticed():
    @dataclass(frozen=True)
    class Unlisted(bm.Pooled):
        """A prior that its author forgot to register."""

    Unlisted.__module__ = "bayesmtl.sharing.unlisted"
    try:
        assert escaped(Sharing, SHARINGS, sharing.REGISTRY) == ["Unlisted"]
    finally:
        Unlisted.__module__ = __name__  # it lives on in Sharing.__subclasses__()


DRAWS = (Draws, LinearDraws, HyperparameterDraws)


def test_no_engine_escapes():
    """An engine is a public function of `bayesmtl.inference` from a posterior and settings to draws."""
    found = set()
    for name in _modules():
        if name.startswith("bayesmtl.inference"):
            for function in vars(importlib.import_module(name)).values():
                if inspect.isfunction(function) and not function.__name__.startswith("_"):
                    parameters = list(inspect.signature(function).parameters)
                    returned = typing.get_type_hints(function).get("return")
                    if returned in (Draws, LinearDraws, HyperparameterDraws) and parameters[1:] == [
                        "settings"
                    ]:
                        found.add(function)
    assert found == {engine.run for engine in ENGINES}
    assert {engine.name for engine in ENGINES} == set(NAMES)
    assert {engine for _, engine in ENTRIES.values()} == set(NAMES)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.run.__name__)
def test_every_engine_says_what_it_approximates(engine):
    assert "approximate" in engine.run.__doc__.lower() and engine.approximates


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.run.__name__)
def test_what_an_engine_needs_it_can_have(engine):
    """No engine is written off by its own declaration."""
    assert not engine.needs & engine.cannot and engine.takes(engine.needs)


def test_the_catalogue_covers_every_pair():
    """Every registered class meets every engine that works with it, but those that one entry stands for."""
    entries = [(model, engine) for model, engine in ENTRIES.values() if engine not in STOOD_FOR]
    engines = [name for name in NAMES if name not in STOOD_FOR]
    pairs = {(type(model.sharing).__name__, engine) for model, engine in entries}
    outcomes = [outcome for variants in LIKELIHOODS.values() for outcome in variants]
    assert {name for name, _ in pairs} == set(sharing.REGISTRY)
    assert pairs == {
        (name, engine)
        for name, variants in SHARINGS.items()
        for engine in engines
        if any(handles(engine, variants[0], outcome) for outcome in outcomes)
    }
    pairs = {(type(model.likelihood).__name__, engine) for model, engine in entries}
    assert pairs == {
        (name, engine)
        for name, variants in LIKELIHOODS.items()
        for engine in engines
        if any(handles(engine, prior[0], variant) for prior in SHARINGS.values() for variant in variants)
    }
