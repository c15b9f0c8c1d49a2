"""Training a causal language model on ARC prompts: from scratch, a model folder, or an adapter.

One loop for CPU and GPU: Muon for the matrices and AdamW for the rest, a warm-up / stable / decay
schedule that follows the clock (the stop rule is a time budget), checkpoints that resume exactly,
a JSON-lines log. Knows nothing of where examples come from (see `arc_airv.training.examples`) nor
of what is measured on the way (a function that is passed in, see `arc_airv.training.heldout`).
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.parametrize import is_parametrized

from arc_airv.training.batches import Batch, Windows, iterate_batches
from arc_airv.training.examples import ExampleStream
from arc_airv.training.muon import Muon, has_bfloat16
from arc_airv.training.tiny import plain_copy

CHECKPOINT = "checkpoint.pt"
LONGEST_STEP = 60.0  # seconds of one step that count toward the budget


@dataclass(frozen=True)
class TrainConfig:
    """Options of `train`.

    Attributes
    ----------
    seconds : float
        Time budget of training, over all its resumed parts.
    batch_tokens : int
        Rows x padded length of one batch.
    accumulate : int
        Batches of one step.
    muon_lr : float or None
        Peak learning rate of the matrices; None trains them with AdamW (for adapters, and for
        models that AdamW pre-trained).
    adamw_lr : float
        Peak learning rate of everything else.
    weight_decay : float
        Decoupled, for the matrices.
    warmup, decay : float
        Fractions of the budget: linear rise at the start, linear fall to zero at the end.
    clip : float
        Largest gradient norm.
    ema : float
        Above 0: measure and save an exponential moving average of the weights, with this decay a
        step.
    compile : bool
        Whether to use ``torch.compile``: pays on a GPU, after a minute or two.
    n_workers : int
        Processes that prepare batches.
    log_every, checkpoint_every, measure_every : float
        Seconds between log lines, checkpoints and calls of the measure.
    """

    seconds: float
    batch_tokens: int = 2048
    accumulate: int = 1
    muon_lr: float | None = 0.02
    adamw_lr: float = 4e-3
    weight_decay: float = 0.02
    warmup: float = 0.02
    decay: float = 0.4
    clip: float = 1.0
    ema: float = 0.0
    compile: bool = False
    n_workers: int = 0
    log_every: float = 30.0
    checkpoint_every: float = 300.0
    measure_every: float = 900.0

    def learning_rate(self, progress: float) -> float:
        """Fraction of the peak rate at a fraction `progress` (0-1) of the budget."""
        rise = progress / self.warmup if self.warmup else 1.0
        fall = (1 - progress) / self.decay if self.decay else 1.0
        return max(0.0, min(1.0, rise, fall))


def train(
    model: Any,
    stream: ExampleStream,
    config: TrainConfig,
    folder: str | Path,
    *,
    measure: Callable[[Any], dict[str, float]] | None = None,
    deadline: float | None = None,
) -> dict:
    """Train `model` in place until the time budget is spent, and save it.

    Parameters
    ----------
    model : Hugging Face causal language model
        On the device to train on; parameters that need no gradient stay as they are, so a peft
        model trains its adapter.
    stream : ExampleStream
    config : TrainConfig
    folder : str or Path
        Gets the log, the checkpoint and, at the end, the model (of a peft model: the adapter),
        the tokenizer and ``prompt_format.json``. If it holds a checkpoint, training goes on from
        there, as if it had not stopped.
    measure : callable, optional
        Called with the model (its average, if there is one) every `measure_every` seconds and at
        the end; what it returns goes into the log. Its time is not part of the budget.
    deadline : float, optional
        Moment (``time.time()`` seconds) by which to stop: shortens the budget, and with it the
        schedule. A step that runs is finished.

    Returns
    -------
    dict
        The last line of the log: step, tokens, seconds, loss, rate, tokens_per_second, padding
        (the share of it in the batches), mfu (the share of the device's arithmetic that the model
        itself needs; on known GPUs) and what `measure` gave. Empty if no time was left for a step.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    device = next(model.parameters()).device
    optimizers = make_optimizers(model, config)
    average = _Average(model, config.ema)
    state = {"step": 0, "tokens": 0, "seconds": 0.0, "position": [0, 0]}
    if (folder / CHECKPOINT).exists():
        state = _load_checkpoint(folder, model, optimizers, average)
    windows = Windows(stream, batch_tokens=config.batch_tokens)
    batches = iterate_batches(windows, tuple(state["position"]), n_workers=config.n_workers)
    network = torch.compile(model, dynamic=True) if config.compile else model
    model.train()
    log = TrainLog(folder, model, state)
    budget = config.seconds
    if deadline is not None:
        budget = min(budget, state["seconds"] + deadline - time.time())
    last_save = last_measure = state["seconds"]
    last = time.monotonic()
    done = state["seconds"] >= budget
    while not done:
        rate = config.learning_rate(state["seconds"] / budget)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * rate
        step = [next(batches) for _ in range(config.accumulate)]
        loss = _backward(network, step, device)
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        average.update()
        now = time.monotonic()
        state = {
            "step": state["step"] + 1,
            "tokens": state["tokens"] + sum(batch.n_tokens for batch in step),
            # A suspended process (a closed laptop, a SIGSTOP) does not use up its budget.
            "seconds": state["seconds"] + min(now - last, LONGEST_STEP),
            "position": list(step[-1].position),
        }
        last = now
        log.add(loss, step)
        done = state["seconds"] >= budget or (deadline is not None and time.time() >= deadline)
        if done or state["seconds"] - log.seconds >= config.log_every:
            log.write(state, rate)
        if measure and (done or state["seconds"] - last_measure >= config.measure_every):
            with average.applied():
                model.eval()
                log.extend(measure(model))
                model.train()
            last, last_measure = time.monotonic(), state["seconds"]
        if done or state["seconds"] - last_save >= config.checkpoint_every:
            _save_checkpoint(folder, model, optimizers, average, state, config)
            last_save = state["seconds"]
    with average.applied():
        save_model(model, stream.tokenizer, stream.format, folder)
    return log.line


