"""Bayesian multi-task modelling: many related tasks, few rows each, one equation W = A Z + E.

>>> import bayesmtl as bm
>>> bm.LinearModel(sharing=bm.Hierarchical(), likelihood=bm.Gaussian())  # doctest: +ELLIPSIS
LinearModel(sharing=Hierarchical(covariance='diagonal', ...
"""

from bayesmtl import datasets, errors, plots
from bayesmtl._version import __version__
from bayesmtl.data import TaskData
from bayesmtl.likelihoods import Bernoulli, Binomial, Gaussian, Poisson
from bayesmtl.models import LinearModel
from bayesmtl.priors import LKJ, Fixed, HalfNormal, HalfStudentT, Normal
from bayesmtl.results import Fit, Prediction, TaskSimilarity, load
from bayesmtl.sharing import Hierarchical, Independent, LowRank, Pooled

__all__ = [
    "LKJ",
    "Bernoulli",
    "Binomial",
    "Fit",
    "Fixed",
    "Gaussian",
    "HalfNormal",
    "HalfStudentT",
    "Hierarchical",
    "Independent",
    "LinearModel",
    "LowRank",
    "Normal",
    "Poisson",
    "Pooled",
    "Prediction",
    "TaskData",
    "TaskSimilarity",
    "__version__",
    "datasets",
    "errors",
    "load",
    "plots",
]
