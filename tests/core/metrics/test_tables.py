"""Tables for a reader: contents, order and notes."""

import json

import numpy as np
import pandas as pd
import pytest
from handmade import POOLS, TASKS, make_pool

from arc_airv.metrics.outputs import bootstrap_interval, score_outputs
from arc_airv.metrics.tables import (
    SHARE_OF,
    STATUS_MEANINGS,
    align,
    describe_outputs,
    format_metrics,
    metric_table,
    read_results,
    sort_tasks,
    status_table,
)
from arc_airv.prompts import STATUSES
from arc_airv.records import COLUMNS, NO_REPLY
from arc_airv.tasks import hide_outputs

HIDDEN = hide_outputs(TASKS)
AGREEMENT = [1 / 4, 1, 1 / 2, 0, 0]  # of the outputs four/0, two/0, two/1, none/0, invalid/0


@pytest.fixture
def write_store(tmp_path):
    """Write a store of predictions, with the task ids of a run description if given."""

    def write(predictions, task_ids=None):
        path = tmp_path / "p.jsonl"
        filled = predictions.assign(
            augmentation="flip0.rot0.colors0123456789.order", sample_index=range(len(predictions)),
            status=predictions["grid"].notna().map({True: "ok", False: "unparsed"}), text="",
            n_prompt_tokens=1, finish_reason="stop", prompt_hash="0", n_train=1, n_grids=1,
        )  # fmt: skip
        filled[COLUMNS].to_json(path, orient="records", lines=True)
        if task_ids is not None:
            run = {"settings": {"model": "mine"}, "task_ids": task_ids}
            (tmp_path / "p.run.json").write_text(json.dumps(run))
        return path

    return write


def test_every_task_that_was_asked_counts(write_store):
    results = read_results(write_store(POOLS, ["two", "four", "none", "invalid"]), TASKS)
    assert list(results.tasks) == list(TASKS)
    assert results.notes == [
        "10 predictions by mine for 4 test outputs, 2 to 4 each.",
        "Every number is over 4 tasks with 5 test outputs.",
        "Outputs without predictions, which count as 0: 1.",
    ]


def test_tasks_that_were_not_asked_do_not_count_and_that_is_said(write_store):
    pools = POOLS[POOLS["task_id"] == "two"]
    results = read_results(write_store(pools, ["two"]), TASKS)
    assert list(results.tasks) == ["two"]
    assert "These are the tasks that were asked, not all 4 of the data set." in results.notes


def test_without_a_run_description_those_with_predictions_count(write_store):
    results = read_results(write_store(POOLS), TASKS)
    assert list(results.tasks) == ["four", "two", "invalid"]
    assert any("No run description" in note for note in results.notes)


def test_predictions_for_what_the_data_set_lacks_are_left_out_and_named(write_store):
    strangers = [make_pool("two", 2, ("1", -1.0)), make_pool("else", 0, ("1", -1.0), ("2", -1.0))]
    store = write_store(pd.concat([POOLS, *strangers], ignore_index=True), list(TASKS))
    results = read_results(store, TASKS)
    assert len(results.predictions) == len(POOLS)
    (note,) = [note for note in results.notes if "Left out" in note]
    assert "3 predictions" in note and "2 tasks" in note and "['two', 'else']" in note
    with pytest.raises(ValueError, match="p.jsonl holds no prediction for these 1 tasks"):
        read_results(store, {"none": TASKS["none"]})


def test_outputs_with_solutions_have_every_metric_and_the_agreement():
    outputs = describe_outputs(POOLS, TASKS)
    pd.testing.assert_frame_equal(outputs.drop(columns="agreement"), score_outputs(POOLS, TASKS))
    assert outputs["agreement"].tolist() == AGREEMENT


def test_of_hidden_outputs_the_rest_is_the_same():
    hidden, known = describe_outputs(POOLS, HIDDEN), describe_outputs(POOLS, TASKS)
    assert list(hidden.columns[2:]) == ["n_predictions", "unanswered", "agreement"]
    pd.testing.assert_frame_equal(hidden, known[hidden.columns])
    empty = describe_outputs(POOLS.iloc[:0], HIDDEN)
    assert empty["unanswered"].eq(1).all() and empty["agreement"].eq(0).all()


@pytest.mark.parametrize("average", ["task", "output"])
def test_the_table_holds_the_intervals_and_what_each_is_the_share_of(average):
    outputs = describe_outputs(POOLS, TASKS)
    table = metric_table(outputs, average=average)
    assert list(table.index) == list(SHARE_OF)
    assert table["share_of"].to_dict() == SHARE_OF
    expected = bootstrap_interval(outputs, average=average).loc[table.index]
    pd.testing.assert_frame_equal(table[["value", "low", "high"]], expected)
    assert list(metric_table(describe_outputs(POOLS, HIDDEN)).index) == ["unanswered", "agreement"]


def test_tasks_are_sorted_by_the_mean_of_their_outputs():
    outputs = describe_outputs(POOLS, TASKS)
    worst = sort_tasks(outputs, "accuracy")
    assert list(worst.index) == ["none", "invalid", "four", "two"]  # ties keep their order
    assert worst.columns[0] == "accuracy" and worst.loc["two", "accuracy"] == 1 / 4
    assert list(sort_tasks(outputs, "pass_n", worst_first=False).index)[:2] == ["four", "two"]
    assert list(sort_tasks(outputs, "unanswered").index) == ["none", "invalid", "four", "two"]


def test_hidden_tasks_are_sorted_by_agreement():
    hidden = describe_outputs(POOLS, HIDDEN)
    assert sort_tasks(hidden, "correct_pixels").columns[0] == "agreement"
    assert list(sort_tasks(hidden, "accuracy").index) == ["none", "invalid", "four", "two"]
    assert sort_tasks(hidden, "unanswered").columns[0] == "unanswered"


@pytest.mark.parametrize("tasks", [TASKS, HIDDEN])
def test_an_unknown_metric_is_refused(tasks):
    with pytest.raises(ValueError, match="no metric 'speed' in .*'agreement'"):
        sort_tasks(describe_outputs(POOLS, tasks), "speed")


def test_every_status_has_a_sentence_and_counts_are_shares():
    assert set(STATUS_MEANINGS) == {*STATUSES, NO_REPLY}
    table = status_table(pd.DataFrame({"status": ["ok"] * 3 + ["ragged"]}))
    assert table["status"].tolist() == ["ok", "ragged"]
    assert table["predictions"].tolist() == ["3", "1"]
    assert table["share"].tolist() == ["75.0%", "25.0%"]


def test_what_is_no_number_is_a_dash_and_columns_align():
    rows = {"value": [0.5, np.nan], "low": [0.25, np.nan], "high": [1.0, np.nan]}
    table = pd.DataFrame({**rows, "share_of": ["all", "none"]}, index=["a", "long_name"])
    assert align(format_metrics(table)).splitlines() == [
        "metric      mean  95% interval    share of",
        "a          50.0%  25.0% – 100.0%  all",
        "long_name      –  –               none",
    ]
