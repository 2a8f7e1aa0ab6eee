"""The covariance of all tasks' rows put together block by block, one for each pair of tasks.

Where tasks have many rows this is much less work than entry by entry: Omega_tu is one number per block, the
kernels are read where they are (between distinct inputs), and of a symmetric matrix one half is enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

# Rows per task from which blocks are worth their overhead.
LEAST_ROWS = 64

Where = slice | torch.Tensor


@dataclass(frozen=True, eq=False)
class Blocks:
    """Rows in the order of their tasks.

    Args:
        order: The rows, task by task, shape (n,).
        rows: Where each task's rows are in that order.
        inputs: Which inputs of the kernels they have: a slice where they are neighbours, else positions.
    """

    order: torch.Tensor
    rows: tuple[slice, ...]
    inputs: tuple[Where, ...]

    @classmethod
    def of(cls, task: torch.Tensor, which: torch.Tensor | None, num_tasks: int) -> Blocks:
        """Sort rows by task (n,); `which` are their inputs (n,), the rows themselves if not given."""
        order = torch.argsort(task if which is None else task * (int(which.max()) + 1) + which, stable=True)
        edges = [0, *torch.bincount(task, minlength=num_tasks).cumsum(0).tolist()]
        rows = tuple(slice(start, end) for start, end in zip(edges, edges[1:], strict=False))
        position = order if which is None else which[order]
        return cls(order, rows, tuple(_neighbours(position[part]) for part in rows))

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Pairs of tasks with rows on or below the diagonal."""
        tasks = [t for t, part in enumerate(self.rows) if part.stop > part.start]
        return ((t, u) for t in tasks for u in tasks if u <= t)

    def covariance(self, shape: torch.Tensor, level: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        """sum_q Omega_q,tu k_q + Lambda_tu of the rows in order, (B, n, n); above the block diagonal zeros.

        Args:
            shape: Omega_q, shape (B, Q, T, T).
            level: Lambda, shape (B, T, T).
            kernel: k_q between inputs, shape (B, Q, m, m).
        """
        B, Q = kernel.shape[:2]
        n = self.rows[-1].stop
        K = kernel.new_zeros(B, n, n)
        for t, u in self.pairs():
            block = K[:, self.rows[t], self.rows[u]]
            block += level[:, t, u, None, None]
            for q in range(Q):
                block.addcmul_(
                    _at(kernel[:, q], self.inputs[t], self.inputs[u]), shape[:, q, t, u, None, None]
                )
        return K

    def pull_back(
        self, G: torch.Tensor, shape: torch.Tensor, kernel: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients for Omega_q, Lambda and k_q, given that for K, a symmetric (B, n, n).

        What belongs to the two halves of a symmetric k_q may be anywhere in them.
        """
        to_shape, to_kernel = torch.zeros_like(shape), torch.zeros_like(kernel)
        to_level = torch.zeros_like(shape[:, 0])
        for t, u in self.pairs():
            block = G[:, self.rows[t], self.rows[u]]
            to_level[:, t, u] = to_level[:, u, t] = block.sum((1, 2))
            left, right = self.inputs[t], self.inputs[u]
            # every kernel at once: the block is read once
            found = torch.einsum("bij,bqij->bq", block, _at(kernel, left, right))
            to_shape[:, :, t, u] = to_shape[:, :, u, t] = found
            twice = 1.0 if t == u else 2.0
            _add(to_kernel, left, right, block[:, None], twice * shape[:, :, t, u, None, None])
        return to_shape, to_level, to_kernel


def _neighbours(position: torch.Tensor) -> Where:
    if len(position) and bool((position.diff() == 1).all()):
        return slice(int(position[0]), int(position[-1]) + 1)
    return position


def _at(kernel: torch.Tensor, left: Where, right: Where) -> torch.Tensor:
    """Entries (..., n_t, n_u) of kernels (..., m, m)."""
    part = kernel[..., left, :] if isinstance(left, slice) else kernel.index_select(-2, left)
    return part[..., right] if isinstance(right, slice) else part.index_select(-1, right)


def _add(
    to_kernel: torch.Tensor, left: Where, right: Where, block: torch.Tensor, weight: torch.Tensor
) -> None:
    """Add weight times a block to the inputs of its rows, which may repeat."""
    if isinstance(left, slice) and isinstance(right, slice):
        to_kernel[..., left, right].addcmul_(block, weight)
        return
    weighted = block * weight
    if not isinstance(left, slice):
        rows = weighted.new_zeros(*weighted.shape[:2], to_kernel.shape[-2], weighted.shape[-1])
        weighted = rows.index_add_(-2, left, weighted)
        left = slice(None)
    if isinstance(right, slice):
        to_kernel[..., left, right] += weighted
    else:
        to_kernel[..., left, :].index_add_(-1, right, weighted)
