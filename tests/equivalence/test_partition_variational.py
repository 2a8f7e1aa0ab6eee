"""The evidence bound over partitions equals its written-out twin, and lies below the exact evidence.

Comparisons of Monte-Carlo means allow five standard errors, which is 6e-7 for each of about 30 numbers.
"""

from __future__ import annotations

import importlib
import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import bayesmtl as bm
from bayesmtl.algebra.clusters import blocks_of, cluster_moments, draw_clustered, log_marginal_clusters
from bayesmtl.algebra.soft_clusters import (
    expected_log_weights,
    log_sticks,
    soft_sums,
    worth_of_merging,
)
from bayesmtl.diagnostics import Check, check_draws
from bayesmtl.inference import handles
from bayesmtl.inference.partitions.bound import Ascent, Shares, weight_moments
from bayesmtl.inference.partitions.variational import (
    LAST_STICK,
    ascend,
    drawn_clusters,
    last_stick,
    starting_shares,
    with_enough,
)
from bayesmtl.posteriors.linear.outcomes import OutcomePosterior
from bayesmtl.posteriors.linear.rows import StandardRows
from benchmarks.common import prepare
from benchmarks.partitions import clustered_data
from tests.equivalence.partitions import all_partitions
from tests.seeds import seeded

PRIORS = {
    "Dirichlet process": bm.DirichletProcess(),
    "Pitman-Yor": bm.PitmanYor(discount=0.4, within="none"),
    "three clusters": bm.Clusters(3, within="full"),
}


def gaussian(sharing: bm.sharing.Sharing, *, num_tasks: int = 5, num_clusters: int = 2) -> Ascent:
    """Tasks in clusters that are not obvious."""
    data, *_ = clustered_data(num_clusters, 0.3, seeded(4), num_tasks=num_tasks, rows=4)
    return Ascent.of(prepare(bm.LinearModel(sharing), data))


def binary(sharing: bm.sharing.Sharing, *, num_tasks: int = 4, rows: int = 5, **further: object) -> Ascent:
    """The same with yes/no outcomes."""
    rng = np.random.default_rng(seeded(1))
    task = np.repeat(np.arange(num_tasks), rows)
    X = np.stack([np.ones(len(task)), rng.normal(size=len(task))], axis=1)
    p = 1 / (1 + np.exp(-np.where(task % 2, 1.5, -1.5) * X[:, 1]))
    y = (rng.random(len(task)) < p).astype(float)
    laid_out = StandardRows(X, y, task, None, further.get("offset"), None)  # type: ignore[arg-type]
    model = bm.LinearModel(sharing, bm.Bernoulli())
    names = tuple(f"task_{t}" for t in range(num_tasks))
    problem = OutcomePosterior(
        model.sharing,
        model.likelihood,
        laid_out.statistics(num_tasks).compress(),
        names,
        np.ones(num_tasks),
        rows=laid_out.laid_out(num_tasks),
    )
    return Ascent.of(problem)


def somewhere(ascent: Ascent, num_clusters: int, seed: int = 0) -> Shares:
    """Soft shares and hyperparameters that nothing has been done about."""
    rng = np.random.default_rng(seed)
    share = torch.from_numpy(rng.dirichlet(np.ones(num_clusters), ascent.problem.tasks.num_tasks))
    point = ascent.problem.space.initial(rng, 1)[0]
    rows = ascent.rows
    xi = None if rows is None else torch.from_numpy(rng.uniform(0, 3, rows.shape.shape))
    return Shares(point, share, xi)


def at(ascent: Ascent, shares: Shares):
    return ascent._at(shares.point[None], shares, ascent.data_given(shares))


def exact_evidence(ascent: Ascent, point: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor]:
    """log p(y, hyperparameters) by enumeration, and the partitions with their probabilities."""
    partitions = all_partitions(ascent.problem.tasks.num_tasks)
    most = getattr(ascent.problem.sharing, "num_clusters", len(partitions[0]))
    partitions = partitions[partitions.max(1).values < most]
    points = point.expand(len(partitions), -1)
    density = ascent.problem.given(partitions).value(points)
    return float(density.logsumexp(0)), partitions, density.softmax(0)


