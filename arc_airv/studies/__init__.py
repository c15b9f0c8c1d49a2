"""Studies: what selects best, what a setting is worth, and an LLM as judge.

Throughout, `predictions`, `tasks`, `ranked` and `average` are as in `arc_airv.metrics`, `features`
and `scores` as in `arc_airv.vote.candidate_features`, and charts as in `arc_airv.plots`. A gain is
what vote_2 is above that of the first selector or run; its interval (low, high) is a 95% bootstrap
over tasks, both on the same `n_resamples` resamples.
"""

from arc_airv import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "arc_airv.studies.selection": (
            "compare_selectors compare_halves cross_fit fit_selector filter_errors calibration"
        ),
        "arc_airv.studies.runs": "compare_runs",
        "arc_airv.studies.charts": (
            "plot_gains plot_calibration plot_right_ranks plot_setting plot_costs"
        ),
        "arc_airv.studies.judge": "judge_yes_no",
    },
)
