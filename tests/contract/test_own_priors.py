"""Priors that a user writes in one file: files, new tasks, conditioning and functions work without more."""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest
import torch

import bayesmtl as bm
from bayesmtl.algebra.structure import Structure
from bayesmtl.errors import FitFileError, SpecificationError
from bayesmtl.parameters import Parameter, Reported, Values
from bayesmtl.priors import Prior
from bayesmtl.sharing import REGISTRY, Sharing
from bayesmtl.sharing.functions import READINGS
from bayesmtl.sharing.over_functions import Default


@dataclass(frozen=True)
class ScalePerFeature(Sharing):
    """W = 1 mu' + E with a scale for every feature."""

    scale: Prior = field(default_factory=bm.HalfNormal)

    def parameters(self, num_tasks: int, num_features: int) -> tuple[Parameter, ...]:
        return (Parameter("spread", (num_features,), self.scale, "signed", ("feature",)),)

    def structure(self, values: Values, num_tasks: int, num_features: int) -> Structure:
        ones = torch.ones(num_tasks, 1, dtype=torch.float64)
        one = torch.ones(len(values["spread"]), 1, num_features, dtype=torch.float64)
        return Structure(ones, one, values["spread"][:, None])

    def report(self, values: Values) -> dict[str, Reported]:
        return {"spread": Reported(("feature",), values["spread"].abs(), "coefficient")}


@dataclass(frozen=True)
class Crowd(Sharing):
    """Loadings (T, R) as parameters, and scales of single weights (T, D): tasks in front of everything."""

    rank: int = 2

    def parameters(self, num_tasks: int, num_features: int) -> tuple[Parameter, ...]:
        dims = ("task", "direction")
        return (
            Parameter("loading", (num_tasks, self.rank), bm.Normal(1.0), "real", dims),
            Parameter("own", (num_tasks, num_features), bm.HalfNormal(0.5), "signed", ("task", "feature")),
        )

    def structure(self, values: Values, num_tasks: int, num_features: int) -> Structure:
        B = len(values["own"])
        A = torch.cat([torch.ones(B, num_tasks, 1, dtype=torch.float64), values["loading"]], dim=2)
        scale = torch.ones(B, 1 + self.rank, num_features, dtype=torch.float64)
        return Structure(A, scale, values["own"])

    def report(self, values: Values) -> dict[str, Reported]:
        return {"own": Reported(("task", "feature"), values["own"].abs(), "coefficient")}


OWN = [ScalePerFeature(), Crowd()]


@pytest.fixture(autouse=True)
def registry():
    before = dict(REGISTRY)
    yield
    REGISTRY.clear()
    REGISTRY.update(before)


def frame(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=40)
    slope = np.repeat(rng.normal(2.0, 0.3, 4), 10)
    return pd.DataFrame(
        {"site": np.repeat(list("abcd"), 10), "x": x, "y": slope * x + 0.3 * rng.normal(size=40)}
    )


def data() -> bm.TaskData:
    return bm.TaskData.from_frame(frame(), task="site", target="y", features=["x"])


NEW = pd.DataFrame({"site": ["e"] * 3, "x": [-1.0, 0.0, 1.0], "y": [-2.0, 0.1, 2.2]})


@pytest.mark.parametrize("sharing", OWN, ids=lambda sharing: type(sharing).__name__)
@pytest.mark.parametrize("method", ["empirical_bayes", "exact"])
@pytest.mark.filterwarnings("ignore::bayesmtl.errors.ConvergenceWarning")
def test_weights(sharing, method, tmp_path):
    fit = bm.LinearModel(sharing).fit(data(), method=method, seed=0, num_draws=60, progress=False)
    rows = frame().head(5)
    unseen = fit.predict(NEW, new_tasks="population")
    wiser = fit.condition(NEW)
    assert unseen.new.all() and not wiser.predict(NEW).new.any()
    assert (
        wiser.predict(NEW, kind="latent").sd < fit.predict(NEW, kind="latent", new_tasks="population").sd
    ).all()
    with pytest.raises(SpecificationError, match=r"not registered[\s\S]*bayesmtl.register\("):
        fit.save(tmp_path / "fit.nc")
    assert not (tmp_path / "fit.nc").exists()
    bm.register(type(sharing))
    wiser.save(tmp_path / "fit.nc")
    loaded = bm.load(tmp_path / "fit.nc")
    assert loaded.sharing == sharing and isinstance(loaded, bm.Fit)
    assert loaded.predict(rows).draws.identical(wiser.predict(rows).draws)
    REGISTRY.pop(type(sharing).__name__)
    with pytest.raises(FitFileError, match=f"{type(sharing).__name__}[\\s\\S]*register"):
        bm.load(tmp_path / "fit.nc")


