"""Trunks: multilayer perceptrons and convolutions, every weight of all members in one tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch.nn import functional

from bayesmtl.errors import SpecificationError
from bayesmtl.features.base import Trunk, Weights
from bayesmtl.options import check_option, whole_number

Activation = Literal["relu", "tanh"]
_ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh}
_GAIN = {"relu": 2.0, "tanh": 1.0}  # He et al. (2015); Glorot and Bengio (2010)


def _drawn(generator: torch.Generator, shape: Sequence[int], fan_in: int, activation: str) -> torch.Tensor:
    return torch.randn(*shape, generator=generator) * math.sqrt(_GAIN[activation] / fan_in)


@dataclass(frozen=True)
class Identity(Trunk):
    """phi(x) = x: the linear model."""

    name: ClassVar[str] = "identity"

    def width(self, num_inputs: int) -> int:
        """As many features as inputs."""
        return num_inputs

    def initial(
        self, num_inputs: int, num_members: int, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """No weights."""
        return {}

    def features(self, weights: Weights, X: torch.Tensor) -> torch.Tensor:
        """The inputs."""
        return X

    def to_dict(self) -> dict[str, Any]:
        """See `Trunk.to_dict`."""
        return {"trunk": self.name}

    @classmethod
    def from_fields(cls, content: Mapping[str, Any]) -> Self:
        """See `Trunk.from_fields`."""
        return cls()


@dataclass(frozen=True)
class Mlp(Trunk):
    """Fully connected layers, each with its activation, the last one too. Made by `trunks.mlp`."""

    hidden: tuple[int, ...]
    out: int
    activation: Activation = "relu"

    name: ClassVar[str] = "mlp"

    def __post_init__(self) -> None:
        for value in (*self.hidden, self.out):
            whole_number("hidden" if value != self.out else "out", value, 1)
        check_option("activation", self.activation, tuple(_ACTIVATIONS))

    def width(self, num_inputs: int) -> int:
        """The size of the last layer."""
        return self.out

    def initial(
        self, num_inputs: int, num_members: int, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Normal weights, of variance 2 / fan-in before a relu and 1 / fan-in before a tanh; biases at 0."""
        sizes, weights = (num_inputs, *self.hidden, self.out), {}
        for layer, (fan_in, size) in enumerate(zip(sizes, sizes[1:], strict=False)):
            shape = (num_members, fan_in, size)
            weights[f"weight_{layer}"] = _drawn(generator, shape, fan_in, self.activation)
            weights[f"bias_{layer}"] = torch.zeros(num_members, 1, size)
        return weights

    def features(self, weights: Weights, X: torch.Tensor) -> torch.Tensor:
        """One batched product per layer."""
        for layer in range(len(self.hidden) + 1):
            X = torch.baddbmm(weights[f"bias_{layer}"], X, weights[f"weight_{layer}"])
            X = _ACTIVATIONS[self.activation](X)
        return X

    def to_dict(self) -> dict[str, Any]:
        """See `Trunk.to_dict`."""
        content = {"hidden": list(self.hidden), "out": self.out, "activation": self.activation}
        return {"trunk": self.name} | content

    @classmethod
    def from_fields(cls, content: Mapping[str, Any]) -> Self:
        """See `Trunk.from_fields`."""
        return cls(tuple(content["hidden"]), content["out"], content["activation"])


@dataclass(frozen=True)
class Conv(Trunk):
    """Convolutions of 3 x 3 with a relu and pooling of 2 x 2, and a full layer. Made by `trunks.conv`."""

    image: tuple[int, int]
    channels: tuple[int, ...]
    out: int

    name: ClassVar[str] = "conv"

    def __post_init__(self) -> None:
        for value in (*self.image, *self.channels, self.out):
            whole_number("image, channels or out", value, 1)
        if min(self.image) < 2 ** len(self.channels):
            raise SpecificationError(
                "channels",
                expected=f"an image that can be halved {len(self.channels)} times",
                found=f"one of {self.image[0]} x {self.image[1]}",
                remedy="Give fewer channels: the image is halved behind each.",
            )

    def width(self, num_inputs: int) -> int:
        """The size of the full layer."""
        if num_inputs != self.image[0] * self.image[1]:
            raise SpecificationError(
                "image",
                expected=f"height x width equal to the {num_inputs} inputs",
                found=f"{self.image[0]} x {self.image[1]}",
                remedy="Pass image=(height, width) of the columns of the data, row by row.",
            )
        return self.out

    @property
    def _flat(self) -> int:
        halvings = 1 << len(self.channels)
        return self.channels[-1] * (self.image[0] // halvings) * (self.image[1] // halvings)

    def initial(
        self, num_inputs: int, num_members: int, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Normal weights of variance 2 / fan-in; biases at 0."""
        sizes, weights = (1, *self.channels), {}
        for layer, (below, size) in enumerate(zip(sizes, sizes[1:], strict=False)):
            shape = (num_members, size, below, 3, 3)
            weights[f"weight_{layer}"] = _drawn(generator, shape, 9 * below, "relu")
            weights[f"bias_{layer}"] = torch.zeros(num_members, size)
        weights["weight_full"] = _drawn(generator, (num_members, self._flat, self.out), self._flat, "relu")
        weights["bias_full"] = torch.zeros(num_members, 1, self.out)
        return weights

    def features(self, weights: Weights, X: torch.Tensor) -> torch.Tensor:
        """Members are groups of one convolution."""
        M, n, _ = X.shape
        maps = X.reshape(M, n, *self.image).transpose(0, 1)  # members as channels
        for layer in range(len(self.channels)):
            kernel, bias = weights[f"weight_{layer}"], weights[f"bias_{layer}"]
            maps = functional.conv2d(maps, kernel.flatten(0, 1), bias.flatten(), padding=1, groups=M)
            maps = functional.max_pool2d(torch.relu(maps), 2)
        flat = maps.reshape(n, M, self._flat).transpose(0, 1)
        return torch.relu(torch.baddbmm(weights["bias_full"], flat, weights["weight_full"]))

    def to_dict(self) -> dict[str, Any]:
        """See `Trunk.to_dict`."""
        content = {"image": list(self.image), "channels": list(self.channels), "out": self.out}
        return {"trunk": self.name} | content

    @classmethod
    def from_fields(cls, content: Mapping[str, Any]) -> Self:
        """See `Trunk.from_fields`."""
        return cls(tuple(content["image"]), tuple(content["channels"]), content["out"])


def mlp(*, hidden: Sequence[int] = (64,), out: int = 16, activation: Activation = "relu") -> Mlp:
    """Make a trunk of fully connected layers.

    Args:
        hidden: Sizes of the layers before the last.
        out: Number of features, the size of the last layer.
        activation: "relu" or "tanh", behind every layer.

    Example:
        >>> mlp(hidden=[32], out=8).width(num_inputs=5)
        8
    """
    return Mlp(tuple(hidden), out, activation)


def conv(*, image: tuple[int, int], channels: Sequence[int] = (16, 32), out: int = 64) -> Conv:
    """Make a trunk of small convolutions, for images whose pixels are the columns of the data, row by row.

    Args:
        image: Height and width.
        channels: Channels of every convolution of 3 x 3; the image is halved behind each.
        out: Number of features.

    Example:
        >>> conv(image=(8, 8), channels=[4], out=16).width(num_inputs=64)
        16
    """
    height, width = image
    return Conv((height, width), tuple(channels), out)


def identity() -> Identity:
    """Make the trunk that leaves inputs as they are.

    Example:
        >>> identity().width(num_inputs=3)
        3
    """
    return Identity()
