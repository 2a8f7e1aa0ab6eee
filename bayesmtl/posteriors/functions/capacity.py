"""How much the exact engines for functions can hold, and what to do about more."""

from __future__ import annotations

from bayesmtl.errors import DataError
from bayesmtl.posteriors.functions.posterior import FunctionProblem

MOST_ROWS = 8_000  # a covariance matrix of half a gigabyte


def size_of(problem: FunctionProblem) -> tuple[int, str]:
    """Rows of the largest matrix that exact engines factorise, and what they are."""
    if problem.on_grid:
        assert problem.grid is not None
        return len(problem.grid), "inputs of a grid"
    return len(problem.y), "observed rows"


def is_too_large(problem: FunctionProblem) -> bool:
    """Whether there are more rows than covariance matrices can be made of."""
    return size_of(problem)[0] > MOST_ROWS


def refuse_too_many(problem: FunctionProblem, remedy: str) -> None:
    """Refuse more rows than covariance matrices can be made of.

    Raises:
        DataError: With this remedy.
    """
    refuse_beyond("data", *size_of(problem), remedy)


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
