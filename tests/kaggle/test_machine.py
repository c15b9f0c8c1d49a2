"""The machine of a notebook: moved inputs, a running clock, GPUs of all kinds."""

import json
import math
import os
import subprocess
import sys
import time

import pytest

from arc_airv.engines.gpus import Gpu, engine_options, find_gpus, gpus_for_model, require_gpus
from arc_airv.infer.generate import generate_predictions
from arc_airv.kaggle.clock import Deadline, process_start
from arc_airv.kaggle.inputs import find_input, find_model, is_rerun
from arc_airv.submission import build_submission, validate_submission, write_submission
from arc_airv.tasks import hide_outputs, load_tasks, read_challenges, save_tasks

ARC = load_tasks("arc-agi-1/training")
TASKS = hide_outputs({i: ARC[i] for i in ("6150a2bd", "44f52bb0")})
NAME = "arc-agi_test_challenges.json"

T4, L4 = Gpu(0, "Tesla T4", 15.0, (7, 5)), Gpu(0, "NVIDIA L4", 22.5, (8, 9))
P100 = Gpu(0, "Tesla P100-PCIE-16GB", 16.0, (6, 0))


def several(gpu, n):
    return [Gpu(i, gpu.name, gpu.memory_gib, gpu.capability) for i in range(n)]


# Inputs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["arc-prize", "competitions/arc-prize", "a/b/c/d"])
def test_an_input_is_found_wherever_it_is(tmp_path, folder):
    path = tmp_path / folder / NAME
    path.parent.mkdir(parents=True)
    path.touch()
    assert find_input(NAME, root=tmp_path) == path
    assert find_input("arc-agi_test_*.json", root=tmp_path) == path


def test_an_input_behind_a_link_is_found_once(tmp_path):
    (tmp_path / "mounted").mkdir()
    (tmp_path / "mounted" / NAME).touch()
    (tmp_path / "input" / "competitions").mkdir(parents=True)
    (tmp_path / "input" / "competitions" / "arc").symlink_to(tmp_path / "mounted")
    (tmp_path / "input" / "old").symlink_to(tmp_path / "mounted")
    (tmp_path / "input" / "loop").symlink_to(tmp_path / "input")
    found = find_input(NAME, root=tmp_path / "input")
    assert found == tmp_path / "input" / "competitions" / "arc" / NAME
    assert find_input(f"arc/{NAME}", root=tmp_path / "input") == found


def test_an_input_that_is_not_there_names_what_is(tmp_path):
    (tmp_path / "datasets" / "owner" / "wheels").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=f"no {NAME} under .*attached: .*owner/wheels"):
        find_input(NAME, root=tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find_input(NAME, root=tmp_path / "nowhere")


def test_an_input_that_is_there_twice_names_both(tmp_path):
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / NAME).touch()
    with pytest.raises(ValueError, match="2 times .*new.*old"):
        find_input(NAME, root=tmp_path)


def test_a_model_is_a_configuration_beside_weights(tmp_path):
    for name, files in (("tokenizer", ["config.json"]), ("m", ["config.json", "x.safetensors"])):
        (tmp_path / "models" / name).mkdir(parents=True)
        for file in files:
            (tmp_path / "models" / name / file).touch()
    assert find_model(root=tmp_path) == tmp_path / "models" / "m"
    (tmp_path / "models" / "tokenizer" / "y.safetensors").touch()
    with pytest.raises(ValueError, match="2 times model"):
        find_model(root=tmp_path)


def test_the_rerun_is_known_by_its_variable():
    assert is_rerun({"KAGGLE_IS_COMPETITION_RERUN": "1"})
    assert not is_rerun({}) and not is_rerun({"KAGGLE_IS_COMPETITION_RERUN": ""})


# Challenges --------------------------------------------------------------------------------------

MALFORMED = {
    "empty": {},
    "nothing": None,
    "no_train": {"train": [], "test": [{"input": [[1]]}]},
    "no_test": {"train": [{"input": [[1]], "output": [[1]]}], "test": []},
    "ragged": {
        "train": [{"input": [[1]], "output": [[1], [2, 3]]}], "test": [{"input": [[1]]}] * 2
    },
    "letters": {"train": [{"input": [["a"]], "output": [[1]]}], "test": [{"input": [[1]]}]},
    "pair": {"train": [{"input": [[1]], "output": [[1]]}], "test": [7, 8, 9]},
}  # fmt: skip


