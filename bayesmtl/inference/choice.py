"""Which engine explores a posterior, and why."""

from __future__ import annotations

from bayesmtl.errors import SpecificationError
from bayesmtl.inference import engines
from bayesmtl.inference.engine import Engine
from bayesmtl.inference.engines import ENGINES, NAMES, PATIENCE
from bayesmtl.likelihoods import Likelihood
from bayesmtl.posteriors.functions.posterior import FunctionPosterior
from bayesmtl.posteriors.linear.outcomes import OutcomePosterior
from bayesmtl.posteriors.linear.posterior import LinearPosterior, traits_of
from bayesmtl.posteriors.posterior import Posterior, Trait
from bayesmtl.sharing import Sharing

_FULLER = '; method="exact" gives the full posterior and takes longer'


def handles(method: str, sharing: Sharing, likelihood: Likelihood) -> bool:
    """Whether an engine of this name can work with a sharing prior and a likelihood, over weights.

    Example:
        >>> from bayesmtl.likelihoods import Bernoulli
        >>> from bayesmtl.sharing import Hierarchical
        >>> [name for name in NAMES if handles(name, Hierarchical(), Bernoulli())]
        ['laplace', 'gibbs', 'nuts', 'svi']
    """
    traits = traits_of(sharing, likelihood)
    return any(engine.name == method and engine.takes(traits) for engine in ENGINES)


def choose(posterior: LinearPosterior | FunctionPosterior, method: str) -> tuple[Engine, str]:
    """The engine to use, and why.

    Args:
        posterior: The posterior to explore.
        method: "auto" or the name of an engine.

    Raises:
        SpecificationError: If the method is unknown, or no engine can work with the sharing prior and the
            likelihood, or not this one.
    """
    traits = posterior.traits
    able = [engine for engine in ENGINES if engine.takes(traits)]
    if not able:
        raise _no_engine(posterior)
    for engine in able:
        if engine.name == method:
            return engine, _asked_for(posterior)
    if method != "auto":
        raise _refusal(posterior, method, able)
    costs = [(engine, engine.seconds(posterior)) for engine in able if engine.seconds is not None]
    quick = [engine for engine, seconds in costs if seconds <= PATIENCE]
    # as quick as another, and no fuller: the later one
    chosen = quick[0] if quick else min(reversed(costs), key=lambda cost: cost[1])[0]
    if isinstance(posterior, FunctionPosterior):
        return chosen, _reason_of_functions(chosen, posterior)
    if isinstance(posterior, OutcomePosterior):
        return chosen, _reason_of_rows(chosen, posterior, able)
    return chosen, _reason_of_sums(chosen, posterior)


def _names(sharing: Sharing, likelihood: Likelihood) -> tuple[str, str]:
    return type(sharing).__name__, type(likelihood).__name__


def _sharing(posterior: LinearPosterior | FunctionPosterior) -> Sharing:
    return posterior.sharing.sharing if isinstance(posterior, FunctionPosterior) else posterior.sharing


def _no_engine(posterior: LinearPosterior | FunctionPosterior) -> SpecificationError:
    traits, (sharing, likelihood) = posterior.traits, _names(_sharing(posterior), posterior.likelihood)
    if Trait.STREAMED in traits:
        return SpecificationError(
            "sharing",
            expected=f"a prior without partitions of the tasks, for {likelihood} and rows that are not "
            "loaded",
            found=sharing,
            remedy="Load the rows, or a sample of them, with TaskData.from_frame.",
        )
    if Trait.FUNCTIONS in traits:
        return SpecificationError(
            "likelihood",
            expected=f"Gaussian() for {sharing} over functions",
            found=repr(posterior.likelihood),
            remedy="Partitions of the tasks are sampled where functions integrate out.",
        )
    return SpecificationError(
        "likelihood",
        expected=f"Gaussian(), or one with a logit link, for {sharing}",
        found=repr(posterior.likelihood),
        remedy="Partitions of the tasks are sampled where the weights integrate out.",
    )


def _refusal(
    posterior: LinearPosterior | FunctionPosterior, method: str, able: list[Engine]
) -> SpecificationError:
    """The error for an engine that is none, or cannot work with this posterior."""
    traits = posterior.traits
    if method not in NAMES:
        return SpecificationError(
            "method",
            expected="one of " + ", ".join(map(repr, ("auto", *NAMES))),
            found=repr(method),
            remedy='Use "auto" to let the data decide.',
        )
    sharing, likelihood = _names(_sharing(posterior), posterior.likelihood)
    names = [repr(name) for name in ("auto", *dict.fromkeys(engine.name for engine in able))]
    if Trait.STREAMED in traits:
        what = f"{likelihood} and rows that are not loaded"
    elif Trait.FUNCTIONS not in traits:
        what = f"{sharing} with {likelihood}"
    elif Trait.PARTITION in traits:
        what = sharing
    else:
        what = "this sharing prior" if Trait.EXACT in traits else likelihood
    over_functions = Trait.FUNCTIONS in traits
    listed = ", ".join(names[:-1]) + f" or {names[-1]}" if over_functions else " or ".join(names)
    return SpecificationError(
        "method",
        expected=f"{listed} for {what}",
        found=repr(method),
        remedy=_why_not(method, sharing, traits),
    )