def make_optimizers(model: Any, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embeddings and vectors."""
    embeddings = {id(p) for p in model.get_input_embeddings().parameters()}
    embeddings |= {id(p) for p in model.get_output_embeddings().parameters()}
    matrices, others = [], []
    for p in model.parameters():
        if p.requires_grad:
            (matrices if p.ndim == 2 and id(p) not in embeddings else others).append(p)
    adamw = [{"params": others, "weight_decay": 0.0}]
    if config.muon_lr is None:
        adamw.append({"params": matrices, "weight_decay": config.weight_decay})
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW([g for g in adamw if g["params"]], lr=config.adamw_lr, betas=(0.9, 0.95))
    ]
    if config.muon_lr is not None:
        optimizers.append(Muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay))
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


def _backward(network: Any, step: list[Batch], device: torch.device) -> torch.Tensor:
    """Add the gradients of a step's batches; every label of them weighs the same."""
    n_labels = torch.tensor(sum(batch.n_labels for batch in step), device=device)
    total = torch.zeros((), device=device)
    for batch in step:
        ids = torch.from_numpy(batch.token_ids).to(device)
        labels = torch.from_numpy(batch.labels).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_bfloat16(device)):
            loss = network(input_ids=ids, labels=labels, num_items_in_batch=n_labels).loss
        loss.backward()
        total += loss.detach()
    return total


