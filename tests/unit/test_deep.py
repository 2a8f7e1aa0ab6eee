"""Networks: the linear model without a trunk, exact heads, gradients, files, checkpoints, bad input."""

import numpy as np
import pandas as pd
import pytest
import torch

import bayesmtl as bm
from bayesmtl.features import FeatureMap, Module
from bayesmtl.inference.deep import MODE, hold_out
from bayesmtl.posteriors.deep import CollapsedHeads, on_columns
from bayesmtl.posteriors.linear.build import linear_posterior

pytestmark = pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")  # short runs

RUN = {"seed": 0, "progress": False, "num_chains": 1, "num_draws": 20}


def waves(n: int = 240, seed: int = 0) -> bm.TaskData:
    rng = np.random.default_rng(seed)
    x, task = rng.uniform(-2, 2, n), np.tile(["a", "b", "c"], n // 3)
    y = np.sin(2 * x) * np.tile([1.0, 1.2, 0.8], n // 3) + 0.1 * rng.normal(size=n)
    return bm.TaskData.from_arrays(np.column_stack([x, x**2]), y, task)


def labels(n: int = 120, seed: int = 0) -> bm.TaskData:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    kind = np.where(np.hypot(*x.T) < 0.8, "near", np.where(x[:, 0] > 0, "right", "left"))
    frame = pd.DataFrame(x, columns=["u", "v"]).assign(kind=pd.Categorical(kind), task="plane")
    return bm.TaskData.from_frame(frame, task="task", target="kind", features=["u", "v"])


@pytest.fixture(scope="module")
def wave_fit() -> bm.DeepFit:
    trunk = bm.trunks.mlp(hidden=[16], out=6, activation="tanh")
    return bm.DeepModel(trunk, members=2, inputs="columns").fit(waves(), steps=300, **RUN)


@pytest.mark.parametrize("sharing", [bm.Hierarchical(), bm.LowRank(rank=1), bm.TaskCovariance()])
def test_identity_without_skip_is_the_linear_model(lab_data, sharing):
    options = {**RUN, "method": "empirical_bayes"}
    linear = bm.LinearModel(sharing).fit(lab_data, **options)
    deep = bm.DeepModel(bm.trunks.identity(), sharing, skip=False, members=1).fit(lab_data, **options)
    for kind in ("latent", "observation"):
        ours, theirs = deep.predict(lab_data, kind=kind), linear.predict(lab_data, kind=kind)
        np.testing.assert_allclose(ours.draws, theirs.draws, rtol=1e-6)
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-6)


def test_trunk_step_is_the_gradient_of_the_marginal_likelihood():
    """Fisher's identity against central differences of the exact log marginal likelihood."""
    data, likelihood, sharing = waves(60), bm.Gaussian(), bm.Hierarchical()
    trunk = bm.trunks.mlp(hidden=[], out=2, activation="tanh")
    weights = {k: v.double() for k, v in trunk.initial(2, 1, torch.Generator().manual_seed(0)).items()}
    names = ("phi_0", "phi_1")

    def columns(weight: torch.Tensor) -> torch.Tensor:
        features = FeatureMap(
            trunk, {**weights, "weight_0": weight}, np.zeros(2), np.ones(2), skip=False, intercept=True
        )
        return features.columns(torch.from_numpy(data.X[None, :, 1:].copy()), features.weights)

    start = weights["weight_0"]
    first = columns(start).numpy()
    met = on_columns(data, first[0], names)
    standardization = likelihood.standardization(met)
    posterior, _ = linear_posterior(sharing, likelihood, met, standardization)
    point = posterior.space.initial(np.random.default_rng(1), 1)
    heads = CollapsedHeads(data, np.arange(60), names, sharing, likelihood, lambda *_: point[0])
    heads.refresh(first)
    moving = start.clone().requires_grad_()
    heads.log_density(columns(moving).float(), np.arange(60)).sum().backward()

    def marginal(weight: torch.Tensor) -> float:
        moved = on_columns(data, columns(weight)[0].numpy(), names)
        return float(linear_posterior(sharing, likelihood, moved, standardization)[0].value(point)[0])

    for i in range(2):
        for j in range(2):
            step = torch.zeros_like(start)
            step[0, i, j] = 1e-5
            slope = (marginal(start + step) - marginal(start - step)) / 2e-5
            assert float(moving.grad[0, i, j]) == pytest.approx(slope, rel=1e-3, abs=1e-3)


def test_curves_are_learned_that_lines_cannot_follow(wave_fit):
    data = waves(seed=7)
    linear = bm.LinearModel().fit(waves(), method="empirical_bayes", **RUN)
    errors = [np.mean((fit.predict(data).mean - data.y) ** 2) for fit in (wave_fit, linear)]
    assert errors[0] < 0.2 * errors[1]
    lower, upper = wave_fit.predict(data, num_draws=400).interval(0.9)
    assert 0.75 < np.mean((lower < data.y) & (data.y < upper)) <= 1.0


def test_members_are_computed_together_as_they_are_one_by_one():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(3, 5, 64, generator=generator)
    network = torch.nn.Sequential(torch.nn.Linear(64, 7), torch.nn.Tanh())
    for trunk in (
        bm.trunks.mlp(hidden=[8], out=4),
        bm.trunks.conv(image=(8, 8), channels=[3], out=4),
        Module(network),
    ):
        weights = trunk.initial(64, 3, generator)
        together = trunk.features(weights, X)
        for m in range(3):
            own = trunk.features({name: value[m : m + 1] for name, value in weights.items()}, X[m : m + 1])
            torch.testing.assert_close(together[m], own[0], rtol=1e-4, atol=1e-5)
        assert together.shape == (3, 5, trunk.width(64))


def test_a_module_keeps_its_weights_and_is_the_first_member():
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh())
    before = [value.clone() for value in network.parameters()]
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    trunk = Module(network)
    first = trunk.features(trunk.initial(2, 2, torch.Generator().manual_seed(1)), x.expand(2, 4, 2))[0]
    torch.testing.assert_close(first, network(x))
    bm.DeepModel(network, members=2).fit(waves(60), steps=5, **RUN)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_classes_at_the_mode_beat_the_linear_model():
    train, test = labels(), labels(600, 1)
    model = bm.DeepModel(bm.trunks.mlp(hidden=[16], out=8), bm.Independent(), bm.Categorical(), members=2)
    fit = model.fit(train, steps=300, validation=0, **RUN)
    right = (fit.predict(test, kind="latent").most_probable == test.target_labels).mean()
    linear = bm.LinearModel(bm.Independent(), bm.Categorical()).fit(
        train, seed=0, num_draws=50, progress=False
    )
    assert right > (linear.predict(test, kind="latent").most_probable == test.target_labels).mean() + 0.05
    assert fit.method == "mode" and any("mode" in note for note in fit.check().notes)


