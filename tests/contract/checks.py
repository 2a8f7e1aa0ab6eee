"""The promises that every sharing prior x likelihood x engine keeps, as small named checks.

Each check takes a `Subject` and raises `AssertionError`. To try a prior of your own:

    for check in CHECKS:
        check(Subject(bm.LinearModel(sharing=MyPrior()), data, "exact"))

The data need at least three tasks with three observed rows each, a number column besides the intercept, and
some missing targets. Known noise given by task must name `NEW_TASK` as well. Likelihoods that do not compress
into sufficient statistics have no units of the target to change.

Where two runs should differ by rounding only, draws are compared to a relative 1e-6 of their spread: inputs
that differ in the last bit (1e-16) are amplified along trajectories and by the optimiser, by less than that.
Where two runs use different random numbers, posterior means are compared: see `assert_same_means`.
"""

from __future__ import annotations

import itertools
import random
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import arviz_stats
import numpy as np
import pandas as pd
import pyro
import pytest
import torch
import xarray as xr
from arviz_stats.base import array_stats
from scipy import special, stats
from torch.distributions.transforms import CorrCholeskyTransform

import bayesmtl as bm
from bayesmtl.errors import ConvergenceWarning, SpecificationError, UnknownTaskError
from bayesmtl.likelihoods import Given
from bayesmtl.parameters import Parameter
from bayesmtl.posteriors.linear.outcomes import OutcomePosterior
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.posteriors.target import Density

NEW_TASK, OTHER_NEW_TASK = "lab_new", "lab_newer"

# Enough for means that are compared at a bar of their own errors, for conditioning, which resamples, and for
# the tails of importance weights; by many chains, which engines run as one batch (all but "nuts").
LONG = {"num_chains": 4, "num_draws": 25, "num_warmup": 20, "progress": False}
LONG_IN_TURN = LONG | {"num_chains": 2, "num_draws": 50, "num_warmup": 30}
# Enough for identities, which hold for any number of draws.
SHORT = {"num_chains": 2, "num_draws": 4, "num_warmup": 10, "progress": False}
# Enough for a comparison with other draws: many chains that have left where they started.
BROAD = SHORT | {"num_chains": 8}

