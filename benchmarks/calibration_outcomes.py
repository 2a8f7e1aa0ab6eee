"""Simulation-based calibration with outcomes and counts; see `benchmarks.calibration` for how.

Laplace's method is corrected by importance weights where the rows let it; with so few rows as here its table
shows how far that goes.
"""

from __future__ import annotations

import bayesmtl as bm
from benchmarks.calibration import table_of_runs
from benchmarks.common import Options, main

MIXED = bm.Mixed(
    {
        "task_0": bm.Gaussian(),
        "task_1": bm.Bernoulli(),
        "task_2": bm.NegativeBinomial(),
        "task_3": bm.StudentT(),
    }
)
ROWWISE: dict[str, tuple[bm.LinearModel, str]] = {
    f"{name}, {likelihood!r}, {method}": (bm.LinearModel(sharing, likelihood), method)
    for name, sharing, likelihood, method in (
        *(
            (name, sharing, bm.Bernoulli(), method)
            for name, sharing in {
                "Independent": bm.Independent(),
                "Pooled": bm.Pooled(mean_scale=bm.HalfNormal(1.0)),
                "Hierarchical diagonal": bm.Hierarchical("diagonal"),
                "Hierarchical full": bm.Hierarchical("full"),
                "LowRank(1)": bm.LowRank(1),
                "TaskCovariance": bm.TaskCovariance(),
            }.items()
            for method in ("gibbs", "laplace")
        ),
        ("Hierarchical diagonal", bm.Hierarchical(), bm.Binomial(4), "gibbs"),
        ("Hierarchical diagonal", bm.Hierarchical(), bm.Binomial(4), "laplace"),
        ("Hierarchical diagonal", bm.Hierarchical(), bm.Bernoulli("probit"), "laplace"),
        ("Hierarchical diagonal", bm.Hierarchical(), bm.Poisson(), "laplace"),
        ("Hierarchical diagonal", bm.Hierarchical(), bm.NegativeBinomial(), "gibbs"),
        ("Hierarchical diagonal", bm.Hierarchical(), bm.NegativeBinomial(), "laplace"),
        ("Hierarchical diagonal", bm.Hierarchical(), bm.StudentT(), "gibbs"),
        ("Hierarchical diagonal", bm.Hierarchical(), bm.StudentT(), "laplace"),
    )
} | {
    f"Hierarchical diagonal, a likelihood for each task, {method}": (
        bm.LinearModel(bm.Hierarchical(), MIXED),
        method,
    )
    for method in ("gibbs", "laplace")
}
"""Outcomes and counts, with the engine; laplace corrects its approximation where the rows let it."""


def run(options: Options) -> str:
    """Calibrate every pair of a likelihood for rows and an engine; one row each."""
    return table_of_runs([(name, model, method) for name, (model, method) in ROWWISE.items()], options)


if __name__ == "__main__":
    main("calibration_outcomes", "Simulation-based calibration: outcomes and counts", run)
