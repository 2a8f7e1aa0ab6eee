"""A linear model as a plain Pyro program: its text, its data, and the way back to a fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch

from bayesmtl.algebra.conditional import shared_part
from bayesmtl.data import TaskData
from bayesmtl.errors import SpecificationError, listing
from bayesmtl.export.pyro_text import linear_source
from bayesmtl.likelihoods import Likelihood
from bayesmtl.posteriors.draws import LinearDraws
from bayesmtl.posteriors.linear.build import linear_posterior
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.posteriors.linear.rows import StandardRows
from bayesmtl.results.linear.fit import LinearFit
from bayesmtl.sharing import PartitionSharing, Sharing


@dataclass(frozen=True, eq=False)
class PyroProgram:
    """A model met with data, as a plain Pyro program.

    Called, it runs on the data it was made of, so that it can be handed to anything that takes a Pyro
    program: `pyro.poutine.trace(program)`, `pyro.infer.NUTS(program)`, `pyro.infer.SVI(program, guide, ...)`,
    `pyro.render_model(program)`. All quantities are standardised, as they are inside a fit. `source` is the
    text that runs: copy it, change a line, and go on.

    Args:
        source: The program's text. It uses `torch`, `pyro`, `dist` (pyro.distributions), `sharing` (the
            sharing prior) and, where noise is inferred, `likelihood`.
        function: The function that the text defines.
        data: Its arguments: the rows, standardised.
        names: What the text refers to.
        posterior: The posterior that the engines explore.
        fitted: From draws to a fit.
    """

    source: str
    function: Callable[..., Any]
    data: Mapping[str, Any]
    names: Mapping[str, Any]
    posterior: LinearPosterior
    fitted: Callable[[LinearDraws], LinearFit]

    def __call__(self) -> Any:
        """Run the program on its data; returns W."""
        return self.function(**self.data)

    def __repr__(self) -> str:
        return self.source

    def to_fit(self, samples: Mapping[str, torch.Tensor]) -> LinearFit:
        """Bring samples back as a fit, with names, units and all its verbs.

        Args:
            samples: Draws of the program's sample sites by name, each (draws, ...) or (chains, draws, ...),
                such as `MCMC.get_samples(group_by_chain=True)`.

        Raises:
            SpecificationError: If a site is missing, or draws have another shape than the site.

        Example:
            >>> import pyro, torch
            >>> from bayesmtl import LinearModel, TaskData
            >>> data = TaskData.from_arrays([[0.0], [1.0], [2.0], [3.0]], [0.1, 1.0, 2.2, 2.9], list("aabb"))
            >>> program = LinearModel().to_pyro(data)
            >>> trace = pyro.poutine.trace(program).get_trace()
            >>> values = {name: trace.nodes[name]["value"] for name in trace.stochastic_nodes}
            >>> samples = {name: value.expand(4, *value.shape) for name, value in values.items()}
            >>> program.to_fit(samples).posterior["weights"].shape
            (1, 4, 2, 2)
        """
        problem = self.posterior
        drawn = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in samples.items()}
        shapes = self._sites()
        missing = [name for name in shapes if name not in drawn]
        if missing:
            raise SpecificationError(
                "samples",
                expected=f"draws of {listing(list(shapes))}",
                found=f"none of {listing(missing)}",
                remedy="Pass all sample sites, such as MCMC.get_samples(group_by_chain=True).",
            )
        for name, shape in shapes.items():
            value = drawn[name]
            further = value.ndim - len(shape)
            if further not in (1, 2) or value.shape[further:] != shape:
                raise SpecificationError(
                    "samples",
                    expected=f"(draws, *{tuple(shape)}) or (chains, draws, *{tuple(shape)}) for {name!r}",
                    found=str(tuple(value.shape)),
                    remedy="Keep the sites' own dimensions last.",
                )
            if further == 2 and value.shape[1] == 1:  # draws of `Predictive`, which has a place for plates
                value = value[:, 0]
            drawn[name] = value if value.ndim == len(shape) + 2 else value[None]
        C, N = next(iter(drawn.values())).shape[:2]
        flat = {name: drawn[name].flatten(0, 1) for name in shapes}
        nothing = torch.zeros(C * N, 0, dtype=torch.float64)  # coordinates of what is known
        values = {
            p.name: flat[p.name] if p.name in flat else p.constrain(nothing) for p in problem.space.parameters
        }
        if isinstance(problem.sharing, PartitionSharing):
            clusters = [flat[f"cluster_{t}"] for t in range(problem.tasks.num_tasks)]
            values["cluster"] = torch.stack(clusters, dim=1).long()
        weights, basis, factors = _weights(problem, values, flat)
        stats = {"log_likelihood": problem.log_likelihood(values, weights).reshape(C, N).numpy()}

        def shaped(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.reshape(C, N, *tensor.shape[1:])

        draws = LinearDraws(
            {name: shaped(value) for name, value in values.items()},
            shaped(basis),
            shaped(weights),
            shaped(factors),
            stats,
        )
        return self.fitted(draws)

    def _sites(self) -> dict[str, torch.Size]:
        """Shapes of the sample sites that are not observed."""
        pyro = _pyro()
        with torch.random.fork_rng():
            trace = pyro.poutine.trace(self).get_trace()
        sites = {name: trace.nodes[name] for name in trace.stochastic_nodes}
        plates = pyro.util.site_is_subsample
        return {name: site["value"].shape for name, site in sites.items() if not plates(site)}


def _weights(
    problem: LinearPosterior, values: Mapping[str, torch.Tensor], sites: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """W, Z and the coordinates of E along its factor, from what the program samples."""
    structure = problem.structure(dict(values))
    T, D, B = problem.tasks.num_tasks, problem.num_weights, len(next(iter(sites.values())))
    basis = sites.get("Z", torch.zeros(B, 0, D, dtype=torch.float64))
    weights = shared_part(structure, basis, T)
    if "e" in sites:
        weights = weights + sites["e"]
    factors = sites.get("u", torch.zeros(B, T, 0, dtype=torch.float64))
    if structure.factor_by_task is not None:
        weights = weights + (structure.factor_by_task @ factors[..., None])[..., 0]
    return weights, basis, factors


def linear_program(sharing: Sharing, likelihood: Likelihood, data: TaskData) -> PyroProgram:
    """See `LinearModel.to_pyro`."""
    pyro = _pyro()
    standardization = likelihood.standardization(data)
    problem, statistics = linear_posterior(sharing, likelihood, data, standardization)
    own = likelihood.of_tasks(data.task_names, standardization.target_scale)
    rows = StandardRows.of(data, data.task, standardization, own)
    seen = data.observed
    given: dict[str, Any] = {
        "X": torch.from_numpy(rows.X[seen]),
        "y": torch.from_numpy(rows.y[seen]),
        "task": torch.from_numpy(data.task[seen].astype(np.int64)),
    }
    for name in ("weights", "offset", "trials"):
        values = getattr(rows, name)
        if values is not None:
            given["counts" if name == "weights" else name] = torch.from_numpy(
                np.asarray(values)[seen]
            ).double()
    if rows.level is not None:
        given["level"] = torch.from_numpy(np.array(rows.level))
    source = linear_source(problem, own, list(given))
    names: dict[str, Any] = {
        "torch": torch,
        "pyro": pyro,
        "dist": pyro.distributions,
        "sharing": problem.sharing,
        "likelihood": own,
        "num_tasks": problem.tasks.num_tasks,
        "num_features": problem.tasks.num_features,
        "task_names": data.task_names,
        "target_scale": standardization.target_scale,
        "descriptors": problem.descriptors,
    }
    names |= own.pyro_names(len(data.classes))
    scope = dict(names)
    # the text is ours, made of names of this package alone
    exec(compile(source, "<bayesmtl program>", "exec"), scope)

    def fitted(draws: LinearDraws) -> LinearFit:
        return LinearFit(
            sharing=problem.sharing,
            likelihood=likelihood,
            schema=data.schema,
            standardization=standardization,
            statistics=statistics,
            draws=draws,
            method="pyro",
            reason="samples of its Pyro program",
            seed=0,
            data=data,
        )

    return PyroProgram(source, scope["program"], given, names, problem, fitted)


def _pyro() -> Any:
    try:
        return import_module("pyro")
    except ImportError as error:
        raise SpecificationError(
            "model",
            expected="pyro-ppl, which to_pyro needs",
            found="no such package",
            remedy='Install it with pip install "bayesmtl[pyro]".',
        ) from error
