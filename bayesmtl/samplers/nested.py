"""Modes where some coordinates are costly: a search over these, with one over the others inside it.

F(theta) = max over phi of log p(y, theta, phi) has the gradient that the density has in theta at the best
phi. On a complete grid one eigendecomposition serves the whole search over phi, so that a step over theta
costs little more than one evaluation, and theta are only the kernel's few hyperparameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize

from bayesmtl.posteriors.target import HeldDensity, Target
from bayesmtl.samplers.modes import FLAT, Mode

_INNER: Mapping[str, float] = {"maxiter": 500, "ftol": 1e-13, "maxcor": 50}
_MOST_STEPS = 200  # of scoring
_NEAR = 1.0  # squared length of a step, in standard deviations, from which curvatures stay about the same
# Largest slopes at which searches end, outside and inside, in standard deviations. On a part of the data,
# whose mode is a start for the whole, they may be large.
_ROUGH, _FINE = (3e-2, 1e-2), (5e-3, 1e-4)


class Nested(NamedTuple):
    """What a nested search found.

    Attributes:
        mode: The mode.
        root: Root (H, H) of the inverse curvature of F there, as the search learned it.
    """

    mode: Mode
    root: torch.Tensor


def climb_nested(
    target: Target, start: torch.Tensor, root: torch.Tensor, slopes: tuple[float, float] = _FINE
) -> Nested:
    """The mode that BFGS reaches over the held coordinates, a search over the others inside each evaluation.

    Args:
        target: A target with `num_held` above 0.
        start: Where to start, shape (P,).
        root: Root of the covariance of the held coordinates, a first guess, shape (H, H).
        slopes: Largest slopes at which the searches end, outside and inside.
    """
    H = target.num_held
    first, rest = start[:H], start[H:]
    best = Mode(start, -np.inf, converged=False)

    def negative(step: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best
        here = first + root @ torch.from_numpy(step)
        near = best.point[H:] if np.isfinite(best.value) else rest
        held = target.held(here)
        found = _best_rest(held, near, slopes[1])
        value, gradient = held.whole(found)
        point = torch.cat([here, found])
        outer = root.T @ gradient[0, :H]
        if float(value[0]) > best.value:
            flat = max(float(outer.abs().max()), float(gradient[0, H:].abs().max())) < FLAT
            best = Mode(point, float(value[0]), flat)
        return -float(value[0]), -outer.numpy()

    options = {"gtol": slopes[0], "maxiter": 100}
    result = minimize(negative, np.zeros(H), jac=True, method="BFGS", options=options)
    curvature = torch.from_numpy(0.5 * (result.hess_inv + result.hess_inv.T))
    precise, directions = torch.linalg.eigh(root @ curvature @ root.T)
    return Nested(best, (directions * precise.clamp(min=1e-12).sqrt()) @ directions.T)


def _best_rest(held: HeldDensity, rest: torch.Tensor, slope: float) -> torch.Tensor:
    """The best other coordinates, found from some (R,): scoring from afar, L-BFGS from near."""
    rest, root = _approach(held, rest)

    def negative(step: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = held.value_and_gradient((rest + root @ torch.from_numpy(step))[None])
        return -float(value[0]), -(root.T @ gradient[0]).numpy()

    options = {**_INNER, "gtol": slope}
    result = minimize(negative, np.zeros(len(rest)), jac=True, method="L-BFGS-B", options=options)
    return rest + root @ torch.from_numpy(result.x)


def _approach(held: HeldDensity, rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates (R,) about a standard deviation from the best, and a root (R, R) of their spread there.

    Fisher scoring: steps as if the expected information, with a unit for the prior, were the curvature. It
    does not see in which directions loadings turn without effect, where quasi-Newton methods lose their way.
    """
    value, gradient = held.value_and_gradient(rest[None])
    root, share = _spread(held, rest), 1.0
    for _ in range(_MOST_STEPS):
        slopes = root.T @ gradient[0]
        if float(slopes @ slopes) < _NEAR:
            break
        to = rest + share * (root @ slopes)
        there, gradient_there = held.value_and_gradient(to[None])
        if float(there) > float(value):
            rest, value, gradient = to, there, gradient_there
            root, share = _spread(held, rest), min(1.0, 2 * share)
        else:
            share /= 4
    return rest, root


def _spread(held: HeldDensity, rest: torch.Tensor) -> torch.Tensor:
    unit = torch.eye(len(rest), dtype=rest.dtype)
    L, _ = torch.linalg.cholesky_ex(held.information(rest) + unit)
    root = torch.linalg.solve_triangular(L.mT, unit, upper=True)
    return root if bool(torch.isfinite(root).all()) else unit


def search_nested(target: Target, reduced: Target, starts: torch.Tensor, different: float) -> list[Mode]:
    """Modes from starts (S, P): on a part of the data, and from there on all.

    Args:
        target: A target with `num_held` above 0.
        reduced: A part of its data.
        starts: Where to start.
        different: Difference of log densities from which modes of the part are different ones.
    """
    guess = 0.1 * torch.eye(target.num_held, dtype=starts.dtype)
    first = [climb_nested(reduced, start, guess, _ROUGH) for start in starts]
    first.sort(key=lambda found: -found.mode.value)
    top = first[0].mode.value
    chosen = [first[0], *(found for found in first[1:] if found.mode.value < top - different)]
    return [climb_nested(target, found.mode.point, found.root).mode for found in chosen]
