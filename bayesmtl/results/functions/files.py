"""Files of Gaussian-process fits: hyperparameter draws, rows and specifications; functions are not stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from bayesmtl.data import Schema
from bayesmtl.kernels import Kernel
from bayesmtl.posteriors.draws import HyperparameterDraws
from bayesmtl.priors import Prior
from bayesmtl.registry import named
from bayesmtl.results.files import Contents, restore_data, rows_of
from bayesmtl.results.functions.state import FunctionState


def contents(fit: FunctionState) -> Contents:
    """What a file holds of a fit of functions besides what it holds of every fit."""
    specification = {
        "kind": "functions",
        "kernels": fit.problem.kernels.to_dict(),
        "amplitude": fit.amplitude.to_dict(),
        "inducing": fit.inducing is not None,
    }
    groups: dict[str, Mapping[str, np.ndarray]] = {"rows": rows_of(fit.data)}
    if fit.inducing is not None:
        groups["inducing"] = {"inputs": fit.inducing.numpy()}
    return Contents(specification, groups, fit.problem.kernels.kernels)


def parts(content: Mapping[str, Any], arrays: Callable[[str], dict[str, np.ndarray]]) -> dict[str, Any]:
    """The fields of a fit of functions that a file holds, besides those of every fit.

    Args:
        content: Its specification.
        arrays: Gives the arrays of a group by name.
    """
    kernels = tuple(named(Kernel, kernel["kernel"]).from_fields(kernel) for kernel in content["kernels"])
    return {
        "kernel": kernels if len(kernels) > 1 else kernels[0],
        "amplitude": Prior.from_dict(content["amplitude"]),
        "draws": HyperparameterDraws(
            {name: torch.from_numpy(values) for name, values in arrays("hyperparameters").items()},
            arrays("sample_stats"),
            content["complete"],
        ),
        "data": restore_data(Schema.from_dict(content["training_schema"]), arrays("rows"), content),
        "inducing": torch.from_numpy(arrays("inducing")["inputs"]) if content.get("inducing") else None,
    }
