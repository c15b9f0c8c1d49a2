"""Nothing outlives its owner: whatever ends a process ends what the library started for it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from arc_airv.engines.lifetime import list_processes, read_process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

ROOT = Path(__file__).parents[2]
# A process, and one of its own in another session.
FAMILY = 'Popen(["sh", "-c", "setsid sleep 600 & exec sleep 600"])'
HEAD = """
import os, signal, sys, threading, time
from subprocess import Popen
from arc_airv.engines.lifetime import tie_children

def say(text="ready"):
    print(text, flush=True)

def wait():
    time.sleep(600)

"""


@pytest.fixture
def start():
    """Start an owner: Python code that says a line when it is to be looked at."""
    owners = []

    def start(code):
        path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
        owner = subprocess.Popen(
            [sys.executable, "-c", HEAD + code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
        )
        owners.append(owner)
        return owner

    yield start
    for owner in owners:
        owner.kill()
        owner.wait()
        owner.stdin.close()
        owner.stdout.close()  # what it left, if a test fails, may hold the other end


def descendants(pid):
    """Return id and start of each process that descends from this one."""
    processes = list_processes()
    family, size = {pid}, 0
    while len(family) > size:
        size = len(family)
        family |= {child for child, p in processes.items() if p.parent in family}
    return {(child, processes[child].start) for child in family - {pid}}


def alive(processes):
    known = {pid: read_process(pid) for pid, _ in processes}
    return {(pid, start) for pid, start in processes if known[pid] and known[pid].start == start}


def all_end(processes, seconds=10):
    """Tell if they end by themselves in time; none is left in any case."""
    end = time.monotonic() + seconds
    while left := alive(processes):
        if time.monotonic() > end:
            for pid, _ in left:
                os.kill(pid, signal.SIGKILL)
            return False
        time.sleep(0.05)
    return True


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)


def family_of(owner, n):
    """Wait for n descendants; return them."""
    wait_for(lambda: len(descendants(owner.pid)) >= n)
    return descendants(owner.pid)


def ready_family(owner, n):
    """Wait for the owner's line and n descendants; return them."""
    assert owner.stdout.readline(), "the owner failed"
    return family_of(owner, n)


@pytest.mark.parametrize(
    "ending",
    [
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.kill(os.getpid(), signal.SIGTERM)",
        "os.kill(os.getpid(), signal.SIGINT)",
        "os.abort()",
        "os._exit(0)",
        "sys.exit()",
        "raise RuntimeError",
    ],
)
def test_tied_processes_end_with_their_owner_however_it_ends(start, ending):
    owner = start(f"with tie_children():\n    {FAMILY}\nsay(); input(); {ending}")
    family = ready_family(owner, 3)  # with the watchdog
    assert alive(family) == family
    owner.stdin.write("go on\n")
    owner.stdin.flush()
    assert all_end(family)


def test_an_owner_may_end_within_the_block(start):
    owner = start(f"with tie_children():\n    {FAMILY}; time.sleep(0.5); say(); wait()")
    family = ready_family(owner, 3)
    owner.kill()
    assert all_end(family)


def test_what_a_failed_block_has_started_is_tied(start):
    code = f"    with tie_children():\n        {FAMILY}; raise ValueError\n"
    owner = start(f"try:\n{code}except ValueError:\n    say(); wait()")
    family = ready_family(owner, 3)
    owner.kill()
    assert all_end(family)


def test_what_started_outside_of_the_block_is_left_alone(start):
    owner = start(
        'def sleeper():\n    return str(Popen(["sleep", "600"]).pid)\n'
        "free = [sleeper()]\nwith tie_children():\n    tied = sleeper()\nfree.append(sleeper())\n"
        'say(" ".join([*free, tied])); wait()'
    )
    *free, tied = map(int, owner.stdout.readline().split())
    owner.kill()
    assert all_end(family := {(tied, read_process(tied).start)}), family
    try:
        assert all(map(read_process, free))
    finally:
        for pid in free:
            os.kill(pid, signal.SIGKILL)


def test_tied_processes_outlive_the_thread_that_started_them(start):
    owner = start(
        f"def make():\n    with tie_children():\n        {FAMILY}\n"
        "thread = threading.Thread(target=make); thread.start(); thread.join(); say(); wait()"
    )
    family = ready_family(owner, 3)
    time.sleep(0.5)
    assert alive(family) == family
    owner.kill()
    assert all_end(family)


def test_several_blocks_have_one_watchdog(start):
    owner = start(f"for _ in range(3):\n    with tie_children():\n        {FAMILY}\nsay(); wait()")
    family = ready_family(owner, 7)
    time.sleep(0.2)
    assert descendants(owner.pid) == family and len(family) == 7
    owner.kill()
    assert all_end(family)