@pytest.mark.parametrize("likelihood", [bm.Bernoulli(), bm.Poisson(), bm.NegativeBinomial(), bm.StudentT()])
def test_every_kind_of_rows_has_heads(likelihood):
    data = waves(90)
    y = (data.y > 0).astype(float) if isinstance(likelihood, bm.Bernoulli) else np.round(np.exp(1 + data.y))
    data = bm.TaskData.from_arrays(data.X[:, 1:], y, np.array(data.task_names)[data.task])
    fit = bm.DeepModel(bm.trunks.mlp(hidden=[8], out=4), likelihood=likelihood, members=2).fit(
        data, steps=60, **RUN
    )
    mean = fit.predict(data).mean
    assert np.isfinite(mean).all() and np.corrcoef(mean, y)[0, 1] > 0.5


def test_heads_at_their_mode_have_a_flat_posterior():
    """Newton's mode: the gradient of log p(y | W) + log p(W) vanishes, by finite differences."""
    data = waves(60)
    y = (data.y > 0).astype(float)
    data = bm.TaskData.from_arrays(data.X[:, 1:], y, np.array(data.task_names)[data.task])
    likelihood, sharing = bm.Bernoulli(), bm.Independent()
    posterior, _ = linear_posterior(sharing, likelihood, data, likelihood.standardization(data))
    draws = MODE.run(posterior, bm.models.deep.Settings(0, 1, 4, progress=False))
    values = {name: value[0, :1] for name, value in draws.hyperparameters.items()}
    weights = draws.weights[0, :1].clone().requires_grad_()
    scale = posterior.structure(values).residual_scale
    (posterior.log_likelihood(values, weights).sum() - 0.5 * (weights / scale).square().sum()).backward()
    assert float(weights.grad.abs().max()) < 1e-3


def test_files_hold_everything(wave_fit, tmp_path):
    wave_fit.save(tmp_path / "fit.nc")
    loaded = bm.load(tmp_path / "fit.nc")
    np.testing.assert_array_equal(loaded.predict(waves()).draws, wave_fit.predict(waves()).draws)
    assert str(loaded.check()) == str(wave_fit.check()) and repr(loaded) == repr(wave_fit)


