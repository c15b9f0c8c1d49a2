"""Re-scoring: how probable each candidate is, asked under several views of its task.

A grid that a model finds probable under many views is more likely right than one that it wrote
once. Every distinct grid of a pool is scored, under the same views for all of them, so that their
scores can be summed and compared.
"""

from __future__ import annotations

import gzip
import itertools
import json
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from arc_airv.augment import Augmentation, sample_augmentations
from arc_airv.engines.base import Engine, Sampling, stream_scores
from arc_airv.grids import parse_grid
from arc_airv.infer.views import Job, Renderer, choose_format, progress_bar
from arc_airv.prompts.format import PromptFormat
from arc_airv.storage import append_lines, open_store, whole_lines, write_run
from arc_airv.tasks import Task, check_output


def rescore(
    candidates: pd.DataFrame,
    tasks: dict[str, Task],
    engine: Engine,
    *,
    n_views: int = 8,
    seed: int = 0,
    store: str | Path | None = None,
    deadline: float | None = None,
    prompt_format: PromptFormat | None = None,
    geometric: bool = True,
    colors: bool = True,
    train_order: bool = True,
    drop_demonstrations: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Score every candidate of every pool under the same views of its task.

    Parameters
    ----------
    candidates : DataFrame
        Columns task_id, test_index and grid: predictions, or candidates as
        `arc_airv.vote.rank_candidates` gives them, such as ``ranked[ranked["rank"] <= 4]``. Rows
        without a grid are left out, and a grid counts once.
    tasks : dict of str to Task
        The tasks of the candidates.
    engine : Engine
        With `score`.
    n_views : int, default 8
        Views of each task: the first of its plan, so more views extend fewer.
    seed : int, default 0
        Of the plan, see `arc_airv.augment.sample_augmentations`.
    store : str or Path, optional
        ``<name>.jsonl``, to keep scores as they are made. If it exists, the work goes on: what it
        holds is not scored again.
    deadline : float, optional
        Moment (``time.time()`` seconds) at which to stop cleanly. Views are asked in the order of
        the plan, each of every output before the next one of any.
    prompt_format : PromptFormat, optional
        By default the one that the model folder carries; another one is a warning.
    geometric, colors, train_order : bool, default True
        Kinds of augmentation.
    drop_demonstrations : bool, default False
        Drop the last demonstrations of a view until it fits, as when replies are generated.
    progress : bool, default True
        Show a progress bar, if tqdm is installed.

    Returns
    -------
    DataFrame
        Columns task_id, test_index, grid, augmentation, score_logprob: the log-probability (nats)
        of the reply that gives this grid, under this view. A view counts for all candidates of an
        output or for none: if the context cannot hold its prompt with the longest of them, all are
        NaN there, and a warning says so; if the deadline came before all were scored, none has a
        row. (A single NaN, with a warning, is an overflow of the model's dtype.)

    Raises
    ------
    ValueError
        If an argument is out of its range, a candidate is of no given task, or the store was made
        with other settings.
    RuntimeError
        If another process is writing the store.
    """
    if n_views < 1:
        raise ValueError(f"n_views must be at least 1, got {n_views}")
    prompt_format = choose_format(engine, prompt_format)
    renderer = Renderer(
        engine, prompt_format, Sampling(), seed=seed, drop_demonstrations=drop_demonstrations
    )
    plan = {"seed": seed, "geometric": geometric, "colors": colors, "train_order": train_order}
    candidates = candidates[["task_id", "test_index", "grid"]].dropna().drop_duplicates()
    views = _plan_views(candidates, tasks, n_views, plan)
    # The demonstrations that a prompt shows depend on it.
    context = getattr(engine, "max_model_len", None) if drop_demonstrations else None
    run = renderer.describe_run(plan, context=context)
    with ScoreStore(store, run) as scores:
        _score_views(views, engine, renderer, scores, deadline, progress)
        return _to_frame(views, scores.known)


@dataclass(frozen=True)
class _View:
    """One view of an output, and the candidates to score under it."""

    job: Job
    grids: tuple[str, ...]

    def keys(self) -> list[ScoreKey]:
        job = self.job
        return [(job.task.task_id, job.test_index, g, job.augmentation) for g in self.grids]


def _plan_views(
    candidates: pd.DataFrame, tasks: dict[str, Task], n_views: int, plan: dict[str, Any]
) -> list[_View]:
    """The views of all outputs, in the order in which they are asked."""
    pools = dict(list(candidates.groupby(["task_id", "test_index"])["grid"]))
    for task_id, test_index in pools:
        check_output(tasks, task_id, test_index)
    views = []
    for task in tasks.values():
        # Of few kinds there may be fewer: a view that comes again would only count twice.
        keys = dict.fromkeys(map(str, sample_augmentations(task, n_views, **plan)))
        for number, augmentation in enumerate(keys):
            for i in range(len(task.test)):
                if (task.task_id, i) in pools:
                    grids = tuple(pools[task.task_id, i])
                    views.append(_View(Job(task, i, number, augmentation, 0), grids))
    return sorted(views, key=lambda view: view.job.view)


def _score_views(
    views: list[_View],
    engine: Engine,
    renderer: Renderer,
    scores: ScoreStore,
    deadline: float | None,
    progress: bool,
) -> None:
    """Score what is missing, until the deadline."""
    todo = [view for view in views if any(key not in scores.known for key in view.keys())]
    asked: dict[int, list[ScoreKey]] = {}
    too_long: list[_View] = []

    def requests() -> Iterator[tuple[str, list[str]]]:
        number = itertools.count()
        for view in todo:
            question = renderer.render(view.job)
            answers = _answers(view, renderer.format)
            longest = max(engine.count_tokens(answers))
            if question.n_tokens + longest >= renderer.context:
                too_long.append(view)
                continue
            new = {k: a for k, a in zip(view.keys(), answers) if k not in scores.known}
            asked[next(number)] = list(new)
            yield question.prompt, list(new.values())

    with (
        progress_bar(len(views), len(views) - len(todo), progress, unit="view") as bar,
        closing(stream_scores(engine, requests())) as stream,
    ):
        while deadline is None or time.time() < deadline:
            if (finished := next(stream, None)) is None:
                break
            for index, values in finished:
                scores.append(dict(zip(asked.pop(index), values)))
            bar.update(len(finished))
    if too_long:
        for view in too_long:
            scores.known |= dict.fromkeys(view.keys(), np.nan)
        warnings.warn(
            f"{len(too_long)} of {len(views)} views do not fit the model's context with their "
            "longest candidate: the scores of all their candidates are NaN",
            stacklevel=3,
        )


def _answers(view: _View, prompt_format: PromptFormat) -> list[str]:
    """The replies that would give the candidates of a view."""
    augmentation = Augmentation.parse(view.job.augmentation)
    return [
        prompt_format.render_answer(augmentation.apply_grid(parse_grid(grid)))
        for grid in view.grids
    ]


def _to_frame(views: list[_View], known: dict[ScoreKey, float]) -> pd.DataFrame:
    """The views that are scored as a whole, pool by pool."""
    pools: dict[tuple[str, int], list[_View]] = {}
    for view in views:
        if all(key in known for key in view.keys()):
            pools.setdefault((view.job.task.task_id, view.job.test_index), []).append(view)
    rows = [
        (*key, known[key])
        for pool in pools.values()
        for keys in zip(*(view.keys() for view in pool))  # candidate by candidate
        for key in keys
    ]
    return to_scores(rows)


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
        self._file, self.known = open_store(path, lambda lines: _parse(lines, Path(path)))
        try:
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
        The columns of `arc_airv.infer.rescore`.
    """
    path = Path(path)
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        known = _parse(whole_lines(file), path)
    return to_scores((*key, score) for key, score in known.items())


def to_scores(rows: Iterable[tuple[str, int, str, str, float]]) -> pd.DataFrame:
    """A table of scores from its rows."""
    frame = pd.DataFrame(list(rows), columns=COLUMNS)
    return frame.astype({"test_index": "int64", "score_logprob": "float64"})


def _format(key: ScoreKey, score: float) -> str:
    return json.dumps(dict(zip(COLUMNS, (*key, None if np.isnan(score) else score))))


def _parse(lines: Iterable[bytes], path: Path) -> dict[ScoreKey, float]:
    known = {}
    for number, line in enumerate(lines, start=1):
        try:
            *key, score = (json.loads(line)[name] for name in COLUMNS)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: line {number} is not a score ({error!r})") from None
        known[tuple(key)] = np.nan if score is None else score
    return known
