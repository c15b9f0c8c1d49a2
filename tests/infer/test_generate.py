"""Inference: every output gets N predictions, whatever the model replies and whenever it stops."""

import itertools
import json
import math
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scripted import BARE, GARBAGE, ScriptedEngine, StreamingEngine

import arc_airv.infer.ask
from arc_airv.augment import Augmentation, sample_augmentations
from arc_airv.engines.base import Completion, Sampling, as_engine
from arc_airv.grids import format_grid, parse_grid, same_grid
from arc_airv.infer.generate import BATCHING, generate_predictions
from arc_airv.metrics.outputs import evaluate, score_outputs
from arc_airv.prompts.encoders import make_encoder
from arc_airv.prompts.format import PlainTemplate, PromptFormat
from arc_airv.records import COLUMNS, read_predictions
from arc_airv.storage import run_path
from arc_airv.tasks import hide_outputs, load_tasks

ARC = load_tasks("arc-agi-1/training")
TASKS = {i: ARC[i] for i in ("6150a2bd", "44f52bb0", "27a28665", "d631b094")}
OUTPUTS = [(i, k) for i, task in TASKS.items() for k in range(len(task.test))]  # 1 + 2 + 3 + 1
HERE = Path(__file__).parent
SAMPLED = Sampling(n=4, temperature=1.0)
NO_KIND = {"geometric": False, "colors": False, "train_order": False}


def ask(engine, store, n, tasks=TASKS, **options):
    """Run without a progress bar, and hide the solutions from everything but the engine."""
    options = {"n_predictions": n, "seed": 0, "progress": False, **options}
    return generate_predictions(hide_outputs(tasks), engine, store=store, **options)


def table(store):
    """Return the content of a store in a fixed order."""
    frame = read_predictions(store)
    return frame.sort_values(COLUMNS[:4], ignore_index=True)


def n_of_outputs(store):
    return Counter(zip(*[read_predictions(store)[c] for c in ("task_id", "test_index")]))


def views(frame):
    """Return each row's position in the plan of its task."""
    plans = {i: list(map(str, sample_augmentations(t, 40, seed=0))) for i, t in TASKS.items()}
    return [plans[i].index(key) for i, key in zip(frame["task_id"], frame["augmentation"])]


@pytest.fixture
def store(tmp_path):
    return tmp_path / "predictions.jsonl"


@pytest.fixture
def faulty():
    return ScriptedEngine(TASKS, wrong=0.3, garbage=0.2)


# How many ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 5, 12, 40])
def test_every_output_gets_exactly_n_predictions(store, faulty, n):
    summary = ask(faulty, store, n)
    assert n_of_outputs(store) == dict.fromkeys(OUTPUTS, n)
    assert not read_predictions(store).duplicated(COLUMNS[:4]).any()
    assert summary.n_asked == summary.n_stored == summary.n_new == n * len(OUTPUTS)
    assert summary.stopped == "done"
    assert 0 <= summary.engine_seconds <= summary.seconds


def test_the_views_are_those_of_the_plan(store, faulty):
    ask(faulty, store, 12)
    frame = read_predictions(store).assign(view=lambda frame: views(frame))
    for _, pool in frame.groupby(["task_id", "test_index"]):
        assert sorted(pool["view"]) == list(range(12))
    assert set(frame["sample_index"]) == {0}


def test_a_plan_that_has_run_out_of_views_repeats_them_as_further_samples(store):
    engine = ScriptedEngine(TASKS, n_views=1)
    ask(engine, store, 3, **NO_KIND)
    ask(engine, store, 5, **NO_KIND)
    assert n_of_outputs(store) == dict.fromkeys(OUTPUTS, 5)
    assert set(read_predictions(store)["augmentation"].str.slice(0, 27)) == {
        "flip0.rot0.colors0123456789"
    }
    assert Counter(read_predictions(store)["sample_index"]) == dict.fromkeys(range(5), 7)


