"""Pooling, the second baseline: one regression for all tasks.

    W = A Z,   A = ones,   z ~ N(0, I),   y | f(x) ~ N(x' z, sigma^2)

No E: all tasks have the same weights, so what a task has of its own is noise. It is hard to beat when tasks
differ little or have few rows. We know of no published pooled number on School; the strongest coupling of
regularised multi-task learning comes closest.

Hyperparameters are at their posterior mode (`method="empirical_bayes"`) for speed.

Source: Bayesian linear regression; School protocol of Bakker and Heskes (2003).
Run: python models/pooled.py [--reduced]
"""

from _common import (
    BASELINES,
    SCHOOL_LITERATURE,
    compare,
    empirical_bayes,
    load,
    reduced_asked,
    show,
    task_data,
)

import bayesmtl as bm

SHARING = bm.Pooled()


def main() -> None:
    reduced = reduced_asked(__doc__)
    data = task_data(load("school"), reduced=reduced)
    methods = {
        "pooled (this page)": empirical_bayes(SHARING),
        "single-task": BASELINES["single-task"],
        "random intercept": BASELINES["random intercept"],
    }
    show(compare(data, methods, reduced=reduced), [SCHOOL_LITERATURE["rmtl"]], what="School", reduced=reduced)


if __name__ == "__main__":
    main()
