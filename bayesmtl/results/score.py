"""Scores of predictions by what was observed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bayesmtl.errors import DataError
from bayesmtl.options import check_mass


def checked_targets(targets: Any, number: int, name: str) -> np.ndarray:
    """Targets as numbers (obs,).

    Raises:
        DataError: If there are not as many as rows, or one is no number.
    """
    try:
        values = np.asarray(targets, dtype=float)
    except (TypeError, ValueError) as error:
        raise DataError(
            name, expected="targets that are numbers", found=str(error), remedy="Pass numbers."
        ) from error
    if values.shape != (number,):
        raise DataError(
            name,
            expected=f"one target for each of the {number} rows predicted",
            found=f"an array of shape {values.shape}",
            remedy="Pass the targets of the same rows, in their order.",
        )
    if np.isnan(values).any():
        raise DataError(
            name,
            expected="targets that were observed",
            found=f"{int(np.isnan(values).sum())} missing",
            remedy="Predict and score the observed rows only (data.observed).",
        )
    return values


@dataclass(frozen=True, eq=False)
class Score:
    """How good a prediction was.

    Args:
        rows: One row per row predicted: target, error (target less predicted mean), `log_density`, `crps`
            (continuous ranked probability score, in the target's units, smaller is better) and `pit` (share
            of drawn targets below the observed one, ties counted half: uniform where intervals hold).
    """

    rows: pd.DataFrame

    @classmethod
    def of(
        cls,
        draws: np.ndarray,
        mean: np.ndarray,
        targets: np.ndarray,
        log_density: np.ndarray,
        index: pd.Index,
    ) -> Score:
        """Score draws (S, obs) by targets (obs,)."""
        below, ties = (draws < targets).mean(axis=0), (draws == targets).mean(axis=0)
        columns = {
            "target": targets,
            "error": targets - mean,
            "log_density": log_density,
            "crps": _crps(draws, targets),
            "pit": below + 0.5 * ties,
        }
        return cls(pd.DataFrame(columns, index=index))

    @property
    def log_score(self) -> float:
        """Mean log density; larger is better."""
        return float(self.rows["log_density"].mean())

    @property
    def crps(self) -> float:
        """Mean continuous ranked probability score; smaller is better."""
        return float(self.rows["crps"].mean())

    @property
    def rmse(self) -> float:
        """Root mean square error of the predicted means."""
        return float(np.sqrt((self.rows["error"] ** 2).mean()))

    def coverage(self, mass: float = 0.9) -> float:
        """Share of targets inside their central interval of this mass."""
        check_mass(mass)
        return float((np.abs(self.rows["pit"] - 0.5) <= mass / 2).mean())

    def __repr__(self) -> str:
        return (
            f"Score of {len(self.rows)} rows: log score {self.log_score:.3f}, CRPS {self.crps:.3g}, "
            f"RMSE {self.rmse:.3g}, 90 % intervals hold {100 * self.coverage():.0f} %"
        )


def _crps(draws: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """E|Y - y| - E|Y - Y'| / 2 of every column; from sorted draws, without bias.

    Source: Gneiting and Raftery (2007), equation 21.
    """
    S = len(draws)
    ordered = np.sort(draws, axis=0)
    weight = (2 * np.arange(1, S + 1) - S - 1)[:, None]
    apart = 2 * (weight * ordered).sum(axis=0) / (S * max(S - 1, 1))
    return np.asarray(np.abs(draws - targets).mean(axis=0) - 0.5 * apart)
