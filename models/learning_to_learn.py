"""Empirical Bayes for learning to learn (Heskes, 2000): the prior of a task is learned from the others.

    W = 1 mu' + E,   A = ones,   Z = mu' ~ N(0, I),   e_t ~ N(0, Sigma)

Sigma, diagonal or full, and the noise are set to their most probable values, then every task has its exact
posterior under that prior: `method="empirical_bayes"`, which is the method itself here and no shortcut. The
paper also learns features shared by all tasks (a linear map in front of w_t) and predicts newspaper sales; we
take the features as they are. No number of that paper is at hand; its successor by the same group reports
School with a mixture of such priors.

Source: Heskes (2000). Empirical Bayes for learning to learn. ICML; Bakker and Heskes (2003). Task clustering
and gating for Bayesian multitask learning. JMLR 4.
Run: python models/learning_to_learn.py [--reduced]
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

DIAGONAL = bm.Hierarchical(covariance="diagonal")
FULL = bm.Hierarchical(covariance="full")


def main() -> None:
    reduced = reduced_asked(__doc__)
    data = task_data(load("school"), reduced=reduced)
    methods = {
        "learning to learn, diagonal (this page)": empirical_bayes(DIAGONAL),
        "learning to learn, full (this page)": empirical_bayes(FULL),
    } | BASELINES
    literature = [SCHOOL_LITERATURE[key] for key in ("clustering", "gp", "mtfl")]
    show(compare(data, methods, reduced=reduced), literature, what="School", reduced=reduced)


if __name__ == "__main__":
    main()
