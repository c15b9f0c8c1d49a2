"""Inference: ask an engine about every view of every task, and store what it says."""

from arc_airv.infer.generate import RunSummary, generate_predictions
from arc_airv.infer.rescoring import read_scores, rescore
from arc_airv.infer.threshold import harvest_predictions

__all__ = [
    "RunSummary",
    "generate_predictions",
    "harvest_predictions",
    "read_scores",
    "rescore",
]