def test_several_samples_of_a_view_count_towards_n(store, faulty):
    summary = ask(faulty, store, 12, sampling=SAMPLED)
    assert summary.n_new == 12 * len(OUTPUTS)
    frame = read_predictions(store).assign(view=lambda frame: views(frame))
    for _, pool in frame.groupby(["task_id", "test_index"]):
        assert sorted(zip(pool["view"], pool["sample_index"])) == [
            (view, sample) for view in range(3) for sample in range(4)
        ]


@pytest.mark.parametrize("n", [0, -4, 3, 6, 4.0, "4"])
def test_n_must_be_a_positive_multiple_of_the_samples(store, faulty, n):
    with pytest.raises(ValueError, match=f"multiple of sampling.n = 4, got {n!r}"):
        ask(faulty, store, n, sampling=SAMPLED)
    assert not store.exists()


# Batching ----------------------------------------------------------------------------------------


def test_the_three_batchings_give_the_same_predictions(tmp_path, faulty):
    tables = []
    for batching in BATCHING:
        store = tmp_path / f"{batching}.jsonl"
        ask(faulty, store, 12, batching=batching)
        tables.append(table(store))
    assert tables[0].equals(tables[1]) and tables[0].equals(tables[2])


def test_batching_is_what_the_engine_gets_at_once(tmp_path):
    calls = {}
    for batching in BATCHING:
        engine = ScriptedEngine(TASKS)
        ask(engine, tmp_path / f"{batching}.jsonl", 12, batching=batching)
        calls[batching] = sorted(map(len, engine.calls))
    assert calls == {"prompt": [1] * 84, "task": [12, 12, 24, 36], "all": [84]}


def test_the_prompts_of_a_task_go_together_however_long_the_others_are(store):
    ids = [i for i, task in ARC.items() if len(task.test) > 1][:20]
    tasks = {i: ARC[i] for i in ids}
    engine = ScriptedEngine(tasks, n_views=2)
    ask(engine, store, 2, tasks=tasks, batching="task")
    assert sorted(map(len, engine.calls)) == sorted(2 * len(t.test) for t in tasks.values())


@pytest.mark.parametrize("batching", ["ALL", "", None, 1])
def test_an_unknown_batching_is_refused(store, faulty, batching):
    with pytest.raises(ValueError, match="'prompt', 'task', 'all'"):
        ask(faulty, store, 1, batching=batching)


# Resuming ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"sampling": SAMPLED}])
def test_extending_n_from_8_to_16_equals_a_fresh_16(tmp_path, faulty, options):
    short, fresh = tmp_path / "short.jsonl", tmp_path / "fresh.jsonl"
    ask(faulty, short, 8, **options)
    before = short.read_bytes()
    summary = ask(faulty, short, 16, **options)
    assert (summary.n_asked, summary.n_stored, summary.n_new) == (112, 112, 56)
    assert short.read_bytes().startswith(before)
    ask(faulty, fresh, 16, **options)
    assert table(short).equals(table(fresh))


def test_a_finished_run_asks_nothing_more(store, faulty):
    ask(faulty, store, 8)
    before = store.read_bytes()
    faulty.calls.clear()
    for n in (8, 3):
        summary = ask(faulty, store, n)
        assert (summary.n_asked, summary.n_stored) == (n * 7, n * 7)
        assert (summary.n_new, summary.stopped) == (0, "done")
    assert faulty.calls == []
    assert store.read_bytes() == before


def test_more_tasks_extend_a_store(store, faulty):
    ask(faulty, store, 4, tasks={"6150a2bd": TASKS["6150a2bd"]})
    summary = ask(faulty, store, 4)
    assert (summary.n_asked, summary.n_new) == (28, 24)
    assert n_of_outputs(store) == dict.fromkeys(OUTPUTS, 4)


def test_a_view_that_was_stored_in_part_is_completed(store, faulty):
    ask(faulty, store, 8, sampling=SAMPLED)
    complete = table(store)
    lines = store.read_bytes().splitlines(keepends=True)
    store.write_bytes(b"".join(lines[:-3]))
    assert ask(faulty, store, 8, sampling=SAMPLED).n_new == 3
    assert table(store).equals(complete)


