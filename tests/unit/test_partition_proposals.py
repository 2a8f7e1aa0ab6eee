"""Where chains over partitions start, and the pairs of tasks that proposals begin with."""

import numpy as np
import torch

import bayesmtl as bm
from bayesmtl.inference.partitions import moves as partition_moves
from bayesmtl.inference.partitions import steps as partition_step
from benchmarks.common import prepare
from benchmarks.partitions import clustered_data


def test_the_second_task_is_a_neighbour_every_other_time():
    """And orders stay orders."""
    rng = np.random.default_rng(0)
    order = rng.random((4000, 6)).argsort(1)
    near = (np.arange(6)[:, None] + np.array([1, 3])) % 6
    found = partition_moves._with_neighbour(order, near, rng.random((2, 4000)))
    assert (np.sort(found, 1) == np.arange(6)).all() and (found[:, 0] == order[:, 0]).all()
    is_near = ((found[:, 1] - found[:, 0]) % 6)[:, None] == np.array([1, 3])
    expected = 0.5 + 0.5 * 2 / 5  # chosen, or by chance
    assert abs(is_near.any(1).mean() - expected) < 5 * np.sqrt(expected * (1 - expected) / 4000)


def test_neighbours_and_the_number_of_proposals():
    """Neighbours have like data; after warm-up the number of proposals does not depend on the state."""
    data, truth, _ = clustered_data(3, 0.1, 1, num_tasks=60)
    tasks = prepare(bm.LinearModel(bm.DirichletProcess()), data).tasks
    near = partition_step.neighbours(tasks)
    assert near.shape == (60, 20) and (near != np.arange(60)[:, None]).all()
    truth = truth[np.argsort(np.unique([f"task_{t:02d}" for t in range(60)]))]
    assert (truth[near[:, :5]] == truth[:, None]).mean() > 0.95
    few = prepare(bm.LinearModel(bm.DirichletProcess()), clustered_data(3, 0.1, 1)[0]).tasks
    assert partition_step.neighbours(few) is None
    together, apart = torch.zeros(2, 60, dtype=torch.long), torch.arange(60).expand(2, -1)
    number = [partition_step.num_proposals(m, warming_up=False) for m in (together, apart)]
    assert number == [1, 1] and partition_step.num_proposals(apart, warming_up=True) == 60


def test_chains_start_with_all_together_all_apart_and_by_k_means():
    """Twenty tasks in four heaps: chains have 1, 20, 2 and 4 clusters, those heaps, and then more."""
    rng = np.random.default_rng(0)
    heap = rng.integers(4, size=20)
    points = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])[heap] + 0.1 * rng.normal(size=(20, 2))
    given = points.copy()
    starts = partition_step.dispersed_partitions(bm.DirichletProcess(), points, 8, rng).numpy()
    assert [len(np.unique(start)) for start in starts] == [1, 20, 2, 4, 1, 20, 4, 8]
    assert np.array_equal(points, given)
    for start in (starts[3], starts[6]):
        assert ((start[:, None] == start) == (heap[:, None] == heap)).all()
    # the heaps that are halves stay whole
    assert all(len(np.unique(starts[2][heap == k])) == 1 for k in range(4))
    few = partition_step.dispersed_partitions(bm.Clusters(3), points, 4, rng).numpy()
    assert [len(np.unique(start)) for start in few] == [1, 3, 2, 3]
