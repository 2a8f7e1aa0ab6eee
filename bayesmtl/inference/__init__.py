"""Engines: a problem and settings in, draws out."""

from __future__ import annotations

from collections.abc import Callable

from bayesmtl.errors import SpecificationError
from bayesmtl.inference.draws import Draws
from bayesmtl.inference.empirical_bayes import empirical_bayes
from bayesmtl.inference.exact import exact
from bayesmtl.inference.problem import Problem
from bayesmtl.inference.settings import Settings, whole_number

ENGINES: dict[str, Callable[[Problem, Settings], Draws]] = {
    "exact": exact,
    "empirical_bayes": empirical_bayes,
}
"""Every engine by the name that `fit(method=...)` takes."""

# Numbers handled per density evaluation (T r D, for one chain) beyond which a full posterior takes minutes.
_LARGE = 20_000_000


def choose(problem: Problem, method: str) -> tuple[str, str]:
    """The engine to use, and why.

    Args:
        problem: The posterior to explore.
        method: "auto" or the name of an engine.

    Raises:
        SpecificationError: If the method is unknown.
    """
    if method in ENGINES:
        return method, "asked for"
    if method != "auto":
        raise SpecificationError(
            "method",
            expected="one of " + ", ".join(map(repr, ("auto", *ENGINES))),
            found=repr(method),
            remedy='Use "auto" to let the data decide.',
        )
    size = sum(group.rows.numel() for group in problem.tasks.groups)
    if size > _LARGE:
        reason = f"{problem.tasks.num_tasks} tasks make every density evaluation slow"
        return "empirical_bayes", reason + '; method="exact" gives the full posterior and takes longer'
    return "exact", "Gaussian noise: the weights integrate out exactly, and the data are small enough"


__all__ = ["ENGINES", "Draws", "Problem", "Settings", "choose", "empirical_bayes", "exact", "whole_number"]
