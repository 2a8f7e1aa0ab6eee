"""The landmine protocol: training cells drawn in every field, the rest tested, scored field by field.

From each of the 29 fields so many cells are drawn for training, with at least one mine and one that is none;
all other cells are tested. Scores are means over fields: area under the ROC curve, and the mean negative log
probability of what was found ("log loss", natural logarithm), also over all test cells at once.

Source: the shape of the protocol is that of Xue, Liao, Carin and Krishnapuram (2007), who use 19 of the
fields; sizes and draws are ours.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

import bayesmtl as bm
from benchmarks.common import table, verdict

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


def task_data(frame: pd.DataFrame, overflown: pd.DataFrame | None = None) -> bm.TaskData:
    """Cells as data: one task for each field, nine features and a level.

    A field is described by the means of its features, which need no digging.

    Args:
        frame: The cells whose outcomes are known.
        overflown: The cells that fields are described by, outcomes not looked at; the same if left out.
    """
    features = [name for name in frame.columns if name.startswith("feature_")]
    seen = frame if overflown is None else overflown
    means = seen.groupby("field")[features].mean().add_prefix("mean_")
    return bm.TaskData.from_frame(frame, task="field", target="mine", features=features, descriptors=means)


SCORES = ["AUC", "log loss", "log loss over all cells"]
"""The first two are means over fields; fields with more cells count more in the third."""


def scores(probability: np.ndarray, test: pd.DataFrame) -> tuple[float, float, float]:
    """What SCORES names.

    Fields whose test cells are all alike have no curve and count for the log losses only.

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
    return float(np.mean(areas)), float(np.mean(losses)), float(loss.mean())


def means(rows: pd.DataFrame) -> list[str]:
    """A table of every score: methods down, numbers of training cells across.

    Args:
        rows: Columns method, cells, draw and SCORES; the same draws for all methods.
    """
    lines = []
    for score in SCORES:
        shown = rows.pivot_table(index="method", columns="cells", values=score, sort=False)
        lines += [f"{score}, mean over draws:", "", table(shown, 4), ""]
    return lines


def differences(rows: pd.DataFrame, method: str, other: str) -> list[str]:
    """A table of what one method scores above another on the same cells, with standard errors over draws."""
    by_draw = rows.set_index(["method", "cells", "draw"])[SCORES]
    apart = (by_draw.loc[method] - by_draw.loc[other]).groupby("cells")
    mean, error = apart.mean(), apart.sem()
    shown = pd.DataFrame(
        {
            cells: [f"{mean.loc[cells, score]:+.4f} ({error.loc[cells, score]:.4f})" for score in SCORES]
            for cells in mean.index
        },
        index=pd.Index(SCORES, name=f"{method}, less {other}"),
    )
    return [table(shown), ""]


def verdicts(rows: pd.DataFrame, method: str, bars: Mapping[int, tuple[float, float]]) -> list[str]:
    """Whether a method reaches the least AUC and stays below the most log loss, by number of cells."""
    lines = []
    for cells, (area, loss) in bars.items():
        own = rows[(rows["method"] == method) & (rows["cells"] == cells)]
        if own.empty:
            continue
        for score, bar, side in (("AUC", area, "at least"), ("log loss", loss, "at most")):
            mean = own[score].mean()
            ok = mean >= bar if side == "at least" else mean <= bar
            found = f"{mean:.4f}, standard error over draws {own[score].sem():.4f}"
            lines.append(verdict(f"{method}, {cells} cells: {score} {side} {bar}", ok=bool(ok), found=found))
    return lines
