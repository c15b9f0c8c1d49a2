"""A check of this machine's GPUs with this library: one call, one table, a few minutes.

The engine's contract against the CPU's answers, what batching is worth, and the speed and memory
of training and of fine-tuning a task, for shapes from 30M to 4B parameters with random weights. On
a machine without a GPU the same runs at toy size: so it is known to run before one is paid for.
"""

import functools
import gc
import importlib.util
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arc_airv.augment import sample_augmentations
from arc_airv.engines import Sampling, TransformersEngine, adapter_options, make_engine
from arc_airv.engines.gpus import find_gpus
from arc_airv.prompts import PromptFormat
from arc_airv.tasks import Pair, Task
from arc_airv.training.batches import Batch
from arc_airv.training.tiny import build_model, build_tokenizer, tiny_prompt_format
from arc_airv.training.train import (
    TrainConfig,
    backward,
    compile_layers,
    load_model,
    make_optimizers,
    save_model,
    warm_up,
)
from arc_airv.training.ttft import add_adapter, recompute_layers

# Options of a Qwen3 or Qwen2 configuration; that of 0.5B is Qwen2-0.5B's, that of 4B Qwen3-4B's.
OPTIONS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
)
SHAPES = {
    "toy": (32, 64, 2, 2, 1, 16, 334),
    "30M": (512, 1408, 10, 8, 4, 64, 334),
    "0.5B": (896, 4864, 24, 14, 2, 64, 151936),
    "4B": (2560, 9728, 36, 32, 8, 128, 151936),
}
# Of a step; few where the vocabulary is large, whose logits take 14 bytes each.
STEP_TOKENS = {"toy": 256, "30M": 16384, "0.5B": 2048, "4B": 2048}
TOLERANCE = 0.05  # nats a token, between two ways to the same log-probability
ALIKE = 0.9  # of greedy answers, at least: in half precision a near tie may fall the other way
Row = tuple[str, str, str]  # what, a value in words, "ok" or a fault


def check_gpu(model: str | Path | None = None, *, toy: bool | None = None) -> list[Row]:
    """Check the machine and return the table's rows: what, how much, and "ok" or the fault.

    Parameters
    ----------
    model : str or Path, optional
        Small model folder for the contract; by default one with random weights.
    toy : bool, optional
        Run at toy size; by default where there is no GPU.
    """
    gpus = find_gpus()
    toy = not gpus if toy is None else toy
    device = torch.device("cuda" if gpus else "cpu")
    engine = "vllm" if gpus and importlib.util.find_spec("vllm") else "transformers"
    cards = ", ".join(f"{gpu.name} {gpu.memory_gib:.0f} GiB" for gpu in gpus) or "none"
    rows: list[Row] = [("GPUs", cards, "ok"), ("engine", engine, "ok")]

    def add(what: str, check: Callable[[], Iterator[Row]]) -> None:
        begin = time.monotonic()
        try:
            for row in check():
                rows.append(row)
                print(f"{row[0]}: {row[1]} [{row[2]}]", flush=True)
        # One that fails, however, must not hide what the others say; its fault is in the table.
        except Exception as error:
            rows.append((what, f"{time.monotonic() - begin:.0f} s", f"{error!r:.200}"))
            print(f"{what}: {error!r}", flush=True)
        gc.collect()
        torch.cuda.empty_cache()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(model) if model else random_folder(Path(folder) / "random", toy)
        add("contract", lambda: check_contract(engine, path, device, 4 if toy else 16))
        sizes = ["toy"] if toy else ["30M", "0.5B"]
        for shape in sizes:
            dummy = dummy_folder(Path(folder) / shape, shape)
            add(f"batching {shape}", functools.partial(check_batching, engine, dummy, shape, toy))
            if len(gpus) > 1 and engine == "vllm":
                add(f"workers {shape}", functools.partial(check_workers, dummy, shape))
    for shape in sizes:
        add(f"training {shape}", functools.partial(check_training, shape, device))
    for shape in sizes if toy else [*sizes, "4B"]:
        add(f"fine-tuning {shape}", functools.partial(check_finetuning, shape, device))
    return rows


def puzzles(n: int, side: int = 8) -> dict[str, Task]:
    """Make tasks that need no data set: mirror random grids."""
    rng = np.random.default_rng(0)

    def pair() -> Pair:
        grid = rng.integers(10, size=(side, side), dtype=np.int8)
        return Pair(grid, np.fliplr(grid).copy())

    return {f"mirror{i}": Task(f"mirror{i}", (pair(), pair()), (pair(),)) for i in range(n)}


