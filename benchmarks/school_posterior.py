"""The full posterior of School: how fast, beside the same model in NumPyro, and whether they agree.

139 schools, every weight varying by school, half-normal(1) priors on the D scales and the noise, N(0, 1) on
the population means, standardised data. The measure is the smallest bulk effective sample size (ESS) over
population means, scales, noise and all T x D weights, per second from end to end: the pass over the data,
warm-up, and the draws of the weights. Collapsed peers get their weights drawn by our algebra, at no cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

import bayesmtl as bm
from bayesmtl.algebra.conditional import draw_weights
from bayesmtl.inference.exact import exact
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.samplers.settings import Settings
from benchmarks.common import Options, Watch, bulk_ess, main, mcse_mean, prepare, rhat, school, table, verdict

MODEL = bm.LinearModel(sharing=bm.Hierarchical(), likelihood=bm.Gaussian())
NUM_CHAINS = 4
AGREEMENT = 1.15
SIGNED = "NumPyro NUTS, collapsed, signed scales"
_ESS_CHUNK = 400  # weights handled at once


@dataclass(frozen=True)
class Posterior:
    """Draws in standardised units.

    Args:
        shared: Population means, scales and noise, shape (C, N, 2 D + 1).
        weights: Shape (C, N, T D).
    """

    shared: np.ndarray
    weights: np.ndarray

    def smallest_ess(self) -> float:
        """Over everything."""
        return min(float(np.nanmin(bulk_ess(part))) for part in self._parts())

    def largest_rhat(self) -> float:
        """Over everything."""
        return max(float(np.nanmax(rhat(part))) for part in self._parts())

    def _parts(self) -> list[np.ndarray]:
        K = self.weights.shape[2]
        return [self.shared, *(self.weights[:, :, i : i + _ESS_CHUNK] for i in range(0, K, _ESS_CHUNK))]


def ours(data: bm.TaskData, seed: int, num_draws: int, num_warmup: int) -> tuple[Posterior, Watch]:
    """`LinearModel.fit(method="exact")` without its verdict, timed."""
    watch = Watch()
    with watch.running():
        problem = prepare(MODEL, data)
        draws = exact(
            problem,
            Settings(seed, NUM_CHAINS, num_draws, num_warmup, progress=False),
        )
    C, N = draws.weights.shape[:2]
    scale = draws.hyperparameters["residual_scale"].abs()
    noise = draws.hyperparameters["noise"][..., None]
    shared = torch.cat([draws.basis[:, :, 0], scale, noise], dim=-1)
    return Posterior(shared.numpy(), draws.weights.reshape(C, N, -1).numpy()), watch


def of_peer(problem: LinearPosterior, values: dict[str, np.ndarray]) -> Posterior:
    """A peer's draws in the same shape; the weights of a collapsed program drawn from their conditional."""
    mu, tau, sigma = values["mu"], np.abs(values["tau"]), values["sigma"][..., None]
    C, N, D = mu.shape
    if "z" in values:
        weights = mu[:, :, None] + tau[:, :, None] * values["z"]
    else:
        flat = {
            "mean_scale": torch.ones(C * N, dtype=torch.float64),
            "residual_scale": torch.from_numpy(tau.reshape(C * N, D).copy()),
            "noise": torch.from_numpy(sigma.reshape(C * N).copy()),
        }
        basis = torch.from_numpy(mu.reshape(C * N, 1, D).copy())
        rng = np.random.default_rng(0)
        noise = problem.noise(flat, C * N)
        parts = [
            draw_weights(
                problem.tasks,
                problem.structure({name: value[i : i + 50] for name, value in flat.items()}),
                noise[i : i + 50],
                basis[i : i + 50],
                rng,
            ).weights
            for i in range(0, C * N, 50)
        ]
        weights = torch.cat(parts).numpy()
    return Posterior(np.concatenate([mu, tau, sigma], axis=-1), weights.reshape(C, N, -1))


def row(posterior: Posterior | None, watch: Watch, note: str = "") -> dict[str, object]:
    """One row of the table of speeds."""
    draws = ess = per_second = worst = float("nan")
    if posterior is not None:
        C, N = posterior.shared.shape[:2]
        draws, ess, worst = C * N, posterior.smallest_ess(), posterior.largest_rhat()
        per_second = ess / watch.wall
    return {
        "draws": "-" if posterior is None else f"{draws}",
        "wall s": f"{watch.wall:.1f}",
        "CPU s": f"{watch.cpu:.1f}",
        "smallest ESS": "-" if posterior is None else f"{ess:.0f}",
        "largest R-hat": "-" if posterior is None else f"{worst:.3f}",
        "ESS/s": "-" if posterior is None else f"{per_second:.3g}",
        "note": note,
    }


