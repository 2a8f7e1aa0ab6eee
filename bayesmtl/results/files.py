"""Files of fits: one NetCDF file of plain data.

Arrays are stored with checksums, specifications as JSON text; `xarray.open_datatree` shows all of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from bayesmtl._version import __version__
from bayesmtl.data import Schema, TaskData
from bayesmtl.files import replace_file

FORMAT = 1
_ROWS = ("X", "y", "task")
_MORE_ROWS = ("offset", "weights", "trials")  # where the data have them


def _group(arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
    # every array has dimensions of its own: NetCDF needs names, and these arrays share none
    return xr.Dataset(
        {name: (tuple(f"{name}_{i}" for i in range(values.ndim)), values) for name, values in arrays.items()}
    )


class Contents(NamedTuple):
    """What a family of models adds to a file.

    Attributes:
        specification: Plain data.
        groups: Arrays by name, by group.
        parts: Parts of the model that the specification names, besides the sharing prior and the likelihood.
    """

    specification: dict[str, Any]
    groups: Mapping[str, Mapping[str, np.ndarray]]
    parts: tuple[object, ...] = ()


def rows_of(data: TaskData) -> dict[str, np.ndarray]:
    """The rows of a file."""
    rows = {name: getattr(data, name) for name in (*_ROWS, *_MORE_ROWS)}
    return {name: values for name, values in rows.items() if values is not None}


def write(
    specification: dict[str, Any], groups: Mapping[str, Mapping[str, np.ndarray]], path: str | Path
) -> None:
    """One file of named groups of arrays and a specification, with a digest of all of it."""
    tree = xr.DataTree.from_dict({name: _group(arrays) for name, arrays in groups.items()})
    tree.attrs.update(
        bayesmtl_format=FORMAT, bayesmtl_version=__version__, specification=json.dumps(specification)
    )
    tree.attrs["digest"] = digest_of(tree)
    encoding = {
        f"/{group}": {
            name: {"fletcher32": True, "zlib": True, "complevel": 1}
            for name, values in arrays.items()
            if values.ndim and values.size
        }
        for group, arrays in groups.items()
    }
    # built in memory: HDF5 can crash the process when the disk is full, plain writing raises an OSError
    whole = tree.to_netcdf(engine="h5netcdf", encoding=encoding)
    replace_file(Path(path), lambda partial: partial.write_bytes(whole))


def digest_of(tree: xr.DataTree) -> str:
    """Fingerprint of all arrays and of the specification: damage shows wherever it is."""
    digest = hashlib.sha256(tree.attrs["specification"].encode())
    for group in sorted(tree.children):
        for name, array in sorted(tree[group].to_dataset().data_vars.items(), key=lambda item: str(item[0])):
            values = np.ascontiguousarray(array.to_numpy())
            digest.update(f"{group}/{name} {values.dtype.str} {values.shape}".encode())
            digest.update(values.tobytes())
    return digest.hexdigest()


def restore_data(training: Schema, rows: Mapping[str, np.ndarray], content: Mapping[str, Any]) -> TaskData:
    """The training rows."""
    further: dict[str, Any] = {name: rows[name] for name in _MORE_ROWS if name in rows}
    return TaskData(
        X=rows["X"],
        y=rows["y"],
        task=rows["task"],
        task_names=training.task_names,
        design=training.design,
        task_column=training.task_column,
        target_name=training.target_name,
        descriptors=training.descriptors,
        target_standardization=content["target_standardization"],
        response=training.response,
        row_columns=training.row_columns,
        classes=training.classes,
        **further,
    )
