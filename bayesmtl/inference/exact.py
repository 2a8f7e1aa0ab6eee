"""The exact engine: hyperparameters sampled with weights or functions integrated out, then weights drawn."""

from __future__ import annotations

import numpy as np
import torch

from bayesmtl.inference.weighted import Weighted, first_round, weigh
from bayesmtl.posteriors.draws import Draws
from bayesmtl.posteriors.posterior import Posterior
from bayesmtl.posteriors.target import Target
from bayesmtl.samplers.chains import settled, sweep
from bayesmtl.samplers.checkpoint import Checkpoint
from bayesmtl.samplers.hmc import HMC, State, stacked
from bayesmtl.samplers.importance import ENOUGH_POINTS
from bayesmtl.samplers.search import around_modes
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


def exact(problem: Posterior, settings: Settings) -> Draws:
    """Draw from the full posterior of a Gaussian model, the cheapest sound way.

    Approximates nothing but by the number of draws. The hyperparameters, few, have a density with W and Z, or
    functions, integrated out. First points around its mode are weighted (adaptive importance sampling, a
    few thousand evaluations). They are the answer where `num_effective` of them are effective and the tail of
    their weights is light (Pareto k below .5). Elsewhere Hamiltonian chains sample the density, and go on,
    up to four times as long, until R-hat and effective sizes of the hyperparameters hold; of longer chains
    every second or fourth draw is kept. Z and W are drawn from their Gaussian conditional, one draw for each
    hyperparameter draw; functions are drawn where they are asked for. `sample_stats` say which way was taken:
    `pareto_k` and `importance_ess`, or the statistics of chains.

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
        if found is not None:
            points, told = found.points(C, N, rng), found.stats(C, N)
            return problem.complete(points, told, weights_rng)
    points, sample_stats, complete = _chains(problem, settings, N, rng, checkpoint, state)
    return problem.complete(points, sample_stats, weights_rng, complete=complete)


def way(draws: Draws) -> str:
    """Which way the exact engine took, in words."""
    stats = draws.sample_stats
    if "pareto_k" in stats:
        k, effective = (float(stats[name].flat[0]) for name in ("pareto_k", "importance_ess"))
        return f"by importance sampling, {effective:.0f} effective points, Pareto k {k:.2f}"
    return "by chains" if stats else "every hyperparameter is known"


def _weighted(problem: Posterior, settings: Settings, rng: np.random.Generator) -> Weighted | None:
    """Weighted points where they are sound, `None` where chains are needed."""
    number, size = first_round(problem), problem.evaluation_size
    wanted = max(_MOST_POINTS, _PER_EFFECTIVE * settings.num_effective)
    most = int(min(wanted, _LIMIT, _MOST_NUMBERS / size**2))
    if problem.space.size > _MOST_COORDINATES or most < max(_LEAST_ROUNDS * number, settings.num_effective):
        return None
    enough = max(ENOUGH_POINTS, settings.num_effective)
    found = weigh(problem, most, rng, enough=enough)
    sound = found.mode.converged and found.is_sound(settings.num_effective)
    return found if sound else None


def _kept(problem: Target, settings: Settings) -> tuple[Checkpoint | None, State | None]:
    """Where chains are kept, and how far they have come."""
    if settings.checkpoint is None:
        return None, None
    run = (settings.seed, settings.num_chains, settings.num_warmup)
    checkpoint = Checkpoint(settings.checkpoint, f"{problem.fingerprint()} {run}")
    return checkpoint, checkpoint.load()


def _chains(
    problem: Target,
    settings: Settings,
    num_draws: int,
    rng: np.random.Generator,
    checkpoint: Checkpoint | None,
    state: State | None,
) -> tuple[torch.Tensor, dict[str, np.ndarray], bool]:
    """Points (C, N, P), sample statistics, and whether all are there."""
    hmc = HMC(
        problem.value,
        problem.value_and_gradient,
        num_warmup=settings.num_warmup,
        signed=problem.space.signed(),
        target_acceptance=problem.target_acceptance,
    )
    if state is None:
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        state = hmc.start(*around_modes(problem, problem, settings.num_chains, rng), generator)
    length = 1
    complete = sweep(state, hmc.advance, num_draws, settings, checkpoint)
    while complete and length < _MOST_LENGTHS and settings.num_chains * num_draws >= settings.num_effective:
        points, _ = stacked(state, length * num_draws)
        if settled(problem.canonical(points.flatten(0, 1)).reshape(points.shape), settings.num_effective):
            break
        length *= 2
        complete = sweep(state, hmc.advance, length * num_draws, settings, checkpoint)
    points, sample_stats = stacked(state, length * num_draws)
    every = slice(length - 1, None, length)
    return points[:, every], {name: values[:, every] for name, values in sample_stats.items()}, complete