def z_rms(first: Posterior, second: Posterior) -> float:
    """Root mean square of the differences of means in their Monte Carlo standard errors."""
    a, b = first.shared, second.shared
    z = (a.mean((0, 1)) - b.mean((0, 1))) / np.hypot(mcse_mean(a), mcse_mean(b))
    return float(np.sqrt(np.mean(z**2)))


def peer_programs(data: bm.TaskData) -> dict[str, object]:
    """The NumPyro programs on these rows."""
    from benchmarks import peers

    standardization = data.standardization()
    rows = peers.Rows(
        standardization.standardize_features(data.X),
        standardization.standardize_target(data.y, data.task),
        data.task,
        data.num_tasks,
    )
    return {
        "NumPyro NUTS, every weight latent": peers.every_weight_latent(rows),
        "NumPyro NUTS, collapsed by hand": peers.collapsed(rows, signed=False),
        SIGNED: peers.collapsed(rows, signed=True),
    }


def one_design(data: bm.TaskData, options: Options) -> list[str]:
    """Speeds, requirements and agreement on one design."""
    from benchmarks import peers

    reduced = options.reduced
    num_draws, num_warmup = (40, 40) if reduced else (500, 200)
    long_draws = 40 if reduced else 3000
    peer_draws, peer_warmup = (5, 5) if reduced else (500, 500)
    posterior, watch = ours(data, seed=0, num_draws=num_draws, num_warmup=num_warmup)
    rows = {"bayesmtl, exact": row(posterior, watch)}
    problem = prepare(MODEL, data)
    drawn: dict[str, Posterior] = {}
    programs = peer_programs(data)
    if reduced:  # compiling takes longer than all the rest
        programs = {SIGNED: programs[SIGNED]}
    for name, program in programs.items():
        result = peers.sample(
            program,
            num_warmup=peer_warmup,
            num_draws=peer_draws,
            num_chains=2 if reduced else NUM_CHAINS,
            seed=0,
            cap=min(options.cap, 8.0) if reduced else options.cap,
        )
        if result.values:
            drawn[name] = of_peer(problem, result.values)
        note = "" if result.finished else f"stopped after {options.cap:.0f} s"
        if not result.values:
            note += ", still in its warm-up"
        rows[name] = row(drawn.get(name), result.watch, note)
    long, _ = ours(data, seed=1, num_draws=long_draws, num_warmup=num_warmup)
    agreement = {"a long run of ours, other seed": z_rms(posterior, long)}
    signed = drawn.get(SIGNED)
    if signed is not None:
        agreement[SIGNED] = z_rms(long, signed)
    speeds = pd.DataFrame.from_dict(rows, orient="index").rename_axis("program")
    ess, worst = posterior.smallest_ess(), posterior.largest_rhat()
    return [
        f"{data.num_tasks} tasks, {data.num_features} columns, {data.num_rows:,} rows, {NUM_CHAINS} chains "
        "(ours as one batch, NumPyro's one after the other)",
        "",
        table(speeds),
        "",
        verdict("smallest ESS at least 400", ok=ess >= 400, found=f"{ess:.0f}"),
        verdict("largest R-hat below 1.01", ok=worst < 1.01, found=f"{worst:.4f}"),
        verdict("under 25 s", ok=watch.wall < 25, found=f"{watch.wall:.1f} s"),
        verdict("at least 40 ESS/s", ok=ess / watch.wall >= 40, found=f"{ess / watch.wall:.1f}"),
        *(
            verdict(f"z rms at most {AGREEMENT} against {name}", ok=value <= AGREEMENT, found=f"{value:.2f}")
            for name, value in agreement.items()
        ),
        "",
    ]


def run(options: Options) -> str:
    lines = []
    designs = ("every level", "reference levels")
    for columns in designs[:1] if options.reduced else designs:
        data = school(columns)
        if options.reduced:
            data = data.select_tasks(data.task_names[:5])
        lines += [f"## Design: {columns}", "", *one_design(data, options)]
    lines += [
        "The agreement compares means of population, scales and noise in their joint Monte Carlo standard "
        "errors; against NumPyro it is the long run that is compared, so that NumPyro's error dominates.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main("school_posterior", "School: the full posterior", run, ("numpyro", "jax", "arviz-stats"))
