"""A prepared folder: all that a bare machine with a GPU needs to train a model, in a few megabytes.

It holds the package itself, the data as files, the recipe and perhaps a model to go on from. Knows
which pairs may be learnt; `arc_airv.training.lease` trains from the folder.
"""

import gzip
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import arc_airv
from arc_airv.engines import look_at_model
from arc_airv.grids import format_grid
from arc_airv.tasks import Pair, load_tasks
from arc_airv.training.examples import all_pairs, demonstrations, load_pairs
from arc_airv.training.sources import recognize_tests, without_tasks

RECIPE, MANIFEST, DATA, MODEL = "recipe.json", "prepared.json", "data", "model"
ANSWERED = "arc1-demonstrations"  # the tasks that the model is to answer: they must fit as a whole
EXTRA = "extra"  # further pairs of training tasks
UNUSED = ("__pycache__", "*.pyc", "checkpoint.pt*", "*.jsonl")  # of the package and a model folder


@dataclass(frozen=True)
class Recipe:
    """A training: its data, its model, its schedule; plain JSON values.

    Attributes
    ----------
    sources : dict
        The name of a set of `training_data` to its weight and the share of its examples with
        changed rules. "extra" is left out where there are no further pairs.
    width, layers, heads, kv_heads : int
        Of a model from scratch.
    max_tokens, batch_tokens, window
        Longest example; tokens of a batch with its padding; examples sorted together.
    dropout : float
        Of the attention, in training.
    rows, task_ids : bool
        Of the format of a model from scratch, see `arc_airv.training.tiny.tiny_prompt_format`.
    n_pairs, n_views
        See `arc_airv.training.ExampleStream`.
    n_workers : int, optional
        Processes that make examples; by default all cores but two.
    snapshot_every : float
        Seconds between the models that are kept in case the machine is taken away.

    The others are those of `arc_airv.training.TrainConfig`.
    """

    sources: dict[str, list[float]] = field(
        default_factory=lambda: {
            ANSWERED: [0.45, 0.0],
            "arc1-training": [0.15, 0.3],
            "arc2-training": [0.12, 0.3],
            EXTRA: [0.28, 0.1],
        }
    )
    width: int = 512
    layers: int = 10
    heads: int = 8
    kv_heads: int = 4
    max_tokens: int = 4096
    batch_tokens: int = 49152
    window: int = 4096
    muon_lr: float = 0.02
    adamw_lr: float = 3e-3
    weight_decay: float = 0.02
    warmup: float = 0.02
    decay: float = 0.4
    dropout: float = 0.0
    rows: bool = True
    task_ids: bool = True
    n_pairs: list[int] = field(default_factory=lambda: [1, 6])
    n_views: int | None = None
    compile: bool = True
    n_workers: int | None = None
    log_every: float = 15.0
    snapshot_every: float = 90.0
    seed: int = 0

    def save(self, path: Path) -> None:
        """Write the recipe as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a recipe; a name that it does not know is a ValueError."""
        return cls().changed(json.loads(path.read_text()))

    def changed(self, options: dict[str, Any]) -> Self:
        """Return the recipe with other values; an unknown name is a ValueError."""
        if unknown := sorted(options.keys() - {f.name for f in fields(self)}):
            raise ValueError(f"a recipe has no {unknown}; it has {[f.name for f in fields(self)]}")
        return type(self)(**{**asdict(self), **options})