def run_slowly(store, batching):
    """Run in the process that gets killed."""
    arc_airv.infer.ask.FLUSH_SECONDS = 0.0
    engine = {"all": StreamingEngine}.get(batching, ScriptedEngine)
    ask(engine(TASKS, wrong=0.3, garbage=0.2, delay=0.01), store, 16, batching=batching)


def test_a_run_that_is_killed_again_and_again_loses_and_repeats_nothing(store, tmp_path, faulty):
    store.touch()
    for batching, n_lines in (("prompt", 1), ("all", 9), ("task", 30), ("all", 70)):
        command = (
            f"import sys; sys.path.append({str(HERE.parent)!r})\n"
            f"from test_generate import run_slowly; run_slowly({str(store)!r}, {batching!r})"
        )
        process = subprocess.Popen([sys.executable, "-c", command], cwd=HERE)
        while process.poll() is None and store.read_bytes().count(b"\n") < n_lines:
            time.sleep(0.01)
        assert process.poll() is None, "it was to be killed before it was done"
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = len(read_predictions(store))
    assert 70 <= left < 112
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*half-written")
        summary = ask(faulty, store, 16)
    assert summary.n_new == 112 - left
    ask(faulty, tmp_path / "undisturbed.jsonl", 16)
    assert table(store).equals(table(tmp_path / "undisturbed.jsonl"))


def test_an_engine_that_fails_leaves_what_it_had_answered(store, faulty):
    class Failing(StreamingEngine):
        def reply(self, prompt, sampling):
            if len(self.calls) > 10:
                raise RuntimeError("out of memory")
            return super().reply(prompt, sampling)

    with pytest.raises(RuntimeError, match="out of memory"):
        ask(Failing(TASKS), store, 8)
    assert len(read_predictions(store)) == 10
    assert ask(ScriptedEngine(TASKS), store, 8).n_new == 46


def test_what_any_engine_says_of_its_replies_can_be_stored(store):
    """Store non-finite log-probabilities as null, and numpy's numbers as numbers."""

    class Strange(StreamingEngine):
        def reply(self, prompt, sampling):
            (reply,) = super().reply(prompt, sampling)
            logprob = [np.nan, -np.inf, np.float32(-1.5)][len(self.calls) % 3]
            return [replace(reply, cumulative_logprob=logprob, n_tokens=np.int64(7))]

    with pytest.warns(UserWarning, match="log-probability of"):
        ask(Strange(TASKS), store, 3)
    frame = read_predictions(store)
    assert len(frame) == 21 and set(frame["n_tokens"]) == {7}
    assert set(frame["cumulative_logprob"].dropna()) == {-1.5}


@pytest.mark.parametrize("lost", [1, 84])
def test_an_engine_that_leaves_prompts_out_is_an_error(store, lost):
    class Forgetful(StreamingEngine):
        def stream(self, requests):
            yield from itertools.islice(filter(None, super().stream(requests)), 84 - lost)

    with pytest.raises(RuntimeError, match=f"left {lost} prompts unanswered"):
        ask(Forgetful(TASKS), store, 12)
    assert len(read_predictions(store)) == 84 - lost


@pytest.mark.parametrize("lost", [1, 84])
def test_replies_of_which_some_are_missing_answer_no_prompt(store, lost):
    class Forgetful(ScriptedEngine):
        def generate(self, prompts, sampling):
            return super().generate(prompts, sampling)[lost:]  # none is that of its place

    with pytest.raises(RuntimeError, match=f"asked for 84 lists .* gave {84 - lost}"):
        ask(Forgetful(TASKS), store, 12)
    assert read_predictions(store).empty


@pytest.mark.parametrize("given", [0, 3, 5])
def test_an_engine_that_gives_another_number_of_replies_is_an_error(store, given):
    class Miscounting(ScriptedEngine):
        def reply(self, prompt, sampling):
            return super().reply(prompt, replace(sampling, n=5))[:given]

    with pytest.raises(RuntimeError, match=f"asked for 4 replies .* gave {given}"):
        ask(Miscounting(TASKS), store, 8, sampling=SAMPLED)


