"""Whatever an engine does, the run ends in time and with a valid submission."""

import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import pytest
from scripted import ScriptedEngine

from arc_airv.engines.base import checked_logprob
from arc_airv.engines.fingerprint import fingerprint, model_fingerprint
from arc_airv.infer.generate import generate_predictions
from arc_airv.kaggle import worker
from arc_airv.kaggle.log import Log
from arc_airv.kaggle.process import Limits, Worker
from arc_airv.kaggle.supervise import (
    degrade,
    mending,
    split_tasks,
    store_paths,
    supervise_generation,
)
from arc_airv.records import KEY, RecordStore, mend_store, read_predictions, read_stores
from arc_airv.storage import read_run, run_path
from arc_airv.submission import build_submission, score_submission, write_submission
from arc_airv.tasks import hide_outputs, load_tasks, save_tasks
from arc_airv.vote.rank import rank_candidates, select_attempts

ARC = load_tasks("arc-agi-1/training")
TASKS = {i: ARC[i] for i in ("6150a2bd", "44f52bb0", "27a28665", "d631b094")}
MODEL = str(Path(__file__).parents[1] / "tiny")
OUTPUTS = [(i, k) for i, task in TASKS.items() for k in range(len(task.test))]  # 1 + 2 + 3 + 1


def scripted(**options):
    """Return a configuration of the faulty engine."""
    return {"engine": "faulty:FaultyEngine", "options": options}


@pytest.fixture
def run(tmp_path):
    """Supervise these configurations; return the predictions, the log and the score."""
    answers = str(save_tasks(TASKS, tmp_path / "answers.json"))

    def run(*configurations, n=2, seconds=None, devices=(None,), **options):
        log = Log(show=False)
        start = time.time()
        limits = {"startup_seconds": 30, "hang_seconds": 30, "grace_seconds": 2, **options}
        stores = supervise_generation(
            hide_outputs(TASKS),
            model=answers,
            configurations=configurations,
            devices=devices,
            store=tmp_path / "store.jsonl",
            n_predictions=n,
            seed=0,
            deadline=None if seconds is None else start + seconds,
            limits=Limits(poll_seconds=0.05, **limits),
            log=log,
        )
        run.seconds = time.time() - start
        run.stores = stores
        frame = read_stores(stores, tasks=TASKS)
        assert not frame.duplicated(KEY).any()
        attempts = select_attempts(rank_candidates(frame), TASKS)
        path = write_submission(build_submission(attempts, TASKS), tmp_path / "submission.json")
        return frame, str(log), score_submission(path, TASKS)

    return run


def complete(frame, n=2):
    return Counter(zip(frame["task_id"], frame["test_index"])) == dict.fromkeys(OUTPUTS, n)


def test_a_run_without_faults_is_complete(run):
    frame, log, score = run(scripted())
    assert complete(frame) and score == 1.0
    assert "ready after" in log and "!" not in log
    assert "worker 0: done: 14 of 14 predictions, 14 of them new in " in log.splitlines()[-1]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("start", "exit status 1: RuntimeError: no kernel image"),
        ("error", "exit status 1: RuntimeError: CUDA out of memory"),
        ("kill", "was killed by SIGKILL (out of memory?)"),
    ],
)
def test_an_engine_that_fails_is_followed_by_the_next(run, fault, said):
    frame, log, score = run(scripted(fault=fault, after=5), scripted())
    assert complete(frame) and score == 1.0
    assert said in log and log.count("ready after") == (1 if fault == "start" else 2)


