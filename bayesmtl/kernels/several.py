"""The kernels of a model: one for all functions, or one for each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from bayesmtl.kernels.base import Kernel
from bayesmtl.parameters import Parameter, Reported, Values


@dataclass(frozen=True)
class Kernels:
    """k_1 .. k_Q, each with hyperparameters of its own.

    A single kernel keeps the names of its hyperparameters; of several, the first gets them with "_1", the
    second with "_2" and so on, and that of the private functions with "private_" in front.

    Args:
        kernels: One for all functions; or one for each shared function, and then perhaps one for the private.
        private: Whether the last of several is that of the private functions.

    Example:
        >>> from bayesmtl.kernels.matern import Matern
        >>> [p.name for p in Kernels((Matern(), Matern(0.5)), private=True).parameters(1)]
        ['lengthscale_1', 'private_lengthscale']
    """

    kernels: tuple[Kernel, ...]
    private: bool = False

    @property
    def num_kernels(self) -> int:
        """Q."""
        return len(self.kernels)

    @property
    def num_shared(self) -> int:
        """How many of several kernels are those of shared functions."""
        return self.num_kernels - self.private

    def _name(self, q: int, name: str) -> str:
        if self.num_kernels == 1:
            return name
        return f"private_{name}" if q == self.num_shared else f"{name}_{q + 1}"

    def _own(self, q: int, values: Values) -> Values:
        """Hyperparameters of one kernel, under its own names."""
        if self.num_kernels == 1:
            return values
        ahead, behind = ("private_", "") if q == self.num_shared else ("", f"_{q + 1}")
        return {
            name.removeprefix(ahead).removesuffix(behind): value
            for name, value in values.items()
            if name.startswith(ahead) and name.endswith(behind)
        }

    def check(self, num_features: int) -> None:
        """Refuse inputs that one of the kernels cannot take."""
        for kernel in self.kernels:
            kernel.check(num_features)

    def parameters(self, num_features: int) -> tuple[Parameter, ...]:
        """The hyperparameters of all kernels for D inputs."""
        return tuple(
            replace(parameter, name=self._name(q, parameter.name))
            for q, kernel in enumerate(self.kernels)
            for parameter in kernel.parameters(num_features)
        )

    def covariance(self, values: Values, X: torch.Tensor, Z: torch.Tensor) -> torch.Tensor:
        """k_q between rows, shape (B, Q, n, m)."""
        found = [k.covariance(self._own(q, values), X, Z) for q, k in enumerate(self.kernels)]
        return torch.stack(found, 1) if len(found) > 1 else found[0][:, None]

    def variance(self, values: Values, X: torch.Tensor) -> torch.Tensor:
        """k_q(x, x), shape (B, Q, n)."""
        return torch.stack([k.variance(self._own(q, values), X) for q, k in enumerate(self.kernels)], 1)

    def frequencies(
        self, values: Values, num_inputs: int, number: int, rng: np.random.Generator
    ) -> torch.Tensor:
        """Draws from the spectral densities, shape (B, Q, number, D)."""
        drawn = [
            k.frequencies(self._own(q, values), num_inputs, number, rng) for q, k in enumerate(self.kernels)
        ]
        return torch.stack(drawn, 1)

    def report(self, values: Values) -> dict[str, Reported]:
        """All hyperparameters.

        Shared functions with equal kernels can change places without changing the model: they are put in the
        order of their first hyperparameter in every draw, longest length-scales first.
        """
        reports = [kernel.report(self._own(q, values)) for q, kernel in enumerate(self.kernels)]
        if self.num_kernels == 1:
            return reports[0]
        exchangeable = len(set(map(repr, self.kernels[: self.num_shared]))) == 1 < self.num_shared
        shown: dict[str, Reported] = {}
        if exchangeable:
            shown = _in_order(reports[: self.num_shared])
        for q, report in enumerate(reports):
            if q == self.num_shared or not exchangeable:
                shown |= {self._name(q, name): reported for name, reported in report.items()}
        return shown

    def to_dict(self) -> list[dict[str, Any]]:
        """Plain data, for files."""
        return [kernel.to_dict() for kernel in self.kernels]


def _in_order(reports: list[dict[str, Reported]]) -> dict[str, Reported]:
    """Reports of exchangeable functions along a dimension "function", sorted within each draw."""
    first = [next(iter(report.values())).values for report in reports]
    size = torch.stack([value.reshape(len(value), -1).log().mean(1) for value in first], dim=1)
    order = size.argsort(dim=1, descending=True)
    shown = {}
    for name, reported in reports[0].items():
        values = torch.stack([report[name].values for report in reports], dim=1)
        index = order.reshape(*order.shape, *(1,) * (values.ndim - 2)).expand_as(values)
        shown[name] = Reported(("function", *reported.dims), values.gather(1, index), reported.unit)
    return shown
