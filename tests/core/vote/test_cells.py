"""Voting by cell, against the same count done one cell at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arc_airv.vote.candidates import vote_cells


def test_one_pool_by_hand():
    # Two votes for 12, one for 10, one for 32. Cell 1: colour 1 has 3 of 4, colour 3 has 1.
    # Cell 2: colour 2 has 3 of 4, colour 0 has 1.
    found = vote_cells(["12", "10", "32"], np.zeros(3, dtype=int), np.array([2, 1, 1]), np.zeros(3))
    assert found[0].tolist() == [4, 4, 4]
    assert found[1].tolist() == [(3 + 3) / 8, (3 + 1) / 8, (1 + 3) / 8]
    assert found[2] == []  # 12 is a candidate


def test_a_composed_grid_comes_with_its_pool_votes_and_agreement():
    # Cell 1: colours 1, 0, 0; cell 2: 0, 1, 0; cell 3: 0, 0, 1: each 0 has 2 of 3.
    grids, pool = ["5", "100", "010", "001"], np.array([0, 1, 1, 1])
    found = vote_cells(grids, pool, np.array([9, 1, 1, 1]), np.zeros(4))
    assert found[2] == [(1, "000", 3, pytest.approx(2 / 3))]


def test_shapes_and_pools_vote_each_for_themselves():
    grids, pool = ["1|2", "12", "12", "34"], np.array([0, 0, 1, 1])
    found = vote_cells(grids, pool, np.array([5, 3, 2, 1]), np.zeros(4))
    assert found[0].tolist() == [5, 3, 3, 3]
    assert found[1].tolist() == pytest.approx([1, 1, 2 / 3, 1 / 3])


def test_nothing_votes_for_nothing():
    found = vote_cells([], np.zeros(0, dtype=int), np.zeros(0, dtype=int), np.zeros(0))
    assert [len(part) for part in found] == [0, 0, 0]


pools = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["0", "1", "00", "01", "10", "11", "0|1", "1|1"])),
    unique=True,
    max_size=12,
)


@settings(max_examples=60)
@given(pools, st.data())
def test_every_count_is_that_of_a_loop(candidates, data):
    sizes = {"min_size": len(candidates), "max_size": len(candidates)}
    votes = np.array(data.draw(st.lists(st.integers(1, 4), **sizes)), dtype=int)
    logprob = st.lists(st.sampled_from([-1.0, -2.0, np.nan]), **sizes)
    logprob = np.array(data.draw(logprob), dtype=float)
    pool = np.array([p for p, _ in candidates], dtype=int)
    found = vote_cells([g for _, g in candidates], pool, votes, logprob)
    leaders = sorted(
        range(len(votes)), key=lambda i: (-votes[i], -np.nan_to_num(logprob[i], nan=-9))
    )
    composed = {}
    for (p, grid), shape_votes, agreement in zip(candidates, *found[:2]):
        rivals = [
            (other, votes[i])
            for i, (q, other) in ((i, candidates[i]) for i in leaders)
            if q == p and [len(row) for row in other.split("|")] == [*map(len, grid.split("|"))]
        ]
        total = sum(n for _, n in rivals)
        cells = [i for i, character in enumerate(grid) if character != "|"]
        same = [sum(n for other, n in rivals if other[i] == grid[i]) for i in cells]
        assert shape_votes == total
        assert agreement == pytest.approx(sum(same) / len(cells) / total)
        best = list(grid)
        for i in cells:
            count = {}
            for other, n in rivals:
                count[other[i]] = count.get(other[i], 0) + n
            best[i] = max(count, key=count.get)  # of equal counts: the leading grid's colour
        if "".join(best) not in [other for other, _ in rivals]:
            composed[p, "".join(best)] = total
    assert {(p, text): total for p, text, total, _ in found[2]} == composed