# Standard errors that two Monte Carlo means may differ by. A check compares about 20 means, the catalogue
# runs about 40 such checks: at 6 (two-sided 2e-9 each) chance fails one run in a million; an exchanged task
# differs by far more. Effective sample sizes of so short runs are themselves uncertain, hence not 5.
STANDARD_ERRORS = 6.0
# False-alarm probability of one comparison of two distributions.
ALPHA = 1e-6


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, data and an engine, on which the promises are checked."""

    model: bm.LinearModel
    data: bm.TaskData
    method: str

    def fit(
        self,
        data: bm.TaskData | None = None,
        model: bm.LinearModel | None = None,
        *,
        seed: int = 3,
        **settings: Any,
    ) -> bm.Fit:
        """Fit without the warning that so short a run did not converge."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model, data = model or self.model, self.data if data is None else data
            return model.fit(data, method=self.method, seed=seed, **(SHORT | settings))

    @cached_property
    def short(self) -> bm.Fit:
        """The reference for identities."""
        return self.fit()

    @cached_property
    def long(self) -> bm.Fit:
        """The reference for moments."""
        return self.fit(**self.many)

    @property
    def many(self) -> dict[str, Any]:
        """Settings for moments."""
        return LONG_IN_TURN if self.method == "nuts" else LONG

    @property
    def few(self) -> dict[str, Any]:
        """Settings for draws that are compared with those of a longer run, or with each other."""
        return LONG_IN_TURN | {"num_draws": 20, "num_warmup": 20} if self.method == "nuts" else BROAD

    @cached_property
    def watched(self) -> tuple[bm.Fit, dict[str, Any], dict[str, Any]]:
        """The same fit again, and the global state before and after it and all that can be asked of it."""
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002 - the global state is what is watched
        torch.manual_seed(1)
        pyro.clear_param_store()
        pyro.get_param_store()["mine"] = torch.ones(2)
        before = _global_state()
        fit = self.fit()
        fit.predict(self.frame)
        fit.predict(self.rows_of(NEW_TASK, 2), new_tasks="population")
        fit.task_similarity()
        if self.conditions:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                fit.condition(self.rows_of(NEW_TASK, 3))
        fit.to_datatree()
        self.model.sample_prior(self.data, num_draws=3, seed=0)
        self.model.simulate(self.data, seed=0)
        after = _global_state()
        pyro.clear_param_store()
        return fit, before, after

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The rows, with the task, the target and what describes the task."""
        frame, table = self.data.to_frame(), self.data.descriptors
        described = (
            {} if table is None else {name: frame[self.data.task_column].map(table[name]) for name in table}
        )
        return frame.assign(**described)

    @property
    def features(self) -> list[str]:
        """The columns that are features."""
        return [name for name in self.data.feature_names if name != "Intercept"]

    def data_of(self, frame: pd.DataFrame) -> bm.TaskData:
        """Data from changed rows."""
        task, table = self.data.task_column, None
        if self.data.descriptors is not None:
            table = frame.drop_duplicates(task).set_index(task)[list(self.data.descriptors)]
        return bm.TaskData.from_frame(
            frame,
            task=task,
            target=self.data.target_name,
            features=self.features,
            intercept=self.data.has_intercept,
            descriptors=table,
        )

    def rows_of(self, task: str, number: int) -> pd.DataFrame:
        """The first observed rows, said to come from another task, which has the same likelihood."""
        observed = self.frame.dropna(subset=[self.data.target_name])
        likelihood = self.model.likelihood
        if isinstance(likelihood, bm.Mixed):
            observed = observed[~observed[self.data.task_column].isin(list(likelihood.tasks))]
        described = {} if self.data.descriptors is None else dict(self.data.descriptors.iloc[0])
        return observed.head(number).assign(**{self.data.task_column: task}, **described)

    def with_noise(self, change: Callable[[Mapping[str, float]], Mapping[str, float]]) -> bm.LinearModel:
        """The model, its known noise changed."""
        noise = getattr(self.model.likelihood, "noise", None)
        if not isinstance(noise, Mapping):
            return self.model
        return replace(self.model, likelihood=replace(self.model.likelihood, noise=change(noise)))

    def with_names(self, mapping: Mapping[str, str]) -> bm.LinearModel:
        """The model, other names in what it says of single tasks."""
        likelihood, sharing = self.model.likelihood, self.model.sharing
        if isinstance(sharing, bm.TaskGraph):
            names = tuple(mapping.get(task, task) for task in sharing.adjacency.names)
            graph = replace(sharing, adjacency=replace(sharing.adjacency, names=names))
            return replace(self.model, sharing=graph)
        if isinstance(likelihood, bm.Mixed):
            tasks = {mapping.get(task, task): part for task, part in likelihood.tasks.items()}
            return replace(self.model, likelihood=replace(likelihood, tasks=tasks))
        return self.with_noise(lambda noise: {mapping.get(task, task): sd for task, sd in noise.items()})

    @property
    def compresses(self) -> bool:
        """Whether sufficient statistics stand for the rows."""
        return self.model.likelihood.compresses

    @property
    def conditions(self) -> bool:
        """Whether the fit takes new rows without a refit."""
        return self.compresses or self.model.sharing.dependence is not bm.sharing.Dependence.JOINT

    @property
    def needs_rows_per_task(self) -> bool:
        """Whether a task with a single row is refused."""
        return getattr(self.model.likelihood, "noise", None) == "task"


def assert_same_draws(first: bm.Fit, second: bm.Fit) -> None:
    """All draws are equal bit for bit."""
    for name, values in first.draws.hyperparameters.items():
        assert torch.equal(values, second.draws.hyperparameters[name]), name
    for name in ("basis", "weights", "factors"):
        assert torch.equal(getattr(first.draws, name), getattr(second.draws, name)), name


def assert_rounding_only(first: np.ndarray, second: np.ndarray) -> None:
    """Equal to a relative 1e-6 of the values' spread."""
    spread = np.std(first) + np.abs(first).max() * 1e-3
    assert np.max(np.abs(first - second)) <= 1e-6 * spread, np.max(np.abs(first - second)) / spread


def standard_error(values: np.ndarray) -> np.ndarray:
    """Monte Carlo standard error of the means of draws (chain, draw, ...), flattened."""
    flat = values.reshape(*values.shape[:2], -1)
    effective = array_stats.ess(flat, method="mean", chain_axis=0, draw_axis=1)
    # draws that hardly vary have no effective size; more than one per draw is luck
    number = np.clip(np.nan_to_num(effective, nan=1.0), 4.0, flat.shape[0] * flat.shape[1])
    return np.asarray(flat.std(axis=(0, 1)) / np.sqrt(number))


def assert_same_means(first: np.ndarray, second: np.ndarray) -> None:
    """Means of draws (chain, draw, ...) agree within `STANDARD_ERRORS` of their difference."""
    gap = np.abs(first.mean(axis=(0, 1)) - second.mean(axis=(0, 1))).ravel()
    error = np.hypot(standard_error(first), standard_error(second))
    assert np.all(gap <= STANDARD_ERRORS * error + 1e-9 * np.abs(first).max()), (gap / error).max()


def assert_same_distribution(first: np.ndarray, second: np.ndarray) -> None:
    """Two samples (n,) pass a Kolmogorov-Smirnov test at `ALPHA`."""
    result = stats.ks_2samp(first, second)
    assert result.pvalue > ALPHA, result


