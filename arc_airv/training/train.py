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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._dynamo.utils import counters
from torch.nn.utils.parametrize import is_parametrized

from arc_airv.prompts import PromptFormat
from arc_airv.prompts.format import choose_format
from arc_airv.prompts.tokens import find_fault
from arc_airv.storage import check_same
from arc_airv.tasks import check_count, check_deadline
from arc_airv.training.batches import Batch, Windows, iterate_batches
from arc_airv.training.examples import ExampleStream
from arc_airv.training.muon import Muon, has_bfloat16
from arc_airv.training.tiny import plain_copy

CHECKPOINT, LOG = "checkpoint.pt", "train_log.jsonl"
LONGEST_STEP = 60.0  # seconds of one step that count toward the budget
LARGEST_GRADIENT = 1.0  # its norm
# Of a configuration, what may change when a run resumes: how long it is, and how it is computed.
FREE = {
    *("seconds", "tokens", "compile", "n_workers"),
    *("log_every", "checkpoint_every", "measure_every"),
}
WARM_UP_SHARE = 0.2  # of the time to the deadline after which no further shape is tried
# Dense bfloat16 (float16 before Ampere) operations a second / 1e12, from the data sheets.
PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L40": 362, "L4": 121, "T4": 65}


@dataclass(frozen=True)
class TrainConfig:
    """Options of `train`.

    Attributes
    ----------
    seconds : float
        Time budget of training, over all its resumed parts.
    tokens : float
        Budget of tokens: the schedule follows the budget that is used up more. To compare options.
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
        Compile the decoder layers, all as one graph for every shape, and run each shape once before
        the clock starts: pays on a GPU. The log counts what is compiled after that.
    n_workers : int
        Processes that prepare batches.
    window : int
        Examples that are sorted by length together: more of them, less padding, and a later start.
    log_every, checkpoint_every, measure_every : float
        Seconds between log lines, checkpoints and calls of the measure.
    """

    seconds: float
    tokens: float = math.inf
    batch_tokens: int = 2048
    accumulate: int = 1
    muon_lr: float | None = 0.02
    adamw_lr: float = 4e-3
    weight_decay: float = 0.02
    warmup: float = 0.02
    decay: float = 0.4
    compile: bool = False
    n_workers: int = 0
    window: int = 1024
    log_every: float = 30.0
    checkpoint_every: float = 300.0
    measure_every: float = 900.0

    def __post_init__(self) -> None:
        for name in ("batch_tokens", "accumulate", "window"):
            check_count(name, getattr(self, name))
        for name in ("muon_lr", "adamw_lr"):
            rate = getattr(self, name)
            if rate is not None and not 0 <= rate < math.inf:
                raise ValueError(f"{name} must be a finite number from 0 on, got {rate}")
        for name in ("warmup", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be 0 to 1, got {getattr(self, name)}")
        if not (self.seconds >= 0 and self.tokens > 0):
            budget = f"{self.seconds} seconds and {self.tokens} tokens"
            raise ValueError(f"a budget must be above 0, got {budget}")

    @property
    def kept(self) -> dict[str, Any]:
        """Return the options that a run keeps when it resumes."""
        return {name: value for name, value in asdict(self).items() if name not in FREE}

    def learning_rate(self, progress: float) -> float:
        """Return the fraction of the peak rate at a fraction `progress` (0-1) of the budget."""
        rise = progress / self.warmup if self.warmup else 1.0
        fall = (1 - progress) / self.decay if self.decay else 1.0
        return max(0.0, min(1.0, rise, fall))


class Diverged(RuntimeError):
    """The loss of a training is no number any more: its weights are of no use."""


def train(
    model: Any,
    stream: ExampleStream,
    config: TrainConfig,
    folder: str | Path,
    *,
    base: str | None = None,
    device: str | torch.device | None = None,
    measure: Callable[[Any], dict[str, float]] | None = None,
    saved: Callable[[Any, dict], None] | None = None,
    deadline: float | Callable[[], float] | None = None,
) -> dict:
    """Train `model` in place until the time budget is spent, and save it.

    Parameters
    ----------
    model : Hugging Face causal language model
        Parameters that need no gradient stay as they are, so a peft model trains its adapter.
    folder : str or Path
        Gets the log, the checkpoint and, at the end, the model (of a peft model: the adapter),
        the tokenizer and ``prompt_format.json``. If it holds a checkpoint, training resumes from
        there, as if it had not stopped.
    base : str, optional
        What tells the model that training begins with from others of its shape, such as its
        `arc_airv.engines.fingerprint.fingerprint`.
    device : str or torch.device, optional
        To train on; by default where the model is. A model that comes on the CPU is moved there
        when the workers exist: they are forks then, which need no copy of the data.
    measure : callable, optional
        Called with the model every `measure_every` seconds and at the end; what it returns goes
        into the log. Its time is not part of the budget.
    saved : callable, optional
        Called after every checkpoint with the model and the last line of the log. Its time is not
        part of the budget, but the deadline does not wait for it.
    deadline : float or callable, optional
        Moment (``time.time()`` seconds) by which to stop, or a function that gives it, which is
        asked before every step: shortens the budget, and with it the schedule. A step that runs is
        finished.

    Returns
    -------
    dict
        The last line of the log: step, tokens, seconds, loss, rate, tokens_per_second, padding
        (the share of it in the batches), mfu (the share of the device's arithmetic that the model
        itself needs; on known GPUs), recompiled (graphs since training began; where layers are
        compiled) and what `measure` gave. Without step if no time was ever left for one.

    Raises
    ------
    ValueError
        If the checkpoint is one of another model, of other data or of other options, but for those
        in `FREE`.
    Diverged
        If the loss is no number any more. The checkpoint is the last one of before.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = _Checkpoint(folder / CHECKPOINT)
    settings = json.loads(json.dumps({"model": base, **config.kept, **stream.describe()}))
    content = checkpoint.read(model, settings)
    state = {"step": 0, "tokens": 0, "seconds": 0.0, "position": [0, 0]}
    state = content["state"] if content else state
    windows = Windows(stream, config.batch_tokens, config.window)
    # Before anything is on a GPU, for the sake of the workers.
    batches = iterate_batches(windows, tuple(state["position"]), n_workers=config.n_workers)
    model.to(device or model.device)
    optimizers = make_optimizers(model, config)
    if content:
        restore(content, model, optimizers)
    log = _Log(folder / LOG, model, state)
    if not callable(deadline):
        check_deadline(deadline)
    end = deadline if callable(deadline) else lambda: math.inf if deadline is None else deadline
    model.train()
    if config.compile:
        compile_layers(model)
        until = time.time() + WARM_UP_SHARE * (end() - time.time())
        log.write({"step": state["step"], **warm_up(model, windows.shapes, until)})
        log.start_counting()
    last_save = last_measure = state["seconds"]
    last = time.monotonic()
    done = _progress(config, state, end()) >= 1
    while not done:
        rate = config.learning_rate(_progress(config, state, end()))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * rate
        step = [next(batches) for _ in range(config.accumulate)]
        loss = backward(model, step, model.device)
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
        done = _progress(config, state, end()) >= 1
        if done or state["seconds"] - log.start["seconds"] >= config.log_every:
            log.write(log.means(state, rate))
        if measure and (done or state["seconds"] - last_measure >= config.measure_every):
            with _uncompiled(model):
                log.write({"step": state["step"], **measure(model)})
            last, last_measure = time.monotonic(), state["seconds"]
        if done or state["seconds"] - last_save >= config.checkpoint_every:
            if not loss.isfinite():
                raise Diverged(f"{folder}: the loss is {loss:g} at step {state['step']}")
            checkpoint.save(state, settings, model, optimizers)
            last_save = state["seconds"]
            if saved:
                with _uncompiled(model):
                    saved(model, log.line)
                last = time.monotonic()
    if config.compile:
        compile_layers(model, undo=True)
    save_model(model, stream.tokenizer, stream.format, folder)
    return log.line


def _progress(config: TrainConfig, state: dict, end: float) -> float:
    """Return the fraction of the budget that is used up; 1 where the deadline is over."""
    left = end - time.time()
    budget = min(config.seconds, state["seconds"] + left)
    used = state["seconds"] / budget if left > 0 and budget > 0 else 1.0
    return max(used, state["tokens"] / config.tokens)


def decoder_layers(model: Any) -> torch.nn.ModuleList:
    """Return the blocks of a causal language model, the one list of as many modules."""
    n = model.config.num_hidden_layers
    lists = (m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == n)
    return next(lists)


def compile_layers(model: Any, *, undo: bool = False) -> None:
    """Compile every layer of a model in place, or `undo` that.

    All layers share one graph, a tenth of the whole model's, and its shapes are symbols from the
    start: compiling a whole model took two minutes, and again 40 to 55 seconds for each of six
    shapes that met an assumption.
    """
    if not undo:
        torch._dynamo.reset()  # its limit of graphs counts those of earlier models, too
    for layer in decoder_layers(model):
        if undo:
            layer._compiled_call_impl = None
        else:
            layer.compile(dynamic=True)


@contextmanager
def _uncompiled(model: Any) -> Iterator[None]:
    """Let a model be used for something else than training, with shapes of its own.

    It may draw random numbers: those of training, which a checkpoint holds, stay as they are.
    """
    model.eval()
    with _fork_random(model), torch.compiler.set_stance("force_eager"):
        yield
    model.train()


def _fork_random(model: Any) -> Any:
    return torch.random.fork_rng([model.device] if model.device.type == "cuda" else [])


def warm_up(model: Any, shapes: list[tuple[int, int]], until: float = math.inf) -> dict[str, float]:
    """Run a training step without an update for every shape (rows, length), up to a moment.

    The longest and the shortest come first, with fewer rows, too, as a window may leave them: one
    row is a graph of its own. Returns the seconds that it took, the number of graphs and of shapes;
    the model and the random state are as before.
    """
    begin, graphs = time.monotonic(), compiled_graphs()
    tried = [shapes[-1], shapes[0], *_partial(*shapes[-1]), *_partial(*shapes[0]), *shapes[-2:0:-1]]
    n_tried = 0
    with _fork_random(model):
        while n_tried < len(tried) and time.time() < until:
            ids = np.zeros(tried[n_tried], dtype=np.int32)
            backward(model, [Batch(ids, ids, ids.size, (0, 0))], model.device)
            n_tried += 1
        model.zero_grad()
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    seconds = round(time.monotonic() - begin, 1)
    graphs = compiled_graphs() - graphs
    return {"warm_up_seconds": seconds, "graphs": graphs, "shapes_tried": n_tried}


def _partial(rows: int, length: int) -> list[tuple[int, int]]:
    return [(2**k, length) for k in range(rows.bit_length())]


def compiled_graphs() -> int:
    """Count the graphs that this process has compiled so far."""
    return counters["stats"]["unique_graphs"]


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
    fused = model.device.type == "cuda"
    return [torch.optim.AdamW(groups, lr=config.adamw_lr, betas=(0.9, 0.95), fused=fused), *muon]


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


def load_model(
    folder: str | Path,
    device: str | None = None,
    prompt_format: PromptFormat | dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Any, Any, PromptFormat]:
    """Read a model to train, its tokenizer and its prompt format; by default onto a GPU, if any.

    The format is chosen as for asking it: see `arc_airv.prompts.format.choose_format`.

    Raises
    ------
    ValueError
        If the tokenizer is one of other texts, see `arc_airv.prompts.tokens.find_fault`.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    chosen = choose_format(prompt_format, PromptFormat.load(folder), tokenizer, folder)
    if fault := find_fault(tokenizer, chosen.encoder):
        raise ValueError(f"{folder}: {fault}")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    # Weights that are trained stay in float32; the arithmetic is bfloat16 where there is any.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device)
    return model, tokenizer, chosen


def backward(network: Any, step: list[Batch], device: torch.device) -> torch.Tensor:
    """Add the gradients of a step's batches; every label of them weighs the same."""
    n_labels = torch.tensor(sum(batch.n_labels for batch in step), device=device)
    total = torch.zeros((), device=device)
    for batch in step:
        ids = torch.from_numpy(batch.token_ids).to(device, non_blocking=True).long()
        labels = torch.from_numpy(batch.labels).to(device, non_blocking=True).long()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_bfloat16(device)):
            loss = network(
                input_ids=ids,
                labels=labels,
                num_items_in_batch=n_labels,
                use_cache=False,
                **causal_mask(network.config),
            ).loss
        loss.backward()
        total += loss.detach()
    return total


