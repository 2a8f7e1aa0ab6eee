"""Posterior modes of the hyperparameters, and the curvature there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize

from bayesmtl.errors import SpecificationError
from bayesmtl.posteriors.target import Density, Valued

# Tight, so that what the order of the rows changes by rounding moves a mode by about as little.
# A long memory saves a third of the evaluations.
_OPTIONS = {"maxiter": 500, "ftol": 1e-14, "gtol": 1e-8, "maxcor": 50}
ROUGHLY: Mapping[str, float] = {"maxiter": 200, "ftol": 1e-7, "gtol": 1e-4, "maxcor": 50}
# In coordinates in which the curvature is nearly a sphere: less than a hundredth of a standard deviation.
_WHITENED = {"maxiter": 200, "gtol": 5e-3}
FLAT = 1e-2  # largest slope at which a point counts as a mode: log density per standardised unit
_STEP = 1e-4  # of finite differences; gradients are exact, so that the error is of the order of its square
# No direction is taken to be wider than this: priors of standardised quantities are about as wide.
_WIDEST = 1.0
_SINGULAR = 1e-6  # singular value of a matrix with ones on its diagonal below which it counts as singular
_EQUALLY_HIGH = 1e-4  # difference of log densities below which two modes count as the same one, reflected
_MOST_DENSE = 100  # coordinates up to which the whole Hessian is worth its evaluations
_NUM_PROBES = 16
_AT_ONCE = 8  # points evaluated together
# Times that widths are measured, by what factor one may change at a time, and the least fall that says more
# than that the density is flat.
_MEASURED, _MOST_CHANGE, _LEAST_FALL = 3, 3.0, 0.05


@dataclass(frozen=True, eq=False)
class Mode:
    """A local maximum of the density of the hyperparameters.

    Args:
        point: Coordinates, shape (P,).
        value: Log density there.
        converged: Whether the density is flat there.
    """

    point: torch.Tensor
    value: float
    converged: bool


def find_modes(density: Density, starts: torch.Tensor, options: Mapping[str, float] = _OPTIONS) -> list[Mode]:
    """The mode that L-BFGS reaches from each start (S, P), in the order of the starts."""
    modes = []
    for start in starts:
        result = minimize(
            _negative(density, lambda point: point),
            start.numpy(),
            jac=True,
            method="L-BFGS-B",
            options=dict(options),
        )
        # the optimiser's own flag calls it a failure when rounding keeps it from these tolerances
        converged = bool(np.abs(result.jac).max() < FLAT)
        modes.append(Mode(torch.from_numpy(result.x), -float(result.fun), converged))
    return modes


def climb(density: Density, start: torch.Tensor, root: torch.Tensor) -> Mode:
    """The mode that BFGS reaches from a point (P,) near it, given a root (P, P) of the covariance there.

    The covariance is the first guess at the inverse Hessian, which is most of what the search has to learn.
    """

    def point(step: torch.Tensor) -> torch.Tensor:
        return start + root @ step

    def chain(slope: torch.Tensor) -> torch.Tensor:
        return root.T @ slope

    result = minimize(
        _negative(density, point, chain), np.zeros(len(start)), jac=True, method="BFGS", options=_WHITENED
    )
    converged = bool(np.abs(result.jac).max() < FLAT)
    return Mode(point(torch.from_numpy(result.x)), -float(result.fun), converged)


def _negative(
    density: Density,
    point: Callable[[torch.Tensor], torch.Tensor],
    chain: Callable[[torch.Tensor], torch.Tensor] = lambda slope: slope,
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """What optimisers take: minus the log density and its gradient, in coordinates of their own."""

    def negative(step: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = density.value_and_gradient(point(torch.from_numpy(step))[None])
        # optimisers back off from an infinite value; NaN would stop them
        return -float(value[0]), -chain(gradient[0]).numpy()

    return negative


def highest(modes: list[Mode]) -> Mode:
    """The highest mode; of equally high ones the first, so that rounding does not choose between signs.

    Raises:
        SpecificationError: If the density could not be evaluated anywhere.
    """
    top = max(mode.value for mode in modes)
    if not math.isfinite(top):
        raise SpecificationError(
            "model",
            expected="a posterior density that is finite at some hyperparameters",
            found="none, at any that were tried",
            remedy="Look for outliers among inputs and targets, and for noise or priors too narrow for them.",
        )
    return next(mode for mode in modes if mode.value > top - _EQUALLY_HIGH)


def spread_root(density: Density, point: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A root of the covariance of the normal approximation at a point (P,), shape (P, P).

    The Hessian is differenced from exact gradients; directions along which the density hardly bends, or bends
    upwards, get the width of a prior. With many coordinates only its diagonal is estimated, by random probes
    (Bekas, Kokiopoulou and Saad, 2007).
    """
    P = len(point)
    if P <= _MOST_DENSE:
        hessian = _hessian_times(density, point, torch.eye(P, dtype=point.dtype))
        precisions, directions = torch.linalg.eigh(-0.5 * (hessian + hessian.T))
        # the symmetric root: eigenvectors alone turn or change sign with rounding
        root: torch.Tensor = (directions / precisions.clamp(min=_WIDEST**-2).sqrt()) @ directions.T
        return root
    probes = torch.from_numpy(rng.choice([-1.0, 1.0], (_NUM_PROBES, P)))
    diagonal = -(probes * _hessian_times(density, point, probes)).mean(0)
    return torch.diag(diagonal.clamp(min=_WIDEST**-2) ** -0.5)


