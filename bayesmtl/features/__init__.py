"""What inputs become before the tasks' weights act on them."""

from bayesmtl.features.base import FeatureMap, Trunk, Weights
from bayesmtl.features.module import Module
from bayesmtl.features.trunks import Conv, Identity, Mlp

__all__ = ["Conv", "FeatureMap", "Identity", "Mlp", "Module", "Trunk", "Weights"]
