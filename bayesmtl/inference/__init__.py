"""Engines: a problem and settings in, draws out."""

from __future__ import annotations

from collections.abc import Callable

from bayesmtl.errors import SpecificationError
from bayesmtl.inference.draws import Draws
from bayesmtl.inference.empirical_bayes import empirical_bayes
from bayesmtl.inference.exact import exact
from bayesmtl.inference.partition_gibbs import partition_gibbs
from bayesmtl.inference.problem import Problem
from bayesmtl.inference.settings import Settings, whole_number
from bayesmtl.sharing import Sharing

ENGINES: dict[str, Callable[[Problem, Settings], Draws]] = {
    "exact": exact,
    "empirical_bayes": empirical_bayes,
    "gibbs": partition_gibbs,
}
"""Every engine by the name that `fit(method=...)` takes."""


def supports(engine: str, sharing: Sharing) -> bool:
    """Whether an engine can sample this sharing prior: partitions need Gibbs moves, and only they do."""
    return sharing.has_partition == (engine == "gibbs")


# Numbers handled per density evaluation (T r D, for one chain) beyond which a full posterior takes minutes.
_LARGE = 20_000_000


def choose(problem: Problem, method: str) -> tuple[str, str]:
    """The engine to use, and why.

    Args:
        problem: The posterior to explore.
        method: "auto" or the name of an engine.

    Raises:
        SpecificationError: If the method is unknown, or cannot sample this sharing prior.
    """
    sharing = problem.sharing
    if method in ENGINES:
        if not supports(method, sharing):
            usable = [engine for engine in ENGINES if supports(engine, sharing)]
            kind = "partitions of the tasks" if sharing.has_partition else "no partition of the tasks"
            raise SpecificationError(
                "method",
                expected=" or ".join(map(repr, ("auto", *usable))) + f" for {type(sharing).__name__}",
                found=repr(method),
                remedy=f'{type(sharing).__name__} has {kind}; "auto" chooses an engine that fits.',
            )
        return method, "asked for"
    if method != "auto":
        raise SpecificationError(
            "method",
            expected="one of " + ", ".join(map(repr, ("auto", *ENGINES))),
            found=repr(method),
            remedy='Use "auto" to let the data decide.',
        )
    if sharing.has_partition:
        return (
            "gibbs",
            "the partition of the tasks is unknown: Gibbs and split-merge moves with weights integrated out",
        )
    size = sum(group.rows.numel() for group in problem.tasks.groups)
    if size > _LARGE:
        reason = f"{problem.tasks.num_tasks} tasks make every density evaluation slow"
        return "empirical_bayes", reason + '; method="exact" gives the full posterior and takes longer'
    return "exact", "Gaussian noise: the weights integrate out exactly, and the data are small enough"


__all__ = [
    "ENGINES",
    "Draws",
    "Problem",
    "Settings",
    "choose",
    "empirical_bayes",
    "exact",
    "partition_gibbs",
    "supports",
    "whole_number",
]
