"""A verdict in words on a set of posterior draws."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
import pandas as pd
import xarray as xr
from arviz_stats.base.array import array_stats

RHAT_LIMIT = 1.01  # Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021)
PARETO_LIMIT = 0.7  # Vehtari, Simpson, Gelman, Yao and Gabry (2024)
ESS_LEAST = 100  # of importance sampling, all chains together
ESS_PER_CHAIN = 50  # 400 for four chains, the same source: enough for R-hat and quantiles to be stable
RISE_LEAST = 1.0  # nats of an evidence bound; less than this no interval would show
RISE_ERRORS = 3.0
DISAGREEMENT_LIMIT = 0.5  # standard deviations between restarts
RISE_STILL = 0.1  # nats of a bound that never falls, in one round
LAST_STICK_LIMIT = 0.1  # expected tasks in the last cluster there can be
UNINFORMED = 0.1  # share of the prior's 90 % interval by which no quantile of the posterior has moved
_TASKS_CORRELATED = ("task_correlation", "coupling")  # what priors of correlated tasks report
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_SCREENED = 30
_MORE = "; fit with a larger num_draws"
_LONGER = f"{_MORE} and num_warmup"


@dataclass(frozen=True, eq=False)
class Check:
    """What was checked and what came out.

    Args:
        ok: Whether the draws can be used.
        messages: One sentence per finding, worst first; what to do is part of it.
        table: One row per quantity looked at: R-hat, bulk and tail effective sample size.
        notes: What is worth knowing though nothing is wrong, such as what the engine approximates.
        contraction: By quantity, one minus the width of its 90 % interval over that of its prior: near 1
            where the data say much, near 0 where they say nothing; empty where it was not judged.
    """

    ok: bool
    messages: tuple[str, ...]
    table: pd.DataFrame
    notes: tuple[str, ...] = ()
    contraction: pd.Series = field(default_factory=lambda: pd.Series(dtype=float))

    def __str__(self) -> str:
        head = "Converged." if self.ok else "Not to be trusted yet."
        return "\n".join([head, *self.messages, *self.notes])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{escape(text)}</li>" for text in (*self.messages, *self.notes))
        return f"<p><b>{str(self).splitlines()[0]}</b></p><ul>{items}</ul>"


def split_rhat(values: np.ndarray) -> np.ndarray:
    """Plain split R-hat of many quantities at once: (C, N, ...) -> (...).

    Infinite where no chain moves and chains differ.
    """
    half = values.shape[1] // 2
    parts = np.concatenate([values[:, :half], values[:, -half:]])
    within = parts.var(axis=1, ddof=1).mean(axis=0)
    between = parts.mean(axis=1).var(axis=0, ddof=1)
    ratio = np.where(between > 0, np.inf, 0.0)
    np.divide(between, within, out=ratio, where=within > 0)
    return np.asarray(np.sqrt((half - 1) / half + ratio))


def lag_correlation(values: np.ndarray) -> np.ndarray:
    """Autocorrelation at lag 1, pooled over chains: (C, N, ...) -> (...)."""
    centred = values - values.mean(axis=1, keepdims=True)
    variance = (centred**2).mean(axis=(0, 1))
    covariance = (centred[:, 1:] * centred[:, :-1]).mean(axis=(0, 1))
    return np.asarray(np.divide(covariance, variance, out=np.zeros_like(variance), where=variance > 0))


def _name(array: xr.DataArray, position: tuple[int, ...]) -> str:
    labels = [str(array[dim].to_numpy()[i]) for dim, i in zip(array.dims[2:], position, strict=True)]
    return f"{array.name}[{', '.join(labels)}]" if labels else str(array.name)


def _candidates(array: xr.DataArray) -> list[tuple[int, ...]]:
    """Where to look closely: everywhere in a small array, at the worst-mixing entries of a large one."""
    shape = array.shape[2:]
    values = array.to_numpy()
    varying = np.ptp(values, axis=(0, 1)) > 1e-12 * np.abs(values).max(axis=(0, 1))
    if int(np.prod(shape)) <= 2 * _SCREENED:
        return [position for position in np.ndindex(*shape) if varying[position]]
    worst: dict[tuple[int, ...], None] = {}
    for score in (split_rhat(values), lag_correlation(values)):
        order = np.argsort(np.where(varying, score, -np.inf), axis=None)[::-1][:_SCREENED]
        for flat in order:
            position = tuple(int(i) for i in np.unravel_index(flat, shape))
            if varying[position]:
                worst[position] = None
    return list(worst)


def mixing_table(posterior: xr.Dataset) -> pd.DataFrame:
    """R-hat, bulk and tail effective sample size of the quantities, worst R-hat first.

    Large arrays are screened with plain split R-hat and lag-1 autocorrelation, and their worst entries are
    then measured with the rank-normalised statistics.

    Args:
        posterior: Arrays with dimensions (chain, draw, ...).
    """
    rows: dict[Hashable, list[float]] = {}
    for array in posterior.data_vars.values():
        positions = _candidates(array)
        if not positions:
            continue
        values = array.to_numpy()
        places = [int(np.ravel_multi_index(p, values.shape[2:])) if p else 0 for p in positions]
        columns = values.reshape(*values.shape[:2], -1)[:, :, places]
        axes = {"chain_axis": 0, "draw_axis": 1}
        # one chain is split in two, which R-hat needs
        rhat = _rank_rhat(columns if len(columns) > 1 else _halves(columns))
        bulk = array_stats.ess(columns, **axes)
        tail = array_stats.ess(columns, method="tail", prob=(0.05, 0.95), **axes)
        for i, position in enumerate(positions):
            rows[_name(array, position)] = [float(rhat[i]), float(bulk[i]), float(tail[i])]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["r_hat", "ess_bulk", "ess_tail"])
    return table.sort_values("r_hat", ascending=False)


def _rank_rhat(columns: np.ndarray) -> np.ndarray:
    """Rank-normalised R-hat of (C, N, quantities); plain where a quantity has two values."""
    rhat = split_rhat(columns)
    low, high = columns.min(axis=(0, 1)), columns.max(axis=(0, 1))
    graded = ((columns != low) & (columns != high)).any(axis=(0, 1))
    if graded.any():
        rhat[graded] = array_stats.rhat(columns[:, :, graded], chain_axis=0, draw_axis=1)
    return rhat


def _halves(columns: np.ndarray) -> np.ndarray:
    half = columns.shape[1] // 2
    return np.concatenate([columns[:, :half], columns[:, -half:]])


def contraction(posterior: xr.Dataset, prior: xr.Dataset) -> tuple[pd.Series, list[str]]:
    """How much narrower the posterior is than the prior, and which quantities the data did not inform.

    A quantity is uninformed where no quantile (5, 25, 50, 75, 95 %) of its posterior is further from that of
    its prior than a tenth of the prior's 90 % interval: five standard errors for a thousand draws of each.

    Args:
        posterior: Arrays with dimensions (chain, draw, ...).
        prior: The same arrays drawn from the prior.
    """
    found, uninformed = {}, []
    for name, array in posterior.data_vars.items():
        drawn, expected = (
            np.quantile(part.to_numpy(), _QUANTILES, axis=(0, 1)) for part in (array, prior[name])
        )
        for position in np.ndindex(*array.shape[2:]):
            ours, theirs = drawn[(slice(None), *position)], expected[(slice(None), *position)]
            width = theirs[-1] - theirs[0]
            known = width <= 1e-9 * np.abs(theirs).max()
            mirrored = str(array.dims[-1]).endswith("_other") and position[-2] > position[-1]
            if known or mirrored:
                continue
            found[_name(array, position)] = 1 - (ours[-1] - ours[0]) / width
            if np.abs(ours - theirs).max() < UNINFORMED * width:
                uninformed.append(_name(array, position))
    return pd.Series(found, dtype=float), uninformed


def check_draws(
    posterior: xr.Dataset,
    sample_stats: dict[str, np.ndarray],
    *,
    complete: bool,
    prior: xr.Dataset | None = None,
    further: Sequence[str] = (),
    causes: Sequence[str] = (),
) -> Check:
    """Judge draws by how they came about, which the statistics that the engine recorded tell.

    Chains by R-hat, effective sample sizes and divergences, weighted draws by Pareto k and effective sizes,
    an evidence bound by its rise and its restarts, a mode by its optimiser.

    Args:
        posterior: Arrays with dimensions (chain, draw, ...), named.
        sample_stats: What the engine recorded, each (chain, draw).
        complete: Whether all draws that were asked for are there.
        prior: Prior draws of some of the arrays, to say which of them the data did not inform.
        further: What else is worth knowing.
        causes: What in the data may be at fault, said first, and in place of advice, where draws fail; worth
            knowing otherwise.
    """
    judge = next(judge for needed, judge in _JUDGES if needed <= set(sample_stats))
    messages, notes, table = judge(posterior, sample_stats)
    if not complete:
        messages.insert(
            0, "The run was interrupted; fit again; checkpoint=path lets an engine go on where it stopped."
        )
    if "diverging" in sample_stats and sample_stats["diverging"].any():
        number = int(sample_stats["diverging"].sum())
        messages.append(f"{number} trajectories diverged; a longer num_warmup gives smaller steps.")
    shrunk = pd.Series(dtype=float)
    if prior is not None:
        shrunk, uninformed = contraction(posterior[list(prior.data_vars)], prior)
        if uninformed:
            notes.append(f"The data say nothing about {_shown(uninformed)}: the posterior is the prior.")
    if messages and causes:
        messages = [*causes, *(message.replace(_LONGER, "").replace(_MORE, "") for message in messages)]
    elif causes:
        notes = [*causes, *notes]
    return Check(not messages, tuple(messages), table, (*notes, *further), shrunk)


_Judged = tuple[list[str], list[str], pd.DataFrame]


def _judge_bound(posterior: xr.Dataset, sample_stats: dict[str, np.ndarray]) -> _Judged:
    """Independent draws from a distribution that an evidence bound was raised for."""
    notes = _bound_notes(sample_stats)
    of_weights = "restart_disagreement" in sample_stats  # functions have no restarts to compare
    if of_weights and any(name in posterior for name in _TASKS_CORRELATED):
        notes.append(
            "With correlated tasks that is a matter of factors: intervals of scales hold the truth less "
            "often than they say (benchmark calibration_outcomes)."
        )
    return _bound_messages(sample_stats), notes, mixing_table(xr.Dataset())


def _judge_mode(posterior: xr.Dataset, sample_stats: dict[str, np.ndarray]) -> _Judged:
    """Independent draws given hyperparameters at a mode."""
    messages = []
    notes = [
        "Hyperparameters are fixed at their posterior mode, so intervals leave out the uncertainty about "
        'how much tasks differ; an engine for the full posterior, which method="auto" prefers, includes it.'
    ]
    if not bool(np.all(sample_stats["converged"])):
        messages.append("The optimiser stopped before it reached a mode; another seed may help.")
    if float(np.max(sample_stats["start_disagreement"])) > 0.1:
        notes.append("Starts ended in different modes; the better one is used.")
    return messages, notes, mixing_table(xr.Dataset())


def _judge_weighted(posterior: xr.Dataset, sample_stats: dict[str, np.ndarray]) -> _Judged:
    """Independent draws that were weighted and resampled."""
    told, notes = _correction_messages(sample_stats)
    return [*_importance_messages(sample_stats), *told], notes, mixing_table(xr.Dataset())


def _judge_chains(posterior: xr.Dataset, sample_stats: dict[str, np.ndarray]) -> _Judged:
    table = mixing_table(posterior)
    messages = [] if table.empty else _mixing_messages(table, posterior.sizes["chain"])
    return messages, [], table


def _judge_nothing(posterior: xr.Dataset, sample_stats: dict[str, np.ndarray]) -> _Judged:
    """Independent draws under known hyperparameters."""
    return [], [], mixing_table(xr.Dataset())


# The first whose statistics are there judges.
_JUDGES: tuple[tuple[set[str], Callable[[xr.Dataset, dict[str, np.ndarray]], _Judged]], ...] = (
    ({"elbo_rise"}, _judge_bound),
    ({"start_disagreement"}, _judge_mode),
    ({"pareto_k"}, _judge_weighted),
    ({"pareto_k_weights"}, _judge_weighted),
    ({"lp"}, _judge_chains),
    ({"acceptance_rate"}, _judge_chains),
    ({"log_likelihood"}, _judge_chains),
    (set(), _judge_nothing),
)


def _shown(names: list[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _bound_messages(sample_stats: dict[str, np.ndarray]) -> list[str]:
    """Judge stochastic optimisation: whether its bound still rose, and whether restarts ended alike."""
    if "last_stick" in sample_stats:
        return _partition_bound_messages(sample_stats)
    rise, error = (float(sample_stats[name].flat[0]) for name in ("elbo_rise", "elbo_rise_error"))
    messages = []
    if not rise <= max(RISE_LEAST, RISE_ERRORS * error):
        messages.append(
            f"The evidence bound (ELBO) rose by {rise:.1f} (standard error {error:.1f}) in the last third of "
            "the steps; fit with a larger num_warmup, which gives more of them."
        )
    if "restart_disagreement" in sample_stats:
        disagreement = float(sample_stats["restart_disagreement"].flat[0])
        if not disagreement <= DISAGREEMENT_LIMIT:
            messages.append(
                f"Restarts disagree by {disagreement:.1f} standard deviations about what tasks share; fit "
                "with a larger num_warmup, or by another method."
            )
    return messages


def _bound_notes(sample_stats: dict[str, np.ndarray]) -> list[str]:
    """What an evidence bound approximates: everything by a normal, or the hyperparameters by a point."""
    if "last_stick" in sample_stats:
        return _partition_bound_notes(sample_stats)
    if "start_disagreement" not in sample_stats:
        return [
            "A normal approximation, fitted so that it is too narrow rather than too wide: intervals of "
            'scales are, most of all with few tasks; method="laplace" or "nuts" for comparison.'
        ]
    notes = [
        "Hyperparameters are fixed where a bound of the evidence is highest, so intervals leave out the "
        "uncertainty about them."
    ]
    gap = float(np.max(sample_stats["start_disagreement"]))
    if gap > RISE_LEAST:
        notes.append(f"Restarts ended at bounds that differ by {gap:.1f} nats; the better one is used.")
    return notes


def _partition_bound_messages(sample_stats: dict[str, np.ndarray]) -> list[str]:
    """Judge coordinate ascent over partitions: whether it ended, and whether there were clusters enough."""
    if _corrected(sample_stats):  # which does not hang on where the ascent ended
        return []
    rise, last = (float(sample_stats[name].flat[0]) for name in ("elbo_rise", "last_stick"))
    messages = []
    if not rise <= RISE_STILL:
        messages.append(
            f"The evidence bound (ELBO) rose by {rise:.3f} in the last round; fit with a larger num_warmup, "
            "which gives more of them."
        )
    if not last <= LAST_STICK_LIMIT:
        messages.append(
            f"The last of the clusters there can be holds {last:.1f} tasks, so more are needed than this "
            'approximation has; fit by method="gibbs", which has no such limit.'
        )
    return messages


def _corrected(sample_stats: dict[str, np.ndarray]) -> bool:
    """Whether importance weights took the mean field out of a set of partitions."""
    return bool(np.all(sample_stats.get("corrected", np.zeros(1))))


def _partition_bound_notes(sample_stats: dict[str, np.ndarray]) -> list[str]:
    """What coordinate ascent over partitions approximates, and how its restarts compare."""
    gap, number, largest = (
        float(sample_stats[name].flat[0]) for name in ("start_disagreement", "num_partitions", "largest_part")
    )
    if _corrected(sample_stats):
        effective = float(sample_stats["importance_ess"].flat[0])
        return [f"Mean field was corrected by importance weights (effective sample size {effective:.0f})."]
    notes = [
        "Around a partition tasks are in clusters independently of each other: partitions come out too "
        'certain; method="gibbs" for comparison.'
    ]
    if "pareto_k" in sample_stats:
        k = float(sample_stats["pareto_k"].flat[0])
        why = (
            f"few draws would carry all the weight, Pareto k {k:.2f}" if np.isfinite(k) else "too many tasks"
        )
        notes.append(f"Importance weights could not correct that ({why}).")
    if gap > RISE_LEAST:
        notes.append(f"Restarts ended up to {gap:.1f} nats of evidence apart.")
    if number > 1:
        notes.append(
            f"They found {number:.0f} different partitions that count, the best with probability "
            f"{largest:.2f}; there may be others."
        )
    return notes


def _importance_messages(sample_stats: dict[str, np.ndarray]) -> list[str]:
    """Judge importance sampling of hyperparameters; nothing was sampled where all are known."""
    messages = []
    if "pareto_k" in sample_stats:
        k, effective = (float(sample_stats[name].flat[0]) for name in ("pareto_k", "importance_ess"))
        if not k <= PARETO_LIMIT:
            messages.append(
                f"Few of the proposed hyperparameters carry all the weight (Pareto k {k:.2f}, above "
                f"{PARETO_LIMIT}): the normal approximation at their mode is too far from the posterior; fit "
                "by sampling, or with fewer hyperparameters."
            )
        elif not effective >= ESS_LEAST:
            messages.append(
                f"Few independent draws of the hyperparameters: effective sample size {effective:.0f}, below "
                f"{ESS_LEAST}; fit with a larger num_draws."
            )
        if not bool(np.all(sample_stats["converged"])):
            messages.append("The optimiser stopped before it reached a mode; another seed may help.")
    return messages


def _correction_messages(sample_stats: dict[str, np.ndarray]) -> tuple[list[str], list[str]]:
    """Judge the importance weights that correct Laplace's approximation: messages and notes."""
    if "pareto_k_weights" not in sample_stats:
        return [], []
    k, effective = (
        float(sample_stats[name].flat[0]) for name in ("pareto_k_weights", "importance_ess_weights")
    )
    if not k <= PARETO_LIMIT:
        return [
            f"Laplace's approximation of the weights is too rough to be corrected (Pareto k {k:.2f}, above "
            f"{PARETO_LIMIT}), so that intervals may be too narrow or too symmetric; fit by sampling."
        ], []
    if not effective >= ESS_LEAST:
        return [
            f"Few independent draws are left after the correction of Laplace's approximation of the weights: "
            f"effective sample size {effective:.0f}, below {ESS_LEAST}; fit with a larger num_draws."
        ], []
    return [], [
        f"Laplace's approximation of the weights was corrected by importance weights (effective sample size "
        f"{effective:.0f})."
    ]


def _mixing_messages(table: pd.DataFrame, num_chains: int) -> list[str]:
    messages = []
    worst = table.index[0]
    if not table["r_hat"].iloc[0] <= RHAT_LIMIT:
        messages.append(
            f"Chains disagree about {worst}: R-hat {table['r_hat'].iloc[0]:.3f}, above {RHAT_LIMIT}{_LONGER}."
        )
    needed = ESS_PER_CHAIN * max(num_chains, 2)
    for column, part in (("ess_bulk", "bulk"), ("ess_tail", "tail")):
        sizes = table[column]
        lowest = int(np.argmin(sizes.to_numpy()))
        if not sizes.iloc[lowest] >= needed:
            messages.append(
                f"Few independent draws of {table.index[lowest]}: {part} effective sample size "
                f"{sizes.iloc[lowest]:.0f}, below {needed}{_MORE}."
            )
    return messages
