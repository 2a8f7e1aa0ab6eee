"""Partitions under outcomes that auxiliary variables make Gaussian: enumeration, and getting it right.

False-alarm budget: 1e-4 for this file. Enumeration compares 6 x 10 probabilities at 4.5 standard errors (7e-6
each), with fewer independent draws assumed than there are; Geweke's tests have 2 x 9 p-values judged at 1e-6.
Seeds are fixed. What Geweke's test detects is shown by a sampler that is broken on purpose.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

import bayesmtl as bm
from bayesmtl.algebra.conditional import draw_prior_basis, draw_weights
from bayesmtl.algebra.rows import TaskRows
from bayesmtl.algebra.statistics import TaskStatistics
from bayesmtl.errors import SpecificationError
from bayesmtl.inference.gibbs.engine import Gibbs
from bayesmtl.inference.partitions import weights_and_clusters as renewal
from bayesmtl.posteriors.linear.outcomes import OutcomePosterior
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.results.linear.condition import cluster_rows as update_cluster_rows
from bayesmtl.sharing.partitions.base import num_clusters
from tests.equivalence.partitions import all_partitions
from tests.seeds import seeded
from tests.statistical.test_partitions import coordinates, design

pytestmark = [pytest.mark.statistical]

RESIDUAL, SPREAD, LEVEL = 0.4, 1.2, 1.0


def toy_outcomes(likelihood: bm.Bernoulli | bm.Binomial) -> bm.TaskData:
    """Five tasks of six rows with one level each, two pairs alike."""
    rng = np.random.default_rng(2)
    level = np.repeat([1.3, 1.0, -1.2, -1.0, 0.0], 6)
    trials = getattr(likelihood, "trials", 1)
    y = rng.binomial(trials, 1 / (1 + np.exp(-level))).astype(float)
    data = bm.TaskData.from_arrays(np.ones((30, 1)), y, np.repeat(list("abcde"), 6), intercept=False)
    return data.with_target_standardization("none")


def known(within: str, likelihood: bm.likelihoods.Likelihood) -> bm.LinearModel:
    sharing = bm.DirichletProcess(
        bm.Fixed(1.0), within=within, scale=bm.Fixed(RESIDUAL), spread=bm.Fixed(SPREAD)
    )
    return bm.LinearModel(sharing, likelihood)


GRID = np.linspace(-9, 9, 721)  # of levels


def enumerated(
    model: bm.LinearModel, data: bm.TaskData, *, within: bool, rows: np.ndarray | None = None
) -> np.ndarray:
    """P(two tasks together): all 52 partitions, each level integrated out on a grid, one after the other.

    `rows` has the log densities of all rows on the grid, shape (n, grid), where they are not yes or no.
    """
    grid = GRID
    step = grid[1] - grid[0]

    def normal(sd: float) -> np.ndarray:
        return stats.norm.pdf(grid[:, None], grid, sd) * step

    if rows is None:
        noise = np.ones_like(grid)[:, None]
        rows = model.likelihood.log_density(data.y[:, None], grid, noise.T)
    likelihood = np.exp(np.stack([rows[data.task == t].sum(0) for t in range(data.num_tasks)]))
    if within:
        likelihood = likelihood @ normal(RESIDUAL)
    around_mean = normal(SPREAD)
    prior = stats.norm.pdf(grid, 0.0, LEVEL)
    partitions = all_partitions(data.num_tasks)
    log_prior = model.sharing.log_partition(
        partitions, {"concentration": torch.ones(len(partitions), dtype=torch.float64)}
    ).numpy()
    density = []
    for membership in partitions.numpy():
        clusters = [likelihood[membership == k].prod(0) for k in range(membership.max() + 1)]
        density.append((prior * np.prod([values @ around_mean for values in clusters], axis=0)).sum())
    probability = np.exp(log_prior) * density
    together = (partitions[:, :, None] == partitions[:, None]).numpy()
    return np.einsum("p,ptu->tu", probability / probability.sum(), together)


def disagreement(within: str, likelihood: bm.Bernoulli | bm.Binomial) -> float:
    """As `apart`, for yes/no outcomes and successes out of trials."""
    model, data = known(within, likelihood), toy_outcomes(likelihood)
    return apart(model, data, np.clip(enumerated(model, data, within=within != "none"), 0.0, 1.0))


def apart(model: bm.LinearModel, data: bm.TaskData, exact: np.ndarray) -> float:
    """Largest difference of 10 probabilities of two together, in standard errors, 600 draws taken for 250."""
    assert exact.min() < 0.4 and exact[np.triu_indices(5, 1)].max() > 0.5  # there is something to find
    fit = model.fit(data, seed=seeded(0), num_chains=10, num_draws=60, num_warmup=20, progress=False)
    found = fit.partition().co_clustering.to_numpy()
    return float(np.max(np.abs(found - exact) / (0.001 + np.sqrt(exact * (1 - exact) / 250))))


@pytest.mark.slow
@pytest.mark.parametrize(
    "within, likelihood",
    [("none", bm.Bernoulli()), ("diagonal", bm.Bernoulli()), ("diagonal", bm.Binomial(3))],
    ids=["none, Bernoulli", "diagonal, Bernoulli", "diagonal, Binomial"],
)
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_the_engine_agrees_with_enumeration(within, likelihood):
    assert disagreement(within, likelihood) < 4.5


COUNTS, HEAVY = bm.NegativeBinomial(bm.Fixed(0.5)), bm.StudentT(bm.Fixed(0.8), bm.Fixed(4.0))
FURTHER = {
    "NegativeBinomial": COUNTS,
    "StudentT": HEAVY,
    "Mixed": bm.Mixed({"a": bm.Bernoulli(), "d": bm.Bernoulli()}, other=COUNTS),
}


def further_rows(kind: str) -> tuple[bm.TaskData, np.ndarray]:
    """Five tasks of eight rows with one level each, and the log densities of the rows, from SciPy."""
    rng = np.random.default_rng(3)
    name = np.repeat(list("abcde"), 8)
    level = np.repeat([1.3, 1.0, -1.0, -0.8, 0.2], 8)
    count = stats.nbinom(2.0, 1 / (1 + 0.5 * np.exp(level)))  # of mean exp(level)
    y = {
        "NegativeBinomial": count.rvs(random_state=rng).astype(float),
        "StudentT": level + 0.8 * rng.standard_t(4.0, size=40),
    }
    yes = np.isin(name, ["a", "d"])
    y["Mixed"] = np.where(yes, rng.random(40) < 1 / (1 + np.exp(-level)), y["NegativeBinomial"])
    target = y[kind][:, None]
    if kind == "StudentT":
        rows = stats.t.logpdf(target, 4.0, GRID, 0.8)
    else:
        rows = stats.nbinom.logpmf(np.floor(target), 2.0, 1 / (1 + 0.5 * np.exp(GRID)))
    if kind == "Mixed":
        rows = np.where(yes[:, None], target * GRID - np.logaddexp(0.0, GRID), rows)
    data = bm.TaskData.from_arrays(np.ones((40, 1)), y[kind], name, intercept=False)
    return data.with_target_standardization("none"), rows


@pytest.mark.slow
@pytest.mark.parametrize("kind", FURTHER)
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_every_likelihood_with_auxiliary_variables_agrees_with_enumeration(kind):
    """Counts, heavy tails, and outcomes of several kinds."""
    data, rows = further_rows(kind)
    model = known("diagonal", FURTHER[kind])
    exact = np.clip(enumerated(model, data, within=True, rows=rows), 0.0, 1.0)
    assert apart(model, data, exact) < 4.5


@pytest.mark.slow
@pytest.mark.parametrize("within", ["none", "diagonal", "full"])
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_conditioning_agrees_with_enumeration(within):
    """A fit to three tasks, conditioned on the rows of two others: co-clustering of all five."""
    assert after_conditioning(within) < 4.5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_enumeration_notices_a_wrong_estimate(monkeypatch):
    """One that grows with the weight that it drew."""
    right = update_cluster_rows._estimate

    def wrong(task, structure, values, basis, rng):
        drawn, density = right(task, structure, values, basis, rng)
        return drawn, density + 0.5 * drawn.weights[:, 0, 0] ** 2

    monkeypatch.setattr(update_cluster_rows, "_estimate", wrong)
    assert after_conditioning("diagonal") > 4.5


def after_conditioning(within: str) -> float:
    """As `disagreement`; new tasks' weights move under their rows, too."""
    likelihood = bm.Bernoulli()
    model, data = known(within, likelihood), toy_outcomes(likelihood)
    exact = np.clip(enumerated(model, data, within=within != "none"), 0.0, 1.0)
    first, later = data.select_tasks(list("abd")), data.select_tasks(list("ce"))
    fit = model.fit(first, seed=seeded(0), num_chains=10, num_draws=60, num_warmup=20, progress=False)
    updated = fit.condition(later)
    assert updated.task_names == tuple("abdce") and updated.added_tasks == ("c", "e")
    found = updated.partition().co_clustering.sel(task=list("abcde"), task_other=list("abcde")).to_numpy()
    return float(np.max(np.abs(found - exact) / (0.001 + np.sqrt(exact * (1 - exact) / 250))))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_conditioning_moves_the_weights_as_refitting_does():
    """Levels after more rows of a known task and a new one, against those of a fit to all rows.

    600 draws each, taken for 150 independent ones: 10 means and spreads at 5 standard errors.
    """
    model, data = known("diagonal", bm.Bernoulli()), toy_outcomes(bm.Bernoulli())
    frame = data.to_frame()
    late = (frame[data.task_column] == "e") | (frame.groupby(data.task_column).cumcount() >= 4)
    late &= frame[data.task_column].isin(["a", "e"])

    def data_of(rows):
        made = bm.TaskData.from_frame(
            rows, task=data.task_column, target=data.target_name, features=["x0"], intercept=False
        )
        return made.with_target_standardization("none")

    run = {"seed": seeded(0), "num_chains": 10, "num_draws": 60, "num_warmup": 20, "progress": False}
    updated = model.fit(data_of(frame[~late]), **run).condition(frame[late])
    refit = model.fit(data_of(frame), **run)
    ours, theirs = (
        fit.posterior["weights"].sel(task=list("abcde")).to_numpy().reshape(600, 5)
        for fit in (updated, refit)
    )
    error = np.hypot(ours.std(0), theirs.std(0)) / np.sqrt(150)
    assert np.all(np.abs(ours.mean(0) - theirs.mean(0)) < 5 * error)
    assert np.all(np.abs(ours.std(0) / theirs.std(0) - 1) < 5 / np.sqrt(150))


