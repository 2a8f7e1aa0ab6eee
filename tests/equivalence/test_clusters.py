"""The block algebra of partitioned tasks equals the general one; its limits are other sharing priors."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import bayesmtl as bm
from bayesmtl.algebra.clusters import draw_clustered, log_marginal_clusters
from bayesmtl.algebra.collapsed import log_marginal
from bayesmtl.algebra.conditional import draw_posterior
from bayesmtl.algebra.structure import Structure
from bayesmtl.sharing.partitions.base import in_order, num_clusters
from tests.equivalence.inputs import NOISES, NUM_FEATURES, ROWS, compress, make_noise, make_structure
from tests.equivalence.partitions import all_partitions, growth_strings, one_hot_loadings

PARTITIONS = {"together": [0, 0, 0, 0], "pairs": [0, 1, 0, 1], "three": [0, 1, 1, 2], "apart": [0, 1, 2, 3]}


def clustered(membership: list[int], residual: str, factor: str, *, seed: int = 0) -> Structure:
    """One hyperparameter value; scales of the clusters of both signs."""
    rng = np.random.default_rng(seed)
    private = make_structure("none", residual, factor, batch=1, seed=seed).private
    scales = torch.from_numpy(rng.uniform(0.5, 1.5, size=(1, 2, NUM_FEATURES)))
    scales[:, 0] = scales[:, 0, :1]
    scales[:, 1, 0] *= -1
    ones = torch.ones(4, 1, dtype=torch.float64)
    return replace(private, loadings=ones, basis_scale=scales, membership=torch.tensor([membership]))


def general(structure: Structure) -> Structure:
    """The same with every cluster's row of Z written out."""
    assert structure.membership is not None and structure.basis_scale is not None
    A = one_hot_loadings(structure.membership[0])
    mean, spread = structure.basis_scale[:, :1], structure.basis_scale[:, 1:]
    scale = torch.cat([mean, spread.expand(-1, A.shape[1] - 1, -1)], dim=1)
    return replace(structure, loadings=A, basis_scale=scale, membership=None)


@pytest.mark.parametrize(
    ("residual", "factor", "noise"),
    [("none", "none", "shared"), ("shared", "none", "task"), ("none", "some", "shared")],
    ids=["none within", "diagonal", "full"],
)
@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("rows", ROWS)
def test_density_equals_the_general_one(rows, partition, residual, factor, noise):
    tasks, sd = compress(ROWS[rows]), make_noise(noise, batch=1)
    structure = clustered(PARTITIONS[partition], residual, factor)
    found, expected = log_marginal_clusters(tasks, structure, sd), log_marginal(tasks, general(structure), sd)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-6)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("partition", PARTITIONS)
def test_gradient_equals_the_general_one(partition, noise):
    """Both are analytic, from different formulas."""
    tasks = compress(ROWS["mixed sizes"])
    structure, sd = clustered(PARTITIONS[partition], "shared", "some"), make_noise(noise, batch=1)
    gradients = []
    for build, density in ((lambda s: s, log_marginal_clusters), (general, log_marginal)):
        leaves = [structure.basis_scale, structure.residual_scale, structure.residual_factor, sd]
        leaves = [leaf.clone().requires_grad_() for leaf in leaves]
        varied = replace(
            structure, basis_scale=leaves[0], residual_scale=leaves[1], residual_factor=leaves[2]
        )
        gradients.append(torch.autograd.grad(density(tasks, build(varied), leaves[3]).sum(), leaves))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)


def test_a_batch_of_partitions_is_each_by_itself():
    tasks, sd = compress(ROWS["mixed sizes"]), make_noise("task", batch=1)
    structures = [
        clustered(partition, "shared", "none", seed=i) for i, partition in enumerate(PARTITIONS.values())
    ]
    single = torch.cat([log_marginal_clusters(tasks, structure, sd) for structure in structures])
    batch = Structure(
        structures[0].loadings,
        torch.cat([s.basis_scale for s in structures]),
        torch.cat([s.residual_scale for s in structures]),
        membership=torch.cat([s.membership for s in structures]),
    )
    torch.testing.assert_close(log_marginal_clusters(tasks, batch, sd.expand(4, -1)), single)