def test_the_log_quotes_the_cause_in_the_log_of_the_worker_and_names_it(run, tmp_path):
    frame, log, _ = run(scripted(fault="core"), scripted())
    assert complete(frame)
    (line,) = (line for line in log.splitlines() if "exit status" in line)
    assert "exit status 1: ValueError: To serve at least one request with" in line
    assert "the estimated maximum model length is 14560" in line and "root cause" not in line
    assert line.endswith(f"(its log: {tmp_path / 'store.jsonl.log'})")


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (["KeyError: 'a'", "", "RuntimeError: it failed"], "RuntimeError: it failed"),
        (["Traceback", "x.Died: no", "Exception in thread Thread-1 (run):"], ""),
        (
            [
                "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
                "  Value error, Model architectures ['X'] are not supported for now. [type=value]",
                "    For further information visit a page",
                "Traceback (most recent call last):",
                '  File "a.py", line 1, in <module>',
            ],
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig "
            "Value error, Model architectures ['X'] are not supported for now. [type=value]",
        ),
    ],
)
def test_the_cause_is_the_last_error_with_what_it_says_below(lines, cause):
    worker = Worker.__new__(Worker)
    worker.error = ""
    for line in lines:
        worker._read_error(line)
    assert worker.error == cause


def test_an_engine_that_hangs_is_ended_with_its_children(run, tmp_path):
    children = tmp_path / "child"
    frame, log, score = run(
        scripted(fault="hang", after=5, children=str(children)), scripted(), hang_seconds=0.5
    )
    assert complete(frame) and score == 1.0
    assert "hangs: no prediction for" in log
    time.sleep(0.1)  # it is not our child, so init has to reap it
    assert not is_running(int(children.read_text()))


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_engine_that_never_gets_ready_is_followed_by_the_next(run):
    frame, log, _ = run(scripted(fault="slow_start"), scripted(), startup_seconds=4)
    assert complete(frame) and "not ready after" in log


def test_the_last_configuration_is_tried_again_while_it_makes_predictions(run):
    frame, log, score = run(scripted(fault="kill", after=6))
    assert complete(frame) and score == 1.0
    assert log.count("was killed") == 2


def test_where_nothing_works_there_is_a_submission_still(run):
    frame, log, score = run(scripted(fault="start"), scripted(fault="kill"))
    assert frame.empty and score == 0.0
    assert "no configuration is left to try" in log
    assert "1 shares wait, no device" in log


@pytest.mark.parametrize("fault", [None, "deaf"])
def test_nothing_runs_past_the_deadline(run, fault):
    grace = 2 if fault is None else 0.5
    frame, log, score = run(
        scripted(fault=fault, after=5, delay=0.05), n=200, seconds=5, grace_seconds=grace
    )
    assert run.seconds < 6
    assert len(frame) >= 5 and score > 0
    assert "deadline" in log


def test_without_time_nothing_is_started(run):
    frame, log, _ = run(scripted(), seconds=1)
    assert frame.empty and run.seconds < 1 and "no time" in log


def test_garbage_and_prompts_that_do_not_fit_are_no_failure(run):
    frame, log, score = run(scripted(garbage=1.0))
    assert complete(frame) and "!" not in log
    assert set(frame["status"]) > {"unparsed"}


def test_prompts_that_do_not_fit_are_no_failure(run):
    frame, log, score = run(scripted(max_model_len=10))
    assert complete(frame) and set(frame["status"]) == {"prompt_too_long"} and score == 0.0
    assert "!" not in log


def test_a_full_disk_leaves_what_fitted(run):
    frame, log, _ = run(scripted(fault="full", after=3000), scripted())
    assert 0 < len(frame) < 2 * len(OUTPUTS)
    # Another engine would find the disk just as full.
    assert "File too large" in log and log.count("ready after") == 1
    (store,) = run.stores
    assert store.read_bytes().endswith(b"\n") and mend_store(store) == 0
    assert len(read_stores([store], tasks=TASKS)) == len(frame)


def test_a_disk_is_not_filled(run, tmp_path):
    free = shutil.disk_usage(tmp_path).free / 2**20
    frame, log, _ = run(scripted(), keep_free=2 * free)
    assert frame.empty and "! disk: only" in log and "ready" not in log


