"""A model as a plain Pyro program: its text, its data, and the way back to a fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from bayesmtl.errors import SpecificationError, listing
from bayesmtl.parameters import ParameterSpace, Values
from bayesmtl.results.base import Fit

Finish = Callable[[dict[str, torch.Tensor], Mapping[str, torch.Tensor], tuple[int, int]], Fit]
"""From hyperparameters and all sites, (C N, ...) each, and C and N to a fit."""


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
        space: The hyperparameters.
        finish: From samples to a fit.
    """

    source: str
    function: Callable[..., Any]
    data: Mapping[str, Any]
    names: Mapping[str, Any]
    space: ParameterSpace
    finish: Finish

    def __call__(self) -> Any:
        """Run the program on its data; returns W, or the functions' values."""
        return self.function(**self.data)

    def __repr__(self) -> str:
        return self.source

    def to_fit(self, samples: Mapping[str, torch.Tensor]) -> Fit:
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
            p.name: flat[p.name] if p.name in flat else p.constrain(nothing) for p in self.space.parameters
        }
        clusters = [name for name in shapes if name.startswith("cluster_")]
        if clusters:
            values["cluster"] = torch.stack([flat[name] for name in clusters], dim=1).long()
        return self.finish(values, flat, (int(C), int(N)))

    def _sites(self) -> dict[str, torch.Size]:
        """Shapes of the sample sites that are not observed."""
        pyro = import_pyro()
        with torch.random.fork_rng():
            trace = pyro.poutine.trace(self).get_trace()
        sites = {name: trace.nodes[name] for name in trace.stochastic_nodes}
        plates = pyro.util.site_is_subsample
        return {name: site["value"].shape for name, site in sites.items() if not plates(site)}


def compiled(
    source: str, names: Mapping[str, Any], data: Mapping[str, Any], space: ParameterSpace, finish: Finish
) -> PyroProgram:
    """The program of a text that defines a function `program`.

    Args:
        source: The text.
        names: What it refers to.
        data: Arguments of the function.
        space: The hyperparameters.
        finish: From samples to a fit.
    """
    pyro = import_pyro()
    scope = {"torch": torch, "pyro": pyro, "dist": pyro.distributions, **names}
    known = dict(scope)
    # the text is ours, made of names of this package alone
    exec(compile(source, "<bayesmtl program>", "exec"), scope)
    return PyroProgram(source, scope["program"], data, known, space, finish)


def import_pyro() -> Any:
    """Pyro, which is imported when it is used.

    Raises:
        SpecificationError: If it is not installed.
    """
    try:
        return import_module("pyro")
    except ImportError as error:
        raise SpecificationError(
            "model",
            expected="pyro-ppl, which to_pyro needs",
            found="no such package",
            remedy='Install it with pip install "bayesmtl[pyro]".',
        ) from error


def shaped(values: Values, shape: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Values (C N, ...) as those of C chains of N draws."""
    return {name: value.reshape(*shape, *value.shape[1:]) for name, value in values.items()}
