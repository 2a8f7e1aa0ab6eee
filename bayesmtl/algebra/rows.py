"""Rows of tasks laid out for batches, and the Gaussian pseudo-data that stand for them.

A likelihood that is not Gaussian is replaced, row by row, by exp(kappa_i f_i - omega_i f_i^2 / 2): by its
second-order expansion in Newton's method, exactly given omega in Polya-Gamma augmentation. Per task the
weights then enter through G_t = X_t' diag(omega) X_t and b_t = X_t' kappa only, as with Gaussian noise.

On paper                                  In code
X_t = Q_t R_t, Q_t'Q_t = I                `Block.Q`, `Block.R`    of the rank of X_t, so that any X_t will do
K_t = Q_t' diag(omega) Q_t = L_t L_t'     `gram`                  positive definite where omega > 0
F_t = L_t'R_t, c_t = L_t^-1 Q_t' kappa    `PseudoData.F`, `.c`    F_t'F_t = G_t and F_t'c_t = b_t
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from bayesmtl.algebra.collapsed import cholesky_or_nan
from bayesmtl.algebra.statistics import RANK_STEP, RANK_TOLERANCE, CompressedTasks, TaskGroup


@dataclass(frozen=True, eq=False)
class Block:
    """Tasks of about the same rank and number of rows, padded with rows of zeros to m rows and rank r.

    Args:
        index: Which tasks, shape (T_b,).
        X: Features, shape (T_b, m, D).
        Q: Orthonormal basis of the columns of X_t, shape (T_b, m, r).
        R: Coordinates of X_t in it, shape (T_b, r, D).
        place: Where its entries are among all padded rows.
    """

    index: torch.Tensor
    X: torch.Tensor
    Q: torch.Tensor
    R: torch.Tensor
    place: slice

    @cached_property
    def pairs(self) -> torch.Tensor:
        """Products q_j q_k of every row, j <= k, shape (T_b, m, r (r + 1) / 2)."""
        first, second = _upper(self.Q.shape[-1])
        return self.Q[..., first] * self.Q[..., second]

    @cached_property
    def padding(self) -> torch.Tensor:
        """Which directions of the basis are padding, shape (T_b, r)."""
        return (self.Q**2).sum(1) < 0.5

    def unpacked(self, packed: torch.Tensor) -> torch.Tensor:
        """Symmetric matrices (..., r, r) from their upper triangles (..., r (r + 1) / 2), as in `pairs`."""
        r = self.Q.shape[-1]
        first, second = _upper(r)
        whole = torch.empty(*packed.shape[:-1], r, r, dtype=packed.dtype)
        whole[..., first, second] = packed
        whole[..., second, first] = packed
        return whole

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """This block's entries of values of all padded rows: (B, N) -> (T_b, B, m)."""
        return values[:, self.place].reshape(len(values), len(self.index), -1).transpose(0, 1)