@pytest.mark.parametrize("prior", PRIORS)
def test_sticks_are_the_prior_of_partitions(prior):
    """Summed over numberings of its clusters, a partition has its probability: with many sticks, or all."""
    sharing = PRIORS[prior]
    values = {"concentration": torch.tensor([0.7], dtype=torch.float64)}
    K = 3 if prior == "three clusters" else 60
    sticks = sharing.sticks(values, K)
    for cluster in ([0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 1, 0]):
        size = np.bincount(cluster)
        numbers = torch.zeros(math.perm(K, len(size)), K, dtype=torch.float64)
        for row, places in enumerate(itertools.permutations(range(K), len(size))):
            numbers[row, list(places)] = torch.from_numpy(size).double()
        found = log_sticks(numbers, *(part.expand(len(numbers), -1) for part in sticks)).logsumexp(0)
        expected = sharing.log_partition(torch.tensor([cluster]), values)[0]
        rest = 0.02 if prior == "Pitman-Yor" else 1e-6  # power law: some is always beyond
        assert expected - rest < found < expected + 1e-9


def test_expected_log_weights_are_those_of_beta_variables():
    rng = np.random.default_rng(seeded(0))
    number = torch.tensor([[3.0, 0.5, 2.0]], dtype=torch.float64)
    for first, second in (([1.0, 1.0, 1.0], [0.6, 0.6, 0.6]), ([2.0, 2.0], [4.0, 2.0])):
        found = expected_log_weights(number, torch.tensor([first]).double(), torch.tensor([second]).double())
        after = [2.5, 2.0, 0.0]
        drawn = zip(first, second, number[0], after, strict=False)
        v = [rng.beta(a + n, b + m, 200_000) for a, b, n, m in drawn]
        v = np.stack([*v, np.ones_like(v[0])][:3])
        log_weight = np.log(v) + np.pad(np.log1p(-v[:2]).cumsum(0), ((1, 0), (0, 0)))
        error = log_weight.std(1) / np.sqrt(log_weight.shape[1])
        assert np.all(np.abs(found[0].numpy() - log_weight.mean(1)) < 5 * error + 1e-12)


@pytest.mark.parametrize("prior", PRIORS)
def test_bound_equals_its_monte_carlo_twin(prior):
    """E_q[log p(y, c, Z, v) - log q(c, Z, v)] from draws of q, densities written out one by one."""
    ascent = gaussian(PRIORS[prior], num_tasks=4)
    shares = somewhere(ascent, 3)
    log_prior, point = at(ascent, shares)
    bound = float(point.bound(shares.share))
    blocks = blocks_of(*soft_sums(point.terms, shares.share), point.scales)
    m, V = cluster_moments(blocks, point.scales)
    K, D, S = 3, m.shape[-1], 4000
    # the joint normal of (z_1 .. z_K): mu makes them dependent; written out from its precision
    tau, level = point.scales[0, 1], point.scales[0, 0]
    prior_covariance = torch.kron(torch.eye(K).double(), torch.diag(tau**2))
    prior_covariance = prior_covariance + torch.kron(torch.ones(K, K).double(), torch.diag(level**2))
    P, q = soft_sums(point.terms, shares.share)
    precision = torch.linalg.inv(prior_covariance) + torch.block_diag(*P[0])
    covariance = torch.linalg.inv(precision)
    mean = covariance @ q[0].flatten()
    torch.testing.assert_close(mean.reshape(K, D), m[0])
    for k in range(K):
        own = slice(k * D, (k + 1) * D)
        torch.testing.assert_close(covariance[own, own], V[0, k])
    torch.manual_seed(seeded(0))
    q_Z = torch.distributions.MultivariateNormal(mean, covariance)
    p_Z = torch.distributions.MultivariateNormal(torch.zeros(K * D).double(), prior_covariance)
    Z = q_Z.sample((S,))
    z = Z.reshape(S, K, D)
    c = drawn_clusters(shares.share, S, np.random.default_rng(seeded(0)))
    first, second = point.sticks
    own, after = shares.share.sum(0), shares.share.sum(0).flip(0).cumsum(0).flip(0) - shares.share.sum(0)
    n = first.shape[1]
    q_v = torch.distributions.Beta(first[0] + own[:n], second[0] + after[:n].clamp(min=0))
    v = q_v.sample((S,))
    p_v = torch.distributions.Beta(first[0], second[0])
    log_v = torch.nn.functional.pad(v.log(), (0, K - n))
    log_pi = log_v + torch.nn.functional.pad(torch.log1p(-v).cumsum(1), (1, 0))[:, :K]
    rows = torch.arange(S)[:, None]
    own_z = z[rows, c]
    Q, linear = point.terms.precision[0], point.terms.linear[0]
    log_y = (own_z * linear).sum((1, 2)) - 0.5 * torch.einsum("std,tde,ste->s", own_z, Q, own_z)
    total = point.terms.value + log_y + log_pi.gather(1, c).sum(1)
    total = total + p_Z.log_prob(Z) - q_Z.log_prob(Z) + (p_v.log_prob(v) - q_v.log_prob(v)).sum(1)
    total = total - shares.share[torch.arange(4), c].log().sum(1)
    assert abs(float(total.mean()) - bound) < 5 * float(total.std()) / math.sqrt(S)
    assert ascent.elbo(shares) == pytest.approx(bound + float(log_prior))


