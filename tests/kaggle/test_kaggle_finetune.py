"""Fine-tuning in other processes: its results, and failures that cost nothing else."""

import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("peft")
pytest.importorskip("torch")

from arc_airv.kaggle.finetune import supervise_finetuning
from arc_airv.kaggle.log import Log
from arc_airv.kaggle.process import Limits
from arc_airv.storage import MADE_OTHERWISE


@pytest.fixture(scope="module")
def tasks(training_tasks):
    # Two that can be learnt within 200 tokens, and one that cannot.
    return {i: training_tasks[i] for i in ("3c9b0459", "d037b0a7", "00d62c1b")}


@pytest.fixture
def finetune(random_model, tasks, tmp_path):
    """Fine-tune with a deadline in `seconds`; return the model, the adapters and the log."""

    def finetune(mode, seconds, model=random_model, grace=4, **options):
        log = Log(show=False)
        start = time.time()
        found = supervise_finetuning(
            tasks,
            mode=mode,
            model=model,
            folder=tmp_path / "finetuned",
            deadline=start + seconds,
            max_tokens=200,
            limits=Limits(grace_seconds=grace, poll_seconds=0.05),
            log=log,
            **options,
        )
        finetune.seconds = time.time() - start
        return *found, str(log)

    return finetune


def test_the_tasks_are_shared_out_among_the_devices(finetune, random_model, tasks):
    model, adapters, log = finetune("per_task", 24, rank=4, devices=(None, None))
    assert str(model) == str(random_model) and list(adapters) == list(tasks)
    assert [path.name for path in adapters.values()] == ["3c9b0459", "d037b0a7", "untrained"]
    assert all((path / "adapter_model.safetensors").exists() for path in adapters.values())
    assert "finetune.0: per_task, " in log and "finetune.1: per_task, " in log
    assert log.endswith("2 of 3 tasks have learnt an adapter") and "!" not in log


def test_a_joint_model_is_a_model_folder(finetune):
    model, adapters, log = finetune("joint", 16, devices=("", ""))
    assert adapters is None and "!" not in log
    assert model.name == "finetuned" and (model / "prompt_format.json").exists()
    assert "finetune.0: warning: 1 of 3 tasks are not learnt, because no two of their" in log


@pytest.mark.parametrize("mode", ["joint", "per_task"])
def test_a_training_that_fails_leaves_the_model_as_it_is(finetune, random_model, tmp_path, mode):
    broken = shutil.copytree(random_model, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"no weights")
    model, adapters, log = finetune(mode, 60, model=broken)
    assert model == broken and adapters is None
    assert re.search(r"! finetune.0: ended with exit status 1: .*\w+Error.*: .+", log), log


def test_adapters_of_another_model_do_not_answer_for_this_one(finetune, random_model, tmp_path):
    """The folder is that of an earlier run in the same session."""
    (tmp_path / "finetuned/3c9b0459").mkdir(parents=True)
    (tmp_path / "finetuned/3c9b0459/finetuning.json").write_text('{"model": "0123"}')
    model, adapters, log = finetune("per_task", 60)
    assert str(model) == str(random_model) and adapters is None
    assert "3c9b0459 was made with other settings" in log


@pytest.mark.parametrize(
    ("fails", "learnt", "kept"),
    [
        ("ended with exit status 1: OutOfMemoryError", (), False),  # before it looked at any
        (f"ended: ValueError: 3c9b0459 {MADE_OTHERWISE}", (), False),
        ("was killed by SIGKILL", ("d037b0a7",), True),  # it had looked at all that was there
        (None, (), True),
    ],
)
def test_adapters_of_before_answer_where_the_training_of_their_share_saw_to_them(
    finetune, tmp_path, monkeypatch, fails, learnt, kept
):
    folder = tmp_path / "finetuned"
    shared = [{"3c9b0459", "d037b0a7"}, {"00d62c1b"}]  # the first and the second device's

    def run_shares(shares, devices, configurations, deadline, limits, log, *_):
        if fails:
            log.add("finetune.0", fails, failed=True)
        for task_id in learnt:
            (folder / task_id).mkdir()

    monkeypatch.setattr("arc_airv.kaggle.finetune.run_shares", run_shares)
    monkeypatch.setattr(
        "arc_airv.kaggle.supervise.split_tasks",
        lambda tasks, n: [{i: tasks[i] for i in ids} for ids in shared],
    )
    for task_id in ("3c9b0459", "00d62c1b"):
        (folder / task_id).mkdir(parents=True)
    _, adapters, log = finetune("per_task", 60, devices=(None, None))
    assert {t for t, path in adapters.items() if path.name == t} == {
        *(["3c9b0459"] if kept else []),
        *learnt,
        "00d62c1b",
    }


def test_adapters_of_before_do_not_answer_where_no_training_came_to_see_them(finetune, tmp_path):
    (tmp_path / "finetuned/3c9b0459").mkdir(parents=True)
    model, adapters, log = finetune("per_task", 1)
    assert adapters is None and "1 shares wait, no time" in log


def test_a_model_that_cannot_be_right_is_refused(finetune, tmp_path):
    with pytest.raises(ValueError, match=r"is no model folder: it holds no config\.json"):
        finetune("joint", 60, model=tmp_path)


def test_a_training_that_is_killed_leaves_the_model_as_it_is(finetune, random_model, tmp_path):
    log = tmp_path / "finetuned" / "finetune.0.log"

    def kill():
        while not (log.exists() and "starting" in log.read_text()):
            time.sleep(0.05)
        (worker,) = [p for p in children() if b"arc_airv.kaggle.worker" in command(p)]
        os.kill(worker, signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)  # do not wait for it if nothing starts
    killer.start()
    model, adapters, log = finetune("joint", 120)
    killer.join(10)
    assert str(model) == str(random_model) and adapters is None
    assert "was killed by SIGKILL (out of memory?)" in log and finetune.seconds < 60


def test_what_does_not_stop_is_ended_at_the_deadline(finetune, random_model):
    """Leave less time than Python takes to start."""
    model, adapters, log = finetune("joint", 0.6, grace=0.2)
    assert str(model) == str(random_model) and adapters is None
    assert "did not stop by itself at the deadline" in log and finetune.seconds < 10


def test_without_tasks_there_is_nothing_to_learn(random_model, tmp_path):
    options = {"folder": tmp_path, "deadline": time.time() + 60, "max_tokens": 200}
    for mode in ("joint", "per_task"):
        found = supervise_finetuning({}, mode=mode, model=random_model, **options)
        assert found == (Path(random_model), None)


def test_without_time_the_model_is_as_it_was(finetune, random_model):
    model, adapters, log = finetune("joint", 1)
    assert str(model) == str(random_model) and adapters is None
    assert log.endswith("! supervisor: 1 shares wait, no time") and finetune.seconds < 1


def test_a_mode_that_does_not_exist_is_an_error(finetune):
    with pytest.raises(ValueError, match="mode must be one of .*'both'"):
        finetune("both", 10)
    with pytest.raises(ValueError, match="at least one device"):
        finetune("joint", 10, devices=())


def children():
    """List the ids of our child processes."""
    for task in Path("/proc/self/task").iterdir():
        yield from map(int, (task / "children").read_text().split())


def command(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes()
