"""Generation: ask an engine for N predictions of every test output, and store them.

The jobs come from the plan of augmentations, so a run is the same whenever it is started again:
what the store holds is skipped, what is missing is asked.
"""

import itertools
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from numbers import Integral
from pathlib import Path
from typing import Any

from arc_airv.augment import Plan
from arc_airv.engines.adapters import warn_of_other_tasks
from arc_airv.engines.base import Completion, Engine, Sampling, as_engine
from arc_airv.infer.ask import Prepared, RunSummary, fill_store
from arc_airv.infer.views import Job, Question, Renderer, plan_jobs
from arc_airv.prompts.format import PromptFormat
from arc_airv.records import OK, Prediction, RecordStore
from arc_airv.tasks import Task

BATCHING = ("prompt", "task", "all")
ROUND = 8  # views of every output that come before the next ones of any: one of each symmetry
FIRST_FEW = 8  # prompts that tell how fast the engine is
PART_OF_TIME = 0.2  # that a group may take of what is left, less than is taken for a hang
CALL_SECONDS = 1.0  # of an engine that streams nothing, where there is a deadline to keep


def generate_predictions(
    tasks: dict[str, Task],
    engine: Engine,
    *,
    n_predictions: int,
    seed: int,
    store: str | Path,
    batching: str = "all",
    deadline: float | None = None,
    sampling: Sampling | None = None,
    prompt_format: PromptFormat | dict[str, Any] | None = None,
    adapters: Mapping[str, str | Path] | None = None,
    drop_demonstrations: bool = False,
    progress: bool = True,
    **kinds: bool,
) -> RunSummary:
    """Fill a store with `n_predictions` of every test output of every task.

    Parameters
    ----------
    tasks : dict of str to Task
    engine : Engine
    n_predictions : int
        For each test output; a positive multiple of ``sampling.n``.
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
        view before any gets its second, and eight before any gets its ninth; outputs without one
        valid grid go first from then on (but for the batching "task"). Where the engine is too
        slow for all first views, the short prompts are answered.
    sampling : Sampling, optional
        Greedy by default; with a `beam_width`, the `n` best replies of a beam search are the
        samples of a view, best first. Without `max_tokens`, a reply may take what an output of the
        task can need, and the format's `thinking_tokens` before it.
    prompt_format : PromptFormat or dict, optional
        By default the one that the model folder carries; another one is a warning. A dict is one as
        JSON values, like the content of ``prompt_format.json``.
    adapters : mapping of str to path, optional
        The LoRA adapter that answers each task, by its id, as `arc_airv.training.finetune_per_task`
        gives them: one for every task.
    drop_demonstrations : bool, default False
        Drop the last demonstrations of a view, one at a time, until its prompt fits; at least
        one stays. Otherwise, or if that is not enough, its predictions are "prompt_too_long".
    progress : bool, default True
        Show a progress bar, if tqdm is installed.
    **kinds
        geometric, colors, train_order: see `arc_airv.augment.Plan`.

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
    engine, sampling, plan = as_engine(engine), sampling or Sampling(), Plan(seed, **kinds)
    if batching not in BATCHING:
        raise ValueError(f"batching must be one of {BATCHING}, got {batching!r}")
    is_number = isinstance(n_predictions, Integral) and not isinstance(n_predictions, bool)
    if not is_number or n_predictions < 1 or n_predictions % sampling.n:
        raise ValueError(
            f"n_predictions must be a positive multiple of sampling.n = {sampling.n}, "
            f"got {n_predictions!r}"
        )
    if adapters is not None:
        if missing := sorted(tasks.keys() - adapters.keys()):
            raise ValueError(
                f"adapters must hold one for every task, there is none for {missing[:5]}"
            )
        adapters = {task_id: adapters[task_id] for task_id in tasks}
        warn_of_other_tasks(tasks, adapters)
    renderer = Renderer(
        engine,
        prompt_format,
        plan,
        sampling,
        drop_demonstrations=drop_demonstrations,
        adapters=adapters,
    )
    jobs = plan_jobs(tasks, n_predictions // sampling.n, sampling.n, plan)
    run = {
        **renderer.describe_run(sampling=sampling.settings()),
        "n_predictions": int(n_predictions),
        "task_ids": list(tasks),
        "batching": batching,
        "python": platform.python_version(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }

    def prepare(job: Job) -> Prepared:
        question = renderer.render(job)
        if not question.fits:
            return None, lambda _: question.unsent()

        def receive(completions: list[Completion]) -> list[Prediction]:
            _check_replies(question, completions)
            return question.predictions(completions, renderer.format)

        return (question.prompt, question.sampling), receive

    def arrange(todo: list[Job], store: RecordStore) -> Iterable[Iterable[Job]]:
        length = _measure(jobs, renderer)
        if batching == "task":  # all its outputs together
            return _by_task(todo, length)
        rounds = _by_rounds(todo, length, store)
        if batching == "prompt":
            return ([job] for jobs in rounds for job in jobs)
        together = [itertools.chain.from_iterable(rounds)]
        if deadline is None:
            return together
        # Before a deadline the first two rounds go alone, so that what they gave is known. (An
        # engine without a window puts what it gets into an order of its own.)
        paced = (
            group
            for jobs in itertools.islice(rounds, 1)
            for group in _paced(jobs, length, deadline)
        )
        alone = itertools.islice(rounds, None if engine.window is None else 1)
        return itertools.chain(paced, alone, together)

    return fill_store(
        store,
        run,
        jobs,
        renderer,
        lambda requests: engine.stream(
            requests, seconds=None if deadline is None else CALL_SECONDS
        ),
        prepare,
        n=sampling.n,
        unit="prediction",
        arrange=arrange,
        deadline=deadline,
        progress=progress,
    )


def _check_replies(question: Question, completions: list[Completion]) -> None:
    """A beam search may find fewer replies than asked for, and nothing may give more."""
    n, given = question.sampling.n, len(completions)
    if given != n and not (question.sampling.beam_width and 0 < given < n):
        raise RuntimeError(f"asked for {n} replies to a prompt, the engine gave {given}")


def _measure(jobs: list[Job], renderer: Renderer) -> Callable[[Job], tuple[int, str, int]]:
    """Make a sorting key of jobs, the longest first; a view is as long as an output's first one."""
    lengths: dict[tuple[str, int], int] = {}
    for job in jobs:
        if job.view == 0:
            question = renderer.render(job)
            lengths[job.output] = question.n_tokens + question.sampling.max_tokens
    return lambda job: (-lengths[job.output], *job.output)


