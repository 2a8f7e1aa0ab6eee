"""Samplers of partitions: against enumeration, against the prior, and on simulated clusters.

False-alarm budget: 1e-4 for this file, which has about 20 comparisons of probabilities at 5 standard errors
(6e-7 each, for up to 52 partitions: 3e-5) and about 20 tests of uniformity at 1e-6, and 2 of calibration
(3e-5 together); seeds are fixed. What the tests detect is shown by samplers that are broken on purpose.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.metrics import adjusted_rand_score

import bayesmtl as bm
from bayesmtl.inference.partitions import moves as partition_moves
from bayesmtl.inference.partitions import scales as partition_scales
from bayesmtl.inference.partitions.moves import Evidence, gibbs_sweep, split_merge
from bayesmtl.inference.partitions.prior_weights import Weights, canonical
from bayesmtl.posteriors.linear import posterior as problem_module
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.sharing.partitions.base import num_clusters
from benchmarks import partition_calibration
from benchmarks.partition_calibration import advanced, exact, pairs, ranks, sampled, shown, simulate
from benchmarks.partitions import clustered_data
from tests.equivalence.partitions import all_partitions
from tests.seeds import seeded

pytestmark = [pytest.mark.statistical]

PRIORS = {
    "Dirichlet process": bm.DirichletProcess(),
    "Pitman-Yor": bm.PitmanYor(discount=0.4),
    "two clusters": bm.Clusters(2),
}


@pytest.mark.parametrize("concentration", [0.1, 1.0, 10.0, 100.0])
def test_prior_of_the_dirichlet_process(concentration):
    """P(two together) = 1 / (1 + alpha), and the books' mean and variance of the number of clusters."""
    S, T = 20_000, 12
    values = {"concentration": torch.full((S,), concentration, dtype=torch.float64)}
    drawn = bm.DirichletProcess().sample_partition(values, T, np.random.default_rng(seeded(0)))
    open_ = concentration / (concentration + np.arange(T))
    number = num_clusters(drawn).double()
    variance = float((open_ * (1 - open_)).sum())
    assert abs(number.mean() - open_.sum()) < 5 * np.sqrt(variance / S)
    assert abs(number.var() / variance - 1) < 0.1
    expected = 1 / (1 + concentration)
    for first, second in ((0, 1), (3, 11)):
        together = (drawn[:, first] == drawn[:, second]).double().mean()
        assert abs(together - expected) < 5 * np.sqrt(expected * (1 - expected) / S)


def moves(kind: str):
    """A transition that leaves the posterior of the partition unchanged, if it is right."""

    def gibbs(membership, data, weights, generator):
        return gibbs_sweep(membership, data, weights, generator)

    def jumps(membership, data, weights, generator):
        for _ in range(3):
            membership, _ = split_merge(membership, data, weights, generator)
        return membership

    def near_jumps(membership, data, weights, generator):
        T = membership.shape[1]
        near = (np.arange(T)[:, None] + np.array([1, 2])) % T  # whatever, as long as it stays the same
        for _ in range(3):
            membership, _ = split_merge(membership, data, weights, generator, near)
        return membership

    return {"Gibbs": gibbs, "split-merge": jumps, "split-merge of neighbours": near_jumps}[kind]


