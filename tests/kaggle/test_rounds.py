"""Rounds: an answer for all first, the time spent, and the last predictions where they matter."""

import re
import time
import zlib
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
from scripted import StreamingEngine

from arc_airv.engines.base import Sampling
from arc_airv.infer.generate import generate_predictions
from arc_airv.kaggle.rounds import generate_rounds
from arc_airv.kaggle.settle import unsettled_outputs
from arc_airv.records import KEY, read_predictions
from arc_airv.tasks import hide_outputs, load_tasks

ARC = load_tasks("arc-agi-1/training")
TASKS = {i: ARC[i] for i in ("6150a2bd", "44f52bb0", "27a28665", "d631b094")}
OUTPUTS = [(i, k) for i, task in TASKS.items() for k in range(len(task.test))]  # 1 + 2 + 3 + 1


class TickingEngine(StreamingEngine):
    """Each prompt takes a second of a clock of its own."""

    clock = None

    def reply(self, prompt, sampling):
        self.clock.now += 1
        return super().reply(prompt, sampling)


@pytest.fixture
def clock(monkeypatch):
    """The clock that rounds and deadlines go by."""
    clock = SimpleNamespace(now=1000.0)
    fake = SimpleNamespace(time=lambda: clock.now, monotonic=lambda: clock.now)
    monkeypatch.setattr("arc_airv.infer.generate.time", fake)
    monkeypatch.setattr("arc_airv.kaggle.rounds.time", fake)
    return clock


def make_engine(clock, **options):
    engine = TickingEngine(TASKS, n_views=200, **options)
    engine.clock = clock
    return engine


def ask(engine, store, n, **options):
    options = {"n_predictions": n, "seed": 0, "progress": False, **options}
    return generate_rounds(hide_outputs(TASKS), engine, store=store, **options)


def n_of_outputs(store):
    frame = read_predictions(store)
    assert not frame.duplicated(KEY).any()
    return Counter(zip(frame["task_id"], frame["test_index"]))


@pytest.mark.parametrize("n", [1, 3, 20])
def test_without_a_deadline_every_output_gets_all(tmp_path, clock, n):
    store = tmp_path / "store.jsonl"
    rounds = ask(make_engine(clock), store, n)
    assert n_of_outputs(store) == dict.fromkeys(OUTPUTS, n)
    assert rounds[0].kind == "calibration" and rounds[0].n_new == 7
    assert [r.kind for r in rounds[1:]] == (["uniform"] if n > 1 else [])
    assert ask(make_engine(clock), store, n)[0].n_new == 0


def test_the_time_is_spent_and_not_more(tmp_path, clock):
    store, engine = tmp_path / "store.jsonl", make_engine(clock, wrong=0.8)
    seen = []
    rounds = ask(engine, store, 200, deadline=clock.now + 700, report=seen.append)
    assert clock.now == 1700 and len(read_predictions(store)) == 700
    assert seen == rounds and rounds[-1].stopped == "deadline"
    kinds = [r.kind for r in rounds]
    assert kinds[:2] == ["calibration", "uniform"] and set(kinds[2:]) == {"unsettled"}
    # 693 s are left after the calibration: half of them are 49 views more of each, 48 in all.
    assert rounds[1].n_new == 7 * 47
    counts = n_of_outputs(store)
    assert min(counts.values()) >= 48 and max(counts.values()) > 100


def test_the_first_round_gives_every_output_an_answer(tmp_path, clock):
    store = tmp_path / "store.jsonl"
    ask(make_engine(clock), store, 200, deadline=clock.now + 8)
    assert set(n_of_outputs(store)) == set(OUTPUTS)
    assert len(read_predictions(store)) == 8


def test_rounds_go_to_what_is_not_settled(tmp_path, clock, monkeypatch):
    monkeypatch.setattr("arc_airv.kaggle.rounds.SMALLEST_ROUND", 8)

    class Partly(TickingEngine):
        """Sure of one task; answers the others with one of three colours."""

        def _complete(self, prompt, sample, max_tokens):
            completion = super()._complete(prompt, sample, max_tokens)
            if prompt in self.sure:
                return completion
            color = "123"[zlib.crc32(prompt.encode()) % 3]
            return replace(completion, text=re.sub(r"\d", color, completion.text))

    plan = {"colors": False}
    engine = Partly(TASKS, n_views=200, plan=plan)
    engine.clock = clock
    engine.sure = StreamingEngine({"44f52bb0": TASKS["44f52bb0"]}, n_views=200, plan=plan).answers
    store = tmp_path / "store.jsonl"
    ask(engine, store, 200, deadline=clock.now + 700, **plan)
    counts = n_of_outputs(store)
    last = unsettled_outputs(read_predictions(store), TASKS, further=8, tolerance=-1)
    clear = last[(last["task_id"] == "44f52bb0") | (last["votes_2"] > 1.5 * last["votes_3"])]
    close = last.drop(clear.index)
    assert {"44f52bb0"} < set(clear["task_id"]) and len(close) >= 2
    assert max(close["n_predictions"]) > 1.4 * max(clear["n_predictions"])
    assert close["n_predictions"].mean() > 1.4 * clear["n_predictions"].mean()
    assert min(counts.values()) >= 48


def test_a_run_that_is_started_again_goes_on(tmp_path, clock):
    store = tmp_path / "store.jsonl"
    for _ in range(4):
        ask(make_engine(clock, wrong=0.5), store, 30, deadline=clock.now + 60)
    counts = n_of_outputs(store)
    assert 200 < sum(counts.values()) <= 210 and max(counts.values()) <= 30


def test_samples_of_a_view_stay_together(tmp_path, clock):
    store = tmp_path / "store.jsonl"
    sampling = Sampling(n=4, temperature=1.0)
    ask(make_engine(clock, wrong=0.9), store, 80, sampling=sampling, deadline=clock.now + 90)
    assert all(n % 4 == 0 for n in n_of_outputs(store).values())
    with pytest.raises(ValueError, match="multiple of sampling.n = 4, got 6"):
        ask(make_engine(clock), store, 6, sampling=sampling)


def test_no_tasks_need_no_rounds(tmp_path, clock):
    assert generate_rounds({}, make_engine(clock), n_predictions=4, seed=0, store=tmp_path) == []


def test_each_output_may_have_its_own_number(tmp_path, clock):
    store = tmp_path / "store.jsonl"
    options = {"seed": 0, "store": store, "progress": False}
    wanted = {("27a28665", 1): 5, ("6150a2bd", 0): 12}
    tasks, engine = hide_outputs(TASKS), make_engine(clock)
    summary = generate_predictions(tasks, engine, n_predictions=wanted, **options)
    assert n_of_outputs(store) == wanted and summary.n_asked == 17
    wanted = {**wanted, ("27a28665", 1): 9, ("44f52bb0", 0): 2}
    assert generate_predictions(tasks, engine, n_predictions=wanted, **options).n_new == 6
    assert n_of_outputs(store) == wanted
    assert generate_predictions(tasks, engine, n_predictions=12, **options).n_stored == 84
    for bad, message in (
        ({("27a28665", 3): 1}, "not there: .*27a28665"),
        ({("27a28665", 0): 0}, "positive multiple"),
    ):
        with pytest.raises(ValueError, match=message):
            generate_predictions(tasks, engine, n_predictions=bad, **options)


def test_real_time_is_kept(tmp_path):
    engine = StreamingEngine(TASKS, n_views=300, delay=0.005)
    start = time.time()
    ask(engine, tmp_path / "store.jsonl", 300, deadline=start + 1.5)
    assert 1.4 < time.time() - start < 3
