"""Functions through inducing inputs: the best bound of the evidence, for any likelihood and mixing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from bayesmtl.algebra.functions import LEAST_NOISE
from bayesmtl.algebra.inducing import Features, Roots, Weights, factor_inducing, features
from bayesmtl.parameters import Values
from bayesmtl.posteriors.functions.expected import ExpectedRows
from bayesmtl.posteriors.functions.posterior import FunctionPosterior, known_fields

_ROWS_AT_ONCE = 4_000  # of a pass over all
_NUM_STEPS = 50
_SMALL = 1e-8  # relative change of the bound (per nat and row) after which the steps end


class Sums(NamedTuple):
    """What rows say about v: sum w cc' and sum (E[d log p / df] + w mean) c.

    Attributes:
        precision: Shape (P, P).
        linear: Shape (P,).
    """

    precision: torch.Tensor
    linear: torch.Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class InducingFunctions(FunctionPosterior):
    """The posterior with functions known through inducing inputs, q(v) = N(mu, S) in place of p(v | y).

    The density of the hyperparameters is the evidence bound

        max over q of  sum_i E_q[log p(y_i | f_i)] - KL(q(v) | N(0, I))  +  log p(hyperparameters)

    For Gaussian noise the maximum has a formula. Else it is where natural gradients vanish: with w_i =
    -E[d^2 log p / df^2] and s_i = E[d log p / df] at the present q, a full step is

        Lambda <- I + sum_i w_i c_i c_i'        h <- sum_i (s_i + w_i mean_i) c_i

    Since q is at its maximum, the gradient over the hyperparameters is that with q held. With all distinct
    inputs as inducing inputs the bound is that of the whole Gaussian process, and for Gaussian noise the
    evidence itself.

    Args:
        inducing: Inducing inputs, shape (m, D), standardised.

    Source: Hensman, Fusi and Lawrence (2013); natural gradients in this form from Khan and Lin (2017) and
    Salimbeni, Eleftheriadis and Hensman (2018), from memory.
    """

    inducing: torch.Tensor

    @classmethod
    def of(cls, posterior: FunctionPosterior, inducing: torch.Tensor) -> InducingFunctions:
        """A posterior seen through inducing inputs (m, D)."""
        return cls(**known_fields(posterior), inducing=inducing)

    @property
    def Z(self) -> torch.Tensor:
        """The inducing inputs."""
        return self.inducing

    def prediction_workspace(self, num_rows: int, *, joint: bool) -> int:
        """See `FunctionPosterior.prediction_workspace`."""
        return num_rows * (num_rows if joint else self.kernels.num_kernels * len(self.inducing))

    @property
    def evaluation_size(self) -> float:
        """Infinite: q is searched for at every point."""
        return math.inf

    def reduced(self, rng: np.random.Generator) -> FunctionPosterior | None:
        """None: evaluations do not cost more than sums over the rows."""
        return None

    def features(
        self, values: Values, roots: Roots, L: torch.Tensor, X: torch.Tensor, task: torch.Tensor
    ) -> Features:
        """Rows X (n, D) of tasks (n,) in terms of v, for one hyperparameter value.

        Args:
            values: The value (B = 1).
            roots: Its A_q and A_0.
            L: Its L_q, from `factor`.
            X: Inputs.
            task: Tasks.
        """
        cross = self.kernels.covariance(values, self.Z, X)[0]
        return features(roots, L, cross, self.kernels.variance(values, X)[0], task)

    def factor(self, values: Values) -> torch.Tensor:
        """L_q for one hyperparameter value, shape (Q, m, m)."""
        return factor_inducing(self.kernels.covariance(values, self.Z, self.Z)[0])

    def expected(self, values: Values, rows: torch.Tensor | slice) -> ExpectedRows:
        """The log likelihood of some of the observed rows."""
        noise = self.noise(values, 1)[0].clamp(min=LEAST_NOISE)
        task = self.task[rows]
        level = None if self.level is None else self.level[task]
        return ExpectedRows(self.of_rows, self.y[rows], task, values, noise, level)

    @torch.no_grad()
    def left_open(self, values: Values) -> float:
        """Share of the functions' prior variance at the rows that inducing inputs leave open (B = 1)."""
        rows = slice(0, _ROWS_AT_ONCE)
        X, task = self.X[rows], self.task[rows]
        at = self.features(values, self.roots(values), self.factor(values), X, task)
        shape = self.structure(values).shape[0].diagonal(dim1=-2, dim2=-1)[:, task]
        prior = (shape * self.kernels.variance(values, X)[0]).sum()
        return float(at.residual.sum() / prior) if prior > 0 else 0.0

    def roots(self, values: Values) -> Roots:
        """A_q and A_0 for one hyperparameter value."""
        return self.sharing.roots(values, self.num_tasks)

    def log_marginal(self, values: Values, num_draws: int) -> torch.Tensor:
        """The bound of log p(y | hyperparameters) with the best q, shape (B,)."""
        each = []
        for b in range(num_draws):
            own = {name: value[b : b + 1] for name, value in values.items()}
            with torch.no_grad():
                best = self.best({name: value.detach() for name, value in own.items()})
            each.append(self._bound(own, best) if best is not None else self.y.new_tensor(torch.nan))
        return torch.stack(each)

    def _bound(self, values: Values, weights: Weights) -> torch.Tensor:
        total = -weights.divergence()
        L, roots = self.factor(values), self.roots(values)
        for rows in self._parts():
            at = self.features(values, roots, L, self.X[rows], self.task[rows])
            total = total + self.expected(values, rows).value(*weights.moments(at)).sum()
        return total

    def _parts(self) -> list[slice]:
        n = len(self.y)
        return [slice(start, start + _ROWS_AT_ONCE) for start in range(0, max(n, 1), _ROWS_AT_ONCE)]

    @torch.no_grad()
    def best(self, values: Values) -> Weights | None:
        """The q that maximises the bound for one hyperparameter value; `None` where it cannot be computed."""
        L, roots = self.factor(values), self.roots(values)
        if not torch.isfinite(L).all():
            return None
        sums = self._sums(values, roots, L, None)
        weights = natural_step(None, sums, 1.0)
        if weights is None or self.likelihood.compresses:
            return None if weights is None else weights[1]
        state, current = weights
        bound, rate = float(self._bound(values, current)), 1.0
        for _ in range(_NUM_STEPS):
            sums = self._sums(values, roots, L, current)
            taken = natural_step(state, sums, rate)
            there = -torch.inf if taken is None else float(self._bound(values, taken[1]))
            if taken is None or not there > bound - _SMALL:
                if rate < 1e-3:
                    break
                rate *= 0.5
                continue
            (state, current), gained, bound = taken, there - bound, there
            if abs(gained) < _SMALL * (1 + len(self.y)):
                break
            rate = min(1.0, 1.5 * rate)
        return current

    def _sums(self, values: Values, roots: Roots, L: torch.Tensor, weights: Weights | None) -> Sums:
        """What all rows say about v at q, or at the likelihood's own start where there is none yet."""
        total: Sums | None = None
        for rows in self._parts():
            at = self.features(values, roots, L, self.X[rows], self.task[rows])
            part = sums_of(at, self.expected(values, rows), weights)
            total = part if total is None else Sums(*(a + b for a, b in zip(total, part, strict=True)))
        assert total is not None
        return total


