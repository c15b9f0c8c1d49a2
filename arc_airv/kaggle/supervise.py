"""Work that survives its workers: shares of the tasks in other processes, which are watched.

A worker (`arc_airv.kaggle.worker`) that fails to start, dies or hangs is ended with all its
processes, so that its GPU is free again, and followed by one of a humbler configuration. Nothing
runs past the deadline, and nothing fills the disk. What was predicted is in the stores throughout,
whatever happens here.
"""

import json
import math
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from arc_airv.augment import Plan
from arc_airv.engines.auto import ENGINES
from arc_airv.engines.base import Sampling
from arc_airv.engines.fingerprint import fingerprint, model_fingerprint
from arc_airv.engines.model_folder import look_at_model
from arc_airv.kaggle.log import Log
from arc_airv.kaggle.process import Limits, Share, Worker, store_size
from arc_airv.records import mend_store
from arc_airv.storage import MADE_OTHERWISE, has_run, other_contents, read_run
from arc_airv.tasks import Task, check_deadline, hide_outputs, save_tasks

MOST_MEMORY = 0.95  # of a GPU, for a cache that was too small
KEPT = ("dtype", "max_model_len", "device", "tokenizer")  # options that both engines know
NO_CACHE = re.compile(r"KV cache is needed|No available memory for the cache blocks")
FITTING = re.compile(r"estimated maximum model length is (\d+)")
# Causes of a failure, and the options of which one has to change to mend it. Of a cause that is not
# here, such as a lack of memory, anything may.
MENDED_BY = {
    r"less than desired GPU memory utilization": {"engine", "gpu_memory_utilization"},
    r"(?i)cuda ?graph|torch\.compile|torch\._dynamo|inductor|triton": {"engine", "enforce_eager"},
    r"(?i)ModuleNotFoundError|ImportError|no kernel image|not supported|unsupported|has no option"
    r"|validation error|is quantized|keeps no plain cache": {"engine"},
    rf"answers another prompt|{MADE_OTHERWISE}": set(),
}


def mending(configurations: Sequence[Mapping[str, Any]], error: str) -> list[Mapping[str, Any]]:
    """Choose what to try next, after the first of some configurations failed with an error.

    Those of the rest that change something that could mend the cause. Where vLLM's cache is too
    small for the longest request, less memory would make it worse: it gets more, then a shorter
    context (vLLM says which fits), so that only the longest prompts go unanswered. An engine of
    one's own gets the next one, whatever happened.
    """
    failed, rest = configurations[0], list(configurations[1:])
    if failed.get("engine") not in ENGINES:
        return rest

    def changed(other: Mapping[str, Any]) -> set[str]:
        if other["engine"] != failed["engine"]:
            return {"engine"}
        one, two = failed["options"], other["options"]
        return {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)}

    if failed["engine"] == "vllm" and NO_CACHE.search(error):
        others = [other for other in rest if "engine" in changed(other)]
        return [*_more_cache(failed, error), *others]
    for cause, mended_by in MENDED_BY.items():
        if re.search(cause, error):
            return [other for other in rest if changed(other) & mended_by]
    return rest


def _more_cache(failed: Mapping[str, Any], error: str) -> list[dict[str, Any]]:
    """Return the configuration with more of the GPU's memory or, if it has that, less context."""
    options, fitting = failed["options"], FITTING.search(error)
    roomy = {**options, "enforce_eager": True, "max_num_seqs": options.get("max_num_seqs") or 64}
    if (options.get("gpu_memory_utilization") or MOST_MEMORY) < MOST_MEMORY:
        return [{**failed, "options": {**roomy, "gpu_memory_utilization": MOST_MEMORY}}]
    if fitting and int(fitting[1]) < (options.get("max_model_len") or math.inf):
        return [{**failed, "options": {**options, "max_model_len": int(fitting[1])}}]
    return []


