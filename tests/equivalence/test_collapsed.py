"""The collapsed density and its analytic gradients equal the dense normal density and automatic ones.

Tolerances. Both sides work in double precision on numbers of size 1 to 1e3, so 1e-9 relative is rounding
with room to spare for benign inputs. The statistics X'X square the condition number of X: directions that are
1e5 times weaker than others keep about 6 of 16 digits there, so hard inputs have a tolerance of their own,
written where they are listed.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bayesmtl.algebra.collapsed import log_marginal
from bayesmtl.algebra.statistics import TaskStatistics
from bayesmtl.algebra.structure import Structure
from tests.equivalence import dense, precise
from tests.equivalence.dense import Rows
from tests.equivalence.inputs import (
    NOISES,
    ROWS,
    STRUCTURES,
    compress,
    make_noise,
    make_rows,
    make_structure,
    statistics,
)

TOLERANCE = 1e-9
# relative to the value; gradients relative to the largest entry of their array
HARD_TOLERANCE = {"near-duplicate columns": 1e-6, "feature scales 1e-2 to 1e2": 1e-5}
FIELDS = ("loadings", "basis_scale", "residual_scale", "residual_factor")


def value_and_gradients(
    function, structure: Structure, noise: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    leaves = {name: getattr(structure, name) for name in FIELDS}
    leaves = {name: v.clone().requires_grad_() for name, v in leaves.items() if v is not None}
    noise = noise.clone().requires_grad_()
    value = function(Structure(**leaves), noise)
    inputs = {**leaves, "noise": noise}
    # a weighted sum, so that a gradient that mixed up the batch would show
    weights = torch.arange(1.0, len(value) + 1, dtype=value.dtype)
    gradients = torch.autograd.grad((weights * value).sum(), list(inputs.values()))
    return value.detach(), dict(zip(inputs, gradients, strict=True))


def assert_equals_dense(rows: Rows, structure: Structure, noise: torch.Tensor, tolerance: float) -> None:
    tasks = compress(rows)
    value, gradients = value_and_gradients(lambda s, e: log_marginal(tasks, s, e), structure, noise)
    expected, expected_gradients = value_and_gradients(
        lambda s, e: dense.log_marginal(s, e, rows), structure, noise
    )
    scale = expected.abs().clamp(min=1.0)
    assert ((value - expected).abs() / scale).max() < tolerance
    for name, gradient in gradients.items():
        size = expected_gradients[name].abs().max().clamp(min=1.0)
        error = (gradient - expected_gradients[name]).abs().max() / size
        assert error < tolerance, f"gradient of {name}: relative error {error:.1e}"


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_structure_equals_dense(structure, noise):
    assert_equals_dense(
        ROWS["mixed sizes"], make_structure(*STRUCTURES[structure]), make_noise(noise), TOLERANCE
    )


@pytest.mark.parametrize(
    "structure",
    [
        "A none, scale task, factor none",
        "A ones, scale none, factor none",
        "A ones, scale shared, factor none",
        "A ones, scale none, factor some",
        "A general, scale task, factor some",
        "A own, scale none, factor none",
    ],
)
@pytest.mark.parametrize("rows", ROWS)
def test_every_input_equals_dense(rows, structure):
    tolerance = HARD_TOLERANCE.get(rows, TOLERANCE)
    assert_equals_dense(ROWS[rows], make_structure(*STRUCTURES[structure]), make_noise("task"), tolerance)


@pytest.mark.parametrize(
    ("sigma", "rows", "tolerance"),
    [(1e-3, "plain", 1e-9), (1e-6, "plain", 1e-9), (1e-3, "near-duplicate columns", 1e-4)],
)
def test_tiny_noise(sigma, rows, tolerance):
    # here the dense form fails in double precision (cond C up to 1e13), so the oracle has 60 digits; what is
    # left of the collapsed form's error is that of X'X, relative 1e-16 times the conditioning of X squared.
    # (Near-duplicate columns and noise of 1e-6 together are beyond X'X: relative error 6e-7 of the value.)
    structure = make_structure("ones", "shared", "none", batch=1)
    noise = torch.full((1, 1), sigma, dtype=torch.float64)
    tasks = compress(ROWS[rows])
    value, gradients = value_and_gradients(lambda s, e: log_marginal(tasks, s, e), structure, noise)
    expected, expected_gradients = precise.log_marginal(structure, sigma, 0, ROWS[rows])
    assert value.item() == pytest.approx(expected, rel=1e-9)
    for name, expected in expected_gradients.items():
        torch.testing.assert_close(gradients[name].flatten(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("structure", [name for name in STRUCTURES if "scale none" not in name])
def test_scales_exactly_zero(structure, noise):
    # density and gradient are smooth there, which is why scales can live on the signed line
    zero = make_structure(*STRUCTURES[structure])
    zero.residual_scale[:, :, 1] = 0.0
    assert_equals_dense(ROWS["mixed sizes"], zero, make_noise(noise), TOLERANCE)
    zero.residual_scale[:] = 0.0
    assert_equals_dense(ROWS["mixed sizes"], zero, make_noise(noise), TOLERANCE)


def test_a_factor_of_zero():
    structure = make_structure("ones", "shared", "some")
    structure.residual_factor[:] = 0.0
    assert_equals_dense(ROWS["plain"], structure, make_noise("shared"), TOLERANCE)


def test_the_sign_of_a_scale_does_not_matter():
    structure, tasks = make_structure("ones", "task", "some"), compress(ROWS["plain"])
    turned = Structure(
        structure.loadings, -structure.basis_scale, -structure.residual_scale, -structure.residual_factor
    )
    noise = make_noise("task")
    torch.testing.assert_close(
        log_marginal(tasks, structure, noise), log_marginal(tasks, turned, noise), rtol=1e-13, atol=0
    )


def test_statistics_add_over_chunks():
    # sums of 50 products in another order: rounding only
    rows = make_rows([10, 0, 15, 25], seed=12)
    whole = statistics(rows)
    cuts = [0, 7, 8, 30, 50]
    total = TaskStatistics.empty(4, 3)
    for first, last in zip(cuts[:-1], cuts[1:], strict=True):
        part = slice(first, last)
        task = np.array(rows.task[part])
        total = total + TaskStatistics.from_rows(rows.X[part].numpy(), rows.y[part].numpy(), task, 4)
    for name in ("gram", "cross", "square", "count"):
        np.testing.assert_allclose(getattr(total, name), getattr(whole, name), rtol=1e-12, atol=1e-12)
    structure, noise = make_structure("ones", "shared", "none"), make_noise("task")
    torch.testing.assert_close(
        log_marginal(total.compress(), structure, noise),
        log_marginal(whole.compress(), structure, noise),
        rtol=1e-11,
        atol=0,
    )


def test_missing_targets_do_not_count():
    rows = ROWS["plain"]
    y = rows.y.numpy().copy()
    y[::3] = np.nan
    kept = ~np.isnan(y)
    task = np.array(rows.task)
    whole = TaskStatistics.from_rows(rows.X.numpy(), y, task, 4)
    observed = TaskStatistics.from_rows(rows.X.numpy()[kept], y[kept], task[kept], 4)
    for name in ("gram", "cross", "square", "count"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(observed, name))


def test_rows_in_any_order_and_relabelled_tasks():
    rows = ROWS["mixed sizes"]
    rng = np.random.default_rng(0)
    order, names = rng.permutation(len(rows.task)), np.array([2, 0, 3, 1])
    structure, noise = make_structure("general", "task", "some"), make_noise("task")
    task = names[np.array(rows.task)][order]
    shuffled = TaskStatistics.from_rows(rows.X.numpy()[order], rows.y.numpy()[order], task, 4).compress()
    back = np.argsort(names)
    renamed = Structure(
        structure.loadings[back],
        structure.basis_scale,
        structure.residual_scale[:, back],
        structure.residual_factor,
    )
    torch.testing.assert_close(
        log_marginal(shuffled, renamed, noise[:, back]),
        log_marginal(compress(rows), structure, noise),
        rtol=1e-11,
        atol=0,
    )
