"""A network of the user's own as a trunk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch.func import functional_call, vmap

from bayesmtl.errors import FitFileError, SpecificationError
from bayesmtl.features.base import Trunk, Weights

_RANDOM = (torch.nn.modules.dropout._DropoutNd, torch.nn.modules.batchnorm._BatchNorm)


@dataclass(frozen=True, eq=False)
class Module(Trunk):
    """A `torch.nn.Module` from (n, inputs) to (n, D).

    The module itself is never changed. The first member starts from its weights; the others draw every
    matrix anew, normal with the spread of the module's own.

    Args:
        module: The network, without dropout or batch normalisation in training mode.
    """

    module: torch.nn.Module

    name: ClassVar[str] = "module"

    def __post_init__(self) -> None:
        active = [
            name for name, part in self.module.named_modules() if isinstance(part, _RANDOM) and part.training
        ]
        if active:
            raise SpecificationError(
                "trunk",
                expected="a module without dropout or batch normalisation in training mode",
                found=f"'{active[0]}' in training mode",
                remedy="Call module.eval(), or leave these layers out.",
            )

    def width(self, num_inputs: int) -> int:
        """The number of features that the module gives for one row of zeros."""
        probe = torch.zeros(2, num_inputs)
        try:
            with torch.no_grad():
                features = self.module(probe)
        except RuntimeError as error:
            raise SpecificationError(
                "trunk",
                expected=f"a module that takes {num_inputs} inputs",
                found=f"an error: {error}",
                remedy="Match the module's first layer to the columns of the data, the constant not counted.",
            ) from error
        if not isinstance(features, torch.Tensor) or features.ndim != 2 or len(features) != 2:
            found = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
            raise SpecificationError(
                "trunk",
                expected="a module from (n, inputs) to (n, features)",
                found=f"{found} for two rows",
                remedy="Flatten what the module returns.",
            )
        if bool(torch.any(probe != 0)):
            raise SpecificationError(
                "trunk",
                expected="a module that leaves its inputs as they are",
                found="one that changes them",
                remedy="Copy the inputs before changing them, as in x = x.clone().",
            )
        return features.shape[1]

    def initial(
        self, num_inputs: int, num_members: int, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """See the class."""
        weights = {}
        for name, value in self.module.named_parameters():
            own = value.detach().float().cpu()
            members = [own.clone()]
            for _ in range(num_members - 1):
                drawn = (
                    torch.randn(own.shape, generator=generator) * own.std() if own.ndim > 1 else own.clone()
                )
                members.append(drawn)
            weights[name] = torch.stack(members)
        return weights

    def features(self, weights: Weights, X: torch.Tensor) -> torch.Tensor:
        """All members in one batched call."""
        buffers = {
            name: value.to(X) for name, value in self.module.named_buffers() if value.is_floating_point()
        }

        def one(own: Weights, inputs: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(functional_call(self.module, {**own, **buffers}, (inputs,)))

        return torch.as_tensor(vmap(one)(dict(weights), X))

    @property
    def digest(self) -> str:
        """Changes with the module's layers, not with its weights."""
        shapes = {name: list(value.shape) for name, value in self.module.named_parameters()}
        return hashlib.sha256(f"{self.module} {shapes}".encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """The digest: a module's code is in no file."""
        return {"trunk": self.name, "digest": self.digest}

    @classmethod
    def from_fields(cls, content: Mapping[str, Any]) -> Self:
        """See `Trunk.from_fields`; the module itself comes under "module".

        Raises:
            FitFileError: If there is none, or one of another architecture.
        """
        module = content.get("module")
        if module is None:
            raise FitFileError(
                "trunk",
                expected="the module that the fit was made with",
                found="none",
                remedy="Pass it: load(path, trunk=module). Its weights come from the file.",
            )
        trunk = cls(module)
        if trunk.digest != content["digest"]:
            raise FitFileError(
                "trunk",
                expected="a module of the architecture that the fit was made with",
                found=f"{type(module).__name__} of another one",
                remedy="Build the module as it was for the fit.",
            )
        return trunk
