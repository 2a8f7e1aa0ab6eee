"""Nothing integrated out: the density written out in full, and NUTS beside the engine that integrates.

False-alarm budget: 1e-4 for this file. Seeds are fixed; comparisons of means are at 5 Monte Carlo standard
errors (6e-7 each, about 30 of them).
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pyro
import pytest
import torch
from arviz_stats.base import array_stats
from scipy import stats

import bayesmtl as bm
from bayesmtl.algebra.rows import TaskRows
from bayesmtl.errors import ConvergenceWarning, MissingDependencyError, SpecificationError
from bayesmtl.inference.nuts.engine import Chain, collect, private_randomness
from bayesmtl.inference.nuts.gradient import _by_tape, value_and_gradient
from bayesmtl.inference.nuts.whitening import Whitening, whitening
from bayesmtl.likelihoods import Given
from bayesmtl.posteriors.linear.batches import RowBatches, TaskBatches
from bayesmtl.posteriors.linear.joint import Joint, informed
from tests.equivalence.test_laplace import inputs, problem_of
from tests.seeds import seeded

SHARINGS = {
    "Independent": bm.Independent(),
    "Pooled": bm.Pooled(bm.HalfNormal(1.0)),
    "Hierarchical": bm.Hierarchical(),
    "Hierarchical full": bm.Hierarchical("full", mean_scale=bm.HalfNormal(1.0)),
    "LowRank": bm.LowRank(2),
    "TaskCovariance": bm.TaskCovariance(),
}
OUTCOMES = {
    "gaussian": (bm.Gaussian(), lambda rng, n: rng.normal(size=n)),
    "bernoulli": (bm.Bernoulli(), lambda rng, n: rng.binomial(1, 0.4, n).astype(float)),
    "poisson": (bm.Poisson(), lambda rng, n: rng.poisson(3.0, n).astype(float)),
    "negative binomial": (bm.NegativeBinomial(), lambda rng, n: rng.poisson(3.0, n).astype(float)),
    "student": (bm.StudentT(), lambda rng, n: rng.standard_t(3, n)),
}
CENTRED = torch.tensor([False, True, True, False, False, True])


LONG = os.environ.get("BAYESMTL_LONG") == "1"


def joint_of(name: str, outcome: str, basis_centred: bool, seed: int = 0) -> tuple[Joint, tuple]:
    X, task, rng = inputs(seed)
    likelihood, draw = OUTCOMES[outcome]
    y = draw(rng, len(task))
    return Joint(problem_of(SHARINGS[name], likelihood, y, X, task), CENTRED, basis_centred), (X, y, task)


def written_out(
    joint: Joint,
    x: torch.Tensor,
    X: np.ndarray,
    y: np.ndarray,
    task: np.ndarray,
    *,
    offset: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    trials: np.ndarray | None = None,
) -> float:
    """The log density at one point, term by term, by SciPy: the readable twin of `Joint.log_density`."""
    problem, state = joint.problem, joint.state(x[None])
    structure, D = problem.structure(state.values), X.shape[1]
    phi = x[: problem.space.size][None]
    total = float(problem.space.log_prior(phi)[0])
    Z, W = state.basis[0].numpy(), state.weights[0].numpy()
    if structure.basis_scale is not None:
        scale = structure.basis_scale[0].abs().numpy()
        total += stats.norm.logpdf(Z, 0, scale).sum()
        total += 0.0 if joint.basis_centred else np.log(scale).sum()  # of z = Z / scale
    free = iter(state.free[0].numpy())
    for t in range(len(W)):
        center = np.zeros(D)
        if structure.loadings is not None:  # fixed, or one set for each point
            A = structure.loadings if structure.loadings.ndim == 2 else structure.loadings[0]
            center = A[t].numpy() @ Z
        S = np.zeros((D, D))
        if structure.residual_scale is not None:
            rows = structure.residual_scale[0]
            scale = rows[0 if len(rows) == 1 else t].numpy()
            S = S + np.diag(scale**2)
        if structure.residual_factor is not None:
            F = structure.residual_factor[0].numpy()
            S = S + F @ F.T
        if not S.any():
            np.testing.assert_allclose(W[t], center)
        elif joint.centred[t]:
            total += stats.multivariate_normal.logpdf(W[t], center, S)
        else:
            own = next(free)
            total += stats.norm.logpdf(own).sum()
            expected = center.copy()
            if structure.residual_scale is not None:
                expected += scale * own[:D]
            if structure.residual_factor is not None:
                expected += F @ own[-F.shape[1] :]
            np.testing.assert_allclose(W[t], expected)
    f = (X * W[task]).sum(1)
    names, units = problem.task_names, problem.target_scale
    noise = problem.likelihood.noise_sd(state.values, names, units, 1).expand(1, len(W))[0].numpy()[task]
    given = Given(state.values, None if trials is None else torch.from_numpy(trials))
    density = problem.likelihood.log_density(y, f if offset is None else f + offset, noise, given)
    return total + float((density if weights is None else weights * density).sum())


@pytest.mark.parametrize("basis_centred", [False, True], ids=["z", "Z"])
@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("name", SHARINGS)
def test_the_density_is_that_of_the_model_written_out(name, outcome, basis_centred):
    joint, data = joint_of(name, outcome, basis_centred)
    x = 0.7 * torch.from_numpy(np.random.default_rng(seeded(1)).normal(size=(3, joint.layout.size)))
    expected = [written_out(joint, point, *data) for point in x]
    np.testing.assert_allclose(joint.log_density(x), expected, rtol=1e-9)


@pytest.mark.parametrize("likelihood", [bm.Binomial(), bm.NegativeBinomial()], ids=["Binomial", "own"])
def test_rows_carry_offsets_weights_and_trials(likelihood):
    """In the density, its gradient by hand, and the variational engine's density of one whole batch."""
    X, task, rng = inputs()
    n, T = len(task), int(task.max()) + 1
    further = {"offset": rng.normal(size=n), "weights": rng.integers(1, 4, n).astype(float)}
    further["trials"] = rng.integers(3, 9, n).astype(float)
    y = rng.integers(0, 4, n).astype(float)
    problem = problem_of(bm.Hierarchical(), likelihood, y, X, task)
    problem = replace(problem, rows=TaskRows.of(X, y, task, T, **further))
    joint = Joint(problem, CENTRED, True)
    x = 0.7 * torch.from_numpy(np.random.default_rng(seeded(1)).normal(size=(3, joint.layout.size)))
    expected = [written_out(joint, point, X, y, task, **further) for point in x]
    np.testing.assert_allclose(joint.log_density(x), expected, rtol=1e-9)

    white = random_whitening(joint)
    for v in np.random.default_rng(seeded(1)).normal(size=(2, joint.layout.size)):
        point = torch.from_numpy(v)[None].requires_grad_()
        (slope,) = torch.autograd.grad(white.log_density(point).sum(), point)
        np.testing.assert_allclose(value_and_gradient(white)(v)[1], slope[0], rtol=1e-7, atol=1e-9)

    state = joint.state(x[:1])
    rows = problem.rows
    batches = TaskBatches(T, T) if rows is None else RowBatches(rows, T, 100)
    batch = batches.draw(np.random.default_rng(seeded(0)))
    by_task = problem.log_likelihood_of(batch, state.values, state.weights[:, batch.tasks])
    torch.testing.assert_close(by_task.sum(), problem.log_likelihood(state.values, state.weights)[0])


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("name", SHARINGS)
def test_the_gradient_is_that_of_finite_differences(name, outcome):
    joint, _ = joint_of(name, outcome, basis_centred=True)
    x = 0.7 * torch.from_numpy(np.random.default_rng(seeded(2)).normal(size=(2, joint.layout.size)))
    assert torch.autograd.gradcheck(joint.log_density, x.requires_grad_(), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("basis_centred", [False, True], ids=["z", "Z"])
@pytest.mark.parametrize("outcome", [*OUTCOMES, "noise by task"])
@pytest.mark.parametrize("name", SHARINGS)
def test_the_gradient_by_hand_is_that_of_the_tape(name, outcome, basis_centred):
    joint, (X, y, task) = joint_of(name, "gaussian" if outcome not in OUTCOMES else outcome, basis_centred)
    if outcome not in OUTCOMES:
        problem = problem_of(SHARINGS[name], bm.Gaussian(noise="task"), y, X, task)
        joint = Joint(problem, CENTRED, basis_centred)
    white = random_whitening(joint)
    for v in np.random.default_rng(seeded(1)).normal(size=(2, joint.layout.size)):
        point = torch.from_numpy(v)[None].requires_grad_()
        expected = white.log_density(point)
        value, gradient = value_and_gradient(white)(v)
        np.testing.assert_allclose(value, expected.detach(), rtol=1e-10)
        (slope,) = torch.autograd.grad(expected.sum(), point)
        np.testing.assert_allclose(gradient, slope[0], rtol=1e-7, atol=1e-7 * float(slope.abs().max()))
        np.testing.assert_allclose(_by_tape(white)(v)[1], slope[0])


def random_whitening(joint: Joint) -> Whitening:
    rng, layout = np.random.default_rng(seeded(5)), joint.layout

    def roots(number: int, size: int) -> torch.Tensor:
        lower = np.tril(0.3 * rng.normal(size=(number, size, size)))
        return torch.from_numpy(lower + 0.8 * np.eye(size))

    blocks = (roots(layout.free, layout.own + layout.factors), roots(layout.bound, layout.features))
    center = torch.from_numpy(0.1 * rng.normal(size=layout.size))
    return Whitening(joint, center, roots(1, layout.shared)[0], *blocks, center[None], True)


def test_a_point_that_cannot_be_evaluated_is_turned_down():
    white = random_whitening(joint_of("Hierarchical", "gaussian", basis_centred=False)[0])
    value, gradient = value_and_gradient(white)(np.full(white.joint.layout.size, 1e200))
    assert value == -np.inf and not gradient.any()


@pytest.mark.parametrize("basis_centred", [False, True], ids=["z", "Z"])
@pytest.mark.parametrize("name", SHARINGS)
def test_coordinates_go_there_and_back(name, basis_centred):
    joint, _ = joint_of(name, "bernoulli", basis_centred)
    rng = np.random.default_rng(seeded(3))
    x = torch.from_numpy(rng.normal(size=(4, joint.layout.size)))
    state = joint.state(x)
    factors = joint.factors(state, rng)
    back = joint.coordinates(x[:, : joint.problem.space.size], state.basis, state.weights, factors)
    torch.testing.assert_close(back, x)


def test_factors_of_centred_tasks_are_drawn_given_the_weights():
    """u | e ~ N(F'S^-1 e, I - F'S^-1 F): 4,000 draws, 5 standard errors on 6 means and 12 covariances."""
    joint, _ = joint_of("LowRank", "bernoulli", basis_centred=False)
    rng = np.random.default_rng(seeded(4))
    x = torch.from_numpy(rng.normal(size=(1, joint.layout.size))).expand(4000, -1)
    state = joint.state(x)
    drawn = joint.factors(state, rng)[:, CENTRED].numpy()
    values = {name: value[:1] for name, value in state.values.items()}
    structure = joint.problem.structure(values)
    F = structure.residual_factor[0].numpy()
    S = F @ F.T + np.diag(structure.residual_scale[0, 0].numpy() ** 2)
    apart = (state.weights - state.basis[:, :1])[0, CENTRED].numpy()
    variance = np.eye(2) - F.T @ np.linalg.solve(S, F)
    error = 5 * np.sqrt(np.diag(variance) / 4000)
    assert np.all(np.abs(drawn.mean(0) - apart @ np.linalg.solve(S, F)) < error)
    for t in range(drawn.shape[1]):
        assert np.all(np.abs(np.cov(drawn[:, t].T) - variance) < 5 * np.sqrt(2 / 4000))


def test_tasks_are_centred_where_their_rows_say_more_than_the_prior():
    X, task, rng = inputs()  # 3, 8, 20, 0, 1 and 2 rows; three features
    problem = problem_of(bm.Hierarchical(scale=bm.Fixed(1.0)), bm.Gaussian(noise=0.5), X[:, 1], X, task)
    structure, noise = problem.structure(problem.space.sample(rng, 1)), problem.noise({}, 1)
    found = informed(problem.tasks, structure, noise)
    assert found.tolist() == [True, True, True, False, False, True]
    tight = replace(problem, sharing=bm.Hierarchical(scale=bm.Fixed(0.01)))
    assert not informed(problem.tasks, tight.structure(tight.space.sample(rng, 1)), noise).any()
    # no density: an exact zero, and a covariance of lower rank
    flat = replace(problem, sharing=bm.LowRank(1, scale=bm.Fixed(0.0)))
    assert not informed(problem.tasks, flat.structure(flat.space.sample(rng, 1)), noise).any()


def lines(rows: tuple[int, ...] = (2, 3, 3, 6, 20, 30)) -> bm.TaskData:
    rng = np.random.default_rng(seeded(0))
    task = np.repeat(np.arange(len(rows)), rows)
    x = rng.normal(size=len(task))
    W = np.array([0.4, -0.8]) + 0.7 * rng.normal(size=(len(rows), 2))
    y = W[task, 0] + W[task, 1] * x + 0.5 * rng.normal(size=len(task))
    return bm.TaskData.from_arrays(x[:, None], y, task)


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_nuts_agrees_with_the_exact_engine():
    """Means within 5 Monte Carlo standard errors, spreads within 40 %: 100 draws of each chain are few."""
    model, data = bm.LinearModel(), lines((3, 5, 6, 8, 10, 10, 12, 12, 15, 20))
    exact = model.fit(data, method="exact", seed=seeded(0), num_draws=400, progress=False)
    sampled = model.fit(
        data, method="nuts", seed=seeded(1), num_chains=2, num_draws=100, num_warmup=40, progress=False
    )
    assert not sampled.draws.sample_stats["diverging"].mean() > 0.02
    for name, array in sampled.posterior.items():
        ours, theirs = (
            values.to_numpy().reshape(*values.shape[:2], -1) for values in (array, exact.posterior[name])
        )
        if name == "residual_correlation":
            ours, theirs = ours[..., 1:2], theirs[..., 1:2]
        errors = [array_stats.mcse(v, chain_axis=0, draw_axis=1, method="mean") for v in (ours, theirs)]
        gap = np.abs(ours.mean((0, 1)) - theirs.mean((0, 1)))
        assert (gap < 5 * np.hypot(*errors)).all(), (name, gap / np.hypot(*errors))
        assert (np.abs(np.log(ours.std((0, 1)) / theirs.std((0, 1)))) < 0.4).all(), name


@pytest.mark.slow
@pytest.mark.statistical
def test_getting_it_right():
    """Parameters from the prior, outcomes given them, a few transitions given those: still the prior.

    Half of the tasks and Z are centred, whatever their rows say; nothing adapts. Hyperparameters, Z, a task
    of each kind, and products of scales with deviations, which a wrong Jacobian moves: 13
    Kolmogorov-Smirnov tests at 1e-6 each. Replicates are independent, so that their p-values are exact,
    unlike those of one long chain (Geweke, 2004). `BAYESMTL_LONG=1` runs seventeen times as many.
    """
    X, task, rng = inputs()
    X = X[:, :2]
    sharing = bm.Hierarchical("full", scale=bm.LogNormal(0.7, 0.4))  # steps as long as these serve all draws
    model = problem_of(sharing, bm.Bernoulli(), np.zeros(len(task)), X, task)
    joint = Joint(model, CENTRED, basis_centred=True)
    n = joint.layout.size
    one = torch.ones(1, n, dtype=torch.float64)
    blocks = [torch.eye(2, dtype=torch.float64).repeat(3, 1, 1)] * 2
    shared = torch.eye(joint.layout.shared, dtype=torch.float64)
    plain = Whitening(joint, torch.zeros(n, dtype=torch.float64), shared, *blocks, one, True)

    def prior(number: int) -> torch.Tensor:
        values = model.space.sample(rng, number)
        L = values["residual_correlation"]
        sign = torch.from_numpy(rng.choice([-1.0, 1.0], tuple(values["residual_scale"].shape)))
        values["residual_scale"] = scale = sign * values["residual_scale"]
        points = torch.cat([scale, torch.atanh(L[:, 1, :1])], dim=1)
        Z = torch.from_numpy(rng.normal(size=(number, 1, 2)))
        u = torch.from_numpy(rng.normal(size=(number, 6, 2)))
        weights = Z + u @ (scale[:, :, None] * L).transpose(-1, -2)
        return joint.coordinates(points, Z, weights, u)

    def quantities(x: torch.Tensor) -> np.ndarray:
        state = joint.state(x)
        apart = state.weights - state.basis
        scale = state.values["residual_scale"].abs()
        of_tasks = torch.cat([state.weights[:, [0, 2]], scale[:, None] * apart[:, [0, 2]]], dim=2).flatten(1)
        shown = [scale, state.values["residual_correlation"][:, 1, 0, None], state.basis[:, 0], of_tasks]
        return torch.cat(shown, dim=1).numpy()

    drawn, moved = [], 0
    # nothing adapts
    options = {"adapt_step_size": False, "adapt_mass_matrix": False, "max_tree_depth": 3, "step_size": 0.25}
    with private_randomness(0), pyro.validation_enabled(False):
        for x in prior(1000 if LONG else 60):
            f = (X * joint.state(x[None]).weights[0, task].numpy()).sum(1)
            y = bm.Bernoulli().draw(f, np.ones(1), rng)
            problem = replace(model, rows=TaskRows.of(X, y, task, 6))
            given = replace(plain, joint=Joint(problem, CENTRED, basis_centred=True))
            chain = Chain.of_kernel(given, x, 0, **options)
            for _ in range(3):
                chain.advance(keep=True)
            drawn.append(quantities(chain.drawn[-1][None])[0])
            moved += not torch.equal(x, chain.drawn[-1])
    assert moved > 0.8 * len(drawn)
    found, expected = np.array(drawn), quantities(prior(100_000))
    p_values = [stats.ks_2samp(*pair).pvalue for pair in zip(found.T, expected.T, strict=True)]
    assert min(p_values) > 1e-6, p_values


def run(data: bm.TaskData, **changes) -> bm.Fit:
    settings = {"num_chains": 2, "num_draws": 8, "num_warmup": 20, "progress": False, "seed": seeded(0)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # with known scales the posterior is normal, and trajectories are short
        model = bm.LinearModel(bm.Hierarchical(scale=bm.Fixed(0.7)), bm.Gaussian(noise=0.5))
        return model.fit(data, method="nuts", **(settings | changes))


def test_chains_take_turns_in_one_process(monkeypatch):
    """Started from a notebook, processes may never end."""

    def started(*arguments, **options):
        raise AssertionError("a process was started")

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", started)
    monkeypatch.setattr(subprocess.Popen, "__init__", started)
    monkeypatch.setattr(os, "fork", started)
    assert run(lines(), num_chains=3).posterior.sizes["chain"] == 3


def test_an_interrupt_gives_what_every_chain_has_drawn(monkeypatch):
    whole, advance = run(lines()), Chain.advance

    def stopping(self, *, keep):
        if len(self.stats) == 5 and keep and self.params["v"].sum() != 0:
            raise KeyboardInterrupt
        advance(self, keep=keep)

    monkeypatch.setattr(Chain, "advance", stopping)
    part = run(lines())
    assert not part.complete and whole.complete and part.posterior.sizes["draw"] == 5
    assert (
        "The run was interrupted; fit again" in part.check().messages[0]
    )  # it has no checkpoint to go on from
    np.testing.assert_array_equal(part.posterior["weights"], whole.posterior["weights"][:, :5])
    monkeypatch.setattr(Chain, "advance", lambda self, *, keep: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(lines())


def test_divergences_fail_the_check_and_warn(monkeypatch):
    """Steps far too long leave the density's finite part at once."""
    options = {"adapt_step_size": False, "adapt_mass_matrix": False, "step_size": 200.0, "max_tree_depth": 2}

    def careless(white, v, num_warmup):
        return Chain.of_kernel(white, v, num_warmup, **options)

    monkeypatch.setattr(Chain, "start", staticmethod(careless))
    model = bm.LinearModel(bm.Hierarchical(scale=bm.Fixed(0.7)), bm.Gaussian(noise=0.5))
    settings = {"num_chains": 2, "num_draws": 8, "num_warmup": 10, "progress": False, "seed": seeded(0)}
    with pytest.warns(ConvergenceWarning, match="16 trajectories diverged; a longer num_warmup"):
        fit = model.fit(lines(), method="nuts", **settings)
    check = fit.check()
    assert not check.ok and any("diverged" in message for message in check.messages)
    assert fit.draws.sample_stats["diverging"].all()


def test_what_a_chain_reports():
    fit = run(lines())
    found = fit.draws.sample_stats
    assert set(found) == {"acceptance_rate", "n_steps", "diverging", "lp", "step_size"}
    assert np.all((found["acceptance_rate"] >= 0) & (found["acceptance_rate"] <= 1 + 1e-12))
    assert np.all(found["n_steps"] >= 1) and np.all(found["step_size"] > 0)
    white = whitening(fit.problem, 2, np.random.default_rng(seeded(0)))
    # the log densities that a chain reports are those of the points that it keeps
    chain = Chain.start(white, white.starts[0], 20)
    with private_randomness(1):
        for i in range(24):
            chain.advance(keep=i >= 20)
    density = white.log_density(torch.stack(chain.drawn)).detach()
    np.testing.assert_allclose([stats[3] for stats in chain.stats], density, rtol=1e-9)
    draws = collect(white, torch.stack(chain.drawn)[None], {}, np.random.default_rng(seeded(0)))
    assert draws.weights.shape == (1, 4, 6, 2) and draws.basis.shape == (1, 4, 1, 2)


@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_a_fit_of_tasks_that_share_everything_and_know_everything():
    """All that is left unknown is Z."""
    model = bm.LinearModel(bm.Pooled(), bm.Gaussian(noise=0.5))
    data, options = lines(), {"num_chains": 2, "progress": False}
    expected = model.fit(data, method="exact", seed=seeded(0), num_draws=500, **options).posterior[
        "population"
    ]
    found = model.fit(data, method="nuts", seed=seeded(0), num_draws=60, num_warmup=30, **options).posterior
    gap = np.abs(found["population"].mean(("chain", "draw")) - expected.mean(("chain", "draw")))
    assert np.all(gap < 0.5 * expected.std(("chain", "draw")))


def test_no_checkpoint(tmp_path):
    with pytest.raises(SpecificationError, match='none under method="nuts"'):
        run(lines(), checkpoint=tmp_path / "run.npz")


def test_without_pyro_the_error_says_how_to_install_it(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(sys.modules["bayesmtl.inference.nuts.engine"], "import_module", missing)
    with pytest.raises(MissingDependencyError, match=r'pip install "bayesmtl\[pyro\]"'):
        run(lines())