def check_names(subject: Subject) -> None:
    """Every labelled result carries the names of tasks and features."""
    fit, data = subject.short, subject.data
    tasks, features, classes = list(data.task_names), list(data.feature_names), list(data.classes)
    assert fit.task_names == data.task_names and fit.feature_names == data.feature_names
    weights = fit.posterior["weights"]
    along = ["task", *(["class"] if classes else []), "feature"]
    assert weights.dims == ("chain", "draw", *along)
    names = {"task": tasks, "task_other": tasks, "feature": features, "feature_other": features}
    names["class"] = classes
    for array in fit.posterior.data_vars.values():
        for dim in array.dims:
            assert dim in array.coords, f"{array.name} has no names along {dim}"
            if dim in names:
                assert array[dim].to_numpy().tolist() == names[dim]
        assert array.attrs["unit"]
    of_weights = list(itertools.product(*(names[dim] for dim in along)))
    assert fit.coefficients().index.tolist() == of_weights
    assert fit.coefficients().index.names == along
    similarity = fit.task_similarity()
    assert similarity.draws.dims == ("draw", "task", "task_other")
    assert similarity.mean["task"].to_numpy().tolist() == tasks
    assert similarity.probability(">0")["task_other"].to_numpy().tolist() == tasks
    assert set(similarity.to_frame()["task"]) | set(similarity.to_frame()["task_other"]) == set(tasks)
    prediction = fit.predict(subject.frame)
    assert prediction.draws.dims == ("draw", "obs", *(["class"] if classes else []))
    if classes:
        assert prediction.draws["class"].to_numpy().tolist() == classes
        assert prediction.probabilities().columns.tolist() == classes
    labels = subject.frame[data.task_column].tolist()
    assert prediction.draws["task"].to_numpy().tolist() == labels
    assert prediction.to_frame()["task"].tolist() == labels
    table, summary = list(fit.check().table.index), list(fit.summary().index)
    if subject.model.sharing.has_population:
        assert all(f"population[{', '.join(names)}]" in summary for _, *names in of_weights)
    # a table of convergence is empty where an engine draws independently
    assert not table or f"weights[{', '.join(of_weights[0])}]" in table
    own = [name for name, array in fit.posterior.data_vars.items() if array.dims[2:] == ("task",)]
    assert all(f"{name}[{task}]" in summary for name in own for task in tasks)


def check_seed(subject: Subject) -> None:
    """The same seed gives the same answer, another seed another one."""
    again, other = subject.watched[0], subject.fit(seed=4)
    assert_same_draws(subject.short, again)
    expected, same = subject.short.predict(subject.frame), again.predict(subject.frame)
    assert np.array_equal(expected.draws, same.draws)
    assert not np.array_equal(expected.draws, other.predict(subject.frame).draws)
    assert not torch.equal(subject.short.draws.weights, other.draws.weights)


def check_relabelling(subject: Subject) -> None:
    """Other names in another order give the same answers under those names.

    The random numbers go to tasks in their order, so answers agree within Monte Carlo error; see
    `assert_same_means`. The density itself is the same to rounding: `check_density_relabelling`.
    """
    renamed = _renamed(subject)
    fit = subject.fit(renamed.data, renamed.model, **subject.few)
    mapping = _other_names(subject.data.task_names)
    assert set(fit.task_names) == set(mapping.values()) and fit.task_names != tuple(mapping.values())
    expected = subject.long.posterior["weights"]
    found = fit.posterior["weights"].sel(task=[mapping[name] for name in subject.data.task_names])
    # in units of each feature's effect, so that no feature's scale hides another's
    assert_same_means(expected.to_numpy(), found.to_numpy())


def check_density_relabelling(subject: Subject) -> None:
    """The log density of the hyperparameters does not depend on the order of tasks (to rounding)."""
    renamed = _renamed(subject)
    problems = [
        s.model._posterior(s.data)
        for s in (subject, replace(subject, model=renamed.model, data=renamed.data))
    ]
    mapping = _other_names(subject.data.task_names)
    old = [mapping[name] for name in subject.data.task_names]
    order = [old.index(name) for name in renamed.data.task_names]
    points = problems[0].space.initial(np.random.default_rng(0), 5)
    # the density is given a partition, which is relabelled as well
    memberships = [None, None]
    if subject.model.sharing.dependence is bm.sharing.Dependence.PARTITION:
        together = torch.tensor([[0, 1, 0, 0, 1, 0]]).expand(5, -1)
        memberships = [together, together[:, order]]
    moved, start, shift = points.clone(), 0, torch.zeros(5, dtype=torch.float64)
    for parameter in problems[0].space.parameters:
        where = slice(start, start + parameter.size)
        if parameter.size and parameter.of_tasks_jointly:
            # the coordinates of a correlation matrix depend on the order, and so does their density: it is
            # taken out; that the matrix's own does not is tested with the prior
            moved[:, where] = _reordered(parameter, points[:, where], order)
            for sign, coordinates in ((-1, points[:, where]), (1, moved[:, where])):
                shift += sign * parameter.log_density(coordinates, parameter.constrain(coordinates))
        elif parameter.size and parameter.dims[:1] == ("task",):
            moved[:, where] = points[:, where].reshape(5, len(order), -1)[:, order].reshape(5, -1)
        start += parameter.size
    densities = [_density(p, m, len(points)) for p, m in zip(problems, memberships, strict=True)]
    first, second = densities[0].value(points), densities[1].value(moved) - shift
    assert torch.isfinite(first).all()
    # Newton's method stops where what is left is about this
    torch.testing.assert_close(first, second, rtol=1e-10 if subject.compresses else 1e-7, atol=1e-9)


