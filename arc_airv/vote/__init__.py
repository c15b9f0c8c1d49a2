"""Voting: the candidates of each test output, ranked. Never sees a solution.

Throughout, `predictions` is a table as `arc_airv.records.read_predictions` gives it, or the `Pools`
that `index_pools` made of it; rows without a grid are no candidates. `tasks` maps ids to tasks,
whose test outputs are not looked at. `scores` are re-scores as `arc_airv.infer.rescore` gives them,
and a ranking is a table as `rank_candidates` gives it. No result depends on the order of rows.
"""

from arc_airv import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "arc_airv.vote.candidates": "CANDIDATE Pools candidate_features index_pools",
        "arc_airv.vote.ensemble": "combine_predictions",
        "arc_airv.vote.filters": "FILTERS expected_shapes rule_out",
        "arc_airv.vote.rank": "best_samples rank_by_score rank_candidates select_attempts",
        "arc_airv.vote.selectors": "METHODS Selector",
    },
)
