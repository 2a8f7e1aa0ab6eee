"""Long work: progress, interrupts, checkpoints."""

import warnings

import numpy as np
import pytest
import torch

import bayesmtl as bm
from bayesmtl.errors import CheckpointError, ConvergenceWarning
from bayesmtl.samplers import checkpoint as checkpoints
from bayesmtl.samplers.hmc import HMC
from tests.contract.checks import assert_same_draws

# so many effective draws only chains could give
RUN = {
    "method": "exact",
    "seed": 2,
    "num_chains": 2,
    "num_draws": 12,
    "num_warmup": 20,
    "num_effective": 10**6,
    "progress": False,
}


def fit(data, model=None, **changes) -> bm.Fit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return (model or bm.LinearModel()).fit(data, **(RUN | changes))


@pytest.fixture(scope="module")
def undisturbed(lab_data):
    return fit(lab_data)


@pytest.fixture
def stop_after(monkeypatch):
    """Raise something in place of an iteration, once so many are done."""

    def arrange(number: int, error: BaseException) -> None:
        advance = HMC.advance

        def stopping(self, state):
            if state.iteration == number:
                raise error
            advance(self, state)

        monkeypatch.setattr(HMC, "advance", stopping)

    yield arrange
    monkeypatch.undo()


@pytest.fixture
def save_always(monkeypatch):
    """Save after every iteration, not every few seconds."""
    monkeypatch.setattr(checkpoints, "_SECONDS_BETWEEN", -1.0)


def test_an_interrupt_gives_what_was_drawn(lab_data, lab_frame, stop_after, undisturbed, tmp_path):
    stop_after(20 + 7, KeyboardInterrupt())
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        part = bm.LinearModel().fit(lab_data, **RUN)
    assert not part.complete and undisturbed.complete
    assert part.posterior.sizes["draw"] == 7
    for name, values in part.draws.hyperparameters.items():
        assert torch.equal(values, undisturbed.draws.hyperparameters[name][:, :7])
    check = part.check()
    assert not check.ok and "interrupted" in check.messages[0] and "checkpoint=" in check.messages[0]
    assert "INCOMPLETE" in repr(part) and "INCOMPLETE" in part._repr_html_()
    assert "INCOMPLETE" not in repr(undisturbed)
    assert np.isfinite(part.predict(lab_frame).draws).all()
    part.save(tmp_path / "part.nc")
    assert not bm.load(tmp_path / "part.nc").complete


