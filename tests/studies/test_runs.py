"""Runs side by side: real stores, made by a scripted engine in several settings."""

import json

import pytest
from scripted import ScriptedEngine

from arc_airv.engines import Sampling
from arc_airv.infer.generate import generate_predictions
from arc_airv.metrics.outputs import evaluate
from arc_airv.records import NO_REPLY, read_predictions
from arc_airv.storage import run_path
from arc_airv.studies.runs import compare_runs

N = 4


@pytest.fixture(scope="module")
def tasks(training_tasks):
    return {task_id: training_tasks[task_id] for task_id in list(training_tasks)[:4]}


@pytest.fixture(scope="module")
def stores(tasks, tmp_path_factory):
    """Make a run that is always right and one that never is, in different settings."""
    folder = tmp_path_factory.mktemp("runs")
    samples = Sampling(n=2, temperature=0.5, seed=0)
    right = ScriptedEngine(tasks)
    wrong = ScriptedEngine(tasks, wrong=1.0, plan={"colors": False})
    common = {"n_predictions": N, "seed": 0, "progress": False}
    generate_predictions(tasks, right, store=folder / "right.jsonl", **common)
    generate_predictions(
        tasks, wrong, store=folder / "wrong.jsonl", sampling=samples, colors=False, **common
    )
    return {"right": folder / "right.jsonl", "wrong": folder / "wrong.jsonl"}


def test_each_run_has_its_metrics_and_its_distance_from_the_first(stores, tasks):
    table = compare_runs(stores, tasks)
    assert list(table.index) == ["right", "wrong"]
    assert table.loc["right", ["accuracy", "vote_2", "gain", "low", "high"]].tolist() == [
        *(1, 1, 0, 0, 0)
    ]
    assert table.loc["wrong", ["accuracy", "vote_2", "gain", "low", "high"]].tolist() == [
        *(0, 0, -1, -1, -1)
    ]
    values = evaluate(read_predictions(stores["wrong"]), tasks)
    for metric, value in values.items():
        assert table.loc["wrong", metric] == pytest.approx(value, nan_ok=True)


def test_the_settings_that_made_a_run_are_beside_it(stores, tasks):
    table = compare_runs(stores, tasks)
    settings = ["temperature", "n", "beam_width", "alphabet", "geometric", "colors", "train_order"]
    assert table.loc["right", settings].tolist() == [0.0, 1, 1, False, True, True, True]
    assert table.loc["wrong", settings].tolist() == [0.5, 2, 1, False, True, False, True]


def test_a_prompt_is_read_once_for_all_its_replies(stores, tasks):
    table = compare_runs(stores, tasks)
    for name, n in (("right", 1), ("wrong", 2)):
        run = read_predictions(stores[name])
        assert table.loc[name, "predictions"] == len(run) == N * len(tasks)
        assert table.loc[name, "tokens_read"] == run["n_prompt_tokens"].sum() / n
        assert table.loc[name, "tokens_written"] == run["n_tokens"].sum()


def test_a_view_without_a_reply_was_read_but_holds_no_prediction(stores, tasks, tmp_path):
    silent = tmp_path / "silent.jsonl"
    records = [json.loads(line) for line in stores["right"].read_text().splitlines()]
    records.sort(key=lambda record: (record["task_id"], record["test_index"]))
    nothing = {"status": NO_REPLY, "grid": None, "text": None, "n_tokens": 0}
    records = [{**r, **nothing} if i % N else r for i, r in enumerate(records)]
    silent.write_text("".join(json.dumps(r) + "\n" for r in records))
    run_path(silent).write_bytes(run_path(stores["right"]).read_bytes())
    assert len(read_predictions(silent)) == N * len(tasks)  # to be resumed
    table = compare_runs({"right": stores["right"], "silent": silent}, tasks)
    assert table.loc["silent", "predictions"] == len(tasks)
    assert table.loc["silent", ["accuracy", "unanswered", "vote_2"]].tolist() == [1, 0, 1]
    assert table["tokens_read"].nunique() == 1


def test_what_it_cost_is_the_sum_of_its_calls(stores, tasks):
    calls = json.loads(run_path(stores["right"]).read_text())["calls"]
    table = compare_runs(stores, tasks)
    assert table.loc["right", "seconds"] == sum(call["engine_seconds"] for call in calls) > 0


def test_a_task_without_predictions_counts_as_unsolved(stores, tasks, training_tasks):
    more = dict(list(training_tasks.items())[:8])
    table = compare_runs({"right": stores["right"]}, more)
    assert table.loc["right", "vote_2"] == len(tasks) / len(more)


def test_a_store_without_a_description_is_named(stores, tasks, tmp_path):
    alone = tmp_path / "alone.jsonl"
    alone.write_bytes(stores["right"].read_bytes())
    with pytest.raises(ValueError, match=r"alone\.jsonl: no usable run description"):
        compare_runs({"alone": alone}, tasks)
    with pytest.raises(ValueError, match="at least one run"):
        compare_runs({}, tasks)