def test_tasks_under_another_id_are_refused(store, faulty):
    with pytest.raises(ValueError, match="keyed by their task_id, .*'renamed'"):
        ask(faulty, store, 1, tasks={"renamed": TASKS["6150a2bd"]})


# An engine that streams nothing ------------------------------------------------------------------


def test_prompts_of_other_adapters_do_not_go_together(store):
    class Adapted(ScriptedEngine):
        def generate(self, prompts, sampling):
            used.update(dict.fromkeys(prompts, sampling.adapter))
            return super().generate(prompts, sampling)

    used = {}
    ask(Adapted(TASKS), store, 12, adapters={task_id: f"adapters/{task_id}" for task_id in TASKS})
    assert len(used) == 84
    for task_id, task in TASKS.items():
        for prompt in ScriptedEngine({task_id: task}, n_views=12).answers:
            assert used.get(prompt, f"adapters/{task_id}") == f"adapters/{task_id}"


def test_a_call_holds_what_fits_together():
    """A long prompt with a short reply and a short prompt with a long one fit only alone."""

    class Small(ScriptedEngine):
        def reply(self, prompt, sampling):
            assert len(prompt) + sampling.max_tokens <= 20
            return [Completion(prompt, 1, -1.0, "stop")]

    engine = Small({}, max_model_len=20)
    asked = [("a" * 10, 10), ("b" * 8, 9), ("c" * 2, 18), ("d", 2)]
    requests = [(prompt, Sampling(max_tokens=n)) for prompt, n in asked]
    replies = dict(pair for group in as_engine(engine).stream(requests) for pair in group)
    assert [replies[i][0].text for i in range(4)] == [prompt for prompt, _ in asked]
    assert list(map(len, engine.calls)) == [2, 2]


def test_a_call_is_short_where_there_is_a_deadline_to_keep(store):
    engine = ScriptedEngine(TASKS, delay=0.02)
    start = time.time()
    summary = ask(engine, store, 40, deadline=start + 0.5)  # all of them would take 5.6 s
    assert summary.stopped == "deadline" and time.time() - start < 2.5
    assert 0 < summary.n_stored < 140


# The deadline ------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """Replace the clock that the deadline is compared with."""
    clock = SimpleNamespace(now=1000.0)
    fake = SimpleNamespace(time=lambda: clock.now, monotonic=time.monotonic)
    monkeypatch.setattr("arc_airv.infer.ask.time", fake)
    monkeypatch.setattr("arc_airv.infer.generate.time", fake)
    return clock


class TickingEngine(StreamingEngine):
    """Take a second of the clock for each prompt."""

    clock = None
    seconds = 1.0

    def reply(self, prompt, sampling):
        self.clock.now += self.seconds
        return super().reply(prompt, sampling)


@pytest.mark.parametrize("deadline", [math.nan, math.inf, -math.inf])
def test_a_deadline_that_is_no_moment_is_refused(store, faulty, deadline):
    with pytest.raises(ValueError, match="deadline must be a moment in seconds or None, got"):
        ask(faulty, store, 8, deadline=deadline)
    assert faulty.calls == []


@pytest.mark.parametrize("batching", BATCHING)
def test_a_deadline_in_the_past_asks_nothing(store, faulty, batching):
    summary = ask(faulty, store, 8, batching=batching, deadline=time.time() - 1)
    assert (summary.n_asked, summary.n_stored, summary.stopped) == (56, 0, "deadline")
    assert faulty.calls == []
    assert read_predictions(store).empty
    assert ask(faulty, store, 8, batching=batching).stopped == "done"
    assert n_of_outputs(store) == dict.fromkeys(OUTPUTS, 8)


