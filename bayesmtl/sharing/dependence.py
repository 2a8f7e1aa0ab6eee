"""How tasks hang together once the hyperparameters are known: what an engine has to reckon with."""

from __future__ import annotations

from enum import Enum


class Dependence(Enum):
    """How the weights of different tasks depend on each other, given the hyperparameters."""

    GIVEN_Z = "tasks are independent given Z"
    """`Hierarchical`, `LowRank` and others: one task at a time, once Z is drawn."""

    JOINT = "all tasks hear of each other"
    """`TaskCovariance`, `TaskGraph`: a row of Z for every task."""

    PARTITION = "tasks are in unknown clusters"
    """`Clusters`, `DirichletProcess`, `PitmanYor`, `Gated`."""
