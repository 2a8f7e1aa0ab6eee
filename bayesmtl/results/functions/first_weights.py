"""What functions through inducing inputs depend on, kept for the first hyperparameter draw."""

from __future__ import annotations

from typing import NamedTuple

import torch

from bayesmtl.algebra.inducing import Weights
from bayesmtl.parameters import Values
from bayesmtl.posteriors.functions.inducing import InducingFunctions


class FirstWeights(NamedTuple):
    """q(v) under a fit's first hyperparameter draw.

    Attributes:
        signature: What it depends on besides rows and inducing inputs.
        weights: q(v), or `None` where it cannot be computed.
    """

    signature: torch.Tensor
    weights: Weights | None


def known_values(problem: InducingFunctions, values: Values) -> Values:
    """Hyperparameters without the entries of tasks behind the known ones."""
    found = dict(values)
    for parameter in problem.space.parameters:
        for dim, name in enumerate(parameter.dims, start=1):
            if name in ("task", "task_other"):
                found[parameter.name] = found[parameter.name].narrow(dim, 0, problem.num_tasks)
    return found


def signature(problem: InducingFunctions, values: Values) -> torch.Tensor:
    """All that q(v) depends on besides rows and inducing inputs, for one hyperparameter value."""
    seen = torch.unique(problem.task)
    roots = problem.roots(values)
    parts = [root[seen].flatten() for root in (*roots.shape, roots.level)]
    own = {parameter.name for parameter in problem.sharing.parameters(problem.num_tasks)}
    for parameter in problem.space.parameters:
        if parameter.name not in own:
            parts.append(parameter.of_some(values[parameter.name], seen)[0].flatten())
    return torch.cat(parts)
