"""The dense density and its gradients with 60 digits, where double precision fails the dense form."""

from __future__ import annotations

import mpmath
import torch

from bayesmtl.algebra.structure import Structure
from tests.equivalence import dense
from tests.equivalence.dense import Rows


def log_marginal(
    structure: Structure, sigma: float, b: int, rows: Rows
) -> tuple[float, dict[str, torch.Tensor]]:
    """log p(y | hyperparameters) for A = ones, one row of residual scales and one noise level.

    With C = H P H' + sigma^2 I and alpha = C^-1 y, moving a prior standard deviation p_k of column h_k gives
    d log p / d p_k = ((h_k'alpha)^2 - h_k'C^-1 h_k) p_k.
    """
    assert structure.basis_scale is not None and structure.residual_scale is not None
    with mpmath.workdps(60):
        D, T, n = rows.X.shape[1], rows.num_tasks, len(rows.task)
        H = mpmath.matrix(dense.design(structure, b, rows).tolist())
        y = mpmath.matrix(rows.y[:, None].tolist())
        basis = [mpmath.mpf(value) for value in structure.basis_scale[b, 0].tolist()]
        residual = [mpmath.mpf(value) for value in structure.residual_scale[b, 0].tolist()]
        P = mpmath.diag([value**2 for value in basis + residual * T])
        C = H * P * H.T + mpmath.mpf(sigma) ** 2 * mpmath.eye(n)
        inverse = C**-1
        alpha = inverse * y
        L = mpmath.cholesky(C)
        log_det = 2 * sum(mpmath.log(L[i, i]) for i in range(n))
        value = -(log_det + (y.T * alpha)[0] + n * mpmath.log(2 * mpmath.pi)) / 2

        def along(columns: list[int], scale: mpmath.mpf) -> float:
            total = mpmath.mpf(0)
            for k in columns:
                h = H[:, k]
                total += ((h.T * alpha)[0] ** 2 - (h.T * inverse * h)[0]) * scale
            return float(total)

        gradients = {
            "basis_scale": [along([d], basis[d]) for d in range(D)],
            "residual_scale": [along([D + t * D + d for t in range(T)], residual[d]) for d in range(D)],
            "noise": [float(((alpha.T * alpha)[0] - sum(inverse[i, i] for i in range(n))) * sigma)],
        }
        return float(value), {name: torch.tensor(g, dtype=torch.float64) for name, g in gradients.items()}
