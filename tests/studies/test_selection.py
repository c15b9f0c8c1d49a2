"""Studies of selection: hand-computed on a few pools."""

import numpy as np
import pandas as pd
import pytest

from arc_airv.grids import parse_grid
from arc_airv.metrics import evaluate, metric_curves, score_outputs
from arc_airv.studies.selection import (
    calibration,
    compare_halves,
    compare_selectors,
    cross_fit,
    fit_selector,
)
from arc_airv.tasks import Pair, Task
from arc_airv.vote import METHODS, candidates, rank_candidates


def task(task_id, *outputs):
    pairs = tuple(Pair(parse_grid("0"), parse_grid(output)) for output in outputs)
    return Task(task_id, (Pair(parse_grid("0"), parse_grid("5")),), pairs)


TASKS = {"a": task("a", "1"), "b": task("b", "1", "2"), "c": task("c", "3")}


def pool(task_id, test_index, *replies):
    """Make predictions from texts such as "1:-0.5", a grid and its log-probability."""
    return [
        {
            "task_id": task_id,
            "test_index": test_index,
            "grid": grid or None,
            "cumulative_logprob": float(logprob),
            "n_tokens": 1,
        }
        for grid, logprob in (reply.split(":") for reply in replies)
    ]


@pytest.fixture(scope="module")
def predictions():
    return pd.DataFrame(
        [
            # By votes 4, 5, 1 (the right one comes third); by log-probability it comes first.
            *pool("a", 0, "4:-3", "4:-3", "4:-3", "5:-2", "5:-2", "1:-0.1"),
            # First by votes, third by log-probability.
            *pool("b", 0, "1:-4", "1:-4", "4:-1", "5:-2", ":-9", ":-9"),
            # Not in the pool.
            *pool("b", 1, "7:-1", "7:-1", "8:-1", "8:-1", "8:-1", ":-9"),
            # c has no prediction at all.
        ]
    )


def test_selectors_are_compared_with_the_first_on_the_same_pools(predictions):
    selectors = {"votes": {"method": "votes"}, "logprob": {"method": "logprob"}}
    table = compare_selectors(predictions, TASKS, selectors, average="output")
    # Of the four outputs, the first candidate solves b0 by votes and a0 by logprob.
    assert table["vote_1"].to_dict() == {"votes": 0.25, "logprob": 0.25}
    assert table["vote_2"].to_dict() == {"votes": 0.25, "logprob": 0.25}
    assert table.attrs["pass_n"] == 0.5
    # Two of six at random: a0 has 1 right of 6, b0 has 2 of 6.
    random_2 = (1 / 3 + 1 - (4 * 3) / (6 * 5)) / 4
    assert table.attrs["random_2"] == pytest.approx(random_2)
    assert table["gap_closed"].iloc[0] == pytest.approx((0.25 - random_2) / (0.5 - random_2))
    assert table["voting_accuracy"].to_list() == [0.5, 0.5]
    assert table["gain"].to_list() == [0, 0]
    assert table.loc["votes", ["low", "high"]].to_list() == [0, 0]  # against itself
    assert table.loc["logprob", "low"] < 0 < table.loc["logprob", "high"]


def test_the_predictions_are_indexed_once(predictions, monkeypatch):
    made = []

    class CountedPools(candidates.Pools):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(candidates, "Pools", CountedPools)
    methods = {name: {"method": name} for name, s in METHODS.items() if not s.needs_scores}
    for compute in (
        lambda p: compare_selectors(p, TASKS, {**methods, "copy": {"filters": ("copy",)}}),
        lambda p: cross_fit(p, {"a": TASKS["a"], "b": TASKS["b"]}, n_folds=2),
        lambda p: fit_selector(p, TASKS),
        lambda p: metric_curves(p, TASKS),
        lambda p: score_outputs(p, TASKS),
        lambda p: evaluate(p, TASKS, method="cells"),
    ):
        of_table = compute(predictions)
        assert len(made) == 1
        of_pools = compute(made.pop())
        assert not made
        assert of_pools.equals(of_table) if hasattr(of_pools, "equals") else of_pools == of_table


def test_a_gain_is_that_of_vote_2(predictions):
    only_a = predictions[predictions["task_id"] == "a"]
    table = compare_selectors(
        only_a, {"a": TASKS["a"]}, {"votes": {}, "logprob": {"method": "logprob"}}
    )
    assert table["gain"].to_list() == [0, 1]
    assert table.loc["logprob", ["low", "high"]].to_list() == [1, 1]  # the only task there is


