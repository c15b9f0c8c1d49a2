"""Workers as Ray's actors, and the Ray that they run on: joined, or started and ended with them."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from arc_airv.engines.cluster.dispatch import Answered, Died, Finished, Ready
from arc_airv.engines.cluster.served import ServedEngine, call_seconds

CLOSE_SECONDS = 10.0  # for the engines to tidy up


class RayWorkers:
    """The workers as Ray's actors: see `arc_airv.engines.cluster.dispatch.Workers`.

    Parameters
    ----------
    factory : function without arguments
        Makes the engine of a worker, there.
    n : int
        Workers.
    options : dict
        Of the actors.
    owns_ray : bool
        End Ray with the workers.

    Attributes
    ----------
    facts : dict
        What the first worker that was ready told of its engine.
    """

    def __init__(
        self, factory: Callable[[], Any], n: int, options: dict[str, Any], *, owns_ray: bool
    ) -> None:
        self.factory = factory
        self.n = n
        self.options = options
        self.owns_ray = owns_ray
        self.facts: dict[str, Any] = {}
        self.actors: dict[int, Any] = {}
        self.ready: set[int] = set()
        self.calls: dict[Any, tuple[int, int]] = {}  # what is on its way: place and run, 0 to open

    def now(self) -> float:
        return time.monotonic()

    def start(self, place: int) -> None:
        import ray

        # Ray must not repeat anything by itself: that is decided elsewhere.
        options = {**self.options, "max_restarts": 0, "max_task_retries": 0}
        self.actors[place] = ray.remote(**options)(ServedEngine).remote(self.factory)
        self.calls[self.actors[place].open.remote()] = place, 0

    def send(self, place: int, run: int, kind: str, parcels: list[Finished]) -> None:
        seconds = call_seconds(len(self.actors))
        call = self.actors[place].work.remote(run, kind, parcels, seconds)
        self.calls[call] = place, run

    def stop(self, place: int, run: int) -> None:
        self.actors[place].stop.remote(run)

    def end(self, place: int) -> None:
        import ray

        self.calls = {call: whose for call, whose in self.calls.items() if whose[0] != place}
        self.ready.discard(place)
        ray.kill(self.actors.pop(place))

    def wait(self, seconds: float) -> list[Ready | Answered | Died]:
        import ray

        if not self.calls:
            return []
        calls = list(self.calls)
        done, _ = ray.wait(calls, num_returns=1, timeout=seconds)
        if done:  # and whatever else is
            done, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
        events: list[Ready | Answered | Died] = []
        dead = set()
        for call in done:
            place, run = self.calls.pop(call)
            if place in dead:
                continue
            try:
                answer = ray.get(call)
            except ray.exceptions.RayError as error:
                dead.add(place)
                events.append(Died(place, _cause(error)))
                continue
            if run:
                mistake = isinstance(answer, Exception)
                events.append(
                    Answered(place, run, [], answer) if mistake else Answered(place, run, answer)
                )
            elif isinstance(answer, Exception):
                raise answer
            else:
                self.facts = self.facts or answer
                self.ready.add(place)
                events.append(Ready(place, answer["window"]))
        return events

    def count_tokens(self, prompts: list[str]) -> list[int]:
        """Length of each prompt, by whichever worker says it first."""
        import ray

        calls = [actor.count_tokens.remote(prompts) for actor in self.actors.values()]
        while calls:
            (call,), calls = ray.wait(calls)
            try:
                return ray.get(call)
            except ray.exceptions.RayError:
                continue
        raise RuntimeError("no worker is left to count tokens")

    def close(self) -> None:
        """End the workers; also called when the engine is forgotten, or the process ends."""
        import ray

        if not ray.is_initialized():
            return
        closing = [self.actors[place].close.remote() for place in self.ready]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_SECONDS)
        for place in list(self.actors):
            self.end(place)
        if self.owns_ray:
            ray.shutdown()


def open_workers(
    factory: Callable[[], Any],
    address: str | None,
    *,
    n_workers: int | None,
    gpus: float | None,
    cpus: float,
    ray_options: Mapping[str, Any],
    worker_options: Mapping[str, Any],
) -> RayWorkers:
    """Join a Ray or start one, and count out its workers; see `RayEngine` for the parameters."""
    owns_ray = _connect(address, (n_workers or 1) * cpus, ray_options)
    import ray

    try:
        n_gpus = ray.cluster_resources().get("GPU", 0)  # on all its machines
        if gpus is None:
            gpus = 1 if n_gpus else 0
        if n_workers is None:
            n_workers = max(1, int(n_gpus // gpus)) if gpus else 1
        options = {**worker_options, "num_gpus": gpus, "num_cpus": cpus}
        return RayWorkers(factory, n_workers, options, owns_ray=owns_ray)
    except BaseException:
        if owns_ray:
            ray.shutdown()
        raise


def _connect(address: str | None, n_cpus: float, options: Mapping[str, Any]) -> bool:
    """See to it that there is a Ray; return if it was started here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default they would yield to all others
    import ray

    if ray.is_initialized():
        return False
    if address is not None:
        ray.init(address=address, **{"log_to_driver": False, **options})
        return False
    own = {
        "address": "local",
        "include_dashboard": False,
        "log_to_driver": False,
        "num_cpus": max(os.cpu_count() or 1, math.ceil(n_cpus)),
        "object_store_memory": 256 * 2**20,  # nothing but prompts and replies on their way
        "_node_ip_address": "127.0.0.1",
    }
    ray.init(**{**own, **options})
    return True


def _cause(error: Exception) -> str:
    """What Ray says of a fault, in a line."""
    import ray

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, ray.exceptions.RayTaskError):  # a traceback, which ends with the fault
        return lines[-1][:300]
    return f"{type(error).__name__}: {' '.join(lines)[:300]}"
