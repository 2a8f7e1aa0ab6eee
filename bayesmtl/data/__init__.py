"""Data of many tasks: read once, named and checked; and the recipe that reads new rows the same way."""

from bayesmtl.data.descriptors import descriptor_matrix, descriptors_of_new
from bayesmtl.data.design import Design, Variable
from bayesmtl.data.moments import TaskMoments
from bayesmtl.data.parquet import Part
from bayesmtl.data.schema import NewRows, Schema
from bayesmtl.data.standardization import Standardization
from bayesmtl.data.summaries import RowChunk, TaskSummaries
from bayesmtl.data.task_data import TaskData

__all__ = [
    "Design",
    "NewRows",
    "Part",
    "RowChunk",
    "Schema",
    "Standardization",
    "TaskData",
    "TaskMoments",
    "TaskSummaries",
    "Variable",
    "descriptor_matrix",
    "descriptors_of_new",
]
