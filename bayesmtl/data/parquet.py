"""Reading Parquet files chunk by chunk: into sums per task, here or on a Dask cluster, or row by row."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from bayesmtl.data.design import Design
from bayesmtl.data.moments import Accumulator, TaskMoments
from bayesmtl.data.row_columns import EXPECTED, REMEDY, check_free, out_of_range, present_roles
from bayesmtl.errors import DataError, MissingDependencyError, SpecificationError, listing

if TYPE_CHECKING:
    import pyarrow as pa

_CHUNK = 2**18  # rows held in memory at once


@dataclass(frozen=True)
class Part:
    """One file to read, and what it must look like.

    Attributes:
        path: The file.
        task: Column with the task.
        columns: Feature columns, then the target.
        types: Types of the task, of `columns` and of what rows carry, as the first file has them.
        carried: Columns with what rows carry besides, each a role ("offset", "exposure", "weights" or
            "trials") and a name.
    """

    path: str
    task: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    carried: tuple[tuple[str, str], ...] = ()

    @classmethod
    def restored(cls, content: Mapping[str, Any]) -> Part:
        """From plain data: lists where tuples were."""
        return cls(
            content["path"],
            content["task"],
            tuple(content["columns"]),
            tuple(content["types"]),
            tuple((role, name) for role, name in content["carried"]),
        )

    @property
    def used(self) -> tuple[str, ...]:
        """All columns that are looked at, the task first, in the order of `types`."""
        return (self.task, *self.columns, *(name for _, name in self.carried))

    def without_features(self) -> Part:
        """The same with the target alone."""
        skipped = len(self.columns) - 1
        return replace(self, columns=self.columns[-1:], types=(self.types[0], *self.types[1 + skipped :]))


class Chunk(NamedTuple):
    """Some rows of a part, checked.

    Attributes:
        values: Features and target by column (p, n), in memory that the next chunk takes; the target NaN
            where not observed.
        codes: Task of each row (n,), positions in `labels`.
        labels: Tasks of these rows, as the file has them.
        extremes: Smallest and largest value of each column (p,), missing targets apart.
        carried: Offset, weights and trials of each row, each (n,), where there are any.
    """

    values: np.ndarray
    codes: np.ndarray
    labels: list[Any]
    extremes: tuple[np.ndarray, np.ndarray]
    carried: dict[str, np.ndarray]


def summarise(
    path: str | Path | Sequence[str | Path],
    task: str,
    target: str,
    features: Sequence[str],
    intercept: bool,
    client: Any,
    further: Mapping[str, Any],
) -> dict[str, Any]:
    """The parts of a `TaskSummaries`: see `TaskData.from_parquet`."""
    _pyarrow()
    if isinstance(features, str):
        raise SpecificationError(
            "features",
            expected="a list of column names",
            found=f"the string {features!r}",
            remedy=f'Write features=["{features}"].',
        )
    columns = (*map(str, features), str(target))
    used = (str(task), *columns)
    repeated = [name for name in dict.fromkeys(used) if used.count(name) > 1]
    if repeated:
        raise DataError(
            repeated[0],
            expected="a column with one role",
            found="it named twice among task, target and features",
            remedy="Leave it out of the features; a task's own level is what its intercept is for.",
        )
    carried = _roles(further, (str(task), str(target)))
    files = _files(path)
    first = Part(files[0], str(task), columns, (), carried)
    with _reading(first.path) as file:
        first = replace(first, types=_types_of(first, file))
    parts = [replace(first, path=file) for file in files]
    if client is None:
        results: Iterator[TaskMoments] = map(read_part, parts)
    else:
        if not (hasattr(client, "map") and hasattr(client, "submit")):
            raise SpecificationError(
                "client",
                expected="a dask.distributed.Client",
                found=repr(client),
                remedy="Write client=Client(...), or leave it out to read here.",
            )
        # pure=False: a file may have changed since a cluster last read it
        results = (future.result() for future in client.map(read_part, parts, pure=False))
    moments = next(results)
    for others in results:  # in the order of the files, wherever they were read
        moments = moments.merge(others)
    if not moments.count.sum():
        raise DataError(
            str(target),
            expected="at least one observed target",
            found=f"none in {listing(files)}",
            remedy=f"Check that '{target}' is the right column.",
        )
    frame = pd.DataFrame({name: [0.0] for name in columns[:-1]})
    return {
        "moments": moments.in_order(),
        "design": Design.from_columns(list(columns[:-1]), frame, intercept=intercept),
        "task_column": str(task),
        "target_name": str(target),
        "source": str(path) if isinstance(path, (str, Path)) else listing(files),
        "row_columns": dict(carried),
        "parts": tuple(parts),
    }


def _roles(further: Mapping[str, Any], taken: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Role and column of what rows carry besides."""
    roles = present_roles(further)
    for role, name in roles.items():
        if not isinstance(name, str):
            raise SpecificationError(
                role,
                expected="the name of a column",
                found=type(name).__name__,
                remedy="Write it into the files; values from outside have no place in them.",
            )
        check_free(name, role, taken)
    return tuple(roles.items())