def test_selectors_may_filter_and_weigh(predictions):
    options = {"method": {"votes": 1.0}, "filters": ("colors",)}
    table = compare_selectors(predictions, TASKS, {"filtered": options}, average="output")
    # Only colours 5 and 0 were seen: in a0 candidate 5 ranks first, the right one stays third.
    assert table.loc["filtered", "vote_2"] == 0.25


def test_a_ranking_may_be_compared_as_it_is(predictions):
    ranked = rank_candidates(predictions, method="logprob")
    table = compare_selectors(
        predictions, TASKS, {"logprob": {"method": "logprob"}, "ranking": ranked}
    )
    assert table.loc["ranking"].tolist() == table.loc["logprob"].tolist()


def test_a_task_is_ranked_by_what_the_others_teach(predictions):
    tasks = {"a": TASKS["a"], "b": TASKS["b"]}
    features = ["votes", "mean_token_logprob"]
    ranked = cross_fit(predictions, tasks, n_folds=2, features=features)
    for task_id, other in ("a", "b"), ("b", "a"):
        # a is right by log-probability and b by votes, so each misleads a fit for the other.
        selector = fit_selector(
            predictions[predictions["task_id"] == other], tasks, features=features
        )
        alone = predictions[predictions["task_id"] == task_id]
        expected = rank_candidates(alone, method=selector)
        assert ranked[ranked["task_id"] == task_id]["grid"].tolist() == expected["grid"].tolist()
    assert ranked[ranked["task_id"] == "a"]["grid"].iloc[0] == "4"


@pytest.mark.parametrize("n_folds", [1, 4])
def test_impossible_folds_are_refused(predictions, n_folds):
    with pytest.raises(ValueError, match=f"n_folds must be 2 to the 3 tasks, got {n_folds}"):
        cross_fit(predictions, TASKS, n_folds=n_folds)


def test_comparing_nothing_is_refused(predictions):
    with pytest.raises(ValueError, match="at least one selector"):
        compare_selectors(predictions, TASKS, {})


def test_a_selector_holds_if_it_is_ahead_on_both_halves():
    # Votes take 4 and 5, the likeliest reply is right: in every task, or in those of one half.
    replies = ("4:-3", "4:-3", "5:-2", "5:-2", "1:-0.1")
    tasks = {f"{i:02}": task(f"{i:02}", "1") for i in range(20)}
    rows = pd.DataFrame([row for i in tasks for row in pool(i, 0, *replies)])
    selectors = {"votes": {"method": "votes"}, "logprob": {"method": "logprob"}}
    table = compare_halves(rows, tasks, selectors)
    assert table["holds"].to_dict() == {"votes": False, "logprob": True}
    assert table.loc["logprob", ["gain", "low", "high", "gain_2"]].tolist() == [1, 1, 1, 1]
    assert table.loc["votes", ["gain", "gain_2"]].tolist() == [0, 0]
    first = np.random.default_rng(0).permutation(sorted(tasks))[:10]
    unsolved = {i: t if i in first else task(i, "9") for i, t in tasks.items()}
    table = compare_halves(rows, unsolved, selectors)
    assert table.loc["logprob", ["gain", "gain_2", "holds"]].tolist() == [1, 0, False]
    rankings = {"votes": rank_candidates(rows), "logprob": rank_candidates(rows, method="logprob")}
    pd.testing.assert_frame_equal(compare_halves(rows, unsolved, rankings), table)
    with pytest.raises(ValueError, match="at least 2 tasks, got 1"):
        compare_halves(rows, {"00": tasks["00"]}, selectors)


def test_calibration_by_hand():
    table = calibration([0.0, 0.1, 0.9, 1.0, 0.9], [False, True, True, True, False], n_bins=2)
    assert table["n"].to_list() == [2, 3]
    assert table["confidence"].to_list() == pytest.approx([0.05, 2.8 / 3])
    assert table["right"].to_list() == pytest.approx([0.5, 2 / 3])
    assert table.attrs["error"] == pytest.approx((2 * 0.45 + 3 * (2.8 / 3 - 2 / 3)) / 5)


def test_an_edge_belongs_to_the_bin_below_it():
    table = calibration([0.5, 0.51], [True, False], n_bins=2)
    assert table[["low", "high", "n"]].values.tolist() == [[0, 0.5, 1], [0.5, 1, 1]]


def test_perfect_confidence_has_no_error():
    rng = np.random.default_rng(0)
    right = rng.random(100) < 0.5
    assert calibration(right.astype(float), right).attrs["error"] == 0


def test_a_confidence_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match="in .0, 1."):
        calibration([1.2], [True])
