"""The loop that all asking goes through: render, send, store, until all is answered or it is time.

Knows neither what is asked nor what an answer becomes. Prompts are rendered as the engine takes
them, and records are on disk about a second after they are made, however many there are.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from arc_airv.infer.views import Job, Renderer, progress_bar
from arc_airv.records import PROMPT_TOO_LONG, Record, RecordStore
from arc_airv.storage import add_call, add_tasks
from arc_airv.tasks import check_deadline, hash_task

FLUSH_SECONDS = 1.0  # longest time that finished records wait in memory

# A request to the engine (None: there is nothing to send), and what makes records of its answer.
Prepared = tuple[Any | None, Callable[[Any], Iterable[Record]]]
Send = Callable[[Iterator[Any]], Iterator[Iterable[tuple[int, Any]]]]


@dataclass(frozen=True)
class RunSummary:
    """The work and the cost of one call that fills a store."""

    n_asked: int  # predictions (in a threshold search: views) that the store should hold
    n_stored: int  # those of them that it holds now
    n_new: int  # predictions made by this call
    seconds: float  # wall-clock time of this call
    engine_seconds: float  # the part of it spent waiting for the engine
    stopped: str  # "done" or "deadline"


def fill_store(
    path: str | Path,
    run: dict[str, Any],
    jobs: list[Job],
    renderer: Renderer,
    send: Send,
    prepare: Callable[[Job], Prepared],
    *,
    n: int = 1,
    unit: str = "view",
    arrange: Callable[[list[Job], RecordStore], Iterable[Iterable[Job]]] = lambda todo, _: [todo],
    deadline: float | None = None,
    progress: bool = True,
) -> RunSummary:
    """Ask the jobs that a store of predictions lacks, and note the call in its run description.

    Parameters
    ----------
    renderer : Renderer
        Checks that what is there answers the questions of the jobs.
    send, prepare
        See `Loop`.
    n : int, default 1
        A job is done if the store has its first n samples.
    unit : str, default "view"
        The progress bar counts n of them a job.
    arrange : function of the jobs to do and the store, optional
        Puts the jobs into groups that are asked one after the other.
    """
    start = time.monotonic()
    tasks = {job.task.task_id: job.task for job in jobs}
    with RecordStore(path, run) as store:
        held = [(key[:3], asked, n_train) for key, (asked, _, n_train) in store.known.items()]
        renderer.check_store(path, tasks.values(), held)
        add_tasks(path, {task_id: hash_task(task) for task_id, task in tasks.items()})
        n_asked = len(jobs) * n
        # What did not fit is tried again, for the context may be larger now.
        sent = {key for key, (_, status, _) in store.known.items() if status != PROMPT_TOO_LONG}
        todo = [job for job in jobs if not sent.issuperset(job.keys(n))]
        groups = arrange(todo, store)
        with progress_bar(n_asked, n_asked - len(todo) * n, progress, unit=unit) as bar:
            loop = Loop(send, prepare, store, deadline, report=lambda k: bar.update(k * n))
            finished = all(map(loop.run, groups))
        n_stored = sum(key in store.known for job in jobs for key in job.keys(n))
        summary = RunSummary(
            n_asked=n_asked,
            n_stored=n_stored,
            n_new=loop.n_new,
            seconds=time.monotonic() - start,
            engine_seconds=loop.engine_seconds,
            stopped="done" if finished or n_stored == n_asked else "deadline",
        )
        if summary.n_new:  # what it cost, beside what it made
            add_call(path, asdict(summary))
        return summary


class Loop:
    """Sends jobs to an engine and stores what comes back, until the deadline.

    Parameters
    ----------
    send : function of an iterator of requests
        Yields lists of (number of a request, answer), such as ``engine.stream``.
    prepare : function of a job
        Gives its request, and a function that makes records of the answer. Without a request
        (None) that function is called with None at once.
    store : RecordStore
    deadline : float or None
    report : function of int
        Called with numbers of jobs that are stored.

    Attributes
    ----------
    engine_seconds : float
        Spent waiting for the engine so far.
    n_new : int
        Records stored so far.
    """

    def __init__(
        self,
        send: Send,
        prepare: Callable[[Any], Prepared],
        store: RecordStore,
        deadline: float | None,
        report: Callable[[int], object],
    ) -> None:
        check_deadline(deadline)
        self.send = send
        self.prepare = prepare
        self.store = store
        self.deadline = deadline
        self.report = report
        self.engine_seconds = 0.0
        self.n_new = 0
        self.finished: list[Record] = []
        self.n_finished = 0  # jobs, whose records these are
        self.last_flush = time.monotonic()

    def run(self, jobs: Iterable[Any]) -> bool:
        """Answer some jobs; False if the deadline came first."""
        waiting: dict[int, Callable[[Any], Iterable[Record]]] = {}  # asked and not yet answered
        rendering = 0.0

        def requests() -> Iterator[Any]:
            nonlocal rendering
            number = itertools.count()
            for job in jobs:
                start = time.monotonic()
                request, receive = self.prepare(job)
                rendering += time.monotonic() - start
                if request is None:
                    self._finish(receive(None))
                else:
                    waiting[next(number)] = receive
                    yield request

        start, asked = time.monotonic(), requests()
        try:
            if self._late():
                return False
            with closing(self.send(asked)) as stream:
                for answers in stream:
                    # The engine's time: since it was asked, less what rendering took of it.
                    self.engine_seconds += time.monotonic() - start - rendering
                    for index, answer in answers:
                        self._finish(waiting.pop(index)(answer))
                    if time.monotonic() - self.last_flush >= FLUSH_SECONDS:
                        self._flush()
                    if self._late():
                        return False
                    start, rendering = time.monotonic(), 0.0
            for _ in asked:  # those that the engine did not even take are waiting, too
                pass
            if waiting:
                raise RuntimeError(f"the engine left {len(waiting)} prompts unanswered")
            return True
        finally:
            self._flush()

    def _finish(self, records: Iterable[Record]) -> None:
        self.finished += records
        self.n_finished += 1

    def _flush(self) -> None:
        # What belongs to one job may have been stored in part before a kill.
        new = [record for record in self.finished if self.store.is_new(record)]
        self.store.append(new)
        self.n_new += len(new)
        self.report(self.n_finished)
        self.finished, self.n_finished = [], 0
        self.last_flush = time.monotonic()

    def _late(self) -> bool:
        return self.deadline is not None and time.time() >= self.deadline