def toy_evidence(num_tasks: int, num_chains: int, seed: int) -> Evidence:
    """Data about b_t with which several partitions are plausible; the same in every chain."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(num_tasks, 2, 3))
    linear = np.repeat(1.5 * rng.normal(size=(2, 2)), [2, num_tasks - 2], axis=0) + rng.normal(
        size=(num_tasks, 2)
    )
    precision = torch.from_numpy(root @ np.swapaxes(root, 1, 2))
    chains = (num_chains, *([-1] * 3))
    return Evidence.of(precision.expand(*chains), torch.from_numpy(linear).expand(*chains[:-1]))


def disagreement(kind: str, prior: str, *, num_chains: int = 2000, num_tasks: int = 4) -> float:
    """Largest standardised difference between frequencies and exact probabilities, over partitions.

    All chains start with all tasks together; the last state of each is used, so that draws are independent.
    """
    data = toy_evidence(num_tasks, num_chains, seed=1)
    partitions = all_partitions(num_tasks)
    values = {"concentration": torch.ones(len(partitions), dtype=torch.float64)}
    exact = PRIORS[prior].log_partition(partitions, values)
    one = Evidence(np.repeat(data.terms[:1], len(partitions), axis=0))
    exact = torch.softmax(exact + torch.from_numpy(one.log_density(partitions.numpy())), 0).numpy()
    weights = Weights(
        PRIORS[prior], {"concentration": torch.ones(num_chains, dtype=torch.float64)}, num_tasks
    )
    generator = torch.Generator().manual_seed(seeded(3))
    membership = np.zeros((num_chains, num_tasks), dtype=int)
    for _ in range(12):
        membership = moves(kind)(membership, data, weights, generator)
    found = (membership[:, None] == partitions.numpy()).all(2).mean(0)
    usable = exact > 5 / num_chains
    assert usable.sum() >= 5 and found[exact == 0].sum() == 0
    error = np.sqrt(exact * (1 - exact) / num_chains)
    return float(np.max(np.abs(found - exact)[usable] / error[usable]))


@pytest.mark.parametrize("kind", ["Gibbs", "split-merge", "split-merge of neighbours"])
@pytest.mark.parametrize("prior", PRIORS)
def test_moves_agree_with_enumeration(prior, kind):
    assert disagreement(kind, prior, num_tasks=5 if prior == "Dirichlet process" else 4) < 5


def test_enumeration_notices_a_wrong_acceptance(monkeypatch):
    """Split-merge that forgets the probability of its proposal."""
    allocate = partition_moves._allocate

    def forgetful(*arguments):
        side, log_split, worth = allocate(*arguments)
        return side, 0 * log_split, worth

    monkeypatch.setattr(partition_moves, "_allocate", forgetful)
    assert disagreement("split-merge", "Dirichlet process") > 5


def test_enumeration_notices_a_wrong_prior(monkeypatch):
    """A Gibbs move that counts the task itself among the others."""
    slots = Weights.slots
    monkeypatch.setattr(Weights, "slots", lambda self, size, task: slots(self, size + (size > 0), task))
    assert disagreement("Gibbs", "Dirichlet process") > 5


def test_evidence_is_the_collapsed_density():
    """Differences over partitions of what the moves use are those of a dense Gaussian density."""
    data, partitions = toy_evidence(4, 15, seed=2), all_partitions(4)
    Q, q = data.terms[0, :, :-1, :-1], data.terms[0, :, :-1, -1]
    for membership, found in zip(partitions.numpy(), data.log_density(partitions.numpy()), strict=True):
        A = np.eye(4)[membership][:, : membership.max() + 1]
        b = (A.T @ q).ravel()
        P = sum(np.kron(np.outer(row, row), Q_t) for row, Q_t in zip(A, Q, strict=True))
        Lambda = np.eye(len(b)) + P
        expected = 0.5 * b @ np.linalg.solve(Lambda, b) - 0.5 * np.linalg.slogdet(Lambda)[1]
        assert found == pytest.approx(expected, abs=1e-9)


# --- the whole sampler, hyperparameters included: it must leave the joint distribution unchanged ---

GEWEKE = {
    "Dirichlet process, diagonal": bm.LinearModel(bm.DirichletProcess(bm.Gamma(2.0, 2.0))),
    "three clusters, full": bm.LinearModel(bm.Clusters(3, bm.Gamma(2.0, 2.0), within="full")),
    "two clusters, spread not normal": bm.LinearModel(
        bm.Clusters(2, bm.Gamma(2.0, 2.0), spread=bm.Gamma(3.0, 4.0))
    ),
    "Pitman-Yor, none, noise task": bm.LinearModel(bm.PitmanYor(within="none"), bm.Gaussian("task")),
}


def design(num_tasks: int = 5, rows: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seeded(0))
    task = np.repeat(np.arange(num_tasks), rows)
    return np.stack([np.ones(len(task)), rng.normal(size=len(task))], axis=1), task


def coordinates(problem: LinearPosterior, values: dict[str, torch.Tensor]) -> torch.Tensor:
    """The unconstrained point of values; signs of scales are drawn nowhere, so they are positive."""
    parts = []
    for parameter in problem.space.parameters:
        value = values[parameter.name]
        if parameter.size == 0:
            continue
        if parameter.space == "correlation":
            parts.append(torch.atanh(value[:, 1, :1]))  # D = 2: one partial correlation
        else:
            parts.append((value.log() if parameter.space == "log" else value).reshape(1, -1))
    return torch.cat(parts, dim=1)


def geweke(model: bm.LinearModel, num_sets: int, seed: int, *, steps: int = 3) -> dict[str, float]:
    """p-values of the hypothesis that a few transitions change no mean.

    Hyperparameters, partition and data are simulated together, so that the state is a draw from the posterior
    and has to stay one. States before and after, of data sets that are independent, make a paired t-test
    (Geweke, 2004; with independent starts, Gandy and Scott, 2020).
    """
    simulated = simulate(model, num_sets, 5, 3, seed)
    problem, cluster = simulated.problem, simulated.values["cluster"]
    points, state = advanced(simulated, seed, steps)
    moved = state.further["membership"]
    before = shown(problem.space, points, cluster, problem.given(cluster))
    after = shown(problem.space, state.points, moved, problem.given(moved))
    positive = {"concentration", "cluster_scale", "residual_scale", "noise"}
    return {
        name: float(
            stats.ttest_rel(*((np.log(x) if name in positive else x) for x in (b, after[name]))).pvalue
        )
        for name, b in before.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", GEWEKE)
def test_the_sampler_leaves_the_joint_distribution_unchanged(name):
    p_values = geweke(GEWEKE[name], num_sets=600, seed=seeded(11))
    assert min(p_values.values()) > 1e-6, p_values


@pytest.mark.slow
def test_a_wrong_density_of_the_hyperparameters_is_noticed(monkeypatch):
    """One that forgets a part of the normalising constant of what tasks have within their cluster."""
    right = problem_module.log_marginal_clusters

    def wrong(tasks, structure, noise):
        return right(tasks, structure, noise) + structure.residual_scale[:, 0].abs().log().sum(-1)

    monkeypatch.setattr(problem_module, "log_marginal_clusters", wrong)
    p_values = geweke(GEWEKE["two clusters, spread not normal"], num_sets=600, seed=seeded(12))
    assert p_values["residual_scale"] < 1e-6, p_values


@pytest.mark.slow
def test_a_scale_within_clusters_that_counts_tasks_again_is_noticed(monkeypatch):
    right = partition_scales._given_departures

    def wrong(parameter, tau, b, occupied, rng):
        return right(parameter, tau, b, occupied * (4 if parameter.name == "residual_scale" else 1), rng)

    monkeypatch.setattr(partition_scales, "_given_departures", wrong)
    p_values = geweke(GEWEKE["Dirichlet process, diagonal"], num_sets=2000, seed=seeded(14))
    # what the sampler is judged by: over seeds it shows in the log density sooner than in the scale itself
    assert min(p_values.values()) < 1e-6, p_values


@pytest.mark.slow
def test_a_spread_that_counts_empty_clusters_is_noticed(monkeypatch):
    right = partition_scales._given_departures

    def wrong(parameter, tau, b, occupied, rng):
        return right(parameter, tau, b, torch.full_like(occupied, b.shape[1]), rng)

    monkeypatch.setattr(partition_scales, "_given_departures", wrong)
    p_values = geweke(GEWEKE["Dirichlet process, diagonal"], num_sets=600, seed=seeded(13))
    assert p_values["cluster_scale"] < 1e-6, p_values


def test_canonical_numbers():
    assert canonical(np.array([[5, 2, 5, 0]])).tolist() == [[0, 1, 0, 2]]


# --- fits ---


def toy_rows(seed: int = 4) -> bm.TaskData:
    """Five tasks of three rows, two pairs alike; not standardised, so that known scales mean the same."""
    rng = np.random.default_rng(seed)
    task = np.repeat(list("abcde"), 3)
    level = np.repeat([0.6, 0.72, -0.48, -0.6, 0.12], 3)
    data = bm.TaskData.from_arrays(np.ones((15, 1)), level + 0.8 * rng.normal(size=15), task, intercept=False)
    return data.with_target_standardization("none")


def known(within: str) -> bm.LinearModel:
    sharing = bm.DirichletProcess(
        bm.Fixed(1.0), within=within, scale=bm.Fixed(0.3), spread=bm.Fixed(1.0), correlation=bm.LKJ(2.0)
    )
    return bm.LinearModel(sharing, bm.Gaussian(noise=0.8))


def enumerated(model: bm.LinearModel, data: bm.TaskData) -> tuple[np.ndarray, np.ndarray]:
    """P(two tasks together), and P(a task alone), from all 52 partitions."""
    partitions = all_partitions(data.num_tasks)
    problem = model._posterior(data)
    points = torch.zeros(len(partitions), 0, dtype=torch.float64)
    probability = torch.softmax(problem.given(partitions).log_density(points), 0).numpy()
    together = (partitions[:, :, None] == partitions[:, None]).numpy()
    alone = probability @ (together.sum(2) == 1)
    return np.clip(np.einsum("p,ptu->tu", probability, together), 0.0, 1.0), alone


def fitted(model: bm.LinearModel, data: bm.TaskData) -> bm.Fit:
    return model.fit(data, seed=seeded(0), num_chains=10, num_draws=100, num_warmup=20, progress=False)


@pytest.mark.parametrize("within", ["none", "diagonal", "full"])
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_the_engine_and_conditioning_agree_with_enumeration(within):
    """Who is with whom and who is alone, of a fit to five tasks and of one conditioned on two of them.

    1000 draws, taken for 400 independent ones (after conditioning more depend on each other): at 4.5 standard
    errors the 30 comparisons have a false-alarm probability of 2e-4 if there are no more; these chains mix
    better.
    """
    model, data = known(within), toy_rows()
    exact, alone = enumerated(model, data)
    assert exact.min() < 0.35 and exact[np.triu_indices(5, 1)].max() > 0.55  # there is something to find
    first = fitted(model, data.select_tasks(list("abc"))).condition(data.select_tasks(list("de")))
    assert first.task_names == tuple("abcde")
    for fit in (fitted(model, data), first):
        found = fit.partition()
        for ours, right in ((found.co_clustering.to_numpy(), exact), (found.alone.to_numpy(), alone)):
            error = 0.003 + 4.5 * np.sqrt(right * (1 - right) / 400)
            assert np.all(np.abs(ours - right) < error), np.abs(ours - right).max()


@pytest.mark.parametrize("within", ["none", "diagonal"])
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_predictions_average_over_partitions(within):
    """Means and spreads of the five tasks and of one never seen, by all 203 partitions of the six.

    Given a partition the weights are normal, and so are they given the rows. 1000 draws, taken for 400: two
    comparisons for each task at 4.5 standard errors of the mean, and at a fifth of the standard deviation.
    """
    model, data = known(within), toy_rows()
    partitions, task, noise = all_partitions(6), data.task, 0.8**2
    own = 0.3**2 if within == "diagonal" else 0.0
    prior = model.sharing.log_partition(partitions, {"concentration": torch.ones(203).double()}).numpy()
    log_density, means, squares = [], [], []
    for one in partitions.numpy():
        covariance = 1.0 + (one[:, None] == one) + own * np.eye(6)
        rows = covariance[np.ix_(task, task)] + noise * np.eye(15)
        gain = np.linalg.solve(rows, covariance[task]).T
        log_density.append(stats.multivariate_normal.logpdf(data.y, cov=rows))
        means.append(gain @ data.y)
        squares.append(means[-1] ** 2 + np.diag(covariance - gain @ covariance[task]))
    probability = np.exp(prior + log_density - np.max(log_density))
    probability /= probability.sum()
    mean = probability @ np.array(means)
    sd = np.sqrt(probability @ np.array(squares) - mean**2)
    likeliest = means[int(np.argmax(probability))]
    assert np.abs(mean - likeliest).max() > 0.1  # no single partition gives the answer
    new = pd.DataFrame({"x0": 1.0, data.task_column: list("abcdef")})
    predicted = fitted(model, data).predict(new, kind="latent", new_tasks="population", num_draws=1000)
    assert np.all(np.abs(predicted.mean - mean) < 4.5 * sd / np.sqrt(400))
    assert np.all(np.abs(predicted.sd / sd - 1) < 0.2)


@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_conditioning_moves_the_weights_as_refitting_does():
    """Means of all weights after conditioning on a known and two new tasks, against those of the refit."""
    model, data = known("diagonal"), toy_rows()
    frame = data.to_frame()
    early = frame[(frame[data.task_column] < "d") & (frame.groupby(data.task_column).cumcount() < 2)]
    late = frame.drop(early.index)

    def data_of(rows):
        made = bm.TaskData.from_frame(
            rows, task=data.task_column, target=data.target_name, features=["x0"], intercept=False
        )
        return made.with_target_standardization("none")

    refit = fitted(model, data_of(frame)).posterior["weights"].stack(s=("chain", "draw"))
    updated = fitted(model, data_of(early)).condition(late).posterior["weights"].stack(s=("chain", "draw"))
    error = np.hypot(refit.std("s"), updated.std("s")) / np.sqrt(300)
    assert np.all(np.abs(refit.mean("s") - updated.mean("s")) < 5 * error)
    assert np.all(np.abs(refit.std("s") / updated.std("s") - 1) < 0.2)


SHORT = {"num_chains": 3, "num_warmup": 40, "num_draws": 40, "progress": False}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_clusters_are_recovered(seed):
    """Adjusted Rand index of at least .95, or as good as one who knows the cluster means.

    Two means of seed 1 are but 0.63 apart (a task's weights have standard errors of 0.13), and even that one
    errs.
    """
    data, truth, known_means = clustered_data(4, 0.0, seed)
    fit = bm.LinearModel(bm.DirichletProcess()).fit(data, seed=seeded(0), **SHORT)
    point = fit.partition().point.reindex([f"task_{t:02d}" for t in range(30)])
    assert adjusted_rand_score(truth, point) >= min(0.95, adjusted_rand_score(truth, known_means))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_exchangeable_tasks_are_not_split():
    """Tasks around one population, as Hierarchical has them: one cluster in the point, most likely in all.

    One cluster has probability .41, two .21 (4000 corrected draws of svi); their number mixes slowly.
    """
    data, _, _ = clustered_data(1, 0.5, seed=2)
    length = SHORT | {"num_chains": 4, "num_draws": 200}
    fit = bm.LinearModel(bm.DirichletProcess()).fit(data, seed=seeded(0), **length)
    found = fit.partition()
    assert found.point.nunique() == 1
    assert found.num_clusters.idxmax() == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_co_clustering_probabilities_are_calibrated():
    """Tasks drawn from the model that is fitted, 400 data sets as chains of one batch, by enumeration, too.

    Pairs of one data set depend on each other: what is judged is each data set's mean gap, plain and weighted
    by exact p - 1/2, between the truth and sampled probabilities, and between these and exact ones. Beyond
    4.5 standard errors with probability 3e-5, if all is right.
    """
    simulated = simulate(partition_calibration.KNOWN, 400, 5, 5, seed=seeded(3))
    found = pairs(sampled(simulated, 15, 40, 3)[0]).mean(1)
    assert found.std(1).mean() > 0.1  # the data say something about pairs
    right = exact(simulated)
    for gap in (simulated.together - found, found - right):
        for weighted in (gap, gap * (right - 0.5)):
            each = weighted.mean(1)
            assert abs(each.mean()) < 4.5 * each.std(ddof=1) / np.sqrt(len(each))


@pytest.mark.slow
def test_hyperparameters_are_calibrated():
    """Ranks of the true values among chains that started elsewhere; 8 quantities, together at 1e-5."""
    model = bm.LinearModel(bm.DirichletProcess())
    assert ranks(simulate(model, 30, 6, 5, seed=seeded(4)), 30, 4).p_value() > 1e-5
