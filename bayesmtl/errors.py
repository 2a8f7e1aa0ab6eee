"""Every error and warning that bayesmtl raises on purpose.

An error answers four questions: which parameter, what was expected, what was found, and what to do.
Each class also inherits the builtin that a caller would catch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any


class BayesMTLError(Exception):
    """Base class of all errors of this package.

    Args:
        parameter: Name of the argument, column or task that is wrong.
        expected: What is accepted there.
        found: What was there instead.
        remedy: What the caller can do about it.
    """

    def __init__(self, parameter: str, *, expected: str, found: str, remedy: str):
        self.parameter = parameter
        self.expected = expected
        self.found = found
        self.remedy = remedy
        super().__init__(f"`{parameter}`: expected {expected}, found {found}. {remedy}")

    def __str__(self) -> str:  # KeyError would show the repr of its argument
        return str(self.args[0])

    def __reduce__(self) -> tuple[Any, ...]:  # to come back from another process as it was
        slots = {"expected": self.expected, "found": self.found, "remedy": self.remedy}
        return partial(type(self), self.parameter, **slots), ()


class DataError(BayesMTLError, ValueError):
    """Data that cannot be used as given: a missing column, a non-finite feature, an unseen category."""


class UnknownTaskError(BayesMTLError, KeyError):
    """A task that the data or the fit does not know."""


class SpecificationError(BayesMTLError, ValueError):
    """A model, prior or option that makes no sense or does not fit the data."""


class FitFileError(BayesMTLError, ValueError):
    """A file that is not a complete, undamaged fit this version can read."""


class CheckpointError(BayesMTLError, ValueError):
    """A checkpoint that is damaged or belongs to another run."""


class MissingDataSetError(BayesMTLError, FileNotFoundError):
    """A data set that is not on this machine."""


class MissingDependencyError(BayesMTLError, ImportError):
    """An optional library that is needed and not installed."""


class ConvergenceWarning(UserWarning):
    """An answer that is not to be trusted yet; the message names the quantity and the task."""


class DataWarning(UserWarning):
    """Data that is allowed but worth knowing about, such as duplicated features."""


def listing(names: Sequence[object], limit: int = 6) -> str:
    """Shorten a list of names for a message: ``"a, b, c ... z (26 in all)"``.

    Example:
        >>> listing(["lab_1", "lab_2"])
        "'lab_1', 'lab_2'"
    """
    shown = [repr(str(name)) for name in names]
    if len(shown) <= limit:
        return ", ".join(shown)
    return ", ".join(shown[: limit - 1]) + f" ... {shown[-1]} ({len(shown)} in all)"
