"""Did the computation work, and if not, where and what to do?"""

from bayesmtl.diagnostics.convergence import Check, check_draws
from bayesmtl.diagnostics.separation import class_separation_notes, separation_notes

__all__ = ["Check", "check_draws", "class_separation_notes", "separation_notes"]
