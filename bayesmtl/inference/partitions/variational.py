"""Variational engines for partitions: an evidence bound climbed from several starts, and its correction."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from bayesmtl.algebra.conditional import WeightDraws
from bayesmtl.algebra.random import standard_normal
from bayesmtl.inference.partitions.bound import Ascent, How, Shares
from bayesmtl.inference.partitions.correction import Sample, padded_rows, weighted_partitions
from bayesmtl.inference.partitions.engine import complete_given_partitions
from bayesmtl.inference.partitions.starts import k_means
from bayesmtl.inference.partitions.steps import own_estimates
from bayesmtl.posteriors.draws import LinearDraws
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.samplers.importance import Proposal
from bayesmtl.samplers.progress import iterations
from bayesmtl.samplers.settings import Settings, refuse_checkpoint
from bayesmtl.sharing.partitions.base import in_order, partition_of

NUM_DRAWS = 250  # by default, per chain; they are independent
STARTS = (1, 2, 3, 4, 8, 16)  # clusters of k-means that restarts begin with, and then as many as there can be
MOST_AT_FIRST = 40  # clusters, unless the last of them turns out to be needed
MOST = 320
LAST_STICK = 0.1  # expected tasks in the last cluster from which on there must be more of them
RIVAL = 7.0  # nats below the best restart from which on another one has no part: a thousandth
_ALIKE = 0.05  # difference of probabilities that two tasks are together up to which restarts are one
_FEW = 4  # clusters up to which a restart keeps those that it begins with
_HOPELESS = 10.0  # nats per hyperparameter that no difference in width makes up for
_ENOUGH = {"roughly": 0.05, "finely": 1e-3}  # nats in a round
_PAIRS_AT_ONCE = 500  # tasks, beside all


def partition_variational(problem: LinearPosterior, settings: Settings) -> LinearDraws:
    """Approximate the posterior of partitions by `mean_field`, and correct that by importance weights.

    Mean field makes partitions too certain, and sees those only that a restart found. So hyperparameters are
    drawn from a multivariate t around what it found, and each draw gets a partition of its own by sequential
    imputation: tasks choose their clusters one after the other, given the exact density of their data with
    the weights, the cluster means and mu integrated out (`partition_correction`). Weighted by the true
    density over the proposal's, Pareto-smoothed and resampled, the draws are those of the exact posterior,
    hyperparameters included, up to the error of a finite number of them. The proposal adapts to its weighted
    draws, up to ten times as many as are wanted. With a logit link the weights also take out what the
    expansion of the likelihood gets wrong.

    The more tasks, the more the weights differ. Where their tail is too heavy (Pareto k above .7), or fewer
    than 100 draws are effective, or there are so many tasks that trying takes minutes, the draws are those of
    mean field, uncorrected, and `Fit.check` says so. Of 30 tasks the weights are good, of hundreds not.

    Source: as for `mean_field` and `partition_correction`.

    Raises:
        SpecificationError: If a checkpoint is asked for, or there are fewer tasks than clusters.
    """
    refuse_checkpoint(settings, "svi")
    rng = np.random.default_rng(settings.seed)
    ascent = Ascent.of(problem)
    parts, stats = best_of_restarts(ascent, settings.num_warmup, rng, progress=settings.progress)
    number = settings.num_chains * (settings.num_draws or NUM_DRAWS)
    sample = weighted_partitions(problem, around(ascent, parts), number, rng, _predictors(ascent, parts))
    k, effective = (np.inf, np.nan) if sample is None else (sample.weighted.pareto_k, sample.effective)
    stats |= {"pareto_k": k, "importance_ess": effective}
    if sample is None or not sample.reliable:
        return _draws(ascent, parts, stats | {"corrected": 0.0}, settings, rng)
    return _resampled(problem, sample, stats | {"corrected": 1.0}, settings, rng)


def mean_field(problem: LinearPosterior, settings: Settings) -> LinearDraws:
    """Approximate the partition by independent clusters of the tasks around one partition, or a few.

    Around a partition, the posterior of the clusters is approximated by prod_t q(c_t), a table of
    probabilities for each task, and that of the weights of the clusters by independent sticks: as many as are
    needed, 40 at first, twice as many while the last still holds a tenth of a task. What is maximised is a
    lower bound (ELBO) of log p(y, hyperparameters), with the cluster means and the tasks' departures
    integrated out, by coordinate ascent: a round updates all q(c_t) until they settle, merges clusters where
    that raises the bound, and climbs in the hyperparameters. So the bound never falls. With a logit link a
    round also updates the parameters of the quadratic bound of the logistic function, one per row (Jaakkola
    and Jordan, 2000), which is the mean-field approximation of the Polya-Gamma variables.

    Hyperparameters then get the normal distribution that the curvature of the bound at its top gives them.
    Draws take those, the partition from q, and cluster means and weights from their posterior given both.

    Restarts begin with all tasks together, with k-means of the tasks' own estimates into 2, 3, 4, 8 and 16
    clusters, and with as many clusters as there can be. They are compared by their evidence: the bound with
    that normal integrated over (scales of cluster means are as good as free where there is one cluster, and
    well known where there are many, so that heights do not compare) and with all numberings of the clusters.
    Restarts that end in different partitions share the draws in proportion to it; most often one has all. So
    that few clusters stay in the running beside fewer, restarts from at most four do not merge any.
    `num_warmup` is the most rounds that a restart takes each time.

    Approximates: around a partition tasks move between clusters independently of each other, and the only
    partitions are those that restarts find. So partitions come out too certain, above all where many are
    about as probable; where clusters are plain they come out right. Of five tasks whose clusters overlap,
    probabilities of being together are off by about .3, most often towards together, beside enumeration of
    all partitions (`python -m benchmarks.partition_variational`). It is here for the comparison, and to begin
    with: `method="svi"` corrects it where it can. `Fit.check` says whether the bound still rose, whether
    there were clusters enough, and how the restarts compare; it cannot see what none of them found.

    Source: Blei and Jordan (2006) for the sticks and the family; Xue, Liao, Carin and Krishnapuram (2007) for
    tasks with logistic outcomes, who take `within="none"`, a normal-gamma base and factorised cluster means.

    Raises:
        SpecificationError: If a checkpoint is asked for, or there are fewer tasks than clusters.
    """
    refuse_checkpoint(settings, "mean_field")
    rng = np.random.default_rng(settings.seed)
    ascent = Ascent.of(problem)
    parts, stats = best_of_restarts(ascent, settings.num_warmup, rng, progress=settings.progress)
    return _draws(ascent, parts, stats, settings, rng)


@dataclass(frozen=True, eq=False)
class Part:
    """One part of the approximation, around one partition.

    Args:
        shares: Where an ascent ended.
        root: Root of the covariance of q(hyperparameters), shape (P, P).
        probability: Of this part.
    """

    shares: Shares
    root: torch.Tensor
    probability: float


def best_of_restarts(
    ascent: Ascent, rounds: int, rng: np.random.Generator, *, progress: bool = False
) -> tuple[list[Part], dict[str, float]]:
    """The approximation, most probable parts first, and what `Fit.check` is told."""
    problem = ascent.problem
    partition_of(problem.sharing).check_tasks(problem.tasks.num_tasks)
    with torch.no_grad():
        starts = starting_shares(ascent, rng)
    runs = list[Run]()
    for _ in iterations(0, len(starts), f"{len(starts)} restarts", show=progress):
        share, point = starts[len(runs)], problem.space.initial(rng, 1)[0]
        number = int((share.sum(0) > 0).sum())
        own = replace(ascent, merges=number > _FEW)
        runs.append(with_enough(own, ascend(own, ascent.first(point, share), rounds), rounds))
    evidence = np.array(_evidences(ascent, runs, rng))
    kept: list[tuple[Run, torch.Tensor, float]] = []
    for place in np.argsort(-evidence, kind="stable"):
        run = runs[place]
        if evidence[place] < evidence.max() - RIVAL or any(_alike(run.shares, k.shares) for k, *_ in kept):
            continue
        run = ascend(replace(ascent, merges=False), run.shares, rounds, "finely")
        root = ascent.root(run.shares, rng)
        kept.append((run, root, _evidence(ascent, run, root)))
    top = max(value for *_, value in kept)
    total = sum(math.exp(value - top) for *_, value in kept)
    parts = [Part(run.shares, root, math.exp(value - top) / total) for run, root, value in kept]
    return sorted(parts, key=lambda part: -part.probability), {
        "elbo": max(run.elbo[-1] for run, *_ in kept),
        "elbo_rise": max(run.rise for run, *_ in kept),
        "last_stick": max(last_stick(ascent, run.shares) for run, *_ in kept),
        "start_disagreement": float(np.ptp(evidence)),
        "num_partitions": float(len(parts)),
        "largest_part": max(part.probability for part in parts),
    }


def _evidences(ascent: Ascent, runs: list[Run], rng: np.random.Generator) -> list[float]:
    """Of all restarts; of those far below the best by the most that their volume can be."""
    top, P = max(run.elbo[-1] for run in runs), len(runs[0].shares.point)
    most = 0.5 * P * math.log(2 * math.pi)  # widths are 1 at most
    return [
        _evidence(ascent, run, ascent.root(run.shares, rng))
        if run.elbo[-1] > top - _HOPELESS * P - RIVAL
        else run.elbo[-1] + most
        for run in runs
    ]


def _evidence(ascent: Ascent, run: Run, root: torch.Tensor) -> float:
    """log of what a part of the posterior around one partition holds."""
    return run.elbo[-1] + volume(root) + ascent.numberings(run.shares)


@dataclass(frozen=True, eq=False)
class Run:
    """One restart.

    Args:
        shares: Where it ended.
        elbo: The bound at the start and after every update.
        rise: By how much it rose in the last round.
    """

    shares: Shares
    elbo: tuple[float, ...]
    rise: float


def starting_shares(ascent: Ascent, rng: np.random.Generator) -> list[torch.Tensor]:
    """Hard shares (T, K) that restarts begin with."""
    K = min(_most(ascent.problem), MOST_AT_FIRST)
    estimates = own_estimates(ascent.starting_data())
    starts = []
    for number in sorted({min(number, K) for number in (*STARTS, K)}):
        cluster = in_order(torch.from_numpy(k_means(estimates, number, rng))[None])[0]
        starts.append(torch.nn.functional.one_hot(cluster, K).double())
    return starts


def ascend(ascent: Ascent, shares: Shares, max_rounds: int, how: How = "roughly") -> Run:
    """Rounds of coordinate ascent until one hardly raises the bound."""
    elbo, rise = [ascent.elbo(shares)], float("inf")
    for _ in range(max_rounds):
        before = elbo[-1]
        for updated in ascent.round(shares, how):
            shares = updated
            elbo.append(ascent.elbo(shares))
        rise = elbo[-1] - before
        if rise < _ENOUGH[how]:
            break
    return Run(shares, tuple(elbo), rise)


def with_enough(ascent: Ascent, run: Run, max_rounds: int) -> Run:
    """The run with more clusters, while its last one is needed and there can be more."""
    while last_stick(ascent, run.shares) > LAST_STICK and run.shares.share.shape[1] < MOST:
        share = run.shares.share
        wider = min(_most(ascent.problem), 2 * share.shape[1])
        share = torch.nn.functional.pad(share, (0, wider - share.shape[1]))
        run = ascend(ascent, replace(run.shares, share=share), max_rounds)
    return run


def _most(problem: LinearPosterior) -> int:
    """How many clusters there can be."""
    T = problem.tasks.num_tasks
    return partition_of(problem.sharing).most_clusters(T)


def last_stick(ascent: Ascent, shares: Shares) -> float:
    """Expected tasks in the last cluster, 0 where there can be no more."""
    return 0.0 if _most(ascent.problem) <= shares.share.shape[1] else float(shares.share[:, -1].sum())


def volume(root: torch.Tensor) -> float:
    """log of the integral of exp(-x'S^-1 x / 2) with S = root root': what a normal has over its mode."""
    return 0.5 * len(root) * math.log(2 * math.pi) + float(torch.linalg.slogdet(root)[1])


def around(ascent: Ascent, parts: list[Part]) -> Proposal:
    """A proposal of the hyperparameters with the mean and the covariance of all parts together."""
    signed = ascent.problem.space.signed()
    center, square = torch.zeros(len(signed)).double(), torch.zeros(len(signed), len(signed)).double()
    for part in parts:
        # x and -x are the same scale: all on one side
        side = torch.where(signed & (part.shares.point < 0), -1.0, 1.0).double()
        point, root = side * part.shares.point, side[:, None] * part.root
        center = center + part.probability * point
        square = square + part.probability * (root @ root.T + torch.outer(point, point))
    root = torch.linalg.cholesky(square - torch.outer(center, center))
    return Proposal(center, root, signed, center)


def _predictors(ascent: Ascent, parts: list[Part]) -> torch.Tensor | None:
    """Where there are rows, their linear predictors at the means of the parts' weights, shape (1, N)."""
    if ascent.rows is None:
        return None
    means = [part.probability * ascent.mean_weights(part.shares) for part in parts]
    return ascent.rows.rows.predictor(torch.stack(means).sum(0)[None])


def _resampled(
    problem: LinearPosterior,
    sample: Sample,
    stats: dict[str, float],
    settings: Settings,
    rng: np.random.Generator,
) -> LinearDraws:
    """Draws in proportion to their importance weights, in random order."""
    C, N = settings.num_chains, settings.num_draws or NUM_DRAWS
    keep, points, membership = sample.resampled(C * N, rng)
    told = {name: np.full((C, N), value) for name, value in stats.items()}
    points, membership = points.reshape(C, N, -1), membership.reshape(C, N, -1)
    if sample.drawn is None:
        return complete_given_partitions(problem, points, membership, told, rng, complete=True)
    values = problem.space.constrain(points.flatten(0, 1)) | {"cluster": membership.flatten(0, 1)}

    kept = (sample.drawn.weights[keep], sample.drawn.basis[keep], sample.drawn.factors[keep])
    return LinearDraws.shaped(C, N, values, WeightDraws(*kept), told)


def _draws(
    ascent: Ascent, parts: list[Part], stats: dict[str, float], settings: Settings, rng: np.random.Generator
) -> LinearDraws:
    """Independent draws from mean field's q, in random order."""
    problem = ascent.problem
    C, N = settings.num_chains, settings.num_draws or NUM_DRAWS
    P = len(parts[0].shares.point)
    number = rng.multinomial(C * N, [part.probability for part in parts])
    place = torch.from_numpy(rng.permutation(C * N)).split(number.tolist())
    drawn, where = list[LinearDraws](), list[torch.Tensor]()
    for part, at in zip(parts, place, strict=True):
        if not len(at):
            continue
        membership = in_order(drawn_clusters(part.shares.share, len(at), rng))
        points = part.shares.point + standard_normal(rng, len(at), P) @ part.root.T
        if len(problem.unseen):
            points = problem.space.redraw_tasks(points, problem.unseen, rng)
        data = replace(problem, tasks=ascent.data_given(part.shares))
        drawn.append(complete_given_partitions(data, points[None], membership[None], {}, rng, complete=True))
        where.append(at)
    back = torch.cat(where).argsort()

    def laid_out(tensors: list[torch.Tensor]) -> torch.Tensor:
        joined = torch.cat([tensor[0] for tensor in tensors])[back]
        return joined.reshape(C, N, *joined.shape[1:])

    num_rows = max(draws.basis.shape[2] for draws in drawn)
    bases = [padded_rows(draws.basis, num_rows) for draws in drawn]
    return LinearDraws(
        {name: laid_out([d.hyperparameters[name] for d in drawn]) for name in drawn[0].hyperparameters},
        laid_out(bases),
        laid_out([d.weights for d in drawn]),
        laid_out([d.factors for d in drawn]),
        {name: np.full((C, N), value) for name, value in stats.items()},
    )


def drawn_clusters(share: torch.Tensor, num_draws: int, rng: np.random.Generator) -> torch.Tensor:
    """Clusters drawn from q, shape (num_draws, T)."""
    edges = share.cumsum(1)
    uniform = torch.from_numpy(rng.random((num_draws, len(share), 1))) * edges[:, -1:]
    return (uniform > edges).sum(2).clamp(max=share.shape[1] - 1)


def _alike(one: Shares, other: Shares) -> bool:
    """Whether no two tasks' probabilities of being together differ by more than a little."""
    for rows in torch.arange(len(one.share)).split(_PAIRS_AT_ONCE):
        together = one.share[rows] @ one.share.T - other.share[rows] @ other.share.T
        together[torch.arange(len(rows)), rows] = 0.0  # a task is with itself
        if float(together.abs().max()) > _ALIKE:
            return False
    return True
