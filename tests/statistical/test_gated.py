"""The gate: moves and engines against enumeration, getting it right, limits, new tasks, bad input.

False-alarm budget: 1e-4 for this file. About 60 frequencies that tell something at 5 standard errors (6e-7
each), three fits with 10 probabilities each at 4.5 (7e-6) and fewer independent draws assumed than there are,
14 p-values of Geweke's tests at 1e-6; seeds are fixed. What they detect is shown by samplers broken on
purpose.
"""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import bayesmtl as bm
from bayesmtl.algebra.clusters import log_marginal_clusters
from bayesmtl.errors import BayesMTLError, DataError, SpecificationError
from bayesmtl.inference.gibbs.engine import Gibbs
from bayesmtl.inference.partitions.moves import Evidence
from bayesmtl.inference.partitions.prior_weights import GateWeights
from bayesmtl.sharing.partitions.base import in_order, num_clusters
from benchmarks import partition_calibration
from tests.equivalence.partitions import all_partitions
from tests.seeds import seeded
from tests.statistical import test_partition_outcomes, test_partitions
from tests.statistical.test_partitions import coordinates, moves, toy_evidence

pytestmark = [pytest.mark.statistical]

TASKS = list("abcde")
TABLE = pd.DataFrame({"size": [3.0, 2.0, -1.0, -2.0, 0.5]}, index=TASKS)
X = torch.tensor([[1.2], [0.4], [-0.9], [-1.4], [0.7]], dtype=torch.float64)


def gate_values(number: int, num_slots: int) -> dict[str, torch.Tensor]:
    """One gate, the same in every chain."""
    weight = torch.tensor([1.0, 0.4, 0.7], dtype=torch.float64)[:num_slots]
    slope = torch.tensor([[0.8], [-1.1], [0.3]], dtype=torch.float64)[:num_slots]
    one = torch.ones(number, 1, dtype=torch.float64)
    return {
        "gate_weight": weight.expand(number, -1),
        "gate_slope": slope.expand(number, -1, -1),
        "gate_scale": one,
    }


def labelled(num_tasks: int, num_slots: int) -> np.ndarray:
    """All ways to give tasks to clusters with numbers."""
    return np.array(list(itertools.product(range(num_slots), repeat=num_tasks)))


def disagreement(kind: str, *, num_chains: int = 3000, num_tasks: int = 4, num_slots: int = 3) -> float:
    """Largest standardised difference of frequencies of labelled partitions from their probabilities."""
    # split-merge is tried where one cluster of all tasks is likely: data say little
    strength = 0.05 if kind == "split-merge" else 1.0
    data = Evidence(strength * toy_evidence(num_tasks, num_chains, seed=1).terms)
    prior = bm.Gated(num_slots, ["size"])
    states = labelled(num_tasks, num_slots)
    known = X[:num_tasks]
    exact = prior.log_partition(torch.from_numpy(states), gate_values(len(states), num_slots), known).numpy()
    one = Evidence(np.repeat(data.terms[:1], len(states), axis=0))
    exact = np.exp(exact + one.log_density(states))
    exact /= exact.sum()
    weights = GateWeights(prior, gate_values(num_chains, num_slots), known)
    generator = torch.Generator().manual_seed(seeded(3))
    # split-merge leaves the number of a task's own cluster alone: it starts from the right one
    start = np.random.default_rng(seeded(2)).choice(len(states), p=exact, size=num_chains)
    membership = states[start] if kind == "split-merge" else np.zeros((num_chains, num_tasks), dtype=int)
    for _ in range(20 if kind == "split-merge" else 10):
        membership = moves(kind)(membership, data, weights, generator)
    found = (membership[:, None] == states).all(2).mean(0)
    usable = exact > 5 / num_chains
    assert usable.sum() >= 5
    return float(np.max(np.abs(found - exact)[usable] / np.sqrt(exact * (1 - exact) / num_chains)[usable]))


