"""Progress of long work on stderr, with the time left; off with `progress=False`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator

with warnings.catch_warnings():
    # without notebook widgets tqdm falls back to text by itself, and says so when imported
    warnings.simplefilter("ignore")
    from tqdm.autonotebook import tqdm


def iterations(start: int, stop: int, description: str, *, show: bool) -> Iterator[int]:
    """Count from `start` to `stop` and show it.

    Args:
        start: First iteration, above 0 after a resumed run.
        stop: Number of iterations in all.
        description: What is being done.
        show: Whether to show it.
    """
    if not show:  # no bar at all: tqdm starts a thread, and fixes how processes are started
        yield from range(start, stop)
        return
    with tqdm(total=stop, initial=start, desc=description, file=sys.stderr) as bar:
        for iteration in range(start, stop):
            yield iteration
            bar.update()
