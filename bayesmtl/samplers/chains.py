"""Sweeps of a batch of chains, with progress, checkpoints and interrupts."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from arviz_stats.base.array import array_stats

from bayesmtl.samplers.progress import iterations
from bayesmtl.samplers.settings import Settings

AGREEMENT = 1.01  # R-hat of Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021)
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
    rng: np.random.Generator | None = None,
) -> bool:
    """Advance a state until warm-up and `num_draws` draws are done, and say whether they all are.

    Args:
        state: Where the chains are, changed in place.
        advance: One sweep.
        num_draws: Draws of every chain.
        settings: Warm-up, chains and whether to show progress.
        file: Where the state is kept, if anywhere. A failure to write it is told once, and the run goes on.
        rng: Source of randomness that sweeps use besides the state's own.

    An interrupt inside a sweep leaves the state as it was before it, so that the run resumes to the same
    draws.

    Raises:
        KeyboardInterrupt: If interrupted while nothing is drawn yet; later, what was drawn stands.
    """
    total = settings.num_warmup + num_draws
    saver = None if file is None else _Saver(file)
    snapshot = Snapshot.of(state, rng)
    try:
        for _ in iterations(state.iteration, total, f"{settings.num_chains} chains", show=settings.progress):
            snapshot = Snapshot.of(state, rng)
            advance(state)
            if saver is not None and saver.file.due:
                saver.save(state)
    except KeyboardInterrupt:
        if state.iteration == snapshot.iteration:
            snapshot.restore(state, rng)
        if saver is not None:
            saver.save(state)
        if len(state.draws) < _LEAST_DRAWS:
            raise
        return False
    if saver is not None:
        saver.save(state)
    return True


def settled(quantities: torch.Tensor, num_effective: int) -> bool:
    """Whether chains agree and have so many effective draws of every quantity, in the bulk and the tails.

    Args:
        quantities: Shape (C, N, K).
        num_effective: Effective draws wanted, all chains together.
    """
    values = quantities.numpy()
    varying = np.ptp(values, axis=(0, 1)) > 0
    values, axes = values[:, :, varying], {"chain_axis": 0, "draw_axis": 1}
    if not values.size:
        return True
    if len(values) < 2:  # one chain is split in two, which R-hat needs
        half = values.shape[1] // 2
        values = np.concatenate([values[:, :half], values[:, -half:]])
    if not array_stats.rhat(values, **axes).max() <= AGREEMENT:
        return False
    bulk = array_stats.ess(values, **axes)
    tail = array_stats.ess(values, method="tail", prob=(0.05, 0.95), **axes)
    return bool(min(bulk.min(), tail.min()) >= num_effective)


class _Saver(Generic[_State]):
    """Saves a state where it can: a full disk costs the checkpoint and not the draws."""

    def __init__(self, file: StateFile[_State]):
        self.file, self._failed = file, False

    def save(self, state: _State) -> None:
        try:
            self.file.save(state)
        except OSError as error:
            if not self._failed:
                self._failed = True
                told = f"The checkpoint could not be written ({error}); the run goes on without it."
                warnings.warn(told, RuntimeWarning, stacklevel=4)


@dataclass(frozen=True)
class Snapshot:
    """A state before a sweep. Sweeps replace tensors, grow lists, and change what adapts in place.

    Args:
        values: Fields by name; of lists with their length, of generators and objects a copy.
        randomness: State of the further source of randomness.
        iteration: Sweeps done.
    """

    values: dict[str, Any]
    randomness: Any
    iteration: int

    @classmethod
    def of(cls, state: ChainState, rng: np.random.Generator | None) -> Snapshot:
        """The state as it is now."""
        values = {name: _kept(value) for name, value in vars(state).items()}
        return cls(values, None if rng is None else rng.bit_generator.state, state.iteration)

    def restore(self, state: ChainState, rng: np.random.Generator | None) -> None:
        """Put a state, and its randomness, back to where they were."""
        for name, value in self.values.items():
            if isinstance(value, _List):
                del value.items[value.length :]
                value = value.items
            elif isinstance(value, _Generator):
                value.generator.set_state(value.state)
                value = value.generator
            setattr(state, name, value)
        if rng is not None:
            rng.bit_generator.state = self.randomness


class _List(NamedTuple):
    items: list[Any]
    length: int


class _Generator(NamedTuple):
    generator: torch.Generator
    state: torch.Tensor


def _kept(value: Any) -> Any:
    if isinstance(value, list):
        return _List(value, len(value))
    if isinstance(value, torch.Generator):
        return _Generator(value, value.get_state())
    if isinstance(value, (torch.Tensor, int, float, tuple)) or value is None:
        return value
    return copy.copy(value)