def _why_not(method: str, sharing: str, traits: frozenset[Trait]) -> str:
    if Trait.STREAMED in traits:
        return (
            "The others look at all rows in every step: load the rows, or a sample of them, with "
            "TaskData.from_frame."
        )
    if Trait.FUNCTIONS in traits and method == "nuts":
        return 'Use "exact", which samples the hyperparameters with functions integrated out.'
    if Trait.CLASSES in traits:
        return "It takes rows with one linear predictor."
    if Trait.PARTITION in traits:
        return f'{sharing} has partitions of the tasks; "auto" chooses an engine that fits.'
    if method == "mean_field":
        return "It is for partitions of the tasks."
    if Trait.FUNCTIONS in traits:
        if method == "gibbs":
            return "It samples partitions of the tasks: use it with Clusters or DirichletProcess."
        return "Functions integrate out exactly under Gaussian noise only."
    if method == "gibbs":
        return "It needs a partition of the tasks, or rows that auxiliary variables make Gaussian."
    return "Its weights do not integrate out exactly."


def _asked_for(posterior: Posterior) -> str:
    if not isinstance(posterior, FunctionPosterior) or Trait.PARTITION in posterior.traits:
        return "asked for"
    return f"asked for; {_how(posterior)}"


def _how(posterior: FunctionPosterior) -> str:
    """How functions integrate out, in words."""
    if Trait.EXACT in posterior.traits:
        return posterior.integration
    name = type(posterior.likelihood).__name__
    return f"{name}: normal posterior of the functions with the highest evidence bound"


def _reason_of_sums(chosen: Engine, posterior: LinearPosterior) -> str:
    """Why, for a Gaussian model, or rows that are read from files."""
    T, traits = posterior.tasks.num_tasks, posterior.traits
    if Trait.STREAMED in traits:
        return "the rows are not loaded, and its steps look at a part of them"
    if Trait.PARTITION in traits:
        return "the partition of the tasks is unknown: Gibbs and split-merge moves, weights integrated out"
    if chosen is engines.EXACT:
        return "Gaussian noise: the weights integrate out exactly, and the data are small enough"
    if Trait.JOINT in traits and not engines.is_quick_when_correlated(T):
        return f"{T} tasks whose weights are correlated make sampling slow{_FULLER}"
    return f"{T} tasks make every density evaluation slow{_FULLER}"


def _reason_of_rows(chosen: Engine, posterior: OutcomePosterior, able: list[Engine]) -> str:
    """Why, for outcomes and counts."""
    name, traits = type(posterior.rowwise).__name__, posterior.traits
    if Trait.PARTITION in traits:
        reason = "the partition of the tasks is unknown: Gibbs and split-merge moves, weights integrated out"
        return reason + " given auxiliary variables of the rows"
    number = int(posterior.rows.real.sum())
    if chosen is engines.SVI:
        return (
            f"{number} rows make every step of the other engines slow, and its steps look at a part of them"
            '; method="laplace" gives wider, more honest intervals and takes longer'
        )
    augments = engines.AUGMENTED_GIBBS in able
    if chosen is engines.LAPLACE:
        if engines.LAPLACE.seconds is not None and engines.LAPLACE.seconds(posterior) > PATIENCE:
            other = "" if engines.SVI in able else "; no engine looks at a part of them"
            return f"{number} rows make every step slow{other or '; ' + _NO_PYRO}"
        if Trait.MIXED in traits:
            reason = "likelihoods of several kinds: the weights integrate out by Laplace's method"
            return reason + (", where sweeps of gibbs mix slowly" if augments else "")
        if not augments:
            return f"{name} has no exact engine; the weights integrate out by Laplace's method"
        reason = f"{engines.num_variables(posterior)} auxiliary variables make every sweep slow"
        return reason + '; method="gibbs" gives the exact posterior and takes longer'
    if posterior.likelihood.parameters(1):
        return f"{name}: auxiliary variables make it Gaussian, and rows are few"
    return f"{name} with a logit link: Polya-Gamma variables make it Gaussian, and rows are few"


_NO_PYRO = '"svi", which looks at a part of them, needs Pyro'


def _reason_of_functions(chosen: Engine, posterior: FunctionPosterior) -> str:
    """Why, for functions."""
    n, how = len(posterior.y), _how(posterior)
    if Trait.PARTITION in posterior.traits:
        return "the partition of the tasks is unknown: Gibbs and split-merge moves, functions integrated out"
    if Trait.EXACT not in posterior.traits:
        if chosen is engines.FUNCTION_LAPLACE:
            return f"few enough rows to draw the hyperparameters; {how}"
        if chosen is engines.EMPIRICAL_BAYES:
            return f'{n} rows make draws slow, method="laplace" makes them; {how}'
        return f"{n} rows are more than one step should look at; {how}"
    if chosen is engines.FUNCTION_SVI:
        size, what = posterior.largest_matrix
        return f"{size} {what} are more than covariance matrices can be made of"
    if chosen is engines.EXACT:
        return f"few enough rows to sample the hyperparameters; {how}"
    return f'{n} rows make sampling slow, method="laplace" does it; {how}'
