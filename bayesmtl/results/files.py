"""Saving and loading fits: one NetCDF file of plain data; loading executes nothing.

Arrays are stored with checksums, specifications as JSON text; `xarray.open_datatree` shows all of it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from bayesmtl._version import __version__
from bayesmtl.algebra.statistics import TaskStatistics
from bayesmtl.data import Part, Schema, Standardization, TaskData, TaskMoments, TaskSummaries
from bayesmtl.errors import BayesMTLError, FitFileError
from bayesmtl.files import replace_file
from bayesmtl.inference import NAMES
from bayesmtl.likelihoods import REGISTRY as LIKELIHOODS
from bayesmtl.posteriors.draws import LinearDraws
from bayesmtl.sharing import REGISTRY as SHARING

if TYPE_CHECKING:
    from bayesmtl.results.deep.fit import DeepFit
    from bayesmtl.results.functions.fit import GPFit
    from bayesmtl.results.linear.fit import Fit

FORMAT = 1
_STATISTICS = tuple(field.name for field in fields(TaskStatistics))
_DRAWS = ("basis", "weights", "factors")
_ROWS = ("X", "y", "task")
_MORE_ROWS = ("offset", "weights", "trials")  # where the data have them


def _group(arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
    # every array has dimensions of its own: NetCDF needs names, and these arrays share none
    return xr.Dataset(
        {name: (tuple(f"{name}_{i}" for i in range(values.ndim)), values) for name, values in arrays.items()}
    )


def save(fit: Fit, path: str | Path) -> None:
    """See `Fit.save`."""
    write(*content_of(fit), path)


def content_of(fit: Fit) -> tuple[dict[str, Any], dict[str, Mapping[str, np.ndarray]]]:
    """The specification of a fit over weights, and its arrays by group."""
    specification: dict[str, Any] = {
        "sharing": fit.sharing.to_dict(),
        "likelihood": fit.likelihood.to_dict(),
        "schema": fit.schema.to_dict(),
        "training_schema": fit.data.schema.to_dict(),
        "target_standardization": fit.data.target_standardization,
        "standardization": fit.standardization.to_dict(),
        "method": fit.method,
        "reason": fit.reason,
        "seed": fit.seed,
        "complete": fit.draws.complete,
        "added_tasks": list(fit.added_tasks),
    }
    groups: dict[str, Mapping[str, np.ndarray]] = {
        "hyperparameters": {name: value.numpy() for name, value in fit.draws.hyperparameters.items()},
        "draws": {name: getattr(fit.draws, name).numpy() for name in _DRAWS},
        "sample_stats": fit.draws.sample_stats,
        "statistics": {name: getattr(fit.statistics, name) for name in _STATISTICS},
    }
    if isinstance(fit.data, TaskSummaries):
        specification["source"] = fit.data.source
        specification["parts"] = [asdict(part) for part in fit.data.parts]
        groups["moments"] = fit.data.moments.to_arrays()
    else:
        groups["rows"] = rows_of(fit.data)
    return specification, groups


def rows_of(data: TaskData) -> dict[str, np.ndarray]:
    """The arrays of training rows, which `restore_data` takes back."""
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
    tree.attrs["digest"] = _digest(tree)
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


def _digest(tree: xr.DataTree) -> str:
    """Fingerprint of all arrays and of the specification: damage shows wherever it is."""
    digest = hashlib.sha256(tree.attrs["specification"].encode())
    for group in sorted(tree.children):
        for name, array in sorted(tree[group].to_dataset().data_vars.items(), key=lambda item: str(item[0])):
            values = np.ascontiguousarray(array.to_numpy())
            digest.update(f"{group}/{name} {values.dtype.str} {values.shape}".encode())
            digest.update(values.tobytes())
    return digest.hexdigest()


def load(path: str | Path, *, trunk: Any = None) -> Fit | GPFit | DeepFit:
    """Read a fit that its `save` wrote. Nothing in the file is executed.

    Args:
        path: The file.
        trunk: The `torch.nn.Module` that a `DeepModel` was made with, where its trunk is the user's own: a
            file has its weights and a digest of its layers, not its code.

    Returns:
        A fit that predicts as the saved one does.

    Raises:
        FileNotFoundError: If there is no such file.
        FitFileError: If the file is damaged, of another kind, or from a newer version, or `trunk` is not
            the module that it asks for.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"No fit at {path}. Save one with fit.save(path).")
    try:
        # the whole file is read here, so that a damaged part shows now and not at a later use
        with xr.open_datatree(io.BytesIO(path.read_bytes()), engine="h5netcdf") as tree:
            tree.load()
            return _restore(tree, path, trunk)
    except FitFileError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, BayesMTLError) as error:
        raise FitFileError(
            "path",
            expected="a whole fit saved by this package",
            found=f"{path.name}, which cannot be read ({type(error).__name__}: {error})",
            remedy="Save the fit again; a copy may have been cut short.",
        ) from error


