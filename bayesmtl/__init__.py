"""Bayesian multi-task modelling: many related tasks, few rows each, one equation W = A Z + E.

>>> import bayesmtl as bm
>>> bm.LinearModel(sharing=bm.Hierarchical(), likelihood=bm.Gaussian())  # doctest: +ELLIPSIS
LinearModel(sharing=Hierarchical(covariance='diagonal', ...
"""

from bayesmtl import datasets, errors, plots
from bayesmtl._version import __version__
from bayesmtl.data import TaskData, TaskSummaries
from bayesmtl.evaluation import Comparison, TransferReport, compare, transfer_report
from bayesmtl.features import trunks
from bayesmtl.kernels import GPyTorchKernel, Matern
from bayesmtl.likelihoods import (
    Bernoulli,
    Binomial,
    Categorical,
    Gaussian,
    Mixed,
    NegativeBinomial,
    Poisson,
    StudentT,
)
from bayesmtl.models import DeepModel, LinearModel, MultitaskGP
from bayesmtl.priors import LKJ, Fixed, Gamma, HalfNormal, HalfStudentT, LogNormal, Normal
from bayesmtl.registry import register
from bayesmtl.results import (
    ClassPrediction,
    DeepFit,
    Fit,
    FunctionFit,
    GPFit,
    LeaveOneOut,
    LinearFit,
    Partition,
    Prediction,
    TaskSimilarity,
    load,
    suggest,
)
from bayesmtl.sharing import (
    Clusters,
    DirichletProcess,
    Gated,
    Hierarchical,
    Independent,
    LowRank,
    PitmanYor,
    Pooled,
    TaskCovariance,
    TaskGraph,
)

__all__ = [
    "Bernoulli",
    "Binomial",
    "Categorical",
    "ClassPrediction",
    "Clusters",
    "Comparison",
    "DeepFit",
    "DeepModel",
    "DirichletProcess",
    "Fit",
    "Fixed",
    "FunctionFit",
    "GPFit",
    "GPyTorchKernel",
    "Gamma",
    "Gated",
    "Gaussian",
    "HalfNormal",
    "HalfStudentT",
    "Hierarchical",
    "Independent",
    "LKJ",
    "LeaveOneOut",
    "LinearFit",
    "LinearModel",
    "LogNormal",
    "LowRank",
    "Matern",
    "Mixed",
    "MultitaskGP",
    "NegativeBinomial",
    "Normal",
    "Partition",
    "PitmanYor",
    "Poisson",
    "Pooled",
    "Prediction",
    "StudentT",
    "TaskCovariance",
    "TaskData",
    "TaskGraph",
    "TaskSimilarity",
    "TaskSummaries",
    "TransferReport",
    "__version__",
    "compare",
    "datasets",
    "errors",
    "load",
    "plots",
    "register",
    "suggest",
    "transfer_report",
    "trunks",
]
