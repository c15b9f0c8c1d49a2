"""The stopping rule against brute force, and its simulation on pools whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from arc_airv.kaggle.settle import expected_gain, simulate_rounds, unsettled_outputs
from arc_airv.tasks import load_tasks

TASKS = load_tasks("arc-agi-1/training")
TASKS = {i: TASKS[i] for i in ("6150a2bd", "44f52bb0", "27a28665")}


def pool(task_id, test_index, grids, status="ok"):
    return pd.DataFrame(
        {
            "task_id": task_id,
            "test_index": test_index,
            "grid": grids,
            "status": [status if grid is None else "ok" for grid in grids],
            "cumulative_logprob": -1.0,
            "n_tokens": 2,
            "n_prompt_tokens": 50,
        }
    )


@pytest.mark.parametrize(
    ("n", "second", "third"), [(8, 3, 3), (8, 3, 1), (8, 2, 0), (16, 5, 3), (32, 8, 6), (16, 1, 1)]
)
def test_the_formulas_are_close_to_the_lead_that_is_drawn(n, second, third):
    rng = np.random.default_rng(0)
    further, draws = 16, 200_000
    # The chances of the second, the third and all others, as the same prior gives them.
    rest = max(n - second - third, 0)
    chances = rng.dirichlet([second + 0.1, third + 0.1, rest + 1e-9], size=draws)
    votes = rng.multinomial(further, chances)
    lead = third - second + votes[:, 1] - votes[:, 0]
    overturn, gain = expected_gain(n, [n, second, third], further)
    assert overturn == pytest.approx((lead > 0).mean() + (lead == 0).mean() / 2, abs=0.06)
    assert gain == pytest.approx(np.maximum(lead, 0).mean() / (n + further), abs=0.012)


def test_the_gain_orders_outputs_as_one_would():
    def gain(n, *votes):
        return expected_gain(n, votes, 8)[1]

    assert gain(8, 3, 2, 2) > gain(8, 3, 3, 1) > gain(8, 4, 4, 0)
    assert gain(8, 3, 2, 2) > gain(8, 1, 1, 1) > gain(8, 0, 0, 0)  # at a loss; garbage
    assert gain(8, 3, 2, 2) > gain(8, 8, 0, 0) > gain(32, 32, 0, 0)  # in agreement
    assert gain(8, 4, 1, 1) > gain(8, 2, 1, 1)  # where something is understood
    assert gain(0, 0, 0, 0) > gain(8, 3, 2, 2)


def test_outputs_come_by_gain_and_settled_ones_do_not():
    frame = pd.concat(
        [
            pool("6150a2bd", 0, ["1"] * 30 + ["2"] * 30),  # two candidates, far ahead
            pool("44f52bb0", 0, ["1", "1", "1", "2", "2", "3", "3"]),
            pool("44f52bb0", 1, ["1"] * 7),
            pool("27a28665", 0, [None] * 8, status="prompt_too_long"),
        ]
    )
    table = unsettled_outputs(frame, TASKS, further=8)
    assert list(zip(table["task_id"], table["test_index"])) == [
        ("27a28665", 1), ("27a28665", 2), ("44f52bb0", 0), ("44f52bb0", 1)
    ]  # fmt: skip
    row = table.iloc[2]
    assert row[["n_predictions", "votes_1", "votes_2", "votes_3"]].tolist() == [7, 3, 2, 2]
    assert row["overturn"] == 0.5
    everything = unsettled_outputs(frame, TASKS, further=8, tolerance=-1)
    assert len(everything) == 6
    assert everything.set_index(["task_id", "test_index"]).loc[("27a28665", 0), "gain"] == 0
    shuffled = frame.sample(frac=1, random_state=0)
    assert unsettled_outputs(shuffled, TASKS, further=8).equals(table)


def test_without_predictions_nothing_is_settled():
    empty = pool("6150a2bd", 0, [])
    table = unsettled_outputs(empty, TASKS, further=4)
    assert len(table) == 6 and (table["n_predictions"] == 0).all()


def test_faults_of_the_caller():
    with pytest.raises(ValueError, match="further must be at least 1"):
        unsettled_outputs(pool("6150a2bd", 0, ["1"]), TASKS, further=0)
    with pytest.raises(ValueError, match="not in the tasks"):
        unsettled_outputs(pool("6150a2bd", 1, ["1"]), TASKS, further=1)


# The simulation ----------------------------------------------------------------------------------


def mixed_pool(n=24):
    """Three outputs of two clear candidates, and three whose second is hard to tell."""
    rng = np.random.default_rng(1)
    parts = []
    for task_id, task in TASKS.items():
        for i, pair in enumerate(task.test):
            right = "|".join("".join(map(str, row)) for row in pair.output.tolist())
            hard = task_id == "27a28665"
            chances = [0.3, 0.25, 0.23, 0.22] if hard else [0.0, 0.0, 0.5, 0.5]
            grids = rng.choice(["1", "2", "3", right], size=n, p=chances)
            parts.append(pool(task_id, i, list(grids)))
    return pd.concat(parts, ignore_index=True)


def test_both_policies_cost_the_same_and_rounds_are_closer_to_the_whole_pool():
    table = simulate_rounds(mixed_pool(), TASKS, n_mean=12, n_orders=200)
    means = table.groupby("policy")[["vote_2", "agreement", "n_predictions"]].mean()
    assert means["n_predictions"].tolist() == pytest.approx([12, 12])
    assert means.loc["rounds", "agreement"] > means.loc["uniform", "agreement"] + 0.02
    easy = table[table["task_id"] != "27a28665"].set_index("policy")
    assert (easy.loc["rounds", "n_predictions"] < 12).all()
    assert (easy["vote_2"] > 0.99).all()
    assert table["n_tokens"].tolist() == pytest.approx((52 * table["n_predictions"]).tolist())


def test_with_all_predictions_the_policies_are_one():
    table = simulate_rounds(mixed_pool(), TASKS, n_mean=24, n_orders=2)
    assert (table["agreement"] == 1).all() and (table["n_predictions"] == 24).all()


def test_a_simulation_needs_an_even_pool():
    frame = mixed_pool()
    with pytest.raises(ValueError, match="same number of predictions"):
        simulate_rounds(frame.iloc[1:], TASKS, n_mean=8)
    with pytest.raises(ValueError, match="n_mean <= 24"):
        simulate_rounds(frame, TASKS, n_mean=25)
