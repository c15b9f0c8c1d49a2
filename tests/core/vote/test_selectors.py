"""Selectors: every method worked out by hand; fitting recovers the weights behind the data."""

import json
from math import exp, log

import numpy as np
import pandas as pd
import pytest
from handmade import make_pool, make_task
from hypothesis import given, settings
from hypothesis import strategies as st

from arc_airv.studies.selection import fit_selector
from arc_airv.vote.candidates import candidate_features
from arc_airv.vote.rank import rank_candidates
from arc_airv.vote.selectors import METHODS, Selector

NAN = float("nan")
COLUMNS = ["grid", "cumulative_logprob", "n_tokens"]
# l_i and L_i of the replies of A, B and C; a_j of two views of each.
POOL = pd.DataFrame(
    [("1", -1.0, 2), ("1", -3.0, 2), ("2", -0.5, 1), *[("3", -1.5, 3)] * 3], columns=COLUMNS
).assign(task_id="a", test_index=0)
A_J = {"1": (-2.0, -4.0), "2": (-1.0, -1.0), "3": (-6.0, -8.0)}
SCORES = pd.DataFrame(
    [(grid, f"view {j}", a) for grid, scores in A_J.items() for j, a in enumerate(scores)],
    columns=["grid", "augmentation", "score_logprob"],
).assign(task_id="a", test_index=0)
BY_HAND = {  # the scores of grids 1, 2, 3
    "votes": (2, 1, 3),
    "logprob": (-1, -0.5, -1.5),
    "cells": (6 + 2 / 6, 6 + 1 / 6, 6 + 3 / 6),  # of one cell each
    "sum_of_probabilities": (log(exp(-1) + exp(-3)), -0.5, log(3) - 1.5),  # -0.87, -0.5, -0.40
    "votes_times_probability": (log(2) - 2, log(1) - 0.5, log(3) - 1.5),  # -1.31, -0.5, -0.40
    "product_of_experts": (-3, -1, -7),
    "votes_plus_score": (2 - 3, 1 - 1, 3 - 7),
    # sum_j (a_j + 3) + sum_i (l_i + 3)
    "all_logprobs": ((1 - 1) + (2 + 0), (2 + 2) + 2.5, (-3 - 5) + 3 * 1.5),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_by_hand(name):
    ranked = rank_candidates(POOL, method=name, scores=SCORES)
    expected = dict(zip("123", BY_HAND[name]))
    assert ranked["grid"].tolist() == sorted(expected, key=expected.get, reverse=True)
    assert dict(zip(ranked["grid"], ranked["score"])) == pytest.approx(expected)
    assert METHODS[name].about


def test_there_is_no_method_without_a_hand_computed_one():
    assert set(BY_HAND) == set(METHODS)


def test_a_method_may_be_a_name_a_dict_or_a_selector():
    selector = Selector({"votes": 1, "mean_score_logprob": 1})
    rankings = [
        rank_candidates(POOL, method=method, scores=SCORES)
        for method in ("votes_plus_score", dict(selector.weights), selector)
    ]
    for ranked in rankings[1:]:
        pd.testing.assert_frame_equal(ranked, rankings[0])


def test_equal_scores_are_ordered_by_then_before_all_else():
    # One vote each. By mean log-probability per token 2 leads, by its a_j grid 1 does.
    pool = make_pool("a", 0, ("1", -5.0), ("2", -1.0))
    assert rank_candidates(pool)["grid"].tolist() == ["2", "1"]
    scores = SCORES[SCORES["grid"] != "3"].assign(score_logprob=[-1.0, -1.0, -9.0, -9.0])
    lexicographic = Selector({"votes": 1}, then=("mean_score_logprob",))
    ranked = rank_candidates(pool, method=lexicographic, scores=scores)
    assert ranked["grid"].tolist() == ["1", "2"]
    more = pd.concat([pool, make_pool("a", 0, ("2", -1.0))])  # votes still come first
    ranked = rank_candidates(more, method=lexicographic, scores=scores)
    assert ranked["grid"].tolist() == ["2", "1"]


def test_a_candidate_with_an_unknown_feature_is_behind_all_others():
    # Grid 3 has the most votes but no scores, as after an interrupted re-scoring.
    scores = SCORES[SCORES["grid"] != "3"]
    for name in ("product_of_experts", "votes_plus_score", "all_logprobs"):
        ranked = rank_candidates(POOL, method=name, scores=scores)
        assert ranked["grid"].tolist() == ["2", "1", "3"]
        assert ranked["score"].tolist()[2] == -np.inf
    unknown = rank_candidates(POOL, method="votes_plus_score",
                              scores=SCORES.iloc[:0])  # fmt: skip
    assert unknown["grid"].tolist() == ["3", "1", "2"]  # as by votes


def test_a_weight_of_zero_is_as_good_as_none():
    selector = Selector({"votes": 2, "mean_score_logprob": 0})
    assert selector.features == ["votes"]
    ranked = rank_candidates(POOL, method=selector)  # and needs no scores
    assert ranked["score"].tolist() == [6, 4, 2]


def test_a_negative_weight_does_not_turn_the_impossible_into_the_best():
    table = candidate_features(make_pool("a", 0, ("1", -np.inf), ("2", -1.0)))
    assert Selector({"max_reply_logprob": -1}).score(table).tolist() == [-np.inf, 1.0]


# Files and errors --------------------------------------------------------------------------------


@pytest.mark.parametrize("selector", [*METHODS.values(), Selector({"share": -1 / 3}, about="ñ")])
def test_a_selector_is_read_back_as_it_was_saved(selector, tmp_path):
    path = selector.save(tmp_path / "selector.json")
    assert Selector.load(path) == selector
    assert set(json.loads(path.read_text())) == {"weights", "then", "compose", "about"}


@pytest.mark.parametrize(
    "content",
    ["", "[]", "7", "{}", '{"weights": {}}', '{"weights": {"luck": 1}}', '{"weights": 1}',
     '{"weights": {"votes": null}}', '{"weights": {"votes": 1}, "bias": 2}',
     '{"weights": {"votes": 1, "votes": 2}}'],
)  # fmt: skip
def test_a_file_that_holds_no_selector_is_named(content, tmp_path):
    path = tmp_path / "selector.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="selector.json: not a selector"):
        Selector.load(path)


@pytest.mark.parametrize("weights", [{}, {"votes": NAN}, {"votes": np.inf, "share": 1}])
def test_weights_are_finite_and_some(weights):
    with pytest.raises(ValueError, match="needs finite weights"):
        Selector(weights)


def test_unknown_features_are_refused():
    with pytest.raises(ValueError, match=r"unknown features \['luck'\]"):
        Selector({"luck": 1})
    with pytest.raises(ValueError, match=r"unknown features \['luck'\]"):
        Selector({"votes": 1}, then=("luck",))


# Learned weights ---------------------------------------------------------------------------------


def draw_pools(n_pools, weights, seed=0, n_candidates=4):
    """Draw pools whose right grid follows the probabilities that the weights give."""
    rng = np.random.default_rng(seed)
    pools, scores, tasks = [], [], {}
    for p in range(n_pools):
        grids = [str(i) for i in range(n_candidates)]
        votes = rng.integers(1, 6, n_candidates)
        logprob = -rng.gamma(2.0, 1.0, n_candidates)
        score = -rng.gamma(2.0, 2.0, n_candidates)
        features = {"votes": votes, "max_reply_logprob": logprob, "mean_score_logprob": score}
        logits = sum(weight * features[name] for name, weight in weights.items())
        chance = np.exp(logits - logits.max())
        right = rng.choice(grids, p=chance / chance.sum())
        tasks[f"t{p}"] = make_task(f"t{p}", right)
        rows = [(g, x) for g, n, x in zip(grids, votes, logprob) for _ in range(n)]
        pools.append(make_pool(f"t{p}", 0, *rows))
        scores += [(f"t{p}", 0, g, "view 0", a) for g, a in zip(grids, score)]
    columns = ["task_id", "test_index", "grid", "augmentation", "score_logprob"]
    return pd.concat(pools), tasks, pd.DataFrame(scores, columns=columns)


def test_the_weights_that_made_the_pools_are_recovered():
    truth = {"votes": 0.5, "max_reply_logprob": 0.8, "mean_score_logprob": 0.3}
    predictions, tasks, scores = draw_pools(1000, truth)
    selector = fit_selector(predictions, tasks, features=list(truth), scores=scores)
    assert selector.weights == pytest.approx(truth, abs=0.1)
    assert selector.about == "fitted on 1000 of 1000 pools, penalty 1"


def test_a_feature_that_says_nothing_gets_no_weight():
    predictions, tasks, scores = draw_pools(600, {"votes": 0.7})
    selector = fit_selector(predictions, tasks, features=["votes", "mean_score_logprob"],
                            scores=scores)  # fmt: skip
    assert selector.weights == pytest.approx({"votes": 0.7, "mean_score_logprob": 0}, abs=0.1)


def two_candidates(*right):
    """Make pools of "1" with two votes and "2" with one, and the given right grids."""
    rows = [("1", -1.0), ("1", -1.0), ("2", -1.0)]
    tasks = {f"t{i}": make_task(f"t{i}", grid) for i, grid in enumerate(right)}
    return pd.concat([make_pool(task_id, 0, *rows) for task_id in tasks]), tasks


def test_one_feature_of_two_candidates_by_hand():
    # The grid with more votes is right in 3 of 4 pools: P = 1 / (1 + exp(-w)) = 3/4, so w = ln 3.
    predictions, tasks = two_candidates("1", "1", "2", "1")
    selector = fit_selector(predictions, tasks, features=["votes"], penalty=1e-9)
    assert selector.weights["votes"] == pytest.approx(log(3))
    # Votes 2 and 1 have a standard deviation of 1/2 in a pool, so with u = w / 2 and x = 2 the
    # gradient is 2 (3 - 4 P) - u = 0.
    u = fit_selector(predictions, tasks, features=["votes"], penalty=1.0).weights["votes"] / 2
    assert 2 * (3 - 4 / (1 + exp(-2 * u))) - u == pytest.approx(0)


def test_a_penalty_keeps_the_weight_of_a_perfect_feature_finite():
    predictions, tasks = two_candidates("1", "1", "1")
    weights = [
        fit_selector(predictions, tasks, features=["votes"], penalty=p).weights["votes"]
        for p in (1e-3, 1.0, 100.0)
    ]
    assert 0 < weights[2] < weights[1] < weights[0] < 50


def test_a_fit_is_the_same_every_time_and_in_every_order():
    predictions, tasks, scores = draw_pools(50, {"votes": 0.5})
    expected = fit_selector(predictions, tasks, scores=scores)
    assert list(expected.weights) == [
        "log_votes", "mean_token_logprob", "max_reply_logprob", "mean_score_logprob"
    ]  # fmt: skip
    shuffled = predictions.sample(frac=1.0, random_state=0), dict(reversed(tasks.items()))
    again = fit_selector(*shuffled, scores=scores.sample(frac=1.0, random_state=0))
    assert again == expected


def test_pools_that_cannot_tell_do_not_count():
    predictions, tasks = two_candidates("1", "1", "2", "1")
    expected = fit_selector(predictions, tasks, features=["votes", "max_reply_logprob"])
    more = {
        "wrong": (make_pool("wrong", 0, *[("5", -1.0)] * 7, ("6", -1.0)), "1"),
        "alone": (make_pool("alone", 0, ("1", -1.0), (None, -1.0)), "1"),
        "unknown": (make_pool("unknown", 0, ("1", NAN), ("2", -1.0), ("2", -1.0)), "1"),
        "empty": (make_pool("empty", 0, (None, -1.0)), "1"),
    }
    predictions = pd.concat([predictions, *(pool for pool, _ in more.values())])
    tasks = tasks | {task_id: make_task(task_id, grid) for task_id, (_, grid) in more.items()}
    selector = fit_selector(predictions, tasks, features=["votes", "max_reply_logprob"])
    assert selector.weights == expected.weights
    assert selector.about == "fitted on 4 of 8 pools, penalty 1"


def test_nothing_to_learn_from_is_an_error():
    predictions, tasks = two_candidates("3", "3")
    with pytest.raises(ValueError, match="nothing to learn from: of 2 pools none"):
        fit_selector(predictions, tasks)
    with pytest.raises(ValueError, match="nothing to learn from: of 0 pools none"):
        fit_selector(predictions.iloc[:0], tasks)


@pytest.mark.parametrize("penalty", [0, -1.0, NAN])
def test_the_penalty_is_above_zero(penalty):
    with pytest.raises(ValueError, match="penalty must be above 0"):
        fit_selector(*two_candidates("1"), penalty=penalty)


def test_features_to_learn_are_known_and_some():
    with pytest.raises(ValueError, match="at least one feature"):
        fit_selector(*two_candidates("1"), features=[])
    with pytest.raises(ValueError, match=r"unknown features \['luck'\]"):
        fit_selector(*two_candidates("1"), features=["luck"])
    with pytest.raises(ValueError, match=r"\['mean_score_logprob'\] need scores="):
        fit_selector(*two_candidates("1"), features=["mean_score_logprob"])


# What must not matter ----------------------------------------------------------------------------

rows = st.tuples(
    st.sampled_from(["a", "b"]),
    st.sampled_from([None, "0", "1", "00", "01", "0|1"]),
    st.sampled_from([-0.1, -1 / 3, -1e-9, NAN]),
)


@settings(max_examples=20)
@given(
    predictions=st.lists(rows, max_size=15), rescored=st.lists(rows, max_size=15), data=st.data()
)
def test_the_order_of_the_rows_does_not_matter(predictions, rescored, data):
    frame = pd.DataFrame(predictions, columns=["task_id", "grid", "cumulative_logprob"])
    frame = frame.astype({"cumulative_logprob": float}).assign(test_index=0, n_tokens=3)
    scores = pd.DataFrame(rescored, columns=["task_id", "grid", "score_logprob"])
    scores = scores.assign(test_index=0, augmentation=[f"view {i}" for i in range(len(scores))])
    key = ["task_id", "grid"]
    known = set(map(tuple, frame[key].dropna().values)) & set(map(tuple, scores[key].values))
    scores = scores if known else scores.iloc[:0]  # of no candidate at all, they are refused
    other = frame.iloc[data.draw(st.permutations(range(len(frame))))]
    scores_ = scores.iloc[data.draw(st.permutations(range(len(scores))))]
    for name in METHODS:
        pd.testing.assert_frame_equal(
            rank_candidates(other, method=name, scores=scores_),
            rank_candidates(frame, method=name, scores=scores),
            check_exact=True,
        )
