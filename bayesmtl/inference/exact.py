"""The exact engine: hyperparameters sampled with all weights integrated out, then weights drawn exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from bayesmtl.inference.checkpoint import Checkpoint
from bayesmtl.inference.draws import Draws, complete_draws
from bayesmtl.inference.hmc import HMC, stacked
from bayesmtl.inference.mode import NUM_STARTS, find_modes, highest, spread_root
from bayesmtl.inference.problem import Problem
from bayesmtl.inference.progress import iterations
from bayesmtl.inference.settings import Settings
from bayesmtl.inference.target import Target

NUM_DRAWS = 500  # by default, per chain
# Standard deviations of the normal approximation that chains start from a mode. The bulk of the posterior is
# easily reached from its mode, from far outside it is not.
_START_SPREAD = 1.0


def exact(problem: Problem, settings: Settings) -> Draws:
    """Sample the full posterior of a Gaussian model.

    Approximates nothing: the few hyperparameters are sampled by Hamiltonian Monte Carlo from their posterior
    with W and Z integrated out, and Z and W are drawn from their Gaussian conditional, one draw for each
    hyperparameter draw. What is left is Monte Carlo error, which `Fit.check` judges.

    An interrupt (Ctrl-C) after warm-up returns the draws made so far, marked incomplete; with a checkpoint,
    the same call goes on later.

    Raises:
        KeyboardInterrupt: If interrupted while nothing is drawn yet.
        CheckpointError: If the checkpoint is damaged or belongs to another run.
    """
    rng = np.random.default_rng(settings.seed)
    # weights have a stream of their own, so that a resumed run draws the same ones
    (weights_rng,) = rng.spawn(1)
    points, sample_stats, complete = sample_hyperparameters(problem, settings, rng)
    return complete_draws(problem, points, sample_stats, weights_rng, complete=complete)


def sample_hyperparameters(
    problem: Target, settings: Settings, rng: np.random.Generator
) -> tuple[torch.Tensor, dict[str, np.ndarray], bool]:
    """Points (C, N, P) from the hyperparameters' posterior, sample statistics, and whether all are there.

    Raises:
        KeyboardInterrupt: If interrupted while nothing is drawn yet.
        CheckpointError: If the checkpoint is damaged or belongs to another run.
    """
    num_draws = NUM_DRAWS if settings.num_draws is None else settings.num_draws
    if problem.space.size == 0:  # every hyperparameter is known
        points = torch.zeros(settings.num_chains, num_draws, 0, dtype=torch.float64)
        return points, {}, True
    hmc = HMC(
        problem.value,
        problem.value_and_gradient,
        num_warmup=settings.num_warmup,
        signed=problem.space.signed(),
    )
    checkpoint = None
    state = None
    if settings.checkpoint is not None:
        run = (settings.seed, settings.num_chains, settings.num_warmup)
        checkpoint = Checkpoint(settings.checkpoint, f"{problem.fingerprint()} {run}")
        state = checkpoint.load()
    if state is None:
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        state = hmc.start(*_around_modes(problem, settings.num_chains, rng), generator)
    total = settings.num_warmup + num_draws
    description = f"{settings.num_chains} chains"
    complete = True
    try:
        for _ in iterations(state.iteration, total, description, show=settings.progress):
            hmc.advance(state)
            if checkpoint is not None:
                checkpoint.save_if_due(state)
    except KeyboardInterrupt:
        if len(state.draws) < 4:
            raise
        complete = False
    if checkpoint is not None:
        checkpoint.save(state)
    return *stacked(state, num_draws), complete


def _around_modes(
    problem: Target, num_chains: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Points where chains start (C, P), taking turns among the modes found, and a root of their metric.

    Both are kept to a few digits: as guesses they need no more, and what the order of the rows or of the
    tasks changes by rounding would grow along the chains.
    """
    modes = find_modes(problem, problem.space.initial(rng, NUM_STARTS))
    modes = [replace(mode, point=problem.canonical(mode.point[None])[0]) for mode in modes]
    best = highest(modes)
    root = spread_root(problem, best.point, rng)
    scale = root.diagonal().sqrt().to(torch.bfloat16).double()
    root = (root / torch.outer(scale, scale)).round(decimals=2) * torch.outer(scale, scale)
    centers = torch.stack([modes[chain % len(modes)].point for chain in range(num_chains)]).round(decimals=3)
    fresh = torch.from_numpy(rng.standard_normal(tuple(centers.shape)))
    return centers + _START_SPREAD * fresh @ root.T, root
