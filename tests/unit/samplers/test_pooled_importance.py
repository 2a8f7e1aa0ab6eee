"""Importance sampling whose rounds are pooled, and the coordinates that it works in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import bayesmtl as bm
from bayesmtl.posteriors.noise_coordinates import NoiseCoordinates
from bayesmtl.samplers.importance import ENOUGH, ENOUGH_POINTS, Mixture, Proposal, pooled_sample
from bayesmtl.samplers.modes import measured_root


class _Known:
    """A half-normal scale (on the signed line), and a normal whose mean depends on it: a bent density.

    Bent as posteriors of scales are. With a bend of s^2 in place of .3 s^2 the tail is missed: with 4000
    points the variance of y comes out a fifth too small, and Pareto k is above .7 in some runs.
    """

    def value(self, points: torch.Tensor) -> torch.Tensor:
        scale, y = points.T
        return -0.5 * scale**2 - 0.5 * ((y - 0.3 * scale**2) / 0.5) ** 2


def test_pooled_weights_give_the_moments_of_a_known_density():
    """E|s| = sqrt(2 / pi), E y = .3, Var y = .09 * 2 + .25, from a poor first proposal.

    The weights of the points leave over 2000 effective ones: standard errors are below .015, that of the
    variance below .025; limits are five of them.
    """
    center = torch.tensor([0.3, 0.0], dtype=torch.float64)
    signed = torch.tensor([True, False])
    first = Proposal(center, 0.5 * torch.eye(2, dtype=torch.float64), signed, center)
    sample = pooled_sample(_Known(), first, 4000, 16_000, np.random.default_rng(0), enough=2000)
    assert (sample.points[:, 0] >= 0).all()
    weights = sample.weights
    assert 1 / float((weights**2).sum()) > 2000
    np.testing.assert_allclose(weights.sum(), 1.0)
    scale, y = sample.points.T
    assert abs(float(weights @ scale) - np.sqrt(2 / np.pi)) < 0.075
    mean = float(weights @ y)
    assert abs(mean - 0.3) < 0.075
    assert abs(float(weights @ (y - mean) ** 2) - 0.43) < 0.125
    assert sample.pareto_k < 0.7


@pytest.mark.parametrize("most, reached", [(150, False), (6_000, True)])
def test_rounds_go_on_until_enough_points_are_effective_or_there_are_as_many_as_allowed(most, reached):
    """Rounds add three points for ten, at least 50; a poor first proposal needs many of them."""
    center = torch.tensor([0.3, 0.0], dtype=torch.float64)
    signed = torch.tensor([True, False])
    first = Proposal(center, 0.5 * torch.eye(2, dtype=torch.float64), signed, center)
    sample = pooled_sample(_Known(), first, 50, most, np.random.default_rng(0))
    effective = 1 / float((sample.weights**2).sum())
    assert (effective >= ENOUGH_POINTS and sample.pareto_k < ENOUGH) == reached
    assert len(sample.points) == most if not reached else len(sample.points) < most


def test_unequal_rounds_count_by_their_size():
    """A second round of one point changes the weighted mean of 20,000 by next to nothing.

    It moves by one weight of many thousands. Counted as much as the first, the second proposal, which is
    wider, would have taken weight from the points of the tail.
    """
    center = torch.tensor([0.3, 0.0], dtype=torch.float64)
    signed = torch.tensor([True, False])
    narrow = Proposal(center, 0.35 * torch.eye(2, dtype=torch.float64), signed, center)

    one = pooled_sample(_Known(), narrow, 20_000, 20_000, np.random.default_rng(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bayesmtl.samplers.importance.ENOUGH_POINTS", np.inf)
        two = pooled_sample(_Known(), narrow, 20_000, 20_001, np.random.default_rng(0))
    assert len(two.points) == len(one.points) + 1
    before, after = (float(s.weights @ s.points[:, 0]) for s in (one, two))
    assert abs(after - before) < 0.01, (before, after)


def correlated(center: list[float]) -> Proposal:
    """A t in two coordinates with a sign, the second's being wanted on the negative side."""
    point = torch.tensor(center, dtype=torch.float64)
    root = torch.tensor([[1.0, 0.0], [0.8, 0.6]], dtype=torch.float64)
    return Proposal(point, root, torch.tensor([True, True]), torch.tensor([1.0, -1.0]).double(), 7.0)


