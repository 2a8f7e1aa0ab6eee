"""A likelihood met with rows and hyperparameters: what the engines for rows work on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from bayesmtl.algebra.rows import TaskRows
from bayesmtl.likelihoods.base import Given
from bayesmtl.likelihoods.rowwise import Derivatives, GaussianRows, Rowwise
from bayesmtl.parameters import Values


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The log likelihood of every row as a function of g = x'w_t, shape (B, N): f = offset + g.

    Where rows have several predictors (`SeveralRows`) g has the shape (B, C, N), and so have first
    derivatives; precisions are (B, C, C, N).

    A row counts as often as its weight says, and padding does not.

    Args:
        likelihood: The likelihood.
        rows: The rows.
        values: Hyperparameter values, each (B, ...), of which the likelihood uses its own.
    """

    likelihood: Rowwise
    rows: TaskRows
    values: Values = field(default_factory=dict)

    @property
    def _given(self) -> Given:
        return Given(self.values, self.rows.trials, self.rows.task)

    def derivatives(self, g: torch.Tensor) -> Derivatives:
        """log p(y | g) and its first two derivatives in g."""
        at = self.likelihood.derivatives(self.rows.y, self.rows.known + g, self._given)
        return Derivatives(*(part * self.rows.weights for part in at))

    def value(self, g: torch.Tensor) -> torch.Tensor:
        """log p(y | g) alone."""
        at = self.likelihood.value(self.rows.y, self.rows.known + g, self._given)
        return at * self.rows.weights

    def information(self, g: torch.Tensor, at: Derivatives) -> torch.Tensor:
        """The precision that stands for each row in Laplace's method, given the derivatives at g."""
        if self.likelihood.log_concave:
            return -at.second
        precision = self.likelihood.information(self.rows.y, self.rows.known + g, self._given)
        return precision * self.rows.weights

    def information_change(
        self, g: torch.Tensor, variances: torch.Tensor, informative: torch.Tensor
    ) -> torch.Tensor:
        """The derivative in g of sum_i v_i omega_i with v fixed, where precisions are not held up."""
        f, weights = self.rows.known + g, self.rows.weights
        return self.likelihood.information_change(
            self.rows.y, f, variances, weights, informative, self._given
        )

    def step_precision(self, g: torch.Tensor, at: Derivatives) -> torch.Tensor:
        """The precision that a step towards the mode is made with, given the derivatives at g."""
        if self.likelihood.log_concave:
            return -at.second
        precision = self.likelihood.step_precision(self.rows.y, self.rows.known + g, self._given)
        return precision * self.rows.weights

    def start(self) -> torch.Tensor:
        """A harmless g of every row, from which the search for the mode sets out.

        Of the rows' shape, with values of the hyperparameters in front where offsets differ between them.
        """
        start = self.likelihood.start(self.rows.y, self._given) - self.rows.known
        start = torch.where(self.rows.real, start, 0.0)
        return start.expand(torch.broadcast_shapes(start.shape, self.rows.shape))

    def augment(self, g: torch.Tensor, rng: np.random.Generator) -> GaussianRows:
        """Draw the auxiliary variables given g, and what the rows are given them, in terms of g."""
        rows, real = self.rows, self.rows.real
        offset = rows.offset[real]
        given = Given(self.values, rows.trials[real], rows.task[real])
        drawn = self.likelihood.augment(rows.y[real], offset + g[:, real], rows.weights[real], rng, given)
        omega, kappa = torch.ones_like(g), torch.zeros_like(g)
        omega[:, real], kappa[:, real] = drawn.omega, drawn.kappa - drawn.omega * offset
        return GaussianRows(omega, kappa)
