"""Likelihoods of several kinds in one model: each row is its task's, units are each task's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import special

import bayesmtl as bm
from bayesmtl.errors import DataError, SpecificationError
from bayesmtl.inference import choose
from bayesmtl.likelihoods import Given, Rowwise
from bayesmtl.models.linear import LinearModel

KINDS: dict[str, bm.likelihoods.Likelihood] = {
    "motor": bm.Gaussian(),
    "fell": bm.Bernoulli(),
    "visits": bm.NegativeBinomial(),
    "total": bm.Gaussian(),
    "won": bm.Binomial(),
    "weight": bm.StudentT(),
    "known": bm.Gaussian(noise=4.0),
}
NAMES = tuple(KINDS)
SCALE = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 8.0])  # of the targets: known noise is 0.5 of these
ALLOWED = {"fell": [0.0, 1.0], "visits": [0.0, 3.0], "won": [0.0, 2.0]}


def rows(B: int = 3) -> tuple[torch.Tensor, torch.Tensor, Given]:
    """Rows of all tasks in no order, for B values of the hyperparameters."""
    rng = np.random.default_rng(0)
    task = rng.permutation(np.repeat(np.arange(len(NAMES)), 4))
    y = np.array([rng.choice(ALLOWED.get(NAMES[t], rng.normal(size=4).tolist())) for t in task])
    values = {name: rng.gamma(2.0, size=B) for name in ("noise", "dispersion", "scale", "degrees")}
    return (
        torch.from_numpy(y),
        torch.from_numpy(rng.normal(size=(B, len(task)))),
        Given(
            {name: torch.from_numpy(value) for name, value in values.items()},
            torch.full((len(task),), 5.0, dtype=torch.float64),
            torch.from_numpy(task),
        ),
    )


def by_row(given: Given) -> Iterator[tuple[int, str, bm.likelihoods.Likelihood, Given]]:
    """The slow twin: one row after the other, each by the likelihood of its task alone."""
    for row, t in enumerate(given.task.tolist()):
        yield row, NAMES[t], KINDS[NAMES[t]], Given(given.values, given.trials[row : row + 1])


def mixed() -> bm.Mixed:
    return bm.Mixed(dict(reversed(KINDS.items()))).of_tasks(NAMES, SCALE)


def test_every_row_has_the_density_and_the_derivatives_of_its_task():
    y, f, given = rows()
    found = mixed().derivatives(y, f, given)
    named = ("third_derivative", "information", "information_slope", "step_precision")
    further = {name: getattr(mixed(), name)(y, f, given) for name in named}
    for row, task, likelihood, own in by_row(given):
        at = slice(row, row + 1)
        if isinstance(likelihood, Rowwise):
            expected = likelihood.derivatives(y[at], f[:, at], own)
            for name, values in further.items():
                torch.testing.assert_close(values[:, at], getattr(likelihood, name)(y[at], f[:, at], own))
        else:
            sd = torch.full((3, 1), 0.5).double() if task == "known" else given.values["noise"][:, None]
            error = y[at] - f[:, at]
            value = torch.distributions.Normal(0.0, sd).log_prob(error)
            expected = (value, error / sd**2, -1 / sd**2)
            torch.testing.assert_close(further["information"][:, at], 1 / sd**2)
            assert bool((further["third_derivative"][:, at] == 0).all())
        for part, of_row in zip(found, expected, strict=True):
            torch.testing.assert_close(part[:, at], of_row)


def test_derivatives_in_hyperparameters_go_to_the_rows_of_their_part():
    y, f, given = rows()
    values = {name: value.clone().requires_grad_() for name, value in given.values.items()}
    value = mixed().derivatives(y, f, replace(given, values=values)).value
    chosen = torch.from_numpy(np.isin(np.array(NAMES)[given.task], ["motor", "total"]))
    (slope,) = torch.autograd.grad(value[:, ~chosen].sum(), values["noise"], retain_graph=True)
    assert bool((slope == 0).all())
    (slope,) = torch.autograd.grad(value[:, chosen].sum(), values["noise"])
    sd, error = given.values["noise"][:, None], (y - f)[:, chosen]
    torch.testing.assert_close(slope, (error**2 / sd**3 - 1 / sd).sum(1))


def test_densities_means_and_draws_in_the_tasks_own_units():
    y, f, given = rows()
    noise = np.random.default_rng(1).gamma(2.0, size=f.shape)
    density = mixed().log_density(y.numpy(), f.numpy(), noise, given)
    mean = mixed().mean(f.numpy(), given)
    wide = replace(given, values={name: value.repeat(4000) for name, value in given.values.items()})
    draws = mixed().draw(
        np.tile(f.numpy(), (4000, 1)), np.tile(noise, (4000, 1)), np.random.default_rng(2), wide
    )
    for row, _, likelihood, own in by_row(given):
        at = slice(row, row + 1)
        expected = likelihood.log_density(y[at].numpy(), f[:, at].numpy(), noise[:, at], own)
        np.testing.assert_allclose(density[:, at], expected, rtol=1e-12)
        np.testing.assert_allclose(mean[:, at], likelihood.mean(f[:, at].numpy(), own), rtol=1e-12)
        if ALLOWED.get(NAMES[given.task[row]]):
            # 5 standard errors of 4,000 draws, 36 comparisons: fails by chance once in 50,000
            of_row = draws[:, row].reshape(4000, 3)
            assert np.all(np.abs(of_row.mean(0) - mean[:, row]) < 5 * of_row.std(0) / np.sqrt(4000) + 1e-9)
            likelihood.check_target(
                draws[:, row], "y", np.full(12_000, 5.0) if likelihood == KINDS["won"] else None
            )


def test_auxiliary_variables_are_those_of_the_parts():
    """Gaussian rows are what they are, and Polya-Gamma variables of the others have their means."""
    y, f, given = rows(1)
    f, values = f.expand(4000, -1), {name: value.expand(4000) for name, value in given.values.items()}
    weights = torch.ones_like(y)
    drawn = mixed().augment(y, f, weights, np.random.default_rng(0), replace(given, values=values))
    for row, task, likelihood, own in by_row(given):
        at = slice(row, row + 1)
        if isinstance(likelihood, bm.Gaussian):
            sd = torch.full((1,), 0.5).double() if task == "known" else given.values["noise"]
            torch.testing.assert_close(drawn.omega[:, at], (sd**-2).expand(4000, 1))
            torch.testing.assert_close(drawn.kappa[:, at], (y[at] / sd**2).expand(4000, 1))
            continue
        alone = likelihood.augment(
            y[at], f[:, at], weights[at], np.random.default_rng(row), replace(own, values=values)
        )
        # 5 standard errors of a difference, 16 rows: fails by chance once in 100,000
        gap = drawn.omega[:, row].mean() - alone.omega[:, 0].mean()
        assert abs(float(gap)) < 5 * float(alone.omega[:, 0].std()) * np.sqrt(2 / 4000), task
    assert mixed().num_auxiliary(given.trials.numpy(), given.task.numpy()) == 4 * (1 + 1 + 5 + 1)


def test_hyperparameters_of_equal_names_are_numbered():
    shared = bm.Mixed({"a": bm.Gaussian(), "b": bm.Gaussian(), "c": bm.Poisson()})
    assert [p.name for p in shared.parameters(3)] == ["noise"]
    wider = bm.Gaussian(scale=bm.HalfNormal(2.0))
    apart = bm.Mixed({"a": bm.Gaussian(), "b": wider, "c": bm.NegativeBinomial()})
    assert [p.name for p in apart.parameters(3)] == ["noise_1", "noise_2", "dispersion"]
    values = {name: torch.tensor([v]).double() for name, v in (("noise_1", 1.0), ("noise_2", 3.0))}
    sd = apart.noise_sd(values, ["c", "b", "a"], np.ones(3), 1)
    assert sd.tolist() == [[1.0, 3.0, 1.0]]
    told = apart.of_tasks(["c", "b", "a"], np.ones(3)).report(values | {"dispersion": values["noise_1"]})
    assert {name: reported.tasks for name, reported in told.items()} == {
        "noise_1": (2,),
        "noise_2": (1,),
        "dispersion": (0,),
    }


def frame_of_two() -> bm.TaskData:
    rng = np.random.default_rng(0)
    task = np.repeat(["motor", "total", "fell"], 10)
    y = np.r_[100 + 10 * rng.normal(size=10), 5 + rng.normal(size=10), rng.random(10) < 0.5]
    return bm.TaskData.from_arrays(rng.normal(size=(30, 1)), y, task)


KIND = {"motor": bm.Gaussian(), "total": bm.Gaussian(), "fell": bm.Bernoulli()}


@pytest.mark.parametrize("kind", ["pooled", "task", "none"])
def test_targets_are_standardised_where_that_has_a_meaning(kind):
    data = frame_of_two().with_target_standardization(kind)
    scales = bm.Mixed(KIND).standardization(data)
    of_task = {name: data.y[data.task == t] for t, name in enumerate(data.task_names)}
    both = np.r_[of_task["motor"], of_task["total"]]
    expected = {
        "pooled": {"motor": both, "total": both},
        "task": {"motor": of_task["motor"], "total": of_task["total"]},
        "none": {},
    }[kind]
    for t, name in enumerate(data.task_names):
        measured = expected.get(name)
        center, scale = (0.0, 1.0) if measured is None else (measured.mean(), measured.std())
        if name == "fell" and kind != "none":
            center = special.logit((of_task[name].sum() + 0.5) / (len(of_task[name]) + 1))
        np.testing.assert_allclose([scales.target_center[t], scales.target_scale[t]], [center, scale])
    whole = data.with_target_standardization("none").standardization()
    np.testing.assert_array_equal(scales.feature_scale, whole.feature_scale)


def test_an_offset_is_in_the_units_of_its_task():
    """It is taken off a target that is standardised, and is part of the linear predictor of the others."""
    plain = frame_of_two()
    offset = np.linspace(0.0, 3.0, 30)
    level = KIND["fell"].level_of(replace(plain, offset=offset), plain.task == 0)
    shifted = replace(plain, offset=offset, y=plain.y + np.where(plain.task == 0, 0.0, offset))
    model = LinearModel(bm.Pooled(), KIND)
    assert plain.task_names[0] == "fell"
    problem = model._posterior(shifted)
    alone = model._posterior(plain)
    gaussian = (problem.rows.task != 0) & problem.rows.real
    assert bool((problem.rows.offset[gaussian] == 0).all())
    torch.testing.assert_close(problem.rows.y[gaussian].sort()[0], alone.rows.y[gaussian].sort()[0])
    falls = (problem.rows.task == 0) & problem.rows.real
    torch.testing.assert_close(
        problem.rows.offset[falls].sort()[0], torch.from_numpy(level + offset[plain.task == 0])
    )


def test_every_gaussian_task_may_have_a_noise_level_of_its_own():
    own = bm.Gaussian(noise="task")
    model = LinearModel(bm.Hierarchical(), {"motor": own, "total": own, "fell": bm.Bernoulli()})
    data = frame_of_two().with_target_standardization("task")
    prior = model.sample_prior(data, num_draws=4, seed=0)
    assert prior["task_noise"].dims == ("chain", "draw", "task_noise_task")
    assert prior["task_noise"]["task_noise_task"].to_numpy().tolist() == ["motor", "total"]
    assert prior["task_noise"].attrs["unit"] == "target"
    # in each task's units: the noise level times its own scale
    assert (
        prior["task_noise"].sel(task_noise_task="motor").mean()
        > 2 * prior["task_noise"].sel(task_noise_task="total").mean()
    )


@pytest.mark.parametrize(
    "likelihood, found",
    [
        ({"motor": bm.Gaussian(), "total": bm.Gaussian()}, "none for 'fell'"),
        (KIND | {"fall": bm.Bernoulli()}, "one for 'fall', which the data do not have"),
        ({"motor": bm.Gaussian(), "fall": bm.Bernoulli()}, "none for 'fell', 'total' and one for 'fall'"),
        (bm.Mixed({"fall": bm.Bernoulli()}, other=bm.Gaussian()), "one for 'fall'"),
    ],
    ids=["missing", "unknown", "both", "other"],
)
def test_names_that_do_not_match_the_data(likelihood, found):
    data = frame_of_two()
    for call in (
        lambda model: model.fit(data, seed=0, progress=False),
        lambda model: model.sample_prior(data, seed=0),
        lambda model: model.simulate(data, seed=0),
    ):
        with pytest.raises(SpecificationError, match="a likelihood for every task.*'motor'") as error:
            call(LinearModel(likelihood=likelihood))
        assert found in str(error.value) and "other=" in str(error.value)


@pytest.mark.parametrize(
    "likelihood",
    [
        {},
        {"a": "gaussian"},
        {"a": bm.Gaussian},
        {"a": bm.Mixed({"a": bm.Poisson()})},
        {1: bm.Poisson(), "1": bm.Poisson()},
    ],
    ids=["empty", "text", "class", "nested", "twice"],
)
def test_mappings_that_are_none(likelihood):
    with pytest.raises(SpecificationError, match="`likelihood`"):
        LinearModel(likelihood=likelihood)


def test_a_bad_target_names_the_tasks():
    with pytest.raises(DataError, match=r"y of 'motor'.*whole numbers"):
        LinearModel(likelihood=KIND | {"motor": bm.Poisson()}).fit(frame_of_two(), seed=0)
    with pytest.raises(DataError, match=r"trials.*the number of trials"):
        LinearModel(likelihood=KIND | {"fell": bm.Binomial()}).fit(frame_of_two(), seed=0)
    with pytest.raises(SpecificationError, match="at least two observed rows.*'fell'"):
        data = frame_of_two()
        data = replace(data, y=np.where((data.task == 0) & (np.arange(30) > 20), np.nan, data.y))
        LinearModel(likelihood=KIND | {"fell": bm.Gaussian(noise="task")}).fit(data, seed=0)


def test_engines_that_cannot_are_refused():
    data = frame_of_two()

    def problem_of(likelihood):
        model = LinearModel(likelihood=likelihood)
        return model._posterior(data)

    assert choose(problem_of(KIND), "auto")[0].name == "laplace"
    counts = KIND | {"fell": bm.Poisson()}
    assert choose(problem_of(counts), "auto")[0].name == "laplace"
    with pytest.raises(SpecificationError, match="auxiliary variables"):
        choose(problem_of(counts), "gibbs")
    for method in ("exact", "empirical_bayes"):
        with pytest.raises(SpecificationError, match="'laplace'"):
            choose(problem_of(KIND), method)


def test_a_new_task_has_the_likelihood_and_the_scale_of_the_others_or_is_refused():
    data = frame_of_two()
    fit = LinearModel(likelihood=KIND).fit(data, method="laplace", seed=0, num_draws=20, progress=False)
    new = data.to_frame().head(3).assign(task="later")
    with pytest.raises(SpecificationError, match="none for task 'later'.*other="):
        fit.predict(new, new_tasks="population")
    with pytest.raises(SpecificationError, match="none for task 'later'.*other="):
        fit.condition(new)
    scales = bm.Mixed(KIND, other=bm.Gaussian()).standardization(data)
    larger = bm.Mixed(KIND, other=bm.Gaussian()).extended(scales, data.task_names, ["later"])
    assert larger.target_scale.tolist() == [*scales.target_scale, scales.target_scale[1]]
    larger = bm.Mixed(KIND, other=bm.Bernoulli()).extended(scales, data.task_names, ["later"])
    assert larger.target_center.tolist()[-1] == scales.target_center[0] != 0
    assert larger.target_scale.tolist()[-1] == 1
    larger = bm.Mixed(KIND, other=bm.Poisson()).extended(scales, data.task_names, ["later"])
    assert larger.target_center.tolist()[-1] == 0 and larger.target_scale.tolist()[-1] == 1
    with pytest.raises(SpecificationError, match="found no such task"):
        bm.Mixed(KIND, other=bm.StudentT()).extended(scales, data.task_names, ["later"])
    apart = bm.Mixed(KIND, other=bm.Gaussian()).standardization(data.with_target_standardization("task"))
    with pytest.raises(SpecificationError, match="found several"):
        bm.Mixed(KIND, other=bm.Gaussian()).extended(apart, data.task_names, ["later"])