@pytest.mark.parametrize("batching", BATCHING)
@pytest.mark.parametrize("seconds", [1, 20, 55])
def test_a_deadline_stops_the_run_cleanly(store, clock, batching, seconds):
    engine = TickingEngine(TASKS)
    engine.clock = clock
    summary = ask(engine, store, 8, batching=batching, deadline=clock.now + seconds)
    assert (summary.n_stored, summary.stopped) == (seconds, "deadline")
    assert len(read_predictions(store)) == seconds
    later = ask(engine, store, 8, batching=batching, deadline=clock.now + 1000)
    assert (later.n_new, later.stopped) == (56 - seconds, "done")
    assert n_of_outputs(store) == dict.fromkeys(OUTPUTS, 8)


@pytest.mark.parametrize("batching", BATCHING)
def test_a_run_that_is_complete_at_the_deadline_is_done(store, clock, batching):
    engine = TickingEngine(TASKS)
    engine.clock = clock
    assert ask(engine, store, 2, batching=batching, deadline=clock.now + 14).stopped == "done"
    assert ask(engine, store, 2, batching=batching, deadline=clock.now - 1).stopped == "done"


@pytest.mark.parametrize("seconds", [10.0, 0.1])
def test_an_engine_that_is_too_slow_for_all_answers_the_short_prompts(
    store, tmp_path, clock, seconds
):
    tasks = {i: task for i, task in list(ARC.items())[:24] if len(task.test) == 1}
    ask(ScriptedEngine(tasks), tmp_path / "longest_first.jsonl", 1, tasks)
    longest_first = list(read_predictions(tmp_path / "longest_first.jsonl")["task_id"])
    engine = TickingEngine(tasks)
    engine.clock, engine.seconds = clock, seconds
    ask(engine, store, 1, tasks, deadline=clock.now + 120)
    asked = list(read_predictions(store)["task_id"])
    if seconds == 10:
        assert set(asked) == set(longest_first[-12:])
    else:  # a few tell that it is fast enough (it answers a few at once, in any order)
        assert set(asked[:8]) == set(longest_first[-8:])
        assert asked[8] in longest_first[: engine.room]


