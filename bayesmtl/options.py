"""Options that make no sense are refused here, with one message for each kind."""

from __future__ import annotations

from numbers import Integral

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
