"""Hyperparameters as points: packing, transforms, and Jacobians against numerical differentiation."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from bayesmtl.parameters import Parameter, ParameterSpace
from bayesmtl.priors import LKJ, Fixed, GroupStudentT, HalfNormal, HalfStudentT, Normal


def points_of(parameter, number=4, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(number, parameter.size)))


def density(parameter, coordinates):
    point = torch.as_tensor(coordinates, dtype=torch.float64).reshape(1, -1)
    return math.exp(parameter.log_density(point, parameter.constrain(point)).item())


SCALARS = {
    "signed half-normal": Parameter("a", (), HalfNormal(0.7), "signed"),
    "signed half-t": Parameter("a", (), HalfStudentT(3.0, 0.7), "signed"),
    "log half-normal": Parameter("a", (), HalfNormal(0.7), "log"),
    "log half-t": Parameter("a", (), HalfStudentT(5.0, 2.0), "log"),
    "real normal": Parameter("a", (), Normal(1.3), "real"),
    "correlation of two": Parameter("a", (2, 2), LKJ(1.5), "correlation"),
}


@pytest.mark.parametrize("name", SCALARS)
def test_the_density_of_a_coordinate_integrates_to_one(name):
    total, _ = integrate.quad(lambda x: density(SCALARS[name], x), -np.inf, np.inf, limit=200)
    assert total == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", [name for name in SCALARS if "correlation" not in name])
def test_moments_of_the_coordinate_are_those_of_the_prior(name):
    """P(|value| < 0.5) from the coordinate's density is the prior's own."""
    parameter = SCALARS[name]
    low, high = (-np.inf, math.log(0.5)) if parameter.space == "log" else (-0.5, 0.5)
    mass, _ = integrate.quad(lambda x: density(parameter, x), low, high)
    frozen = parameter.prior.frozen()
    expected = frozen.cdf(0.5) - frozen.cdf(-0.5)
    if isinstance(parameter.prior, HalfStudentT):  # its scipy form is not folded
        assert stats.t(parameter.prior.df, scale=parameter.prior.scale).cdf(0) == 0.5
    assert mass == pytest.approx(expected, abs=1e-6)


def numerical_log_jacobian(parameter, point, coordinates_of):
    """log |det d value / d coordinates| by central differences."""
    step, P = 1e-6, parameter.size
    columns = []
    for i in range(P):
        moved = [point.clone(), point.clone()]
        moved[0][0, i] += step
        moved[1][0, i] -= step
        up, down = (coordinates_of(parameter.constrain(m)[0]) for m in moved)
        columns.append((up - down) / (2 * step))
    return float(torch.linalg.slogdet(torch.stack(columns, dim=1)).logabsdet)


def lower(matrix):
    D = matrix.shape[0]
    return matrix[tuple(np.tril_indices(D, -1))]


@pytest.mark.parametrize(
    "parameter, coordinates_of",
    [
        (Parameter("a", (3,), HalfNormal(0.7), "log"), torch.flatten),
        (Parameter("a", (2, 3), HalfStudentT(), "log"), torch.flatten),
        (Parameter("a", (2, 2), Normal(2.0), "real"), torch.flatten),
        (Parameter("a", (2, 2), LKJ(2.0), "correlation"), lower),
        (Parameter("a", (4, 4), LKJ(0.8), "correlation"), lower),
    ],
    ids=["log vector", "log matrix", "real", "correlation of two", "correlation of four"],
)
def test_jacobians(parameter, coordinates_of):
    """log density of coordinates = log prior of the value + log |d value / d coordinates|."""
    for point in points_of(parameter)[:, None]:
        value = parameter.constrain(point)
        prior = float(parameter.prior.log_prob(value).sum())
        expected = prior + numerical_log_jacobian(parameter, point, coordinates_of)
        # central differences with a step of 1e-6 are good to about 1e-9 per coordinate
        assert parameter.log_density(point, value).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("T", [2, 6, 30])
def test_correlation_coordinates_against_torch(T):
    """The density of the coordinates is that of `LKJCholesky` carried over by the inverse transform."""
    parameter = Parameter("a", (T, T), LKJ(1.7), "correlation")
    base = torch.distributions.LKJCholesky(T, torch.tensor(1.7, dtype=torch.float64))
    pushed = torch.distributions.TransformedDistribution(
        base, torch.distributions.transforms.CorrCholeskyTransform().inv, validate_args=False
    )
    point = 0.5 * points_of(parameter)
    found = parameter.log_density(point, parameter.constrain(point))
    torch.testing.assert_close(found, pushed.log_prob(point), rtol=1e-10, atol=1e-8)
    # the coordinates are atanh of partial correlations, each 2 Beta(b_j, b_j) - 1 of its own: sum their logs
    column = np.tril_indices(T, -1)[1]
    b = 1.7 + (T - 2 - column) / 2
    partial = torch.tanh(point).numpy()
    expected = stats.beta(b, b, loc=-1, scale=2).logpdf(partial) + np.log1p(-(partial**2))
    np.testing.assert_allclose(found, expected.sum(axis=1), rtol=1e-9)


def test_signed_coordinates_mean_the_same_on_both_sides():
    parameter = Parameter("a", (3,), HalfNormal(0.7), "signed")
    point = points_of(parameter)
    both = [parameter.log_density(p, parameter.constrain(p)) for p in (point, -point)]
    assert torch.equal(both[0], both[1])
    # half of the prior's density on either side
    expected = HalfNormal(0.7).log_prob(point.abs()).sum(1) - 3 * math.log(2)
    torch.testing.assert_close(both[0], expected)


@pytest.mark.parametrize("D", [1, 2, 5])
def test_correlations_are_correlations(D):
    parameter = Parameter("a", (D, D), LKJ(2.0), "correlation")
    assert parameter.size == D * (D - 1) // 2
    L = parameter.constrain(points_of(parameter))
    omega = L @ L.transpose(-1, -2)
    torch.testing.assert_close(omega.diagonal(dim1=-2, dim2=-1), torch.ones(4, D, dtype=torch.float64))
    assert (torch.linalg.eigvalsh(omega) > 0).all()
    assert torch.equal(L, L.tril())


def test_known_values_have_no_coordinates():
    parameter = Parameter("a", (2, 3), Fixed(0.3), "signed")
    empty = torch.zeros(5, 0, dtype=torch.float64)
    assert parameter.size == 0
    assert torch.equal(parameter.constrain(empty), torch.full((5, 2, 3), 0.3, dtype=torch.float64))
    assert torch.equal(parameter.log_density(empty, parameter.constrain(empty)), torch.zeros(5).double())


@pytest.fixture
def space():
    return ParameterSpace(
        (
            Parameter("scale", (3,), HalfNormal(), "signed", ("feature",)),
            Parameter("known", (), Fixed(2.0), "signed"),
            Parameter("correlation", (3, 3), LKJ(), "correlation", ("feature", "feature_other")),
            Parameter("noise", (), HalfNormal(), "log"),
            Parameter("level", (4,), Normal(), "real", ("task",)),
            Parameter("spread", (4, 2), HalfNormal(), "log", ("task", "direction")),
        )
    )


def test_packing(space):
    assert space.size == 3 + 0 + 3 + 1 + 4 + 8
    points = torch.from_numpy(np.random.default_rng(0).normal(size=(5, space.size)))
    values = space.constrain(points)
    assert {name: tuple(value.shape) for name, value in values.items()} == {
        "scale": (5, 3),
        "known": (5,),
        "correlation": (5, 3, 3),
        "noise": (5,),
        "level": (5, 4),
        "spread": (5, 4, 2),
    }
    assert torch.equal(values["scale"], points[:, :3])
    assert torch.equal(values["noise"], points[:, 6].exp())
    assert torch.equal(values["level"], points[:, 7:11])
    assert torch.equal(values["spread"], points[:, 11:].reshape(5, 4, 2).exp())
    total, again = space.log_prior(points)
    expected = sum(
        p.log_density(points[:, where], p.constrain(points[:, where])) for p, where in space._slices()
    )
    torch.testing.assert_close(total, expected)
    assert all(torch.equal(values[name], again[name]) for name in values)


def test_signed_flags(space):
    assert space.signed().tolist() == [True] * 3 + [False] * 16
    assert ParameterSpace(()).signed().shape == (0,)


def test_starts_are_inside_and_differ(space):
    starts = space.initial(np.random.default_rng(0), 4)
    assert starts.shape == (4, space.size) and starts.dtype == torch.float64
    assert torch.isfinite(space.log_prior(starts)[0]).all()
    assert len(torch.unique(starts, dim=0)) == 4
    assert ParameterSpace(()).initial(np.random.default_rng(0), 4).shape == (4, 0)


def test_prior_draws_have_the_shape_of_values(space):
    drawn = space.sample(np.random.default_rng(0), 5)
    values = space.constrain(torch.zeros(5, space.size, dtype=torch.float64))
    assert {name: value.shape for name, value in drawn.items()} == {
        name: value.shape for name, value in values.items()
    }
    assert (drawn["noise"] > 0).all() and (drawn["known"] == 2.0).all()


def test_fresh_tasks_take_their_own_quantities_from_the_prior(space):
    values = space.constrain(torch.zeros(5, space.size, dtype=torch.float64))
    fresh = space.fresh_tasks(values, 2, np.random.default_rng(0))
    assert fresh["level"].shape == (5, 2) and fresh["spread"].shape == (5, 2, 2)
    assert (fresh["spread"] > 0).all()
    for name in ("scale", "correlation", "noise", "known"):
        assert torch.equal(fresh[name], values[name])


def test_redrawn_tasks_follow_the_prior_and_the_rest_stays(space):
    """Kolmogorov-Smirnov on 2000 draws, false-alarm probability 1e-6 each."""
    points = torch.from_numpy(np.random.default_rng(0).normal(size=(2000, space.size)))
    redrawn = space.redraw_tasks(points, np.array([1, 3]), np.random.default_rng(1))
    before, after = space.constrain(points), space.constrain(redrawn)
    for name in ("scale", "correlation", "noise", "known"):
        assert torch.equal(before[name], after[name])
    for name in ("level", "spread"):
        assert torch.equal(before[name][:, [0, 2]], after[name][:, [0, 2]])
    assert stats.kstest(after["level"][:, 1], "norm").pvalue > 1e-6
    assert stats.kstest(after["spread"][:, 3, 1], "halfnorm").pvalue > 1e-6


def test_correlations_of_tasks_grow_and_are_redrawn():
    """Kolmogorov-Smirnov on 2000 draws, false-alarm probability 1e-6 each."""
    T = 4
    space = ParameterSpace(
        (
            Parameter("omega", (T, T), LKJ(1.0), "correlation", ("task", "task_other")),
            Parameter("level", (T,), Normal(), "real", ("task",)),
        )
    )
    points = torch.from_numpy(np.random.default_rng(0).normal(size=(2000, space.size)))
    before = space.constrain(points)
    after = space.constrain(space.redraw_tasks(points, np.array([0, 2]), np.random.default_rng(1)))
    first, second = (L @ L.transpose(-1, -2) for L in (before["omega"], after["omega"]))
    torch.testing.assert_close(first[:, 1, 3], second[:, 1, 3])
    assert torch.equal(before["level"][:, [1, 3]], after["level"][:, [1, 3]])
    # directions of rows are uniform: a correlation with a known task has its prior law given any corner
    b = 1.0 - 1 + T / 2
    for task, other in ((0, 1), (0, 3), (2, 3)):
        assert stats.kstest((second[:, task, other] + 1) / 2, stats.beta(b, b).cdf).pvalue > 1e-6
    grown = space.extend_tasks(before, 2, np.random.default_rng(2))
    assert grown["omega"].shape == (2000, 6, 6) and grown["level"].shape == (2000, 6)
    assert torch.equal(grown["omega"][:, :T, :T], before["omega"])
    assert torch.equal(grown["level"][:, :T], before["level"])
    omega = grown["omega"] @ grown["omega"].transpose(-1, -2)
    b = 1.0 - 1 + (T + 1) / 2  # a fifth task beside four
    assert stats.kstest((omega[:, 4, 0] + 1) / 2, stats.beta(b, b).cdf).pvalue > 1e-6


@pytest.mark.parametrize("dims, shape", [(("task", "feature"), (3, 2)), (("feature", "task"), (2, 3))])
def test_tasks_may_lie_along_any_dimension(dims, shape):
    """Known entries stay where they are, new tasks' come behind them, and one task is redrawn alone."""
    parameter = Parameter("load", shape, Normal(1.0), "real", dims)
    space, axis = ParameterSpace((parameter,)), 1 + dims.index("task")
    rng = np.random.default_rng(0)
    values = space.sample(rng, 4)
    extended = space.extend_tasks(values, 2, rng)["load"]
    assert extended.shape[axis] == 5
    assert torch.equal(extended.narrow(axis, 0, 3), values["load"])
    points = values["load"].reshape(4, -1)
    redrawn = space.redraw_tasks(points, np.array([1]), rng).reshape(4, *shape)
    changed = (redrawn != values["load"]).movedim(axis, 1).flatten(2).all(2)
    assert changed.tolist() == [[False, True, False]] * 4


def test_entries_that_depend_on_each_other_are_no_tasks_own():
    """A multivariate t over the tasks: a new task's entry is not a draw from the prior alone."""
    loadings = Parameter("loadings", (2, 3), GroupStudentT(3.0, 1.0), "real", ("function", "task"))
    space = ParameterSpace((loadings,))
    values = space.sample(np.random.default_rng(0), 4)
    extended = space.extend_tasks(values, 2, np.random.default_rng(1))
    assert loadings.task_axis is None and torch.equal(extended["loadings"], values["loadings"])
