"""`TaskGraph` against the Gaussian Markov field written out, its limits, and graphs that make no sense.

The twin is one dense normal density of all rows, from the precision that the docstring states: nothing of
eigenvalues, A, Z and E is in it.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import MultivariateNormal

import bayesmtl as bm
from bayesmtl.algebra.collapsed import log_marginal
from bayesmtl.errors import SpecificationError
from bayesmtl.sharing import Sharing
from bayesmtl.sharing.functions import over_functions
from tests.equivalence.inputs import ROWS, compress, make_noise

T, D, B = 4, 3, 3
NAMES = ["a", "b", "c", "d"]
WEIGHTS = np.array([[0, 2.0, 0, 0.5], [2.0, 0, 1.0, 0], [0, 1.0, 0, 0], [0.5, 0, 0, 0]])


def graph(weights: np.ndarray = WEIGHTS, names: list[str] = NAMES) -> pd.DataFrame:
    return pd.DataFrame(weights, index=names, columns=names)


SHARING = bm.TaskGraph(graph())
NO_EDGES = bm.TaskGraph(graph(np.zeros((T, T))))
ALL_EDGES = bm.TaskGraph(graph(np.ones((T, T))))


def drawn(seed: int = 0) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return {p.name: p.sample(rng, B) for p in SHARING.parameters(T, D)}


def precision(coupling: float, weights: np.ndarray = WEIGHTS) -> np.ndarray:
    """Of v in |v|^2 + coupling sum over edges of a_tu (v_t - v_u)^2, mean degree 1, edge by edge."""
    size = len(weights)
    total = np.eye(size)
    mean_degree = weights.sum() / size
    for t in range(size):
        for u in range(t):
            gap = np.eye(size)[t] - np.eye(size)[u]
            total += coupling * weights[t, u] / mean_degree * np.outer(gap, gap)
    return total


def density(sharing: Sharing, values: dict[str, torch.Tensor], name: str = "mixed sizes") -> torch.Tensor:
    return log_marginal(compress(ROWS[name]), sharing.structure(values, T, D), make_noise("task", batch=B))


@pytest.mark.parametrize("name", ["mixed sizes", "fewer rows than features", "a task without rows"])
def test_the_density_is_that_of_a_markov_field(name):
    rows, values, noise = ROWS[name], drawn(), make_noise("task", batch=B)
    found = density(SHARING, values, name)
    for b in range(B):
        omega = torch.from_numpy(np.linalg.inv(precision(float(values["coupling"][b]))))
        scaled = rows.X * values["residual_scale"][b]
        C = values["mean_scale"][b] ** 2 * rows.X @ rows.X.T
        C = C + omega[rows.task][:, rows.task] * (scaled @ scaled.T) + torch.diag(noise[b][rows.task] ** 2)
        expected = MultivariateNormal(torch.zeros_like(rows.y), C).log_prob(rows.y)
        torch.testing.assert_close(found[b], expected, rtol=1e-9, atol=0)


def test_without_edges_or_coupling_it_is_hierarchical():
    values = drawn(1)
    expected = density(bm.Hierarchical(), values)
    torch.testing.assert_close(density(NO_EDGES, values), expected, rtol=1e-11, atol=0)
    values["coupling"] = torch.zeros(B, dtype=torch.float64)
    torch.testing.assert_close(density(SHARING, values), expected, rtol=1e-11, atol=0)


def test_without_edges_or_population_tasks_are_independent():
    values = drawn(2)
    values["mean_scale"] = torch.full((B,), 1e-6, dtype=torch.float64)  # its square counts
    values["residual_scale"] = torch.ones(B, D, dtype=torch.float64)
    values["task_scale"] = torch.ones(B, T, dtype=torch.float64)
    torch.testing.assert_close(
        density(NO_EDGES, values), density(bm.Independent(), values), rtol=1e-9, atol=1e-9
    )


def test_with_all_edges_and_endless_coupling_tasks_are_pooled():
    # what is left of Omega is 11' / T, which adds to the population
    values = drawn(3)
    values["residual_scale"] = torch.full((B, D), 1.2, dtype=torch.float64)
    values["mean_scale"] = torch.full((B,), 0.8, dtype=torch.float64)
    pooled = {"mean_scale": torch.full((B,), (0.64 + 1.44 / T) ** 0.5, dtype=torch.float64)}
    for coupling, tolerance in ((1e5, 1e-2), (1e12, 1e-7)):
        values["coupling"] = torch.full((B,), coupling, dtype=torch.float64)
        gap = density(ALL_EDGES, values) - density(bm.Pooled(), pooled)
        assert gap.abs().max() < tolerance


def test_order_and_unit_of_the_graph_and_its_diagonal_do_not_matter():
    order = ["c", "a", "d", "b"]
    other = bm.TaskGraph((10 * graph() + 7 * np.eye(T)).loc[order, NAMES]).of_tasks(NAMES)
    torch.testing.assert_close(density(other, drawn(4)), density(SHARING, drawn(4)), rtol=1e-11, atol=0)


@pytest.mark.parametrize("further", [0, 2], ids=["known", "new"])
def test_functions_have_the_covariance_of_the_field(further):
    reading, rng = over_functions(SHARING, bm.HalfNormal()), np.random.default_rng(0)
    values = {p.name: p.sample(rng, 1) for p in reading.parameters(T)}
    v = {name: float(value[0]) for name, value in values.items()}
    G = np.eye(T + further)  # a new task has no edges
    G[:T, :T] = np.linalg.inv(precision(v["coupling"]))
    tasks, roots = reading.structure(values, T + further), reading.roots(values, T + further)
    np.testing.assert_allclose(tasks.shape[0, 0], v["shape_scale"] ** 2 * G, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(
        tasks.level[0], v["level_scale"] ** 2 * G + v["mean_scale"] ** 2, rtol=1e-11, atol=1e-14
    )
    for root, covariance in ((roots.shape[0], tasks.shape[0, 0]), (roots.level, tasks.level[0])):
        torch.testing.assert_close(root @ root.T, covariance, rtol=1e-11, atol=1e-14)


def path_data(num_tasks: int = 6, empty: bool = True) -> tuple[bm.TaskData, pd.DataFrame]:
    """Slopes that rise along a path of tasks, the last but one without a target."""
    rng = np.random.default_rng(0)
    names = [f"t{k}" for k in range(num_tasks)]
    task, x = np.repeat(np.arange(num_tasks), 8), rng.normal(size=8 * num_tasks)
    y = (task - 2.5) * x + 0.2 * rng.normal(size=task.size)
    if empty:
        y[task == num_tasks - 2] = np.nan
    data = bm.TaskData.from_arrays(x[:, None], y, np.array(names)[task])
    return data, graph(np.eye(num_tasks, k=1) + np.eye(num_tasks, k=-1), names)


def test_a_task_without_rows_is_known_by_its_neighbours():
    data, path = path_data()
    settings = {"method": "empirical_bayes", "seed": 0, "num_draws": 400, "progress": False}
    fit = bm.LinearModel(bm.TaskGraph(path.iloc[::-1])).fit(data, **settings)
    alone = bm.LinearModel(bm.TaskGraph(path * 0)).fit(data, **settings)
    near, far = (found.coefficients().loc[("t4", "x0")] for found in (fit, alone))
    assert abs(near["mean"] - 1.5) < near["sd"] < far["sd"]
    assert abs(near["mean"] - 1.5) < abs(far["mean"] - 1.5)
    omega = fit.task_similarity(kind="structure").mean
    assert omega.sel(task="t0", task_other="t1") > 1.5 * omega.sel(task="t0", task_other="t3") > 0


def test_a_new_task_has_no_edges():
    data, path = path_data(empty=False)
    model = bm.LinearModel(bm.TaskGraph(path, coupling=bm.Fixed(5.0), mean_scale=bm.Fixed(1e-6)))
    fit = model.fit(data, method="empirical_bayes", seed=0, num_draws=1000, progress=False)
    ahead = fit.predict(([[1.0]], ["new"]), kind="latent", new_tasks="population", num_draws=4000)
    x = fit.standardization.standardize_features(np.array([[1.0, 1.0]]))[0]
    scale = fit.draws.hyperparameters["residual_scale"][0, 0].numpy()
    expected = np.linalg.norm(scale * x) * fit.standardization.target_scale[0]
    assert abs(ahead.sd[0] / expected - 1) < 0.06  # 4 standard errors of 2,000 draws


def test_functions_follow_the_graph():
    data, path = path_data()
    fit = bm.MultitaskGP(sharing=bm.TaskGraph(path)).fit(
        data, method="empirical_bayes", seed=0, num_draws=50, progress=False
    )
    ahead = fit.predict(([[1.0], [-1.0]], ["t4", "t4"]), kind="latent")
    assert ahead.mean[0] > 0.5 and ahead.mean[1] < -0.5


def refused(text: str):
    return pytest.raises(SpecificationError, match=rf"^`adjacency`: expected (.|\n)*{re.escape(text)}")


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (WEIGHTS, "found ndarray"),
        (graph().iloc[:3], "3 rows and 4 columns; on one side only or repeated: 'd'"),
        (graph().rename(columns={"d": "e"}), "on one side only or repeated: 'd', 'e'"),
        (graph(names=["a", "a", "b", "c"]), "on one side only or repeated: 'a'"),
        (pd.DataFrame(), "0 rows"),
        (graph().replace(2.0, np.nan), "nan from 'a' to 'b'"),
        (graph().replace(2.0, np.inf), "inf from 'a' to 'b'"),
        (-graph(), "found -2.0 from 'a' to 'b'"),
        (graph(np.triu(WEIGHTS)), "found 2.0 from 'a' to 'b', 0.0 back"),
        (graph().astype(object).replace(2.0, "near"), "could not convert string to float"),
    ],
)
def test_graphs_that_make_no_sense(table, text):
    with refused(text):
        bm.TaskGraph(table)


def test_the_tasks_of_graph_and_data_are_the_same():
    data, path = path_data()
    for model in (bm.LinearModel, lambda sharing: bm.MultitaskGP(sharing=sharing)):
        with refused("none for 't5'"):
            model(bm.TaskGraph(path.iloc[:5, :5])).fit(data, seed=0)
        with refused("'t9' besides"):
            wider = path.reindex(index=[*path, "t9"], columns=[*path, "t9"], fill_value=0.0)
            model(bm.TaskGraph(wider)).fit(data, seed=0)


def test_a_scale_of_nothing():
    with pytest.raises(SpecificationError, match=r"^`scale`: expected (.|\n)*Pooled"):
        bm.TaskGraph(graph(), scale=bm.Fixed(0.0))


def test_neighbours_by_descriptors_are_those_of_a_plain_loop():
    """Two descriptors of very different sizes; every pair looked at by itself."""
    rng = np.random.default_rng(0)
    names = [f"t{i}" for i in range(12)]
    table = pd.DataFrame({"small": rng.normal(size=12), "large": 1e6 * rng.normal(size=12)}, index=names)
    graph = bm.TaskGraph.from_descriptors(table, num_neighbours=3)
    scaled = (table - table.mean()) / table.std(ddof=0)
    for t in names:
        for u in names:
            nearest = [
                scaled.sub(scaled.loc[a]).pow(2).sum(axis=1).drop(a).nsmallest(3).index
                for a in (t, u)
            ]  # fmt: skip
            joined = t != u and (u in nearest[0] or t in nearest[1])
            assert graph.adjacency.weights[names.index(t)][names.index(u)] == float(joined)
    shuffled = bm.TaskGraph.from_descriptors(table.iloc[::-1], num_neighbours=3)
    assert shuffled.of_tasks(names).adjacency == graph.adjacency


def test_equally_distant_tasks_are_all_neighbours():
    table = pd.DataFrame({"x": [0.0, 1.0, 2.0]}, index=["a", "b", "c"])
    graph = bm.TaskGraph.from_descriptors(table, num_neighbours=1, coupling=bm.Fixed(2.0))
    assert graph.adjacency.weights == ((0.0, 1.0, 0.0), (1.0, 0.0, 1.0), (0.0, 1.0, 0.0))
    assert graph.coupling == bm.Fixed(2.0)


@pytest.mark.parametrize(
    "table, parameter, found",
    [
        (np.zeros((3, 1)), "descriptors", "ndarray"),
        (pd.DataFrame({"x": [1.0, np.nan]}, index=["a", "b"]), "descriptors", "nan in 'x' of 'b'"),
        (pd.DataFrame({"x": [1.0, 1.0]}, index=["a", "b"]), "descriptors", "the same 'x'"),
        (pd.DataFrame({"x": ["u", "v"]}, index=["a", "b"]), "descriptors", "'u'"),
        (pd.DataFrame({"x": [1.0, 2.0]}, index=["a", "a"]), "descriptors", "repeated: 'a'"),
        (pd.DataFrame(index=["a", "b"]), "descriptors", "0 columns"),
        (pd.DataFrame({"x": [1.0, 2.0]}, index=["a", "b"]), "num_neighbours", "3"),
    ],
    ids=["array", "missing", "constant", "text", "repeated", "no column", "too few tasks"],
)
def test_descriptors_that_give_no_graph_are_refused(table, parameter, found):
    with pytest.raises(bm.errors.SpecificationError, match=parameter) as error:
        bm.TaskGraph.from_descriptors(table)
    assert found in str(error.value)


def test_a_task_without_descriptors_is_named():
    data = bm.TaskData.from_arrays(np.arange(6.0)[:, None], np.arange(6.0) ** 2, list("aabbcc"))
    table = pd.DataFrame({"x": [0.0, 1.0]}, index=["a", "b"])
    model = bm.LinearModel(sharing=bm.TaskGraph.from_descriptors(table, num_neighbours=1))
    with pytest.raises(bm.errors.SpecificationError, match="none for 'c'"):
        model.fit(data, seed=0, progress=False)


def test_a_graph_from_descriptors_is_saved_as_a_graph():
    table = pd.DataFrame({"x": [0.0, 1.0, 5.0]}, index=["a", "b", "c"])
    graph = bm.TaskGraph.from_descriptors(table, num_neighbours=1)
    assert bm.TaskGraph.from_fields(graph.to_dict()) == graph
