"""A threshold search fills a store that is complete, resumable and read like any other."""

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("torch")

from arc_airv.augment import Augmentation, sample_augmentations
from arc_airv.engines import TransformersEngine, threshold_search
from arc_airv.infer import search_predictions
from arc_airv.metrics.outputs import evaluate
from arc_airv.records import read_predictions
from arc_airv.storage import run_path
from arc_airv.studies.runs import compare_runs
from arc_airv.tasks import load_tasks
from arc_airv.vote.rank import rank_candidates

MODEL = str(Path(__file__).parents[1] / "tiny")
TASKS = ("66e6c45b", "c8b7cc0f")  # demonstrations learnt, test outputs not
OPTIONS = {"min_probability": 0.05, "seed": 0, "progress": False}
VIEW = ["task_id", "test_index", "augmentation"]


@pytest.fixture(scope="module")
def engine():
    return TransformersEngine(MODEL, device="cpu")


@pytest.fixture(scope="module")
def tasks():
    tasks = load_tasks("arc-agi-1/evaluation")
    return {task_id: tasks[task_id] for task_id in TASKS}


@pytest.fixture(scope="module")
def store(engine, tasks, tmp_path_factory):
    store = tmp_path_factory.mktemp("harvest") / "harvest.jsonl"
    summary = search_predictions(tasks, engine, n_views=4, store=store, **OPTIONS)
    assert (summary.n_asked, summary.n_stored, summary.stopped) == (8, 8, "done")
    return store


def test_each_view_holds_what_the_search_finds_reverted(engine, tasks, store):
    predictions = read_predictions(store)
    for task in tasks.values():
        augmentation = sample_augmentations(task, 4, seed=0)[1]
        prompt = engine.prompt_format.render(augmentation.apply_task(task))
        (harvest,) = threshold_search(engine, [prompt], min_probability=0.05, max_tokens=400)
        rows = predictions[predictions["task_id"] == task.task_id]
        rows = rows[rows["augmentation"] == str(augmentation)].sort_values("sample_index")
        assert rows["text"].tolist() == [reply.text for reply in harvest.completions]
        for row, reply in zip(rows.itertuples(), harvest.completions):
            assert row.cumulative_logprob == pytest.approx(reply.cumulative_logprob, abs=1e-3)
            grid, _ = engine.prompt_format.parse(reply.text, reply.finish_reason)
            reverted = Augmentation.parse(row.augmentation).revert_grid(grid)
            assert row.grid == "|".join("".join(map(str, line)) for line in reverted)


def test_no_reply_is_twice_in_a_view_and_all_are_probable_enough(store):
    predictions = read_predictions(store)
    found = predictions[predictions["cumulative_logprob"].notna()]
    assert not found.duplicated([*VIEW, "text"]).any()
    assert (found["cumulative_logprob"] >= math.log(0.05) - 1e-6).all()
    mass = found["cumulative_logprob"].map(math.exp).groupby(list(map(found.get, VIEW))).sum()
    assert (mass <= 1 + 1e-6).all()


def test_selectors_metrics_and_studies_read_it(store, tasks):
    predictions = read_predictions(store)
    ranked = rank_candidates(predictions, method="sum_of_probabilities")
    assert set(ranked["task_id"]) <= set(TASKS)
    assert evaluate(predictions, tasks)["pass_n"] > 0
    row = compare_runs({"harvest": store}, tasks).loc["harvest"]
    assert row["seconds"] > 0
    assert row["predictions"] == (predictions["status"] != "no_reply").sum()


def test_a_view_without_a_probable_reply_has_a_row_that_is_no_prediction(engine, tasks, tmp_path):
    options = {**OPTIONS, "min_probability": 0.999999}
    search_predictions(tasks, engine, n_views=1, store=tmp_path / "s.jsonl", **options)
    predictions = read_predictions(tmp_path / "s.jsonl")
    assert len(predictions) == len(tasks)
    empty = predictions[predictions["status"] == "no_reply"]
    assert set(predictions["status"]) <= {"no_reply", "ok"} and len(empty)
    assert empty[["grid", "text", "cumulative_logprob"]].isna().all(axis=None)


def test_replies_that_a_small_max_live_may_have_lost_are_a_warning(engine, tasks, tmp_path):
    options = {**OPTIONS, "min_probability": 0.01, "max_live": 1}
    with pytest.warns(UserWarning, match="max_live=1 is too small"):
        search_predictions(tasks, engine, n_views=2, store=tmp_path / "s.jsonl", **options)


def test_it_goes_on_with_the_views_that_are_missing(engine, tasks, store, tmp_path):
    whole = store.read_text().splitlines(keepends=True)
    part = tmp_path / "part.jsonl"
    last = json.loads(whole[-1])
    kept = [line for line in whole if json.loads(line)["augmentation"] != last["augmentation"]]
    part.write_text("".join(kept))
    run_path(part).write_text(run_path(store).read_text())
    summary = search_predictions(tasks, engine, n_views=4, store=part, **OPTIONS)
    assert summary.n_new == len(whole) - len(kept) > 0
    key = [*VIEW, "sample_index"]
    again, before = (read_predictions(path).sort_values(key) for path in (part, store))
    assert again["grid"].tolist() == before["grid"].tolist()


def test_a_prompt_that_does_not_fit_is_stored_as_such(tasks, tmp_path):
    short = TransformersEngine(MODEL, device="cpu", max_model_len=64)
    search_predictions(tasks, short, n_views=1, store=tmp_path / "s.jsonl", **OPTIONS)
    assert set(read_predictions(tmp_path / "s.jsonl")["status"]) == {"prompt_too_long"}


def test_values_out_of_range_are_refused(engine, tasks, tmp_path):
    for options, message in [
        ({"n_views": 0}, "n_views must be at least 1, got 0"),
        ({"n_views": 1, "min_probability": 0}, r"min_probability must be in \(0, 1\], got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            search_predictions(tasks, engine, store=tmp_path / "s.jsonl", **{**OPTIONS, **options})
