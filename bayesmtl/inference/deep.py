"""Training of trunks by minibatches, and heads at their mode.

Members of the ensemble are trained in one batched computation. Between blocks of steps the heads meet the
new features (`posteriors.deep`), and the density of held-out rows decides whether training goes on.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.optim.adamw import adamw

from bayesmtl.algebra.collapsed import whiten
from bayesmtl.algebra.moments import posterior_mean
from bayesmtl.data import TaskData
from bayesmtl.errors import SpecificationError
from bayesmtl.features import FeatureMap
from bayesmtl.inference.engine import Engine
from bayesmtl.likelihoods import Likelihood
from bayesmtl.posteriors.deep import CollapsedHeads, Heads, PointHeads, Trained
from bayesmtl.posteriors.draws import LinearDraws
from bayesmtl.posteriors.linear.outcomes import LaplaceMarginal, OutcomePosterior
from bayesmtl.posteriors.linear.posterior import LinearPosterior
from bayesmtl.posteriors.posterior import Trait
from bayesmtl.samplers.checkpoint import ArrayFile
from bayesmtl.samplers.modes import ROUGHLY, find_modes
from bayesmtl.samplers.progress import iterations
from bayesmtl.samplers.settings import Settings
from bayesmtl.sharing import Sharing

Augment = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""Moves inputs (n, d), as the data give them, without changing what their targets mean."""

_FIRST, _LATER = 30, 8  # steps of the search for hyperparameters, at the first refresh and the later ones
_NUM_DRAWS = 250  # by default, per chain, of heads at their mode; they differ in the noise alone
_MOMENTS = ("mean", "square")
_WARMING = 0.1  # share of the steps in which the learning rate rises


@dataclass(frozen=True)
class Training:
    """How a trunk is trained.

    Args:
        steps: Minibatches at most.
        batch_size: Rows of each.
        learning_rate: Highest step size of AdamW; it rises over the first tenth and falls along a cosine.
        weight_decay: Rate at which weight matrices shrink, times the learning rate per step.
        validation: Share of each task's rows that are held out; 0 for none, and no early stopping.
        refresh: Steps between two meetings of the heads with the features.
        patience: Refreshes without a gain in held-out density after which training stops.
        device: Where the trunk is computed: "cpu" or "cuda".
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    validation: float
    refresh: int
    patience: int
    device: str

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        warming = max(1, round(_WARMING * self.steps))
        if step < warming:
            return self.learning_rate * (step + 1) / warming
        return (
            self.learning_rate
            * 0.5
            * (1 + math.cos(math.pi * (step - warming) / max(1, self.steps - warming)))
        )


def hold_out(data: TaskData, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Positions of training and held-out rows: a share of each task's observed ones, rounded down."""
    held = []
    for task in range(data.num_tasks):
        rows = np.flatnonzero((data.task == task) & data.observed)
        held.append(rng.permutation(rows)[: int(share * len(rows))])
    out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.flatnonzero(data.observed), out), out


