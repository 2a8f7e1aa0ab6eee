"""Files of Gaussian-process fits: hyperparameter draws, rows and specifications; functions are not stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bayesmtl.data import Schema, Standardization
from bayesmtl.kernels import REGISTRY as KERNELS
from bayesmtl.likelihoods import REGISTRY as LIKELIHOODS
from bayesmtl.priors import Prior
from bayesmtl.results import files
from bayesmtl.sharing import REGISTRY as SHARING

if TYPE_CHECKING:
    from bayesmtl.results.functions.fit import GPFit

_ROWS = ("X", "y", "task")


def save(fit: GPFit, path: str | Path) -> None:
    """See `GPFit.save`."""
    specification = {
        "kind": "functions",
        "kernels": fit.problem.kernels.to_dict(),
        "sharing": fit.sharing.to_dict(),
        "likelihood": fit.likelihood.to_dict(),
        "amplitude": fit.amplitude.to_dict(),
        "schema": fit.schema.to_dict(),
        "training_schema": fit.data.schema.to_dict(),
        "target_standardization": fit.data.target_standardization,
        "standardization": fit.standardization.to_dict(),
        "method": fit.method,
        "reason": fit.reason,
        "seed": fit.seed,
        "complete": fit.complete,
        "added_tasks": list(fit.added_tasks),
        "inducing": fit.inducing is not None,
    }
    groups = {
        "hyperparameters": {name: value.numpy() for name, value in fit.hyperparameters.items()},
        "sample_stats": fit.sample_stats,
        "rows": {name: getattr(fit.data, name) for name in _ROWS},
    }
    if fit.inducing is not None:
        groups["inducing"] = {"inputs": fit.inducing.numpy()}
    files.write(specification, groups, path)


def restore(content: Mapping[str, Any], arrays: Callable[[str], dict[str, np.ndarray]]) -> GPFit:
    """The fit of a file whose digest is right.

    Args:
        content: Its specification.
        arrays: Gives the arrays of a group by name.
    """
    from bayesmtl.results.functions.fit import GPFit  # a fit saves itself through this module

    kernels = tuple(KERNELS[kernel["kernel"]].from_fields(kernel) for kernel in content["kernels"])
    return GPFit(
        kernel=kernels if len(kernels) > 1 else kernels[0],
        sharing=SHARING[content["sharing"]["sharing"]].from_fields(content["sharing"]),
        likelihood=LIKELIHOODS[content["likelihood"]["likelihood"]].from_fields(content["likelihood"]),
        amplitude=Prior.from_dict(content["amplitude"]),
        schema=Schema.from_dict(content["schema"]),
        standardization=Standardization.from_dict(content["standardization"]),
        hyperparameters={k: torch.from_numpy(v) for k, v in arrays("hyperparameters").items()},
        sample_stats=arrays("sample_stats"),
        complete=content["complete"],
        method=content["method"],
        reason=content["reason"],
        seed=content["seed"],
        data=files.restore_data(Schema.from_dict(content["training_schema"]), arrays("rows"), content),
        added_tasks=tuple(content["added_tasks"]),
        inducing=torch.from_numpy(arrays("inducing")["inputs"]) if content.get("inducing") else None,
    )
