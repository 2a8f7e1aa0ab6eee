"""Options that make no sense are refused here, with one message for each kind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from bayesmtl.errors import SpecificationError


def whole_number(name: str, value: object, least: int) -> int:
    """A count or a seed as an int.

    Raises:
        SpecificationError: If it is no whole number, or too small.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise SpecificationError(
            name,
            expected=f"a whole number of at least {least}",
            found=repr(value),
            remedy=f"Pass a whole number, such as {max(least, 100) if name != 'seed' else 0}.",
        )
    return int(value)


def check_mass(mass: object) -> None:
    """Refuse an interval mass that is no number in (0, 1)."""
    if not isinstance(mass, Real) or isinstance(mass, bool) or not 0 < float(mass) < 1:
        raise SpecificationError(
            "mass", expected="a number between 0 and 1", found=repr(mass), remedy="Use 0.9 for 90 %."
        )


def check_option(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse an option that is none of those allowed."""
    if not isinstance(value, str) or value not in allowed:
        expected = " or ".join(map(repr, allowed))
        raise SpecificationError(
            name, expected=expected, found=repr(value), remedy=f"Pass {name}={allowed[0]!r}."
        )


def check_flag(name: str, value: object) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(value, bool):
        raise SpecificationError(
            name, expected="True or False", found=repr(value), remedy=f"Pass {name}=True or {name}=False."
        )


def check_path(name: str, value: object) -> None:
    """Refuse what is no path of a file."""
    if not isinstance(value, (str, os.PathLike)) or not str(value):
        raise SpecificationError(
            name,
            expected="the path of a file, as text or a pathlib.Path",
            found=repr(value),
            remedy='Pass a path, such as "fit.nc".',
        )


def names(name: str, value: Any, *, example: str) -> list[str]:
    """A list of names as strings.

    Raises:
        SpecificationError: If it is one string, or no sequence.
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) and not hasattr(value, "tolist"):
        raise SpecificationError(
            name,
            expected="a list of names",
            found=f"the string {value!r}" if isinstance(value, str) else repr(value),
            remedy=example,
        )
    return [str(one) for one in value]
