"""Functions seen through their values at m inducing inputs: the algebra of the sparse approximation.

With Omega_q = A_q A_q' and Lambda = A_0 A_0', tasks' functions are

    f_t(x) = sum_q A_q[t] g_q(x) + A_0[t] l,    g_q,r ~ GP(0, k_q) independent,    l ~ N(0, I)

Each latent function is known through its whitened values at inducing inputs Z that all of them, and so all
tasks, share: g_q,r(Z) = L_q v_q,r with L_q L_q' = k_q(Z, Z) and v ~ N(0, I). With phi_q(x) = L_q^-1 k_q(Z, x)

    f_t(x) = c' v + residual,    c = (A_q[t] (x) phi_q(x) for every q, A_0[t])
    var(residual) = sum_q Omega_q,tt (k_q(x, x) - |phi_q(x)|^2)

so that functions are linear in v, which has P = m sum_q R_q + R_0 entries. Under v ~ N(mu, S) with
S^-1 = Lambda and mu = S h, function values have mean c'mu and variance c'Sc + var(residual).

Source: Titsias (2009) and Hensman, Fusi and Lawrence (2013) for the approximation, here for functions that
share latent ones; in its letters, not looked up.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

# Relative to the kernel's variance, always added to the diagonal of k_q(Z, Z): far below what can be seen.
NUGGET = 1e-8
_MORE = (1.0, 1e2, 1e4)  # times that, tried in this order where the factorisation fails


class Roots(NamedTuple):
    """Task covariances as products: one column for each latent function.

    Attributes:
        shape: A_q with A_q A_q' = Omega_q, one for each kernel, each (T, R_q).
        level: A_0 with A_0 A_0' = Lambda, shape (T, R_0).
    """

    shape: tuple[torch.Tensor, ...]
    level: torch.Tensor

    @property
    def num_functions(self) -> int:
        """Latent functions of all kernels together."""
        return sum(root.shape[1] for root in self.shape)


class Features(NamedTuple):
    """Rows as linear functions of v.

    Attributes:
        C: c of every row, shape (n, P).
        residual: var(residual) of every row, shape (n,).
        phi: phi_q of every row, shape (Q, m, n).
    """

    C: torch.Tensor
    residual: torch.Tensor
    phi: torch.Tensor


def factor_inducing(kernel: torch.Tensor) -> torch.Tensor:
    """L_q of kernels between the inducing inputs (Q, m, m); NaN where they have none."""
    size = kernel.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None].expand(-1, kernel.shape[-1])
    for more in _MORE:
        L: torch.Tensor
        L, failed = torch.linalg.cholesky_ex(kernel + torch.diag_embed(more * NUGGET * size))
        if not failed.any():
            return L
    return torch.full_like(kernel, torch.nan)


def features(
    roots: Roots, L: torch.Tensor, cross: torch.Tensor, variance: torch.Tensor, task: torch.Tensor
) -> Features:
    """Rows in terms of v.

    Args:
        roots: A_q and A_0.
        L: L_q, shape (Q, m, m).
        cross: k_q between the inducing inputs and the rows, shape (Q, m, n).
        variance: k_q(x, x) of the rows, shape (Q, n).
        task: Task of each row, shape (n,).
    """
    phi = torch.linalg.solve_triangular(L, cross, upper=False)
    missing = (variance - phi.square().sum(1)).clamp(min=0.0)
    n, blocks, residual = len(task), [], torch.zeros_like(variance[0])
    for q, root in enumerate(roots.shape):
        own = root.index_select(0, task)
        blocks.append((own[:, :, None] * phi[q].T[:, None, :]).reshape(n, -1))
        residual = residual + own.square().sum(1) * missing[q]
    return Features(torch.cat([*blocks, roots.level.index_select(0, task)], 1), residual, phi)


class Weights(NamedTuple):
    """q(v) = N(mu, S).

    Attributes:
        mean: mu, shape (P,).
        cholesky: Factor of the precision Lambda = S^-1, shape (P, P).
    """

    mean: torch.Tensor
    cholesky: torch.Tensor

    @classmethod
    def of(cls, precision: torch.Tensor, linear: torch.Tensor) -> Weights | None:
        """From Lambda (P, P) and h (P,); `None` where Lambda has no Cholesky factor."""
        L, failed = torch.linalg.cholesky_ex(precision)
        if failed:
            return None
        return cls(torch.cholesky_solve(linear[:, None], L)[:, 0], L)

    @classmethod
    def prior(cls, num_weights: int) -> Weights:
        """N(0, I)."""
        return cls(torch.zeros(num_weights).double(), torch.eye(num_weights).double())

    def moments(self, at: Features) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and variances of the function values at rows, each (n,), with gradients through the rows."""
        # c'Sc = 2 c'(S c) - c'Sc with S c held: the same value and the same gradient without differentiating
        held = torch.cholesky_solve(at.C.detach().T, self.cholesky).T
        spread = (at.C * held).sum(1)
        if at.C.requires_grad:
            spread = 2 * spread - spread.detach()
        return at.C @ self.mean, spread + at.residual

    def divergence(self) -> torch.Tensor:
        """KL(q(v) | N(0, I))."""
        inverse = torch.linalg.solve_triangular(
            self.cholesky, torch.eye(len(self.mean), dtype=self.mean.dtype), upper=False
        )
        logdet = 2 * self.cholesky.diagonal().log().sum()
        total: torch.Tensor = 0.5 * (
            inverse.square().sum() + self.mean.square().sum() - len(self.mean) + logdet
        )
        return total

    def extended(self, known: Roots, wider: Roots, num_inducing: int) -> Weights:
        """With further latent functions and levels, of new tasks, which follow the prior.

        Args:
            known: Roots of the known tasks.
            wider: Roots with new tasks' rows, and columns behind those of the known.
            num_inducing: m.
        """
        each = [num_inducing] * len(known.shape) + [1]
        pairs = zip((*known.shape, known.level), (*wider.shape, wider.level), each, strict=True)
        position, old = 0, []
        for before, after, size in pairs:
            old.append(position + torch.arange(before.shape[1] * size))
            position += after.shape[1] * size
        index = torch.cat(old)
        mean = self.mean.new_zeros(position)
        mean[index] = self.mean
        cholesky = torch.eye(position, dtype=mean.dtype)
        cholesky[index[:, None], index] = self.cholesky
        return Weights(mean, cholesky)
