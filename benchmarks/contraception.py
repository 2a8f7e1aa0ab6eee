"""Contraception (1,934 women, 60 districts): every engine for outcomes beside NumPyro's NUTS, in one run.

Hierarchical logistic regression with a random intercept and a random effect of living in a town, both by
district. All have our priors on standardised features: mu ~ N(0, I), tau_d ~ half-normal(1),
w_t ~ N(mu, diag(tau^2)). Means are compared in posterior standard deviations, beyond 4 Monte Carlo standard
errors of both runs (the largest of 124 quantities is to pass); an engine that approximates nothing has to
agree to nothing beyond them, "laplace" and "svi" to the tolerance stated.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd

import bayesmtl as bm
from bayesmtl.posteriors.draws import Draws
from benchmarks import peers
from benchmarks.common import Options, Watch, bulk_ess, main, mcse_mean, rhat, table, verdict

MODEL = bm.LinearModel(bm.Hierarchical(), bm.Bernoulli())
LIMIT = 2.0  # processor seconds of laplace


@dataclass(frozen=True)
class Claim:
    """What an engine claims: means within so many sd, spreads within such a factor, of the exact answer."""

    means: float
    spreads: float
    settings: dict[str, int]


CLAIMS = {
    "laplace": Claim(0.20, 1.25, {}),
    "gibbs": Claim(0.0, 1.15, {"num_draws": 500}),
    "nuts": Claim(0.0, 1.15, {"num_draws": 300, "num_warmup": 100, "num_chains": 2}),
    "svi": Claim(0.35, 1.35, {"num_draws": 1000, "num_warmup": 120}),
}


def flattened(mu: np.ndarray, tau: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """All quantities (C, N, K): population, scales, weights."""
    return np.concatenate([mu, np.abs(tau), weights.reshape(*weights.shape[:2], -1)], axis=2)


def quantities(draws: Draws) -> np.ndarray:
    """Those of an engine."""
    scale = draws.hyperparameters["residual_scale"].numpy()
    return flattened(draws.basis[:, :, 0].numpy(), scale, draws.weights.numpy())


def row(draws: np.ndarray, reference: np.ndarray, watch: Watch) -> dict[str, float]:
    """How draws (C, N, K) compare with the reference's."""
    sd = reference.std((0, 1))
    gap = np.abs(draws.mean((0, 1)) - reference.mean((0, 1)))
    error = np.hypot(mcse_mean(draws), mcse_mean(reference))
    return {
        "CPU s": watch.cpu,
        "draws": draws.shape[0] * draws.shape[1],
        "smallest bulk ESS": float(bulk_ess(draws).min()),
        "largest R-hat": float(rhat(draws).max()),
        "ESS / CPU s": float(bulk_ess(draws).min()) / watch.cpu,
        "means: sd apart, largest": float((gap / sd).max()),
        "beyond 4 MCSE": float(np.maximum((gap - 4 * error) / sd, 0).max()),
        "spreads: factor, largest": float(np.exp(np.abs(np.log(draws.std((0, 1)) / sd))[:4].max())),
    }


def run(options: Options) -> str:
    entry = bm.datasets.load("contraception")
    data = bm.TaskData.from_frame(entry.frame, task=entry.task, target=entry.target, features=["urban"])
    few = data.select_tasks(data.task_names[:4])
    # loads what a first fit imports, as NumPyro's compilation is not counted either
    MODEL.fit(few, method="laplace", seed=0, progress=False, num_chains=2, num_draws=20)
    length = {"num_warmup": 300, "num_draws": 700, "num_chains": 4}
    if options.reduced:
        data = few
        length = {"num_warmup": 30, "num_draws": 20, "num_chains": 2}
    model = peers.logistic(peers.of_outcomes(MODEL, data))
    peer = peers.sample(model, **length, seed=0, cap=options.cap)
    mu, tau, z = (peer.values[name] for name in ("mu", "tau", "z"))
    reference = flattened(mu, tau, mu[:, :, None] + tau[:, :, None] * z)
    rows = {"NumPyro NUTS": row(reference, reference, peer.watch)}
    print(rows, file=sys.stderr, flush=True)
    lines = []
    for name, claim in CLAIMS.items():
        settings = {"num_chains": 2, "num_draws": 20, "num_warmup": 20} if options.reduced else claim.settings
        watch = Watch()
        with watch.running():
            fit = MODEL.fit(data, method=name, seed=0, progress=False, **settings)
        rows[name] = found = row(quantities(fit.draws), reference, watch)
        print(name, found, file=sys.stderr, flush=True)
        apart, factor = found["beyond 4 MCSE"], found["spreads: factor, largest"]
        lines.append(
            verdict(
                f"{name}: means within {claim.means} sd beyond Monte Carlo error, spreads of population and "
                f"scales within a factor of {claim.spreads}",
                ok=apart <= claim.means and factor <= claim.spreads,
                found=f"{apart:.2f} sd, factor {factor:.2f}",
            )
        )
    seconds = rows["laplace"]["CPU s"]
    lines.append(verdict(f"laplace under {LIMIT:.0f} s", ok=seconds < LIMIT, found=f"{seconds:.1f} CPU s"))
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("engine")
    return "\n".join([table(frame.astype({"draws": int})), "", *lines])


if __name__ == "__main__":
    main("contraception", "Contraception: every engine for outcomes", run, packages=("numpyro", "pyro-ppl"))
