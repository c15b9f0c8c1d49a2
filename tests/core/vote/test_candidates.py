"""Pools and the features of their candidates: worked out by hand, then against plain loops."""

from math import exp, log

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arc_airv.records import to_frame
from arc_airv.vote.candidates import (
    AGGREGATES,
    COUNTS,
    FEATURES,
    QUANTITIES,
    aggregate,
    candidate_features,
    index_pools,
)

NAN = float("nan")
COLUMNS = ["task_id", "test_index", "grid", "cumulative_logprob", "n_tokens"]
# Pool (a, 0): two candidates of shape 1x2 and one of 2x1; pool (b, 1) has no grid.
PREDICTIONS = pd.DataFrame(
    [
        ("a", 0, "12", -1.0, 2),
        ("b", 1, None, -9.0, 9),
        ("a", 0, "10", -0.5, 1),
        ("a", 0, "12", -3.0, 2),
        ("a", 0, "1|2", NAN, 3),
        ("a", 0, None, -0.1, 1),
    ],
    columns=COLUMNS,
)
SCORES = pd.DataFrame(
    [
        ("a", 0, "12", "view 1", -2.0),
        ("a", 0, "10", "view 1", -1.0),
        ("a", 0, "12", "view 2", -4.0),
        ("a", 0, "99", "view 1", -7.0),  # that nobody predicted
        ("c", 0, "12", "view 1", -8.0),
        ("a", 0, "12", "view 3", NAN),  # whose prompt was too long
        ("a", 0, "10", "view 3", NAN),
    ],
    columns=["task_id", "test_index", "grid", "augmentation", "score_logprob"],
)
BY_HAND = {
    "grid": ["10", "12", "1|2"],
    "votes": [1, 2, 1],
    "log_votes": [0, log(2), 0],
    "share": [1 / 4, 2 / 4, 1 / 4],
    "shape_votes": [3, 3, 1],
    # All three votes of the shape agree in the first cell; 2 of 3 on colour 2, 1 of 3 on 0.
    "agreement": [(3 + 1) / 6, (3 + 2) / 6, 1],
    "sum_reply_logprob": [-0.5, -4, NAN],
    "mean_reply_logprob": [-0.5, -2, NAN],
    "max_reply_logprob": [-0.5, -1, NAN],
    "min_reply_logprob": [-0.5, -3, NAN],
    "logsumexp_reply_logprob": [-0.5, log(exp(-1) + exp(-3)), NAN],
    "sum_token_logprob": [-0.5, -0.5 - 1.5, NAN],
    "mean_token_logprob": [-0.5, -1, NAN],
    "max_token_logprob": [-0.5, -0.5, NAN],
    "min_token_logprob": [-0.5, -1.5, NAN],
    "logsumexp_token_logprob": [-0.5, log(exp(-0.5) + exp(-1.5)), NAN],
    "n_scores": [1, 2, 0],
    "sum_score_logprob": [-1, -6, NAN],
    "mean_score_logprob": [-1, -3, NAN],
    "max_score_logprob": [-1, -2, NAN],
    "min_score_logprob": [-1, -4, NAN],
    "logsumexp_score_logprob": [-1, log(exp(-2) + exp(-4)), NAN],
}


def test_every_feature_by_hand():
    table = candidate_features(PREDICTIONS, scores=SCORES)
    assert set(table) == {"task_id", "test_index", *BY_HAND}
    assert list(table.columns[3:]) == list(FEATURES)
    assert set(FEATURES) == {*COUNTS, *(f"{a}_{q}" for a in AGGREGATES for q in QUANTITIES)}
    assert table["task_id"].tolist() == ["a"] * 3
    assert table["grid"].tolist() == BY_HAND["grid"]
    for name in FEATURES:
        assert table[name].tolist() == pytest.approx(BY_HAND[name], nan_ok=True), name


def test_features_of_scores_come_with_scores():
    without = candidate_features(PREDICTIONS)
    assert not [name for name in without if "score" in name]
    full = candidate_features(PREDICTIONS, scores=SCORES)
    pd.testing.assert_frame_equal(without, full[without.columns])
    empty = candidate_features(PREDICTIONS, scores=SCORES.iloc[:0])
    assert empty["n_scores"].tolist() == [0, 0, 0]
    assert empty["mean_score_logprob"].isna().all()
    untyped = candidate_features(PREDICTIONS, scores=pd.DataFrame(columns=SCORES.columns))
    assert untyped["n_scores"].tolist() == [0, 0, 0]


def test_only_what_is_asked_for_is_computed():
    bare = PREDICTIONS[["task_id", "test_index", "grid"]]
    table = candidate_features(bare, features=["share", "votes"])
    assert list(table) == ["task_id", "test_index", "grid", "share", "votes"]


@pytest.mark.parametrize("predictions", [to_frame([]), PREDICTIONS[PREDICTIONS["grid"].isna()]])
def test_no_candidates_have_no_features(predictions):
    for scores in (None, SCORES):
        table = candidate_features(predictions, scores=scores)
        assert table.empty
        assert {"votes", "agreement", "mean_token_logprob"} <= set(table)


