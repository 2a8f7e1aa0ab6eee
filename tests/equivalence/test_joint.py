"""Collapsed equals joint: an independent Pyro program that samples every weight gives the same posterior.

The program below shares nothing with the package but the priors that the documentation states: population,
scales, noise and all weights are sampled by Pyro's NUTS, with nothing integrated out. Means agree within
5 Monte Carlo standard errors and spreads within 25 %, for 11 quantities: false alarms below 1e-4 (seeds
are fixed besides).
"""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz_stats.base import array_stats
from pyro.infer import MCMC, NUTS

import bayesmtl as bm

NUM_TASKS = 3
NAMES = ("population", "residual_scale", "noise", "weights")


def joint_program(X: torch.Tensor, y: torch.Tensor, task: torch.Tensor) -> None:
    D = X.shape[1]
    mean = pyro.sample("population", dist.Normal(torch.zeros(D), 1.0).to_event(1))
    scale = pyro.sample("residual_scale", dist.HalfNormal(torch.ones(D)).to_event(1))
    noise = pyro.sample("noise", dist.HalfNormal(torch.tensor(1.0)))
    # non-centred: NUTS would otherwise meet a funnel; the model is the same
    apart = pyro.sample("apart", dist.Normal(torch.zeros(NUM_TASKS, D), 1.0).to_event(2))
    weights = pyro.deterministic("weights", mean + scale * apart)
    pyro.sample("y", dist.Normal((X * weights[task]).sum(-1), noise).to_event(1), obs=y)


def reference(X: torch.Tensor, y: torch.Tensor, task: torch.Tensor) -> dict[str, np.ndarray]:
    """Draws (1, N, ...) of Pyro's NUTS, without a trace in the global store, generators or default type."""
    store, state, dtype = pyro.get_param_store().get_state(), torch.get_rng_state(), torch.get_default_dtype()
    pyro_state = pyro.util.get_rng_state()
    try:
        pyro.clear_param_store()
        torch.set_default_dtype(torch.float64)
        pyro.set_rng_seed(0)
        # compiled, since Pyro's NUTS costs milliseconds per leapfrog step otherwise
        kernel = NUTS(joint_program, max_tree_depth=4, jit_compile=True, ignore_jit_warnings=True)
        mcmc = MCMC(kernel, num_samples=300, warmup_steps=100, disable_progbar=True)
        mcmc.run(X, y, task)
        draws = mcmc.get_samples()
        draws["weights"] = draws["population"][:, None] + draws["residual_scale"][:, None] * draws["apart"]
    finally:
        torch.set_default_dtype(dtype)
        pyro.util.set_rng_state(pyro_state)
        torch.set_rng_state(state)
        pyro.get_param_store().set_state(store)
    return {name: draws[name].numpy()[None] for name in NAMES}


@pytest.mark.slow
@pytest.mark.statistical
# compiling warns of tracing; chains this short may be told to run longer, their error is allowed for
@pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::bayesmtl.errors.ConvergenceWarning"
)
def test_collapsed_equals_joint():
    rng = np.random.default_rng(0)
    task = np.repeat(np.arange(NUM_TASKS), [4, 8, 8])
    x = rng.normal(size=len(task))
    x = (x - x.mean()) / x.std()
    W = np.array([0.4, -0.8]) + 0.7 * rng.normal(size=(NUM_TASKS, 2))
    y = W[task, 0] + W[task, 1] * x + 0.5 * rng.normal(size=len(task))
    data = bm.TaskData.from_arrays(x[:, None], y, task).with_target_standardization("none")
    fit = bm.LinearModel().fit(
        data, method="exact", seed=0, num_chains=10, num_draws=120, num_warmup=100, progress=False
    )
    X = torch.from_numpy(np.column_stack([np.ones_like(x), x]))
    joint = reference(X, torch.from_numpy(y), torch.from_numpy(task))
    for name in NAMES:
        ours = fit.posterior[name].to_numpy()
        ours, theirs = (values.reshape(*values.shape[:2], -1) for values in (ours, joint[name]))
        errors = [
            array_stats.mcse(values, chain_axis=0, draw_axis=1, method="mean") for values in (ours, theirs)
        ]
        gap = np.abs(ours.mean((0, 1)) - theirs.mean((0, 1)))
        assert (gap < 5 * np.hypot(*errors)).all(), name
        assert (np.abs(theirs.std((0, 1)) / ours.std((0, 1)) - 1) < 0.25).all(), name
