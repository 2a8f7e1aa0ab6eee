"""Files of networks: weights of the trunks, and for every member a fit over weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bayesmtl.data import Schema
from bayesmtl.features import Conv, FeatureMap, Identity, Mlp, Module, Trunk
from bayesmtl.posteriors.deep import Trained
from bayesmtl.results import files
from bayesmtl.results.deep.state import DeepState

if TYPE_CHECKING:
    from bayesmtl.results.deep.fit import DeepFit

_TRUNKS: dict[str, type[Trunk]] = {kind.name: kind for kind in (Identity, Mlp, Conv, Module)}
_TRACES = ("loss", "held_out", "best")
_COUNTS = ("num_held_out", "steps", "planned")


def save(state: DeepState, path: str | Path) -> None:
    """See `DeepFit.save`."""
    features, trained = state.features, state.trained
    heads = [files.content_of(head) for head in state.heads]
    specification = {
        "kind": "deep",
        "trunk": features.trunk.to_dict(),
        "skip": features.skip,
        "intercept": features.intercept,
        "training": {name: getattr(trained, name) for name in _COUNTS},
        "schema": state.schema.to_dict(),
        "training_schema": state.data.schema.to_dict(),
        "target_standardization": state.data.target_standardization,
        "method": state.method,
        "reason": state.reason,
        "seed": state.seed,
        "added_tasks": list(state.added_tasks),
        "heads": [content for content, _ in heads],
    }
    groups: dict[str, Mapping[str, np.ndarray]] = {
        "trunk": {f"weight_{i}": value.numpy() for i, value in enumerate(features.weights.values())},
        "inputs": {"center": features.center, "scale": features.scale},
        "traces": {name: getattr(trained, name) for name in _TRACES},
        "rows": files.rows_of(state.data),
    }
    specification["weights"] = list(features.weights)
    for member, (_, arrays) in enumerate(heads):
        groups |= {f"member_{member}_{name}": values for name, values in arrays.items()}
    files.write(specification, groups, path)


def restore(
    content: Mapping[str, Any], arrays: Callable[[str], dict[str, np.ndarray]], trunk: Any
) -> DeepFit:
    """The fit of a file whose digest is right.

    Args:
        content: Its specification.
        arrays: Gives the arrays of a group by name.
        trunk: The user's own module, where the file asks for one.
    """
    from bayesmtl.results.deep.fit import DeepFit  # a fit saves itself through this module

    stored, inputs, traces = arrays("trunk"), arrays("inputs"), arrays("traces")
    kind = _TRUNKS[content["trunk"]["trunk"]].from_fields({**content["trunk"], "module": trunk})
    weights = {name: torch.from_numpy(stored[f"weight_{i}"]) for i, name in enumerate(content["weights"])}
    features = FeatureMap(
        kind, weights, inputs["center"], inputs["scale"], content["skip"], content["intercept"]
    )
    heads = tuple(
        files.restore_weights(own, _of_member(arrays, member)) for member, own in enumerate(content["heads"])
    )
    return DeepFit(
        schema=Schema.from_dict(content["schema"]),
        data=files.restore_data(Schema.from_dict(content["training_schema"]), arrays("rows"), content),
        trained=Trained(features, **{**traces, **content["training"]}),
        heads=heads,
        method=content["method"],
        reason=content["reason"],
        seed=content["seed"],
        added_tasks=tuple(content["added_tasks"]),
    )


def _of_member(
    arrays: Callable[[str], dict[str, np.ndarray]], member: int
) -> Callable[[str], dict[str, np.ndarray]]:
    return lambda group: arrays(f"member_{member}_{group}")
