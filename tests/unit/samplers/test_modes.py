"""Where chains start, and densities of many points in parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import bayesmtl as bm
from bayesmtl.inference.partitions.engine import WeightPartitionSampler
from bayesmtl.inference.partitions.steps import _Given
from bayesmtl.posteriors.linear import posterior as problem_module
from bayesmtl.samplers.modes import find_modes, rounded
from benchmarks.partitions import clustered_data


@pytest.mark.parametrize("width", [1.0, 0.1, 1e-2, 7e-4, 3e-6])
def test_rounding_moves_a_start_by_less_than_its_width(width):
    """A tenth of the posterior's width, or three decimals where that is finer; the same for what differs by
    rounding."""
    rng = np.random.default_rng(0)
    point = torch.from_numpy(rng.normal(size=5))
    root = width * torch.diag(torch.from_numpy(rng.uniform(1.0, 2.0, size=5)))
    start, kept = rounded(point, root)
    assert (start - point).abs().max() <= max(0.06 * width, 0 if width < 1e-2 else 5.1e-4)
    torch.testing.assert_close(kept, root, rtol=0.02, atol=0)
    again, same = rounded(point + 1e-12 * width, root * (1 + 1e-12))
    assert torch.equal(again, start)
    torch.testing.assert_close(same, kept, rtol=1e-10, atol=0)


def test_many_points_are_evaluated_in_parts(lab_data, monkeypatch):
    problem = bm.LinearModel()._posterior(lab_data)
    points = problem.space.initial(np.random.default_rng(0), 11)
    whole = problem.value(points)
    monkeypatch.setattr(problem_module, "_AT_ONCE", 1)
    torch.testing.assert_close(problem.value(points), whole, rtol=1e-13, atol=0)


def test_chains_over_partitions_start_near_the_mode_given_theirs():
    """Within a few nats of it, where plain starting points are hundreds below."""
    data, _, _ = clustered_data(3, 0.2, 0)
    problem = bm.LinearModel(bm.DirichletProcess())._posterior(data)
    state = WeightPartitionSampler(problem, 20).start(3, np.random.default_rng(0))
    plain = problem.space.initial(np.random.default_rng(1), 3)
    for c, partition in enumerate(state.further["membership"]):
        given = _Given(problem, partition)
        (mode,) = find_modes(given, plain[c : c + 1])
        assert mode.value - 10 < float(state.value[c])
        assert float(given.value(plain[c : c + 1])[0]) < mode.value - 30