@pytest.mark.parametrize("batching", ["prompt", "all"])
def test_every_output_gets_its_first_eight_views_before_any_gets_its_ninth(store, faulty, batching):
    ask(faulty, store, 20, batching=batching)
    rounds = [view // 8 for view in views(read_predictions(store))]
    assert rounds == sorted(rounds) == [0] * 56 + [1] * 56 + [2] * 28


def test_outputs_without_a_valid_grid_go_first_after_the_first_eight_views(
    store, tmp_path, monkeypatch
):
    class Puzzled(StreamingEngine):
        """Give no valid answer to the task with the shortest prompts."""

        def _complete(self, prompt, sample, max_tokens):
            completion = super()._complete(prompt, sample, max_tokens)
            return replace(completion, text="?") if prompt in hard else completion

    monkeypatch.setattr("arc_airv.infer.ask.FLUSH_SECONDS", 0.0)
    ask(ScriptedEngine(TASKS), tmp_path / "longest_first.jsonl", 1)
    last = read_predictions(tmp_path / "longest_first.jsonl")["task_id"].iloc[-1]
    hard = set(ScriptedEngine({last: TASKS[last]}).answers)
    engine = Puzzled(TASKS)
    ask(engine, store, 16)
    frame = read_predictions(store)
    outputs = list(zip(frame["task_id"], frame["test_index"]))
    n_hard = 8 * len(TASKS[last].test)
    then = [task_id for task_id, _ in outputs[8 * len(OUTPUTS) :]]
    # The engine takes a few requests before their predecessors' results are known.
    assert then[:n_hard].count(last) >= n_hard - engine.room


def test_before_a_deadline_rounds_are_not_mixed_by_an_engine_with_an_order_of_its_own(store):
    class Sorting(ScriptedEngine):
        """Answer all that it gets at once, the longest prompts first."""

        def stream(self, requests):
            rows = sorted(enumerate(requests), key=lambda row: -len(row[1][0]))
            for index, (prompt, sampling) in rows:
                yield [(index, self.reply(prompt, sampling))]

    ask(Sorting(TASKS), store, 16, deadline=time.time() + 60)
    rounds = [(view > 0) + view // 8 for view in views(read_predictions(store))]
    assert rounds == sorted(rounds)


# Prompts that do not fit -------------------------------------------------------------------------


def test_a_prompt_that_does_not_fit_becomes_a_prediction_and_counts(store):
    engine = StreamingEngine(TASKS, max_model_len=300)
    summary = ask(engine, store, 8)
    assert (summary.n_stored, summary.stopped) == (56, "done")
    frame = read_predictions(store)
    too_long = frame[frame["status"] == "prompt_too_long"]
    assert set(too_long["task_id"]) == {"27a28665"} and len(too_long) == 24
    assert too_long[["grid", "text", "cumulative_logprob", "finish_reason"]].isna().all(axis=None)
    assert (too_long["n_tokens"] == 0).all() and (too_long["n_prompt_tokens"] > 0).all()
    assert set(frame["status"]) == {"ok", "prompt_too_long"}
    outputs = score_outputs(frame, TASKS)
    assert outputs["n_predictions"].tolist() == [8] * 7
    assert evaluate(frame, TASKS)["accuracy"] == 3 / 4
    assert evaluate(frame, TASKS, average="output")["unanswered"] == pytest.approx(3 / 7)
    assert ask(engine, store, 8).n_new == 0


def test_a_run_in_which_nothing_fits_is_done(store):
    engine = StreamingEngine(TASKS, max_model_len=10)
    assert ask(engine, store, 2).stopped == "done"
    assert Counter(read_predictions(store)["status"]) == {"prompt_too_long": 14}
    assert engine.calls == []


def test_every_sample_of_a_prompt_that_does_not_fit_is_a_prediction(store):
    ask(StreamingEngine(TASKS, max_model_len=10), store, 8, sampling=SAMPLED)
    assert n_of_outputs(store) == dict.fromkeys(OUTPUTS, 8)


@pytest.mark.parametrize("options", [{}, {"sampling": SAMPLED}, {"drop_demonstrations": True}])
def test_what_did_not_fit_is_asked_in_a_larger_context(store, options):
    sizes = (150, 300, None)
    asked = [ask(StreamingEngine(TASKS, max_model_len=size), store, 8, **options) for size in sizes]
    n_lost = [(summary.n_asked, summary.n_stored) for summary in asked]
    assert n_lost == [(56, 56)] * 3 and asked[1].n_new and asked[2].n_new < 56
    frame = table(store)
    assert set(frame["status"]) == {"ok"} and n_of_outputs(store) == dict.fromkeys(OUTPUTS, 8)
    assert ask(StreamingEngine(TASKS, max_model_len=150), store, 8, **options).n_new == 0
    pd.testing.assert_frame_equal(table(store), frame)
    if "drop_demonstrations" not in options:  # as if it had been asked so at first
        ask(StreamingEngine(TASKS), store.with_name("other.jsonl"), 8, **options)
        pd.testing.assert_frame_equal(table(store.with_name("other.jsonl")), frame)


def test_demonstrations_are_dropped_until_the_prompt_fits(store):
    engine = StreamingEngine(TASKS, max_model_len=300)
    ask(engine, store, 8, drop_demonstrations=True)
    frame = read_predictions(store)
    assert set(frame["status"]) == {"ok"}
    assert evaluate(frame, TASKS)["accuracy"] == 1.0
    shown = frame.groupby("task_id")["n_train"].agg(["min", "max"])
    for task_id, task in TASKS.items():
        n_train = len(task.train)
        if task_id == "27a28665":
            assert 1 <= shown.loc[task_id, "min"] <= shown.loc[task_id, "max"] < n_train
        else:
            assert shown.loc[task_id].tolist() == [n_train, n_train]


def test_a_view_keeps_its_first_demonstrations_and_at_least_one(store):
    engine = StreamingEngine(TASKS, max_model_len=150)
    ask(engine, store, 8, drop_demonstrations=True)
    frame = read_predictions(store)
    too_long = frame["status"] == "prompt_too_long"
    assert too_long.any() and not too_long.all()
    assert (frame.loc[too_long, "n_train"] == 1).all()
    for (prompt,) in engine.calls:
        demonstrations = prompt.rpartition("<in>")[0]
        assert any(p != prompt and p.startswith(demonstrations) for p in engine.answers)


# Prompt formats, other stores --------------------------------------------------------------------

OTHER = PromptFormat(make_encoder(["row_number", "minimal"]), PlainTemplate())


def test_another_prompt_format_than_the_models_own_is_a_warning(store):
    engine = ScriptedEngine(TASKS, n_views=1, prompt_format=OTHER)
    engine.prompt_format = BARE
    with pytest.warns(UserWarning, match="another prompt format.*row_number"):
        ask(engine, store, 1, prompt_format=OTHER)
    assert len(read_predictions(store)) == len(OUTPUTS)


def test_the_models_own_prompt_format_is_no_warning(tmp_path):
    engine = ScriptedEngine(TASKS, n_views=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(engine, tmp_path / "default.jsonl", 1)
        ask(engine, tmp_path / "given.jsonl", 1, prompt_format=BARE)
    assert table(tmp_path / "default.jsonl").equals(table(tmp_path / "given.jsonl"))


def test_a_model_without_a_format_or_a_chat_template_is_asked_plainly(store):
    default = PromptFormat(template=PlainTemplate())
    engine = ScriptedEngine(TASKS, n_views=1, prompt_format=default)
    answer, engine.prompt_format = engine.prompt_format, None
    engine.reply = lambda prompt, sampling: [
        Completion(answer.render_answer(engine.answers[prompt]), 9, -1.0, "stop")
    ]
    ask(engine, store, 1)
    assert evaluate(read_predictions(store), TASKS)["accuracy"] == 1.0


def test_a_changed_task_behind_the_same_store_is_refused(store, faulty):
    ask(faulty, store, 2)
    before = store.read_bytes()
    task = TASKS["44f52bb0"]
    for changed in (
        replace(task, train=task.train[::-1]),
        replace(task, test=(task.train[0], *task.test[1:])),
    ):
        with pytest.raises(ValueError, match="another prompt for .*44f52bb0.*Use another store"):
            ask(faulty, store, 4, tasks={**TASKS, "44f52bb0": changed})
    assert store.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"seed": 1}, "plan"),
        ({"colors": False}, "plan"),
        ({"sampling": SAMPLED}, "sampling"),
        ({"drop_demonstrations": True}, "drop_demonstrations"),
        ({"prompt_format": OTHER}, "prompt_format"),
    ],
)
@pytest.mark.filterwarnings("ignore:The model was trained with another prompt format")
def test_other_settings_behind_the_same_store_are_refused(store, faulty, options, name):
    ask(faulty, store, 4)
    with pytest.raises(ValueError, match=f"made with other settings: {name}:"):
        ask(faulty, store, 4, **options)


