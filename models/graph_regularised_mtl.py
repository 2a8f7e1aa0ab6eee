"""Multi-task learning with a known graph (Evgeniou, Micchelli and Pontil, 2005): neighbours are alike.

    W = 1 mu' + A Z,   A = root of Omega,   Omega = (I + coupling L)^-1,   Z rows ~ N(0, diag(scale^2))

L is the Laplacian of a graph whose edges say beforehand which tasks are related. The paper adds the sum over
edges of a_tu |w_t - w_u|^2 to the loss, with a weight that is chosen; here the strength of edges, `coupling`,
is inferred, so that a graph that means nothing is found to mean nothing, and the identity in Omega lets every
task depart from its neighbours.

On School an edge joins two schools of the same gender and denomination, which the data's table says of every
school. Its neighbours' pupils then speak for a school beyond what all schools say together: "hierarchical" is
the same model without the edges. One evaluation costs of the order of (tasks x columns)^3, and we take the
first dozen schools. There the graph says nothing about pupils who are not yet known: with and without edges
the page prints the same 40.6 %, and the strength of an edge stays nearly as uncertain as it was a priori.
(Its mode, at which the predictions are made, lies near the prior's lower end.)

Source: Evgeniou, Micchelli and Pontil (2005). Learning multiple tasks with kernel methods. JMLR 6, 615-637.
Run: python models/graph_regularised_mtl.py [--reduced]
"""

import numpy as np
import pandas as pd
from _common import (
    BASELINES,
    Quoted,
    compare,
    empirical_bayes,
    load,
    reduced_asked,
    show,
    task_data,
)

import bayesmtl as bm

NUM_SCHOOLS = 12
KIND = ["school_gender", "denomination"]
# on all 139 schools, so beside ours only to name the method
LITERATURE = (Quoted("Evgeniou et al. 2005, all schools", "34.8 +- .5", "recalled, not checked"),)


def alike(frame: pd.DataFrame, task: str, names: tuple[str, ...]) -> pd.DataFrame:
    """The graph: 1 between two schools of one kind, 0 between others."""
    kind = (
        frame.drop_duplicates(task).set_index(task).loc[list(names), KIND].astype(str).agg(" ".join, axis=1)
    )
    same = kind.to_numpy()[:, None] == kind.to_numpy()
    return pd.DataFrame(same & ~np.eye(len(kind), dtype=bool), index=names, columns=names).astype(float)


def strength(sharing: bm.TaskGraph, data: bm.TaskData, *, reduced: bool) -> None:
    """Print what all rows say of the strength of edges."""
    number = 10 if reduced else 200
    run = {"method": "exact", "num_warmup": number, "num_draws": number}
    fit = bm.LinearModel(sharing).fit(data, seed=0, progress=False, **run)
    row = fit.summary().loc["coupling"]
    low, high = np.exp(1 + 1.645 * np.array([-1.5, 1.5]))
    print(
        f"strength of an edge: {row['mean']:.2f}, 90 % interval {row['lower']:.2f} to {row['upper']:.2f} "
        f"(a priori {low:.2f} to {high:.1f})"
    )


def main() -> None:
    reduced = reduced_asked(__doc__)
    dataset = load("school")
    data = task_data(dataset, reduced=reduced)
    data = data.select_tasks(data.task_names[: 4 if reduced else NUM_SCHOOLS])
    graph = alike(dataset.frame, dataset.task, data.task_names)
    print(f"{int(graph.to_numpy().sum() / 2)} edges between {data.num_tasks} schools")
    sharing = bm.TaskGraph(graph)
    strength(sharing, data, reduced=reduced)
    methods = {
        "graph of schools of one kind (this page)": empirical_bayes(sharing),
        "hierarchical, no edges": empirical_bayes(bm.Hierarchical()),
    } | BASELINES
    what = f"School, its first {data.num_tasks} schools"
    show(compare(data, methods, reduced=reduced), LITERATURE, what=what, reduced=reduced)


if __name__ == "__main__":
    main()
