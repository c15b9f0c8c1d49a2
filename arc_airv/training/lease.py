"""A lease: minutes on a machine with a GPU that are sure to end, and a model of them in any case.

The training is a process of its own, in a session of its own: it goes on between two calls of a
machine, resumes if it is killed, keeps a snapshot, and ends in time. What it leaves, the weights
in parts, its log and the facts of its card, can be copied at any moment. `lease` starts it, or
finds it, and waits. Knows prepared folders; what is in one, `arc_airv.training.prepare` knows.
"""

import contextlib
import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from arc_airv.storage import write_atomically
from arc_airv.training.prepare import (
    ANSWERED,
    DATA,
    MODEL,
    RECIPE,
    Recipe,
    check_prepared,
    join_files,
    sha256,
    split_file,
)

PART = 15 * 2**20  # bytes: some ways back from a machine take small files only
FACTS, LOG_COPY, WEIGHTS = "lease.json", "log.jsonl", "model-{:09d}.tar"
END, LOCK, OUTPUT, DONE, KEPT = "end", "lock", "output.txt", "done", "kept"
PREPARED = "prepared"  # in a run: what it is trained from
RESERVE = 20.0  # seconds at the end, for the last checkpoint and the weights


def lease(
    prepared: str | Path,
    run: str | Path,
    into: str | Path,
    *,
    minutes: float | None = None,
    left: float | None = None,
    wait: float | None = None,
    device: str | None = None,
    reserve: float = RESERVE,
) -> bool:
    """Train from a prepared folder until the minutes are over; return whether it is done.

    Called again with the same run it does what is needed: waits for the training, resumes it if
    its process is gone, or only copies what it left.

    Parameters
    ----------
    prepared : str or Path
        See `arc_airv.training.prepare`.
    run : str or Path
        Where the training keeps its checkpoint. It must outlive a call.
    into : str or Path
        Gets the newest of what the training has left, whenever there is something newer.
    minutes : float, optional
        From now to the end of a training that has none yet.
    left : float, optional
        Moves the end: seconds from now. (The signal TERM moves it to this moment.)
    wait : float, optional
        Return after so many seconds, while the training goes on. By default when it is done.
    device : str, optional
        By default CUDA where there is one.
    reserve : float, default 20
        Seconds before the end at which the last step is made.

    Raises
    ------
    ValueError
        If a new run is given no end, the prepared folder is not whole, or the run is of another.
    RuntimeError
        If the training failed: with the end of its output.
    """
    prepared, run, into = (Path(path).resolve() for path in (prepared, run, into))
    begin, digest = time.time(), check_prepared(prepared)
    run.mkdir(parents=True, exist_ok=True)
    into.mkdir(parents=True, exist_ok=True)
    if (run / PREPARED).exists() and (run / PREPARED).read_text().strip() != digest:
        raise ValueError(f"{run} is a run of another prepared folder: give each its own")
    if left is not None:
        set_end(run, begin + left)
    elif not (run / END).exists():
        if minutes is None:
            raise ValueError("a new lease needs its minutes")
        set_end(run, begin + 60 * minutes)
    write_atomically(run / PREPARED, digest)
    child = None
    if not (run / DONE).exists() and not is_running(run):
        child = start_training(prepared, run, device, reserve)
    copied = None
    with _ending(run):
        while True:
            ended = (run / DONE).exists() or not (child or is_running(run))
            ended = ended or (child is not None and child.poll() is not None)
            newest = newest_kept(run)
            if newest and newest != copied:
                _copy(newest, into)
                copied = newest
            if ended or (wait is not None and time.time() - begin >= wait):
                break
            time.sleep(0.2)
    shutil.copy(run / OUTPUT, into / OUTPUT)
    if ended and not (run / DONE).exists():
        tail = (run / OUTPUT).read_text(errors="replace")[-2000:]
        raise RuntimeError(f"the training ended without a result; its output ends with\n{tail}")
    return ended


def set_end(run: Path, moment: float) -> None:
    """Move the end of a run to a moment of ``time.time()``."""
    unfinished = run / f"{END}.{os.getpid()}"
    unfinished.write_text(f"{moment:.1f}\n")
    os.replace(unfinished, run / END)


def read_end(run: Path) -> float:
    """Return the moment at which a run ends."""
    return float((run / END).read_text())