@pytest.mark.parametrize("outcome", [gaussian, binary])
@pytest.mark.parametrize("prior", PRIORS)
def test_bound_never_falls_and_stays_below_the_evidence(prior, outcome):
    ascent = outcome(PRIORS[prior])
    T = ascent.problem.tasks.num_tasks
    K = min(T, getattr(PRIORS[prior], "num_clusters", T))
    run = ascend(ascent, somewhere(ascent, K), 30)
    steps = np.diff(run.elbo)
    assert len(steps) >= 2 and steps.min() > -1e-9 * abs(run.elbo[-1])
    assert run.elbo[-1] > run.elbo[0] + 1
    if outcome is gaussian:
        assert run.elbo[-1] < exact_evidence(ascent, run.shares.point)[0]


def test_updates_are_the_best_there_are():
    """No other q(c_t) of one task, and no other bound of the rows, is better while all else stays."""
    ascent = binary(bm.DirichletProcess())
    run = ascend(ascent, somewhere(ascent, 4), 40, "finely")
    rng = np.random.default_rng(seeded(3))
    top = ascent.elbo(run.shares)
    for _ in range(20):
        other = torch.from_numpy(rng.dirichlet(np.ones(4), 4))
        moved = run.shares.share + 0.02 * (other - run.shares.share)
        assert ascent.elbo(replace(run.shares, share=moved)) < top + 1e-3
        factor = torch.from_numpy(rng.uniform(0.8, 1.25, len(run.shares.xi)))
        assert ascent.elbo(replace(run.shares, xi=run.shares.xi * factor)) < top


def test_hard_shares_give_the_density_given_a_partition():
    ascent = gaussian(bm.DirichletProcess())
    shares = somewhere(ascent, 3)
    cluster = torch.tensor([0, 1, 1, 0, 2])
    hard = torch.nn.functional.one_hot(cluster, 3).double()
    _, point = at(ascent, replace(shares, share=hard))
    structure = replace(point.structure, membership=cluster[None])
    noise = ascent.problem.noise(point.values, 1)
    expected = log_marginal_clusters(ascent.problem.tasks, structure, noise) + point.prior(hard)
    torch.testing.assert_close(point.bound(hard), expected)


def test_worth_of_merging_is_that_of_merged_sums():
    ascent = gaussian(bm.DirichletProcess())
    shares = somewhere(ascent, 4)
    _, point = at(ascent, shares)
    P, q = soft_sums(point.terms, shares.share)
    first, second = torch.tensor([0, 1]), torch.tensor([2, 3])
    found = worth_of_merging(P, q, point.scales, first, second)
    for pair in range(2):
        merged = shares.share.clone()
        merged[:, first[pair]] += merged[:, second[pair]]
        merged[:, second[pair]] = 0
        expected = blocks_of(*soft_sums(point.terms, merged), point.scales).log_worth
        torch.testing.assert_close(found[pair : pair + 1], expected)


