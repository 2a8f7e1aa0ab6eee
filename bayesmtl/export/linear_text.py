"""The text of a linear model's Pyro program: hyperparameters, W = A Z + E, rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bayesmtl.algebra.structure import Structure
from bayesmtl.export.text import definition, hyperparameters, urn
from bayesmtl.likelihoods import Likelihood
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.sharing import PartitionSharing


def linear_source(problem: LinearPosterior, likelihood: Likelihood, arguments: Sequence[str]) -> str:
    """The program as text.

    Args:
        problem: The posterior.
        likelihood: That of its tasks.
        arguments: Names of the arrays that the rows have.
    """
    lines = hyperparameters(problem.space)
    structure = _example(problem)
    if isinstance(problem.sharing, PartitionSharing):
        lines += urn(problem.sharing.most_clusters(problem.tasks.num_tasks))
    lines += _weights(problem, structure)
    lines += ["", "# rows", *_predictor(problem, arguments), *_observed(likelihood, arguments)]
    lines.append("return W")
    return definition(arguments, lines)


def _example(problem: LinearPosterior) -> Structure:
    """A structure that says which parts there are."""
    values = problem.space.constrain(0.1 * torch.ones(1, problem.space.size, dtype=torch.float64))
    if isinstance(problem.sharing, PartitionSharing):
        values["cluster"] = torch.zeros(1, problem.tasks.num_tasks, dtype=torch.int64)
    return problem.structure(values)


def _weights(problem: LinearPosterior, structure: Structure) -> list[str]:
    D = problem.num_weights
    outputs = f".of_outputs({problem.num_outputs})" if problem.num_outputs > 1 else ""
    lines = ["", "# W = A Z + E", f"prior = sharing.structure(values, num_tasks, num_features){outputs}"]
    if structure.membership is not None:
        slots = problem.sharing.most_clusters(problem.tasks.num_tasks)  # type: ignore[attr-defined]
        lines += [
            f"scale = prior.basis_scale[0, [0] + [1] * {slots}]",
            'Z = pyro.sample("Z", dist.Normal(0.0, scale).to_event(2))',
            "AZ = Z[0] + Z[1 + cluster[0]]",
        ]
    elif structure.loadings is not None:
        A = "prior.loadings" if structure.loadings.dim() == 2 else "prior.loadings[0]"
        lines += [
            f"A = {A}",
            'Z = pyro.sample("Z", dist.Normal(0.0, prior.basis_scale[0]).to_event(2))',
            "AZ = A @ Z",
        ]
    else:
        lines.append(f"AZ = torch.zeros(num_tasks, {D}, dtype=torch.float64)")
    if structure.loadings is not None and problem.sharing.has_population:
        lines.append('pyro.deterministic("population", Z[0])')
    terms = ["AZ"]
    if structure.residual_scale is not None or structure.factor_by_task is not None:
        lines.append('with pyro.plate("tasks", num_tasks):')
    if structure.residual_scale is not None:
        lines += [
            f"    own = prior.residual_scale[0].abs().expand(num_tasks, {D})",
            '    e = pyro.sample("e", dist.Normal(0.0, own).to_event(1))',
        ]
        terms.append("e")
    if structure.factor_by_task is not None:
        K = structure.factor_by_task.shape[-1]
        lines += [
            f"    one = torch.ones({K}, dtype=torch.float64)",
            '    u = pyro.sample("u", dist.Normal(0.0, one).to_event(1))',
        ]
        lines.append("F = prior.factor_by_task[0]")
        terms.append("(F @ u[..., None])[..., 0]")
    lines.append(f'W = pyro.deterministic("weights", {" + ".join(terms)})')
    return lines


def _predictor(problem: LinearPosterior, arguments: Sequence[str]) -> list[str]:
    if problem.num_outputs > 1:
        split = f"W.reshape(num_tasks, {problem.num_outputs}, num_features)"
        lines = [f"f = ({split}[task] @ X[..., None])[..., 0]"]
    else:
        lines = ["f = (X * W[task]).sum(-1)"]
    if "offset" in arguments:
        lines.append("f = f + offset[:, None]" if problem.num_outputs > 1 else "f = f + offset")
    return [*lines, "f = f + level"] if "level" in arguments else lines


def _observed(likelihood: Likelihood, arguments: Sequence[str]) -> list[str]:
    return likelihood.pyro_rows(counts="counts" in arguments)
