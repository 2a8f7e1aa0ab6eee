"""Runs of Laplace's method that are killed or interrupted."""

from __future__ import annotations

import warnings
from importlib import import_module

import numpy as np
import pytest
import torch

import bayesmtl as bm
from bayesmtl.errors import CheckpointError, ConvergenceWarning
from bayesmtl.inference.laplace import correction
from bayesmtl.inference.laplace.journal import Journal
from bayesmtl.parameters import ParameterSpace
from bayesmtl.posteriors.linear import outcomes as marginal
from bayesmtl.samplers import checkpoint as checkpoints
from tests.contract.checks import assert_same_draws

laplace = import_module("bayesmtl.inference.laplace.engine")  # whose name the engine has, too

RUN = {"method": "laplace", "seed": 3, "num_chains": 2, "num_draws": 12, "progress": False}
_KNOWN = {"scale": bm.Fixed(0.7), "mean_scale": bm.Fixed(0.8)}
MODELS = {
    "Bernoulli": bm.LinearModel(likelihood=bm.Bernoulli()),
    "NegativeBinomial": bm.LinearModel(bm.Pooled(), bm.NegativeBinomial()),  # with a parameter of its own
    "Poisson, all known": bm.LinearModel(bm.Hierarchical(**_KNOWN), bm.Poisson()),
    "MultitaskGP": bm.MultitaskGP(likelihood=bm.Bernoulli()),
}


