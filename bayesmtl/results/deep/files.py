"""Files of networks: weights of the trunks, and for every member what a linear fit holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from bayesmtl.data import Schema, Standardization
from bayesmtl.features import Conv, FeatureMap, Identity, Mlp, Module, Trunk
from bayesmtl.likelihoods import Likelihood
from bayesmtl.posteriors.deep import Trained
from bayesmtl.registry import named
from bayesmtl.results.deep.state import DeepState, EnsembleDraws
from bayesmtl.results.files import Contents, restore_data, rows_of
from bayesmtl.results.linear.files import contents as linear_contents
from bayesmtl.results.linear.files import parts as linear_parts
from bayesmtl.results.linear.fit import LinearFit
from bayesmtl.sharing import Sharing

_TRUNKS: dict[str, type[Trunk]] = {kind.name: kind for kind in (Identity, Mlp, Conv, Module)}
_TRACES = ("loss", "held_out", "best")
_COUNTS = ("num_held_out", "steps", "planned")


def contents(fit: DeepState) -> Contents:
    """What a file holds of a network besides what it holds of every fit."""
    features, trained = fit.features, fit.trained
    heads = []
    groups: dict[str, Mapping[str, np.ndarray]] = {
        "trunk": {f"weight_{i}": value.numpy() for i, value in enumerate(features.weights.values())},
        "inputs": {"center": features.center, "scale": features.scale},
        "traces": {name: getattr(trained, name) for name in _TRACES},
        "rows": rows_of(fit.data),
    }
    for member, head in enumerate(fit.heads):
        own = linear_contents(head)
        heads.append(
            {
                "schema": head.schema.to_dict(),
                "training_schema": head.data.schema.to_dict(),
                "standardization": head.standardization.to_dict(),
                "seed": head.seed,
                "reason": head.reason,
                "complete": head.complete,
                **own.specification,
            }
        )
        values = {name: value.numpy() for name, value in head.draws.hyperparameters.items()}
        arrays = {"hyperparameters": values, "sample_stats": head.draws.sample_stats, **own.groups}
        groups |= {f"member_{member}_{name}": part for name, part in arrays.items()}
    specification = {
        "kind": "deep",
        "trunk": features.trunk.to_dict(),
        "weights": list(features.weights),
        "skip": features.skip,
        "intercept": features.intercept,
        "training": {name: getattr(trained, name) for name in _COUNTS},
        "heads": heads,
    }
    return Contents(specification, groups)


def parts(
    content: Mapping[str, Any], arrays: Callable[[str], dict[str, np.ndarray]], module: Any
) -> dict[str, Any]:
    """The fields of a network that a file holds, besides those of every fit.

    Args:
        content: Its specification.
        arrays: Gives the arrays of a group by name.
        module: The user's own network, where the file asks for one.
    """
    stored, inputs, traces = arrays("trunk"), arrays("inputs"), arrays("traces")
    trunk = _TRUNKS[content["trunk"]["trunk"]].from_fields({**content["trunk"], "module": module})
    weights = {name: torch.from_numpy(stored[f"weight_{i}"]) for i, name in enumerate(content["weights"])}
    kept = (content["skip"], content["intercept"])
    features = FeatureMap(trunk, weights, inputs["center"], inputs["scale"], *kept)
    heads = tuple(
        _head({**content, **own}, _of_member(arrays, member)) for member, own in enumerate(content["heads"])
    )
    return {
        "trained": Trained(features, **{**traces, **content["training"]}),
        "heads": heads,
        "draws": EnsembleDraws.of(heads),
        "data": restore_data(Schema.from_dict(content["training_schema"]), arrays("rows"), content),
    }


def _head(content: Mapping[str, Any], arrays: Callable[[str], dict[str, np.ndarray]]) -> LinearFit:
    return LinearFit(
        sharing=named(Sharing, content["sharing"]["sharing"]).from_fields(content["sharing"]),
        likelihood=named(Likelihood, content["likelihood"]["likelihood"]).from_fields(content["likelihood"]),
        schema=Schema.from_dict(content["schema"]),
        standardization=Standardization.from_dict(content["standardization"]),
        method=content["method"],
        reason=content["reason"],
        seed=content["seed"],
        added_tasks=tuple(content["added_tasks"]),
        **linear_parts(content, arrays),
    )


def _of_member(
    arrays: Callable[[str], dict[str, np.ndarray]], member: int
) -> Callable[[str], dict[str, np.ndarray]]:
    return lambda group: arrays(f"member_{member}_{group}")
