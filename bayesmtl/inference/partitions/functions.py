"""Partitions of the tasks of a multi-task Gaussian process: the clusters' functions integrated out."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from bayesmtl.algebra.inducing import factor_inducing
from bayesmtl.errors import DataError
from bayesmtl.inference.partitions.engine import PartitionSampler, run_chains
from bayesmtl.inference.partitions.moves import Evidence, gibbs_sweep, split_merge
from bayesmtl.inference.partitions.prior_weights import Weights
from bayesmtl.inference.partitions.steps import WithPartitions, dispersed_partitions, num_proposals
from bayesmtl.parameters import Values
from bayesmtl.posteriors.functions.posterior import FunctionProblem
from bayesmtl.samplers.hmc import State
from bayesmtl.samplers.settings import Settings
from bayesmtl.sharing.partitions.over_functions import Clustered

MOST_INPUTS = 300
"""Distinct inputs up to which partitions are sampled: moving a task costs O(m^3)."""


@dataclass(frozen=True, eq=False)
class PartitionedProblem(FunctionProblem):
    """The posterior of the hyperparameters given partitions.

    Args:
        membership: Each task's cluster, shape (B, T).
    """

    membership: torch.Tensor | None = None

    @classmethod
    def of(cls, problem: FunctionProblem) -> PartitionedProblem:
        """A problem whose sharing prior has partitions."""
        return cls(**{field.name: getattr(problem, field.name) for field in fields(FunctionProblem)})

    @property
    def reading(self) -> Clustered:
        """The prior over partitions, read over functions."""
        assert isinstance(self.sharing, Clustered)
        return self.sharing

    def given(self, membership: torch.Tensor) -> PartitionedProblem:
        """The posterior of the hyperparameters given partitions of the tasks, shape (B, T)."""
        return replace(self, membership=membership)

    def log_density(self, points: torch.Tensor) -> torch.Tensor:
        """log p(y, partition, hyperparameters) at points (B, P), shape (B,)."""
        assert self.membership is not None
        log_prior, values = self.space.log_prior(points)
        values["cluster"] = self.membership
        partition = self.reading.sharing.log_partition(self.membership, values)
        return log_prior + partition + self.log_marginal(values, len(points))

    @torch.no_grad()
    def evidence(self, values: Values, num_draws: int) -> Evidence:
        """What every task says about the function of its cluster, for C hyperparameter values.

        The function of a cluster is known through its values at all m distinct inputs, whitened, and its
        level: b ~ N(0, I) with m + 1 entries, of which task t sees F_t b. With C_t the covariance of what is
        the task's own, Q_t = F_t' C_t^-1 F_t and q_t = F_t' C_t^-1 y_t add up over the tasks of a cluster.
        """
        inputs = torch.unique(self.X, dim=0)
        m, T = len(inputs), self.num_tasks
        precision = torch.zeros(num_draws, T, m + 1, m + 1).double()
        linear = torch.zeros(num_draws, T, m + 1).double()
        noise = self.noise(values, num_draws)
        for c in range(num_draws):
            own = {name: value[c : c + 1] for name, value in values.items()}
            L = factor_inducing(self.kernels.covariance(own, inputs, inputs)[0])[0]
            phi = torch.linalg.solve_triangular(
                L, self.kernels.covariance(own, inputs, self.X)[0, 0], upper=False
            ).T
            for t in range(T):
                rows = self.task == t
                seen = phi[rows]
                level = torch.ones(len(seen), 1).double()
                F = torch.cat([own["amplitude"] * seen, own["mean_scale"] * level], 1)
                C = noise[c, t].square() * torch.eye(len(seen)).double()
                if self.reading.has_private:
                    C += own["private_scale"].square() * (seen @ seen.T) + own["level_scale"].square()
                half = torch.linalg.solve_triangular(
                    torch.linalg.cholesky(C), torch.cat([F, self.y[rows][:, None]], 1), upper=False
                )
                precision[c, t] = half[:, :-1].T @ half[:, :-1]
                linear[c, t] = half[:, :-1].T @ half[:, -1]
        return Evidence.of(precision, linear)


class FunctionPartitionSampler(PartitionSampler):
    """A batch of chains over partitions of tasks' functions and hyperparameters."""

    problem: PartitionedProblem

    def starting(self, num_chains: int, rng: np.random.Generator) -> torch.Tensor:
        """All together, all apart, and k-means of each task's own estimate of its function."""
        values = self.problem.space.constrain(self.problem.space.initial(rng, 1))
        terms = self.problem.evidence(values, 1).terms[0]
        Q, q = terms[:, :-1, :-1], terms[:, :-1, -1]
        estimates = np.linalg.solve(Q + np.eye(Q.shape[-1]), q[..., None])[..., 0]
        return dispersed_partitions(self.problem.reading.sharing, estimates, num_chains, rng)

    def moved_given_partition(self, problem: WithPartitions) -> torch.Tensor | None:
        """None: trajectories move all of them."""
        return None

    def move(self, state: State) -> tuple[torch.Tensor, torch.Tensor]:
        """Every task draws its cluster anew, then clusters are split and merged; points stay."""
        with torch.no_grad():
            values = self.problem.space.constrain(state.points)
            data = self.problem.evidence(values, len(state.points))
            membership = state.further["membership"].numpy()
            weights = Weights(self.problem.reading.sharing, values, membership.shape[1])
            membership = gibbs_sweep(membership, data, weights, state.generator)
            if membership.shape[1] > 1:
                warming_up = state.iteration < self.num_warmup
                number = num_proposals(torch.from_numpy(membership), warming_up=warming_up)
                for _ in range(number):
                    membership, _ = split_merge(membership, data, weights, state.generator)
        return torch.from_numpy(membership), state.points


def partitions_of_functions(
    problem: FunctionProblem, settings: Settings, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, dict[str, np.ndarray], bool]:
    """Sample partitions of the tasks and hyperparameters, all functions integrated out.

    Every iteration lets every task draw its cluster anew, proposes to split and to merge clusters, and moves
    the hyperparameters by one Hamiltonian trajectory on the density of all rows given the partition.

    Returns:
        Points (C, N, P), clusters (C, N, T), statistics (C, N) each, and whether all draws are there.

    Raises:
        DataError: If there are too many distinct inputs.
        SpecificationError: If there are fewer tasks than clusters are asked for.
    """
    target = PartitionedProblem.of(problem)
    target.reading.sharing.check_tasks(problem.num_tasks)
    number = len(torch.unique(problem.X, dim=0))
    if number > MOST_INPUTS:
        raise DataError(
            "data",
            expected=f"at most {MOST_INPUTS} distinct inputs for partitions of functions",
            found=str(number),
            remedy="Fit a sample of the rows (data.split), or LinearModel on features of the inputs.",
        )
    sampler = FunctionPartitionSampler(target, settings.num_warmup)
    return run_chains(sampler, settings, rng)
