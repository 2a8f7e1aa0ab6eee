"""Networks with task-specific heads: f_t(x) = phi(x)'w_t with W = A Z + E and phi a trunk that all share."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from bayesmtl.data import TaskData
from bayesmtl.errors import ConvergenceWarning, SpecificationError
from bayesmtl.features import FeatureMap, Mlp, Module, Trunk
from bayesmtl.inference.deep import MODE, Training, train
from bayesmtl.likelihoods import Gaussian, Likelihood
from bayesmtl.models.linear import LinearModel, check_data
from bayesmtl.options import check_flag, check_option, whole_number
from bayesmtl.posteriors.deep import on_columns
from bayesmtl.posteriors.linear.build import linear_posterior
from bayesmtl.results import DeepFit, LinearFit
from bayesmtl.results.deep.state import EnsembleDraws
from bayesmtl.samplers.settings import Settings
from bayesmtl.sharing import Dependence, Hierarchical, Sharing

Inputs = Literal["shared", "columns", "none"]


@dataclass(frozen=True)
class DeepModel:
    """A network whose trunk all tasks share and whose heads, one per task, carry a sharing prior.

    Given the trunk, the heads are a `LinearModel` on its features: under Gaussian noise they integrate out,
    and the trunk follows the gradient of what is left (Fisher's identity). The trunk has no prior; held-out
    rows and weight decay keep it from overfitting, and several trunks form an ensemble.

    `Independent()` heads are hard parameter sharing; heads around a population or with a low rank share in
    the last layer as well. Tasks that exclude each other are one `Categorical` target, whose classes share.

    Args:
        trunk: Made by `trunks.mlp`, `trunks.conv` or `trunks.identity`, or a `torch.nn.Module` from
            (n, inputs) to (n, features). Inputs are the columns of the data without the constant.
        sharing: Prior of the heads.
        likelihood: How targets scatter, as for `LinearModel`.
        skip: Whether the raw columns go to the heads beside the features, so that the linear model is part of
            this one.
        members: Trunks of the ensemble, trained in one batched computation.
        augment: Moves the inputs of a minibatch, (n, inputs) as the data give them, without changing what
            their targets mean; takes the inputs and a generator, and returns as many of the same shape.
        weight_decay: Decay of AdamW for weight matrices of the trunk, and of heads where they are trained
            with it.
        inputs: How a trunk's inputs are brought to scale: by one number for all columns ("shared"), column by
            column ("columns"), or not at all ("none"). Columns by themselves are right for measurements in
            different units, and wrong for pixels.

    Source: hard parameter sharing is Caruana's (1997); Fisher's identity with exact heads is our reading of
    deep kernel learning; weights of tasks by their noise are those of Kendall, Gal and Cipolla (2018).

    Example:
        >>> from bayesmtl import TaskData, trunks
        >>> rng = np.random.default_rng(0)
        >>> x, task = rng.uniform(-2, 2, 300), np.repeat(["a", "b", "c"], 100)
        >>> data = TaskData.from_arrays(x[:, None], np.sin(2 * x) + 0.1 * rng.normal(size=300), task)
        >>> model = DeepModel(trunks.mlp(hidden=[16], out=8, activation="tanh"), members=2)
        >>> fit = model.fit(data, seed=0, steps=200, progress=False)
        >>> fit.predict(data, kind="latent").mean.shape
        (300,)
    """

    trunk: Trunk | torch.nn.Module = field(default_factory=lambda: Mlp((64,), 16))
    sharing: Sharing = field(default_factory=Hierarchical)
    likelihood: Likelihood = field(default_factory=Gaussian)
    skip: bool = True
    members: int = 5
    augment: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = None
    weight_decay: float = 0.1
    inputs: Inputs = "shared"

    def __post_init__(self) -> None:
        if isinstance(self.trunk, torch.nn.Module):
            object.__setattr__(self, "trunk", Module(self.trunk))
        if not isinstance(self.trunk, Trunk):
            raise SpecificationError(
                "trunk",
                expected="a trunk or a torch.nn.Module",
                found=repr(self.trunk),
                remedy="Pass trunks.mlp(hidden=[64], out=16), or a module from (n, inputs) to (n, features).",
            )
        heads = LinearModel(self.sharing, self.likelihood)  # which checks both
        object.__setattr__(self, "likelihood", heads.likelihood)
        check_flag("skip", self.skip)
        whole_number("members", self.members, 1)
        check_option("inputs", self.inputs, ("shared", "columns", "none"))
        _check_number("weight_decay", self.weight_decay, 0.0, float("inf"))
        if self.augment is not None and not callable(self.augment):
            raise SpecificationError(
                "augment",
                expected="a function of inputs and a generator, or None",
                found=repr(self.augment),
                remedy="Pass a function that returns inputs of the same shape.",
            )

    def fit(
        self,
        data: TaskData,
        *,
        method: str = "auto",
        seed: int,
        steps: int = 1000,
        batch_size: int = 64,
        learning_rate: float = 3e-3,
        validation: float = 0.1,
        refresh: int = 50,
        patience: int = 5,
        num_chains: int = 4,
        num_draws: int | None = None,
        num_warmup: int = 200,
        progress: bool = True,
        checkpoint: str | Path | None = None,
        device: str = "cpu",
    ) -> DeepFit:
        """Train the trunks, then infer the heads on the features of each.

        Args:
            data: Rows of T tasks; rows without a target do not count.
            method: Engine of the heads on the trained features. Under Gaussian noise "empirical_bayes" (which
                "auto" chooses, but where the partition of the tasks is unknown) or any of `LinearModel.fit`.
                For other likelihoods "mode": heads at their mode, under hyperparameters of the highest
                evidence.
            seed: Source of all randomness.
            steps: Minibatches at most.
            batch_size: Rows of each.
            learning_rate: Highest step size of AdamW.
            validation: Share of each task's rows, rounded down, that decides when training stops; 0 for none.
                The heads of the result see all rows.
            refresh: Steps between two meetings of heads and features.
            patience: Refreshes without a gain in held-out density after which training stops.
            num_chains: As for `LinearModel.fit`, like `num_draws` and `num_warmup`: for the heads.
            num_draws: Kept draws per chain, for every member.
            num_warmup: Iterations to adapt in.
            progress: Whether to show progress on stderr.
            checkpoint: File to save the training in every few seconds and to resume it from.
            device: Where trunks are computed: "cpu", or "cuda" where there is one.

        Raises:
            DataError: If a target is none that the likelihood allows.
            SpecificationError: If the trunk does not fit the data, or an option makes no sense.
            CheckpointError: If the checkpoint is damaged or belongs to another run.

        Warns:
            ConvergenceWarning: If trunk or heads are not to be trusted, and why.
        """
        check_data(data)
        data = self.likelihood.prepared(data)
        settings = Settings(seed, num_chains, num_draws, num_warmup, progress, checkpoint)
        training = Training(
            whole_number("steps", steps, 1),
            whole_number("batch_size", batch_size, 1),
            _check_number("learning_rate", learning_rate, 0.0, 1.0),
            float(self.weight_decay),
            _check_number("validation", validation, 0.0, 0.9),
            whole_number("refresh", refresh, 1),
            whole_number("patience", patience, 1),
            _device(device),
        )
        engine, reason = self._engine(method)
        features, names = self._features(data, settings.seed)
        trained = train(
            features, names, data, self.sharing, self.likelihood, training, settings, self.augment
        )
        columns = trained.features(data.X)
        heads = tuple(
            self._heads(
                on_columns(data, own, names), engine, reason, replace(settings, seed=settings.seed + m)
            )
            for m, own in enumerate(columns)
        )
        return DeepFit(
            sharing=heads[0].sharing,
            likelihood=self.likelihood,
            schema=data.schema,
            standardization=heads[0].standardization,
            draws=EnsembleDraws.of(heads),
            data=data,
            method=heads[0].method,
            reason=heads[0].reason,
            seed=settings.seed,
            trained=trained,
            heads=heads,
        ).warn()

    def _engine(self, method: str) -> tuple[str, str]:
        """Name of the heads' engine, and why."""
        if self.likelihood.compresses:
            if method == "auto" and self.sharing.dependence is not Dependence.PARTITION:
                return (
                    "empirical_bayes",
                    'one run per member; method="exact" gives the full posterior of the heads',
                )
            return method, "asked for"
        if method not in ("auto", MODE.name) or self.sharing.dependence is Dependence.PARTITION:
            partitioned = self.sharing.dependence is Dependence.PARTITION
            raise SpecificationError(
                "sharing" if partitioned else "method",
                expected="a prior without partitions of the tasks" if partitioned else '"auto" or "mode"',
                found=type(self.sharing).__name__ if partitioned else repr(method),
                remedy="Over the features of a trunk, averages over an approximate posterior of heads for "
                f"{type(self.likelihood).__name__} are far too unsure: heads are found at their mode.",
            )
        return MODE.name, f"{type(self.likelihood).__name__}: heads do not integrate out exactly"

    def _features(self, data: TaskData, seed: int) -> tuple[FeatureMap, tuple[str, ...]]:
        """The map with its first weights, and names of the heads' columns without the constant."""
        assert isinstance(self.trunk, Trunk)
        first = int(data.has_intercept)
        raw, own = data.X[data.observed, first:], data.feature_names[first:]
        if not own:
            raise SpecificationError(
                "data",
                expected="at least one feature besides the constant",
                found="none",
                remedy="Name features=[...] when building the data.",
            )
        width = self.trunk.width(len(own))
        generator = torch.Generator().manual_seed(seed)
        weights = self.trunk.initial(len(own), self.members, generator)
        if not weights and self.members > 1:
            raise SpecificationError(
                "members",
                expected="1 for a trunk without weights",
                found=str(self.members),
                remedy="Pass members=1: all of them would be alike.",
            )
        center, scale = np.zeros(len(own)), np.ones(len(own))
        if self.inputs == "shared":
            center, scale = center + raw.mean(), scale * (raw.std() or 1.0)
        elif self.inputs == "columns":
            spread = raw.std(0)
            center, scale = raw.mean(0), np.where(spread > 0, spread, 1.0)
        taken = {*own, data.task_column, data.target_name, *data.row_columns.values()}
        stem = "phi"
        while any(f"{stem}_{j}" in taken for j in range(width)):
            stem += "_"
        learned = tuple(f"{stem}_{j}" for j in range(width))
        features = FeatureMap(self.trunk, weights, center, scale, self.skip, data.has_intercept)
        features(data.X[:2])  # a trunk that gives nothing finite shows here
        return features, (*own, *learned) if self.skip else learned

    def _heads(self, data: TaskData, method: str, reason: str, settings: Settings) -> LinearFit:
        """The heads of one member."""
        if method != MODE.name:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # `DeepFit.check` gathers what they say
                fit = LinearModel(self.sharing, self.likelihood).fit(
                    data,
                    method=method,
                    seed=settings.seed,
                    num_chains=settings.num_chains,
                    num_draws=settings.num_draws,
                    num_warmup=settings.num_warmup,
                    progress=settings.progress,
                )
            return replace(fit, reason=reason)
        standardization = self.likelihood.standardization(data)
        problem, statistics = linear_posterior(self.sharing, self.likelihood, data, standardization)
        draws = MODE.run(problem, replace(settings, checkpoint=None))
        return LinearFit(
            sharing=problem.sharing,
            likelihood=self.likelihood,
            schema=data.schema,
            standardization=standardization,
            statistics=statistics,
            draws=draws,
            method=MODE.name,
            reason=reason,
            seed=settings.seed,
            data=data,
        )


def _check_number(name: str, value: object, least: float, most: float) -> float:
    if not isinstance(value, Real) or isinstance(value, bool) or not least <= float(value) <= most:
        raise SpecificationError(
            name,
            expected=f"a number from {least:g} to {most:g}",
            found=repr(value),
            remedy=f"Leave it out for the default, or pass a number such as {name}={least:g}.",
        )
    return float(value)


def _device(name: object) -> str:
    check_option("device", name, ("cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise SpecificationError(
            "device",
            expected='"cpu" on this machine',
            found='"cuda"',
            remedy="torch sees no CUDA device here.",
        )
    return str(name)