def _reordered(parameter: Parameter, points: torch.Tensor, order: list[int]) -> torch.Tensor:
    """Coordinates of correlation matrices whose tasks come in another order."""
    L = parameter.constrain(points)
    omega = (L @ L.transpose(-1, -2))[:, order][:, :, order]
    return CorrCholeskyTransform().inv(torch.linalg.cholesky(omega))


def _density(problem: LinearPosterior, membership: torch.Tensor | None, num_points: int) -> Density:
    """What the engines evaluate; of partitions and rows that do not compress, given Gaussian pseudo-rows."""
    if isinstance(problem, OutcomePosterior):
        marginal = problem.density()
        if membership is None:
            return marginal
        values = problem.space.constrain(torch.zeros(num_points, problem.space.size, dtype=torch.float64))
        pseudo = marginal.expand_at(problem.outcomes(values).start().expand(num_points, -1), values).pseudo
        problem = problem.augmented(pseudo.compressed())
    return problem if membership is None else problem.given(membership)


@dataclass(frozen=True, eq=False)
class _Renamed:
    data: bm.TaskData
    model: bm.LinearModel


def _other_names(names: tuple[str, ...]) -> dict[str, str]:
    # backwards, with one exchange, so that the new order is no mirror image
    letters = [f"site_{chr(ord('z') - position)}" for position in range(len(names))]
    letters[0], letters[2] = letters[2], letters[0]
    return dict(zip(names, letters, strict=True))


def _renamed(subject: Subject) -> _Renamed:
    mapping = _other_names(subject.data.task_names)
    column = subject.data.task_column
    frame = subject.frame.assign(**{column: subject.frame[column].map(mapping)})
    return _Renamed(subject.data_of(frame), subject.with_names(mapping))


def check_missing_targets(subject: Subject) -> None:
    """Missing targets are counted wherever the data or the fit are shown."""
    frame, target = subject.frame, subject.data.target_name
    missing = int(frame[target].isna().sum())
    assert missing > 0, "the check needs data with missing targets"
    for text in (repr(subject.data), subject.data._repr_html_(), repr(subject.short)):
        assert f"{missing} of {len(frame)}" in text


def check_equivalent_data(subject: Subject) -> None:
    """The same data said in another way give the same answers, up to rounding.

    Rows in another order; no rows that miss their target; features in units 1e12 times smaller and larger;
    the target in other units. All at once, which costs one fit; where that differs, one after the other.
    """
    try:
        _assert_equivalent(subject, _REWRITTEN)
    except AssertionError:
        for change in _REWRITTEN:
            try:
                _assert_equivalent(subject, (change,))
            except AssertionError as error:
                raise AssertionError(f"the answers depend on the {change}: {error}") from None
        raise


_REWRITTEN = ("order of rows", "rows without a target", "units of features", "units of the target")


def _assert_equivalent(subject: Subject, changes: tuple[str, ...]) -> None:
    """Compare with the fit to data that are rewritten so."""
    target, frame, model = subject.data.target_name, subject.frame, subject.model
    factors, factor, shift = dict.fromkeys(subject.features, 1.0), 1.0, 0.0
    if "units of features" in changes:
        factors = {name: 1e-12 if place % 2 else 1e12 for place, name in enumerate(subject.features)}
    if "units of the target" in changes and subject.compresses:  # outcomes and counts have none
        factor, shift = 2.5e-7, -3.0 if subject.data.has_intercept else 0.0
        model = subject.with_noise(lambda noise: {task: sd * factor for task, sd in noise.items()})
    rewritten = {name: frame[name] * by for name, by in factors.items()}
    if factor != 1.0:  # targets may be names of classes
        rewritten[target] = (frame[target] + shift) * factor
    asked = frame.assign(**rewritten)
    rows = asked.dropna(subset=[target]) if "rows without a target" in changes else asked
    rows = rows.sample(frac=1.0, random_state=5) if "order of rows" in changes else rows
    fit = subject.fit(subject.data_of(rows), model)
    assert ("without a target" in repr(fit)) == bool(rows[target].isna().any())
    expected = subject.short.predict(frame).draws.to_numpy()
    assert_rounding_only(expected, fit.predict(asked).draws.to_numpy() / factor - shift)
    weights = fit.posterior["weights"].mean(("chain", "draw"))
    original = subject.short.posterior["weights"].mean(("chain", "draw"))
    for name, by in factors.items():
        slope = original.sel(feature=name).to_numpy()
        np.testing.assert_allclose(
            weights.sel(feature=name) * by / factor, slope, rtol=1e-5, atol=1e-6 * np.abs(slope).max()
        )


