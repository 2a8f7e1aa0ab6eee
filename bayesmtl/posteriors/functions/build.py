"""The posterior of functions that a model and data give."""

from __future__ import annotations

import numpy as np
import torch

from bayesmtl.data import Standardization, TaskData
from bayesmtl.kernels import Kernel, Kernels
from bayesmtl.likelihoods import Likelihood
from bayesmtl.posteriors.functions.grid import on_grid
from bayesmtl.posteriors.functions.posterior import FunctionPosterior
from bayesmtl.priors import Prior
from bayesmtl.sharing import Sharing
from bayesmtl.sharing.functions import over_functions
from bayesmtl.sharing.over_functions import FunctionSharing


def parts(
    kernel: Kernel | tuple[Kernel, ...], sharing: Sharing, amplitude: Prior
) -> tuple[Kernels, FunctionSharing]:
    """The kernels of a model, and its sharing prior read over functions."""
    kernels = kernel if isinstance(kernel, tuple) else (kernel,)
    reading = over_functions(sharing, amplitude, len(kernels))
    return Kernels(kernels, reading.private_kernel), reading


def functions_posterior(
    data: TaskData,
    standardization: Standardization,
    kernels: Kernels,
    sharing: FunctionSharing,
    likelihood: Likelihood,
) -> FunctionPosterior:
    """The posterior that data give, from the rows whose target was observed; an intercept is no input."""
    rows = data.observed
    X = standardization.standardize_features(data.X[rows])[:, 1 if data.has_intercept else 0 :]
    task, level = data.task[rows], None
    scaled = likelihood.of_tasks(data.task_names, standardization.target_scale).scaled_rows(
        np.arange(data.num_tasks)
    )
    y = np.where(scaled[task], standardization.standardize_target(data.y[rows], task), data.y[rows])
    if not scaled.all():
        level = torch.from_numpy(np.where(scaled, 0.0, standardization.target_center))
    dense = FunctionPosterior(
        kernels,
        sharing,
        likelihood,
        torch.from_numpy(np.ascontiguousarray(X)),
        torch.from_numpy(y),
        torch.from_numpy(task),
        data.task_names,
        standardization.target_scale,
        level=level,
    )
    return on_grid(dense)
