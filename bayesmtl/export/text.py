"""Lines that the programs of all models have."""

from __future__ import annotations

from collections.abc import Sequence

from bayesmtl.parameters import Parameter, ParameterSpace


def definition(arguments: Sequence[str], lines: Sequence[str]) -> str:
    """A function `program` with these lines."""
    body = "\n".join(f"    {line}" if line else "" for line in lines)
    return f"def program({', '.join(arguments)}):\n{body}\n"


def hyperparameters(space: ParameterSpace) -> list[str]:
    """One site for each, and all of them by name."""
    by_name = ", ".join(f'"{p.name}": {p.name}[None]' for p in space.parameters)
    return ["# hyperparameters, standardised", *map(_site, space.parameters), f"values = {{{by_name}}}"]


def _site(parameter: Parameter) -> str:
    kind = "sample" if parameter.size else "deterministic"
    return f'{parameter.name} = pyro.{kind}("{parameter.name}", {parameter.prior.in_pyro(parameter.shape)})'


def urn(num_slots: int) -> list[str]:
    """Clusters of the tasks, one task after the other."""
    return [
        "",
        "# clusters, one task after the other: nothing is truncated",
        f"size = torch.zeros(1, {num_slots}, dtype=torch.int64)",
        "cluster = torch.zeros(1, num_tasks, dtype=torch.int64)",
        "for t in range(num_tasks):",
        "    known = None if descriptors is None else descriptors[t][None]",
        "    weights = sharing.log_slots(size, values, known)[0]",
        '    cluster[0, t] = pyro.sample(f"cluster_{t}", dist.Categorical(logits=weights))',
        "    size = size + torch.nn.functional.one_hot(cluster[:, t], size.shape[1])",
        'values["cluster"] = cluster',
    ]
