"""How much the exact engines for functions can hold, and what to do about more."""

from __future__ import annotations

from bayesmtl.errors import DataError
from bayesmtl.posteriors.functions.posterior import FunctionPosterior

MOST_ROWS = 8_000  # a covariance matrix of half a gigabyte


def is_too_large(problem: FunctionPosterior) -> bool:
    """Whether there are more rows than covariance matrices can be made of."""
    return problem.largest_matrix[0] > MOST_ROWS


def refuse_too_many(problem: FunctionPosterior, remedy: str) -> None:
    """Refuse more rows than covariance matrices can be made of.

    Raises:
        DataError: With this remedy.
    """
    refuse_beyond("data", *problem.largest_matrix, remedy)


def refuse_beyond(parameter: str, number: int, what: str, remedy: str) -> None:
    """Refuse more rows of any kind than a covariance matrix between them can hold.

    Raises:
        DataError: With this remedy.
    """
    if number > MOST_ROWS:
        raise DataError(
            parameter,
            expected=f"at most {MOST_ROWS} {what}, whose covariance matrix fits into memory",
            found=str(number),
            remedy=remedy,
        )
