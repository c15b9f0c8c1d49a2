"""Sources of training examples by name and weight: the mixture that a model learns from.

Knows which data sets overlap, and keeps every evaluation test pair of ARC-AGI-1 and 2 out of the
named sources. What a user gives by path is theirs to answer for.
"""

import math
import shlex
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path

import numpy as np

from arc_airv.augment import SYMMETRIES, Augmentation
from arc_airv.grids import N_COLORS
from arc_airv.tasks import NAMED_SOURCES, Pair, Task, load_tasks
from arc_airv.training.examples import Source, all_pairs, demonstrations, load_pairs


def without_tasks(tasks: dict[str, Task], others: dict[str, Task]) -> dict[str, Task]:
    """Return the tasks that are none of the others, and hold no test pair of them in disguise.

    They have neither the same id nor any pair in common. An id alone does not tell: ARC-AGI-1's
    training task 40853293 is its evaluation task 070dd51e; nor do equal pairs: in its training task
    caa06a1f, the test pair of its evaluation task 50a16a69 has other colours.
    """
    taken = {pair for task in others.values() for pair in (*task.train, *task.test)}
    is_test = recognize_tests(others)
    return {
        task_id: task
        for task_id, task in tasks.items()
        if task_id not in others
        and taken.isdisjoint(pairs := (*task.train, *task.test))
        and not any(map(is_test, pairs))
    }


def recognize_tests(tasks: dict[str, Task]) -> Callable[[Pair], bool]:
    """Return a function that tells test pairs of these tasks, also turned, mirrored or recoloured.

    Training augments by just these maps. Test pairs whose output is hidden are not known.
    """
    forms: dict[Hashable, set[Hashable]] = {}
    for task in tasks.values():
        for pair in task.test:
            if pair.output is not None:
                forms.setdefault(_invariant(pair), set()).add(_form(pair))
    return lambda pair: (known := forms.get(_invariant(pair))) is not None and _form(pair) in known


def _invariant(pair: Pair) -> Hashable:
    """Return what no map of `_form` changes, and is quickly found."""
    grids = pair.input, pair.output
    counts = np.stack([np.bincount(grid.ravel(), minlength=N_COLORS) for grid in grids], axis=1)
    shapes = [tuple(grid.shape[::step] for grid in grids) for step in (1, -1)]
    return min(shapes), tuple(sorted(map(tuple, counts.tolist())))


def _form(pair: Pair) -> Hashable:
    """Return the same for all pairs that symmetries and colour permutations make of each other."""
    forms = []
    for flip, rot90 in SYMMETRIES:
        view = Augmentation(flip, rot90)
        grids = [view.apply_grid(grid) for grid in (pair.input, pair.output)]
        cells = np.concatenate([grid.ravel() for grid in grids])
        _, first, inverse = np.unique(cells, return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))  # of each colour, by where it comes first
        forms.append((*(grid.shape for grid in grids), rank[inverse].tobytes()))
    return min(forms)


def load_source(name: str | Path, *, weight: float = 1.0, rule_change: float = 0.0) -> Source:
    """Read a `Source` of training examples by its name or path.

    - "arc-agi-1/evaluation", "arc-agi-2/evaluation": the demonstrations alone, always.
    - "arc-agi-1/training", "arc-agi-2/training": every pair, without the tasks that are evaluation
      tasks of ARC-AGI-1 (376 of its 400 are in ARC-AGI-2's training set), or hold a test pair of
      one (see `without_tasks`).
    - A folder of task files or a JSON of tasks: every known pair.
    - A .jsonl or .jsonl.gz: see `load_pairs`.

    Raises
    ------
    ValueError
        If a file is malformed, or a value is out of its range.
    FileNotFoundError
        If `name` is neither a known name nor an existing path.
    """
    name = str(name)
    if name.endswith((".jsonl", ".jsonl.gz")):
        pairs = load_pairs(name)
    elif name not in NAMED_SOURCES:
        pairs = all_pairs(load_tasks(name))
    elif name.endswith("/evaluation"):
        pairs = demonstrations(load_tasks(name))
    else:
        pairs = all_pairs(without_tasks(load_tasks(name), load_tasks("arc-agi-1/evaluation")))
    return Source(name, pairs, weight, rule_change)


def parse_mixture(mixture: str | Iterable[str]) -> list[Source]:
    """Read the sources of a mixture as it is written on a command line.

    Its parts are ``NAME=WEIGHT`` or ``NAME=WEIGHT:SHARE``, the share of its examples whose rule is
    changed: ``"arc-agi-1/training=0.3:0.5 path/to/rearc.jsonl.gz=0.2"``. A string is split as a
    shell does. Names: see `load_source`.

    Raises
    ------
    ValueError
        If a part is malformed: the message names it and the fault. Also what `load_source` raises.
    """
    parts = []
    for part in shlex.split(mixture) if isinstance(mixture, str) else mixture:
        name, _, numbers = part.rpartition("=")
        try:
            weight, share = map(float, numbers.split(":") if ":" in numbers else (numbers, 0))
        except ValueError:
            weight = math.nan
        if not name or not weight > 0:
            raise ValueError(
                f"{part!r} is no part of a mixture: it must be NAME=WEIGHT or NAME=WEIGHT:SHARE "
                "with a weight above 0, such as arc-agi-1/training=0.3"
            )
        parts.append((name, weight, share))
    if not parts:
        raise ValueError("a mixture must have at least one part NAME=WEIGHT")
    return [load_source(name, weight=w, rule_change=share) for name, w, share in parts]
