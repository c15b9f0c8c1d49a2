"""Predictions that other programs wrote, as rows with the fields of a prediction.

Knows the files of arc24, arc-agi-benchmarking, the ARChitects and NVARC, and no store. A pickle is
opened on demand alone, and nothing that it names runs: numbers, texts and arrays are read.
"""

import json
import pickle
import re
import reprlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from arc_airv.augment import IDENTITY_COLORS, SYMMETRIES, Augmentation
from arc_airv.grids import (
    N_COLORS,
    NO_ANSWER,
    as_grid,
    count_attempts,
    format_grid,
    parse_grid,
)
from arc_airv.tasks import read_json

Row = dict[str, Any]
BZIP2, PICKLE = b"BZh", b"\x80"  # what such files begin with
ATTEMPT = re.compile(r"attempt_\d+")
STEP = re.compile(r"(rot90|[a-zA-Z]*)([\d-]*)")  # of the name of a view
NO_MAP = ("out", "run", "copy", "fix", "bz", "pkl", "pickle")  # steps that change nothing


def foreign_files(path: Path) -> list[Path]:
    """Return the file, or those of a folder: the JSON files without ``results.json``, else all."""
    if not path.is_dir():
        return [path]
    files = sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith("."))
    named = [file for file in files if file.suffix == ".json"] or files
    others = sorted(set(files).difference(named))
    if left := [file.name for file in others if _begins_pickle(file)]:
        warnings.warn(
            f"{path}: left out {len(left)} pickles beside JSON files, such as {left[0]}: read each "
            "by its own path",
            stacklevel=3,
        )
    return [file for file in named if len(named) == 1 or file.name != "results.json"]


def _begins_pickle(file: Path) -> bytes:
    """Return what a file begins with if it is a pickle, maybe compressed; else b""."""
    with open(file, "rb") as stream:
        head = stream.read(len(BZIP2))
    return next((mark for mark in (BZIP2, PICKLE) if head.startswith(mark)), b"")


