"""The SVI engine: a normal distribution of what tasks share, and each task given that."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bayesmtl.algebra.random import standard_normal
from bayesmtl.inference.nuts.engine import import_pyro, private_randomness
from bayesmtl.inference.svi.guide import Guide, pseudo_rows
from bayesmtl.posteriors.draws import LinearDraws
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.samplers.progress import iterations
from bayesmtl.samplers.settings import Settings, refuse_checkpoint

NUM_DRAWS = 250  # by default, per chain; they are independent
NUM_RESTARTS = 2
STEPS_PER_WARMUP = 5  # steps of each restart for every warm-up iteration that is asked for
TASKS_AT_ONCE = 128
ROWS_AT_ONCE = 64
_RATES = (0.05, 0.002)  # of the first and the last step
_SPREAD = 0.1  # of q(phi, Z) at the start
_LAST = 1 / 3  # share of the steps whose ELBO is judged, and whose parameters' mean is the result
_WINDOWS = 20
_DRAWN_AT_ONCE = 1_000_000  # numbers


def svi(problem: LinearPosterior, settings: Settings) -> LinearDraws:
    """Fit a normal distribution to hyperparameters and Z, and to each task's weights given those.

    Approximates: the hyperparameters' posterior by a normal distribution of their coordinates (scales on the
    signed line, so that it may straddle zero), and each task's rows by Gaussian pseudo-rows; see
    `bayesmtl.inference.svi.guide`. What is minimised is the divergence of the approximation from the
    posterior, which prefers being too narrow to being too wide: intervals of scales come out somewhat too
    narrow, most of all with few tasks or where a scale may be zero, and so do intervals of the weights there.
    Nothing that the engine reports can see this; "nuts" and "gibbs" have no such error. Simulation-based
    calibration with four tasks of 2 to 8 rows (`python -m benchmarks.calibration_outcomes`) finds ranks far
    from uniform under `TaskCovariance` and `TaskGraph`, where normal scores of scales spread twice as far as
    they should, and `Fit.check` says so; under `Hierarchical` they do with counts (1.9 times, p = 1e-4), less
    with Gaussian targets (1.8 times, p = .002) and a likelihood for each task (1.7 times, p = .01), not with
    yes or no.

    Steps use up to 128 tasks and 64 rows of each, drawn at random, so that a step's cost does not grow with
    the data. Rows that are not loaded (`TaskData.from_parquet`) are read in passes over the files, in any
    order: five passes to where a restart sets out, and then one for every half a million rows that
    minibatches have had, which leaves as many at random in memory (`bayesmtl.posteriors.linear.streamed`).

    Every restart takes five steps for each warm-up iteration asked for (`num_warmup`); the one
    with the highest evidence bound (ELBO) is used. `Fit.check` judges whether the bound was still rising in
    the last third of the steps and whether restarts disagree.

    Priors over partitions of the tasks have a scheme of their own, without Pyro and with all tasks at once:
    `partition_variational`.

    Source: Hoffman, Blei, Wang and Paisley (2013) for minibatches; Polyak and Juditsky (1992) for means over
    steps; the conditional family is ours.

    Raises:
        MissingDependencyError: If Pyro is not installed.
        SpecificationError: If a checkpoint is asked for.
    """
    refuse_checkpoint(settings, "svi")
    rng = np.random.default_rng(settings.seed)
    num_steps = STEPS_PER_WARMUP * settings.num_warmup
    runs = []
    with private_randomness(int(rng.integers(2**62))):
        progress = iterations(0, NUM_RESTARTS * num_steps, f"{NUM_RESTARTS} restarts", show=settings.progress)
        for _ in range(NUM_RESTARTS):
            runs.append(_optimise(_start(problem, rng), num_steps, progress, rng))
        for _ in progress:  # closes the bar
            pass
    best = max(runs, key=lambda run: run.elbo)
    C, N = settings.num_chains, settings.num_draws or NUM_DRAWS
    sample_stats = {
        "elbo": np.full((C, N), best.elbo),
        "elbo_rise": np.full((C, N), best.rise),
        "elbo_rise_error": np.full((C, N), best.rise_error),
        "restart_disagreement": np.full((C, N), _disagreement(problem, runs)),
    }
    return _draws(best.guide, C, N, sample_stats, rng)


@dataclass(frozen=True, eq=False)
class Run:
    """One restart.

    Args:
        guide: What was learned.
        elbo: Mean evidence bound over the last third of the steps.
        rise: By how much it rose there.
        rise_error: Standard error of that.
    """

    guide: Guide
    elbo: float
    rise: float
    rise_error: float


def _start(problem: LinearPosterior, rng: np.random.Generator) -> Guide:
    """Hyperparameters at random, Z and the pseudo-rows from Laplace's method there."""
    point = problem.space.initial(rng, 1)
    values = problem.space.constrain(point)
    structure = problem.structure(values)
    gram, linear = problem.sums_at(values)
    R = 0 if structure.basis_scale is None else structure.basis_scale.shape[1]
    basis = 0.1 * standard_normal(rng, R, problem.tasks.num_features)
    return Guide(problem, point[0], basis, *pseudo_rows(gram, linear), _SPREAD)


