"""Engines: a problem and settings in, draws out."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from bayesmtl.algebra.rows import TaskRows
from bayesmtl.errors import SpecificationError
from bayesmtl.inference.empirical_bayes import empirical_bayes
from bayesmtl.inference.exact import exact
from bayesmtl.inference.gibbs.engine import augmented_gibbs
from bayesmtl.inference.laplace.engine import laplace
from bayesmtl.inference.nuts.engine import nuts
from bayesmtl.inference.partitions.engine import partition_gibbs
from bayesmtl.inference.partitions.variational import has_bound, mean_field, partition_variational
from bayesmtl.inference.svi.engine import svi
from bayesmtl.likelihoods import Likelihood, Mixed, Rowwise
from bayesmtl.posteriors.draws import Draws
from bayesmtl.posteriors.linear.posterior import Problem, StandardRows
from bayesmtl.posteriors.linear.streamed import RowStream
from bayesmtl.samplers.settings import Settings, whole_number
from bayesmtl.sharing import Sharing


def gibbs(problem: Problem, settings: Settings) -> Draws:
    """Gibbs sampling: with auxiliary variables for the rows, or of the partition of the tasks alone."""
    return (partition_gibbs if problem.rows is None else augmented_gibbs)(problem, settings)


ENGINES: dict[str, Callable[[Problem, Settings], Draws]] = {
    "exact": exact,
    "empirical_bayes": empirical_bayes,
    "laplace": laplace,
    "gibbs": gibbs,
    "nuts": nuts,
    "svi": svi,
    "mean_field": mean_field,
}
"""Every engine by the name that `fit(method=...)` takes."""

# Numbers handled per density evaluation (T r D, for one chain) beyond which a full posterior takes minutes.
_LARGE = 20_000_000
# Tasks whose correlations are sampled without being asked to: about a minute on one core.
_MOST_CORRELATED = 8
# Features times rows beyond which "laplace" takes about ten minutes and "svi" under one. They cost
# the same at 30,000, but the former is corrected: CPU seconds 13 and 11 there, 524 and 17 at 1,500,000
# (`python -m benchmarks.engines`).
_MANY_ROW_VALUES = 1_000_000
# Auxiliary variables per sweep (of one chain) beyond which the same is true of "gibbs".
_MANY_VARIABLES = 20_000


def handles(method: str, sharing: Sharing, likelihood: Likelihood) -> bool:
    """Whether an engine can work with a sharing prior and a likelihood.

    Example:
        >>> from bayesmtl.likelihoods import Bernoulli
        >>> from bayesmtl.sharing import Hierarchical
        >>> [name for name in ENGINES if handles(name, Hierarchical(), Bernoulli())]
        ['laplace', 'gibbs', 'nuts', 'svi']
    """
    if sharing.has_partition:  # needs Gibbs moves, or a bound, with all weights integrated out
        if method in ("svi", "mean_field"):
            return has_bound(sharing, likelihood)
        return method == "gibbs" and (likelihood.compresses or likelihood.augments)
    if method == "mean_field":
        return False
    if likelihood.has_classes:  # those that take rows with several linear predictors
        return method in ("laplace", "nuts")
    if method in ("laplace", "nuts", "svi"):
        return True
    return likelihood.augments if method == "gibbs" else likelihood.compresses


def choose(problem: Problem, method: str) -> tuple[str, str]:
    """The engine to use, and why.

    Args:
        problem: The posterior to explore.
        method: "auto" or the name of an engine.

    Raises:
        SpecificationError: If the method is unknown, or no engine can work with the sharing prior and the
            likelihood, or not this one.
    """
    sharing, likelihood = problem.sharing, problem.likelihood
    if problem.stream is not None:
        return _choose_streaming(problem, method)
    able = [name for name in ENGINES if handles(name, sharing, likelihood)]
    pair = f"{type(sharing).__name__} with {type(likelihood).__name__}"
    if not able:
        raise SpecificationError(
            "likelihood",
            expected=f"Gaussian(), or one with a logit link, for {type(sharing).__name__}",
            found=repr(likelihood),
            remedy="Partitions of the tasks are sampled where the weights integrate out.",
        )
    if method in able:
        return method, "asked for"
    if method in ENGINES:
        raise SpecificationError(
            "method",
            expected=f"{' or '.join(map(repr, ('auto', *able)))} for {pair}",
            found=repr(method),
            remedy=_why_not(method, sharing, likelihood),
        )
    if method != "auto":
        raise SpecificationError(
            "method",
            expected="one of " + ", ".join(map(repr, ("auto", *ENGINES))),
            found=repr(method),
            remedy='Use "auto" to let the data decide.',
        )
    if sharing.has_partition:
        reason = "the partition of the tasks is unknown: Gibbs and split-merge moves, weights integrated out"
        return "gibbs", reason + ("" if problem.rows is None else " given auxiliary variables of the rows")
    if problem.rows is not None:
        return _choose_rowwise(able, problem.rowwise, problem.rows)
    T = problem.tasks.num_tasks
    if sharing.has_correlation and T > _MOST_CORRELATED:
        reason = f"{T} tasks whose weights are correlated make sampling slow"
        return "empirical_bayes", reason + '; method="exact" gives the full posterior and takes longer'
    size = sum(group.rows.numel() for group in problem.tasks.groups)
    if size > _LARGE:
        reason = f"{problem.tasks.num_tasks} tasks make every density evaluation slow"
        return "empirical_bayes", reason + '; method="exact" gives the full posterior and takes longer'
    return "exact", "Gaussian noise: the weights integrate out exactly, and the data are small enough"


def _choose_streaming(problem: Problem, method: str) -> tuple[str, str]:
    """The one engine that reads rows a chunk at a time."""
    name = type(problem.likelihood).__name__
    sharing = type(problem.sharing).__name__
    if problem.sharing.has_partition:
        raise SpecificationError(
            "sharing",
            expected=f"a prior without partitions of the tasks, for {name} and rows that are not loaded",
            found=sharing,
            remedy="Load the rows, or a sample of them, with TaskData.from_frame.",
        )
    if method not in ("auto", "svi"):
        raise SpecificationError(
            "method",
            expected=f"'auto' or 'svi' for {name} and rows that are not loaded",
            found=repr(method),
            remedy="The others look at all rows in every step: load the rows, or a sample of them, with "
            "TaskData.from_frame.",
        )
    if method == "svi":
        return "svi", "asked for"
    return "svi", "the rows are not loaded, and its steps look at a part of them"


def _why_not(method: str, sharing: Sharing, likelihood: Likelihood) -> str:
    if likelihood.has_classes:
        return "It takes rows with one linear predictor."
    if sharing.has_partition:
        return f'{type(sharing).__name__} has partitions of the tasks; "auto" chooses an engine that fits.'
    if method == "mean_field":
        return "It is for partitions of the tasks."
    if method == "gibbs":
        return "It needs a partition of the tasks, or rows that auxiliary variables make Gaussian."
    return "Its weights do not integrate out exactly."


def _choose_rowwise(able: list[str], likelihood: Rowwise, rows: TaskRows) -> tuple[str, str]:
    name, number = type(likelihood).__name__, int(rows.real.sum())
    size = number * rows.num_features
    if size > _MANY_ROW_VALUES:
        reason = (
            f"{number} rows make every step of the other engines slow, and its steps look at a part of them"
        )
        if find_spec("pyro") is not None:
            return "svi", reason + '; method="laplace" gives wider, more honest intervals and takes longer'
        return (
            "laplace",
            f'{number} rows make every step slow; "svi", which looks at a part of them, needs Pyro',
        )
    if isinstance(likelihood, Mixed):
        reason = "likelihoods of several kinds: the weights integrate out by Laplace's method"
        return "laplace", reason + (", where sweeps of gibbs mix slowly" if "gibbs" in able else "")
    if "gibbs" not in able:
        return "laplace", f"{name} has no exact engine; the weights integrate out by Laplace's method"
    num_variables = likelihood.num_auxiliary(rows.trials[rows.real].numpy(), rows.task[rows.real].numpy())
    if num_variables > _MANY_VARIABLES:
        reason = f"{num_variables} auxiliary variables make every sweep slow"
        return "laplace", reason + '; method="gibbs" gives the exact posterior and takes longer'
    if likelihood.parameters(1):
        return "gibbs", f"{name}: auxiliary variables make it Gaussian, and rows are few"
    return "gibbs", f"{name} with a logit link: Polya-Gamma variables make it Gaussian, and rows are few"


__all__ = [
    "ENGINES",
    "Draws",
    "Problem",
    "RowStream",
    "Settings",
    "StandardRows",
    "augmented_gibbs",
    "choose",
    "empirical_bayes",
    "exact",
    "gibbs",
    "handles",
    "laplace",
    "mean_field",
    "nuts",
    "partition_gibbs",
    "partition_variational",
    "svi",
    "whole_number",
]
