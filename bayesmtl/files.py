"""Writing files so that a full disk or a killed process never costs the old one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Replace `path` by what `write` writes; until that is complete and on disk the old file stays.

    Args:
        path: The file to replace or create.
        write: Called with the name of a temporary file in the same folder.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    _remove_leftovers(path)
    try:
        write(partial)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of writing the same file."""
    head = f".{path.name}."
    for found in path.parent.iterdir():
        if found.name.startswith(head) and found.name.endswith(".partial"):
            pid = found.name.removeprefix(head).split(".")[0]
            if pid.isdigit() and int(pid) != os.getpid() and not _is_running(int(pid)):
                found.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True
