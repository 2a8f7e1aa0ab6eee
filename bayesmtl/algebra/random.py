"""Random numbers as tensors."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def standard_normal(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    """Standard normal numbers in a tensor's own memory.

    Products of matrices may round differently by where their numbers begin in memory, which torch aligns and
    NumPy does not; the same seed is to give the same draws to the last bit.

    Args:
        rng: Source of randomness.
        shape: Shape of the tensor.

    Returns:
        A tensor of float64 of that shape.

    Example:
        >>> standard_normal(np.random.default_rng(0), 2, 3).shape
        torch.Size([2, 3])
    """
    numbers = torch.empty(shape, dtype=torch.float64)
    rng.standard_normal(out=numbers.numpy())
    return numbers


def key_of(name: str) -> int:
    """A number that stands for a name, the same in every process: to key a stream of random numbers.

    Example:
        >>> key_of("lab_1") == key_of("lab_1"), key_of("lab_1") == key_of("lab_2")
        (True, False)
    """
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
