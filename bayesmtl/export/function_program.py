"""Multi-task Gaussian processes as Pyro programs: functions as one multivariate normal."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from bayesmtl.algebra.functions import function_covariance
from bayesmtl.data import TaskData
from bayesmtl.export.pyro_program import PyroProgram, compiled, shaped
from bayesmtl.export.text import definition, hyperparameters, urn
from bayesmtl.kernels import Kernel
from bayesmtl.likelihoods import Likelihood
from bayesmtl.posteriors.draws import HyperparameterDraws
from bayesmtl.posteriors.functions.inducing import InducingFunctions
from bayesmtl.posteriors.functions.inducing_inputs import choose_inducing
from bayesmtl.posteriors.functions.posterior import FunctionPosterior
from bayesmtl.priors import Prior
from bayesmtl.results.functions.fit import FunctionFit
from bayesmtl.sharing import PartitionSharing

_JITTER = 1e-8  # relative to the mean variance of functions that are drawn themselves


def function_program(
    posterior: FunctionPosterior,
    kernel: Kernel | tuple[Kernel, ...],
    likelihood: Likelihood,
    amplitude: Prior,
    data: TaskData,
) -> PyroProgram:
    """See `MultitaskGP.to_pyro`."""
    own, sharing = posterior.of_rows, posterior.sharing.sharing
    given = {"X": posterior.X, "y": posterior.y, "task": posterior.task}
    if posterior.level is not None:
        given["level"] = posterior.level[posterior.task]
    lines = hyperparameters(posterior.space)
    if isinstance(sharing, PartitionSharing):
        lines += urn(sharing.most_clusters(posterior.num_tasks))
    lines += [
        "",
        "# functions: Omega_q times kernel q, and levels",
        "tasks = functions.structure(values, num_tasks)",
        "K = function_covariance(tasks, kernels.covariance(values, X, X), task, task)[0]",
        "zero = torch.zeros(len(y), dtype=torch.float64)",
        "",
        "# rows",
    ]
    if likelihood.compresses:
        lines += [
            "sigma = likelihood.noise_sd(values, task_names, target_scale, 1)[0].expand(num_tasks)",
            "noise_covariance = torch.diag(sigma[task] ** 2)",
            'pyro.sample("y", dist.MultivariateNormal(zero, K + noise_covariance), obs=y)',
            "return K",
        ]
    else:
        lines += [
            f"K = K + {_JITTER} * K.diagonal().mean() * torch.eye(len(y), dtype=torch.float64)",
            'f = pyro.sample("f", dist.MultivariateNormal(zero, K))',
            *(["f = f + level"] if "level" in given else []),
            *own.pyro_rows(counts=False),
            "return f",
        ]
    names = {
        "functions": posterior.sharing,
        "sharing": sharing,
        "kernels": posterior.kernels,
        "likelihood": own,
        "function_covariance": function_covariance,
        "num_tasks": posterior.num_tasks,
        "task_names": data.task_names,
        "target_scale": posterior.target_scale,
        "descriptors": None,
    }

    def finish(
        values: dict[str, torch.Tensor], sites: Mapping[str, torch.Tensor], shape: tuple[int, int]
    ) -> FunctionFit:
        inducing, known = None, posterior
        if not likelihood.compresses:
            inducing = choose_inducing(posterior, None, np.random.default_rng(0))
            known = InducingFunctions.of(posterior, inducing)
        one_by_one = zip(*(value.split(1) for value in values.values()), strict=True)
        density = [known.log_marginal(dict(zip(values, each, strict=True)), 1) for each in one_by_one]
        return FunctionFit(
            kernel=kernel,
            amplitude=amplitude,
            sharing=sharing,
            likelihood=likelihood,
            schema=data.schema,
            standardization=likelihood.standardization(data),
            draws=HyperparameterDraws(
                shaped(values, shape), {"log_likelihood": torch.cat(density).reshape(shape).numpy()}
            ),
            method="pyro",
            reason="samples of its Pyro program",
            seed=0,
            data=data,
            inducing=inducing,
        )

    return compiled(definition(list(given), lines), names, given, posterior.space, finish)
