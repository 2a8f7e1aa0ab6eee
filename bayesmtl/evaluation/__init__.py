"""Is sharing worth it, and which sharing: models and fits compared by what they predict."""

from bayesmtl.evaluation.compare import Comparison, compare
from bayesmtl.evaluation.transfer import TransferReport, transfer_report

__all__ = ["Comparison", "TransferReport", "compare", "transfer_report"]
