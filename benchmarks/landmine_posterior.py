"""Landmine, all 14,820 cells: the posterior of hierarchical logistic regression beside NumPyro's NUTS.

29 fields, 9 features and a level, all of which vary by field, by "laplace" and "gibbs"; NumPyro's NUTS (every
weight latent, non-centred, in 32 bit as is its default) gets `--cap` seconds. What is compared is the
smallest bulk effective sample size of the hyperparameters with the population, and of all weights.
"""

from __future__ import annotations

import sys

import jax
import numpy as np
import pandas as pd

import bayesmtl as bm
from bayesmtl.posteriors.draws import Draws
from benchmarks import peers
from benchmarks.common import Options, Watch, bulk_ess, main, rhat, table, verdict
from benchmarks.landmine_protocol import landmine, task_data

SMALLEST_ESS, LARGEST_RHAT = 400, 1.01
LENGTH = {"laplace": {"num_draws": 500}, "gibbs": {"num_draws": 4000}}


def parts(draws: Draws) -> dict[str, np.ndarray]:
    """Hyperparameters with the population, and all weights, each (C, N, K)."""
    C, N = draws.weights.shape[:2]
    hyper = [draws.basis[:, :, 0], draws.hyperparameters["residual_scale"].abs()]
    return {
        "hyperparameters": np.concatenate([part.numpy() for part in hyper], axis=-1),
        "weights": draws.weights.reshape(C, N, -1).numpy(),
    }


def row(quantities: dict[str, np.ndarray], watch: Watch) -> dict[str, float | str]:
    """Effective sample sizes of what an engine drew."""
    shape = next(iter(quantities.values())).shape
    found: dict[str, float | str] = {"CPU s": watch.cpu, "draws": f"{shape[0]} x {shape[1]}"}
    for name, values in quantities.items():
        smallest = float(bulk_ess(values).min())
        found |= {f"smallest ESS, {name}": smallest, f"ESS / CPU s, {name}": smallest / watch.cpu}
    return found | {"largest R-hat": max(float(rhat(values).max()) for values in quantities.values())}


def run(options: Options) -> str:
    """Effective sample sizes of the full posterior."""
    frame = landmine()
    if options.reduced:
        frame = frame[frame["field"].isin(frame["field"].unique()[:3])].iloc[::4]
    data = task_data(frame)
    model = bm.LinearModel(bm.Hierarchical(), bm.Bernoulli())
    rows = {}
    for name, length in LENGTH.items():
        settings = {"num_chains": 2, "num_draws": 20, "num_warmup": 20} if options.reduced else length
        watch = Watch()
        with watch.running():
            fit = model.fit(data, method=name, seed=0, progress=False, **settings)
        rows[name] = row(parts(fit.draws), watch)
        print(name, rows[name], file=sys.stderr, flush=True)
    length = {"num_warmup": 20, "num_draws": 20} if options.reduced else {"num_warmup": 300, "num_draws": 500}
    with jax.enable_x64(False):
        program = peers.logistic(peers.of_outcomes(model, data))
        peer = peers.sample(program, **length, num_chains=2, seed=0, cap=options.cap)
    lines = []
    if peer.values:
        mu, tau, z = (peer.values[name] for name in ("mu", "tau", "z"))
        weights = mu[:, :, None] + tau[:, :, None] * z
        drawn = {
            "hyperparameters": np.concatenate([mu, tau], axis=2),
            "weights": weights.reshape(*mu.shape[:2], -1),
        }
        rows["NumPyro NUTS"] = row(drawn, peer.watch)
        for name in LENGTH:
            for part in drawn:
                ours, theirs = (float(rows[who][f"ESS / CPU s, {part}"]) for who in (name, "NumPyro NUTS"))
                lines.append(
                    verdict(
                        f"{name}, {part}: ESS per second no lower than NumPyro's",
                        ok=ours >= theirs,
                        found=f"{ours:.2f} and {theirs:.2f}",
                    )
                )
    else:
        lines.append(f"NumPyro NUTS: nothing drawn within {options.cap:.0f} s")
    for name in LENGTH:
        found = rows[name]
        smallest = min(float(found[f"smallest ESS, {part}"]) for part in ("hyperparameters", "weights"))
        lines += [
            verdict(
                f"{name}: smallest ESS {SMALLEST_ESS}", ok=smallest >= SMALLEST_ESS, found=f"{smallest:.0f}"
            ),
            verdict(
                f"{name}: R-hat below {LARGEST_RHAT}",
                ok=float(found["largest R-hat"]) < LARGEST_RHAT,
                found=f"{found['largest R-hat']:.3f}",
            ),
        ]
    return "\n".join([table(pd.DataFrame.from_dict(rows, orient="index").rename_axis("engine")), "", *lines])


if __name__ == "__main__":
    main("landmine_posterior", "Landmine: the posterior of all cells", run, packages=("numpyro",))
