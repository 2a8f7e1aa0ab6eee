"""The version, kept here once: the build backend and ``bayesmtl.__version__`` both read it."""

__version__ = "0.1.0.dev0"
