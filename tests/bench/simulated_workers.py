"""Simulate workers and their clock for the dispatcher of `arc_airv.engines.cluster`.

Each worker is an engine that answers several requests at once, each in a given number of seconds.
The clock may count the dispatcher's own computing time (`count_own_time`) and the cost of Ray's
calls (`Costs`). `Faults` injects failures.
"""

import heapq
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from arc_airv.engines.cluster.dispatch import Answered, Died, Finished, Ready
from arc_airv.engines.cluster.served import BEAT, SHORTEST, call_seconds


@dataclass(frozen=True)
class Costs:
    """Hold the seconds of the dispatching process that Ray takes."""

    call: float = 0.0  # to make a call and to take its answer
    request: float = 0.0  # to send one request, and to take its answer


@dataclass(frozen=True)
class Faults:
    """Hold the faults to inject: functions of a request, or probabilities."""

    kills: Callable[[Any], bool] = lambda request: False  # kills its worker, when answered
    hangs: Callable[[Any], bool] = lambda request: False
    death: float = 0.0  # probability that a call kills the worker
    failed_start: float = 0.0


@dataclass
class _Worker:
    generation: int = 0
    is_up: bool = False
    run: int = 0
    free: list[float] = field(default_factory=list)  # when each of its slots is
    done: list[tuple[float, int, Any]] = field(default_factory=list)  # when, number, request
    returns: float = 0.0  # when its last call does
    hangs: bool = False


class SimulatedWorkers:
    """Implement `arc_airv.engines.cluster.dispatch.Backend` on a simulated clock.

    Parameters
    ----------
    seconds : function of a request
        Duration of an answer.
    slots : int
        Requests that a worker answers at once.
    window : int or None
        Requests that a worker accepts at once; None if it answers chunk by chunk.
    startup : float
        Seconds until a worker is ready.
    n_workers : int
        Number of workers, which sets how long a call lasts, as with Ray.
    costs, faults : Costs, Faults
    count_own_time : bool
        Advance the clock while the dispatcher computes.
    seed : int
        Seed of the faults.
    """

    def __init__(
        self,
        seconds: Callable[[Any], float],
        *,
        slots: int,
        window: int | None,
        startup: float = 0.0,
        n_workers: int = 1,
        costs: Costs | None = None,
        faults: Faults | None = None,
        count_own_time: bool = False,
        seed: int = 0,
    ) -> None:
        self.seconds = seconds
        self.slots = slots
        self.window = window
        self.startup = startup
        self.call_seconds = call_seconds(n_workers)
        self.costs = costs or Costs()
        self.faults = faults or Faults()
        self.count_own_time = count_own_time
        self.random = random.Random(seed)
        self.clock = 0.0
        self.busy = 0.0  # seconds of the clock that the dispatcher took
        self.n_calls = self.n_events = 0
        self.workers: dict[int, _Worker] = {}
        self.events: list[tuple[float, int, int, int, Any]] = []  # when, order, worker, generation
        self.started = time.perf_counter()

    def now(self) -> float:
        return self.clock

    def start(self, number: int) -> None:
        worker = self.workers.setdefault(number, _Worker())
        worker.generation += 1
        worker.is_up, worker.hangs = True, False
        worker.free, worker.done = [self.clock] * self.slots, []
        event: Any = Ready(number, self.window)
        if self.random.random() < self.faults.failed_start:
            event = Died(number, "no start")
        worker.returns = self.clock + self.startup
        self._push(worker.returns, number, event)

    def send(self, number: int, run: int, kind: str, chunks: list[Finished]) -> None:
        worker = self.workers[number]
        n = sum(map(len, chunks))
        self._spend(self.costs.call + n * self.costs.request)
        self.n_calls += 1
        start = max(self.clock, worker.returns)
        if worker.run < run:
            worker.run, worker.done = run, []
        for chunk in chunks:
            for index, request in chunk:
                begins = max(start, heapq.heappop(worker.free))
                ends = begins + self.seconds(request)
                heapq.heappush(worker.free, ends)
                heapq.heappush(worker.done, (ends, index, request))
        worker.returns = self._returns(worker, start)
        finished = []
        while worker.done and worker.done[0][0] <= worker.returns:
            when, index, request = heapq.heappop(worker.done)
            worker.hangs |= self.faults.hangs(request)
            if worker.hangs:
                return
            if self.faults.kills(request) or self.random.random() < self.faults.death:
                self._push(when, number, Died(number, f"killed by {request}"))
                worker.hangs = True  # and nothing more is heard of it
                return
            finished.append((index, request))
        if not worker.hangs:
            self._push(worker.returns, number, Answered(number, run, finished))

    def stop(self, number: int, run: int) -> None:
        self.workers[number].done = []

    def end(self, number: int) -> None:
        self.workers[number].is_up = False
        self.workers[number].generation += 1

    def wait(self, seconds: float) -> list[Any]:
        if self.count_own_time:
            self._spend(time.perf_counter() - self.started)
        if self.events and self.events[0][0] > self.clock:
            self.clock = min(self.events[0][0], self.clock + seconds)
        elif not self.events:
            self.clock += seconds
        happened = []
        while self.events and self.events[0][0] <= self.clock:
            _, _, number, generation, event = heapq.heappop(self.events)
            if generation == self.workers[number].generation:
                happened.append(event)
        self.started = time.perf_counter()
        return happened

    def _returns(self, worker: _Worker, start: float) -> float:
        """Return when a call that begins then returns, as in `arc_airv.engines.cluster.served`."""
        if not worker.done:
            return start
        first = worker.done[0][0]
        if self.window is None:
            return max(start, first)
        ends = sorted(ends for ends, _, _ in worker.done)
        half = max(ends[(len(ends) - 1) // 2], start + SHORTEST)
        beat = start + max(BEAT, self.call_seconds)
        return max(start, min(max(first, start + self.call_seconds), half, beat, ends[-1]))

    def _push(self, when: float, number: int, event: Any) -> None:
        self.n_events += 1
        entry = (when, self.n_events, number, self.workers[number].generation, event)
        heapq.heappush(self.events, entry)

    def _spend(self, seconds: float) -> None:
        self.clock += seconds
        self.busy += seconds
