"""Re-scoring: the probability of each candidate under several views of its task.

A grid that a model finds probable under many views is more likely right than one that it wrote
once. Every distinct grid of a pool is scored, under the same views for all of them, so that their
scores can be summed and compared.
"""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from arc_airv.augment import Augmentation, Plan
from arc_airv.engines.base import Engine, Sampling, as_engine, check_given
from arc_airv.grids import parse_grid
from arc_airv.infer.ask import Loop, Prepared
from arc_airv.infer.views import Job, Renderer, progress_bar
from arc_airv.prompts.format import PromptFormat
from arc_airv.records import RecordStore, Rescore, to_scores
from arc_airv.tasks import Task, check_count, check_output


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
    drop_demonstrations: bool = False,
    progress: bool = True,
    **kinds: bool,
) -> pd.DataFrame:
    """Score every candidate of every pool under the same views of its task.

    Parameters
    ----------
    candidates : DataFrame
        Columns task_id, test_index and grid: predictions, or candidates as
        `arc_airv.vote.rank_candidates` gives them, such as ``ranked[ranked["rank"] <= 4]``. Rows
        without a grid are left out, and a grid counts once.
    n_views : int, default 8
        Views of each task: the first of its plan, so more views extend fewer.
    store : str or Path, optional
        ``<name>.jsonl``, to keep scores as they are made. If it exists, the work goes on: what it
        holds is not scored again.
    deadline : float, optional
        Moment (``time.time()`` seconds) at which to stop cleanly. Views are asked in the order of
        the plan, each of every output before the next one of any.
    tasks, engine, seed, prompt_format, drop_demonstrations, progress, **kinds
        As in `arc_airv.infer.generate_predictions`.

    Returns
    -------
    DataFrame
        Columns task_id, test_index, grid, augmentation, score_logprob, prompt_hash: the
        log-probability (nats) of the reply that gives this grid, under this view. A view counts for
        all candidates of an output or for none: if the context cannot hold its prompt with the
        longest of them, all are NaN there, and a warning says so; if the deadline came before all
        were scored, none has a row. (A single NaN, with a warning, is an overflow of the model's
        dtype.)

    Raises
    ------
    ValueError
        If an argument is out of its range, a candidate is of no given task, or the store was made
        with other settings.
    RuntimeError
        If another process is writing the store.
    """
    check_count("n_views", n_views)
    engine, plan = as_engine(engine), Plan(seed, **kinds)
    renderer = Renderer(
        engine, prompt_format, plan, Sampling(), drop_demonstrations=drop_demonstrations
    )
    candidates = candidates[["task_id", "test_index", "grid"]].dropna().drop_duplicates()
    views = _plan_views(candidates, tasks, n_views, plan)
    # The demonstrations that a prompt shows depend on it.
    run = renderer.describe_run(context=engine.max_model_len if drop_demonstrations else None)
    too_long: dict[tuple, tuple[float, str]] = {}
    with RecordStore(store, run, kind=Rescore) as scores:
        held = [((t, i, view), asked, -1) for (t, i, _, view), (_, asked) in scores.known.items()]
        renderer.check_store(store, tasks.values(), held)

        def prepare(view: _View) -> Prepared:
            question = renderer.render(view.job)
            answers = view.answers(renderer.format)
            if question.n_tokens + max(engine.count_tokens(answers)) >= renderer.context:
                lost = math.nan, question.prompt_hash
                too_long.update(dict.fromkeys(view.keys(), lost))
                return None, lambda _: []
            new = {k: a for k, a in zip(view.keys(), answers) if k not in scores.known}

            def receive(logprobs: list[float]) -> list[Rescore]:
                check_given("scores of a prompt", len(logprobs), len(new))
                # JSON has no NaN, which an overflow is.
                return [
                    Rescore(*k, float(v) if math.isfinite(v) else None, question.prompt_hash)
                    for k, v in zip(new, logprobs)
                ]

            return (question.prompt, list(new.values())), receive

        todo = [view for view in views if any(key not in scores.known for key in view.keys())]
        with progress_bar(len(views), len(views) - len(todo), progress, unit="view") as bar:
            Loop(engine.stream_scores, prepare, scores, deadline, bar.update).run(todo)
        if too_long:
            n_lost = sum(key in too_long for key in (view.keys()[0] for view in views))
            warnings.warn(
                f"{n_lost} of {len(views)} views do not fit the model's context with their "
                "longest candidate: the scores of all their candidates are NaN",
                stacklevel=2,
            )
        return to_scores(_rows(views, {**scores.known, **too_long}))


@dataclass(frozen=True)
class _View:
    """One view of an output, and the candidates to score under it."""

    job: Job
    grids: tuple[str, ...]

    def keys(self) -> list[tuple[str, int, str, str]]:
        return [(*self.job.output, grid, self.job.augmentation) for grid in self.grids]

    def answers(self, prompt_format: PromptFormat) -> list[str]:
        """Return the replies that would give the candidates."""
        apply = Augmentation.parse(self.job.augmentation).apply_grid
        return [prompt_format.render_answer(apply(parse_grid(grid))) for grid in self.grids]


def _plan_views(
    candidates: pd.DataFrame, tasks: dict[str, Task], n_views: int, plan: Plan
) -> list[_View]:
    """Return the views of all outputs, in the order in which they are asked."""
    pools = dict(list(candidates.groupby(["task_id", "test_index"])["grid"]))
    for task_id, test_index in pools:
        check_output(tasks, task_id, test_index)
    views = []
    for task in tasks.values():
        # Of few kinds there may be fewer: a view that comes again would only count twice.
        keys = dict.fromkeys(map(str, plan.sample(task, n_views)))
        for number, augmentation in enumerate(keys):
            for i in range(len(task.test)):
                if (task.task_id, i) in pools:
                    grids = tuple(pools[task.task_id, i])
                    views.append(_View(Job(task, i, number, augmentation, 0), grids))
    return sorted(views, key=lambda view: view.job.view)


def _rows(
    views: list[_View], known: dict[tuple, tuple[float | None, str | None]]
) -> Iterator[tuple]:
    """Yield the scores of the views that are scored as a whole, pool by pool."""
    pools: dict[tuple[str, int], list[_View]] = {}
    for view in views:
        if all(key in known for key in view.keys()):
            pools.setdefault(view.job.output, []).append(view)
    for pool in pools.values():
        for keys in zip(*(view.keys() for view in pool)):  # candidate by candidate
            yield from ((*key, *known[key]) for key in keys)
