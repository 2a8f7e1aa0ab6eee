"""Files of fits: damaged, foreign, newer or malicious ones are refused; a full disk costs nothing."""

import builtins
import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

import bayesmtl as bm
from bayesmtl.errors import FitFileError
from bayesmtl.results import files
from tests.contract.checks import assert_same_draws

WHOLE = r"`path`: expected a whole fit.*found fit\.nc, which cannot be read.*Save the fit again"


@pytest.fixture(scope="module")
def saved(lab_fit, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "fit.nc"
    lab_fit.save(path)
    return path


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    return Path(shutil.copy(saved, tmp_path / "fit.nc"))


def edit(path: Path, change) -> None:
    """Change the specification inside a file, and the digest with it: damage is not what is tested then."""
    with h5py.File(path, "r+") as file:
        content = json.loads(file.attrs["specification"])
        change(content)
        file.attrs["specification"] = json.dumps(content)
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        digest = files.digest_of(tree.load())
    with h5py.File(path, "r+") as file:
        file.attrs["digest"] = digest


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No fit at .*nothing\.nc"):
        bm.load(tmp_path / "nothing.nc")


def test_paths_may_be_strings(lab_fit, tmp_path):
    lab_fit.save(str(tmp_path / "fit.nc"))
    assert_same_draws(bm.load(str(tmp_path / "fit.nc")), lab_fit)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short(share, copy):
    content = copy.read_bytes()
    copy.write_bytes(content[: int(share * len(content))])
    with pytest.raises(FitFileError, match=WHOLE) as caught:
        bm.load(copy)
    assert isinstance(caught.value, ValueError)


def test_a_file_cut_by_one_byte(copy):
    copy.write_bytes(copy.read_bytes()[:-1])
    with pytest.raises(FitFileError, match=WHOLE):
        bm.load(copy)


def test_a_flipped_byte_in_the_weights(copy):
    with h5py.File(copy, "r") as file:
        where = file["draws/weights"].id.get_chunk_info(0)
    content = bytearray(copy.read_bytes())
    content[where.byte_offset + where.size // 2] ^= 0x01
    copy.write_bytes(content)
    with pytest.raises(FitFileError, match=WHOLE):
        bm.load(copy)


# h5netcdf complains about itself when it gives up on a file whose first bytes are wrong
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_flipped_byte_anywhere(copy, lab_fit, lab_frame):
    """Wherever a byte is wrong the file is refused, or the byte said nothing and the answer is the same."""
    expected, original = lab_fit.predict(lab_frame).draws, copy.read_bytes()
    positions = np.random.default_rng(0).integers(0, len(original), 24)
    specification = original.find(b'"feature_center"')
    assert specification > 0
    refused = 0
    for position in (*positions.tolist(), *range(specification + 20, specification + 60, 10)):
        content = bytearray(original)
        content[position] ^= 0x01
        copy.write_bytes(content)
        try:
            loaded = bm.load(copy)
        except FitFileError:
            refused += 1
        else:
            assert_same_draws(loaded, lab_fit)
            assert loaded.predict(lab_frame).draws.identical(expected), position
    assert refused >= 4  # at least those in the specification


def test_other_files_are_refused(tmp_path):
    text, empty, archive = tmp_path / "fit.nc", tmp_path / "empty" / "fit.nc", tmp_path / "zip" / "fit.nc"
    empty.parent.mkdir()
    archive.parent.mkdir()
    text.write_text("task,score\n" * 500)
    empty.touch()
    with open(archive, "wb") as file:
        np.savez(file, x=np.ones(3))
    for path in (text, empty, archive):
        with pytest.raises(FitFileError, match=WHOLE):
            bm.load(path)


def test_a_folder_is_refused(tmp_path):
    (tmp_path / "fit.nc").mkdir()
    with pytest.raises(FitFileError, match=WHOLE):
        bm.load(tmp_path / "fit.nc")


def test_another_kind_of_netcdf_file(tmp_path):
    xr.Dataset({"x": ("time", np.ones(3))}).to_netcdf(tmp_path / "fit.nc", engine="h5netcdf")
    with pytest.raises(
        FitFileError, match=r"found fit\.nc, another kind of NetCDF file. Open it with xarray"
    ):
        bm.load(tmp_path / "fit.nc")


def test_a_newer_version(copy):
    with h5py.File(copy, "r+") as file:
        file.attrs["bayesmtl_format"] = files.FORMAT + 1
        file.attrs["bayesmtl_version"] = "97.5"
    with pytest.raises(
        FitFileError,
        match=rf"expected format {files.FORMAT} or older.*format {files.FORMAT + 1}.*97\.5.*Update",
    ):
        bm.load(copy)


@pytest.mark.parametrize("attribute", ["specification", "digest"])
def test_a_missing_attribute(attribute, copy):
    with h5py.File(copy, "r+") as file:
        del file.attrs[attribute]
    with pytest.raises(FitFileError):
        bm.load(copy)


@pytest.mark.parametrize("group", ["draws", "hyperparameters", "statistics", "rows"])
def test_a_missing_group(group, copy):
    with h5py.File(copy, "r+") as file:
        del file[group]
    with pytest.raises(FitFileError):
        bm.load(copy)


def set_at(*keys, value):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


MALICIOUS = "__import__('os').system('touch executed')"
CHANGES = {
    "unknown sharing": set_at("sharing", "sharing", value="Magic"),
    "a path for a class": set_at("sharing", "sharing", value="os.system"),
    "unknown likelihood": set_at("likelihood", "likelihood", value="Magic"),
    "unknown prior": set_at("sharing", "scale", "prior", value="Magic"),
    "unknown option": set_at("sharing", "more", value=1),
    "option out of range": set_at("sharing", "covariance", value="wishart"),
    "negative scale": set_at("sharing", "scale", "scale", value=-1.0),
    "code in a prior": set_at("sharing", "scale", "scale", value=MALICIOUS),
    "code for a feature": set_at("schema", "design", "terms", value=[["1"], [MALICIOUS], ["v0"]]),
    "code for a training feature": set_at("training_schema", "design", "terms", value=[[MALICIOUS]]),
    "attribute access": set_at("schema", "design", "terms", value=[["v0.__class__.__base__"]]),
    "code for the target": set_at(
        "schema",
        "response",
        value={
            "variables": [],
            "terms": [[MALICIOUS]],
            "feature_names": [MALICIOUS],
            "transform_state": {},
        },
    ),
    "task names that are none": set_at("schema", "task_names", value=[1, 2]),
    "fewer task names": set_at("schema", "task_names", value=["lab_1"]),
    "scale of zero": set_at("standardization", "target_scale", value=[0.0] * 6),
    "no standardisation": set_at("standardization", value=None),
    "unknown method": set_at("method", value="magic"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_specification_is_refused_and_executes_nothing(what, copy, monkeypatch, tmp_path):
    edit(copy, lambda content: None)
    bm.load(copy)  # what `edit` writes is accepted
    edit(copy, CHANGES[what])
    monkeypatch.chdir(tmp_path)
    for name in ("system", "popen"):
        monkeypatch.setattr(os, name, lambda *args: pytest.fail("a command was run"))
    with pytest.raises(FitFileError, match=r"^`path`: expected"):
        bm.load(copy)
    assert not (tmp_path / "executed").exists()


def test_loading_compiles_and_imports_nothing(copy, monkeypatch):
    """Neither code nor pickles: `eval`, `exec` and unpickling are not reached while a file is read."""
    import pickle

    bm.load(copy)  # libraries import their own parts at first use

    def forbidden(*args, **kwargs):
        raise AssertionError("executed")

    for name in ("eval", "exec"):
        monkeypatch.setattr(builtins, name, forbidden)
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, forbidden)
    bm.load(copy)


def test_saving_twice_replaces(lab_fit, lab_data, copy):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = bm.LinearModel(bm.Pooled()).fit(
            lab_data, method="empirical_bayes", seed=1, num_chains=1, num_draws=20, progress=False
        )
    other.save(copy)
    assert_same_draws(bm.load(copy), other)
    assert [path.name for path in copy.parent.iterdir()] == ["fit.nc"]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_at_the_end_of_saving(function, lab_fit, copy, monkeypatch):
    before = copy.read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, function, full)
    with pytest.raises(OSError, match="No space left"):
        lab_fit.save(copy)
    monkeypatch.undo()
    assert copy.read_bytes() == before
    assert [path.name for path in copy.parent.iterdir()] == ["fit.nc"]
    assert_same_draws(bm.load(copy), lab_fit)


FULL = """
    import resource, signal, sys
    import bayesmtl as bm

    path, size = sys.argv[1], int(sys.argv[2])
    fit = bm.load(path)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing fails instead of killing
    for share in (0.0, 0.1, 0.6, 0.98):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * size), resource.RLIM_INFINITY))
        try:
            fit.save(path)
        except OSError as error:
            print("refused")
        else:
            print("saved")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the size of files")
def test_a_disk_that_fills_up_while_saving(copy):
    """The process survives with an OSError, the old file byte for byte, and no partial file is left."""
    before = copy.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL), str(copy), str(len(before))],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["refused"] * 4, done.stderr
    assert copy.read_bytes() == before
    assert [path.name for path in copy.parent.iterdir()] == ["fit.nc"]


def test_a_folder_that_is_not_there(lab_fit, tmp_path):
    with pytest.raises(OSError):
        lab_fit.save(tmp_path / "nowhere" / "fit.nc")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_saving_leaves_the_old_file(lab_fit, copy, monkeypatch):
    before = copy.read_bytes()

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lab_fit.save(copy)
    assert copy.read_bytes() == before
    assert [path.name for path in copy.parent.iterdir()] == ["fit.nc"]


def test_the_file_is_plain_netcdf(saved, lab_fit):
    """Anyone can read it, without this package."""
    with xr.open_datatree(saved, engine="h5netcdf") as tree:
        assert set(tree.children) == {"hyperparameters", "draws", "sample_stats", "statistics", "rows"}
        assert json.loads(tree.attrs["specification"])["schema"]["task_names"] == list(lab_fit.task_names)
        assert tree.attrs["bayesmtl_version"] == bm.__version__
        assert np.array_equal(tree["draws/weights"], lab_fit.draws.weights)
