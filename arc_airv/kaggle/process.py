"""One worker process, as its supervisor sees it: started, listened to, and ended for sure."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arc_airv.engines.lifetime import tie_children
from arc_airv.kaggle.worker import MARK, SUPERVISED
from arc_airv.storage import DISK_FULL, write_atomically

# The store cannot grow: a humbler engine would not help.
NO_ROOM = re.compile(rf"OSError: \[Errno (?:{'|'.join(map(str, DISK_FULL))})\]")
# What vLLM puts before a line: "(EngineCore pid=7) ERROR 11-30 06:21:03 [core.py:9] ".
PREFIX = re.compile(r"^(?:\([^()]* ?pid=\d+\) ?)?(?:[A-Z]+ [\d-]+ [\d:.]+ \[[^\]]*\] ?)?")
# The end of a traceback; the second kind goes on in the lines below it.
ERROR = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt|Exit)(?::.*)?$")
SEVERAL = re.compile(r"validation errors? for \w+$")
# Such an error only points at another one, which was written before it.
POINTER = re.compile(r"root cause|stack trace|Failed core proc|EngineCore encountered an issue")
CAUSE_LENGTH = 500


@dataclass(frozen=True)
class Limits:
    """The patience of a supervisor, in seconds; and the disk that it keeps free."""

    startup_seconds: float = 1200.0  # an engine that is not ready after so long has failed
    hang_seconds: float = 900.0  # so long without a prediction is a hang
    grace_seconds: float = 30.0  # workers are asked to stop so long before they are ended by force
    poll_seconds: float = 0.5  # between two looks at the workers
    keep_free: float = 64.0  # MiB: a full disk would take the submission, too


@dataclass(frozen=True)
class Share:
    """A share of the tasks for a device: the work of one worker."""

    path: Path  # the store that grows meanwhile; the share's tasks, job and log lie beside it
    job: dict[str, Any]  # see `arc_airv.kaggle.worker`; without the engine
    text: str  # the job, for the log
    may_repeat: bool = True  # try it again if it fails

    def beside(self, ending: str) -> Path:
        """Return the path of one of its files."""
        return self.path.with_name(f"{self.path.name}.{ending}")


@dataclass(frozen=True)
class End:
    """The end of a worker: in words, if it was a failure, if a further try would be useless."""

    text: str
    failed: bool = False
    is_over: bool = False
    error: str = ""  # its last words, as Python puts them


class Worker:
    """A running worker, with this CUDA_VISIBLE_DEVICES (None leaves it).

    The configuration, its engine, is added to its job. It is ended by force at the deadline.
    """

    def __init__(
        self,
        share: Share,
        configuration: Mapping[str, Any],
        device: str | None,
        deadline: float | None,
        limits: Limits,
    ) -> None:
        self.share = share
        self.deadline = deadline
        self.limits = limits
        job, self.log = share.beside("job.json"), share.beside("log")
        write_atomically(job, json.dumps({**share.job, **configuration}))
        # The worker finds what this process finds, however it came upon its path.
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        with open(self.log, "ab") as log, tie_children():
            self._place = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "arc_airv.kaggle.worker", str(job), SUPERVISED],
                stdin=subprocess.PIPE,  # closed by whatever ends this process
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # so that all processes of an engine can be ended together
            )
        self.size = store_size(share.path)
        self.lines_before = self._store_lines()
        self.ready = False
        self.refused = False  # the store, for it was made with other settings
        self.done_since: float | None = None
        self.error = self.summary = ""
        self.last_sign = time.monotonic()

    @property
    def progress(self) -> bool:
        """True if it has stored anything, but for half a line."""
        return self._store_lines() > self.lines_before

    def check(self) -> tuple[list[str], End | None]:
        """Return what it said since the last time, and how it ended, if it did."""
        code = self.process.poll()  # first, so that nothing said before the end is missed
        messages = self._listen()
        size = store_size(self.share.path)
        if size != self.size:  # what a log says is no sign: libraries complain of their own hang
            self.size, self.last_sign = size, time.monotonic()
        silent = time.monotonic() - self.last_sign
        if self.done_since is not None:
            # It is given a moment to tidy up after itself.
            late = time.monotonic() - self.done_since > self.limits.grace_seconds
            return messages, End(self.summary) if code is not None or late else None
        if code is not None:
            full = self.ready and NO_ROOM.match(self.error) is not None
            return messages, End(self._cause(code), True, full, self.error)
        if self.deadline is not None and time.time() >= self.deadline:
            return messages, End("did not stop by itself at the deadline", True, is_over=True)
        if not self.ready and silent > self.limits.startup_seconds:
            return messages, End(f"not ready after {silent:.0f} s", failed=True)
        if self.ready and silent > self.limits.hang_seconds:
            return messages, End(f"hangs: no prediction for {silent:.0f} s, or too slow", True)
        return messages, None

    def stop(self) -> None:
        """Ask it to stop, and wait a little."""
        self.process.terminate()
        try:
            self.process.wait(self.limits.grace_seconds)
        except subprocess.TimeoutExpired:
            pass  # `end` is next

    def end(self) -> None:
        """End all its processes by force, the engine's own too, which gives their memory back."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # all gone
        self.process.wait()
        self.process.stdin.close()

    def _listen(self) -> list[str]:
        """Read the new whole lines of the log; return those for the log of the run."""
        messages = []
        with open(self.log, "rb") as log:
            log.seek(self._place)
            content = log.read()
        whole = content.rfind(b"\n") + 1
        self._place += whole
        for line in content[:whole].decode(errors="replace").splitlines():
            _, mark, said = line.partition(MARK)
            if not mark:
                self._read_error(PREFIX.sub("", line))
                continue
            try:
                event, _ = json.JSONDecoder().raw_decode(said)
            except ValueError:  # another process of the engine wrote into the line
                continue
            self.last_sign = time.monotonic()
            if event["event"] == "ready":
                self.ready = True
                messages.append(f"ready after {event['seconds']} s")
            elif event["event"] == "refused":
                self.refused = True
            elif event["event"] == "warning":
                messages.append(f"warning: {event['text']}")
            elif event["event"] == "done":
                self.done_since, self.summary = time.monotonic(), event["text"]
        return messages

    def _read_error(self, line: str) -> None:
        """Keep the last error of the log that is not a pointer to an earlier one."""
        if SEVERAL.search(self.error) and line.startswith("  "):
            if not line.startswith("    "):  # deeper lines say where to read more
                self.error = f"{self.error} {line.strip()}"[:CAUSE_LENGTH]
        elif ERROR.match(line) and not (self.error and POINTER.search(line)):
            self.error = line[:CAUSE_LENGTH]

    def _cause(self, code: int) -> str:
        if code < 0:
            name = signal.Signals(-code).name
            hint = " (out of memory?)" if name == "SIGKILL" else ""
            text = f"was killed by {name}{hint}"
        else:
            text = f"ended with exit status {code}"
        return f"{text}: {self.error}" if self.error else text

    def _store_lines(self) -> int:
        path = self.share.path
        return path.read_bytes().count(b"\n") if path.exists() else 0


def store_size(path: Path) -> int:
    """The bytes of a store; 0 where there is none yet."""
    return path.stat().st_size if path.exists() else 0
