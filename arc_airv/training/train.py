"""Training a causal language model on ARC prompts: from scratch, a model folder, or an adapter.

One loop for CPU and GPU: Muon for the matrices and AdamW for the rest, a warm-up / stable / decay
schedule that follows the clock (the stop rule is a time budget), checkpoints that resume exactly,
a JSON-lines log. Knows nothing of where examples come from (see `arc_airv.training.examples`) nor
of what is measured on the way (a function that is passed in, see `arc_airv.training.heldout`).
"""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.parametrize import is_parametrized

from arc_airv.prompts import PromptFormat
from arc_airv.training.batches import Batch, Windows, iterate_batches
from arc_airv.training.examples import ExampleStream
from arc_airv.training.muon import Muon, has_bfloat16
from arc_airv.training.tiny import plain_copy

CHECKPOINT, LOG = "checkpoint.pt", "train_log.jsonl"
LONGEST_STEP = 60.0  # seconds of one step that count toward the budget
LARGEST_GRADIENT = 1.0  # its norm
# Dense bfloat16 (float16 before Ampere) operations a second / 1e12, from the data sheets.
PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L40": 362, "L4": 121, "T4": 65}


@dataclass(frozen=True)
class TrainConfig:
    """Options of `train`.

    Attributes
    ----------
    seconds : float
        Time budget of training, over all its resumed parts.
    batch_tokens, accumulate : int
        Rows x padded length of a batch; batches of a step.
    muon_lr, adamw_lr : float
        Peak learning rates of the matrices and of everything else. Without the former AdamW trains
        all (adapters, and models that AdamW pre-trained).
    weight_decay : float
        Decoupled, for the matrices.
    warmup, decay : float
        Fractions of the budget: linear rise at the start, linear fall to zero at the end.
    compile : bool
        Use ``torch.compile``: pays on a GPU, after a minute or two.
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
    compile: bool = False
    n_workers: int = 0
    log_every: float = 30.0
    checkpoint_every: float = 300.0
    measure_every: float = 900.0

    def learning_rate(self, progress: float) -> float:
        """Return the fraction of the peak rate at a fraction `progress` (0-1) of the budget."""
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
    folder : str or Path
        Gets the log, the checkpoint and, at the end, the model (of a peft model: the adapter),
        the tokenizer and ``prompt_format.json``. If it holds a checkpoint, training resumes from
        there, as if it had not stopped.
    measure : callable, optional
        Called with the model every `measure_every` seconds and at the end; what it returns goes
        into the log. Its time is not part of the budget.
    deadline : float, optional
        Moment (``time.time()`` seconds) by which to stop: shortens the budget, and with it the
        schedule. A step that runs is finished.

    Returns
    -------
    dict
        The last line of the log: step, tokens, seconds, loss, rate, tokens_per_second, padding
        (the share of it in the batches), mfu (the share of the device's arithmetic that the model
        itself needs; on known GPUs) and what `measure` gave. Empty if no time was left for a step.

    Raises
    ------
    ValueError
        If the checkpoint is one of another model.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    optimizers = make_optimizers(model, config)
    checkpoint = _Checkpoint(folder / CHECKPOINT, model, optimizers)
    state = checkpoint.load() or {"step": 0, "tokens": 0, "seconds": 0.0, "position": [0, 0]}
    log = _Log(folder / LOG, model, state)
    windows = Windows(stream, config.batch_tokens)
    batches = iterate_batches(windows, tuple(state["position"]), n_workers=config.n_workers)
    network = torch.compile(model, dynamic=True) if config.compile else model
    model.train()
    end = math.inf if deadline is None else deadline
    budget = min(config.seconds, state["seconds"] + end - time.time())
    last_save = last_measure = state["seconds"]
    last = time.monotonic()
    done = state["seconds"] >= budget
    while not done:
        rate = config.learning_rate(state["seconds"] / budget)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * rate
        step = [next(batches) for _ in range(config.accumulate)]
        loss = _backward(network, step, model.device)
        torch.nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
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
        done = state["seconds"] >= budget or time.time() >= end
        if done or state["seconds"] - log.start["seconds"] >= config.log_every:
            log.write(log.means(state, rate))
        if measure and (done or state["seconds"] - last_measure >= config.measure_every):
            model.eval()
            log.write({"step": state["step"], **measure(model)})
            model.train()
            last, last_measure = time.monotonic(), state["seconds"]
        if done or state["seconds"] - last_save >= config.checkpoint_every:
            checkpoint.save(state)
            last_save = state["seconds"]
    save_model(model, stream.tokenizer, stream.format, folder)
    return log.line


def make_optimizers(model: Any, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Make Muon for the matrices of the blocks, AdamW for embeddings and vectors."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    embeddings = {id(p) for module in ends for p in module.parameters()}
    matrices, others = [], []
    for p in model.parameters():
        if p.requires_grad:
            (matrices if p.ndim == 2 and id(p) not in embeddings else others).append(p)
    groups = [{"params": others, "weight_decay": 0.0}]
    hidden = {"params": matrices, "weight_decay": config.weight_decay}
    muon = [] if config.muon_lr is None else [Muon([hidden], lr=config.muon_lr)]
    groups += [] if muon else [hidden]
    return [torch.optim.AdamW(groups, lr=config.adamw_lr, betas=(0.9, 0.95)), *muon]


def save_model(model: Any, tokenizer: Any, prompt_format: PromptFormat, folder: str | Path) -> None:
    """Write an ordinary Hugging Face folder, with its ``prompt_format.json``."""
    if is_parametrized(model.get_input_embeddings()):
        model = plain_copy(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _name_for_all_versions(Path(folder) / "tokenizer_config.json")
    prompt_format.save(folder)


def _name_for_all_versions(path: Path) -> None:
    """Give a tokenizer's class the name that Transformers 4 and 5 both know."""
    config = json.loads(path.read_text("utf-8"))
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")


