"""Inference: ask an engine about every view of every task, and store what it says."""

from arc_airv.infer.ask import RunSummary
from arc_airv.infer.generate import generate_predictions
from arc_airv.infer.rescoring import rescore
from arc_airv.infer.sizes import options_for_tasks
from arc_airv.infer.threshold import search_predictions
from arc_airv.records import read_scores

__all__ = [
    "RunSummary",
    "generate_predictions",
    "options_for_tasks",
    "read_scores",
    "rescore",
    "search_predictions",
]