def test_engines_stop_when_the_disk_gets_full(run, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)

    def disk_usage(folder):  # full once something is stored
        stored = (tmp_path / "store.jsonl").exists() and (tmp_path / "store.jsonl").stat().st_size
        return usage._replace(free=0 if stored else usage.free)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    frame, log, score = run(scripted(delay=0.2), n=40)
    assert 0 < len(frame) < 40 * len(OUTPUTS) and score > 0
    assert log.endswith("! disk: only 0.0 MiB are free: the engines stop")


def test_engines_end_with_the_process_that_runs_them(tmp_path):
    child = tmp_path / "child"
    answers = str(save_tasks(TASKS, tmp_path / "answers.json"))
    store = tmp_path / "store.jsonl"
    options = {"fault": "deaf", "after": 2, "children": str(child)}
    code = (
        "from arc_airv.kaggle import supervise_generation; from arc_airv.tasks import load_tasks\n"
        f"supervise_generation(load_tasks({answers!r}), model={answers!r}, store={str(store)!r},\n"
        f"    seed=0, configurations=[{scripted(**options)!r}], n_predictions=2)"
    )
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    command = [sys.executable, "-c", code]
    kernel = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})
    wait_until(lambda: store.exists() and store.stat().st_size)
    kernel.kill()
    kernel.wait()
    wait_until(lambda: not is_running(int(child.read_text())))
    wait_until(lambda: not is_locked(store))
    with RecordStore(store) as opened:
        assert len(opened) > 0


