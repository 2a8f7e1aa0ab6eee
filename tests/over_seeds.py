"""Run the statistical tests with many seeds, and say which fail more often than they state.

    python tests/over_seeds.py --seeds 20 -- -n 2 tests/statistical/test_svi.py

What comes after `--` goes to pytest. A test that fails k times of n, where k or more have a probability below
1e-3 at the rate that it states, is not sound. Exit status 1 if there is one.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from scipy import stats

# Of 100 sound tests, one in ten runs of all would come here.
UNLIKELY = 1e-3


def outcomes(report: Path) -> dict[str, tuple[bool, float]]:
    """Of each test: whether it failed, and how often it states to fail."""
    found = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        if case.find("skipped") is None:
            stated = case.find("properties/property[@name='false_alarm']")
            failed = case.find("failure") is not None or case.find("error") is not None
            rate = float(stated.attrib["value"]) if stated is not None else 0.0
            found[f"{case.attrib['classname']}::{case.attrib['name']}"] = (failed, rate)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="how many, from 1 on")
    parser.add_argument("pytest", nargs="*", help="what pytest is given; by default all statistical tests")
    options = parser.parse_args()
    runs, failures, stated = Counter[str](), Counter[str](), {}
    for seed in range(1, options.seeds + 1):
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            command = [sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=line", "-m", "statistical"]
            subprocess.run(
                [*command, f"--junitxml={report}", *options.pytest],
                env=os.environ | {"BAYESMTL_TEST_SEED": str(seed)},
                stdout=subprocess.DEVNULL,
                check=False,
            )
            if not report.exists():
                print(f"seed {seed}: pytest wrote no report", file=sys.stderr)
                return 2
            results = outcomes(report)
        failed = sorted(name for name, (bad, _) in results.items() if bad)
        print(f"seed {seed}: {len(failed)} of {len(results)} failed", *failed, sep="\n  ", flush=True)
        runs.update(results.keys())
        failures.update(failed)
        stated |= {name: rate for name, (_, rate) in results.items()}
    unsound = 0
    for name, number in failures.most_common():
        bad = stats.binom.sf(number - 1, runs[name], stated[name]) < UNLIKELY
        unsound += bad
        print(f"{number} of {runs[name]}, states {stated[name]:g}{' NOT SOUND' if bad else ''}: {name}")
    print(f"{len(runs)} tests, {options.seeds} seeds, {unsound} not sound")
    return int(unsound > 0)


if __name__ == "__main__":
    sys.exit(main())
