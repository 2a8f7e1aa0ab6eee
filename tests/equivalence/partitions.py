"""All partitions of a few tasks: the slow twin of every sampler of partitions."""

from __future__ import annotations

from collections.abc import Iterator

import torch


def growth_strings(num_tasks: int, used: int = 0) -> Iterator[tuple[int, ...]]:
    """Every partition once, clusters numbered in the order of their first task."""
    if num_tasks == 0:
        yield ()
        return
    for cluster in range(used + 1):
        for rest in growth_strings(num_tasks - 1, max(used, cluster + 1)):
            yield (cluster, *rest)


def all_partitions(num_tasks: int) -> torch.Tensor:
    """Shape (Bell number, T)."""
    return torch.tensor(list(growth_strings(num_tasks)))


def one_hot_loadings(membership: torch.Tensor) -> torch.Tensor:
    """A = [1, one-hot clusters] of one partition (T,), shape (T, 1 + K)."""
    T = len(membership)
    return torch.cat([torch.ones(T, 1), torch.nn.functional.one_hot(membership)], dim=1).double()
