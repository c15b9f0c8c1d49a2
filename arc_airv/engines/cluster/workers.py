"""Workers as Ray's actors, and the Ray that they run on: joined, or started and ended with them."""

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray

from arc_airv.engines.cluster.dispatch import Answered, Died, Finished, Ready
from arc_airv.engines.cluster.served import ServedEngine, call_seconds

CLOSE_SECONDS = 10.0  # for the engines to tidy up


class RayWorkers:
    """Workers as Ray's actors: see `arc_airv.engines.cluster.dispatch.Backend`.

    It joins a Ray or starts one, and counts out its `n` workers: see `RayEngine` for the
    parameters. Its `facts` are what the first worker that was ready told of its engine; one whose
    model is another one is a ValueError.
    """

    def __init__(
        self,
        factory: Callable[[], Any],
        address: str | None,
        *,
        n_workers: int | None,
        gpus: float | None,
        cpus: float,
        ray_options: Mapping[str, Any],
        worker_options: Mapping[str, Any],
    ) -> None:
        self.factory = factory
        self.facts: dict[str, Any] = {}
        self.actors: dict[int, Any] = {}
        self.ready: set[int] = set()
        self.calls: dict[Any, tuple[int, int]] = {}  # on their way: worker and run, 0 to open
        self.owns_ray = _connect(address, (n_workers or 1) * cpus, ray_options)
        try:
            n_gpus = ray.cluster_resources().get("GPU", 0)  # on all its machines
            if gpus is None:
                gpus = 1 if n_gpus else 0
            self.n = n_workers or (max(1, int(n_gpus // gpus)) if gpus else 1)
        except BaseException:
            self.close()
            raise
        # Ray must not repeat anything by itself: that is decided elsewhere.
        fixed = {"num_gpus": gpus, "num_cpus": cpus, "max_restarts": 0, "max_task_retries": 0}
        self.options = {**worker_options, **fixed}

    def now(self) -> float:
        return time.monotonic()

    def start(self, worker: int) -> None:
        actor = ray.remote(**self.options)(ServedEngine).remote(self.factory)
        self.actors[worker] = actor
        self.calls[actor.open.remote()] = worker, 0

    def send(self, worker: int, run: int, kind: str, chunks: list[Finished]) -> None:
        seconds = call_seconds(len(self.actors))
        self.calls[self.actors[worker].work.remote(run, kind, chunks, seconds)] = worker, run

    def stop(self, worker: int, run: int) -> None:
        self.actors[worker].stop.remote(run)

    def end(self, worker: int) -> None:
        self.calls = {call: whose for call, whose in self.calls.items() if whose[0] != worker}
        self.ready.discard(worker)
        ray.kill(self.actors.pop(worker))

    def wait(self, seconds: float) -> list[Ready | Answered | Died]:
        if not self.calls:
            return []
        calls = list(self.calls)
        done, _ = ray.wait(calls, num_returns=1, timeout=seconds)
        if done:  # and whatever else is
            done, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
        events: list[Ready | Answered | Died] = []
        dead = set()
        for call in done:
            worker, run = self.calls.pop(call)
            if worker in dead:
                continue
            try:
                answer = ray.get(call)
            except ray.exceptions.RayError as error:
                dead.add(worker)
                events.append(Died(worker, _cause(error)))
                continue
            if run:
                events.append(Answered(worker, run, answer))
            elif isinstance(answer, Exception):
                raise answer
            else:
                self.facts = self.facts or answer
                if _identity(answer) != _identity(self.facts):
                    raise ValueError(
                        f"the workers do not have one model: at one of them, {answer['model']} is "
                        "another, or has another prompt_format.json, than at the first: copy it to "
                        "every machine again"
                    )
                self.ready.add(worker)
                events.append(Ready(worker, answer["window"]))
        return events

    def count_tokens(self, prompts: list[str]) -> list[int]:
        """Return the length of each prompt, by whichever worker says it first."""
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
        if not ray.is_initialized():
            return
        closing = [self.actors[worker].close.remote() for worker in self.ready]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_SECONDS)
        for worker in list(self.actors):
            self.end(worker)
        if self.owns_ray:
            ray.shutdown()


def _identity(facts: Mapping[str, Any]) -> tuple[str | None, dict[str, Any] | None]:
    """Return what tells the model of a worker and its format by their content."""
    own = facts["prompt_format"]
    return facts["fingerprint"], own and own.to_dict()


def _connect(address: str | None, n_cpus: float, options: Mapping[str, Any]) -> bool:
    """See to it that there is a Ray; tell if it was started here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default they would yield to all others
    if ray.is_initialized():
        return False
    own = {
        "address": "local",
        "include_dashboard": False,
        "num_cpus": max(os.cpu_count() or 1, math.ceil(n_cpus)),
        "object_store_memory": 256 * 2**20,  # nothing but prompts and replies on their way
        "_node_ip_address": "127.0.0.1",
    }
    defaults = own if address is None else {"address": address}
    ray.init(**{**defaults, "log_to_driver": False, **options})
    return address is None


def _cause(error: Exception) -> str:
    """Return what Ray says of a fault, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, ray.exceptions.RayTaskError):  # a traceback, which ends with the fault
        return lines[-1][:300]
    return f"{type(error).__name__}: {' '.join(lines)[:300]}"
