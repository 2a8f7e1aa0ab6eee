"""The exact engine: hyperparameters sampled with weights or functions integrated out, then weights drawn."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from bayesmtl.inference.weighted import Weighted, first_round, weigh
from bayesmtl.posteriors.draws import Draws
from bayesmtl.posteriors.noise_coordinates import NoiseCoordinates
from bayesmtl.posteriors.posterior import Posterior
from bayesmtl.posteriors.target import Target
from bayesmtl.samplers.chains import settled, sweep
from bayesmtl.samplers.checkpoint import Checkpoint
from bayesmtl.samplers.hmc import HMC, State, stacked
from bayesmtl.samplers.modes import highest
from bayesmtl.samplers.search import approximation_at, search
from bayesmtl.samplers.settings import Settings

NUM_DRAWS = 500  # by default, per chain
# Points that are weighted before chains are tried: where these do not do, many more would not either. Those
# who want many effective draws get as many times more, up to a limit beyond which chains are no dearer.
_MOST_POINTS, _PER_EFFECTIVE, _LIMIT = 12_000, 4, 50_000
# Numbers handled by all of them together, a minute or so; and the fewest rounds that are worth beginning.
_MOST_NUMBERS, _LEAST_ROUNDS = 3e9, 8
# Coordinates beyond which proposals of one piece have never been found to fit.
_MOST_COORDINATES = 60
_MOST_LENGTHS = 4  # times the draws asked for, that chains run until they agree
_STARTS = 10  # effective points for each chain that starts from them, and one for each coordinate
# What chains remember: where their coordinates were made around, and what importance sampling had.
_MODE, _TRIED = "mode", ("proposal_pareto_k", "proposal_ess")


def exact(problem: Posterior, settings: Settings) -> Draws:
    """Draw from the full posterior of a Gaussian model, the cheapest sound way.

    Approximates nothing but by the number of draws. The hyperparameters, few, have a density with W and Z, or
    functions, integrated out. First points around its modes are weighted (adaptive importance sampling, a
    few hundred to a few thousand evaluations), until `num_effective` of them are effective and the tail of
    their weights is light (Pareto k below .5). They are the answer where that is reached within a budget.
    Elsewhere Hamiltonian chains start from them, and go on, up to four times as long, until R-hat and
    effective sizes of the hyperparameters hold; of longer chains every second or fourth draw is kept.

    Z and W are drawn from their Gaussian conditional, one draw for each hyperparameter draw; functions are
    drawn where they are asked for. `sample_stats` say which way was taken: `pareto_k` and `importance_ess`,
    or the statistics of chains with those of the attempt, `proposal_pareto_k` and `proposal_ess`.

    An interrupt (Ctrl-C) after the chains' warm-up returns the draws made so far, marked incomplete; with a
    checkpoint, the same call goes on later.

    Raises:
        KeyboardInterrupt: If interrupted while nothing is drawn yet.
        CheckpointError: If the checkpoint is damaged or belongs to another run.
    """
    rng = np.random.default_rng(settings.seed)
    # weights have a stream of their own, so that a resumed run draws the same ones
    (weights_rng,) = rng.spawn(1)
    C, N = settings.num_chains, settings.num_draws or NUM_DRAWS
    if problem.space.size == 0:  # every hyperparameter is known
        points = torch.zeros(C, N, 0, dtype=torch.float64)
        return problem.complete(points, {}, weights_rng)
    checkpoint, state = _kept(problem, settings)
    if state is None:
        found = _weighted(problem, settings, rng)
        if found is not None and found.mode.converged and found.is_sound(settings.num_effective):
            points, told = found.points(C, N, rng), found.stats(C, N)
            return problem.complete(points, told, weights_rng)
        state = _started(problem, found, settings, rng)
    points, sample_stats, complete = _chains(problem, settings, N, state, checkpoint)
    return problem.complete(points, sample_stats, weights_rng, complete=complete)


def way(draws: Draws) -> str:
    """Which way the exact engine took, and why, in words."""
    stats = draws.sample_stats
    if "pareto_k" in stats:
        k, effective = (float(stats[name].flat[0]) for name in ("pareto_k", "importance_ess"))
        return f"by importance sampling, {effective:.0f} effective points, Pareto k {k:.2f}"
    if not stats:
        return "every hyperparameter is known"
    k, effective = (float(stats[name].flat[0]) for name in _TRIED)
    if not effective:
        return "by chains, with more hyperparameters or numbers than importance sampling can take"
    return f"by chains: importance sampling had {effective:.0f} effective points, Pareto k {k:.2f}"


def _weighted(problem: Posterior, settings: Settings, rng: np.random.Generator) -> Weighted | None:
    """Weighted points, `None` where there is no hope that they are sound."""
    number, size = first_round(problem), problem.evaluation_size
    wanted = max(_MOST_POINTS, _PER_EFFECTIVE * settings.num_effective)
    most = int(min(wanted, _LIMIT, _MOST_NUMBERS / size**2))
    if problem.space.size > _MOST_COORDINATES or most < max(_LEAST_ROUNDS * number, settings.num_effective):
        return None
    return weigh(problem, most, rng, enough=settings.num_effective)


def _kept(problem: Target, settings: Settings) -> tuple[Checkpoint | None, State | None]:
    """Where chains are kept, and how far they have come."""
    if settings.checkpoint is None:
        return None, None
    run = (settings.seed, settings.num_chains, settings.num_warmup)
    checkpoint = Checkpoint(settings.checkpoint, f"{problem.fingerprint()} {run}")
    return checkpoint, checkpoint.load()


def _started(
    problem: Posterior, found: Weighted | None, settings: Settings, rng: np.random.Generator
) -> State:
    """Chains where they start: from weighted points where these are many, else around the modes."""
    C, P = settings.num_chains, problem.space.size
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    modes = search(problem, problem, rng) if found is None else found.modes
    modes = [replace(mode, point=problem.canonical(mode.point[None])[0]) for mode in modes]
    point = highest(modes).point
    density = NoiseCoordinates.around(problem, point)
    moved = [replace(mode, point=density.there(mode.point[None])[0]) for mode in modes]
    normal = approximation_at(moved, density, rng)
    starts, tried = normal.draw(C, rng), (math.inf, 0.0)
    if found is not None:
        tried = (found.sample.pareto_k, found.effective)
        if found.effective >= _STARTS * C + P:
            starts = density.there(problem.canonical(found.points(C, 1, rng)[:, 0]))
    state = _hmc(problem, density, settings).start(starts, normal.root, generator)
    state.further = {name: torch.tensor(value).double() for name, value in zip(_TRIED, tried, strict=True)}
    state.further[_MODE] = point
    return state


def _hmc(problem: Target, density: NoiseCoordinates, settings: Settings) -> HMC:
    return HMC(
        density.value,
        density.value_and_gradient,
        num_warmup=settings.num_warmup,
        signed=density.signed,
        target_acceptance=problem.target_acceptance,
    )


def _chains(
    problem: Posterior, settings: Settings, num_draws: int, state: State, checkpoint: Checkpoint | None
) -> tuple[torch.Tensor, dict[str, np.ndarray], bool]:
    """Points (C, N, P), sample statistics, and whether all are there."""
    density = NoiseCoordinates.around(problem, state.further[_MODE])
    hmc = _hmc(problem, density, settings)

    def kept(length: int) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
        points, sample_stats = stacked(state, length * num_draws)
        return density.back(points.flatten(0, 1)).reshape(points.shape), sample_stats

    length = 1
    complete = sweep(state, hmc.advance, num_draws, settings, checkpoint)
    while complete and length < _MOST_LENGTHS and settings.num_chains * num_draws >= settings.num_effective:
        if settled(_reported(problem, kept(length)[0]), settings.num_effective):
            break
        length *= 2
        complete = sweep(state, hmc.advance, length * num_draws, settings, checkpoint)
    points, sample_stats = kept(length)
    for name in _TRIED:
        sample_stats[name] = np.full(points.shape[:2], float(state.further[name]))
    every = slice(length - 1, None, length)
    return points[:, every], {name: values[:, every] for name, values in sample_stats.items()}, complete


def _reported(problem: Posterior, points: torch.Tensor) -> torch.Tensor:
    """Quantities that results show, for points (C, N, P), shape (C, N, K)."""
    values = problem.space.constrain(points.flatten(0, 1))
    columns = [shown.values.reshape(len(shown.values), -1) for shown in problem.reported(values).values()]
    return torch.cat(columns, dim=1).reshape(*points.shape[:2], -1)