def view_prompts(n_tasks: int, n_views: int, prompt_format: PromptFormat) -> list[str]:
    """Render views of the puzzles, those of a task together."""
    return [
        prompt_format.render(view.apply_task(task))
        for task in puzzles(n_tasks).values()
        for view in sample_augmentations(task, n_views, seed=0)
    ]


def check_contract(engine: str, path: Path, device: torch.device, n: int) -> Iterator[Row]:
    """Compare an engine on the device with Transformers on the CPU, and with itself."""
    prompt_format = PromptFormat.load(path) or tiny_prompt_format()
    prompts = view_prompts(n // 2, 2, prompt_format)
    greedy = Sampling(max_tokens=48, stop=tuple(prompt_format.stop))
    reference = make_engine("transformers", str(path), {"device": "cpu", "dtype": "float32"})
    expected = [replies[0] for replies in reference.generate(prompts, greedy)]
    options = {} if engine == "vllm" else {"device": str(device)}
    served = make_engine(engine, str(path), options)
    try:
        answers = [replies[0] for replies in served.generate(prompts, greedy)]
        same = np.mean([a.text == b.text for a, b in zip(answers, expected)])
        yield "greedy as on the CPU", f"{same:.0%} of {n}", _fault(same >= ALIKE)
        scores = served.score(prompts[:4], [[a.text] for a in expected[:4]])
        theirs = reference.score(prompts[:4], [[a.text] for a in expected[:4]])
        tokens = [a.n_tokens for a in expected[:4]]
        gap = max(abs(a[0] - b[0]) / t for a, b, t in zip(scores, theirs, tokens))
        yield "scores as on the CPU", f"{gap:.4f} nats a token apart", _fault(gap < TOLERANCE)
        beams = served.beam_search(prompts[:2], 4, 48, stop=greedy.stop)
        sums = [[beam.cumulative_logprob for beam in found] for found in beams]
        ordered = all(found == sorted(found, reverse=True) for found in sums)
        yield "beams", f"4 for each of {len(beams)} prompts, best first", _fault(ordered)
        drawn = Sampling(temperature=1.0, max_tokens=24, seed=1)
        first, again, other = (
            [replies[0].text for replies in served.generate(prompts, sampling)]
            for sampling in (drawn, drawn, replace(drawn, seed=2))
        )
        yield "seeds", "the same twice, others otherwise", _fault(first == again != other)
    finally:
        served.close()
    del served
    gc.collect()
    torch.cuda.empty_cache()
    if not importlib.util.find_spec("peft"):
        yield "adapters", "peft is not installed", "ok"
        return
    yield from _check_adapters(engine, path, options, prompts, greedy)


def _check_adapters(
    engine: str, path: Path, options: dict[str, Any], prompts: list[str], greedy: Sampling
) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        network, tokenizer, prompt_format = load_model(path, "cpu")
        blank, moved = Path(folder) / "blank", Path(folder) / "moved"
        adapted = add_adapter(network, 8)
        save_model(adapted, tokenizer, prompt_format, blank)
        with torch.no_grad():
            for name, weights in adapted.named_parameters():
                if "lora_B" in name:
                    weights.normal_()
        save_model(adapted, tokenizer, prompt_format, moved)
        served = make_engine(engine, str(path), {**options, **adapter_options(engine, 8)})
        try:
            plain, same, changed = (
                [
                    replies[0].text
                    for replies in served.generate(prompts, replace(greedy, adapter=adapter))
                ]
                for adapter in (None, str(blank), str(moved))
            )
        finally:
            served.close()
    alike = np.mean([a == b for a, b in zip(plain, same)])
    differs = np.mean([a != b for a, b in zip(plain, changed)])
    words = f"a blank one changes {1 - alike:.0%} of the answers, another {differs:.0%}"
    yield "adapters", words, _fault(alike >= ALIKE and differs > 0.5)


def check_batching(engine: str, path: Path, shape: str, toy: bool) -> Iterator[Row]:
    """Time the same prompts one at a time, a task's together, and all together."""
    n_tasks, n_views, n_tokens = (2, 4, 8) if toy else (32, 8, 96)
    options = {"load_format": "dummy"} if engine == "vllm" else {}
    model: Any = str(path)
    if engine == "vllm":
        served = make_engine(engine, model, options)
    else:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        model = random_network(shape, dtype, device).eval()
        served = TransformersEngine(model, tokenizer=build_tokenizer(), batch_tokens=2**18)
    prompts = view_prompts(n_tasks, n_views, tiny_prompt_format())
    # Random weights may end a reply anywhere; all are to be as long.
    allowed = tuple(i for i in range(4, len(served.tokenizer)))
    sampling = Sampling(max_tokens=n_tokens, allowed_tokens=allowed)
    try:
        served.generate(prompts[-n_views:], sampling)  # warm; not what is timed first: caches
        speeds = {}
        for name, size, number in [
            ("one prompt at a time", 1, n_views),
            ("a task's prompts", n_views, 4 * n_views),
            ("all prompts", len(prompts), len(prompts)),
        ]:
            some = prompts[:number]
            begin = time.monotonic()
            for i in range(0, len(some), size):
                served.generate(some[i : i + size], sampling)
            speeds[name] = len(some) / (time.monotonic() - begin)
            gain = speeds[name] / speeds["one prompt at a time"]
            words = f"{speeds[name]:.2f} prompts/s of {n_tokens} tokens, x{gain:.1f}"
            yield f"batching {shape}: {name}", words, "ok"
    finally:
        served.close()


def check_workers(path: Path, shape: str) -> Iterator[Row]:
    """Time all prompts on all GPUs."""
    served = make_engine("auto", str(path), {"load_format": "dummy"})
    prompts = view_prompts(32, 8, tiny_prompt_format())
    sampling = Sampling(max_tokens=96)
    try:
        served.generate(prompts[:16], sampling)
        begin = time.monotonic()
        served.generate(prompts, sampling)
        speed = len(prompts) / (time.monotonic() - begin)
        yield f"workers {shape}", f"{speed:.2f} prompts/s on all GPUs", "ok"
    finally:
        served.close()


def check_training(shape: str, device: torch.device) -> Iterator[Row]:
    """Time steps of training all weights, layers compiled on a GPU."""
    model = random_network(shape, torch.float32, device).train()
    yield _timed_steps(
        f"training {shape}", model, STEP_TOKENS[shape], compiled=device.type == "cuda"
    )


def check_finetuning(shape: str, device: torch.device) -> Iterator[Row]:
    """Time steps of training an adapter on a base in bfloat16, layers recomputed."""
    model = random_network(shape, torch.bfloat16, device).train()
    recompute_layers(model)
    model = add_adapter(model, 16)
    yield _timed_steps(f"fine-tuning {shape}", model, STEP_TOKENS[shape], compiled=False)


def _timed_steps(what: str, model: Any, tokens: int, *, compiled: bool, n: int = 10) -> Row:
    device = model.device
    length = min(1024, tokens)
    ids = np.random.default_rng(0).integers(4, 300, (max(2, tokens // length), length), np.int32)
    batch = Batch(ids, ids, ids.size, (0, 0))
    optimizers = make_optimizers(model, TrainConfig(seconds=1, muon_lr=None, adamw_lr=1e-4))
    begin = time.monotonic()
    if compiled:
        compile_layers(model)
        warm_up(model, [ids.shape])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    n = n if device.type == "cuda" else 2
    for step in range(n + 2):
        if step == 2:  # the first ones make the optimizer's state
            _synchronize(device)
            ready, start = time.monotonic() - begin, time.monotonic()
        loss = backward(model, [batch], device)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    _synchronize(device)
    speed = n * ids.size / (time.monotonic() - start)
    words = f"{speed:,.0f} tokens/s, ready after {ready:.0f} s"
    if device.type == "cuda":
        words += f", peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    return what, words, _fault(math.isfinite(loss.item()))


def random_network(shape: str, dtype: torch.dtype, device: torch.device) -> Any:
    """Make a network of a shape with random weights, on the device from the start."""
    from transformers import Qwen3ForCausalLM

    with _default_dtype(dtype), device:
        return Qwen3ForCausalLM(shape_config(shape))


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def shape_config(shape: str) -> Any:
    """Return the configuration of a shape; its tokens are those of `build_tokenizer` and more."""
    from transformers import Qwen3Config

    return Qwen3Config(
        **dict(zip(OPTIONS, SHAPES[shape], strict=True)),
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=3,
    )


def dummy_folder(folder: Path, shape: str) -> Path:
    """Write a model folder without weights: vLLM makes random ones (``load_format="dummy"``)."""
    config = shape_config(shape)
    config.architectures = ["Qwen3ForCausalLM"]
    config.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    tiny_prompt_format().save(folder)
    return folder


def random_folder(folder: Path, toy: bool) -> Path:
    """Write a model folder with random weights, far from uniform: greedy choices have no ties."""
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    shape = {"width": 64, "layers": 2, "heads": 2} if toy else {"width": 512, "layers": 10}
    model = build_model(tokenizer, **{"heads": 8, **shape})
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.mul_(8 if toy else 2)
    save_model(model, tokenizer, tiny_prompt_format(), folder)
    return folder


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _fault(fine: Any) -> str:
    return "ok" if fine else "FAULT"
