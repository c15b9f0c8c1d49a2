"""Curves: exact where there is a closed form, close to the share of all subsets elsewhere."""

import time
from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import pytest
from handmade import BY_OUTPUT, POOLS, TASKS, even_pool, make_pool, make_task, random_data
from hypothesis import given, settings
from hypothesis import strategies as st

from arc_airv.metrics.curves import metric_curves
from arc_airv.metrics.outputs import (
    evaluate,
    pass_at_k,
    score_predictions,
)
from arc_airv.metrics.solutions import right_ranks
from arc_airv.records import to_frame
from arc_airv.tasks import AVERAGES, hide_outputs
from arc_airv.vote.rank import rank_candidates


@pytest.fixture(scope="module", params=AVERAGES)
def curves(request):
    predictions, tasks = random_data(0)
    table = metric_curves(predictions, tasks, n_predictions=list(range(1, 10)),
                          average=request.param, n_subsamples=5)  # fmt: skip
    return table, evaluate(predictions, tasks, average=request.param)


def curve(table, metric):
    return table[table["metric"] == metric].set_index("n")["value"]


def test_a_curve_has_a_value_and_an_interval_for_every_n(curves):
    table, _ = curves
    assert list(table) == ["metric", "n", "value", "low", "high"]
    assert set(table["metric"]) == (
        set(BY_OUTPUT) - {"n_predictions", "random_2"} | {"voting_accuracy"}
    )
    assert (table.groupby("metric")["n"].agg(list).map(tuple) == tuple(range(1, 10))).all()
    assert (table["low"] <= table["value"] + 1e-12).all()
    assert (table["value"] <= table["high"] + 1e-12).all()


@pytest.mark.parametrize("metric", ["pass_n", "best_correct_size", "best_correct_pixels"])
def test_the_best_of_more_is_better(curves, metric):
    values = curve(curves[0], metric)
    assert values.is_monotonic_increasing
    assert values[9] > values[1]


def test_one_prediction_is_worth_the_mean(curves):
    table, full = curves
    for best, mean in [("pass_n", "accuracy"), ("best_correct_size", "correct_size"),
                       ("best_correct_pixels", "correct_pixels")]:  # fmt: skip
        assert curve(table, best)[1] == pytest.approx(full[mean])


def test_means_do_not_depend_on_n(curves):
    table, full = curves
    for metric in ("accuracy", "correct_size", "correct_pixels", "unanswered"):
        assert curve(table, metric).tolist() == pytest.approx([full[metric]] * 9)


def test_the_last_point_is_that_of_all_predictions(curves):
    table, full = curves
    last = table[table["n"] == 9].set_index("metric")["value"]
    assert last.to_dict() == pytest.approx(full[last.index].to_dict())


def test_votes_are_exact_where_every_prediction_is_an_attempt(curves):
    table, full = curves
    assert curve(table, "vote_1")[1] == pytest.approx(full["accuracy"])
    assert curve(table, "vote_2")[2] == pytest.approx(full["random_2"])


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 9])
def test_the_best_of_n_is_that_of_the_closed_forms(n):
    predictions, tasks = random_data(3)
    table = metric_curves(predictions, tasks, n_predictions=[n], average="output")
    values = table.set_index("metric")["value"]
    scored = score_predictions(predictions, tasks)
    pools = [pool for _, pool in scored.groupby(["task_id", "test_index"])]
    n_outputs = sum(len(task.test) for task in tasks.values())
    passes = [pass_at_k(len(pool), int(pool["correct"].sum()), n) for pool in pools]
    assert values["pass_n"] == pytest.approx(sum(passes) / n_outputs)
    for name in ("correct_size", "correct_pixels"):
        best = [np.mean([max(c) for c in combinations(pool[name], min(n, len(pool)))])
                for pool in pools]  # fmt: skip
        assert values[f"best_{name}"] == pytest.approx(sum(best) / n_outputs)


ROW = "1111"  # the solution; a grid of it with 0 to 4 cells changed has this share of it right
SHARES = {"0000": 0, "1000": 1, "1100": 2, "1110": 3, ROW: 4}


@settings(max_examples=40)
@given(
    st.lists(st.lists(st.sampled_from([*SHARES, "11", None]), min_size=1, max_size=80), min_size=1),
    st.data(),
)
def test_the_best_of_n_is_the_exact_fraction_of_all_subsets(pools, data):
    largest = max(map(len, pools))
    numbers = data.draw(st.lists(st.integers(1, largest + 3), min_size=1, max_size=4, unique=True))
    tasks = {f"t{i}": make_task(f"t{i}", ROW) for i in range(len(pools))}
    predictions = pd.concat([even_pool(t, 0, pool) for t, pool in zip(tasks, pools)])
    table = metric_curves(predictions, tasks, n_predictions=numbers, n_subsamples=1)
    metrics = {
        "pass_n": lambda grid: Fraction(grid == ROW),
        "best_correct_size": lambda grid: Fraction(grid in SHARES),
        "best_correct_pixels": lambda grid: Fraction(SHARES.get(grid, 0), 4),
    }
    for metric, score in metrics.items():
        for n, value in curve(table, metric).items():
            exact = Fraction(0)
            for pool in pools:
                k = min(n, len(pool))
                best = sum(v * comb(i, k - 1) for i, v in enumerate(sorted(map(score, pool))))
                exact += best / comb(len(pool), k)
            assert value == pytest.approx(float(exact / len(pools)), rel=1e-9, abs=1e-12)


