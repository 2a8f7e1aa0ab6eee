"""The greedy choice of the informative vector machine: what would say most, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch


class Choice(NamedTuple):
    """What was chosen, best first.

    Attributes:
        positions: Of the candidates.
        gains: Mean reductions of the entropy, in nats.
        spreads: Mean standard deviations just before each was chosen.
    """

    positions: list[int]
    gains: list[float]
    spreads: list[float]


def greedy_choice(
    variance: torch.Tensor,
    column: Callable[[int], torch.Tensor],
    noise: torch.Tensor,
    number: int,
    *,
    least: float = 0.0,
) -> Choice:
    """Choose candidates by how much each would lower the entropy, given those before it.

    Measuring candidate i with noise variance s_i lowers it by 1/2 log(1 + v_i / s_i), where v_i is the
    variance given all before: a Cholesky factorisation that pivots on this, of which only the columns of the
    chosen are ever looked at. O(m number^2).

    Args:
        variance: Prior variances of the m candidates under S models, shape (S, m).
        column: Gives the covariances of one candidate with all, shape (S, m).
        noise: Variances of the noise, shape (S, m).
        number: How many to choose.
        least: Gain below which no more are chosen.

    Source: Lawrence, Seeger and Herbrich (2003), with targets that are not known yet.
    """
    columns: list[torch.Tensor] = []
    chosen = Choice([], [], [])
    for _ in range(min(number, variance.shape[1])):
        gain = 0.5 * torch.log1p(variance.clamp(min=0.0) / noise).mean(0)
        gain[chosen.positions] = -torch.inf
        best = int(gain.argmax())
        if gain[best] < least:
            break
        chosen.positions.append(best)
        chosen.gains.append(float(gain[best]))
        chosen.spreads.append(float(variance[:, best].clamp(min=0.0).mean().sqrt()))
        new = column(best).clone()
        for known in columns:
            new -= known * known[:, best, None]
        new /= (variance[:, best] + noise[:, best]).sqrt()[:, None]
        columns.append(new)
        variance = variance - new.square()
    return chosen
