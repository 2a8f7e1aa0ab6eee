"""Inputs of their own for every task: one marginal likelihood with its gradient, beside GPyTorch's."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import gpytorch
import numpy as np
import pandas as pd
import torch

import bayesmtl as bm
from benchmarks.common import Options, main, table, verdict
from benchmarks.grids import RANK, milliseconds

SIZES = (1000, 2000, 3000, 6000)
LARGE = 3000  # rows from which fewer evaluations are timed, and conjugate gradients beside them
TASKS = 16
NEEDED = 1.7
"""How many times faster than GPyTorch's Cholesky factorisation an evaluation should be."""


def peer(X: np.ndarray, task: np.ndarray, y: np.ndarray, *, exact: bool = True) -> Callable[[], None]:
    """GPyTorch's kernel over inputs times its index kernel over tasks.

    By Cholesky factorisation, or by conjugate gradients and a stochastic log determinant, as it is set up.
    """
    x, t = torch.from_numpy(X), torch.from_numpy(task)[:, None]
    target = torch.from_numpy(y)

    class Model(gpytorch.models.ExactGP):
        def __init__(self, likelihood):
            super().__init__((x, t), target, likelihood)
            self.mean_module = gpytorch.means.ConstantMean()
            self.covar_module = gpytorch.kernels.MaternKernel(2.5, ard_num_dims=X.shape[1])
            self.task_covar_module = gpytorch.kernels.IndexKernel(num_tasks=TASKS, rank=RANK)

        def forward(self, inputs, tasks):
            covariance = self.covar_module(inputs).mul(self.task_covar_module(tasks))
            return gpytorch.distributions.MultivariateNormal(self.mean_module(inputs), covariance)

    likelihood = gpytorch.likelihoods.GaussianLikelihood().double()
    model = Model(likelihood).double().train()
    marginal = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)

    def evaluate() -> None:
        model.zero_grad()
        most = 10**6 if exact else 0
        with warnings.catch_warnings(), gpytorch.settings.max_cholesky_size(most):
            warnings.simplefilter("ignore")
            (-marginal(model(x, t), target)).backward()

    return evaluate


def run(options: Options) -> str:
    rows, lines = {}, []
    for size in (96,) if options.reduced else SIZES:
        rng = np.random.default_rng(0)
        X, y, task = rng.normal(size=(size, 2)), rng.normal(size=size), np.arange(size) % TASKS
        data = bm.TaskData.from_arrays(X, y, task, intercept=False)
        problem = bm.MultitaskGP(sharing=bm.LowRank(rank=RANK))._posterior(data)
        point = problem.space.initial(rng, 1)
        repeats = 1 if size > LARGE else 3
        ours = milliseconds(lambda: problem.value_and_gradient(point), repeats)  # noqa: B023
        theirs = milliseconds(peer(X, task, y), repeats)
        gradients = milliseconds(peer(X, task, y, exact=False), repeats) if size >= LARGE else np.nan
        rows[f"{size} rows"] = {
            "bayesmtl": ours,
            "GPyTorch": theirs,
            "GPyTorch / bayesmtl": theirs / ours,
            "GPyTorch, conjugate gradients": gradients,
            "conjugate gradients / bayesmtl": gradients / ours,
        }
        lines.append(
            verdict(
                f"{size} rows: {NEEDED} times faster than GPyTorch",
                ok=theirs >= NEEDED * ours,
                found=f"{theirs / ours:.1f} times",
            )
        )
        if size > LARGE:
            lines.append(
                verdict(
                    f"{size} rows: no slower than GPyTorch's conjugate gradients, which are not exact",
                    ok=gradients >= ours,
                    found=f"{gradients / ours:.2f} times as fast",
                )
            )
    shown = pd.DataFrame.from_dict(rows, orient="index").rename_axis(
        f"ms per value and gradient, {TASKS} tasks"
    )
    return "\n".join([table(shown, digits=1), "", *lines])


if __name__ == "__main__":
    main("dense", "Gaussian processes, every task at inputs of its own", run, ("gpytorch",))