@pytest.mark.parametrize("residual", ["none", "shared"])
@pytest.mark.parametrize("partition", PARTITIONS)
def test_draws_have_the_moments_of_the_general_ones(partition, residual):
    """20,000 draws; means within 5 standard errors (12 of them: false alarm 1e-5), spreads within 5 %."""
    tasks, sd, S = compress(ROWS["mixed sizes"]), make_noise("task", batch=1), 20_000
    structure = clustered(PARTITIONS[partition], residual, "none")
    expected = draw_posterior(tasks, general(structure), sd, np.random.default_rng(0), num_draws=S)
    found = draw_clustered(tasks, structure.repeat(S), sd.expand(S, -1), np.random.default_rng(1))
    for name in ("weights", "basis"):
        first, second = (getattr(draws, name).flatten(1) for draws in (found, expected))
        error = torch.sqrt((first.var(0) + second.var(0)) / S)
        assert torch.all((first.mean(0) - second.mean(0)).abs() < 5 * error), name
        assert torch.all((first.std(0) / second.std(0) - 1).abs() < 0.05), name
        gap = torch.corrcoef(first.T) - torch.corrcoef(second.T)
        assert gap.abs().max() < 0.05, name


PRIORS = {
    "Dirichlet process": (bm.DirichletProcess(), lambda c: 1 / (1 + c)),
    "Pitman-Yor": (bm.PitmanYor(discount=0.4), lambda c: 0.6 / (1 + c)),
    "three clusters": (bm.Clusters(3), lambda c: (c + 1) / (3 * c + 1)),
}


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("concentration", [0.1, 1.0, 10.0, 100.0])
def test_partitions_have_probabilities(name, concentration):
    """They sum to 1, give the books' co-clustering probability, and ignore the order of tasks."""
    prior, together = PRIORS[name]
    partitions = all_partitions(5)
    values = {"concentration": torch.full((len(partitions),), concentration, dtype=torch.float64)}
    probability = prior.log_partition(partitions, values).exp()
    assert probability.sum() == pytest.approx(1.0, abs=1e-12)
    for first, second in ((0, 1), (1, 4)):
        same = partitions[:, first] == partitions[:, second]
        assert probability[same].sum() == pytest.approx(together(concentration), abs=1e-12)
    shuffled = in_order(partitions[:, [3, 0, 4, 1, 2]])
    torch.testing.assert_close(prior.log_partition(shuffled, values).exp(), probability)
    if name == "three clusters":
        assert torch.all((probability > 0) == (num_clusters(partitions) <= 3))


@pytest.mark.parametrize("name", PRIORS)
def test_the_gradient_of_a_partitions_probability(name):
    """Finite also where more clusters cannot be opened."""
    prior, partitions = PRIORS[name][0], torch.tensor([[0, 1, 2, 0, 1]])
    concentration = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)

    def density(value: torch.Tensor) -> torch.Tensor:
        return prior.log_partition(partitions, {"concentration": value})

    assert torch.autograd.gradcheck(density, concentration)


def test_partitions_are_counted():
    """Bell numbers; the twin itself has to be right."""
    assert [len(list(growth_strings(T))) for T in range(1, 7)] == [1, 2, 5, 15, 52, 203]


def test_one_cluster_is_hierarchical():
    """K = 1: mu + b is one normal mean, of variance mean_scale^2 + cluster_scale^2."""
    tasks, sd = compress(ROWS["plain"]), make_noise("shared", batch=1)
    structure = clustered(PARTITIONS["together"], "shared", "none")
    assert structure.basis_scale is not None
    scale = structure.basis_scale.square().sum(1, keepdim=True).sqrt()
    hierarchical = replace(structure, basis_scale=scale, membership=None)
    torch.testing.assert_close(
        log_marginal_clusters(tasks, structure, sd), log_marginal(tasks, hierarchical, sd)
    )


def test_all_apart_is_hierarchical_too():
    """A task's own mean and its residual are one, of variance cluster_scale^2 + scale^2."""
    tasks, sd = compress(ROWS["plain"]), make_noise("shared", batch=1)
    structure = clustered(PARTITIONS["apart"], "shared", "none")
    assert structure.basis_scale is not None and structure.residual_scale is not None
    scale = torch.sqrt(structure.residual_scale**2 + structure.basis_scale[:, 1:] ** 2)
    hierarchical = replace(
        structure, basis_scale=structure.basis_scale[:, :1], residual_scale=scale, membership=None
    )
    torch.testing.assert_close(
        log_marginal_clusters(tasks, structure, sd), log_marginal(tasks, hierarchical, sd)
    )


def test_clusters_that_do_not_differ_are_pooled():
    tasks, sd = compress(ROWS["plain"]), make_noise("shared", batch=1)
    structure = clustered(PARTITIONS["three"], "none", "none")
    assert structure.basis_scale is not None
    same = structure.basis_scale * torch.tensor([1.0, 0.0])[:, None]
    pooled = replace(structure, basis_scale=same[:, :1], membership=None)
    torch.testing.assert_close(
        log_marginal_clusters(tasks, replace(structure, basis_scale=same), sd),
        log_marginal(tasks, pooled, sd),
    )
