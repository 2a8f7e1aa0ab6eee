"""Results: fits, predictions and similarities; they own what they need and never change."""

from bayesmtl.results.deep.fit import DeepFit
from bayesmtl.results.files import load
from bayesmtl.results.functions.fit import GPFit
from bayesmtl.results.functions.suggest import suggest
from bayesmtl.results.linear.fit import Fit
from bayesmtl.results.partition import CredibleBall, Partition
from bayesmtl.results.prediction import ClassPrediction, Prediction
from bayesmtl.results.similarity import TaskSimilarity

__all__ = [
    "ClassPrediction",
    "CredibleBall",
    "DeepFit",
    "Fit",
    "GPFit",
    "Partition",
    "Prediction",
    "TaskSimilarity",
    "load",
    "suggest",
]