def is_locked(store):
    with open(store, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_several_devices_share_the_tasks(run):
    frame, log, score = run(scripted(), devices=["0", "1"])
    assert complete(frame) and score == 1.0
    assert [path.name for path in run.stores] == ["store.0.jsonl", "store.1.jsonl"]
    assert all(len(read_predictions(path)) for path in run.stores)
    assert "worker 0: ready" in log and "worker 1: ready" in log


def test_the_share_of_a_device_that_is_lost_goes_to_another(run):
    frame, log, score = run(scripted(fault="start", device="0"), devices=["0", "1"])
    assert complete(frame) and score == 1.0
    assert "! worker 0: no configuration is left" in log
    assert log.count("worker 1: ready") == 2


def test_a_device_hands_over_in_time_when_another_is_lost(run):
    frame, log, _ = run(
        scripted(fault="start", device="0", delay=0.1, n_views=100),
        devices=["0", "1"],
        n=100,
        seconds=8,
        grace_seconds=1,
    )
    assert "worker 1: stops, for a share that lost its device" in log
    assert set(frame["task_id"]) == set(TASKS)
    assert run.seconds < 9


# Warnings ----------------------------------------------------------------------------------------


def test_the_log_tells_what_the_library_warns_of(run, tmp_path):
    filled(tmp_path / "store.jsonl", n=1)
    run_path(tmp_path / "store.jsonl").unlink()
    _, log, _ = run(scripted())
    assert "worker 0: warning: " in log and "its run description store.run.json is missing" in log


def test_a_warning_that_several_workers_give_is_told_once(run, tmp_path, monkeypatch):
    (tmp_path / "warning.py").write_text(
        "from arc_airv.engines.base import checked_logprob\n"
        "from faulty import FaultyEngine\n"
        "def make(model):\n"
        "    checked_logprob(float('nan'))\n"
        "    return FaultyEngine(model)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    _, log, _ = run({"engine": "warning:make", "options": {}}, devices=["0", "1"])
    assert log.count("warning: the model gave a log-probability of nan") == 1


def test_warnings_of_others_and_a_flood_stay_in_the_log_of_the_worker(monkeypatch, capsys):
    told = []
    monkeypatch.setattr(worker, "say", lambda event, text: told.append(text))
    monkeypatch.setattr(worker, "TOLD", set())
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = worker.show_warning
        warnings.warn("no matter", stacklevel=1)
        for value in [1, *range(1, 101)]:
            checked_logprob(float(value))
    assert len(told) == worker.MOST_TOLD == len(set(told)) and "of 1 is above 0" in told[0]
    assert "no matter" in (said := capsys.readouterr().err) and "of 100 is above 0" in said


# Stores ------------------------------------------------------------------------------------------


def filled(path, n=4):
    engine = ScriptedEngine(TASKS, wrong=0.3)
    options = {"n_predictions": n, "seed": 0, "progress": False}
    generate_predictions(hide_outputs(TASKS), engine, store=path, **options)
    return engine, options


def test_a_store_that_is_cut_at_any_byte_is_gone_on_with(tmp_path):
    path = tmp_path / "store.jsonl"
    engine, options = filled(path)
    content, whole = path.read_bytes(), read_predictions(path).sort_values(KEY, ignore_index=True)
    rng = random.Random(0)
    for cut in [0, 1, *(rng.randrange(len(content)) for _ in range(6)), len(content) - 1]:
        left = content[:cut]
        whole_lines = left if left.endswith(b"}") else left[: left.rfind(b"\n") + 1]
        path.write_bytes(left)
        assert mend_store(path) == (left != whole_lines)
        assert path.read_bytes() == whole_lines
        assert len(read_stores([path], tasks=TASKS)) == len(whole_lines.splitlines())
        generate_predictions(hide_outputs(TASKS), engine, store=path, **options)
        assert read_predictions(path).sort_values(KEY, ignore_index=True).equals(whole)


def test_broken_lines_inside_a_store_are_dropped(tmp_path):
    path = tmp_path / "store.jsonl"
    engine, options = filled(path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3][:20] + b"\n"
    lines[7] = b"\xff\x00\n"
    lines.insert(9, b'{"task_id": "a"}\n')
    path.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match="line 4"):
        read_predictions(path)
    unfinished = tmp_path / "store.run.json.123.tmp"
    unfinished.write_text("{")
    assert mend_store(path) == 3 and mend_store(path) == 0
    assert not unfinished.exists()
    assert len(read_predictions(path)) == 4 * len(OUTPUTS) - 2
    assert mend_store(tmp_path / "none.jsonl") == 0


def test_a_broken_store_is_mended_before_a_worker_opens_it(run, tmp_path):
    (tmp_path / "store.jsonl").write_bytes(b"what is this\n")
    frame, log, _ = run(scripted())
    assert complete(frame) and "dropped 1 broken lines" in log


TINY = {"engine": "transformers", "options": {}}


@pytest.fixture
def supervise_nothing(tmp_path, monkeypatch):
    """Describe a store that is complete, and supervise workers that all die before they open it."""
    path = tmp_path / "store.jsonl"
    filled(path, n=1)
    monkeypatch.setattr("arc_airv.kaggle.supervise.run_shares", lambda *_: set())

    def supervise_nothing(
        configuration=TINY, *, contents=(), settings=(), description=None, **options
    ):
        made_by = {
            "fingerprints": {"model": model_fingerprint(MODEL), **dict(contents)},
            "settings": {**read_run(path)["settings"], **dict(settings)},
        }
        run_path(path).write_text(description or json.dumps(made_by))
        return supervise_generation(
            TASKS, model=MODEL, configurations=[configuration], store=path,
            n_predictions=1, seed=0, **options,
        )  # fmt: skip

    supervise_nothing.path = path
    return supervise_nothing


def test_a_store_of_this_model_and_settings_counts_though_no_worker_opens_it(supervise_nothing):
    assert supervise_nothing() == [supervise_nothing.path]


@pytest.mark.parametrize(
    "other",
    [
        {"contents": {"model": "another"}},
        {"settings": {"plan": {"seed": 1}}},
        {"settings": {"sampling": {"n": 1, "temperature": 1.0}}},
        {"settings": {"drop_demonstrations": True}},
        {"settings": {"adapters": ["finetuned"]}},
        {"geometric": False},
    ],
)
def test_a_store_of_another_model_or_settings_does_not(supervise_nothing, other):
    assert supervise_nothing(**other) == []


def test_nor_does_one_of_adapters_that_were_trained_anew(supervise_nothing, tmp_path):
    adapter = tmp_path / "finetuned" / "6150a2bd"
    adapter.mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_bytes(b"new")
    adapters = dict.fromkeys(TASKS, str(adapter))
    for content, counts in ((fingerprint(adapter), True), ("old", False)):
        stores = supervise_nothing(
            contents={"adapter of 6150a2bd": content},
            settings={"adapters": ["finetuned"]},
            adapters=adapters,
        )
        assert bool(stores) == counts


def test_what_is_not_known_is_no_difference(supervise_nothing):
    path, another = supervise_nothing.path, {"contents": {"model": "another"}}
    assert supervise_nothing(scripted(), **another) == [path]  # an engine of one's own
    assert supervise_nothing(description='{"settings": {"model": "tiny"}}') == [path]


def test_a_refused_store_does_not_count_whatever_an_engine_says_last(run, tmp_path, monkeypatch):
    (tmp_path / "noisy.py").write_text(
        "import atexit, faulty\n"
        "def make(model):\n"
        "    atexit.register(lambda: {}['gone'])\n"
        "    return faulty.FaultyEngine(model)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "store.jsonl"
    filled(path)
    description = {**read_run(path), "fingerprints": {"model": "another"}}
    run_path(path).write_text(json.dumps(description))
    _, log, _ = run({"engine": "noisy:make", "options": {}})
    assert "KeyError: 'gone'" in log and run.stores == []


# Configurations ----------------------------------------------------------------------------------


def test_a_configuration_degrades_step_by_step():
    options = {"dtype": "float16", "gpu_memory_utilization": 0.9, "max_model_len": 4096}
    ladder = degrade({"engine": "vllm", "options": options, "devices": ["0"]})
    assert [c["engine"] for c in ladder] == ["vllm"] * 3 + ["transformers"] * 3
    assert ladder[0]["options"] == options
    assert ladder[1]["options"] == {**options, "max_num_seqs": 64, "gpu_memory_utilization": 0.75}
    assert ladder[2]["options"] == {**ladder[1]["options"], "enforce_eager": True}
    assert ladder[3]["options"] == {
        "dtype": "float16", "max_model_len": 4096, "batch_tokens": 16384
    }  # fmt: skip
    assert ladder[4]["options"]["batch_tokens"] == 4096
    assert ladder[5]["options"]["device"] == "cpu"
    assert json.loads(json.dumps(ladder)) == ladder
    # Every step sends the same prompts.
    assert {c["options"]["max_model_len"] for c in ladder} == {4096}


L4 = {"engine": "vllm", "options": {"dtype": "auto", "gpu_memory_utilization": 0.9}}
CACHE = "ValueError: To serve one request (36.0 GiB KV cache is needed, which is larger than 9 GiB)"
FITS = f"{CACHE}. Based on the memory, the estimated maximum model length is 14560. Try"


def steps(error, ladder=None):
    """List what would be tried, if all of it failed with this error."""
    ladder, tried = ladder or degrade(L4), []
    while ladder := mending(ladder, error):
        tried.append(ladder[0])
    return tried


def test_a_cause_that_is_not_known_tries_everything():
    for error in ("", "RuntimeError: something", "torch.OutOfMemoryError: CUDA out of memory."):
        assert steps(error) == degrade(L4)[1:]


@pytest.mark.parametrize(
    ("error", "engines"),
    [
        ("ModuleNotFoundError: No module named 'vllm'", ["transformers"]),
        ("RuntimeError: CUDA error: no kernel image is available for execution", ["transformers"]),
        ("ValueError: Model architectures ['X'] are not supported for now.", ["transformers"]),
        ("ValueError: m is quantized (mxfp4), which vLLM runs on GPUs of 8.0", ["transformers"]),
        ("ValueError: s.jsonl was made with other settings: n", []),
        ("ValueError: the store answers another prompt for ('a', 0)", []),
    ],
)
def test_only_what_could_mend_the_cause_is_tried(error, engines):
    tried = steps(error)
    assert [step["engine"] for step in tried] == engines
    if engines:
        assert tried[0] == degrade(L4)[3]


def test_graphs_that_cannot_be_compiled_are_left_out_next():
    error = "torch._inductor.exc.InductorError: RuntimeError: failed to compile"
    assert steps(error)[0]["options"]["enforce_eager"]
    assert [step["engine"] for step in steps(error)] == ["vllm", "transformers"]


def test_memory_that_others_hold_needs_a_smaller_share():
    error = "ValueError: Free memory (9.1/15 GiB) is less than desired GPU memory utilization (0.9"
    assert steps(error)[0]["options"]["gpu_memory_utilization"] == 0.75
    assert [step["engine"] for step in steps(error)] == ["vllm", "transformers"]


def test_a_cache_that_is_too_small_gets_more_memory_and_then_a_shorter_context():
    more, shorter, *others = steps(FITS)
    assert more["options"]["gpu_memory_utilization"] == 0.95 and more["options"]["enforce_eager"]
    assert shorter["options"] == {**more["options"], "max_model_len": 14560}
    assert others == degrade(L4)[3:]
    # Where vLLM does not say what would fit, nothing is guessed.
    assert steps(CACHE) == [more, *others]
    options = {"max_model_len": None, "compilation_config": {"mode": 0}}
    on_cpu = degrade({"engine": "vllm", "options": options})
    assert steps(FITS, on_cpu)[0]["options"] == {**options, "max_model_len": 14560}


def test_an_engine_that_cannot_serve_a_model_is_not_asked_to_do_so_in_small():
    ladder = degrade({"engine": "transformers", "options": {}})
    assert steps("ValueError: m: a Mamba keeps no plain cache of keys and values", ladder) == []
    assert len(steps("torch.OutOfMemoryError: CUDA out of memory", ladder)) == 2


def test_a_model_that_cannot_be_right_is_no_work_for_engines(tmp_path):
    options = {"store": tmp_path / "s.jsonl", "n_predictions": 1, "seed": 0}
    with pytest.raises(ValueError, match="there is no model folder"):
        supervise_generation(TASKS, model=tmp_path / "no", configurations=[L4], **options)
    assert not list(tmp_path.iterdir())


def test_shares_are_even_and_hold_every_task_once():
    tasks = dict(list(ARC.items())[:40])
    shares = split_tasks(tasks, 4)
    assert sorted(i for share in shares for i in share) == sorted(tasks)
    sizes = [sum(p.input.size for t in share.values() for p in t.train) for share in shares]
    assert max(sizes) < 1.3 * min(sizes)
    assert len(split_tasks({"6150a2bd": ARC["6150a2bd"]}, 3)) == 1
    assert store_paths("a/b.jsonl", 1)[0].name == "b.jsonl"


def test_generation_needs_a_configuration(tmp_path):
    options = {"model": "", "store": tmp_path / "s", "n_predictions": 1, "seed": 0}
    with pytest.raises(ValueError, match="at least one configuration"):
        supervise_generation(TASKS, configurations=[], **options)


# The log -----------------------------------------------------------------------------------------


def test_a_step_that_fails_is_an_event(capsys):
    log = Log()
    with log.step("vote"):
        raise KeyError("grid")
    with log.step("write"):
        pass
    assert "! vote: KeyError: 'grid'\n" in (said := capsys.readouterr()).out
    assert 'raise KeyError("grid")' in said.err
    assert [event.who for event in log.failures] == ["vote"]
    with pytest.raises(KeyboardInterrupt), log.step("wait"):
        raise KeyboardInterrupt
