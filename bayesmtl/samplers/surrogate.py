"""A cheap stand-in for the gradient, learned from the exact ones that warm-up has paid for.

Hamiltonian Monte Carlo stays exact when its trajectories follow any fixed field of forces, because leapfrog
steps are reversible and keep volume whatever the field; only the acceptance test at the end of a trajectory
must use the true density. So trajectories here cost next to nothing, and one exact density pays for a whole
one. How well the field fits decides how often a trajectory is accepted, and nothing else.

The field: variance components act through v = x^2, and their forces flatten out for large v, so
g_d(x) = phi_d'(x) * sum_e [polynomial_de(r_e) + b_de r_d r_e] with r_e = x_e^2 / (x_e^2 + c_e) for a scale on
the signed line, r_e = x_e otherwise; phi' is 2 x or 1. The polynomials are cubic; all is fitted by least
squares.

Source: Rasmussen (2003), who follows trajectories on a Gaussian process fitted to the density.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DEGREE = 3
# Beyond this many coordinates P a fit, of the order of P^4 operations, costs more than the gradients it
# saves.
MOST_COORDINATES = 100
_ROWS_PER_COEFFICIENT = 3
_RIDGE = 1e-8  # relative; keeps features that hardly vary from blowing up


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A fixed field of forces on R^P.

    In NumPy, whose calls on arrays as small as these cost a fraction of a tensor's.

    Args:
        signed: Which coordinates are scales on the signed line, bool (P,).
        curvature: c, shape (P,).
        center: Mean of r over the points it was fitted to, shape (P,).
        spread: Standard deviation of r there, shape (P,).
        low: Smallest r there in these units, shape (P,); beyond it and `high` the force stays as it is.
        high: Largest.
        coefficients: Of 1 and the powers of r, shape (1 + DEGREE P, P).
        interactions: b, transposed: of r_e in what multiplies r_d, shape (P, P).
    """

    signed: np.ndarray
    curvature: np.ndarray
    center: np.ndarray
    spread: np.ndarray
    low: np.ndarray
    high: np.ndarray
    coefficients: np.ndarray
    interactions: np.ndarray

    def gradient(self, points: np.ndarray) -> np.ndarray:
        """Approximate gradient of the log density at points (C, P)."""
        r = (_saturating(points, self.signed, self.curvature) - self.center) / self.spread
        r = np.minimum(np.maximum(r, self.low), self.high)
        force = _powers(r) @ self.coefficients + r * (r @ self.interactions)
        gradient: np.ndarray = np.where(self.signed, 2 * points, 1.0) * force
        return gradient

    @staticmethod
    def size(num_coordinates: int) -> int:
        """Coefficients of each coordinate's force."""
        return 1 + (DEGREE + 1) * num_coordinates

    @classmethod
    def fit(
        cls, points: np.ndarray, gradients: np.ndarray, weights: np.ndarray, signed: np.ndarray
    ) -> Surrogate | None:
        """Fit to exact gradients; `None` if there are too few.

        Args:
            points: Where gradients are known, shape (n, P).
            gradients: Gradients of the log density there, shape (n, P).
            weights: Weights of their errors, shape (n,).
            signed: Which coordinates are scales on the signed line, bool (P,).
        """
        n, P = points.shape
        size = cls.size(P)
        if n < _ROWS_PER_COEFFICIENT * size:
            return None
        curvature = 3 * (points**2).mean(0)
        saturated = _saturating(points, signed, curvature)
        center, spread = saturated.mean(0), saturated.std(0, ddof=1).clip(min=1e-12)
        r = (saturated - center) / spread
        slope = np.where(signed, 2 * points, 1.0)
        columns = []
        for d in range(P):
            design = np.concatenate([_powers(r), r * r[:, d : d + 1]], axis=1) * slope[:, d : d + 1]
            gram = design.T @ (weights[:, None] * design)
            gram += _RIDGE * gram.diagonal().mean() * np.eye(size)
            columns.append(np.linalg.solve(gram, design.T @ (weights * gradients[:, d])))
        fitted = np.stack(columns, axis=1)
        return cls(signed, curvature, center, spread, r.min(0), r.max(0), fitted[:-P], fitted[-P:])


def _powers(r: np.ndarray) -> np.ndarray:
    return np.concatenate([np.ones((len(r), 1)), *(r**k for k in range(1, DEGREE + 1))], axis=1)


def _saturating(points: np.ndarray, signed: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    square = points**2
    return np.where(signed, square / (square + curvature), points)
