"""Linear models as Pyro programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from bayesmtl.algebra.conditional import shared_part
from bayesmtl.data import TaskData
from bayesmtl.export.linear_text import linear_source
from bayesmtl.export.pyro_program import PyroProgram, compiled, shaped
from bayesmtl.likelihoods import Likelihood
from bayesmtl.posteriors.draws import LinearDraws
from bayesmtl.posteriors.linear.build import linear_posterior
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.posteriors.linear.rows import StandardRows
from bayesmtl.results.linear.fit import LinearFit
from bayesmtl.sharing import Sharing


def linear_program(sharing: Sharing, likelihood: Likelihood, data: TaskData) -> PyroProgram:
    """See `LinearModel.to_pyro`."""
    standardization = likelihood.standardization(data)
    problem, statistics = linear_posterior(sharing, likelihood, data, standardization)
    own = likelihood.of_tasks(data.task_names, standardization.target_scale)
    rows = StandardRows.of(data, data.task, standardization, own)
    seen = data.observed
    given: dict[str, Any] = {
        "X": torch.from_numpy(rows.X[seen]),
        "y": torch.from_numpy(rows.y[seen]),
        "task": torch.from_numpy(data.task[seen].astype(np.int64)),
    }
    for name in ("weights", "offset", "trials"):
        values = getattr(rows, name)
        if values is not None:
            label = "counts" if name == "weights" else name  # W are the weights here
            given[label] = torch.from_numpy(np.asarray(values, dtype=float)[seen])
    if rows.level is not None:
        given["level"] = torch.from_numpy(np.array(rows.level))
    names = {
        "sharing": problem.sharing,
        "likelihood": own,
        "num_tasks": problem.tasks.num_tasks,
        "num_features": problem.tasks.num_features,
        "task_names": data.task_names,
        "target_scale": standardization.target_scale,
        "descriptors": problem.descriptors,
        **own.pyro_names(len(data.classes)),
    }

    def finish(
        values: dict[str, torch.Tensor], sites: Mapping[str, torch.Tensor], shape: tuple[int, int]
    ) -> LinearFit:
        weights, basis, factors = _weights(problem, values, sites)
        stats = {"log_likelihood": problem.log_likelihood(values, weights).reshape(shape).numpy()}
        drawn = shaped({"basis": basis, "weights": weights, "factors": factors}, shape)
        return LinearFit(
            sharing=problem.sharing,
            likelihood=likelihood,
            schema=data.schema,
            standardization=standardization,
            statistics=statistics,
            draws=LinearDraws(
                shaped(values, shape), drawn["basis"], drawn["weights"], drawn["factors"], stats
            ),
            method="pyro",
            reason="samples of its Pyro program",
            seed=0,
            data=data,
        )

    return compiled(linear_source(problem, own, list(given)), names, given, problem.space, finish)


def _weights(
    problem: LinearPosterior, values: dict[str, torch.Tensor], sites: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """W, Z and the coordinates of E along its factor, from what the program samples."""
    structure = problem.structure(values)
    T, D, B = problem.tasks.num_tasks, problem.num_weights, len(next(iter(sites.values())))
    basis = sites.get("Z", torch.zeros(B, 0, D, dtype=torch.float64))
    weights = shared_part(structure, basis, T)
    if "e" in sites:
        weights = weights + sites["e"]
    factors = sites.get("u", torch.zeros(B, T, 0, dtype=torch.float64))
    if structure.factor_by_task is not None:
        weights = weights + (structure.factor_by_task @ factors[..., None])[..., 0]
    return weights, basis, factors