def test_a_watchdog_that_was_killed_is_replaced_by_the_next_block(start):
    owner = start(
        "from arc_airv.engines import lifetime\n"
        "with tie_children():\n    pass\n"
        "watchdog, _ = lifetime._watchdog; watchdog.kill(); watchdog.wait()\n"
        f"with tie_children():\n    {FAMILY}\nsay(); wait()"
    )
    family = ready_family(owner, 3)
    owner.kill()
    assert all_end(family)


def test_a_fork_of_the_owner_keeps_nothing_alive_and_ties_its_own(start):
    owner = start(
        f"with tie_children():\n    {FAMILY}\n"
        "if os.fork() == 0:\n"
        f"    with tie_children():\n        {FAMILY}\n"
        "    say(os.getpid()); wait()\n"
        "wait()"
    )
    fork = int(owner.stdout.readline())
    family = descendants(owner.pid)
    forked = descendants(fork) | {(fork, read_process(fork).start)}
    assert len(family - forked) == 3 and len(forked) == 4
    owner.kill()
    assert all_end(family - forked)
    assert alive(forked) == forked
    os.kill(fork, signal.SIGKILL)
    assert all_end(forked)


def test_shared_memory_of_tied_processes_is_removed(start):
    owner = start(
        "import multiprocessing\n"
        "from multiprocessing.shared_memory import SharedMemory\n"
        "with tie_children():\n"
        "    memory = SharedMemory(create=True, size=100)\n"
        '    multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,)).start()\n'
        "say(memory.name); wait()"
    )
    memory = Path("/dev/shm", owner.stdout.readline().strip())
    family = descendants(owner.pid)
    assert memory.is_file() and len(family) == 3  # with the resource tracker
    owner.kill()
    assert all_end(family) and not memory.exists()


def test_a_vllm_engine_ends_with_the_process_that_made_it(start):
    pytest.importorskip("vllm")
    owner = start(
        "from arc_airv.engines import Sampling, VllmEngine\n"
        f"engine = VllmEngine({str(ROOT / 'tests' / 'tiny')!r}, max_model_len=512)\n"
        "say()\n"
        "while True:  # busy when it is killed\n"
        '    engine.generate(["1"] * 64, Sampling(max_tokens=200))\n'
    )
    family = ready_family(owner, 3)  # the watchdog, the engine's core and the core's worker
    time.sleep(1)
    maps = "".join(Path(f"/proc/{pid}/maps").read_text() for pid, _ in family)
    memory = {line.split()[-1] for line in maps.splitlines() if " /dev/shm/" in line}
    owner.kill()
    assert all_end(family)
    assert not any(map(os.path.exists, memory))


def test_a_kernel_ends_with_the_command_that_runs_its_notebook(start, tmp_path):
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    sign = tmp_path / "sign"
    cells = [
        nbformat.v4.new_code_cell(f"from subprocess import Popen\n{FAMILY}"),
        nbformat.v4.new_code_cell(f"open({str(sign)!r}, 'x').close()\nwhile True:\n    pass"),
    ]
    cells[0].metadata["tags"] = ["parameters"]
    notebook = tmp_path / "busy.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), notebook)
    owner = start(
        f"sys.path.insert(0, {str(ROOT / 'notebooks')!r})\n"
        "from run_notebook import run_notebook\n"
        f"say(); run_notebook({str(notebook)!r}, {str(tmp_path)!r})"
    )
    wait_for(sign.exists)
    family = family_of(owner, 4)  # the watchdog, the kernel, and its own two
    owner.kill()
    assert all_end(family)


@pytest.mark.parametrize("kind", ["namespaces", "sockets"])
def test_a_sealed_command_ends_with_its_rehearsal(start, tmp_path, kind):
    owner = start(
        "import subprocess\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(ROOT / 'kaggle')!r})\n"
        "from rehearsal import play, sealed\n"
        f"if {kind!r} not in ('sockets', sealed.find_kind()):\n    say('none'); sys.exit()\n"
        f"kaggle = sealed.make_folders(Path({str(tmp_path / 'kaggle')!r}))\n"
        f"command = {['sh', '-c', 'setsid sleep 600 & exec sleep 600']}\n"
        f"play.start_sealed({kind!r}, kaggle, command, disk=None, env=dict(os.environ),\n"
        "                  output=sys.stderr)\n"
        "say(); wait()"
    )
    if owner.stdout.readline() == "none\n":
        pytest.skip("this machine allows no namespaces")
    family = family_of(owner, 3 if kind == "sockets" else 4)
    owner.kill()
    assert all_end(family)
