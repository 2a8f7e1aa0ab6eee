"""Partitions of tasks' functions: against enumeration, and the joint distribution left unchanged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

import bayesmtl as bm
from bayesmtl.algebra.functions import factorise
from bayesmtl.errors import DataError, SpecificationError
from bayesmtl.inference.partitions import functions as function_partitions
from bayesmtl.inference.partitions.functions import FunctionPartitionSampler, PartitionedFunctions
from bayesmtl.sharing.partitions.base import in_order, num_clusters
from tests.seeds import seeded

pytestmark = pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")

T, EACH = 4, 3
GIBBS = {"seed": seeded(0), "progress": False, "num_draws": 150, "num_warmup": 20}
PRIORS = {
    "Dirichlet process, diagonal": bm.DirichletProcess(mean_scale=bm.HalfNormal(1.0)),
    "clusters": bm.Clusters(3, within="none", concentration=bm.Gamma(2.0, 2.0)),
}


def known(within: str) -> bm.MultitaskGP:
    """Every hyperparameter known, so that partitions can be enumerated."""
    sharing = bm.DirichletProcess(
        within=within, scale=bm.Fixed(0.3), concentration=bm.Fixed(1.5), mean_scale=bm.Fixed(0.5)
    )
    kernel = bm.Matern(lengthscale=bm.Fixed(0.8))
    return bm.MultitaskGP(kernel, sharing, bm.Gaussian(noise=0.5), amplitude=bm.Fixed(0.9))


def toy(seed: int = 2) -> bm.TaskData:
    rng = np.random.default_rng(seed)
    task = np.repeat(np.arange(T), EACH)
    x = rng.normal(size=T * EACH)
    y = np.where(task < 2, np.sin(2 * x), -np.sin(2 * x)) + 0.3 * rng.normal(size=x.size)
    names = np.array(["a", "b", "c", "d"])[task]
    data = bm.TaskData.from_arrays(x[:, None], y, names, intercept=False)
    return data.with_target_standardization("none")


def partitions() -> torch.Tensor:
    """All 15 partitions of four tasks."""
    every = torch.cartesian_prod(*(torch.arange(T),) * T)
    return torch.unique(in_order(every), dim=0)


def enumerated(model: bm.MultitaskGP, data: bm.TaskData) -> np.ndarray:
    """Posterior probabilities of all partitions, from the dense density of all rows."""
    problem, every = model._posterior(data), partitions()
    values = problem.space.constrain(torch.zeros(len(every), 0).double()) | {"cluster": every}
    density = problem.log_marginal(values, len(every)) + model.sharing.log_partition(every, values)
    return torch.softmax(density, 0).numpy()


@pytest.mark.parametrize("within", ["none", "diagonal"])
def test_evidence_is_the_dense_density(within):
    model, every = known(within), partitions()
    problem = model._posterior(toy())
    values = problem.space.constrain(torch.zeros(1, 0).double())
    of_all = problem.space.constrain(torch.zeros(len(every), 0).double()) | {"cluster": every}
    expected = problem.log_marginal(of_all, len(every)).numpy()
    terms = PartitionedFunctions.of(problem).evidence(values, 1)
    found = np.array([terms.log_density(one.numpy()[None])[0] for one in every])
    np.testing.assert_allclose(found - found[0], expected - expected[0], atol=1e-5)


@pytest.mark.parametrize("within", ["none", "diagonal"])
def test_engine_agrees_with_enumeration(within):
    """600 nearly independent draws: 4.5 standard errors of every probability, at most 30 of them."""
    model, data = known(within), toy()
    expected = enumerated(model, data)
    fit = model.fit(data, **GIBBS)
    drawn = fit.draws.hyperparameters["cluster"].flatten(0, 1)
    found = (drawn[:, None] == partitions()).all(-1).double().mean(0).numpy()
    assert found.sum() == pytest.approx(1.0)
    error = np.sqrt(expected * (1 - expected) / len(drawn))
    # split-merge and a sweep per draw leave little autocorrelation: errors are at most doubled
    np.testing.assert_array_less(np.abs(found - expected), 4.5 * 2 * error + 1e-3)
    together = fit.partition().co_clustering.to_numpy()
    every = partitions()
    exact = (expected[:, None, None] * (every[:, :, None] == every[:, None, :]).numpy()).sum(0)
    np.testing.assert_allclose(together, exact, atol=0.15)


@pytest.mark.parametrize("within", ["none", "diagonal"])
def test_a_new_task_joins_clusters_as_often_as_enumeration_says(within):
    """Rows of the fourth task come by `condition`: its cluster given those of the others."""
    model, data = known(within), toy()
    first, rest = data._rows(data.task < 3), data._rows(data.task == 3)
    fit = model.fit(first.select_tasks(["a", "b", "c"]), **GIBBS)
    wiser = fit.condition(rest.select_tasks(["d"]))
    assert wiser.added_tasks == ("d",)
    drawn = wiser.draws.hyperparameters["cluster"].flatten(0, 1)
    problem = wiser.problem
    weight = np.zeros((len(partitions()), 2))
    every = partitions()
    values = problem.space.constrain(torch.zeros(len(every), 0).double()) | {"cluster": every}
    density = problem.log_marginal(values, len(every)) + model.sharing.log_partition(every, values)
    for i, one in enumerate(every):  # p(d's cluster | the others'), for the others as they were drawn
        same = (every[:, :3] == one[:3]).all(1)
        weight[i, 0] = float((density[i] - density[same].logsumexp(0)).exp())
        share = (drawn[:, :3] == one[:3]).all(1).double().mean()
        weight[i, 0] *= float(share)
        weight[i, 1] = float((drawn == one).all(1).double().mean())
    assert weight.sum(0) == pytest.approx([1.0, 1.0])
    # sixteen candidates for each of 600 draws: 4.5 standard errors
    np.testing.assert_allclose(weight[:, 1], weight[:, 0], atol=0.1)


def coordinates(problem, values) -> torch.Tensor:
    parts = [
        (values[p.name].log() if p.space == "log" else values[p.name]).reshape(1, -1)
        for p in problem.space.parameters
        if p.size
    ]
    return torch.cat(parts, dim=1)


def summaries(values) -> dict[str, float]:
    """Label-free functions of the state, with logarithms of what is positive."""
    cluster = values["cluster"][0]
    shown = {
        "number of clusters": float(num_clusters(cluster[None])[0]),
        "first two together": float(cluster[0] == cluster[1]),
    }
    for name in ("concentration", "amplitude", "lengthscale", "noise", "private_scale", "mean_scale"):
        if name in values:
            shown[name] = float(values[name].abs().log().mean())
    return shown


def geweke(sharing, num_pairs: int, seed: int, *, steps: int = 1) -> dict[str, float]:
    """p-values of the hypothesis that transitions from draws of the joint distribution change no mean.

    Source: Geweke (2004); with independent starts, Gandy and Scott (2020).
    """
    rng = np.random.default_rng(seed)
    problem = bm.MultitaskGP(sharing=sharing)._posterior(toy())
    before, after = [], []
    for pair in range(num_pairs):
        values = problem.space.sample(rng, 1)
        values["cluster"] = sharing.sample_partition(values, T, rng)
        L, _ = factorise(problem.covariance(values, 1))
        y = L[0] @ torch.from_numpy(rng.standard_normal(T * EACH))
        here = replace(problem, y=y)
        before.append(summaries(values))
        sampler = FunctionPartitionSampler(PartitionedFunctions.of(here), num_warmup=0)
        sampler.given = sampler.functions.given(values["cluster"])
        points = coordinates(here, values)
        root = 0.5 * torch.eye(points.shape[1], dtype=torch.float64)
        state = sampler.hmc.start(points, root, torch.Generator().manual_seed(seed + 7 * pair))
        state.further = {"membership": values["cluster"], "kept": values["cluster"][:, None][:, :0]}
        for _ in range(steps):
            sampler.advance(state)
        after.append(summaries(here.space.constrain(state.points) | {"cluster": state.further["membership"]}))
    moved = {
        name: np.array([a[name] - b[name] for a, b in zip(after, before, strict=True)]) for name in before[0]
    }
    return {
        name: float(stats.ttest_1samp(change, 0.0).pvalue) if change.any() else 1.0
        for name, change in moved.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", PRIORS)
def test_the_sampler_leaves_the_joint_distribution_unchanged(name):
    """Up to eight p-values each, 15 in all: a false alarm with a probability below 15e-6."""
    p_values = geweke(PRIORS[name], num_pairs=50, seed=seeded(11))
    assert min(p_values.values()) > 1e-6, p_values


@pytest.mark.slow
def test_wrong_evidence_is_noticed(monkeypatch):
    """One that takes the noise for a tenth of what it is."""
    right = PartitionedFunctions.evidence

    def wrong(self, values, num_draws):
        return right(self, values | {"noise": 0.1 * values["noise"]}, num_draws)

    monkeypatch.setattr(PartitionedFunctions, "evidence", wrong)
    p_values = geweke(PRIORS["clusters"], num_pairs=50, seed=seeded(12))
    assert p_values["number of clusters"] < 1e-4, p_values


# the promises


@pytest.fixture(scope="module")
def fit() -> bm.FunctionFit:
    rng = np.random.default_rng(0)
    task = np.repeat(np.arange(6), 6)
    x = rng.uniform(0, 6, len(task))
    y = np.where(task < 3, np.sin(x), np.cos(2 * x)) + 0.1 * rng.normal(size=len(x))
    data = bm.TaskData.from_arrays(x[:, None], y, np.array([f"lab_{t}" for t in task]))
    model = bm.MultitaskGP(sharing=bm.DirichletProcess())
    return model.fit(data, seed=seeded(0), num_chains=2, num_draws=30, num_warmup=30, progress=False)


def test_partition_is_found_and_named(fit, tmp_path):
    assert fit.method == "gibbs" and "partition of the tasks is unknown" in fit.reason
    members = sorted(fit.partition().summary()["members"])
    assert members == ["lab_0, lab_1, lab_2", "lab_3, lab_4, lab_5"]
    similarity = fit.task_similarity().mean.to_numpy()
    assert similarity[0, 1] > 0.8 and abs(similarity[0, 4]) < 0.2
    assert "num_clusters" in fit.posterior and "cluster" not in fit.posterior
    fit.save(tmp_path / "fit.nc")
    loaded = bm.load(tmp_path / "fit.nc")
    np.testing.assert_array_equal(loaded.partition().draws, fit.partition().draws)
    new = ([[1.5], [1.5]], ["lab_0", "lab_9"])
    first, second = (f.predict(new, new_tasks="population", kind="latent") for f in (fit, loaded))
    np.testing.assert_array_equal(first.draws, second.draws)
    assert first.sd[1] > 3 * first.sd[0] and abs(first.mean[0] - np.sin(1.5)) < 0.25


def test_few_rows_find_the_cluster_of_a_new_task(fit):
    x = np.array([0.5, 1.5, 3.0, 4.5])
    rows = bm.TaskData.from_arrays(x[:, None], np.cos(2 * x), ["late"] * 4)
    together = fit.condition(rows).partition().co_clustering.to_pandas().loc["late"]
    assert together["lab_4"] > 0.9 and together["lab_1"] < 0.1


def test_what_partitions_cannot_do_is_refused(fit, monkeypatch):
    data = fit.data
    with pytest.raises(SpecificationError, match="'auto' or 'gibbs' for DirichletProcess"):
        bm.MultitaskGP(sharing=bm.DirichletProcess()).fit(data, method="exact", seed=0)
    with pytest.raises(SpecificationError, match="'svi' for this sharing prior"):
        bm.MultitaskGP().fit(data, method="gibbs", seed=0)
    with pytest.raises(SpecificationError, match="Gaussian.. for Clusters over functions"):
        bm.MultitaskGP(sharing=bm.Clusters(2), likelihood=bm.StudentT()).fit(data, seed=0)
    with pytest.raises(SpecificationError, match='"none" or "diagonal" for functions'):
        bm.MultitaskGP(sharing=bm.Clusters(2, within="full"))
    with pytest.raises(SpecificationError, match="spread.*for functions"):
        bm.MultitaskGP(sharing=bm.Clusters(2, spread=bm.HalfNormal(3.0)))
    with pytest.raises(SpecificationError, match="at most the number of tasks"):
        bm.MultitaskGP(sharing=bm.Clusters(9)).fit(data, seed=0)
    with pytest.raises(SpecificationError, match="a prior over partitions"):
        bm.MultitaskGP().fit(data, method="empirical_bayes", seed=0, progress=False).partition()
    monkeypatch.setattr(function_partitions, "MOST_INPUTS", 10)
    with pytest.raises(DataError, match="at most 10 distinct inputs"):
        bm.MultitaskGP(sharing=bm.Clusters(2)).fit(data, seed=0)
