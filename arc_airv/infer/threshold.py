"""Threshold search over a data set: every reply to every view that is probable enough, stored.

Where `arc_airv.infer.generate` draws a fixed number of replies, this takes all above a probability:
of the few that an ARC model finds likely, none is drawn twice and none is missed. The store is one
of predictions, so that selectors and metrics read it as any other. A grid comes at most once from a
view, so a vote counts views; ``weights="sum_of_probabilities"`` counts how sure they are.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from arc_airv.engines.base import Completion, Sampling
from arc_airv.engines.local import LocalEngine
from arc_airv.engines.threshold import stream_harvests
from arc_airv.infer.generate import RunSummary
from arc_airv.infer.views import Question, Renderer, choose_format, plan_jobs, progress_bar
from arc_airv.prompts.format import PromptFormat
from arc_airv.records import PredictionStore
from arc_airv.storage import add_call
from arc_airv.tasks import Task

# What stands for a view without any reply that is probable enough: an answer that is none.
NOTHING = Completion(text="", n_tokens=0, cumulative_logprob=None, finish_reason="stop")


def harvest_predictions(
    tasks: dict[str, Task],
    engine: LocalEngine,
    *,
    n_views: int,
    min_probability: float,
    seed: int,
    store: str | Path,
    max_live: int = 64,
    deadline: float | None = None,
    prompt_format: PromptFormat | None = None,
    geometric: bool = True,
    colors: bool = True,
    train_order: bool = True,
    drop_demonstrations: bool = False,
    progress: bool = True,
) -> RunSummary:
    """Fill a store with every reply to `n_views` of each test output that is probable enough.

    Parameters
    ----------
    tasks : dict of str to Task
    engine : TransformersEngine or VllmEngine
    n_views : int
        Of each test output; the first of the plan, so more views extend fewer.
    min_probability : float
        In (0, 1]: of the whole reply, under its view.
    seed : int
        Of the plan, see `arc_airv.augment.sample_augmentations`.
    store : str or Path
        ``<name>.jsonl``. If it exists, the run goes on with the views that it lacks.
    max_live : int, default 64
        See `arc_airv.engines.threshold_search`.
    deadline : float, optional
        Moment (``time.time()`` seconds) at which to stop cleanly.
    prompt_format : PromptFormat, optional
        By default the one that the model folder carries; another one is a warning.
    geometric, colors, train_order : bool, default True
        Kinds of augmentation.
    drop_demonstrations : bool, default False
        See `arc_airv.infer.generate_predictions`.
    progress : bool, default True
        Show a progress bar (of views), if tqdm is installed.

    Returns
    -------
    RunSummary
        `n_asked` and `n_stored` count views, `n_new` predictions. A view's replies are its samples,
        the most probable first; a view without any has one prediction that holds no grid.

    Raises
    ------
    ValueError
        If an argument is out of its range, or the store was made with other settings.
    RuntimeError
        If another process is writing the store.
    """
    start = time.monotonic()
    if n_views < 1:
        raise ValueError(f"n_views must be at least 1, got {n_views}")
    prompt_format = choose_format(engine, prompt_format)
    renderer = Renderer(
        engine, prompt_format, Sampling(), seed=seed, drop_demonstrations=drop_demonstrations
    )
    plan = {"seed": seed, "geometric": geometric, "colors": colors, "train_order": train_order}
    search = {"min_probability": min_probability, "max_live": max_live}
    # A plan that has to repeat an augmentation would only find the same replies again.
    jobs = [job for job in plan_jobs(tasks, n_views, 1, **plan) if job.first_sample == 0]
    run = renderer.describe_run(plan, sampling={**renderer.sampling.settings(), **search})
    run["task_ids"] = list(tasks)
    with PredictionStore(store, run) as opened:
        before = len(opened)

        def is_stored(job) -> bool:
            return job.keys(1)[0] in opened.prompt_hashes

        todo = [job for job in jobs if not is_stored(job)]
        sent: list[Question] = []

        def requests() -> Iterator[tuple[str, int]]:
            for job in todo:
                question = renderer.render(job)
                if question.fits:
                    sent.append(question)
                    yield question.prompt, question.sampling.max_tokens
                else:
                    opened.append(question.too_long())

        options = {**search, "stop": renderer.sampling.stop}
        finished = True
        with (
            progress_bar(len(jobs), len(jobs) - len(todo), progress, unit="view") as bar,
            closing(stream_harvests(engine, requests(), **options)) as harvests,
        ):
            for index, harvest in harvests:
                replies = harvest.completions or [NOTHING]
                opened.append(sent[index].predictions(replies, prompt_format))
                bar.update(1)
                if deadline is not None and time.time() >= deadline:
                    finished = False
                    break
        n_stored = sum(map(is_stored, jobs))
        seconds = time.monotonic() - start
        summary = RunSummary(
            n_asked=len(jobs),
            n_stored=n_stored,
            n_new=len(opened) - before,
            seconds=seconds,
            engine_seconds=seconds,
            stopped="done" if finished or n_stored == len(jobs) else "deadline",
        )
        if summary.n_new:
            add_call(store, vars(summary))
        return summary
