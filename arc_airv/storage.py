"""Files that survive a kill: appended to under a lock, or rewritten in one piece.

A store is two files: ``<name>.jsonl``, one record a line, append-only, and ``<name>.run.json``
with everything that made the records. Knows nothing of what a record holds.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import warnings
from pathlib import Path
from typing import IO, Any, BinaryIO

SCHEMA_VERSION = 1

# What was written is not kept: no space, too large a file, no quota.
DISK_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


def open_store(path: str | Path) -> BinaryIO:
    """Open the lines of a store for reading and appending, as their only writer.

    A half-written last line (a run was killed) is dropped, with a warning. The lock ends when the
    file is closed, or with the process.

    Parameters
    ----------
    path : str or Path
        ``<name>.jsonl``; created with its folder if missing.

    Raises
    ------
    RuntimeError
        If another process is writing the store.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a+b")
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"{path}: another process is writing this store") from None
        file.seek(0)
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            warnings.warn(f"{path}: dropped a half-written last line", stacklevel=3)
            file.truncate(whole)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def append_lines(file: BinaryIO, lines: list[str]) -> None:
    """Add lines to an open store and wait until they are on disk."""
    # A reply may hold what UTF-8 cannot (a lone surrogate): it becomes a question mark.
    file.write("".join(line + "\n" for line in lines).encode(errors="replace"))
    _sync(file)


def write_run(path: str | Path, run: dict[str, Any], *, is_empty: bool) -> None:
    """Write a store's run description beside it.

    Parameters
    ----------
    path : str or Path
        Of the store.
    run : dict
        JSON values. Its "settings" must be those of the records that are there; its "task_ids"
        are added to those of earlier runs: what the metrics have to average over. The "calls" of
        `add_call` are kept.
    is_empty : bool
        Whether the store holds no record yet: then an older description is replaced.

    Raises
    ------
    ValueError
        If the settings differ; the message names each.
    """
    if run_path(path).exists() and not is_empty:
        old = json.loads(run_path(path).read_text("utf-8"))
        before, now = old.get("settings", {}), json.loads(json.dumps(run.get("settings", {})))
        differing = sorted(k for k in before.keys() | now if before.get(k) != now.get(k))
        if differing:
            raise ValueError(
                f"{path} was made with other settings: "
                + "; ".join(f"{k}: {before.get(k)!r}, now {now.get(k)!r}" for k in differing)
                + ". Use another store, or the same settings."
            )
        if asked := [*old.get("task_ids", []), *run.get("task_ids", [])]:
            run = {**run, "task_ids": list(dict.fromkeys(asked))}
        if "calls" in old:
            run = {**run, "calls": old["calls"]}
    content = {"schema_version": SCHEMA_VERSION, **run}
    write_atomically(run_path(path), json.dumps(content, indent=2, ensure_ascii=False))


def add_call(path: str | Path, call: dict[str, Any]) -> None:
    """Note in a store's run description what one finished call did and cost (JSON values)."""
    run = json.loads(run_path(path).read_text("utf-8"))
    run["calls"] = [*run.get("calls", []), call]
    write_atomically(run_path(path), json.dumps(run, indent=2, ensure_ascii=False))


def run_path(path: str | Path) -> Path:
    """Where a store's run description is: ``predictions.jsonl`` -> ``predictions.run.json``."""
    path = Path(path)
    name = path.name.removesuffix(".gz").removesuffix(".jsonl")
    return path.with_name(name + ".run.json")


def write_atomically(path: str | Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new, never a part."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            _sync(file)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync(file: IO[Any]) -> None:
    """Wait until what was written is on disk.

    A disk that is broken, or a network's that cannot say, is a warning: what was written survives
    the end of this process all the same, and a run that ends here would lose what comes next.
    """
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        warnings.warn(
            f"{file.name}: the disk does not confirm what was written ({error.strerror}); it may "
            "be lost if the machine stops",
            stacklevel=3,
        )
