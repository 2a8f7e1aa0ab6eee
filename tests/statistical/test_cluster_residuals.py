"""Clusters with scales or subspaces of their own: densities, moves, the whole sampler, and what it finds.

False-alarm budget: 1e-4 for this file, which has some 30 comparisons of probabilities at 5 standard errors
(6e-7 each) and some 12 paired tests at 1e-6. A sampler broken on purpose is noticed.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import adjusted_rand_score

import bayesmtl as bm
from bayesmtl.algebra.clusters import log_marginal_clusters
from bayesmtl.inference.partitions import steps as partition_step
from bayesmtl.inference.partitions.moves import Evidence, EvidenceByCluster, gibbs_sweep, split_merge
from bayesmtl.inference.partitions.prior_weights import ShareWeights
from bayesmtl.inference.partitions.steps import _ByCluster
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from benchmarks import partition_calibration
from benchmarks.common import prepare
from benchmarks.partition_calibration import advanced, simulate
from tests.seeds import seeded
from tests.statistical import test_partition_outcomes

pytestmark = [pytest.mark.statistical]

OWN = {
    "scales": {"scales": "cluster"},
    "subspaces": {"basis": "low_rank", "rank": 1},
    "subspaces alone": {"basis": "low_rank", "rank": 2, "within": "none", "strength": 1.0},
    "both": {"basis": "low_rank", "rank": 1, "scales": "cluster"},
}


def labelled(num_tasks: int, num_clusters: int) -> torch.Tensor:
    """All ways to give tasks to numbered clusters, shape (K^T, T)."""
    return torch.tensor(list(itertools.product(range(num_clusters), repeat=num_tasks)))


def toy(sharing: bm.Clusters, num_tasks: int = 4) -> LinearPosterior:
    """Tasks of two to five rows with two features."""
    rng = np.random.default_rng(5)
    task = np.repeat(np.arange(num_tasks), 2 + np.arange(num_tasks) % 4)
    X = rng.normal(size=(len(task), 2))
    y = X[:, 0] * (1 + task % 2) - 0.5 * X[:, 1] + 0.5 * rng.normal(size=len(task))
    names = np.array([f"task_{t}" for t in task])
    data = bm.TaskData.from_arrays(X, y, names, intercept=False).with_target_standardization("none")
    return prepare(bm.LinearModel(sharing), data)


def drawn(problem: LinearPosterior, number: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Hyperparameters from their prior, the same so many times."""
    one = problem.space.sample(np.random.default_rng(seeded(seed)), 1)
    return {name: value.expand(number, *value.shape[1:]) for name, value in one.items()}


def log_density(problem: LinearPosterior, values: dict[str, torch.Tensor]) -> torch.Tensor:
    """log p(y | clusters, hyperparameters), shape (B,)."""
    noise = problem.noise(values, len(values["cluster"]))
    return log_marginal_clusters(problem.tasks, problem.structure(values), noise)


def dense_density(problem: LinearPosterior, values: dict[str, torch.Tensor], b: int) -> float:
    """log p(y | clusters, hyperparameters) from the covariance of all weights, slowly."""
    member, T = values["cluster"][b].numpy(), problem.tasks.num_tasks
    D = problem.tasks.num_features
    at = {name: value[b].numpy() for name, value in values.items()}
    prior = np.kron(np.ones((T, T)), float(at["mean_scale"]) ** 2 * np.eye(D))
    together = (member[:, None] == member).astype(float)
    prior += np.kron(together, np.diag(at["cluster_scale"] ** 2))
    for t, k in enumerate(member):
        own = np.zeros((D, D))
        if "residual_scale" in at:
            scale = at["residual_scale"]
            own += np.diag((scale[k] if scale.ndim == 2 else scale) ** 2)
        if "directions" in at:
            own += at["directions"][k].T @ at["directions"][k]
        prior[t * D : (t + 1) * D, t * D : (t + 1) * D] += own
    sd, total = float(problem.noise(values, len(values["cluster"]))[b, 0]), 0.0
    rows, targets = [], []
    for group in problem.tasks.groups:
        for t, block in zip(group.index.tolist(), group.rows.numpy(), strict=True):
            for row in block:
                wide = np.zeros(T * D)
                wide[t * D : (t + 1) * D] = row[:-1]
                rows.append(wide)
                targets.append(row[-1])
    F, c = np.array(rows), np.array(targets)
    total = stats.multivariate_normal(np.zeros(len(c)), F @ prior @ F.T + sd**2 * np.eye(len(c))).logpdf(c)
    # what rotation took out of the rows: n_t - r_t dimensions of pure noise, padding among the r_t
    left = float(problem.tasks.count.sum()) - len(c)
    rest = float(problem.tasks.residual.sum())
    return float(total - 0.5 * rest / sd**2 - left * (np.log(sd) + 0.5 * np.log(2 * np.pi)))