def measured_root(density: Valued, point: torch.Tensor, root: torch.Tensor) -> torch.Tensor:
    """A root (P, P) whose principal axes are as wide as the density is, not as its curvature says.

    Along an axis the log density is to fall by 1 at sqrt(2) standard deviations from the mode. Where it falls
    by something else on both sides the axis gets the width that would explain the nearer fall, three times in
    turn. Where the data know a sum of scales and not its parts, curvatures are off by factors of ten.

    Source: Rue, Martino and Chopin (2009), section 6.5, measure widths so, along the same axes.

    Args:
        density: The density.
        point: Its mode, shape (P,).
        root: From the curvature there.
    """
    top = density.value(point[None])
    if not bool(torch.isfinite(top)):  # on an edge, which a rotation's coordinates have: nothing to compare
        return root
    variances, axes = torch.linalg.eigh(root @ root.T)
    widths = variances.clamp(min=0.0).sqrt()
    for _ in range(_MEASURED):
        steps = math.sqrt(2) * widths[:, None] * axes.T
        points = torch.cat([point + steps, point - steps])
        fall = torch.cat([top - density.value(part) for part in points.split(_AT_ONCE)])
        fall = torch.nan_to_num(fall, nan=torch.inf)  # where there is no density it has fallen
        change = fall.clamp(min=_LEAST_FALL).rsqrt().clamp(1 / _MOST_CHANGE, _MOST_CHANGE)
        widths = widths * change.reshape(2, -1).amax(0)
    measured: torch.Tensor = (axes * widths) @ axes.T
    return measured


def _hessian_times(density: Density, point: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Hessian times directions, both as rows (K, P)."""
    gradients = [
        density.value_and_gradient(point + shift)[1]
        for shift in torch.cat([_STEP * directions, -_STEP * directions]).split(_AT_ONCE)
    ]
    forward, backward = torch.cat(gradients).chunk(2)
    return (forward - backward) / (2 * _STEP)


def rounded(point: torch.Tensor, root: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A point (P,) and a root (P, P) to a few digits.

    As guesses they need no more, and what the order of the rows or of the tasks changes by rounding would
    grow along chains, or decide who is drawn.
    """
    scale = root.diagonal().sqrt().to(torch.bfloat16).double()
    relative = (root / torch.outer(scale, scale)).round(decimals=2)
    if torch.linalg.matrix_rank(relative, tol=_SINGULAR) < len(
        relative
    ):  # by the rounding: undone by as much
        relative = relative + 0.01 * len(relative) * torch.eye(len(relative), dtype=relative.dtype)
    root = relative * torch.outer(scale, scale)
    # with many rows a posterior may be narrower than three decimals: a tenth of its width will do
    narrowest = float((scale**2).min())
    decimals = max(3, math.ceil(-math.log10(narrowest / 10))) if narrowest > 0 else 3
    return point.round(decimals=decimals), root
