"""Generation that survives its engines: they run in other processes, which are watched.

A worker (`arc_airv.kaggle.worker`) that fails to start, dies or hangs is ended with all its
processes, so that its GPU is free again, and followed by one of a humbler configuration. Nothing
runs past the deadline, and nothing fills the disk. What was predicted is in the stores throughout,
whatever happens here.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from arc_airv.engines.base import Sampling
from arc_airv.kaggle.log import Account
from arc_airv.kaggle.process import Share, Worker
from arc_airv.records import mend_store
from arc_airv.storage import write_atomically
from arc_airv.tasks import Task, hide_outputs, save_tasks


def degrade(configuration: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The configurations to try one after the other, from the one asked for to the humblest.

    Parameters
    ----------
    configuration : mapping
        ``engine`` and ``options``, as `arc_airv.engines.engine_options` gives them.

    Returns
    -------
    list of dict
        vLLM as asked, with fewer sequences at once and less of the memory, without CUDA graphs;
        then the Transformers engine, with smaller batches, and on the CPU. The context length
        stays the same throughout: a prompt must not depend on what happened before. An engine of
        one's own has no humbler form.
    """
    engine, options = configuration["engine"], dict(configuration["options"])
    ladder = [{"engine": engine, "options": options}]
    if engine == "vllm":
        smaller = {**options, "max_num_seqs": max(4, (options.get("max_num_seqs") or 256) // 4)}
        if "gpu_memory_utilization" in options:
            smaller["gpu_memory_utilization"] = round(options["gpu_memory_utilization"] - 0.15, 2)
        ladder.append({"engine": engine, "options": smaller})
        ladder.append({"engine": engine, "options": {**smaller, "enforce_eager": True}})
    if engine in ("vllm", "transformers"):
        kept = {k: v for k, v in options.items() if k in ("dtype", "max_model_len", "device")}
        if kept.get("dtype") == "auto":
            del kept["dtype"]  # the engine finds what suits the device
        kept["batch_tokens"] = options.get("batch_tokens") or 16384
        if engine == "vllm":
            ladder.append({"engine": "transformers", "options": kept})
        smaller = {**kept, "batch_tokens": max(2048, kept["batch_tokens"] // 4)}
        ladder.append({"engine": "transformers", "options": smaller})
        on_cpu = {**smaller, "device": "cpu", "dtype": "float32"}
        ladder.append({"engine": "transformers", "options": on_cpu})
    return ladder


def split_tasks(tasks: dict[str, Task], n: int) -> list[dict[str, Task]]:
    """Shares of about the same work, by the cells of the prompts; none of them is empty."""
    shares: list[dict[str, Task]] = [{} for _ in range(n)]
    loads = [0] * n

    def cells(task: Task) -> int:
        shown = sum(pair.input.size + pair.output.size for pair in task.train)
        return len(task.test) * shown + sum(pair.input.size for pair in task.test)

    for task_id in sorted(tasks, key=lambda t: cells(tasks[t]), reverse=True):
        lightest = loads.index(min(loads))
        shares[lightest][task_id] = tasks[task_id]
        loads[lightest] += cells(tasks[task_id])
    return [share for share in shares if share]


def store_paths(store: str | Path, n: int) -> list[Path]:
    """The stores of n workers: the path itself for one, else ``<name>.0.jsonl`` and so on."""
    store = Path(store)
    if n == 1:
        return [store]
    return [store.with_name(f"{store.name.removesuffix('.jsonl')}.{i}.jsonl") for i in range(n)]


def supervise(
    tasks: dict[str, Task],
    *,
    model: str | Path,
    configurations: Sequence[Mapping[str, Any]],
    store: str | Path,
    n_predictions: int,
    seed: int,
    devices: Sequence[str | None] = (None,),
    deadline: float | None = None,
    sampling: Sampling | None = None,
    generate: Mapping[str, Any] | None = None,
    account: Account | None = None,
    startup_seconds: float = 1200.0,
    hang_seconds: float = 900.0,
    grace_seconds: float = 30.0,
    poll_seconds: float = 0.5,
    keep_free: float = 64.0,
) -> list[Path]:
    """Fill stores with predictions until the deadline, whatever the engines do.

    Parameters
    ----------
    tasks : dict of str to Task
        The workers do not see their test outputs.
    model : str or Path
    configurations : sequence of mapping
        ``engine`` and ``options`` of each, tried in this order: see `degrade`. The last one is
        tried again as long as it makes predictions.
    store : str or Path
        ``<name>.jsonl``; with several devices, ``<name>.0.jsonl`` and so on. Stores that are there
        are gone on with.
    n_predictions : int
        At most so many of every test output; see `arc_airv.infer.generate_predictions`.
    seed : int
    devices : sequence of str or None, default (None,)
        A worker for each, with this CUDA_VISIBLE_DEVICES (None leaves it); the tasks are shared
        out. A device for which nothing worked leaves its share to the others.
    deadline : float, optional
        Moment (``time.time()``) at which no worker runs any more.
    sampling : Sampling, optional
    generate : mapping, optional
        Further options of `arc_airv.infer.generate_predictions` (JSON values).
    account : Account, optional
        Where to write down what happens; by default a new one, which is printed.
    startup_seconds : float, default 1200
        An engine that is not ready after so long has failed.
    hang_seconds : float, default 900
        So long without a prediction is a hang.
    grace_seconds : float, default 30
        Workers are asked to stop so long before the deadline, and ended by force at it.
    poll_seconds : float, default 0.5
    keep_free : float, default 64
        MiB of the disk below which all workers are stopped: a full one would take the submission,
        too.

    Returns
    -------
    list of Path
        The stores, which may hold anything between nothing and all: read them with
        `arc_airv.records.read_stores`.

    Raises
    ------
    ValueError
        If there is no configuration or no device.
    """
    if not configurations or not devices:
        raise ValueError("supervise needs at least one configuration and one device")
    account = account or Account()
    job = {
        "do": "generate",
        "model": str(model),
        "n_predictions": n_predictions,
        "sampling": asdict(sampling or Sampling()),
        "generate": {
            "seed": seed,
            "deadline": None if deadline is None else deadline - grace_seconds,
            **(generate or {}),
        },
    }
    Path(store).parent.mkdir(parents=True, exist_ok=True)
    has_room = partial(_has_room, Path(store).parent, keep_free, account)
    stores, waiting = [], []
    parts = split_tasks(hide_outputs(tasks), len(devices))
    for path, part in zip(store_paths(store, len(devices)), parts):
        file = save_tasks(part, path.with_name(path.name + ".tasks.json"))
        waiting.append(Share(path, {**job, "tasks": str(file), "store": str(path)}, len(part)))
        stores.append(path)
    limits = startup_seconds, hang_seconds, grace_seconds
    crew = [_Device(number, name, account, limits) for number, name in enumerate(devices)]
    try:
        clock = deadline, grace_seconds, poll_seconds
        _run(crew, waiting, configurations, *clock, account, has_room)
    finally:  # also when the notebook's cell is interrupted
        for device in crew:
            device.end()
    return stores


class _Device:
    """A device: how far down the configurations it is, and the worker that it runs."""

    def __init__(
        self, number: int, name: str | None, account: Account, limits: tuple[float, float, float]
    ) -> None:
        self.who = f"worker {number}"
        self.name = name
        self.account = account
        self.limits = limits
        self.level = 0
        self.worker: Worker | None = None

    def start(self, share: Share, configuration: Mapping[str, Any], deadline: float | None) -> None:
        if dropped := mend_store(share.store):
            self.account.add(
                self.who, f"{share.store}: dropped {dropped} broken lines", failed=True
            )
        job = share.store.with_name(share.store.name + ".job.json")
        write_atomically(job, json.dumps({**share.job, **configuration}))
        self.worker = Worker(share, job, self.name, deadline, *self.limits)
        self.account.add(self.who, f"{share.n_tasks} tasks, {configuration}")

    def check(self, n_levels: int) -> Share | None:
        """Look after the worker; returns its share if it failed and is to be tried again."""
        messages, ended = self.worker.check()
        for text in messages:
            self.account.add(self.who, text)
        if ended is None:
            return None
        share, made = self.worker.share, self.worker.progress
        self.end()
        self.account.add(self.who, ended.text, failed=ended.failed)
        if not ended.failed or ended.is_over:
            return None
        if self.level < n_levels - 1 or not made:
            self.level += 1
        return share

    def stop(self) -> None:
        if self.worker is not None:
            self.worker.stop()
            self.end()

    def end(self) -> None:
        if self.worker is not None:
            self.worker.end()
            self.worker = None


def _has_room(folder: Path, keep_free: float, account: Account) -> bool:
    free = shutil.disk_usage(folder).free / 2**20
    if free < keep_free:
        account.add("disk", f"only {free:.1f} MiB are free: the engines stop", failed=True)
    return free >= keep_free


def _run(
    crew: list[_Device],
    waiting: list[Share],
    configurations: Sequence[Mapping[str, Any]],
    deadline: float | None,
    grace: float,
    poll: float,
    account: Account,
    has_room: Callable[[], bool],
) -> None:
    handover = None  # when a device gives up its own share for one that lost its device
    while True:
        if not has_room():
            for device in crew:
                device.stop()
            return
        left = float("inf") if deadline is None else deadline - time.time()
        for device in crew:
            if device.worker is not None:
                share = device.check(len(configurations))
                if share is not None:
                    waiting.insert(0, share)
                    if device.level == len(configurations):
                        account.add(device.who, "no configuration is left to try", failed=True)
            if device.worker is None and device.level < len(configurations):
                if waiting and left > 2 * grace:
                    device.start(waiting.pop(0), configurations[device.level], deadline)
        running = [device for device in crew if device.worker is not None]
        if not running:
            if waiting:
                reason = "no time" if left <= 2 * grace else "no device"
                account.add("supervisor", f"{len(waiting)} shares wait, {reason}", failed=True)
            return
        if not waiting or deadline is None:
            handover = None
        elif handover is None:
            handover = time.time() + left / 2
        elif time.time() >= handover:
            running[0].stop()
            account.add(running[0].who, "stops, for a share that lost its device")
            handover = None
        time.sleep(poll)