@pytest.mark.parametrize("done", [0, 10, 20, 22], ids=lambda done: f"{done} iterations")
def test_an_interrupt_before_anything_is_drawn_is_passed_on(done, lab_data, stop_after):
    """R-hat needs four draws: with fewer there is nothing to return."""
    stop_after(done, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        fit(lab_data)


def test_an_interrupted_run_goes_on(lab_data, stop_after, undisturbed, tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    stop_after(25, KeyboardInterrupt())
    assert not fit(lab_data, checkpoint=path).complete
    monkeypatch.undo()
    resumed = fit(lab_data, checkpoint=path)
    assert resumed.complete
    assert_same_draws(resumed, undisturbed)


MODELS = {
    "Hierarchical": bm.LinearModel(),
    "full, noise by task": bm.LinearModel(bm.Hierarchical(covariance="full"), bm.Gaussian(noise="task")),
    "LowRank": bm.LinearModel(bm.LowRank(rank=2)),
    "DirichletProcess": bm.LinearModel(bm.DirichletProcess()),
}


@pytest.mark.parametrize("done", [7, 20, 24], ids=lambda done: f"{done} iterations")
def test_a_killed_run_resumes_bit_for_bit(
    done, lab_data, stop_after, save_always, undisturbed, tmp_path, monkeypatch
):
    """Killed while the step size adapts, at the end of warm-up, and while drawing."""
    path = tmp_path / "run.npz"
    stop_after(done, RuntimeError("power cut"))
    with pytest.raises(RuntimeError, match="power cut"):
        fit(lab_data, checkpoint=path)
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]
    monkeypatch.undo()
    resumed = fit(lab_data, checkpoint=path)
    assert_same_draws(resumed, undisturbed)
    for name, values in undisturbed.draws.sample_stats.items():
        assert np.array_equal(values, resumed.draws.sample_stats[name]), name


@pytest.mark.parametrize("name", MODELS)
def test_every_model_resumes_bit_for_bit(name, lab_data, stop_after, save_always, tmp_path, monkeypatch):
    """In a warm-up long enough for every stage of adaptation, killed after it and within."""
    path, run = tmp_path / "run.npz", {"num_warmup": 30, "num_draws": 6}
    run["method"] = "auto"  # which takes "gibbs" for partitions and "exact" for all others
    expected = fit(lab_data, MODELS[name], **run)
    for done in (28, 33):
        with monkeypatch.context() as patch:
            advance = HMC.advance

            def stopping(self, state, done=done, advance=advance):
                if state.iteration == done:
                    raise RuntimeError("power cut")
                advance(self, state)

            patch.setattr(HMC, "advance", stopping)
            with pytest.raises(RuntimeError, match="power cut"):
                fit(lab_data, MODELS[name], checkpoint=path, **run)
    assert_same_draws(fit(lab_data, MODELS[name], checkpoint=path, **run), expected)


def test_partitions_are_kept_when_interrupted(lab_data, stop_after, tmp_path, monkeypatch):
    """As many partitions as draws, those of the undisturbed run; and the same run goes on."""
    model, path, run = bm.LinearModel(bm.DirichletProcess()), tmp_path / "run.npz", {"method": "gibbs"}
    whole = fit(lab_data, model, **run)
    stop_after(20 + 7, KeyboardInterrupt())
    part = fit(lab_data, model, checkpoint=path, **run)
    assert not part.complete and part.partition().draws.sizes["draw"] == 2 * 7
    kept = whole.draws.hyperparameters["cluster"][:, :7]
    assert torch.equal(part.draws.hyperparameters["cluster"], kept)
    monkeypatch.undo()
    assert_same_draws(fit(lab_data, model, checkpoint=path, **run), whole)


def test_a_finished_run_is_not_run_again(lab_data, undisturbed, tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    assert_same_draws(fit(lab_data, checkpoint=path), undisturbed)
    monkeypatch.setattr(HMC, "advance", lambda self, state: pytest.fail("an iteration was run"))
    assert_same_draws(fit(lab_data, checkpoint=path), undisturbed)


def test_more_draws_go_on_from_fewer(lab_data, undisturbed, tmp_path):
    path = tmp_path / "run.npz"
    fit(lab_data, checkpoint=path, num_draws=5)
    longer = fit(lab_data, checkpoint=path)
    for name, values in longer.draws.hyperparameters.items():
        assert torch.equal(values, undisturbed.draws.hyperparameters[name])


@pytest.fixture(scope="module")
def saved(lab_data, tmp_path_factory):
    """A checkpoint of a run with known noise, in the units of the target."""
    path = tmp_path_factory.mktemp("checkpoint") / "run.npz"
    fit(lab_data, bm.LinearModel(likelihood=bm.Gaussian(noise=0.7)), checkpoint=path)
    return path


def other_units(frame):
    return frame.assign(**{"yield": frame["yield"] * 8.0})


OTHERS = {
    "seed": lambda frame: (frame, bm.LinearModel(likelihood=bm.Gaussian(noise=0.7)), {"seed": 3}),
    "chains": lambda frame: (frame, bm.LinearModel(likelihood=bm.Gaussian(noise=0.7)), {"num_chains": 3}),
    "warm-up": lambda frame: (frame, bm.LinearModel(likelihood=bm.Gaussian(noise=0.7)), {"num_warmup": 21}),
    "sharing": lambda frame: (
        frame,
        bm.LinearModel(bm.Hierarchical(scale=bm.HalfNormal(0.9)), bm.Gaussian(noise=0.7)),
        {},
    ),
    "noise": lambda frame: (frame, bm.LinearModel(likelihood=bm.Gaussian(noise=0.8)), {}),
    "rows": lambda frame: (frame.iloc[:-1], bm.LinearModel(likelihood=bm.Gaussian(noise=0.7)), {}),
    "task names": lambda frame: (
        frame.assign(lab="x" + frame["lab"]),
        bm.LinearModel(likelihood=bm.Gaussian(noise=0.7)),
        {},
    ),
    # standardised, these data are the same: only what the known noise means has changed
    "target units": lambda frame: (
        other_units(frame),
        bm.LinearModel(likelihood=bm.Gaussian(noise=0.7)),
        {},
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_checkpoint_of_another_run_is_refused(what, lab_frame, saved):
    frame, model, settings = OTHERS[what](lab_frame)
    data = bm.TaskData.from_frame(frame, task="lab", target="yield", features=["dose", "age"])
    before = saved.read_bytes()
    with pytest.raises(CheckpointError, match=r"run\.npz, saved by a different run.*Delete the file"):
        fit(data, model, checkpoint=saved, **settings)
    assert saved.read_bytes() == before


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_checkpoint_cut_short_is_refused(share, lab_data, saved, tmp_path):
    content = saved.read_bytes()
    path = tmp_path / "run.npz"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        CheckpointError, match=r"`checkpoint`: .*run\.npz, which cannot be read.*Delete the file"
    ):
        fit(lab_data, bm.LinearModel(likelihood=bm.Gaussian(noise=0.7)), checkpoint=path)


def test_foreign_checkpoints_are_refused(lab_data, tmp_path):
    text, other, array, nested = (tmp_path / name for name in ("a.txt", "b.npz", "c.npy", "d.npz"))
    text.write_text("a diary\n" * 200)
    np.savez(other, x=np.ones(3))
    np.save(array, np.ones(3))
    np.savez(nested, fingerprint=np.array([{"not": "plain"}], dtype=object))
    for path in (text, other, array, nested):
        with pytest.raises(CheckpointError, match="cannot be read"):
            fit(lab_data, checkpoint=path)


def test_a_flipped_byte_in_a_checkpoint_is_refused(lab_data, saved, tmp_path):
    content = bytearray(saved.read_bytes())
    content[len(content) // 2] ^= 0x10
    path = tmp_path / "run.npz"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        fit(lab_data, bm.LinearModel(likelihood=bm.Gaussian(noise=0.7)), checkpoint=path)


def test_progress_goes_to_stderr(lab_data, capsys):
    fit(lab_data, progress=True)
    shown = capsys.readouterr()
    assert shown.out == "" and "2 chains" in shown.err and "32/32" in shown.err


@pytest.mark.parametrize("method", ["exact", "empirical_bayes"])
def test_no_progress_prints_nothing(method, lab_data, lab_frame, capfd):
    fitted = fit(lab_data, method=method, progress=False)
    fitted.predict(lab_frame)
    fitted.check()
    fitted.to_datatree()
    shown = capfd.readouterr()
    assert shown.out == "" and shown.err == ""


def test_short_runs_warn(lab_data):
    """The warning names a quantity, and the task where it has one."""
    with pytest.warns(ConvergenceWarning, match=r"(Few independent draws of|Chains disagree about) \w+"):
        bm.LinearModel().fit(lab_data, **RUN)
