"""The README's code runs, in order, in one namespace; what it names exists."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import bayesmtl as bm
from bayesmtl.inference import NAMES
from bayesmtl.sharing import REGISTRY

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [
    (README[: match.start()].count("\n") + 2, match[1])
    for match in re.finditer(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
]


def test_code_runs_in_order(tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)  # the examples write files
    assert BLOCKS
    namespace: dict[str, object] = {"__name__": "readme"}
    for line, block in BLOCKS:
        # newlines in front, so that a traceback shows the README's own line
        exec(compile("\n" * (line - 1) + block, "README.md", "exec"), namespace)
    matplotlib.pyplot.close("all")


def test_first_screen_names_the_equation_and_the_two_commands():
    first = "\n".join(README.splitlines()[:40])
    assert "W = A Z + E" in first
    assert "make demo" in first and "make test" in first


def test_every_prior_and_engine_is_there():
    for name in (*REGISTRY, *NAMES):
        assert f"`{name}" in README, name


def test_public_names_exist():
    for name in set(re.findall(r"\bbm\.((?:\w+\.)?\w+)", README)):
        found = bm
        for part in name.split("."):
            assert hasattr(found, part), f"bm.{name}"
            found = getattr(found, part)


def test_files_and_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`make (\w+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert os.path.exists(ROOT / link), link


def test_benchmark_numbers_are_in_their_tables():
    rows = re.findall(
        r"^\|[^|]*\|([^|]*)\| \[\w+\]\((benchmarks/results/\w+\.md)\) \|$", README, re.MULTILINE
    )
    assert rows
    for text, path in rows:
        table = (ROOT / path).read_text(encoding="utf-8")
        written = set(re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", table))
        # what is measured has a point, or many digits; small whole numbers name the setting
        for number in re.findall(r"\d+(?:,\d{3})*\.\d+|\d{1,3}(?:,\d{3})+|\d{3,}", text):
            assert number in written, f"{path} does not have {number}"
