"""Multi-task Gaussian processes: f_t(x) = m_t + sum_r A[t,r] g_r(x) + e_t(x)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bayesmtl.algebra.functions import factorise, function_covariance
from bayesmtl.algebra.random import standard_normal
from bayesmtl.data import TaskData
from bayesmtl.errors import DataError, SpecificationError
from bayesmtl.export import PyroProgram, function_program, gpytorch_model
from bayesmtl.inference import choose
from bayesmtl.kernels import GPyTorchKernel, Kernel, Matern
from bayesmtl.likelihoods import Gaussian, Likelihood, Mixed, Rowwise
from bayesmtl.likelihoods.base import Given
from bayesmtl.models.linear import check_data
from bayesmtl.options import whole_number
from bayesmtl.posteriors.functions.build import functions_posterior, parts
from bayesmtl.posteriors.functions.capacity import refuse_too_many
from bayesmtl.posteriors.functions.inducing import InducingFunctions
from bayesmtl.posteriors.functions.inducing_inputs import choose_inducing
from bayesmtl.posteriors.functions.posterior import FunctionPosterior
from bayesmtl.priors import HalfNormal, Prior, check_priors
from bayesmtl.results.functions.fit import FunctionFit
from bayesmtl.samplers.settings import Settings
from bayesmtl.sharing import Dependence, Hierarchical, Sharing, partition_of
from bayesmtl.sharing.functions import over_functions

_NUM_DRAWS = 500  # of "exact", per chain
_ROUNDING = 1e-10  # relative to the variance of functions that are drawn


@dataclass(frozen=True)
class MultitaskGP:
    """Related functions, one per task, as Gaussian processes: which share what, and how surely.

    f_t(x) = m_t + sum_r A[t,r] g_r(x) + e_t(x) with g_r, e_t ~ GP(0, kernel) and levels m_t. The sharing
    prior says what A and e are: `Independent()` e only, `Pooled()` one function g, `Hierarchical()` a shared
    function and one per task, `LowRank(rank)` `rank` functions with loadings of any sign besides the private
    ones (intrinsic coregionalisation; relations may be negative), `TaskCovariance()` a free task covariance
    (LKJ(0.5), its default over functions, expects relations of either sign; LKJ(2) calls weak ones likely),
    `TaskGraph(adjacency)` the covariance of a known graph,
    `Clusters(K)`, `DirichletProcess()`, `PitmanYor()` functions of clusters, and tasks around them. Every
    task has inputs of its own. A specification only: immutable, without data. Inputs are the features of the
    data, without an intercept.

    Args:
        kernel: A kernel of this package, or any of GPyTorch's, on standardised inputs. Several in a tuple are
            one for each shared function (`LowRank(rank)`: `rank` of them, the semiparametric latent factor
            model, without private functions), and one more is that of the private functions (`Hierarchical`:
            two; `LowRank(rank)`: `rank` + 1, the linear model of coregionalisation).
        sharing: Which tasks share what.
        likelihood: `Gaussian`, with noise shared, per task, or known; or `Bernoulli`, `Binomial(trials=n)`,
            `Poisson`, `NegativeBinomial`, `StudentT`, under which the posterior of functions given
            hyperparameters is approximated by the normal one with the highest evidence bound. A mapping from
            task names to likelihoods, for outcomes of several kinds, stands for `Mixed` of it.
        amplitude: Prior of the standard deviation with which a shared function enters the tasks. The default
            HalfNormal(1) puts 90 % of its mass below 1.64 standard deviations of the target. Not for
            `Independent` and `LowRank`, which say it themselves (`scale`, `strength`).

    Raises:
        SpecificationError: If a part is of another kind, or the sharing prior has no meaning for functions.

    Source: Bonilla, Chai and Williams (2008) for the task covariance, which has a posterior here and not a
    maximum only.

    Example:
        >>> from bayesmtl.data import TaskData
        >>> rng = np.random.default_rng(0)
        >>> x, task = rng.uniform(0, 6, size=40), np.repeat(["a", "b"], 20)
        >>> data = TaskData.from_arrays(x[:, None], np.sin(x) + 0.1 * rng.normal(size=40), task)
        >>> fit = MultitaskGP().fit(data, method="empirical_bayes", seed=0, progress=False)
        >>> fit.predict(([[1.57]], ["a"]), kind="latent").mean.round(1)
        array([1.])
    """

    kernel: Any = field(default_factory=Matern)
    sharing: Sharing = field(default_factory=Hierarchical)
    likelihood: Likelihood = field(default_factory=Gaussian)
    amplitude: Prior = field(default_factory=HalfNormal)

    def __post_init__(self) -> None:
        several = isinstance(self.kernel, (tuple, list))
        kernels = tuple(
            kernel if isinstance(kernel, Kernel) else GPyTorchKernel(kernel)
            for kernel in (self.kernel if several else (self.kernel,))
        )
        object.__setattr__(self, "kernel", kernels if len(kernels) > 1 else kernels[0])
        if isinstance(self.likelihood, Mapping):
            object.__setattr__(self, "likelihood", Mixed(self.likelihood))
        if not isinstance(self.sharing, Sharing):
            raise SpecificationError(
                "sharing",
                expected="a Sharing object",
                found=repr(self.sharing),
                remedy="Pass an instance, such as Hierarchical().",
            )
        if not isinstance(self.likelihood, (Gaussian, Rowwise)):
            raise SpecificationError(
                "likelihood",
                expected="a likelihood, such as Gaussian()",
                found=repr(self.likelihood),
                remedy="Pass an instance, such as Gaussian() or Bernoulli().",
            )
        check_priors(self)
        over_functions(self.sharing, self.amplitude, len(kernels))

    def fit(
        self,
        data: TaskData,
        *,
        method: str = "auto",
        seed: int,
        num_chains: int = 4,
        num_draws: int | None = None,
        num_warmup: int = 200,
        num_inducing: int | None = None,
        num_effective: int = 400,
        progress: bool = True,
        checkpoint: str | Path | None = None,
    ) -> FunctionFit:
        """Infer the posterior.

        Args:
            data: Rows of T tasks; rows without a target do not count, tasks without rows follow the prior.
            method: "exact" for the full posterior of the hyperparameters, by importance sampling around its
                mode where that is sound and by Hamiltonian Monte Carlo elsewhere ("laplace" is another name
                of it under Gaussian noise), "empirical_bayes" for the mode alone, "svi" for many rows
                (functions through inducing inputs, minibatches of rows, hyperparameters at the maximum of an
                evidence bound), "gibbs" for priors over partitions, which have no other engine, or "auto";
                the fit records the choice and its reason. Under Gaussian noise all but "svi" integrate
                functions out exactly; under other likelihoods "laplace", "empirical_bayes" and "svi" work,
                with that bound.
            seed: Source of all randomness; the same seed gives the same answer.
            num_chains: Independent chains, run as one batch.
            num_draws: Kept draws per chain; by default 500 ("exact" and "gibbs") and 250.
            num_warmup: Iterations per chain to adapt in ("exact" and "gibbs"); "svi" takes five steps for
                each.
            num_inducing: Inducing inputs, shared by all tasks, of "svi" and of likelihoods that are not
                Gaussian; by default all distinct inputs or, if these are many, as many as give a thousand
                whitened values of the latent functions, at most 200. Chosen among the inputs by greedy
                entropy reduction.
            num_effective: Effective draws of the hyperparameters that "exact" is to reach: it goes on until
                there are so many, within a budget, and `num_draws` of them are kept.
            progress: Whether to show progress on stderr.
            checkpoint: File to save a run in and to resume it from ("exact", "gibbs" and "laplace").

        Raises:
            SpecificationError: If the model does not fit the data, or an option is unknown.
            DataError: If there are no inputs, or more rows than covariance matrices can be made of.
            CheckpointError: If the checkpoint is damaged or belongs to another run.

        Warns:
            ConvergenceWarning: If the draws are not to be trusted, naming the quantity and the task.
        """
        posterior = self._posterior(data)
        engine, reason = choose(posterior, method)
        if num_draws is None and engine.name == "exact":
            num_draws = _NUM_DRAWS
        settings = Settings(seed, num_chains, num_draws, num_warmup, progress, checkpoint, num_effective)
        inducing = None
        if engine.name == "svi" or not self.likelihood.compresses:
            rng = np.random.default_rng([settings.seed, 1])
            inducing = choose_inducing(posterior, num_inducing, rng)
            posterior = InducingFunctions.of(posterior, inducing)
            reason += f"; functions through {len(inducing)} inducing inputs"
        else:
            refuse_too_many(posterior, _fewer(self.sharing))
            if num_inducing is not None:
                raise SpecificationError(
                    "num_inducing",
                    expected=f'None under method="{engine.name}", which integrates functions out exactly',
                    found=repr(num_inducing),
                    remedy='Use method="svi".',
                )
        draws = engine.run(posterior, settings)
        fit = FunctionFit(
            kernel=self.kernel,
            sharing=posterior.sharing.sharing,
            likelihood=self.likelihood,
            amplitude=self.amplitude,
            schema=data.schema,
            standardization=self.likelihood.standardization(data),
            draws=draws,
            method=engine.name,
            reason=engine.reason(reason, draws),
            seed=settings.seed,
            data=data,
            inducing=inducing,
        )
        return fit.warn()

    def simulate(self, data: TaskData, *, seed: int) -> tuple[TaskData, dict[str, torch.Tensor]]:
        """Simulate targets for the rows of `data` from the prior.

        Args:
            data: Gives rows, tasks, inputs and scales; targets that are missing stay missing.
            seed: Source of randomness.

        Returns:
            The data with simulated targets, and the hyperparameters that they came from, standardised.
        """
        problem = self._posterior(data)
        rng = np.random.default_rng(whole_number("seed", seed, 0))
        values = problem.space.sample(rng, 1)
        if self.sharing.dependence is Dependence.PARTITION:
            values["cluster"] = partition_of(self.sharing).sample_partition(values, data.num_tasks, rng)
        refuse_too_many(problem, "Simulate a sample of the rows (data.split).")
        fresh = standard_normal(rng, len(problem.y))
        standardization = self.likelihood.standardization(data)
        task, y = data.task[data.observed], np.full(data.num_rows, np.nan)
        if self.likelihood.compresses:
            L, _ = factorise(problem.covariance(values, 1))
            y[data.observed] = standardization.unstandardize_target((L[0] @ fresh).numpy(), task)
        else:
            kernel = problem.kernels.covariance(values, problem.X, problem.X)
            K = function_covariance(problem.structure(values), kernel, problem.task, problem.task)
            K.diagonal(dim1=-2, dim2=-1).mul_(1 + _ROUNDING)
            latent = standardization.unstandardize_target((factorise(K)[0][0] @ fresh).numpy(), task)
            noise = standardization.unstandardize_sd(problem.noise(values, 1)[0].numpy()[task], task)
            given = Given(values, None, problem.task)
            y[data.observed] = problem.of_rows.draw(latent[None], noise[None], rng, given)[0]
        return replace(data, y=y), {name: value[0] for name, value in values.items()}

    def to_pyro(self, data: TaskData) -> PyroProgram:
        """Write the model met with data as a plain Pyro program: functions as one multivariate normal.

        `program.source` is the text that runs, `program.to_fit(samples)` brings samples back.

        Args:
            data: Rows of T tasks.

        Raises:
            DataError: If there are more rows than a covariance matrix can be made of.
            SpecificationError: If Pyro is not installed.
        """
        posterior = self._posterior(data)
        refuse_too_many(posterior, "Write the program of a sample of the rows (data.split).")
        return function_program(posterior, self.kernel, self.likelihood, self.amplitude, data)

    def to_gpytorch(self, data: TaskData) -> Any:
        """Build the same model as a `gpytorch.models.ExactGP`, with the same covariance, mean and noise.

        Its inputs are standardised, with the task's number in the last column (`model.inputs_of(rows)`), its
        targets standardised. `model.load(fit, draw)` takes the hyperparameters of a posterior draw;
        GPyTorch's training loop maximises them.

        Args:
            data: Rows of T tasks.

        Raises:
            SpecificationError: If the likelihood is not Gaussian, or GPyTorch is not installed.
        """
        posterior = self._posterior(data)
        refuse_too_many(posterior, "Export a sample of the rows (data.split).")
        return gpytorch_model(posterior, data)

    def _posterior(self, data: TaskData) -> FunctionPosterior:
        check_data(data)
        if self.likelihood.has_classes:
            raise SpecificationError(
                "likelihood",
                expected="a likelihood of one function per task, such as Bernoulli() or Poisson()",
                found=repr(self.likelihood),
                remedy="Classes go with LinearModel(likelihood=Categorical()).",
            )
        data = self.likelihood.prepared(data)
        num_inputs = data.num_features - data.has_intercept
        if num_inputs == 0:
            raise DataError(
                "data",
                expected="at least one feature besides the intercept",
                found="none",
                remedy="Name the inputs of the functions as features.",
            )
        given = [name for name in ("offset", "weights", "trials") if getattr(data, name) is not None]
        if given:
            raise DataError(
                given[0],
                expected="none for functions",
                found="one of the data",
                remedy="Use LinearModel, or take an offset off the target beforehand.",
            )
        kernels, sharing = parts(self.kernel, self.sharing.of_tasks(data.task_names), self.amplitude)
        kernels.check(num_inputs)
        counts = np.bincount(data.task[data.observed], minlength=data.num_tasks)
        self.likelihood.check(data.task_names, counts)
        standardization = self.likelihood.standardization(data)
        of_rows = self.likelihood.of_tasks(data.task_names, standardization.target_scale)
        of_rows.check_targets(data.y[data.observed], data.task[data.observed], data.target_name)
        return functions_posterior(data, standardization, kernels, sharing, self.likelihood)


def _fewer(sharing: Sharing) -> str:
    """What to do about too many rows."""
    if sharing.dependence is Dependence.PARTITION:
        return "Partitions are sampled with functions integrated out: fit a sample of the rows (data.split)."
    return 'Use method="svi", which "auto" chooses here, or fit a sample of the rows (data.split).'
