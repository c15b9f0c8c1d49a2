"""Make test files of a competition: the public one, the hidden one, and malformed ones."""

import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np

from arc_airv.tasks import Pair, Task, hide_outputs, load_tasks, save_tasks


def public_tasks(n: int = 3) -> dict:
    """Make the public test file: tasks of the training set, with few test outputs."""
    tasks = _smallest("arc-agi-1/training", n)
    return _content(hide_outputs(tasks))


def hidden_tasks(n: int = 4) -> dict:
    """Make the test file of the rerun: other tasks and ids, more test inputs, hidden outputs."""
    names = ["00576224", "22806e14"]  # these look like numbers
    hidden = {}
    for task_id, task in _smallest("arc-agi-1/evaluation", n).items():
        name = names.pop() if names else hashlib.sha256(task_id.encode()).hexdigest()[:8]
        more = Pair(np.fliplr(task.train[0].input))
        hidden[name] = Task(name, task.train, (*task.test, more))
    return _content(hide_outputs(hidden))


MALFORMED = {
    "empty": {},
    "nothing": None,
    "no_train": {"train": [], "test": [{"input": [[1]]}]},
    "no_test": {"train": [{"input": [[1]], "output": [[1]]}], "test": []},
    "ragged": {"train": [{"input": [[1]], "output": [[1], [2, 3]]}], "test": [{"input": [[1]]}]},
    "letters": {"train": [{"input": [["a"]], "output": [[1]]}], "test": [{"input": [[1]]}] * 3},
    "a_list": [1, 2],
}  # fmt: skip


def malformed_tasks() -> dict:
    """Make a test file with well-formed tasks between malformed ones."""
    first, *rest = MALFORMED.items()
    return dict([first, *hidden_tasks(2).items(), *rest])


def large_tasks() -> dict:
    """Make a test file with small tasks and two whose grids are all 30 x 30."""
    rng = np.random.default_rng(0)

    def grid():
        return rng.integers(0, 10, (30, 30), dtype=np.int8)

    large = {
        name: Task(name, tuple(Pair(grid(), grid()) for _ in range(3)), (Pair(grid()),) * 2)
        for name in LARGE
    }
    return _content(large) | hidden_tasks(2)


LARGE = ("ffffff30", "30303030")


def _smallest(source: str, n: int) -> dict[str, Task]:
    tasks = load_tasks(source)

    def cells(task_id):
        pairs = (*tasks[task_id].train, *tasks[task_id].test)
        return sum(pair.input.size + pair.output.size for pair in pairs), task_id

    return {task_id: tasks[task_id] for task_id in sorted(tasks, key=cells)[:n]}


def _content(tasks: dict[str, Task]) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        return json.loads(save_tasks(tasks, Path(folder, "tasks.json")).read_text())
