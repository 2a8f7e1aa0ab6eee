"""Every engine, in the order in which "auto" would have them: the first that takes a posterior and is quick.

Costs are rough, in CPU seconds of a default run on one core (`python -m benchmarks.engines`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.util import find_spec

from bayesmtl.inference.empirical_bayes import empirical_bayes
from bayesmtl.inference.engine import Engine
from bayesmtl.inference.exact import exact, way
from bayesmtl.inference.gibbs.engine import augmented_gibbs
from bayesmtl.inference.laplace.engine import function_laplace, laplace
from bayesmtl.inference.nuts.engine import nuts
from bayesmtl.inference.partitions.engine import partition_gibbs
from bayesmtl.inference.partitions.functions import function_partition_gibbs
from bayesmtl.inference.partitions.variational import mean_field, partition_variational
from bayesmtl.inference.svi.engine import svi
from bayesmtl.inference.svi.functions import ROWS_AT_ONCE, function_svi
from bayesmtl.posteriors.functions.capacity import is_too_large
from bayesmtl.posteriors.functions.posterior import FunctionPosterior
from bayesmtl.posteriors.linear.outcomes import OutcomePosterior
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.posteriors.posterior import Posterior, Trait

PATIENCE = 60.0  # CPU seconds that "auto" takes for a fuller answer
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
# Observed rows up to which "auto" samples the hyperparameters of functions: a minute or so on one core.
_SAMPLED = 300
# The same with outcomes and counts, whose functions take a search for every hyperparameter value.
_FEW_OUTCOMES = 60


def evaluation_size(posterior: LinearPosterior) -> int:
    """Numbers handled by one evaluation of the density of a Gaussian model's hyperparameters."""
    return sum(group.rows.numel() for group in posterior.tasks.groups)


def num_variables(posterior: OutcomePosterior) -> int:
    """Auxiliary variables of one sweep."""
    rows = posterior.rows
    trials, task = rows.trials[rows.real].numpy(), rows.task[rows.real].numpy()
    return posterior.rowwise.num_auxiliary(trials, task)


def num_row_values(posterior: OutcomePosterior) -> int:
    """Features times rows."""
    return int(posterior.rows.real.sum()) * posterior.rows.num_features


def _exact(posterior: Posterior) -> float:
    if isinstance(posterior, FunctionPosterior):
        return math.inf if is_too_large(posterior) else PATIENCE * len(posterior.y) / _SAMPLED
    assert isinstance(posterior, LinearPosterior)
    correlated = posterior.tasks.num_tasks / _MOST_CORRELATED if Trait.JOINT in posterior.traits else 0.0
    return PATIENCE * max(evaluation_size(posterior) / _LARGE, correlated)


def _augmented_gibbs(posterior: OutcomePosterior) -> float:
    if Trait.PARTITION in posterior.traits:
        return 0.0  # nothing else is as good
    if Trait.MIXED in posterior.traits:
        return math.inf  # sweeps mix slowly
    variables = num_variables(posterior) / _MANY_VARIABLES
    return PATIENCE * max(variables, num_row_values(posterior) / _MANY_ROW_VALUES)


def _laplace(posterior: LinearPosterior) -> float:
    if not isinstance(posterior, OutcomePosterior):
        return math.inf  # "exact" is asked first
    return PATIENCE * num_row_values(posterior) / _MANY_ROW_VALUES


def _function_laplace(posterior: FunctionPosterior) -> float:
    if Trait.EXACT in posterior.traits:
        return math.inf
    return PATIENCE * len(posterior.y) / _FEW_OUTCOMES


def _empirical_bayes(posterior: Posterior) -> float:
    if not isinstance(posterior, FunctionPosterior):
        return 0.0
    if Trait.EXACT in posterior.traits:
        return math.inf if is_too_large(posterior) else 0.0
    return PATIENCE * len(posterior.y) / ROWS_AT_ONCE


def _nothing(posterior: Posterior) -> float:
    return 0.0


def _svi(posterior: LinearPosterior) -> float:
    return 0.0 if find_spec("pyro") is not None else math.inf


def is_quick_when_correlated(num_tasks: int) -> bool:
    """Whether correlations of so many tasks are sampled without being asked to."""
    return num_tasks <= _MOST_CORRELATED


