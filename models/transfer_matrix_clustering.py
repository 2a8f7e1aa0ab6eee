"""Discovering structure in multiple tasks, the TC algorithm (Thrun and O'Sullivan, 1996): who predicts whom.

    W = 1 mu' + A B + E,   A one-hot in K clusters,   e_t ~ N(0, diag(scale^2)),   one scale per feature

The paper measures how well each task is solved with what was learned for every other task (the transfer
matrix), groups the tasks so that this is highest within groups, and learns one distance metric, a weight for
every feature, per group. Here the entry (t, u) of the transfer matrix is a predictive density: the mean log
density of the test rows of task t under the posterior of task u, learned from u's rows alone. It is shown
beside the posterior over partitions, for which no such matrix is needed. Each cluster has a weight of its own
for every feature (its mean in B), but the scales within clusters, which are the nearest to the paper's
metric, are common to all clusters; `Clusters(3, scales="cluster")` gives each its own. Predictors are linear,
not nearest neighbours. What is said of the paper is recalled, not checked.

Ten splits of School (the command below, 175 processor seconds): explained variance 37.9 % (sd .6); a random
intercept 37.3, pooled 33.9, single-task 33.4. Of 40 schools another one's rows predict better than a school's
own in 21 % of the pairs; all schools are in one cluster with probability 1, so that the transfer matrix,
whose gain correlates with co-clustering by .24, orders pairs that the posterior hardly tells apart.

Source: Thrun and O'Sullivan (1996). Discovering structure in multiple learning tasks: the TC algorithm. ICML.
Run: python models/transfer_matrix_clustering.py [--reduced]
"""

import numpy as np
from _common import (
    BASELINES,
    DRAWS_PER_CHAIN,
    SCHOOL_LITERATURE,
    compare,
    gibbs,
    load,
    reduced_asked,
    show,
    task_data,
)
from scipy.special import logsumexp

import bayesmtl as bm

SHARING = bm.Clusters(3)
NUM_TASKS = 40  # of the transfer matrix; the scores below are of all tasks


def transfer_matrix(train: bm.TaskData, test: bm.TaskData) -> np.ndarray:
    """Mean log predictive density of the test rows of task t (row) under what task u (column) learned.

    Tasks are learned apart, with common scales and noise at their posterior mode. The density of a row
    averages over the posterior of the weights.

    Returns:
        Shape (T, T), in nats per row on the target's scale; the diagonal is single-task learning.
    """
    model = bm.LinearModel(bm.Independent(), bm.Gaussian())
    fit = model.fit(train, method="empirical_bayes", seed=0, num_draws=DRAWS_PER_CHAIN, progress=False)
    T, D = train.num_tasks, train.num_features
    weights = fit.posterior["weights"].to_numpy().reshape(-1, T, D)
    sd = fit.posterior["noise"].to_numpy().reshape(-1, 1)
    num_rows = np.bincount(test.task, minlength=T)
    matrix = np.empty((T, T))
    for u in range(T):
        z = (test.y - weights[:, u] @ test.X.T) / sd
        log_density = logsumexp(-0.5 * z**2 - np.log(sd), axis=0) - np.log(len(sd) * np.sqrt(2 * np.pi))
        matrix[:, u] = np.bincount(test.task, log_density, T) / num_rows
    return matrix


def show_transfer(data: bm.TaskData, *, reduced: bool) -> None:
    """Print how the transfer matrix goes with the posterior over partitions of the same training rows."""
    train, test = data.select_tasks(data.task_names[:NUM_TASKS]).split(test=0.25, seed=0)
    matrix = transfer_matrix(train, test)
    number = 10 if reduced else 80
    fit = bm.LinearModel(SHARING, bm.Gaussian()).fit(
        train, method="gibbs", seed=0, num_chains=2, num_warmup=number, num_draws=number, progress=False
    )
    together = fit.partition().co_clustering.to_numpy()
    others = ~np.eye(len(matrix), dtype=bool)
    gain = matrix - np.diag(matrix)[:, None]
    print(f"\nTransfer matrix of {len(matrix)} schools, nats per test row")
    print(f"  what a school learned itself                 {np.diag(matrix).mean():7.3f}")
    print(f"  what another school learned, mean            {matrix[others].mean():7.3f}")
    print(f"  another predicts better than a school itself {(gain[others] > 0).mean():7.0%}")
    print(f"  P(same cluster), mean over pairs             {together[others].mean():7.2f}")
    if np.ptp(together[others]) > 0:
        correlation = np.corrcoef(gain[others], together[others])[0, 1]
        print(f"  its correlation with the gain from another   {correlation:7.2f}")


def main() -> None:
    reduced = reduced_asked(__doc__)
    data = task_data(load("school"), reduced=reduced)
    show_transfer(data, reduced=reduced)
    methods = {"clusters, scale per feature (this page)": gibbs(SHARING, reduced=reduced)} | BASELINES
    literature = [SCHOOL_LITERATURE[key] for key in ("clustering", "mtfl")]
    show(compare(data, methods, reduced=reduced), literature, what="School", reduced=reduced)


if __name__ == "__main__":
    main()
