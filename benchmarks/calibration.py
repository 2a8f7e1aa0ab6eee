"""Simulation-based calibration with Gaussian noise: `python -m benchmarks.calibration`.

Simulate hyperparameters, weights and targets from the model, fit the targets, and find the rank of the true
value among posterior draws. If simulator, density and sampler agree, ranks are uniform, for any function of
parameters and data (Talts, Betancourt, Simpson, Vehtari and Gelman, 2018; functions that also depend on the
data, such as the log density, see errors that single parameters do not: Modrak et al., 2023).

How draws are made independent: 64 chains run as one batch and only the last draw of each is used, so ranks
have 65 values and draws are as independent as the chains.

How uniformity is judged: a rank r out of L draws becomes u = (r + v) / (L + 1) with v uniform, so u is
exactly uniform if all is right. Two exact tests per quantity: Kolmogorov-Smirnov on u (shifted posteriors),
and the sum of squared normal scores of u, chi-square distributed (Cook, Gelman and Rubin, 2006; too wide or
too narrow posteriors). The smaller p-value, doubled, is the quantity's, and the smallest over quantities,
multiplied by their number, the model's (Bonferroni).
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
import xarray as xr
from scipy import special, stats

import bayesmtl as bm
from bayesmtl.data import Standardization
from bayesmtl.errors import ConvergenceWarning
from bayesmtl.likelihoods import Given
from bayesmtl.likelihoods.categorical import contrasts
from benchmarks.common import Options, main, table, verdict

CLASSES = ("red", "green", "blue")  # of targets that are labels
NUM_CHAINS = 64
NUM_DRAWS = 20  # of each chain; only its last is used
ROWS_PER_TASK = (2, 4, 5, 8)
FALSE_ALARM = 1e-4  # of the whole table

_TASKS = [f"task_{t}" for t in range(len(ROWS_PER_TASK))]
PATH = pd.DataFrame(np.eye(4, k=1) + np.eye(4, k=-1), index=_TASKS, columns=_TASKS)

MODELS: dict[str, bm.LinearModel] = {
    f"{name}, noise {noise}": bm.LinearModel(sharing, bm.Gaussian(noise="task" if noise == "task" else noise))
    for name, sharing in {
        "Independent": bm.Independent(),
        "Pooled": bm.Pooled(mean_scale=bm.HalfNormal(1.0)),
        "Hierarchical isotropic": bm.Hierarchical("isotropic"),
        "Hierarchical diagonal": bm.Hierarchical("diagonal"),
        "Hierarchical full": bm.Hierarchical("full"),
        "LowRank(1)": bm.LowRank(1),
        "TaskCovariance": bm.TaskCovariance(),
        "TaskGraph": bm.TaskGraph(PATH),
    }.items()
    for noise in ("shared", "task", 0.7)
}
"""Every pair; the noise is learned and shared, learned per task, or known."""

KNOWN: dict[str, bm.LinearModel] = {
    "Independent": bm.LinearModel(bm.Independent(bm.Fixed(0.8)), bm.Gaussian(noise=0.7)),
    "Pooled": bm.LinearModel(bm.Pooled(bm.Fixed(1.2)), bm.Gaussian(noise=0.7)),
    "Hierarchical isotropic": bm.LinearModel(
        bm.Hierarchical("isotropic", scale=bm.Fixed(0.6)), bm.Gaussian(noise=0.7)
    ),
    "Hierarchical diagonal": bm.LinearModel(
        bm.Hierarchical("diagonal", scale=bm.Fixed(0.6), mean_scale=bm.Fixed(0.5)), bm.Gaussian(noise=0.7)
    ),
}
"""With all hyperparameters known empirical Bayes leaves nothing out, so it too has to be calibrated."""


@dataclass(frozen=True)
class Ranks:
    """What a calibration run gives.

    Args:
        uniform: By quantity, the randomised ranks of the simulations, each (num_simulations,).
        seconds: Time taken.
    """

    uniform: Mapping[str, np.ndarray]
    seconds: float = field(default=0.0, compare=False)

    def p_values(self) -> pd.DataFrame:
        """Per quantity: mean rank (0.5 if unbiased), spread of normal scores (1 if neither too wide nor too
        narrow), and the p-value of uniformity."""
        rows = {}
        for name, u in self.uniform.items():
            scores = stats.norm.ppf(u)
            tail = stats.chi2(len(u)).cdf((scores**2).sum())
            spread = 2 * min(tail, 1 - tail)
            p = min(1.0, 2 * min(stats.kstest(u, "uniform").pvalue, spread))
            rows[name] = {"mean rank": u.mean(), "spread": np.sqrt((scores**2).mean()), "p": p}
        return pd.DataFrame.from_dict(rows, orient="index")

    def p_value(self) -> float:
        """Of all quantities together."""
        table = self.p_values()
        return min(1.0, float(table["p"].min() * len(table)))


def template(seed: int = 0, rows_per_task: tuple[int, ...] = ROWS_PER_TASK) -> bm.TaskData:
    """Rows of a few tasks, one feature and an intercept; targets are placeholders for simulated ones.

    Models standardise a target by its own spread, which simulated targets would change from the prior's units
    to others. So the target is not standardised here; the features are, in simulation and fit alike.
    """
    rng = np.random.default_rng(seed)
    task = np.repeat([f"task_{t}" for t in range(len(rows_per_task))], rows_per_task)
    X = rng.normal(size=(len(task), 1))
    return bm.TaskData.from_arrays(X, np.zeros(len(task)), task).with_target_standardization("none")


def _standard_scale(scale: np.ndarray, standardization: Standardization) -> np.ndarray:
    """Scales (S, D) of independent standardised coefficients from those of the user's coefficients."""
    variance = scale**2 @ np.linalg.inv(standardization.departures_to_user**2).T
    return np.sqrt(np.maximum(variance, 1e-12 * (scale**2).max()))  # where one is 0, rounding may cross it