@pytest.mark.parametrize("kind, num_slots", [("Gibbs", 3), ("split-merge", 3), ("split-merge", 2)])
def test_moves_agree_with_enumeration(kind, num_slots):
    assert disagreement(kind, num_slots=num_slots) < 5


def test_enumeration_notices_a_number_that_is_free_of_charge(monkeypatch):
    """A split that forgets how many numbers the new cluster could have had."""
    right = GateWeights.second_label

    def wrong(self, *given):
        label, choices = right(self, *given)
        return label, np.where(np.isfinite(choices), 0.0, choices)

    monkeypatch.setattr(GateWeights, "second_label", wrong)
    assert disagreement("split-merge") > 5


def test_enumeration_notices_a_wrong_gate(monkeypatch):
    """A Gibbs move that looks at another task's descriptors."""
    right = GateWeights.slots
    monkeypatch.setattr(GateWeights, "slots", lambda self, size, task: right(self, size, 3 - task))
    assert disagreement("Gibbs") > 5


def prior_probability(prior: bm.Gated, descriptors: torch.Tensor, number: int = 40_000) -> np.ndarray:
    """P(partition) of every partition of the tasks, the gate integrated out by draws from its prior."""
    rng = np.random.default_rng(seeded(8))
    values = {p.name: p.sample(rng, number) for p in prior.partition_parameters()}
    gate = prior.log_gate(values, descriptors).exp().numpy()
    T, K = gate.shape[1:]
    partitions = all_partitions(T)
    place = {tuple(row): at for at, row in enumerate(partitions.tolist())}
    probability = np.zeros(len(partitions))
    for state in labelled(T, K):
        own = in_order(torch.from_numpy(state)[None])[0]
        probability[place[tuple(own.tolist())]] += gate[:, np.arange(T), state].prod(1).mean()
    return probability


@pytest.mark.parametrize("concentration", [0.5, 2.0])
def test_without_slopes_it_is_clusters(concentration):
    """Probabilities of all partitions of five tasks: the gate's weights are Dirichlet. 40,000 draws: 2 %."""
    prior = bm.Gated(3, ["size"], concentration, slopes=bm.Fixed(0.0))
    partitions = all_partitions(5)
    values = {"concentration": torch.full((len(partitions),), concentration, dtype=torch.float64)}
    expected = bm.Clusters(3).log_partition(partitions, values).exp().numpy()
    found = prior_probability(prior, X)
    assert found.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(found, expected, rtol=0.1, atol=3e-3)
    # and a descriptor that says something changes them
    informed = prior_probability(bm.Gated(3, ["size"], concentration, slopes=bm.Fixed(2.0)), X)
    assert np.abs(informed - expected).max() > 0.02


def described(data: bm.TaskData) -> bm.TaskData:
    """The toy rows of the tests of other priors, their tasks described."""
    frame = data.to_frame()
    names = {"task": data.task_column, "target": data.target_name, "features": ["x0"]}
    made = bm.TaskData.from_frame(frame, **names, intercept=False, descriptors=TABLE)
    return made.with_target_standardization("none")


def known(likelihood: bm.Gaussian | bm.Bernoulli) -> bm.LinearModel:
    """Only the gate, the partition and the weights are unknown."""
    gate = bm.Gated(2, ["size"], slopes=bm.Fixed(1.0), within="none", spread=bm.Fixed(1.0))
    return bm.LinearModel(gate, likelihood)


def enumerated(model: bm.LinearModel, data: bm.TaskData, descriptors: torch.Tensor) -> np.ndarray:
    """P(two tasks together) by all partitions, for Gaussian outcomes."""
    partitions = all_partitions(data.num_tasks)
    problem = model._posterior(data)
    points = torch.zeros(len(partitions), problem.space.size, dtype=torch.float64)
    values = problem.space.constrain(points) | {"cluster": partitions}
    noise = problem.noise(values, len(partitions))
    density = log_marginal_clusters(problem.tasks, problem.structure(values), noise).numpy()
    probability = prior_probability(model.sharing, descriptors) * np.exp(density - density.max())
    together = (partitions[:, :, None] == partitions[:, None]).numpy()
    return np.clip(np.einsum("p,ptu->tu", probability / probability.sum(), together), 0.0, 1.0)


