"""Test-time fine-tuning that cannot hurt a run: in other processes, one a GPU, ended in time.

What fails here costs the gain and not the answers: the model is then asked as it was. The memory
of a GPU is free again afterwards, for the engine that comes next.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from arc_airv.engines.adapters import UNTRAINED, adapter_folder
from arc_airv.engines.model_folder import look_at_model
from arc_airv.kaggle.log import Log
from arc_airv.kaggle.process import Limits
from arc_airv.kaggle.supervise import run_shares, share_out
from arc_airv.tasks import Task, check_deadline, load_tasks

MODES = ("joint", "per_task")
# Adapters and pre-trained models want AdamW; an optimizer without history wants a gentle start.
# A small window, so that the first step comes soon and the last one ends in time.
TRAINING = {"muon_lr": None, "adamw_lr": 1e-3, "warmup": 0.1, "window": 256}


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
    prompt_format: Mapping[str, Any] | None = None,
    devices: Sequence[str | None] = (None,),
    limits: Limits = Limits(),  # noqa: B008 (it is frozen)
    log: Log | None = None,
) -> tuple[Path, dict[str, Path] | None]:
    """Fine-tune a model on the demonstrations of the tasks to be answered, whatever happens.

    Parameters
    ----------
    tasks : dict of str to Task
        The workers do not see their test outputs.
    mode : {"joint", "per_task"}
        One model for all tasks, or an adapter each: see `arc_airv.training.ttft`.
    model : str or Path
        Model folder.
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
    prompt_format : mapping, optional
        As JSON values, like the content of ``prompt_format.json``. By default that of the model.
    devices, limits, log
        As in `supervise_generation`. A joint model is trained on the first device. A slow start and
        a long silence are no failure of a training.

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
        If there is no such mode, or no device, or the model cannot be right (see
        `arc_airv.engines.look_at_model`) or is an adapter, which is to be merged first.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
    if not devices:
        raise ValueError("supervise_finetuning needs at least one device")
    if tasks and look_at_model(model).adapter:
        raise ValueError(
            f"{model} is an adapter: merge it into its base (peft's merge_and_unload) to learn more"
        )
    check_deadline(deadline)
    log = log or Log()
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    job = {
        "do": "finetune",
        "mode": mode,
        "model": str(model),
        "training": {**TRAINING, **(training or {})},
        "finetune": {
            "folder": str(folder),
            "max_tokens": max_tokens,
            "seed": seed,
            "prompt_format": prompt_format,
            "deadline": deadline - limits.grace_seconds,
            **({"rank": rank} if mode == "per_task" else {}),
        },
    }
    used = devices[:1] if mode == "joint" else devices
    named = {f"finetune.{number}": device for number, device in enumerate(used)}
    paths = [folder / name for name in named]
    shares = share_out(tasks, paths, job, label=f"{mode}, ", may_repeat=False)
    limits = replace(limits, startup_seconds=math.inf, hang_seconds=math.inf)
    adapters = {task_id: adapter_folder(folder, task_id) for task_id in tasks}
    n_failures, before = len(log.failures), {t for t, path in adapters.items() if path.exists()}
    run_shares(shares, named, [{}], deadline, limits, log)
    failed = {event.who for event in log.failures[n_failures:]}
    if mode == "joint":
        return (Path(model) if failed or not tasks else folder), None
    trained = {task_id for task_id, path in adapters.items() if path.exists()}
    for share in shares:  # each has the name of its device
        own = trained.intersection(load_tasks(share.job["tasks"]))
        # What was there may be of another model or other tasks. A training looks at all of it
        # before it learns anything; what failed without a new adapter may not have come so far.
        if own <= before and (share.path.name in failed or failed - named.keys()):
            trained -= own
    log.add("finetune", f"{len(trained)} of {len(tasks)} tasks have learnt an adapter")
    if not trained:  # adapters that change nothing would only be slower
        return Path(model), None
    return Path(model), {
        task_id: path if task_id in trained else folder / UNTRAINED
        for task_id, path in adapters.items()
    }
