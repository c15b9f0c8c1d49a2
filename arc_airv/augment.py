"""Augmentations: exactly reversible maps of a task, and the plan that samples them.

An augmentation is four small facts (flip, quarter turns, colour permutation, order of the
demonstrations). It is written as a key such as ``flip1.rot3.colors0213456789.order2-0-1``, which
is what a record stores: any prediction can be replayed and reverted from its key alone.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import index
from typing import Any

import numpy as np

from arc_airv.grids import N_COLORS, Grid
from arc_airv.tasks import Pair, Task

IDENTITY_COLORS = tuple(range(N_COLORS))
SYMMETRIES = tuple((flip, rot90) for flip in (False, True) for rot90 in range(4))
# Black is the background of most tasks; a model that knows it as such keeps that knowledge in
# nine of ten views (the proportion of the original).
KEEP_BLACK = 0.9

_INDEX = r"(?:0|[1-9]\d*)"
_KEY = re.compile(
    rf"flip([01])\.rot([0-3])\.colors(\d{{10}})\.order((?:{_INDEX}(?:-{_INDEX})*)?)", re.ASCII
)


@dataclass(frozen=True)
class Augmentation:
    """An exactly reversible map of a task.

    Grids are mapped by flip, then rot90, then colours; `revert_grid` undoes them in the
    opposite order. Only bijections belong here: there is nothing to guess on the way back.

    Parameters
    ----------
    flip : bool, default False
        Mirror left-right.
    rot90 : int, default 0
        Quarter turns counter-clockwise, 0-3.
    colors : sequence of 10 ints, or a string of 10 digits
        A permutation of 0-9: colour ``c`` becomes ``colors[c]``.
    train_order : sequence of int, default ()
        Demonstration ``train_order[i]`` of the task is shown as number ``i``: a permutation of
        ``range(len(task.train))``. Empty keeps the order of any task.

    Raises
    ------
    ValueError
        If a value is out of its range or not a permutation.

    Examples
    --------
    >>> a = Augmentation(flip=True, rot90=1)
    >>> a.apply_grid(np.array([[1, 2], [3, 4]], dtype=np.int8))
    array([[1, 3],
           [2, 4]], dtype=int8)
    >>> str(a)
    'flip1.rot1.colors0123456789.order'
    >>> Augmentation.parse(str(a)) == a
    True
    """

    flip: bool = False
    rot90: int = 0
    colors: tuple[int, ...] = IDENTITY_COLORS
    train_order: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        # Coerced, so that an augmentation that went through JSON or numpy equals its original.
        if self.flip not in (0, 1):
            raise ValueError(f"flip must be True or False, got {self.flip!r}")
        object.__setattr__(self, "flip", bool(self.flip))
        object.__setattr__(self, "rot90", _integers("rot90", [self.rot90])[0])
        object.__setattr__(self, "colors", _integers("colors", self.colors))
        object.__setattr__(self, "train_order", _integers("train_order", self.train_order))
        if self.rot90 not in range(4):
            raise ValueError(f"rot90 must be 0, 1, 2 or 3, got {self.rot90}")
        if sorted(self.colors) != list(IDENTITY_COLORS):
            raise ValueError(f"colors must be a permutation of 0-9, got {self.colors}")
        if sorted(self.train_order) != list(range(len(self.train_order))):
            raise ValueError(f"train_order must be a permutation of 0..n-1, got {self.train_order}")

    def __str__(self) -> str:
        colors = "".join(map(str, self.colors))
        order = "-".join(map(str, self.train_order))
        return f"flip{int(self.flip)}.rot{self.rot90}.colors{colors}.order{order}"

    @classmethod
    def parse(cls, key: str) -> Augmentation:
        """Read an augmentation from its key, ``str(augmentation)``.

        Raises
        ------
        ValueError
            If `key` is not the key of an augmentation.
        """
        match = _KEY.fullmatch(key) if isinstance(key, str) else None
        if match is None:
            raise ValueError(
                f"not the key of an augmentation: {key!r} (one looks like {Augmentation()})"
            )
        flip, rot90, colors, order = match.groups()
        return cls(flip == "1", int(rot90), colors, order.split("-") if order else ())

    def apply_grid(self, grid: Grid) -> Grid:
        """Map a grid of the task into the view: flip, then rotate, then recolour."""
        if self.flip:
            grid = np.fliplr(grid)
        return np.asarray(self.colors, dtype=np.int8)[np.rot90(grid, self.rot90)]

    def revert_grid(self, grid: Grid) -> Grid:
        """Map a grid of the view back into the original frame; exact inverse of `apply_grid`."""
        inverse = np.argsort(self.colors).astype(np.int8)
        grid = np.rot90(inverse[grid], -self.rot90)
        return np.ascontiguousarray(np.fliplr(grid) if self.flip else grid)

    def apply_task(self, task: Task) -> Task:
        """The view of `task`: every grid mapped, the demonstrations in the new order.

        Raises
        ------
        ValueError
            If `train_order` is not empty and has another length than ``task.train``.
        """
        order = self.train_order or range(len(task.train))
        if len(order) != len(task.train):
            raise ValueError(
                f"train_order {self.train_order} is for {len(self.train_order)} "
                f"demonstrations, task {task.task_id} has {len(task.train)}"
            )
        return replace(
            task,
            train=tuple(self._apply_pair(task.train[i]) for i in order),
            test=tuple(self._apply_pair(pair) for pair in task.test),
        )

    def _apply_pair(self, pair: Pair) -> Pair:
        output = None if pair.output is None else self.apply_grid(pair.output)
        return Pair(self.apply_grid(pair.input), output)


def sample_augmentations(
    task: Task,
    n: int,
    *,
    seed: int,
    geometric: bool = True,
    colors: bool = True,
    train_order: bool = True,
) -> list[Augmentation]:
    """Sample the augmentations of a task: the plan of its views.

    Parameters
    ----------
    task : Task
        Its id and its number of demonstrations fix the plan, together with `seed`.
    n : int
        How many, at least 0.
    seed : int
        The same seed gives the same plan on every machine.
    geometric, colors, train_order : bool, default True
        Which kinds of augmentation to use.

    Returns
    -------
    list of Augmentation
        Exactly `n`. The identity comes first; each run of eight holds the eight symmetries
        once; none repeats while distinct ones remain (with few kinds there may be fewer than
        `n`: then the plan starts over); a longer plan starts with the shorter one.

    Raises
    ------
    ValueError
        If `n` is negative.
    """
    if n < 0:
        raise ValueError(f"n must be at least 0, got {n}")
    plan = _plan(task, seed, geometric, colors, train_order)
    return [next(plan) for _ in range(n)]


def _plan(
    task: Task, seed: int, geometric: bool, colors: bool, train_order: bool
) -> Iterator[Augmentation]:
    """The endless plan of a task; `sample_augmentations` takes its first n."""
    # random.Random(str).random() is documented to give the same numbers on every version and
    # machine; numpy's Generator and Python's own shuffle are not.
    rng = random.Random(f"{seed}/{task.task_id}")
    symmetries = SYMMETRIES if geometric else SYMMETRIES[:1]
    n_distinct = (math.factorial(N_COLORS) if colors else 1) * (
        math.factorial(len(task.train)) if train_order else 1
    )  # with one symmetry; every block uses each symmetry once, so all run out together
    identity = Augmentation(train_order=range(len(task.train)))
    while True:
        seen: set[Augmentation] = set()
        for _ in range(n_distinct):
            if seen:
                block = _shuffled(symmetries, rng)
            else:
                seen.add(identity)
                yield identity
                block = _shuffled(symmetries[1:], rng)
            for flip, rot90 in block:
                while True:
                    order = range(len(task.train))
                    augmentation = Augmentation(
                        flip,
                        rot90,
                        _sample_colors(rng) if colors else IDENTITY_COLORS,
                        _shuffled(order, rng) if train_order else order,
                    )
                    if augmentation not in seen:
                        break
                seen.add(augmentation)
                yield augmentation


def _integers(name: str, values: Any) -> tuple[int, ...]:
    try:
        return tuple(int(v) if isinstance(v, str) else index(v) for v in values)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must hold integers, got {values!r}") from None


def _sample_colors(rng: random.Random) -> tuple[int, ...]:
    if rng.random() < KEEP_BLACK:
        return (0, *_shuffled(range(1, N_COLORS), rng))
    return _shuffled(range(N_COLORS), rng)


def _shuffled(items, rng: random.Random) -> tuple:
    return tuple(sorted(items, key=lambda _: rng.random()))
