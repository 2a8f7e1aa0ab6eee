"""Complete grids: one marginal likelihood with its gradient, and whole fits, beside those of peers.

Peers are GPyTorch's `MultitaskKernel` and, up to 200 inputs x 16 tasks, BoTorch's `KroneckerMultiTaskGP`.
A whole fit is `empirical_bayes`, two starts included; GPyTorch gets 50 steps of Adam from its defaults. What
they reach is compared by log p(targets | hyperparameters), of standardised targets.
"""

from __future__ import annotations

import importlib.util
import sys
import time
import warnings
from collections.abc import Callable

import gpytorch
import numpy as np
import pandas as pd
import torch

import bayesmtl as bm
from bayesmtl.posteriors.functions.posterior import FunctionPosterior, known_fields
from benchmarks.common import Options, main, table, verdict

SIZES = {
    (200, 4): 2.0,
    (200, 16): 2.0,
    (200, 64): 2.0,
    (500, 4): 1.3,
    (500, 16): 1.3,
    (500, 64): 1.3,
    (1000, 16): 1.3,
    (2000, 4): 1.3,
}
"""Inputs and tasks, and how many times faster than GPyTorch an evaluation should be."""
MOST_BOTORCH = 200 * 16  # cells; it takes seconds there, and much memory beyond
HAS_BOTORCH = importlib.util.find_spec("botorch") is not None
THAN_BOTORCH = 25.0
FITS, FIT_NEEDED, STEPS, RATE = ((500, 16), (1000, 16)), 6.0, 50, 0.1
MOST_DENSE = 1000  # rows
RANK = 2


def milliseconds(evaluate: Callable[[], object], repeats: int) -> float:
    """Processor time of the fastest of some evaluations, after one that is not counted."""
    evaluate()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        evaluate()
        times.append(time.process_time() - start)
    return 1e3 * min(times)


def peer(X: np.ndarray, Y: np.ndarray) -> Callable[[], None]:
    """GPyTorch's intrinsic coregionalisation on the same rows, value and gradient."""
    model, loss = peer_model(X, Y)

    def evaluate() -> None:
        model.zero_grad()
        loss().backward()

    return evaluate


def peer_model(X: np.ndarray, Y: np.ndarray) -> tuple[gpytorch.Module, Callable[[], torch.Tensor]]:
    """Its model, and minus the marginal likelihood per row."""
    T = Y.shape[1]
    x, y = torch.from_numpy(X), torch.from_numpy(Y)

    class Model(gpytorch.models.ExactGP):
        def __init__(self, likelihood):
            super().__init__(x, y, likelihood)
            self.mean_module = gpytorch.means.MultitaskMean(gpytorch.means.ConstantMean(), T)
            kernel = gpytorch.kernels.MaternKernel(2.5, ard_num_dims=X.shape[1])
            self.covar_module = gpytorch.kernels.MultitaskKernel(kernel, T, rank=RANK)

        def forward(self, inputs):
            mean, covariance = self.mean_module(inputs), self.covar_module(inputs)
            return gpytorch.distributions.MultitaskMultivariateNormal(mean, covariance)

    likelihood = gpytorch.likelihoods.MultitaskGaussianLikelihood(T, has_task_noise=False).double()
    model = Model(likelihood).double().train()
    marginal = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)

    def loss() -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return -marginal(model(x), y)

    return model, loss


def botorch_peer(X: np.ndarray, Y: np.ndarray) -> Callable[[], None]:
    """BoTorch's model of complete grids, value and gradient, priors as it has them."""
    import botorch  # the other peers do without it

    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = botorch.models.KroneckerMultiTaskGP(x, y).train()
    marginal = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)

    def evaluate() -> None:
        model.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (-marginal(model(*model.train_inputs), model.train_targets)).backward()

    return evaluate


