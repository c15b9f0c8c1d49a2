"""Threshold search over a data set: every reply to every view that is probable enough, stored.

Where generation draws a fixed number of replies, this takes all above a probability: of the few
that an ARC model finds likely, none is drawn twice and none is missed. The store is one of
predictions, so that selectors and metrics read it as any other. A grid comes at most once from a
view, so a vote counts views; the method "sum_of_probabilities" counts how sure they are.
"""

import warnings
from pathlib import Path

from arc_airv.augment import Plan
from arc_airv.engines.base import Engine, Sampling
from arc_airv.engines.threshold import SearchResult, stream_threshold_search
from arc_airv.infer.ask import Prepared, RunSummary, fill_store
from arc_airv.infer.views import Job, Renderer, plan_jobs
from arc_airv.prompts.format import PromptFormat
from arc_airv.records import NO_REPLY, Prediction
from arc_airv.tasks import Task, check_count


def search_predictions(
    tasks: dict[str, Task],
    engine: Engine,
    *,
    n_views: int,
    min_probability: float,
    seed: int,
    store: str | Path,
    max_live: int = 64,
    deadline: float | None = None,
    prompt_format: PromptFormat | None = None,
    drop_demonstrations: bool = False,
    progress: bool = True,
    **kinds: bool,
) -> RunSummary:
    """Fill a store with every reply to `n_views` of each test output that is probable enough.

    Parameters
    ----------
    n_views : int
        Of each test output; the first of the plan, so more views extend fewer.
    min_probability : float
        In (0, 1]: of the whole reply, under its view.
    max_live : int, default 64
        See `arc_airv.engines.threshold_search`.
    tasks, engine, seed, store, deadline, prompt_format, drop_demonstrations, progress, **kinds
        As in `arc_airv.infer.generate_predictions`.

    Returns
    -------
    RunSummary
        `n_asked` and `n_stored` count views, `n_new` rows of the store. A view's replies are its
        samples, the most probable first; a view without any has one row with the status "no_reply",
        which no metric counts as a prediction.

    Raises
    ------
    ValueError
        If an argument is out of its range, or the store was made with other settings.
    RuntimeError
        If another process is writing the store.
    """
    check_count("n_views", n_views)
    plan = Plan(seed, **kinds)
    renderer = Renderer(
        engine, prompt_format, plan, Sampling(), drop_demonstrations=drop_demonstrations
    )
    search = {"min_probability": min_probability, "max_live": max_live}
    stop = renderer.sampling.stop
    jobs = plan_jobs(tasks, n_views, 1, plan)
    # A plan that has to repeat an augmentation would only find the same replies again.
    jobs = [job for job in jobs if job.first_sample == 0]
    run = renderer.describe_run(sampling={**renderer.sampling.settings(), **search})

    def prepare(job: Job) -> Prepared:
        question = renderer.render(job)
        if not question.fits:
            return None, lambda _: question.unsent()

        def receive(result: SearchResult) -> list[Prediction]:
            if result.dropped:
                warnings.warn(
                    f"max_live={max_live} is too small for this threshold: some views may lack "
                    "replies that are above it",
                    stacklevel=2,
                )
            if not result.completions:
                return question.unsent(NO_REPLY)
            # The first sample tells that a view is done, so it is written last.
            return question.predictions(result.completions, renderer.format)[::-1]

        return (question.prompt, question.sampling.max_tokens), receive

    return fill_store(
        store,
        {**run, "task_ids": list(tasks)},
        jobs,
        renderer,
        lambda requests: stream_threshold_search(engine, requests, stop=stop, **search),
        prepare,
        deadline=deadline,
        progress=progress,
    )
