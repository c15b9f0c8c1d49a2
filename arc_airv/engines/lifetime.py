"""Processes that end with the one that started them, however it ends (SIGKILL, too), on Linux.

This process tells a watchdog, through a pipe, which processes it has started. The pipe ends with
this process; then the watchdog kills them and all that descend from them. That holds for what a
library starts, too, and unlike PR_SET_PDEATHSIG for a thread that ends before its process.

Run as a script, this file is the watchdog: it knows the standard library alone.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.05  # a process is told of so soon after its start

_lock = threading.Lock()
_watchdog: tuple[subprocess.Popen, int] | None = None  # and the end of the pipe to write to


@contextmanager
def tie_children() -> Iterator[None]:
    """Make the processes that this one starts within the block end with it.

    So do their descendants, in whatever session or process group. Multiprocessing's resource
    tracker is spared: it ends by itself, when it has removed the shared memory of the others. A
    process that another thread starts meanwhile is tied, too. Elsewhere than on Linux, nothing is.
    """
    if sys.platform != "linux":
        yield
        return
    pipe = _open_pipe()
    seen, is_over = _list_ids(), threading.Event()

    def tell() -> None:
        new = _list_ids() - seen
        for pid in new:
            process = read_process(pid)
            if process is not None and process.parent == os.getpid():
                os.write(pipe, f"{pid} {process.start}\n".encode())
        seen.update(new)

    def keep_telling() -> None:  # for an owner that ends within the block
        while not is_over.wait(POLL_SECONDS):
            tell()

    thread = threading.Thread(target=keep_telling, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        tell()


def _open_pipe() -> int:
    """Return the end of the watchdog's pipe to write to; start the watchdog if there is none."""
    global _watchdog
    with _lock:
        if _watchdog is None or _watchdog[0].poll() is not None:
            read, write = os.pipe()
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", os.path.abspath(__file__)],
                stdin=read,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,  # no signal to the group of this process ends it
            )
            os.close(read)
            _watchdog = process, write
        return _watchdog[1]


def _forget() -> None:
    """Let go of the watchdog in a forked process: it is the parent's."""
    global _watchdog, _lock
    if _watchdog is not None:
        os.close(_watchdog[1])
    _watchdog, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


# The watchdog ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Process:
    """A process that is no zombie: its parent, and when it started, for ids are used again."""

    parent: int
    start: str  # in clock ticks since the start of the machine


def read_process(pid: int) -> Process | None:
    """Return a process; None if there is none of this id."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    state, parent, *rest = stat[stat.rindex(b")") + 2 :].split()  # a name may hold anything
    return None if state in (b"Z", b"X") else Process(int(parent), rest[17].decode())


def list_processes() -> dict[int, Process]:
    """Return all processes by their id."""
    processes = {pid: read_process(pid) for pid in _list_ids()}
    return {pid: process for pid, process in processes.items() if process is not None}


def _list_ids() -> set[int]:
    return set(map(int, filter(str.isdecimal, os.listdir("/proc"))))


def end_trees(roots: set[tuple[int, str]]) -> None:
    """Kill processes, given by id and start, and all their descendants."""
    found: set[int] = set()
    while True:
        processes = list_processes()
        new = {
            pid
            for pid, p in processes.items()
            if pid not in found
            and ((pid, p.start) in roots or p.parent in found)
            and not _is_tracker(pid)
        }
        if not new:
            break
        for pid in new:  # stopped first, so that none starts another meanwhile
            _send(signal.SIGSTOP, pid)
        found |= new
    for pid in found:
        _send(signal.SIGKILL, pid)


def _is_tracker(pid: int) -> bool:
    try:
        return b"multiprocessing.resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended
        return False


def _send(number: int, pid: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):  # it has ended, or become another user's
        pass


def main() -> None:
    """Read ids and starts until the owner has ended, then end what they name."""
    with open(0, "rb") as pipe:
        lines = pipe.read().decode().splitlines()
    end_trees({(int(pid), start) for pid, start in map(str.split, lines)})


if __name__ == "__main__":
    main()