def functions_of(m: int, T: int) -> tuple[np.ndarray, np.ndarray]:
    """Two shared functions and one per task, with noise and levels; targets standardised."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, size=(m, 2))
    r = np.sqrt(5 * np.square(X[:, None] - X).sum(-1))
    root = np.linalg.cholesky((1 + r + r**2 / 3) * np.exp(-r) + 1e-8 * np.eye(m))
    Y = root @ rng.normal(size=(m, 2)) @ rng.normal(size=(2, T)) + 0.3 * root @ rng.normal(size=(m, T))
    Y += 0.3 * rng.normal(size=(m, T)) + rng.normal(size=T)
    return (X - X.mean(0)) / X.std(0), (Y - Y.mean()) / Y.std()


def whole_fits(reduced: bool) -> tuple[pd.DataFrame, list[str]]:
    """Processor seconds of fits, and the marginal likelihoods that they reach."""
    rows, lines = {}, []
    few = bm.TaskData.from_wide(*functions_of(8, 3), ["a", "b", "c"])
    # the first fit imports what the others find there
    bm.MultitaskGP(sharing=bm.LowRank(rank=RANK)).fit(few, method="empirical_bayes", seed=0, progress=False)
    for m, T in FITS:
        print(f"whole fits of {m} inputs x {T} tasks", file=sys.stderr, flush=True)
        X, Y = functions_of(20 if reduced else m, 4 if reduced else T)
        data = bm.TaskData.from_wide(X, Y, [f"task {t:02d}" for t in range(Y.shape[1])])
        start = time.process_time()
        fit = bm.MultitaskGP(sharing=bm.LowRank(rank=RANK)).fit(
            data, method="empirical_bayes", seed=0, progress=False
        )
        ours = time.process_time() - start
        values = {name: value[0, :1] for name, value in fit.draws.hyperparameters.items()}
        reached = float(fit.problem.log_marginal(values, 1))
        start = time.process_time()
        model, loss = peer_model(X, Y)
        optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
        for _ in range(2 if reduced else STEPS):
            optimiser.zero_grad()
            value = loss()
            value.backward()
            optimiser.step()
        theirs = time.process_time() - start
        there = -float(loss().detach()) * Y.size
        label = f"{len(X)} x {Y.shape[1]}"
        rows[f"{len(X)} inputs x {Y.shape[1]} tasks"] = {
            "fit, s": ours,
            f"GPyTorch, {STEPS} steps, s": theirs,
            "GPyTorch / fit": theirs / ours,
            "log p(targets), fit": reached,
            "log p(targets), GPyTorch": there,
        }
        lines += [
            verdict(
                f"{label}: whole fits {FIT_NEEDED:.0f} times faster than {STEPS} steps of GPyTorch",
                ok=theirs >= FIT_NEEDED * ours,
                found=f"{theirs / ours:.1f} times",
            ),
            verdict(
                f"{label}: at an equal or better marginal likelihood",
                ok=reached >= there,
                found=f"{reached:.1f} against {there:.1f}",
            ),
        ]
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("whole fits"), lines


def evaluations(reduced: bool) -> tuple[pd.DataFrame, list[str]]:
    """Processor milliseconds of one value and gradient.

    BoTorch comes last: importing it changes settings of GPyTorch, which then factorises thousands of rows.
    """
    rows: dict[tuple[int, int], dict[str, float]] = {}
    for m, T in SIZES:
        print(f"{m} inputs x {T} tasks", file=sys.stderr, flush=True)
        X, Y = grid_of(20 if reduced else m, T)
        data = bm.TaskData.from_wide(X, Y, [f"task {t}" for t in range(T)])
        problem = bm.MultitaskGP(sharing=bm.LowRank(rank=RANK))._posterior(data)
        point = problem.space.initial(np.random.default_rng(0), 1)
        # short evaluations are more easily disturbed
        repeats = 5 if reduced else max(5, 6000 // m)
        ours = milliseconds(lambda: problem.value_and_gradient(point), repeats)  # noqa: B023
        theirs = milliseconds(peer(X, Y), repeats)
        dense = FunctionPosterior(**known_fields(problem))
        few = Y.size <= MOST_DENSE
        rows[m, T] = {
            "grid": ours,
            "dense": milliseconds(lambda: dense.value_and_gradient(point), 1) if few else np.nan,  # noqa: B023
            "GPyTorch": theirs,
            "GPyTorch / grid": theirs / ours,
        }
    lines = [
        verdict(
            f"{m} x {T}: {needed} times faster than GPyTorch",
            ok=rows[m, T]["GPyTorch / grid"] >= needed,
            found=f"{rows[m, T]['GPyTorch / grid']:.2f} times",
        )
        for (m, T), needed in SIZES.items()
    ]
    for m, T in SIZES if HAS_BOTORCH else ():
        if m * T > MOST_BOTORCH:
            continue
        print(f"{m} inputs x {T} tasks, BoTorch", file=sys.stderr, flush=True)
        theirs = milliseconds(botorch_peer(*grid_of(20 if reduced else m, T)), 1)
        ours = rows[m, T]["grid"]
        rows[m, T] |= {"BoTorch": theirs, "BoTorch / grid": theirs / ours}
        lines.append(
            verdict(
                f"{m} x {T}: {THAN_BOTORCH:.0f} times faster than BoTorch",
                ok=theirs >= THAN_BOTORCH * ours,
                found=f"{theirs / ours:.0f} times",
            )
        )
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.Index([f"{m} inputs x {T} tasks" for m, T in rows], name="ms per value and gradient")
    return frame, lines


def grid_of(m: int, T: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (m, 2) and targets (m, T) without any structure: evaluations take as long."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(m, 2)), rng.normal(size=(m, T))


def run(options: Options) -> str:
    # whole fits first, before BoTorch is imported
    fits, lines = whole_fits(options.reduced)
    single, further = evaluations(options.reduced)
    return "\n".join([table(single, digits=1), "", table(fits, digits=1), "", *further, *lines])


if __name__ == "__main__":
    main(
        "grids",
        "Gaussian processes on complete grids",
        run,
        ("gpytorch", "botorch") if HAS_BOTORCH else ("gpytorch",),
    )
