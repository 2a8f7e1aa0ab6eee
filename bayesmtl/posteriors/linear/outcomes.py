"""Posteriors of outcomes, whose rows no sums stand for: log p(y | hyperparameters) by Laplace's method.

On paper                                                    In code
l(f) = sum_i log p(y_i | f_i), g = l', Omega = -l''          `Outcomes.derivatives`, `.information`
f = X W at the mode of log p(y | W) + log p(W | phi)         `Mode.f`
log Z(G, b), integral of exp(b'w - w'G w / 2) p(W | phi)     `log_marginal` of pseudo-data
L(phi) = l(f) - g'f - f'Omega f / 2 + log Z(X'Omega X, X'(g + Omega f))

The mode is found by Newton's method: given f, the rows are replaced by pseudo-data, whose Gaussian posterior
mean is the next W. Prior precisions, which need not exist, are not needed for judging a step: the prior part
of the objective is -a'f / 2 with a = kappa - Omega f for a Newton step, and a is linear along the step.

The gradient of L has an explicit part, with the pseudo-data held fixed, and a part through f: dL/df_i =
l'''_i v_i / 2 =: s_i with v_i the posterior variance of f_i, and df/dphi is that of X E[W | phi] under fixed
pseudo-data, since Newton's map does not depend on f at its fixed point. As X E[W] = d log Z / db and log Z is
quadratic in b, both parts are the gradient of log Z(b) + log Z(b + X's / 2) - log Z(b - X's / 2).

Hyperparameters theta of the likelihood itself, such as a dispersion, act through l, Omega and the mode,
whose derivative is that of X E[W] under a linear term dg/dtheta. With u = X (E[W | b + X's] - E[W | b]) their
gradient is that of sum_i l_i - v_i Omega_i / 2 + u_i g_i with f, v and u held fixed.

A likelihood that is not log-concave gives another Omega, positive everywhere: the information expected of a
row. If it does not depend on f then s = 0, and its mode is searched with precisions of their own.

Source: Rasmussen and Williams (2006), sections 3.4 and 5.5.1, for the objective and the two parts of the
gradient in Gaussian process classification; the identities in s and u are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from bayesmtl.algebra.collapsed import log_marginal
from bayesmtl.algebra.moments import posterior_mean, posterior_moments
from bayesmtl.algebra.rows import PseudoData, TaskRows
from bayesmtl.algebra.statistics import CompressedTasks
from bayesmtl.algebra.structure import Structure
from bayesmtl.likelihoods import Derivatives, Outcomes
from bayesmtl.parameters import Values
from bayesmtl.posteriors.linear.batches import Batches, RowBatches
from bayesmtl.posteriors.linear.rows import RowwisePosterior
from bayesmtl.posteriors.target import differentiate, finite_or_least

_MAX_STEPS = 60
_MAX_HALVINGS = 30
_LEAST_PRECISION = (
    1e-10  # of a pseudo-row: one that says nothing, as under separation, keeps matrices regular
)
_LARGEST_TERMS = 1e12  # whose rounding is 1e-4
_AT_ONCE = 200_000  # row values handled together: few enough to stay in the processor's cache


@dataclass(frozen=True, eq=False, kw_only=True)
class OutcomePosterior(RowwisePosterior):
    """The posterior where sums do not stand for the rows.

    Args:
        rows: The rows themselves.
    """

    rows: TaskRows

    @property
    def num_outputs(self) -> int:
        """Linear predictors of a row."""
        return self.rows.num_weights // self.rows.num_features

    @property
    def draws_at_once(self) -> int:
        """Hyperparameter values whose weights are drawn together."""
        return max(1, min(super().draws_at_once, _AT_ONCE // self.rows.size))

    def outcomes(self, values: Values) -> Outcomes:
        """The rows' likelihood with these hyperparameter values."""
        return Outcomes(self.rowwise, self.rows, values)

    def augmented(self, data: CompressedTasks) -> OutcomePosterior:
        """The posterior given auxiliary variables, under which the rows are these Gaussian data."""
        return replace(self, tasks=data)

    def density(self) -> LaplaceMarginal:
        """log p(y, hyperparameters) by Laplace's method, rows with the same features as one."""
        return LaplaceMarginal(self)

    def data_given(self, structure: Structure, num_values: int, values: Values) -> CompressedTasks:
        """Gaussian data under which weights follow the normal distribution at their mode."""
        return LaplaceMarginal(self).data(structure, num_values, values)

    def log_likelihood(self, values: Values, weights: torch.Tensor, *, by_task: bool = False) -> torch.Tensor:
        """See `LinearPosterior.log_likelihood`."""
        f = _Predictor.apply(self.rows, weights)  # type: ignore[no-untyped-call]
        fixed = f.detach()
        at = self.outcomes(values).derivatives(fixed)
        # what is added is zero, and has the slope of the value: cheaper than to differentiate it
        value = at.value + self.rows.inner(at.first.detach(), f - fixed)
        return self.rows.sums(value) if by_task else value.sum(1)

    def batches(self, num_tasks: int, num_rows: int) -> Batches:
        """See `LinearPosterior.batches`."""
        return RowBatches(self.rows, num_tasks, num_rows)

    def _fingerprinted(self) -> list[torch.Tensor]:
        rows = self.rows
        carried = [rows.y, rows.weights, rows.offset, rows.trials, *(block.X for block in rows.blocks)]
        return [*super()._fingerprinted(), torch.tensor(rows.shape), *carried]


