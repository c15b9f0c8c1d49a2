"""Voting: the candidates of each test output, ranked. Never sees a solution."""

from arc_airv.vote.candidates import Pools, candidate_features, index_pools
from arc_airv.vote.ensemble import combine_predictions
from arc_airv.vote.filters import FILTERS, expected_shapes, rule_out
from arc_airv.vote.rank import best_samples, rank_by_score, rank_candidates, select_attempts
from arc_airv.vote.selectors import METHODS, Selector

__all__ = [
    "FILTERS",
    "METHODS",
    "Pools",
    "Selector",
    "best_samples",
    "candidate_features",
    "combine_predictions",
    "expected_shapes",
    "index_pools",
    "rank_by_score",
    "rank_candidates",
    "rule_out",
    "select_attempts",
]
