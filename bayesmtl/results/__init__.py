"""Results: fits, predictions and similarities; they own what they need and never change."""

from bayesmtl.results.base import Fit
from bayesmtl.results.deep.fit import DeepFit
from bayesmtl.results.functions.fit import FunctionFit
from bayesmtl.results.functions.suggest import suggest
from bayesmtl.results.leave_one_out import LeaveOneOut
from bayesmtl.results.linear.fit import LinearFit
from bayesmtl.results.load import load
from bayesmtl.results.partition import CredibleBall, Partition
from bayesmtl.results.prediction import ClassPrediction, Prediction
from bayesmtl.results.similarity import TaskSimilarity

GPFit = FunctionFit  # its former name

__all__ = [
    "ClassPrediction",
    "CredibleBall",
    "DeepFit",
    "Fit",
    "FunctionFit",
    "GPFit",
    "LeaveOneOut",
    "LinearFit",
    "Partition",
    "Prediction",
    "TaskSimilarity",
    "load",
    "suggest",
]
