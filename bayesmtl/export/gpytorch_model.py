"""Multi-task Gaussian processes as models of GPyTorch, with the same covariance, mean and noise."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from bayesmtl.algebra.functions import function_covariance
from bayesmtl.data import TaskData
from bayesmtl.errors import SpecificationError
from bayesmtl.posteriors.functions.posterior import FunctionPosterior
from bayesmtl.results.functions.fit import FunctionFit


def gpytorch_model(posterior: FunctionPosterior, data: TaskData) -> Any:
    """See `MultitaskGP.to_gpytorch`."""
    if not posterior.likelihood.compresses:
        raise SpecificationError(
            "likelihood",
            expected="Gaussian(), whose functions GPyTorch's ExactGP integrates out",
            found=repr(posterior.likelihood),
            remedy="Use to_pyro for outcomes and counts.",
        )
    try:
        gpytorch = import_module("gpytorch")
    except ImportError as error:
        raise SpecificationError(
            "model",
            expected="gpytorch, which to_gpytorch needs",
            found="no such package",
            remedy='Install it with pip install "bayesmtl[gp]".',
        ) from error
    space, T = posterior.space, posterior.num_tasks

    class Coordinates(torch.nn.Module):
        """All hyperparameters, unconstrained; of scales that have a sign either sign means the same."""

        def __init__(self) -> None:
            super().__init__()
            self.point = torch.nn.Parameter(torch.full((space.size,), 0.1, dtype=torch.float64))

        def values(self) -> dict[str, torch.Tensor]:
            return space.constrain(self.point[None])

    class TaskKernel(gpytorch.kernels.Kernel):  # type: ignore[misc, name-defined]
        """sum_q Omega_q[t, u] k_q(x, x') + Lambda[t, u]; the last column of inputs is the task."""

        def __init__(self, coordinates: Coordinates) -> None:
            super().__init__()
            self.coordinates = coordinates

        def forward(self, x1: Any, x2: Any, diag: bool = False, **params: Any) -> Any:
            values = self.coordinates.values()
            tasks = posterior.sharing.structure(values, T)
            kernel = posterior.kernels.covariance(values, x1[..., :-1], x2[..., :-1])
            covariance = function_covariance(tasks, kernel, x1[..., -1].long(), x2[..., -1].long())[0]
            return covariance.diagonal() if diag else covariance

    # what ExactGP asks of a likelihood is this class, which has no public name
    base = import_module("gpytorch.likelihoods.gaussian_likelihood")._GaussianLikelihoodBase
    diagonal = import_module("linear_operator.operators").DiagLinearOperator

    class TaskNoise(base):  # type: ignore[misc, valid-type]
        """y ~ N(f, sigma_t^2); called with the inputs, which say the tasks."""

        def __init__(self, coordinates: Coordinates) -> None:
            super().__init__(noise_covar=torch.nn.Identity())
            self.coordinates = coordinates

        def _shaped_noise_covar(self, base_shape: torch.Size, *params: Any, **kwargs: Any) -> Any:
            inputs = params[0][0] if isinstance(params[0], (list, tuple)) else params[0]
            sd = posterior.noise(self.coordinates.values(), 1)[0]
            return diagonal(sd[inputs[..., -1].long()].square())

    class ExportedGP(gpytorch.models.ExactGP):  # type: ignore[misc, name-defined]
        """A multi-task Gaussian process; inputs are standardised, with the task in the last column."""

        def __init__(self) -> None:
            coordinates = Coordinates()
            rows = torch.cat([posterior.X, posterior.task[:, None].double()], dim=1)
            super().__init__(rows, posterior.y, TaskNoise(coordinates))
            self.mean_module = gpytorch.means.ZeroMean()
            self.covar_module = TaskKernel(coordinates)

        def forward(self, x: Any) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

        def load(self, fit: FunctionFit, draw: int = 0) -> ExportedGP:
            """Take the hyperparameters of one posterior draw of a fit of the same model."""
            values = {name: value[draw : draw + 1] for name, value in fit.flat().items()}
            point = torch.cat([_coordinates(p, values[p.name]) for p in space.parameters if p.size], dim=1)
            with torch.no_grad():
                self.covar_module.coordinates.point.copy_(point[0])
            return self

        def inputs_of(self, rows: Any) -> torch.Tensor:
            """Rows as for `predict`, of known tasks, as this model's inputs (n, D + 1)."""
            encoded = data.schema.encode(rows, targets=False)
            first = 1 if data.has_intercept else 0
            X = standardization.standardize_features(encoded.X)[:, first:]
            codes = torch.from_numpy(data.schema.codes(encoded.task_labels))
            return torch.cat([torch.from_numpy(X), codes[:, None].double()], dim=1)

    standardization = posterior.likelihood.standardization(data)
    return ExportedGP()


def _coordinates(parameter: Any, value: torch.Tensor) -> torch.Tensor:
    """From values (1, ...) to coordinates (1, size)."""
    if parameter.space == "correlation":
        inverse: torch.Tensor = torch.distributions.transforms.CorrCholeskyTransform().inv(value)
        return inverse
    return (value.log() if parameter.space == "log" else value).reshape(1, -1)
