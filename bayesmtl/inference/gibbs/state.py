"""Where chains of the Gibbs engine are, as an object and as the arrays of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from bayesmtl.algebra.conditional import WeightDraws
from bayesmtl.posteriors.linear.outcomes import Expansion
from bayesmtl.samplers.checkpoint import STEP_FIELDS, ArrayFile, restored_step, stacked_arrays
from bayesmtl.samplers.hmc import StepSize

_PARTS = ("weights", "basis", "factors")  # of draws
_LISTS = ("window", "points_drawn", "stats", "renewed", "partitions", "density")  # of tensors, of the state


@dataclass
class State:
    """Where the chains are, and what they have drawn.

    Args:
        points: Hyperparameter coordinates, shape (C, P).
        current: W, Z and the coordinates along shared factors.
        step: Step-size adaptation.
        root: Root of the inverse metric of the sharing prior's S coordinates, shape (S, S).
        reference: Expansion of the likelihood (of one batch entry) that proposals of weights come from.
        reference_point: Hyperparameter coordinates that it was made with, shape (1, P).
        generator: Source of randomness of the partitions' moves.
        membership: Clusters of the tasks, shape (C, T); `None` where they are not partitioned.
        weights_seen: Sum of the weights of warm-up's sweeps, shape (T, D), and the number of them.
        window: Warm-up points.
        points_drawn: Kept points, each (C, P).
        draws: Kept weights and basis.
        stats: Per kept draw: acceptance, energy error, steps, each (C, 3); none where S = 0.
        renewed: Per kept draw, the share of tasks whose proposed weights were accepted, each (C,).
        partitions: Kept partitions, each (C, T).
        density: Per kept draw, log p(y | W) + log p(hyperparameters, partition), each (C,).
        iteration: Sweeps done.
    """

    points: torch.Tensor
    current: WeightDraws
    step: StepSize
    root: torch.Tensor
    reference: Expansion
    reference_point: torch.Tensor
    weights_seen: tuple[torch.Tensor, int]
    generator: torch.Generator
    membership: torch.Tensor | None = None
    window: list[torch.Tensor] = field(default_factory=list)
    points_drawn: list[torch.Tensor] = field(default_factory=list)
    draws: list[WeightDraws] = field(default_factory=list)
    stats: list[torch.Tensor] = field(default_factory=list)
    renewed: list[torch.Tensor] = field(default_factory=list)
    partitions: list[torch.Tensor] = field(default_factory=list)
    density: list[torch.Tensor] = field(default_factory=list)
    iteration: int = 0


class GibbsCheckpoint(ArrayFile):
    """The state of the chains and of their randomness in a file.

    Args:
        path: The file, created when first saved.
        fingerprint: Of model, data, seed and settings.
        rng: Source of randomness, which goes on where it was when a state is loaded.
    """

    def __init__(self, path: str | Path, fingerprint: str, rng: np.random.Generator):
        super().__init__(path, fingerprint)
        self.rng = rng

    def save(self, state: State) -> None:
        """Write the state and that of the randomness; the previous checkpoint stays until it is whole."""
        C, P = state.points.shape
        T = state.current.weights.shape[1]
        empty: dict[str, tuple[int, ...]] = {
            "window": (C, P),
            "points_drawn": (C, P),
            "stats": (C, 3),
            "renewed": (C,),
            "partitions": (C, T),
            "density": (C,),
        }
        lists = {name: stacked_arrays(getattr(state, name), empty[name]) for name in _LISTS}
        lists["partitions"] = lists["partitions"].astype(np.int64)  # also where there are none
        current = {name: getattr(state.current, name) for name in _PARTS}
        draws = {
            "weights": [drawn.weights for drawn in state.draws],
            "basis": of_one_size([drawn.basis for drawn in state.draws]),
            "factors": [drawn.factors for drawn in state.draws],
        }
        nowhere = torch.zeros(0, dtype=torch.int64)
        arrays = {
            "generator": np.frombuffer(json.dumps(self.rng.bit_generator.state).encode(), dtype=np.uint8),
            "moves_generator": state.generator.get_state().numpy(),
            "points": state.points.numpy(),
            "membership": (nowhere if state.membership is None else state.membership).numpy(),
            "step": np.array([getattr(state.step, name) for name in STEP_FIELDS]),
            "root": state.root.numpy(),
            "reference_f": state.reference.f.numpy(),
            "reference_point": state.reference_point.numpy(),
            "weights_seen": state.weights_seen[0].numpy(),
            "number_seen": np.array(state.weights_seen[1]),
            "iteration": np.array(state.iteration),
            **{f"current_{name}": values.numpy() for name, values in current.items()},
            **{
                f"draws_{name}": stacked_arrays(draws[name], tuple(values.shape))
                for name, values in current.items()
            },
            **lists,
        }
        self.write(arrays)

    def load(self, expansion: Callable[[torch.Tensor, torch.Tensor], Expansion]) -> State | None:
        """The saved state, or `None` when there is no file yet; the randomness goes on where it was.

        Args:
            expansion: Expands the likelihood at row values (1, N) and hyperparameter coordinates (1, P).

        Raises:
            CheckpointError: If the file is damaged, belongs to another run or holds no state.
        """
        arrays = self.read()
        if arrays is None:
            return None
        try:
            self.rng.bit_generator.state = json.loads(arrays["generator"].tobytes())
            generator = torch.Generator()
            generator.set_state(torch.from_numpy(arrays["moves_generator"]))
            at = torch.from_numpy(arrays["reference_point"])
            reference = expansion(torch.from_numpy(arrays["reference_f"]), at)
            current = WeightDraws(*(torch.from_numpy(arrays[f"current_{name}"]) for name in _PARTS))
            kept = [torch.from_numpy(arrays[f"draws_{name}"]) for name in _PARTS]
            return State(
                points=torch.from_numpy(arrays["points"]),
                current=current,
                step=restored_step(arrays["step"]),
                root=torch.from_numpy(arrays["root"]),
                reference=reference,
                reference_point=at,
                weights_seen=(torch.from_numpy(arrays["weights_seen"]), int(arrays["number_seen"])),
                generator=generator,
                membership=torch.from_numpy(arrays["membership"]) if arrays["membership"].size else None,
                draws=[WeightDraws(*parts) for parts in zip(*kept, strict=True)],
                iteration=int(arrays["iteration"]),
                **{name: list(torch.from_numpy(arrays[name])) for name in _LISTS},
            )
        except (KeyError, ValueError, TypeError, RuntimeError, IndexError) as error:
            raise self.unreadable(error) from error


def of_one_size(bases: list[torch.Tensor]) -> list[torch.Tensor]:
    """Draws of Z (C, R, D) with rows of zeros behind, as clusters come and go."""
    most = max((basis.shape[1] for basis in bases), default=0)
    return [torch.nn.functional.pad(basis, (0, 0, 0, most - basis.shape[1])) for basis in bases]