@pytest.mark.parametrize("name", OWN)
def test_density_is_the_dense_one(name):
    problem = toy(bm.Clusters(3, **OWN[name]))
    states = torch.tensor([[0, 0, 0, 0], [2, 1, 2, 1], [0, 1, 2, 2]])
    values = problem.space.sample(np.random.default_rng(seeded(1)), 3) | {"cluster": states}
    found = log_density(problem, values)
    for b in range(3):
        assert float(found[b]) == pytest.approx(dense_density(problem, values, b), abs=1e-8)


@pytest.mark.parametrize("name", OWN)
def test_gradient_of_the_density(name):
    """Analytic against central differences, empty clusters included."""
    posterior = toy(bm.Clusters(3, bm.Gamma(2.0, 2.0), **OWN[name]))
    problem = posterior.given(torch.tensor([[2, 0, 2, 0]]))
    point = problem.space.initial(np.random.default_rng(seeded(3)), 1)
    _, gradient = problem.value_and_gradient(point)
    step = 1e-5 * torch.eye(point.shape[1], dtype=point.dtype)
    given = posterior.given(torch.tensor([[2, 0, 2, 0]]).expand(point.shape[1], -1))
    numeric = (given.value(point + step) - given.value(point - step)) / 2e-5
    torch.testing.assert_close(gradient[0], numeric, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OWN)
def test_what_moves_look_at_is_the_density(name):
    """With mu as good as 0, differences over all states are those of the collapsed density."""
    problem = toy(bm.Clusters(2, mean_scale=bm.Fixed(1e-9), **OWN[name]))
    states = labelled(4, 2)
    values = drawn(problem, len(states)) | {"cluster": states}
    structure, noise = problem.structure(values), problem.noise(values, len(states))
    evidence = _ByCluster.of(problem.tasks, structure, noise)
    data = evidence.about_population(states, torch.Generator().manual_seed(seeded(0)))
    found = data.log_density(states.numpy())
    expected = log_density(problem, values).numpy()
    np.testing.assert_allclose(found - found[0], expected - expected[0], atol=1e-6)


def test_states_have_the_probabilities_of_partitions():
    """Summed over numbers, and without a preference for any."""
    numbered, plain = bm.Clusters(3, scales="cluster"), bm.Clusters(3)
    states = labelled(4, 3)
    values = {"concentration": torch.full((len(states),), 0.7, dtype=torch.float64)}
    probability = numbered.log_partition(states, values).exp()
    assert float(probability.sum()) == pytest.approx(1.0, abs=1e-12)
    same = states[:, 0] == states[:, 3]
    expected = (0.7 + 1) / (3 * 0.7 + 1)
    assert float(probability[same].sum()) == pytest.approx(expected, abs=1e-12)
    partition = bm.sharing.partitions.base.in_order(states)
    merged = plain.log_partition(partition, values).exp()
    number = bm.sharing.partitions.base.num_clusters(states)
    choices = torch.tensor([1.0, 3.0, 6.0, 6.0], dtype=torch.float64)[number]
    torch.testing.assert_close(probability * choices, merged)


# --- limits ---


def test_one_cluster_is_low_rank():
    """K = 1 without a spread of cluster means: the same density of the same point."""
    plain = prepare(bm.LinearModel(bm.LowRank(2)), data := _toy_data())
    one = prepare(bm.LinearModel(bm.Clusters(1, basis="low_rank", rank=2, spread=bm.Fixed(0.0))), data)
    point = plain.space.initial(np.random.default_rng(seeded(0)), 5)
    order = {p.name: p for p in plain.space.parameters}
    assert [p.name for p in one.space.parameters if p.size] == [name for name in order if order[name].size]
    together = torch.zeros(5, data.num_tasks, dtype=torch.long)
    torch.testing.assert_close(one.given(together).value(point), plain.value(point))


def test_no_directions_and_equal_scales_are_clusters():
    """The same density of the data, however clusters are numbered."""
    plain, own = toy(bm.Clusters(3)), toy(bm.Clusters(3, basis="low_rank", rank=1, scales="cluster"))
    states = torch.tensor([[1, 0, 1, 2], [2, 2, 0, 0]])
    values = drawn(plain, 2) | {"cluster": states}
    wide = values | {
        "residual_scale": values["residual_scale"][:, None].expand(-1, 3, -1),
        "directions": torch.zeros(2, 3, 1, 2, dtype=torch.float64),
    }
    torch.testing.assert_close(log_density(own, wide), log_density(plain, values))


