"""What a run of Laplace's method has computed: a killed run computes the rest, and gives the same draws.

Between two evaluations of a density everything is quick, and follows from the seed. So a resumed run goes
through all of it again and takes from the file what evaluations gave; weights, whose draws take randomness of
their own, are in the file with the state of its source.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from bayesmtl.algebra.conditional import WeightDraws
from bayesmtl.errors import CheckpointError
from bayesmtl.parameters import ParameterSpace
from bayesmtl.posteriors.linear.outcomes import LaplaceMarginal
from bayesmtl.posteriors.target import Density, Target
from bayesmtl.samplers.checkpoint import ArrayFile
from bayesmtl.samplers.settings import Settings

_PARTS = ("weights", "basis", "factors")
_SAME = 1e-6  # relative: what another processor's rounding may make of points


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a density was at some points.

    Args:
        points: Shape (B, P).
        value: Log densities, shape (B,).
        gradient: Shape (B, P), NaN where it was not asked for.
    """

    points: torch.Tensor
    value: torch.Tensor
    gradient: torch.Tensor


@dataclass(eq=False)
class Chunks:
    """Draws of Z and W that are done, chunk by chunk.

    Args:
        attempt: Which way of drawing them, counted from 0.
        parts: Draws of every chunk.
        log_weights: Their log importance weights.
    """

    attempt: int = 0
    parts: list[WeightDraws] = field(default_factory=list)
    log_weights: list[torch.Tensor] = field(default_factory=list)

    @property
    def number(self) -> int:
        """How many draws there are."""
        return sum(len(log_weight) for log_weight in self.log_weights)

    def all_draws(self) -> WeightDraws:
        """All of them in order."""
        return WeightDraws(*(torch.cat([getattr(part, name) for part in self.parts]) for name in _PARTS))


class Journal:
    """Evaluations and draws in the order in which they are made, in memory and, if asked for, in a file.

    Args:
        target: The posterior.
        settings: Seed, number of draws and the file, if there is one.
        marginal: What the weights' mode is searched with, where there is one: its search starts from the last
            mode, which a resumed run has to know.

    Raises:
        CheckpointError: If the file is damaged or belongs to another run.
    """

    def __init__(self, target: Target, settings: Settings, marginal: LaplaceMarginal | None = None):
        self.evaluations: list[Evaluation] = []
        self.chunks = Chunks()
        self._marginal, self._next = marginal, 0
        self._start = torch.zeros(0, dtype=torch.float64)
        self._generator: dict[str, object] | None = None
        self._file = None
        if settings.checkpoint is not None:
            run = (settings.seed, settings.num_chains, settings.num_draws)
            self._file = ArrayFile(settings.checkpoint, f"{target.fingerprint()} laplace {run}")
            arrays = self._file.read()
            if arrays is not None:
                self._load(arrays)

    def evaluate(self, density: Density, points: torch.Tensor, *, with_gradient: bool) -> Evaluation:
        """A density at points (B, P): from the file where it was evaluated before, or now.

        Raises:
            CheckpointError: If the file has other points in this place.
        """
        if self._next < len(self.evaluations):
            done = self.evaluations[self._next]
            if done.points.shape != points.shape or not torch.allclose(done.points, points, _SAME, _SAME):
                raise CheckpointError(
                    "checkpoint",
                    expected="a checkpoint of this version, on a machine that computes alike",
                    found=f"evaluation {self._next} at another point",
                    remedy="Delete the file to start anew, or give another path.",
                )
        else:
            if with_gradient:
                done = Evaluation(points.clone(), *density.value_and_gradient(points))
            else:
                done = Evaluation(points.clone(), density.value(points), torch.full_like(points, torch.nan))
            self.evaluations.append(done)
            self._noted()
        self._next += 1
        return done

    def resume(self, rng: np.random.Generator) -> Chunks:
        """The chunks that are done, with the source of randomness as it was after the last."""
        if self._generator is not None:
            rng.bit_generator.state = self._generator
        return self.chunks

    def drawn(self, part: WeightDraws, log_weight: torch.Tensor, rng: np.random.Generator) -> None:
        """Add a chunk of draws."""
        self.chunks.parts.append(part)
        self.chunks.log_weights.append(log_weight)
        self._generator = dict(rng.bit_generator.state)
        self._noted()

    def start_again(self, attempt: int) -> None:
        """Draw all chunks in another way."""
        self.chunks.attempt, self.chunks.parts, self.chunks.log_weights = attempt, [], []

    @property
    def has_file(self) -> bool:
        """Whether what is kept outlives the run."""
        return self._file is not None

    def save(self) -> None:
        """Write the file, if there is one."""
        if self._file is not None:
            self._file.write(self._arrays())

    def _noted(self) -> None:
        """Keep what the next evaluation starts from, and write when some seconds have passed."""
        if self._marginal is not None and self._marginal.start is not None:
            self._start = self._marginal.start
        if self._file is not None and self._file.due:
            self.save()

    def _arrays(self) -> dict[str, np.ndarray]:
        every, chunks = self.evaluations, self.chunks
        empty = torch.zeros(0, dtype=torch.float64)

        def joined(tensors: list[torch.Tensor]) -> np.ndarray:
            return (torch.cat(tensors) if tensors else empty).numpy()

        return {
            "points": joined([done.points for done in every]),
            "values": joined([done.value for done in every]),
            "gradients": joined([done.gradient for done in every]),
            "sizes": np.array([len(done.points) for done in every], dtype=int),
            "start": self._start.numpy(),
            "attempt": np.array(chunks.attempt),
            "chunk_sizes": np.array([len(log_weight) for log_weight in chunks.log_weights], dtype=int),
            "log_weights": joined(chunks.log_weights),
            **{f"drawn_{name}": joined([getattr(part, name) for part in chunks.parts]) for name in _PARTS},
            "generator": np.frombuffer(json.dumps(self._generator).encode(), dtype=np.uint8),
        }

    def _load(self, arrays: dict[str, np.ndarray]) -> None:
        tensors = {
            name: torch.from_numpy(array) for name, array in arrays.items() if array.dtype == np.float64
        }
        sizes, chunk_sizes = arrays["sizes"].tolist(), arrays["chunk_sizes"].tolist()
        if sizes:
            parts = (tensors[name].split(sizes) for name in ("points", "values", "gradients"))
            self.evaluations = [Evaluation(*part) for part in zip(*parts, strict=True)]
        if chunk_sizes:
            drawn = (tensors[f"drawn_{name}"].split(chunk_sizes) for name in _PARTS)
            self.chunks.parts = [WeightDraws(*part) for part in zip(*drawn, strict=True)]
            self.chunks.log_weights = list(tensors["log_weights"].split(chunk_sizes))
        self.chunks.attempt = int(arrays["attempt"])
        self._generator = json.loads(arrays["generator"].tobytes())
        self._start = tensors["start"]
        if self._marginal is not None and self._start.numel():
            self._marginal.start = self._start


