"""The landmine protocol: training cells drawn in every field, the rest tested, scored field by field.

From each of the 29 fields so many cells are drawn for training, with at least one mine and one that is none;
all other cells are tested. Scores are means over fields: area under the ROC curve, and the mean negative log
probability of what was found ("log loss", natural logarithm).

Source: the shape of the protocol is that of Xue, Liao, Carin and Krishnapuram (2007), who use 19 of the
fields; sizes and draws are ours.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

import bayesmtl as bm

CELLS = (20, 40, 80, 160)
"""Training cells per field."""
NUM_DRAWS = 10
"""Draws of training cells of every size."""


def landmine() -> pd.DataFrame:
    """All cells: columns field, feature_1 .. feature_9, mine."""
    return bm.datasets.load("landmine").frame


def split(frame: pd.DataFrame, cells: int, draw: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and test cells; the same draw gives the same cells to every method.

    Args:
        frame: What `landmine` gives.
        cells: Training cells of every field.
        draw: Number of the draw; sets of more cells contain those of fewer.
    """
    rng = np.random.default_rng([2007, draw])
    train = np.zeros(len(frame), dtype=bool)
    for _, rows in sorted(frame.reset_index(drop=True).groupby("field").indices.items()):
        order = rng.permutation(rows)
        mine = frame["mine"].to_numpy()[order] == 1
        # the first of each kind come first, so that both are there
        first = sorted({int(np.argmax(mine)), int(np.argmax(~mine))})
        order = np.concatenate([order[first], np.delete(order, first)])
        train[order[:cells]] = True
    return frame[train], frame[~train]


def task_data(frame: pd.DataFrame) -> bm.TaskData:
    """Cells as data: one task for each field, nine features and an intercept."""
    features = [name for name in frame.columns if name.startswith("feature_")]
    return bm.TaskData.from_frame(frame, task="field", target="mine", features=features)


def scores(probability: np.ndarray, test: pd.DataFrame) -> tuple[float, float]:
    """Mean over fields of the area under the ROC curve and of the log loss.

    Fields whose test cells are all alike have no curve and count for the log loss only.

    Args:
        probability: Of a mine, for each test cell.
        test: The test cells.
    """
    mine, areas, losses = test["mine"].to_numpy(dtype=float), [], []
    p = np.clip(probability, 1e-12, 1 - 1e-12)
    loss = -(mine * np.log(p) + (1 - mine) * np.log1p(-p))
    for rows in test.reset_index(drop=True).groupby("field").indices.values():
        losses.append(loss[rows].mean())
        yes = mine[rows] == 1
        if 0 < yes.sum() < len(rows):
            ranks = stats.rankdata(p[rows])
            pairs = yes.sum() * (~yes).sum()
            areas.append((ranks[yes].sum() - yes.sum() * (yes.sum() + 1) / 2) / pairs)
    return float(np.mean(areas)), float(np.mean(losses))
