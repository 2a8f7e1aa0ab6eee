"""Semiparametric latent factors (Teh, Seeger and Jordan, 2005): a few functions, each task a mixture of them.

    f_t(x) = m_t + sum_r A[t,r] g_r(x),   g_r ~ GP(0, k_r)      (W = A Z without E, for functions)

Every latent function has length-scales of its own and every task noise of its own; loadings have any sign,
and those of a function that is not needed shrink together. Nothing is private to a task. Beside it the linear
model of coregionalisation, which adds private functions, intrinsic coregionalisation (one kernel for all),
and Gaussian processes that share nothing but their kernel.

Data: Jura, cadmium at 100 validation sites, given nickel and zinc at all 359 and cadmium at 259. Log
concentrations; the error is that of the median, in mg/kg. Nickel and zinc alone, without space, do nearly as
well as most published models. Hyperparameters are at their posterior mode; `method="laplace"` integrates
over them (`python -m benchmarks.jura`).

Source: Teh, Seeger and Jordan (2005). Semiparametric latent factor models. AISTATS. Goovaerts (1997) for the
linear model of coregionalisation and the data.
Run: python models/semiparametric_latent_factors.py [--reduced]
"""

import numpy as np
from _common import Quoted, load, reduced_asked

import bayesmtl as bm

METALS = ("Cd", "Ni", "Zn")
OWN = (bm.Matern(),) * 3
NOISE = bm.Gaussian(noise="task")
MODELS = {
    "semiparametric latent factors, 3 (this page)": bm.MultitaskGP(OWN, bm.LowRank(rank=3), NOISE),
    "linear coregionalisation, 2 and private": bm.MultitaskGP(OWN, bm.LowRank(rank=2), NOISE),
    "intrinsic coregionalisation, 1 and private": bm.MultitaskGP(bm.Matern(), bm.LowRank(rank=1), NOISE),
    "single-task": bm.MultitaskGP(bm.Matern(), bm.Independent(), NOISE),
}
LITERATURE = (
    Quoted("Requeima et al. 2019, ICM, logarithms", ".4114", "published"),
    Quoted("Requeima et al. 2019, SLFM, logarithms", ".4145", "published"),
    Quoted("Requeima et al. 2019, D-GPAR, logarithms", ".3996", "published"),
)


def main() -> None:
    reduced = reduced_asked(__doc__)
    frame = load("jura").frame
    if reduced:
        frame = frame[frame["site"].astype(int) % 6 == 0]
    wide = frame.pivot(index="site", columns="metal", values="concentration")[list(METALS)]
    of_site = frame.drop_duplicates("site").set_index("site").loc[wide.index]
    held_out = of_site["split"].to_numpy() != "prediction"
    Y = np.log(wide.to_numpy())
    truth = np.exp(Y[held_out, 0])

    design = np.column_stack([np.ones(len(Y)), Y[:, 1:]])
    weights = np.linalg.lstsq(design[~held_out], Y[~held_out, 0], rcond=None)[0]
    errors = {"log-OLS on nickel and zinc, no space": np.abs(np.exp(design[held_out] @ weights) - truth)}

    Y[held_out, 0] = np.nan
    places = of_site[["Xloc", "Yloc"]]
    data = bm.TaskData.from_wide(places, Y, METALS, task_column="metal").with_target_standardization("task")
    for name, model in MODELS.items():
        fit = model.fit(data, method="empirical_bayes", seed=0, progress=False)
        prediction = fit.predict((places[held_out], ["Cd"] * len(truth)), joint=False)
        errors[name] = np.abs(np.exp(prediction.mean) - truth)

    print(
        f"\nMean absolute error of cadmium at {len(truth)} sites, mg/kg, and the paired difference to log-OLS"
    )
    if reduced:
        print("(reduced data: these numbers only show that the page runs)")
    first = next(iter(errors.values()))
    for name, error in errors.items():
        gap = error - first
        print(
            f"  {name:<44} {error.mean():.4f}  {gap.mean():+.4f} +- {gap.std(ddof=1) / len(gap) ** 0.5:.4f}"
        )
    print("Literature")
    for quoted in LITERATURE:
        print(f"  {quoted.source:<44} {quoted.value}  ({quoted.provenance})")


if __name__ == "__main__":
    main()