def test_pools_and_candidates_are_numbered_in_their_order():
    pools = index_pools(PREDICTIONS.set_index(pd.Index([5, 5, 1, 0, 7, 9])))
    assert pools.pools.to_numpy().tolist() == [["a", 0], ["b", 1]]
    assert pools.candidates["grid"].tolist() == ["10", "12", "1|2"]
    assert pools.pool.tolist() == [0, 1, 0, 0, 0, 0]
    assert pools.candidate.tolist() == [1, -1, 0, 1, 2, -1]
    assert pools.pool_of.tolist() == [0, 0, 0]
    assert pools.votes.tolist() == [1, 2, 1]


def known_candidates(frame, scores):
    """Return the scores' candidates that the predictions hold: without any, scores are refused."""
    key = ["task_id", "test_index", "grid"]
    return set(map(tuple, frame[key].dropna().values)) & set(map(tuple, scores[key].values))


rows = st.tuples(
    st.sampled_from(["a", "00576224", "b"]),
    st.integers(0, 2),
    st.sampled_from([None, "0", "1", "00", "01", "10", "0|1"]),
    st.sampled_from([-0.1, -1 / 3, -1e-9, -7.0, NAN]),
    st.sampled_from([1, 3, 7]),
)


@settings(max_examples=40)
@given(st.lists(rows, max_size=20), st.data())
def test_the_order_of_the_rows_does_not_matter(predictions, data):
    frame = pd.DataFrame(predictions, columns=COLUMNS).astype({"cumulative_logprob": float})
    scores = pd.DataFrame(data.draw(st.lists(rows, max_size=20)), columns=COLUMNS)
    scores = scores.rename(columns={"cumulative_logprob": "score_logprob"})
    scores["augmentation"] = [f"view {i}" for i in range(len(scores))]
    scores = scores if known_candidates(frame, scores) else scores.iloc[:0]
    expected = candidate_features(frame, scores=scores)
    frame = frame.iloc[data.draw(st.permutations(range(len(frame))))]
    scores = scores.iloc[data.draw(st.permutations(range(len(scores))))]
    again = candidate_features(frame, scores=scores)
    pd.testing.assert_frame_equal(again, expected, check_exact=True)

    keys = frame.dropna(subset="grid").groupby(["task_id", "test_index", "grid"])
    assert expected["votes"].tolist() == keys.size().tolist()
    means = keys["cumulative_logprob"].mean().tolist()
    assert expected["mean_reply_logprob"].tolist() == pytest.approx(means, nan_ok=True)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(-1, 3), st.floats(-50, 0) | st.just(NAN)), max_size=15))
def test_an_aggregate_is_over_the_known_values_of_each_owner(pairs):
    owners = np.array([owner for owner, _ in pairs], dtype=int)
    values = np.array([value for _, value in pairs], dtype=float)
    by_loop = {
        "sum": sum, "mean": np.mean, "max": max, "min": min,
        "logsumexp": lambda known: log(sum(map(exp, known))),
    }  # fmt: skip
    for how in AGGREGATES:
        result = aggregate(values, owners, 4, how)
        for owner in range(4):
            known = [v for v in values[owners == owner].tolist() if v == v]
            expected = by_loop[how](known) if known else NAN
            assert result[owner] == pytest.approx(expected, nan_ok=True)


def test_an_impossible_value_stays_impossible():
    values, owners = np.array([-np.inf, -np.inf, -1.0]), np.array([0, 1, 1])
    assert aggregate(values, owners, 2, "logsumexp").tolist() == [-np.inf, -1.0]
    assert aggregate(values, owners, 2, "mean").tolist() == [-np.inf, -np.inf]
    assert aggregate(values, owners, 2, "max").tolist() == [-np.inf, -1.0]


def test_unknown_features_are_named():
    with pytest.raises(ValueError, match=r"unknown features \['luck'\].*'votes', 'share'"):
        candidate_features(PREDICTIONS, features=["votes", "luck"])


def test_a_feature_of_scores_needs_scores():
    with pytest.raises(ValueError, match=r"\['n_scores', 'max_score_logprob'\] need scores="):
        candidate_features(PREDICTIONS, features=["votes", "n_scores", "max_score_logprob"])


def test_missing_columns_are_named():
    with pytest.raises(ValueError, match=r"predictions lack the columns \['n_tokens'\]"):
        candidate_features(PREDICTIONS.drop(columns="n_tokens"))
    with pytest.raises(ValueError, match=r"scores lack the columns \['augmentation'\]"):
        candidate_features(PREDICTIONS, scores=SCORES.drop(columns="augmentation"))


def test_a_view_scores_a_candidate_once():
    with pytest.raises(ValueError, match="twice.*'grid': '10'.*'view 1'"):
        candidate_features(PREDICTIONS, scores=pd.concat([SCORES, SCORES.iloc[1:2]]))
