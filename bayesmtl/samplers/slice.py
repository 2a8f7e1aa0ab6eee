"""Slice sampling of one coordinate of several chains: no step size to tune."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

_WIDTH = 1.0  # of the first interval: hyperparameters are sampled on a logarithmic scale
_MOST_STEPS = 8  # of stepping out, both sides together


def slice_sample(
    log_density: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, rng: np.random.Generator
) -> torch.Tensor:
    """Move every chain within its slice: an interval is stepped out around x, then shrunk to a draw.

    Args:
        log_density: Of coordinates (C,), shape (C,); chains do not depend on each other.
        x: Where the chains are, shape (C,).
        rng: Source of randomness.

    Source: Neal (2003).
    """
    C = len(x)

    def uniform() -> torch.Tensor:
        return torch.from_numpy(rng.random(C))

    height = log_density(x) + uniform().log()
    lower = x - _WIDTH * uniform()
    upper = lower + _WIDTH
    left = (uniform() * _MOST_STEPS).floor()
    right = _MOST_STEPS - 1 - left
    for _ in range(_MOST_STEPS - 1):
        down, up = (left > 0) & (log_density(lower) > height), (right > 0) & (log_density(upper) > height)
        if not bool((down | up).any()):
            break
        lower, left = lower - _WIDTH * down, left - down.to(left.dtype)
        upper, right = upper + _WIDTH * up, right - up.to(right.dtype)
    done = torch.zeros(C, dtype=torch.bool)
    moved = x.clone()
    while not bool(done.all()):
        proposed = torch.where(done, moved, lower + (upper - lower) * uniform())
        done |= log_density(proposed) >= height
        moved = torch.where(done, proposed, moved)
        lower = torch.where(~done & (proposed < x), proposed, lower)
        upper = torch.where(~done & (proposed >= x), proposed, upper)
    return moved
