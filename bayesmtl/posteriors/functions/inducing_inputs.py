"""Which inputs functions are known through."""

from __future__ import annotations

import math

import numpy as np
import torch

from bayesmtl.algebra.greedy import greedy_choice
from bayesmtl.options import whole_number
from bayesmtl.parameters import Values
from bayesmtl.posteriors.functions.inducing import InducingFunctions
from bayesmtl.posteriors.functions.posterior import FunctionPosterior

_MOST_WEIGHTS = 1_000  # entries of v by default: a step costs O(P^3)
_MOST_INDUCING = 200
_CANDIDATES = 3_000  # inputs among which inducing inputs are chosen
# Noise of the imagined measurements there, relative to the kernel's variance, and the gain that ends them.
_NOISE, _LEAST_GAIN = 1e-2, 1e-3
# More of them for rows that come later: at most, and from what is left open of the variance there.
_MOST_FURTHER, _OPEN = 100, 1e-4


def choose_inducing(problem: FunctionPosterior, number: int | None, rng: np.random.Generator) -> torch.Tensor:
    """Inducing inputs (m, D) among the inputs of the data: those that say most about the latent functions.

    Greedily, by the entropy of functions with the kernels of the problem at typical hyperparameters; fewer
    where further inputs would say next to nothing. All distinct inputs if there are no more than asked for.

    Args:
        problem: The rows and kernels.
        number: How many, or `None` for as many as give a thousand whitened values in all, at most 200.
        rng: Source of randomness.
    """
    values = problem.space.constrain(_typical(problem))
    if number is None:
        functions = problem.sharing.roots(values, problem.num_tasks).num_functions
        number = max(min(_MOST_WEIGHTS // functions, _MOST_INDUCING), 1)
    number = whole_number("num_inducing", number, 1)
    inputs = torch.unique(problem.X, dim=0) if problem.inputs is None else problem.inputs
    if len(inputs) <= number:
        return inputs
    if len(inputs) > _CANDIDATES:
        inputs = inputs[torch.from_numpy(rng.permutation(len(inputs))[:_CANDIDATES])]
    variance = problem.kernels.variance(values, inputs)[0]

    def column(i: int) -> torch.Tensor:
        return problem.kernels.covariance(values, inputs, inputs[i : i + 1])[0, :, :, 0]

    noise = _NOISE * variance.mean(1, keepdim=True).expand_as(variance)
    chosen = greedy_choice(variance, column, noise, number, least=_LEAST_GAIN)
    return inputs[chosen.positions]


@torch.no_grad()
def further_inducing(problem: InducingFunctions, values: Values, X: torch.Tensor) -> torch.Tensor:
    """The inducing inputs (m, D), and behind them those of further rows that are far from all of these.

    Rows between whose inputs and the inducing ones functions are free would else say next to nothing. Chosen
    as by `choose_inducing`, given those that are there; at most 100.

    Args:
        problem: The rows, kernels and inducing inputs so far.
        values: One hyperparameter value (B = 1).
        X: Inputs of the further rows, shape (n, D).
    """
    new, L = torch.unique(X, dim=0), problem.factor(values)
    if not torch.isfinite(L).all():
        return problem.Z
    new = new[:: -(-len(new) // _CANDIDATES)]
    phi = torch.linalg.solve_triangular(L, problem.kernels.covariance(values, problem.Z, new)[0], upper=False)
    variance = problem.kernels.variance(values, new)[0]

    def column(i: int) -> torch.Tensor:
        prior = problem.kernels.covariance(values, new, new[i : i + 1])[0, :, :, 0]
        open_there: torch.Tensor = prior - (phi * phi[:, :, i : i + 1]).sum(1)
        return open_there

    noise = _NOISE * variance.mean(1, keepdim=True).expand_as(variance)
    left = (variance - phi.square().sum(1)).clamp(min=0.0)
    chosen = greedy_choice(left, column, noise, _MOST_FURTHER, least=0.5 * math.log1p(_OPEN / _NOISE))
    return torch.cat([problem.Z, new[chosen.positions]])


def _typical(problem: FunctionPosterior) -> torch.Tensor:
    """The mean of many starting points, shape (1, P)."""
    return problem.space.initial(np.random.default_rng(0), 200).mean(0, keepdim=True)
