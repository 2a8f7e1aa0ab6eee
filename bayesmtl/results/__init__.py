"""Results: fits, predictions and similarities; they own what they need and never change."""

from bayesmtl.results.files import load
from bayesmtl.results.fit import Fit
from bayesmtl.results.gp import GPFit
from bayesmtl.results.partition import CredibleBall, Partition
from bayesmtl.results.prediction import ClassPrediction, Prediction
from bayesmtl.results.similarity import TaskSimilarity
from bayesmtl.results.suggest import suggest

__all__ = [
    "ClassPrediction",
    "CredibleBall",
    "Fit",
    "GPFit",
    "Partition",
    "Prediction",
    "TaskSimilarity",
    "load",
    "suggest",
]
