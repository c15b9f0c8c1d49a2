"""Test-time fine-tuning: learn the tasks to be answered from their demonstrations alone.

Each demonstration in turn is the question and others are the context, under every augmentation.
Joint: one model for all tasks. Per task: one LoRA adapter each, all under one time budget; the
engines then answer every task with its own adapter in one batch. No test pair is looked at.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from arc_airv.engines.adapters import UNTRAINED, import_peft
from arc_airv.prompts.format import PromptFormat
from arc_airv.tasks import Task
from arc_airv.training.examples import ExampleStream, Source, demonstrations
from arc_airv.training.train import CHECKPOINT, TrainConfig, save_model, train


def finetune_joint(
    model: str | Path,
    tasks: dict[str, Task],
    config: TrainConfig,
    folder: str | Path,
    *,
    max_tokens: int,
    deadline: float | None = None,
    seed: int = 0,
    device: str | None = None,
) -> Path:
    """Fine-tune one model on the demonstrations of all tasks.

    Parameters
    ----------
    model : str or Path
        Model folder with a ``prompt_format.json``.
    tasks : dict of str to Task
        Their outputs may be hidden; tasks without two demonstrations that fit are left out.
    config : TrainConfig
    folder : str or Path
        Gets the fine-tuned model, an ordinary model folder. If it holds a checkpoint, training
        goes on from there.
    max_tokens : int
        Longest training example; pairs are drawn so that it holds.
    deadline : float, optional
        Moment (``time.time()`` seconds) by which to be done: shortens the budget.
    seed : int, default 0
    device : str, optional
        By default CUDA where there is one.

    Returns
    -------
    Path
        `folder`.

    Raises
    ------
    ValueError
        If the model folder has no prompt format, or no task can be learnt from.
    """
    network, tokenizer, prompt_format = _load(model, device)
    source = Source("demonstrations", demonstrations(tasks))
    stream = ExampleStream([source], prompt_format, tokenizer, max_tokens=max_tokens, seed=seed)
    train(network, stream, config, folder, deadline=deadline)
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
    device: str | None = None,
) -> dict[str, Path]:
    """Fine-tune one LoRA adapter for each task on its own demonstrations.

    Parameters
    ----------
    model : str or Path
        Model folder with a ``prompt_format.json``.
    tasks : dict of str to Task
        Their outputs may be hidden.
    config : TrainConfig
        Its `seconds` are the budget of all tasks together; each gets an equal share of what is
        left when its turn comes. What a killed call has spent is not given again: the tasks that
        it had finished keep their shares. `muon_lr` is not used: adapters are trained with AdamW.
    folder : str or Path
        Gets one adapter folder a task. A task that has one is not trained again.
    max_tokens : int
        Longest training example.
    rank : int, default 16
        Of the adapters, on all linear layers of the blocks; alpha is twice the rank. An engine
        must be told of it if it is large (vLLM's ``max_lora_rank`` is 16 by default).
    deadline : float, optional
        Moment (``time.time()`` seconds) by which to be done: shortens the budget.
    seed : int, default 0
    device : str, optional
        By default CUDA where there is one.

    Returns
    -------
    dict of str to Path
        The adapter of every task, absolute. A task that cannot be learnt from (no two
        demonstrations that fit), or whose turn did not come before the deadline, has the
        untrained adapter: it answers as the model itself does. (vLLM must not be given prompts
        with and without an adapter in one batch.)

    Raises
    ------
    ValueError
        If the model folder has no prompt format.
    """
    import torch

    peft = import_peft()
    folder = Path(folder).resolve()
    network, tokenizer, prompt_format = _load(model, device)
    lora = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    config = replace(config, muon_lr=None)
    adapters, streams = {}, {}
    for task_id, task in tasks.items():
        source = Source(task_id, demonstrations({task_id: task}))
        try:
            streams[task_id] = ExampleStream(
                [source], prompt_format, tokenizer, max_tokens=max_tokens, seed=seed
            )
        except ValueError:  # nothing to learn from
            adapters[task_id] = folder / UNTRAINED
        else:
            adapters[task_id] = folder / task_id
    waiting = [task_id for task_id in streams if not adapters[task_id].exists()]
    # First of all, so that whatever ends this call, every task has an adapter.
    if not (folder / UNTRAINED).exists():
        adapted = peft.get_peft_model(network, lora)
        _save_whole(partial(save_model, adapted, tokenizer, prompt_format), folder / UNTRAINED)
        network = adapted.unload()
    end = time.time() + config.seconds * len(waiting) / max(1, len(streams))
    end = end if deadline is None else min(end, deadline)
    for done, task_id in enumerate(waiting):
        share = (end - time.time()) / (len(waiting) - done)
        if share <= 0:
            adapters[task_id] = folder / UNTRAINED
            continue
        for killed in folder.glob(f".{task_id}.*"):
            shutil.rmtree(killed)
        torch.manual_seed(seed)
        adapted = peft.get_peft_model(network, lora)
        options = replace(config, seconds=share)
        learn = partial(train, adapted, streams[task_id], options, deadline=deadline)
        _save_whole(learn, adapters[task_id])
        network = adapted.unload()
    return adapters


def _save_whole(save: Callable[[Path], object], folder: Path) -> None:
    """Let `save` fill a folder that has its name when it is whole: a kill leaves no half of it."""
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    save(unfinished)
    (unfinished / CHECKPOINT).unlink(missing_ok=True)
    try:
        unfinished.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(unfinished)


def _load(model: str | Path, device: str | None) -> tuple[Any, Any, PromptFormat]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prompt_format = PromptFormat.load(model)
    if prompt_format is None:
        raise ValueError(f"{model}: no prompt_format.json; save a PromptFormat there first")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    # Weights that are trained stay in float32; the arithmetic is bfloat16 where there is any.
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).to(device)
    return network, AutoTokenizer.from_pretrained(model), prompt_format