def co_clustering(fit: bm.Fit) -> np.ndarray:
    return fit.partition().co_clustering.sel(task=TASKS, task_other=TASKS).to_numpy()


@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_the_engine_and_conditioning_agree_with_enumeration():
    model, data = known(bm.Gaussian(noise=0.8)), described(test_partitions.toy_rows())
    run = {"seed": seeded(0), "num_chains": 20, "num_draws": 30, "num_warmup": 60, "progress": False}
    fit = model.fit(data, **run)
    assert_close(fit, enumerated(model, data, fit.problem.descriptors))
    partial = model.fit(data.select_tasks(list("abcd")), **run)
    conditioned = partial.condition(data.select_tasks(["e"]), descriptors=TABLE)
    # in the units of the four training tasks
    scaled = (TABLE["size"] - TABLE["size"][:4].mean()) / TABLE["size"][:4].std(ddof=0)
    np.testing.assert_allclose(conditioned.problem.descriptors[:, 0], scaled)
    assert_close(conditioned, enumerated(model, data, torch.tensor(scaled.to_numpy())[:, None]))


def assert_close(fit: bm.Fit, exact: np.ndarray) -> None:
    """Of 600 draws, taken for 250 independent ones; 0.01 for the integral over the gate."""
    assert exact.min() < 0.3 and exact[np.triu_indices(5, 1)].max() > 0.6  # there is something to find
    gap = np.abs(co_clustering(fit) - exact)
    assert np.all(gap < 0.01 + 4.5 * np.sqrt(exact * (1 - exact) / 250)), gap.max()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_yes_or_no_outcomes_agree_with_enumeration(monkeypatch):
    model = known(bm.Bernoulli())
    data = described(test_partition_outcomes.toy_outcomes(bm.Bernoulli()))
    problem = model._posterior(data)
    log_prior = torch.from_numpy(np.log(prior_probability(model.sharing, problem.descriptors) + 1e-300))
    monkeypatch.setattr(bm.Gated, "log_partition", lambda self, partitions, values: log_prior)
    monkeypatch.setattr(test_partition_outcomes, "SPREAD", 1.0)
    exact = np.clip(test_partition_outcomes.enumerated(model, data, within=False), 0.0, 1.0)
    monkeypatch.undo()
    fit = model.fit(data, seed=seeded(0), num_chains=20, num_draws=30, num_warmup=50, progress=False)
    assert_close(fit, exact)


# --- the whole sampler must leave the joint distribution unchanged ---