@pytest.mark.parametrize("sharing", OWN, ids=lambda sharing: type(sharing).__name__)
def test_outcomes(sharing):
    rows = frame().assign(y=lambda f: (f["y"] > 0).astype(int))
    outcomes = bm.TaskData.from_frame(rows, task="site", target="y", features=["x"])
    model = bm.LinearModel(sharing, bm.Bernoulli())
    fit = model.fit(outcomes, method="laplace", seed=0, num_draws=50, progress=False)
    probability = fit.predict(rows, kind="latent").mean
    assert np.corrcoef(probability, rows["y"])[0, 1] > 0.6
    assert not fit.condition(NEW.assign(y=[0, 0, 1])).predict(NEW).new.any()


@pytest.mark.parametrize("sharing", OWN, ids=lambda sharing: type(sharing).__name__)
def test_functions(sharing, tmp_path):
    fit = bm.MultitaskGP(sharing=sharing).fit(
        data(), method="empirical_bayes", seed=0, num_draws=20, progress=False
    )
    assert "part" in next(
        iter(fit.posterior[name].dims for name in ("spread", "own") if name in fit.posterior)
    )
    unseen = fit.predict(NEW, new_tasks="population", kind="latent")
    known = fit.condition(NEW).predict(NEW, kind="latent")
    assert (known.sd < unseen.sd).all()
    bm.register(type(sharing))
    fit.save(tmp_path / "fit.nc")
    loaded = bm.load(tmp_path / "fit.nc")
    assert loaded.predict(frame().head(3)).draws.identical(fit.predict(frame().head(3)).draws)


@pytest.mark.parametrize("sharing", [bm.Hierarchical(), bm.Pooled(), bm.Hierarchical("isotropic")], ids=repr)
def test_default_reading_is_that_of_the_package(sharing):
    """Omega and Lambda of the readings that have formulas of their own, for the same values."""
    T, B, rng = 5, 4, np.random.default_rng(0)
    default, own = (reading(sharing, bm.HalfNormal()) for reading in (Default, READINGS[type(sharing)]))
    draw = {name: torch.from_numpy(rng.normal(size=B)) for name in ("amplitude", "level", "shape")}
    scales = [draw["level"], draw["shape"]]
    if getattr(sharing, "covariance", None) == "isotropic":
        scales = [draw["shape"], draw["shape"]]
        residual = draw["shape"]
    else:
        residual = torch.stack(scales, dim=1)
    shared = {"amplitude": draw["amplitude"], "mean_scale": torch.ones(B, dtype=torch.float64)}
    ours = default.structure({**shared, "residual_scale": residual}, T)
    theirs = own.structure({**shared, "level_scale": scales[0], "private_scale": scales[1]}, T)
    for part in ("shape", "level"):
        torch.testing.assert_close(getattr(ours, part), getattr(theirs, part), rtol=1e-12, atol=1e-12)


def test_names_are_not_taken_twice():
    @dataclass(frozen=True)
    class Hierarchical(bm.Hierarchical):
        """The name of another prior."""

    with pytest.raises(SpecificationError, match="a name that no other part has"):
        bm.register(Hierarchical)
    for wrong in (bm.Hierarchical(), "Hierarchical", int, type("Loose", (Sharing,), {})):
        with pytest.raises(SpecificationError, match="a frozen dataclass"):
            bm.register(wrong)
    assert bm.register(ScalePerFeature) is ScalePerFeature
    assert bm.register(ScalePerFeature) is ScalePerFeature


def test_priors_over_partitions_have_no_default_reading():
    with pytest.raises(SpecificationError, match="independent given Z"):
        bm.MultitaskGP(sharing=bm.Gated(2, descriptors=["size"]))


def test_a_prior_without_options_differs_by_class():
    assert replace(ScalePerFeature(), scale=bm.HalfNormal(2.0)) != ScalePerFeature()
