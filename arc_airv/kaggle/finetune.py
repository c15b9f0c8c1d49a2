"""Test-time fine-tuning that cannot hurt a run: in other processes, one a GPU, ended in time.

What fails here costs the gain and not the answers: the model is then asked as it was. The memory
of a GPU is free again afterwards, for the engine that comes next.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arc_airv.engines.adapters import UNTRAINED
from arc_airv.kaggle.log import Account
from arc_airv.kaggle.process import Share, Worker
from arc_airv.kaggle.supervise import split_tasks
from arc_airv.storage import write_atomically
from arc_airv.tasks import Task, hide_outputs, save_tasks

MODES = ("joint", "per_task")
# Adapters and pre-trained models want AdamW; an optimizer without history wants a gentle start.
TRAINING = {"muon_lr": None, "adamw_lr": 1e-3, "warmup": 0.1}


def supervise_finetuning(
    tasks: dict[str, Task],
    *,
    mode: str,
    model: str | Path,
    folder: str | Path,
    deadline: float,
    max_tokens: int,
    rank: int = 16,
    training: Mapping[str, Any] | None = None,
    seed: int = 0,
    devices: Sequence[str | None] = (None,),
    account: Account | None = None,
    grace_seconds: float = 30.0,
    poll_seconds: float = 0.5,
) -> tuple[Path, dict[str, Path] | None]:
    """Fine-tune a model on the demonstrations of the tasks to be answered, whatever happens.

    Parameters
    ----------
    tasks : dict of str to Task
        The workers do not see their test outputs.
    mode : {"joint", "per_task"}
        One model for all tasks, or an adapter each: see `arc_airv.training.ttft`.
    model : str or Path
        Model folder with a ``prompt_format.json``.
    folder : str or Path
        Gets the model or the adapters, and the logs. What is there already is gone on with.
    deadline : float
        Moment (``time.time()``) at which no worker runs any more.
    max_tokens : int
        Longest training example.
    rank : int, default 16
        Of the adapters; not used by "joint".
    training : mapping, optional
        Options of `arc_airv.training.TrainConfig` (JSON values) but for `seconds`, over `TRAINING`.
    seed : int, default 0
    devices : sequence of str or None, default (None,)
        A worker for each, with this CUDA_VISIBLE_DEVICES (None leaves it), which share the tasks
        out. A joint model is trained on the first one.
    account : Account, optional
        Where to write down what happens; by default a new one, which is printed.
    grace_seconds : float, default 30
        Training stops so long before the deadline, and is ended by force at it.
    poll_seconds : float, default 0.5

    Returns
    -------
    model : Path
        The model to ask: the fine-tuned one, or the one that came.
    adapters : dict of str to Path, or None
        For `arc_airv.infer.generate_predictions`: that of each task. A task whose training did not
        come to its end has one that changes nothing. None: ask without adapters.

    Raises
    ------
    ValueError
        If there is no such mode, or no device.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
    if not devices:
        raise ValueError("supervise_finetuning needs at least one device")
    account = account or Account()
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    job = {
        "do": "finetune",
        "mode": mode,
        "model": str(model),
        "folder": str(folder),
        "deadline": deadline - grace_seconds,
        "max_tokens": max_tokens,
        "seed": seed,
        "training": {**TRAINING, **(training or {})},
        "options": {"rank": rank} if mode == "per_task" else {},
    }
    used = devices[:1] if mode == "joint" else devices
    limits = math.inf, math.inf, grace_seconds  # a slow first step is no failure
    workers: dict[str, Worker] = {}
    failed = not tasks
    try:
        for number, part in enumerate(split_tasks(hide_outputs(tasks), len(used))):
            name = f"finetune.{number}"
            file = save_tasks(part, folder / f"{name}.tasks.json")
            share = Share(folder / name, {**job, "tasks": str(file)}, len(part))
            path = folder / f"{name}.job.json"
            write_atomically(path, json.dumps(share.job))
            workers[name] = Worker(share, path, used[number], deadline, *limits)
            account.add(name, f"{mode}, {len(part)} tasks")
        while workers:
            time.sleep(poll_seconds)
            for name, worker in list(workers.items()):
                _, end = worker.check()
                if end is not None:
                    workers.pop(name).end()
                    account.add(name, end.text, failed=end.failed)
                    failed |= end.failed
    finally:  # also when the notebook's cell is interrupted
        for worker in workers.values():
            worker.end()
    if mode == "joint":
        return (Path(model) if failed else folder), None
    adapters = {task_id: folder / task_id for task_id in tasks}
    n_trained = sum(path.exists() for path in adapters.values())
    account.add("finetune", f"{n_trained} of {len(tasks)} tasks have learnt an adapter")
    if not n_trained:  # answering through adapters that change nothing would only be slower
        return Path(model), None
    return Path(model), {
        task_id: path if path.exists() else folder / UNTRAINED for task_id, path in adapters.items()
    }
