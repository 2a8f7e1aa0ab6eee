"""Regularised multi-task learning (Evgeniou and Pontil, 2004): every task near a common one.

    W = 1 mu' + E,   A = ones,   Z = mu' ~ N(0, I),   e_t ~ N(0, scale^2 I)

The paper writes w_t = w_0 + v_t and penalises ||w_0||^2 and the ||v_t||^2, with support vector regression
and a coupling chosen by hand; the penalties are Gaussian priors, and their ratio is that of two scales. Here
the likelihood is Gaussian, and one scale for all features of E is learned from the data.

Hyperparameters are at their posterior mode (`method="empirical_bayes"`) for speed.

Source: Evgeniou and Pontil (2004). Regularized multi-task learning. KDD.
Run: python models/regularised_mtl.py [--reduced]
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

SHARING = bm.Hierarchical(covariance="isotropic")


def main() -> None:
    reduced = reduced_asked(__doc__)
    data = task_data(load("school"), reduced=reduced)
    methods = {"regularised multi-task (this page)": empirical_bayes(SHARING)} | BASELINES
    literature = [SCHOOL_LITERATURE[key] for key in ("rmtl", "rmtl_alone", "mtfl")]
    show(compare(data, methods, reduced=reduced), literature, what="School", reduced=reduced)


if __name__ == "__main__":
    main()
