"""One of several classes, by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from scipy import special

from bayesmtl.data import Standardization, TaskData, TaskSummaries
from bayesmtl.errors import SpecificationError, listing
from bayesmtl.likelihoods.base import NOTHING, Given
from bayesmtl.likelihoods.rowwise import Derivatives, Rowwise


@lru_cache
def contrasts(num_classes: int) -> torch.Tensor:
    """H (K, K - 1) with H H' = (I - 1 1' / K) / 2: Helmert's contrasts, scaled.

    Example:
        >>> contrasts(2).tolist()
        [[-0.5], [0.5]]
    """
    H = np.zeros((num_classes, num_classes - 1))
    for c in range(1, num_classes):
        H[:c, c - 1], H[c, c - 1] = -1.0, c
        H[:, c - 1] /= np.sqrt(2 * c * (c + 1))
    return torch.from_numpy(H)


@dataclass(frozen=True)
class Categorical(Rowwise):
    """y ~ Categorical(softmax(eta)), one of K named classes: one weight vector per class.

    The K weight vectors of a task sum to zero, so that no class is the reference: eta = H f with K - 1
    predictors f, H H' = (I - 1 1' / K) / 2, and each predictor has the sharing prior, independently given the
    hyperparameters. Relabelling the classes therefore changes nothing but names, a scale is one number per
    feature and not per class, and the log odds of any two classes have the prior that the log odds have under
    `Bernoulli()`: with two classes it is `Bernoulli()`. Levels are measured from the shares of the classes
    among all rows.

    Targets are labels: a categorical column, which may have classes that no row shows, or whole numbers,
    taken as names; ``.astype("category")`` makes one of strings. Reported weights are eta's, one vector for
    each task and class: log odds per feature against the (geometric) mean of the classes. Predictions give
    one probability for every class. Engines are "laplace", corrected by importance weights, and "nuts".
    An offset, which would have to be one for every class, is refused.

    Source: for the symmetric parameters and their Laplace approximation in Gaussian process classification,
    Williams and Barber (1998), as recalled; the contrasts are Helmert's.

    Example:
        >>> Categorical().mean(np.array([[[0.0], [2.0]]])).round(2).tolist()
        [[[0.13], [0.13], [0.74]]]
    """

    unit: ClassVar[str] = "log odds"
    has_classes: ClassVar[bool] = True

    def prepared(self, data: TaskData) -> TaskData:
        """The data with named classes, those of whole numbers if it has none.

        Raises:
            DataError: If targets are no labels, or of one class only.
            SpecificationError: If there is an offset or there are numbers of trials.
        """
        for name in ("offset", "trials"):
            if getattr(data, name) is not None:
                raise SpecificationError(
                    name,
                    expected="none for Categorical()",
                    found=f"data with {'an offset' if name == 'offset' else 'numbers of trials'}",
                    remedy=f"Build the data without `{name}`.",
                )
        data = data if data.classes else data.with_classes()
        if len(data.classes) < 2:
            raise SpecificationError(
                "likelihood",
                expected=f"at least two classes of '{data.target_name}' for Categorical()",
                found=listing(data.classes),
                remedy="Make it a categorical column with all its classes.",
            )
        return data

    def standardization(self, data: TaskData | TaskSummaries) -> Standardization:
        """Features are standardised, and every predictor has the level of the shares of the classes.

        Half a row of every class is added.
        """
        if isinstance(data, TaskSummaries):
            raise data.need_rows("the likelihood Categorical")
        plain, K = super().standardization(data), len(data.classes)
        level = np.zeros(K - 1)
        if plain.target == "pooled" and data.has_intercept:
            seen = data.observed
            counts = None if data.weights is None else data.weights[seen]
            share = np.bincount(data.y[seen].astype(int), weights=counts, minlength=K) + 0.5
            level = 2 * contrasts(K).numpy().T @ np.log(share)  # H'H = I / 2, and H'1 = 0
        return replace(plain, level_by_predictor=level)

    def num_outputs(self, classes: tuple[str, ...]) -> int:
        """K - 1."""
        return len(classes) - 1

    def class_weights(self, weights: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
        """Weights of every class (..., K, D) from those of the predictors, flattened (..., (K - 1) D)."""
        H = contrasts(len(classes)).numpy()
        return np.asarray(H @ weights.reshape(*weights.shape[:-1], H.shape[1], -1))

    @staticmethod
    def _log_probabilities(f: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """H, and log p of every class, shape (B, K, n)."""
        H = contrasts(f.shape[-2] + 1)
        return H, torch.log_softmax(H @ f, dim=-2)

    def pyro_distribution(self) -> str:
        """See `Likelihood.pyro_distribution`."""
        return "dist.Categorical(logits={f} @ contrasts.T)"

    def pyro_names(self, num_classes: int) -> dict[str, Any]:
        """The matrix from linear predictors to the classes' logits."""
        return {"contrasts": contrasts(num_classes)}

    def derivatives(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> Derivatives:
        """log p(y | f), shape (B, n), and its first two derivatives in f, (B, C, n) and (B, C, C, n)."""
        H, log_p = self._log_probabilities(f)
        p = log_p.exp()
        mean = H.T @ p
        first = H[y.long()].T - mean
        products = (H[:, :, None] * H[:, None]).flatten(1)
        second = mean[:, :, None] * mean[:, None] - (products.T @ p).unflatten(1, (H.shape[1], -1))
        return Derivatives(self._chosen(log_p, y), first, second)

    def value(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """log p(y | f), shape (B, n)."""
        return self._chosen(self._log_probabilities(f)[1], y)

    @staticmethod
    def _chosen(log_p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return log_p.gather(-2, y.long().expand(*log_p.shape[:-2], 1, -1)).squeeze(-2)

    def third_derivative(self, y: torch.Tensor, f: torch.Tensor, given: Given = NOTHING) -> torch.Tensor:
        """The third derivative of log p(y | f) in f, shape (B, C, C, C, n)."""
        H, log_p = self._log_probabilities(f)
        p = log_p.exp()
        mean = H.T @ p
        second = torch.einsum("ka,kb,skn->sabn", H, H, p)
        third = torch.einsum("ka,kb,kc,skn->sabcn", H, H, H, p)
        for pair, one in (("ab", "c"), ("ac", "b"), ("bc", "a")):
            third = third - torch.einsum(f"s{pair}n,s{one}n->sabcn", second, mean)
        return -(third + 2 * torch.einsum("san,sbn,scn->sabcn", mean, mean, mean))

    def information_change(
        self,
        y: torch.Tensor,
        f: torch.Tensor,
        variances: torch.Tensor,
        weights: torch.Tensor,
        informative: torch.Tensor,
        given: Given = NOTHING,
    ) -> torch.Tensor:
        """The derivative in f of sum_i tr(Omega_i V_i) with V fixed, shape (B, C, n).

        With M = H V H' it is that of sum_k p_k M_kk - p'M p: K^2 numbers of a row instead of the C^3 of
        `third_derivative`. What holds a
        precision up is added to it, and does not depend on f.
        """
        H, log_p = self._log_probabilities(f)
        p = log_p.exp()
        M = torch.einsum("ka,lb,sabn->skln", H, H, variances)
        own, with_mean = M.diagonal(dim1=1, dim2=2).transpose(1, 2), (M * p[:, None]).sum(2)
        change = own - 2 * with_mean
        change = p * (change - (p * change).sum(1, keepdim=True))
        return (H.T @ change) * weights

    def log_density(
        self, y: np.ndarray, f: np.ndarray, noise: np.ndarray, given: Given = NOTHING
    ) -> np.ndarray:
        """log p(y | f) with f of shape (B, C, n), shape (B, n)."""
        return np.asarray(self.value(torch.tensor(y), torch.from_numpy(f)).numpy())

    def mean(self, f: np.ndarray, given: Given = NOTHING) -> np.ndarray:
        """The probability of every class: (B, C, n) -> (B, K, n)."""
        return np.asarray(special.softmax(contrasts(f.shape[-2] + 1).numpy() @ f, axis=-2))

    def draw(
        self, f: np.ndarray, noise: np.ndarray, rng: np.random.Generator, given: Given = NOTHING
    ) -> np.ndarray:
        """Positions of classes: (B, C, n) -> (B, n)."""
        below = self.mean(f).cumsum(axis=-2)
        return np.asarray((rng.random(below[..., :1, :].shape) > below[..., :-1, :]).sum(-2), dtype=float)
