"""Hierarchical linear regression with a full covariance: intercepts and slopes that vary together.

    W = 1 mu' + E,   A = ones,   Z = mu' ~ N(0, I),   e_t ~ N(0, Sigma),   Sigma = diag(s) Omega diag(s)

with half-normal scales s and an LKJ prior on the correlation Omega. On Exam (65 schools, 4,059 pupils) each
school has an intercept and a slope of the reading test at intake. The same model without priors is the
random intercept-and-slope model, whose restricted maximum-likelihood (REML) estimates stand beside the
posterior (`method="exact"`). The explained variances use `method="empirical_bayes"` for speed.

Source: Lindley and Smith (1972) for the model; Goldstein et al. (1993) for the data.
Run: python models/hierarchical_full.py [--reduced]
"""

import warnings

import numpy as np
import pandas as pd
from _common import BASELINES, compare, empirical_bayes, load, reduced_asked, show, task_data

import bayesmtl as bm

SHARING = bm.Hierarchical(covariance="full")
MODEL = bm.LinearModel(sharing=SHARING, likelihood=bm.Gaussian())
SLOPE = "standLRT"


def posterior_table(fit: bm.Fit) -> pd.DataFrame:
    """Means, scales and the correlation of intercept and slope: mean, sd and 90 % interval."""
    draws = fit.posterior
    names = {"intercept": "Intercept", "slope": SLOPE}
    quantities = {f"mean {k}": draws["population"].sel(feature=v) for k, v in names.items()}
    quantities |= {f"sd of {k}s": draws["residual_scale"].sel(feature=v) for k, v in names.items()}
    quantities["correlation of the two"] = draws["residual_correlation"].sel(
        feature="Intercept", feature_other=SLOPE
    )
    quantities["noise sd"] = draws["noise"]
    flat = {name: array.to_numpy().ravel() for name, array in quantities.items()}
    rows = {name: [v.mean(), v.std(ddof=1), *np.quantile(v, [0.05, 0.95])] for name, v in flat.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["mean", "sd", "5 %", "95 %"])


def reml(data: bm.TaskData) -> list[float]:
    """The estimates of statsmodels' MixedLM, in the order of `posterior_table`.

    The slope is taken about the mean of its feature, where our prior on the intercepts' spread is stated too.
    """
    from statsmodels.regression.mixed_linear_model import MixedLM

    X = data.X.copy()
    center = X[:, 1].mean()
    X[:, 1] -= center
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on reduced data a variance may end at zero
        result = MixedLM(data.y, X, groups=data.task, exog_re=X).fit(reml=True)
    intercept, slope = np.asarray(result.fe_params)
    covariance = np.asarray(result.cov_re)
    sd = np.sqrt(np.diag(covariance))
    correlation = covariance[0, 1] / (sd[0] * sd[1])
    return [intercept - slope * center, slope, sd[0], sd[1], correlation, float(np.sqrt(result.scale))]


def main() -> None:
    reduced = reduced_asked(__doc__)
    data = task_data(load("exam"), reduced=reduced, features=[SLOPE])
    length = {"num_draws": 50, "num_warmup": 50} if reduced else {}
    fit = MODEL.fit(data, method="exact", seed=0, progress=False, **length)
    print(fit, fit.check(), sep="\n")
    table = posterior_table(fit)
    try:
        table["REML"] = reml(data)
    except ImportError:
        print("(statsmodels is not installed: no REML estimates)")
    print(table.round(3).to_string())
    methods = {"hierarchical, full (this page)": empirical_bayes(SHARING)} | BASELINES
    show(compare(data, methods, reduced=reduced), what="Exam", reduced=reduced)


if __name__ == "__main__":
    main()