@pytest.mark.parametrize("center", [[0.2, 0.1], [2.0, -0.5], [0.0, 0.0]])
def test_a_proposal_is_a_density_on_its_side(center):
    """It integrates to 1 over a fine lattice there, and draws are where the lattice has its mass.

    Shares of four cells of 40,000 draws within five standard errors, at most .0125: false alarms 1e-5.
    """
    proposal = correlated(center)
    x = torch.linspace(0.0, 20.0, 1001, dtype=torch.float64) + 0.01  # midpoints of cells
    lattice = torch.cartesian_prod(x, -x)
    mass = proposal.log_density(lattice).exp() * 0.02**2
    assert float(mass.sum()) == pytest.approx(1.0, abs=2e-3)
    drawn = proposal.draw(40_000, np.random.default_rng(0))
    assert drawn.shape == (40_000, 2) and bool((drawn[:, 0] >= 0).all()) and bool((drawn[:, 1] <= 0).all())
    for a in (False, True):
        for b in (False, True):

            def inside(points: torch.Tensor, a: bool = a, b: bool = b) -> torch.Tensor:
                return ((points[:, 0] > 0.7) == a) & ((points[:, 1] < -0.5) == b)

            share = float(mass[inside(lattice)].sum())
            assert float(inside(drawn).double().mean()) == pytest.approx(share, abs=0.0125)


def test_forty_scales_at_zero_leave_every_draw():
    """Of whole draws on the right side of all forty there are one in 2^40."""
    zero = torch.zeros(40, dtype=torch.float64)
    root = torch.eye(40, dtype=torch.float64) + 0.1
    proposal = Proposal(zero, root, torch.ones(40, dtype=torch.bool), zero)
    drawn = proposal.draw(500, np.random.default_rng(0))
    assert drawn.shape == (500, 40) and bool((drawn >= 0).all())
    assert bool(torch.isfinite(proposal.log_density(drawn)).all())


def problem(noise):
    rng = np.random.default_rng(0)
    data = bm.TaskData.from_arrays(rng.normal(size=(18, 1)), rng.normal(size=18), list("abc") * 6)
    return bm.MultitaskGP(likelihood=bm.Gaussian(noise))._posterior(data)


@pytest.mark.parametrize("spread", [1e-3, 0.4, -0.8])
def test_noise_coordinates_are_a_change_of_variables(spread):
    """There and back is the identity; the density gains the Jacobian's logarithm, also near no spread."""
    target = problem("task")
    points = target.space.initial(np.random.default_rng(1), 3) + 0.3
    names = [p.name for p in target.space.parameters for _ in range(p.size)]
    points[:, names.index("noise_spread")] = spread
    density = NoiseCoordinates.around(target, points[0])
    there = density.there(points)
    np.testing.assert_allclose(density.back(there), points, rtol=1e-10)
    jacobian = torch.autograd.functional.jacobian(lambda u: density.back(u[None])[0], there[0])
    expected = target.value(points)[0] + torch.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(density.value(there)[0], expected, rtol=1e-10)
    value, gradient = density.value_and_gradient(there)
    np.testing.assert_allclose(value, density.value(there), rtol=1e-12)
    h = 1e-5
    steps = h * torch.eye(there.shape[1], dtype=torch.float64)
    differences = [(density.value(there + e) - density.value(there - e)) / (2 * h) for e in steps]
    np.testing.assert_allclose(gradient, torch.stack(differences, dim=1), rtol=1e-5, atol=1e-5)
    assert torch.equal(density.signed, target.space.signed())


