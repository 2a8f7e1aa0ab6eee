"""Functions that are observed almost exactly, beside 60 digits: what double precision can say of them.

The covariance of the targets is as good as singular there: its condition number is about n / sigma^2. No
algorithm in double precision knows its inverse better than to the machine's precision times that number; the
decomposition of grids and the Cholesky factor of the rows are both as good as that, and differ by as much.
"""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch

from bayesmtl.algebra.functions import (
    DenseRows,
    TaskStructure,
    function_covariance,
    kernels_at_rows,
    log_marginal,
    marginal_covariance,
)
from bayesmtl.algebra.kronecker import GridRows, decompose, log_marginal_of_grid

M, T = 12, 2
EPS = np.finfo(float).eps


def log_density(K: mpmath.matrix, y: list[float]) -> mpmath.mpf:
    """log N(y; 0, K) in the precision at hand."""
    n, L = len(y), mpmath.cholesky(K)
    z: list[mpmath.mpf] = []
    for i in range(n):
        z.append((y[i] - sum(L[i, j] * z[j] for j in range(i))) / L[i, i])
    log_det = 2 * sum(mpmath.log(L[i, i]) for i in range(n))
    return -(log_det + sum(value**2 for value in z) + n * mpmath.log(2 * mpmath.pi)) / 2


@pytest.mark.parametrize("sigma", [1e-1, 1e-2, 1e-3, 1e-4])
def test_rounding_is_what_the_condition_number_allows(sigma):
    """Smooth kernel, rough targets. Both routes, relative to the density."""
    rng = np.random.default_rng(0)
    x = torch.linspace(-2, 2, M, dtype=torch.float64)
    k = torch.exp(-0.5 * (x[:, None] - x) ** 2)
    omega = torch.tensor([[1.0, -0.6], [-0.6, 0.8]], dtype=torch.float64)
    level = torch.tensor([[0.5, 0.3], [0.3, 0.5]], dtype=torch.float64)
    Y = torch.from_numpy(rng.normal(size=(M, T)))
    noise = torch.full((1, T), sigma, dtype=torch.float64)
    tasks = TaskStructure(omega[None, None], level[None])

    with mpmath.workdps(60):
        k_, omega_, level_ = (mpmath.matrix(part.tolist()) for part in (k, omega, level))
        K = mpmath.eye(M * T) * mpmath.mpf(sigma) ** 2
        for r in range(M * T):
            for c in range(M * T):
                K[r, c] += k_[r // T, c // T] * omega_[r % T, c % T] + level_[r % T, c % T]
        exact = log_density(K, Y.flatten().tolist())
        every = torch.ones(M, T, dtype=torch.bool)
        grid = log_marginal_of_grid(tasks, k[None], noise, Y, every)
        input_of_row = torch.arange(M).repeat_interleave(T)
        task_of_row = torch.arange(T).repeat(M)
        rows = log_marginal(tasks, k[None, None], noise, task_of_row, Y.flatten(), input_of_row)
        errors = [abs(float((mpmath.mpf(float(found)) - exact) / exact)) for found in (grid, rows)]
    condition = np.linalg.norm(np.array(K.tolist(), dtype=float), 2) / sigma**2
    assert max(errors) < EPS * condition / 5
    assert errors[0] < 1e-8


@pytest.mark.parametrize("sigma", [1e-2, 1e-3, 1e-4])
def test_tasks_that_are_all_but_the_same(sigma):
    """One latent function and levels: what is lost grows with 1 / sigma^2 as above, not with its square.

    Levels lie in directions in which tasks differ by nothing but noise, and cancel nearly all of its
    precision there. Beside the Cholesky factor of the rows.
    """
    x = torch.linspace(-2, 2, M, dtype=torch.float64)
    k = torch.exp(-0.5 * (x[:, None] - x) ** 2)[None]
    loading = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    shape = (torch.outer(loading, loading) + 1e-12 * torch.eye(3, dtype=torch.float64))[None, None]
    level = (1.0 + 0.5 * torch.eye(3, dtype=torch.float64))[None]
    noise = torch.full((1, 3), sigma, dtype=torch.float64)
    y = (torch.sin(2 * x)[:, None] * loading + torch.tensor([0.0, 1.0, -1.0]).double()).flatten()
    given = [part.requires_grad_() for part in (shape, level, noise)]
    tasks, positions = TaskStructure(shape, level), torch.arange(3 * M).reshape(M, 3)
    task, which = positions.flatten() % 3, positions.flatten() // 3
    allowed = 10 * EPS * 3 * M * 8 / sigma**2  # the norm of K is about that of its largest block

    grid = log_marginal_of_grid(tasks, k, noise, y.reshape(M, 3), positions >= 0)
    rows = log_marginal(tasks, k[:, None], noise, task, y, which)
    assert float((grid - rows).detach().abs() / rows.detach().abs()) < allowed
    slopes = (torch.autograd.grad(value, given) for value in (grid, rows))
    for ours, theirs in zip(*slopes, strict=True):
        assert float((ours - theirs).abs().max() / theirs.abs().max()) < allowed

    with torch.no_grad():
        kernel = kernels_at_rows(k[:, None], which)
        known = (
            GridRows.of(decompose(tasks, k, noise, positions >= 0), positions, y),
            DenseRows.of(marginal_covariance(tasks, kernel, noise, task), y),
        )
        prior = function_covariance(tasks, kernel, task, task)
        results = ((*rows.condition(prior, prior), *rows.leave_one_out(y)) for rows in known)
        for ours, theirs in zip(*results, strict=True):
            assert float((ours - theirs).abs().max()) < allowed
