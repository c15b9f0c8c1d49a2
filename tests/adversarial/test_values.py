"""Checks of what enters, where it enters: values that are none of their kind, and names as data."""

import gzip
import json
import math
import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scripted import ScriptedEngine

from arc_airv.augment import Plan
from arc_airv.engines.adapters import UNTRAINED, adapter_folder
from arc_airv.engines.base import Completion, Sampling
from arc_airv.grids import as_grid, same_grid
from arc_airv.infer import generate_predictions, rescore, search_predictions
from arc_airv.plots import browse
from arc_airv.prompts.encoders import make_encoder
from arc_airv.prompts.format import ChatTemplate, PlainTemplate, PromptFormat
from arc_airv.records import import_predictions, read_predictions, read_scores, to_frame
from arc_airv.submission import combine_submissions
from arc_airv.tasks import Pair, Task, load_tasks
from arc_airv.vote import Selector, rank_candidates, select_attempts

GRID, OTHER = as_grid([[1, 2], [3, 4]]), as_grid([[2, 1], [4, 3]])
TASKS = {"a": Task("a", (Pair(GRID, OTHER), Pair(OTHER, GRID)), (Pair(GRID, OTHER),))}
ROW = {"task_id": "a", "test_index": 0, "sample_index": 0, "grid": "12|34", "status": "ok",
       "augmentation": "flip0.rot0.colors0123456789.order", "text": "12", "n_tokens": 1,
       "n_prompt_tokens": 1, "cumulative_logprob": -1.0, "finish_reason": "stop",
       "prompt_hash": "0" * 16}  # fmt: skip
grids = arrays(np.int8, st.tuples(st.integers(1, 30), st.integers(1, 30)),
               elements=st.integers(0, 9))  # fmt: skip


# Records -----------------------------------------------------------------------------------------

BAD = [
    ("grid", "12|3$"), ("grid", "12|3"), ("grid", ""), ("grid", "٣"), ("grid", 2**70),
    ("status", "fine"), ("status", "unparsed"), ("augmentation", "flip2.rot0.colors0.order"),
    ("augmentation", "flip0.rot0.colors0123456788.order"), ("test_index", 2**70),
    ("test_index", 1.5), ("test_index", True), ("n_tokens", -1), ("task_id", "\ud800"),
    ("cumulative_logprob", 10**400), ("text", ["12"]), ("prompt_hash", None),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), BAD, ids=lambda v: repr(v)[:20])
def test_a_value_that_is_none_of_its_field_is_named_with_file_and_line(tmp_path, field, value):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps({**ROW, "sample_index": 1, field: value}))
    with pytest.raises(ValueError, match=r"p\.jsonl: line 2: "):
        read_predictions(path)


def test_damaged_gzip_files_are_named(tmp_path):
    path, whole = tmp_path / "p.jsonl.gz", gzip.compress(json.dumps(ROW).encode(), mtime=0)
    for place in range(10, len(whole)):  # behind the header, most of which means nothing
        broken = bytearray(whole)
        broken[place] ^= 0xFF
        for content in (bytes(broken), whole[:place]):
            path.write_bytes(content)
            with pytest.raises(ValueError, match=r"p\.jsonl\.gz: "):
                read_predictions(path)


def test_deep_json_is_named_and_no_recursion(tmp_path):
    deep = "[" * 100_000 + "]" * 100_000
    path = tmp_path / "prompt_format.json"
    path.write_text(deep)
    for read in (
        load_tasks, read_predictions, read_scores, Selector.load,
        lambda p: PromptFormat.load(p.parent), lambda p: combine_submissions([p], TASKS),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"prompt_format\.json"):
            read(path)


@pytest.mark.parametrize(
    "reply",
    [{"n_tokens": 2**70}, {"finish_reason": 7}, {"text": 12}, {"text": "\ud800", "n_tokens": -1}],
)
def test_an_engine_of_ones_own_cannot_make_a_store_unreadable(tmp_path, reply):
    class Odd(ScriptedEngine):
        def generate(self, prompts, sampling):
            given = {"text": "12", "n_tokens": 1, "cumulative_logprob": -1.0,
                     "finish_reason": "stop", **reply}  # fmt: skip
            return [[Completion(**given)] for _ in prompts]

    store = tmp_path / "p.jsonl"
    with pytest.raises((ValueError, TypeError)):
        generate_predictions(TASKS, Odd(TASKS), n_predictions=1, seed=0, store=store)
    assert read_predictions(store).empty


