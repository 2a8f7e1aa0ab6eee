"""The plain loops that the benchmark times are slow twins: the batched code does the same."""

import numpy as np
import pytest
import torch

import bayesmtl as bm
from bayesmtl.algebra.clusters import log_marginal_clusters
from bayesmtl.inference.partitions.moves import gibbs_sweep
from bayesmtl.inference.partitions.prior_weights import Weights
from benchmarks.common import prepare
from benchmarks.partitions import many_tasks, plain_density, plain_sweep
from tests.statistical.test_partitions import toy_evidence


def test_the_plain_density_is_the_batched_one():
    problem = prepare(bm.LinearModel(bm.DirichletProcess()), many_tasks(12))
    membership = torch.stack([torch.arange(12) % 3, torch.arange(12) % 5])
    points = problem.space.initial(np.random.default_rng(0), 2)
    values = problem.space.constrain(points) | {"cluster": membership}
    batched = log_marginal_clusters(problem.tasks, problem.structure(values), problem.noise(values, 2))
    for c in (0, 1):
        assert float(plain_density(problem, values, c)) == pytest.approx(float(batched[c]), rel=1e-10)


def test_the_plain_sweep_has_the_transition_probabilities_of_the_batched_one():
    """Frequencies of being together after one sweep from all together, at 4.5 standard errors of the
    difference: 6 comparisons, false alarms 4e-5."""
    number, prior = 4000, bm.DirichletProcess()
    data = toy_evidence(4, number, seed=1)
    one = torch.ones(number, dtype=torch.float64)
    weights = Weights(prior, {"concentration": one}, 4)
    start = np.zeros((number, 4), dtype=int)
    batched = gibbs_sweep(start, data, weights, torch.Generator().manual_seed(0))
    order = torch.randperm(4, generator=torch.Generator().manual_seed(0)).numpy()  # all chains have the same
    rng = np.random.default_rng(0)
    plain = np.concatenate([plain_sweep(start[:1], data, weights, order, rng) for _ in range(number // 2)])
    first, second = np.triu_indices(4, 1)
    p, q = ((m[:, first] == m[:, second]).mean(0) for m in (batched, plain))
    error = np.sqrt(p * (1 - p) * (1 / number + 2 / number))
    assert np.all((p > 0.01) & (p < 0.99))
    assert np.all(np.abs(p - q) < 4.5 * error), (p, q)
