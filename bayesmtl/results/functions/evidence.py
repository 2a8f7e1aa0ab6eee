"""The evidence of a model: how likely the data were before any was seen, hyperparameters integrated out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bayesmtl.errors import SpecificationError

if TYPE_CHECKING:
    from bayesmtl.results.functions.fit import GPFit

STATISTICS = ("log_evidence", "log_evidence_error")
"""What the engine recorded, in standardised units."""


class Evidence(NamedTuple):
    """An estimate of log p(data | model).

    Attributes:
        value: The estimate, a natural logarithm, targets in the user's units.
        error: Its standard error.
    """

    value: float
    error: float


def evidence_of(fit: GPFit) -> Evidence:
    """See `GPFit.log_evidence`."""
    if not set(STATISTICS) <= set(fit.sample_stats):
        conditioned = fit.method == "laplace"
        raise SpecificationError(
            "method",
            expected='a fit by "laplace", whose importance weights estimate the evidence',
            found="rows that came in through condition" if conditioned else f'method="{fit.method}"',
            remedy="Ask the fit before it was conditioned, or fit all rows again."
            if conditioned
            else 'Fit with method="laplace".',
        )
    value, error = (float(fit.sample_stats[name].flat[0]) for name in STATISTICS)
    scale = fit.standardization.target_scale[fit.data.task[fit.data.observed]]
    return Evidence(value - float(np.log(scale).sum()), error)


def without_evidence(sample_stats: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Statistics of a fit whose rows are no longer those that the evidence is of."""
    return {name: values for name, values in sample_stats.items() if name not in STATISTICS}
