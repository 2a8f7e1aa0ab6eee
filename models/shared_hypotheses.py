"""Learning multiple tasks using shared hypotheses (Crammer and Mansour, 2012): K models for T tasks.

    W = 1 mu' + A B,   A one-hot in K clusters,   E = none

Every task uses one of K hypotheses exactly as it is, so that tasks with little data borrow whole models.
The paper alternates between assigning tasks to hypotheses and fitting each on the rows of its tasks, and
bounds the error by K and the number of tasks; here the assignment has a posterior, and predictions average
over it. What is said of the paper is recalled, not checked.

Ten splits of School (the command below, 132 processor seconds): explained variance 37.3 % (sd .7); every task
its own weights around one mean 37.9, a random intercept 37.3, pooled 33.9, single-task 33.4. Three hypotheses
used exactly as they are lose little against weights of every school's own, and gain nothing.

Source: Crammer and Mansour (2012). Learning multiple tasks using shared hypotheses. NeurIPS 25.
Run: python models/shared_hypotheses.py [--reduced]
"""

from _common import (
    BASELINES,
    SCHOOL_LITERATURE,
    compare,
    empirical_bayes,
    gibbs,
    load,
    reduced_asked,
    show,
    task_data,
)

import bayesmtl as bm

SHARING = bm.Clusters(3, within="none")
SINGLE = bm.Hierarchical(covariance="diagonal")


def main() -> None:
    reduced = reduced_asked(__doc__)
    data = task_data(load("school"), reduced=reduced)
    methods = {
        "shared hypotheses, 3 of them (this page)": gibbs(SHARING, reduced=reduced),
        "every task its own, around one mean": empirical_bayes(SINGLE),
    } | BASELINES
    literature = [SCHOOL_LITERATURE[key] for key in ("clustering", "mtfl")]
    show(compare(data, methods, reduced=reduced), literature, what="School", reduced=reduced)


if __name__ == "__main__":
    main()
