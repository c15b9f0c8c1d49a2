"""Training a causal language model on ARC prompts, from scratch or from a model folder.

One loop for CPU and GPU: Muon for the matrices and AdamW for the rest, a warm-up / stable / decay
schedule that follows the clock (the stop rule is a time budget), checkpoints that resume where
they stopped, a JSON-lines log. Knows nothing of where examples come from; see `arc_airv.corpus`.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.parametrize import is_parametrized

from arc_airv.corpus import ExampleStream, make_batches
from arc_airv.muon import Muon, has_bfloat16
from arc_airv.tiny import plain_copy

CHECKPOINT = "checkpoint.pt"
LOG = "train_log.jsonl"
LONGEST_STEP = 5.0  # seconds of one step that count toward the budget


@dataclass(frozen=True)
class TrainConfig:
    """Options of `train`.

    Attributes
    ----------
    seconds : float
        Time budget of training, over all its resumed parts.
    batch_tokens : int
        Rows x padded length of one batch.
    muon_lr, adamw_lr : float
        Peak learning rates of the matrices and of everything else.
    weight_decay : float
        Decoupled, for the matrices.
    warmup, decay : float
        Fractions of the budget: linear rise at the start, linear fall to zero at the end.
    clip : float
        Largest gradient norm.
    log_every : float
        Seconds between log lines.
    checkpoint_every : float
        Seconds between checkpoints.
    """

    seconds: float
    batch_tokens: int = 2048
    muon_lr: float = 0.02
    adamw_lr: float = 4e-3
    weight_decay: float = 0.02
    warmup: float = 0.02
    decay: float = 0.4
    clip: float = 1.0
    log_every: float = 30.0
    checkpoint_every: float = 300.0

    def learning_rate(self, progress: float) -> float:
        """Fraction of the peak rate at a fraction `progress` (0-1) of the budget."""
        rise = progress / self.warmup if self.warmup else 1.0
        fall = (1 - progress) / self.decay if self.decay else 1.0
        return max(0.0, min(1.0, rise, fall))


def train(model: Any, stream: ExampleStream, config: TrainConfig, folder: str | Path) -> dict:
    """Train `model` in place until the time budget is spent, and save it.

    Parameters
    ----------
    model : Hugging Face causal language model
        On the device to train on.
    stream : ExampleStream
    config : TrainConfig
    folder : str or Path
        Gets the log, the checkpoint and, at the end, the model, tokenizer and
        ``prompt_format.json``. If it holds a checkpoint, training goes on from there.

    Returns
    -------
    dict
        The last line of the log: steps, tokens, seconds, loss, tokens_per_second.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    device = next(model.parameters()).device
    bf16 = has_bfloat16(device)
    optimizers = make_optimizers(model, config)
    state = {"step": 0, "tokens": 0, "seconds": 0.0, "position": 0}
    if (folder / CHECKPOINT).exists():
        state = _load_checkpoint(folder, model, optimizers)
    model.train()
    batches = make_batches(stream, start=state["position"], batch_tokens=config.batch_tokens)
    last, losses, last_log, last_save = time.monotonic(), [], state.copy(), state["seconds"]
    line: dict = {}
    while state["seconds"] < config.seconds:
        rate = config.learning_rate(state["seconds"] / config.seconds)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * rate
        position, ids, labels = next(batches)
        ids = torch.from_numpy(ids).to(device)
        labels = torch.from_numpy(labels).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        now = time.monotonic()
        state = {
            "step": state["step"] + 1,
            "tokens": state["tokens"] + int((ids > 0).sum()),
            # A suspended process (a closed laptop, a SIGSTOP) does not use up its budget.
            "seconds": state["seconds"] + min(now - last, LONGEST_STEP),
            "position": position,
        }
        last = now
        done = state["seconds"] >= config.seconds
        if done or state["seconds"] - last_log["seconds"] >= config.log_every:
            seconds = state["seconds"] - last_log["seconds"]
            line = {
                **state,
                "seconds": round(state["seconds"], 1),
                "loss": round(sum(losses) / len(losses), 4),
                "rate": round(rate, 4),
                "tokens_per_second": round((state["tokens"] - last_log["tokens"]) / seconds),
            }
            with open(folder / LOG, "a") as log:
                log.write(json.dumps(line) + "\n")
            losses, last_log = [], state.copy()
        if done or state["seconds"] - last_save >= config.checkpoint_every:
            _save_checkpoint(folder, model, optimizers, state, config)
            last_save = state["seconds"]
    save_model(model, stream.tokenizer, stream.format, folder)
    return line


def make_optimizers(model: Any, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embeddings and vectors."""
    embeddings = {id(p) for p in model.get_input_embeddings().parameters()}
    embeddings |= {id(p) for p in model.get_output_embeddings().parameters()}
    matrices, others = [], []
    for p in model.parameters():
        if p.requires_grad:
            (matrices if p.ndim == 2 and id(p) not in embeddings else others).append(p)
    optimizers = [
        Muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay),
        torch.optim.AdamW(others, lr=config.adamw_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def save_model(model: Any, tokenizer: Any, prompt_format: Any, folder: str | Path) -> None:
    """Write an ordinary Hugging Face folder, with its ``prompt_format.json``."""
    if is_parametrized(model.get_input_embeddings()):
        model = plain_copy(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    prompt_format.save(folder)


def _save_checkpoint(folder, model, optimizers, state, config) -> None:
    content = {
        "state": state,
        "config": asdict(config),
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    torch.save(content, folder / (CHECKPOINT + ".tmp"))
    os.replace(folder / (CHECKPOINT + ".tmp"), folder / CHECKPOINT)


def _load_checkpoint(folder, model, optimizers) -> dict:
    content = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
    model.load_state_dict(content["model"])
    for optimizer, saved in zip(optimizers, content["optimizers"]):
        optimizer.load_state_dict(saved)
    return content["state"]
