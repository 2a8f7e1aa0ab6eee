"""`svi` over partitions: its weights are exact, so that it agrees with enumeration as `gibbs` does.

False-alarm budget: 1e-4 for this file. About 15 fits with 10 probabilities each that tell something, at 4.5
standard errors (7e-6 each, and most depend on each other) of fewer draws than there are; means of weights at
5. What they detect is shown by weights broken on purpose.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import bayesmtl as bm
from bayesmtl.algebra.clusters import task_terms
from bayesmtl.inference.partitions import correction as partition_correction
from bayesmtl.inference.partitions.correction import Allocated, allocate
from bayesmtl.inference.partitions.prior_weights import weights_of
from bayesmtl.inference.partitions.variational import mean_field, partition_variational
from bayesmtl.samplers.importance import RELIABLE, recurs, shape_of_ties, smooth
from bayesmtl.samplers.settings import Settings
from benchmarks.common import prepare
from benchmarks.partitions import clustered_data
from tests.equivalence.partitions import all_partitions
from tests.seeds import seeded
from tests.statistical import test_partition_outcomes, test_partitions

pytestmark = [pytest.mark.statistical]

KNOWN = {"scale": bm.Fixed(0.3), "spread": bm.Fixed(1.0)}
PRIORS = {
    "Dirichlet process": bm.DirichletProcess(bm.Fixed(1.0), **KNOWN),
    "nothing within": bm.DirichletProcess(bm.Fixed(1.0), within="none", spread=bm.Fixed(1.0)),
    "Pitman-Yor": bm.PitmanYor(0.4, bm.Fixed(0.5), **KNOWN),
    "two clusters": bm.Clusters(2, **KNOWN),
}


def gap(fit: bm.Fit, exact: np.ndarray) -> float:
    """Largest difference of ten probabilities in standard errors: 1000 draws, taken for 400."""
    assert np.ptp(exact[np.triu_indices(5, 1)]) > 0.2  # there is something to find
    found = fit.partition().co_clustering.sel(task=list("abcde"), task_other=list("abcde")).to_numpy()
    return float(np.max(np.abs(found - exact) / (0.002 + np.sqrt(exact * (1 - exact) / 400))))


def enumerated(model: bm.LinearModel, data: bm.TaskData) -> np.ndarray:
    """P(two tasks together) by all partitions that the prior allows."""
    partitions = all_partitions(data.num_tasks)
    most = getattr(model.sharing, "num_clusters", data.num_tasks)
    partitions = partitions[partitions.max(1).values < most]
    problem = model._posterior(data)
    points = torch.zeros(len(partitions), 0, dtype=torch.float64)
    probability = problem.given(partitions).value(points).softmax(0).numpy()
    together = (partitions[:, :, None] == partitions[:, None]).numpy()
    return np.clip(np.einsum("p,ptu->tu", probability, together), 0.0, 1.0)


@pytest.mark.parametrize("prior", PRIORS)
def test_svi_agrees_with_enumeration(prior):
    model, data = bm.LinearModel(PRIORS[prior], bm.Gaussian(noise=0.8)), test_partitions.toy_rows()
    exact = enumerated(model, data)
    fit = model.fit(data, method="svi", seed=seeded(0), progress=False)
    assert gap(fit, exact) < 4.5
    assert fit.check().ok and "corrected by importance weights" in str(fit.check())
    # which is not to say that mean field, whose draws these would be otherwise, does
    assert gap(model.fit(data, method="mean_field", seed=seeded(0), progress=False), exact) > 6


@pytest.mark.parametrize("prior", ["Pitman-Yor", "two clusters"])
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_gibbs_agrees_with_enumeration(prior):
    """Beside the Dirichlet process, which `test_partitions` has; 1000 draws, taken for 400."""
    model, data = bm.LinearModel(PRIORS[prior], bm.Gaussian(noise=0.8)), test_partitions.toy_rows()
    fit = model.fit(data, seed=seeded(0), num_chains=10, num_draws=100, num_warmup=20, progress=False)
    assert fit.method == "gibbs" and gap(fit, enumerated(model, data)) < 4.5


@pytest.mark.parametrize(
    "within, likelihood",
    [
        ("none", bm.Bernoulli()),
        ("diagonal", bm.Bernoulli()),
        ("full", bm.Bernoulli()),
        ("diagonal", bm.Binomial(3)),
    ],
    ids=str,
)
def test_svi_agrees_with_enumeration_for_outcomes(within, likelihood):
    model = test_partition_outcomes.known(within, likelihood)
    data = test_partition_outcomes.toy_outcomes(likelihood)
    exact = np.clip(test_partition_outcomes.enumerated(model, data, within=within != "none"), 0.0, 1.0)
    fit = model.fit(data, method="svi", seed=seeded(0), progress=False)
    assert "corrected" in str(fit.check()) and gap(fit, exact) < 4.5


def test_hyperparameters_are_those_of_a_grid():
    """Concentration and noise unknown: partitions enumerated at every point of a grid."""
    sharing = bm.DirichletProcess(bm.Gamma(2.0, 2.0), **KNOWN)
    model, data = bm.LinearModel(sharing, bm.Gaussian()), test_partitions.toy_rows()
    fit = model.fit(data, method="svi", seed=seeded(0), progress=False)
    partitions, problem = all_partitions(5), fit.problem
    grids = torch.linspace(-7.0, 3.0, 41).double(), torch.linspace(-1.5, 1.5, 41).double()
    grid = torch.cartesian_prod(*grids)
    every = grid.repeat_interleave(len(partitions), dim=0)
    density = problem.given(partitions.repeat(len(grid), 1)).value(every).reshape(len(grid), -1)
    weight = density.flatten().softmax(0).reshape(density.shape)
    values = problem.space.constrain(grid)
    for name in ("concentration", "noise"):
        x = values[name].reshape(-1, 1).abs().log()
        mean = float((weight * x).sum())
        sd = float((weight * (x - mean) ** 2).sum().sqrt())
        drawn = fit.draws.hyperparameters[name].abs().log()
        assert abs(float(drawn.mean()) - mean) < 5 * sd / np.sqrt(400), name
        assert float(drawn.std()) == pytest.approx(sd, rel=0.2), name
    together = (partitions[:, :, None] == partitions[:, None]).double()
    assert gap(fit, torch.einsum("gp,ptu->tu", weight, together).clamp(0, 1).numpy()) < 4.5


@pytest.mark.parametrize("prior", PRIORS)
def test_estimates_of_the_evidence_are_unbiased(prior):
    """Their mean is the sum over all partitions, within 5 standard errors; and they do scatter."""
    model, data = bm.LinearModel(PRIORS[prior], bm.Gaussian(noise=0.8)), test_partitions.toy_rows()
    problem = model._posterior(data)
    partitions = all_partitions(5)
    if prior == "two clusters":
        partitions = partitions[partitions.max(1).values < 2]
    nothing = torch.zeros(4000, 0, dtype=torch.float64)
    exact = problem.given(partitions).value(nothing[: len(partitions)]).logsumexp(0)
    found = (Allocated(problem, np.random.default_rng(seeded(0))).value(nothing) - exact).exp()
    assert found.std() > 0.01
    assert abs(float(found.mean()) - 1) < 5 * float(found.std()) / np.sqrt(4000)


def test_allocation_is_its_plain_twin():
    """Tasks in order: each total is the sum of p(y, partition) over where a task may go, over that before."""
    data, *_ = clustered_data(2, 0.3, seeded(4), num_tasks=5, rows=4)
    problem = prepare(bm.LinearModel(bm.DirichletProcess()), data)
    values = problem.space.sample(np.random.default_rng(seeded(3)), 6)
    values["cluster"] = torch.zeros(6, 5, dtype=torch.long)
    structure, noise = problem.structure(values), problem.noise(values, 6)
    terms = task_terms(problem.tasks, structure, noise)

    class InOrder:
        """Tasks in their order; otherwise as random as ever."""

        def __init__(self):
            self.rng = np.random.default_rng(seeded(0))

        def random(self, shape):
            return np.broadcast_to(np.linspace(0, 0.9, shape[1]), shape)

        def gumbel(self, size):
            return self.rng.gumbel(size=size)

    prior = weights_of(problem, values)
    cluster, total = allocate(terms, structure.basis_scale, prior, 5, InOrder())
    assert len(torch.unique(cluster, dim=0)) > 1
    precision, linear = terms.precision.numpy(), terms.linear.numpy()
    for b in range(6):
        level, spread = (structure.basis_scale[b, row].numpy() ** 2 for row in (0, 1))

        def joint(partition, b=b, level=level, spread=spread):
            """log p(y of the first tasks, their partition) from a dense normal of all cluster means."""
            K, n, D = max(partition) + 1, len(partition), precision.shape[-1]
            A = np.eye(K)[partition]
            P = sum(np.kron(np.outer(A[t], A[t]), precision[b, t]) for t in range(n))
            q = sum(np.kron(A[t], linear[b, t]) for t in range(n))
            prior_covariance = np.kron(np.ones((K, K)), np.diag(level)) + np.kron(np.eye(K), np.diag(spread))
            M = np.eye(K * D) + prior_covariance @ P
            worth = 0.5 * q @ np.linalg.solve(M, prior_covariance @ q) - 0.5 * np.linalg.slogdet(M)[1]
            size = np.bincount(partition)
            alpha = float(values["concentration"][b])
            return worth + K * np.log(alpha) + sum(np.log(np.arange(1, s)).sum() for s in size)

        before, expected, own = 0.0, 0.0, cluster[b].tolist()
        for t in range(5):
            here = own[:t]
            options = [joint([*here, k]) for k in range(max(here, default=-1) + 2)]
            expected += np.logaddexp.reduce(options) - before
            before = joint(own[: t + 1])
        assert float(total[b]) == pytest.approx(expected, abs=1e-9)


def test_enumeration_notices_weights_that_are_forgotten(monkeypatch):
    """Partitions as they are imputed from few, strong data, all with the same weight."""
    right = partition_correction.allocate

    def wrong(*given):
        cluster, total = right(*given)
        return cluster, torch.zeros_like(total)

    model, data = bm.LinearModel(PRIORS["nothing within"], bm.Gaussian(noise=0.8)), test_partitions.toy_rows()
    data = replace(data, y=3.0 * data.y)
    exact = enumerated(model, data)
    monkeypatch.setattr(partition_correction, "allocate", wrong)
    assert gap(model.fit(data, method="svi", seed=seeded(0), progress=False), exact) > 4.5


def test_too_many_tasks_stay_uncorrected(monkeypatch):
    """Then draws are those of mean field, and the check says why."""
    data, model = test_partitions.toy_rows(), bm.LinearModel(PRIORS["nothing within"])
    run = {"seed": seeded(0), "num_draws": 20, "progress": False}
    plain = model.fit(data, method="mean_field", **run)
    with monkeypatch.context() as patch:
        patch.setattr(partition_correction, "_MOST_ENTRIES", 0)
        untried = model.fit(data, method="svi", **run)
    torch.testing.assert_close(untried.draws.weights, plain.draws.weights)
    assert "could not correct that (too many tasks)" in str(untried.check())
    with monkeypatch.context() as patch:
        patch.setattr(partition_correction, "RELIABLE", -np.inf)
        unreliable = model.fit(data, method="svi", **run)
    assert "could not correct that (few draws would carry all the weight" in str(unreliable.check())
    assert "too certain" in str(unreliable.check()) and "corrected by" not in str(unreliable.check())


def test_twenty_tasks_can_be_corrected():
    data, *_ = clustered_data(4, 0.0, seeded(3), num_tasks=20)
    problem = prepare(bm.LinearModel(bm.DirichletProcess(within="none")), data)
    stats = partition_variational(problem, Settings(0, progress=False)).sample_stats
    assert stats["pareto_k"][0, 0] < RELIABLE and stats["importance_ess"][0, 0] > 100
    assert "pareto_k" not in mean_field(problem, Settings(0, progress=False)).sample_stats


def test_weights_that_reach_their_largest_again_and_again_have_no_tail():
    """A few values only, as of few tasks: no larger one can come, unlike where the largest came but once."""
    log_weight = np.log(np.random.default_rng(seeded(0)).choice([0.5, 1.0, 1.5], 1000))
    assert recurs(log_weight)
    assert not recurs(np.r_[log_weight[:20], 5.0])


def test_tails_of_few_states_are_judged_by_how_far_they_reach():
    """Bounded weights that come up again are safe; some that are a thousand times as heavy are not."""
    rng = np.random.default_rng(seeded(0))
    states = np.sort(rng.uniform(0.0, 0.6, 300))
    log_weight = states[rng.integers(300, size=10_000)]
    shape = shape_of_ties(log_weight)
    assert shape is not None and shape < 0.1
    heavy = np.where(rng.random(10_000) < 0.005, 7.0 + log_weight, log_weight)
    shape = shape_of_ties(heavy)
    assert shape is not None and shape > RELIABLE
    assert shape_of_ties(rng.normal(size=10_000)) is None
    assert shape_of_ties(np.full(10, -np.inf)) is None


@pytest.mark.parametrize("number", [1, 2, 3, 4, 20])
def test_few_weights_cannot_be_judged(number):
    log_weight = np.random.default_rng(seeded(0)).normal(size=number)
    assert smooth(log_weight)[1] == (-np.inf if number == 1 else np.inf)
