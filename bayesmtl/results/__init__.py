"""Results: fits, predictions and similarities; they own what they need and never change."""

from bayesmtl.results.files import load
from bayesmtl.results.fit import Fit
from bayesmtl.results.gp import GPFit
from bayesmtl.results.prediction import Prediction
from bayesmtl.results.similarity import TaskSimilarity

__all__ = ["Fit", "GPFit", "Prediction", "TaskSimilarity", "load"]