def _log_density(
    posterior: xr.Dataset, data: bm.TaskData, model: bm.LinearModel
) -> tuple[np.ndarray, np.ndarray]:
    """log p(y | W, noise), and log p(y, W, population | hyperparameters) up to a constant, each (draws,)."""
    flat = {name: array.to_numpy().reshape(-1, *array.shape[2:]) for name, array in posterior.items()}
    standardization = model.likelihood.standardization(data)
    weights = standardization.weights_to_standard(flat["weights"])
    S, T, D = weights.shape
    if "task_noise" in flat:
        sigma = flat["task_noise"]
    elif "noise" in flat or "scale" in flat:
        sigma = np.repeat(flat["noise" if "noise" in flat else "scale"][:, None], T, axis=1)
    else:
        sigma = np.full((S, T), getattr(model.likelihood, "noise", 1.0))
    X = standardization.standardize_features(data.X)
    fitted = np.einsum("nd,snd->sn", X, weights[:, data.task])
    sigma_rows = sigma[:, data.task]
    own = {name: torch.from_numpy(np.array(v)) for name, v in flat.items() if v.ndim == 1}
    given = Given(own, task=torch.from_numpy(np.array(data.task)))
    of_tasks = model.likelihood.of_tasks(data.task_names, standardization.target_scale)
    likelihood = of_tasks.log_density(data.y, fitted, sigma_rows, given).sum(axis=1)
    joint = likelihood.copy()
    center = np.zeros((S, D))
    if "population" in flat:
        slopes = flat["population"][:, None]
        center = standardization.weights_to_standard(np.repeat(slopes, T, axis=1))[:, 0]
        mean_scale = flat.get("mean_scale", np.ones(S))[:, None]
        joint += stats.norm.logpdf(center, 0.0, mean_scale).sum(axis=1)
    if "task_correlation" in flat:
        sd = flat.get("task_scale", np.ones((S, T)))
        Omega = sd[:, :, None] * flat["task_correlation"] * sd[:, None, :]
        scale = _standard_scale(flat["residual_scale"], standardization)
        apart = (weights - center[:, None]) / scale[:, None]
        joint += -0.5 * (apart * np.linalg.solve(Omega, apart)).sum(axis=(1, 2))
        joint -= 0.5 * D * np.linalg.slogdet(Omega)[1] + T * np.log(scale).sum(axis=1)
    elif "coupling" in flat:
        scale = _standard_scale(flat["residual_scale"], standardization)
        apart = (weights - center[:, None]) / scale[:, None]
        gaps = np.square(np.diff(apart, axis=1)).sum(axis=(1, 2))  # of tasks along `PATH`
        strength = flat["coupling"] * T / PATH.to_numpy().sum()
        precision = np.eye(T) + strength[:, None, None] * (np.diag(PATH.sum()) - PATH.to_numpy())
        joint += 0.5 * D * np.linalg.slogdet(precision)[1] - T * np.log(scale).sum(axis=1)
        joint -= 0.5 * (np.square(apart).sum(axis=(1, 2)) + strength * gaps)
    elif "task_scale" in flat:
        joint += stats.norm.logpdf(weights, 0.0, flat["task_scale"][:, :, None]).sum(axis=(1, 2))
    elif "residual_scale" in flat:
        scale = np.asarray(flat["residual_scale"], dtype=float)
        if "residual_correlation" in flat:
            to_standard = np.linalg.inv(standardization.departures_to_user)
            Sigma = scale[:, :, None] * flat["residual_correlation"] * scale[:, None, :]
            Sigma = to_standard @ Sigma @ to_standard.T
        elif scale.ndim == 1:  # in standardised units
            Sigma = np.einsum("s,de->sde", scale**2, np.eye(D))
        else:
            Sigma = np.einsum("sd,de->sde", _standard_scale(scale, standardization) ** 2, np.eye(D))
        apart = weights - center[:, None]
        solved = np.linalg.solve(Sigma[:, None], apart[..., None])[..., 0]
        joint += -0.5 * (apart * solved).sum(axis=(1, 2)) - 0.5 * T * np.linalg.slogdet(Sigma)[1]
    return likelihood, joint