def _optimise(guide: Guide, num_steps: int, progress: object, rng: np.random.Generator) -> Run:
    """Adam on the evidence bound, its rate falling from step to step.

    The result is the mean over the last steps, which has a fraction of the noise of any single one.
    """
    pyro = import_pyro("svi")
    batches = guide.problem.batches(TASKS_AT_ONCE, ROWS_AT_ONCE)
    objective = pyro.infer.Trace_ELBO()
    first, last = _RATES
    optimiser = torch.optim.Adam(guide.parameters, lr=first)
    fall = torch.optim.lr_scheduler.ExponentialLR(optimiser, (last / first) ** (1 / num_steps))
    elbo: list[float] = []
    num_judged = max(int(_LAST * num_steps), 2 * _WINDOWS)
    means = [torch.zeros_like(parameter) for parameter in guide.parameters]
    with pyro.validation_enabled(False), torch.enable_grad():
        for step in range(num_steps):
            model, program = guide.programs(pyro, batches.draw(rng))
            optimiser.zero_grad()
            loss = objective.differentiable_loss(model, program)
            if torch.isfinite(loss):  # a rare step too far is not taken
                loss.backward()
                torch.nn.utils.clip_grad_norm_(guide.parameters, 1e3)
                optimiser.step()
            fall.step()
            elbo.append(-float(loss.detach()))
            if (number := step - max(num_steps - num_judged, 0) + 1) > 0:
                for mean, parameter in zip(means, guide.parameters, strict=True):
                    mean += (parameter.detach() - mean) / number
            next(progress)  # type: ignore[call-overload]
    for mean, parameter in zip(means, guide.parameters, strict=True):
        parameter.data.copy_(mean)
    tail = np.array(elbo[-num_judged:])
    return Run(guide, float(np.nanmean(tail)), *rise_of(tail))


def rise_of(tail: np.ndarray) -> tuple[float, float]:
    """By how much a noisy sequence rises from end to end, by a line through window means, and its error."""
    windows = np.array_split(tail, min(_WINDOWS, len(tail)))  # the shortest run has fewer steps than windows
    means = np.array([np.nanmean(window) for window in windows])
    t = np.linspace(-0.5, 0.5, len(means))
    slope = float((t * means).sum() / (t**2).sum())
    residual = means - means.mean() - slope * t
    error = np.sqrt((residual**2).sum() / (len(means) - 2) / (t**2).sum())
    return slope, float(error)


def _disagreement(problem: LinearPosterior, runs: list[Run]) -> float:
    """The largest difference of two restarts' means of phi and Z, in standard deviations."""
    signed = torch.cat([problem.space.signed(), torch.zeros(len(runs[0].guide.loc), dtype=torch.bool)])
    signed = signed[: len(runs[0].guide.loc)]
    means, spreads = [], []
    for run in runs:
        loc, L = run.guide.loc.detach(), run.guide.scale_tril().detach()
        means.append(torch.where(signed, loc.abs(), loc))
        spreads.append((L**2).sum(1).sqrt())
    if not len(means[0]):
        return 0.0
    gaps = [
        (means[0] - mean).abs() / torch.maximum(spreads[0], spread)
        for mean, spread in zip(means, spreads, strict=True)
    ]
    return float(torch.stack(gaps).max())


def _draws(
    guide: Guide, C: int, N: int, sample_stats: dict[str, np.ndarray], rng: np.random.Generator
) -> LinearDraws:
    problem = guide.problem
    (T, D), m = guide.c.shape, len(guide.loc)
    s = guide.loc.detach() + standard_normal(rng, C * N, m) @ guide.scale_tril().detach().T
    values = problem.space.constrain(s[:, : guide.P])
    every, weights, factors = torch.arange(T), [], []
    with torch.no_grad():
        for some in s.split(max(1, _DRAWN_AT_ONCE // (T * D * D))):
            _, given, structure, Z = guide.shared(some)
            means, root = guide.of_tasks(structure, Z, every)
            K = 0 if structure.residual_factor is None else structure.residual_factor.shape[-1]
            if root.shape[-1]:
                mean, precision = guide.conditional(given, means, root, every)
                fresh = standard_normal(rng, *mean.shape, 1)
                L = torch.linalg.cholesky(precision)
                x = mean + torch.linalg.solve_triangular(L.transpose(-1, -2), fresh, upper=True)[..., 0]
                means = means + (root @ x[..., None])[..., 0]
                factors.append(x[..., x.shape[-1] - K :])
            else:
                factors.append(torch.zeros(len(some), T, 0, dtype=some.dtype))
            weights.append(means)
    basis = s[:, guide.P :].reshape(C, N, *guide.basis_shape)
    W, along = torch.cat(weights), torch.cat(factors)
    return LinearDraws(
        {name: value.reshape(C, N, *value.shape[1:]) for name, value in values.items()},
        basis,
        W.reshape(C, N, T, D),
        along.reshape(C, N, T, -1) if along.numel() else torch.zeros(C, N, T, 0, dtype=W.dtype),
        sample_stats,
    )
