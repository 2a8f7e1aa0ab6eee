"""Parts of models by name: what files say, and what users add."""

from __future__ import annotations

from typing import Any, TypeVar

from bayesmtl.errors import FitFileError, SpecificationError, listing
from bayesmtl.kernels import REGISTRY as KERNELS
from bayesmtl.kernels import Kernel
from bayesmtl.likelihoods import REGISTRY as LIKELIHOODS
from bayesmtl.likelihoods import Likelihood
from bayesmtl.sharing import REGISTRY as SHARING
from bayesmtl.sharing import Sharing

_KINDS: dict[type, dict[str, Any]] = {Sharing: SHARING, Likelihood: LIKELIHOODS, Kernel: KERNELS}
_Part = TypeVar("_Part", bound=type[Any])


def register(part: _Part) -> _Part:
    """Make a sharing prior, likelihood or kernel of one's own known by name, so that its fits can be saved.

    Call it before `load` in every program that reads such fits: a file holds the name and the options of a
    part, and no code. Also a decorator.

    Args:
        part: A frozen dataclass, subclass of `Sharing`, `Likelihood` or `Kernel`, whose fields are plain
            data and priors.

    Returns:
        The class itself.

    Raises:
        SpecificationError: If it is none of these, or another class has its name.

    Example:
        >>> from dataclasses import dataclass
        >>> from bayesmtl import Hierarchical, register
        >>> @register
        ... @dataclass(frozen=True)
        ... class Cautious(Hierarchical):
        ...     "Partial pooling under a name of its own."
        >>> Cautious().to_dict()["sharing"]
        'Cautious'
    """
    registry = _registry_of(part) if isinstance(part, type) else None
    own = vars(part).get("__dataclass_params__") if isinstance(part, type) else None
    if registry is None or own is None or not own.frozen:
        raise SpecificationError(
            "part",
            expected="a frozen dataclass derived from Sharing, Likelihood or Kernel",
            found=repr(part),
            remedy="Pass the class itself, decorated with @dataclass(frozen=True).",
        )
    known = registry.get(part.__name__)
    if known is not None and _origin(known) != _origin(part):
        raise SpecificationError(
            "part",
            expected="a name that no other part has",
            found=f"{part.__name__}, which is {known.__module__}.{known.__qualname__}",
            remedy="Rename the class.",
        )
    registry[part.__name__] = part
    return part


def check_registered(*parts: object) -> None:
    """Refuse parts that a file could name and nothing could load.

    Raises:
        SpecificationError: If one is of a class that is not registered.
    """
    for part in parts:
        registry = _registry_of(type(part))
        if registry is not None and registry.get(type(part).__name__) is not type(part):
            raise SpecificationError(
                type(part).__name__,
                expected="a part that files can name",
                found="a class that is not registered",
                remedy=f"Call bayesmtl.register({type(part).__name__}) first, and where the fit is loaded.",
            )


def named(kind: type, name: str) -> Any:
    """The part of this kind and name, for files.

    Args:
        kind: `Sharing`, `Likelihood` or `Kernel`.
        name: Its name.

    Raises:
        FitFileError: If it is not registered.
    """
    registry = _KINDS[kind]
    if name not in registry:
        raise FitFileError(
            "path",
            expected=f"a {kind.__name__} that is known here: {listing(list(registry))}",
            found=repr(name),
            remedy="If it is your own, import it and call bayesmtl.register before loading.",
        )
    return registry[name]


def _registry_of(part: type) -> dict[str, Any] | None:
    return next((registry for kind, registry in _KINDS.items() if issubclass(part, kind)), None)


def _origin(part: type) -> tuple[str, str]:
    """Where a class is written: running a notebook's cell again makes the same one."""
    return part.__module__, part.__qualname__