def test_noise_coordinates_know_what_rows_say_of_noise():
    """With weights that are known to be zero, rows say exactly that log sigma_t is log of their root mean
    square, with a precision of twice their number."""
    rng = np.random.default_rng(3)
    sd, task = np.array([0.5, 1.0, 2.0]), np.repeat(np.arange(3), 40)
    y = sd[task] * rng.normal(size=120)
    data = bm.TaskData.from_arrays(rng.normal(size=(120, 1)), y, task.astype(str), intercept=False)
    model = bm.LinearModel(bm.Independent(scale=bm.Fixed(1e-6)), bm.Gaussian("task"))
    target = model._posterior(data)
    density = NoiseCoordinates.around(target, torch.zeros(target.space.size, dtype=torch.float64))
    standardised = data.standardization().standardize_target(data.y, data.task)
    square = np.array([(standardised[task == t] ** 2).mean() for t in range(3)])
    np.testing.assert_allclose(density.observed, 0.5 * np.log(square), atol=0.02)  # to two decimals
    np.testing.assert_allclose(density.precision, 80.0, rtol=0.02)


def test_two_modes_get_their_shares():
    """A mixture of two normal distributions 14 standard deviations apart, the further with a quarter.

    Its mass by at least 1000 effective points has a standard error below .014: the limit is five of them.
    One proposal alone around the first would not see the second, and Pareto k would not tell.
    """

    class Two:
        def value(self, points: torch.Tensor) -> torch.Tensor:
            near = -0.5 * (points**2).sum(1) + np.log(0.75)
            return torch.logaddexp(near, -0.5 * ((points - 10.0) ** 2).sum(1) + np.log(0.25))

    unsigned = torch.zeros(2, dtype=torch.bool)
    at = [torch.zeros(2, dtype=torch.float64), torch.full((2,), 9.5, dtype=torch.float64)]
    parts = tuple(Proposal(c, torch.eye(2, dtype=torch.float64), unsigned, c, 7.0) for c in at)
    first = Mixture(parts, torch.tensor([0.9, 0.1], dtype=torch.float64))
    sample = pooled_sample(Two(), first, 500, 6000, np.random.default_rng(0))
    assert sample.pareto_k < ENOUGH
    assert float(sample.weights[sample.points[:, 0] > 5].sum()) == pytest.approx(0.25, abs=0.07)
    assert sample.log_total == pytest.approx(np.log(2 * np.pi), abs=0.1)


def test_a_mixture_is_a_density():
    """It integrates to 1 over a fine lattice, and draws come from its parts by their shares."""
    parts = (correlated([0.2, -0.1]), correlated([3.0, -1.0]))
    mixture = Mixture(parts, torch.tensor([0.3, 0.7], dtype=torch.float64))
    x = torch.linspace(0.0, 24.0, 1201, dtype=torch.float64) + 0.01
    lattice = torch.cartesian_prod(x, -x)
    mass = mixture.log_density(lattice).exp() * 0.02**2
    assert float(mass.sum()) == pytest.approx(1.0, abs=2e-3)
    drawn = mixture.draw(40_000, np.random.default_rng(0))
    share = float(mass[lattice[:, 0] > 2].sum())
    assert float((drawn[:, 0] > 2).double().mean()) == pytest.approx(share, abs=0.0125)  # 5 standard errors


def test_widths_are_measured_where_curvature_tells_nothing():
    """-x^4 / 4 is flat at its mode; its width at a fall of 1 is sqrt(2), which makes one of 1."""

    class Flat:
        def value(self, points: torch.Tensor) -> torch.Tensor:
            return -0.25 * points[:, 0] ** 4 - 0.5 * (points[:, 1] / 0.1) ** 2

    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)

    class Turned(Flat):
        def value(self, points: torch.Tensor) -> torch.Tensor:
            return super().value(points @ turn)

    root = turn @ torch.diag(torch.tensor([40.0, 0.1], dtype=torch.float64)) @ turn.T
    measured = turn.T @ measured_root(Turned(), torch.zeros(2, dtype=torch.float64), root) @ turn
    # from a width forty times too large three steps come down to within a factor of two
    assert 0.5 < float(measured[0, 0]) < 2.0
    assert float(measured[1, 1]) == pytest.approx(0.1, rel=1e-6)
    assert abs(float(measured[0, 1])) < 1e-6


def test_noise_coordinates_without_noise_per_task_are_the_targets_own():
    target = problem("shared")
    points = target.space.initial(np.random.default_rng(1), 3)
    density = NoiseCoordinates.around(target, points[0])
    assert torch.equal(density.there(points), points) and torch.equal(density.back(points), points)
    np.testing.assert_allclose(density.value(points), target.value(points))
    assert torch.equal(density.signed, target.space.signed())