class _Average:
    """An exponential moving average of the trained parameters; of decay 0, nothing at all."""

    def __init__(self, model: Any, decay: float) -> None:
        self.decay = decay
        self.parameters = [p for p in model.parameters() if p.requires_grad] if decay else []
        self.values = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        for value, p in zip(self.values, self.parameters):
            value.lerp_(p, 1 - self.decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the average for its weights, for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for value, p in zip(self.values, self.parameters):
            kept = p.clone()
            p.copy_(value)
            value.copy_(kept)


def _save_checkpoint(folder, model, optimizers, average, state, config) -> None:
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    content = {
        "state": state,
        "config": asdict(config),
        "model": {name: v for name, v in model.state_dict().items() if name in trained},
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "average": average.values,
        "random": torch.get_rng_state(),  # of dropout
        "cuda_random": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    torch.save(content, folder / (CHECKPOINT + ".tmp"))
    os.replace(folder / (CHECKPOINT + ".tmp"), folder / CHECKPOINT)


def _load_checkpoint(folder, model, optimizers, average) -> dict:
    content = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    if trained != content["model"].keys():
        raise ValueError(f"{folder / CHECKPOINT} is the checkpoint of another model")
    model.load_state_dict(content["model"], strict=False)
    for optimizer, saved in zip(optimizers, content["optimizers"]):
        optimizer.load_state_dict(saved)
    for value, saved in zip(average.values, content["average"]):
        value.copy_(saved)
    torch.set_rng_state(content["random"])
    torch.cuda.set_rng_state_all(content["cuda_random"])
    return content["state"]


LOG = "train_log.jsonl"
# Dense bfloat16 (float16 before Ampere) operations a second, from the data sheets.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40": 362e12, "L4": 121e12}
PEAK_FLOPS |= {"T4": 65e12}


class TrainLog:
    """A JSON-lines file; each line holds means over the steps since the line before.

    Parameters
    ----------
    folder : Path
        Where the file `LOG` is appended to.
    model : Hugging Face causal language model
    state : dict
        "seconds" and "tokens" of training so far.

    Attributes
    ----------
    line : dict
        The last line.
    """

    def __init__(self, folder: Path, model: Any, state: dict) -> None:
        self.path = folder / LOG
        self.line: dict = {}
        self.seconds, self.tokens = state["seconds"], state["tokens"]
        config = model.config
        self.n_parameters = sum(p.numel() for p in model.parameters())
        self.attention = 6 * config.num_hidden_layers * config.hidden_size
        self.peak = None
        if next(model.parameters()).is_cuda:
            name = torch.cuda.get_device_name()
            self.peak = next((v for k, v in PEAK_FLOPS.items() if k in name), None)
        self._clear()

    def _clear(self) -> None:
        self.losses: list[torch.Tensor] = []
        self.flops = self.padded = 0.0

    def add(self, loss: torch.Tensor, step: list[Batch]) -> None:
        self.losses.append(loss)
        for batch in step:
            # Chowdhery et al., "PaLM", 2022, appendix B; halved for causal attention.
            length = batch.token_ids.shape[1]
            self.flops += batch.n_tokens * (6 * self.n_parameters + self.attention * length)
            self.padded += batch.token_ids.size

    def write(self, state: dict, rate: float) -> None:
        seconds, tokens = state["seconds"] - self.seconds, state["tokens"] - self.tokens
        self.line = {
            **state,
            "seconds": round(state["seconds"], 1),
            "loss": round(torch.stack(self.losses).mean().item(), 4),
            "rate": round(rate, 4),
            "tokens_per_second": round(tokens / seconds),
            "padding": round(1 - tokens / self.padded, 4),
        }
        if self.peak:
            self.line["mfu"] = round(self.flops / seconds / self.peak, 4)
        with open(self.path, "a") as file:
            file.write(json.dumps(self.line) + "\n")
        self.seconds, self.tokens = state["seconds"], state["tokens"]
        self._clear()

    def extend(self, values: dict[str, float]) -> None:
        """A line of its own for what a measure gave."""
        self.line = {**self.line, **values}
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": self.line.get("step"), **values}) + "\n")
