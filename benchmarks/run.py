"""Run all benchmarks, one after the other, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

NAMES = (
    "first_try",
    "empirical_bayes",
    "rows",
    "engines",
    "scale",
    "chem97",
    "new_tasks",
    "grids",
    "dense",
    "sparse",
    "jura",
    "school_prediction",
    "school_posterior",
    "contraception",
    "landmine",
    "landmine_posterior",
    "partitions",
    "partition_calibration",
    "partition_variational",
    "landmine_clusters",
    "landmine_known_groups",
    "calibration",
    "calibration_outcomes",
    "functions_calibration",
    "deep_digits",
    "deep_school",
)
"""Quick ones first; calibrations take hours with their usual number of simulations."""


def main() -> int:
    """Pass the arguments on to every benchmark; the number of those that failed."""
    failed = []
    for name in NAMES:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]]).returncode:
            failed.append(name)
    if failed:
        print(f"Not completed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
