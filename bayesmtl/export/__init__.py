"""Models as programs of other libraries: plain Pyro programs, and models of GPyTorch."""

from bayesmtl.export.pyro_program import PyroProgram, linear_program

__all__ = ["PyroProgram", "linear_program"]