def degrade(configuration: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the configurations to try one after the other, from the one asked for to the humblest.

    vLLM as asked, with fewer sequences at once and less of the memory, without CUDA graphs; then
    the Transformers engine, with smaller batches, and on the CPU. The context length is the same in
    all of them: a prompt must not depend on what happened before, and only a cache that is too
    small for the longest shortens it (see `mending`). An engine of one's own has no
    humbler form. Which of them are tried depends on what fails, see `mending`.
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
        kept = {k: v for k, v in options.items() if k in KEPT}
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
    """Split tasks into parts of about the same work, by the cells of the prompts; none is empty."""
    parts: list[dict[str, Task]] = [{} for _ in range(n)]
    loads = [0] * n

    def cells(task: Task) -> int:
        shown = sum(pair.input.size + pair.output.size for pair in task.train)
        return len(task.test) * shown + sum(pair.input.size for pair in task.test)

    for task_id in sorted(tasks, key=lambda t: cells(tasks[t]), reverse=True):
        lightest = loads.index(min(loads))
        parts[lightest][task_id] = tasks[task_id]
        loads[lightest] += cells(tasks[task_id])
    return [part for part in parts if part]


def store_paths(store: str | Path, n: int) -> list[Path]:
    """Name the stores of n workers: the path itself for one, else ``<name>.0.jsonl`` and so on."""
    store = Path(store)
    if n == 1:
        return [store]
    return [store.with_name(f"{store.name.removesuffix('.jsonl')}.{i}.jsonl") for i in range(n)]


def find_stores(store: str | Path) -> list[Path]:
    """List the stores that there are of this name, of any number of workers."""
    store = Path(store)
    name = re.compile(re.escape(store.name.removesuffix(".jsonl")) + r"(\.\d+)?\.jsonl")
    return sorted(path for path in store.parent.glob("*.jsonl") if name.fullmatch(path.name))


def supervise_generation(
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
    limits: Limits = Limits(),  # noqa: B008 (it is frozen)
    log: Log | None = None,
    watch: Callable[[], None] | None = None,
    **options: Any,
) -> list[Path]:
    """Fill stores with predictions until the deadline, whatever the engines do.

    Parameters
    ----------
    tasks : dict of str to Task
        The workers do not see their test outputs.
    configurations : sequence of mapping
        ``engine`` and ``options`` of each, tried in this order, but for those that could not mend
        what failed: see `degrade` and `mending`. The last one is tried again as long as it makes
        predictions.
    store : str or Path
        ``<name>.jsonl``; with several devices, ``<name>.0.jsonl`` and so on. Stores that are there
        are gone on with.
    n_predictions : int
        At most so many of every test output.
    devices : sequence of str or None, default (None,)
        A worker for each, with this CUDA_VISIBLE_DEVICES (None leaves it); the tasks are shared
        out. A device for which nothing worked leaves its share to the others.
    deadline : float, optional
        Moment (``time.time()``) at which no worker runs any more.
    log : Log, optional
        By default a new one, which is printed.
    watch : function, optional
        Called between two looks at the workers. It must not raise.
    **options
        Passed to `arc_airv.infer.generate_predictions` (JSON values).

    Returns
    -------
    list of Path
        The stores, which may hold anything between nothing and all: read them with
        `arc_airv.records.read_stores`. One that did not grow and was made with other settings or by
        another model is not among them, also where no worker came to open it. (Nothing tells the
        model of an engine of one's own, until it opens the store.)

    Raises
    ------
    ValueError
        If there is no configuration or no device, or the model cannot be right (see
        `arc_airv.engines.look_at_model`).
    """
    if not configurations or not devices:
        raise ValueError("supervise_generation needs at least one configuration and one device")
    ours = [c["options"] for c in configurations if c["engine"] in ENGINES]
    if ours:
        look_at_model(model, has_tokenizer=any("tokenizer" in options for options in ours))
    job = {
        "do": "generate",
        "model": str(model),
        "n_predictions": n_predictions,
        "sampling": asdict(sampling or Sampling()),
        "generate": {"seed": seed, **options},
    }
    check_deadline(deadline)
    if deadline is not None:
        job["generate"]["deadline"] = deadline - limits.grace_seconds
    Path(store).parent.mkdir(parents=True, exist_ok=True)
    shares = share_out(tasks, store_paths(store, len(devices)), job)
    sizes = {share.path: store_size(share.path) for share in shares}
    named = {f"worker {number}": device for number, device in enumerate(devices)}
    refused = run_shares(shares, named, configurations, deadline, limits, log or Log(), watch)
    # One that grew is ours: a humbler configuration was refused what one before it had made.
    grew = {path for path, size in sizes.items() if store_size(path) > size}
    return [
        path
        for path in sizes
        if path in grew or not (path in refused or _made_otherwise(path, configurations, job))
    ]


def _made_otherwise(
    path: Path, configurations: Sequence[Mapping[str, Any]], job: Mapping[str, Any]
) -> bool:
    """Tell if a store has another model or other settings than a job, as far as both are known."""
    try:
        run = read_run(path) if has_run(path) else {}
    except ValueError:  # not readable
        return False
    known, model, asked = run.get("fingerprints", {}), job["model"], job["generate"]
    models = {
        model_fingerprint(model, c["options"]) if c["engine"] in ENGINES else None
        for c in configurations
    }
    if "model" not in known or None in models:
        return False
    adapters = asked.get("adapters") or {}
    own = {folder: fingerprint(folder) for folder in {*adapters.values()}}
    own = {f"adapter of {task_id}": own[folder] for task_id, folder in adapters.items()}
    own = {name: content for name, content in own.items() if content is not None}
    plan = {field.name: asked[field.name] for field in fields(Plan) if field.name in asked}
    settings = {
        "plan": asdict(Plan(**plan)),
        "sampling": Sampling(**job["sampling"]).settings(),
        "drop_demonstrations": asked.get("drop_demonstrations", False),
    }
    before = run.get("settings", {})
    return (
        known["model"] not in models
        or other_contents(known, own)
        or ("adapters" in before) != bool(adapters)
        or any(before.get(k) != v for k, v in json.loads(json.dumps(settings)).items())
    )


def share_out(
    tasks: dict[str, Task],
    paths: Sequence[Path],
    job: Mapping[str, Any],
    *,
    label: str = "",
    may_repeat: bool = True,
) -> list[Share]:
    """Make a share of the tasks, their test outputs hidden, for each path."""
    shares = []
    for path, part in zip(paths, split_tasks(hide_outputs(tasks), len(paths))):
        share = Share(path, {**job, "store": str(path)}, f"{label}{len(part)} tasks", may_repeat)
        share.job["tasks"] = str(save_tasks(part, share.beside("tasks.json")))
        shares.append(share)
    return shares


def run_shares(
    shares: Sequence[Share],
    devices: Mapping[str, str | None],
    configurations: Sequence[Mapping[str, Any]],
    deadline: float | None,
    limits: Limits,
    log: Log,
    watch: Callable[[], None] | None = None,
) -> set[Path]:
    """Run a worker for each share, on the devices that work, until the deadline.

    Return the stores that were refused, for they were made with other settings. `devices` are the
    CUDA_VISIBLE_DEVICES of each by its name in the log. A share's job gets the configurations in
    turn, as a device tries them. The others are as in `supervise_generation`.
    """
    crew = [_Device(name, visible, configurations, log) for name, visible in devices.items()]
    waiting = list(shares)
    handover = None  # when a device gives up its own share for one that lost its device
    try:
        while shares and _has_room(shares[0].path.parent, limits.keep_free, log):
            left = math.inf if deadline is None else deadline - time.time()
            for device in crew:
                if (share := device.check()) is not None:
                    waiting.insert(0, share)
                is_free = device.worker is None and device.to_try
                if is_free and waiting and left > 2 * limits.grace_seconds:
                    device.start(waiting.pop(0), deadline, limits)
            running = [device for device in crew if device.worker is not None]
            if not running:
                if waiting:
                    reason = "no device" if left > 2 * limits.grace_seconds else "no time"
                    log.add("supervisor", f"{len(waiting)} shares wait, {reason}", failed=True)
                break
            if not waiting or deadline is None:
                handover = None
            elif handover is None:
                handover = time.time() + left / 2
            elif time.time() >= handover:
                running[0].stop()
                log.add(running[0].name, "stops, for a share that lost its device")
                handover = None
            if watch is not None:
                watch()
            time.sleep(limits.poll_seconds)
        for device in crew:
            device.stop()
    finally:  # also when the notebook's cell is interrupted
        for device in crew:
            device.end()
    return {path for device in crew for path in device.refused}


class _Device:
    """A device: the configurations that it has still to try, and the worker that it runs."""

    def __init__(
        self, name: str, visible: str | None, to_try: Sequence[Mapping[str, Any]], log: Log
    ) -> None:
        self.name = name
        self.visible = visible
        self.to_try = list(to_try)
        self.log = log
        self.worker: Worker | None = None
        self.refused: list[Path] = []

    def start(self, share: Share, deadline: float | None, limits: Limits) -> None:
        configuration = self.to_try[0]
        if dropped := mend_store(share.path):
            self.log.add(self.name, f"{share.path}: dropped {dropped} broken lines", failed=True)
        self.worker = Worker(share, configuration, self.visible, deadline, limits)
        described = f", {dict(configuration)}" if configuration else ""
        self.log.add(self.name, share.text + described)

    def check(self) -> Share | None:
        """Look after the worker; return its share if it failed and is to be tried again."""
        if self.worker is None:
            return None
        messages, ended = self.worker.check()
        for text in messages:
            if not (text.startswith("warning: ") and self.log.holds(text)):  # of another worker
                self.log.add(self.name, text)
        if ended is None:
            return None
        share, made = self.worker.share, self.worker.progress
        if self.worker.refused:
            self.refused.append(share.path)
        said = f"{ended.text} (its log: {self.worker.log})" if ended.failed else ended.text
        self.end()
        self.log.add(self.name, said, failed=ended.failed)
        if not ended.failed or ended.is_over or not share.may_repeat:
            return None
        further = mending(self.to_try, ended.error)
        skipped = self.to_try[1:] if not further else []
        if further or not made:
            self.to_try = further
        if not self.to_try:
            useless = f": the {len(skipped)} humbler ones would not mend this" if skipped else ""
            self.log.add(self.name, f"no configuration is left to try{useless}", failed=True)
        return share

    def stop(self) -> None:
        if self.worker is not None:
            self.worker.stop()
            self.end()

    def end(self) -> None:
        if self.worker is not None:
            self.worker.end()
            self.worker = None


def _has_room(folder: Path, keep_free: float, log: Log) -> bool:
    free = shutil.disk_usage(folder).free / 2**20
    if free < keep_free:
        log.add("disk", f"only {free:.1f} MiB are free: the engines stop", failed=True)
    return free >= keep_free