def test_a_curve_of_a_huge_pool_is_exact_and_takes_seconds():
    n_right, size = 3, 32_768
    pool = even_pool("b", 0, ["1"] * n_right + ["2"] * (size - n_right))
    start = time.process_time()
    table = metric_curves(pool, {"b": make_task("b", "1")})
    assert time.process_time() - start < 10  # of binomials: six minutes
    for n, value in curve(table, "pass_n").items():
        assert value == pytest.approx(pass_at_k(size, n_right, n), rel=1e-9)


def test_the_order_of_the_predictions_does_not_matter():
    predictions, tasks = random_data(0, n_tasks=12)
    shuffled = predictions.sample(frac=1.0, random_state=0)
    pd.testing.assert_frame_equal(
        metric_curves(shuffled, tasks, n_subsamples=3),
        metric_curves(predictions, tasks, n_subsamples=3),
    )


def test_pools_without_the_right_grid_are_not_solved():
    wrong = make_pool("b", 0, ("2", -1.0), ("3", -1.0), (None, None))
    table = metric_curves(wrong, {"b": make_task("b", "1")}, n_predictions=[1, 2, 3])
    assert (curve(table, "vote_2") == 0).all()


def test_a_right_answer_that_no_subsample_holds_is_still_counted():
    rare = make_pool("b", 0, ("1", -1.0), *[("2", -1.0)] * 199)
    table = metric_curves(rare, {"b": make_task("b", "1")}, n_predictions=[1, 2], n_subsamples=1)
    assert curve(table, "vote_1")[1] == pytest.approx(1 / 200)
    assert curve(table, "vote_2")[2] == pytest.approx(2 / 200)


@pytest.mark.parametrize("seed", range(5))
def test_the_last_votes_are_exact_where_log_probabilities_tie_or_miss(seed):
    predictions, tasks = random_data(seed, n_tasks=12)
    rng = np.random.default_rng(seed)
    predictions["cumulative_logprob"] = rng.choice([-1.0, -2.0, np.nan], len(predictions))
    values = metric_curves(predictions, tasks, n_predictions=[9]).set_index("metric")["value"]
    full = evaluate(predictions, tasks)
    for metric in ("vote_1", "vote_2"):
        assert values[metric] == pytest.approx(full[metric])


def test_votes_never_beat_the_best(curves):
    table, _ = curves
    assert (curve(table, "vote_1") <= curve(table, "vote_2") + 1e-12).all()
    assert (curve(table, "vote_2") <= curve(table, "pass_n") + 1e-12).all()


@pytest.mark.parametrize("seed", range(2))
def test_votes_are_near_the_share_of_all_subsets(seed):
    predictions, tasks = random_data(seed, n_tasks=3, n_most=6)
    table = metric_curves(predictions, tasks, n_predictions=[3], average="output",
                          n_subsamples=400).set_index("metric")["value"]  # fmt: skip
    pools = [pool for _, pool in predictions.groupby(["task_id", "test_index"])]
    for k in (1, 2):
        expected = 0.0
        for pool in pools:
            subsets = list(combinations(range(len(pool)), min(3, len(pool))))
            for subset in subsets:
                ranked = rank_candidates(pool.iloc[list(subset)])
                expected += (right_ranks(ranked, tasks)["rank"] <= k).sum() / len(subsets)
        n_outputs = sum(len(task.test) for task in tasks.values())
        assert table[f"vote_{k}"] == pytest.approx(expected / n_outputs, abs=0.01)


def test_the_points_are_powers_of_two_and_the_largest_pool():
    predictions, tasks = random_data(0)
    table = metric_curves(predictions, tasks, n_subsamples=1)
    assert table["n"].unique().tolist() == [1, 2, 4, 8, 9]
    eight = predictions.groupby(["task_id", "test_index"]).head(8)
    assert metric_curves(eight, tasks, n_subsamples=1)["n"].unique().tolist() == [1, 2, 4, 8]


def test_a_curve_does_not_depend_on_the_other_points_nor_change_with_the_day():
    predictions, tasks = random_data(0)
    table = metric_curves(predictions, tasks, n_predictions=[2, 4], n_subsamples=3, seed=1)
    alone = metric_curves(predictions, tasks, n_predictions=[4], n_subsamples=3, seed=1)
    pd.testing.assert_frame_equal(table[table["n"] == 4].reset_index(drop=True), alone)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"n_predictions": []}, "n_predictions must hold at least one number"),
        ({"n_predictions": [0]}, "n_predictions must be at least 1, got 0"),
        ({"n_predictions": [1, -1]}, "n_predictions must be at least 1, got -1"),
        ({"n_predictions": [1, 2.5]}, "n_predictions must be an integer, got 2.5"),
        ({"n_subsamples": 0}, "n_subsamples must be at least 1, got 0"),
        ({"n_subsamples": 1.5}, "n_subsamples must be an integer, got 1.5"),
        ({"n_subsamples": True}, "n_subsamples must be an integer, got True"),
    ],
)
def test_what_is_no_number_from_one_is_refused(options, fault):
    with pytest.raises(ValueError, match=fault):
        metric_curves(*random_data(0), **options)


def test_a_curve_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no predictions"):
        metric_curves(to_frame([]), TASKS)


def test_curves_refuse_what_the_metrics_refuse():
    with pytest.raises(ValueError, match="average must be one of"):
        metric_curves(POOLS, TASKS, average="mean")
    with pytest.raises(ValueError, match="not in the tasks.*five"):
        metric_curves(pd.concat([POOLS, make_pool("five", 0, (None, None))]), TASKS)
    with pytest.raises(ValueError, match="is hidden"):
        metric_curves(POOLS, {**TASKS, "none": hide_outputs(TASKS)["none"]})