def _toy_data() -> bm.TaskData:
    rng = np.random.default_rng(seeded(2))
    task = np.array([f"task_{t}" for t in np.repeat(np.arange(5), 4)])
    return bm.TaskData.from_arrays(rng.normal(size=(20, 3)), rng.normal(size=20), task)


# --- moves ---


def disagreement(kind: str, *, num_chains: int = 3000, num_clusters: int = 3) -> float:
    """Largest standardised difference of frequencies of states from their enumerated probabilities."""
    prior, T = bm.Clusters(num_clusters, scales="cluster"), 4
    rng = np.random.default_rng(seeded(1))
    strength = 0.3 if kind == "split-merge" else 1.0
    root = strength * rng.normal(size=(num_clusters, T, 2, 3))
    matrix, q = torch.from_numpy(root @ np.swapaxes(root, -1, -2)), rng.normal(size=(num_clusters, T, 2))
    terms = np.stack(
        [
            Evidence.of(Q[None], torch.from_numpy(strength * x)[None]).terms[0]
            for Q, x in zip(matrix, q, strict=True)
        ]
    )
    density = strength * rng.normal(size=(num_clusters, T))
    states = labelled(T, num_clusters).numpy()

    def data(number: int) -> EvidenceByCluster:
        return EvidenceByCluster(
            np.broadcast_to(terms, (number, *terms.shape)), np.broadcast_to(density, (number, *density.shape))
        )

    def values(number: int) -> dict[str, torch.Tensor]:
        return {"concentration": torch.full((number,), 0.6, dtype=torch.float64)}

    log_prior = prior.log_partition(torch.from_numpy(states), values(len(states))).numpy()
    exact = np.exp(log_prior + data(len(states)).log_density(states))
    exact /= exact.sum()
    # split-merge leaves the number of a task's own cluster alone: it starts from the right one
    start = np.random.default_rng(seeded(2)).choice(len(states), p=exact, size=num_chains)
    membership = states[start] if kind == "split-merge" else np.zeros((num_chains, T), dtype=int)
    weights, generator = ShareWeights(prior, values(num_chains)), torch.Generator().manual_seed(seeded(3))
    for _ in range(20 if kind == "split-merge" else 10):
        if kind == "split-merge":
            membership, _ = split_merge(membership, data(num_chains), weights, generator)
        else:
            membership = gibbs_sweep(membership, data(num_chains), weights, generator)
    found = (membership[:, None] == states).all(2).mean(0)
    usable = exact > 5 / num_chains
    assert usable.sum() >= 5
    return float(np.max(np.abs(found - exact)[usable] / np.sqrt(exact * (1 - exact) / num_chains)[usable]))


@pytest.mark.parametrize("kind, num_clusters", [("Gibbs", 3), ("split-merge", 3), ("split-merge", 2)])
def test_moves_agree_with_enumeration(kind, num_clusters):
    assert disagreement(kind, num_clusters=num_clusters) < 5


def test_enumeration_notices_a_forgotten_density(monkeypatch):
    """A Gibbs move that forgets what residuals say about a task whatever the cluster's mean."""
    right = EvidenceByCluster.bonus

    def wrong(self, chain, cluster, task):
        return right(self, chain, cluster, task) * (not isinstance(task, int))

    monkeypatch.setattr(EvidenceByCluster, "bonus", wrong)
    assert disagreement("Gibbs") > 5


# --- the whole sampler ---


def geweke(name: str, num_sets: int, seed: int, *, steps: int = 3) -> dict[str, float]:
    """p-values of the hypothesis that a few transitions change no mean, as in `test_partitions`."""
    # a t of 3 degrees of freedom has no fourth moment: functions are logarithms, or bounded
    model = bm.LinearModel(bm.Clusters(2, bm.Gamma(2.0, 2.0), **OWN[name]))
    simulated = simulate(model, num_sets, 5, 8, seed)
    problem, cluster = simulated.problem, simulated.values["cluster"]
    points, state = advanced(simulated, seed, steps)
    before = functions(problem, points, cluster)
    after = functions(problem, state.points, state.further["membership"])
    return {name: float(stats.ttest_rel(b, after[name]).pvalue) for name, b in before.items()}


