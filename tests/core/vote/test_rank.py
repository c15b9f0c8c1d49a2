"""Voting: small pools ranked by hand; nothing depends on the order of the rows."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arc_airv.augment import SYMMETRIES, Augmentation
from arc_airv.grids import as_grid, format_grid, parse_grid
from arc_airv.records import to_frame
from arc_airv.tasks import Pair, Task
from arc_airv.vote.candidates import candidate_features
from arc_airv.vote.rank import best_samples, rank_by_score, rank_candidates, select_attempts
from arc_airv.vote.selectors import METHODS

NAN = float("nan")
every_method = pytest.mark.parametrize(
    "method", [name for name, selector in METHODS.items() if not selector.needs_scores]
)


def make_pool(*rows, task_id="22806e14", test_index=0):
    """Make a pool from rows of (grid, cumulative_logprob, n_tokens)."""
    columns = ["grid", "cumulative_logprob", "n_tokens"]
    return pd.DataFrame(rows, columns=columns).assign(task_id=task_id, test_index=test_index)


def make_task(task_id, n_outputs=1):
    grid = as_grid([[0]])
    return Task(task_id, (Pair(grid, grid),), (Pair(grid),) * n_outputs)


def ranking(*rows, method="votes"):
    return rank_candidates(make_pool(*rows), method=method)["grid"].tolist()


# By votes ----------------------------------------------------------------------------------------


def test_votes_are_counted_then_mean_logprob_per_token_decides():
    ranked = rank_candidates(
        make_pool(
            ("2", -6.0, 6),  # -1 per token: better than "1", though less likely as a whole
            ("1", -2.0, 2),
            ("1", -4.0, 2),
            ("2", -2.0, 2),
            ("3", -0.1, 1),  # the likeliest, but a single vote
            (None, -0.1, 1),
            (None, -0.1, 1),
            (None, -0.1, 1),
        )
    )
    assert list(ranked) == [
        "task_id", "test_index", "rank", "grid", "votes", "score", "mean_logprob"
    ]  # fmt: skip
    assert ranked.to_numpy().tolist() == [
        ["22806e14", 0, 1, "2", 2, 2.0, -1.0],
        ["22806e14", 0, 2, "1", 2, 2.0, -1.5],
        ["22806e14", 0, 3, "3", 1, 1.0, -0.1],
    ]


def test_candidates_that_are_equal_in_all_else_are_ordered_by_grid():
    assert ranking(("2", -1.0, 1), ("10", -1.0, 1), ("1", -1.0, 1)) == ["1", "10", "2"]


@pytest.mark.parametrize("unknown", [None, NAN])
def test_an_unknown_logprob_loses_a_tie(unknown):
    assert ranking(("1", unknown, 5), ("2", -50.0, 1)) == ["2", "1"]
    assert ranking(("1", unknown, 5), ("2", -50.0, 1), ("1", unknown, 5)) == ["1", "2"]


def test_the_mean_is_over_the_known_logprobs():
    ranked = rank_candidates(make_pool(("1", NAN, 2), ("1", -4.0, 2), ("2", -3.0, 1)))
    assert ranked["mean_logprob"].tolist() == [-2.0, -3.0]


@every_method
@pytest.mark.parametrize("unknown", [None, NAN])
def test_pools_without_any_logprob_are_ranked(method, unknown):
    rows = [("2", unknown, 1), ("1", unknown, 1), ("3", unknown, 1), ("3", unknown, 1)]
    assert ranking(*rows, method=method) == ["3", "1", "2"]


def test_pools_are_ranked_each_for_itself():
    predictions = pd.concat(
        [
            make_pool(("1", -1.0, 1), task_id="b", test_index=1),
            make_pool(("1", -1.0, 1), ("2", -1.0, 1), ("2", -1.0, 1), task_id="b"),
            make_pool(("3", -1.0, 1), task_id="a"),
        ]
    )
    ranked = rank_candidates(predictions)
    assert ranked[["task_id", "test_index", "rank", "grid"]].to_numpy().tolist() == [
        ["a", 0, 1, "3"],
        ["b", 0, 1, "2"],
        ["b", 0, 2, "1"],
        ["b", 1, 1, "1"],
    ]


# By log-probability ------------------------------------------------------------------------------


def test_logprob_takes_the_candidate_of_the_likeliest_prediction():
    ranked = rank_candidates(
        make_pool(("1", -2.0, 9), ("1", -2.0, 9), ("1", -9.0, 9), ("2", -1.0, 1), ("2", -8.0, 1)),
        method="logprob",
    )
    assert ranked["grid"].tolist() == ["2", "1"]
    assert ranked["score"].tolist() == [-1.0, -2.0]
    assert ranked["votes"].tolist() == [2, 3]


def test_equal_logprobs_are_ordered_by_votes_then_mean_logprob_then_grid():
    rows = [("1", -2.0, 1), ("2", -2.0, 1), ("3", -2.0, 2), ("4", -2.0, 1), ("4", -3.0, 1)]
    assert ranking(*rows, method="logprob") == ["4", "3", "1", "2"]


def test_an_unknown_logprob_ranks_last_however_many_votes_it_has():
    rows = [("1", NAN, 1), ("1", NAN, 1), ("2", -99.0, 1), ("3", NAN, 1), ("3", -100.0, 1)]
    assert ranking(*rows, method="logprob") == ["2", "3", "1"]


# By cells ----------------------------------------------------------------------------------------


def test_cells_compose_a_grid_that_nobody_predicted():
    pool = make_pool(("100", -1.0, 1), ("010", -1.0, 1), ("001", -1.0, 1), (None, NAN, 1))
    ranked = rank_candidates(pool, method="cells")
    assert ranked["grid"].tolist() == ["000", "001", "010", "100"]
    assert ranked["votes"].tolist() == [0, 1, 1, 1]
    assert ranked["score"].tolist() == pytest.approx([3 + 2 / 3, *[3 + 5 / 9] * 3])
    assert np.isnan(ranked["mean_logprob"][0])


def test_a_composed_grid_that_was_predicted_keeps_its_votes():
    pool = make_pool(("11", -1.0, 1), ("12", -1.0, 1), ("21", -3.0, 1), ("11", -2.0, 1))
    ranked = rank_candidates(pool, method="cells")
    assert ranked["grid"].tolist() == ["11", "12", "21"]
    assert ranked["votes"].tolist() == [2, 1, 1]
    assert ranked["score"].tolist() == [4 + 3 / 4, 4 + 2 / 4, 4 + 2 / 4]
    assert ranked["mean_logprob"].tolist() == [-1.5, -1.0, -3.0]


def test_a_tied_cell_takes_the_colour_of_the_grid_that_votes_ranks_higher():
    # Every cell is a tie of two votes; by votes the order is 31, 12, 24.
    rows = [("12", -2.0, 1), ("31", -1.0, 1), ("31", -1.0, 1), ("12", -2.0, 1), ("24", -9.0, 1)]
    assert ranking(*rows) == ["31", "12", "24"]
    assert ranking(*rows, method="cells")[0] == "31"
    # The second cell is a tie of 2 and 4, the first is not; by votes 12 is before 14 and 34.
    rows = [("12", -1.0, 1), ("34", -2.0, 1), ("12", -1.0, 1), ("14", -3.0, 1)]
    ranked = rank_candidates(make_pool(*rows), method="cells")
    assert ranked["grid"].tolist() == ["12", "14", "34"]
    assert ranked["score"].tolist() == [4 + 5 / 8, 4 + 5 / 8, 4 + 3 / 8]


def test_the_most_voted_shape_goes_first():
    rows = [("1|2", -1.0, 1)] * 2 + [("11", -9.0, 1), ("12", -9.0, 1), ("21", -9.0, 1)]
    assert ranking(*rows) == ["1|2", "11", "12", "21"]
    ranked = rank_candidates(make_pool(*rows), method="cells")
    assert ranked["grid"].tolist() == ["11", "12", "21", "1|2"]
    assert ranked["score"].tolist() == pytest.approx([3 + 2 / 3, 3.5, 3.5, 3.0])


def test_each_shape_is_composed_for_itself():
    shapes = {"1|2|3": 1, "123": 1, "12|34": 1, "1": 1}  # no shape has anything to compose
    assert ranking(*[(g, -1.0, 1) for g in shapes], method="cells") == sorted(shapes)


@settings(max_examples=40)
@given(st.lists(st.text("012", min_size=3, max_size=3), min_size=1, max_size=8))
def test_the_composed_grid_holds_a_most_voted_colour_in_every_cell(grids):
    first = ranking(*[(grid, -1.0, 1) for grid in grids], method="cells")[0]
    for i, colour in enumerate(first):
        column = [grid[i] for grid in grids]
        assert column.count(colour) == max(map(column.count, "012"))


# By weights, see also test_selectors -------------------------------------------------------------


def test_a_score_of_ones_own_is_ranked():
    pool = make_pool(("1", -4.0, 2), ("1", -4.0, 2), ("2", -1.0, 2), ("3", -8.0, 2))
    table = candidate_features(pool)
    # Votes times probability of the best token: 2 exp(-2) = 0.27, exp(-0.5) = 0.61, exp(-4) = 0.02
    score = table["votes"] * np.exp(table["max_token_logprob"])
    ranked = rank_by_score(table.assign(score=score).iloc[::-1])
    assert ranked["grid"].tolist() == ["2", "1", "3"]
    assert ranked["score"].tolist() == pytest.approx([0.607, 0.271, 0.018], abs=1e-3)
    by_votes = rank_by_score(table.assign(score=table["votes"].astype(float)))
    pd.testing.assert_frame_equal(by_votes, rank_candidates(pool))
    again = rank_candidates(pool).assign(score=[-1.0, -9.0, NAN])  # rank a ranking again
    assert rank_by_score(again)["grid"].tolist() == again["grid"].tolist()
    unknown = rank_by_score(table.assign(score=[NAN, -np.inf, -9.0]))
    assert unknown["grid"].tolist() == ["3", "1", "2"]
    with pytest.raises(ValueError, match=r"candidates lack the columns \['score'\]"):
        rank_by_score(table)


def test_options_that_do_not_fit_together_are_refused():
    pool = make_pool(("1", -1.0, 1))
    with pytest.raises(ValueError, match=r"\['mean_score_logprob'\] need scores="):
        rank_candidates(pool, method="product_of_experts")


# What must not matter ----------------------------------------------------------------------------

rows = st.tuples(
    st.sampled_from(["a", "b"]),
    st.integers(0, 1),
    st.sampled_from([None, "0", "1", "00", "01", "10", "11", "0|1", "1|1"]),
    st.sampled_from([-0.1, -0.2, -0.3, -0.7, -1 / 3, -1e-9, NAN]),
    st.sampled_from([1, 3, 7]),
)


@every_method
@settings(max_examples=30)
@given(data=st.data(), predictions=st.lists(rows, max_size=20))
def test_the_order_of_the_rows_does_not_matter(method, data, predictions):
    columns = ["task_id", "test_index", "grid", "cumulative_logprob", "n_tokens"]
    frame = pd.DataFrame(predictions, columns=columns).astype({"cumulative_logprob": float})
    order = data.draw(st.permutations(range(len(frame))))
    expected = rank_candidates(frame, method=method)
    pd.testing.assert_frame_equal(
        rank_candidates(frame.iloc[order], method=method), expected, check_exact=True
    )
    if len(frame):
        valid = frame["grid"].notna()
        keys = ["task_id", "test_index"]
        assert set(map(tuple, expected[keys].values)) == set(map(tuple, frame[valid][keys].values))
        assert not expected.duplicated([*keys, "grid"]).any()
        assert expected.groupby(keys)["votes"].sum().sum() == valid.sum()


def test_the_last_digit_of_a_mean_does_not_depend_on_the_order_of_the_rows():
    logprobs = -(10.0 ** np.random.default_rng(0).uniform(-8, 8, 50))
    pool = make_pool(*[("1", logprob, 3) for logprob in logprobs])
    expected = rank_candidates(pool)
    for seed in range(30):
        shuffled = pool.sample(frac=1.0, random_state=seed)
        pd.testing.assert_frame_equal(rank_candidates(shuffled), expected, check_exact=True)


@every_method
def test_the_views_that_the_predictions_come_from_do_not_matter(method):
    pool = make_pool(("12", -1.0, 1), ("21", -2.0, 1), ("12", -3.0, 1))
    expected = rank_candidates(pool, method=method)
    for keys in (["x", "y", "z"], ["x", "x", "x"]):
        other = pool.assign(augmentation=keys, sample_index=[0, 1, 2], text=None, status="ok")
        pd.testing.assert_frame_equal(rank_candidates(other, method=method), expected)


@every_method
@pytest.mark.parametrize(("flip", "rot90"), SYMMETRIES)
def test_ranking_commutes_with_augmentation(method, flip, rot90):
    augmentation = Augmentation(flip, rot90, "1234567890")
    rng = np.random.default_rng(0)
    pool = make_pool(
        *[
            (format_grid(rng.integers(0, 2, shape)), -rng.random(), 5)
            for shape in [(2, 2)] * 12 + [(1, 2)] * 4 + [(2, 1)] * 2
        ]
    )

    def augment(grids):
        return [format_grid(augmentation.apply_grid(parse_grid(grid))) for grid in grids]

    expected = augment(rank_candidates(pool, method=method)["grid"])
    ranked = rank_candidates(pool.assign(grid=augment(pool["grid"])), method=method)
    assert ranked["grid"].tolist() == expected


@every_method
def test_the_predictions_are_left_as_they_were(method):
    pool = make_pool(("12", -1.0, 1), (None, NAN, 1), ("21", -2.0, 1))
    before = pool.copy()
    rank_candidates(pool, method=method)
    pd.testing.assert_frame_equal(pool, before)


# Nothing to rank ---------------------------------------------------------------------------------


@every_method
def test_an_output_without_a_valid_grid_has_no_rows(method):
    nothing = make_pool((None, -1.0, 1), (None, None, 0), test_index=1)
    assert rank_candidates(nothing, method=method).empty
    both = pd.concat([make_pool(("1", -1.0, 1)), nothing])
    assert rank_candidates(both, method=method)["test_index"].tolist() == [0]


@every_method
def test_no_predictions_give_an_empty_ranking(method):
    ranked = rank_candidates(to_frame([]), method=method)
    assert ranked.empty
    assert list(ranked) == list(rank_candidates(make_pool(("1", -1.0, 1)), method=method))
    assert select_attempts(ranked, {"a": make_task("a")}) == {"a": [[]]}


@pytest.mark.parametrize("method", ["best", "weighted", None, 3, ["votes"]])
def test_an_unknown_method_is_refused_with_all_that_there_are(method):
    with pytest.raises(
        ValueError, match="method must be a Selector, a dict of weights or"
    ) as error:
        rank_candidates(make_pool(("1", -1.0, 1)), method=method)
    assert all(repr(name) in str(error.value) for name in [*METHODS, method])


def test_missing_columns_are_named():
    for name in ("grid", "n_tokens"):
        with pytest.raises(ValueError, match=rf"predictions lack the columns \['{name}'\]"):
            rank_candidates(make_pool(("1", -1.0, 1)).drop(columns=name))


# Attempts ----------------------------------------------------------------------------------------

TASKS = {"b": make_task("b", 2), "a": make_task("a"), "00576224": make_task("00576224")}


def ranked_pools():
    return rank_candidates(
        pd.concat(
            [
                make_pool(*[("1", -1.0, 1)] * 9, ("2|2", -1.0, 1), ("3", -2.0, 1), task_id="b"),
                make_pool(("4", -1.0, 1), ("4", -1.0, 1), task_id="b", test_index=1),
                make_pool((None, None, 0), task_id="a"),
            ]
        )
    )


def as_text(attempts):
    return {i: [[format_grid(g) for g in grids] for grids in a] for i, a in attempts.items()}


def test_attempts_are_the_two_best_different_grids_where_two_exist():
    attempts = select_attempts(ranked_pools(), TASKS)
    assert as_text(attempts) == {"b": [["1", "2|2"], ["4"]], "a": [[]], "00576224": [[]]}
    assert attempts["b"][0][1].dtype == np.int8


def test_every_task_is_there_in_its_order():
    assert list(select_attempts(ranked_pools(), TASKS)) == list(TASKS)
    assert select_attempts(ranked_pools().iloc[:0], TASKS) == {
        "b": [[], []], "a": [[]], "00576224": [[]]
    }  # fmt: skip


@pytest.mark.parametrize(("n", "expected"), [(1, ["1"]), (3, ["1", "2|2", "3"])])
def test_there_may_be_more_or_fewer_attempts(n, expected):
    attempts = select_attempts(ranked_pools(), TASKS, n_attempts=n)
    assert as_text(attempts)["b"] == [expected, ["4"]]


def test_the_order_of_the_ranked_rows_does_not_matter():
    reverse = ranked_pools().iloc[::-1]
    assert as_text(select_attempts(reverse, TASKS)) == as_text(
        select_attempts(ranked_pools(), TASKS)
    )


@pytest.mark.parametrize(("task_id", "test_index"), [("c", 0), ("a", 1), ("b", 2), ("b", -1)])
def test_an_unknown_output_is_refused(task_id, test_index):
    ranked = rank_candidates(make_pool(("1", -1.0, 1), task_id=task_id, test_index=test_index))
    with pytest.raises(ValueError, match=f"no test output {test_index} of task '{task_id}'"):
        select_attempts(ranked, TASKS)


def test_no_attempts_are_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        select_attempts(ranked_pools(), TASKS, n_attempts=0)


def test_the_best_sample_of_a_view_is_its_likeliest_valid_one():
    rows = [
        ("view 1", 0, "1", -3.0),
        ("view 2", 0, "1", -1.0),
        ("view 1", 1, "2", -2.0),
        ("view 1", 2, None, -0.1),  # likelier, but no grid
        ("view 2", 1, "3", -1.0),  # equal: the first sample
        ("view 3", 0, None, -5.0),  # nothing better
        ("view 3", 1, None, -4.0),
        ("view 4", 0, "4", NAN),  # unknown ranks behind known
        ("view 4", 1, "5", -9.0),
    ]
    columns = ["augmentation", "sample_index", "grid", "cumulative_logprob"]
    samples = pd.DataFrame(rows, columns=columns).assign(task_id="a", test_index=0)
    best = best_samples(samples)
    chosen = best[["augmentation", "sample_index"]].to_numpy().tolist()
    assert chosen == [["view 2", 0], ["view 1", 1], ["view 3", 1], ["view 4", 1]]
    assert list(best) == list(samples)
    shuffled = best_samples(samples.sample(frac=1, random_state=0))
    assert sorted(shuffled[columns[:2]].to_numpy().tolist()) == sorted(chosen)
