"""Models side by side, by how well they predict rows, tasks or the time to come."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from arviz_stats.loo import compare as arviz_compare
from arviz_stats.utils import ELPDData
from xarray import DataArray

from bayesmtl.data import TaskData
from bayesmtl.errors import DataError, SpecificationError, listing
from bayesmtl.models import LinearModel, MultitaskGP
from bayesmtl.options import check_option
from bayesmtl.results import Fit

Model = LinearModel | MultitaskGP
By = Literal["row", "task", "time"]
_UNIT = {"row": "rows left out one by one", "task": "tasks never seen", "time": "rows later than all before"}


@dataclass(frozen=True, eq=False)
class Comparison:
    """Models from best to worst by expected log predictive density.

    Args:
        table: One row per model, best first: `elpd`, `se`, `difference` from the best and its standard error
            `difference_se`, stacking `weight` and `reliable`.
        pointwise: Log densities, one row per row (or task) left out and one column per model.
        by: What was left out.
    """

    table: pd.DataFrame
    pointwise: pd.DataFrame
    by: By

    @property
    def weights(self) -> dict[str, float]:
        """Stacking weights: of a mixture of the models' predictions, they sum to 1."""
        return {str(name): float(weight) for name, weight in self.table["weight"].items()}

    def __repr__(self) -> str:
        return f"Comparison by {_UNIT[self.by]} ({len(self.pointwise)})\n{self.table.round(3)}"

    def _repr_html_(self) -> str:
        return f"<p>By {_UNIT[self.by]} ({len(self.pointwise)}):</p>{self.table.round(3).to_html()}"


def compare(
    models: Mapping[str, Model | Fit],
    data: TaskData | None = None,
    *,
    by: By = "row",
    k: int = 5,
    seed: int = 0,
    **settings: Any,
) -> Comparison:
    """Compare models by their expected log predictive density on what they have not seen.

    Args:
        models: By name: models, or fits where rows are left out.
        data: The rows; not needed where all are fits.
        by: "row": each observed row given all others, in closed form or by smoothed importance weights
            (`Fit.leave_one_out`). "task": the rows of a task given other tasks, jointly, by k refits; the
            question where new tasks are to come. "time": rows given those before them, by k refits.
        k: Refits, of "task" and "time".
        seed: Seed of folds and fits.
        settings: Passed to the models' `fit`, such as `method` and `num_draws`.

    Returns:
        A table with standard errors and stacking weights.

    Raises:
        SpecificationError: If there are fewer than two models, or fits where models are needed.
        DataError: If fits are of different rows.

    Source: Vehtari, Gelman and Gabry (2017); Yao, Vehtari, Simpson and Gelman (2018) for stacking, which is
    ArviZ's.

    Example:
        >>> from bayesmtl import Hierarchical, LinearModel, Pooled, TaskData
        >>> rng = np.random.default_rng(0)
        >>> x, task = rng.normal(size=80), np.repeat(list("abcd"), 20)
        >>> y = np.repeat([-2.0, -1.0, 1.0, 2.0], 20) * x + 0.3 * rng.normal(size=80)
        >>> data = TaskData.from_arrays(x[:, None], y, task)
        >>> models = {"pooled": LinearModel(Pooled()), "hierarchical": LinearModel(Hierarchical())}
        >>> compare(models, data, method="empirical_bayes").table.index[0]
        'hierarchical'
    """
    check_option("by", by, ("row", "task", "time"))
    if not isinstance(models, Mapping) or len(models) < 2:
        raise SpecificationError(
            "models",
            expected="at least two models or fits by name",
            found=type(models).__name__ if not isinstance(models, Mapping) else listing(list(models)),
            remedy='Pass {"hierarchical": LinearModel(), "pooled": LinearModel(Pooled())}.',
        )
    if by == "row":
        densities = {name: _row_densities(part, data, seed, settings) for name, part in models.items()}
    else:
        densities = _refitted(models, data, by, k, seed, settings)
    return _compared(densities, by)