def functions(problem: LinearPosterior, points: torch.Tensor, cluster: torch.Tensor) -> dict[str, np.ndarray]:
    """Functions of hyperparameters, clusters and data, each (B,)."""
    found = partition_calibration.shown(problem.space, points, cluster, problem.given(cluster))
    values = problem.space.constrain(points) | {"cluster": cluster}
    scale = problem.sharing.report(values)["residual_scale"].values.log()
    positive = {"concentration", "cluster_scale", "residual_scale", "noise"}
    found = {key: np.log(x) if key in positive else x for key, x in found.items() if key != "directions"}
    return found | {
        "scale of a task": scale[:, 0, 0].numpy(),
        "scales of tasks differ": (scale[:, 0, 1] - scale[:, 3, 1]).abs().numpy(),
        "number of the first cluster": (cluster[:, 0] == 0).double().numpy(),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scales", "both"])
def test_the_sampler_leaves_the_joint_distribution_unchanged(name):
    p_values = geweke(name, num_sets=400, seed=seeded(21))
    assert min(p_values.values()) > 1e-6, p_values


@pytest.mark.slow
def test_residuals_of_the_wrong_cluster_are_noticed(monkeypatch):
    """Tasks that look at each cluster with the residuals of the other."""
    right = partition_step._all_in
    monkeypatch.setattr(partition_step, "_all_in", lambda structure, k: right(structure, 1 - k))
    p_values = geweke("both", num_sets=400, seed=seeded(22))
    assert min(p_values.values()) < 1e-6, p_values


@pytest.mark.slow
def test_the_sampler_with_outcomes_leaves_the_joint_distribution_unchanged():
    """Given Polya-Gamma variables. Twelve pairs show what is gravely wrong only."""
    model = bm.LinearModel(bm.Clusters(2, bm.Gamma(2.0, 2.0), scales="cluster"), bm.Bernoulli())
    p_values = test_partition_outcomes.geweke(model, num_pairs=12, seed=seeded(5))
    assert min(p_values.values()) > 1e-6, p_values


# --- what is found ---


def two_groups(seed: int = 0) -> tuple[bm.TaskData, np.ndarray, np.ndarray]:
    """Sixteen tasks around one mean, half of them along one direction, half along another."""
    rng = np.random.default_rng(seeded(seed))
    T, D, rows = 16, 4, 12
    group = np.arange(T) % 2
    along = np.array([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    # even along each line: clumps at its ends would be told apart by means
    size = np.repeat(np.array([-2.0, -1.5, -1.1, -0.8, 0.8, 1.1, 1.5, 2.0]), 2)
    W = size[:, None] * along[group] + 0.05 * rng.normal(size=(T, D))
    task = np.repeat(np.arange(T), rows)
    X = rng.normal(size=(len(task), D))
    y = (X * W[task]).sum(1) + 0.3 * rng.normal(size=len(task))
    names = np.array([f"task_{t:02d}" for t in task])
    return bm.TaskData.from_arrays(X, y, names), group, W


@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_groups_of_tasks_in_subspaces_are_found():
    """Where all means are alike: clusters without subspaces of their own do not find the groups."""
    data, group, _ = two_groups()
    found = {}
    own = bm.Clusters(2, basis="low_rank", rank=1, spread=bm.Fixed(0.0))
    for name, sharing in {"own": own, "mean": bm.Clusters(2)}.items():
        fit = bm.LinearModel(sharing).fit(
            data, seed=seeded(0), num_chains=1, num_warmup=30, num_draws=15, progress=False
        )
        found[name] = adjusted_rand_score(group, fit.partition().point.to_numpy())
    assert found["own"] == 1.0 and found["mean"] < 0.3, found


@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_a_fit_is_named_saved_and_updated(tmp_path):
    """What every task has is named by the task; a file gives the same answers; a new task joins a cluster."""
    data = _toy_data()
    sharing = bm.Clusters(2, basis="low_rank", rank=1, scales="cluster")
    first = data.select_tasks(data.task_names[:4])
    fit = bm.LinearModel(sharing).fit(
        first, seed=seeded(0), num_chains=2, num_warmup=10, num_draws=20, progress=False
    )
    assert fit.posterior["residual_scale"].dims == ("chain", "draw", "task", "feature")
    assert "directions" not in fit.posterior and list(fit.posterior["task"].values) == list(first.task_names)
    fit.save(tmp_path / "fit.nc")
    loaded = bm.load(tmp_path / "fit.nc")
    assert loaded.sharing == sharing
    np.testing.assert_allclose(loaded.predict(first).mean, fit.predict(first).mean, rtol=1e-12)
    updated = fit.condition(data.select_tasks(data.task_names[4:]))
    assert updated.task_names == data.task_names
    cluster = updated.draws.hyperparameters["cluster"]
    assert cluster.shape[-1] == 5 and 0 <= int(cluster.min()) and int(cluster.max()) <= 1
    assert np.isfinite(updated.posterior["residual_scale"].to_numpy()).all()