def check_small_tasks(subject: Subject) -> None:
    """A task with one row is fitted; a task without an observed row follows the population.

    The latter's predictions are compared with those for a task that does not exist, in a test at `ALPHA`.
    Where a noise level of its own is asked for, such tasks are refused instead (see the bad-input tests).
    """
    if subject.needs_rows_per_task:
        return
    one, none = subject.data.task_names[1], subject.data.task_names[3]
    column, target = subject.data.task_column, subject.data.target_name
    frame = subject.frame
    frame = frame[(frame[column] != one) | ((frame[column] == one).cumsum() == 1)]
    frame = frame.assign(**{target: frame[target].where(frame[column] != none)})
    fit = subject.fit(subject.data_of(frame), **subject.few)
    assert np.isfinite(fit.posterior["weights"]).all()
    assert np.isfinite(fit.predict(frame).draws).all()
    assert one in fit.task_names and none in fit.task_names
    row = frame[frame[column] == none].head(1)
    unobserved = fit.predict(row.assign(**{column: none}), kind="latent")
    never = fit.predict(row.assign(**{column: NEW_TASK}), kind="latent", new_tasks="population")
    assert never.new.all() and not unobserved.new.any()
    first, second = (prediction.draws.to_numpy()[:, 0] for prediction in (unobserved, never))
    if subject.data.classes:
        first, second = first[:, 0], second[:, 0]
    if np.allclose(first, second, rtol=1e-12):  # everything is shared
        return
    assert_same_distribution(first, second)


def check_global_state(subject: Subject) -> None:
    """The caller's random states, torch settings and Pyro's parameters stay as they were."""
    _, before, after = subject.watched
    for name, value in before.items():
        assert value == after[name], f"{name} changed"


