"""Sweeps of a batch of chains, with progress, checkpoints and interrupts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from bayesmtl.samplers.progress import iterations
from bayesmtl.samplers.settings import Settings

_LEAST_DRAWS = 4  # of each chain, without which nothing can be said of convergence


class ChainState(Protocol):
    """Where chains are, and what they have drawn."""

    @property
    def iteration(self) -> int:
        """Sweeps done."""

    @property
    def draws(self) -> Sequence[Any]:
        """What was kept, one entry per sweep after warm-up."""


_Kept = TypeVar("_Kept", contravariant=True)
_State = TypeVar("_State", bound=ChainState)


class StateFile(Protocol[_Kept]):
    """Where a state is kept."""

    @property
    def due(self) -> bool:
        """Whether some seconds have passed since it was last saved."""

    def save(self, state: _Kept) -> None:
        """Write it; the previous one stays until the new one is whole."""


def sweep(
    state: _State,
    advance: Callable[[_State], None],
    num_draws: int,
    settings: Settings,
    file: StateFile[_State] | None,
) -> bool:
    """Advance a state until warm-up and `num_draws` draws are done, and say whether they all are.

    Args:
        state: Where the chains are, changed in place.
        advance: One sweep.
        num_draws: Draws of every chain.
        settings: Warm-up, chains and whether to show progress.
        file: Where the state is kept, if anywhere.

    Raises:
        KeyboardInterrupt: If interrupted while nothing is drawn yet; later, what was drawn stands.
    """
    total, complete = settings.num_warmup + num_draws, True
    try:
        for _ in iterations(state.iteration, total, f"{settings.num_chains} chains", show=settings.progress):
            advance(state)
            if file is not None and file.due:
                file.save(state)
    except KeyboardInterrupt:
        if len(state.draws) < _LEAST_DRAWS:
            raise
        complete = False
    if file is not None:
        file.save(state)
    return complete