def _restore(tree: xr.DataTree, path: Path, trunk: Any) -> Fit | GPFit | DeepFit:
    if "bayesmtl_format" not in tree.attrs:
        raise FitFileError(
            "path",
            expected="a fit saved by this package",
            found=f"{path.name}, another kind of NetCDF file",
            remedy="Open it with xarray.",
        )
    if int(tree.attrs["bayesmtl_format"]) > FORMAT:
        raise FitFileError(
            "path",
            expected=f"format {FORMAT} or older",
            found=f"format {tree.attrs['bayesmtl_format']} of bayesmtl {tree.attrs['bayesmtl_version']}",
            remedy="Update bayesmtl.",
        )
    if tree.attrs["digest"] != _digest(tree):
        raise ValueError("its digest does not match its content")
    content: dict[str, Any] = json.loads(tree.attrs["specification"])

    def arrays(group: str) -> dict[str, np.ndarray]:
        dataset = tree[group].to_dataset()
        return {str(name): np.array(array.to_numpy()) for name, array in dataset.data_vars.items()}

    if content.get("kind") == "functions":
        from bayesmtl.results.functions import files as gp_files

        return gp_files.restore(content, arrays)
    if content.get("kind") == "deep":
        from bayesmtl.results.deep import files as deep_files

        return deep_files.restore(content, arrays, trunk)
    if content["method"] not in NAMES:
        raise ValueError("its specification does not fit its draws")
    return restore_weights(content, arrays)


def restore_weights(content: Mapping[str, Any], arrays: Callable[[str], dict[str, np.ndarray]]) -> Fit:
    """The fit over weights that `content_of` took apart."""
    from bayesmtl.results.linear.fit import Fit  # a fit saves itself through this module

    hyperparameters = {name: torch.from_numpy(values) for name, values in arrays("hyperparameters").items()}
    stored = {name: torch.from_numpy(values) for name, values in arrays("draws").items()}
    training, schema = Schema.from_dict(content["training_schema"]), Schema.from_dict(content["schema"])
    if len(schema.task_names) != stored["weights"].shape[2]:
        raise ValueError("its specification does not fit its draws")
    if "source" in content:
        data: TaskData | TaskSummaries = _restore_summaries(training, arrays("moments"), content)
    else:
        data = restore_data(training, arrays("rows"), content)
    return Fit(
        sharing=SHARING[content["sharing"]["sharing"]].from_fields(content["sharing"]),
        likelihood=LIKELIHOODS[content["likelihood"]["likelihood"]].from_fields(content["likelihood"]),
        schema=schema,
        standardization=Standardization.from_dict(content["standardization"]),
        statistics=TaskStatistics(**arrays("statistics")),
        draws=LinearDraws(
            hyperparameters, **stored, sample_stats=arrays("sample_stats"), complete=content["complete"]
        ),
        method=content["method"],
        reason=content["reason"],
        seed=content["seed"],
        data=data,
        added_tasks=tuple(content["added_tasks"]),
    )


def _restore_summaries(
    training: Schema, moments: Mapping[str, np.ndarray], content: Mapping[str, Any]
) -> TaskSummaries:
    return TaskSummaries(
        moments=TaskMoments(training.task_names, **moments),
        design=training.design,
        task_column=training.task_column,
        target_name=training.target_name,
        source=content["source"],
        target_standardization=content["target_standardization"],
        row_columns=training.row_columns,
        parts=tuple(Part.restored(part) for part in content["parts"]),
    )


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
