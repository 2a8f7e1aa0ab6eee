"""Every default prior is the one that its docstring states, with the numbers that it states; none escapes."""

import dataclasses
import re

import pytest
from scipy import stats

import bayesmtl as bm
from bayesmtl import likelihoods, sharing
from bayesmtl.priors import LKJ, Fixed, Gamma, HalfNormal, LogNormal, Prior

KINDS = {"HalfNormal": HalfNormal, "LogNormal": LogNormal, "Gamma": Gamma}
CLASSES = {**sharing.REGISTRY, **likelihoods.REGISTRY, "MultitaskGP": bm.MultitaskGP}
PARTITIONS = ("Clusters", "DirichletProcess", "PitmanYor", "Gated")

# Of every default its words, in the docstring of its class or of a class below. Where they name no prior, the
# prior that they mean.
WORDS: dict[tuple[str, str], str | tuple[str, Prior]] = {
    ("Independent", "scale"): "The default HalfNormal(1) puts 90 % of its mass below 1.64",
    ("Pooled", "mean_scale"): ("The default, 1, puts 90 % of the mass of each", Fixed(1.0)),
    ("Hierarchical", "scale"): "The default HalfNormal(1) puts 90 % of its mass below 1.64",
    ("Hierarchical", "correlation"): ("With the default concentration of 2", LKJ(2.0)),
    ("Hierarchical", "mean_scale"): ("the default, 1, puts 90 % of the mass of each", Fixed(1.0)),
    ("LowRank", "scale"): "HalfNormal(0.5) puts 90 % of its mass below 0.82",
    ("LowRank", "mean_scale"): ("mean_scale: As in `Hierarchical`", Fixed(1.0)),
    ("TaskCovariance", "scale"): "the default HalfNormal(1) puts 90 % of its mass below 1.64",
    ("TaskCovariance", "task_scale"): "the default LogNormal(1, .5) has 90 % of its mass between .44 and 2.3",
    ("TaskCovariance", "mean_scale"): "The default HalfNormal(1) lets the data do without a population",
    ("TaskGraph", "coupling"): "default LogNormal(1, 1.5) has 90 % of its mass between .085 and 11.8",
    ("TaskGraph", "scale"): "the default HalfNormal(1) puts 90 % of its mass below 1.64",
    ("TaskGraph", "mean_scale"): "its default HalfNormal(1) puts 90 % of its mass below 1.64",
    ("Clusters", "concentration"): ("the default, 1, makes all weights equally likely", Fixed(1.0)),
    ("DirichletProcess", "concentration"): (
        "The default Gamma(1, 1) puts 90 % of its mass within 0.05 and 3.0"
    ),
    ("PitmanYor", "concentration"): "the default Gamma(1, 1) puts 90 % of its mass within 0.05 and 3.0",
    ("Gated", "slopes"): "With the default, HalfNormal(1), 90 % of its mass lies below 1.64",
    ("Gaussian", "scale"): "HalfNormal(1) puts 90 % of its mass below 1.64",
    ("Gaussian", "spread"): "HalfNormal(0.5) puts 90 % of its mass below 0.82",
    ("NegativeBinomial", "dispersion"): "The default HalfNormal(1) puts 90 % of its mass below 1.64",
    ("StudentT", "scale"): "HalfNormal(1) puts 90 % of its mass below 1.64",
    ("StudentT", "degrees"): "the default Gamma(2, 0.1) puts 90 % of its mass between 3.6 and 47",
    ("MultitaskGP", "amplitude"): "The default HalfNormal(1) puts 90 % of its mass below 1.64",
}
for _name in PARTITIONS:
    WORDS[_name, "scale"] = "HalfNormal(0.5) puts 90 % of its mass below 0.82"
    WORDS[_name, "spread"] = ("HalfNormal(1) puts 90 % of its mass below 1.64", HalfNormal(1.0))
    WORDS[_name, "correlation"] = ("correlation: Prior of Omega, as in `Hierarchical`", LKJ(2.0))
    WORDS[_name, "mean_scale"] = ("mean_scale: As in `Hierarchical`", Fixed(1.0))


def defaults() -> dict[tuple[str, str], Prior]:
    """Every option of a public class whose default is a prior."""
    found = {}
    for name, cls in CLASSES.items():
        for field in dataclasses.fields(cls):
            made = field.default_factory
            value = field.default if made is dataclasses.MISSING else made()
            if isinstance(value, Prior):
                found[name, field.name] = value
    return found


def test_no_default_escapes():
    assert set(WORDS) == set(defaults())


@pytest.mark.parametrize("name, option", list(WORDS))
def test_a_default_is_what_its_docstring_states(name, option):
    prior, stated = defaults()[name, option], WORDS[name, option]
    words = stated if isinstance(stated, str) else stated[0]
    below = [part for part in CLASSES[name].__mro__ if part is not object]
    documented = [" ".join((part.__doc__ or "").split()) for part in below]
    assert any(words in text for text in documented), "the docstring says something else: correct this table"
    if isinstance(stated, str):
        kind, options = re.search(r"(HalfNormal|LogNormal|Gamma)\(([^)]*)\)", words).groups()
        expected = KINDS[kind](*(float(number) for number in options.split(",")))
    else:
        expected = stated[1]
    assert prior == expected
    if below_which := re.search(r"below ([\d.]+)", words):
        assert prior.interval(0.8)[1] == pytest.approx(float(below_which[1]), abs=0.005)
    if between := re.search(r"(?:between|within) ([\d.]+) and ([\d.]+)", words):
        stated_low, stated_high = (float(number) for number in between.groups())
        assert prior.interval(0.9) == pytest.approx((stated_low, stated_high), rel=0.02, abs=0.002)


def test_the_intervals_are_those_of_the_distributions():
    """By SciPy: what the statements are checked with."""
    for prior, known in (
        (HalfNormal(1.0), stats.halfnorm()),
        (LogNormal(1.0, 1.5), stats.lognorm(1.5)),
        (Gamma(2.0, 0.1), stats.gamma(2.0, scale=10.0)),
    ):
        assert prior.interval(0.9) == pytest.approx(known.interval(0.9), rel=1e-9)
