"""The Laplace approximation of log p(y | hyperparameters), and its gradient, for rows that do not compress.

On paper                                                    In code
l(f) = sum_i log p(y_i | f_i), g = l', Omega = -l''          `likelihood.derivatives`, `omega`
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

Source: Rasmussen and Williams (2006), sections 3.4 and 5.5.1, for the objective and the two parts of the
gradient in Gaussian process classification; the last identity is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bayesmtl.algebra.collapsed import log_marginal
from bayesmtl.algebra.moments import posterior_mean, posterior_moments
from bayesmtl.algebra.rows import PseudoData, TaskRows
from bayesmtl.algebra.statistics import CompressedTasks
from bayesmtl.algebra.structure import Structure
from bayesmtl.inference.problem import Problem
from bayesmtl.inference.target import differentiate, finite_or_least
from bayesmtl.likelihoods import Derivatives, Rowwise

_MAX_STEPS = 60
_MAX_HALVINGS = 30
# Newton's method converges quadratically: after a step of this size the next would be about its square.
_SMALL_STEP = 1e-4
_LEAST_PRECISION = (
    1e-10  # of a pseudo-row: one that says nothing, as under separation, keeps matrices regular
)
_AT_ONCE = 200_000  # row values handled together: few enough to stay in the processor's cache


@dataclass(frozen=True, eq=False)
class Expansion:
    """The second-order expansion of the log likelihood at row values f, for B hyperparameter values.

    Args:
        f: Linear predictors, shape (B, N).
        at: log p(y | f) and its derivatives there.
        omega: Precisions of the pseudo-rows, shape (B, N).
        kappa: Their linear terms, shape (B, N).
        pseudo: The pseudo-data.
    """

    f: torch.Tensor
    at: Derivatives
    omega: torch.Tensor
    kappa: torch.Tensor
    pseudo: PseudoData


class LaplaceMarginal:
    """log p(y, hyperparameters) with all weights integrated out by Laplace's method.

    The search for the weights' mode starts from the last one found for a single point, which saves steps; the
    mode is the same.

    Args:
        problem: A problem with rows.
    """

    def __init__(self, problem: Problem):
        assert problem.rows is not None and isinstance(problem.likelihood, Rowwise)
        self.problem = problem
        self.rows: TaskRows = problem.rows
        self.likelihood: Rowwise = problem.likelihood
        self._real = self.rows.real.to(self.rows.y.dtype)
        self._last = torch.where(self.rows.real, self.likelihood.start(self.rows.y), 0.0)

    @property
    def outset(self) -> torch.Tensor:
        """Row values from which the search for a mode sets out, shape (1, N)."""
        return self._last[None]

    def value(self, points: torch.Tensor) -> torch.Tensor:
        """The log density at points (B, P), shape (B,); -inf where it cannot be evaluated."""
        size = max(1, _AT_ONCE // self.rows.size)
        with torch.no_grad():
            return torch.cat([finite_or_least(self._log_density(part)) for part in points.split(size)])

    def value_and_gradient(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same with its gradient (B, P), zeros where it cannot be evaluated."""
        size = max(1, _AT_ONCE // self.rows.size)
        parts = [differentiate(self._log_density, part) for part in points.split(size)]
        values, gradients = zip(*parts, strict=True)
        return torch.cat(values), torch.cat(gradients)

    def expand(self, structure: Structure, B: int) -> Expansion:
        """The expansion at the mode of the weights, for a structure of B hyperparameter values."""
        with torch.no_grad():
            f, at = self._mode(structure, B)
            if B == 1 and bool(torch.isfinite(f).all()):  # one point after the other: a search
                self._last = f[0]
            return self._expand(f, at)

    def expand_at(self, f: torch.Tensor) -> Expansion:
        """The expansion at given row values, shape (B, N)."""
        with torch.no_grad():
            return self._expand(f, self.likelihood.derivatives(self.rows.y, f))

    def data(self, structure: Structure, B: int) -> CompressedTasks:
        """The data, of noise 1, under which weights follow the normal distribution at their mode."""
        return self.expand(structure, B).pseudo.compressed()

    def _log_density(self, points: torch.Tensor) -> torch.Tensor:
        B = len(points)
        log_prior, values = self.problem.space.log_prior(points)
        structure = self.problem.structure(values)
        fixed = Structure(*(None if part is None else part.detach() for part in _parts(structure)))
        expansion = self.expand(fixed, B)
        noise = torch.ones(B, 1, dtype=points.dtype)
        at, f = expansion.at, expansion.f
        remainder = at.value - at.first * f - 0.5 * expansion.omega * f**2
        constant = (remainder * self._real).sum(1)
        data = expansion.pseudo.compressed()
        density = log_prior + constant + log_marginal(data, structure, noise)
        if points.requires_grad:
            with torch.no_grad():
                _, covariance = posterior_moments(data, fixed, noise)
                third = self.likelihood.third_derivative(self.rows.y, f) * self._real
                third = torch.where(expansion.omega > _LEAST_PRECISION, third, 0.0)
                shift = 0.25 * self.rows.variances(covariance) * third  # s / 2
                up, down = (
                    expansion.pseudo.with_linear(expansion.kappa + sign * shift).compressed()
                    for sign in (1.0, -1.0)
                )
            through = log_marginal(up, structure, noise) - log_marginal(down, structure, noise)
            density = density + through - through.detach()  # a gradient without a value
        return density

    def _expand(self, f: torch.Tensor, at: Derivatives) -> Expansion:
        omega = (-at.second).clamp(min=_LEAST_PRECISION)
        kappa = omega * f + at.first
        return Expansion(f, at, omega, kappa, self.rows.pseudo_data(omega, kappa))

    def _newton(
        self, structure: Structure, f: torch.Tensor, at: Derivatives
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The next f, and a = kappa - Omega f there, from pseudo-data at f."""
        expansion = self._expand(f, at)
        noise = torch.ones(len(f), 1, dtype=f.dtype)
        weights = posterior_mean(expansion.pseudo.compressed(), structure, noise)
        new = self.rows.predictor(weights)
        return new, expansion.kappa - expansion.omega * new

    def _at(self, f: torch.Tensor, a: torch.Tensor) -> tuple[Derivatives, torch.Tensor]:
        """The derivatives at f, and log p(y | f) + log p(W | phi) up to a constant, shape (B,)."""
        at = self.likelihood.derivatives(self.rows.y, f)
        value = (at.value * self._real).sum(1) - 0.5 * torch.linalg.vecdot(a, f)
        return at, finite_or_least(value)

    def _mode(self, structure: Structure, B: int) -> tuple[torch.Tensor, Derivatives]:
        """f at the mode of the weights, shape (B, N), and the derivatives there."""
        f = self._last.expand(B, -1)
        f, a = self._newton(structure, f, self.likelihood.derivatives(self.rows.y, f))
        at, objective = self._at(f, a)
        for _ in range(_MAX_STEPS):
            step_f, step_a = self._newton(structure, f, at)
            step_f, step_a = step_f - f, step_a - a
            length = torch.ones(B, 1, dtype=f.dtype)
            for _ in range(_MAX_HALVINGS):
                new_f, new_a = torch.addcmul(f, length, step_f), torch.addcmul(a, length, step_a)
                at, new = self._at(new_f, new_a)
                worse = new < objective - 1e-9 * (1 + objective.abs())
                if not bool(worse.any()):
                    break
                length = torch.where(worse[:, None], 0.5 * length, length)
            reach = step_f.abs().amax(1) / (1 + f.abs().amax(1))
            f, a, objective = new_f, new_a, new
            if not bool((reach > _SMALL_STEP).any()):
                break
        return f, at


def _parts(structure: Structure) -> tuple[torch.Tensor | None, ...]:
    return (
        structure.loadings,
        structure.basis_scale,
        structure.residual_scale,
        structure.residual_factor,
    )
