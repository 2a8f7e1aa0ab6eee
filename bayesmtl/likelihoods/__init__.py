"""Likelihoods: how targets scatter around the function of their task, one file each."""

from __future__ import annotations

from bayesmtl.likelihoods.base import NOTHING, Given, Likelihood
from bayesmtl.likelihoods.bernoulli import Bernoulli
from bayesmtl.likelihoods.binomial import Binomial
from bayesmtl.likelihoods.categorical import Categorical
from bayesmtl.likelihoods.gaussian import Gaussian
from bayesmtl.likelihoods.mixed import Mixed
from bayesmtl.likelihoods.negative_binomial import NegativeBinomial
from bayesmtl.likelihoods.outcomes import Outcomes
from bayesmtl.likelihoods.poisson import Poisson
from bayesmtl.likelihoods.rowwise import Derivatives, GaussianRows, PolyaGamma, Rowwise
from bayesmtl.likelihoods.student_t import StudentT

REGISTRY: dict[str, type[Likelihood]] = {
    "Gaussian": Gaussian,
    "Bernoulli": Bernoulli,
    "Binomial": Binomial,
    "Categorical": Categorical,
    "Poisson": Poisson,
    "NegativeBinomial": NegativeBinomial,
    "StudentT": StudentT,
    "Mixed": Mixed,
}
"""Every likelihood by name. A new likelihood is added here and nowhere else."""

__all__ = [
    "NOTHING",
    "REGISTRY",
    "Bernoulli",
    "Binomial",
    "Categorical",
    "Derivatives",
    "Gaussian",
    "GaussianRows",
    "Given",
    "Likelihood",
    "Mixed",
    "NegativeBinomial",
    "Outcomes",
    "Poisson",
    "PolyaGamma",
    "Rowwise",
    "StudentT",
]
