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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar

SCHEMA_VERSION = 1

# What was written is not kept: no space, too large a file, no quota.
DISK_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
FIRST_FIELD = b'{"task_id"'  # what every line of a store begins with

Content = TypeVar("Content")


def open_store(
    path: str | Path, parse: Callable[[Iterator[bytes]], Content]
) -> tuple[BinaryIO, Content]:
    """Open a store for appending, as its only writer, and read what it holds.

    A half-written last line (a run was killed) is dropped, with a warning; a file that is no store
    is left as it is. The lock ends when the file is closed, or with the process.

    Parameters
    ----------
    path : str or Path
        ``<name>.jsonl``; created with its folder if missing.
    parse : callable
        Makes the content of the whole lines; raises ValueError if one is no record.

    Returns
    -------
    file : BinaryIO
    content
        What `parse` gave.

    Raises
    ------
    RuntimeError
        If another process is writing the store.
    ValueError
        If the file is compressed, or no store.
    """
    path = Path(path)
    if path.suffix == ".gz":
        raise ValueError(f"{path}: a compressed store cannot be appended to; decompress it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a+b")
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"{path}: another process is writing this store") from None
        file.seek(0)
        lines = file.readlines()
        whole = list(whole_lines(lines))
        content = parse(iter(whole))
        if len(whole) < len(lines):
            _check_cut(path, whole, lines[-1])
            warnings.warn(f"{path}: dropped a half-written last line", stacklevel=3)
            file.truncate(sum(map(len, whole)))
        elif whole and not whole[-1].endswith(b"\n"):
            file.write(b"\n")
    except BaseException:
        file.close()
        raise
    return file, content


def whole_lines(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a store without a half-written last one.

    A last line may also be whole and lack its end, as other programs write it.
    """
    for line in lines:
        if line.endswith(b"\n") or is_object(line):
            yield line


def is_object(line: bytes) -> bool:
    """Whether a line holds a JSON object, which a part of one does not."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _check_cut(path: Path, whole: list[bytes], rest: bytes) -> None:
    """Whether what is to be dropped is the beginning of a record, if nothing else says so."""
    begins = rest[: len(FIRST_FIELD)] == FIRST_FIELD[: len(rest)]
    if not whole and not begins:
        raise ValueError(f"{path}: is no store, it holds no whole record; nothing was changed")


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
    if not is_empty and not run_path(path).exists():
        warnings.warn(
            f"{path}: its run description {run_path(path).name} is missing, so nothing tells "
            "whether what it holds was made with these settings",
            stacklevel=3,
        )
    elif not is_empty:
        old = read_run(path)
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
    run = read_run(path)
    run["calls"] = [*run.get("calls", []), call]
    write_atomically(run_path(path), json.dumps(run, indent=2, ensure_ascii=False))


def read_run(path: str | Path) -> dict[str, Any]:
    """Read a store's run description.

    Raises
    ------
    ValueError
        If it is no JSON object; the message names the file.
    """
    text = run_path(path).read_bytes()
    if not is_object(text):
        raise ValueError(f"{run_path(path)}: not readable as a JSON object; delete or mend it")
    return json.loads(text)


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
