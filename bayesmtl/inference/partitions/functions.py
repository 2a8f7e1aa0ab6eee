"""Partitions of the tasks of a multi-task Gaussian process: the clusters' functions integrated out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bayesmtl.algebra.inducing import factor_inducing
from bayesmtl.errors import DataError
from bayesmtl.inference.partitions.engine import PartitionSampler, run_chains
from bayesmtl.inference.partitions.moves import Evidence, gibbs_sweep, split_merge
from bayesmtl.inference.partitions.prior_weights import Weights
from bayesmtl.inference.partitions.steps import dispersed_partitions, num_proposals
from bayesmtl.parameters import ParameterSpace, Values
from bayesmtl.posteriors.draws import HyperparameterDraws
from bayesmtl.posteriors.functions.posterior import FunctionPosterior
from bayesmtl.posteriors.target import Target
from bayesmtl.samplers.hmc import State
from bayesmtl.samplers.settings import Settings
from bayesmtl.sharing.partitions.base import partition_of
from bayesmtl.sharing.partitions.over_functions import Clustered

MOST_INPUTS = 300
"""Distinct inputs up to which partitions are sampled: moving a task costs O(m^3)."""


@dataclass(frozen=True, eq=False)
class FunctionsGivenPartition(Target):
    """The posterior of the hyperparameters of functions given partitions of the tasks.

    Args:
        posterior: Of a prior over partitions.
        membership: Each task's cluster, shape (B, T).
    """

    posterior: FunctionPosterior
    membership: torch.Tensor

    @property
    def space(self) -> ParameterSpace:
        """The hyperparameters."""
        return self.posterior.space

    @property
    def unseen(self) -> np.ndarray:
        """Positions of the tasks without an observed row."""
        return self.posterior.unseen

    def fingerprint(self) -> str:
        """That of the posterior: partitions are where a run is."""
        return self.posterior.fingerprint()

    def log_density(self, points: torch.Tensor) -> torch.Tensor:
        """log p(y, partition, hyperparameters) at points (B, P), shape (B,)."""
        log_prior, values = self.space.log_prior(points)
        values["cluster"] = self.membership
        prior = partition_of(self.posterior.sharing.sharing)
        partition = prior.log_partition(self.membership, values)
        return log_prior + partition + self.posterior.log_marginal(values, len(points))


@dataclass(frozen=True, eq=False)
class PartitionedFunctions:
    """Functions of tasks in unknown clusters.

    Args:
        posterior: All rows, under a prior over partitions.
        reading: That prior, read over functions.
    """

    posterior: FunctionPosterior
    reading: Clustered

    @classmethod
    def of(cls, posterior: FunctionPosterior) -> PartitionedFunctions:
        """A posterior whose sharing prior has partitions.

        Raises:
            TypeError: If it has none.
        """
        if not isinstance(posterior.sharing, Clustered):
            raise TypeError(f"{type(posterior.sharing.sharing).__name__} has no partition of the tasks")
        return cls(posterior, posterior.sharing)

    @property
    def space(self) -> ParameterSpace:
        """The hyperparameters."""
        return self.posterior.space

    def fingerprint(self) -> str:
        """See `Target.fingerprint`."""
        return self.posterior.fingerprint()

    def given(self, membership: torch.Tensor) -> FunctionsGivenPartition:
        """The posterior of the hyperparameters given partitions of the tasks, shape (B, T)."""
        return FunctionsGivenPartition(self.posterior, membership)

    @torch.no_grad()
    def evidence(self, values: Values, num_draws: int) -> Evidence:
        """What every task says about the function of its cluster, for C hyperparameter values.

        The function of a cluster is known through its values at all m distinct inputs, whitened, and its
        level: b ~ N(0, I) with m + 1 entries, of which task t sees F_t b. With C_t the covariance of what is
        the task's own, Q_t = F_t' C_t^-1 F_t and q_t = F_t' C_t^-1 y_t add up over the tasks of a cluster.
        """
        posterior = self.posterior
        inputs = torch.unique(posterior.X, dim=0)
        m, T = len(inputs), posterior.num_tasks
        precision = torch.zeros(num_draws, T, m + 1, m + 1).double()
        linear = torch.zeros(num_draws, T, m + 1).double()
        noise = posterior.noise(values, num_draws)
        for c in range(num_draws):
            own = {name: value[c : c + 1] for name, value in values.items()}
            L = factor_inducing(posterior.kernels.covariance(own, inputs, inputs)[0])[0]
            phi = torch.linalg.solve_triangular(
                L, posterior.kernels.covariance(own, inputs, posterior.X)[0, 0], upper=False
            ).T
            for t in range(T):
                rows = posterior.task == t
                seen = phi[rows]
                level = torch.ones(len(seen), 1).double()
                F = torch.cat([own["amplitude"] * seen, own["mean_scale"] * level], 1)
                C = noise[c, t].square() * torch.eye(len(seen)).double()
                if self.reading.has_private:
                    C += own["private_scale"].square() * (seen @ seen.T) + own["level_scale"].square()
                half = torch.linalg.solve_triangular(
                    torch.linalg.cholesky(C), torch.cat([F, posterior.y[rows][:, None]], 1), upper=False
                )
                precision[c, t] = half[:, :-1].T @ half[:, :-1]
                linear[c, t] = half[:, :-1].T @ half[:, -1]
        return Evidence.of(precision, linear)


class FunctionPartitionSampler(PartitionSampler):
    """A batch of chains over partitions of tasks' functions and hyperparameters.

    Args:
        functions: The posterior.
        num_warmup: Iterations to adapt in, not kept.
    """

    def __init__(self, functions: PartitionedFunctions, num_warmup: int):
        self.functions = functions
        super().__init__(functions, num_warmup)

    def starting(self, num_chains: int, rng: np.random.Generator) -> torch.Tensor:
        """All together, all apart, and k-means of each task's own estimate of its function."""
        values = self.functions.space.constrain(self.functions.space.initial(rng, 1))
        terms = self.functions.evidence(values, 1).terms[0]
        Q, q = terms[:, :-1, :-1], terms[:, :-1, -1]
        estimates = np.linalg.solve(Q + np.eye(Q.shape[-1]), q[..., None])[..., 0]
        return dispersed_partitions(self.functions.reading.sharing, estimates, num_chains, rng)

    def move(self, state: State) -> tuple[torch.Tensor, torch.Tensor]:
        """Every task draws its cluster anew, then clusters are split and merged; points stay."""
        with torch.no_grad():
            values = self.functions.space.constrain(state.points)
            data = self.functions.evidence(values, len(state.points))
            membership = state.further["membership"].numpy()
            weights = Weights(self.functions.reading.sharing, values, membership.shape[1])
            membership = gibbs_sweep(membership, data, weights, state.generator)
            if membership.shape[1] > 1:
                warming_up = state.iteration < self.num_warmup
                number = num_proposals(torch.from_numpy(membership), warming_up=warming_up)
                for _ in range(number):
                    membership, _ = split_merge(membership, data, weights, state.generator)
        return torch.from_numpy(membership), state.points


