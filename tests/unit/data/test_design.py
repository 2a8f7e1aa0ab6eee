"""Designs: the same recipe for training rows, new rows, and after a trip through a file."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bayesmtl.data import Design
from bayesmtl.errors import DataError, SpecificationError

FORMULAS = [
    "x + sex",
    "0 + sex + C(k)",
    "x*sex + C(k, Treatment(3))",
    "center(`a b`) + center(a_b) + scale(x) + standardize(x)",
    "center(`a b`) + center(`a b` * x)",
    "poly(x, 3) + bs(`a b`, df=5) + cs(a_b, df=4) + cc(x, df=4)",
    "poly(x, 2, raw=True)",
    "flag + `5` + log(abs(x)) + I(x**2)",
    "C(k, Sum) + C(k, Poly) + C(sex, Helmert) + C(k, Diff)",
    "k + C(k)",
    "C(sex):x - 1",
    "1",
    "center(scale(x))",
    "{x + `a b`} + {log(abs(x)) + sqrt(k)}",
    "2:x",
    "exp(x) + expm1(x) + log1p(k) + log2(k) + log10(k) + sin(x) + cos(x) + tanh(x)",
    "bs(x, knots=[-0.5, 0.5], lower_bound=-9, upper_bound=9)",
]


@pytest.fixture
def frame():
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "x": generator.normal(size=20),
            "a b": generator.normal(size=20),
            "a_b": generator.normal(size=20),
            "sex": list("FMMF") * 5,
            "k": [1, 2, 3, 4] * 5,
            "flag": [True, False] * 10,
            5: np.arange(20),
        },
        index=[f"row{i}" for i in range(20)],
    )


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_trip_through_json_changes_nothing(formula, frame):
    design = Design.from_formula(formula, frame)
    back = Design.from_dict(json.loads(json.dumps(design.to_dict())))
    X = design.encode(frame)
    assert X.dtype == np.float64
    assert X.shape == (20, len(design.feature_names))
    assert np.array_equal(back.encode(frame), X)
    assert back.feature_names == design.feature_names
    assert back.to_dict() == design.to_dict()


@pytest.mark.parametrize("formula", FORMULAS)
def test_rows_are_encoded_alone_as_among_all(formula, frame):
    design = Design.from_formula(formula, frame)
    X = design.encode(frame)
    shuffled = frame[frame.columns[::-1]].assign(other="ignored")
    assert np.array_equal(design.encode(shuffled.iloc[5:6]), X[5:6])
    assert np.array_equal(design.encode(shuffled.iloc[[7, 3]]), X[[7, 3]])


@pytest.mark.parametrize("formula", FORMULAS)
def test_the_formula_it_reports_is_the_formula_it_is(formula, frame):
    design = Design.from_formula(formula, frame)
    assert Design.from_formula(design.formula, frame).to_dict() == design.to_dict()


def test_names_of_encoded_columns(frame):
    design = Design.from_columns(["x", "sex", "flag", "a b", "5"], frame)
    assert design.feature_names == ("Intercept", "x", "sex[T.M]", "flag", "a b", "5")
    assert design.columns == ("x", "sex", "flag", "a b", "5")
    assert design.intercept
    X = design.encode(frame)
    assert X[:, 0].tolist() == [1.0] * 20
    assert X[:4, 2].tolist() == [0, 1, 1, 0]
    assert X[:2, 3].tolist() == [1, 0]


def test_without_an_intercept_the_first_category_keeps_its_levels(frame):
    design = Design.from_columns(["x", "sex"], frame, intercept=False)
    assert design.feature_names == ("x", "sex[F]", "sex[M]")
    assert not design.intercept


def test_the_first_present_category_is_the_reference():
    grades = pd.Categorical(["lo", "hi", "lo"], categories=["none", "lo", "mid", "hi"], ordered=True)
    design = Design.from_columns(["grade"], pd.DataFrame({"grade": grades}))
    assert design.variables[0].levels == ("lo", "hi")
    assert design.feature_names == ("Intercept", "grade[T.hi]")


def test_levels_are_known_whatever_their_type():
    design = Design.from_formula("C(k)", pd.DataFrame({"k": [1, 2, 10]}))
    assert design.feature_names == ("Intercept", "C(k)[T.2]", "C(k)[T.10]")
    for same in ([10.0, 2.0], ["10", "2"], pd.Categorical([10, 2])):
        assert design.encode(pd.DataFrame({"k": same})).tolist() == [[1, 0, 1], [1, 1, 0]]


@pytest.mark.parametrize(
    "values",
    [
        pd.array([1, 2], dtype="Int64"),
        pd.array([1.0, 2.0], dtype="Float64"),
        np.array([1, 2], dtype=np.uint8),
        np.array([1, 2], dtype=np.float16),
        np.array([1, 2.0], dtype=object),
    ],
)
def test_numbers_of_every_type(values):
    frame = pd.DataFrame({"x": values})
    X = Design.from_columns(["x"], frame).encode(frame)
    assert X[:, 1].tolist() == [1, 2]


@pytest.mark.parametrize(
    "values", [[True, False], pd.array([True, False], dtype="boolean"), np.array([True, False], object)]
)
def test_booleans_are_one_column(values):
    frame = pd.DataFrame({"b": values})
    design = Design.from_columns(["b"], frame)
    assert design.feature_names == ("Intercept", "b")
    assert design.encode(frame)[:, 1].tolist() == [1, 0]
    assert design.encode(pd.DataFrame({"b": [0, 1]}))[:, 1].tolist() == [0, 1]
    with pytest.raises(DataError, match=r"`b`: expected booleans.*1 row \('1'\)"):
        design.encode(pd.DataFrame({"b": [0, 2]}))


@pytest.mark.parametrize("scale", [1e-300, 1e-12, 1e12, 1e300])
def test_ill_scaled_numbers_go_through_unchanged(scale):
    values = np.array([1.0, 2.5, -3.25]) * scale
    frame = pd.DataFrame({"x": values})
    assert np.array_equal(Design.from_columns(["x"], frame).encode(frame)[:, 1], values)


def test_encoding_remembers_and_does_not_learn(frame):
    design = Design.from_formula("center(x)", frame)
    before = design.to_dict()
    new = design.encode(pd.DataFrame({"x": [100.0]}))
    assert new[0, 1] == pytest.approx(100 - frame["x"].mean())
    assert design.to_dict() == before


def test_no_variable_of_the_caller_leaks_in(frame):
    caller = 3.0  # noqa: F841
    with pytest.raises(DataError, match="`caller`.*no such column"):
        Design.from_formula("{x * caller}", frame)
    with pytest.raises(DataError, match="`print`.*no such column"):
        Design.from_formula("{x * print}", frame)


# --- bad input ---------------------------------------------------------------------------------------


def test_an_unknown_column_suggests_near_ones(frame):
    with pytest.raises(DataError, match=r"`flg`.*no such column.*Did you mean 'flag'\?"):
        Design.from_columns(["flg"], frame)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_feature_must_be_finite(bad, frame):
    frame.iloc[[2, 4], 0] = bad
    message = r"`x`: .*missing or infinite in 2 rows \('row2', 'row4'\)"
    with pytest.raises(DataError, match=message):
        Design.from_columns(["k", "x"], frame)
    design = Design.from_columns(["k", "x"], frame.drop(index=["row2", "row4"]))
    with pytest.raises(DataError, match=message):
        design.encode(frame)


@pytest.mark.parametrize("bad", [None, np.nan])
def test_a_category_must_not_be_missing(bad, frame):
    frame["sex"] = frame["sex"].astype(object)
    frame.iloc[3, 3] = bad
    with pytest.raises(DataError, match=r"`sex`: .*1 row \('row3'\)"):
        Design.from_columns(["sex"], frame)


@pytest.mark.parametrize("formula", ["sex", "C(sex)", "x:sex", "0 + sex"])
def test_an_unseen_category_is_named_with_the_known_ones(formula, frame):
    design = Design.from_formula(formula, frame)
    new = frame.assign(sex=["X", "F"] * 10)
    with pytest.raises(DataError, match=r"`sex`.*training categories \('F', 'M'\), found 'X' in 10 rows"):
        design.encode(new)


def test_a_number_that_became_text(frame):
    design = Design.from_columns(["x"], frame)
    with pytest.raises(DataError, match="`x`: expected numbers .*such as 'n/a'"):
        design.encode(pd.DataFrame({"x": ["n/a", 1.0]}))


def test_a_missing_column_at_prediction(frame):
    design = Design.from_columns(["x", "k"], frame)
    with pytest.raises(DataError, match="`k`: expected a column of the frame"):
        design.encode(frame[["x"]])


def test_a_repeated_column(frame):
    twice = pd.concat([frame[["x"]], frame[["x"]]], axis=1)
    with pytest.raises(DataError, match="2 columns named 'x'"):
        Design.from_columns(["x"], twice)
    with pytest.raises(DataError, match="`features`: expected each column once, found 'x'"):
        Design.from_columns(["x", "x"], frame)


@pytest.mark.parametrize(
    "values",
    [
        pd.to_datetime(["2024-01-01", "2024-01-02"]),
        pd.to_timedelta([1, 2], unit="D"),
        np.array([1j, 2]),
        [[1], (2,)],
    ],
)
def test_features_of_no_usable_kind(values):
    with pytest.raises(DataError, match="`when`: expected numbers, booleans, strings or categories"):
        Design.from_columns(["when"], pd.DataFrame({"when": values}))


def test_a_feature_called_like_the_intercept():
    with pytest.raises(DataError, match="'Intercept' more than once"):
        Design.from_columns(["Intercept"], pd.DataFrame({"Intercept": [1.0, 2.0]}))


def test_no_features_and_no_intercept(frame):
    with pytest.raises(SpecificationError, match="at least one feature or the intercept"):
        Design.from_columns([], frame, intercept=False)
    assert Design.from_columns([], frame).feature_names == ("Intercept",)


def test_a_transform_that_leaves_the_numbers(frame):
    with pytest.raises(DataError, match=r"`log\(x\)`: .*missing or infinite in \d+ rows"):
        Design.from_formula("log(x)", frame)


def test_a_transform_that_cannot_be_computed(frame):
    with pytest.raises(DataError, match="`formula`.*specify either 'df' or 'knots'.*cs\\(x\\)"):
        Design.from_formula("cs(x)", frame)
    with pytest.raises(DataError, match="`formula`"):
        Design.from_formula("C(sex, Treatment('X'))", frame)


def test_a_spline_does_not_extrapolate_unasked(frame):
    design = Design.from_formula("bs(x, df=4)", frame)
    with pytest.raises(DataError, match="extrapolation"):
        design.encode(frame.assign(x=1e3))


# --- arrays ------------------------------------------------------------------------------------------


def test_a_plain_design_takes_arrays_and_unnamed_frames():
    frame = pd.DataFrame({"x0": [1.0, 2.0], "x1": [3.0, 5.0]})
    design = Design.from_columns(["x0", "x1"], frame)
    X = design.encode(frame)
    values = frame.to_numpy()
    assert np.array_equal(design.encode(values), X)
    assert np.array_equal(design.encode(X), X)
    assert np.array_equal(design.encode(pd.DataFrame(values)), X)
    assert np.array_equal(design.encode(pd.DataFrame(values).assign(task="a")), X)


@pytest.mark.parametrize("values", [np.zeros((2, 1)), np.zeros((2, 4)), np.zeros(2)])
def test_an_array_of_the_wrong_shape(values):
    design = Design.from_columns(["x0", "x1"], pd.DataFrame({"x0": [1.0], "x1": [3.0]}))
    with pytest.raises(DataError, match=r"`X`: expected an array with 2 columns \('x0', 'x1'\)"):
        design.encode(values)


def test_an_array_whose_intercept_is_not_one():
    design = Design.from_columns(["x0"], pd.DataFrame({"x0": [1.0]}))
    with pytest.raises(DataError, match="expected ones in the first of 2 columns"):
        design.encode(np.zeros((3, 2)))


def test_an_array_cannot_stand_for_categories(frame):
    with pytest.raises(DataError, match="expected a DataFrame with the columns 'x', 'sex'"):
        Design.from_columns(["x", "sex"], frame).encode(np.zeros((2, 2)))


# --- damaged and hostile files -------------------------------------------------------------------------


@pytest.fixture
def content(frame):
    return json.loads(json.dumps(Design.from_formula("center(x) + C(sex)", frame).to_dict()))


def attacks(marker):
    call = f"__import__('pathlib').Path('{marker}').touch()"
    return [
        call,
        f"log({call})",
        f"center(_column_0_, {call})",
        f"center(_column_0_, '\") or {call} or str(\"')",
        f"I(_column_0_)\n{call}",
        f"I(_column_0_ #' `\n# ` ', {call})",
        "_column_0_.__class__.__base__.__subclasses__()",
        "log.__globals__",
        f"exec('{call}')",
        f"(lambda: {call})()",
        f"[{call} for _ in [1]][0]",
    ]


@pytest.mark.parametrize("number", range(len(attacks(""))))
def test_a_hostile_file_is_refused_and_executes_nothing(number, content, tmp_path, frame):
    marker = tmp_path / "executed"
    content["terms"][1] = [attacks(marker)[number]]
    with pytest.raises(SpecificationError, match="`formula`: expected column names"):
        Design.from_dict(content).encode(frame)
    assert not Path(marker).exists()


@pytest.mark.parametrize("key", ["variables", "terms", "feature_names", "transform_state"])
@pytest.mark.parametrize("value", [None, 3, [3], {"items": [3]}, [[["x"]]]])
def test_a_damaged_file_is_refused(key, value, content, frame):
    with pytest.raises(SpecificationError):
        Design.from_dict(content | {key: value}).encode(frame)
    with pytest.raises(SpecificationError, match="`design`"):
        Design.from_dict({name: content[name] for name in content if name != key})


def test_a_transform_without_its_memory_is_refused(content, frame):
    with pytest.raises(SpecificationError, match="lacks what its transforms remembered"):
        Design.from_dict(content | {"transform_state": {}}).encode(frame)
    state = {key: {} for key in content["transform_state"]}
    with pytest.raises(SpecificationError, match="lacks what its transforms remembered"):
        Design.from_dict(content | {"transform_state": state}).encode(frame)


def test_an_unknown_kind_of_column_is_refused(content):
    content["variables"][0]["kind"] = "picture"
    with pytest.raises(SpecificationError, match="'picture' is no kind of column"):
        Design.from_dict(content)


def test_names_that_do_not_fit_are_refused(content, frame):
    content["feature_names"][-1] = "sex[T.Z]"
    with pytest.raises(SpecificationError, match="`design`: expected a recipe"):
        Design.from_dict(content).encode(frame)
