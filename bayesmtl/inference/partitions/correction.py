"""Importance weights that take the mean field out of draws of partitions.

Tasks come one after the other, in an order drawn for each draw, and each joins a cluster or opens one with
its probability given the clusters of those before it and their data, weights, cluster means and mu integrated
out. The product of what the choices of all tasks add up to is an unbiased estimate of
p(y | hyperparameters), so that partition and hyperparameters, these drawn from a proposal, have the weight

    p(hyperparameters) prod_t sum_k p(c_t = k, y_t | tasks before t) / proposal(hyperparameters),

which is exact whatever the proposal. It starts from the parts of the variational approximation and adapts.
The fewer the tasks the less the estimate scatters; of two tasks it is exact.

With a logit link the data are pseudo-rows, the likelihood expanded where the approximation has the linear
predictors, and Z and the weights of the tasks are drawn with the partition: the ratio of the likelihood to
its expansion goes into the weight, task by task, as in `correction`.

Source: sequential imputation (Kong, Liu and Wong, 1994), for Dirichlet processes Liu (1996) and MacEachern,
Clyde and Liu (1999), as recalled.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from bayesmtl.algebra.clusters import TaskTerms, draw_basis, task_terms
from bayesmtl.algebra.conditional import WeightDraws
from bayesmtl.algebra.soft_clusters import alone, worth_of_population
from bayesmtl.inference.partitions.prior_weights import PartitionWeights, weights_of
from bayesmtl.parameters import Values
from bayesmtl.posteriors.linear.outcomes import Expansion, OutcomePosterior
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.posteriors.linear.task_weights import choose_candidates
from bayesmtl.posteriors.target import finite_or_least
from bayesmtl.samplers.importance import (
    RELIABLE,
    Proposal,
    WeightedSample,
    pooled_sample,
    systematic,
)
from bayesmtl.sharing.partitions.base import in_order
from bayesmtl.sharing.partitions.exchangeable import exchangeable_of

_CANDIDATES, _FROM_PRIOR = 16, 1  # of each task's weights, where rows are not Gaussian
_ENTRIES_AT_ONCE = 2_000_000  # of the tasks' matrices, and row values of candidates
# Entries of matrices that all draws together may handle: some tens of seconds. Where there would be more,
# there are so many tasks that weights are of no use anyway.
_MOST_ENTRIES = 1_000_000_000
_FEWEST, _MOST_ROUNDS = 400, 10  # draws of a round, and rounds
_USUAL = 10  # clusters that a task chooses from
LEAST_EFFECTIVE = 100  # draws, for weights to be used


@dataclass(eq=False)
class Allocated:
    """A density of the hyperparameters that is estimated, without bias, by a partition drawn for each point.

    Args:
        problem: A problem whose `tasks` are Gaussian data.
        rng: Source of randomness.
        partitions: Of all points evaluated so far, each (B, T).
        drawn: Z and W with them, where there are rows.
    """

    problem: LinearPosterior
    rng: np.random.Generator
    partitions: list[torch.Tensor] = field(default_factory=list)
    drawn: list[WeightDraws] = field(default_factory=list)

    def value(self, points: torch.Tensor) -> torch.Tensor:
        """Estimates of the log density at points (B, P), shape (B,)."""
        with torch.no_grad():
            return finite_or_least(self._value(points))

    def _value(self, points: torch.Tensor) -> torch.Tensor:
        problem, B = self.problem, len(points)
        sharing = exchangeable_of(problem.sharing)
        log_prior, values = problem.space.log_prior(points)
        T = problem.tasks.num_tasks
        values["cluster"] = torch.zeros(B, T, dtype=torch.long)
        structure = problem.structure(values)
        terms = task_terms(problem.tasks, structure, problem.noise(values, B))
        assert structure.basis_scale is not None
        most = sharing.most_clusters(T)
        prior = weights_of(problem, values)
        cluster, total = allocate(terms, structure.basis_scale, prior, most, self.rng)
        self.partitions.append(cluster)
        value = log_prior + terms.value + total - sharing.log_total(T, values)
        return value + self._beyond(terms, values | {"cluster": cluster})

    def _beyond(self, terms: TaskTerms, values: Values) -> torch.Tensor | float:
        """What the data say beyond Gaussian ones: nothing, where they are Gaussian."""
        return 0.0


@dataclass(eq=False, kw_only=True)
class AllocatedRows(Allocated):
    """The same for outcomes, whose expansion at some row values are the Gaussian data.

    Args:
        rows: The posterior of the outcomes.
        expansion: What the Gaussian data stand for.
    """

    rows: OutcomePosterior
    expansion: Expansion

    @classmethod
    def around(
        cls, posterior: OutcomePosterior, f: torch.Tensor, point: torch.Tensor, rng: np.random.Generator
    ) -> AllocatedRows:
        """With the expansion at linear predictors (1, N) and hyperparameters (1, P)."""
        expansion = posterior.density().expand_at(f, posterior.space.constrain(point))
        gaussian = posterior.augmented(expansion.pseudo.compressed())
        return cls(gaussian, rng, rows=posterior, expansion=expansion)

    def _beyond(self, terms: TaskTerms, values: Values) -> torch.Tensor:
        """Draw Z and W; log of the likelihood over its expansion, all tasks together, shape (B,)."""
        structure = self.problem.structure(values)
        basis = draw_basis(terms, structure, self.rng)
        outcomes = self.rows.outcomes(values)
        chosen, estimate, scale = choose_candidates(
            self.expansion, structure, outcomes, basis, _CANDIDATES, _FROM_PRIOR, self.rng
        )
        self.drawn.append(chosen)
        return (estimate - scale).sum(1)


def allocate(
    terms: TaskTerms,
    scales: torch.Tensor,
    prior: PartitionWeights,
    most: int,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Let tasks choose their clusters one after the other, in random order.

    Args:
        terms: What the tasks say, for B hyperparameter values.
        scales: Prior scales of mu and of the departures, shape (B, 2, D).
        prior: What the prior says, by sizes alone.
        most: Clusters there can be.
        rng: Source of randomness.

    Returns:
        Clusters in the order of their first task (B, T), and the log of the product of what the weights of
        all clusters add up to for each task, shape (B,).
    """
    B, T, D = terms.linear.shape
    rows = torch.arange(B)
    order = torch.from_numpy(rng.random((B, T)).argsort(1))
    scale, spread = scales[:, None, 0], scales[:, None, 1]
    P, q, size = scales.new_zeros(B, 1, D, D), scales.new_zeros(B, 1, D), np.zeros((B, 1), dtype=int)
    known = alone(P, q, spread)
    cluster = torch.zeros(B, T, dtype=torch.long)
    total, present = scales.new_zeros(B), scales.new_zeros(B)
    for task in order.T:
        if size.shape[1] < most and bool((size > 0).all(1).any()):  # keep a slot free
            P, q, size = _padded(P), _padded(q), np.pad(size, ((0, 0), (0, 1)))
            known = (_padded(known[0]), _padded(known[1]), _padded(known[2]))
        joined = P + terms.precision[rows, task][:, None], q + terms.linear[rows, task][:, None]
        tried = alone(*joined, spread)
        value, rest, linear = (
            old.sum(1, keepdim=True) - old + new for old, new in zip(known, tried, strict=True)
        )
        worth = value + worth_of_population(rest, linear, scale)
        score = torch.from_numpy(prior.slots(size, 0)) + worth - present[:, None]
        total = total + score.logsumexp(1)
        chosen = (score + torch.from_numpy(rng.gumbel(size=tuple(score.shape)))).argmax(1)
        present = worth[rows, chosen]
        for old, new in zip((P, q, *known), (*joined, *tried), strict=True):
            old[rows, chosen] = new[rows, chosen]
        size[rows.numpy(), chosen.numpy()] += 1
        cluster[rows, task] = chosen
    return in_order(cluster), total