@pytest.mark.parametrize(
    "reason", ["length", "max_tokens", "content_filter", "abort", "tool_calls"]
)
def test_what_an_engine_says_of_an_end_that_is_none_is_a_cut(tmp_path, reason):
    class Chat:
        chat_template = "given"

        def apply_chat_template(self, messages, **_):
            return "".join(message["content"] for message in messages)

    class Cut(ScriptedEngine):
        tokenizer = Chat()

        def generate(self, prompts, sampling):
            text = "First idea:\n[[1,1],[2,2]]\nThat fails on example 2. A better one is"
            return [[Completion(text, 30, -1.0, reason)] for _ in prompts]

    chat = PromptFormat(make_encoder(["json"]), ChatTemplate(prefill=""))
    engine, store = Cut(TASKS), tmp_path / "p.jsonl"
    options = {"prompt_format": chat, "n_predictions": 1, "seed": 0, "progress": False}
    generate_predictions(TASKS, engine, store=store, **options)
    row = read_predictions(store).iloc[0]
    assert row["status"] == "truncated" and pd.isna(row["grid"])
    assert row["finish_reason"] == reason  # in the engine's own word


# Options -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1.5, "1", math.nan, None, True, np.True_])
def test_counts_and_seeds_are_integers_everywhere(tmp_path, value):
    engine, predictions = ScriptedEngine(TASKS), to_frame([ROW])
    ranked = rank_candidates(predictions)
    store = {"store": tmp_path / "p.jsonl", "progress": False}
    calls = {
        "n_attempts": lambda: select_attempts(ranked, TASKS, n_attempts=value),
        "n_predictions": lambda: generate_predictions(
            TASKS, engine, n_predictions=value, seed=0, **store
        ),
        "seed": lambda: generate_predictions(TASKS, engine, n_predictions=1, seed=value, **store),
        "n_views": lambda: rescore(predictions, TASKS, engine, n_views=value, progress=False),
        "n_views ": lambda: search_predictions(
            TASKS, engine, n_views=value, min_probability=0.1, seed=0, **store
        ),
        "n": lambda: Plan(0).sample(TASKS["a"], value),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=name.strip()):
            call()
    for name in ("n", "max_tokens", "seed", "beam_width"):
        if value is not None:
            with pytest.raises(ValueError, match=name):
                Sampling(**{name: value})


@pytest.mark.parametrize("value", ["off", "no", "", "False", None, 2, -1, 0.5])
@pytest.mark.parametrize("name", ["geometric", "colors", "train_order", "drop_demonstrations"])
def test_an_option_that_is_on_or_off_is_true_or_false(tmp_path, name, value):
    engine, store = ScriptedEngine(TASKS), tmp_path / "p.jsonl"
    calls = {
        "generate": lambda **flag: generate_predictions(
            TASKS, engine, n_predictions=1, seed=0, store=store, **flag
        ),
        "rescore": lambda **flag: rescore(to_frame([ROW]), TASKS, engine, **flag),
        "search": lambda **flag: search_predictions(
            TASKS, engine, n_views=1, min_probability=0.1, seed=0, store=store, **flag
        ),
    }
    for call in calls.values():
        with pytest.raises(ValueError, match=f"{name} must be True or False, got {value!r}"):
            call(progress=False, **{name: value})
    assert not store.exists()