def read_foreign(file: Path, *, allow_pickle: bool) -> list[Row]:
    """Read the rows of a file; a ValueError names it, and the entry that is of no known form."""
    pickled = _begins_pickle(file)
    if pickled and not allow_pickle:
        raise ValueError(
            f"{file}: is a pickle, which can hold any program; allow_pickle=True reads the "
            "numbers, texts and arrays in it, and runs nothing"
        )
    content = _unpickle(file, packed=pickled == BZIP2) if pickled else read_json(file)
    odd = []
    try:
        rows = list((_pickle_rows if pickled else _json_rows)(file, content))
        for row in rows:
            given, row["grid"] = row["grid"], _grid_text(row["grid"])
            if row["grid"] is None and given:  # what is empty is meant to be none
                odd.append(given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from None
    if odd:
        warnings.warn(
            f"{file}: {len(odd)} of {len(rows)} predictions are left without their grid, which is "
            f"none that can be read, such as {reprlib.repr(odd[0])}",
            stacklevel=3,
        )
    return rows


def _each(
    entries: Iterable[tuple[str, Any]], read: Callable[[Any], Iterable[Row]]
) -> Iterator[Row]:
    """Read the rows of entries, each with its place in the file, which an error names."""
    for place, entry in entries:
        try:
            yield from read(entry)
        except KeyError as error:
            raise ValueError(f"{place} lacks {error}") from None
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{place} is of no known form ({error})") from None


# JSON --------------------------------------------------------------------------------------------


def _json_rows(file: Path, content: Any) -> Iterator[Row]:
    if isinstance(content, list) and any(isinstance(e, dict) and "task_id" in e for e in content):
        entries = [(f"entry {number}", entry) for number, entry in enumerate(content, start=1)]
        yield from _each(entries, _read_entry)
        return
    by_task = content if isinstance(content, dict) else {file.stem: content}
    entries, odd = [], []
    for task_id, outputs in by_task.items():
        if not isinstance(outputs, list):
            raise ValueError(f"task {task_id}: must be a list of objects of attempts")
        for i, attempts in enumerate(outputs):
            place = f"task {task_id}: output {i}"
            if not isinstance(attempts, dict):
                raise ValueError(f"{place} must be an object of attempts")
            odd += [f"{name!r} of {place}" for name in attempts if not ATTEMPT.fullmatch(name)]
            named = sorted(filter(ATTEMPT.fullmatch, attempts), key=lambda name: (len(name), name))
            named = {name: attempts[name] for name in named}
            if not any(isinstance(attempt, dict) for attempt in named.values()):
                named = _answers(named)
            entries += [(f"{place}: {name}", (task_id, i, named[name])) for name in named]
    if not entries:
        raise ValueError(f"holds no predictions{', but ' if odd else ''}{', '.join(odd[:3])}")
    if odd:
        warnings.warn(
            f"{file}: left out {len(odd)} entries that are not called attempt_1, attempt_2, ..., "
            f"such as {odd[0]}",
            stacklevel=4,
        )
    yield from _each(entries, _read_attempt)


def _answers(attempts: dict[str, Any]) -> dict[str, Any]:
    """Return the attempts of a submission: None for no answer, and of two that are equal one."""
    texts = map(_grid_text, attempts.values())
    grids = [None if text is None else parse_grid(text).tolist() for text in texts]
    n = count_attempts(grids)
    is_none = [k >= n and grid == NO_ANSWER for k, grid in enumerate(grids)]
    answers = {name: None if none else attempts[name] for name, none in zip(attempts, is_none)}
    if len(grids) == n == 2 and grids[0] == grids[1]:
        answers.popitem()
    return answers


def _read_entry(entry: Any) -> Iterator[Row]:
    """Read an entry of arc24's list, or of one's own."""
    names = ("cumulative_logprob", "n_tokens", "text")
    row = {"text": entry.get("response"), **{k: entry[k] for k in names if k in entry}}
    row["test_index"] = entry["idx"] if "idx" in entry else entry["test_index"]
    view = entry.get("data_augmentation_kwargs")
    if view is not None:
        colors = view.get("color_map") or {}
        colors = "".join(str(colors.get(str(c), c)) for c in range(N_COLORS))
        view = f"flip{view['hflip']:d}.rot{view['n_rot90']}.colors{colors}.order"
    yield {**row, "task_id": entry["task_id"], "augmentation": view, "grid": entry["grid"]}


def _read_attempt(entry: tuple[str, int, Any]) -> Iterator[Row]:
    """Read an attempt of a submission, or of arc-agi-benchmarking."""
    task_id, test_index, attempt = entry
    if not isinstance(attempt, dict):
        attempt = {"answer": attempt}
    about = attempt.get("metadata") or {}
    usage, replies = about.get("usage") or {}, about.get("choices") or []
    yield {
        "task_id": about.get("task_id") or task_id,
        "test_index": about.get("pair_index", test_index),
        "grid": attempt["answer"],
        "text": replies[-1]["message"]["content"] if replies else None,
        "n_tokens": usage.get("completion_tokens"),
        "n_prompt_tokens": usage.get("prompt_tokens"),
    }


def _grid_text(value: Any) -> str | None:
    """Return a grid of another program as text; None if it is none."""
    with suppress(ValueError, RecursionError):
        if isinstance(value, str):
            value = json.loads(value) if value.lstrip().startswith("[") else parse_grid(value)
        return format_grid(as_grid(value))
    return None


# Pickles -----------------------------------------------------------------------------------------


def _pickle_rows(file: Path, contents: list[Any]) -> Iterator[Row]:
    """Read what a decoder of the ARChitects or of NVARC left, or the results of a paper."""
    if len(contents) == 1 and isinstance(contents[0], list):  # of one view, which the name tells
        view, read = _read_key(file.name), _read_sample
        entries = [(f"sample {i}", (view, sample)) for i, sample in enumerate(contents[0])]
    elif contents and isinstance(contents[-1], dict):  # after the keys of the views
        read = _read_candidate
        entries = [
            (f"{task_id}: output {i}: candidate {number}", candidate)
            for task_id, outputs in contents[-1].items()
            for i, candidates in enumerate(outputs)
            for number, candidate in enumerate(candidates)
        ]
    else:
        raise ValueError("holds no predictions of a known form")
    yield from _each(entries, read)


def _read_sample(entry: tuple[Row, Any]) -> Iterator[Row]:
    """Read a sample of NVARC, in the original frame, or of the ARChitects, a reply to the view."""
    view, sample = entry
    if isinstance(sample, dict):
        score = sample["beam_score"]  # a cost: positive
        yield {**view, "grid": sample["solution"], "cumulative_logprob": -score}
        return
    n_tokens, *logprob, text, _ = sample
    grid = None
    with suppress(ValueError):
        rows = [[int(c) for c in line if c in "0123456789"] for line in text.split("\n")]
        augmentation = Augmentation.parse(view["augmentation"])
        grid = format_grid(augmentation.revert_grid(as_grid([row for row in rows if row])))
    yield {
        **view,
        "grid": grid,
        "text": text,
        "n_tokens": n_tokens - 1,  # it counts one more
        "cumulative_logprob": logprob[0] if logprob else None,
    }


def _read_candidate(candidate: Row) -> Iterator[Row]:
    """Read a candidate of the paper: one prediction for each view that gave it."""
    for key, score in candidate["scores_inf"].items():
        yield {**_read_key(key), "grid": candidate["output"], "cumulative_logprob": -score}


def _read_key(key: str) -> Row:
    """Read the name of a view, such as ``0934a4d8_0.transpose.rot90.permute0213456789.ex201``.

    The steps are taken from left to right; their turns and transpositions together are one of the
    eight symmetries. Of a prompt that was cut to fit, the order of the demonstrations is left out.
    """
    name, *steps = key.split(".")
    task_id, _, number = name.rpartition("_")
    if not task_id or not number.isdecimal():
        raise ValueError(f"is not called <task_id>_<number>.<steps of the view>: {key!r}")
    colors, order, n_train = list(IDENTITY_COLORS), (), -1
    turned = probe = np.arange(6, dtype=np.int8).reshape(2, 3)
    for step in steps:
        kind, digits = (STEP.fullmatch(step) or STEP.match("")).groups()
        numbers = [int(n) for n in (digits.split("-") if "-" in digits else digits) if n]
        if kind in ("rot90", "rt") and not digits:
            turned = np.rot90(turned)
        elif kind in ("transpose", "tp") and not digits:
            turned = turned.T
        elif kind in ("permute", "perm") and len(numbers) == N_COLORS:
            colors = [numbers[color] for color in colors]
        elif kind == "ex":
            is_whole = sorted(numbers) == list(range(len(numbers)))
            order = numbers if is_whole else ()
            # Where numbers of two digits were cut, it was digit by digit.
            n_train = len(numbers) if is_whole or "-" not in digits else -1
        elif kind not in NO_MAP:
            raise ValueError(f"the step {step!r} of the view {key!r} is not known")
    views = {s: Augmentation(*s).apply_grid(probe) for s in SYMMETRIES}
    symmetry = next(s for s, view in views.items() if np.array_equal(view, turned))
    view = str(Augmentation(*symmetry, colors, order))
    return {"task_id": task_id, "test_index": int(number), "augmentation": view, "n_train": n_train}


def _unpickle(file: Path, *, packed: bool) -> list[Any]:
    """Return the objects of a file of pickles, one after the other."""
    contents, opener = [], open
    try:
        if packed:
            from bz2 import open as opener  # not every Python has it
        with opener(file, "rb") as stream:
            while stream.peek(1):
                contents.append(_Unpickler(stream).load())
    except Exception as error:  # what is no pickle can be any of many
        text = f"{file}: not readable as a pickle of numbers, texts and arrays ({error})"
        raise ValueError(text) from None
    return contents


class _Unpickler(pickle.Unpickler):
    """Reads what pickles are made of, and numpy's arrays as lists of rows.

    Nothing is imported or called that a pickle names, and none of numpy's own functions, which
    would believe what it says of memory: each name that is known has a stand-in.
    """

    def find_class(self, module: str, name: str) -> Any:
        stand_in = STAND_INS.get((module.replace("_core", "core"), name))
        if stand_in is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return partial(stand_in)  # which the pickle cannot change


class _Type:
    """Stands for ``numpy.dtype``."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        self.code = state[1].replace("|", "") + self.code  # with the order of the bytes


class _Array(list):
    """Stands for ``numpy.ndarray``: becomes a list of its rows."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, content = state
        self[:] = _read_buffer(content, dtype, shape, "F" if is_fortran else "C")


def _read_buffer(content: bytes, dtype: _Type, shape: tuple = (), order: str = "C", *_: Any) -> Any:
    """Return an array of numbers or texts as lists; one of objects is refused."""
    if not isinstance(dtype, _Type) or not re.fullmatch(r"[<>=]?[biufU]\d+", dtype.code):
        raise pickle.UnpicklingError("it holds an array of neither numbers nor texts")
    return np.frombuffer(content, dtype.code).reshape(shape, order=order).tolist()


STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): list,
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("numpy.core.multiarray", "scalar"): lambda dtype, content: _read_buffer(content, dtype),
    ("numpy.core.numeric", "_frombuffer"): _read_buffer,
}