def read_part(part: Part) -> TaskMoments:
    """The sums over one file, read chunk by chunk.

    Raises:
        DataError: If the file cannot be read, looks otherwise than the first, or holds a value that is
            missing or infinite where none may be.
    """
    sums = Accumulator(len(part.columns))
    for chunk in chunks(part):
        extremes = chunk.extremes
        if "offset" in chunk.carried:
            target = chunk.values[-1]
            target -= chunk.carried["offset"]
            extremes[0][-1] = np.fmin.reduce(target, initial=np.inf)
            extremes[1][-1] = np.fmax.reduce(target, initial=-np.inf)
        sums.add(chunk.values, chunk.codes, chunk.labels, extremes, chunk.carried)
    return sums.finish()


def chunks(part: Part) -> Iterator[Chunk]:
    """The rows of one file, a chunk at a time.

    Raises:
        DataError: As `read_part`.
    """
    with _reading(part.path) as file:
        _check_types(part, file)
        yield from _chunks_of(file, part)


def _check_types(part: Part, file: Any) -> None:
    types = _types_of(part, file)
    for name, found, expected in zip(part.used, types, part.types, strict=True):
        if found != expected:
            raise DataError(
                name,
                expected=f"type {expected} in every part, as in the first",
                found=f"type {found} in {part.path}",
                remedy="Write all parts with one schema.",
            )


def _chunks_of(file: Any, part: Part) -> Iterator[Chunk]:
    room = np.empty((len(part.columns), _CHUNK))  # once: fresh memory costs as much as filling it
    batches = file.iter_batches(batch_size=_CHUNK, columns=list(dict.fromkeys(part.used)))
    while (batch := _next(batches, part.path)) is not None:
        values = room[:, : batch.num_rows]
        for column, name in zip(values, part.columns, strict=True):
            column[:] = _numbers(batch.column(name))
        extremes = _extremes(values, part)
        task = batch.column(part.task)
        missing = task.is_null(nan_is_null=True).true_count
        if missing:
            raise DataError(
                part.task,
                expected="a label in every row",
                found=f"{missing} rows without one in {part.path}",
                remedy="Drop these rows, or give them a label.",
            )
        if hasattr(task, "dictionary"):  # which may hold labels without rows
            task = task.dictionary_decode()
        encoded = task.dictionary_encode()
        yield Chunk(
            values,
            encoded.indices.to_numpy(),
            encoded.dictionary.to_pylist(),
            extremes,
            dict(_carried(batch, role, name, part) for role, name in part.carried),
        )


