"""Whether a network's answer can be trusted: its trunks, its heads, its ensemble."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bayesmtl.diagnostics import Check
from bayesmtl.results.deep.state import DeepState

_GAIN = 0.05  # nats per row that a training may still win in its second half: steps fall along a cosine
_DISAGREE = 0.5  # share of a prediction's variance that lies between members
_LOOKED_AT = 200  # training rows whose predictions are compared


def check(state: DeepState) -> Check:
    """See `DeepFit.check`."""
    messages, notes = _trunk_messages(state), _feature_notes(state)
    if state.method == "mode":
        stuck = [m for m, head in enumerate(state.heads) if not head.draws.sample_stats["converged"].all()]
        if stuck:
            messages.append(
                f"The search for the heads' mode did not end in members {stuck}: standardise the inputs."
            )
        table = pd.DataFrame()
        notes.append(
            "Heads are at their mode under hyperparameters of the highest evidence: intervals show how "
            "members of the ensemble differ, and nothing else."
        )
    else:
        checks = [head.check() for head in state.heads]
        messages += _named([one.messages for one in checks])
        notes += _named([one.notes for one in checks])
        table = pd.concat({m: one.table for m, one in enumerate(checks)}, names=["member"])
    if state.features.weights:
        notes.append(
            f"The {len(state.heads)} trunks are an ensemble, not draws from a posterior: intervals leave "
            "out what other trunks would say, but for how these differ."
        )
    if (share := _between(state)) > _DISAGREE:
        notes.append(
            f"Members disagree: {100 * share:.0f} % of the variance of a function value lies between them. "
            "More rows or fewer features would settle it."
        )
    return Check(not messages, tuple(messages), table, tuple(notes))


def _named(of_members: Sequence[Sequence[str]]) -> list[str]:
    """What members say, once, with the members that say it."""
    said: dict[str, list[int]] = {}
    for member, texts in enumerate(of_members):
        for text in texts:
            said.setdefault(text, []).append(member)
    every = len(of_members)
    return [
        text if len(members) == every else f"Members {', '.join(map(str, members))}: {text}"
        for text, members in said.items()
    ]


def _trunk_messages(state: DeepState) -> list[str]:
    trained = state.trained
    if not trained.steps:
        return []
    what, trace = "density of the held-out rows still rises", trained.held_out
    if not trained.num_held_out:
        what, trace = "training loss still falls", -trained.loss
    gain = trace[:, -1] - trace[:, trace.shape[1] // 2]
    if trained.steps < trained.planned or (trace.shape[1] > 1 and (gain <= _GAIN).all()):
        return []
    return [
        f"The {what}, by {gain.max():.2f} nats per row over the second half of the training: train "
        "longer with steps=..."
    ]


def _feature_notes(state: DeepState) -> list[str]:
    trained = state.trained
    if not trained.steps:
        return []
    notes = []
    columns = state.features(state.data.X[state.data.observed])
    first = columns.shape[2] - state.features.trunk.width(
        state.data.X.shape[1] - int(state.data.has_intercept)
    )
    dead = int((np.ptp(columns[:, :, first:], axis=1) < 1e-9).sum())
    if dead:
        notes.append(
            f"{dead} of {columns[:, 0, first:].size} features are the same for all rows: dead units, which "
            "tell nothing apart."
        )
    if trained.num_held_out:
        best = trained.held_out[np.arange(len(trained.best)), trained.best]
        notes.append(
            f"Held-out density {best.mean():.3f} nats per row over {trained.num_held_out} rows (standardised "
            f"units); training ended after {trained.steps} of {trained.planned} steps."
        )
    else:
        notes.append("No rows were held out: nothing stopped the training before its last step.")
    return notes


def _between(state: DeepState) -> float:
    """Share of the variance of function values that lies between members."""
    if len(state.heads) < 2:
        return 0.0
    rows = np.flatnonzero(state.data.observed)
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _LOOKED_AT)).astype(int)]
    columns, tasks = state.features(state.data.X[rows]), state.data.task[rows]
    means, spreads = [], []
    for own, head in zip(columns, state.heads, strict=True):
        weights = head.draws.weights.flatten(0, 1)[head.chosen_draws(100)].numpy()[:, tasks]
        phi = head.standardization.standardize_features(own)
        f = np.einsum("snch,nh->snc", weights.reshape(*weights.shape[:2], -1, phi.shape[1]), phi)
        means.append(f.mean(0))
        spreads.append(f.var(0))
    between, within = np.var(means, axis=0).mean(), np.mean(spreads)
    return float(between / max(between + within, 1e-300))