def prepare(
    folder: str | Path,
    recipe: Recipe,
    *,
    pairs: str | Path | None = None,
    model: str | Path | None = None,
    n_tasks: int | None = None,
) -> dict[str, Any]:
    """Write a prepared folder, and return its manifest: the bytes and the SHA-256 of every file.

    Parameters
    ----------
    folder : str or Path
        Must not exist.
    pairs : str or Path, optional
        Further pairs of training tasks, see `arc_airv.training.examples.load_pairs`.
    model : str or Path, optional
        Model folder to go on from.
    n_tasks : int, optional
        Only so many tasks of each source, for a rehearsal.

    Raises
    ------
    ValueError
        If the folder exists, there is no source of a name, or the model folder is not whole or an
        adapter.
    """
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder} exists: a prepared folder is written whole")
    if model is not None and look_at_model(model).adapter:
        raise ValueError(f"{model} is an adapter: merge it into its base (peft's merge_and_unload)")
    data = training_data(pairs)
    if unknown := sorted(recipe.sources.keys() - data.keys() - {EXTRA}):
        raise ValueError(f"there are no sources {unknown}; there are {[*data.keys() | {EXTRA}]}")
    used = {name: numbers for name, numbers in recipe.sources.items() if name in data}
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        (unfinished / DATA).mkdir(parents=True)
        for name in used:
            some = dict(list(data[name].items())[:n_tasks])
            write_pairs(unfinished / DATA / f"{name}.jsonl.gz", some)
        package = Path(arc_airv.__file__).parent
        shutil.copytree(package, unfinished / package.name, ignore=shutil.ignore_patterns(*UNUSED))
        if model is not None:
            shutil.copytree(model, unfinished / MODEL, ignore=shutil.ignore_patterns(*UNUSED))
        recipe.changed({"sources": used}).save(unfinished / RECIPE)
        manifest = _list_files(unfinished)
        (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return manifest


def _list_files(folder: Path) -> dict[str, Any]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = {str(p.relative_to(folder)): [p.stat().st_size, sha256(p)] for p in files}
    size = sum(size for size, _ in listed.values())
    return {"arc_airv": arc_airv.__version__, "bytes": size, "files": listed}


def check_prepared(folder: Path) -> str:
    """Return the SHA-256 of a prepared folder's manifest; a ValueError if a file is not as it was.

    A copy may be cut off, or lie over an older one: a model that was not prepared would be trained
    on. What a copy adds elsewhere does no harm.
    """
    if not (folder / MANIFEST).exists():
        raise ValueError(f"{folder}: no {MANIFEST}; this is no prepared folder")
    files = json.loads((folder / MANIFEST).read_text())["files"]
    for name, (_, digest) in files.items():
        if not (folder / name).exists() or sha256(folder / name) != digest:
            raise ValueError(f"{folder}: {name} is not what was prepared; copy the folder again")
    found = [path for part in (DATA, MODEL) for path in sorted((folder / part).rglob("*"))]
    names = [str(path.relative_to(folder)) for path in found if path.is_file()]
    if more := [name for name in names if name not in files]:
        raise ValueError(
            f"{folder}: {more[0]} was not prepared; copy the folder again, to where there is none"
        )
    return sha256(folder / MANIFEST)


def training_data(extra: str | Path | None = None) -> dict[str, dict[str, list[Pair]]]:
    """Return what may be learnt, by the names of `Recipe.sources`.

    No test pair of an evaluation task is in it, and of the evaluation tasks of ARC-AGI-1 only the
    demonstrations. (ARC-AGI-2's training set holds 376 of them; ARC-AGI-1's training task 40853293
    is one, too, and its caa06a1f holds the test pair of one in other colours.)
    """
    first, second = load_tasks("arc-agi-1/training"), load_tasks("arc-agi-2/training")
    answered = load_tasks("arc-agi-1/evaluation")
    asked = {**answered, **load_tasks("arc-agi-2/evaluation")}
    tests = {pair for task in asked.values() for pair in task.test}
    data = {
        ANSWERED: {
            task_id: [pair for pair in pairs if pair not in tests]
            for task_id, pairs in demonstrations(answered).items()
        },
        "arc1-training": all_pairs(without_tasks(first, asked)),
        "arc2-training": all_pairs(without_tasks(second, {**asked, **first})),
    }
    if extra is not None:
        taken = {pair for task in asked.values() for pair in (*task.train, *task.test)}
        is_test = recognize_tests(asked)
        kept = data["arc1-training"].keys() | data["arc2-training"].keys()
        # Further pairs of a task need not be among its own, but they have its id.
        refused = {*first, *second, *asked} - kept
        data[EXTRA] = {
            task_id: pairs
            for task_id, pairs in load_pairs(extra).items()
            if task_id not in refused and taken.isdisjoint(pairs) and not any(map(is_test, pairs))
        }
    return data


def write_pairs(path: Path, bags: dict[str, list[Pair]]) -> None:
    """Write what `load_pairs` reads; the same bytes for the same pairs."""
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        for task_id, pairs in bags.items():
            texts = [[format_grid(pair.input), format_grid(pair.output)] for pair in pairs]
            line = json.dumps({"task_id": task_id, "pairs": texts}, separators=(",", ":"))
            file.write(line.encode() + b"\n")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def split_file(path: Path, into: Path, size: int) -> list[Path]:
    """Cut a file into numbered parts of at most `size` bytes: `cat` in their order joins them."""
    content = path.read_bytes()
    parts = []
    for k in range(max(1, math.ceil(len(content) / size))):
        parts.append(into / f"{path.name}.{k:02d}")
        parts[-1].write_bytes(content[k * size : (k + 1) * size])
    return parts


def join_files(parts: Iterable[Path], path: Path) -> None:
    """Write the parts of a file one after the other."""
    with open(path, "wb") as file:
        for part in sorted(parts):
            file.write(part.read_bytes())
