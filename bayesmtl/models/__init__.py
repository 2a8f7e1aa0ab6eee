"""Models: features x sharing x likelihood, immutable, without data."""

from bayesmtl.models.deep import DeepModel
from bayesmtl.models.gp import MultitaskGP
from bayesmtl.models.linear import LinearModel

__all__ = ["DeepModel", "LinearModel", "MultitaskGP"]
