"""The evidence of a model: how likely the data were before any was seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bayesmtl.data import Standardization, TaskData, TaskSummaries
from bayesmtl.errors import SpecificationError

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


def evidence_of(
    method: str,
    sample_stats: Mapping[str, np.ndarray],
    standardization: Standardization,
    data: TaskData | TaskSummaries,
) -> Evidence:
    """See `Fit.log_evidence`."""
    if not set(STATISTICS) <= set(sample_stats):
        weighted = "pareto_k" in sample_stats
        raise SpecificationError(
            "method",
            expected='a fit by "laplace", whose importance weights estimate the evidence',
            found="rows that came in through condition" if weighted else f'method="{method}"',
            remedy="Ask the fit before it was conditioned, or fit all rows again."
            if weighted
            else 'Fit with method="laplace".',
        )
    value, error = (float(sample_stats[name].flat[0]) for name in STATISTICS)
    return Evidence(
        value - float((data.observed_per_task * np.log(standardization.target_scale)).sum()), error
    )


def without_evidence(sample_stats: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Statistics of a fit whose rows are no longer those that the evidence is of."""
    return {name: values for name, values in sample_stats.items() if name not in STATISTICS}