def causal_mask(config: Any) -> dict[str, Any]:
    """Return the options that tell a model that its rows are causal and padded on the right only.

    Padding has no labels, so it needs no mask, and without one attention is flash attention. Some
    models take a mask for each kind of their layers, and None there is none, for the kinds of
    attention that are causal by themselves. The others find out themselves, which makes the host
    wait for a GPU at every step.
    """
    kinds = set(getattr(config, "layer_types", None) or ())
    is_causal = str(config._attn_implementation).startswith(("sdpa", "flash_attention"))
    plain = is_causal and kinds == {"full_attention"}
    return {"attention_mask": {"full_attention": None}} if plain else {}


def _trained(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}


@dataclass(frozen=True)
class _Checkpoint:
    """A file with all that a run resumes from; a kill leaves it whole."""

    path: Path

    def save(
        self, state: dict, settings: dict, model: Any, optimizers: list[torch.optim.Optimizer]
    ) -> None:
        content = {
            "state": state,
            "settings": settings,
            "model": _trained(model),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "random": torch.get_rng_state(),  # of dropout
            "cuda_random": torch.cuda.get_rng_state_all(),
        }
        unfinished = self.path.with_name(self.path.name + ".tmp")
        torch.save(content, unfinished)
        os.replace(unfinished, self.path)

    def read(self, model: Any, settings: dict) -> dict | None:
        """Return the content, which must be of these settings; None if there is no checkpoint."""
        if not self.path.exists():
            return None
        content = torch.load(self.path, map_location="cpu", weights_only=True)
        shapes, saved = (
            {name: p.shape for name, p in of.items()} for of in (_trained(model), content["model"])
        )
        if shapes != saved:
            raise ValueError(f"{self.path} is the checkpoint of another model")
        check_same(self.path, content.get("settings", {}), settings)
        return content