def test_moments_of_the_weights_are_those_of_draws():
    ascent = gaussian(bm.Clusters(3, within="full"))
    shares = somewhere(ascent, 2)
    cluster = torch.tensor([0, 1, 1, 0, 1])
    hard = torch.nn.functional.one_hot(cluster, 2).double()
    _, point = at(ascent, replace(shares, share=hard))
    blocks = blocks_of(*soft_sums(point.terms, hard), point.scales)
    mean, second = weight_moments(point.structure, point.terms, *cluster_moments(blocks, point.scales), hard)
    structure = replace(point.structure, membership=cluster[None]).repeat(4000)
    noise = ascent.problem.noise(point.values, 1).expand(4000, -1)
    drawn = draw_clustered(ascent.problem.tasks, structure, noise, np.random.default_rng(seeded(0))).weights
    square = drawn[..., :, None] * drawn[..., None, :]
    for found, values in ((mean, drawn), (second, square)):
        error = values.std(0) / math.sqrt(4000)
        assert ((found - values.mean(0)).abs() < 5 * error).all()


def test_rows_are_bounded_from_below_and_touched():
    """The quadratic in f never exceeds the log likelihood, and meets it at f = xi, offsets or none."""
    offset = np.random.default_rng(seeded(5)).normal(size=20)
    ascent = binary(bm.DirichletProcess(), offset=offset)
    rows, likelihood = ascent.problem.rows, ascent.problem.rowwise
    generator = torch.Generator().manual_seed(seeded(0))
    for _ in range(20):
        f = 2 * torch.randn(rows.size, generator=generator, dtype=torch.float64)
        xi = 3 * torch.rand(rows.size, generator=generator, dtype=torch.float64)
        for touching in (False, True):
            at_f = f.abs() if touching else xi
            omega, kappa = ascent.rows.omega(at_f), ascent.rows.kappa
            g = f - rows.offset
            quadratic = (kappa - omega * rows.offset) * g - omega * g**2 / 2
            bound = float((quadratic * rows.real).sum()) + ascent._constant(at_f)
            exact = float((likelihood.value(rows.y, f) * rows.weights).sum())
            assert bound == pytest.approx(exact) if touching else bound < exact


def test_clusters_are_added_while_the_last_is_needed(monkeypatch):
    module = importlib.import_module("bayesmtl.inference.partitions.variational")
    monkeypatch.setattr(module, "MOST_AT_FIRST", 2)
    data, truth, _ = clustered_data(4, 0.0, seeded(2), num_tasks=16)
    ascent = Ascent.of(prepare(bm.LinearModel(bm.DirichletProcess()), data))
    rng = np.random.default_rng(seeded(0))
    share = starting_shares(ascent, rng)[-1]
    assert share.shape == (16, 2)
    run = ascend(ascent, ascent.first(ascent.problem.space.initial(rng, 1)[0], share), 30)
    assert last_stick(ascent, run.shares) > 1
    wider = with_enough(ascent, run, 30)
    assert wider.shares.share.shape[1] > 2 and last_stick(ascent, wider.shares) < LAST_STICK
    assert wider.elbo[-1] > run.elbo[-1]


def test_refuses_what_has_no_bound():
    for sharing, likelihood in (
        (bm.Gated(2, ["size"]), bm.Gaussian()),
        (bm.Clusters(2, scales="cluster"), bm.Gaussian()),
        (bm.DirichletProcess(), bm.Bernoulli(link="probit")),
        (bm.DirichletProcess(), bm.StudentT()),
    ):
        assert not handles("svi", sharing, likelihood) and not handles("mean_field", sharing, likelihood)
    assert handles("svi", bm.DirichletProcess(), bm.Binomial(trials=3))
    assert handles("mean_field", bm.DirichletProcess(), bm.Binomial(trials=3))
    assert not handles("mean_field", bm.Hierarchical(), bm.Gaussian())


