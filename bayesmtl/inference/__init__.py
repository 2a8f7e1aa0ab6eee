"""Engines: a posterior and settings in, draws out."""

from __future__ import annotations

from bayesmtl.inference.choice import choose, handles
from bayesmtl.inference.engine import Engine
from bayesmtl.inference.engines import ENGINES, NAMES

__all__ = ["ENGINES", "NAMES", "Engine", "choose", "handles"]
