"""The exact engine: hyperparameters sampled with weights or functions integrated out, then weights drawn."""

from __future__ import annotations

import numpy as np
import torch

from bayesmtl.posteriors.draws import Draws
from bayesmtl.posteriors.posterior import Posterior
from bayesmtl.posteriors.target import Target
from bayesmtl.samplers.chains import sweep
from bayesmtl.samplers.checkpoint import Checkpoint
from bayesmtl.samplers.hmc import HMC, stacked
from bayesmtl.samplers.search import around_modes
from bayesmtl.samplers.settings import Settings

NUM_DRAWS = 500  # by default, per chain


def exact(problem: Posterior, settings: Settings) -> Draws:
    """Sample the full posterior of a Gaussian model.

    Approximates nothing: the few hyperparameters are sampled by Hamiltonian Monte Carlo from their posterior
    with W and Z integrated out, and Z and W are drawn from their Gaussian conditional, one draw for each
    hyperparameter draw. Functions integrate out alike, and are
    drawn where they are asked for. What is left is Monte Carlo error, which `Fit.check` judges.

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
    return problem.complete(points, sample_stats, weights_rng, complete=complete)


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
        target_acceptance=problem.target_acceptance,
    )
    checkpoint = None
    state = None
    if settings.checkpoint is not None:
        run = (settings.seed, settings.num_chains, settings.num_warmup)
        checkpoint = Checkpoint(settings.checkpoint, f"{problem.fingerprint()} {run}")
        state = checkpoint.load()
    if state is None:
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        state = hmc.start(*around_modes(problem, problem, settings.num_chains, rng), generator)
    complete = sweep(state, hmc.advance, num_draws, settings, checkpoint)
    return *stacked(state, num_draws), complete