def sums_of(at: Features, expected: ExpectedRows, weights: Weights | None, scale: float = 1.0) -> Sums:
    """What rows say about v, counted `scale` times; at the likelihood's own start where q is `None`."""
    C = at.C.detach()
    if weights is None or expected.likelihood.compresses:  # under Gaussian noise it is the same everywhere
        mean = expected.start()
        slope, precision = expected.slopes(mean, torch.zeros_like(mean))
    else:
        mean, variance = weights.moments(Features(C, at.residual.detach(), at.phi))
        slope, precision = expected.slopes(mean, variance)
    linear = (slope + precision * mean) @ C
    if not (precision < 0).any():
        half = C * (scale * precision).sqrt()[:, None]
        return Sums(half.T @ half, scale * linear)
    return Sums(scale * (C * precision[:, None]).T @ C, scale * linear)


def natural_step(state: Sums | None, sums: Sums, rate: float) -> tuple[Sums, Weights] | None:
    """A natural-gradient step from natural parameters `state`: the new ones, and q."""
    target = Sums(sums.precision + torch.eye(len(sums.linear), dtype=sums.linear.dtype), sums.linear)
    if state is not None and rate < 1:
        target = Sums(*((1 - rate) * old + rate * new for old, new in zip(state, target, strict=True)))
    weights = Weights.of(*target)
    return None if weights is None else (target, weights)
