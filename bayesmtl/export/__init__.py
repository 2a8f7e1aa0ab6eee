"""Models as programs of other libraries: plain Pyro programs, and models of GPyTorch."""

from bayesmtl.export.function_program import function_program
from bayesmtl.export.gpytorch_model import gpytorch_model
from bayesmtl.export.linear_program import linear_program
from bayesmtl.export.pyro_program import PyroProgram

__all__ = ["PyroProgram", "function_program", "gpytorch_model", "linear_program"]