class _Predictor(torch.autograd.Function):
    """f = x'w_t of every row, (B, T, D) -> a row vector for each, with the gradient X_t'g_t."""

    @staticmethod
    def forward(ctx: Any, rows: TaskRows, weights: torch.Tensor) -> torch.Tensor:
        ctx.rows = rows
        return rows.predictor(weights)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, ctx.rows.transposed(grad_outputs[0])


@dataclass(frozen=True, eq=False)
class Expansion:
    """The second-order expansion of the log likelihood at row values f, for B hyperparameter values.

    Args:
        f: Linear predictors, shape (B, N), or (B, C, N) where rows have several (`SeveralRows`).
        at: log p(y | f) and its derivatives there.
        omega: Precisions of the pseudo-rows, shape (B, N) or (B, C, C, N).
        kappa: Their linear terms, of the shape of f.
        pseudo: The pseudo-data.
    """

    f: torch.Tensor
    at: Derivatives
    omega: torch.Tensor
    kappa: torch.Tensor
    pseudo: PseudoData


class LaplaceMarginal:
    """log p(y, hyperparameters) with all weights integrated out by Laplace's method.

    The search for the weights' mode starts from the last one found for a single point, `start`, which saves
    steps; the mode is the same.

    Args:
        problem: A posterior of outcomes.
    """

    def __init__(self, problem: OutcomePosterior):
        self.problem = problem
        self.rows = problem.rows
        own = problem.likelihood.parameters(problem.tasks.num_tasks)
        self._has_own = any(parameter.size for parameter in own)
        self.start: torch.Tensor | None = None

    @property
    def at_once(self) -> int:
        """How many points are evaluated together."""
        return max(1, _AT_ONCE // self.rows.size)

    def value(self, points: torch.Tensor) -> torch.Tensor:
        """The log density at points (B, P), shape (B,); -inf where it cannot be evaluated."""
        with torch.no_grad():
            parts = points.split(self.at_once)
            return torch.cat([finite_or_least(self._log_density(part)) for part in parts])

    def value_and_gradient(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same with its gradient (B, P), zeros where it cannot be evaluated."""
        parts = [differentiate(self._log_density, part) for part in points.split(self.at_once)]
        values, gradients = zip(*parts, strict=True)
        return torch.cat(values), torch.cat(gradients)

    def expand(self, structure: Structure, B: int, values: Values) -> Expansion:
        """The expansion at the mode of the weights, for B hyperparameter values and their structure."""
        with torch.no_grad():
            outcomes = self.problem.outcomes(values)
            f = self._mode(outcomes, structure, B)
            if B == 1 and bool(torch.isfinite(f).all()):  # one point after the other: a search
                self.start = f[0]
            return self._expand(outcomes, f)

    def expand_at(self, f: torch.Tensor, values: Values) -> Expansion:
        """The expansion at given row values, shape (B, N)."""
        with torch.no_grad():
            return self._expand(self.problem.outcomes(values), f)

    def data(self, structure: Structure, B: int, values: Values) -> CompressedTasks:
        """The data, of noise 1, under which weights follow the normal distribution at their mode."""
        return self.expand(structure, B, values).pseudo.compressed()

    def _log_density(self, points: torch.Tensor) -> torch.Tensor:
        B = len(points)
        log_prior, values = self.problem.space.log_prior(points)
        structure = self.problem.structure(values)
        fixed = Structure(*(None if part is None else part.detach() for part in _parts(structure)))
        expansion = self.expand(fixed, B, {name: value.detach() for name, value in values.items()})
        noise = torch.ones(B, 1, dtype=points.dtype)
        at, f = expansion.at, expansion.f
        linear, quadratic = self.rows.inner(at.first, f), self._quadratic(expansion)
        constant = (at.value - linear - quadratic).sum(1)
        data = expansion.pseudo.compressed()
        density = log_prior + constant + log_marginal(data, structure, noise)
        # terms that large cancel to rounding: a scale of noise far too small, as a search tries it
        size = (at.value.abs() + linear.abs() + quadratic).sum(1)
        density = torch.where(size < _LARGEST_TERMS, density, -torch.inf)
        if points.requires_grad:
            through = self._through_mode(expansion, data, structure, fixed, values)
            density = density + through - through.detach()  # a gradient without a value
        return density

    def _through_mode(
        self,
        expansion: Expansion,
        data: CompressedTasks,
        structure: Structure,
        fixed: Structure,
        values: Values,
    ) -> torch.Tensor:
        """What has the gradient that the density has through its mode and through the likelihood, shape (B,).

        Args:
            expansion: At the mode.
            data: Its pseudo-data.
            structure: With gradients.
            fixed: The same without.
            values: Hyperparameter values, with gradients.
        """
        f, pseudo = expansion.f, expansion.pseudo
        noise = torch.ones(len(f), 1, dtype=f.dtype)
        with torch.no_grad():
            _, covariance = posterior_moments(data, fixed, noise)
            variances = self.rows.variances(covariance)
            informative = expansion.omega > _LEAST_PRECISION
            s = -0.5 * self.problem.outcomes(values).information_change(f, variances, informative)
            up, down = (
                pseudo.with_linear(expansion.kappa + sign * s / 2).compressed() for sign in (1.0, -1.0)
            )
        through = log_marginal(up, structure, noise) - log_marginal(down, structure, noise)
        if not self._has_own:
            return through
        with torch.no_grad():
            u = self.rows.predictor(posterior_mean(pseudo.with_linear(s).compressed(), fixed, noise))
        outcomes = self.problem.outcomes(values)
        at = outcomes.derivatives(f)
        omega = outcomes.information(f, at)
        return through + (at.value - 0.5 * variances * omega + u * at.first).sum(1)

    def _quadratic(self, expansion: Expansion) -> torch.Tensor:
        """f'Omega f / 2 of every row, shape (B, N)."""
        return 0.5 * self.rows.inner(expansion.f, self.rows.times(expansion.omega, expansion.f))

    def _expand(self, outcomes: Outcomes, f: torch.Tensor) -> Expansion:
        at = outcomes.derivatives(f)
        return self._expanded(f, at, outcomes.information(f, at))

    def _expanded(self, f: torch.Tensor, at: Derivatives, omega: torch.Tensor) -> Expansion:
        omega = self.rows.regular(omega, _LEAST_PRECISION)
        kappa = self.rows.times(omega, f) + at.first
        return Expansion(f, at, omega, kappa, self.rows.pseudo_data(omega, kappa))

    def _step(
        self, outcomes: Outcomes, structure: Structure, f: torch.Tensor, at: Derivatives
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The next f of the search, and a = kappa - Omega f there, from pseudo-data at f."""
        expansion = self._expanded(f, at, outcomes.step_precision(f, at))
        noise = torch.ones(len(f), 1, dtype=f.dtype)
        weights = posterior_mean(expansion.pseudo.compressed(), structure, noise)
        new = self.rows.predictor(weights)
        return new, expansion.kappa - self.rows.times(expansion.omega, new)

    @staticmethod
    def _objective(at: Derivatives, f: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        """log p(y | f) + log p(W | phi) up to a constant, shape (B,)."""
        return finite_or_least(at.value.sum(1) - 0.5 * torch.linalg.vecdot(a.flatten(1), f.flatten(1)))

    def _mode(self, outcomes: Outcomes, structure: Structure, B: int) -> torch.Tensor:
        """f at the mode of the weights, shape (B, N)."""
        start = (outcomes.start() if self.start is None else self.start).expand(B, *self.rows.shape)
        f, a = self._step(outcomes, structure, start, outcomes.derivatives(start))
        at = outcomes.derivatives(f)
        objective = self._objective(at, f, a)
        for _ in range(_MAX_STEPS):
            step_f, step_a = self._step(outcomes, structure, f, at)
            step_f, step_a = step_f - f, step_a - a
            length = torch.ones(B, *(1 for _ in self.rows.shape), dtype=f.dtype)
            for _ in range(_MAX_HALVINGS):
                new_f, new_a = torch.addcmul(f, length, step_f), torch.addcmul(a, length, step_a)
                at = outcomes.derivatives(new_f)
                new = self._objective(at, new_f, new_a)
                worse = new < objective - 1e-9 * (1 + objective.abs())
                if not bool(worse.any()):
                    break
                length = torch.where(worse.reshape(length.shape), 0.5 * length, length)
            reach = step_f.abs().flatten(1).amax(1) / (1 + f.abs().flatten(1).amax(1))
            f, a, objective = new_f, new_a, new
            if not bool((reach > outcomes.likelihood.small_step).any()):
                break
        return f


def _parts(structure: Structure) -> tuple[torch.Tensor | None, ...]:
    return (
        structure.loadings,
        structure.basis_scale,
        structure.residual_scale,
        structure.residual_factor,
    )
