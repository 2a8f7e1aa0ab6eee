"""Complete grids: one marginal likelihood with its gradient, beside GPyTorch's and dense algebra."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace

import gpytorch
import numpy as np
import pandas as pd
import torch

import bayesmtl as bm
from benchmarks.common import Options, main, table, verdict

SIZES = {(200, 4): 2.0, (200, 16): 2.0, (500, 4): 1.3, (500, 16): 1.3, (1000, 16): 1.3, (2000, 4): 1.3}
"""Inputs and tasks, and how many times faster than GPyTorch an evaluation should be."""
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

    def evaluate() -> None:
        model.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (-marginal(model(x), y)).backward()

    return evaluate


def run(options: Options) -> str:
    rows, lines = {}, []
    for (m, T), needed in SIZES.items():
        inputs = 20 if options.reduced else m
        rng = np.random.default_rng(0)
        X, Y = rng.normal(size=(inputs, 2)), rng.normal(size=(inputs, T))
        data = bm.TaskData.from_wide(X, Y, [f"task {t}" for t in range(T)])
        problem = bm.MultitaskGP(sharing=bm.LowRank(rank=RANK))._problem(data)
        dense = replace(problem, grid=None)
        point = problem.space.initial(rng, 1)
        # short evaluations are more easily disturbed
        repeats = max(5, 6000 // inputs) if not options.reduced else 5
        ours = milliseconds(lambda: problem.value_and_gradient(point), repeats)  # noqa: B023
        theirs = milliseconds(peer(X, Y), repeats)
        rows[f"{inputs} inputs x {T} tasks"] = {
            "grid": ours,
            "dense": milliseconds(lambda: dense.value_and_gradient(point), 1)  # noqa: B023
            if inputs * T <= MOST_DENSE
            else np.nan,
            "GPyTorch": theirs,
            "GPyTorch / grid": theirs / ours,
        }
        lines.append(
            verdict(
                f"{inputs} x {T}: {needed} times faster than GPyTorch",
                ok=theirs >= needed * ours,
                found=f"{theirs / ours:.2f} times",
            )
        )
    shown = pd.DataFrame.from_dict(rows, orient="index").rename_axis("ms per value and gradient")
    return "\n".join([table(shown, digits=1), "", *lines])


if __name__ == "__main__":
    main("grids", "Gaussian processes on complete grids", run, ("gpytorch",))
