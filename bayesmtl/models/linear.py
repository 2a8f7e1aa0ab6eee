"""Linear multi-task models: f_t(x) = phi(x)'w_t with W = A Z + E."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from bayesmtl.algebra.conditional import draw_prior_basis, draw_weights
from bayesmtl.algebra.statistics import TaskStatistics
from bayesmtl.data import Standardization, TaskData, TaskSummaries
from bayesmtl.errors import DataError, SpecificationError
from bayesmtl.export import PyroProgram, linear_program
from bayesmtl.inference import choose
from bayesmtl.likelihoods import Gaussian, Given, Likelihood, Mixed
from bayesmtl.options import whole_number
from bayesmtl.posteriors.draws import LinearDraws
from bayesmtl.posteriors.linear.build import linear_posterior
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.results.linear.fit import LinearFit
from bayesmtl.results.linear.posterior import posterior_dataset
from bayesmtl.results.linear.predict import linear_predictors
from bayesmtl.samplers.settings import Settings
from bayesmtl.sharing import Dependence, Hierarchical, Sharing, partition_of


def check_data(data: object) -> None:
    """Refuse what is no TaskData."""
    if not isinstance(data, TaskData):
        raise DataError(
            "data",
            expected="a TaskData",
            found=type(data).__name__,
            remedy="Build it with TaskData.from_frame(df, task=..., target=..., features=[...]).",
        )


def _coordinates(data: TaskData | TaskSummaries, sharing: Sharing) -> dict[str, np.ndarray]:
    """Names along the dimensions of results."""
    tasks, features = (np.array(names, dtype=str) for names in (data.task_names, data.feature_names))
    names = {"task": tasks, "task_other": tasks, "feature": features, "feature_other": features}
    names["class"] = np.array(data.schema.classes, dtype=str)
    return names | {"descriptor": np.array(sharing.descriptor_names, dtype=str)}


@dataclass(frozen=True)
class LinearModel:
    """Related (generalised) linear regressions, one per task: y | f_t(x), f_t(x) = x'w_t, W = A Z + E.

    A specification only: immutable, without data. The features are the columns of the data.

    Args:
        sharing: Prior on W: who shares what with whom.
        likelihood: How targets scatter around f_t(x); a mapping from task names to likelihoods stands for
            `Mixed` of it.

    Example:
        >>> from bayesmtl.data import TaskData
        >>> rng = np.random.default_rng(0)
        >>> x, task = rng.normal(size=60), np.repeat(["a", "b", "c"], 20)
        >>> data = TaskData.from_arrays(x[:, None], 1 + 2 * x + 0.1 * rng.normal(size=60), task)
        >>> fit = LinearModel().fit(data, method="empirical_bayes", seed=0, progress=False)
        >>> fit.coefficients().loc[("a", "x0"), "mean"].round(1)
        np.float64(2.0)
    """

    sharing: Sharing = field(default_factory=Hierarchical)
    likelihood: Likelihood = field(default_factory=Gaussian)

    def __post_init__(self) -> None:
        if isinstance(self.likelihood, Mapping):
            object.__setattr__(self, "likelihood", Mixed(self.likelihood))
        for name, kind in (("sharing", Sharing), ("likelihood", Likelihood)):
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise SpecificationError(
                    name,
                    expected=f"a {kind.__name__} object",
                    found=repr(value),
                    remedy="Pass an instance, such as Hierarchical() or Gaussian().",
                )

    def fit(
        self,
        data: TaskData | TaskSummaries,
        *,
        method: str = "auto",
        seed: int,
        num_chains: int = 4,
        num_draws: int | None = None,
        num_warmup: int = 200,
        num_effective: int = 400,
        progress: bool = True,
        checkpoint: str | Path | None = None,
    ) -> LinearFit:
        """Infer the posterior.

        Args:
            data: Rows of T tasks, or their sums, for Gaussian likelihoods or for outcomes and counts under
                "svi", which reads the rows again; rows without a target do not count.
            method: "exact" for the full posterior (by importance sampling where that is sound, else by
                chains) and "empirical_bayes" for hyperparameters at their mode, both for Gaussian
                likelihoods; "gibbs" for the full posterior where auxiliary variables make rows Gaussian (a
                logit link, `NegativeBinomial`, `StudentT`) or of a prior with partitions of the tasks;
                "laplace", corrected by importance weights, for all likelihoods (a Gaussian one makes it
                "exact"); "nuts" (full posterior, slow) for all likelihoods and "svi" (approximate, by
                minibatches) for all but `Categorical`, with Pyro; "svi" (approximate, without Pyro) for
                partitions of very many tasks;
                or "auto"; the fit records the choice and its reason.
            seed: Source of all randomness; the same seed gives the same answer.
            num_chains: Independent chains, run as one batch.
            num_draws: Kept draws per chain; by default 500 of "exact", "gibbs" and "nuts" and 250 of the
                others, whose draws are independent.
            num_warmup: Iterations per chain to adapt in ("exact", "gibbs" and "nuts"); "svi" takes five steps
                for each, or with partitions at most so many rounds.
            num_effective: Effective draws of the hyperparameters that "exact" is to reach: it goes on until
                there are so many, within a budget, and `num_draws` of them are kept.
            progress: Whether to show progress on stderr.
            checkpoint: File to save a run in every few seconds and to resume it from ("exact", "gibbs" and
                "laplace").

        Raises:
            DataError: If a target is none that the likelihood allows.
            SpecificationError: If the model does not fit the data, or an option is unknown.
            CheckpointError: If the checkpoint is damaged or belongs to another run.

        Warns:
            ConvergenceWarning: If the draws are not to be trusted, naming the quantity and the task.
        """
        if not isinstance(data, TaskSummaries):
            check_data(data)
            data = self.likelihood.prepared(data)
        settings = Settings(seed, num_chains, num_draws, num_warmup, progress, checkpoint, num_effective)
        standardization = self.likelihood.standardization(data)
        problem, statistics = linear_posterior(self.sharing, self.likelihood, data, standardization)
        engine, reason = choose(problem, method)
        draws: LinearDraws = engine.run(problem, settings)
        fit = LinearFit(
            sharing=problem.sharing,
            likelihood=self.likelihood,
            schema=data.schema,
            standardization=standardization,
            statistics=statistics,
            draws=draws,
            method=engine.name,
            reason=engine.reason(reason, draws),
            seed=settings.seed,
            data=data,
        )
        return fit.warn()

    def to_pyro(self, data: TaskData) -> PyroProgram:
        """Write the model met with data as a plain Pyro program.

        One `pyro.sample` for every hyperparameter, for Z and for E, in plates `tasks` and `rows`;
        W = A Z + E; the likelihood from `pyro.distributions`. Clusters are a sequential urn. Everything is
        standardised.
        `program.source` is the text that runs, `program.to_fit(samples)` brings samples back.

        Args:
            data: Rows of T tasks.

        Raises:
            DataError: If rows were not loaded, or a target is none that the likelihood allows.
            SpecificationError: If Pyro is not installed.

        Example:
            >>> data = TaskData.from_arrays([[0.0], [1.0], [2.0], [3.0]], [0.1, 1.0, 2.2, 2.9], list("aabb"))
            >>> print(LinearModel().to_pyro(data).source.splitlines()[8].strip())
            prior = sharing.structure(values, num_tasks, num_features)
        """
        if isinstance(data, TaskSummaries):
            raise data.need_rows("LinearModel.to_pyro")
        check_data(data)
        return linear_program(self.sharing, self.likelihood, self.likelihood.prepared(data))

    def _posterior(self, data: TaskData | TaskSummaries) -> LinearPosterior:
        return linear_posterior(self.sharing, self.likelihood, data, self.likelihood.standardization(data))[0]

    def sample_prior(self, data: TaskData | TaskSummaries, *, num_draws: int = 500, seed: int) -> xr.Dataset:
        """Draw hyperparameters and weights from the prior, in the units of `data`.

        Args:
            data: Gives tasks, features and scales; its targets are used for their scale only.
            num_draws: Number of draws.
            seed: Source of randomness.

        Returns:
            The same names and dimensions as `Fit.posterior`, with one chain.
        """
        draws, standardization = self._prior_draws(data, num_draws, seed)
        if not isinstance(data, TaskSummaries):
            data = self.likelihood.prepared(data)
        names = _coordinates(data, self.sharing)
        return posterior_dataset(draws, self.sharing, self.likelihood, standardization, names)

    def simulate(self, data: TaskData, *, seed: int) -> tuple[TaskData, xr.Dataset]:
        """Simulate targets for the rows of `data` from the prior.

        Args:
            data: Gives rows, tasks, features and scales; targets that are missing stay missing.
            seed: Source of randomness.

        Returns:
            The data with simulated targets, and the one prior draw that they came from.
        """
        if isinstance(data, TaskSummaries):
            raise data.need_rows("LinearModel.simulate")
        check_data(data)
        data = self.likelihood.prepared(data)
        draws, standardization = self._prior_draws(data, 1, seed)
        weights = draws.weights[0].numpy()
        values = {name: value.flatten(0, 1) for name, value in draws.hyperparameters.items()}
        noise = self.likelihood.noise_sd(values, data.task_names, standardization.target_scale, 1)
        sd = noise.expand(1, data.num_tasks)[0].numpy()[data.task]
        X = standardization.standardize_features(data.X)
        rng = np.random.default_rng([seed, 1])
        latent = linear_predictors(X, weights, data.task, self.likelihood.num_outputs(data.classes))
        latent = standardization.unstandardize_target(latent, data.task)
        latent = latent if data.offset is None else latent + data.offset
        trials = None if data.trials is None else torch.from_numpy(np.array(data.trials))
        given = Given(values, trials, torch.from_numpy(np.array(data.task)))
        sd = standardization.unstandardize_sd(sd, data.task)
        likelihood = self.likelihood.of_tasks(data.task_names, standardization.target_scale)
        y = likelihood.draw(latent, sd[None], rng, given)[0]
        y = np.where(data.observed, y, np.nan)
        names = _coordinates(data, self.sharing)
        truth = posterior_dataset(draws, self.sharing, self.likelihood, standardization, names)
        return replace(data, y=y), truth

    def _prior_draws(
        self, data: TaskData | TaskSummaries, num_draws: int, seed: int
    ) -> tuple[LinearDraws, Standardization]:
        if not isinstance(data, TaskSummaries):
            check_data(data)
            data = self.likelihood.prepared(data)
        num_draws = whole_number("num_draws", num_draws, 1)
        rng = np.random.default_rng(whole_number("seed", seed, 0))
        standardization = self.likelihood.standardization(data)
        problem, _ = linear_posterior(self.sharing, self.likelihood, data, standardization)
        values = problem.space.sample(rng, num_draws)
        if self.sharing.dependence is Dependence.PARTITION:
            prior = partition_of(self.sharing)
            values["cluster"] = prior.sample_partition(values, data.num_tasks, rng, problem.descriptors)
        structure = problem.structure(values)
        noise = problem.noise(values, num_draws)
        D = problem.num_weights
        basis = draw_prior_basis(structure, num_draws, D, rng)
        empty = TaskStatistics.empty(data.num_tasks, D).compress()
        drawn = draw_weights(empty, structure, noise, basis, rng)
        return LinearDraws.shaped(1, num_draws, values, drawn, {}), standardization
