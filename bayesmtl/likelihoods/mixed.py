"""Outcomes of several kinds over shared weights: each task has a likelihood of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch

from bayesmtl.data import Standardization, TaskData, TaskSummaries
from bayesmtl.data.labels import label_of
from bayesmtl.errors import SpecificationError, listing
from bayesmtl.likelihoods.base import NOTHING, Given, Likelihood, pyro_plate
from bayesmtl.likelihoods.gaussian import Gaussian
from bayesmtl.likelihoods.gaussian_rows import _GaussianByRow
from bayesmtl.likelihoods.rowwise import Derivatives, GaussianRows, Rowwise
from bayesmtl.parameters import Parameter, Reported, Values


class _Part(NamedTuple):
    """The rows that one likelihood is for.

    Attributes:
        likelihood: The likelihood.
        where: Which rows, shape (n_k,).
        given: What their distribution depends on.
    """

    likelihood: Rowwise
    where: torch.Tensor
    given: Given


@dataclass(frozen=True)
class Mixed(Rowwise):
    """y | f_t(x) ~ the likelihood of task t: yes or no here, counts there, and weights shared by all.

    Tasks with equal likelihoods share the hyperparameters of these (a noise level, a dispersion), as they
    would under this likelihood alone; where two parts have hyperparameters of the same name, a number follows
    it. ``Gaussian(noise="task")`` gives each of its tasks a noise level of its own. Targets are standardised
    where the likelihood is measured in the target's units, pooled over the tasks that share it, or
    one by one with ``data.with_target_standardization("task")``, for targets in different units. Linear
    predictors are centred over the tasks that share a likelihood. So what is shared is: log odds per standard
    deviation of a feature, standard deviations of a score, and so on; the population, which then has no
    units, is given in these.

    Args:
        tasks: Likelihood of every task by its name.
        other: Likelihood of tasks that are not named, such as those predicted later; `None` refuses them.

    Raises:
        SpecificationError: If the mapping is empty, or holds something else than likelihoods of one kind,
            each with one function per task.

    Example:
        >>> from bayesmtl.likelihoods import Bernoulli, Poisson
        >>> mixed = Mixed({"fell": Bernoulli(), "visits": Poisson()})
        >>> mixed.mean(np.array([[0.0, 0.0]]), Given(task=torch.tensor([0, 1]))).tolist()
        [[0.5, 1.0]]
    """

    unit: ClassVar[str] = "target or linear predictor"
    is_mixed: ClassVar[bool] = True

    tasks: Mapping[str, Likelihood]
    other: Likelihood | None = None

    def __post_init__(self) -> None:
        valid = isinstance(self.tasks, Mapping) and len(self.tasks) > 0
        given = [*self.tasks.values(), *([] if self.other is None else [self.other])] if valid else []
        wrong = [
            part
            for part in given
            if not isinstance(part, Likelihood) or isinstance(part, Mixed) or part.has_classes
        ]
        if not valid or wrong:
            raise SpecificationError(
                "likelihood",
                expected="a mapping from task names to likelihoods, such as Gaussian() or Bernoulli()",
                found=repr(wrong[0] if wrong else self.tasks),
                remedy='Write {"motor": Gaussian(), "fell": Bernoulli()}, one entry for every task.',
            )
        named = {label_of(task): part for task, part in self.tasks.items()}
        if len(named) < len(self.tasks):
            raise SpecificationError(
                "likelihood",
                expected="each task once",
                found=listing(list(self.tasks)),
                remedy="Names are compared as text: 1 and '1' are the same task.",
            )
        object.__setattr__(self, "tasks", named)

    @cached_property
    def parts(self) -> tuple[Likelihood, ...]:
        """The different likelihoods, in an order that does not depend on names."""
        parts: list[Likelihood] = []
        for part in (*self.tasks.values(), *(() if self.other is None else (self.other,))):
            if part not in parts:
                parts.append(part)
        return tuple(
            sorted(parts, key=lambda part: (type(part).__name__, json.dumps(part.to_dict(), sort_keys=True)))
        )

    @cached_property
    def _by_row(self) -> tuple[Rowwise, ...]:
        found = []
        for part in self.parts:
            by_row = _GaussianByRow(part) if isinstance(part, Gaussian) else part
            assert isinstance(by_row, Rowwise)
            found.append(by_row)
        return tuple(found)

    @cached_property
    def _part_of_position(self) -> torch.Tensor:
        """The part of every task, in the order of the mapping, shape (T,)."""
        return torch.tensor([self.parts.index(part) for part in self.tasks.values()])

    def _part_of(self, name: str) -> int:
        likelihood = self.tasks.get(name, self.other)
        if likelihood is None:
            raise SpecificationError(
                "likelihood",
                expected="a likelihood for every task",
                found=f"none for task {name!r}",
                remedy="Name the likelihood of further tasks: Mixed({...}, other=...).",
            )
        return self.parts.index(likelihood)

    @cached_property
    def _suffixes(self) -> tuple[str, ...]:
        """What tells hyperparameters of the same name apart, one for each part."""
        names = [{parameter.name for parameter in part.parameters(1)} for part in self.parts]
        clash = [any(own & other for j, other in enumerate(names) if j != k) for k, own in enumerate(names)]
        numbers = np.cumsum(clash)
        return tuple(f"_{n}" if c else "" for c, n in zip(clash, numbers, strict=True))

    def _own(self, k: int, values: Values) -> Values:
        """The hyperparameters of part k under their own names."""
        own = {
            parameter.name: parameter.name + self._suffixes[k] for parameter in self.parts[k].parameters(1)
        }
        return {name: values[known] for name, known in own.items() if known in values}

    @property
    def log_concave(self) -> bool:
        """If all parts are."""
        return all(part.log_concave for part in self._by_row)

    @property
    def small_step(self) -> float:
        """The smallest of the parts."""
        return min(part.small_step for part in self._by_row)

    @property
    def augments(self) -> bool:
        """If auxiliary variables make the rows of all parts Gaussian."""
        return all(part.augments for part in self._by_row)

    def of_tasks(self, task_names: Sequence[str], target_scale: np.ndarray) -> Mixed:
        """The same with the T tasks in this order, and known noise in standardised units."""
        chosen = [self._part_of(name) for name in task_names]
        parts = list(self.parts)
        for k, part in enumerate(parts):
            if isinstance(part, Gaussian) and not isinstance(part.noise, str):
                where = [t for t, code in enumerate(chosen) if code == k]
                names = [task_names[t] for t in where]
                sd = part.noise_sd({}, names, target_scale[where], 1)[0].tolist()
                parts[k] = replace(part, noise=dict(zip(names, sd, strict=True)))
        other = None if self.other is None else parts[self.parts.index(self.other)]
        return Mixed({name: parts[k] for name, k in zip(task_names, chosen, strict=True)}, other)

    def scaled_rows(self, task: np.ndarray) -> np.ndarray:
        """Which rows have their target standardised; see `Likelihood.scaled_rows`."""
        scaled = np.array([part.scales_target for part in self.parts])
        return np.asarray(scaled[self._part_of_position.numpy()[task]])

    def check(self, task_names: Sequence[str], observed_per_task: np.ndarray) -> None:
        """Every task has a likelihood, every one that is named is there, and the parts have their rows."""
        self._check_names(task_names)
        for k, part in enumerate(self.parts):
            where = [t for t, name in enumerate(task_names) if self._part_of(name) == k]
            part.check([task_names[t] for t in where], observed_per_task[where])

    def _check_names(self, task_names: Sequence[str]) -> None:
        missing = [] if self.other is not None else [name for name in task_names if name not in self.tasks]
        unknown = [name for name in self.tasks if name not in task_names]
        if missing or unknown:
            found = [f"none for {listing(missing)}"] if missing else []
            found += [f"one for {listing(unknown)}, which the data do not have"] if unknown else []
            raise SpecificationError(
                "likelihood",
                expected=f"a likelihood for every task of the data ({listing(task_names)})",
                found=" and ".join(found),
                remedy="Name every task once; Mixed({...}, other=...) stands for those that are not named.",
            )

    def check_targets(
        self, y: np.ndarray, task: np.ndarray, name: str, trials: np.ndarray | None = None
    ) -> None:
        """Each part's targets are ones that it allows."""
        names = list(self.tasks)
        for k, part in enumerate(self.parts):
            of_part = [t for t, code in enumerate(self._part_of_position.tolist()) if code == k]
            where = np.isin(task, of_part)
            if where.any():
                told = f"{name} of {listing([names[t] for t in of_part])}"
                known = getattr(part, "trials", None) is not None  # for all its rows: it needs no others
                part.check_target(y[where], told, None if trials is None or known else trials[where])

    def bounds(
        self, y: np.ndarray, task: np.ndarray, trials: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Each part's, of the rows of its tasks."""
        code = self._part_of_position.numpy()[task]
        below, above = np.ones((2, len(y)), dtype=bool)
        for k, part in enumerate(self._by_row):
            where = code == k
            own = None if trials is None else trials[where]
            below[where], above[where] = part.bounds(y[where], task[where], own)
        return below, above

    def standardization(self, data: TaskData | TaskSummaries) -> Standardization:
        """Features are standardised together, and each part's targets or linear predictors by themselves.

        Raises:
            DataError: If a target has no probability.
            SpecificationError: If a task has no likelihood, or one is named that the data do not have.
        """
        if isinstance(data, TaskSummaries):
            raise data.need_rows("the likelihood Mixed")
        self._check_names(data.task_names)
        used = sorted({self._part_of(name) for name in data.task_names})
        if len(used) == 1:
            return self.parts[used[0]].standardization(data)
        whole = data.with_target_standardization("none").standardization()
        if data.target_standardization == "none":
            return whole
        known = self.of_tasks(data.task_names, whole.target_scale)
        trials = None if data.trials is None else data.trials[data.observed]
        known.check_targets(data.y[data.observed], data.task[data.observed], data.target_name, trials)
        center, scale = whole.target_center.copy(), whole.target_scale.copy()
        for k in used:
            part = self.parts[k]
            where = [t for t, name in enumerate(data.task_names) if self._part_of(name) == k]
            if isinstance(part, Rowwise) and not part.scales_target:
                center[where] = part.level_of(data, data.observed & np.isin(data.task, where))
            else:
                of_part = part.standardization(data.select_tasks([data.task_names[t] for t in where]))
                center[where], scale[where] = of_part.target_center, of_part.target_scale
        return replace(whole, target_center=center, target_scale=scale, target="task")

    def extended(
        self, standardization: Standardization, task_names: Sequence[str], added: Sequence[str]
    ) -> Standardization:
        """New tasks have the scale of their part: that of the tasks that share it, or none."""
        parts = [self._part_of(name) for name in task_names]
        center, scale = standardization.target_center.tolist(), standardization.target_scale.tolist()
        for name in added:
            k = self._part_of(name)
            scales = {(center[t], scale[t]) for t, code in enumerate(parts) if code == k}
            if not (scales or self.parts[k].scales_target):
                scales = {(0.0, 1.0)}  # no row has told where its level lies
            if len(scales) != 1:
                raise SpecificationError(
                    "target_standardization",
                    expected=f"one scale for the tasks of {self.parts[k]!r}",
                    found="several" if scales else "no such task",
                    remedy="A task that was never seen has no scale of its own; "
                    'use data.with_target_standardization("pooled").',
                )
            center, scale = [*center, *(pair[0] for pair in scales)], [*scale, *(pair[1] for pair in scales)]
        return replace(standardization, target_center=np.array(center), target_scale=np.array(scale))

    def parameters(self, num_tasks: int) -> tuple[Parameter, ...]:
        """Those of the parts, one part after the other."""
        return tuple(
            replace(parameter, name=parameter.name + suffix)
            for part, suffix in zip(self.parts, self._suffixes, strict=True)
            for parameter in part.parameters(num_tasks)
        )

    def report(self, values: Values) -> dict[str, Reported]:
        """Those of the parts, each of its own tasks."""
        codes, shown = self._part_of_position.tolist(), {}
        for k, (part, suffix) in enumerate(zip(self.parts, self._suffixes, strict=True)):
            tasks = tuple(t for t, code in enumerate(codes) if code == k)
            for name, reported in part.report(self._own(k, values)).items():
                own = reported.values
                if "task" in reported.dims:
                    own = own.index_select(1 + reported.dims.index("task"), torch.tensor(tasks))
                shown[name + suffix] = Reported(reported.dims, own, reported.unit, tasks)
        return shown

    def noise_sd(
        self, values: Values, task_names: Sequence[str], target_scale: np.ndarray, num_draws: int
    ) -> torch.Tensor:
        """Noise in standardised units, 1 for tasks without, shape (B, T)."""
        chosen = np.array([self._part_of(name) for name in task_names])
        columns = torch.ones(num_draws, len(task_names), dtype=torch.float64)
        for k, part in enumerate(self.parts):
            where = np.flatnonzero(chosen == k)
            if not len(where):
                continue
            every = self._own(k, values)
            own = dict(every)
            for parameter in part.parameters(len(task_names)):
                if parameter.task_axis is not None:
                    own[parameter.name] = parameter.of_some(every[parameter.name], torch.from_numpy(where))
            names = [task_names[t] for t in where.tolist()]
            sd = part.noise_sd(own, names, target_scale[where], num_draws)
            index = torch.from_numpy(where)
            columns = columns.index_copy(1, index, sd.expand(num_draws, len(where)))
        return columns

    def _parts_of_rows(self, given: Given, *, with_noise: bool) -> Iterator[_Part]:
        """The parts that there are among the rows, Gaussian rows with their noise if it is asked for."""
        assert given.task is not None
        code = self._part_of_position[given.task]
        noise = None
        for k, part in enumerate(self._by_row):
            where = (code == k).nonzero()[:, 0]
            if not len(where):
                continue
            trials = None if given.trials is None else given.trials[where]
            own = Given(self._own(k, given.values), trials, given.task[where])
            if with_noise and isinstance(part, _GaussianByRow):
                if noise is None:
                    number = max((len(value) for value in given.values.values()), default=1)
                    scale = np.ones(len(self.tasks))
                    noise = self.noise_sd(given.values, list(self.tasks), scale, number)
                own = replace(own, noise=noise[:, own.task])
            yield _Part(part, where, own)

    def _join(
        self, given: Given, of_part: Callable[[_Part], Sequence[torch.Tensor]]
    ) -> tuple[torch.Tensor, ...]:
        """What the parts say about their rows, in the order of the rows: tensors (..., n)."""
        parts = list(self._parts_of_rows(given, with_noise=True))
        said = [of_part(part) for part in parts]
        order = torch.cat([part.where for part in parts]).argsort()
        joined = []
        for tensors in zip(*said, strict=True):
            batch = np.broadcast_shapes(*(tensor.shape[:-1] for tensor in tensors))
            wide = [tensor.expand(*batch, tensor.shape[-1]) for tensor in tensors]
            joined.append(torch.cat(wide, dim=-1).index_select(-1, order))
        return tuple(joined)

    def derivatives(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> Derivatives:
        """log p(y | f) and its first two derivatives in f, each row by its part."""
        return Derivatives(
            *self._join(given, lambda p: p.likelihood.derivatives(y[p.where], f[..., p.where], p.given))
        )

    def third_derivative(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """The third derivative of log p(y | f) in f, each row by its part."""
        return self._join(
            given, lambda p: (p.likelihood.third_derivative(y[p.where], f[..., p.where], p.given),)
        )[0]

    def information(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """Precisions for Laplace's method, each row by its part."""
        return self._join(given, lambda p: (p.likelihood.information(y[p.where], f[..., p.where], p.given),))[
            0
        ]

    def information_slope(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """Their derivatives in f."""
        return self._join(
            given, lambda p: (p.likelihood.information_slope(y[p.where], f[..., p.where], p.given),)
        )[0]

    def step_precision(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """Precisions for steps towards the mode, each row by its part."""
        return self._join(
            given, lambda p: (p.likelihood.step_precision(y[p.where], f[..., p.where], p.given),)
        )[0]

    def start(self, y: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """Where each part would start."""
        return self._join(given, lambda p: (p.likelihood.start(y[p.where], p.given),))[0]

    def augment(
        self,
        y: torch.Tensor,
        f: torch.Tensor,
        weights: torch.Tensor,
        rng: np.random.Generator,
        given: Given = NOTHING,
    ) -> GaussianRows:
        """Draw the auxiliary variables of every part."""

        def of_part(p: _Part) -> GaussianRows:
            return p.likelihood.augment(y[p.where], f[:, p.where], weights[p.where], rng, p.given)

        return GaussianRows(*self._join(given, of_part))

    def num_auxiliary(self, trials: np.ndarray, task: np.ndarray) -> int:
        """The sum over the parts."""
        code = self._part_of_position.numpy()[task]
        return sum(
            part.num_auxiliary(trials[code == k], task[code == k]) for k, part in enumerate(self._by_row)
        )

    def _columns(
        self, f: np.ndarray, given: Given, of_part: Callable[[_Part, np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """What the parts make of their columns, shape (B, n)."""
        whole = np.empty(f.shape)
        for part in self._parts_of_rows(given, with_noise=False):
            where = part.where.numpy()
            whole[..., where] = of_part(part, where)
        return whole

    def pyro_rows(self, counts: bool) -> list[str]:
        """See `Likelihood.pyro_rows`: the rows of each part by themselves."""
        lines = [
            f"part = torch.tensor({self._part_of_position.tolist()})[task]  # the likelihood of each row"
        ]
        for k, (part, suffix) in enumerate(zip(self.parts, self._suffixes, strict=True)):
            names = {p.name: p.name + suffix for p in part.parameters(1)}
            fields = {"f": "f[at]", "trials": "trials[at]", "sd": f"sigma_{k}[task[at]]"}
            text = part.pyro_distribution().format(**fields, **names)
            if "sigma_" in text:
                lines.append(f"sigma_{k} = likelihood.noise_of_part({k}, values)")
            lines += [f"at = part == {k}", f"y_{k} = y[at]"]
            lines += pyro_plate(f"rows_{k}", f"y_{k}", text, "counts[at]" if counts else None)
        return lines

    def noise_of_part(self, k: int, values: Values) -> torch.Tensor:
        """sigma of every task under one hyperparameter value, standardised; NaN for tasks of other parts."""
        where = [t for t, code in enumerate(self._part_of_position.tolist()) if code == k]
        names = [list(self.tasks)[t] for t in where]
        noise = torch.full((len(self.tasks),), torch.nan, dtype=torch.float64)
        noise[where] = self.parts[k].noise_sd(self._own(k, values), names, np.ones(len(where)), 1)[0]
        return noise

    def log_density(
        self, y: np.ndarray, f: np.ndarray, noise: np.ndarray, given: Given = NOTHING
    ) -> np.ndarray:
        """log p(y | f), each row by its part."""
        y, noise = np.broadcast_to(y, f.shape), np.broadcast_to(noise, f.shape)
        return self._columns(
            f,
            given,
            lambda p, at: p.likelihood.log_density(y[..., at], f[..., at], noise[..., at], p.given),
        )

    def mean(self, f: np.ndarray, given: Given = NOTHING) -> np.ndarray:
        """E[y | f] in each task's own units: a probability here, a rate there."""
        return self._columns(f, given, lambda p, at: p.likelihood.mean(f[..., at], p.given))

    def draw(
        self, f: np.ndarray, noise: np.ndarray, rng: np.random.Generator, given: Given = NOTHING
    ) -> np.ndarray:
        """New observations, each row by its part."""
        noise = np.broadcast_to(noise, f.shape)
        return self._columns(
            f, given, lambda p, at: p.likelihood.draw(f[..., at], noise[..., at], rng, p.given)
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for files."""
        return {
            "likelihood": "Mixed",
            "parts": [part.to_dict() for part in self.parts],
            "tasks": {name: self.parts.index(part) for name, part in self.tasks.items()},
            "other": None if self.other is None else self.parts.index(self.other),
        }

    @classmethod
    def from_fields(cls, content: dict[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        from bayesmtl.likelihoods import REGISTRY  # which lists this class

        parts = [REGISTRY[part["likelihood"]].from_fields(part) for part in content["parts"]]
        other = content["other"]
        tasks = {name: parts[k] for name, k in content["tasks"].items()}
        return cls(tasks, None if other is None else parts[other])