def _log_density_of_classes(
    posterior: xr.Dataset, data: bm.TaskData, model: bm.LinearModel
) -> tuple[np.ndarray, np.ndarray]:
    """`_log_density` where targets are classes: each contrast of them has the prior by itself."""
    weights = posterior["weights"].transpose("chain", "draw", "class", "task", "feature").to_numpy()
    weights = weights.reshape(-1, *weights.shape[2:])
    latent = np.einsum("nd,sknd->skn", data.X, weights[:, :, data.task])
    log_p = special.log_softmax(latent, axis=1)
    likelihood = np.take_along_axis(log_p, data.y.astype(int)[None, None], axis=1).sum((1, 2))
    joint = likelihood.copy()
    numbers = replace(data, y=np.zeros(data.num_rows), classes=())
    H = xr.DataArray(contrasts(len(data.classes)).numpy(), dims=("class", "contrast"))
    for c in range(H.sizes["contrast"]):
        # H'H = I / 2
        one = posterior.map(
            lambda array, c=c: 2 * (array * H[:, c]).sum("class") if "class" in array.dims else array
        )
        own = one.assign({name: one[name].transpose("chain", "draw", ...) for name in one.data_vars})
        yes_or_no, both = _log_density(own, numbers, bm.LinearModel(model.sharing, bm.Bernoulli()))
        joint += both - yes_or_no  # the prior alone
    return likelihood, joint


def _quantities(posterior: xr.Dataset, data: bm.TaskData, model: bm.LinearModel) -> dict[str, np.ndarray]:
    """What is ranked, each (draws,): hyperparameters, population, some weights, log densities."""
    found = {}
    for name, array in posterior.items():
        values = array.to_numpy().reshape(-1, *array.shape[2:])
        if name == "weights":
            values = values[:, [0, -1]]  # the tasks with the fewest and the most rows
        if name == "residual_correlation":
            values = values[:, 0, 1]
        if name == "task_correlation":
            values = np.stack([values[:, 0, 1], values[:, 1, 3]], axis=1)
        for position in np.ndindex(*values.shape[1:]):
            label = f"{name}{list(position)}" if position else str(name)
            found[label] = values[(slice(None), *position)]
    density = _log_density_of_classes if data.classes else _log_density
    likelihood, joint = density(posterior, data, model)
    return {**found, "log p(y | W)": likelihood, "log p(y, W)": joint}


