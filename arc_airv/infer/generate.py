"""Inference: ask an engine for N predictions of every test output, and store them.

The jobs come from the plan of augmentations, so a run is the same whenever it is started again:
what the store holds is skipped, what is missing is asked. Prompts are rendered as the engine takes
them and predictions are on disk about a second after they finish, however many there are.
"""

from __future__ import annotations

import itertools
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from arc_airv.engines.base import Engine, Request, Sampling, stream_replies
from arc_airv.infer.views import (
    Job,
    Question,
    Renderer,
    choose_format,
    count_views,
    plan_jobs,
    progress_bar,
)
from arc_airv.prompts.format import PromptFormat
from arc_airv.records import Prediction, PredictionStore
from arc_airv.storage import add_call
from arc_airv.tasks import Task

BATCHING = ("prompt", "task", "all")
ROUND = 8  # views of every output that come before the next ones of any: one of each symmetry
CALL_SECONDS = 1.0  # of an engine that streams nothing, where there is a deadline to keep
FLUSH_SECONDS = 1.0  # longest time that finished predictions wait in memory


@dataclass(frozen=True)
class RunSummary:
    """What `generate_predictions` did.

    Attributes
    ----------
    n_asked : int
        Predictions that the store should hold.
    n_stored : int
        Predictions of these that it holds now.
    n_new : int
        Predictions made by this call.
    seconds : float
        Wall-clock time of this call.
    engine_seconds : float
        The part of it spent waiting for the engine.
    stopped : {"done", "deadline"}
    """

    n_asked: int
    n_stored: int
    n_new: int
    seconds: float
    engine_seconds: float
    stopped: str


