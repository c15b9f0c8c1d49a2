"""Metrics: checked by hand on a small data set, and closed forms against all subsets."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from handmade import (
    ALL_OUTPUTS_AVERAGE,
    BY_OUTPUT,
    BY_OUTPUT_AVERAGE,
    BY_TASK_AVERAGE,
    POOLS,
    TASKS,
    make_pool,
    make_task,
    random_data,
)
from hypothesis import given
from hypothesis import strategies as st

from arc_airv.metrics.curves import metric_curves
from arc_airv.metrics.outputs import (
    average_outputs,
    bootstrap_interval,
    evaluate,
    pass_at_k,
    score_outputs,
    score_predictions,
)
from arc_airv.records import NO_REPLY, to_frame
from arc_airv.tasks import AVERAGES, hide_outputs
from arc_airv.vote.rank import rank_candidates

# By hand -----------------------------------------------------------------------------------------


def test_every_metric_of_every_output():
    outputs = score_outputs(POOLS, TASKS)
    assert list(outputs) == ["task_id", "test_index", *BY_OUTPUT]
    assert outputs["task_id"].tolist() == ["four", "two", "two", "none", "invalid"]
    assert outputs["test_index"].tolist() == [0, 0, 1, 0, 0]
    for name, values in BY_OUTPUT.items():
        assert outputs[name].tolist() == pytest.approx(values), name


@pytest.mark.parametrize(
    ("average", "expected"),
    [("task", BY_TASK_AVERAGE), ("output", BY_OUTPUT_AVERAGE), ("all", ALL_OUTPUTS_AVERAGE)],
)
def test_every_metric_of_the_data_set(average, expected):
    values = evaluate(POOLS, TASKS, average=average)
    assert list(values.index) == list(expected)
    assert values.to_dict() == pytest.approx(expected)
    interval = bootstrap_interval(score_outputs(POOLS, TASKS), average=average)
    assert interval["value"].to_dict() == pytest.approx(expected)


def test_every_table_says_which_average_it_is():
    outputs = score_outputs(POOLS, TASKS)
    assert average_outputs(outputs, average="all").name == AVERAGES["all"]
    assert AVERAGES["output"] in repr(bootstrap_interval(outputs, average="output"))
    assert repr(metric_curves(POOLS, TASKS)).startswith(AVERAGES["task"])


def test_the_average_is_over_tasks_unless_told():
    pd.testing.assert_series_equal(evaluate(POOLS, TASKS), evaluate(POOLS, TASKS, average="task"))


def test_a_task_without_predictions_never_drops_out():
    more = {**TASKS, **{f"unseen{i}": make_task(f"unseen{i}", "0") for i in range(4)}}
    values = evaluate(POOLS, more)
    assert values["accuracy"] == BY_TASK_AVERAGE["accuracy"] / 2
    assert values["unanswered"] == (BY_TASK_AVERAGE["unanswered"] + 1) / 2


def test_no_predictions_at_all_solve_nothing():
    values = evaluate(to_frame([]), TASKS)
    assert values.pop("unanswered") == 1.0
    assert np.isnan(values.pop("voting_accuracy"))
    assert (values == 0.0).all()


def test_a_row_that_holds_no_prediction_counts_nowhere():
    with_status = POOLS.assign(status=np.where(POOLS["grid"].isna(), "unparsed", "ok"))
    silent = make_pool("four", 0, (None, None), (None, None)).assign(status=NO_REPLY)
    only = make_pool("none", 0, (None, None)).assign(status=NO_REPLY)
    store = pd.concat([silent, with_status, only])
    outputs = score_outputs(store, TASKS)
    pd.testing.assert_frame_equal(outputs, score_outputs(POOLS, TASKS))
    nothing = outputs[outputs["task_id"] == "none"]
    assert nothing[["n_predictions", "unanswered"]].values.tolist() == [[0, 1]]
    assert len(score_predictions(store, TASKS)) == len(POOLS)
    pd.testing.assert_frame_equal(metric_curves(store, TASKS), metric_curves(POOLS, TASKS))
    for method in ("votes", "cells"):
        ranked = rank_candidates(store, method=method)
        pd.testing.assert_frame_equal(ranked, rank_candidates(POOLS, method=method))


def test_the_order_of_the_predictions_does_not_matter():
    shuffled = POOLS.sample(frac=1.0, random_state=0)
    pd.testing.assert_frame_equal(score_outputs(shuffled, TASKS), score_outputs(POOLS, TASKS))


def test_there_is_no_interval_of_no_outputs():
    with pytest.raises(ValueError, match="no test outputs"):
        bootstrap_interval(score_outputs(to_frame([]), {}))


def test_an_unknown_average_is_refused():
    for compute in (lambda outputs: average_outputs(outputs, average="mean"),
                    lambda outputs: bootstrap_interval(outputs, average="mean")):  # fmt: skip
        with pytest.raises(ValueError, match=r"\['task', 'output', 'all'\], got 'mean'"):
            compute(score_outputs(POOLS, TASKS))


# One prediction ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "exact", "size", "pixels"),
    [
        ("12|34", 1.0, 1.0, 1.0),
        ("12|30", 0.0, 1.0, 0.75),
        ("00|00", 0.0, 1.0, 0.0),
        ("1234", 0.0, 0.0, 0.0),
        ("12|34|00", 0.0, 0.0, 0.0),
        (None, 0.0, 0.0, 0.0),
    ],
)
def test_a_prediction_is_compared_with_its_solution(prediction, exact, size, pixels):
    scored = score_predictions(make_pool("four", 0, (prediction, -1.0)), TASKS)
    assert scored[["correct", "correct_size", "correct_pixels", "answered"]].values.tolist() == [
        [exact, size, pixels, float(prediction is not None)]
    ]


def test_scored_predictions_are_the_predictions_with_four_more_columns():
    scored = score_predictions(POOLS, TASKS)
    pd.testing.assert_frame_equal(scored[POOLS.columns], POOLS)
    assert list(scored.columns.difference(POOLS.columns)) == [
        "answered", "correct", "correct_pixels", "correct_size"
    ]  # fmt: skip
    pd.testing.assert_frame_equal(score_predictions(scored, TASKS), scored)


def test_a_missing_grid_may_be_none_or_nan():
    frame = make_pool("four", 0, (None, None), ("12|34", -1.0), (float("nan"), None), (None, None))
    frame["grid"] = frame["grid"].astype(object)
    frame.loc[0, "grid"] = None
    scored = score_predictions(frame, TASKS)
    assert scored["answered"].tolist() == [0.0, 1.0, 0.0, 0.0]
    assert score_outputs(frame, TASKS)["n_predictions"].tolist() == [4, 0, 0, 0, 0]


@pytest.mark.parametrize(("task_id", "test_index"), [("five", 0), ("four", 1), ("two", -1)])
def test_a_prediction_for_an_unknown_output_is_refused(task_id, test_index):
    frame = pd.concat([POOLS, make_pool(task_id, test_index, (None, None))])
    for function in (score_predictions, score_outputs, evaluate):
        with pytest.raises(ValueError, match=f"not in the tasks.*{task_id}"):
            function(frame, TASKS)


def test_a_hidden_solution_is_refused():
    hidden = {**TASKS, "none": hide_outputs(TASKS)["none"]}
    for function in (score_predictions, score_outputs, evaluate):
        with pytest.raises(ValueError, match="task none: the solution of test output 0 is hidden"):
            function(POOLS, hidden)


# Closed forms ------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.integers(1, 9))
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_one(right, k):
    subsets = list(combinations(right, min(k, len(right))))
    share = sum(any(subset) for subset in subsets) / len(subsets)
    assert pass_at_k(len(right), sum(right), k) == pytest.approx(share)


def test_drawing_from_nothing_gives_nothing():
    assert pass_at_k(0, 0, 2) == 0.0


def test_large_pools_stay_exact():
    assert pass_at_k(4096, 1, 2048) == 0.5
    assert pass_at_k(4096, 4000, 2) == pytest.approx(1 - 96 * 95 / (4096 * 4095))


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 0)])
def test_impossible_draws_are_refused(n, c, k):
    with pytest.raises(ValueError, match=f"n={n}, c={c}, k={k}"):
        pass_at_k(n, c, k)


@pytest.mark.parametrize("seed", range(5))
def test_random_2_is_the_share_of_pairs_that_hold_a_right_one(seed):
    predictions, tasks = random_data(seed)
    outputs = score_outputs(predictions, tasks).set_index(["task_id", "test_index"])
    scored = score_predictions(predictions, tasks)
    for key, pool in scored.groupby(["task_id", "test_index"]):
        pairs = list(combinations(pool["correct"], min(2, len(pool))))
        assert outputs.loc[key, "random_2"] == pytest.approx(np.mean([any(p) for p in pairs]))


@pytest.mark.parametrize("seed", range(5))
def test_metrics_keep_their_order(seed):
    outputs = score_outputs(*random_data(seed))
    for lower, higher in [
        ("accuracy", "correct_pixels"), ("correct_pixels", "correct_size"),
        ("accuracy", "random_2"), ("random_2", "pass_n"), ("vote_1", "vote_2"),
        ("vote_2", "pass_n"), ("pass_n", "best_correct_pixels"),
        ("best_correct_pixels", "best_correct_size"), ("correct_pixels", "best_correct_pixels"),
    ]:  # fmt: skip
        assert (outputs[lower] <= outputs[higher] + 1e-12).all(), (lower, higher)


def test_votes_are_those_of_any_method():
    assert score_outputs(POOLS, TASKS, method="logprob")["vote_1"].tolist() == [0, 0, 1, 0, 0]
    weights = {"mean_token_logprob": -1}  # prefers the least likely
    outputs = score_outputs(POOLS, TASKS, method=weights)
    assert outputs["vote_1"].tolist() == [1, 0, 0, 0, 0]
    assert outputs["vote_2"].tolist() == [1, 0, 1, 0, 0]


def test_votes_may_be_weighted_and_filtered():
    scores = pd.DataFrame(
        {"task_id": "four", "test_index": 0, "augmentation": "view",
         "grid": ["12|34", "12|30", "12"], "score_logprob": [-1.0, -2.0, -3.0]}
    )  # fmt: skip
    by_score = {"method": "product_of_experts", "scores": scores}
    assert score_outputs(POOLS, TASKS, **by_score)["vote_1"].tolist() == [1, 0, 1, 0, 0]

    def has_two_rows(task, test_index):
        return lambda grid: grid.count("|") == 1

    # The right grid has two rows: this filter puts the wrong 12 first.
    assert evaluate(POOLS, TASKS, **by_score)["vote_1"] == (1 + 1 / 2) / 4
    assert evaluate(POOLS, TASKS, **by_score, filters=[has_two_rows])["vote_1"] == (0 + 1 / 2) / 4


# Intervals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("seed", range(3))
def test_an_interval_contains_its_value(seed, average):
    outputs = score_outputs(*random_data(seed, n_tasks=30))
    interval = bootstrap_interval(outputs, average=average, seed=seed)
    assert (interval["low"] <= interval["value"]).all()
    assert (interval["value"] <= interval["high"]).all()
    expected = average_outputs(outputs, average=average)[interval.index]
    assert interval["value"].to_numpy() == pytest.approx(expected.to_numpy())


def test_an_interval_has_the_width_of_the_binomial():
    solved = np.arange(400) < 100
    outputs = pd.DataFrame({"task_id": [f"t{i:03}" for i in range(400)], "pass_n": solved * 1.0})
    low, high = bootstrap_interval(outputs).loc["pass_n", ["low", "high"]]
    half = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert (low, high) == pytest.approx((0.25 - half, 0.25 + half), abs=4e-3)


def test_the_outputs_of_a_task_are_drawn_together():
    outputs = pd.DataFrame({"task_id": ["a", "a", "a", "b"], "pass_n": [1.0, 1.0, 1.0, 0.0]})
    interval = bootstrap_interval(outputs, average="output")
    assert interval.loc["pass_n"].tolist() == [0.75, 0.0, 1.0]


def test_a_gain_is_over_the_same_resampled_tasks():
    """Compare a run that solves 10 of 30 tasks with one that solves 5 more."""
    few = pd.DataFrame({"task_id": [f"t{i:02}" for i in range(30)], "test_index": 0})
    few["vote_2"] = [1.0] * 10 + [0.0] * 20
    more = few.assign(vote_2=[1.0] * 15 + [0.0] * 15)
    gain = bootstrap_interval(more, baseline=few).loc["vote_2"]
    alone = bootstrap_interval(few.assign(vote_2=more["vote_2"] - few["vote_2"])).loc["vote_2"]
    assert gain.tolist() == pytest.approx(alone.tolist())
    assert gain["value"] == pytest.approx(5 / 30) and gain["low"] >= 0
    shuffled = more.sample(frac=1.0, random_state=0)
    assert bootstrap_interval(shuffled, baseline=few).loc["vote_2"].equals(gain)
    assert (bootstrap_interval(few, baseline=few).loc["vote_2"] == 0).all()
    with pytest.raises(ValueError, match="same tasks"):
        bootstrap_interval(more, baseline=few.iloc[1:])


def test_a_gain_in_whole_tasks_is_that_of_their_worst_outputs():
    """Compare two runs that each solve one of a task's two outputs: neither solves the task."""
    one = pd.DataFrame({"task_id": ["a", "a", "b"], "vote_2": [1.0, 0.0, 1.0]})
    other = one.assign(vote_2=[0.0, 1.0, 1.0])
    assert bootstrap_interval(other, baseline=one, average="all").loc["vote_2"].tolist() == [0] * 3


def test_an_interval_is_the_same_for_the_same_seed():
    outputs = score_outputs(*random_data(0))
    first = bootstrap_interval(outputs, seed=1)
    pd.testing.assert_frame_equal(bootstrap_interval(outputs, seed=1), first)
    assert not bootstrap_interval(outputs, seed=2).equals(first)


def test_a_lower_level_is_a_narrower_interval():
    outputs = score_outputs(*random_data(0, n_tasks=30))
    wide, narrow = bootstrap_interval(outputs), bootstrap_interval(outputs, level=0.5)
    widths = (frame.loc["accuracy", "high"] - frame.loc["accuracy", "low"]
              for frame in (wide, narrow))  # fmt: skip
    assert next(widths) > next(widths) > 0