def restore(content: dict, model: Any, optimizers: list[torch.optim.Optimizer]) -> None:
    """Put back what a checkpoint holds."""
    model.load_state_dict(content["model"], strict=False)
    for optimizer, saved in zip(optimizers, content["optimizers"]):
        optimizer.load_state_dict(saved)
    torch.set_rng_state(content["random"])
    # A run may resume where there are fewer GPUs.
    torch.cuda.set_rng_state_all(content["cuda_random"][: torch.cuda.device_count()])


class _Log:
    """A JSON-lines file of means over the steps since the line before; `line` is the last.

    What a run logged after the checkpoint that it resumes from is dropped: it comes again.
    """

    def __init__(self, path: Path, model: Any, state: dict) -> None:
        self.path, self.line, self.start = path, {}, state
        texts = path.read_text().splitlines() if path.exists() else []
        # A kill may leave a half of the last line.
        whole = [json.loads(text) for text in texts if text.endswith("}")]
        path.unlink(missing_ok=True)
        for line in whole:
            if line["step"] <= state["step"]:
                self.write(line)
        self.losses, self.flops, self.padded = [], 0.0, 0
        self.graphs: int | None = None  # that were compiled before training
        self.n_parameters = sum(p.numel() for p in model.parameters())
        self.attention = 6 * model.config.num_hidden_layers * model.config.hidden_size
        device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else ""
        self.peak = next((peak for name, peak in PEAK_TFLOPS.items() if name in device), None)

    def add(self, loss: torch.Tensor, step: list[Batch]) -> None:
        self.losses.append(loss)
        for batch in step:
            # Chowdhery et al., "PaLM", 2022, appendix B; halved for causal attention.
            length = batch.token_ids.shape[1]
            self.flops += batch.n_tokens * (6 * self.n_parameters + self.attention * length)
            self.padded += batch.token_ids.size

    def start_counting(self) -> None:
        """Let every line say how many graphs were compiled from now on."""
        self.graphs = compiled_graphs()

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
        if self.graphs is not None:
            line["recompiled"] = compiled_graphs() - self.graphs
        if self.peak:
            line["mfu"] = round(self.flops / seconds / self.peak / 1e12, 4)
        self.start, self.losses, self.flops, self.padded = state, [], 0.0, 0
        return line

    def write(self, line: dict) -> None:
        self.line = {**self.line, **line}
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")
