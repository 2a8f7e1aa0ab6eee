"""Heads of a network while its trunk is trained: exactly integrated out, or at a point.

Given the trunk the heads are a linear model on its features phi. For Gaussian noise

On paper                                                       In code
q(w_t) = N(m_t, V_t), exact given phi and hyperparameters      `CollapsedHeads.refresh`
grad log p(y | phi) = E_q[grad log p(y | w'phi)]               the gradient of `CollapsedHeads.loss`
(y - phi'm_t)^2 / (2 s^2) + phi'V_t phi / (2 s^2)              a row's loss

The second line is Fisher's identity: at the heads' posterior, the gradient of the marginal likelihood in the
trunk is that of the expected log likelihood, a sum over rows, of which minibatches are unbiased. Nothing is
differentiated through a factorisation.

For other likelihoods the heads are weights of their own, trained along with the trunk (`PointHeads`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pandas as pd
import torch

from bayesmtl.algebra.moments import posterior_moments
from bayesmtl.data import TaskData
from bayesmtl.data.design import Design
from bayesmtl.features import FeatureMap
from bayesmtl.likelihoods import Given, Likelihood, Rowwise
from bayesmtl.parameters import ParameterSpace
from bayesmtl.posteriors.linear.build import linear_posterior
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.posteriors.linear.rows import StandardRows
from bayesmtl.sharing import Dependence, Hierarchical, Sharing


def on_columns(data: TaskData, columns: np.ndarray, names: tuple[str, ...]) -> TaskData:
    """The same rows with other columns (n, H), whose names do not count the constant."""
    first = int(data.has_intercept)
    frame = pd.DataFrame(columns[:, first:], columns=list(names))
    design = Design.from_columns(list(names), frame, intercept=data.has_intercept)
    return replace(data, X=columns, design=design)


Climb = Callable[[LinearPosterior, torch.Tensor | None], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained trunk and how training went.

    Args:
        features: The map with its trained weights.
        loss: Mean loss of the rows between refreshes, (M, R): minus the log density, up to a constant.
        held_out: Mean log density of the held-out rows at every refresh, (M, R); empty without such rows.
        best: Refresh whose weights were kept, (M,).
        num_held_out: Number of held-out rows.
        steps: Steps made.
        planned: Steps at most.
    """

    features: FeatureMap
    loss: np.ndarray
    held_out: np.ndarray
    best: np.ndarray
    num_held_out: int
    steps: int
    planned: int


