"""The posterior of a linear model with Gaussian noise: all weights integrated out, from sums per task."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass

import numpy as np
import torch

from bayesmtl.algebra.clusters import log_marginal_clusters
from bayesmtl.algebra.collapsed import log_marginal
from bayesmtl.algebra.conditional import WeightDraws, draw_posterior
from bayesmtl.algebra.statistics import CompressedTasks
from bayesmtl.algebra.structure import Structure
from bayesmtl.likelihoods import Likelihood
from bayesmtl.parameters import ParameterSpace, Reported, Values
from bayesmtl.posteriors.draws import LinearDraws
from bayesmtl.posteriors.linear.batches import Batch, Batches, TaskBatches
from bayesmtl.posteriors.posterior import Posterior, Trait
from bayesmtl.posteriors.target import Density, Target
from bayesmtl.sharing import Dependence, Sharing, partition_of

_AT_ONCE = 10_000_000  # numbers of workspace; no less than four points, the usual chains
_DRAWN_AT_ONCE = 1_000_000  # weights and their rows of workspace handled at once, in numbers


@dataclass(frozen=True, eq=False)
class LinearPosterior(Posterior):
    """Everything an engine needs, in standardised units, where sums per task stand for the rows.

    Args:
        sharing: Prior of the weights.
        likelihood: Scatter of the targets.
        tasks: Compressed data of T tasks.
        task_names: Names of the tasks, for messages and known noise.
        target_scale: What one standardised unit is in the target's units, shape (T,).
        descriptors: Standardised descriptors of the tasks that the sharing prior looks at, shape (T, Q);
            `None` where it looks at none.
    """

    sharing: Sharing
    likelihood: Likelihood
    tasks: CompressedTasks
    task_names: tuple[str, ...]
    target_scale: np.ndarray
    descriptors: torch.Tensor | None = None

    @property
    def traits(self) -> frozenset[Trait]:
        """See `Posterior.traits`."""
        return traits_of(self.sharing, self.likelihood)

    @property
    def space(self) -> ParameterSpace:
        """The hyperparameters."""
        T, D = self.tasks.num_tasks, self.tasks.num_features
        return ParameterSpace((*self.sharing.parameters(T, D), *self.likelihood.parameters(T)))

    @property
    def unseen(self) -> np.ndarray:
        """Positions of the tasks without an observed row."""
        return np.flatnonzero(self.tasks.count.numpy() == 0)

    @property
    def target_acceptance(self) -> float:
        """Higher for correlations of tasks: few features leave nearly singular ones likely, in a funnel."""
        return 0.95 if Trait.JOINT in self.traits else super().target_acceptance

    @property
    def num_outputs(self) -> int:
        """Linear predictors of a row."""
        return 1

    @property
    def num_weights(self) -> int:
        """Length of a task's weights: features times linear predictors."""
        return self.tasks.num_features * self.num_outputs

    @property
    def evaluation_size(self) -> float:
        """See `Target.evaluation_size`: of the square matrix with as many numbers as are handled."""
        return math.sqrt(self._workspace)

    @property
    def draws_at_once(self) -> int:
        """Hyperparameter values whose weights are drawn together."""
        return max(1, _DRAWN_AT_ONCE // self._workspace)

    @property
    def _workspace(self) -> int:
        """Numbers handled for one hyperparameter value."""
        T, D = self.tasks.num_tasks, self.num_weights
        rank = max(group.rows.shape[1] for group in self.tasks.groups)
        if Trait.JOINT in self.traits:
            return (1 + T) * D * ((1 + T) * D + T * rank)  # one row of Z for every task
        return T * D * rank

    def structure(self, values: Values) -> Structure:
        """A, Z and E for these hyperparameter values."""
        structure = self.sharing.structure(values, self.tasks.num_tasks, self.tasks.num_features)
        return structure.of_outputs(self.num_outputs)

    def noise(self, values: Values, num_draws: int) -> torch.Tensor:
        """sigma_t, shape (B, T) or (B, 1); 1 where Gaussian rows of precision omega stand for the rows."""
        if not self.likelihood.compresses:
            return torch.ones(num_draws, 1, dtype=torch.float64)
        return self.likelihood.noise_sd(values, self.task_names, self.target_scale, num_draws)

    def reported(self, values: Values) -> dict[str, Reported]:
        """See `Posterior.reported`."""
        of_tasks = self.likelihood.of_tasks(self.task_names, self.target_scale)
        return self.sharing.report(values) | of_tasks.report(values)

    def density(self) -> Density:
        """log p(y, hyperparameters) as engines explore it: this posterior's own."""
        return self

    def given(self, membership: torch.Tensor) -> GivenPartition:
        """The posterior of the hyperparameters given partitions of the tasks, shape (B, T)."""
        return GivenPartition(self, membership)

    def log_density(self, points: torch.Tensor) -> torch.Tensor:
        """log p(y, hyperparameters) at points (B, P) with all weights integrated out, shape (B,).

        For Gaussian data; `LaplaceMarginal` is its counterpart for outcomes.
        """
        log_prior, values = self.space.log_prior(points)
        noise = self.noise(values, points.shape[0])
        return log_prior + log_marginal(self.tasks, self.structure(values), noise)

    def value(self, points: torch.Tensor) -> torch.Tensor:
        """`log_density` without its gradient, of as many points at once as memory is meant for."""
        size = sum(group.rows.numel() for group in self.tasks.groups)
        return torch.cat(
            [super(LinearPosterior, self).value(part) for part in points.split(max(4, _AT_ONCE // size))]
        )

    def data_given(self, structure: Structure, num_values: int, values: Values) -> CompressedTasks:
        """Gaussian data under which weights are drawn: the tasks' own, whatever the hyperparameters."""
        return self.tasks

    def log_likelihood(self, values: Values, weights: torch.Tensor, *, by_task: bool = False) -> torch.Tensor:
        """log p(y | W, dispersion) of weights (B, T, D), shape (B,), or of each task, (B, T)."""
        tasks, noise = self.tasks, self.noise(values, len(weights))
        total = -0.5 * tasks.residual / noise**2
        total = total - tasks.count * (noise.log() + 0.5 * math.log(2 * math.pi))
        fitted = torch.zeros_like(total)
        for group in tasks.groups:
            gap = group.c - (group.F @ weights[:, group.index, :, None])[..., 0]
            squares = ((gap / group.pick(noise)[..., None]) ** 2).sum(-1)
            fitted = fitted.index_add(1, group.index, -0.5 * squares)
        return total + fitted if by_task else (total + fitted).sum(1)

    def log_likelihood_of(self, batch: Batch, values: Values, weights: torch.Tensor) -> torch.Tensor:
        """log p(y_t | w_t) of some tasks, for one value and their weights (1, T_b, D), shape (T_b,)."""
        every = torch.zeros(1, self.tasks.num_tasks, weights.shape[-1], dtype=weights.dtype)
        every = every.index_copy(1, batch.tasks, weights)
        return self.log_likelihood(values, every, by_task=True)[0].index_select(0, batch.tasks)

    def sums_at(self, values: Values) -> tuple[torch.Tensor, torch.Tensor]:
        """G_t (T, D, D) and b_t (T, D) of Gaussian data that stand for the rows, for one value."""
        return gram_and_cross(self.data_given(self.structure(values), 1, values))

    def batches(self, num_tasks: int, num_rows: int) -> Batches:
        """Where minibatches of so many tasks come from, and at most so many rows of each."""
        return TaskBatches(self.tasks.num_tasks, num_tasks)

    def complete(
        self,
        points: torch.Tensor,
        sample_stats: dict[str, np.ndarray],
        rng: np.random.Generator,
        *,
        complete: bool = True,
        at_mode: bool = False,
    ) -> LinearDraws:
        """Draw Z and W for every kept point (C, N, P): exactly, given Gaussian data.

        Args:
            points: Coordinates of the hyperparameters.
            sample_stats: What the engine recorded, each (C, N).
            rng: Source of randomness.
            complete: Whether these are all draws that were asked for.
            at_mode: Whether the points are a mode; nothing more is needed of one.
        """
        C, N, P = points.shape
        flat = points.reshape(C * N, P)
        values = self.space.constrain(flat)
        one_value = bool((flat == flat[0]).all())  # a mode: all draws share its factors
        size = self._draws_of_one_value if one_value else self.draws_at_once
        parts = []
        for start in range(0, C * N, size):
            B = min(size, C * N - start)
            chunk = {
                name: value[:1] if one_value else value[start : start + B] for name, value in values.items()
            }
            values_at_once, num_draws = (1, B) if one_value else (B, 1)
            structure, noise = self.structure(chunk), self.noise(chunk, values_at_once)
            tasks = self.data_given(structure, values_at_once, chunk)
            parts.append(draw_posterior(tasks, structure, noise, rng, num_draws))
        drawn = WeightDraws(
            *(
                torch.cat(column)
                for column in zip(*((p.weights, p.basis, p.factors) for p in parts), strict=True)
            )
        )
        return LinearDraws.shaped(C, N, values, drawn, sample_stats, complete=complete)

    @property
    def _draws_of_one_value(self) -> int:
        T, D = self.tasks.num_tasks, self.num_weights
        rank = max(group.rows.shape[1] for group in self.tasks.groups)
        return max(1, _DRAWN_AT_ONCE // (T * (D + rank)))

    def fingerprint(self) -> str:
        """Changes whenever the model or the data do; ties a checkpoint to its run."""
        digest = hashlib.sha256()
        digest.update(json.dumps([self.sharing.to_dict(), self.likelihood.to_dict()]).encode())
        digest.update(json.dumps(self.task_names).encode())
        digest.update(self.target_scale.tobytes())  # what known noise is measured in
        for array in self._fingerprinted():
            digest.update(array.numpy().tobytes())
        return digest.hexdigest()

    def _fingerprinted(self) -> list[torch.Tensor]:
        """The data, as arrays."""
        arrays = [self.tasks.residual, self.tasks.count, *(g.rows for g in self.tasks.groups)]
        return arrays if self.descriptors is None else [*arrays, self.descriptors]


@dataclass(frozen=True, eq=False)
class GivenPartition(Target):
    """The posterior of the hyperparameters given partitions of the tasks, for Gaussian data.

    Args:
        posterior: Of a prior over partitions.
        membership: Clusters of the tasks, one partition for each point that is evaluated, shape (B, T).
    """

    posterior: LinearPosterior
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
        """log p(y, partition, hyperparameters) at points (B, P), weights integrated out, shape (B,)."""
        posterior = self.posterior
        log_prior, values = posterior.space.log_prior(points)
        values["cluster"] = self.membership
        prior = partition_of(posterior.sharing)
        log_prior = log_prior + prior.log_partition(self.membership, values, posterior.descriptors)
        noise = posterior.noise(values, points.shape[0])
        return log_prior + log_marginal_clusters(posterior.tasks, posterior.structure(values), noise)


def traits_of(sharing: Sharing, likelihood: Likelihood) -> frozenset[Trait]:
    """What the posterior of weights under a sharing prior and a likelihood allows."""
    traits = {Trait.EXACT, Trait.DENSITY} if likelihood.compresses else {Trait.ROWS}
    traits |= {Trait.AUGMENTED} if likelihood.augments else set()
    traits |= {Trait.CLASSES} if likelihood.has_classes else set()
    traits |= {Trait.MIXED} if likelihood.is_mixed else set()
    if sharing.dependence is Dependence.JOINT:
        traits.add(Trait.JOINT)
    if sharing.dependence is Dependence.PARTITION:
        traits.add(Trait.PARTITION)
        if sharing.has_sticks and (likelihood.compresses or likelihood.has_quadratic_bound):
            traits.add(Trait.BOUNDED)
    return frozenset(traits)


def gram_and_cross(data: CompressedTasks) -> tuple[torch.Tensor, torch.Tensor]:
    """G_t (T, D, D) and b_t (T, D)."""
    T, D = data.num_tasks, data.num_features
    gram, linear = torch.zeros(T, D, D).double(), torch.zeros(T, D).double()
    for group in data.groups:
        rows = group.rows.reshape(-1, *group.rows.shape[-2:])
        F, c = rows[..., :-1], rows[..., -1:]
        gram[group.index] = F.transpose(-1, -2) @ F
        linear[group.index] = (F.transpose(-1, -2) @ c)[..., 0]
    return gram, linear
