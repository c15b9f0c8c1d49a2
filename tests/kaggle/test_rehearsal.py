"""The pushed submission notebook, on a machine like Kaggle's, under every sabotage."""

import json
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "kaggle"))

from rehearsal import image, sealed, validator  # noqa: E402
from rehearsal.variants import VARIANTS  # noqa: E402

# Machines differ in the isolation that they allow; use and print the best one, never none.
KINDS = sorted({"sockets", sealed.find_kind()})


# The rehearsals ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run all rehearsals on one stage, three at once, the longest first."""
    pytest.importorskip("torch")
    from rehearsal.play import rehearse, set_stage

    stage = set_stage(tmp_path_factory.mktemp("rehearsal"))
    names = [name for name in VARIANTS if name != "rerun" or image.vllm_version()]
    names.sort(key=lambda name: name not in ("engine frozen", "fine-tuned", "rerun", "time limit"))
    pool = ThreadPoolExecutor(3)
    yield {name: pool.submit(rehearse, stage, name, VARIANTS[name]) for name in names}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_submission_survives(runs, name):
    if name not in runs:
        pytest.skip("there is no vLLM in this environment")
    outcome = runs[name].result()
    print(f"{name}: {outcome.isolation}, {outcome.seconds:.0f} s, {outcome.reported}")
    assert not outcome.faults, outcome.log[-5000:]


# The machine -------------------------------------------------------------------------------------

PROBE = """
import json, os, socket
from pathlib import Path
said = {}
for host in ("1.1.1.1", "kaggle.com", "127.0.0.1"):
    try:
        socket.create_connection((host, PORT), timeout=5).close()
        said[host] = "reached"
    except ConnectionRefusedError:
        said[host] = "refused"
    except OSError:
        said[host] = "no network"
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).close()
try:
    import arc_airv
    said["arc_airv"] = arc_airv.__file__
except ImportError:
    said["arc_airv"] = None
import numpy
said["numpy"] = numpy.__version__
said["cwd"] = os.getcwd()
try:
    (Path(INPUT) / "new.txt").write_text("")
    said["input"] = "written"
except OSError:
    said["input"] = "read-only"
Path("out.json").write_text(json.dumps(said))
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_sealed_machine_reaches_nothing_but_itself(tmp_path, kind):
    import numpy

    kaggle = sealed.make_folders(tmp_path / "kaggle")
    packages = image.lend_packages(tmp_path / "packages")
    python = image.make_environment(tmp_path / "env", packages, kind)
    here = sealed.inside(kind, kaggle)
    with socket.create_server(("127.0.0.1", 0)) as outside:
        code = PROBE.replace("PORT", str(outside.getsockname()[1]))
        code = code.replace("INPUT", repr(str(here / "input")))
        environment = image.environment_variables(tmp_path / "env", "probe", rerun=True)
        command = sealed.seal(kind, kaggle, [str(python), "-c", code])
        subprocess.run(**command, env=environment, check=True)
    said = json.loads((kaggle / "working" / "out.json").read_text())
    assert said.pop("127.0.0.1") == ("refused" if kind == "namespaces" else "reached")
    assert said.pop("input") == "read-only" or kind == "sockets"
    assert said == {
        "1.1.1.1": "no network",
        "kaggle.com": "no network",
        "arc_airv": None,
        "numpy": numpy.__version__,
        "cwd": str(here / "working"),
    }


@pytest.mark.skipif("namespaces" not in KINDS, reason="a mount needs namespaces")
def test_a_small_disk_is_full_and_what_it_holds_is_kept(tmp_path):
    kaggle = sealed.make_folders(tmp_path / "kaggle")
    command = ["sh", "-c", "echo kept > a; ! head -c 2000000 /dev/zero > b"]
    subprocess.run(**sealed.seal("namespaces", kaggle, command, disk=1 << 20), check=True)
    assert (kaggle / "working" / "a").read_text() == "kept\n"
    assert (kaggle / "working" / "b").stat().st_size < 1 << 20


# The validator -----------------------------------------------------------------------------------

CHALLENGES = {"00576224": {"test": [{}, {}]}, "b": None}
ANSWER = {"attempt_1": [[1, 2], [3, 4]], "attempt_2": [[0]]}
VALID = {"00576224": [ANSWER, ANSWER], "b": [ANSWER]}


def attempt(grid):
    return {**VALID, "b": [{"attempt_1": [[1]], "attempt_2": grid}]}


def test_a_valid_submission_has_no_faults(tmp_path):
    path = tmp_path / "submission.json"
    path.write_text(json.dumps(VALID))
    assert validator.submission_faults(path, CHALLENGES) == []
    assert validator.answered(path) == {"00576224": [True, True], "b": [True]}
    path.write_text(json.dumps(attempt([[9] * 30] * 30)))
    assert validator.submission_faults(path, CHALLENGES) == []


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"b": [ANSWER]},
        {**VALID, "c": [ANSWER]},
        dict(reversed(VALID.items())),
        {**VALID, "b": []},
        {**VALID, "b": [ANSWER, ANSWER]},
        {**VALID, "b": ANSWER},
        {**VALID, "b": [{"attempt_1": [[1]]}]},
        {**VALID, "b": [{**ANSWER, "attempt_3": [[1]]}]},
        *map(
            attempt,
            ([], [[]], [1], [[1], [1, 2]], [[10]], [[-1]], [[True]], [[1.0]], [["1"]], None,
             [[0]] * 31, [[0] * 31]),
        ),
    ],
)  # fmt: skip
def test_a_submission_that_cannot_be_scored_has_faults(tmp_path, content):
    path = tmp_path / "submission.json"
    path.write_text(json.dumps(content))
    assert validator.submission_faults(path, CHALLENGES)


@pytest.mark.parametrize("text", ["", json.dumps(VALID)[:-1]])
def test_half_a_submission_has_faults(tmp_path, text):
    path = tmp_path / "submission.json"
    assert validator.submission_faults(path, CHALLENGES)  # there is none
    path.write_text(text)
    assert validator.submission_faults(path, CHALLENGES)
    assert validator.half_written(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "whole"),
    [
        ("a.jsonl", '{"a": "\u2028"}\n{}\n', True),
        ("a.jsonl", '{"a": 1}\n{"b"', False),
        ("a.jsonl", '{"a": 1\n{}\n', False),
        ("a.jsonl", "", True),
        ("submission.json.tmp", "{}", False),
        ("a.ipynb", "{", False),
        ("a.log", "{", True),
    ],
)
def test_what_is_half_written_is_found(tmp_path, name, text, whole):
    (tmp_path / name).write_text(text)
    assert (validator.half_written(tmp_path) == []) is whole
