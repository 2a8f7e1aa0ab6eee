"""Any kernel of GPyTorch as a kernel of this package."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, Self

import torch

from bayesmtl.errors import MissingDependencyError, SpecificationError
from bayesmtl.kernels.base import Kernel
from bayesmtl.parameters import Parameter, Reported, Space, Values
from bayesmtl.priors import Gamma, HalfNormal, HalfStudentT, LogNormal, Normal, Prior

# Kernels that a file may name, with the options their structure needs. Nothing else is rebuilt from a file.
_SAVED: dict[str, tuple[str, ...]] = {
    "ScaleKernel": (),
    "AdditiveKernel": (),
    "ProductKernel": (),
    "RBFKernel": (),
    "MaternKernel": ("nu",),
    "RQKernel": (),
    "PeriodicKernel": (),
    "CosineKernel": (),
    "LinearKernel": (),
    "PolynomialKernel": ("power",),
    "ConstantKernel": (),
}
_COMPOSED = ("AdditiveKernel", "ProductKernel")


class _Evaluated(torch.nn.Module):
    """A kernel whose call gives numbers at once, not a promise of them."""

    def __init__(self, kernel: torch.nn.Module):
        super().__init__()
        self.kernel = kernel

    def forward(self, X: torch.Tensor, Z: torch.Tensor | None) -> torch.Tensor:
        if Z is None:
            diagonal: torch.Tensor = self.kernel(X, diag=True)
            return diagonal
        matrix: torch.Tensor = self.kernel(X, Z).to_dense()
        return matrix


@dataclass(frozen=True)
class GPyTorchKernel(Kernel):
    """A GPyTorch kernel, of any composition, on standardised inputs.

    The kernel is copied: it is neither changed nor trained, and its present parameter values do not matter.
    Positive parameters are inferred on their logarithm, with the prior registered with the kernel
    (GammaPrior, LogNormalPrior, HalfNormalPrior or HalfCauchyPrior) or else LogNormal(1, 1), 90 % of whose
    mass lies between 0.19 and 5.2; unconstrained ones get N(0, 1). The overall size of functions
    belongs to the sharing prior, so an outermost ScaleKernel is one scale too many.

    Args:
        kernel: A `gpytorch.kernels.Kernel`.

    Raises:
        MissingDependencyError: If GPyTorch is not installed.
        SpecificationError: If this is no such kernel, or has another prior, constraint or batch shape.

    Example:
        >>> from gpytorch.kernels import PeriodicKernel, RBFKernel
        >>> [p.name for p in GPyTorchKernel(RBFKernel() + PeriodicKernel()).parameters(num_features=1)]
        ['kernels_0_lengthscale', 'kernels_1_lengthscale', 'kernels_1_period_length']
    """

    kernel: Any

    def __post_init__(self) -> None:
        library = _gpytorch()
        if not isinstance(self.kernel, library.kernels.Kernel):
            raise SpecificationError(
                "kernel",
                expected="a kernel, such as Matern() or gpytorch.kernels.RBFKernel()",
                found=repr(self.kernel),
                remedy="Pass an instance.",
            )
        object.__setattr__(self, "kernel", copy.deepcopy(self.kernel).double())
        if self.kernel.batch_shape:
            raise SpecificationError(
                "kernel",
                expected="a kernel without a batch shape",
                found=f"batch shape {tuple(self.kernel.batch_shape)}",
                remedy="Leave batch_shape out; posterior draws are batched here.",
            )
        _ = self._parameters  # refuses priors and constraints now, not when data come

    @cached_property
    def _parameters(self) -> list[tuple[Parameter, str, Any]]:
        """Every parameter: as one of ours, its name in the kernel, and its constraint."""
        priors = {name: prior for name, _, prior, _, _ in self.kernel.named_priors()}
        found = []
        for name, tensor, constraint in self.kernel.named_parameters_and_constraints():
            plain = name.replace("raw_", "")
            prior, space = _prior(plain, priors.pop(f"{plain}_prior", None), constraint)
            shape, dims = tuple(tensor.shape), tuple(f"{plain}_{i}" for i in range(tensor.ndim))
            found.append((Parameter(plain.replace(".", "_"), shape, prior, space, dims), name, constraint))
        return found

    def check(self, num_features: int) -> None:
        """Try the kernel on a few inputs."""
        try:
            values = {p.name: torch.ones(1, *p.shape, dtype=torch.float64) for p, _, _ in self._parameters}
            self.covariance(values, *(torch.zeros(2, num_features, dtype=torch.float64),) * 2)
        except (RuntimeError, ValueError, IndexError) as error:
            raise SpecificationError(
                "kernel",
                expected=f"a kernel that takes {num_features} inputs",
                found=f"one that fails on them ({str(error).splitlines()[0]})",
                remedy=f"Check its ard_num_dims and active_dims; there are {num_features} inputs, "
                "the intercept left out.",
            ) from error

    def parameters(self, num_features: int) -> tuple[Parameter, ...]:
        """The kernel's own parameters, in its order."""
        return tuple(parameter for parameter, _, _ in self._parameters)

    def covariance(self, values: Values, X: torch.Tensor, Z: torch.Tensor) -> torch.Tensor:
        """k between rows, shape (B, n, m)."""
        return torch.stack([self._evaluate(state, X, Z) for state in self._states(values)])

    def variance(self, values: Values, X: torch.Tensor) -> torch.Tensor:
        """k(x, x), shape (B, n)."""
        return torch.stack([self._evaluate(state, X, None) for state in self._states(values)])

    def _states(self, values: Values) -> Iterator[dict[str, torch.Tensor]]:
        """The kernel's raw parameters for each of the B values."""
        raw = {}
        for parameter, name, constraint in self._parameters:
            value = values[parameter.name]
            raw[f"kernel.{name}"] = value if constraint is None else constraint.inverse_transform(value)
        num_draws = len(next(iter(raw.values())))
        for b in range(num_draws):
            yield {name: value[b] for name, value in raw.items()}

    def _evaluate(
        self, state: dict[str, torch.Tensor], X: torch.Tensor, Z: torch.Tensor | None
    ) -> torch.Tensor:
        with warnings.catch_warnings():
            # that the inputs are those of training is what GPyTorch warns of, and what is wanted here
            warnings.simplefilter("ignore")
            result: torch.Tensor = torch.func.functional_call(_Evaluated(self.kernel), state, (X, Z))
        return result

    def report(self, values: Values) -> dict[str, Reported]:
        """All parameters; dimensions of length 1 are left out."""
        shown = {}
        for parameter, _, _ in self._parameters:
            value, dims = values[parameter.name], parameter.dims
            kept = [i for i, size in enumerate(parameter.shape) if size > 1]
            shape = (len(value), *(parameter.shape[i] for i in kept))
            shown[parameter.name] = Reported(
                tuple(dims[i] for i in kept), value.reshape(shape), "standardised"
            )
        return shown

    def to_dict(self) -> dict[str, Any]:
        """The composition as plain data.

        Raises:
            SpecificationError: If a part is not one of the kernels that can be rebuilt from a file.
        """
        return {"kernel": "GPyTorchKernel", "composition": _described(self.kernel)}

    @classmethod
    def from_fields(cls, content: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; only known kernels are built."""
        return cls(_rebuilt(content["composition"]))


def _gpytorch() -> Any:
    try:
        return import_module("gpytorch")
    except ImportError as error:
        raise MissingDependencyError(
            "kernel",
            expected="an installed gpytorch",
            found="none",
            remedy='Install it with pip install "bayesmtl[gp]"; the kernel Matern() needs none.',
        ) from error


def _prior(name: str, given: Any, constraint: Any) -> tuple[Prior, Space]:
    """Our prior of a parameter, and how it is unconstrained."""
    kinds = _gpytorch().priors
    positive = constraint is not None and float(constraint.lower_bound) == 0 and not _bounded(constraint)
    if constraint is not None and not positive:
        raise SpecificationError(
            "kernel",
            expected="parameters that are positive or free",
            found=f"{constraint} on {name}",
            remedy="Leave the constraint out, and state the knowledge as a prior.",
        )
    if given is None:
        return (LogNormal(1.0, 1.0), "log") if positive else (Normal(1.0), "real")
    known: Prior | None = None
    if isinstance(given, kinds.GammaPrior):
        known = Gamma(float(given.concentration), float(given.rate))
    elif isinstance(given, kinds.LogNormalPrior):
        known = LogNormal(float(given.loc.exp()), float(given.scale))
    elif isinstance(given, kinds.HalfNormalPrior):
        known = HalfNormal(float(given.scale))
    elif isinstance(given, kinds.HalfCauchyPrior):
        known = HalfStudentT(1.0, float(given.scale))
    if known is None or not positive:
        raise SpecificationError(
            "kernel",
            expected="GammaPrior, LogNormalPrior, HalfNormalPrior or HalfCauchyPrior on positive parameters",
            found=f"{type(given).__name__} on {name}",
            remedy="Register one of these, or none for the default.",
        )
    return known, "log"


def _bounded(constraint: Any) -> bool:
    return bool(torch.isfinite(torch.as_tensor(constraint.upper_bound)).all())


def _described(kernel: Any) -> dict[str, Any]:
    name = type(kernel).__name__
    library = _gpytorch().kernels
    if name not in _SAVED or type(kernel) is not getattr(library, name):
        raise SpecificationError(
            "kernel",
            expected="a composition of " + ", ".join(_SAVED),
            found=name,
            remedy="Fits with other kernels cannot be written to files: loading one would execute code.",
        )
    content: dict[str, Any] = {"class": name, **{option: getattr(kernel, option) for option in _SAVED[name]}}
    if name in _COMPOSED:
        return {**content, "parts": [_described(part) for part in kernel.kernels]}
    if name == "ScaleKernel":
        content["base"] = _described(kernel.base_kernel)
    elif kernel.ard_num_dims is not None:
        content["ard_num_dims"] = kernel.ard_num_dims
    if kernel.active_dims is not None:
        content["active_dims"] = kernel.active_dims.tolist()
    priors = {}
    for full_name, module, given, _, _ in kernel.named_priors():
        if module is kernel:
            constraint = getattr(kernel, f"raw_{full_name.removesuffix('_prior')}_constraint")
            priors[full_name] = _prior(full_name, given, constraint)[0].to_dict()
    return {**content, "priors": priors}


def _rebuilt(content: dict[str, Any]) -> Any:
    content = dict(content)
    name = content.pop("class")
    if name not in _SAVED:
        raise ValueError(f"{name} is not a kernel that files may name")
    make = getattr(_gpytorch().kernels, name)
    if name in _COMPOSED:
        return make(*(_rebuilt(part) for part in content["parts"]))
    options = {key: value for key, value in content.items() if key not in ("priors", "base")}
    allowed = {*_SAVED[name], "ard_num_dims", "active_dims", *inspect.signature(make).parameters}
    if not set(options) <= allowed:
        raise ValueError(f"unknown options of {name}")
    for key, prior in content["priors"].items():
        options[key] = _to_gpytorch(Prior.from_dict(prior))
    if "active_dims" in options:
        options["active_dims"] = tuple(options["active_dims"])
    return make(_rebuilt(content["base"]), **options) if name == "ScaleKernel" else make(**options)


def _to_gpytorch(prior: Prior) -> Any:
    kinds = _gpytorch().priors
    if isinstance(prior, Gamma):
        return kinds.GammaPrior(prior.shape, prior.rate)
    if isinstance(prior, LogNormal):
        return kinds.LogNormalPrior(float(torch.tensor(prior.median, dtype=torch.float64).log()), prior.sigma)
    if isinstance(prior, HalfNormal):
        return kinds.HalfNormalPrior(prior.scale)
    assert isinstance(prior, HalfStudentT)
    return kinds.HalfCauchyPrior(prior.scale)
