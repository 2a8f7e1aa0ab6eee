"""The sampler against targets whose moments are known, and its way out when the surrogate does not serve.

False alarms: every comparison of a mean or a variance is within 4.5 of its Monte Carlo standard errors, the
standard errors estimated from the draws; about 40 comparisons in all fail by chance with a probability of
less than 1e-3. Seeds are fixed.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats

from bayesmtl.samplers import hmc as module
from bayesmtl.samplers.hmc import HMC, State, stacked
from bayesmtl.samplers.surrogate import MOST_COORDINATES, Surrogate

SIGMAS = 4.5
CORRELATION = torch.tensor([[4.0, 1.2, 0.0], [1.2, 1.0, 0.3], [0.0, 0.3, 0.25]], dtype=torch.float64)
CENTER = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def gaussian(points: torch.Tensor) -> torch.Tensor:
    gap = points - CENTER
    return -0.5 * (gap * torch.linalg.solve(CORRELATION, gap.T).T).sum(1)


def skewed(points: torch.Tensor) -> torch.Tensor:
    """The logarithms of independent Gamma(3, 1) variables."""
    return (3 * points - points.exp()).sum(1)


def rough(points: torch.Tensor) -> torch.Tensor:
    """Standard normal with ripples that no polynomial follows; symmetric about 0."""
    return (-0.5 * points**2 + 0.5 * torch.cos(12 * points)).sum(1)


def symmetric(points: torch.Tensor) -> torch.Tensor:
    """Standard normal."""
    return -0.5 * (points**2).sum(1)


def run(
    density,
    num_dimensions: int,
    *,
    num_draws: int = 1000,
    num_warmup: int = 100,
    signed: bool = False,
    seed: int = 0,
    held: torch.Tensor | None = None,
) -> tuple[State, torch.Tensor, dict[str, np.ndarray]]:
    def value_and_gradient(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        points = points.detach().requires_grad_()
        value = density(points)
        (gradient,) = torch.autograd.grad(value.sum(), points)
        return value.detach(), gradient

    sampler = HMC(
        density,
        value_and_gradient,
        num_warmup=num_warmup,
        signed=torch.full((num_dimensions,), signed),
        held=held,
    )
    sampler.may_use_surrogate &= held is None
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(4, num_dimensions, generator=generator, dtype=torch.float64)
    state = sampler.start(points, torch.eye(num_dimensions, dtype=torch.float64), generator)
    for _ in range(num_warmup + num_draws):
        sampler.advance(state)
    return state, *stacked(state, num_draws)


def assert_mean(draws: torch.Tensor, expected: float) -> None:
    """The mean of draws (C, N) is the expected one up to Monte Carlo error."""
    array = draws.numpy()
    ess = float(array_stats.ess(array, chain_axis=0, draw_axis=1, method="mean"))
    assert abs(array.mean() - expected) < SIGMAS * array.std() / np.sqrt(ess)


def test_moments_of_a_correlated_gaussian():
    _, points, _ = run(gaussian, 3)
    gap = points - CENTER
    for i in range(3):
        assert_mean(gap[..., i], 0.0)
        for j in range(i + 1):
            assert_mean(gap[..., i] * gap[..., j], float(CORRELATION[i, j]))


def test_moments_of_a_skewed_target_on_the_surrogate():
    _, points, stats = run(skewed, 4)
    assert stats["on_surrogate"].all()
    for i in range(4):
        assert_mean(points[..., i].exp(), 3.0)  # the mean of Gamma(3, 1)
        assert_mean(points[..., i].exp() ** 2, 12.0)
        assert_mean((-points[..., i]).exp(), 0.5)


def test_a_surrogate_that_does_not_serve_is_left_for_exact_gradients(monkeypatch):
    fit = Surrogate.fit

    def backwards(*args: np.ndarray) -> Surrogate | None:
        """Forces that drive the chains out of the posterior."""
        surrogate = fit(*args)
        if surrogate is None:
            return None
        fields = {name: getattr(surrogate, name) for name in surrogate.__dataclass_fields__}
        fields["coefficients"] = -20 * fields["coefficients"]
        return Surrogate(**fields)

    monkeypatch.setattr(Surrogate, "fit", backwards)
    _, points, stats = run(gaussian, 3)
    assert not stats["on_surrogate"].any()
    for i in range(3):
        assert_mean(points[..., i], float(CENTER[i]))
        assert_mean((points[..., i] - CENTER[i]) ** 2, float(CORRELATION[i, i]))


def test_a_trajectory_that_runs_away_is_rejected_in_silence(monkeypatch):
    fit = Surrogate.fit
    largest = [0.0]

    def explosive(*args: np.ndarray) -> Surrogate | None:
        surrogate = fit(*args)
        if surrogate is None:
            return None
        fields = {name: getattr(surrogate, name) for name in surrogate.__dataclass_fields__}
        return Surrogate(**fields | {"coefficients": 1e20 * fields["coefficients"]})

    def watched(points: torch.Tensor) -> torch.Tensor:
        largest[0] = max(largest[0], float(points.detach().abs().nan_to_num(nan=torch.inf).max()))
        return symmetric(points)

    monkeypatch.setattr(Surrogate, "fit", explosive)
    _, points, stats = run(watched, 2, signed=True)
    assert largest[0] > 1e160  # its square overflows
    assert not stats["on_surrogate"].any()
    for i in range(2):
        assert_mean(points[..., i] ** 2, 1.0)


def test_a_poor_surrogate_costs_acceptance_and_not_correctness(monkeypatch):
    # kept on purpose: a field of forces may be anything, only the acceptance test sees the density
    monkeypatch.setattr(module, "SURROGATE_ACCEPTANCE", 0.0)
    _, points, stats = run(rough, 2, num_draws=2000)
    assert stats["on_surrogate"].all()
    grid = torch.linspace(-10, 10, 200_001, dtype=torch.float64)[:, None]
    weight = rough(grid).exp()
    for moment in (2, 4):
        expected = float((weight * grid[:, 0] ** moment).sum() / weight.sum())
        for i in range(2):
            assert_mean(points[..., i] ** moment, expected)


@pytest.mark.parametrize("density", [gaussian, skewed], ids=["gaussian", "skewed"])
def test_nothing_adapts_after_warmup(density):
    short, first, _ = run(density, 3, num_draws=5)
    long, second, _ = run(density, 3, num_draws=50)
    torch.testing.assert_close(first, second[:, :5], rtol=0, atol=0)
    torch.testing.assert_close(short.root, long.root, rtol=0, atol=0)
    assert short.step.step_size == long.step.step_size
    assert not long.history and not long.window


def test_the_surrogate_finds_a_field_of_its_own_form():
    # forces of N(0, 1) restricted to polynomials of degree 1: recovered up to the ridge
    points = np.random.default_rng(0).normal(size=(200, 2))
    surrogate = Surrogate.fit(points, -points, np.ones(200), np.zeros(2, dtype=bool))
    assert surrogate is not None
    np.testing.assert_allclose(surrogate.gradient(points), -points, rtol=0, atol=1e-5)


def test_the_surrogate_stays_as_it_is_beyond_what_it_has_seen():
    points = np.linspace(-1, 1, 60)[:, None]
    surrogate = Surrogate.fit(points, -(points**3), np.ones(60), np.zeros(1, dtype=bool))
    assert surrogate is not None
    edge, beyond = surrogate.gradient(np.array([[1.0], [50.0]]))
    np.testing.assert_allclose(beyond, edge)


def test_many_coordinates_follow_exact_gradients():
    state, _, stats = run(skewed, MOST_COORDINATES + 1, num_draws=4, num_warmup=20)
    assert not stats["on_surrogate"].any()
    assert not state.history


def test_too_few_points_make_no_surrogate():
    points = np.zeros((10, 3))
    assert Surrogate.fit(points, points, np.ones(10), np.zeros(3, dtype=bool)) is None


def test_held_coordinates_stay_and_the_others_follow_their_conditional():
    """The first of three normal coordinates is held: the others have their distribution given it."""
    held = torch.tensor([True, False, False])
    state, points, _ = run(gaussian, 3, held=held)
    start = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(points[..., 0], start[:, None, 0].expand(points.shape[:2]))
    slope = CORRELATION[1:, 0] / CORRELATION[0, 0]
    rest = points[..., 1:] - CENTER[1:] - (points[..., :1] - CENTER[0]) * slope
    variance = (CORRELATION[1:, 1:] - torch.outer(slope, CORRELATION[0, 1:])).diagonal().numpy()
    for d in (0, 1):
        values = rest[..., d].numpy()
        for found, expected in ((values, 0.0), (values**2, variance[d])):
            ess = float(array_stats.ess(found, chain_axis=0, draw_axis=1, method="mean"))
            assert abs(found.mean() - expected) < SIGMAS * found.std() / np.sqrt(ess)
    assert not state.root[0].any() and not state.root[:, 0].any()


def test_all_coordinates_may_be_held():
    state, points, _ = run(gaussian, 3, held=torch.ones(3, dtype=torch.bool), num_draws=4, num_warmup=20)
    assert torch.equal(points[:, 0], points[:, -1]) and state.iteration == 24
