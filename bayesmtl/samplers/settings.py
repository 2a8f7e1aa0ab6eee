"""What every engine is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bayesmtl.errors import SpecificationError
from bayesmtl.options import check_flag, check_path, whole_number


@dataclass(frozen=True)
class Settings:
    """How long to run, from which seed, and what to show.

    Args:
        seed: Source of all randomness of the fit.
        num_chains: Independent chains, run as one batch.
        num_draws: Kept draws per chain; `None` for the engine's own number.
        num_effective: Effective draws of the hyperparameters that are wanted of the exact engine.
        num_warmup: Iterations of each chain to adapt in.
        progress: Whether to show progress on stderr.
        checkpoint: File to save the run in and to resume it from.
    """

    seed: int
    num_chains: int = 4
    num_draws: int | None = None
    num_warmup: int = 200
    progress: bool = True
    checkpoint: str | Path | None = None
    num_effective: int = 400

    def __post_init__(self) -> None:
        for name, least in (
            ("seed", 0),
            ("num_chains", 1),
            ("num_draws", 4),
            ("num_warmup", 10),
            ("num_effective", 1),
        ):
            if name == "num_draws" and self.num_draws is None:
                continue
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least))
        check_flag("progress", self.progress)
        if self.checkpoint is not None:
            check_path("checkpoint", self.checkpoint)


def refuse_checkpoint(settings: Settings, method: str) -> None:
    """Raise a SpecificationError where a checkpoint is asked of an engine that writes none."""
    if settings.checkpoint is not None:
        raise SpecificationError(
            "checkpoint",
            expected=f'none under method="{method}"',
            found=repr(str(settings.checkpoint)),
            remedy='Only "exact", "gibbs" and "laplace" save their runs; leave it out.',
        )