def _paced(
    jobs: list[Job], length: Callable[[Job], tuple[int, str, int]], deadline: float
) -> Iterator[list[Job]]:
    """Jobs in groups, the shortest first, of as many as a part of the time left is enough for.

    What the group before took tells how fast the engine is, and a few tell of the first. A fast
    one gets all the others as its second group, the longest first.
    """
    waiting = sorted(jobs, key=length, reverse=True)
    n = FIRST_FEW
    while waiting:
        group, waiting = waiting[:n], waiting[n:]
        start = time.time()
        yield group[::-1]
        now, tokens = time.time(), sum(-length(job)[0] for job in group)
        room = PART_OF_TIME * (deadline - now) * tokens / max(now - start, 1e-3)
        sizes = itertools.accumulate(-length(job)[0] for job in waiting)
        n = max(1, sum(size <= room for size in sizes))


def _by_task(todo: list[Job], length: Callable[[Job], Any]) -> Iterator[list[Job]]:
    tasks: dict[str, list[Job]] = {}
    for job in sorted(todo, key=lambda job: (length(job), job.view)):
        tasks.setdefault(job.task.task_id, []).append(job)
    return iter(tasks.values())


def _by_rounds(
    todo: list[Job], length: Callable[[Job], Any], store: RecordStore
) -> Iterator[list[Job]]:
    """Jobs by rounds of views: outputs without a valid grid first, then the longest.

    The first round is one view of every output, the second the rest of the first eight. Long jobs
    go first so that none is left to run alone at the end. A round is put in order when its turn
    comes, by what the store holds then.
    """

    def number(job: Job) -> int:
        return (job.view > 0) + job.view // ROUND

    rounds = itertools.groupby(sorted(todo, key=number), number)
    for _, jobs in rounds:
        answered = {key[:2] for key, (_, status, _) in store.known.items() if status == OK}
        yield sorted(jobs, key=lambda job: (job.output in answered, *length(job), job.view))