def test_the_run_description_says_what_made_the_predictions(store, faulty):
    ask(faulty, store, 8, batching="task")
    run = json.loads(run_path(store).read_text())
    assert PromptFormat.from_dict(run["settings"]["prompt_format"]) == BARE
    assert run["settings"]["plan"] == {
        "seed": 0, "geometric": True, "colors": True, "train_order": True
    }  # fmt: skip
    assert run["settings"]["model"] == "scripted"
    assert (run["n_predictions"], len(run["task_ids"]), run["batching"]) == (8, 4, "task")


# Replies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["arc-agi-1/evaluation", "arc-agi-2/evaluation"])
def test_the_true_answer_to_every_view_reverts_to_the_solution(store, source):
    """Take a grid all the way: augment, prompt, answer, parse, revert, store, compare."""
    tasks = load_tasks(source)
    small = sorted(tasks, key=lambda i: sum(p.input.size + p.output.size for p in tasks[i].train))
    tasks = {i: tasks[i] for i in small[:25]}
    ask(ScriptedEngine(tasks, n_views=16), store, 16, tasks=tasks)
    frame = read_predictions(store)
    assert evaluate(frame, tasks)["accuracy"] == 1.0
    assert frame["augmentation"].nunique() > 300
    for row in frame.itertuples():
        assert row.grid == format_grid(tasks[row.task_id].test[row.test_index].output)


