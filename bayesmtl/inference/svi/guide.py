"""The variational family of the SVI engine, and the model beside it, as Pyro programs.

    q(phi, Z) = N(m, L L')                                        one normal distribution of what tasks share
    q(w_t | phi, Z)  proportional to  N(w_t; a_t'Z, S_t) exp(-|c_t - F_t w_t|^2 / (2 sigma_t^2))

Given the hyperparameters and Z each task keeps its own prior, and only what its rows say is approximated, by
r = D Gaussian pseudo-rows (F_t, c_t) that are learned. So w_t moves with phi and Z as W = A Z + E has it, a
task without rows has its prior, and with a Gaussian likelihood, where sigma_t is the noise (otherwise 1), the
pseudo-rows that it starts from are exact.

With sigma_t in F and c, S_t = R_t R_t', e_t = R_t x_t and x_t ~ N(0, I) in the model, x_t is normal in the
guide with precision M = I + (F R)'F R and mean M^-1 (F R)'(c - F a_t'Z).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bayesmtl.algebra.structure import Structure
from bayesmtl.parameters import Values
from bayesmtl.posteriors.linear.batches import Batch
from bayesmtl.posteriors.linear.posterior import LinearPosterior

_JITTER = 1e-6  # of pseudo-rows, relative: a direction that rows say nothing about can still be learned


class Guide:
    """Model and guide, with the parameters that are learned.

    Args:
        problem: The posterior.
        point: Where the hyperparameters start, shape (P,).
        basis: Where Z starts, shape (R, D).
        F: Pseudo-rows to start from, shape (T, D, D), lower-triangular transposed.
        c: Their targets, shape (T, D).
        spread: Standard deviation of q(phi, Z) at the start.
    """

    def __init__(
        self,
        problem: LinearPosterior,
        point: torch.Tensor,
        basis: torch.Tensor,
        F: torch.Tensor,
        c: torch.Tensor,
        spread: float,
    ):
        self.problem, self.basis_shape, self.F, self.c = problem, tuple(basis.shape), F, c
        T, D = c.shape
        self.P, start = len(point), torch.cat([point, basis.flatten()])
        self.loc = start.clone().requires_grad_()
        root = torch.diag(torch.full((len(start),), np.log(spread), dtype=torch.float64))
        self.root = root.requires_grad_()
        # in units of the pseudo-rows that it starts from, whatever the units of the features
        self.turn = torch.zeros(T, D, D, dtype=torch.float64).requires_grad_()
        self.shift = torch.zeros(T, D, dtype=torch.float64).requires_grad_()

    @property
    def parameters(self) -> list[torch.Tensor]:
        """What is learned."""
        return [self.loc, self.root, self.turn, self.shift]

    def scale_tril(self) -> torch.Tensor:
        """L, shape (m, m)."""
        diagonal: torch.Tensor = self.root.diagonal()
        return torch.tril(self.root, -1) + torch.diag(diagonal.exp())

    def shared(self, s: torch.Tensor) -> tuple[torch.Tensor, Values, Structure, torch.Tensor]:
        """Log prior (B,), values, structure and Z (B, R, D) of shared coordinates (B, m)."""
        log_prior, values = self.problem.space.log_prior(s[:, : self.P])
        structure = self.problem.structure(values)
        Z = s[:, self.P :].reshape(len(s), *self.basis_shape)
        if structure.basis_scale is not None:
            density = torch.distributions.Normal(0.0, structure.basis_scale.abs(), validate_args=False)
            log_prior = log_prior + density.log_prob(Z).sum((-1, -2))
        return log_prior, values, structure, Z

    def of_tasks(
        self, structure: Structure, Z: torch.Tensor, tasks: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """a_t'Z (B, T_b, D) and R_t (B, T_b or 1, D, q)."""
        B, D = len(Z), self.c.shape[1]
        means = torch.zeros(B, len(tasks), D, dtype=Z.dtype)
        if structure.loadings is not None:
            means = structure.loadings.index_select(-2, tasks) @ Z
        parts = []
        if structure.residual_scale is not None:
            scale = structure.residual_scale
            scale = scale if scale.shape[1] == 1 else scale.index_select(1, tasks)
            parts.append(torch.diag_embed(scale))
        if structure.residual_factor is not None:
            number = parts[0].shape[1] if parts else 1
            parts.append(structure.residual_factor[:, None].expand(-1, number, -1, -1))
        root = torch.cat(parts, dim=-1) if parts else torch.zeros(B, 1, D, 0, dtype=Z.dtype)
        return means, root

    def conditional(
        self, values: Values, means: torch.Tensor, root: torch.Tensor, tasks: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean (B, T_b, q) and precision (B, T_b, q, q) of x_t given what tasks share."""
        noise = self.problem.noise(values, len(means))
        noise = noise if noise.shape[1] == 1 else noise.index_select(1, tasks)
        turn, shift = self.turn.index_select(0, tasks), self.shift.index_select(0, tasks)
        F, c = self.F.index_select(0, tasks), self.c.index_select(0, tasks) + shift
        F, c = (F + turn @ F) / noise[..., None, None], c / noise[..., None]
        FR = F @ root
        precision = FR.transpose(-1, -2) @ FR
        precision = precision + torch.eye(precision.shape[-1], dtype=precision.dtype)
        linear = FR.transpose(-1, -2) @ (c - (F @ means[..., None])[..., 0])[..., None]
        mean = torch.cholesky_solve(linear, torch.linalg.cholesky(precision))[..., 0]
        return mean, precision

    def programs(self, pyro: Any, batch: Batch) -> tuple[Any, Any]:
        """Model and guide for one minibatch."""
        dist, m, T = pyro.distributions, len(self.loc), len(self.c)

        def guide() -> None:
            s = pyro.sample("shared", dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril()))
            _, values, structure, Z = self.shared(s[None])
            means, root = self.of_tasks(structure, Z, batch.tasks)
            if root.shape[-1]:
                mean, precision = self.conditional(values, means, root, batch.tasks)
                with pyro.plate("tasks", T, subsample=batch.tasks):
                    pyro.sample("x", dist.MultivariateNormal(mean[0], precision_matrix=precision[0]))

        def model() -> None:
            flat = dist.ImproperUniform(dist.constraints.real_vector, (), (m,))
            s = pyro.sample("shared", flat)
            log_prior, values, structure, Z = self.shared(s[None])
            pyro.factor("prior", log_prior[0])
            weights, root = self.of_tasks(structure, Z, batch.tasks)
            q = root.shape[-1]
            with pyro.plate("tasks", T, subsample=batch.tasks):
                if q:
                    x = pyro.sample("x", dist.Normal(torch.zeros(q).double(), 1.0).to_event(1))
                    weights = weights + (root @ x[None, ..., None])[..., 0]
                pyro.factor("rows", self.problem.log_likelihood_of(batch, values, weights))

        return model, guide


def pseudo_rows(gram: torch.Tensor, linear: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """F (T, D, D) and c (T, D) with F'F about G_t and F'c = b_t, for G of any rank."""
    D = gram.shape[-1]
    largest = gram.diagonal(dim1=-2, dim2=-1).amax(-1).clamp(min=1e-3)
    eye = torch.eye(D, dtype=gram.dtype)
    L = torch.linalg.cholesky(gram + _JITTER * largest[:, None, None] * eye)
    return L.transpose(-1, -2), torch.linalg.solve_triangular(L, linear[..., None], upper=False)[..., 0]