def summaries(values: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Functions of states (B, ...) that no relabelling changes, and one that relabelling shows; each (B,)."""
    cluster = values["cluster"].long()
    gate = GATE.log_gate(values, X).gather(2, cluster[:, :, None])
    shown = {
        "number of clusters": num_clusters(cluster).double(),
        "first two together": (cluster[:, 0] == cluster[:, 1]).double(),
        "first cluster of the first": (cluster[:, 0] == 0).double(),
        "gate scale": values["gate_scale"][:, 0].abs().log(),
        "probability of the clusters": gate.mean((1, 2)),
        "own weight": values["gate_weight"].log().gather(1, cluster).mean(1),
        "cluster scale": values["cluster_scale"][:, 0].abs().log(),
    }
    return {name: value.numpy() for name, value in shown.items()}


GATE = bm.Gated(3, ["size"], 2.0)


def with_descriptors(module, draw):
    """What a function of a module of other priors draws, with descriptors in the problem and in the prior."""
    right = bm.Gated.sample_partition
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            bm.Gated, "sample_partition", lambda self, values, T, source: right(self, values, T, source, X)
        )
        for name in ("LinearPosterior", "OutcomePosterior"):
            if hasattr(module, name):
                patch.setattr(module, name, partial(getattr(module, name), descriptors=X))
        return draw()


def geweke(likelihood: bm.Gaussian | bm.Bernoulli, num_pairs: int, seed: int) -> dict[str, float]:
    """p-values of the hypothesis that two transitions change no mean, as in `test_partitions`."""
    model = bm.LinearModel(GATE, likelihood)
    before, after = (gaussian if likelihood.compresses else augmented)(model, num_pairs, seed)
    return {name: float(stats.ttest_rel(before[name], after[name]).pvalue) for name in before}


def gaussian(model: bm.LinearModel, num_pairs: int, seed: int):
    """States before and after, all data sets as chains of one batch."""
    simulated = with_descriptors(
        partition_calibration, lambda: partition_calibration.simulate(model, num_pairs, 5, 3, seed)
    )
    _, state = partition_calibration.advanced(simulated, seed, steps=2)
    moved = simulated.problem.space.constrain(state.points) | {"cluster": state.further["membership"]}
    return summaries(simulated.values), summaries(moved)


def augmented(model: bm.LinearModel, num_pairs: int, seed: int):
    """States before and after, one data set after the other."""
    rng = np.random.default_rng(seed)
    features, task = test_partitions.design(rows=3)
    before, after = [], []
    for pair in range(num_pairs):
        generator = torch.Generator().manual_seed(seed + 7 * pair)
        problem, values, drawn = with_descriptors(
            test_partition_outcomes,
            lambda: test_partition_outcomes.joint_draw(model, rng, features, task),
        )
        before.append(summaries(values))
        points = coordinates(problem, values)
        root = 0.4 * torch.eye(points.shape[1], dtype=torch.float64)
        gibbs = Gibbs(problem, num_warmup=0)
        at = gibbs.problem.outcomes(values).start()[None]
        state = gibbs.state(points, root, drawn, at, generator, values["cluster"])
        for _ in range(2):
            gibbs.advance(state, rng)
        after.append(summaries(problem.space.constrain(state.points) | {"cluster": state.membership}))
    return tuple(
        {name: np.concatenate([x[name] for x in side]) for name in side[0]} for side in (before, after)
    )


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", [bm.Gaussian(), bm.Bernoulli()], ids=["Gaussian", "Bernoulli"])
def test_the_sampler_leaves_the_joint_distribution_unchanged(likelihood):
    p_values = geweke(likelihood, 400 if likelihood.compresses else 80, 31)
    assert min(p_values.values()) > 1e-6, p_values


@pytest.mark.slow
def test_a_gate_that_hears_too_much_of_the_partition_is_noticed(monkeypatch):
    """Hyperparameters that move as if every task were there six times."""
    right = bm.Gated.log_partition
    with monkeypatch.context() as patch:
        patch.setattr(bm.Gated, "log_partition", lambda self, *given: 6.0 * right(self, *given))
        p_values = geweke(bm.Gaussian(), 400, 32)
    assert p_values["probability of the clusters"] < 1e-6, p_values


# --- fits ---


def groups(seed: int, *, informative: bool) -> tuple[bm.TaskData, np.ndarray]:
    """16 tasks of four rows in two groups that a descriptor tells apart, or does not."""
    rng = np.random.default_rng(seeded(seed))
    cluster = np.arange(16) % 2
    table = pd.DataFrame(
        {"size": (2.0 * cluster if informative else 0.0) + rng.normal(size=16)},
        index=[f"task_{t}" for t in range(16)],
    )
    task = np.repeat(np.arange(16), 4)
    y = np.array([-1.5, 1.5])[cluster[task]] + 0.5 * rng.normal(size=64)
    data = bm.TaskData.from_arrays(
        np.zeros((64, 0)), y, [f"task_{t}" for t in task], intercept=True, descriptors=table
    )
    return data, cluster


@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_a_new_task_is_predicted_by_its_descriptors(tmp_path):
    data, _ = groups(1, informative=True)
    fit = bm.LinearModel(bm.Gated(2, ["size"], within="none")).fit(
        data, seed=seeded(0), num_chains=8, num_draws=30, num_warmup=40, progress=False
    )
    new = pd.DataFrame({"task": ["large", "small"]})
    table = pd.DataFrame({"size": [4.0, -2.0]}, index=["large", "small"])
    kind = {"kind": "latent", "new_tasks": "population"}
    predicted = fit.predict(new, descriptors=table, **kind)
    assert predicted.mean[0] > 0.9 and predicted.mean[1] < -0.9
    # the same from columns of the rows, in the other order, and from the file
    columns = fit.predict(new.assign(size=[4.0, -2.0]), **kind)
    assert np.array_equal(columns.draws, predicted.draws)
    fit.save(tmp_path / "fit.nc")
    loaded = bm.load(tmp_path / "fit.nc")
    assert loaded.sharing == fit.sharing
    assert np.array_equal(loaded.predict(new, descriptors=table, **kind).draws, predicted.draws)
    assert "gate_scale[size]" in fit.summary().index
    with pytest.raises(
        DataError, match=r"`descriptors`: expected descriptors of 'large', 'small'.*found none"
    ):
        fit.predict(new, **kind)
    with pytest.raises(BayesMTLError, match="small"):
        fit.predict(new, descriptors=table.head(1), **kind)
    with pytest.raises(DataError, match="several rows for 'large'"):
        fit.predict(pd.DataFrame({"task": ["large"] * 2, "size": [1.0, 2.0]}), **kind)
    with pytest.raises(DataError, match="found no 'size'"):
        fit.predict(new, descriptors=table.rename(columns={"size": "length"}), **kind)


@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_other_priors_refuse_descriptors_of_new_tasks(lab_fit, lab_frame):
    with pytest.raises(SpecificationError, match="Hierarchical does not look at them"):
        lab_fit.predict(lab_frame, descriptors=TABLE)


BAD_DATA = {
    "none": (None, "expected descriptors of the tasks: 'size', found data without"),
    "another name": (TABLE.rename(columns={"size": "length"}), "found no 'size'"),
    "constant": (TABLE.assign(size=2.0), "differs between the training tasks, found 2 for all"),
    "text": (TABLE.astype(object).assign(size=list("vwxyz")), "`size`: expected a finite number.*'v' for a"),
    "infinite": (TABLE.assign(size=[1, 2, 3, 4, np.inf]), "`size`: expected a finite number.*inf.* for e"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_descriptors(case):
    table, message = BAD_DATA[case]
    rows = test_partitions.toy_rows().to_frame()
    data = bm.TaskData.from_frame(rows, task="task", target="y", features=["x0"], descriptors=table)
    with pytest.raises(DataError, match=message):
        bm.LinearModel(bm.Gated(2, ["size"])).fit(data, seed=0, progress=False)


def test_descriptors_of_the_wrong_length():
    rows = test_partitions.toy_rows().to_frame()
    with pytest.raises(BayesMTLError, match="a row for every task, found none for 'd', 'e'"):
        bm.TaskData.from_frame(rows, task="task", target="y", features=["x0"], descriptors=TABLE.head(3))


@pytest.mark.parametrize(
    "options, message",
    [
        ((6, ["size"]), "at most the number of tasks"),
        ((2, "size"), r"names of descriptors.*Write descriptors=\["),
        ((2, []), "use Clusters"),
        ((2, ["size", "size"]), "each once"),
        ((0, ["size"]), "a whole number of at least 1"),
        ((2, ["size"], 0.0), "`concentration`: expected a number above 0"),
        ((2, ["size"], 1.0, 2.0), "`slopes`: expected a prior"),
    ],
)
def test_bad_options(options, message):
    data = described(test_partitions.toy_rows())
    with pytest.raises(SpecificationError, match=message):
        bm.LinearModel(bm.Gated(*options)).fit(data, seed=0, progress=False)