def with_known_predictor(value: float):
    """Polya-Gamma variables drawn as if every linear predictor were known."""
    right = Gibbs.augment

    def wrong(self, weights, values, rng):
        return right(self, torch.full_like(weights, value), values, rng)

    return wrong


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_enumeration_notices_a_wrong_augmentation(monkeypatch):
    monkeypatch.setattr(Gibbs, "augment", with_known_predictor(12.0))
    assert disagreement("none", bm.Bernoulli()) > 4.5


# --- the whole sampler must leave the joint distribution of everything and the data unchanged ---

GEWEKE = {
    "Dirichlet process, Bernoulli": bm.LinearModel(bm.DirichletProcess(bm.Gamma(2.0, 2.0)), bm.Bernoulli()),
    "three clusters, full, Binomial": bm.LinearModel(
        bm.Clusters(3, bm.Gamma(2.0, 2.0), within="full"), bm.Binomial(3)
    ),
}


def joint_draw(model: bm.LinearModel, rng: np.random.Generator, X: np.ndarray, task: np.ndarray):
    """A problem whose rows come from the prior, with the values, weights and Z that they came from."""
    T, D = int(task.max()) + 1, X.shape[1]
    empty = TaskStatistics.empty(T, D).compress()
    names = tuple(f"task_{t}" for t in range(T))
    rough = LinearPosterior(model.sharing, model.likelihood, empty, names, np.ones(T))
    values = rough.space.sample(rng, 1)
    values["cluster"] = model.sharing.sample_partition(values, T, rng)
    structure, noise = rough.structure(values), rough.noise(values, 1)
    drawn = draw_weights(empty, structure, noise, draw_prior_basis(structure, 1, D, rng), rng)
    f = (X * drawn.weights[0].numpy()[task]).sum(1)
    y = model.likelihood.draw(f, np.ones_like(f), rng)
    return (
        OutcomePosterior(
            model.sharing,
            model.likelihood,
            TaskStatistics.from_rows(X, y, task, T).compress(),
            names,
            np.ones(T),
            rows=TaskRows.of(X, y, task, T),
        ),
        values,
        drawn,
    )


