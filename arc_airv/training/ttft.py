"""Test-time fine-tuning: learn the tasks to be answered from their demonstrations alone.

Each demonstration in turn is the question and others are the context, under every augmentation.
Joint: one model for all tasks. Per task: one LoRA adapter each, all under one time budget; the
engines then answer every task with its own adapter in one batch. No test pair is looked at.
"""

import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from arc_airv.engines.adapters import MADE_BY, UNTRAINED, adapter_folder, import_peft
from arc_airv.engines.fingerprint import fingerprint
from arc_airv.prompts import PromptFormat
from arc_airv.storage import check_same, write_atomically
from arc_airv.tasks import Task, check_deadline, hash_demonstrations
from arc_airv.training.examples import ExampleStream, Source, demonstrations
from arc_airv.training.train import (
    CHECKPOINT,
    Diverged,
    TrainConfig,
    load_model,
    save_model,
    train,
)


def finetune_joint(
    model: str | Path,
    tasks: dict[str, Task],
    config: TrainConfig,
    folder: str | Path,
    *,
    max_tokens: int,
    deadline: float | None = None,
    seed: int = 0,
    prompt_format: PromptFormat | dict[str, Any] | None = None,
) -> Path:
    """Fine-tune one model on the demonstrations of all tasks.

    Parameters
    ----------
    model : str or Path
        Model folder.
    tasks : dict of str to Task
        Their outputs may be hidden; tasks without two demonstrations that fit are left out, with
        a warning.
    folder : str or Path
        Gets the fine-tuned model, an ordinary model folder, and is returned. If it holds a
        checkpoint, training resumes from there: it must be of the same model, tasks and options.
    max_tokens : int
        Longest training example, in the tokens of this format and tokenizer; pairs are drawn so
        that it holds.
    deadline : float, optional
        Moment (``time.time()`` seconds) by which to be done: shortens the budget.
    prompt_format : PromptFormat or dict, optional
        As for `arc_airv.infer.generate_predictions`. It is saved with what is trained, and asked
        in from then on.

    Raises
    ------
    ValueError
        If no task can be learnt from, or the checkpoint is of something else.
    """
    network, tokenizer, chosen = load_model(model, prompt_format=prompt_format)
    source = Source("demonstrations", demonstrations(tasks))
    stream = ExampleStream([source], chosen, tokenizer, max_tokens=max_tokens, seed=seed)
    _tell_left_out(stream.left_out, tasks, max_tokens)
    train(network, stream, config, folder, base=fingerprint(model), deadline=deadline)
    return Path(folder)


