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

from bayesmtl.inference.mode import FLAT, Mode
from bayesmtl.inference.target import Target

_INNER: Mapping[str, float] = {"maxiter": 500, "ftol": 1e-13, "maxcor": 50}
# Largest slopes at which searches end: outside in standard deviations of the held coordinates, inside per
# standardised unit. On a part of the data, whose mode is a start for the whole, they may be large.
_ROUGH, _FINE = (3e-2, 0.1), (5e-3, 5e-3)


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
    """The mode that BFGS reaches over the held coordinates, L-BFGS over the others inside each evaluation.

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
        point = torch.cat([here, _best_rest(target, here, near, slopes[1])])
        value, gradient = target.value_and_gradient(point[None])
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


def _best_rest(target: Target, first: torch.Tensor, rest: torch.Tensor, slope: float) -> torch.Tensor:
    held = target.held(first)

    def negative(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = held.value_and_gradient(torch.from_numpy(x)[None])
        return -float(value[0]), -gradient[0].numpy()

    options = {**_INNER, "gtol": slope}
    result = minimize(negative, rest.numpy(), jac=True, method="L-BFGS-B", options=options)
    return torch.from_numpy(result.x)


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
