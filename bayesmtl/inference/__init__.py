"""Engines: a problem and settings in, draws out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bayesmtl.errors import SpecificationError
from bayesmtl.inference.augmented_gibbs import gibbs
from bayesmtl.inference.draws import Draws
from bayesmtl.inference.empirical_bayes import empirical_bayes
from bayesmtl.inference.exact import exact
from bayesmtl.inference.laplace import laplace
from bayesmtl.inference.problem import Problem
from bayesmtl.inference.settings import Settings, whole_number
from bayesmtl.likelihoods import Likelihood, Rowwise

ENGINES: dict[str, Callable[[Problem, Settings], Draws]] = {
    "exact": exact,
    "empirical_bayes": empirical_bayes,
    "laplace": laplace,
    "gibbs": gibbs,
}
"""Every engine by the name that `fit(method=...)` takes."""

# Numbers handled per density evaluation (T r D, for one chain) beyond which a full posterior takes minutes.
_LARGE = 20_000_000
# Polya-Gamma variables per sweep (of one chain) beyond which the same is true of "gibbs".
_MANY_VARIABLES = 20_000


def handles(method: str, likelihood: Likelihood) -> bool:
    """Whether an engine can work with a likelihood.

    Example:
        >>> from bayesmtl.likelihoods import Bernoulli
        >>> [name for name in ENGINES if handles(name, Bernoulli())]
        ['laplace', 'gibbs']
    """
    if method == "laplace":
        return True
    if method == "gibbs":
        return isinstance(likelihood, Rowwise) and likelihood.polya_gamma(np.zeros(1)) is not None
    return likelihood.compresses


def choose(problem: Problem, method: str) -> tuple[str, str]:
    """The engine to use, and why.

    Args:
        problem: The posterior to explore.
        method: "auto" or the name of an engine.

    Raises:
        SpecificationError: If the method is unknown, or cannot work with the likelihood.
    """
    likelihood = problem.likelihood
    if method in ENGINES:
        if not handles(method, likelihood):
            able = [name for name in ENGINES if handles(name, likelihood)]
            raise SpecificationError(
                "method",
                expected=f"{' or '.join(map(repr, ('auto', *able)))} for {likelihood!r}",
                found=repr(method),
                remedy="It needs a Polya-Gamma representation: a logit link."
                if method == "gibbs"
                else "Its weights do not integrate out exactly.",
            )
        return method, "asked for"
    if method != "auto":
        raise SpecificationError(
            "method",
            expected="one of " + ", ".join(map(repr, ("auto", *ENGINES))),
            found=repr(method),
            remedy='Use "auto" to let the data decide.',
        )
    if problem.rows is not None:
        return _choose_rowwise(likelihood, int(problem.rows.real.sum()))
    size = sum(group.rows.numel() for group in problem.tasks.groups)
    if size > _LARGE:
        reason = f"{problem.tasks.num_tasks} tasks make every density evaluation slow"
        return "empirical_bayes", reason + '; method="exact" gives the full posterior and takes longer'
    return "exact", "Gaussian noise: the weights integrate out exactly, and the data are small enough"


def _choose_rowwise(likelihood: Likelihood, num_rows: int) -> tuple[str, str]:
    name = type(likelihood).__name__
    if not handles("gibbs", likelihood):
        return "laplace", f"{name} has no exact engine; the weights integrate out by Laplace's method"
    num_variables = num_rows * getattr(likelihood, "trials", 1)
    if num_variables > _MANY_VARIABLES:
        reason = f"{num_variables} Polya-Gamma variables make every sweep slow"
        return "laplace", reason + '; method="gibbs" gives the exact posterior and takes longer'
    return "gibbs", f"{name} with a logit link: Polya-Gamma variables make it Gaussian, and rows are few"


__all__ = [
    "ENGINES",
    "Draws",
    "Problem",
    "Settings",
    "choose",
    "empirical_bayes",
    "exact",
    "gibbs",
    "handles",
    "laplace",
    "whole_number",
]