def _upper(r: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of the upper triangle of an r x r matrix, as rows and columns."""
    first, second = torch.triu_indices(r, r)
    return first, second


@dataclass(frozen=True, eq=False)
class TaskRows:
    """All observed rows, grouped in blocks and padded; row vectors have N entries, padding included.

    Args:
        groups: Blocks of equal rank r together.
        y: Targets, shape (N,); 0 for padding.
        real: Which entries are rows and not padding, shape (N,).
        num_tasks: T.
        task: Task of every entry, padding included, shape (N,).
        weights: How often every row counts, shape (N,); 0 for padding.
        offset: Known part of every row's function, shape (N,); 0 for padding.
        trials: Number of trials of every row, shape (N,); 1 for padding and where none are known.
    """

    groups: tuple[tuple[Block, ...], ...]
    y: torch.Tensor
    real: torch.Tensor
    num_tasks: int
    task: torch.Tensor
    weights: torch.Tensor
    offset: torch.Tensor
    trials: torch.Tensor

    @classmethod
    def of(
        cls,
        X: np.ndarray,
        y: np.ndarray,
        task: np.ndarray,
        num_tasks: int,
        *,
        weights: np.ndarray | None = None,
        offset: np.ndarray | None = None,
        trials: np.ndarray | None = None,
    ) -> TaskRows:
        """Lay out rows; rows whose target is NaN (not observed) do not count, and their order is irrelevant.

        Args:
            X: Features, shape (n, D).
            y: Targets, shape (n,), NaN where not observed.
            task: Task of each row, integers in 0 .. num_tasks - 1, shape (n,).
            num_tasks: T; tasks without rows are there, without information.
            weights: How often rows count, shape (n,); once each by default.
            offset: Known parts of the rows' functions, shape (n,); 0 by default.
            trials: Numbers of trials, shape (n,); 1 by default.
        """
        # columns of what goes with each row: target, weight, offset, trials, and whether it is a row
        given = np.zeros((len(y), 5))
        for column, (values, default) in enumerate(((y, 0), (weights, 1), (offset, 0), (trials, 1))):
            given[:, column] = default if values is None else values
        given[:, 4] = 1
        observed = ~np.isnan(y)
        X, given, task = X[observed], given[observed], task[observed]
        order = np.lexsort((*given.T[::-1], *X.T[::-1], task))
        X, given, task = X[order], given[order], task[order]
        count = np.bincount(task, minlength=num_tasks)
        ends = np.cumsum(count)
        D = X.shape[1]
        shapes: dict[tuple[int, int], list[int]] = {}
        bases = []
        for t in range(num_tasks):
            X_t = X[ends[t] - count[t] : ends[t]]
            bases.append(_basis(X_t))
            padded = min(D, RANK_STEP * math.ceil(max(bases[t][1].shape[0], 1) / RANK_STEP))
            length = 1 << (max(int(count[t]), 1) - 1).bit_length()
            shapes.setdefault((padded, length), []).append(t)
        groups: dict[int, list[Block]] = {}
        parts, tasks, start = [], [], 0
        for (r, _), members in sorted(shapes.items()):
            m = max(1, int(count[members].max()))
            size = (len(members), m)
            X_b, Q, R = np.zeros((*size, D)), np.zeros((*size, r)), np.zeros((len(members), r, D))
            given_b = np.zeros((*size, given.shape[1]))
            given_b[..., 3] = 1
            for i, t in enumerate(members):
                rows = slice(ends[t] - count[t], ends[t])
                X_b[i, : count[t]], given_b[i, : count[t]] = X[rows], given[rows]
                Q_t, R_t = bases[t]
                Q[i, : count[t], : Q_t.shape[1]], R[i, : R_t.shape[0]] = Q_t, R_t
            place = slice(start, start + len(members) * m)
            start = place.stop
            tensors = [torch.from_numpy(array) for array in (X_b, Q, R)]
            block = Block(torch.tensor(members), tensors[0], tensors[1], tensors[2], place)
            groups.setdefault(r, []).append(block)
            parts.append(given_b.reshape(-1, given.shape[1]))
            tasks.append(np.repeat(members, m))
        layout = tuple(tuple(blocks) for blocks in groups.values())
        columns = torch.from_numpy(np.concatenate(parts)).T.contiguous()
        target, weight, known, number, real = columns.unbind(0)
        index = torch.from_numpy(np.concatenate(tasks))
        return cls(layout, target, real > 0, num_tasks, index, weight, known, number)

    def merged(self) -> TaskRows:
        """The same with rows of a task that differ in nothing but their weight as one, of their total weight.

        The likelihood of every task's weights is the same, on a fraction of the rows where features take few
        values, as in surveys.
        """
        real = self.real
        X = torch.cat([block.X.flatten(0, 1) for block in self.blocks])[real].numpy()
        carried = (self.task, self.y, self.offset, self.trials)
        columns = np.column_stack([*(column[real].numpy() for column in carried), X])
        _, first, same = np.unique(columns, axis=0, return_index=True, return_inverse=True)
        if len(first) == len(columns):
            return self
        total = np.bincount(same.ravel(), weights=self.weights[real].numpy())
        task, y, offset, trials = (column[real].numpy()[first] for column in carried)
        T = self.num_tasks
        return TaskRows.of(X[first], y, task, T, weights=total, offset=offset, trials=trials)

    @property
    def known(self) -> torch.Tensor:
        """Known part of every row's function, of the rows' shape or one that is broadcast to it."""
        return self.offset

    @property
    def blocks(self) -> tuple[Block, ...]:
        """All blocks, in the order of the entries of row vectors."""
        return tuple(block for group in self.groups for block in group)

    @property
    def num_features(self) -> int:
        """D."""
        return self.blocks[0].X.shape[-1]

    @property
    def size(self) -> int:
        """N, the number of entries of a row vector."""
        return len(self.y)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row vector: (N,)."""
        return (len(self.y),)

    @property
    def num_weights(self) -> int:
        """Length of a task's weights: D."""
        return self.num_features

    def inner(self, a: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        """a_i f_i of every row, shape (B, N)."""
        return a * f

    def times(self, omega: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        """omega_i f_i of every row, shape (B, N)."""
        return omega * f

    def regular(self, omega: torch.Tensor, least: float) -> torch.Tensor:
        """Precisions, shape (B, N), that are nowhere below `least`."""
        return omega.clamp(min=least)

    def predictor(self, weights: torch.Tensor) -> torch.Tensor:
        """f = x'w_t of every row: (B, T, D) -> (B, N)."""
        parts = []
        for block in self.blocks:
            f = block.X @ weights[:, block.index].permute(1, 2, 0)  # (T_b, m, B)
            parts.append(f.permute(2, 0, 1).flatten(1))
        return torch.cat(parts, dim=1)

    def transposed(self, values: torch.Tensor) -> torch.Tensor:
        """X_t' times the rows' values, task by task: (B, N) -> (B, T, D)."""
        first = self.blocks[0].X
        total = torch.empty(len(values), self.num_tasks, first.shape[-1], dtype=values.dtype)
        for block in self.blocks:
            total[:, block.index] = (block.of(values) @ block.X).transpose(0, 1)
        return total

    def pseudo_data(self, omega: torch.Tensor, kappa: torch.Tensor) -> PseudoData:
        """The Gaussian data that stand for rows with these precisions and linear terms.

        Args:
            omega: Precisions, positive, shape (B, N).
            kappa: Linear terms, shape (B, N) or (1, N).
        """
        factors, index, F = [], [], []
        for group in self.groups:
            grams, R = [], torch.cat([block.R for block in group])
            for block in group:
                packed = (block.of(omega) @ block.pairs).transpose(0, 1)  # (B, T_b, r (r + 1) / 2)
                gram = block.unpacked(packed)
                gram.diagonal(dim1=-2, dim2=-1).add_(block.padding)
                grams.append(gram)
            L = cholesky_or_nan(torch.cat(grams, dim=1))
            factors.append(L)
            index.append(torch.cat([block.index for block in group]))
            F.append(L.transpose(-1, -2) @ R)
        return PseudoData(self, tuple(factors), tuple(index), tuple(F)).with_linear(kappa)

    def linear_terms(self, kappa: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Q_t' kappa of every group's tasks: (B, N) -> (B, T_g, r) each."""
        return tuple(
            torch.cat([(block.of(kappa) @ block.Q).transpose(0, 1) for block in group], dim=1)
            for group in self.groups
        )

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """Sums over the rows of every task: (B, N) -> (B, T); padding does not count."""
        total = torch.zeros(len(values), self.num_tasks, dtype=values.dtype)
        counted = values * self.real.to(values.dtype)
        for block in self.blocks:
            total[:, block.index] = block.of(counted).sum(-1).T
        return total

    def variances(self, covariance: torch.Tensor) -> torch.Tensor:
        """x'V_t x of every row: (B, T, D, D) -> (B, N)."""
        parts = []
        for block in self.blocks:
            inside = block.R @ covariance[:, block.index] @ block.R.transpose(-1, -2)
            first, second = _upper(block.Q.shape[-1])
            twice = torch.where(first == second, 1.0, 2.0).to(inside.dtype)
            packed = (inside[..., first, second] * twice).permute(1, 2, 0)
            parts.append((block.pairs @ packed).permute(2, 0, 1).flatten(1))
        return torch.cat(parts, dim=1)


@dataclass(frozen=True, eq=False)
class PseudoData:
    """Factored precisions of B weightings of the rows, and one linear term for each.

    Args:
        rows: The rows.
        factors: L_t by group, each (B, T_g, r, r).
        index: Tasks by group, each (T_g,).
        F: F_t by group, each (B, T_g, r, D).
        c: c_t by group, each (B, T_g, r).
    """

    rows: TaskRows
    factors: tuple[torch.Tensor, ...]
    index: tuple[torch.Tensor, ...]
    F: tuple[torch.Tensor, ...]
    c: tuple[torch.Tensor, ...] = ()

    def with_linear(self, kappa: torch.Tensor) -> PseudoData:
        """The same precisions with another linear term, shape (B, N) or (1, N)."""
        c = tuple(
            torch.linalg.solve_triangular(L, linear.expand(len(L), -1, -1)[..., None], upper=False)[..., 0]
            for L, linear in zip(self.factors, self.rows.linear_terms(kappa), strict=True)
        )
        return PseudoData(self.rows, self.factors, self.index, self.F, c)

    def compressed(self) -> CompressedTasks:
        """As data of noise 1, so that `log_marginal` is log of the integral of exp(b'w - w'G w / 2) p(W)."""
        groups, residual = [], None
        for index, F, c in zip(self.index, self.F, self.c, strict=True):
            if residual is None:
                residual = torch.zeros(len(c), self.rows.num_tasks, dtype=c.dtype)
            groups.append(TaskGroup(index, torch.cat([F, c[..., None]], dim=-1)))
            residual[:, index] = -(c**2).sum(-1)  # N(c | F w, I) without its constant and without c'c
        assert residual is not None
        return CompressedTasks(
            tuple(groups), residual, torch.zeros(self.rows.num_tasks, dtype=residual.dtype)
        )


def _basis(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Q (n, r) with orthonormal columns and R (r, D) such that X = Q R, r the rank of X."""
    eigenvalues, vectors = np.linalg.eigh(X.T @ X)
    largest = max(float(eigenvalues[-1]) if eigenvalues.size else 0.0, np.finfo(float).tiny)
    kept = eigenvalues > RANK_TOLERANCE * largest
    root = np.sqrt(eigenvalues[kept])
    return (X @ vectors[:, kept]) / root, root[:, None] * vectors[:, kept].T
