"""`condition` for outcomes and counts equals a refit, up to the number of draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import bayesmtl as bm
from bayesmtl.errors import DataError
from tests.equivalence.test_condition import balanced, split
from tests.seeds import seeded

RUN = {"method": "laplace", "num_chains": 4, "num_draws": 1000, "progress": False}


def counts(seed: int = 0) -> bm.TaskData:
    """Poisson counts of five tasks; features as in `balanced`, so that later rows leave the units alone."""
    data = balanced([2, 1, 2, 1, 1])
    rate = np.exp(0.3 + 0.4 * data.y)
    return replace(data, y=np.random.default_rng(seed).poisson(rate).astype(float))


@pytest.mark.parametrize(
    "likelihood", [bm.Poisson(), bm.NegativeBinomial(bm.Fixed(0.5)), bm.Bernoulli()], ids=repr
)
def test_known_hyperparameters_agree_with_a_refit(likelihood):
    """A new task, and more rows of a known one. 8,000 draws, which resampling leaves as copies of fewer that
    are worth at least 150 independent ones (asserted; how many differ says less), beside 4,000 of a refit:
    means at 5 standard errors, 18 of them: fails by chance once in 100,000."""
    data = counts()
    if isinstance(likelihood, bm.Bernoulli):
        data = replace(data, y=np.minimum(data.y, 1.0))
    first, later = split(data)
    model = bm.LinearModel(bm.Hierarchical(scale=bm.Fixed(0.7), mean_scale=bm.Fixed(0.8)), likelihood)
    updated = model.fit(first, seed=seeded(0), **(RUN | {"num_draws": 2000})).condition(later)
    refit = model.fit(data, seed=seeded(1), **RUN)
    assert updated.task_names == (*first.task_names, "task_4") and updated.added_tasks == ("task_4",)
    copies = np.unique(updated.draws.basis.flatten(0, 1)[:, 0, 0].numpy(), return_counts=True)[1]
    effective = copies.sum() ** 2 / (copies**2).sum()
    assert effective > 150
    for name in ("population", "weights"):
        ours, theirs = updated.posterior[name], refit.posterior[name]
        if name == "weights":
            ours = ours.sel(task=list(data.task_names))
        ours, theirs = (
            array.to_numpy().reshape(-1, 15 if name == "weights" else 3) for array in (ours, theirs)
        )
        error = theirs.std(0) * np.sqrt(1 / effective + 1 / 3000)
        assert np.all(np.abs(ours.mean(0) - theirs.mean(0)) < 5 * error), name
        assert np.all(np.abs(ours.std(0) / theirs.std(0) - 1) < 5 / np.sqrt(effective)), name
    # all rows are there: for the next update, and for what comes from them
    assert updated.data.num_rows == data.num_rows == updated.problem.rows.real.sum()
    assert updated.to_datatree()["log_likelihood"]["y"].sizes["obs"] == data.num_rows


# so few draws may be told to be too few
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_known_rows_leave_the_others_alone():
    """Draws that survive keep the weights of all tasks without new rows."""
    first, later = split(counts())
    model = bm.LinearModel(bm.Hierarchical(scale=bm.Fixed(0.7)), bm.Poisson())
    fit = model.fit(first, seed=seeded(0), **(RUN | {"num_draws": 100}))
    updated = fit.condition(later.select_tasks(["task_0"]))
    before = {tuple(w) for w in fit.draws.weights.flatten(0, 1)[:, 1:].flatten(1).tolist()}
    after = {tuple(w) for w in updated.draws.weights.flatten(0, 1)[:, 1:].flatten(1).tolist()}
    assert after <= before
    moved = updated.draws.weights.flatten(0, 1)[:, 0, 0].unique()
    assert len(moved) > len(after)  # draws that came twice parted again


# so few draws may be told to be too few
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_bad_targets_are_refused_again():
    first, later = split(counts())
    fit = bm.LinearModel(likelihood=bm.Poisson()).fit(first, seed=seeded(0), **(RUN | {"num_draws": 25}))
    with pytest.raises(DataError, match=r"`y`: expected whole numbers.*'0.5'"):
        fit.condition(replace(later, y=np.full(later.num_rows, 0.5)))


def test_what_rows_carry_goes_on():
    first, later = split(counts())
    carried = [
        replace(part, offset=np.full(part.num_rows, shift), row_columns={"offset": "o"})
        for part, shift in ((first, 0.1), (later, 0.2))
    ]
    fit = bm.LinearModel(likelihood=bm.Poisson()).fit(carried[0], seed=seeded(0), **(RUN | {"num_draws": 25}))
    whole = fit.condition(carried[1]).data
    assert whole.offset.tolist() == [0.1] * first.num_rows + [0.2] * later.num_rows
    assert whole.task_names == (*first.task_names, "task_4") and whole.row_columns == {"offset": "o"}