def _of(*traits: Trait) -> frozenset[Trait]:
    return frozenset(traits)


EXACT = Engine(
    "exact",
    exact,
    "chains",
    _of(Trait.EXACT),
    _of(Trait.PARTITION),
    _exact,
    resumes=True,
    approximates="nothing but by the number of draws",
    tells=way,
)
# With a Gaussian likelihood nothing is left for Laplace's method to approximate.
GAUSSIAN_LAPLACE = replace(EXACT, name="laplace", seconds=None)
PARTITION_GIBBS = Engine(
    "gibbs",
    partition_gibbs,
    "chains",
    _of(Trait.EXACT, Trait.PARTITION),
    _of(Trait.FUNCTIONS),
    _nothing,
    resumes=True,
    approximates="nothing but by the number of draws",
)
FUNCTION_PARTITION_GIBBS = Engine(
    "gibbs",
    function_partition_gibbs,
    "chains",
    _of(Trait.EXACT, Trait.PARTITION, Trait.FUNCTIONS),
    seconds=_nothing,
    resumes=True,
    approximates="nothing but by the number of draws",
)
AUGMENTED_GIBBS = Engine(
    "gibbs",
    augmented_gibbs,
    "chains",
    _of(Trait.AUGMENTED, Trait.ROWS),
    _of(Trait.CLASSES, Trait.FUNCTIONS),
    _augmented_gibbs,
    resumes=True,
    approximates="nothing but by the number of draws",
)
LAPLACE = Engine(
    "laplace",
    laplace,
    "weighted",
    cannot=_of(Trait.EXACT, Trait.PARTITION, Trait.STREAMED, Trait.FUNCTIONS),
    seconds=_laplace,
    resumes=True,
    approximates="nothing but by the number of draws, where importance weights hold",
)
FUNCTION_LAPLACE = Engine(
    "laplace",
    function_laplace,
    "weighted",
    _of(Trait.FUNCTIONS, Trait.DENSITY),
    _of(Trait.EXACT, Trait.PARTITION),
    _function_laplace,
    resumes=True,
    approximates="functions of outcomes by the normal distribution with the highest bound",
)
EMPIRICAL_BAYES = Engine(
    "empirical_bayes",
    empirical_bayes,
    "mode",
    _of(Trait.DENSITY),
    _of(Trait.PARTITION),
    _empirical_bayes,
    approximates="hyperparameters by a point, so intervals leave out how unsure they are",
)
SVI = Engine(
    "svi",
    svi,
    "bound",
    cannot=_of(Trait.PARTITION, Trait.CLASSES, Trait.FUNCTIONS),
    seconds=_svi,
    approximates="hyperparameters and Z by a normal distribution, each task's rows by Gaussian ones",
)
FUNCTION_SVI = Engine(
    "svi",
    function_svi,
    "bound",
    _of(Trait.FUNCTIONS),
    _of(Trait.PARTITION),
    _nothing,
    approximates="functions by their values at inducing inputs, hyperparameters by a point",
)
PARTITION_SVI = Engine(
    "svi",
    partition_variational,
    "bound",
    _of(Trait.BOUNDED),
    _of(Trait.STREAMED),
    approximates="nothing where importance weights hold, else as mean_field",
)
NUTS = Engine(
    "nuts",
    nuts,
    "chains",
    cannot=_of(Trait.PARTITION, Trait.STREAMED, Trait.FUNCTIONS),
    approximates="nothing but by the number of draws",
)
MEAN_FIELD = Engine(
    "mean_field",
    mean_field,
    "bound",
    _of(Trait.BOUNDED),
    _of(Trait.STREAMED),
    approximates="the partition by tasks that choose clusters independently of each other",
)

ENGINES = (
    EXACT,
    GAUSSIAN_LAPLACE,
    PARTITION_GIBBS,
    FUNCTION_PARTITION_GIBBS,
    AUGMENTED_GIBBS,
    LAPLACE,
    FUNCTION_LAPLACE,
    EMPIRICAL_BAYES,
    NUTS,
    SVI,
    FUNCTION_SVI,
    PARTITION_SVI,
    MEAN_FIELD,
)
NAMES = ("exact", "empirical_bayes", "laplace", "gibbs", "nuts", "svi", "mean_field")
"""What `fit(method=...)` takes besides "auto"."""