def function_partition_gibbs(posterior: FunctionPosterior, settings: Settings) -> HyperparameterDraws:
    """Sample partitions of the tasks and hyperparameters, all functions integrated out.

    Approximates nothing. Every iteration lets every task draw its cluster anew, proposes to split and to
    merge clusters, and moves the hyperparameters by one Hamiltonian trajectory on the density of all rows
    given the partition.

    Raises:
        DataError: If there are too many distinct inputs.
        SpecificationError: If there are fewer tasks than clusters are asked for.
        CheckpointError: If the checkpoint is damaged or belongs to another run.
    """
    rng = np.random.default_rng(settings.seed)
    prior = partition_of(posterior.sharing.sharing)
    prior.check_tasks(posterior.num_tasks)
    number = len(torch.unique(posterior.X, dim=0))
    if number > MOST_INPUTS:
        raise DataError(
            "data",
            expected=f"at most {MOST_INPUTS} distinct inputs for partitions of functions",
            found=str(number),
            remedy="Fit a sample of the rows (data.split), or LinearModel on features of the inputs.",
        )
    sampler = FunctionPartitionSampler(PartitionedFunctions.of(posterior), settings.num_warmup)
    points, membership, sample_stats, complete = run_chains(sampler, settings, rng)
    draws = posterior.complete(points, sample_stats, rng, complete=complete)
    draws.hyperparameters["cluster"] = membership
    return draws
