"""Scores on disk: one JSON object a line, append-only, safe against a kill.

As `arc_airv.records` keeps predictions. Knows nothing of engines.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from arc_airv.storage import append_lines, open_store, write_run

COLUMNS = ["task_id", "test_index", "grid", "augmentation", "score_logprob"]

ScoreKey = tuple[str, int, str, str]  # task_id, test_index, grid, augmentation


class ScoreStore:
    """The scores that are known: in memory, and in a file if there is one. A context manager.

    Parameters
    ----------
    path : str or Path, optional
        ``<name>.jsonl``; created with its folder if missing. What it holds is known.
    run : dict
        What makes the scores (JSON values): written to ``<name>.run.json``. Its "settings" must
        equal those of the scores that are there already.

    Attributes
    ----------
    known : dict of (task_id, test_index, grid, augmentation) to float
        NaN where the model overflowed.

    Raises
    ------
    RuntimeError
        If another process is writing the store.
    ValueError
        If a line is broken (other than a half-written last one), or the settings differ.
    """

    def __init__(self, path: str | Path | None, run: dict[str, Any]) -> None:
        self.known: dict[ScoreKey, float] = {}
        self._file = None
        if path is None:
            return
        self._file = open_store(path)
        try:
            self.known = _parse(self._file.read(), Path(path))
            write_run(path, run, is_empty=not self.known)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> ScoreStore:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, scores: dict[ScoreKey, float]) -> None:
        """Add scores; with a file, wait until they are on disk."""
        self.known |= scores
        if self._file is not None:
            append_lines(self._file, [_format(key, score) for key, score in scores.items()])


def read_scores(path: str | Path) -> pd.DataFrame:
    """Read a store of scores as a table: all that it holds, of whatever call.

    Parameters
    ----------
    path : str or Path
        ``<name>.jsonl`` or ``<name>.jsonl.gz``. It may be one that is being written.

    Returns
    -------
    DataFrame
        The columns of `arc_airv.rescore.rescore`.
    """
    path = Path(path)
    content = path.read_bytes()
    known = _parse(gzip.decompress(content) if path.suffix == ".gz" else content, path)
    return to_scores((*key, score) for key, score in known.items())


def to_scores(rows: Iterable[tuple[str, int, str, str, float]]) -> pd.DataFrame:
    """A table of scores from its rows."""
    frame = pd.DataFrame(list(rows), columns=COLUMNS)
    return frame.astype({"test_index": "int64", "score_logprob": "float64"})


def _format(key: ScoreKey, score: float) -> str:
    return json.dumps(dict(zip(COLUMNS, (*key, None if np.isnan(score) else score))))


def _parse(content: bytes, path: Path) -> dict[ScoreKey, float]:
    known = {}
    whole = content[: content.rfind(b"\n") + 1]
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            *key, score = (json.loads(line)[name] for name in COLUMNS)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: line {number} is not a score ({error!r})") from None
        known[tuple(key)] = np.nan if score is None else score
    return known
