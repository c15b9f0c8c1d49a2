"""Records: predictions on disk, one JSON object a line, append-only, safe against a kill.

A store of predictions (`arc_airv.storage`) holds no solution, so the same file serves a hidden
test. Knows nothing of engines or votes.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, asdict, dataclass, fields
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd

from arc_airv.storage import append_lines, open_store, whole_lines, write_run


@dataclass(frozen=True)
class Prediction:
    """One reply, parsed and reverted to the original frame, with its provenance.

    Attributes
    ----------
    task_id : str
    test_index : int
        Which test pair of the task.
    augmentation : str
        Key of the augmentation, see `arc_airv.augment.Augmentation.parse`.
    sample_index : int
        Among the replies to one view.
    grid : str or None
        In the original frame, "012|345"; None unless the status is "ok".
    status : str
        "ok", "unparsed", "ragged", "too_large", "truncated" or "prompt_too_long".
    text : str or None
        The raw reply, in the frame of the view; None where the prompt was not sent or was given
        up.
    cumulative_logprob : float or None
        Natural logarithm of the reply's probability (nats).
    n_tokens, n_prompt_tokens : int
        Of the reply and of the prompt.
    finish_reason : str or None
        "stop" or "length"; "error" where the prompt was given up, for it ended every process that
        was to answer it (its status is "unparsed").
    prompt_hash : str
        16 hexadecimal digits; tells whether a resumed run asks the same questions.
    n_train : int
        How many demonstrations the prompt showed (fewer than the task has if some were dropped
        to fit); -1 where the store does not tell.
    """

    task_id: str
    test_index: int
    augmentation: str
    sample_index: int
    grid: str | None
    status: str
    text: str | None
    cumulative_logprob: float | None
    n_tokens: int
    n_prompt_tokens: int
    finish_reason: str | None
    prompt_hash: str
    n_train: int = -1

    @property
    def key(self) -> Key:
        """What identifies it in a store."""
        return self.task_id, self.test_index, self.augmentation, self.sample_index


Key = tuple[str, int, str, int]
KEY = ["task_id", "test_index", "augmentation", "sample_index"]
COLUMNS = [field.name for field in fields(Prediction)]
OPTIONAL = {f.name: f.default for f in fields(Prediction) if f.default is not MISSING}
FIELDS = frozenset(COLUMNS) - OPTIONAL.keys()  # what a record must have
TYPES = {  # of the values in a file, by the annotation of the field
    "str": {str},
    "int": {int},
    "str | None": {str, type(None)},
    "float | None": {float, int, type(None)},
}
BLOCK = 1000  # lines that are parsed together


class PredictionStore:
    """The file that predictions are appended to. Use as a context manager.

    Opening it drops a half-written last line (a run was killed), reads what is there, and locks
    the file: a second writer is refused. The lock ends with the process.

    Parameters
    ----------
    path : str or Path
        ``<name>.jsonl``; created with its folder if missing.
    run : dict, optional
        What makes the predictions (JSON values): written to ``<name>.run.json``. Its "settings"
        must equal those of the predictions that are there already.

    Raises
    ------
    RuntimeError
        If another process is writing the store.
    ValueError
        If a line is broken (other than a half-written last one), or the settings differ.

    Attributes
    ----------
    prompt_hashes : dict of (task_id, test_index, augmentation, sample_index) to str
        The keys that the store holds.
    """

    def __init__(self, path: str | Path, run: dict[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.prompt_hashes: dict[Key, str]
        self._file, self.prompt_hashes = open_store(self.path, self._parse)
        try:
            if run is not None:
                write_run(self.path, run, is_empty=not self.prompt_hashes)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> PredictionStore:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.prompt_hashes)

    def _parse(self, lines: Iterable[bytes]) -> dict[Key, str]:
        key, prompt_hash = itemgetter(*KEY), itemgetter("prompt_hash")
        records = chain.from_iterable(_parse_lines(lines, self.path))
        return {key(r): prompt_hash(r) for r in records}

    def append(self, predictions: Iterable[Prediction]) -> None:
        """Write predictions and wait until they are on disk.

        Raises
        ------
        ValueError
            If a prediction's key is in the store already; nothing is written then.
        """
        lines, added = [], {}
        for p in predictions:
            if p.key in self.prompt_hashes or p.key in added:
                raise ValueError(f"{self.path}: holds a prediction {p.key} already")
            added[p.key] = p.prompt_hash
            lines.append(json.dumps(asdict(p), ensure_ascii=False, allow_nan=False))
        if lines:
            append_lines(self._file, lines)
            self.prompt_hashes.update(added)

    def close(self) -> None:
        """Close the file and give up the lock."""
        self._file.close()


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Read a store as a table, one row a prediction.

    Parameters
    ----------
    path : str or Path
        ``<name>.jsonl`` or ``<name>.jsonl.gz``. May be a store that is being written: a
        half-written last line is left out.

    Returns
    -------
    DataFrame
        The columns of `Prediction`. Ids are strings, also those that look like numbers.

    Raises
    ------
    ValueError
        If a line is broken; the message names it.
    """
    path = Path(path)
    opener = gzip.open if path.suffix == ".gz" else open
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    try:
        with opener(path, "rb") as file:
            for records in _parse_lines(whole_lines(file), path):
                for name in FIELDS:
                    columns[name] += [record[name] for record in records]
                for name, default in OPTIONAL.items():
                    columns[name] += [record.get(name, default) for record in records]
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error})") from None
    _check_types(columns, path)
    return _typed(pd.DataFrame(columns))


def _check_types(columns: dict[str, list[Any]], path: Path) -> None:
    for field in fields(Prediction):
        values, allowed = columns[field.name], TYPES[field.type]
        if not set(map(type, values)) <= allowed:
            row = next(i for i, value in enumerate(values) if type(value) not in allowed)
            raise ValueError(
                f"{path}: line {row + 1}: {field.name} must be {field.type}, got {values[row]!r}"
            )


def to_frame(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """A table of predictions from dictionaries with the fields of `Prediction`."""
    return _typed(pd.DataFrame([{**OPTIONAL, **r} for r in records], columns=COLUMNS))


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    # None among floats gives NaN, but a column of None alone would stay objects, as an empty one.
    integers = [field.name for field in fields(Prediction) if field.type == "int"]
    return frame.astype({"cumulative_logprob": "float64", **dict.fromkeys(integers, "int64")})


def _parse_lines(lines: Iterable[bytes], path: Path) -> Iterator[list[dict[str, Any]]]:
    """The records of the lines, block by block: one JSON array parses faster than many objects."""
    lines, first = iter(lines), 1
    while block := list(islice(lines, BLOCK)):
        try:
            records = json.loads(b"[" + b",".join(block) + b"]")
        except ValueError:
            records = []
        if len(records) != len(block) or not all(map(_is_whole, records)):
            records = [_parse_line(line, i, path) for i, line in enumerate(block, start=first)]
        yield records
        first += len(block)


def _is_whole(record: Any) -> bool:
    return isinstance(record, dict) and record.keys() >= FIELDS


def _parse_line(line: bytes, number: int, path: Path) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{path}: line {number} is not a prediction ({error})") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path}: line {number} is not a prediction (no JSON object)")
    if missing := [name for name in COLUMNS if name in FIELDS - record.keys()]:
        raise ValueError(f"{path}: line {number} lacks {missing}")
    return record
