"""The least noise: without one, densities have no bound where weights meet the targets of a task exactly."""

from __future__ import annotations

import torch

from bayesmtl.algebra.functions import LEAST_NOISE


def bounded_below(sd: torch.Tensor) -> torch.Tensor:
    """Noise as densities take it: as it is from twice `LEAST_NOISE` on, and never below that.

    In between it is bent by a parabola, so that the density has a slope everywhere.

    Example:
        >>> bounded_below(torch.tensor([0.0, 0.5], dtype=torch.float64)).tolist()
        [0.0001, 0.5]
    """
    return torch.where(sd >= 2 * LEAST_NOISE, sd, LEAST_NOISE + sd.square() / (4 * LEAST_NOISE))
