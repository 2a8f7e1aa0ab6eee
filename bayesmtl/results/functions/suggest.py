"""Which rows of which task to measure next."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from bayesmtl.algebra.greedy import greedy_choice
from bayesmtl.errors import SpecificationError
from bayesmtl.options import whole_number
from bayesmtl.posteriors.functions.capacity import refuse_beyond
from bayesmtl.results.functions.fit import FunctionFit
from bayesmtl.results.functions.given import given_data
from bayesmtl.results.functions.state import length

_NUMBERS = 50_000_000  # in the covariance matrices of the candidates, all hyperparameter draws together


def suggest(fit: FunctionFit, candidates: Any, n: int, *, num_draws: int = 20) -> pd.DataFrame:
    """Choose the rows whose targets would say most about the tasks' functions, one after the other.

    Measuring row i with noise sigma_t lowers the entropy of the functions by 1/2 log(1 + v_i / sigma_t^2),
    where v_i is the variance of the function there given all rows so far, those already chosen included. The
    row with the largest reduction comes first, then the largest given that one, and so on; reductions are
    averaged over hyperparameter draws. What a row would say about the hyperparameters is left out. Rows of
    one task inform the others as far as tasks are related, which is what makes the choice one over tasks.

    Args:
        fit: A fit of `MultitaskGP`.
        candidates: Rows that could be measured, as for `Fit.predict`, of known tasks.
        n: How many to choose.
        num_draws: Hyperparameter draws to average over; fewer with many thousand candidates.

    Returns:
        One row per choice, best first, with the candidate's label as index: its task, `position` among the
        candidates, `sd` of the function there before it is measured, and `gain` in nats.

    Raises:
        SpecificationError: If this is no fit of a Gaussian process, or there are fewer candidates than n.
        UnknownTaskError: If a task is not known.
        DataError: If there are more candidates than a covariance matrix can be made of (8,000).

    Source: the greedy choice of the informative vector machine (Lawrence and Platt, 2004, for several
    tasks), with targets that are not known yet.

    Example:
        >>> from bayesmtl import MultitaskGP, TaskData
        >>> data = TaskData.from_arrays([[0.0], [0.1], [0.2], [0.3]], [1.0, 1.2, 1.5, 1.4], list("aabb"))
        >>> fit = MultitaskGP().fit(data, method="empirical_bayes", seed=0, progress=False)
        >>> suggest(fit, ([[0.15], [3.0]], ["a", "a"]), 1)["position"].tolist()
        [1]
    """
    if not isinstance(fit, FunctionFit):
        raise SpecificationError(
            "fit",
            expected="a fit of MultitaskGP",
            found=type(fit).__name__,
            remedy="Fit the functions as Gaussian processes.",
        )
    n = whole_number("n", n, 1)
    if not fit.likelihood.compresses:
        raise SpecificationError(
            "fit",
            expected="a fit with Gaussian noise",
            found=repr(fit.likelihood),
            remedy="What a row says about a function does not depend on its target only there.",
        )
    rows = fit.schema.encode(candidates, targets=False)
    codes = fit.schema.codes(rows.task_labels)
    unknown = sorted({str(label) for label in rows.task_labels[codes < 0]})
    if unknown:
        raise fit.unknown(unknown, "Leave them out: nothing tells how uncertain a task without rows is.")
    m = len(codes)
    if m < n:
        raise SpecificationError(
            "n", expected=f"at most {m}, the number of candidates", found=str(n), remedy="Ask for fewer."
        )
    refuse_beyond("candidates", m, "candidates", "Choose among a sample of them.")
    values = fit.chosen_values(max(1, min(whole_number("num_draws", num_draws, 1), _NUMBERS // m**2)))
    covariance, noise = _covariance(fit, fit.inputs(rows.X), torch.from_numpy(codes), values)
    variance = covariance.diagonal(dim1=-2, dim2=-1).clone()
    chosen, gains, spreads = greedy_choice(variance, lambda i: covariance[:, :, i], noise, n)
    scale = fit.standardization.target_scale[codes[chosen]]
    index = pd.RangeIndex(m) if rows.index is None else rows.index
    return pd.DataFrame(
        {
            "task": rows.task_labels[chosen].astype(str),
            "position": chosen,
            "sd": np.array(spreads) * scale,
            "gain": gains,
        },
        index=index[chosen],
    )


def _covariance(
    fit: FunctionFit, X: torch.Tensor, task: torch.Tensor, values: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Posterior covariance of function values (S, m, m) and noise variances (S, m), standardised."""
    problem = fit.problem
    given = given_data(fit, values, problem.structure(values), X, task)
    return given.covariance, problem.noise(values, length(values)).square()[:, task]
