"""Complete grids with the kernel held: density, gradient and mode are those of the whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import bayesmtl as bm
from bayesmtl.algebra.functions import TaskStructure
from bayesmtl.algebra.kronecker import decompose_inputs
from bayesmtl.algebra.kronecker_fixed_kernel import HeldGrid, TaskSlopes, expected_information
from bayesmtl.posteriors.functions import grid as grids
from bayesmtl.posteriors.functions.posterior import FunctionPosterior
from bayesmtl.samplers.modes import find_modes, highest
from bayesmtl.samplers.nested import climb_nested, search_nested
from tests.seeds import seeded


def grid(m: int, T: int) -> bm.TaskData:
    """Shifted and mirrored sines of two inputs, with noise."""
    rng = np.random.default_rng(seeded(0))
    X = rng.uniform(-2, 2, size=(m, 2))
    Y = np.outer(np.sin(2 * X[:, 0]) + X[:, 1], rng.normal(size=T)) + 0.3 * rng.normal(size=(m, T))
    return bm.TaskData.from_wide(X, Y + rng.normal(size=T), [f"task {t}" for t in range(T)])


def problem(sharing: bm.sharing.Sharing, m: int = 20, T: int = 4, noise: str = "shared") -> FunctionPosterior:
    return bm.MultitaskGP(sharing=sharing, likelihood=bm.Gaussian(noise))._posterior(grid(m, T))


@pytest.mark.parametrize("sharing", [bm.Hierarchical(), bm.LowRank(2), bm.TaskCovariance()], ids=repr)
@pytest.mark.parametrize("noise", ["shared", "task"])
def test_held_density_and_gradient_are_those_of_the_whole(sharing, noise):
    whole = problem(sharing, noise=noise)
    H = whole.num_held
    assert H == 2
    point = whole.space.initial(np.random.default_rng(seeded(1)), 1)
    value, gradient = whole.value_and_gradient(point)
    held = whole.held(point[0, :H])
    ours, slopes = held.value_and_gradient(point[:, H:])
    np.testing.assert_allclose(ours, value, rtol=1e-10)
    np.testing.assert_allclose(held.value(point[:, H:]), value, rtol=1e-10)
    np.testing.assert_allclose(slopes, gradient[:, H:], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("sharing", [bm.Hierarchical(), bm.LowRank(2)], ids=repr)
def test_the_gradient_in_all_coordinates_needs_no_second_decomposition(sharing):
    whole = problem(sharing, noise="task")
    point = whole.space.initial(np.random.default_rng(seeded(1)), 1)
    value, gradient = whole.value_and_gradient(point)
    held = whole.held(point[0, :2])
    for _ in range(2):  # the kernel's graph is still there
        ours, slopes = held.whole(point[0, 2:])
        np.testing.assert_allclose(ours, value, rtol=1e-12)
        np.testing.assert_allclose(slopes, gradient, rtol=1e-9, atol=1e-9)


def symmetric(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    half = torch.from_numpy(rng.normal(size=shape))
    return half + half.mT


@pytest.mark.parametrize("of", ["functions and noise", "levels"])
def test_expected_information_is_that_of_all_cells(of):
    """tr(K^-1 dK/di K^-1 dK/dj) / 2, with K of all cells written out."""
    rng = np.random.default_rng(seeded(0))
    m, T, R = 6, 3, 4
    root, loadings = rng.normal(size=(m, m)), rng.normal(size=(T, T))
    kernel, shape = torch.from_numpy(root @ root.T), torch.from_numpy(loadings @ loadings.T)
    noise = torch.from_numpy(rng.uniform(0.5, 1.5, size=(1, T)))
    slopes = TaskSlopes(
        symmetric(rng, R, T, T), symmetric(rng, R, T, T), torch.from_numpy(rng.normal(size=(R, T)))
    )
    level = torch.eye(T, dtype=torch.float64) + 0.5
    if of == "levels":
        slopes = slopes._replace(shape=0 * slopes.shape, variance=0 * slopes.variance)
    else:
        slopes, level = slopes._replace(level=0 * slopes.level), 0 * level
    eye, ones = torch.eye(m, dtype=torch.float64), torch.ones(m, m, dtype=torch.float64)

    def cells(shape: torch.Tensor, level: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
        return torch.kron(kernel, shape) + torch.kron(ones, level) + torch.kron(eye, torch.diag(variance))

    K = cells(shape, level, noise[0].square())
    parts = torch.stack([torch.linalg.solve(K, cells(*(s[i] for s in slopes))) for i in range(R)])
    expected = 0.5 * torch.einsum("iab,jba->ij", parts, parts)
    grid = HeldGrid.of(*decompose_inputs(kernel[None]), torch.zeros(m, T, dtype=torch.float64))
    found = expected_information(TaskStructure(shape[None, None], level[None]), noise, slopes, grid)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_information_is_about_the_coordinates_and_counts_weighted_rows():
    """Where all functions are zero the logarithm of the noise scale has 2 for every row."""
    known = bm.LowRank(1, scale=bm.Fixed(0.0), strength=1.0)
    whole = problem(known, m=12)
    point = whole.space.initial(np.random.default_rng(seeded(1)), 1)[0]
    point[2:-1] = 0.0
    weighted = replace(whole, weight=3.0)
    information = weighted.held(point[:2]).information(point[2:])
    assert float(information[-1, -1]) == pytest.approx(3 * 2 * len(whole.y), rel=1e-3)  # differenced


def test_the_mode_is_the_same():
    """That of L-BFGS over all coordinates together, to what slopes of .005 leave open."""
    whole = problem(bm.Hierarchical())
    starts = whole.space.initial(np.random.default_rng(seeded(0)), 2)
    together = highest(find_modes(whole, starts))
    nested = climb_nested(whole, starts[0], 0.1 * torch.eye(2, dtype=torch.float64)).mode
    assert together.converged and nested.converged
    assert abs(nested.value - together.value) < 1e-4
    np.testing.assert_allclose(nested.point.abs(), together.point.abs(), atol=0.02)


def test_loadings_that_turn_freely_are_found_from_afar():
    whole = problem(bm.LowRank(2))
    together = highest(find_modes(whole, whole.space.initial(np.random.default_rng(seeded(0)), 2)))
    start = together.point + torch.from_numpy(
        np.random.default_rng(seeded(0)).uniform(-1, 1, len(together.point))
    )
    assert float(whole.value(start[None])) < together.value - 50
    nested = climb_nested(whole, start, 0.1 * torch.eye(2, dtype=torch.float64)).mode
    assert nested.converged and nested.value > together.value - 1e-4


def test_the_curvature_that_the_search_learns_is_that_of_the_best_density():
    """Within a factor of two on both axes: it is a first guess for further data."""
    whole = problem(bm.Hierarchical())
    start = whole.space.initial(np.random.default_rng(seeded(0)), 1)[0]
    found = climb_nested(whole, start, 0.1 * torch.eye(2, dtype=torch.float64))
    steps = 1e-4 * torch.eye(whole.space.size, dtype=torch.float64)
    hessian = torch.stack(
        [
            (whole.value_and_gradient(p[None])[1][0] - whole.value_and_gradient(q[None])[1][0]) / 2e-4
            for p, q in zip(found.mode.point + steps, found.mode.point - steps, strict=True)
        ]
    )
    expected = torch.linalg.inv(-hessian)[:2, :2]
    ratio = torch.linalg.eigvals(torch.linalg.solve(expected, found.root @ found.root.T)).real
    assert 0.25 < float(ratio.min()) and float(ratio.max()) < 4


def test_a_part_of_the_inputs_leads_to_the_same_mode(monkeypatch):
    monkeypatch.setattr(grids, "_LARGE_GRID", 30)
    monkeypatch.setattr(grids, "_SMALL_GRID", 20)
    whole = problem(bm.Hierarchical(), m=40)
    rng = np.random.default_rng(seeded(0))
    reduced = whole.reduced(rng)
    assert reduced is not None and reduced.num_held == 2
    starts = whole.space.initial(rng, 2)
    modes = search_nested(whole, reduced, starts, 0.1)
    together = highest(find_modes(whole, starts))
    assert highest(modes).converged and abs(highest(modes).value - together.value) < 1e-4


def test_nothing_is_held_where_cells_are_missing_or_the_kernel_is_known():
    data = grid(20, 4)
    y = data.y.copy()
    y[3] = np.nan
    assert bm.MultitaskGP()._posterior(bm.TaskData.from_arrays(data.X, y, data.task)).num_held == 0
    known = bm.MultitaskGP(kernel=bm.Matern(lengthscale=bm.Fixed(1.0)))
    assert known._posterior(data).num_held == 0


def test_a_kernel_that_is_not_finite_has_no_density():
    whole = problem(bm.Hierarchical())
    point = whole.space.initial(np.random.default_rng(seeded(1)), 1)
    value, slopes = whole.held(torch.tensor([-2000.0, 0.0], dtype=torch.float64)).value_and_gradient(
        point[:, 2:]
    )
    assert float(value[0]) == -np.inf and not slopes.any()
