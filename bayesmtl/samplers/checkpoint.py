"""Checkpoints: a killed run goes on where it was and gives the same draws as an undisturbed one."""

from __future__ import annotations

import tempfile
import time
import zipfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from bayesmtl.errors import CheckpointError
from bayesmtl.files import replace_file
from bayesmtl.samplers.hmc import State, StepSize
from bayesmtl.samplers.surrogate import Surrogate

_SECONDS_BETWEEN = 10.0
STEP_FIELDS = ("target", "step_size", "shrinkage_point", "gap", "log_average", "count")
_FURTHER = "further_"
_SURROGATE_FIELDS = tuple(field.name for field in fields(Surrogate))


class ArrayFile:
    """Named arrays in a file, tied to one run by a fingerprint.

    Args:
        path: The file, created when first saved.
        fingerprint: Of model, data, seed and settings.
    """

    def __init__(self, path: str | Path, fingerprint: str):
        self.path, self.fingerprint = Path(path), fingerprint
        _try_folder(self.path)
        self._saved_at = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether some seconds have passed since the file was last written."""
        return time.monotonic() - self._saved_at > _SECONDS_BETWEEN

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write arrays; what was there before stays until the new file is whole."""
        stamp = {"fingerprint": np.frombuffer(self.fingerprint.encode(), dtype=np.uint8)}

        def write(partial: Path) -> None:
            with open(partial, "wb") as file:
                np.savez(file, **stamp, **arrays)  # type: ignore[arg-type]

        replace_file(self.path, write)
        self._saved_at = time.monotonic()

    def read(self) -> dict[str, np.ndarray] | None:
        """The arrays, or `None` when there is no file yet.

        Raises:
            CheckpointError: If the file is damaged or belongs to another run.
        """
        if not self.path.exists():
            return None
        try:
            with open(self.path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            found = arrays["fingerprint"].tobytes().decode()
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError) as error:
            raise self.unreadable(error) from error
        if found != self.fingerprint:
            raise CheckpointError(
                "checkpoint",
                expected="a checkpoint of this model, data, seed and settings",
                found=f"{self.path.name}, saved by a different run",
                remedy="Delete the file to start anew, or give another path.",
            )
        return arrays

    def unreadable(self, error: Exception) -> CheckpointError:
        """What to raise where the file does not hold what was written."""
        return CheckpointError(
            "checkpoint",
            expected="a checkpoint of this package",
            found=f"{self.path.name}, which cannot be read ({type(error).__name__})",
            remedy="Delete the file to start anew, or give another path.",
        )


def _try_folder(path: Path) -> None:
    """Refuse a checkpoint that could not be written, before hours of work depend on it.

    Raises:
        CheckpointError: If the folder is missing or not writable, or the path is no regular file.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no regular file")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise CheckpointError(
            "checkpoint",
            expected="a file in a folder that can be written",
            found=f"{path} ({error.strerror or error})",
            remedy="Create the folder, or give another path.",
        ) from error


class Checkpoint(ArrayFile):
    """The state of Hamiltonian Monte Carlo in a file."""

    def save(self, state: State) -> None:
        """Write the state; the previous checkpoint stays until the new one is whole."""
        C, P = state.points.shape
        arrays = {
            "points": state.points.numpy(),
            "value": state.value.numpy(),
            "gradient": state.gradient.numpy(),
            "generator": state.generator.get_state().numpy(),
            "step": np.array([getattr(state.step, name) for name in STEP_FIELDS]),
            "root": state.root.numpy(),
            "trajectory": np.array(np.nan if state.trajectory is None else state.trajectory),
            "window": stacked_arrays(state.window, (C, P)),
            **{
                f"history_{name}": stacked_arrays([entry[i] for entry in state.history], shape)
                for i, (name, shape) in enumerate(_history_shapes(C, P).items())
            },
            "trial": np.array(state.trial),
            "draws": stacked_arrays(state.draws, (C, P)),
            "stats": stacked_arrays(state.stats, (C, 5)),
            "iteration": np.array(state.iteration),
            "trajectories": np.array(state.trajectories),
            **{_FURTHER + name: value.numpy() for name, value in state.further.items()},
        }
        if state.surrogate is not None:
            for name in _SURROGATE_FIELDS:
                arrays[f"surrogate_{name}"] = getattr(state.surrogate, name)
        self.write(arrays)

    def load(self) -> State | None:
        """The saved state, or `None` when there is no file yet.

        Raises:
            CheckpointError: If the file is damaged or belongs to another run.
        """
        arrays = self.read()
        if arrays is None:
            return None
        try:
            return _restore(arrays)
        except (KeyError, ValueError, TypeError, RuntimeError, IndexError) as error:
            raise self.unreadable(error) from error


def _history_shapes(C: int, P: int) -> dict[str, tuple[int, ...]]:
    return {"points": (C, P), "values": (C,), "gradients": (C, P), "weights": (C,)}


def stacked_arrays(items: list[torch.Tensor], shape: tuple[int, ...]) -> np.ndarray:
    """Tensors of one shape as one array, also where there are none."""
    return torch.stack(items).numpy() if items else np.zeros((0, *shape))


def restored_step(values: np.ndarray) -> StepSize:
    """Step-size adaptation from its `STEP_FIELDS`."""
    target, step_size, shrinkage_point, gap, log_average, count = values.tolist()
    step = StepSize(target, step_size, gap, log_average, int(count))
    step.shrinkage_point = shrinkage_point
    return step


def _restore(arrays: dict[str, np.ndarray]) -> State:
    step = restored_step(arrays["step"])
    generator = torch.Generator()
    generator.set_state(torch.from_numpy(arrays["generator"]))
    trajectory = float(arrays["trajectory"])
    surrogate = None
    if f"surrogate_{_SURROGATE_FIELDS[0]}" in arrays:
        surrogate = Surrogate(*(arrays[f"surrogate_{name}"] for name in _SURROGATE_FIELDS))
    return State(
        points=torch.from_numpy(arrays["points"]),
        value=torch.from_numpy(arrays["value"]),
        gradient=torch.from_numpy(arrays["gradient"]),
        generator=generator,
        step=step,
        root=torch.from_numpy(arrays["root"]),
        trajectory=None if np.isnan(trajectory) else trajectory,
        window=list(torch.from_numpy(arrays["window"])),
        history=list(
            zip(*(torch.from_numpy(arrays[f"history_{name}"]) for name in _history_shapes(0, 0)), strict=True)
        ),
        surrogate=surrogate,
        trial=arrays["trial"].tolist(),
        draws=list(torch.from_numpy(arrays["draws"])),
        stats=list(torch.from_numpy(arrays["stats"])),
        iteration=int(arrays["iteration"]),
        trajectories=int(arrays["trajectories"]),
        further={
            name.removeprefix(_FURTHER): torch.from_numpy(value)
            for name, value in arrays.items()
            if name.startswith(_FURTHER)
        },
    )