def is_running(run: Path) -> bool:
    """Tell if a training process has this run."""
    with open(run / LOCK, "a") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def newest_kept(run: Path) -> Path | None:
    """Return the newest folder of weights that a run has left, which is whole."""
    return max(run.glob(f"{KEPT}-*"), default=None)


def start_training(
    prepared: Path, run: Path, device: str | None, reserve: float
) -> subprocess.Popen:
    """Start the training in a session of its own, with the package of the prepared folder."""
    command = [sys.executable, "-m", __name__, str(prepared), str(run), str(reserve)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(prepared), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    with open(run / OUTPUT, "ab") as output:
        return subprocess.Popen(
            [*command, *([device] if device else [])],
            env=environment,
            cwd=prepared,  # where Python looks first
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@contextlib.contextmanager
def _ending(run: Path) -> Iterator[None]:
    """Let a TERM or an interrupt end the training in good order, and not only the wait for it."""

    def end(*_: Any) -> None:
        set_end(run, time.time())

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _copy(kept: Path, into: Path) -> None:
    """Put what a run has left into a folder, in the place of what is older.

    At every moment the facts there are of parts that are there, whole.
    """
    with contextlib.suppress(FileNotFoundError):  # the run has left something newer just now
        facts = (kept / FACTS).read_text()
        for path in kept.iterdir():
            if path.name != FACTS:
                shutil.copy(path, into / path.name)
        write_atomically(into / FACTS, facts)
        for old in into.glob("model-*.tar.*"):
            if not (kept / old.name).exists():
                old.unlink()


def join(into: str | Path, folder: str | Path) -> dict[str, Any]:
    """Make a model folder of what a lease has left, and return the lease's facts.

    Raises
    ------
    ValueError
        If a part is missing or not as it was.
    """
    into, folder = Path(into), Path(folder)
    facts = json.loads((into / FACTS).read_text())
    for name, digest in facts["parts"].items():
        if not (into / name).exists():
            raise ValueError(f"{into}: the part {name} is missing")
        if sha256(into / name) != digest:
            raise ValueError(f"{into}: the part {name} is not what the lease wrote")
    folder.mkdir(parents=True)
    whole = folder / "model.tar"
    join_files([into / name for name in facts["parts"]], whole)
    with tarfile.open(whole) as archive:
        archive.extractall(folder, filter="data")
    whole.unlink()
    return facts


def train_leased(prepared: Path, run: Path, reserve: float, device: str | None = None) -> None:
    """Train until the run's end; the process of `lease`."""
    began = time.time()
    lock = open(run / LOCK, "a")  # noqa: SIM115 - held as long as the process lives
    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    signal.signal(signal.SIGTERM, lambda *_: set_end(run, time.time()))
    import torch

    from arc_airv.training.examples import ExampleSizes, ExampleStream, Source, load_pairs
    from arc_airv.training.tiny import (
        build_model,
        build_tokenizer,
        factor_embeddings,
        has_cells,
        tiny_prompt_format,
    )
    from arc_airv.training.train import TrainConfig, load_model, train

    recipe = Recipe.load(prepared / RECIPE)
    torch.manual_seed(recipe.seed)
    data = {name: load_pairs(prepared / DATA / f"{name}.jsonl.gz") for name in recipe.sources}
    if has_model := (prepared / MODEL).exists():
        model, tokenizer, prompt_format = load_model(prepared / MODEL, "cpu")
        for module in model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = recipe.dropout
    else:
        prompt_format = tiny_prompt_format(rows=recipe.rows, task_ids=recipe.task_ids)
        task_ids = sorted(set().union(*data.values())) if recipe.task_ids else ()
        tokenizer = build_tokenizer(rows=recipe.rows, task_ids=task_ids)
        model = build_model(
            tokenizer,
            width=recipe.width,
            layers=recipe.layers,
            heads=recipe.heads,
            kv_heads=recipe.kv_heads,
            dropout=recipe.dropout,
        )
    if has_cells(tokenizer):
        factor_embeddings(model, tokenizer, blank=not has_model)
    sizes, sources = ExampleSizes(prompt_format, tokenizer), []
    for name, bags in data.items():
        if name == ANSWERED:  # as they will be asked: with a question more
            bags = {
                task_id: pairs
                for task_id, pairs in bags.items()
                if sizes.example([*pairs, min(pairs, key=sizes.pair)]) <= recipe.max_tokens
            }
        weight, share = recipe.sources[name]
        sources.append(Source(name, bags, weight, share))
    stream = ExampleStream(
        sources,
        prompt_format,
        tokenizer,
        max_tokens=recipe.max_tokens,
        seed=recipe.seed,
        n_pairs=tuple(recipe.n_pairs),
        n_views=recipe.n_views,
    )
    print(f"{time.time() - began:.1f} s: data and model are there", flush=True)
    cores = len(os.sched_getaffinity(0))
    workers = max(0, cores - 2) if recipe.n_workers is None else recipe.n_workers
    config = TrainConfig(
        seconds=86400.0,  # the end comes first
        batch_tokens=recipe.batch_tokens,
        window=recipe.window,
        muon_lr=recipe.muon_lr,
        adamw_lr=recipe.adamw_lr,
        weight_decay=recipe.weight_decay,
        warmup=recipe.warmup,
        decay=recipe.decay,
        compile=recipe.compile,
        n_workers=workers,
        log_every=recipe.log_every,
        checkpoint_every=recipe.snapshot_every,
    )
    facts = {
        "recipe": asdict(recipe),
        "sources": {s.name: [len(s.pairs), sum(map(len, s.pairs.values()))] for s in sources},
        "began": round(began, 1),
    }
    keep = _Keeper(run, stream, facts)
    line = train(
        model,
        stream,
        config,
        run / "training",
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        saved=keep,
        deadline=lambda: read_end(run) - reserve,
    )
    if newest_kept(run) is None:
        raise RuntimeError("the end came before the first step")
    (run / DONE).write_text(json.dumps(line) + "\n")
    print(f"{time.time() - began:.1f} s: done, {line}", flush=True)


class _Keeper:
    """Leaves the weights of a training in parts, its log and its facts: whole, or not at all."""

    def __init__(self, run: Path, stream: Any, facts: dict[str, Any]) -> None:
        self.run, self.stream, self.facts = run, stream, facts

    def __call__(self, model: Any, line: dict[str, Any]) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        from arc_airv.training.train import LOG, save_model

        begin = time.time()
        plain, unfinished = self.run / "plain", self.run / f".{KEPT}"
        for folder in (plain, unfinished):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        save_model(model, self.stream.tokenizer, self.stream.format, plain)
        # For serving; the checkpoint keeps full precision.
        served = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.bfloat16)
        served.save_pretrained(plain)
        whole = self.run / WEIGHTS.format(line["step"])
        with tarfile.open(whole, "w") as archive:
            for path in sorted(plain.iterdir()):
                archive.add(path, path.name)
        parts = split_file(whole, unfinished, PART)
        whole.unlink()
        log = self.run / "training" / LOG
        if log.exists():
            shutil.copy(log, unfinished / LOG_COPY)
        facts = {
            **self.facts,
            **describe_machine(model.device),
            "parameters": served.num_parameters(),
            "last": line,
            "seconds": round(begin - self.facts["began"], 1),
            "left": round(read_end(self.run) - begin, 1),
            "weights": sha256(plain / "model.safetensors"),
            "parts": {part.name: sha256(part) for part in parts},
        }
        (unfinished / FACTS).write_text(json.dumps(facts, indent=1) + "\n")
        older = list(self.run.glob(f"{KEPT}-*"))
        kept = self.run / f"{KEPT}-{line['step']:09d}"
        if kept.exists():  # a resumed run is at the same step again
            return
        unfinished.rename(kept)
        for folder in older:
            shutil.rmtree(folder)
        print(f"kept step {line['step']} in {time.time() - begin:.1f} s", flush=True)


def describe_machine(device: Any) -> dict[str, Any]:
    """Return what a card or a CPU is, and the versions that ran there."""
    import torch
    import transformers

    facts = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cores": len(os.sched_getaffinity(0)),
        "device": str(device),
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        facts |= {
            "name": card.name,
            "memory_gib": round(card.total_memory / 2**30, 1),
            "capability": [card.major, card.minor],
            "peak_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 2),
        }
    return facts


if __name__ == "__main__":
    prepared, run, reserve, *device = sys.argv[1:]
    train_leased(Path(prepared), Path(run), float(reserve), *device)