def generate_predictions(
    tasks: dict[str, Task],
    engine: Engine,
    *,
    n_predictions: int | Mapping[tuple[str, int], int],
    seed: int,
    store: str | Path,
    batching: str = "all",
    deadline: float | None = None,
    sampling: Sampling | None = None,
    prompt_format: PromptFormat | None = None,
    adapters: Mapping[str, str | Path] | None = None,
    geometric: bool = True,
    colors: bool = True,
    train_order: bool = True,
    drop_demonstrations: bool = False,
    progress: bool = True,
) -> RunSummary:
    """Fill a store with `n_predictions` of every test output of every task.

    Parameters
    ----------
    tasks : dict of str to Task
    engine : Engine
    n_predictions : int or mapping of (task_id, test_index) to int
        For each test output; a positive multiple of ``sampling.n``. With a mapping, an output
        that it does not name is not asked.
    seed : int
        Of the augmentations, and of the sampling where the temperature is above 0.
    store : str or Path
        ``<name>.jsonl``. If it exists, the run goes on: nothing is repeated, and a larger
        `n_predictions` or more tasks extend it.
    batching : {"all", "task", "prompt"}, default "all"
        What the engine gets at once: everything, the prompts of one task, or one prompt (the
        baseline to measure against).
    deadline : float, optional
        Moment (``time.time()`` seconds) at which to stop cleanly. Every output gets its first
        eight views before any gets its ninth (but for the batching "task").
    sampling : Sampling, optional
        Greedy by default; with a `beam_width`, the `n` best replies of a beam search are the
        samples of a view, best first. Its `max_tokens` is set for each prompt: a reply may take
        what an output of the task can need.
    prompt_format : PromptFormat, optional
        By default the one that the model folder carries; another one is a warning.
    adapters : mapping of str to path, optional
        The LoRA adapter that answers each task, by its id, as `arc_airv.training.finetune_per_task`
        gives them: one for every task.
    geometric, colors, train_order : bool, default True
        Kinds of augmentation, see `arc_airv.augment.sample_augmentations`.
    drop_demonstrations : bool, default False
        Drop the last demonstrations of a view, one at a time, until its prompt fits; at least
        one stays. Otherwise, or if that is not enough, its predictions are "prompt_too_long".
    progress : bool, default True
        Show a progress bar, if tqdm is installed.

    Returns
    -------
    RunSummary

    Raises
    ------
    ValueError
        If an argument is out of its range, or the store was made with other settings.
    RuntimeError
        If another process is writing the store, or the engine leaves prompts or samples unanswered.
    """
    start = time.monotonic()
    sampling = sampling or Sampling()
    if batching not in BATCHING:
        raise ValueError(f"batching must be one of {BATCHING}, got {batching!r}")
    n_views = count_views(n_predictions, tasks, sampling.n)
    if adapters is not None and (missing := sorted(tasks.keys() - adapters.keys())):
        raise ValueError(f"adapters must hold one for every task, there is none for {missing[:5]}")
    prompt_format = choose_format(engine, prompt_format)
    renderer = Renderer(
        engine,
        prompt_format,
        sampling,
        seed=seed,
        drop_demonstrations=drop_demonstrations,
        adapters=adapters,
    )
    plan = {"seed": seed, "geometric": geometric, "colors": colors, "train_order": train_order}
    jobs = plan_jobs(tasks, n_views, sampling.n, **plan)
    run = {
        **renderer.describe_run(plan, sampling=sampling.settings()),
        "n_predictions": max(n_views.values(), default=0) * sampling.n,
        "task_ids": list(tasks),
        "batching": batching,
        "python": platform.python_version(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if adapters is not None:
        run["settings"]["adapters"] = sorted({Path(path).parent.name for path in adapters.values()})
    with PredictionStore(store, run) as opened:
        stored = opened.prompt_hashes
        todo = [job for job in jobs if any(key not in stored for key in job.keys(sampling.n))]
        todo = _longest_first(todo, _lengths(jobs, renderer, stored), batching)
        before = len(stored)
        n_asked = len(jobs) * sampling.n
        with progress_bar(n_asked, n_asked - len(todo) * sampling.n, progress) as bar:
            loop = _Loop(engine, renderer, opened, bar, deadline)
            finished = all(map(loop.run, _groups(todo, batching)))
        n_stored = sum(key in stored for job in jobs for key in job.keys(sampling.n))
        summary = RunSummary(
            n_asked=n_asked,
            n_stored=n_stored,
            n_new=len(stored) - before,
            seconds=time.monotonic() - start,
            engine_seconds=loop.engine_seconds,
            stopped="done" if finished or n_stored == n_asked else "deadline",
        )
        if summary.n_new:  # what it cost, beside what it made
            add_call(store, asdict(summary))
        return summary


class _Loop:
    """Sends groups of jobs to the engine and stores what comes back, until the deadline."""

    def __init__(
        self,
        engine: Engine,
        renderer: Renderer,
        store: PredictionStore,
        bar: Any,
        deadline: float | None,
    ) -> None:
        self.engine = engine
        self.renderer = renderer
        self.store = store
        self.bar = bar
        self.deadline = deadline
        self.engine_seconds = 0.0
        self.finished: list[Prediction] = []
        self.last_flush = time.monotonic()

    def run(self, jobs: list[Job]) -> bool:
        """Answer one group of jobs; False if the deadline came first."""
        sent: dict[int, Question] = {}  # asked and not yet answered
        rendering = 0.0

        def requests() -> Iterator[Request]:
            nonlocal rendering
            number = itertools.count()
            for job in jobs:
                start = time.monotonic()
                question = self.renderer.render(job)
                rendering += time.monotonic() - start
                if question.fits:
                    sent[next(number)] = question
                    yield question.prompt, question.sampling
                else:
                    self.finished += question.too_long()

        start = time.monotonic()
        try:
            if self._late():
                return False
            seconds = None if self.deadline is None else CALL_SECONDS
            with closing(stream_replies(self.engine, requests(), seconds=seconds)) as stream:
                for replies in stream:
                    # The engine's time: since it was asked, less what rendering took of it.
                    self.engine_seconds += time.monotonic() - start - rendering
                    for index, completions in replies:
                        question = sent.pop(index)
                        _check_replies(question, completions)
                        self.finished += question.predictions(completions, self.renderer.format)
                    if time.monotonic() - self.last_flush >= FLUSH_SECONDS:
                        self._flush()
                    if self._late():
                        return False
                    start, rendering = time.monotonic(), 0.0
            if sent:
                raise RuntimeError(f"the engine left {len(sent)} prompts unanswered")
            return True
        finally:
            self._flush()

    def _flush(self) -> None:
        # A view of several samples may have been stored in part before a kill.
        new = [p for p in self.finished if p.key not in self.store.prompt_hashes]
        self.store.append(new)
        self.bar.update(len(new))
        self.finished = []
        self.last_flush = time.monotonic()

    def _late(self) -> bool:
        return self.deadline is not None and time.time() >= self.deadline


def _check_replies(question: Question, completions: list[Any]) -> None:
    """A beam search may find fewer replies than asked for, and nothing may give more."""
    n, given = question.sampling.n, len(completions)
    if given != n and not (question.sampling.beam_width and 0 < given < n):
        raise RuntimeError(f"asked for {n} replies to a prompt, the engine gave {given}")


def _lengths(
    jobs: list[Job], renderer: Renderer, stored: dict[Any, str]
) -> dict[tuple[str, int], int]:
    """Tokens of prompt and reply of each output's first view, which the others are close to.

    Raises
    ------
    ValueError
        If the store's answer to that view was to another prompt.
    """
    lengths = {}
    for job in jobs:
        if job.view == 0:
            question = renderer.render(job)
            key = job.keys(1)[0]
            if stored.get(key, question.prompt_hash) != question.prompt_hash:
                raise ValueError(
                    f"the store answers another prompt for {key}: the task, the tokenizer or the "
                    "model's context changed since. Use another store."
                )
            lengths[key[:2]] = question.n_tokens + question.sampling.max_tokens
    return lengths


def _longest_first(
    jobs: list[Job], lengths: dict[tuple[str, int], int], batching: str
) -> list[Job]:
    """Long jobs first, so that none is left to run alone at the end; by rounds of views."""
    longest: dict[str, int] = {}
    for (task_id, _), length in lengths.items():
        longest[task_id] = max(length, longest.get(task_id, 0))

    def order(job: Job) -> tuple:
        task_id, length = job.task.task_id, lengths[job.task.task_id, job.test_index]
        if batching == "task":  # all its outputs together
            return -longest[task_id], task_id, -length, job.test_index, job.view
        return job.view // ROUND, -length, task_id, job.test_index, job.view

    return sorted(jobs, key=order)


def _groups(jobs: list[Job], batching: str) -> Iterable[list[Job]]:
    if batching == "prompt":
        return ([job] for job in jobs)
    if batching == "task":
        return (
            list(group) for _, group in itertools.groupby(jobs, key=lambda job: job.task.task_id)
        )
    return [jobs]