@pytest.mark.parametrize("value", [True, False, "0.5", None, np.True_, [0.5]])
@pytest.mark.parametrize("name", ["temperature", "top_p"])
def test_a_temperature_is_a_number(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a number"):
        Sampling(**{name: value})


def test_numbers_of_numpy_are_numbers(tmp_path):
    store, asked = tmp_path / "p.jsonl", {"n_predictions": 2, "seed": 0, "progress": False}
    sampling = {"n": 2, "temperature": 0.5, "top_p": 1.0, "max_tokens": 30, "seed": 1}
    generate_predictions(TASKS, ScriptedEngine(TASKS), store=store, sampling=Sampling(**sampling),
                         geometric=True, drop_demonstrations=False, **asked)  # fmt: skip
    summary = generate_predictions(
        TASKS,
        ScriptedEngine(TASKS),
        store=store,
        sampling=Sampling(**{name: np.array([value])[0] for name, value in sampling.items()}),
        geometric=np.True_,
        drop_demonstrations=np.False_,
        **{**asked, "n_predictions": np.int64(4), "seed": np.int8(0)},
    )
    assert summary.n_new == 2


@pytest.mark.parametrize("deadline", [math.nan, math.inf, -math.inf, "soon"])
def test_a_deadline_is_a_moment(tmp_path, deadline):
    engine, store = ScriptedEngine(TASKS), tmp_path / "p.jsonl"
    with pytest.raises(ValueError, match="deadline"):
        generate_predictions(
            TASKS, engine, n_predictions=1, seed=0, store=store, deadline=deadline, progress=False
        )
    with pytest.raises(ValueError, match="deadline"):
        rescore(to_frame([ROW]), TASKS, engine, deadline=deadline, progress=False)


@pytest.mark.parametrize("answer", [None, 0, "no", lambda grid: None, lambda grid: 1])
def test_a_filter_must_answer_yes_or_no(answer):
    def odd(task, test_index):
        return answer

    with pytest.raises(ValueError, match="filter odd"):
        rank_candidates(to_frame([ROW]), filters=[odd], tasks=TASKS)


def test_one_black_cell_is_an_answer_unless_it_comes_last():
    def submission(*attempts):
        return {"a": [dict(zip(("attempt_1", "attempt_2"), attempts))]}

    black, two = [[0]], [[2]]
    assert combine_submissions([submission(black, two)], TASKS) == submission(black, two)
    both = [submission(black, black), submission(two, black)]
    assert combine_submissions(both, TASKS) == submission(two, black)
    assert combine_submissions([submission(black, two), submission(two, black)], TASKS) == (
        submission(black, two)
    )


@pytest.mark.parametrize(
    ("attempts", "grids"),
    [
        (([[2]], [[0]]), ["2", ""]),
        (([[0]], [[0]]), ["", ""]),
        (([[0]], []), ["", ""]),
        (([[0]], [[2]]), ["0", "2"]),
        (([[2]], [[2]]), ["2"]),
        (([[2]], [[2]], [[0]]), ["2", "2", ""]),  # a pool of one's own: equal ones are votes
    ],
)
def test_what_stands_for_no_answer_in_a_submission_does_not_vote(tmp_path, attempts, grids):
    answer = {f"attempt_{i}": grid for i, grid in enumerate(attempts, start=1)}
    (tmp_path / "submission.json").write_text(json.dumps({"a": [answer]}))
    frame = import_predictions(tmp_path / "submission.json")
    assert frame["grid"].fillna("").tolist() == grids


def test_a_grid_that_cannot_be_read_is_told(tmp_path):
    row = {"task_id": "a", "test_index": 0}
    grids = [[[1]], [["1", "2"]], 12, [], None, [[1, -1]]]
    (tmp_path / "x.json").write_text(json.dumps([{**row, "grid": grid} for grid in grids]))
    with pytest.warns(
        UserWarning, match=r"x\.json: 3 of 6 predictions .* such as \[\['1', '2'\]\]"
    ):
        frame = import_predictions(tmp_path / "x.json")
    assert frame["grid"].fillna("").tolist() == ["1", "", "", "", "", ""]


def test_pickles_beside_json_files_are_left_out_and_that_is_said(tmp_path):
    (tmp_path / "submission.json").write_text(json.dumps({"a": [{"attempt_1": [[1]]}]}))
    (tmp_path / "README.md").write_text("Predictions.")
    (tmp_path / "a_0.out0").write_bytes(pickle.dumps([(3, -1.0, "1", None)]))
    with pytest.warns(
        UserWarning, match=r"left out 1 pickles beside JSON files, such as a_0\.out0"
    ):
        assert len(import_predictions(tmp_path)) == 1


# Formats -----------------------------------------------------------------------------------------

ROWS = ["minimal", "row_number minimal", "column_letter minimal", "repeat_number",
        "grid_with_separation", "replace_number minimal", "json", "grid_code_block minimal",
        "grid_shape row_number minimal", "row_number column_letter minimal"]  # fmt: skip
MARKS = ["<end>", "\n", "\n\n", "9", " ", "a", "```", "]]", "]", ",", "1\n", "\n1", "x", "|", "e",
         "00", "\n```", "shape", "2x", "[[", "\n1 ", "1 1", "ñ", "0a", "123"]  # fmt: skip


@settings(max_examples=60)
@given(grid=grids, spec=st.sampled_from(ROWS), mark=st.sampled_from(MARKS))
def test_a_format_reads_what_it_writes_or_is_refused(grid, spec, mark):
    try:
        format = PromptFormat(make_encoder(spec.split()), PlainTemplate(end_mark=mark))
    except ValueError as error:
        assert "end_mark" in str(error)
        return
    answer = format.render_answer(grid)
    for reply in (answer, answer + "\n12"):
        parsed = format.parse(reply, "stop")
        assert parsed.status == "ok" and same_grid(parsed.grid, grid)


@pytest.mark.parametrize(
    ("spec", "mark", "is_right"),
    [
        ("minimal", "\n", False), ("minimal", "9", False), ("minimal", "1\n1", False),
        ("minimal", "\n\n", True), ("minimal", "<end>", True), ("json", "]]", False),
        ("json", "\n", True), ("column_letter minimal", "a", False), ("minimal", "a", True),
        ("grid_shape minimal", "```", False), ("grid_shape minimal", "7x", False),
        ("row_number minimal", "12 ", False), ("row_number minimal", "\n1 ", True),
    ],
)  # fmt: skip
def test_an_end_mark_stands_in_no_grid(spec, mark, is_right):
    def make():
        return PromptFormat(make_encoder(spec.split()), PlainTemplate(end_mark=mark))

    if is_right:
        make()
    else:
        with pytest.raises(ValueError, match="end_mark"):
            make()


@settings(max_examples=30)
@given(data=st.data(), spec=st.sampled_from(["minimal", "row_number minimal", "repeat_number"]))
def test_a_row_that_is_broken_is_no_smaller_grid(data, spec):
    grid = data.draw(grids)
    for format in (
        PromptFormat(make_encoder(spec.split()), PlainTemplate()),
        PromptFormat(make_encoder(["grid_code_block", *spec.split()])),
        PromptFormat(make_encoder(spec.split()), ChatTemplate(prefill="")),
    ):
        lines = format.render_answer(grid).split("\n")
        cells = [i for i, line in enumerate(lines) if any(map(str.isdigit, line))]
        row = data.draw(st.sampled_from(cells))
        place = data.draw(st.sampled_from([i for i, c in enumerate(lines[row]) if c.isdigit()]))
        lines[row] = lines[row][:place] + "?" + lines[row][place + 1 :]
        assert format.parse("\n".join(lines), "stop").grid is None


# Names -------------------------------------------------------------------------------------------


@given(ids=st.lists(st.text(max_size=8) | st.sampled_from(
    ["/abs", "../up", "./../results", ".", "..", "", "*", "a/b", UNTRAINED, "id-0", "A", "a", "a.1",
     "\x00", "\ud800", "x" * 300]), unique=True))  # fmt: skip
def test_the_folder_of_an_adapter_is_in_its_folder_and_its_tasks_alone(ids, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "adapters"
    paths = [adapter_folder(folder, task_id) for task_id in ids]
    assert all(path.parent == folder and path.name.strip(".*") == path.name for path in paths)
    assert len({path.name.lower() for path in paths}) == len(ids)
    assert folder / UNTRAINED not in paths
    assert adapter_folder(folder, "22806e14") == folder / "22806e14"


def test_fine_tuning_writes_and_deletes_in_its_folder_alone(tmp_path, monkeypatch):
    ttft = pytest.importorskip("arc_airv.training.ttft")
    adapted = type("Adapted", (), {"unload": lambda self: None})()
    plain = PromptFormat(make_encoder(["minimal"]), PlainTemplate())
    make = lambda folder: folder.mkdir(parents=True)  # noqa: E731
    monkeypatch.setattr(ttft, "load_model", lambda model, **_: (None, None, plain))
    stream = type("Stream", (list,), {"describe": lambda self: {}})([None])
    monkeypatch.setattr(ttft, "ExampleStream", lambda *_, **__: stream)
    monkeypatch.setattr(ttft, "add_adapter", lambda network, rank: adapted)
    monkeypatch.setattr(ttft, "save_model", lambda *given: make(given[-1]))
    monkeypatch.setattr(ttft, "train", lambda _, __, ___, folder, deadline: make(folder))
    precious = tmp_path / "a" / "results.2026" / "precious.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("x")
    ids = ["good", str(tmp_path / "evil"), "./../results", "..", "a/b", UNTRAINED, "*"]
    tasks = {i: Task(i, TASKS["a"].train, TASKS["a"].test) for i in ids}
    folder = tmp_path / "a" / "adapters"
    adapters = ttft.finetune_per_task(
        "model", tasks, ttft.TrainConfig(seconds=60), folder, max_tokens=100
    )
    assert precious.read_text() == "x"
    assert {path.parent for path in adapters.values()} == {folder}
    assert len(set(adapters.values())) == len(ids) and all(p.is_dir() for p in adapters.values())
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["adapters", "results.2026"]
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    "cells",
    [
        [[np.True_, np.False_]],
        np.array([[True]]),
        np.ma.masked_array([[1, 2]], mask=[[False, True]]),
        np.ma.masked_array([[1.0, 2.0]], mask=[[False, True]]),
    ],
)
def test_what_is_no_cell_is_no_grid(cells):
    with pytest.raises(ValueError, match="integers 0-9"):
        as_grid(cells)


def test_names_of_runs_differ_as_text():
    table = pd.DataFrame()
    with pytest.raises(ValueError, match="differ as text"):
        browse({1: table, "1": table}, {})