class Heads(Protocol):
    """What the training of a trunk asks of the heads; columns have members in front."""

    @property
    def trained(self) -> dict[str, torch.Tensor]:
        """Tensors that follow the gradient together with the trunk, each (M, ...)."""

    @property
    def known(self) -> dict[str, np.ndarray]:
        """What a resumed run must know besides."""

    def resume(self, known: dict[str, np.ndarray]) -> None:
        """Take up what `known` gave."""

    def refresh(self, columns: np.ndarray) -> None:
        """Meet the new columns of all training rows, (M, n, H)."""

    def log_density(self, columns: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """log p(y | columns) of rows, up to what does not depend on the columns, (M, B)."""

    def held_out(self, columns: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """log predictive density of rows that the heads have not met, (M, B)."""


class CollapsedHeads:
    """Gaussian rows: heads integrated out, their hyperparameters near the mode.

    Args:
        data: All rows.
        train: Positions of the rows that the heads meet.
        names: Names of the columns, without the constant.
        sharing: Prior of the heads. Where the partition of the tasks is unknown, `Hierarchical` stands for
            it while the trunk is trained.
        likelihood: A Gaussian one.
        climb: Improves a point of the hyperparameters, (P,) or none yet, by a few evaluations of the density.
    """

    def __init__(
        self,
        data: TaskData,
        train: np.ndarray,
        names: tuple[str, ...],
        sharing: Sharing,
        likelihood: Likelihood,
        climb: Climb,
    ):
        self._data, self._train, self._names, self._likelihood, self._climb = (
            data,
            train,
            names,
            likelihood,
            climb,
        )
        self._sharing = Hierarchical() if sharing.dependence is Dependence.PARTITION else sharing
        self._points: list[torch.Tensor] = []
        self._moments: tuple[torch.Tensor, ...] = ()
        self._task = torch.from_numpy(data.task.copy())
        self._y = torch.zeros(0)

    @property
    def trained(self) -> dict[str, torch.Tensor]:
        """None: the heads are integrated out."""
        return {}

    @property
    def known(self) -> dict[str, np.ndarray]:
        """Hyperparameters, from which the next search starts, and the moments."""
        parts = {f"moment_{i}": part.numpy() for i, part in enumerate(self._moments)}
        return {"points": torch.stack(self._points).numpy(), "y": self._y.numpy()} | parts

    def resume(self, known: dict[str, np.ndarray]) -> None:
        """See `Heads.resume`."""
        self._points, self._y = list(torch.from_numpy(known["points"])), torch.from_numpy(known["y"])
        self._moments = tuple(torch.from_numpy(known[f"moment_{i}"]) for i in range(5))

    def refresh(self, columns: np.ndarray) -> None:
        """See `Heads.refresh`."""
        searched, parts = [], []
        for member, own in enumerate(columns):
            every = on_columns(self._data, own, self._names)
            met = on_columns(_some(self._data, self._train), own[self._train], self._names)
            standardization = self._likelihood.standardization(met)
            posterior, _ = linear_posterior(self._sharing, self._likelihood, met, standardization)
            searched.append(self._climb(posterior, self._points[member] if self._points else None))
            values = posterior.space.constrain(searched[-1][None])
            noise = posterior.noise(values, 1)
            mean, covariance = posterior_moments(posterior.tasks, posterior.structure(values), noise)
            of_tasks = self._likelihood.of_tasks(self._data.task_names, standardization.target_scale)
            self._y = torch.from_numpy(
                StandardRows.of(every, every.task, standardization, of_tasks).y
            ).float()
            scales = (
                torch.tensor(standardization.feature_center),
                torch.tensor(standardization.feature_scale),
            )
            parts.append((*scales, mean[0], covariance[0], noise[0].expand(len(mean[0]))))
        self._points = searched
        self._moments = tuple(torch.stack(part).float() for part in zip(*parts, strict=True))

    def _expected(self, columns: torch.Tensor, rows: np.ndarray) -> tuple[torch.Tensor, ...]:
        """Squared error at the mean, variance of the function, and that of the noise, each (M, B)."""
        center, scale, mean, covariance, noise = self._moments
        phi, task = (columns - center[:, None]) / scale[:, None], self._task[rows]
        gap = self._y[rows] - (phi * mean[:, task]).sum(-1)
        variance = torch.einsum("mbd,mbde,mbe->mb", phi, covariance[:, task], phi)
        return gap**2, variance, noise[:, task] ** 2

    def log_density(self, columns: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """Expected under the heads' posterior."""
        square, variance, noise = self._expected(columns, rows)
        return -0.5 * (square + variance) / noise

    def held_out(self, columns: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """See `Heads.held_out`."""
        square, variance, noise = self._expected(columns, rows)
        total = variance + noise
        return -0.5 * (square / total + total.log() + math.log(2 * math.pi))


class PointHeads:
    """Any rows: heads trained along with the trunk, and the likelihood's own hyperparameters with them.

    Args:
        data: All rows.
        likelihood: Of single rows.
        num_columns: H.
        num_members: M.
        generator: Source of the first weights.
    """

    def __init__(
        self,
        data: TaskData,
        likelihood: Likelihood,
        num_columns: int,
        num_members: int,
        generator: torch.Generator,
    ):
        standardization = likelihood.standardization(data)
        of_tasks = likelihood.of_tasks(data.task_names, standardization.target_scale)
        if not isinstance(of_tasks, Rowwise):
            raise TypeError(f"{type(likelihood).__name__} has no likelihood of single rows")
        self._likelihood = of_tasks
        rows = StandardRows.of(data, data.task, standardization, of_tasks)
        self._y, self._task = torch.from_numpy(rows.y.copy()), torch.from_numpy(data.task.copy())
        self._offset = (
            torch.zeros(len(data.task)) if rows.offset is None else torch.from_numpy(rows.offset.copy())
        )
        self._trials = None if rows.trials is None else torch.from_numpy(rows.trials.copy())
        self._level = None if rows.level is None else torch.from_numpy(rows.level.copy())
        outputs = 1 if self._level is None else len(self._level)
        drawn = torch.randn(num_members, data.num_tasks, outputs, num_columns, generator=generator)
        self._heads = drawn * num_columns**-0.5
        self._own = ParameterSpace(likelihood.parameters(data.num_tasks))
        rng = np.random.default_rng(0)
        self._points = self._own.initial(rng, 1).expand(num_members, -1).clone()
        if data.has_intercept:
            self._heads[..., 0] = 0.0

    @property
    def trained(self) -> dict[str, torch.Tensor]:
        """Weights (M, T, C, H), and coordinates of the likelihood's hyperparameters (M, P)."""
        return {"heads": self._heads, "own": self._points}

    @property
    def known(self) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}

    def resume(self, known: dict[str, np.ndarray]) -> None:
        """See `Heads.resume`."""

    def refresh(self, columns: np.ndarray) -> None:
        """Nothing to do."""

    def log_density(self, columns: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """At the heads, with the log prior of the likelihood's hyperparameters spread over the rows."""
        log_prior, _ = self._own.log_prior(self._points)
        return self.held_out(columns, rows) + log_prior[:, None] / len(self._y)

    def held_out(self, columns: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """See `Heads.held_out`."""
        task = self._task[rows]
        f = torch.einsum("mbch,mbh->mcb", self._heads[:, task], columns).double()
        f = f + self._offset[rows] if self._level is None else f + self._level[:, None]
        f = f[:, 0] if self._level is None else f
        trials = None if self._trials is None else self._trials[rows]
        given = Given(self._own.constrain(self._points), trials, task)
        at = self._likelihood.derivatives(self._y[rows], f.detach(), given)
        slope = at.first.detach() * (f - f.detach())  # zero, with the gradient of the density in f
        return at.value + (slope if self._level is None else slope.sum(1))


def _some(data: TaskData, rows: np.ndarray) -> TaskData:
    """Rows at these positions; all tasks stay."""
    names = ("X", "y", "task", "index", "offset", "weights", "trials")
    return replace(
        data, **{name: value[rows] for name in names if (value := getattr(data, name)) is not None}
    )