def test_a_file_asks_for_the_module_and_knows_its_architecture(tmp_path):
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh())
    fit = bm.DeepModel(network, members=2).fit(waves(60), steps=20, **RUN)
    fit.save(tmp_path / "fit.nc")
    with pytest.raises(bm.errors.FitFileError, match="load\\(path, trunk=module\\)"):
        bm.load(tmp_path / "fit.nc")
    with pytest.raises(bm.errors.FitFileError, match="architecture"):
        bm.load(tmp_path / "fit.nc", trunk=torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh()))
    fresh = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh())
    loaded = bm.load(tmp_path / "fit.nc", trunk=fresh)
    np.testing.assert_array_equal(loaded.predict(waves()).mean, fit.predict(waves()).mean)


@pytest.mark.parametrize("data", [waves(90), labels(90)], ids=["Gaussian", "classes"])
def test_a_training_that_was_killed_goes_on_as_if_nothing_had_been(data, tmp_path, monkeypatch):
    monkeypatch.setattr("bayesmtl.samplers.checkpoint._SECONDS_BETWEEN", -1.0)
    likelihood = bm.Categorical() if data.classes else bm.Gaussian()

    def model(stop_at: int | None) -> bm.DeepModel:
        count = 0

        def augment(inputs, generator):
            nonlocal count
            count += 1
            if count == stop_at:
                raise RuntimeError("killed")
            return inputs + 0.01 * torch.randn(inputs.shape, generator=generator)

        trunk = bm.trunks.mlp(hidden=[8], out=4)
        return bm.DeepModel(trunk, bm.Independent(), likelihood, members=2, augment=augment)

    length = {**RUN, "steps": 40, "refresh": 10}
    whole = model(None).fit(data, **length)
    with pytest.raises(RuntimeError, match="killed"):
        model(26).fit(data, checkpoint=tmp_path / "run", **length)
    resumed = model(None).fit(data, checkpoint=tmp_path / "run", **length)
    np.testing.assert_array_equal(whole.trained.loss, resumed.trained.loss)
    np.testing.assert_array_equal(whole.predict(data).draws, resumed.predict(data).draws)
    with pytest.raises(bm.errors.CheckpointError, match="different run"):
        model(None).fit(data, checkpoint=tmp_path / "run", **{**length, "steps": 50})


def test_a_new_task_gets_a_head_from_a_few_rows(wave_fit):
    new = waves(60, seed=3)
    rows = (new.X[:15, 1:], 1.1 * np.sin(2 * new.X[:15, 1]), ["new"] * 15)
    fit = wave_fit.condition(rows)
    assert fit.added_tasks == ("new",) and fit.task_names == ("a", "b", "c", "new")
    x = np.linspace(-1.8, 1.8, 30)
    mean = fit.predict((np.column_stack([x, x**2]), ["new"] * 30)).mean
    assert np.sqrt(np.mean((mean - 1.1 * np.sin(2 * x)) ** 2)) < 0.25
    with pytest.raises(bm.errors.UnknownTaskError):
        wave_fit.predict((np.column_stack([x, x**2]), ["new"] * 30))
    population = wave_fit.predict((np.column_stack([x, x**2]), ["new"] * 30), new_tasks="population")
    assert population.new.all() and np.isfinite(population.mean).all()


def test_similarity_is_of_functions_over_all_members(wave_fit):
    similarity = wave_fit.task_similarity(num_draws=40)
    assert similarity.draws.sizes["draw"] == 40
    assert float(similarity.draws.sel(task="a", task_other="b").mean()) > 0.9


def test_similarity_at_inputs_of_ones_own(wave_fit):
    """Over inputs where the functions are nearly straight lines they are alike, whatever the columns."""
    x = np.linspace(-0.4, 0.4, 9)
    similarity = wave_fit.task_similarity(reference=(np.column_stack([x, x**2]), ["a"] * 9), num_draws=40)
    assert float(similarity.draws.sel(task="a", task_other="b").mean()) > 0.95


def test_a_trained_trunk_has_seen_every_row(wave_fit, lab_data):
    with pytest.raises(bm.errors.SpecificationError, match="trained on all rows"):
        wave_fit.leave_one_out()
    with pytest.raises(bm.errors.SpecificationError, match="trained on all rows"):
        _ = wave_fit.log_evidence
    options = {**RUN, "method": "empirical_bayes"}
    deep = bm.DeepModel(bm.trunks.identity(), skip=False, members=1).fit(lab_data, **options)
    linear = bm.LinearModel().fit(lab_data, **options)
    assert deep.leave_one_out().elpd == pytest.approx(linear.leave_one_out().elpd, rel=1e-6)


