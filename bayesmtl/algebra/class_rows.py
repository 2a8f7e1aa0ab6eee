"""Rows with several linear predictors each, f_ic = x_i'w_tc: weights (C, D) of a task, flattened.

On paper                                       In code
w_t = (w_t1, .. w_tC), C D entries             c is the slow index: entry c D + d
f_i = (I_C (x) x_i') w_t                       row vectors have the shape (B, C, N)
Omega_i, the precision of row i                (B, C, C, N)
K_t = sum_i Omega_i (x) q_i q_i' = L_t L_t'    `PseudoData.factors`, C r wide
F_t = L_t' (I_C (x) R_t)                       `PseudoData.F`
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch

from bayesmtl.algebra.collapsed import cholesky_or_nan
from bayesmtl.algebra.rows import Block, PseudoData, TaskRows


@dataclass(frozen=True, eq=False)
class SeveralRows(TaskRows):
    """`TaskRows` with C predictors of every row, whose log likelihood is a function of all of them.

    Weights (B, T, C D) and row vectors (B, C, N) take the place of (B, T, D) and (B, N); sums over rows are
    of values (B, N) as ever.

    Args:
        level: Known part of every predictor, the same in all rows, shape (C,).
    """

    level: torch.Tensor

    @classmethod
    def over(cls, rows: TaskRows, level: torch.Tensor) -> SeveralRows:
        """The same rows, with as many predictors each as there are levels."""
        parts: dict[str, Any] = {field.name: getattr(rows, field.name) for field in fields(TaskRows)}
        return cls(level=level, **parts)

    @property
    def num_outputs(self) -> int:
        """C."""
        return len(self.level)

    @property
    def known(self) -> torch.Tensor:
        """See `TaskRows.known`."""
        return self.offset + self.level[:, None]

    def merged(self) -> TaskRows:
        """See `TaskRows.merged`."""
        return self.over(super().merged(), self.level)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, N)."""
        return (self.num_outputs, len(self.y))

    @property
    def num_weights(self) -> int:
        """C D."""
        return self.num_outputs * self.num_features

    def inner(self, a: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        """a_i'f_i of every row: (B, C, N) -> (B, N)."""
        return (a * f).sum(-2)

    def times(self, omega: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        """Omega_i f_i of every row: (B, C, C, N) and (B, C, N) -> (B, C, N)."""
        return (omega * f[:, None]).sum(-2)

    def regular(self, omega: torch.Tensor, least: float) -> torch.Tensor:
        """Precisions (B, C, C, N) with something added that makes them regular."""
        return omega + least * torch.eye(self.num_outputs, dtype=omega.dtype)[:, :, None]

    def predictor(self, weights: torch.Tensor) -> torch.Tensor:
        """f of every row: (B, T, C D) -> (B, C, N)."""
        B, T, C = *weights.shape[:2], self.num_outputs
        f = super().predictor(weights.reshape(B, T, C, -1).transpose(1, 2).reshape(B * C, T, -1))
        return f.reshape(B, C, -1)

    def transposed(self, values: torch.Tensor) -> torch.Tensor:
        """Sums of (I_C (x) x_i) times the rows' values, task by task: (B, C, N) -> (B, T, C D)."""
        B, C = values.shape[:2]
        total = super().transposed(values.reshape(B * C, -1))
        return total.reshape(B, C, self.num_tasks, -1).transpose(1, 2).flatten(2)

    def linear_terms(self, kappa: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Sums of (I_C (x) q_i) kappa_i of every group's tasks: (B, C, N) -> (B, T_g, C r) each."""
        B, C = kappa.shape[:2]
        terms = super().linear_terms(kappa.reshape(B * C, -1))
        return tuple(term.reshape(B, C, *term.shape[1:]).transpose(1, 2).flatten(2) for term in terms)

    def pseudo_data(self, omega: torch.Tensor, kappa: torch.Tensor) -> PseudoData:
        """The Gaussian data that stand for rows with these precisions and linear terms.

        Args:
            omega: Precisions, positive definite, shape (B, C, C, N).
            kappa: Linear terms, shape (B, C, N) or (1, C, N).
        """
        factors, index, F = [], [], []
        for group in self.groups:
            L = cholesky_or_nan(torch.cat([self._gram(block, omega) for block in group], dim=1))
            R = torch.cat([block.R for block in group])
            factors.append(L)
            index.append(torch.cat([block.index for block in group]))
            wide = torch.einsum("btick,tkd->bticd", L.transpose(-1, -2).unflatten(-1, (-1, R.shape[1])), R)
            F.append(wide.flatten(-2))
        return PseudoData(self, tuple(factors), tuple(index), tuple(F)).with_linear(kappa)

    def _gram(self, block: Block, omega: torch.Tensor) -> torch.Tensor:
        """K_t of a block's tasks, 1 where directions are padding, shape (B, T_b, C r, C r)."""
        B, C, r = len(omega), self.num_outputs, block.Q.shape[-1]
        packed = block.of(omega.reshape(B * C * C, -1)) @ block.pairs  # (T_b, B C C, r (r + 1) / 2)
        whole = (
            block.unpacked(packed)
            .reshape(-1, B, C, C, r, r)
            .permute(1, 0, 2, 4, 3, 5)
            .reshape(B, -1, C * r, C * r)
        )
        whole.diagonal(dim1=-2, dim2=-1).add_(block.padding.repeat(1, C))
        return whole

    def variances(self, covariance: torch.Tensor) -> torch.Tensor:
        """(I_C (x) x_i') V_t (I_C (x) x_i) of every row: (B, T, C D, C D) -> (B, C, C, N)."""
        B, T, C = *covariance.shape[:2], self.num_outputs
        parts = covariance.reshape(B, T, C, -1, C, self.num_features).permute(0, 2, 4, 1, 3, 5)
        parts = parts.reshape(B * C * C, T, self.num_features, -1)
        # x'M x hears of the symmetric part of M alone, and that is what is packed
        parts = 0.5 * (parts + parts.transpose(-1, -2))
        return super().variances(parts).reshape(B, C, C, -1)
