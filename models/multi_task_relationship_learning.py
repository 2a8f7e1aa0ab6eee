"""Multi-task relationship learning (Zhang and Yeung, 2010): the covariance of the tasks is learned.

    W = 1 mu' + A Z,   A = diag(task_scale) chol(Omega),   Z rows ~ N(0, diag(scale^2)),   Omega ~ LKJ(2)

The paper's W is matrix normal with the tasks' covariance, too, without mu; it minimises over W and Omega in
turn, under tr Omega <= 1 and with given weights of the terms. Here Omega has a prior and a posterior, and the
weights of the terms are scales that are inferred. The paper's toy shows what this is worth: three lines,
y = 3 x + 10, y = -3 x - 5 and y = 1, for which it reports a correlation of -.9985 of the first two (recalled,
not checked). There each task has one weight beside its level, and one pair of numbers cannot show a
correlation: the posterior says so, and becomes sure when tasks have more weights that agree.

On School the paper has all 139 schools; Omega has T (T - 1) / 2 entries, and we take the first dozen.

Source: Zhang and Yeung (2010). A convex formulation for learning task relationships in multi-task learning.
UAI.
Run: python models/multi_task_relationship_learning.py [--reduced]
"""

import numpy as np
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

SHARING = bm.TaskCovariance()
NUM_SCHOOLS = 12
# on all 139 schools, so beside ours only to name the method
LITERATURE = (Quoted("Zhang & Yeung 2010, all schools", "29.9 +- 1.8", "recalled, not checked"),)


def lines(num_features: int, seed: int = 0) -> bm.TaskData:
    """The toy: tasks with slopes 3, -3 and 0, on one feature (as in the paper) or on several."""
    rng = np.random.default_rng(seed)
    slopes = np.ones(num_features) * 3 * rng.choice([-1.0, 1.0], size=num_features)
    X, y, task = [], [], []
    for name, sign, level in (("3x + 10", 1, 10), ("-3x - 5", -1, -5), ("1", 0, 1)):
        X.append(rng.uniform(0, 10, size=(20, num_features)))
        y.append(level + sign * X[-1] @ slopes + 0.5 * rng.normal(size=20))
        task += [name] * 20
    return bm.TaskData.from_arrays(np.concatenate(X), np.concatenate(y), task)


def toy(num_features: int, *, reduced: bool) -> None:
    length = {"num_draws": 10, "num_warmup": 10} if reduced else {}
    fit = bm.LinearModel(SHARING).fit(lines(num_features), method="exact", seed=0, progress=False, **length)
    similarity = fit.task_similarity(kind="structure")
    print(f"\nToy, {num_features} feature(s): {similarity.meaning}, 90 % intervals")
    print(similarity.to_frame().round(2).to_string(index=False))


def main() -> None:
    reduced = reduced_asked(__doc__)
    toy(1, reduced=reduced)
    toy(8, reduced=reduced)
    data = task_data(load("school"), reduced=reduced)
    data = data.select_tasks(data.task_names[: 4 if reduced else NUM_SCHOOLS])
    methods = {"task relationships (this page)": empirical_bayes(SHARING)} | BASELINES
    what = f"School, its first {data.num_tasks} schools"
    show(compare(data, methods, reduced=reduced), LITERATURE, what=what, reduced=reduced)


if __name__ == "__main__":
    main()