def test_plain_clusters_are_those_of_enumeration():
    """Hyperparameters known and clusters far apart: the probability of the one partition is nearly 1 in both.

    Where clusters overlap mean field is far off: `benchmarks.partition_variational`.
    """
    rng = np.random.default_rng(seeded(0))
    task = np.repeat(np.arange(5), 20)
    y = np.where(np.isin(task, (1, 3)), 4.0, -4.0) + 0.5 * rng.normal(size=100)
    data = bm.TaskData.from_arrays(np.zeros((100, 0)), y, task)
    known = {"scale": bm.Fixed(0.1), "spread": bm.Fixed(1.0)}
    model = bm.LinearModel(bm.DirichletProcess(bm.Fixed(0.01), **known), bm.Gaussian(noise=0.5))
    fit = model.fit(data, method="mean_field", seed=seeded(0), num_draws=50, progress=False)
    partitions = all_partitions(5)
    exact = fit.problem.given(partitions).value(torch.zeros(len(partitions), 0).double()).softmax(0)
    together = (partitions[:, :, None] == partitions[:, None]).double()
    expected = (exact[:, None, None] * together).sum(0).numpy()
    np.testing.assert_allclose(fit.partition().co_clustering, expected, atol=0.02)
    assert 0.98 < expected[0, 2] < 1 and expected[0, 1] < 1e-6
    assert fit.check().ok and "evidence apart" in str(fit.check())


def test_partitions_about_as_probable_share_the_draws():
    """One cluster or two, by enumeration .39 to .61: means exactly as far apart as said."""
    rng = np.random.default_rng(seeded(0))
    task, noise = np.repeat(np.arange(6), 20), rng.normal(size=120)
    noise -= np.array([noise[task == t].mean() for t in range(6)])[task]
    data = bm.TaskData.from_arrays(np.zeros((120, 0)), np.where(task % 2, 0.18, -0.18) + 0.5 * noise, task)
    known = {"scale": bm.Fixed(0.05), "spread": bm.Fixed(1.0)}
    model = bm.LinearModel(bm.DirichletProcess(bm.Fixed(0.2), **known), bm.Gaussian(noise=0.5))
    fit = model.fit(data, method="mean_field", seed=seeded(0), num_draws=250, progress=False)
    partitions = all_partitions(6)
    exact = fit.problem.given(partitions).value(torch.zeros(len(partitions), 0).double()).softmax(0)
    expected = float(exact[partitions[:, 0] == partitions[:, 1]].sum())
    assert 0.3 < expected < 0.5
    # what is approximated, and five standard errors of a thousand draws
    assert fit.partition().co_clustering[0, 1] == pytest.approx(expected, abs=0.05 + 0.08)
    assert "2 different partitions" in str(fit.check())


def test_what_check_says_of_a_bound():
    """A bound that still rose, clusters that did not suffice, and several partitions."""
    stats = {"elbo_rise": 0.0, "last_stick": 0.0, "start_disagreement": 0.0, "num_partitions": 1.0}
    stats |= {"largest_part": 1.0}

    def said(**changed: float) -> Check:
        full = {name: np.full((1, 4), value) for name, value in (stats | changed).items()}
        return check_draws(xr.Dataset(), full, complete=True)

    assert said().ok and "too certain" in said().notes[0] and len(said().notes) == 1
    assert "larger num_warmup" in str(said(elbo_rise=0.2)) and not said(elbo_rise=0.2).ok
    assert 'method="gibbs"' in said(last_stick=0.3).messages[0] and not said(last_stick=0.3).ok
    assert "2 different partitions" in said(num_partitions=2.0, largest_part=0.7).notes[-1]
    assert "12.0 nats" in said(start_disagreement=12.0).notes[-1]


def test_new_tasks_join_the_clusters_of_a_fit():
    """`condition` learns a new task from the clusters of the others, which stay as they are."""
    rng = np.random.default_rng(seeded(2))
    task = np.repeat(np.arange(5), 40)
    x = rng.normal(size=200)
    f = np.where(task % 2, 3.0, -3.0) * x
    y = rng.random(200) < 1 / (1 + np.exp(-f))
    frame = pd.DataFrame({"task": [f"task_{t}" for t in task], "x": x, "y": y.astype(float)})
    columns = {"task": "task", "target": "y", "features": ["x"]}
    data = bm.TaskData.from_frame(frame[task < 4], **columns)
    model = bm.LinearModel(bm.Clusters(2, within="none"), bm.Bernoulli())
    fit = model.fit(data, method="svi", seed=seeded(0), num_draws=50, progress=False)
    assert fit.method == "svi" and fit.partition().point.nunique() == 2
    known = fit.condition(frame[task == 4][:12])
    together = known.partition().co_clustering.sel(task="task_4")
    assert together.sel(task_other=["task_0", "task_2"]).min() > 0.9
    old = known.partition().point.loc[list(fit.task_names)]
    assert old.tolist() == fit.partition().point.tolist()