def load_model(folder: str | Path, device: str | None = None) -> tuple[Any, Any, PromptFormat]:
    """Read a model to train, its tokenizer and its prompt format; by default onto a GPU, if any.

    A folder without ``prompt_format.json`` is a ValueError.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prompt_format = PromptFormat.load(folder)
    if prompt_format is None:
        raise ValueError(f"{folder}: no prompt_format.json; save a PromptFormat there first")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    # Weights that are trained stay in float32; the arithmetic is bfloat16 where there is any.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)
    return model, AutoTokenizer.from_pretrained(folder), prompt_format


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


@dataclass(frozen=True)
class _Checkpoint:
    """A file with all that a run resumes from; a kill leaves it whole."""

    path: Path
    model: Any
    optimizers: list[torch.optim.Optimizer]

    def _weights(self) -> dict[str, torch.Tensor]:
        return {n: p.detach() for n, p in self.model.named_parameters() if p.requires_grad}

    def save(self, state: dict) -> None:
        content = {
            "state": state,
            "model": self._weights(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "random": torch.get_rng_state(),  # of dropout
            "cuda_random": torch.cuda.get_rng_state_all(),
        }
        unfinished = self.path.with_name(self.path.name + ".tmp")
        torch.save(content, unfinished)
        os.replace(unfinished, self.path)

    def load(self) -> dict | None:
        """Put everything back and return the state; None if there is no checkpoint."""
        if not self.path.exists():
            return None
        content = torch.load(self.path, map_location="cpu", weights_only=True)
        if self._weights().keys() != content["model"].keys():
            raise ValueError(f"{self.path} is the checkpoint of another model")
        self.model.load_state_dict(content["model"], strict=False)
        for optimizer, saved in zip(self.optimizers, content["optimizers"]):
            optimizer.load_state_dict(saved)
        torch.set_rng_state(content["random"])
        torch.cuda.set_rng_state_all(content["cuda_random"])
        return content["state"]


class _Log:
    """A JSON-lines file of means over the steps since the line before; `line` is the last."""

    def __init__(self, path: Path, model: Any, state: dict) -> None:
        self.path, self.line, self.start = path, {}, state
        self.losses, self.flops, self.padded = [], 0.0, 0
        self.n_parameters = sum(p.numel() for p in model.parameters())
        self.attention = 6 * model.config.num_hidden_layers * model.config.hidden_size
        device = torch.cuda.get_device_name() if model.device.type == "cuda" else ""
        self.peak = next((peak for name, peak in PEAK_TFLOPS.items() if name in device), None)

    def add(self, loss: torch.Tensor, step: list[Batch]) -> None:
        self.losses.append(loss)
        for batch in step:
            # Chowdhery et al., "PaLM", 2022, appendix B; halved for causal attention.
            length = batch.token_ids.shape[1]
            self.flops += batch.n_tokens * (6 * self.n_parameters + self.attention * length)
            self.padded += batch.token_ids.size

    def means(self, state: dict, rate: float) -> dict:
        """Return a line, and begin the next."""
        seconds, tokens = (state[key] - self.start[key] for key in ("seconds", "tokens"))
        line = {
            **state,
            "seconds": round(state["seconds"], 1),
            "loss": round(torch.stack(self.losses).mean().item(), 4),
            "rate": round(rate, 4),
            "tokens_per_second": round(tokens / seconds),
            "padding": round(1 - tokens / self.padded, 4),
        }
        if self.peak:
            line["mfu"] = round(self.flops / seconds / self.peak / 1e12, 4)
        self.start, self.losses, self.flops, self.padded = state, [], 0.0, 0
        return line

    def write(self, line: dict) -> None:
        self.line = {**self.line, **line}
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")
