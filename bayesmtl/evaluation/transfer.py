"""Did sharing help? For every task, and overall, with how sure that is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from bayesmtl.data import TaskData
from bayesmtl.errors import SpecificationError, listing
from bayesmtl.evaluation.compare import Comparison, Model, compare
from bayesmtl.likelihoods import Gaussian
from bayesmtl.models import LinearModel
from bayesmtl.results import Fit
from bayesmtl.sharing import Hierarchical, Independent, Pooled

SURE = 0.95  # probability from which a word is given
_BORROWED = 4  # rows that the variance of all tasks counts for beside a task's own


@dataclass(frozen=True, eq=False)
class TransferReport:
    """What sharing gained or lost, task by task, against the same model without sharing.

    Args:
        tasks: One row per task, most helped first: `rows`; `gain`, the sum over its rows of the log
            predictive density of a row left out, beyond that of `Independent`; `gain_per_row` with `lower`
            and `upper`, the 90 % interval of the task's expected gain per row; `probability_helped`;
            `verdict`, one of "helped", "no difference" and "harmed"; `error_alone` and `error_shared`, root
            mean square errors of rows left out (where targets are numbers).
        overall: The model, `Independent` and `Pooled` from best to worst.
        name: What the model is called there.
    """

    tasks: pd.DataFrame
    overall: Comparison
    name: str

    @property
    def harmed(self) -> list[str]:
        """Tasks that are predicted worse with sharing than without."""
        return [str(name) for name in self.tasks.index[self.tasks["verdict"] == "harmed"]]

    @property
    def helped(self) -> list[str]:
        """Tasks that are predicted better with sharing than without."""
        return [str(name) for name in self.tasks.index[self.tasks["verdict"] == "helped"]]

    @property
    def advice(self) -> str:
        """What to do, in a sentence or two."""
        best = str(self.overall.table.index[0])
        table = self.overall.table
        told = []
        if best != self.name:
            gap = -float(table["difference"][self.name])
            error = float(table["difference_se"][self.name])
            if gap > 2 * error:
                told.append(
                    f"{best} predicts better by {gap:.1f} nats (standard error {error:.1f}): use it instead."
                )
        if self.harmed:
            told.append(
                f"Sharing harms {listing(self.harmed)}: fit them apart (data.select_tasks), or use a prior "
                "that lets tasks depart, such as Hierarchical() or DirichletProcess()."
            )
        return " ".join(told) or "Keep this model: no task is better off alone."

    def __repr__(self) -> str:
        counts = self.tasks["verdict"].value_counts()
        told = ", ".join(
            f"{word} {int(counts.get(word, 0))}" for word in ("helped", "no difference", "harmed")
        )
        return f"Sharing and {len(self.tasks)} tasks: {told}.\n{self.advice}\n{self.overall}"

    def _repr_html_(self) -> str:
        lines = "<br>".join(escape(line) for line in repr(self).splitlines()[:2])
        return f"<p>{lines}</p>{self.overall._repr_html_()}{self.tasks.round(3).to_html()}"


def transfer_report(
    model: Model, data: TaskData, *, seed: int = 0, fit: Fit | None = None, **settings: Any
) -> TransferReport:
    """Say whether sharing helps these tasks: the model beside no sharing and full pooling.

    Every observed row is predicted from all others by the model, and by the same model with `Independent` and
    `Pooled` tasks. A row's gain is the difference of its log predictive densities from that of `Independent`.
    With many tasks some gain or lose much by chance, so the gains get a hierarchical model themselves: a
    task's mean gain is N(delta_t, its squared standard error), delta_t around a common mean. A verdict is
    given where delta_t has its sign with probability .95.

    Args:
        model: The model.
        data: The rows of all tasks.
        seed: Seed of all fits.
        fit: A fit of the model to these rows, if there is one already.
        settings: Passed to the models' `fit`, such as `method` and `num_draws`.

    Raises:
        SpecificationError: If the model is `Independent`, which shares nothing.

    Example:
        >>> from bayesmtl import LinearModel, TaskData
        >>> rng = np.random.default_rng(0)
        >>> x, task = rng.normal(size=90), np.repeat(list("abcdefghi"), 10)
        >>> data = TaskData.from_arrays(np.stack([x, x**2, x**3], 1), x + rng.normal(size=90), task)
        >>> report = transfer_report(LinearModel(), data, method="empirical_bayes")
        >>> report.overall.table.index[-1], report.harmed
        ('Independent', [])
    """
    if isinstance(model.sharing, Independent):
        raise SpecificationError(
            "model",
            expected="a model whose tasks share",
            found=repr(model.sharing),
            remedy="Pass LinearModel(Hierarchical()), say; Independent() is what it is compared with.",
        )
    name = type(model.sharing).__name__
    settings = {"progress": False} | settings
    own = model.fit(data, seed=seed, **settings) if fit is None else fit
    alone = replace(model, sharing=Independent()).fit(data, seed=seed, **settings)
    left_out = {name: own.leave_one_out(), "Independent": alone.leave_one_out()}
    fits: dict[str, Model | Fit] = {name: own, "Independent": alone}
    if not isinstance(model.sharing, Pooled):
        fits["Pooled"] = replace(model, sharing=Pooled()).fit(data, seed=seed, **settings)
    overall = compare(fits)
    shared, private = (left_out[which].to_frame() for which in (name, "Independent"))
    gains = pd.DataFrame({"task": shared["task"], "gain": shared["log_density"] - private["log_density"]})
    tasks = _by_task(gains, seed)
    if "mean" in shared:
        for column, table in (("error_alone", private), ("error_shared", shared)):
            squares = (table["target"] - table["mean"]) ** 2
            tasks[column] = np.sqrt(squares.groupby(table["task"]).mean())[tasks.index]
    return TransferReport(tasks.sort_values("gain_per_row", ascending=False), overall, name)


def _by_task(gains: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Expected gain per row of every task, by a hierarchical model of the tasks' mean gains."""
    grouped = gains.groupby("task", sort=False)["gain"]
    count, mean = grouped.count(), grouped.mean()
    table = pd.DataFrame({"rows": count, "gain": grouped.sum()})
    free = count - 1
    squares = (
        ((gains["gain"] - mean[gains["task"]].to_numpy()) ** 2).groupby(gains["task"]).sum()[count.index]
    )
    # a few rows say little about their variance: that of all tasks counts as a few more
    typical = float(squares.sum()) / max(int(free.sum()), 1)
    error = np.sqrt((squares + _BORROWED * typical) / (free + _BORROWED) / count)
    if len(count) > 1 and np.ptp(mean) > 0 and float(error.min()) > 0:
        rows = TaskData.from_arrays(np.empty((len(count), 0)), mean.to_numpy(), list(count.index))
        noise = Gaussian(noise={str(name): float(value) for name, value in error.items()})
        fit = LinearModel(Hierarchical(), noise).fit(rows, seed=seed, num_draws=1000, progress=False)
        weights = fit.posterior["weights"].stack(sample=("chain", "draw")).isel(feature=0)
        draws = weights.transpose("sample", "task").to_numpy()
    else:
        fresh = np.random.default_rng(seed).normal(size=(4000, len(count)))
        draws = mean.to_numpy() + error.to_numpy() * fresh
    table["gain_per_row"] = draws.mean(axis=0)
    table["lower"], table["upper"] = np.quantile(draws, [0.05, 0.95], axis=0)
    table["probability_helped"] = (draws > 0).mean(axis=0)
    sure = table["probability_helped"]
    table["verdict"] = np.select([sure >= SURE, sure <= 1 - SURE], ["helped", "harmed"], "no difference")
    return table
