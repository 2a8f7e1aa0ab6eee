"""Plots: labelled arrays in, matplotlib Axes out; nothing is computed here but the layout.

matplotlib is an optional extra, imported when the first plot is drawn.
"""

from bayesmtl.plots.clusters import members, num_clusters
from bayesmtl.plots.functions import functions
from bayesmtl.plots.maps import maps
from bayesmtl.plots.partition import partition
from bayesmtl.plots.predictions import predictions
from bayesmtl.plots.relations import relations
from bayesmtl.plots.shrinkage import shrinkage
from bayesmtl.plots.similarity import similarity

__all__ = [
    "functions",
    "maps",
    "members",
    "num_clusters",
    "partition",
    "predictions",
    "relations",
    "shrinkage",
    "similarity",
]