def _carried(batch: pa.RecordBatch, role: str, name: str, part: Part) -> tuple[str, np.ndarray]:
    """What rows carry, by the name that `TaskData` has for it: an exposure as the offset that it is."""
    values = _numbers(batch.column(name))
    wrong = out_of_range(values, role)
    if wrong.any():
        raise DataError(
            name,
            expected=EXPECTED[role],
            found=f"{int(wrong.sum())} values that are not, or missing, in {part.path}",
            remedy=REMEDY[role],
        )
    return ("offset", np.log(values)) if role == "exposure" else (role, values)


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError(
            "from_parquet",
            expected="the package pyarrow",
            found="no such package",
            remedy='Install it with `pip install "bayesmtl[parquet]"`.',
        ) from error
    return pyarrow


def _files(path: str | Path | Sequence[str | Path]) -> list[str]:
    """Names of the files, sorted where they are not listed."""
    if not isinstance(path, (str, Path)):
        files = [str(one) for one in path]
    elif Path(path).is_dir():
        files = sorted(str(one) for one in Path(path).glob("*.parquet"))
    else:
        files = sorted(glob.glob(str(path)))
    if not files:
        raise DataError(
            "path",
            expected="a Parquet file, a folder of them, or a pattern such as data/*.parquet",
            found=f"no file at {path}",
            remedy="Check the path.",
        )
    return files


def _reading(path: str) -> Any:
    pyarrow = _pyarrow()
    try:
        # read ahead, a file would be in memory as a whole
        return pyarrow.parquet.ParquetFile(path, pre_buffer=False)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _next(batches: Any, path: str) -> pa.RecordBatch | None:
    pyarrow = _pyarrow()
    try:
        return next(batches, None)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: str, error: Exception) -> DataError:
    return DataError(
        "path",
        expected="whole Parquet files",
        found=f"{path}, which cannot be read ({type(error).__name__}: {error})",
        remedy="Write this part again; a copy may have been cut short.",
    )


def _types_of(part: Part, file: Any) -> tuple[str, ...]:
    """Types of the columns, refused where they are absent or no numbers."""
    import pyarrow.types as kinds

    path, task, schema, found = part.path, part.task, file.schema_arrow, []
    for name in part.used:
        if schema.get_field_index(name) < 0:
            raise DataError(
                name,
                expected="a column of every part",
                found=f"no such column in {path} (columns: {listing(schema.names)})",
                remedy="Write all parts with one schema.",
            )
        kind = schema.field(name).type
        number = kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_boolean(kind)
        if name != task and not number:
            raise DataError(
                name,
                expected="numbers or booleans",
                found=f"type {kind} in {path}",
                remedy="Encode categories as numbers before writing, or use TaskData.from_frame.",
            )
        if kinds.is_dictionary(kind):
            kind = kind.value_type  # how labels are stored is no matter
        found.append(str(kind))
    return tuple(found)


def _numbers(column: Any) -> np.ndarray:
    """A column as float64, missing values as NaN."""
    return np.asarray(column.cast("float64").to_numpy(zero_copy_only=False))


def _extremes(values: np.ndarray, part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value of each column (p, n); refuses infinities, and holes but in the target."""
    low, high = values.min(axis=1, initial=np.inf), values.max(axis=1, initial=-np.inf)
    target = values[-1]
    low[-1], high[-1] = np.fmin.reduce(target, initial=np.inf), np.fmax.reduce(target, initial=-np.inf)
    sound = np.isfinite(low) & np.isfinite(high)
    sound[-1] |= bool(np.isnan(target).all())
    if values.shape[1] and not sound.all():
        column = int(np.flatnonzero(~sound)[0])
        is_target = column == len(values) - 1
        wrong = np.isinf(target) if is_target else ~np.isfinite(values[column])
        raise DataError(
            part.columns[column],
            expected="finite targets, or missing ones" if is_target else "a finite value in every row",
            found=f"{int(wrong.sum())} values that are not in {part.path}",
            remedy="Correct these rows." if is_target else "Drop these rows or fill them in.",
        )
    return low, high