@dataclass(frozen=True, eq=False)
class Recorded(Density):
    """A density whose evaluations are kept.

    Args:
        density: The density.
        journal: Where they are kept.
        at_once: Points evaluated together, and kept together.
    """

    density: Density
    journal: Journal
    at_once: int

    def value(self, points: torch.Tensor) -> torch.Tensor:
        """See `Density.value`."""
        parts = points.split(self.at_once)
        return torch.cat(
            [self.journal.evaluate(self.density, part, with_gradient=False).value for part in parts]
        )

    def value_and_gradient(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Density.value_and_gradient`."""
        parts = [
            self.journal.evaluate(self.density, part, with_gradient=True)
            for part in points.split(self.at_once)
        ]
        return torch.cat([part.value for part in parts]), torch.cat([part.gradient for part in parts])


class RecordedTarget(Target):
    """A target whose evaluations are kept, and those of the part of its data that modes are searched with.

    Args:
        target: The target.
        journal: Where they are kept.
    """

    def __init__(self, target: Target, journal: Journal):
        self._target, self._journal = target, journal

    @property
    def space(self) -> ParameterSpace:
        """See `Target.space`."""
        return self._target.space

    @property
    def unseen(self) -> np.ndarray:
        """See `Target.unseen`."""
        return self._target.unseen

    def log_density(self, points: torch.Tensor) -> torch.Tensor:
        """See `Target.log_density`; not kept, since it carries gradients of its own."""
        return self._target.log_density(points)

    def fingerprint(self) -> str:
        """See `Target.fingerprint`."""
        return self._target.fingerprint()

    def reduced(self, rng: np.random.Generator) -> Target | None:
        """See `Target.reduced`."""
        reduced = self._target.reduced(rng)
        return None if reduced is None else RecordedTarget(reduced, self._journal)

    def value(self, points: torch.Tensor) -> torch.Tensor:
        """See `Target.value`."""
        return self._journal.evaluate(self._target, points, with_gradient=False).value

    def value_and_gradient(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Target.value_and_gradient`."""
        done = self._journal.evaluate(self._target, points, with_gradient=True)
        return done.value, done.gradient


@contextmanager
def kept(journal: Journal) -> Iterator[None]:
    """Work whose journal is saved when it is done, and when it is interrupted.

    Raises:
        KeyboardInterrupt: If interrupted, with what to do about it.
    """
    try:
        yield
    except KeyboardInterrupt:
        journal.save()
        saved = "fit again with the same checkpoint" if journal.has_file else "fit with checkpoint=path"
        raise KeyboardInterrupt(
            "nothing is drawn before hyperparameters are all weighted, so that there is nothing to return; "
            f"{saved} to go on from where an interrupt came"
        ) from None
    journal.save()