def calibrate(
    simulator: bm.LinearModel,
    num_simulations: int,
    *,
    fitter: bm.LinearModel | None = None,
    method: str = "exact",
    num_chains: int = NUM_CHAINS,
    num_warmup: int = 100,
    num_draws: int = NUM_DRAWS,
    rows_per_task: tuple[int, ...] = ROWS_PER_TASK,
    seed: int = 0,
) -> Ranks:
    """Ranks of true values among the draws of fits.

    Args:
        simulator: The model that simulates.
        num_simulations: How many data sets.
        fitter: The model that is fitted; the simulating one unless the test is to be tested.
        method: The engine.
        num_chains: Chains of a fit, and so the draws that a true value is ranked among.
        num_warmup: Iterations of each chain before its draws.
        num_draws: Iterations of each chain after that, of which the last is used.
        rows_per_task: Rows of each task.
        seed: Source of randomness; simulation i uses seed + i.
    """
    start = time.perf_counter()
    fitter = fitter or simulator
    rng = np.random.default_rng([seed, 7])
    data = template(rows_per_task=rows_per_task)
    if simulator.likelihood.has_classes:
        data = replace(data, classes=CLASSES)
    collected: dict[str, list[float]] = {}
    for i in range(num_simulations):
        simulated, truth = simulator.simulate(data, seed=seed + i)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # so few draws per chain cannot be judged
            fit = fitter.fit(
                simulated,
                method=method,
                seed=seed + i,
                num_chains=num_chains,
                num_draws=num_draws,
                num_warmup=num_warmup,
                progress=False,
            )
        last = fit.posterior.isel(draw=[-1])
        true = _quantities(truth, simulated, simulator)
        drawn = _quantities(last, simulated, fitter)
        for name in true:
            values, value = drawn[name], true[name][0]
            # equal values, as where a scale is known, share a rank by lot
            below, ties = int((values < value).sum()), int((values == value).sum())
            rank = below + rng.uniform(0, ties + 1)
            collected.setdefault(name, []).append(rank / (len(values) + 1))
    uniform = {name: np.array(values) for name, values in collected.items()}
    return Ranks(uniform, time.perf_counter() - start)


def run(options: Options) -> str:
    """Calibrate every pair with a Gaussian likelihood; one row each."""
    runs = [(name, model, "exact") for name, model in MODELS.items()]
    runs += [(f"{name}, all known", model, "empirical_bayes") for name, model in KNOWN.items()]
    return table_of_runs(runs, options)


def row_of(ranks: Ranks) -> dict[str, object]:
    """What a table says of a calibration run."""
    p_values = ranks.p_values()
    worst = p_values["p"].idxmin()
    return {
        "quantities": len(p_values),
        "worst quantity": worst,
        "its mean rank": f"{p_values.loc[worst, 'mean rank']:.3f}",
        "its spread": f"{p_values.loc[worst, 'spread']:.3f}",
        "p (all quantities)": float(f"{ranks.p_value():.2g}"),
        "seconds": f"{ranks.seconds:.0f}",
    }


def table_of_runs(runs: Sequence[tuple[str, bm.LinearModel, str]], options: Options) -> str:
    """Calibrate models under engines; one row each."""
    num_simulations = options.simulations
    if options.reduced:
        runs, num_simulations = runs[:1], 3
    rows = {}
    for name, model, method in runs:
        rows[name] = {"engine": method} | row_of(calibrate(model, num_simulations, method=method))
        print(name, rows[name], file=sys.stderr, flush=True)
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
    limit = FALSE_ALARM / len(frame)
    failed = frame.index[frame["p (all quantities)"] < limit].tolist()
    sizes = ", ".join(map(str, ROWS_PER_TASK))
    lines = [
        f"{num_simulations} simulated data sets per model (`--simulations`), 4 tasks with {sizes} rows, "
        f"{NUM_CHAINS} independent draws per fit. A pair fails below p = {limit:.1e} (false-alarm "
        f"probability {FALSE_ALARM:g} in all). Mean ranks are .5 and spreads 1 where posteriors are right; "
        "a spread above 1 means intervals that "
        "are too narrow.",
        "",
        table(frame),
        "",
        verdict("no pair departs from uniform ranks", ok=not failed, found=", ".join(failed) or "none does"),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main("calibration", "Simulation-based calibration: Gaussian noise", run)
