"""An engine in a worker process: takes parcels of requests, and answers call by call.

Knows no Ray. Between two calls a continuous engine (vLLM) keeps what it runs, so that no parcel
waits for the longest reply of the one before; any other engine answers parcel by parcel.
"""

from __future__ import annotations

import gc
import os
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

from arc_airv.engines.base import stream_replies, stream_scores

BEAT = 1.0  # seconds after which a call returns though nothing is finished
SHORTEST = 0.25  # seconds after which it may return because half of what it had is finished


def call_seconds(n_workers: int) -> float:
    """How long a call goes on: of many workers longer, for one process has them all to answer.

    A call takes less than a millisecond of that process.
    """
    return max(SHORTEST, 0.08 * n_workers)


class ServedEngine:
    """What runs in a worker.

    Parameters
    ----------
    factory : function without arguments
        Makes the engine, in `open`.
    """

    def __init__(self, factory: Callable[[], Any]) -> None:
        self.factory = factory
        self.engine: Any = None
        self.run = 0
        self.kind = ""
        self.stream: Iterator[list[tuple[int, Any]]] | None = None
        self.queue: deque[list[tuple[int, Any]]] = deque()
        self.numbers: dict[int, int] = {}  # of what is not answered: as this engine counts them
        self.n_taken = 0

    def open(self) -> dict[str, Any] | Exception:
        """Make the engine; returns what its user asks of it, or what is wrong with its options."""
        guard_children()
        # On CPUs each vLLM would bind its threads to the same cores as the others.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        if not os.environ.get("CUDA_VISIBLE_DEVICES"):
            # vLLM's two further processes, which wait busily for each other, are no use here: this
            # one is the worker's own.
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        try:
            engine = self.engine = self.factory()
        except (ValueError, TypeError) as error:
            return error
        gc.collect()
        gc.freeze()  # what was made so far stays: need not be looked through again and again
        continuous = getattr(engine, "continuous", False)
        names = ("model", "tokenizer", "max_model_len", "eos_ids", "prompt_format")
        facts = {name: getattr(engine, name, None) for name in names}
        facts["window"] = engine.window if continuous else None
        describe = getattr(engine, "describe", None)
        facts["description"] = describe() if describe else {"engine": type(engine).__name__}
        return facts

    def work(
        self, run: int, kind: str, parcels: list[list[tuple[int, Any]]], seconds: float
    ) -> list[tuple[int, Any]] | Exception:
        """Take parcels, and answer what is finished within some seconds, but something.

        It takes less if half of what there is to do is done, so that there always is something.

        Returns
        -------
        list of (number, answer), or ValueError or TypeError
            The exception says what is wrong with a request: it is for the caller. Any other is
            raised, for the engine may be of no more use.
        """
        if run > self.run:
            self.stop(self.run)
            self.run, self.kind, self.stream = run, kind, self._open_stream()
        if run < self.run or self.stream is None:  # a late call of a run that was stopped
            return []
        self.queue.extend(parcels)
        finished: list[tuple[int, Any]] = []
        n_had = len(self.numbers) + sum(map(len, self.queue))
        if not getattr(self.engine, "continuous", False):
            seconds = 0.0
        start = time.monotonic()
        try:
            while self.queue or self.numbers:
                for number, answer in next(self.stream):
                    finished.append((self.numbers.pop(number), answer))
                late = time.monotonic() - start
                runs_low = 2 * len(finished) >= n_had and late >= SHORTEST
                if (finished and (late >= seconds or runs_low)) or late >= max(BEAT, seconds):
                    break
        except (ValueError, TypeError) as error:
            self.stop(run)
            return error
        return finished

    def stop(self, run: int) -> None:
        """Drop what is left of a run."""
        if run == self.run and self.stream is not None:
            self.stream.close()
            self.stream = None
            self.queue.clear()
            self.numbers.clear()

    def count_tokens(self, prompts: list[str]) -> list[int]:
        """Length of each prompt in tokens."""
        return self.engine.count_tokens(prompts)

    def close(self) -> None:
        """Let the engine tidy up after itself."""
        if hasattr(self.engine, "close"):
            self.engine.close()

    def _open_stream(self) -> Iterator[list[tuple[int, Any]]]:
        self.n_taken = 0
        if getattr(self.engine, "continuous", False):
            yield from self._answer(self._taken())
        while True:
            if self.queue:
                first, parcel = self.n_taken, self._take()
                with closing(self._answer(parcel)) as stream:
                    for finished in stream:
                        yield [(first + number, answer) for number, answer in finished]
            else:
                yield []

    def _taken(self) -> Iterator[Any]:
        """Requests as they come, and None when there is none for now."""
        while True:
            if self.queue:
                yield from self._take()
            else:
                yield None

    def _take(self) -> list[Any]:
        parcel = self.queue.popleft()
        for number, _ in parcel:
            self.numbers[self.n_taken] = number
            self.n_taken += 1
        return [request for _, request in parcel]

    def _answer(self, requests: Any) -> Iterator[list[tuple[int, Any]]]:
        if self.kind == "replies":
            yield from stream_replies(self.engine, requests)
        elif self.kind == "scores":
            yield from stream_scores(self.engine, requests)
        else:
            yield from self._search(requests)

    def _search(self, requests: Any) -> Iterator[list[tuple[int, Any]]]:
        """Searches, which come without their ends (see `unbound`) and leave so."""

        def bound() -> Iterator[Any]:
            for request in requests:
                if request is not None:
                    search, stop = request
                    search.ends = self.engine.ends(stop)
                    request = search
                yield request

        for finished in self.engine.run_searches(bound()):
            for _, search in finished:
                search.ends = None
            yield finished


def guard_children() -> None:
    """Make sure that no process which this one starts outlives it, however it ends.

    The engine's processes are in the group of this one. A shell outside of the group waits for the
    end of a pipe, which comes with the end of this process, and then ends all that is left of it.
    """
    if os.getpgrp() != os.getpid():
        os.setsid()
    read, write = os.pipe()
    os.register_at_fork(after_in_child=lambda: os.close(write))
    subprocess.Popen(
        ["/bin/sh", "-c", f"read nothing; kill -KILL -- -{os.getpgrp()}"],
        stdin=read,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(read)
