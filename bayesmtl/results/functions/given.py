"""Function values at any rows given the data: exactly, or through inducing inputs."""

from __future__ import annotations

import torch

from bayesmtl.algebra.functions import Conditional, TaskStructure, function_covariance
from bayesmtl.algebra.inducing import Roots, Weights
from bayesmtl.errors import SpecificationError
from bayesmtl.parameters import Values
from bayesmtl.posteriors.functions.inducing import InducingFunctions
from bayesmtl.results.functions.first_weights import known_values, signature
from bayesmtl.results.functions.state import FunctionState


def given_data(
    fit: FunctionState,
    values: Values,
    structure: TaskStructure,
    X: torch.Tensor,
    task: torch.Tensor,
    *,
    variance_only: bool = False,
) -> Conditional:
    """Function values at rows given all known targets, under S hyperparameter values.

    Args:
        fit: The fit.
        values: Hyperparameters, with entries for further tasks behind those of the known, if any.
        structure: Omega and Lambda for these values, the further tasks included.
        X: Inputs of the rows, shape (m, D), standardised.
        task: Tasks of the rows, shape (m,).
        variance_only: Whether variances are enough.
    """
    problem, kernels = fit.problem, fit.problem.kernels
    if variance_only:
        shape = structure.shape.diagonal(dim1=-2, dim2=-1)[:, :, task]
        level = structure.level.diagonal(dim1=-2, dim2=-1)[:, task]
        prior = (shape * kernels.variance(values, X)).sum(1) + level
    else:
        prior = function_covariance(structure, kernels.covariance(values, X, X), task, task)
    if isinstance(problem, InducingFunctions):
        return _through_inducing(fit, problem, values, structure, X, task, prior)
    known = fit.known_rows(values, structure)
    kernel = kernels.covariance(values, problem.X, X)
    cross = function_covariance(structure, kernel, problem.task, task)
    return known.condition(cross, prior, variance_only=variance_only)


def _through_inducing(
    fit: FunctionState,
    problem: InducingFunctions,
    values: Values,
    structure: TaskStructure,
    X: torch.Tensor,
    task: torch.Tensor,
    prior: torch.Tensor,
) -> Conditional:
    """With f = c'v + residual: means c'mu, and c'(S - I)c added to the prior (co)variance."""
    means, spreads = [], []
    for s in range(len(prior)):
        own = {name: value[s : s + 1] for name, value in values.items()}
        known, wider, weights = weights_of(fit, problem, own, structure.level.shape[-1])
        q = weights.extended(known, wider, len(problem.Z))
        C = problem.features(own, wider, problem.factor(own), X, task).C
        half = torch.linalg.solve_triangular(q.cholesky, C.T, upper=False)
        if prior.ndim == 2:
            change = half.square().sum(0) - C.square().sum(1)
            spreads.append((prior[s] + change).clamp(min=0.0))
        else:
            spreads.append(prior[s] + half.T @ half - C @ C.T)
        means.append(C @ q.mean)
    return Conditional(torch.stack(means), torch.stack(spreads))


def weights_of(
    fit: FunctionState, problem: InducingFunctions, values: Values, num_tasks: int
) -> tuple[Roots, Roots, Weights]:
    """Roots of the known and of all tasks under one hyperparameter value (B = 1), and q(v) of the known.

    Draws that differ only in what belongs to tasks without rows share one q, which the fit keeps.
    """
    of_known = known_values(problem, values)
    known = problem.roots(of_known)
    first = fit.first_weights
    same = torch.equal(signature(problem, of_known), first.signature)
    weights = first.weights if same else problem.best(of_known)
    if weights is None:
        raise SpecificationError(
            "num_inducing",
            expected="kernels whose covariances at the inducing inputs can be factorised",
            found="hyperparameter draws under which they cannot",
            remedy="Fit with fewer inducing inputs.",
        )
    return known, problem.sharing.roots(values, num_tasks), weights