def _global_state() -> dict[str, Any]:
    store = pyro.get_param_store()
    return {
        "random": random.getstate(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002
        "torch": torch.get_rng_state().tolist(),
        "pyro": {name: store[name].tolist() for name in store.keys()},
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "numpy errors": np.geterr(),
    }


def check_save_and_load(subject: Subject) -> None:
    """A loaded fit answers as the saved one did, bit for bit."""
    fit = subject.short
    with tempfile.TemporaryDirectory() as folder:
        fit.save(Path(folder) / "fit.nc")
        assert [path.name for path in Path(folder).iterdir()] == ["fit.nc"]
        loaded = bm.load(Path(folder) / "fit.nc")
    assert_same_draws(fit, loaded)
    assert loaded.sharing == fit.sharing and loaded.likelihood == fit.likelihood
    assert repr(loaded) == repr(fit)
    for options in ({}, {"kind": "latent"}):
        expected, found = fit.predict(subject.frame, **options), loaded.predict(subject.frame, **options)
        assert expected.draws.identical(found.draws)
        assert np.array_equal(expected.mean, found.mean)
        pd.testing.assert_frame_equal(expected.to_frame(), found.to_frame(), check_exact=True)
    new = subject.rows_of(NEW_TASK, 3)
    expected, found = (f.predict(new, new_tasks="population") for f in (fit, loaded))
    assert expected.draws.identical(found.draws)
    assert fit.posterior.identical(loaded.posterior)
    assert fit.task_similarity().draws.identical(loaded.task_similarity().draws)
    pd.testing.assert_frame_equal(fit.check().table, loaded.check().table, check_exact=True)
    for name, group in fit.to_datatree().children.items():
        assert group.to_dataset().identical(loaded.to_datatree()[name].to_dataset()), name
    if subject.conditions:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            assert_same_draws(fit.condition(new), loaded.condition(new))


def check_datatree(subject: Subject) -> None:
    """`to_datatree` has every group, and ArviZ reads it."""
    fit = subject.long
    tree = fit.to_datatree()
    groups = ("posterior", "sample_stats", "log_likelihood", "posterior_predictive")
    assert set(tree.children) == {*groups, "observed_data", "constant_data"}
    number = int(subject.data.observed.sum())
    likelihood = tree["log_likelihood"][subject.data.target_name]
    assert dict(likelihood.sizes) == {
        "chain": subject.many["num_chains"],
        "draw": subject.many["num_draws"],
        "obs": number,
    }
    assert tree["observed_data"][subject.data.target_name].sizes == {"obs": number}
    assert np.isfinite(likelihood).all()
    with warnings.catch_warnings():
        # constant quantities (a mode) have no effective size; Pareto k of so few draws is high
        warnings.simplefilter("ignore")
        table = arviz_stats.summary(tree, kind="stats")
        effective = arviz_stats.ess(tree, var_names=["weights"])
        loo = arviz_stats.loo(tree)
    task = subject.data.task_names[-1]
    assert any(str(name).startswith("weights") and task in str(name) for name in table.index)
    assert effective["weights"].dims == tree["posterior"]["weights"].dims[2:] and bool(
        (effective["weights"] > 1).all()
    )
    assert np.isfinite(loo.elpd) and loo.n_data_points == number
    y, latent = tree["observed_data"][subject.data.target_name], _latent(tree)
    if subject.compresses:
        expected = stats.norm.logpdf(y, latent, _noise(tree, subject))
    else:
        expected = np.empty(likelihood.shape)
        for task, likelihood_of_task in _by_task(subject).items():
            rows = y["task"].to_numpy() == task
            expected[..., rows] = _log_mass(
                likelihood_of_task, y.to_numpy()[rows], latent[..., rows], tree["posterior"]
            )
    np.testing.assert_allclose(likelihood, expected, rtol=1e-8, atol=1e-8)


def _by_task(subject: Subject) -> dict[str, Any]:
    likelihood = subject.model.likelihood
    if isinstance(likelihood, bm.Mixed):
        return {task: likelihood.tasks.get(task, likelihood.other) for task in subject.data.task_names}
    return dict.fromkeys(subject.data.task_names, likelihood)


def _log_mass(likelihood: Any, y: np.ndarray, latent: np.ndarray, posterior: Any) -> np.ndarray:
    """log p(y | f) by SciPy."""
    if isinstance(likelihood, bm.Categorical):
        log_p = special.log_softmax(latent, axis=2)
        return np.asarray(np.take_along_axis(log_p, y.astype(int)[None, None, None], axis=2)[:, :, 0])
    if isinstance(likelihood, bm.Gaussian):
        return np.asarray(stats.norm.logpdf(y, latent, posterior["noise"].to_numpy()[..., None]))
    if isinstance(likelihood, bm.NegativeBinomial):
        r = 1 / posterior["dispersion"].to_numpy()[..., None]
        return np.asarray(stats.nbinom.logpmf(y, r, r / (r + np.exp(latent))))
    if isinstance(likelihood, bm.StudentT):
        scale, degrees = (posterior[name].to_numpy()[..., None] for name in ("scale", "degrees"))
        return np.asarray(stats.t.logpdf(y, degrees, latent, scale))
    if isinstance(likelihood, bm.Poisson):
        return np.asarray(stats.poisson.logpmf(y, np.exp(latent)))
    if isinstance(likelihood, bm.Binomial):
        return np.asarray(stats.binom.logpmf(y, likelihood.trials, 1 / (1 + np.exp(-latent))))
    probit = likelihood.link == "probit"
    return np.asarray(
        stats.bernoulli.logpmf(y, stats.norm.cdf(latent) if probit else stats.logistic.cdf(latent))
    )


def _latent(tree: xr.DataTree) -> np.ndarray:
    """x'w_t of every observed row under every draw, in the user's units; before the rows, of every class."""
    task = xr.DataArray(tree["observed_data"]["task"].to_numpy(), dims="obs")
    weights = tree["posterior"]["weights"].sel(task=task).transpose("chain", "draw", ..., "obs", "feature")
    return np.asarray((weights.to_numpy() * tree["constant_data"]["features"].to_numpy()).sum(axis=-1))


def _noise(tree: xr.DataTree, subject: Subject) -> np.ndarray:
    """The noise of every observed row under every draw, in the user's units."""
    posterior, task = tree["posterior"], tree["observed_data"]["task"].to_numpy()
    if "task_noise" in posterior:
        sd = posterior["task_noise"].sel(task=xr.DataArray(task, dims="obs"))
        return np.asarray(sd.transpose("chain", "draw", "obs"))
    if "noise" in posterior:
        return np.asarray(posterior["noise"].to_numpy()[..., None])
    known = subject.model.likelihood.noise
    return np.array([known[name] for name in task]) if isinstance(known, Mapping) else np.array(known)


def check_prediction_rows(subject: Subject) -> None:
    """Predictions keep the order and the labels of rows; columns may come in any order, with others."""
    fit, frame = subject.short, subject.frame
    whole = fit.predict(frame, kind="latent")
    assert whole.index.equals(frame.index) and whole.to_frame().index.equals(frame.index)
    order = np.random.default_rng(0).permutation(len(frame))
    mixed = frame.iloc[order, ::-1].assign(other="text").drop(columns=subject.data.target_name)
    moved = fit.predict(mixed, kind="latent")
    assert moved.index.equals(mixed.index)
    np.testing.assert_allclose(moved.draws, whole.draws.to_numpy()[:, order], rtol=1e-10)
    np.testing.assert_allclose(moved.mean, whole.mean[order], rtol=1e-10)
    assert np.array_equal(
        fit.predict(frame).draws, fit.predict(frame.iloc[:, ::-1].assign(other=[object()] * len(frame))).draws
    )
    # the latent mean is that of the product of named features and named weights, on the target's scale
    weights = fit.posterior["weights"].stack(s=("chain", "draw")).sel(task=whole.draws["task"].to_numpy())
    latent = np.einsum("...nds,nd->s...n", weights.transpose(..., "task", "feature", "s"), subject.data.X)
    names = [str(name) for name in fit.task_names]
    task = torch.tensor([names.index(label) for label in whole.draws["task"].to_numpy()])
    of_tasks = subject.model.likelihood.of_tasks(names, np.ones(len(names)))
    if subject.data.classes:
        expected = special.softmax(latent, axis=1).mean(axis=0).T
    else:
        expected = of_tasks.mean(latent, Given(task=task)).mean(axis=0)
    np.testing.assert_allclose(whole.mean, expected, rtol=1e-8)
    np.testing.assert_allclose(whole.mean, whole.draws.mean("draw"), rtol=1e-8)


def check_unknown_task(subject: Subject) -> None:
    """An unknown task is an error that lists the known ones, unless new tasks are asked for and labelled."""
    fit, rows = subject.long, pd.concat([subject.frame.head(2), subject.rows_of(NEW_TASK, 2)])
    try:
        fit.predict(rows)
    except UnknownTaskError as error:
        for text in (NEW_TASK, subject.data.task_names[0], 'new_tasks="population"'):
            assert text in str(error), error
    else:
        raise AssertionError("an unknown task was predicted")
    prediction = fit.predict(rows, new_tasks="population")
    assert prediction.new.tolist() == [False, False, True, True]
    assert prediction.to_frame()["new_task"].tolist() == [False, False, True, True]
    assert prediction.to_frame()["task"].tolist()[2:] == [NEW_TASK, NEW_TASK]
    assert "never seen" in repr(prediction)
    assert np.isfinite(prediction.draws).all()
    known, new = (fit.predict(subject.frame.head(2), kind="latent"), prediction)
    assert np.all(new.sd[2:] > 0) and np.all(known.sd > 0)


def check_order_of_requests(subject: Subject) -> None:
    """What is drawn hangs on names: tasks or rows in another order give the same answers in that order.

    Tasks that are independent given Z get the same draws whether they are asked for alone or among others.
    """
    fit, target = subject.short, subject.data.target_name
    newer, new = subject.rows_of(OTHER_NEW_TASK, 3), subject.rows_of(NEW_TASK, 3)
    rows = pd.concat([newer.head(1), subject.frame.head(4), new, newer.tail(2)]).drop(columns=target)
    whole = fit.predict(rows, new_tasks="population")
    order = np.random.default_rng(0).permutation(len(rows))
    moved = fit.predict(rows.iloc[order], new_tasks="population")
    assert_rounding_only(whole.draws.to_numpy()[:, order], moved.draws.to_numpy())
    alone = [fit.predict(asked, new_tasks="population").draws.to_numpy() for asked in (newer, new)]
    assert not np.array_equal(*alone), "two tasks have the same noise"
    if not isinstance(subject.model.sharing, bm.Pooled):
        of_function = {"kind": "latent", "new_tasks": "population"}
        latent = [fit.predict(asked, **of_function).draws.to_numpy() for asked in (newer, new)]
        assert not np.array_equal(*latent), "two tasks have the same weights"
    if subject.model.sharing.dependence is bm.sharing.Dependence.GIVEN_Z:
        assert_rounding_only(alone[1], whole.draws.to_numpy()[:, 5:8])
    if not subject.conditions:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        first, second = (fit.condition(pd.concat(parts)) for parts in ([newer, new], [new, newer]))
        one, other = (fit.condition(part) for part in (newer, new))
    assert first.added_tasks == second.added_tasks
    assert_rounding_only(first.draws.weights.numpy(), second.draws.weights.numpy())
    if not isinstance(subject.model.sharing, bm.Pooled):
        assert not torch.equal(one.draws.weights[..., -1, :], other.draws.weights[..., -1, :])


def check_condition(subject: Subject) -> None:
    """Conditioning makes a new task known, leaves the fit as it was, and two steps agree with one.

    Both ways resample the same draws with fresh random numbers, so they agree within Monte Carlo error. A
    resampled draw may come twice: standard errors are those of a quarter of the draws.
    """
    if not subject.conditions:
        with pytest.raises(SpecificationError, match="Fit the model to all rows together"):
            subject.short.condition(subject.rows_of(NEW_TASK, 6))
        return
    fit, rows = subject.long, subject.rows_of(NEW_TASK, 6)
    before = fit.draws.weights.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        once = fit.condition(rows)
        first = fit.condition(rows.iloc[:3])
        twice = first.condition(rows.iloc[3:])
    assert NEW_TASK not in fit.task_names and torch.equal(before, fit.draws.weights)
    assert once.task_names == (*fit.task_names, NEW_TASK) == twice.task_names
    assert once.added_tasks == (NEW_TASK,) == twice.added_tasks
    assert NEW_TASK in repr(once)
    prediction = once.predict(rows)
    assert not prediction.new.any()
    np.testing.assert_allclose(once.statistics.gram, twice.statistics.gram, rtol=1e-12)
    first_draws = once.posterior["weights"].to_numpy()
    second_draws = twice.posterior["weights"].to_numpy()
    number = first_draws.shape[0] * first_draws.shape[1] / 4
    error = np.sqrt((first_draws.var(axis=(0, 1)) + second_draws.var(axis=(0, 1))) / number)
    gap = np.abs(first_draws.mean(axis=(0, 1)) - second_draws.mean(axis=(0, 1)))
    assert np.all(gap <= STANDARD_ERRORS * error + 1e-9), (gap / error).max()
    if not isinstance(subject.model.sharing, bm.Pooled):
        # the task's own rows say more about it than the population did
        vague = fit.predict(rows, kind="latent", new_tasks="population")
        assert once.predict(rows, kind="latent").sd.mean() < vague.sd.mean()


def check_reprs(subject: Subject) -> None:
    """Everything says what it is, as text and as HTML, with names escaped."""
    fit = subject.short
    similarity, prediction = fit.task_similarity(), fit.predict(subject.frame)
    for text in (repr(fit), fit._repr_html_()):
        assert type(subject.model.sharing).__name__ in text and subject.method in text
        assert f"{subject.data.num_tasks} tasks" in text
    assert f"{len(subject.frame)} rows" in repr(prediction)
    assert f"{subject.data.num_tasks} tasks" in repr(similarity)
    for result in (fit, similarity, prediction):
        assert "<table" in result._repr_html_()
    assert fit.feature_names[0] in fit._repr_html_() or not subject.model.sharing.has_population
    assert str(fit.check()).splitlines()[0] in fit.check()._repr_html_()
    assert type(subject.model.sharing).__name__ in repr(subject.model)


def check_immutable(subject: Subject) -> None:
    """Specifications and results cannot be changed."""
    fit = subject.short
    objects = (subject.model, subject.model.sharing, subject.model.likelihood, subject.data, fit, fit.draws)
    for target in (*objects, fit.predict(subject.frame), fit.task_similarity()):
        for field in fields(target):
            try:
                setattr(target, field.name, None)
            except FrozenInstanceError:
                continue
            raise AssertionError(f"{type(target).__name__}.{field.name} can be set")
    settable = [name for name, value in vars(type(fit)).items() if getattr(value, "fset", None)]
    assert not settable
    try:
        fit.complete = False  # type: ignore[misc]
    except AttributeError:
        return
    raise AssertionError("Fit.complete can be set")


def check_prior_draws(subject: Subject) -> None:
    """Prior draws have the names and dimensions of the posterior; simulated data look like the data."""
    prior = subject.model.sample_prior(subject.data, num_draws=7, seed=0)
    posterior = subject.short.posterior
    assert set(prior.data_vars) == set(posterior.data_vars)
    for name, array in prior.data_vars.items():
        assert array.dims == posterior[name].dims and array.shape[:2] == (1, 7)
        assert np.isfinite(array).all()
        assert array.attrs == posterior[name].attrs
    assert prior.identical(subject.model.sample_prior(subject.data, num_draws=7, seed=0))
    simulated, truth = subject.model.simulate(subject.data, seed=1)
    assert np.array_equal(simulated.observed, subject.data.observed)
    assert np.array_equal(simulated.X, subject.data.X) and not np.array_equal(simulated.y, subject.data.y)
    assert truth["weights"]["task"].to_numpy().tolist() == list(subject.data.task_names)


CHECKS: tuple[Callable[[Subject], None], ...] = tuple(
    value for name, value in list(globals().items()) if name.startswith("check_")
)
"""All of them, in the order of this file."""
