"""Workers on Ray: the same answers as one engine, whatever happens to them."""

import functools
import os
import signal
import subprocess
import sys
import time
import uuid
import warnings
from pathlib import Path

import pytest
from faulty import FaultyEngine, FragileEngine
from rays import OPTIONS, processes_with, short_folder, small_ray, surroundings
from scripted import ScriptedEngine

from arc_airv.engines import RayEngine, Sampling, TransformersEngine, threshold_search
from arc_airv.infer.generate import generate_predictions
from arc_airv.prompts import PromptFormat
from arc_airv.records import KEY, read_predictions
from arc_airv.tasks import load_tasks, save_tasks

ray = pytest.importorskip("ray")

ARC = load_tasks("arc-agi-1/training")
TASKS = {i: ARC[i] for i in ("6150a2bd", "44f52bb0", "27a28665", "d631b094")}
N = 8 * 7  # predictions of these: of 7 test outputs


@pytest.fixture(scope="module")
def local_ray(tmp_path_factory):
    with small_ray(tmp_path_factory):
        yield


@pytest.fixture
def answers(tmp_path):
    return str(save_tasks(TASKS, tmp_path / "answers.json"))


@pytest.fixture
def start(local_ray, answers, monkeypatch):
    """Make engines with faulty workers, and close them at the end."""
    monkeypatch.setattr("arc_airv.engines.cluster.workers.CLOSE_SECONDS", 1.0)
    engines = []

    def start(n_workers=2, *, hang_seconds=60, **options):
        factory = functools.partial(FaultyEngine, answers, **options)
        engines.append(RayEngine(factory, n_workers, chunk=4, hang_seconds=hang_seconds))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