def test_tables_and_groups_say_which_member_they_speak_of(wave_fit):
    assert wave_fit.coefficients().index.names == ["member", "task", "feature"]
    assert wave_fit.summary().index.names[0] == "member"
    assert wave_fit.posterior["member"].to_numpy().tolist() == [0, 1]  # one chain each
    assert {"member_0", "member_1"} <= set(wave_fit.to_datatree().children)


def test_offsets_and_weights_reach_the_heads():
    """An offset shifts answers by itself; rows of weight 2 are rows that stand there twice, for the heads."""
    data = waves(90)
    parts = (data.X[:, 1:], np.array(data.task_names)[data.task])
    offset = 3.0 * np.arange(90)
    trunk = {"trunk": bm.trunks.identity(), "skip": False, "members": 1}
    moved = bm.TaskData.from_arrays(parts[0], data.y + offset, parts[1], offset=offset)
    plain = bm.DeepModel(**trunk).fit(data, method="empirical_bayes", **RUN).predict(data).mean
    shifted = bm.DeepModel(**trunk).fit(moved, method="empirical_bayes", **RUN).predict(moved).mean
    np.testing.assert_allclose(shifted - offset, plain, rtol=1e-5, atol=1e-5)
    network = bm.DeepModel(bm.trunks.mlp(hidden=[4], out=2), members=1)
    fit = network.fit(moved, steps=10, **RUN)
    assert np.corrcoef(fit.predict(moved).mean, moved.y)[0, 1] > 0.99


def test_held_out_rows_are_of_every_task_and_never_unobserved():
    data = waves(90)
    y = data.y.copy()
    y[:5] = np.nan
    data = bm.TaskData.from_arrays(data.X[:, 1:], y, np.array(data.task_names)[data.task])
    inside, outside = hold_out(data, 0.2, np.random.default_rng(0))
    assert not set(inside) & set(outside) and len(inside) + len(outside) == 85
    assert set(data.task[outside]) == {0, 1, 2} and not np.isnan(y[outside]).any()


def test_a_training_that_is_too_short_says_so():
    model = bm.DeepModel(bm.trunks.mlp(hidden=[16], out=6), members=2, inputs="columns")
    with pytest.warns(bm.errors.ConvergenceWarning, match="train longer"):
        model.fit(waves(), steps=20, refresh=5, learning_rate=0.01, **RUN)
    fit = model.fit(waves(), steps=600, **RUN)
    assert fit.check().ok and any("ensemble" in note for note in fit.check().notes)


class Dropping(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.drop = torch.nn.Linear(2, 3), torch.nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.layer(x))


class Changing(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x += 1
        return x


class Undefined(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) / 0 - self.layer(x) / 0


@pytest.mark.parametrize(
    "options, run, message",
    [
        ({"trunk": Dropping()}, {}, "dropout"),
        ({"trunk": Changing()}, {}, "leaves its inputs as they are"),
        ({"trunk": Undefined()}, {}, "finite features"),
        ({"trunk": torch.nn.Linear(5, 3)}, {}, "takes 2 inputs"),
        ({"trunk": torch.nn.Flatten(0)}, {}, r"from \(n, inputs\) to \(n, features\)"),
        ({"trunk": "mlp"}, {}, "a trunk or a torch.nn.Module"),
        ({"trunk": bm.trunks.conv(image=(8, 8))}, {}, "equal to the 2 inputs"),
        ({"trunk": bm.trunks.identity()}, {}, "1 for a trunk without weights"),
        ({"augment": lambda x, g: x[:, :1]}, {}, "inputs' shape"),
        ({"augment": 3}, {}, "function of inputs"),
        ({"members": 0}, {}, "at least 1"),
        ({"inputs": "rows"}, {}, "'shared' or"),
        ({"weight_decay": -1.0}, {}, "a number from 0"),
        ({}, {"device": "tpu"}, "'cpu' or 'cuda'"),
        ({}, {"validation": 1.5}, "a number from 0 to 0.9"),
        ({}, {"steps": 0}, "at least 1"),
        ({}, {"learning_rate": "fast"}, "a number from 0"),
        ({}, {"method": "svi2"}, "'exact'"),
        ({"likelihood": bm.StudentT()}, {"method": "laplace"}, "far too unsure"),
        ({"likelihood": bm.StudentT(), "sharing": bm.Clusters(2)}, {}, "without partitions"),
    ],
)
def test_bad_input_is_refused(options, run, message):
    with pytest.raises(bm.errors.SpecificationError, match=message):
        bm.DeepModel(**options).fit(waves(60), **{**RUN, "steps": 5, **run})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_refused_where_there_is_none():
    with pytest.raises(bm.errors.SpecificationError, match="no CUDA device"):
        bm.DeepModel().fit(waves(60), device="cuda", **RUN)
