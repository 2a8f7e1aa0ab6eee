"""Conditioning on further rows where no statistics stand for them: importance weights, then Metropolis.

Given hyperparameters phi and Z tasks are independent. The weight of a posterior draw in the light of new rows
is the product over tasks of p(new rows | w_t), for a known task, whose weights it has, and of an unbiased
estimate of p(new rows | Z, phi), for a task that was never seen: the mean over candidates of its weights, of
which one is chosen (as in `bayesmtl.inference.laplace.correction`). After resampling, the weights of the
tasks concerned move by Metropolis' rule under all their rows, so that draws that came twice part again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from bayesmtl.algebra.conditional import WeightDraws, shared_part
from bayesmtl.algebra.rows import TaskRows
from bayesmtl.algebra.statistics import TaskStatistics
from bayesmtl.data import NewRows, TaskData
from bayesmtl.parameters import Values
from bayesmtl.posteriors.linear.outcomes import Expansion, LaplaceMarginal, OutcomePosterior
from bayesmtl.posteriors.linear.rows import StandardRows
from bayesmtl.posteriors.linear.task_weights import choose_candidates, renew
from bayesmtl.results.linear.condition.cluster_rows import FROM_PRIOR, NUM_CANDIDATES, place_new_tasks
from bayesmtl.results.linear.state import LinearState
from bayesmtl.results.new_rows import FurtherRows
from bayesmtl.sharing import Dependence

NUM_MOVES = 10
_ROWS_AT_ONCE = 400_000  # row values handled together


@dataclass(frozen=True, eq=False)
class RowUpdate:
    """What new rows say about the draws of a fit.

    Args:
        fresh: A problem whose rows are the new ones.
        whole: A problem whose rows are all those of the tasks concerned.
        touched: Positions of these tasks.
        added: A problem with the rows of each new task, where tasks are partitioned.
    """

    fresh: OutcomePosterior
    whole: OutcomePosterior
    touched: np.ndarray
    added: list[OutcomePosterior]

    @classmethod
    def of(
        cls, fit: LinearState, data: TaskData, further: FurtherRows, statistics: TaskStatistics
    ) -> RowUpdate:
        """Lay out the rows.

        Args:
            fit: The fit before the update.
            data: Its rows, and the new ones behind them.
            further: The new ones.
            statistics: Of all rows.
        """
        rows, codes, descriptors = further.rows, further.codes, further.descriptors
        task_names, standardization = further.schema.task_names, further.standardization
        touched, T = np.unique(codes), len(task_names)

        def problem(source: TaskData | NewRows, task: np.ndarray) -> OutcomePosterior:
            compressed, scale = statistics.compress(), standardization.target_scale
            standard = StandardRows.of(source, task, standardization, further.likelihood)
            laid_out = standard.laid_out(T)
            return OutcomePosterior(fit.sharing, fit.likelihood, compressed, task_names, scale, rows=laid_out)

        def alone(t: int) -> OutcomePosterior:
            own = data._rows(data.task == t)
            standard = StandardRows.of(own, own.task, standardization, further.likelihood)
            laid_out = standard._replace(task=np.zeros_like(own.task)).laid_out(1)
            nothing = TaskStatistics.empty(1, data.num_features).compress()
            scale = standardization.target_scale[t : t + 1]
            new = t - len(fit.task_names)
            described = None if descriptors is None else descriptors[new : new + 1]
            own_name = task_names[t : t + 1]
            return OutcomePosterior(
                fit.sharing, fit.likelihood, nothing, own_name, scale, rows=laid_out, descriptors=described
            )

        concerned = data._rows(np.isin(data.task, touched))
        known = len(fit.task_names) if fit.sharing.dependence is Dependence.PARTITION else T
        added = [alone(t) for t in range(known, T)]
        return cls(problem(rows, codes), problem(concerned, concerned.task), touched, added)

    def weigh(
        self, values: Values, draws: WeightDraws, rng: np.random.Generator
    ) -> tuple[Values, WeightDraws, np.ndarray]:
        """Draws extended by new tasks, with their clusters if there are any, and every draw's log weight.

        Args:
            values: Hyperparameter draws, entries of new tasks included.
            draws: W of the known tasks, Z, and coordinates along shared factors.
            rng: Source of randomness.
        """
        known, T = draws.weights.shape[1], self.whole.tasks.num_tasks
        new = None
        if self.added:
            values, drawn, shares = place_new_tasks(self.added, values, draws.basis, rng)
            new = drawn, shares
            draws = WeightDraws(draws.weights, drawn.basis, draws.factors)
        elif T > known:
            drawn, shares = self._new_tasks(values, draws.basis, rng)
            new = _behind(drawn, known), shares[:, known:]
        rows, parts, log_weight = _rows_of(self.fresh), [], []
        for chosen in self._chunks(len(draws.weights)):
            value = {name: v[chosen] for name, v in values.items()}
            weights, factors = draws.weights[chosen], draws.factors[chosen]
            gain = torch.zeros(len(weights), T, dtype=weights.dtype)
            if new is not None:
                drawn, shares = new
                weights = torch.cat([weights, drawn.weights[chosen]], dim=1)
                factors = torch.cat([factors, drawn.factors[chosen]], dim=1)
                gain[:, known:] = shares[chosen]
            density = self.fresh.outcomes(value).value(rows.predictor(weights))
            gain[:, :known] = rows.sums(density)[:, :known]
            parts.append(WeightDraws(weights, draws.basis[chosen], factors))
            log_weight.append(gain[:, self.touched].sum(1))
        return values, _joined(parts), torch.cat(log_weight).numpy()

    def move(self, values: Values, draws: WeightDraws, rng: np.random.Generator) -> WeightDraws:
        """Draws after Metropolis steps of the weights of the tasks concerned, given Z and hyperparameters."""
        reference = self._reference(values, draws.basis)
        parts = []
        for chosen in self._chunks(len(draws.weights)):
            value = {name: v[chosen] for name, v in values.items()}
            now = WeightDraws(draws.weights[chosen], draws.basis[chosen], draws.factors[chosen])
            structure, outcomes = self.whole.structure(value), self.whole.outcomes(value)
            for _ in range(NUM_MOVES):
                now, _ = renew(now, reference, structure, outcomes, rng)
            parts.append(now)
        moved, touched = _joined(parts), torch.from_numpy(self.touched)
        # the others have no rows here: what moved is their prior
        weights, factors = draws.weights.clone(), draws.factors.clone()
        weights[:, touched], factors[:, touched] = moved.weights[:, touched], moved.factors[:, touched]
        return WeightDraws(weights, draws.basis, factors)

    def _new_tasks(
        self, values: Values, basis: torch.Tensor, rng: np.random.Generator
    ) -> tuple[WeightDraws, torch.Tensor]:
        """Weights of new tasks, and log p(their rows | Z, phi), each draw's estimate, shape (S, T)."""
        reference = self._reference(values, basis)
        parts, shares = [], []
        for chosen in self._chunks(len(basis), NUM_CANDIDATES):
            value = {name: v[chosen] for name, v in values.items()}
            structure, outcomes = self.whole.structure(value), self.whole.outcomes(value)
            drawn, share, _ = choose_candidates(
                reference, structure, outcomes, basis[chosen], NUM_CANDIDATES, FROM_PRIOR, rng
            )
            parts.append(drawn)
            shares.append(share)
        return _joined(parts), torch.cat(shares)

    def _reference(self, values: Values, basis: torch.Tensor) -> Expansion:
        """The expansion of the rows at the mode of the tasks' departures from their mean shared part."""
        S = len(basis)
        structure = self.whole.structure(values)
        shared = shared_part(structure, basis, self.whole.tasks.num_tasks).mean(0, keepdim=True)
        rows = _rows_of(self.whole)
        around = rows.predictor(shared)
        shifted = replace(self.whole, rows=replace(rows, offset=rows.offset + around[0]))
        # any draw's spread will do: proposals need not be exact
        one = {name: v[S // 2 : S // 2 + 1] for name, v in values.items()}
        own = self.whole.structure(one).private
        if own.residual_scale is None and own.residual_factor is None:  # nothing departs
            return LaplaceMarginal(self.whole).expand_at(around, one)
        departure = LaplaceMarginal(shifted).expand(own, 1, one).f
        return LaplaceMarginal(self.whole).expand_at(around + departure, one)

    def _chunks(self, number: int, times: int = 1) -> list[slice]:
        size = max(1, _ROWS_AT_ONCE // (_rows_of(self.whole).size * times))
        return [slice(start, start + size) for start in range(0, number, size)]


def _joined(parts: list[WeightDraws]) -> WeightDraws:
    return WeightDraws(
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("weights", "basis", "factors"))
    )


def _behind(drawn: WeightDraws, known: int) -> WeightDraws:
    """The draws of the tasks from position `known` on."""
    return WeightDraws(drawn.weights[:, known:], drawn.basis, drawn.factors[:, known:])


def _rows_of(problem: OutcomePosterior) -> TaskRows:
    return problem.rows