def _padded(clusters: torch.Tensor) -> torch.Tensor:
    """The same with one more cluster, which is empty: (B, K, ...) -> (B, K + 1, ...)."""
    return torch.cat([clusters, torch.zeros_like(clusters[:, :1])], dim=1)


@dataclass(frozen=True, eq=False)
class Sample:
    """Hyperparameters and partitions with weights.

    Args:
        weighted: The hyperparameters, M of them, with their weights.
        partitions: Shape (M, T).
        drawn: Z and W with them, where there are rows.
    """

    weighted: WeightedSample
    partitions: torch.Tensor
    drawn: WeightDraws | None

    @property
    def effective(self) -> float:
        """How many draws with equal weights they are worth."""
        return 1 / float((self.weighted.weights**2).sum())

    @property
    def reliable(self) -> bool:
        """Whether the weights can be used."""
        return self.weighted.pareto_k <= RELIABLE and self.effective >= LEAST_EFFECTIVE

    def resampled(
        self, number: int, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Equally weighted draws in a random order: which, points (number, P) and partitions (number, T)."""
        keep = torch.from_numpy(rng.permutation(systematic(self.weighted.weights, number, rng)))
        return keep, self.weighted.points[keep], self.partitions[keep]


def weighted_partitions(
    problem: LinearPosterior,
    proposal: Proposal,
    number: int,
    rng: np.random.Generator,
    f: torch.Tensor | None = None,
) -> Sample | None:
    """Partitions and hyperparameters with their weights, `None` where there are too many tasks to try.

    Args:
        problem: The posterior.
        proposal: Of the hyperparameters, to begin with.
        number: LinearDraws wanted.
        rng: Source of randomness.
        f: Where there are rows, linear predictors to expand the likelihood at, shape (1, N).
    """
    T, D = problem.tasks.num_tasks, problem.tasks.num_features
    number = max(number, _FEWEST)
    entries = number * T * min(T, _USUAL) * D * D
    at_once = T * D * D
    if isinstance(problem, OutcomePosterior):
        candidates = _CANDIDATES * problem.rows.size
        entries, at_once = entries + number * candidates, at_once + candidates
    rounds = min(_MOST_ENTRIES // entries, _MOST_ROUNDS)
    if not rounds:
        return None
    density = Allocated(problem, rng)
    if isinstance(problem, OutcomePosterior) and f is not None:
        density = AllocatedRows.around(problem, f, proposal.center[None], rng)
    size = max(1, _ENTRIES_AT_ONCE // at_once)
    sample = pooled_sample(density, proposal, number, rounds * number, rng, size)
    drawn = None
    if density.drawn:
        rows = max(part.basis.shape[1] for part in density.drawn)
        drawn = WeightDraws(
            torch.cat([part.weights for part in density.drawn]),
            torch.cat([padded_rows(part.basis, rows) for part in density.drawn]),
            torch.cat([part.factors for part in density.drawn]),
        )
    return Sample(sample, torch.cat(density.partitions), drawn)


def padded_rows(basis: torch.Tensor, number: int) -> torch.Tensor:
    """Z (..., R, D) with so many rows, those behind zeros."""
    return torch.nn.functional.pad(basis, (0, 0, 0, number - basis.shape[-2]))
