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
        owner.communicate()


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
    end = time.monotonic() + seconds
    while alive(processes):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def family_of(owner, n):
    """Wait for the owner's line and n descendants; return them."""
    assert owner.stdout.readline(), "the owner failed"
    end = time.monotonic() + 20
    while len(found := descendants(owner.pid)) < n:
        assert time.monotonic() < end, found
        time.sleep(0.05)
    return found


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
    family = family_of(owner, 3)  # with the watchdog
    assert alive(family) == family
    owner.communicate("go on\n")
    assert all_end(family)


def test_an_owner_may_end_within_the_block(start):
    owner = start(f"with tie_children():\n    {FAMILY}; time.sleep(0.5); say(); wait()")
    family = family_of(owner, 3)
    owner.kill()
    assert all_end(family)


def test_what_a_failed_block_has_started_is_tied(start):
    code = f"    with tie_children():\n        {FAMILY}; raise ValueError\n"
    owner = start(f"try:\n{code}except ValueError:\n    say(); wait()")
    family = family_of(owner, 3)
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
    family = family_of(owner, 3)
    time.sleep(0.5)
    assert alive(family) == family
    owner.kill()
    assert all_end(family)


def test_several_blocks_have_one_watchdog(start):
    owner = start(f"for _ in range(3):\n    with tie_children():\n        {FAMILY}\nsay(); wait()")
    family = family_of(owner, 7)
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
    family = family_of(owner, 3)
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
    family = family_of(owner, 3)  # the watchdog, the engine's core and the core's worker
    before = set(os.listdir("/dev/shm"))
    time.sleep(1)
    owner.kill()
    assert all_end(family)
    assert set(os.listdir("/dev/shm")) <= before
