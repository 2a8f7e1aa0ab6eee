"""Soft sharing in the last layer: heads of one trunk around a population, or near a few shared directions.

    f_t(x) = [1, x, phi(x)]' w_t,   W = 1 mu' + E   or   W = A Z + E with few rows of Z

Soft sharing lets every task have weights of its own that are drawn together: by a squared distance (Duong et
al., 2015), which is a normal population of heads, or by the trace norm (Yang and Hospedales, 2017), for which
a low rank stands. Here the distances are learned, feature by feature, and heads integrate out. Only the last
layer is shared softly; copies of earlier layers for each task are not part of this page. Beside it hard
sharing (heads that know nothing of each other), and linear models without a trunk.

Data: seven torques of a robot arm (sarcos) from 100 and 500 states, every torque standardised; mean squared
error at 1,000 other states, over the variance of each torque, in per cent.

In full (the command below, three minutes), two splits: from 100 states heads around a population err by
13.3 %, heads of rank 2 by 14.2 and hard sharing by 13.8; from 500 states 6.6, 6.7 and 6.3. Linear models
err by 14.3 and 12.1 task by task, 14.4 and 12.1 around a population, 123.8 and 106.6 pooled. So torques,
whose functions differ in sign and size, gain nothing sure from heads that are drawn together; the trunk is
what they share.

Source: Duong, Cohn, Bird and Cook (2015). Low resource dependency parsing: cross-lingual parameter sharing in
a neural network parser. ACL. Yang and Hospedales (2017). Trace norm regularised deep multi-task learning.
ICLR workshop (both recalled, not checked). Their data are others.
Run: python models/soft_sharing.py [--reduced]
"""

from _common import reduced_asked, show_scores
from _sarcos import Learn, linear, measure, network

import bayesmtl as bm


def main() -> None:
    reduced = reduced_asked(__doc__)
    methods: dict[str, Learn] = {
        "heads around a population (this page)": network(bm.Hierarchical(), reduced=reduced),
        "heads of rank 2 (this page)": network(bm.LowRank(2), reduced=reduced),
        "hard sharing": network(bm.Independent(), reduced=reduced),
        "linear, single-task": linear(bm.Independent()),
        "linear, hierarchical": linear(bm.Hierarchical()),
        "linear, pooled": linear(bm.Pooled()),
    }
    for num_states in (20,) if reduced else (100, 500):
        scores = measure(methods, num_states, reduced=reduced)
        heading = f"{num_states} states, error in % of the variance, mean and sd over {len(scores)} split(s)"
        show_scores(heading, scores, decimals=1, reduced=reduced)


if __name__ == "__main__":
    main()