def test_a_grid_is_kept_in_the_original_frame_and_its_text_in_that_of_the_view(store, faulty):
    ask(faulty, store, 16)
    frame = read_predictions(store)
    ok = frame[frame["status"] == "ok"]
    assert len(ok) > 50
    for row in ok.itertuples():
        said = BARE.parse(row.text, row.finish_reason).grid
        kept = parse_grid(row.grid)
        assert same_grid(Augmentation.parse(row.augmentation).apply_grid(kept), said)


def test_garbage_becomes_a_status(store):
    engine = ScriptedEngine(TASKS, garbage=1.0)
    ask(engine, store, 40)
    frame = read_predictions(store)
    assert n_of_outputs(store) == dict.fromkeys(OUTPUTS, 40)
    kept = {t.encode(errors="replace").decode() for t in GARBAGE}
    assert {t[:30] for t in frame["text"]} == {t[:30] for t in kept}
    assert set(frame["status"]) == {"ok", "unparsed", "ragged", "too_large"}
    assert ((frame["status"] == "ok") == frame["grid"].notna()).all()


def test_a_reply_that_never_ends_is_cut_at_what_an_output_can_need(store):
    ask(ScriptedEngine(TASKS, endless=1.0), store, 2, batching="prompt")
    frame = read_predictions(store)
    assert set(frame["finish_reason"]) == {"length"}
    assert set(frame["status"]) <= {"truncated", "too_large"}
    for row in frame.itertuples():
        task = TASKS[row.task_id]
        largest = max(g.size for p in task.train for g in (p.input, p.output))
        assert 4 * largest <= row.n_tokens <= 4 * largest + 100


def test_an_unknown_log_probability_is_kept_as_missing(store):
    class Silent(ScriptedEngine):
        def reply(self, prompt, sampling):
            return [replace(c, cumulative_logprob=None) for c in super().reply(prompt, sampling)]

    ask(Silent(TASKS), store, 2)
    assert read_predictions(store)["cumulative_logprob"].isna().all()
    assert evaluate(read_predictions(store), TASKS)["accuracy"] == 1.0


# Streams -----------------------------------------------------------------------------------------


class WatchedEngine(StreamingEngine):
    """Record the numbers of prompts rendered and predictions on disk at each reply."""

    store = None

    def __init__(self, tasks, **options):
        super().__init__(tasks, **options)
        self.n_rendered, self.log = 0, []

    def count_tokens(self, prompts):
        self.n_rendered += sum(prompt in self.answers for prompt in prompts)
        return super().count_tokens(prompts)

    def reply(self, prompt, sampling):
        self.log.append((self.n_rendered, len(self.store.read_bytes().splitlines())))
        return super().reply(prompt, sampling)


def test_a_stream_takes_prompts_as_it_needs_them_and_its_answers_are_stored_meanwhile(
    store, monkeypatch
):
    monkeypatch.setattr("arc_airv.infer.ask.FLUSH_SECONDS", 0.0)
    engine = WatchedEngine(TASKS)
    engine.store = store
    ask(engine, store, 40)
    assert len(engine.log) == 280
    for n_before, (n_rendered, n_on_disk) in enumerate(engine.log):
        # The first view of each output is rendered once more, to size the jobs.
        assert n_rendered <= len(OUTPUTS) + n_before + engine.room
        assert n_on_disk == n_before


def test_a_stream_may_finish_in_any_order(tmp_path, faulty):
    ask(StreamingEngine(TASKS, wrong=0.3, garbage=0.2), tmp_path / "stream.jsonl", 16)
    ask(faulty, tmp_path / "generate.jsonl", 16)
    assert table(tmp_path / "stream.jsonl").equals(table(tmp_path / "generate.jsonl"))
