"""What an engine returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch

from bayesmtl.algebra.conditional import WeightDraws
from bayesmtl.parameters import Values


class Draws(Protocol):
    """Posterior draws in standardised units, of any model."""

    @property
    def hyperparameters(self) -> dict[str, torch.Tensor]:
        """By name, each (C, N, ...), as the sharing prior and the likelihood define them."""

    @property
    def sample_stats(self) -> dict[str, np.ndarray]:
        """What the engine recorded, by name, each (C, N)."""

    @property
    def complete(self) -> bool:
        """Whether all draws that were asked for are there."""

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of chains C and of draws N of each."""


@dataclass(frozen=True, eq=False)
class LinearDraws:
    """Posterior draws of a linear model, in standardised units.

    Args:
        hyperparameters: By name, each (C, N, ...), as the sharing prior and the likelihood define them.
        basis: Z, shape (C, N, R, D).
        weights: W, shape (C, N, T, D).
        factors: Coordinates of E along a shared factor, shape (C, N, T, K).
        sample_stats: By name, each (C, N).
        complete: Whether all draws that were asked for are there.
    """

    hyperparameters: dict[str, torch.Tensor]
    basis: torch.Tensor
    weights: torch.Tensor
    factors: torch.Tensor
    sample_stats: dict[str, np.ndarray]
    complete: bool = True

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of chains C and of draws N of each."""
        return self.weights.shape[0], self.weights.shape[1]

    @classmethod
    def shaped(
        cls,
        num_chains: int,
        num_draws: int,
        values: Values,
        drawn: WeightDraws,
        sample_stats: dict[str, np.ndarray],
        *,
        complete: bool = True,
    ) -> Self:
        """Draws one behind the other, (C N, ...), as those of C chains."""

        def of_chains(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.reshape(num_chains, num_draws, *tensor.shape[1:])

        return cls(
            {name: of_chains(value) for name, value in values.items()},
            of_chains(drawn.basis),
            of_chains(drawn.weights),
            of_chains(drawn.factors),
            sample_stats,
            complete,
        )


@dataclass(frozen=True, eq=False)
class HyperparameterDraws:
    """Posterior draws of the hyperparameters of functions, which are drawn where they are asked for.

    Args:
        hyperparameters: By name, each (C, N, ...); clusters of the tasks among them.
        sample_stats: By name, each (C, N).
        complete: Whether all draws that were asked for are there.
    """

    hyperparameters: dict[str, torch.Tensor]
    sample_stats: dict[str, np.ndarray]
    complete: bool = True

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of chains C and of draws N of each."""
        first = next(iter(self.hyperparameters.values()))
        return first.shape[0], first.shape[1]