def finetune_per_task(
    model: str | Path,
    tasks: dict[str, Task],
    config: TrainConfig,
    folder: str | Path,
    *,
    max_tokens: int,
    rank: int = 16,
    deadline: float | None = None,
    seed: int = 0,
    prompt_format: PromptFormat | dict[str, Any] | None = None,
    small_base: bool = False,
) -> dict[str, Path]:
    """Fine-tune one LoRA adapter for each task on its own demonstrations.

    Parameters
    ----------
    model, tasks, max_tokens, deadline, seed, prompt_format
        As in `finetune_joint`.
    config : TrainConfig
        Its `seconds` are the budget of all tasks together; each gets an equal share of what is
        left when its turn comes. What a killed call has spent is not given again: the tasks that
        it had finished keep their shares. `muon_lr` is not used: adapters are trained with AdamW.
    folder : str or Path
        Gets one adapter folder a task. A task that has one is not trained again: it must be of the
        same model, demonstrations and options, but for the budget.
    rank : int, default 16
        Of the adapters, on all linear layers of the blocks; alpha is twice the rank. An engine
        must be told of it if it is large (vLLM's ``max_lora_rank`` is 16 by default).
    small_base : bool, default False
        Hold the model in bfloat16, its adapter in float32, and compute the layers again for the
        gradients: slower by a third, and 4B parameters fit a GPU of 24 GiB (docs/gpu.md).

    Returns
    -------
    dict of str to Path
        The adapter of every task, absolute. A task that cannot be learnt from (no two
        demonstrations that fit), or whose turn did not come before the deadline, or whose training
        diverged (a warning), has the untrained adapter: it answers as the model itself does. (vLLM
        must not be given prompts with and without an adapter in one batch.)

    Raises
    ------
    ValueError
        If the folder holds an adapter of something else.
    """
    check_deadline(deadline)
    folder = Path(folder).resolve()
    config = replace(config, muon_lr=None)
    dtype = torch.bfloat16 if small_base else torch.float32
    network, tokenizer, chosen = load_model(model, prompt_format=prompt_format, dtype=dtype)
    if small_base:
        recompute_layers(network)
    streams = {}
    for task_id, pairs in demonstrations(tasks).items():
        sources = [Source(task_id, {task_id: pairs})]
        try:
            stream = ExampleStream(sources, chosen, tokenizer, max_tokens=max_tokens, seed=seed)
            stream[0]  # an error if the tokenizer needs more tokens than was estimated
        except ValueError:  # nothing to learn from
            continue
        streams[task_id] = stream
    _tell_left_out([task_id for task_id in tasks if task_id not in streams], tasks, max_tokens)
    adapters = {task_id: adapter_folder(folder, task_id) for task_id in tasks}
    blank = {"model": fingerprint(model), "rank": rank, "prompt_format": chosen.to_dict()}
    method = {**blank, "small_base": small_base, **config.kept}
    made_by = {
        task_id: {
            **method,
            **(streams[task_id].describe() if task_id in streams else {}),
            "demonstrations": hash_demonstrations(task),
        }
        for task_id, task in tasks.items()
    }
    _check_made_by(folder / UNTRAINED, blank)
    for task_id, path in adapters.items():
        _check_made_by(path, made_by[task_id])
    waiting = [task_id for task_id in streams if not adapters[task_id].exists()]
    # First of all, so that whatever ends this call, every task has an adapter.
    if not (folder / UNTRAINED).exists():
        adapted = add_adapter(network, rank)
        with _whole(folder / UNTRAINED, blank) as unfinished:
            save_model(adapted, tokenizer, chosen, unfinished)
        network = adapted.unload()
    end = math.inf if deadline is None else deadline
    end = min(end, time.time() + config.seconds * len(waiting) / max(1, len(streams)))
    for done, task_id in enumerate(waiting):
        share = (end - time.time()) / (len(waiting) - done)
        if share <= 0:
            break
        for killed in folder.glob(f".{adapters[task_id].name}.*"):
            shutil.rmtree(killed)
        torch.manual_seed(seed)
        adapted = add_adapter(network, rank)
        options = replace(config, seconds=share)
        try:
            with _whole(adapters[task_id], made_by[task_id]) as unfinished:
                train(adapted, streams[task_id], options, unfinished, deadline=deadline)
        except Diverged as error:
            warnings.warn(f"task {task_id} is not learnt: {error}", stacklevel=2)
        network = adapted.unload()
    return {t: path if path.exists() else folder / UNTRAINED for t, path in adapters.items()}


def recompute_layers(network: Any) -> None:
    """Keep only the inputs of the layers for the gradients, and compute the rest again."""
    network.gradient_checkpointing_enable({"use_reentrant": False})


def add_adapter(network: Any, rank: int) -> Any:
    """Give a network a blank LoRA adapter on all linear layers of its blocks, to be trained."""
    peft, layers = import_peft(), {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    return peft.get_peft_model(network, peft.LoraConfig(r=rank, lora_alpha=2 * rank, **layers))


def _tell_left_out(left_out: list[str], tasks: dict[str, Task], max_tokens: int) -> None:
    if left_out:
        warnings.warn(
            f"{len(left_out)} of {len(tasks)} tasks are not learnt, because no two of their "
            f"demonstrations fit within max_tokens={max_tokens}: {', '.join(left_out[:5])}"
            f"{', ...' if left_out[5:] else ''}",
            stacklevel=3,
        )


def _check_made_by(folder: Path, settings: dict[str, Any]) -> None:
    """Raise a ValueError if an adapter is there that other settings made."""
    if folder.exists():
        file = folder / MADE_BY
        before = json.loads(file.read_text("utf-8")) if file.exists() else {}
        # "data" tells the demonstrations, too; older folders hold no other hash of them.
        check_same(folder, before, settings, free=["demonstrations"])


@contextmanager
def _whole(folder: Path, settings: dict[str, Any]) -> Iterator[Path]:
    """Give a folder to fill, which gets its name when it is whole: a kill leaves no half of it."""
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    yield unfinished
    (unfinished / CHECKPOINT).unlink(missing_ok=True)
    write_atomically(unfinished / MADE_BY, json.dumps(settings, indent=1))
    try:
        unfinished.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(unfinished)
