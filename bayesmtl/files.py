"""Writing files so that a full disk or a killed process never costs the old one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Replace `path` by what `write` writes; until that is complete and on disk the old file stays.

    Args:
        path: The file to replace or create.
        write: Called with the name of a temporary file in the same folder.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