def generate(engine, store, n=8, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of each death
        summary = generate_predictions(
            TASKS, engine, n_predictions=n, seed=0, store=store, progress=False, **options
        )
    frame = read_predictions(store)
    assert not frame.duplicated(KEY).any()
    return summary, frame.sort_values(KEY, ignore_index=True)


@pytest.mark.parametrize("n_workers", [1, 3])
def test_the_predictions_do_not_depend_on_the_number_of_workers(
    start, answers, tmp_path, n_workers
):
    _, plain = generate(ScriptedEngine(TASKS, wrong=0.3, garbage=0.2), tmp_path / "plain.jsonl")
    engine = start(n_workers, wrong=0.3, garbage=0.2)
    summary, frame = generate(engine, tmp_path / "ray.jsonl")
    assert summary.stopped == "done" and len(frame) == N
    assert frame.equals(plain)
    assert engine.describe()["workers"] == n_workers
    assert generate(engine, tmp_path / "plain.jsonl")[0].n_new == 0  # it resumes another's store


@pytest.mark.parametrize("fault", ["kill", "error", "hang"])
def test_a_worker_that_fails_loses_nothing(start, tmp_path, fault):
    engine = start(fault=fault, after=5, once=str(tmp_path / "fault"), hang_seconds=3)
    summary, frame = generate(engine, tmp_path / "store.jsonl")
    assert (tmp_path / "fault").exists()
    assert len(frame) == N and set(frame["status"]) == {"ok"}


def test_a_prompt_that_ends_its_workers_becomes_a_prediction(start, tmp_path):
    # Only in the second view of d631b094.
    poison = ScriptedEngine({"d631b094": TASKS["d631b094"]}, n_views=2)
    (prompt,) = list(poison.answers)[len(TASKS["d631b094"].train) :][-1:]
    engine = start(fault="kill", prompt=prompt)
    summary, frame = generate(engine, tmp_path / "store.jsonl")
    assert len(frame) == N and summary.stopped == "done"
    (failed,) = frame[frame["status"] != "ok"].itertuples()
    assert (failed.task_id, failed.status, failed.finish_reason) == (
        "d631b094",
        "unparsed",
        "error",
    )
    assert frame.loc[failed.Index, ["grid", "text", "cumulative_logprob"]].isna().all()
    # It is not retried.
    assert generate(engine, tmp_path / "store.jsonl")[0].n_new == 0


def test_scores_and_searches_of_a_prompt_that_ends_its_workers(local_ray, monkeypatch):
    monkeypatch.setattr("arc_airv.engines.cluster.workers.CLOSE_SECONDS", 1.0)
    engine = RayEngine(FragileEngine, 2, chunk=2)
    prompts = ["a", "b", "x", "c"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of each death
            scores = engine.score(prompts, ["1", ["12", "123"], ["1", "2"], "1234"])
            beams = engine.beam_search(prompts, 1, 5)
            harvests = threshold_search(engine, prompts, min_probability=0.1, max_tokens=5)
    finally:
        engine.close()
    assert str(scores) == "[-1.0, [-2.0, -3.0], [nan, nan], -4.0]"
    assert [(b.text, b.cumulative_logprob) for (b,) in beams] == [
        (".", -0.5),
        (".", -0.5),
        (None, None),
        (".", -0.5),
    ]
    assert [[c.text for c in h.completions] for h in harvests] == [["."], ["."], [], ["."]]
    assert harvests[2].mass == harvests[2].cut == 0


def test_a_mistake_of_the_caller_is_an_error_and_no_fault(start):
    prompt = next(iter(ScriptedEngine(TASKS).answers))
    engine = start(max_model_len=len(prompt) + 10)
    with pytest.raises(ValueError, match="the prompt does not fit"):
        engine.generate([prompt], Sampling(max_tokens=11))
    assert len(engine.generate([prompt], Sampling(max_tokens=10))) == 1


def test_an_engine_that_refuses_its_options_is_an_error_at_once(local_ray):
    with pytest.raises(ValueError, match="batch_tokens must be"):
        RayEngine(refuse, 1)


def refuse():
    raise ValueError("batch_tokens must be at least 1")


@pytest.mark.parametrize("what", ["fingerprint", "prompt_format"])
def test_workers_with_different_copies_of_a_model_are_an_error(local_ray, tmp_path, what):
    with pytest.raises(ValueError, match="workers do not have one model: at one of them, tiny is"):
        engine = RayEngine(functools.partial(unlike, str(tmp_path / "first"), what), 2)
        try:
            engine.wait_ready()
        finally:
            engine.close()


def unlike(first, what):
    """Make an engine that is another one on all machines but the first."""
    engine = ScriptedEngine(TASKS)
    engine.model, engine.prompt_format = "tiny", PromptFormat()
    try:
        Path(first).touch(exist_ok=False)
    except FileExistsError:
        other = PromptFormat.from_dict({"encoder": ["json"], "template": {"name": "plain"}})
        setattr(engine, what, {"fingerprint": "other", "prompt_format": other}[what])
    return engine


@pytest.mark.parametrize("options", [{"n_workers": 0}, {"chunk": 0}, {"gpus_per_worker": -1}])
def test_numbers_out_of_their_range_are_clear_errors(options):
    with pytest.raises(ValueError, match="must"):
        RayEngine(refuse, **options)


def test_the_deadline_holds_though_the_workers_hang(start, tmp_path):
    engine = start(fault="hang", after=4)
    begin = time.time()
    summary, frame = generate(engine, tmp_path / "store.jsonl", deadline=begin + 4)
    assert summary.stopped == "deadline" and time.time() - begin < 8
    assert 0 < len(frame) < N


def test_the_next_run_does_not_hear_of_one_that_was_stopped(start, tmp_path):
    engine = start(delay=0.02)
    stopped, _ = generate(engine, tmp_path / "a.jsonl", deadline=time.time() + 0.3)
    assert stopped.stopped == "deadline"
    summary, frame = generate(engine, tmp_path / "b.jsonl")
    assert len(frame) == N and set(frame["status"]) == {"ok"}


# Processes ---------------------------------------------------------------------------------------

SCRIPT = """
import functools, sys
from faulty import FaultyEngine
from rays import OPTIONS
from arc_airv.engines import RayEngine
from arc_airv.infer import generate_predictions
from arc_airv.tasks import load_tasks

answers, children, store, folder = sys.argv[1:]
factory = functools.partial(FaultyEngine, answers, children=children, delay=0.2)
engine = RayEngine(factory, 2, ray_options={**OPTIONS, "_temp_dir": folder})
engine.wait_ready()
print("ready", flush=True)
generate_predictions(load_tasks(answers), engine, n_predictions=400, seed=0, store=store)
"""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupt_leaves_no_process_behind(answers, tmp_path, tmp_path_factory, stop):
    mark, store, child = str(uuid.uuid4()), tmp_path / "store.jsonl", tmp_path / "child"
    with surroundings(ARC_AIRV_TEST=mark):
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, answers, child, store, short_folder(tmp_path_factory)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    wait_for(lambda: store.exists() and store.stat().st_size > 0)
    assert len(processes_with("ARC_AIRV_TEST", mark)) > 4  # Ray's own, the workers, their children
    os.killpg(process.pid, stop)  # to all its processes, as a terminal does
    _, error = process.communicate(timeout=60)
    assert process.returncode != 0 and (stop == signal.SIGKILL or "KeyboardInterrupt" in error)
    wait_for(lambda: not processes_with("ARC_AIRV_TEST", mark))
    assert not read_predictions(store).empty


def wait_for(condition, seconds=60):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "it does not happen"
        time.sleep(0.2)


# Several machines --------------------------------------------------------------------------------


def test_a_node_that_is_killed_loses_nothing(answers, tmp_path, tmp_path_factory):
    from ray.cluster_utils import Cluster

    if ray.is_initialized():
        ray.shutdown()
    options = {key: OPTIONS[key] for key in ("include_dashboard", "object_store_memory")}
    # Loopback, under a name that Ray accepts as another address.
    options |= {"node_ip_address": "127.0.0.2", "num_cpus": 1}
    with surroundings(RAY_TMPDIR=short_folder(tmp_path_factory)):
        cluster = Cluster()
        try:
            cluster.add_node(**options)
            other = cluster.add_node(**options)
            factory = functools.partial(FaultyEngine, answers, delay=0.05)
            engine = RayEngine(factory, 2, address=cluster.address, chunk=4)
            engine.wait_ready()
            assert len({node["NodeID"] for node in ray.nodes() if node["Alive"]}) == 2

            class Killer:
                """Wrap the engine and kill the node in the middle of the run."""

                def __getattr__(self, name):
                    return getattr(engine, name)

                def stream(self, requests):
                    n = 0
                    for finished in engine.stream(requests):
                        n += len(finished)
                        yield finished
                        if n > N // 4 and other in cluster.list_all_nodes():
                            cluster.remove_node(other, allow_graceful=False)

            summary, frame = generate(Killer(), tmp_path / "store.jsonl")
            assert other not in cluster.list_all_nodes()
            assert len(frame) == N and set(frame["status"]) == {"ok"}
            engine.close()
        finally:
            ray.shutdown()
            cluster.shutdown()


# Real engines ------------------------------------------------------------------------------------


def test_an_engine_of_its_own_ends_with_it(random_model, tmp_path_factory):
    """Start Ray on demand, report the workers' tokenizer and format, and stop Ray on close."""
    if ray.is_initialized():
        ray.shutdown()
    factory = functools.partial(TransformersEngine, str(random_model))
    options = {**OPTIONS, "_temp_dir": short_folder(tmp_path_factory)}
    with surroundings():
        engine = RayEngine(factory, 1, ray_options=options)
        plain = factory()
        prompts = ["<in>1 5a7b<out>", "<in>1 3a3b<out>"]
        assert engine.count_tokens(prompts) == plain.count_tokens(prompts)
        assert engine.prompt_format == plain.prompt_format
        assert engine.max_model_len == plain.max_model_len
        assert Path(engine.model) == Path(plain.model)
        with pytest.raises(ValueError, match="prompt 1 has .* exceeds the 2048"):
            list(engine.stream([(prompts[0], Sampling()), (prompts[1], Sampling(max_tokens=2048))]))
        engine.close()
    assert not ray.is_initialized()
