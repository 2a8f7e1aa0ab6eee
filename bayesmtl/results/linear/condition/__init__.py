"""Further rows for a linear fit, without refitting."""

from bayesmtl.results.linear.condition.update import condition

__all__ = ["condition"]