def summaries(values: dict[str, torch.Tensor], weights: torch.Tensor) -> dict[str, float]:
    """Label-free functions of the state; roots of what has heavy tails."""
    cluster, first = values["cluster"][0], float(weights[0, 0, 1])
    shown = {
        "number of clusters": float(num_clusters(cluster[None])[0]),
        "first two together": float(cluster[0] == cluster[1]),
        "concentration": float(values["concentration"][0].log()),
        "cluster scale": float(values["cluster_scale"][0, 0].abs().log()),
        "scale": float(values["residual_scale"][0].flatten()[1].abs().log()),
        "level": float(weights[0, 0, 0]),
        "weight": first,
        "size of a weight": abs(first),
        "weights alike": abs(first - float(weights[0, 1, 1])),
    }
    if "residual_correlation" in values:
        sign = values["residual_scale"].prod(1).sign()
        shown["correlation"] = float(values["residual_correlation"][0, 1, 0] * sign)
    return shown


def geweke(model: bm.LinearModel, num_pairs: int, seed: int, *, steps: int = 2) -> dict[str, float]:
    """p-values of the hypothesis that a few sweeps change no mean, as in `test_partitions`."""
    rng = np.random.default_rng(seed)
    X, task = design(rows=4)
    before: list[dict[str, float]] = []
    after: list[dict[str, float]] = []
    for pair in range(num_pairs):
        problem, values, drawn = joint_draw(model, rng, X, task)
        before.append(summaries(values, drawn.weights))
        sampler = Gibbs(problem, num_warmup=0)
        points = coordinates(problem, values)
        root = 0.5 * torch.eye(points.shape[1], dtype=torch.float64)
        generator = torch.Generator().manual_seed(seed + 7 * pair)
        # proposals of weights are made at a point that does not depend on the state
        state = sampler.state(
            points, root, drawn, sampler.problem.outcomes(values).start()[None], generator, values["cluster"]
        )
        for _ in range(steps):
            sampler.advance(state, rng)
        moved = problem.space.constrain(state.points) | {"cluster": state.membership}
        after.append(summaries(moved, state.current.weights))
    return {
        name: float(stats.ttest_rel([b[name] for b in before], [a[name] for a in after]).pvalue)
        for name in before[0]
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", GEWEKE)
def test_the_sampler_leaves_the_joint_distribution_unchanged(name):
    p_values = geweke(GEWEKE[name], num_pairs=80, seed=seeded(21))
    assert min(p_values.values()) > 1e-6, p_values


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_enumeration_notices_a_wrong_renewal(monkeypatch):
    """One that forgets that a task draws its cluster by what the prior and the rows say."""
    density = renewal.log_likelihood_given_basis
    monkeypatch.setattr(renewal, "log_likelihood_given_basis", lambda *given: 0 * density(*given))
    assert disagreement("diagonal", bm.Bernoulli()) > 4.5


@pytest.mark.slow
def test_a_wrong_linear_term_is_noticed(monkeypatch):
    """kappa = y instead of y - trials / 2."""
    right = bm.Binomial.polya_gamma
    monkeypatch.setattr(
        bm.Binomial, "polya_gamma", lambda self, y, given: right(self, y, given)._replace(kappa=y)
    )
    p_values = geweke(GEWEKE["three clusters, full, Binomial"], num_pairs=40, seed=seeded(22))
    assert p_values["level"] < 1e-6, p_values


def test_links_without_the_augmentation_are_refused():
    data = toy_outcomes(bm.Bernoulli())
    with pytest.raises(SpecificationError, match="logit link"):
        bm.LinearModel(bm.DirichletProcess(), bm.Bernoulli("probit")).fit(data, seed=0, progress=False)
    with pytest.raises(SpecificationError, match="num_clusters"):
        bm.LinearModel(bm.Clusters(6), bm.Bernoulli()).fit(data, seed=0, progress=False)
