"""Task clustering and gating, without the gate (Bakker and Heskes, 2003): a mixture of task priors.

    W = 1 mu' + A B + E,   A one-hot in K clusters,   b_k ~ N(0, diag(spread^2)),   e_t ~ N(0, Sigma)

Every task's weights come from one of K normal distributions; which one is inferred. The paper learns its
parameters by maximum likelihood (expectation-maximisation), gives every cluster a covariance of its own,
puts a layer of features shared by all tasks in front, and can let descriptors of a task choose its cluster
(the gate). Here weights, cluster means and cluster sizes are integrated out, Sigma is common to the
clusters, features are taken as they are, and there is no gate. What is said of the paper is recalled, not
checked.

Source: Bakker and Heskes (2003). Task clustering and gating for Bayesian multitask learning. JMLR 4.
Run: python models/task_clustering.py [--reduced]
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

SHARING = bm.Clusters(3, within="full")
FULL = bm.Hierarchical(covariance="full")


def main() -> None:
    reduced = reduced_asked(__doc__)
    data = task_data(load("school"), reduced=reduced)
    methods = {
        "task clustering, 3 clusters (this page)": gibbs(SHARING, reduced=reduced),
        "one cluster": empirical_bayes(FULL),
    } | BASELINES
    literature = [SCHOOL_LITERATURE[key] for key in ("clustering", "gp", "mtfl")]
    show(compare(data, methods, reduced=reduced), literature, what="School", reduced=reduced)


if __name__ == "__main__":
    main()
