"""The SVI engine: its guide, its minibatches, and its answer beside exact ones.

False-alarm budget: 1e-4 for this file; seeds are fixed, and tolerances are those that the engine claims.
"""

from __future__ import annotations

import numpy as np
import pyro
import pytest
import torch

import bayesmtl as bm
from bayesmtl.algebra.conditional import draw_weights
from bayesmtl.inference.svi.engine import rise_of
from bayesmtl.inference.svi.guide import Guide, pseudo_rows
from bayesmtl.posteriors.linear.batches import RowBatches
from bayesmtl.posteriors.linear.posterior import gram_and_cross
from tests.equivalence.test_sampled_jointly import SHARINGS, joint_of
from tests.seeds import seeded


def guide_of(name: str, outcome: str = "bernoulli") -> Guide:
    problem = joint_of(name, outcome, basis_centred=True)[0].problem
    rng = np.random.default_rng(seeded(1))
    point = problem.space.initial(rng, 1)
    values = problem.space.constrain(point)
    structure = problem.structure(values)
    gram, linear = gram_and_cross(problem.tasks)
    R = 0 if structure.basis_scale is None else structure.basis_scale.shape[1]
    basis = torch.from_numpy(rng.normal(size=(R, 3)))
    return Guide(problem, point[0], basis, *pseudo_rows(gram, linear), 0.1)


@pytest.mark.parametrize("outcome", ["gaussian", "bernoulli"])
@pytest.mark.parametrize("name", [name for name in SHARINGS if name != "Pooled"])
def test_the_guide_is_the_posterior_given_pseudo_rows(name, outcome):
    """Its weights have the moments of the algebra's own draws: 20,000 of each, 6 standard errors."""
    guide = guide_of(name, outcome)
    problem, every, S = guide.problem, torch.arange(6), 20_000
    _, values, structure, Z = guide.shared(guide.loc.detach()[None])
    means, root = guide.of_tasks(structure, Z, every)
    with torch.no_grad():
        mean, precision = guide.conditional(values, means, root, every)
    rng = np.random.default_rng(seeded(0))
    fresh = torch.from_numpy(rng.normal(size=(S, *mean.shape[1:], 1)))
    L = torch.linalg.cholesky(precision)
    x = mean + torch.linalg.solve_triangular(L.transpose(-1, -2), fresh, upper=True)[..., 0]
    ours = (means + (root @ x[..., None])[..., 0]).numpy()
    noise = problem.noise(values, 1).detach()
    theirs = draw_weights(problem.tasks, structure, noise, Z.repeat(S, 1, 1), rng).weights.numpy()
    error = 6 * np.sqrt((ours.var(0) + theirs.var(0)) / S)
    assert np.all(np.abs(ours.mean(0) - theirs.mean(0)) < error)
    assert np.all(np.abs(np.log(ours.std(0) / theirs.std(0))) < 6 / np.sqrt(S))


@pytest.mark.parametrize("name", SHARINGS)
@pytest.mark.parametrize("outcome", ["gaussian", "bernoulli", "poisson"])
def test_the_model_is_the_joint_density(name, outcome):
    """The program's log density is that of `Joint`, which is compared with the model written out."""
    guide = guide_of(name, outcome)
    joint = joint_of(name, outcome, basis_centred=True)[0]
    batch = guide.problem.batches(100, 100).draw(np.random.default_rng(seeded(0)))
    rng = np.random.default_rng(seeded(2))
    model, program = guide.programs(pyro, batch)
    with torch.random.fork_rng(devices=[]):
        traced = pyro.poutine.trace(program).get_trace()
    values = {"shared": torch.from_numpy(rng.normal(size=len(guide.loc)))}
    structure = guide.shared(values["shared"][None])[2]
    q = guide.of_tasks(structure, guide.shared(values["shared"][None])[3], torch.arange(6))[1].shape[-1]
    assert ("x" in traced.nodes) == (q > 0)
    x = torch.from_numpy(rng.normal(size=(6, q)))
    found = pyro.poutine.trace(pyro.poutine.condition(model, values | {"x": x})).get_trace().log_prob_sum()
    free = joint.__class__(joint.problem, torch.zeros(6, dtype=torch.bool), True)
    point = torch.cat([values["shared"], x.flatten()])[None]
    torch.testing.assert_close(found, free.log_density(point)[0])


def test_minibatches_are_unbiased():
    """Means over 3,000 batches of 2 tasks and at most 3 rows: 6 standard errors of 4 totals."""
    problem = joint_of("Hierarchical", "bernoulli", basis_centred=True)[0].problem
    batches, rng = RowBatches(problem.rows, 2, 3), np.random.default_rng(seeded(0))
    totals = []
    for _ in range(3000):
        batch = batches.draw(rng)
        assert len(set(batch.tasks.tolist())) == 2 and batch.X.shape == (2, 3, 3)
        rows = torch.cat([batch.X, batch.y[..., None]], dim=2) * batch.weight[..., None]
        totals.append(rows.sum((0, 1)).numpy() * 6 / 2)
    found = np.array(totals)
    whole = RowBatches(problem.rows, 100, 1000).draw(rng)
    assert whole.weight.max() == 1 and int(whole.weight.sum()) == int(problem.rows.real.sum())
    expected = torch.cat([whole.X, whole.y[..., None]], dim=2).sum((0, 1)).numpy()
    assert np.all(np.abs(found.mean(0) - expected) < 6 * found.std(0) / np.sqrt(3000))


def test_a_rise_is_told_from_noise():
    rng = np.random.default_rng(seeded(0))
    noise = rng.normal(size=2000)
    rise, error = rise_of(noise)
    assert abs(rise) < 4 * error and error == pytest.approx(np.sqrt(12 / 2000), rel=0.5)
    rise, error = rise_of(noise + np.linspace(0, 3, 2000))
    assert rise == pytest.approx(3.0, abs=4 * error + 0.2)
    # the shortest run that `num_warmup` allows has fewer steps than windows
    assert rise_of(np.linspace(0, 3, 16))[0] == pytest.approx(3.0)


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_svi_is_near_the_exact_engine():
    """Means within .5 posterior sd, spreads within a factor of 1.6: what is claimed for 12 tasks."""
    rng = np.random.default_rng(seeded(0))
    task = np.repeat(np.arange(12), 15)
    x = rng.normal(size=len(task))
    W = np.array([0.4, -0.8]) + 0.7 * rng.normal(size=(12, 2))
    y = W[task, 0] + W[task, 1] * x + 0.5 * rng.normal(size=len(task))
    data, model = bm.TaskData.from_arrays(x[:, None], y, task), bm.LinearModel()
    exact = model.fit(data, method="laplace", seed=seeded(0), progress=False)  # exact with Gaussian noise
    fit = model.fit(data, method="svi", seed=seeded(0), num_warmup=100, progress=False)
    for name in ("summary", "coefficients"):
        ours, theirs = getattr(fit, name)(), getattr(exact, name)()
        assert np.all(np.abs(ours["mean"] - theirs["mean"]) < 0.5 * theirs["sd"]), name
        assert np.all(np.abs(np.log(ours["sd"] / theirs["sd"])) < np.log(1.6)), name
    stats = fit.draws.sample_stats
    assert set(stats) == {"elbo", "elbo_rise", "elbo_rise_error", "restart_disagreement"}
