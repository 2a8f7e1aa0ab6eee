"""Single-task learning, the first baseline: every task is a regression of its own.

    W = E,   e_t ~ N(0, scale_t^2 I),   y | f_t(x) ~ N(x' w_t, sigma^2)

No A and no Z: nothing is shared but the noise level. Each task's scale is inferred from its own rows, which
is ridge regression per task with the penalty learned from the data. Published single-task numbers on School
are lower; a multi-task gain should be measured against a single-task fit at least as good as this one.

Hyperparameters are at their posterior mode (`method="empirical_bayes"`) for speed.

Source: the ridge estimator of Hoerl and Kennard (1970); School protocol of Bakker and Heskes (2003).
Run: python models/single_task.py [--reduced]
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

SHARING = bm.Independent()


def main() -> None:
    reduced = reduced_asked(__doc__)
    data = task_data(load("school"), reduced=reduced)
    methods = {
        "single-task (this page)": empirical_bayes(SHARING),
        "pooled": BASELINES["pooled"],
        "random intercept": BASELINES["random intercept"],
    }
    literature = [SCHOOL_LITERATURE["rmtl_alone"], SCHOOL_LITERATURE["gp_alone"]]
    show(compare(data, methods, reduced=reduced), literature, what="School", reduced=reduced)


if __name__ == "__main__":
    main()
