"""Loading fits: nothing in a file is executed, and all of it is checked."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from bayesmtl.data import Schema, Standardization
from bayesmtl.errors import BayesMTLError, FitFileError
from bayesmtl.inference import NAMES
from bayesmtl.likelihoods import Likelihood
from bayesmtl.registry import named
from bayesmtl.results.base import Fit
from bayesmtl.results.deep.files import parts as deep_parts
from bayesmtl.results.deep.fit import DeepFit
from bayesmtl.results.files import FORMAT, digest_of
from bayesmtl.results.functions.files import parts as function_parts
from bayesmtl.results.functions.fit import FunctionFit
from bayesmtl.results.linear.files import parts as linear_parts
from bayesmtl.results.linear.fit import LinearFit
from bayesmtl.sharing import Sharing

_FAMILIES: dict[str, tuple[type[Fit], Callable[..., dict[str, Any]]]] = {
    "weights": (LinearFit, linear_parts),
    "functions": (FunctionFit, function_parts),
    "deep": (DeepFit, deep_parts),
}


def load(path: str | Path, *, trunk: Any = None) -> Fit:
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


def _restore(tree: xr.DataTree, path: Path, trunk: Any) -> Fit:
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
    if tree.attrs["digest"] != digest_of(tree):
        raise ValueError("its digest does not match its content")
    content: dict[str, Any] = json.loads(tree.attrs["specification"])

    def arrays(group: str) -> dict[str, np.ndarray]:
        dataset = tree[group].to_dataset()
        return {str(name): np.array(array.to_numpy()) for name, array in dataset.data_vars.items()}

    family, parts = _FAMILIES[content.get("kind", "weights")]
    asked = (trunk,) if family is DeepFit else ()
    if content["method"] not in (*NAMES, "mode", "pyro"):
        raise ValueError("its specification names an engine that there is not")
    return family(
        sharing=named(Sharing, content["sharing"]["sharing"]).from_fields(content["sharing"]),
        likelihood=named(Likelihood, content["likelihood"]["likelihood"]).from_fields(content["likelihood"]),
        schema=Schema.from_dict(content["schema"]),
        standardization=Standardization.from_dict(content["standardization"]),
        method=content["method"],
        reason=content["reason"],
        seed=content["seed"],
        added_tasks=tuple(content["added_tasks"]),
        **parts(content, arrays, *asked),
    )
