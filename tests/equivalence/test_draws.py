"""Exact draws of Z, W and factor coordinates follow the closed form; densities given Z equal the dense ones.

False alarms: every test compares K means and K (K + 1) / 2 covariances of N independent Gaussian draws with
their expectation, each within the normal quantile of probability 1e-6 / (number of comparisons): a test fails
by chance with probability 1e-6, all of them together with less than 1e-4. Seeds are fixed.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from bayesmtl.algebra.conditional import draw_posterior, draw_weights, log_likelihood_given_basis
from tests.equivalence import dense
from tests.equivalence.inputs import NOISES, ROWS, STRUCTURES, compress, make_noise, make_structure
from tests.seeds import seeded

FALSE_ALARM = 1e-6
NUM_DRAWS = 20_000
ROUNDING = 1e-7  # of a quantity that has no spread at all, such as E where there is none


def assert_draws_follow(draws: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor) -> None:
    """Means and covariances of independent Gaussian draws (N, K) are those given."""
    N, K = draws.shape
    variance = covariance.diagonal().clamp(min=0.0)
    limit = float(stats.norm.isf(FALSE_ALARM / (K + K * (K + 1)) / 2))
    mean_error = (draws.mean(0) - mean).abs()
    assert (mean_error <= limit * (variance / N).sqrt() + ROUNDING).all()
    centred = draws - mean
    sample = centred.T @ centred / N
    spread = ((torch.outer(variance, variance) + covariance**2) / N).sqrt()
    # a product of normals has heavier tails than a normal: a quarter more for N = 20,000 and 5 to 6 sigma
    assert ((sample - covariance).abs() <= 1.25 * limit * spread + ROUNDING).all()


@pytest.mark.parametrize("rows", ["mixed sizes", "rank deficient", "fewer rows than features"])
@pytest.mark.parametrize(
    "structure", [name for name in STRUCTURES if name != "A none, scale none, factor none"]
)
def test_draws_of_basis_and_weights(structure, rows):
    data = ROWS[rows]
    one = make_structure(*STRUCTURES[structure], batch=1)
    noise = make_noise("task", batch=1)
    many, many_noise = one.repeat(NUM_DRAWS), noise.expand(NUM_DRAWS, -1)
    rng, tasks = np.random.default_rng(seeded(1)), compress(data)
    drawn = draw_posterior(tasks, many, many_noise, rng)
    basis = drawn.basis

    mean, covariance = dense.posterior_of_weights(one, noise, 0, data)
    assert_draws_follow(drawn.weights.flatten(1), mean, covariance)
    if one.basis_scale is not None:
        size = one.basis_scale[0].numel()
        mean, covariance = dense.posterior(one, noise, 0, data)
        assert_draws_follow(basis.flatten(1), mean[:size], covariance[:size, :size])
    if one.residual_factor is not None:
        mean, covariance = dense.posterior_of_factors(one, noise, 0, data)
        assert_draws_follow(drawn.factors.flatten(1), mean, covariance)


def test_weights_and_basis_are_drawn_jointly():
    # W = A Z + E: with E = 0 every draw of W is the draw of Z
    data, one = ROWS["plain"], make_structure("ones", "none", "none", batch=1)
    noise, tasks = make_noise("shared", batch=1), compress(data)
    rng = np.random.default_rng(seeded(2))
    drawn = draw_posterior(tasks, one, noise, rng)
    torch.testing.assert_close(drawn.weights, drawn.basis.expand(-1, 4, -1), rtol=0, atol=0)


@pytest.mark.parametrize("scale", ["zero", "one zero"])
def test_scales_exactly_zero_leave_nothing_private(scale):
    data, one = ROWS["plain"], make_structure("ones", "shared", "none", batch=1)
    one.residual_scale[..., slice(None) if scale == "zero" else slice(1, 2)] = 0.0
    noise, tasks = make_noise("shared", batch=1), compress(data)
    rng = np.random.default_rng(seeded(3))
    drawn = draw_posterior(tasks, one, noise, rng)
    private = drawn.weights - drawn.basis
    assert (private[..., 1] == 0).all()
    assert bool((private == 0).all()) == (scale == "zero")


def test_a_task_without_rows_follows_the_prior():
    # given Z, its weights are N(A Z, S): mean and covariance from the prior alone
    data, one = ROWS["a task without rows"], make_structure("ones", "shared", "some", batch=1)
    noise, tasks = make_noise("shared", batch=1), compress(data)
    rng = np.random.default_rng(seeded(4))
    z = draw_posterior(tasks, one, noise, rng).basis
    drawn = draw_weights(
        tasks,
        one.repeat(NUM_DRAWS),
        noise.expand(NUM_DRAWS, -1),
        z.expand(NUM_DRAWS, -1, -1).contiguous(),
        rng,
    )
    assert_draws_follow(drawn.weights[:, 1], z[0, 0], dense.residual_covariance(one, 0, 1, 3))


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("rows", ["mixed sizes", "rank deficient"])
def test_density_given_basis_equals_dense(rows, structure, noise):
    data, filled, sigma = ROWS[rows], make_structure(*STRUCTURES[structure]), make_noise(noise)
    R = 0 if filled.basis_scale is None else filled.basis_scale.shape[1]
    basis = torch.from_numpy(np.random.default_rng(seeded(5)).normal(size=(2, R, 3)))
    value = log_likelihood_given_basis(compress(data), filled, sigma, basis)
    expected = dense.log_likelihood_given_basis(filled, sigma, basis, data)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