def test_malformed_entries_cost_their_own_answers_only(tmp_path):
    path = save_tasks(TASKS, tmp_path / NAME)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**dict(list(content.items())[:1]), **MALFORMED, **content}))
    challenges = read_challenges(path)
    assert challenges.tasks == TASKS and list(challenges.tasks) == list(TASKS)
    assert set(challenges.faults) == set(MALFORMED)
    assert "must hold integers 0-9" in challenges.faults["letters"]
    n_outputs = {i: len(t.test) for i, t in challenges.all.items() if i in MALFORMED}
    assert n_outputs == {**dict.fromkeys(MALFORMED, 1), "ragged": 2, "pair": 3}
    written = write_submission(build_submission({}, challenges.all), tmp_path / "submission.json")
    assert list(validate_submission(written, challenges.all)) == list(json.loads(path.read_text()))


def test_a_file_without_faults_is_read_as_by_load_tasks(tmp_path):
    path = save_tasks(TASKS, tmp_path / NAME)
    challenges = read_challenges(path)
    assert challenges.tasks == challenges.all == TASKS and challenges.faults == {}
    assert read_challenges("arc-agi-1/training").tasks == ARC


@pytest.mark.parametrize("text", ["", "[]", "{", "7", "\ufeff{"])
def test_a_file_that_holds_no_tasks_is_an_error(tmp_path, text):
    path = tmp_path / NAME
    path.write_text(text)
    with pytest.raises(ValueError, match=NAME):
        read_challenges(path)


def test_a_file_of_malformed_entries_alone_has_a_submission_still(tmp_path):
    path = tmp_path / NAME
    path.write_text(json.dumps(MALFORMED))
    challenges = read_challenges(path)
    assert challenges.tasks == {} and len(build_submission({}, challenges.all)) == len(MALFORMED)


# The clock ---------------------------------------------------------------------------------------


def test_a_deadline_counts_from_its_start():
    now = time.time()
    deadline = Deadline(100, start=now - 25)
    assert deadline.seconds_left == pytest.approx(75, abs=1)
    assert deadline.at() == now + 75
    assert deadline.at(0.5, reserve=10) == now + 15
    assert Deadline(10, start=now - 20).seconds_left < 0
    for seconds in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="above 0 seconds, and finite"):
            Deadline(seconds)
    with pytest.raises(ValueError, match="start must be a moment"):
        Deadline(1, start=math.nan)


def test_a_process_knows_when_it_was_started():
    code = "import time; time.sleep(1); from arc_airv.kaggle import Deadline"
    code += "; print(Deadline(1).start)"
    before = time.time()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert before - 0.1 <= float(result.stdout) <= before + 0.9
    assert process_start() < time.time()


def test_a_deadline_fits_generation(tmp_path):
    from scripted import ScriptedEngine

    engine = ScriptedEngine({i: ARC[i] for i in TASKS}, n_views=1)
    late = Deadline(10, start=time.time() - 20)
    options = {"n_predictions": 1, "seed": 0, "store": tmp_path / "s.jsonl", "progress": False}
    assert generate_predictions(TASKS, engine, deadline=late.at(), **options).n_new == 0


# GPUs --------------------------------------------------------------------------------------------

SMI = {
    "2xT4": "0, GPU-aa, Tesla T4, 15360, 7.5\n1, GPU-bb, Tesla T4, 15360, 7.5\n",
    "4xL4": "".join(f"{i}, GPU-{i}, NVIDIA L4, 23034, 8.9\n" for i in range(4)),
    "1xP100": "0, GPU-aa, Tesla P100-PCIE-16GB, 16384, 6.0\n",
}


def nvidia_smi(folder, text, status=0):
    script = folder / "nvidia-smi"
    script.write_text(f"#!/bin/sh\ncat <<'EOF'\n{text}EOF\nexit {status}\n")
    script.chmod(0o755)
    return [str(script)]


@pytest.mark.parametrize("name", SMI)
def test_the_gpus_are_those_that_nvidia_smi_tells(tmp_path, name):
    gpus = find_gpus(nvidia_smi(tmp_path, SMI[name]), {})
    assert len(gpus) == int(name[0]) and [gpu.index for gpu in gpus] == list(range(len(gpus)))
    require_gpus(gpus, name)
    assert {gpu.name for gpu in gpus} <= {"Tesla T4", "NVIDIA L4", "Tesla P100-PCIE-16GB"}
    assert gpus[0].memory_gib > 14


@pytest.mark.parametrize(
    ("visible", "indices"),
    [("", []), ("1", [1]), ("0,1", [0, 1]), ("GPU-bb", [1]), ("-1", []), (" 1 , 0 ", [0, 1])],
)
def test_gpus_that_are_not_visible_do_not_count(tmp_path, visible, indices):
    gpus = find_gpus(nvidia_smi(tmp_path, SMI["2xT4"]), {"CUDA_VISIBLE_DEVICES": visible})
    assert [gpu.index for gpu in gpus] == indices


