"""Every judge of `check()` speaks on draws built to deserve it, and is silent on others."""

import numpy as np
import pytest
import xarray as xr

from bayesmtl.diagnostics import check_draws

C, N = 4, 400


def arrays(**changed: np.ndarray) -> xr.Dataset:
    """Independent draws of a vector and a matrix; each of `changed` is an entry beside them."""
    rng = np.random.default_rng(0)
    found = {
        "vector": (("chain", "draw", "feature"), rng.normal(size=(C, N, 3))),
        "matrix": (("chain", "draw", "task", "feature"), rng.normal(size=(C, N, 40, 3))),
        **{name: (("chain", "draw"), values) for name, values in changed.items()},
    }
    coords = {"feature": list("xyz"), "task": [f"t{t}" for t in range(40)]}
    return xr.Dataset(found, coords=coords).assign_coords(chain=range(C), draw=range(N))


def everywhere(**stats: float) -> dict[str, np.ndarray]:
    return {name: np.full((C, N), value) for name, value in stats.items()}


# What engines record where all is well, by kind of draws.
GOOD = {
    "chains": {"lp": 0.0, "acceptance_rate": 0.8, "diverging": 0.0},
    "gibbs": {"log_likelihood": 0.0},
    "mode": {"converged": 1.0, "start_disagreement": 0.0},
    "weighted": {"pareto_k": 0.2, "importance_ess": 900.0, "converged": 1.0},
    "corrected": {
        "pareto_k": 0.2,
        "importance_ess": 900.0,
        "converged": 1.0,
        "pareto_k_weights": 0.2,
        "importance_ess_weights": 900.0,
    },
    "corrected alone": {"pareto_k_weights": 0.2, "importance_ess_weights": 900.0},
    "bound": {"elbo_rise": 0.0, "elbo_rise_error": 0.1, "restart_disagreement": 0.1},
    "partition bound": {
        "elbo_rise": 0.0,
        "last_stick": 0.0,
        "start_disagreement": 0.0,
        "num_partitions": 1.0,
        "largest_part": 1.0,
    },
    "nothing": {},
}


@pytest.mark.parametrize("kind", GOOD)
def test_good_draws_pass(kind):
    check = check_draws(arrays(), everywhere(**GOOD[kind]), complete=True)
    assert check.ok, check


@pytest.mark.parametrize(
    "kind, change, words",
    [
        ("chains", {"diverging": 1.0}, "trajectories diverged"),
        ("mode", {"converged": 0.0}, "optimiser stopped"),
        ("weighted", {"pareto_k": 0.9}, "carry all the weight"),
        ("weighted", {"pareto_k": np.nan}, "carry all the weight"),
        ("weighted", {"importance_ess": 5.0}, "Few independent draws of the hyperparameters"),
        ("weighted", {"converged": 0.0}, "optimiser stopped"),
        ("corrected", {"pareto_k": 0.9}, "carry all the weight"),
        ("corrected", {"pareto_k_weights": 0.9}, "too rough to be corrected"),
        ("corrected", {"pareto_k_weights": np.nan}, "too rough to be corrected"),
        ("corrected alone", {"pareto_k_weights": 0.9}, "too rough to be corrected"),
        ("corrected alone", {"importance_ess_weights": 5.0}, "after the correction"),
        ("bound", {"elbo_rise": 50.0}, "bound (ELBO) rose"),
        ("bound", {"elbo_rise": np.nan}, "bound (ELBO) rose"),
        ("bound", {"restart_disagreement": 2.0}, "Restarts disagree"),
        ("partition bound", {"elbo_rise": 3.0}, "in the last round"),
        ("partition bound", {"last_stick": 2.0}, "last of the clusters"),
    ],
)
def test_what_engines_record_is_judged(kind, change, words):
    check = check_draws(arrays(), everywhere(**(GOOD[kind] | change)), complete=True)
    assert not check.ok and any(words in message for message in check.messages), check


@pytest.mark.parametrize("kind", GOOD)
def test_an_interrupted_run_is_not_to_be_trusted(kind):
    check = check_draws(arrays(), everywhere(**GOOD[kind]), complete=False)
    assert not check.ok and "interrupted" in check.messages[0]


def one_chain_apart() -> np.ndarray:
    """One of four chains a standard deviation off."""
    values = np.random.default_rng(1).normal(size=(C, N))
    values[2] += 1.0
    return values


def another_spread() -> np.ndarray:
    """One chain four times as wide about the same mean: only ranks of distances from it tell."""
    values = np.random.default_rng(2).normal(size=(C, N))
    values[1] *= 4.0
    return values


def drifting() -> np.ndarray:
    """All chains move together by two standard deviations: halves disagree, chains do not."""
    return np.random.default_rng(3).normal(size=(C, N)) + np.linspace(0, 2, N)


def slow() -> np.ndarray:
    """Each draw hardly moves, but halves and chains have the same mean."""
    values = np.sin(np.linspace(0, 8 * np.pi, N, endpoint=False))
    return values + 0.01 * np.random.default_rng(4).normal(size=(C, N))


def seldom_far() -> np.ndarray:
    """The largest twentieth comes in runs of ten, all else at random."""
    values = np.random.default_rng(5).normal(size=(C, N))
    values[:, np.arange(N) % 200 < 10] += 6.0
    return values


@pytest.mark.parametrize("kind", ["chains", "gibbs"])
@pytest.mark.parametrize(
    "values, words",
    [
        (one_chain_apart, "Chains disagree about worst: R-hat"),
        (another_spread, "Chains disagree about worst: R-hat"),
        (drifting, "Chains disagree about worst: R-hat"),
        (slow, "Few independent draws of worst: bulk"),
        (seldom_far, "Few independent draws of worst: tail"),
    ],
)
def test_one_bad_quantity_among_many_is_found(values, words, kind):
    """By its name, though 123 others are good."""
    check = check_draws(arrays(worst=values()), everywhere(**GOOD[kind]), complete=True)
    assert not check.ok and any(words in message for message in check.messages), check
    assert check.table.index[0] == "worst" or "Few" in words


@pytest.mark.parametrize("values", [one_chain_apart, drifting, slow])
def test_one_bad_entry_of_a_large_array_is_found(values):
    """Of which only the entries that mix worst are looked at closely."""
    posterior = arrays()
    posterior["matrix"][:, :, 17, 1] = values()
    check = check_draws(posterior, everywhere(**GOOD["chains"]), complete=True)
    assert not check.ok and any("matrix[t17, y]" in message for message in check.messages), check


def test_what_the_data_do_not_inform_is_noted():
    prior, posterior = arrays(), arrays()
    prior["vector"] = 3.0 * prior["vector"]
    check = check_draws(posterior, everywhere(**GOOD["chains"]), complete=True, prior=prior[["vector"]])
    assert not any("say nothing" in note for note in check.notes)
    check = check_draws(posterior, everywhere(**GOOD["chains"]), complete=True, prior=posterior[["vector"]])
    assert any("say nothing about vector[x]" in note for note in check.notes)
