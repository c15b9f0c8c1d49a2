"""Many engines as one, on Ray: a worker for each GPU of a machine or of a cluster.

`arc_airv.engines.cluster.served` runs in a worker, `arc_airv.engines.cluster.dispatch` decides who
gets what, `arc_airv.engines.cluster.workers` holds Ray's processes. The tokenizer's side of the
contract (`LocalEngine`) stays in this process.
"""

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import ray

from arc_airv.engines.base import Completion
from arc_airv.engines.cluster.dispatch import Dispatcher
from arc_airv.engines.cluster.served import SHARED
from arc_airv.engines.cluster.workers import RayWorkers
from arc_airv.engines.local import LocalEngine
from arc_airv.engines.search import Search

FAILED = Completion(text=None, n_tokens=0, cumulative_logprob=None, finish_reason="error")


class RayEngine(LocalEngine):
    """Engines in workers that Ray places, with the contract of one engine.

    Parameters
    ----------
    engine_factory : function without arguments
        Makes the engine of a worker, there: such as
        ``functools.partial(make_engine, "vllm", model, options)``.
    n_workers : int, optional
        By default as many as the GPUs are enough for; 1 where there is no GPU.
    gpus_per_worker, cpus_per_worker : float
        By default 1 CPU, and 1 GPU where there are GPUs. More than one is for a model that does not
        fit one GPU: its engine must be made with that ``tensor_parallel_size``.
    address : str, optional
        Of a Ray cluster, or "auto" for the one that this machine belongs to. By default a Ray of
        its own on this machine, which ends with the engine or with this process.
    chunk : int, default 16
        Most prompts that are handed to a worker together. For engines that are not continuous
        (Transformers), a batch is no larger.
    startup_seconds, hang_seconds : float
        A worker that is not ready after so long, or answers no prompt for so long, is replaced.
    ray_options : mapping, optional
        Of ``ray.init``, beside those that are set here.
    worker_options : mapping, optional
        Of Ray's actors: ``resources``, ``runtime_env``, ``scheduling_strategy``, ...

    Raises
    ------
    ValueError
        If a number is out of its range, the engine refuses its options, or the workers find models
        of different content, as on machines of which one has an older copy.
    RuntimeError
        If no worker starts.

    Notes
    -----
    Replies do not depend on the number of workers, except where the engine's own depend on what it
    computes together: by rounding, two tokens of almost equal probability may change places, and
    the Transformers engine draws the samples of a batch together.

    A worker that dies or hangs is replaced (with a warning), and its prompts are asked again. One
    that ends every worker which holds it gets a reply of `finish_reason` "error" and no text, its
    scores are NaN, and its searches find nothing.

    Tokens are counted here, by the tokenizer that the first worker sends. An engine of one's own
    without a `tokenizer` counts them in a worker, when its call returns: that takes long.
    """

    def __init__(
        self,
        engine_factory: Callable[[], Any],
        n_workers: int | None = None,
        gpus_per_worker: float | None = None,
        address: str | None = None,
        *,
        cpus_per_worker: float = 1,
        chunk: int = 16,
        startup_seconds: float = 1200.0,
        hang_seconds: float = 900.0,
        ray_options: Mapping[str, Any] | None = None,
        worker_options: Mapping[str, Any] | None = None,
    ) -> None:
        if (n_workers is not None and n_workers < 1) or chunk < 1:
            raise ValueError(f"n_workers and chunk must be at least 1, got {n_workers} and {chunk}")
        if (gpus_per_worker or 0) < 0 or cpus_per_worker < 0:
            raise ValueError(
                "gpus_per_worker and cpus_per_worker must not be negative, got "
                f"{gpus_per_worker} and {cpus_per_worker}"
            )
        self._workers = RayWorkers(
            engine_factory,
            address,
            n_workers=n_workers,
            gpus=gpus_per_worker,
            cpus=cpus_per_worker,
            ray_options=ray_options or {},
            worker_options=worker_options or {},
        )
        self._finalizer = weakref.finalize(self, self._workers.close)
        self.n_workers = self._workers.n
        try:
            self._dispatcher = Dispatcher(
                self._workers,
                self.n_workers,
                chunk=chunk,
                startup_seconds=startup_seconds,
                hang_seconds=hang_seconds,
            )
            self.wait_ready(1)
        except BaseException:  # an interrupt, too, leaves no process behind
            self.close()
            raise
        for name in SHARED:
            setattr(self, name, self._workers.facts[name])  # as they are where the workers are

    def wait_ready(self, n: int | None = None) -> None:
        """Wait until so many workers are ready: all, by default.

        Nothing else has to wait: those that come later join in.
        """
        self._dispatcher.wait_ready(self.n_workers if n is None else n)

    def describe(self):
        return {
            **self._workers.facts["description"],
            "workers": self.n_workers,
            "gpus_per_worker": self._workers.options["num_gpus"],
            "ray": ray.__version__,
        }

    def close(self):
        self._finalizer()

    def count_tokens(self, prompts):
        if self.tokenizer is None:
            return self._workers.count_tokens(list(prompts))
        return super().count_tokens(prompts)

    def stream(self, requests, *, seconds=None):
        return self._dispatcher.run(
            "replies",
            self._checked(requests, lambda i, p, own: self.encode_fitting(i, p, own.limit)),
            size=lambda request: len(request[0]) + request[1].limit,
            give_up=lambda request: [FAILED] * request[1].n,
        )

    def stream_scores(self, requests):
        return self._dispatcher.run(
            "scores",
            self._checked(requests, self.encode_continuations),
            size=lambda request: len(request[0]) + sum(map(len, request[1])),
            give_up=lambda request: [math.nan] * len(request[1]),
        )

    def run_searches(self, searches):
        def give_up(search: Search) -> Search:
            search.live = []
            return search

        return self._dispatcher.run(
            "searches",
            searches,
            size=lambda search: len(search.token_ids) + search.max_tokens,
            give_up=give_up,
        )

    def _checked(self, requests: Iterable[Any], check: Callable[..., Any]) -> Iterator[Any]:
        """Check each request, so that a mistake is an error here, before it is on its way."""
        for index, request in enumerate(requests):
            if self.tokenizer is not None:
                check(index, *request)
            yield request
