"""Kaggle submissions: build, write, validate and score ``submission.json``.

The file is ``{task_id: [{"attempt_1": grid, "attempt_2": grid}, ...]}`` with one object a test
output. Its list of tasks always comes from the challenges, never from the predictions, so a task
cannot be missing; an attempt that does not exist is ``[[0]]``.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np

from arc_airv.grids import Grid, as_grid, same_grid
from arc_airv.metrics import AVERAGES
from arc_airv.storage import write_atomically
from arc_airv.tasks import Task, read_json

ATTEMPTS = ("attempt_1", "attempt_2")
NO_ANSWER = [[0]]

Submission = dict[str, list[dict[str, list[list[int]]]]]


def build_submission(attempts: dict[str, list[list[Grid]]], tasks: dict[str, Task]) -> Submission:
    """Make the content of a submission from the selected attempts.

    Parameters
    ----------
    attempts : dict of str to list of list of grid
        As `arc_airv.vote.select_attempts` gives it; may lack tasks and attempts. An empty dict
        gives the fallback submission.
    tasks : dict of str to Task
        Every task of the challenges file.

    Raises
    ------
    ValueError
        If `attempts` names a task or output that is not there, or holds what is no grid.
    """
    unknown = sorted(set(attempts) - set(tasks))
    if unknown:
        raise ValueError(f"attempts for tasks that are not in the challenges: {unknown[:5]}")
    submission: Submission = {}
    for task_id, task in tasks.items():
        given = attempts.get(task_id, [])
        if len(given) > len(task.test):
            raise ValueError(f"task {task_id} has {len(task.test)} test outputs, not {len(given)}")
        submission[task_id] = []
        for i in range(len(task.test)):
            chosen = given[i] if i < len(given) else []
            where = f"task {task_id}: test output {i}"
            grids = [as_grid(grid, name=where).tolist() for grid in chosen]
            grids += [copy.deepcopy(NO_ANSWER) for _ in ATTEMPTS]  # not one list in all places
            submission[task_id].append(dict(zip(ATTEMPTS, grids)))
    return submission


def write_submission(submission: Submission, path: str | Path) -> Path:
    """Write a submission so that a reader never sees half a file."""
    write_atomically(path, json.dumps(submission))
    return Path(path)


def validate_submission(path: str | Path, tasks: dict[str, Task]) -> Submission:
    """Read a submission and check it against the challenges.

    Returns
    -------
    dict
        The content of the file.

    Raises
    ------
    ValueError
        If the file is not JSON, a task or output is missing or unknown, an attempt is missing or
        no grid; the message names the first fault of each of up to five tasks.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must be an object of tasks by id")
    unknown = [task_id for task_id in content if task_id not in tasks]
    faults = [f"task {task_id}: not in the challenges" for task_id in unknown]
    for task_id, task in tasks.items():
        fault = _fault(content.get(task_id), len(task.test))
        if fault:
            faults.append(f"task {task_id}: {fault}")
    if faults:
        raise ValueError(f"{path}: {len(faults)} faults: " + "; ".join(faults[:5]))
    return content


def score_submission(path: str | Path, tasks: dict[str, Task], *, average: str = "output") -> float:
    """The score of a submission: the share of test outputs that one of the two attempts solves.

    Parameters
    ----------
    path : str or Path
    tasks : dict of str to Task
        With their test outputs.
    average : {"output", "task"}, default "output"
        "output": over all test outputs, as Kaggle does. "task": over the outputs of each task,
        then over tasks.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If the submission is not valid, a solution is hidden, or there are no tasks.
    """
    if average not in AVERAGES:
        raise ValueError(f"average must be one of {AVERAGES}, got {average!r}")
    if not tasks:
        raise ValueError("no tasks to score")
    content = validate_submission(path, tasks)
    solved = []
    for task_id, task in tasks.items():
        if any(pair.output is None for pair in task.test):
            raise ValueError(f"task {task_id}: a solution is hidden")
        solved.append(
            [
                any(same_grid(pair.output, as_grid(answer[name])) for name in ATTEMPTS)
                for pair, answer in zip(task.test, content[task_id])
            ]
        )
    if average == "task":
        return float(np.mean([np.mean(outputs) for outputs in solved]))
    return float(np.mean(np.concatenate(solved)))


def _fault(answers: Any, n_outputs: int) -> str | None:
    """What is wrong with the answers of one task, or None."""
    if answers is None:
        return "missing"
    if not isinstance(answers, list) or len(answers) != n_outputs:
        return f"must be a list of {n_outputs} answers"
    for i, answer in enumerate(answers):
        if not isinstance(answer, dict) or set(answer) != set(ATTEMPTS):
            return f"answer {i} must have exactly {' and '.join(ATTEMPTS)}"
        for name in ATTEMPTS:
            try:
                as_grid(answer[name], name=f"answer {i}: {name}")
            except ValueError as error:
                return str(error)
    return None
