"""Coordinates in which a rotation of the loadings does not matter: a change of variables, tested as such."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import bayesmtl as bm
from bayesmtl.posteriors.functions.rotation_coordinates import Turned

TASKS = 4


def target(rank):
    rng = np.random.default_rng(0)
    data = bm.TaskData.from_arrays(rng.normal(size=(16, 1)), rng.normal(size=16), list("abcd") * 4)
    return bm.MultitaskGP(sharing=bm.LowRank(rank))._posterior(data)


def turned(rank):
    density = target(rank)
    points = density.space.initial(np.random.default_rng(1), 5) + 0.3
    loadings, start = density.space.place("loadings")
    return density, points, Turned.around(density, loadings, start, points[0])


@pytest.mark.parametrize("rank", [2, 3])
def test_there_and_back_keeps_what_the_data_can_know(rank):
    """Fewer coordinates, the same covariance of tasks, and everything else as it was."""
    density, points, coordinates = turned(rank)
    there = coordinates.there(points)
    assert there.shape[1] == points.shape[1] - rank * (rank - 1) // 2
    back = coordinates.back(there, np.random.default_rng(2))
    one, other = (density.structure(density.space.constrain(p)).shape for p in (points, back))
    np.testing.assert_allclose(other, one, atol=1e-12)
    _, start = density.space.place("loadings")
    others = np.setdiff1d(np.arange(points.shape[1]), start + np.arange(rank * TASKS))
    assert torch.equal(back[:, others], points[:, others])
    _, values = density.space.log_prior(back)
    np.testing.assert_allclose(
        density.log_marginal(values, 5), density.log_marginal(density.space.constrain(points), 5)
    )


@pytest.mark.parametrize("rank", [2, 3])
def test_the_gradient_is_that_of_the_density(rank):
    _, points, coordinates = turned(rank)
    there = coordinates.there(points)[:1]
    value, gradient = coordinates.value_and_gradient(there)
    np.testing.assert_allclose(value, coordinates.value(there), rtol=1e-12)
    h = 1e-5
    steps = h * torch.eye(there.shape[1], dtype=torch.float64)
    differences = [(coordinates.value(there + e) - coordinates.value(there - e)) / (2 * h) for e in steps]
    np.testing.assert_allclose(gradient, torch.stack(differences, dim=1), rtol=1e-5, atol=1e-6)


def test_the_triangle_has_the_density_that_loadings_give_it():
    """Loadings from the prior, turned: E of the triangle's functions by integration against the new density.

    The likelihood is left out (no weight on the rows). Importance weights of triangles from a wide normal
    proposal must give the mean of u_11, of u_22 and of |u_12| that 200,000 loadings from the prior have; the
    wrong volume element would change the first by a fifth. Standard errors are near .01 with over 10,000
    effective points, the limit is five of them. Heavy tails: means are of tanh.
    """
    density = target(2)
    parameter, _ = density.space.place("loadings")
    pair = type(parameter)("loadings", (2, 2), parameter.prior, "real")

    class Prior:
        def value(self, points):
            return pair.prior.log_prob(points.reshape(-1, 2, 2)).sum(-1)

    coordinates = Turned.around(Prior(), pair, 0, torch.tensor([2.0, 0.1, 0.1, 1.0], dtype=torch.float64))
    rng = np.random.default_rng(3)
    drawn = torch.from_numpy(pair.prior.sample(rng, (200_000, 2, 2)))
    expected = torch.tanh(coordinates.there(drawn.flatten(1)).abs()).mean(0)
    x = 3.0 * torch.from_numpy(rng.standard_t(2, size=(200_000, 3)))
    log_q = -1.5 * torch.log1p((x / 3.0) ** 2 / 2).sum(1)
    weights = torch.softmax(coordinates.value(x) - log_q, 0)
    assert 1 / float((weights**2).sum()) > 10_000
    np.testing.assert_allclose(weights @ torch.tanh(x.abs()), expected, atol=0.02)


def test_rotations_are_drawn_in_proportion_to_their_prior():
    """Over draws from the prior, going there and back leaves the distribution of the first loading as it is.

    20,000 draws: the standard error of the mean of tanh |a| is .002, the limit is five of two such means.
    """
    density = target(2)
    parameter, _ = density.space.place("loadings")
    pair = type(parameter)("loadings", (2, TASKS), parameter.prior, "real")
    coordinates = Turned.around(density, pair, 0, torch.ones(8, dtype=torch.float64))
    rng = np.random.default_rng(4)
    drawn = torch.from_numpy(pair.prior.sample(rng, (20_000, 2, TASKS))).flatten(1)
    back = coordinates.back(coordinates.there(drawn), rng)

    def sizes(points):
        rows = points.reshape(-1, 2, TASKS).norm(dim=2)
        return float(torch.tanh(0.5 * (rows.amax(1) / rows.amin(1) - 1)).mean())

    assert abs(sizes(back) - sizes(drawn)) < 0.015
    # a rotation drawn blindly would be seen
    blind = coordinates.rotations[rng.integers(len(coordinates.rotations), size=len(drawn))]
    assert abs(sizes((blind @ back.reshape(-1, 2, TASKS)).flatten(1)) - sizes(drawn)) > 0.03


def test_functions_with_kernels_of_their_own_have_no_rotation():
    rng = np.random.default_rng(0)
    data = bm.TaskData.from_arrays(rng.normal(size=(16, 1)), rng.normal(size=16), list("abcd") * 4)
    own = bm.MultitaskGP(sharing=bm.LowRank(2), kernel=(bm.kernels.Matern(), bm.kernels.Matern()))
    assert own._posterior(data).turning is None
    assert target(1).turning is None and target(2).turning == "loadings"
    assert bm.MultitaskGP(sharing=bm.TaskCovariance())._posterior(data).turning is None
