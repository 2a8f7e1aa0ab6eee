"""A model met with data: what can be computed of it, declared for the engines that explore it."""

from __future__ import annotations

from abc import abstractmethod
from enum import Enum

import numpy as np
import torch

from bayesmtl.parameters import Reported, Values
from bayesmtl.posteriors.draws import Draws
from bayesmtl.posteriors.target import Target


class Trait(Enum):
    """What a posterior allows. An engine names those that it needs and those that it cannot take."""

    EXACT = "weights or functions integrate out in closed form"
    DENSITY = "the density of the hyperparameters is a formula, exact or a bound"
    AUGMENTED = "auxiliary variables make the rows Gaussian"
    ROWS = "rows are in memory"
    STREAMED = "rows are read from files"
    PARTITION = "the partition of the tasks is unknown"
    BOUNDED = "a bound factorises over the clusters of the tasks"
    JOINT = "tasks depend on each other given Z and the hyperparameters"
    CLASSES = "a row has several linear predictors"
    MIXED = "tasks have likelihoods of several kinds"
    FUNCTIONS = "weights are functions"


class Posterior(Target):
    """The density of the hyperparameters given data, and how to draw again what was integrated out."""

    @property
    @abstractmethod
    def traits(self) -> frozenset[Trait]:
        """What this posterior allows."""

    @abstractmethod
    def reported(self, values: Values) -> dict[str, Reported]:
        """The hyperparameters as results show them: free of signs, rotations and labels."""

    @abstractmethod
    def complete(
        self,
        points: torch.Tensor,
        sample_stats: dict[str, np.ndarray],
        rng: np.random.Generator,
        *,
        complete: bool = True,
        at_mode: bool = False,
    ) -> Draws:
        """Draw what was integrated out, for every kept point.

        Args:
            points: Coordinates of the hyperparameters (C, N, P).
            sample_stats: What the engine recorded, each (C, N).
            rng: Source of randomness.
            complete: Whether these are all draws that were asked for.
            at_mode: Whether the points are a mode, which says nothing about tasks without rows.
        """
