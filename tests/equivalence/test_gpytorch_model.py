"""The GPyTorch model of a Gaussian process beside the package's predictions and densities."""

import numpy as np
import pytest
import torch

import bayesmtl as bm
from bayesmtl.errors import SpecificationError

gpytorch = pytest.importorskip("gpytorch")
SHARING = [bm.Hierarchical(), bm.LowRank(1), bm.TaskCovariance(), bm.Independent(), bm.Pooled()]


def data() -> bm.TaskData:
    rng = np.random.default_rng(0)
    x, task = rng.uniform(0, 6, size=24), np.repeat(list("abc"), 8)
    return bm.TaskData.from_arrays(x[:, None], np.sin(x) + 0.2 * rng.normal(size=24), task)


@pytest.mark.parametrize("noise", ["shared", "task"])
@pytest.mark.parametrize("sharing", SHARING, ids=repr)
def test_predictions_of_one_draw(sharing, noise):
    """Means and variances at new rows under one hyperparameter value, to 1e-6."""
    model = bm.MultitaskGP(sharing=sharing, likelihood=bm.Gaussian(noise=noise))
    fit = model.fit(data(), method="empirical_bayes", seed=0, num_draws=4, progress=False)
    exported = model.to_gpytorch(data()).load(fit)
    assert isinstance(exported, gpytorch.models.ExactGP)
    new = ([[0.5], [3.0], [7.0]], ["a", "b", "c"])
    exported.eval()
    exported.likelihood.eval()
    with torch.no_grad():
        found = exported(exported.inputs_of(new))
        observed = exported.likelihood(found, exported.inputs_of(new))
    scale, center = fit.standardization.target_scale[0], fit.standardization.target_center[0]
    latent = fit.predict(new, kind="latent", num_draws=20_000)
    np.testing.assert_allclose(center + scale * found.mean.numpy(), latent.mean, rtol=1e-6, atol=1e-6)
    # 20,000 draws: their sd has a relative standard error of .5 %
    np.testing.assert_allclose(scale * found.stddev.numpy(), latent.sd, rtol=0.03)
    sd = fit.predict(new, num_draws=20_000).sd
    np.testing.assert_allclose(scale * observed.stddev.numpy(), sd, rtol=0.03)


def test_training_starts_where_the_density_says_and_improves():
    """The marginal likelihood is that of the package, and GPyTorch's own loop raises it."""
    model = bm.MultitaskGP()
    exported, posterior = model.to_gpytorch(data()), model._posterior(data())
    exported.train()
    exported.likelihood.train()
    objective = gpytorch.mlls.ExactMarginalLogLikelihood(exported.likelihood, exported)
    optimiser = torch.optim.Adam(exported.parameters(), lr=0.1)
    values = []
    for _ in range(30):
        optimiser.zero_grad()
        rows = exported.train_inputs[0]
        value = objective(exported(rows), exported.train_targets, rows)
        (-value).backward()
        values.append(float(value.detach()) * len(rows))
        if len(values) == 1:
            point = exported.covar_module.coordinates.point.detach()[None]
            expected = posterior.log_marginal(posterior.space.constrain(point), 1)
            assert values[0] == pytest.approx(float(expected), rel=1e-6)
        optimiser.step()
    assert values[-1] > values[0] + 1


def test_outcomes_are_refused():
    outcomes = bm.TaskData.from_arrays([[0.0], [1.0], [2.0], [3.0]], [0.0, 1.0, 1.0, 0.0], list("aabb"))
    with pytest.raises(SpecificationError, match="to_pyro"):
        bm.MultitaskGP(likelihood=bm.Bernoulli()).to_gpytorch(outcomes)
