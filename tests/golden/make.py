"""Record what models compute at fixed points, and fits in files: `PYTHONPATH=. python tests/golden/make.py`.

Run before code is moved; `tests/equivalence/test_golden.py` compares with what was recorded. Log densities do
not hang on a sampler, so that they hold on any machine; fits in files were made once and must go on loading.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import bayesmtl as bm

HERE = Path(__file__).parent
NAMES = [f"t{i}" for i in range(5)]
GRAPH = pd.DataFrame(np.ones((5, 5)) - np.eye(5), index=NAMES, columns=NAMES)
PAIRS = {
    "pooled": (bm.Pooled(), bm.Gaussian(), "y"),
    "independent": (bm.Independent(), bm.Gaussian(), "y"),
    "isotropic": (bm.Hierarchical("isotropic"), bm.Gaussian(), "y"),
    "hierarchical": (bm.Hierarchical(), bm.Gaussian(), "y"),
    "full": (bm.Hierarchical("full"), bm.Gaussian(), "y"),
    "noise by task": (bm.Hierarchical(), bm.Gaussian(noise="task"), "y"),
    "low rank": (bm.LowRank(2), bm.Gaussian(), "y"),
    "covariance": (bm.TaskCovariance(), bm.Gaussian(), "y"),
    "graph": (bm.TaskGraph(GRAPH), bm.Gaussian(), "y"),
    "student": (bm.Hierarchical(), bm.StudentT(), "y"),
    "bernoulli": (bm.Hierarchical(), bm.Bernoulli(), "b"),
    "probit": (bm.LowRank(1), bm.Bernoulli(link="probit"), "b"),
    "binomial": (bm.Hierarchical("full"), bm.Binomial(trials=2), "b"),
    "poisson": (bm.Independent(), bm.Poisson(), "c"),
    "negative binomial": (bm.Hierarchical(), bm.NegativeBinomial(), "c"),
    "categorical": (bm.Hierarchical(), bm.Categorical(), "k"),
}
FUNCTIONS = {
    "functions": (bm.Hierarchical(), bm.Gaussian(), "y"),
    "functions, pooled": (bm.Pooled(), bm.Gaussian(), "y"),
    "functions, independent": (bm.Independent(), bm.Gaussian(noise="task"), "y"),
    "functions, low rank": (bm.LowRank(2), bm.Gaussian(), "y"),
    "functions, covariance": (bm.TaskCovariance(), bm.Gaussian(), "y"),
    "functions, graph": (bm.TaskGraph(GRAPH), bm.Gaussian(), "y"),
}
CLUSTERED = {
    "clusters": (bm.Clusters(2), bm.Gaussian(), "y"),
    "process": (bm.DirichletProcess(), bm.Gaussian(), "y"),
    "pitman-yor": (bm.PitmanYor(), bm.Gaussian(), "y"),
}
FITS = {
    "linear": (bm.LinearModel(), "y", "empirical_bayes"),
    "chains": (bm.LinearModel(bm.LowRank(1)), "y", "exact"),
    "process": (bm.LinearModel(bm.DirichletProcess()), "y", "gibbs"),
    "outcomes": (bm.LinearModel(likelihood=bm.Bernoulli()), "b", "laplace"),
    "functions": (bm.MultitaskGP(), "y", "empirical_bayes"),
}


def frame() -> pd.DataFrame:
    """Rows that no generator has to make again."""
    i = np.arange(40)
    x, z = np.sin(1.7 * i), np.cos(0.9 * i + 1)
    f = (1 + 0.3 * np.sin(i // 8)) * x - 0.5 * z + 0.2 * (i // 8)
    rows = pd.DataFrame({"g": np.array(NAMES)[i // 8], "x": x, "z": z, "y": f + 0.3 * np.sin(37.0 * i)})
    rows["b"] = (rows["y"] > 0.3).astype(int)
    rows["c"] = np.floor(np.exp(0.4 * rows["y"]) + (i % 3)).astype(int)
    rows["k"] = pd.Categorical(np.array(list("uvw"))[i % 3], categories=list("uvw"))
    return rows


def data(target: str) -> bm.TaskData:
    """The rows with this target."""
    return bm.TaskData.from_frame(frame(), task="g", target=target, features=["x", "z"])


def density(model: bm.LinearModel | bm.MultitaskGP, target: str) -> list[float]:
    """log p(y, hyperparameters) at three points."""
    rows = data(target)
    if isinstance(model.likelihood, bm.StudentT):  # the scale that standardises its targets is robust now
        rows = rows.with_target_standardization("none")
    posterior = model._posterior(rows)
    P = posterior.space.size
    points = 0.4 + 0.3 * torch.sin(torch.arange(3 * P, dtype=torch.float64)).reshape(3, P)
    if posterior.space.size == 0:
        points = torch.zeros(3, 0, dtype=torch.float64)
    if hasattr(posterior, "given") and model.sharing.dependence is bm.sharing.Dependence.PARTITION:
        return posterior.given(torch.tensor([[0, 0, 1, 0, 1]] * 3)).log_density(points).tolist()
    return (posterior.density() if hasattr(posterior, "density") else posterior).value(points).tolist()


def densities() -> dict[str, list[float]]:
    """Of all pairs."""
    linear = {name: (bm.LinearModel(s, g), t) for name, (s, g, t) in {**PAIRS, **CLUSTERED}.items()}
    functions = {name: (bm.MultitaskGP(sharing=s, likelihood=g), t) for name, (s, g, t) in FUNCTIONS.items()}
    return {name: density(*pair) for name, pair in {**linear, **functions}.items()}


def predicted(fit: bm.Fit) -> list[float]:
    """Latent means at the first rows of every task."""
    return fit.predict(frame().groupby("g").head(2), kind="latent", num_draws=10_000).mean.tolist()


def main() -> None:
    """Write densities and fits."""
    (HERE / "densities.json").write_text(json.dumps(densities(), indent=1) + "\n")
    means = {}
    for name, (model, target, method) in FITS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = {"num_chains": 2, "num_draws": 8, "num_warmup": 10, "progress": False}
            fit = model.fit(data(target), method=method, seed=0, **run)
        fit.save(HERE / f"{name}.nc")
        means[name] = predicted(fit)
    (HERE / "predictions.json").write_text(json.dumps(means, indent=1) + "\n")


if __name__ == "__main__":
    main()