def _row_densities(part: Model | Fit, data: TaskData | None, seed: int, settings: dict[str, Any]) -> ELPDData:
    if isinstance(part, Fit):
        fit = part
    else:
        fit = part.fit(_needed(data), seed=seed, **({"progress": False} | settings))
    return fit.leave_one_out()


def _needed(data: TaskData | None) -> TaskData:
    if data is None:
        raise DataError(
            "data", expected="the rows to fit models to", found="none", remedy="Pass data, or fits of it."
        )
    return data


def _refitted(
    models: Mapping[str, Model | Fit],
    data: TaskData | None,
    by: By,
    k: int,
    seed: int,
    settings: dict[str, Any],
) -> dict[str, ELPDData]:
    fitted = [name for name, part in models.items() if isinstance(part, Fit)]
    if fitted:
        raise SpecificationError(
            "models",
            expected=f'models, which by="{by}" fits again without what it tests',
            found=f"fits ({listing(fitted)})",
            remedy='Pass the models, or use by="row".',
        )
    folds = _needed(data).folds(k, seed=seed, by=by)
    found = {}
    for name, model in models.items():
        assert not isinstance(model, Fit)
        parts = []
        for train, test in folds:
            fit = model.fit(train, seed=seed, **({"progress": False} | settings))
            prediction = fit.predict(test, new_tasks="population", kind="latent")
            if by == "task":
                parts.append(prediction.log_density_by_task(test.y))
            else:
                labels = np.array(test.task_names)[test.task]
                parts.append(pd.Series(prediction.log_density(test.y), index=labels))
        density = pd.concat(parts)
        found[name] = _elpd(density.to_numpy(), density.index.to_numpy())
    return found


def _elpd(density: np.ndarray, labels: np.ndarray) -> ELPDData:
    n = len(density)
    coords = {"obs": np.arange(n), "task": ("obs", labels), "row": ("obs", np.arange(n))}
    return ELPDData(
        kind="loo",
        elpd=float(density.sum()),
        se=float(np.sqrt(n) * density.std(ddof=1)),
        p=float("nan"),
        n_samples=1,
        n_data_points=n,
        scale="log",
        warning=False,
        good_k=0.7,
        elpd_i=DataArray(density, coords=coords, dims="obs"),
        pareto_k=DataArray(np.full(n, np.nan), coords=coords, dims="obs"),
    )


def _compared(densities: dict[str, ELPDData], by: By) -> Comparison:
    rows = {
        name: list(zip(elpd.elpd_i["task"].to_numpy(), elpd.elpd_i["row"].to_numpy(), strict=True))
        for name, elpd in densities.items()
    }
    first, *others = rows
    different = [name for name in others if rows[name] != rows[first]]
    if different:
        raise DataError(
            "models",
            expected=f"fits of the same rows as {first!r}",
            found=f"other rows in {listing(different)}",
            remedy="Fit all models to the same data.",
        )
    pointwise = pd.DataFrame(
        {name: elpd.elpd_i.to_numpy() for name, elpd in densities.items()},
        index=pd.Index(densities[first].elpd_i["task"].to_numpy(), name="task"),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The inplace keyword")  # of pandas, to ArviZ 0.8
        stacked = arviz_compare(dict(densities))
    best = pointwise[stacked.index[0]]
    away = {name: pointwise[name] - best for name in stacked.index}
    table = pd.DataFrame(
        {
            "elpd": pointwise.sum()[stacked.index],
            "se": [np.sqrt(len(best)) * pointwise[name].std(ddof=1) for name in stacked.index],
            "difference": [away[name].sum() for name in stacked.index],
            "difference_se": [np.sqrt(len(best)) * away[name].std(ddof=1) for name in stacked.index],
            "weight": stacked["weight"],
            "reliable": [not densities[name].warning for name in stacked.index],
        },
        index=pd.Index(stacked.index, name="model"),
    )
    return Comparison(table, pointwise, by)
