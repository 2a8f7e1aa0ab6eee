"""Coordinates in which loadings that a rotation may turn are known once, for proposals.

Where latent functions share a kernel the data know loadings A (R x T) by A'A alone: Q A is as likely for any
orthogonal Q, the posterior lies on a ring, and no normal distribution is near. Here A = Q U with U upper
triangular in the first R of its tasks. The volume element of A is prod_r |u_rr|^(R - r) times those of U and
of Q (r = 1 .. R), so that the density of U is

    p(y | U) * prod_r |u_rr|^(R - r) * mean over Q of p(Q U) * volume of O(R)

for positive u_rr, with the mean over fixed rotations; one of them is drawn in proportion to p(Q U) on the way
back. The volume of the orthogonal group is 2^R pi^(R^2 / 2) / Gamma_R(R / 2).

Source: Leung and Drton (2016) for the volume element and a mean over rotations, Muirhead (1982, theorem
2.1.15) for the volume of the group, both from memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import qr
from scipy.special import multigammaln
from scipy.stats import ortho_group

from bayesmtl.parameters import Parameter
from bayesmtl.posteriors.target import Density, differentiate

_ANGLES = 16  # between 0 and 90 degrees: further ones only swap functions, or change their signs
_ROTATIONS = 128  # of more than two functions


@dataclass(frozen=True, eq=False)
class Turned(Density):
    """A density with loadings in these coordinates, and all others as they are.

    Args:
        density: The density in coordinates (B, P).
        parameter: The loadings, shape (R, T).
        start: Position of their first coordinate.
        order: Tasks, those in which U is triangular first, shape (T,).
        kept: Coordinates that are left, P' = P - R (R - 1) / 2 positions among P.
        rotations: Shape (K, R, R).
    """

    density: Density
    parameter: Parameter
    start: int
    order: np.ndarray
    kept: np.ndarray
    rotations: torch.Tensor

    @classmethod
    def around(cls, density: Density, parameter: Parameter, start: int, point: torch.Tensor) -> Turned:
        """The coordinates for points near this one (P,): its largest loadings are triangular."""
        R, T = parameter.shape
        order: np.ndarray = qr(_loadings(point[None], parameter, start)[0].numpy(), mode="r", pivoting=True)[
            1
        ]
        below = [start + r * T + order[j] for r in range(R) for j in range(r)]
        return cls(
            density, parameter, start, order, np.setdiff1d(np.arange(len(point)), below), _rotations(R)
        )

    def signed(self, signed: torch.Tensor) -> torch.Tensor:
        """Which coordinates have a sign without meaning, (P',), from those (P,) of the density."""
        signed = signed.clone()
        signed[self._diagonal] = True
        return signed[self.kept]

    @property
    def _diagonal(self) -> np.ndarray:
        R, T = self.parameter.shape
        return np.asarray(self.start + np.arange(R) * T + self.order[:R])

    def there(self, points: torch.Tensor) -> torch.Tensor:
        """From the density's coordinates (B, P) to these, (B, P')."""
        A, R = _loadings(points, self.parameter, self.start), self.parameter.shape[0]
        Q, _ = torch.linalg.qr(A[:, :, self.order[:R]])
        return self._with(points, Q.transpose(1, 2) @ A)[:, self.kept]

    def back(self, points: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """To the density's coordinates (B, P), each turned by a rotation in proportion to its prior."""
        points = self._full(points)
        U = _loadings(points, self.parameter, self.start)
        each = self._log_prior(self.rotations @ U[:, None])
        gumbel = torch.from_numpy(rng.gumbel(size=tuple(each.shape)))
        return self._with(points, self.rotations[(each + gumbel).argmax(1)] @ U)

    def value(self, points: torch.Tensor) -> torch.Tensor:
        """See `Density.value`."""
        return self.density.value(self._full(points)) + self._correction(points)

    def value_and_gradient(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Density.value_and_gradient`."""
        value, gradient = self.density.value_and_gradient(self._full(points))
        further, slope = differentiate(self._correction, points)
        return value + further, gradient[:, self.kept] + slope

    def _correction(self, points: torch.Tensor) -> torch.Tensor:
        """Volume element, and the mean prior over rotations in the place of that of U."""
        full = self._full(points)
        U = _loadings(full, self.parameter, self.start)
        R = len(self.rotations[0])
        powers = torch.arange(R - 1, -1, -1, dtype=U.dtype)
        volume = (powers * full[:, self._diagonal].abs().log())[:, :-1].sum(1)
        each = self._log_prior(self.rotations @ U[:, None])
        mean = torch.logsumexp(each, dim=1) - math.log(len(self.rotations))
        return volume + mean - self._log_prior(U) + _log_volume(R)

    def _log_prior(self, loadings: torch.Tensor) -> torch.Tensor:
        return self.parameter.prior.log_prob(loadings).sum(-1)

    def _full(self, points: torch.Tensor) -> torch.Tensor:
        """Points (B, P) with U in the place of the loadings."""
        full = points.new_zeros(len(points), len(self.kept) + math.comb(self.parameter.shape[0], 2))
        full[:, self.kept] = points
        return full

    def _with(self, points: torch.Tensor, loadings: torch.Tensor) -> torch.Tensor:
        points = points.clone()
        points[:, self.start : self.start + self.parameter.size] = loadings.flatten(1)
        return points


def _loadings(points: torch.Tensor, parameter: Parameter, start: int) -> torch.Tensor:
    """Shape (B, R, T)."""
    return points[:, start : start + parameter.size].reshape(-1, *parameter.shape)


def _log_volume(R: int) -> float:
    """That of all orthogonal R x R matrices, reflections included."""
    return R * math.log(2) + 0.5 * R * R * math.log(math.pi) - float(multigammaln(0.5 * R, R))


def _rotations(R: int) -> torch.Tensor:
    """Evenly spread over what makes a difference for two functions, random for more; shape (K, R, R)."""
    if R > 2:
        return torch.from_numpy(ortho_group.rvs(R, size=_ROTATIONS, random_state=0))
    angle = torch.arange(_ANGLES, dtype=torch.float64) * (0.5 * math.pi / _ANGLES)
    first = torch.stack([angle.cos(), -angle.sin()], dim=1)
    return torch.stack([first, torch.stack([angle.sin(), angle.cos()], dim=1)], dim=1)
