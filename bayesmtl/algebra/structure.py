"""W = A Z + E with its hyperparameters filled in: what a sharing prior hands to the algebra."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True, eq=False)
class Structure:
    """The Gaussian prior of the weights given hyperparameters, for a batch of B hyperparameter values.

    W = A Z + E with Z[r, d] ~ N(0, basis_scale[r, d]^2) and rows e_t ~ N(0, S_t),
    S_t = diag(residual_scale[t]^2) + residual_factor residual_factor'.

    Args:
        loadings: A, shape (T, R), or (B, T, R) where it depends on hyperparameters; `None` where nothing is
            shared (R = 0).
        basis_scale: Prior standard deviations of Z, shape (B, R, D); `None` together with `loadings`.
        residual_scale: Diagonal part of S_t, shape (B, 1, D), or (B, T, D) where it differs by task. Its sign
            is irrelevant: scales live on the signed line.
        residual_factor: Further part of S, shape (B, D, K), or (B, T, D, K) where it differs by task.
        membership: Where tasks are partitioned, each task's cluster, integers of shape (B, T): one-hot
            columns of A behind a first column of ones (`loadings`), Z = [mu, departures of the cluster means
            from mu]. Then `basis_scale` has two rows, mu's and that of all departures, shape (B, 2, D), and
            the algebra is that of `bayesmtl.algebra.clusters`.
        cluster_scale: Where clusters have residuals of their own, the diagonal part of each cluster's, shape
            (B, K, D); `assigned` says then what `residual_scale` is.
        cluster_factor: The same of the further part, shape (B, K, D, R).
    """

    loadings: torch.Tensor | None = None
    basis_scale: torch.Tensor | None = None
    residual_scale: torch.Tensor | None = None
    residual_factor: torch.Tensor | None = None
    membership: torch.Tensor | None = None
    cluster_scale: torch.Tensor | None = None
    cluster_factor: torch.Tensor | None = None

    def assigned(self, membership: torch.Tensor) -> Structure:
        """The same with tasks in other clusters (B, T), whose residuals they take where clusters have any."""
        rows = torch.arange(len(membership))[:, None]
        scale, factor = self.cluster_scale, self.cluster_factor
        return replace(
            self,
            membership=membership,
            residual_scale=self.residual_scale if scale is None else scale[rows, membership],
            residual_factor=self.residual_factor if factor is None else factor[rows, membership],
        )

    @property
    def residuals_by_cluster(self) -> bool:
        """Whether clusters have residuals of their own."""
        return self.cluster_scale is not None or self.cluster_factor is not None

    @property
    def factor_by_task(self) -> torch.Tensor | None:
        """`residual_factor` with a dimension of tasks, shape (B, 1 or T, D, K)."""
        factor = self.residual_factor
        return factor[:, None] if factor is not None and factor.dim() == 3 else factor

    def repeat(self, times: int) -> Structure:
        """Each hyperparameter value `times` in a row, for several draws under the same value."""

        def repeated(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor.repeat_interleave(times, dim=0)

        own_loadings = self.loadings is not None and self.loadings.dim() == 3
        return Structure(
            repeated(self.loadings) if own_loadings else self.loadings,
            repeated(self.basis_scale),
            repeated(self.residual_scale),
            repeated(self.residual_factor),
            repeated(self.membership),
            repeated(self.cluster_scale),
            repeated(self.cluster_factor),
        )

    def of_outputs(self, num_outputs: int) -> Structure:
        """The prior of weights (C, D) per task, flattened: C independent draws of this one, A shared by all.

        Alike and independent, so that no rotation among the C outputs changes it.
        """
        if num_outputs == 1:
            return self
        assert self.membership is None  # no engine for partitions has several outputs

        def along(scale: torch.Tensor | None) -> torch.Tensor | None:
            return None if scale is None else scale.repeat(1, 1, num_outputs)

        factor = self.residual_factor
        if factor is not None:
            own = torch.eye(num_outputs, dtype=factor.dtype)  # blocks along the diagonal
            factor = torch.einsum("ce,bdk->bcdek", own, factor).flatten(3, 4).flatten(1, 2)
        return Structure(self.loadings, along(self.basis_scale), along(self.residual_scale), factor)

    @property
    def private(self) -> Structure:
        """E alone: the structure given Z."""
        return Structure(residual_scale=self.residual_scale, residual_factor=self.residual_factor)
