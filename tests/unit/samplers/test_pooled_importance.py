"""Importance sampling whose rounds are pooled, and the coordinates that it works in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import bayesmtl as bm
from bayesmtl.posteriors.functions.noise_coordinates import Centred
from bayesmtl.samplers.importance import ENOUGH, ENOUGH_POINTS, Proposal, pooled_sample


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
    sample = pooled_sample(_Known(), first, 4000, 16_000, np.random.default_rng(0))
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


def test_proposals_on_one_side_can_be_compared():
    """`log_size` makes every proposal a density on its side: it integrates to 1 over a fine lattice."""
    signed = torch.tensor([True, False])
    x = torch.linspace(0.0, 12.0, 601, dtype=torch.float64)
    y = torch.linspace(-12.0, 12.0, 601, dtype=torch.float64)
    lattice = torch.cartesian_prod(x, y)
    cell = float((x[1] - x[0]) * (y[1] - y[0]))
    sizes = []
    for center, width in (([0.2, 0.0], 1.0), ([2.0, 0.5], 0.6)):
        point = torch.tensor(center, dtype=torch.float64)
        proposal = Proposal(point, width * torch.eye(2, dtype=torch.float64), signed, point)
        log_density = proposal.log_density(lattice) - proposal.log_size(np.random.default_rng(0))
        sizes.append(float(log_density.exp().sum()) * cell)
    # up to one constant, the same for both; the share on the right side is known to a percent
    np.testing.assert_allclose(sizes[0], sizes[1], rtol=0.03)


def problem(noise):
    rng = np.random.default_rng(0)
    data = bm.TaskData.from_arrays(rng.normal(size=(18, 1)), rng.normal(size=18), list("abc") * 6)
    return bm.MultitaskGP(likelihood=bm.Gaussian(noise))._posterior(data)


def test_centred_coordinates_are_a_change_of_variables():
    """There and back is the identity; the density gains the Jacobian's logarithm."""
    target = problem("task")
    density = Centred(target)
    points = target.space.initial(np.random.default_rng(1), 3) + 0.3
    there = density.there(points)
    np.testing.assert_allclose(density.back(there), points, rtol=1e-12)
    jacobian = torch.autograd.functional.jacobian(lambda u: density.back(u[None])[0], there[0])
    expected = target.value(points)[0] + torch.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(density.value(there)[0], expected, rtol=1e-12)
    value, gradient = density.value_and_gradient(there)
    np.testing.assert_allclose(value, density.value(there), rtol=1e-12)
    h = 1e-5
    steps = h * torch.eye(there.shape[1], dtype=torch.float64)
    differences = [(density.value(there + e) - density.value(there - e)) / (2 * h) for e in steps]
    np.testing.assert_allclose(gradient, torch.stack(differences, dim=1), rtol=1e-5, atol=1e-6)
    names = [p.name for p in target.space.parameters for _ in range(p.size)]
    assert not density.signed[names.index("noise_spread")]


def test_centred_coordinates_without_noise_per_task_are_the_targets_own():
    target = problem("shared")
    density = Centred(target)
    points = target.space.initial(np.random.default_rng(1), 3)
    assert torch.equal(density.there(points), points) and torch.equal(density.back(points), points)
    np.testing.assert_allclose(density.value(points), target.value(points))
    assert torch.equal(density.signed, target.space.signed())