def train(
    features: FeatureMap,
    names: tuple[str, ...],
    data: TaskData,
    sharing: Sharing,
    likelihood: Likelihood,
    training: Training,
    settings: Settings,
    augment: Augment | None,
) -> Trained:
    """Train the trunk of every member.

    Args:
        features: The map with its first weights.
        names: Of the heads' columns, without the constant.
        data: All rows.
        sharing: Prior of the heads.
        likelihood: Scatter of the targets.
        training: How.
        settings: Seed, progress and checkpoint.
        augment: Moves the inputs of a minibatch.

    Raises:
        SpecificationError: If an augmentation changes shapes, or nothing finite comes of the training.
        CheckpointError: If the checkpoint is damaged or belongs to another run.
    """
    if not features.weights:  # nothing to train
        nothing = np.zeros((1, 0))
        return Trained(features, nothing, nothing, np.zeros(1, dtype=int), 0, 0, 0)
    rng = np.random.default_rng([settings.seed, 1])
    inside, outside = hold_out(data, training.validation, rng)
    generator = torch.Generator().manual_seed(settings.seed)
    num_columns = len(names) + int(data.has_intercept)
    heads: Heads
    if likelihood.compresses:
        heads = CollapsedHeads(data, inside, names, sharing, likelihood, _climber(rng))
    else:
        heads = PointHeads(data, likelihood, num_columns, features.num_members, generator)
    run = _Run(features, heads, data, inside, outside, training, augment, generator)
    if settings.checkpoint is not None:
        run.file = ArrayFile(
            settings.checkpoint, _fingerprint(features, data, sharing, likelihood, training, settings)
        )
        if (arrays := run.file.read()) is not None:
            run.resume(arrays)
    blocks = math.ceil(training.steps / training.refresh)
    for _ in iterations(run.step // training.refresh, blocks, "training", show=settings.progress):
        if not run.go_on:
            break
        run.block()
    return run.result()


def _climber(rng: np.random.Generator) -> Callable[[LinearPosterior, torch.Tensor | None], torch.Tensor]:
    def climb(posterior: LinearPosterior, start: torch.Tensor | None) -> torch.Tensor:
        steps = _FIRST if start is None else _LATER
        begin = posterior.space.initial(rng, 1) if start is None else start[None]
        if posterior.space.size == 0:
            return begin[0]
        return find_modes(posterior, begin, {**ROUGHLY, "maxiter": steps})[0].point

    return climb


def _fingerprint(
    features: FeatureMap,
    data: TaskData,
    sharing: Sharing,
    likelihood: Likelihood,
    training: Training,
    settings: Settings,
) -> str:
    digest = hashlib.sha256()
    for array in (data.X, data.y, data.task, *(value.numpy() for value in features.weights.values())):
        digest.update(array.tobytes())
    parts = (features.trunk.to_dict(), features.skip, sharing.to_dict(), likelihood.to_dict(), training)
    digest.update(repr((*parts, settings.seed)).encode())
    return digest.hexdigest()


class _AdamW:
    """AdamW (Loshchilov and Hutter, 2019) with decay of weight matrices only, its state as named tensors.

    The functional form of torch: its classes load a compiler that nothing here needs.
    """

    def __init__(self, moving: Mapping[str, torch.Tensor], weight_decay: float):
        self._values = list(moving.values())
        self.state: dict[str, torch.Tensor] = {}
        for name, value in moving.items():
            self.state |= {
                f"{part} {name}": torch.zeros_like(value, requires_grad=False) for part in _MOMENTS
            }
            self.state[f"count {name}"] = torch.tensor(0.0)
        decays = (value.ndim > 2 and value.shape[1] > 1 for value in moving.values())  # no biases
        self._decay = [weight_decay if decay else 0.0 for decay in decays]
        self._parts = [[self.state[f"{part} {name}"] for name in moving] for part in (*_MOMENTS, "count")]

    def step(self, gradients: Sequence[torch.Tensor], rate: float) -> None:
        """Move all weights once."""
        for decay in set(self._decay):
            chosen = [i for i, own in enumerate(self._decay) if own == decay]
            values, slopes, mean, square, count = (
                [part[i] for i in chosen] for part in (self._values, gradients, *self._parts)
            )
            with torch.no_grad():
                adamw(
                    values,
                    slopes,
                    mean,
                    square,
                    [],
                    count,
                    foreach=False,
                    amsgrad=False,
                    beta1=0.9,
                    beta2=0.999,
                    lr=rate,
                    weight_decay=decay,
                    eps=1e-8,
                    maximize=False,
                )


class _Run:
    """The state of a training, from one refresh to the next."""

    def __init__(
        self,
        features: FeatureMap,
        heads: Heads,
        data: TaskData,
        inside: np.ndarray,
        outside: np.ndarray,
        training: Training,
        augment: Augment | None,
        generator: torch.Generator,
    ):
        self.features, self.heads, self.training, self.augment = features, heads, training, augment
        self.data, self.inside, self.outside, self.generator = data, inside, outside, generator
        self.file: ArrayFile | None = None
        raw = data.X[:, 1:] if data.has_intercept else data.X
        self._inputs = torch.from_numpy(np.array(raw)).float()
        self._counts = torch.ones(len(raw)) if data.weights is None else torch.from_numpy(data.weights.copy())
        self._weights = {
            name: value.clone().to(training.device).requires_grad_()
            for name, value in features.weights.items()
        }
        trained = {name: value.requires_grad_() for name, value in heads.trained.items() if value.numel()}
        self._moving = {**self._weights, **{f"head {name}": value for name, value in trained.items()}}
        self._optimiser = _AdamW(self._moving, training.weight_decay)
        M = features.num_members
        self.step, self._loss, self._held = 0, np.zeros((M, 0)), np.zeros((M, 0))
        self._best = {name: value.detach().cpu().clone() for name, value in self._weights.items()}
        self._best_value, self._best_at = np.full(M, -np.inf), np.zeros(M, dtype=int)

    @property
    def go_on(self) -> bool:
        """Whether there are steps left, and some member gained lately."""
        lately = self._held.shape[1] - 1 - self._best_at.max(initial=0) <= self.training.patience
        return self.step < self.training.steps and (lately or not len(self.outside))

    def block(self) -> None:
        """The steps up to the next refresh, and the judgement of the held-out rows."""
        if self.step == 0:
            self._meet()
        total, number = (
            np.zeros(len(self._best_at)),
            min(self.training.refresh, self.training.steps - self.step),
        )
        for _ in range(number):
            total += self._one_step()
        self._loss = np.column_stack([self._loss, total / number])
        self._meet()
        if self.file is not None and self.file.due:
            self.file.write(self._state())

    def _now(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().cpu() for name, value in self._weights.items()}

    def _meet(self) -> None:
        """The heads meet the features as they are; the better weights of every member are kept."""
        columns = replace(self.features, weights=self._now())(self.data.X)
        self.heads.refresh(columns)
        if not len(self.outside):
            self._best, self._best_at = self._now(), np.full(len(self._best_at), max(0, self._loss.shape[1]))
            return
        with torch.no_grad():
            outside = torch.from_numpy(columns[:, self.outside]).float()
            density = self.heads.held_out(outside, self.outside).double().mean(1).numpy()
        self._held = np.column_stack([self._held, density])
        better = density > self._best_value
        self._best_value = np.where(better, density, self._best_value)
        self._best_at = np.where(better, self._held.shape[1] - 1, self._best_at)
        for name, value in self._now().items():
            self._best[name][better] = value[better]

    def _one_step(self) -> np.ndarray:
        size = min(self.training.batch_size, len(self.inside))
        rows = self.inside[torch.randperm(len(self.inside), generator=self.generator)[:size].numpy()]
        M = self.features.num_members
        inputs = self._inputs[rows].expand(M, size, -1)
        if self.augment is not None:
            inputs = self._augmented(inputs.reshape(M * size, -1)).reshape(M, size, -1)
        columns = self.features.columns(inputs.to(self.training.device), self._weights).cpu()
        density = self.heads.log_density(columns, rows) * self._counts[rows]
        each = -density.mean(1)
        gradients = torch.autograd.grad(each.sum(), list(self._moving.values()))
        self._optimiser.step(gradients, self.training.rate(self.step))
        self.step += 1
        values = each.detach().double().numpy()
        if not np.isfinite(values).all():
            raise SpecificationError(
                "trunk",
                expected="a finite loss",
                found=f"{values.tolist()} at step {self.step}",
                remedy="Lower the learning rate, or bring the inputs to a common scale.",
            )
        return values

    def _augmented(self, inputs: torch.Tensor) -> torch.Tensor:
        assert self.augment is not None
        moved = self.augment(inputs.clone(), self.generator)
        if not isinstance(moved, torch.Tensor) or moved.shape != inputs.shape:
            raise SpecificationError(
                "augment",
                expected=f"a tensor of the inputs' shape {tuple(inputs.shape)}",
                found=f"{tuple(moved.shape) if isinstance(moved, torch.Tensor) else type(moved).__name__}",
                remedy="Return as many rows and columns as came in.",
            )
        return moved

    def _state(self) -> dict[str, np.ndarray]:
        arrays = {
            "step": np.array(self.step),
            "loss": self._loss,
            "held": self._held,
            "best_value": self._best_value,
            "best_at": self._best_at,
            "generator": self.generator.get_state().numpy(),
        }
        for name, value in self._moving.items():
            arrays[f"now {name}"] = value.detach().cpu().numpy()
        arrays |= {f"optimiser {name}": value.cpu().numpy() for name, value in self._optimiser.state.items()}
        arrays |= {f"best {name}": value.numpy() for name, value in self._best.items()}
        return arrays | {f"known {name}": value for name, value in self.heads.known.items()}

    def resume(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take up a saved state."""
        self.step, self._loss, self._held = int(arrays["step"]), arrays["loss"], arrays["held"]
        self._best_value, self._best_at = arrays["best_value"], arrays["best_at"]
        self.generator.set_state(torch.from_numpy(arrays["generator"]))
        for name, value in self._moving.items():
            with torch.no_grad():
                value.copy_(torch.from_numpy(arrays[f"now {name}"]))
        for name, value in self._optimiser.state.items():
            value.copy_(torch.from_numpy(arrays[f"optimiser {name}"]))
        self._best = {name: torch.from_numpy(arrays[f"best {name}"]) for name in self._weights}
        known = {
            name.removeprefix("known "): value for name, value in arrays.items() if name.startswith("known ")
        }
        self.heads.resume(known)

    def result(self) -> Trained:
        """What came of it."""
        features = replace(self.features, weights=self._best)
        return Trained(
            features, self._loss, self._held, self._best_at, len(self.outside), self.step, self.training.steps
        )


def _heads_at_mode(problem: OutcomePosterior, settings: Settings) -> LinearDraws:
    """Find the weights of the heads at their mode, under hyperparameters of the highest evidence.

    Approximates the posterior of the weights and of the hyperparameters by a point: all draws are alike.
    The evidence is Laplace's. Over many features of few rows the mode predicts better than averages over the
    normal approximation around it, which are far too unsure.
    """
    rng = np.random.default_rng(settings.seed)
    start, converged = problem.space.initial(rng, 1), True
    point = start[0]
    if problem.space.size:
        mode = find_modes(problem.density(), start, ROUGHLY)[0]
        point, converged = mode.point, mode.converged
    C, N = settings.num_chains, settings.num_draws or _NUM_DRAWS
    points = point.expand(C, N, -1)
    values = problem.space.constrain(point[None])
    structure, noise = problem.structure(values), problem.noise(values, 1)
    stats = {"converged": np.full((C, N), converged), "start_disagreement": np.zeros((C, N))}
    tasks = LaplaceMarginal(problem).data(structure, 1, values)
    weights = posterior_mean(tasks, structure, noise)
    drawn = problem.complete(points, stats, rng, at_mode=True)
    basis = drawn.basis
    shared = whiten(tasks, structure, noise).basis_mean
    if shared is not None:
        basis = shared.reshape(1, 1, *basis.shape[2:]).expand_as(basis)
    factors = drawn.factors.mean((0, 1), keepdim=True).expand_as(drawn.factors)
    whole = weights[None].expand_as(drawn.weights)
    return replace(drawn, weights=whole.clone(), basis=basis.clone(), factors=factors.clone())


MODE = Engine(
    "mode",
    _heads_at_mode,
    "mode",
    needs=frozenset({Trait.ROWS}),
    cannot=frozenset({Trait.PARTITION}),
    approximates="heads and their hyperparameters are at their mode: intervals show how members differ",
)
