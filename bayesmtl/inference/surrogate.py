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

import torch

DEGREE = 3
# Beyond this many coordinates P a fit, of the order of P^4 operations, costs more than the gradients it
# saves.
MOST_COORDINATES = 100
_ROWS_PER_COEFFICIENT = 3
_RIDGE = 1e-8  # relative; keeps features that hardly vary from blowing up


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A fixed field of forces on R^P.

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

    signed: torch.Tensor
    curvature: torch.Tensor
    center: torch.Tensor
    spread: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    coefficients: torch.Tensor
    interactions: torch.Tensor

    def gradient(self, points: torch.Tensor) -> torch.Tensor:
        """Approximate gradient of the log density at points (C, P)."""
        slope = torch.where(self.signed, 2 * points, 1.0)
        r = self._scaled(points)
        return slope * (_powers(r) @ self.coefficients + r * (r @ self.interactions))

    def _scaled(self, points: torch.Tensor) -> torch.Tensor:
        r = (_saturating(points, self.signed, self.curvature) - self.center) / self.spread
        return torch.minimum(torch.maximum(r, self.low), self.high)

    @classmethod
    def fit(
        cls, points: torch.Tensor, gradients: torch.Tensor, weights: torch.Tensor, signed: torch.Tensor
    ) -> Surrogate | None:
        """Fit to exact gradients; `None` if there are too few.

        Args:
            points: Where gradients are known, shape (n, P).
            gradients: Gradients of the log density there, shape (n, P).
            weights: Weights of their errors, shape (n,).
            signed: Which coordinates are scales on the signed line, bool (P,).
        """
        n, P = points.shape
        size = 1 + (DEGREE + 1) * P
        if n < _ROWS_PER_COEFFICIENT * size:
            return None
        curvature = 3 * (points**2).mean(0)
        saturated = _saturating(points, signed, curvature)
        center, spread = saturated.mean(0), saturated.std(0).clamp(min=1e-12)
        r = (saturated - center) / spread
        slope = torch.where(signed, 2 * points, 1.0)
        columns = []
        for d in range(P):
            design = torch.cat([_powers(r), r * r[:, d : d + 1]], dim=1) * slope[:, d : d + 1]
            gram = design.T @ (weights[:, None] * design)
            gram.diagonal().add_(_RIDGE * gram.diagonal().mean())
            columns.append(torch.linalg.solve(gram, design.T @ (weights * gradients[:, d])))
        fitted = torch.stack(columns, dim=1)
        low, high = r.min(0).values, r.max(0).values
        return cls(signed, curvature, center, spread, low, high, fitted[:-P], fitted[-P:])


def _powers(r: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.ones(len(r), 1, dtype=r.dtype), *(r**k for k in range(1, DEGREE + 1))], dim=1)


def _saturating(points: torch.Tensor, signed: torch.Tensor, curvature: torch.Tensor) -> torch.Tensor:
    square = points**2
    return torch.where(signed, square / (square + curvature), points)