def test_no_nvidia_smi_is_no_gpu_and_a_broken_one_is_an_error(tmp_path):
    assert find_gpus([str(tmp_path / "nothing")]) == []
    assert find_gpus(nvidia_smi(tmp_path, "No devices were found\n", 6)) == []
    with pytest.raises(RuntimeError, match="Driver/library version mismatch"):
        find_gpus(nvidia_smi(tmp_path, "Driver/library version mismatch\n", 18))
    with pytest.raises(RuntimeError, match="does not know this GPU"):
        find_gpus(nvidia_smi(tmp_path, "0, GPU-aa, Tesla T4, 15360, [N/A]\n"), {})


@pytest.mark.parametrize(
    ("gpus", "wanted"),
    [
        ([], "2xT4"),
        (several(T4, 1), "2xT4"),
        (several(L4, 2), "2xT4"),
        (several(T4, 1) + several(L4, 1), "2xT4"),
        (several(T4, 2), "cpu"),
        (several(Gpu(0, "NVIDIA L40S", 45.0, (8, 9)), 4), "4xL4"),
    ],
)
def test_another_machine_than_asked_for_is_an_early_error(gpus, wanted):
    with pytest.raises(RuntimeError, match=f"asked for {wanted}, the GPUs of this machine are: "):
        require_gpus(gpus, wanted)
    with pytest.raises(ValueError, match="like '2xT4'"):
        require_gpus(gpus, "T4 x2")


def test_every_machine_has_its_configuration():
    require_gpus([], "cpu")
    t4, l4, p100, cpu = map(engine_options, (several(T4, 2), several(L4, 4), [P100], []))
    assert t4 == {
        "engine": "vllm",
        "options": {
            "dtype": "float16",
            "gpu_memory_utilization": 0.9,
            "attention_backend": "TRITON_ATTN",
        },
        "devices": ["0", "1"],
    }
    assert l4["options"] == {"dtype": "auto", "gpu_memory_utilization": 0.9}
    assert l4["devices"] == ["0", "1", "2", "3"]
    assert p100["engine"] == "transformers" and p100["options"] == {"dtype": "float16"}
    assert cpu == {"engine": "vllm", "options": {}, "devices": [None]}
    # The weakest GPU of a mixed machine decides, so that all of them can run it.
    assert engine_options([L4, T4])["options"] == t4["options"]
    json.dumps([t4, l4, p100, cpu])


def test_a_model_may_be_spread_over_gpus():
    spread = engine_options(several(L4, 4), tensor_parallel_size=2)
    assert spread["devices"] == ["0,1", "2,3"]
    assert spread["options"]["tensor_parallel_size"] == 2
    assert engine_options(several(L4, 3), tensor_parallel_size=2)["devices"] == ["0,1"]
    with pytest.raises(ValueError, match="must be 1 to 2 here, got 4"):
        engine_options(several(T4, 2), tensor_parallel_size=4)


@pytest.mark.parametrize(
    ("gib", "gpus", "n"),
    [
        (7, several(T4, 2), 1),
        (14, several(T4, 2), 2),
        (14, several(L4, 4), 1),
        (28, several(L4, 4), 2),
        (60, several(L4, 4), 4),
        (500, several(L4, 3), 2),  # nothing helps; heads are halved, not divided by three
        (500, [T4], 1),
        (500, [], 1),
    ],
)
def test_a_model_gets_as_few_gpus_as_hold_it(tmp_path, gib, gpus, n):
    for part in range(2):
        with open(tmp_path / f"model-{part}.safetensors", "wb") as file:
            file.truncate(gib * 2**29)  # sparse: takes no room on the disk
    assert gpus_for_model(tmp_path, gpus) == n


def test_the_options_are_known_to_the_installed_engines():
    pytest.importorskip("vllm")
    code = (
        "import sys, json, dataclasses\n"
        "from vllm.engine.arg_utils import EngineArgs\n"
        "known = {field.name for field in dataclasses.fields(EngineArgs)}\n"
        "print(sorted(set(json.loads(sys.argv[1])) - known))"
    )
    from arc_airv.kaggle.supervise import degrade

    used = set()
    for gpus in (several(T4, 2), several(L4, 4), []):
        for step in degrade(engine_options(gpus)):
            used |= set(step["options"]) if step["engine"] == "vllm" else set()
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"}
    command = [sys.executable, "-c", code, json.dumps(sorted(used))]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.stdout.split("\n")[-2] == "[]", result.stderr