@pytest.fixture(scope="module")
def data() -> bm.TaskData:
    rng = np.random.default_rng(0)
    task = np.repeat(["a", "b", "c"], 6)
    X = rng.normal(size=(18, 1))
    return bm.TaskData.from_arrays(X, (X[:, 0] + rng.normal(size=18) > 0).astype(float), task)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Few points at a time, which these data are too small for otherwise, all saved at once."""
    monkeypatch.setattr(marginal, "_AT_ONCE", 100 * 18)
    monkeypatch.setattr(correction, "_AT_ONCE", 50 * 16 * 18)
    monkeypatch.setattr(laplace, "_LEAST_PROPOSALS", 200)
    monkeypatch.setattr(laplace, "LEAST_DRAWS", 200)
    monkeypatch.setattr(checkpoints, "_SECONDS_BETWEEN", -1.0)


def fit(data, model, **changes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(data, **(RUN | changes))


@pytest.fixture
def stopping(monkeypatch):
    """Count what a run notes in its journal, and raise something in place of one note."""
    noted = Journal._noted

    def arrange(number: int | None = None, error: BaseException | None = None) -> list[bool]:
        notes: list[bool] = []  # of every note, whether it was of draws

        def note(self):
            if len(notes) == number:
                raise error
            notes.append(self.chunks.number > 0)
            noted(self)

        monkeypatch.setattr(Journal, "_noted", note)
        return notes

    return arrange


@pytest.mark.parametrize("name", MODELS)
def test_a_killed_run_resumes_bit_for_bit(name, data, stopping, tmp_path):
    """Killed in the search for the mode, while weighting, and while drawing weights."""
    model, path = MODELS[name], tmp_path / "run.npz"
    notes = stopping()
    whole = fit(data, model)
    number = len(notes)
    # the last pieces of hyperparameters and of weights
    kill = sorted({min(4, number - 1), max(notes.index(True) - 1, 0) if True in notes else number - 1})
    kill += [number - 1] if True in notes else []
    done = 0
    for place in kill:
        stopping(place - done, RuntimeError("power cut"))
        with pytest.raises(RuntimeError, match="power cut"):
            fit(data, model, checkpoint=path)
        done = place  # a resumed run notes only what is new
    resumed_notes = stopping()
    resumed = fit(data, model, checkpoint=path)
    assert len(resumed_notes) == number - done
    if name == "MultitaskGP":
        for key, values in whole.draws.hyperparameters.items():
            assert torch.equal(values, resumed.draws.hyperparameters[key])
        return
    assert_same_draws(resumed, whole)
    for key, values in whole.draws.sample_stats.items():
        assert np.array_equal(values, resumed.draws.sample_stats[key]), key
    again = stopping(0, AssertionError("a finished run was run again"))
    assert_same_draws(fit(data, model, checkpoint=path), whole)
    assert not again


def test_a_second_way_of_drawing_resumes_too(data, stopping, tmp_path, monkeypatch):
    """Where weights are told to be too uneven candidates are drawn anew, and a kill falls among those."""
    monkeypatch.setattr(correction, "RELIABLE", -10.0)
    model, path = MODELS["Bernoulli"], tmp_path / "run.npz"
    notes = stopping()
    whole = fit(data, model)
    stopping(len(notes) - 1, RuntimeError("power cut"))
    with pytest.raises(RuntimeError, match="power cut"):
        fit(data, model, checkpoint=path)
    left = stopping()
    assert_same_draws(fit(data, model, checkpoint=path), whole)
    assert len(left) == 1 < notes.count(True) // 2


def test_an_interrupt_gives_the_weights_drawn_so_far(data, stopping, tmp_path):
    """They are draws of the posterior like the others, fewer; and the same run goes on."""
    model, path = MODELS["Bernoulli"], tmp_path / "run.npz"
    notes = stopping()
    whole = fit(data, model, num_draws=300)
    first = notes.index(True)
    stopping(first + 4, KeyboardInterrupt())
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        part = model.fit(data, checkpoint=path, **(RUN | {"num_draws": 300}))
    assert not part.complete and whole.complete
    sizes = part.posterior.sizes
    assert 100 <= sizes["draw"] < 300 and part.draws.sample_stats["pareto_k"].shape == (2, sizes["draw"])
    # 5 standard errors of about 200 draws; 8 quantities: fails by chance once in 100,000
    for name in ("population", "weights"):
        ours, theirs = part.posterior[name], whole.posterior[name]
        gap = np.abs(ours.mean(("chain", "draw")) - theirs.mean(("chain", "draw")))
        assert np.all(gap < 5 * theirs.std(("chain", "draw")) * np.sqrt(1 / 200 + 1 / 600)), name
    stopping()
    assert_same_draws(fit(data, model, checkpoint=path, num_draws=300), whole)


@pytest.mark.parametrize("name", ["Bernoulli", "MultitaskGP"])
def test_an_interrupt_before_anything_is_drawn_says_so(name, data, stopping, tmp_path):
    path, model = tmp_path / "run.npz", MODELS[name]
    stopping(6, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt, match="nothing to return; fit with checkpoint=path to go on"):
        fit(data, model)
    stopping(6, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt, match="fit again with the same checkpoint"):
        fit(data, model, checkpoint=path)
    stopping(0, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):  # at the first evaluation that is not in the file
        fit(data, model, checkpoint=path)


@pytest.mark.parametrize("change", [{"seed": 4}, {"num_draws": 13}, {"num_chains": 1}], ids=str)
def test_a_checkpoint_of_another_run_is_refused(change, data, stopping, tmp_path):
    path, model = tmp_path / "run.npz", MODELS["Bernoulli"]
    stopping(3, RuntimeError("power cut"))
    with pytest.raises(RuntimeError):
        fit(data, model, checkpoint=path)
    with pytest.raises(CheckpointError, match="saved by a different run"):
        fit(data, model, checkpoint=path, **change)


def test_evaluations_at_other_points_are_refused(data, stopping, tmp_path, monkeypatch):
    """As another version of the package would make them."""
    path, model = tmp_path / "run.npz", MODELS["Bernoulli"]
    stopping(3, RuntimeError("power cut"))
    with pytest.raises(RuntimeError):
        fit(data, model, checkpoint=path)
    initial = ParameterSpace.initial
    monkeypatch.setattr(ParameterSpace, "initial", lambda *given: initial(*given) + 0.1)
    with pytest.raises(CheckpointError, match="evaluation 0 at another point"):
        fit(data, model, checkpoint=path)
